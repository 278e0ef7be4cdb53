"""Auth's rules, pure: no storage, no clock, no chance."""

from __future__ import annotations

import unicodedata
from enum import StrEnum
from typing import Final

import msgspec

from sealwire.kit.caller import SYSTEM_TENANT
from sealwire.kit.clock import US_PER_S
from sealwire.kit.permission import Role, outranks
from sealwire.kit.problem import Forbidden
from sealwire.services.auth.records import RefreshUse

DEFAULT_TENANT: Final = "default"
SELFTEST_PREFIX: Final = "selftest-"
SELFTEST_LIFE_S: Final = 3_600
"""A throwaway tenant that nobody removed goes after this time."""


def folded_email(email: str) -> str:
    """Return the form in which addresses are compared: NFKC and case-folded."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", email).casefold())


# ---- refresh tokens


class Verdict(StrEnum):
    """What becomes of a refresh token that is presented."""

    ROTATE = "rotate"
    """It was the newest: its successor is the newest now."""
    REPEAT = "repeat"
    """It was used a moment ago (a lost answer, another tab): the same successor again."""
    REUSED = "reused"
    """It was used long ago: somebody has a copy."""


class Rotation(msgspec.Struct, frozen=True):
    """The verdict and the family afterwards."""

    verdict: Verdict
    head: int
    uses: tuple[RefreshUse, ...]


def rotate(
    head: int, uses: tuple[RefreshUse, ...], number: int, *, now_us: int, grace_us: int, client: bytes = b""
) -> Rotation:
    """Judge token `number` of a family whose newest is `head`.

    A token may be repeated within `grace_us` of its use or of the last time it was given out: a token given to a tab
    that was late must not be dead on arrival. Presenting a token never prolongs its own grace, only its successor's,
    so a copy can't be kept alive by repeating it. Only the client that used it may repeat it: two clients with one
    token are one too many, whichever came first, inside the window too. A number above `head` was signed by us and
    then forgotten (storage restored from a backup): it is the newest.
    Source of the idea: OAuth 2.0 Security BCP (RFC 9700 section 4.14.2), with a window for lost answers.
    """
    # A use in the future is one of before the clock was put back: its grace runs from now, and not until then.
    known = tuple(use if use.at_us <= now_us else RefreshUse(use.number, now_us, use.client) for use in uses)
    fresh = tuple(use for use in known if now_us - use.at_us <= grace_us)
    if number >= head:
        kept = tuple(use for use in fresh if use.number != number)
        return Rotation(Verdict.ROTATE, number + 1, (*kept, RefreshUse(number, now_us, client)))
    if all(use.number != number or use.client not in (b"", client) for use in fresh):
        return Rotation(Verdict.REUSED, head, uses)
    successor = number + 1
    if successor == head:
        return Rotation(Verdict.REPEAT, head, fresh)
    given = tuple(use for use in fresh if use.number != successor)
    return Rotation(Verdict.REPEAT, head, (*given, RefreshUse(successor, now_us, client)))


# ---- lockout


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What a failure counts under. After `free` of them the wait is `base_s`, doubling up to `cap_s`; all are forgotten
    `forget_s` after the last one."""

    key: bytes
    free: int
    base_s: float
    cap_s: float
    forget_s: int


class Failures(msgspec.Struct, frozen=True):
    """Failures counted under one key, the last one's time and until when the key is locked."""

    count: int
    last_us: int
    until_us: int


def one_more(before: Failures | None, under: Counted, *, now_us: int) -> Failures:
    """Count a failure."""
    count = 1
    if before is not None and now_us - before.last_us < under.forget_s * US_PER_S:
        count = before.count + 1
    if count < under.free:
        return Failures(count, now_us, 0)
    wait_s = min(under.cap_s, under.base_s * 2.0 ** min(count - under.free, 40))
    return Failures(count, now_us, now_us + round(wait_s * US_PER_S))


# ---- roles


def check_role_change(*, by: Role, before: Role, after: Role, tenant_id: str) -> None:
    """Refuse a change of roles that the one who asks may not make. Raises: Forbidden."""
    check_role_given(by=by, role=after, tenant_id=tenant_id)
    if before is Role.OWNER and by not in (Role.OWNER, Role.SERVICE):
        raise Forbidden("Only an owner can change an owner.")


def check_outranks(*, by: Role, of: Role) -> None:
    """Refuse what is done to an account by who ranks no higher; an owner, and a command on the machine, may always.

    Raises: Forbidden.
    """
    if not may_act_on(by=by, of=of):
        raise Forbidden("Only somebody who ranks higher does that; of an administrator or owner, an owner.")


def may_act_on(*, by: Role, of: Role) -> bool:
    """Whether `check_outranks` lets it be."""
    return by in (Role.OWNER, Role.SERVICE) or outranks(by, of)


def check_role_given(*, by: Role, role: Role, tenant_id: str) -> None:
    """Refuse to give a role that the one who asks may not give. Raises: Forbidden."""
    if (role is Role.OPERATOR) != (tenant_id == SYSTEM_TENANT):
        raise Forbidden("Operators live in the tenant `system`, and nobody else does.")
    if role is Role.OWNER and by not in (Role.OWNER, Role.SERVICE):
        raise Forbidden("Only an owner can make an owner.")
