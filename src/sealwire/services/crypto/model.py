"""Key rules, pure: states and their transitions, what each state allows, versions, and the budget of nonces."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

ROTATE_AT_USES: Final = 2**31
"""A version with this many uses is followed by a new one, long before the limit."""
REFUSE_AT_USES: Final = 2**32
"""The most invocations with random 96-bit nonces that NIST SP 800-38D section 8.3 allows one key."""
US_PER_DAY: Final = 86_400_000_000


class KeyState(StrEnum):
    """Where a key is in its life (after NIST SP 800-57 part 1 section 7)."""

    ENABLED = "enabled"
    DECRYPT_ONLY = "decrypt_only"
    DISABLED = "disabled"
    SCHEDULED = "scheduled_for_destruction"
    DESTROYED = "destroyed"


class KeyUse(StrEnum):
    """What one may want of a key."""

    PROTECT = "protect"
    """Encrypt, sign, authenticate, wrap, rotate: make something new under it."""
    PROCESS = "process"
    """Decrypt, verify, unwrap: read what was made."""


class TransitionRefused(Exception):
    """The key can't go from its state to the wanted one."""

    def __init__(self, now: KeyState, wanted: KeyState) -> None:
        super().__init__(f"a key that is {now.value} can't become {wanted.value}")
        self.now, self.wanted = now, wanted


class BudgetExhausted(Exception):
    """The version has seen 2^32 uses; a further nonce could repeat an old one."""


_SETTABLE: Final = frozenset({KeyState.ENABLED, KeyState.DECRYPT_ONLY, KeyState.DISABLED})
_ALLOWED: Final = {
    KeyState.ENABLED: frozenset({KeyUse.PROTECT, KeyUse.PROCESS}),
    KeyState.DECRYPT_ONLY: frozenset({KeyUse.PROCESS}),
    KeyState.DISABLED: frozenset[KeyUse](),
    KeyState.SCHEDULED: frozenset[KeyUse](),
    KeyState.DESTROYED: frozenset[KeyUse](),
}


def allows(state: KeyState, use: KeyUse) -> bool:
    """Tell whether a key in `state` may be used so."""
    return use in _ALLOWED[state]


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a key and, while it waits for its destruction, when that is due."""

    state: KeyState = KeyState.ENABLED
    destroy_at_us: int | None = None

    def set_state(self, wanted: KeyState) -> Life:
        """Move between enabled, decrypt_only and disabled; the same state again changes nothing.

        Raises: TransitionRefused from scheduled and destroyed, and towards them.
        """
        if self.state not in _SETTABLE or wanted not in _SETTABLE:
            raise TransitionRefused(self.state, wanted)
        return Life(state=wanted)

    def schedule(self, *, now_us: int, delay_days: int) -> Life:
        """Set the day of destruction, `delay_days` ≥ 1 from now; until then nothing opens and it can be called off.

        Raises: TransitionRefused when it is scheduled or destroyed already; ValueError on a delay below one day.
        """
        if delay_days < 1:
            raise ValueError("destruction needs a delay of at least one day")
        if self.state not in _SETTABLE:
            raise TransitionRefused(self.state, KeyState.SCHEDULED)
        return Life(state=KeyState.SCHEDULED, destroy_at_us=now_us + delay_days * US_PER_DAY)

    def cancel(self) -> Life:
        """Call the destruction off; the key is disabled afterwards, so that enabling it is a decision of its own.

        Raises: TransitionRefused when it isn't scheduled.
        """
        if self.state is not KeyState.SCHEDULED:
            raise TransitionRefused(self.state, KeyState.DISABLED)
        return Life(state=KeyState.DISABLED)

    def due(self, now_us: int) -> bool:
        """Tell whether the time of destruction has come."""
        return self.state is KeyState.SCHEDULED and self.destroy_at_us is not None and self.destroy_at_us <= now_us

    def destroy(self, *, now_us: int) -> Life:
        """End a scheduled key whose time has come. Raises: TransitionRefused otherwise."""
        if not self.due(now_us):
            raise TransitionRefused(self.state, KeyState.DESTROYED)
        return Life(state=KeyState.DESTROYED)

    def erase(self) -> Life:
        """End the key at once (a tenant's or a person's erasure, decided elsewhere). Final, from every state."""
        return Life(state=KeyState.DESTROYED)


class UseBudget:
    """Uses of one key version, counted so that a crash can only count too many, never too few.

    A block of uses is made durable first (added to the version's `total`), then spent from memory (`left`). What is
    left when a process is killed counts as spent. Several processes may hold blocks of the same version.
    """

    __slots__ = ("_block", "left", "limit", "total")

    def __init__(self, *, total: int, left: int = 0, block: int, limit: int = REFUSE_AT_USES) -> None:
        """Start at the stored `total`, of which `left` is known to be unspent and ours."""
        if not 0 <= left <= total <= limit or block < 1:
            raise ValueError("impossible use counts")
        self.total = total
        self.left = left
        self._block = block
        self.limit = limit

    def take(self, count: int = 1) -> bool:
        """Spend `count` uses; False means: make a block durable first (`next_block`, `grant`), then ask again.

        Raises: BudgetExhausted when the version can't have so many more uses.
        """
        left = self.left - count
        if left >= 0:
            self.left = left
            return True
        if self.total - left > self.limit:
            raise BudgetExhausted
        return False

    def next_block(self, count: int = 1) -> int:
        """Return how many more uses to make durable so that `count` can be spent with a block to spare."""
        return min(max(0, count - self.left) + self._block, self.limit - self.total)

    def grant(self, count: int, total: int) -> None:
        """Take note that `count` more uses are ours and durable, and that the version's total is `total` now."""
        self.left += count
        self.total = max(self.total, total)

    def give_back(self) -> int:
        """Return the unspent uses, to be taken off the stored total at a clean stop."""
        unspent, self.left = self.left, 0
        self.total -= unspent
        return unspent

    @property
    def used(self) -> int:
        """An upper bound of the uses so far."""
        return self.total - self.left

    @property
    def low(self) -> bool:
        """True when less than half a block is left: time to reserve the next one off the path of the callers."""
        return self.left < self._block // 2 and self.total < self.limit

    @property
    def wants_rotation(self) -> bool:
        """True from 2^31 uses on."""
        return self.total - self.left >= ROTATE_AT_USES
