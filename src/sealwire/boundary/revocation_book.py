"""Revocations known to this process: applied once, never taken back, kept as long as a token could outlive them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from sealwire.boundary.model import VerifiedToken
from sealwire.contracts.revocations import Revocation
from sealwire.kit.clock import US_PER_S, Clock

NOTHING = -1
"""Below the number of every entry: of what has none, and of what was known by another feed's numbers."""
UNSETTLED: Final = "tenant_revoked_about_then"
"""Of a token that counts as dead unless auth says, after the entry, that its session lives: it was issued in the very
second in which the sessions of its tenant ended, or the clock was put back since then."""
FOREVER_S = 400 * 86_400
MARGIN_S = 60.0


class _Kept:
    """A revocation and when it may be forgotten, on the monotonic clock: a wall clock that steps changes nothing."""

    __slots__ = ("forget_s", "revocation")

    def __init__(self, revocation: Revocation, forget_s: float) -> None:
        self.revocation = revocation
        self.forget_s = forget_s


_Shelf = dict[str, list[_Kept]]


class RevocationBook:
    """What ended, by what it ended. `version` rises with every entry that changed something.

    A revocation always wins: an entry goes only with time, or when another one kills all that it kills.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self.version = 0
        # By session, by `jti`, by "tenant NUL subject" (cuts, changes of role), by tenant.
        self._sessions: _Shelf = {}
        self._tokens: _Shelf = {}
        self._cuts: _Shelf = {}
        self._roles: _Shelf = {}
        self._tenants: _Shelf = {}
        self._shelves = (self._sessions, self._tokens, self._cuts, self._roles, self._tenants)

    def __len__(self) -> int:
        return sum(len(kept) for shelf in self._shelves for kept in shelf.values())

    def __iter__(self) -> Iterator[Revocation]:
        for shelf in self._shelves:
            for entries in shelf.values():
                for kept in entries:
                    yield kept.revocation

    def apply(self, revocation: Revocation) -> bool:
        """Take an entry; False when it was known, or what it kills is dead already."""
        shelf, key = self._place(revocation)
        entries = shelf.get(key, [])
        if any(_covers(kept.revocation, revocation) for kept in entries):
            return False
        life_s = revocation.expires_at_s - revocation.at_us / US_PER_S if revocation.expires_at_s else FOREVER_S
        # From now on for its whole life: the time since it was made may have been measured by another clock.
        forget_s = self._clock.monotonic() + max(life_s, 0.0) + MARGIN_S
        shelf[key] = [kept for kept in entries if not _covers(revocation, kept.revocation)]
        shelf[key].append(_Kept(revocation, forget_s))
        self.version += 1
        return True

    def against(self, token: VerifiedToken) -> str:
        """Return why the token is dead, or an empty string; `UNSETTLED` where auth may know better."""
        if token.session_id in self._sessions:
            return "session_revoked"
        if token.token_id in self._tokens and token.token_id:
            return "token_revoked"
        if self._cuts and (cuts := self._cuts.get(f"{token.tenant_id}\0{token.subject}")) is not None:
            for kept in cuts:
                cut = kept.revocation
                # A legacy token has no epoch: there its age decides.
                before = token.issued_at_s <= cut.at_us // US_PER_S if token.legacy else token.epoch < cut.epoch
                if before and (not cut.session_id or cut.session_id != token.session_id):
                    return "epoch_passed"
        if self._tenants and (ends := self._tenants.get(token.tenant_id)) is not None:
            return self._ended_with(token, [kept.revocation for kept in ends])
        return ""

    def _ended_with(self, token: VerifiedToken, ends: list[Revocation]) -> str:
        """Return whether a token is dead because all sessions of its tenant ended, and whether that is settled.

        By the time alone, a token of a session that began right after would be dead, for as long as a clock was put
        back. Only the numbers of the present feed can be held against what auth says: an entry without one is final.
        """
        killing = [end for end in ends if token.issued_at_s <= end.at_us // US_PER_S]
        if not killing:
            return ""
        now_us = self._clock.now_us()
        settled = token.legacy or any(
            end.number < 1 or (token.issued_at_s < end.at_us // US_PER_S and end.at_us <= now_us) for end in killing
        )
        return "tenant_revoked" if settled else UNSETTLED

    def ended(self, session_id: str) -> bool:
        """Whether this very session was revoked."""
        return session_id in self._sessions

    def latest(self, tenant_id: str, subject: str) -> int:
        """Return the number of the newest entry about the subject or its tenant: what was said before it is stale.

        `NOTHING` without an entry, which is below all of them.
        """
        if not (self._cuts or self._roles or self._tenants):
            return NOTHING
        person = f"{tenant_id}\0{subject}"
        number = NOTHING
        for found in (self._cuts.get(person), self._roles.get(person), self._tenants.get(tenant_id)):
            if found is not None:
                number = max(number, max(kept.revocation.number for kept in found))
        return number

    def cut_since(self, token: VerifiedToken, number: int) -> bool:
        """Whether all sessions of its person, or of their tenant, ended after this number, by the feed's order alone:
        for a token without an epoch, whose time of issue says nothing once a clock was stepped."""
        cuts = self._cuts.get(f"{token.tenant_id}\0{token.subject}", ())
        if any(kept.revocation.number > number and kept.revocation.session_id != token.session_id for kept in cuts):
            return True
        return any(kept.revocation.number > number for kept in self._tenants.get(token.tenant_id, ()))

    def renumber(self) -> None:
        """Put all entries before those of a feed that counts anew: they stay in force, and cover none of it."""
        for shelf in self._shelves:
            for entries in shelf.values():
                for kept in entries:
                    kept.revocation = msgspec.structs.replace(kept.revocation, number=0)
        self.version += 1

    def prune(self) -> int:
        """Forget what no token can outlive any more; return how many."""
        now_s = self._clock.monotonic()
        before = len(self)
        for shelf in self._shelves:
            for key, entries in list(shelf.items()):
                alive = [kept for kept in entries if kept.forget_s > now_s]
                if not alive:
                    del shelf[key]
                elif len(alive) < len(entries):
                    shelf[key] = alive
        return before - len(self)

    def _place(self, revocation: Revocation) -> tuple[_Shelf, str]:
        match revocation.kind:
            case "session":
                return self._sessions, revocation.session_id
            case "token":
                return self._tokens, revocation.token_id
            case "tenant":
                return self._tenants, revocation.tenant_id
            case "subject":
                return self._cuts, f"{revocation.tenant_id}\0{revocation.subject}"
            case "role":
                return self._roles, f"{revocation.tenant_id}\0{revocation.subject}"


def _covers(one: Revocation, other: Revocation) -> bool:
    """Whether all that `other` kills is dead by `one` (of the same key), for at least as long."""
    if one.number < other.number or one.at_us < other.at_us or one.epoch < other.epoch:
        return False
    if (other.expires_at_s == 0 and one.expires_at_s) or 0 < one.expires_at_s < other.expires_at_s:
        return False
    return one.kind != "subject" or not one.session_id or one.session_id == other.session_id
