"""Revocations known to this process: applied once, never taken back, kept as long as a token could outlive them."""

from __future__ import annotations

from collections.abc import Iterator

from sealwire.boundary.model import VerifiedToken
from sealwire.contracts.auth import Revocation
from sealwire.kit.clock import US_PER_S, Clock

FOREVER_S = 400 * 86_400
MARGIN_S = 60.0
Key = tuple[str, ...]


class _Kept:
    """A revocation and when it may be forgotten, on the monotonic clock: a wall clock that steps changes nothing."""

    __slots__ = ("forget_s", "revocation")

    def __init__(self, revocation: Revocation, forget_s: float) -> None:
        self.revocation = revocation
        self.forget_s = forget_s


class RevocationBook:
    """What ended, by what it ended. `version` rises with every entry that changed something.

    A revocation always wins: an entry goes only with time, or when another one kills all that it kills.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self.version = 0
        self._entries: dict[Key, list[_Kept]] = {}

    def __len__(self) -> int:
        return sum(len(kept) for kept in self._entries.values())

    def __iter__(self) -> Iterator[Revocation]:
        for entries in self._entries.values():
            for kept in entries:
                yield kept.revocation

    def apply(self, revocation: Revocation) -> bool:
        """Take an entry; False when it was known, or what it kills is dead already."""
        entries = self._entries.setdefault(_key(revocation), [])
        if any(_covers(kept.revocation, revocation) for kept in entries):
            return False
        life_s = revocation.expires_at_s - revocation.at_us / US_PER_S if revocation.expires_at_s else FOREVER_S
        # From now on for its whole life: the time since it was made may have been measured by another clock.
        forget_s = self._clock.monotonic() + max(life_s, 0.0) + MARGIN_S
        entries[:] = [kept for kept in entries if not _covers(revocation, kept.revocation)]
        entries.append(_Kept(revocation, forget_s))
        self.version += 1
        return True

    def against(self, token: VerifiedToken) -> str:
        """Return why the token is dead, or an empty string."""
        entries = self._entries
        if ("session", token.session_id) in entries:
            return "session_revoked"
        if token.token_id and ("token", token.token_id) in entries:
            return "token_revoked"
        for kept in entries.get(("subject", token.tenant_id, token.subject), ()):
            cut = kept.revocation
            # A legacy token has no epoch: there its age decides.
            before = token.issued_at_s <= cut.at_us // US_PER_S if token.legacy else token.epoch < cut.epoch
            if before and (not cut.session_id or cut.session_id != token.session_id):
                return "epoch_passed"
        for kept in entries.get(("tenant", token.tenant_id), ()):
            if token.issued_at_s <= kept.revocation.at_us // US_PER_S:
                return "tenant_revoked"
        return ""

    def ended(self, session_id: str) -> bool:
        """Whether this very session was revoked."""
        return ("session", session_id) in self._entries

    def latest(self, tenant_id: str, subject: str) -> int:
        """Return the number of the newest entry about the subject or its tenant: what was said before it is stale."""
        number = 0
        for key in (("subject", tenant_id, subject), ("role", tenant_id, subject), ("tenant", tenant_id)):
            for kept in self._entries.get(key, ()):
                number = max(number, kept.revocation.number)
        return number

    def prune(self) -> int:
        """Forget what no token can outlive any more; return how many."""
        now_s = self._clock.monotonic()
        before = len(self)
        for key, entries in list(self._entries.items()):
            entries[:] = [kept for kept in entries if kept.forget_s > now_s]
            if not entries:
                del self._entries[key]
        return before - len(self)


def _key(revocation: Revocation) -> Key:
    match revocation.kind:
        case "session":
            return "session", revocation.session_id
        case "token":
            return "token", revocation.token_id
        case "tenant":
            return "tenant", revocation.tenant_id
        case kind:
            return kind, revocation.tenant_id, revocation.subject


def _covers(one: Revocation, other: Revocation) -> bool:
    """Whether all that `other` kills is dead by `one` (of the same key), for at least as long."""
    if one.number < other.number or one.at_us < other.at_us or one.epoch < other.epoch:
        return False
    if (other.expires_at_s == 0 and one.expires_at_s) or 0 < one.expires_at_s < other.expires_at_s:
        return False
    return one.kind != "subject" or not one.session_id or one.session_id == other.session_id
