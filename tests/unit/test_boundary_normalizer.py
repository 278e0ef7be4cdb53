"""The normaliser: one answer shape, the right source, revocations first, and degraded never weaker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sealwire.boundary.jwt_token_adapter import LegacyRule
from sealwire.boundary.model import Source, Status, Validation
from sealwire.contracts.sessions import SessionState
from sealwire.kit.jose import Algorithm, Key, sign
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Unavailable
from sealwire.resilience.breaker import State
from sealwire.testing.boundary_room import BoundaryRoom
from sealwire.testing.clock import ManualClock

OLD_KEY = Key.generate(Algorithm.EDDSA, kid="old.1")


class Room(BoundaryRoom):
    """A boundary that reads the feed when told to, and people to ask about."""

    clock: ManualClock

    async def ask(self, token: str) -> Validation:
        return await self.boundary.normalizer.validate(await self.boundary.adapter.adapt(token))

    def asked_auth(self) -> int:
        return self.authority.asked.count("session")

    async def hear(self) -> None:
        """Have the boundary read the feed now."""
        self.clock.advance(1.1)
        assert await self.boundary.coordinator.ensure_fresh()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path, clock=ManualClock(), legacy=[LegacyRule(key=OLD_KEY, tenant_id="t", kid="old.1")])
    boundary = room.build()
    await boundary.fallback.start()
    await boundary.coordinator.ensure_fresh()
    room.authority.add_user("anna", role=Role.ADMIN)
    yield room
    await boundary.stop()


async def test_auth_then_memory_then_cache_answer(room: Room) -> None:
    token = room.authority.token(room.authority.log_in("anna"))
    first = await room.ask(token)
    assert (first.status, first.source, first.degraded, first.reason) == (Status.VALID, Source.AUTH, False, "")
    assert first.checked_at == room.clock.now_us()
    assert (await room.ask(token)).source is Source.MEMORY
    room.boundary.normalizer.forget()
    assert (await room.ask(token)).source is Source.CACHE
    assert (await room.ask(token)).source is Source.MEMORY
    assert room.asked_auth() == 1


async def test_the_user_record_overrides_what_the_token_says(room: Room) -> None:
    session = room.authority.log_in("anna")
    token = room.authority.token(session, role="owner", email="boss@example.org")
    principal = (await room.ask(token)).principal
    assert principal is not None
    assert (principal.role, principal.email) == (Role.ADMIN, "anna@example.org")


async def test_a_logged_out_session_is_dead_in_memory_and_cache(room: Room) -> None:
    session = room.authority.log_in("anna")
    token = room.authority.token(session)
    await room.ask(token)
    snapshot = room.cache.snapshot()
    room.authority.log_out(session.session_id)
    await room.hear()
    answer = await room.ask(token)
    assert (answer.status, answer.source, answer.reason) == (Status.REVOKED, Source.REVOCATIONS, "session_revoked")
    assert answer.principal is None
    room.cache.restore(snapshot)  # the cache comes back with older data
    room.boundary.normalizer.forget()
    assert (await room.ask(token)).status is Status.REVOKED


async def test_old_data_of_a_cache_do_not_hide_a_change_of_role(room: Room) -> None:
    session = room.authority.log_in("anna")
    token = room.authority.token(session)
    await room.ask(token)
    snapshot = room.cache.snapshot()
    room.authority.change_role("anna", Role.GUEST)
    await room.hear()
    room.cache.restore(snapshot)
    answer = await room.ask(token)
    assert answer.principal is not None
    assert (answer.source, answer.principal.role) == (Source.AUTH, Role.GUEST)


async def test_a_password_change_ends_all_sessions_but_the_one(room: Room) -> None:
    here, there = room.authority.log_in("anna"), room.authority.log_in("anna")
    token_here, token_there = room.authority.token(here), room.authority.token(there)
    await room.ask(token_here)
    await room.ask(token_there)
    room.authority.cut("anna", keep=here.session_id)
    await room.hear()
    assert (await room.ask(token_here)).status is Status.VALID
    assert (await room.ask(token_there)).status is Status.REVOKED
    later = room.authority.log_in("anna")
    assert (await room.ask(room.authority.token(later))).status is Status.VALID


async def test_a_token_of_another_session_or_an_older_epoch_is_refused(room: Room) -> None:
    room.authority.add_user("otto")
    session = room.authority.log_in("otto")
    stolen = room.authority.token(session, sub="anna")
    assert (await room.ask(stolen)).reason == "not_its_session"
    foreign = room.authority.token(session, tid="u")
    assert (await room.ask(foreign)).reason == "not_its_session"
    room.authority.cut("otto")
    fresh = room.authority.log_in("otto")
    assert (await room.ask(room.authority.token(fresh, epoch=1))).status is Status.REVOKED
    made_up = SessionState(
        session_id="made-up", tenant_id="t", user_id="otto", role=Role.OWNER, email="", epoch=1, active=True,
        expires_at_s=2**33,
    )  # fmt: skip
    assert (await room.ask(room.authority.token(made_up, epoch=9))).reason == "session_unknown"


async def test_values_in_the_cache_that_are_not_ours_count_as_nothing(room: Room) -> None:
    session, other = room.authority.log_in("anna"), room.authority.log_in("anna")
    token = room.authority.token(session)
    await room.ask(token)
    await room.ask(room.authority.token(other))
    room.boundary.normalizer.forget()
    swapped = await room.cache.get(f"session:{other.session_id}")
    assert swapped is not None
    for forged in (b"", b"\x81\xa5state", swapped):
        await room.cache.put(f"session:{session.session_id}", forged, ttl_s=60)
        assert (await room.ask(token)).source is Source.AUTH
        room.boundary.normalizer.forget()


async def test_without_the_cache_auth_is_asked_and_it_shows(room: Room) -> None:
    session = room.authority.log_in("anna")
    token = room.authority.token(session)
    room.cache.out = True
    for _ in range(6):
        room.boundary.normalizer.forget()
        assert (await room.ask(token)).source is Source.AUTH
    answer = await room.ask(token)
    assert (answer.status, answer.degraded) == (Status.VALID, True)
    assert room.breakers.breaker("session_cache").state is State.OPEN
    room.authority.log_out(session.session_id)
    await room.hear()
    assert (await room.ask(token)).status is Status.REVOKED


async def test_a_cache_that_returns_is_reconciled_and_revocations_win(room: Room) -> None:
    first, second = room.authority.log_in("anna"), room.authority.log_in("anna")
    tokens = [room.authority.token(first), room.authority.token(second)]
    for token in tokens:
        await room.ask(token)
    room.cache.out = True
    third = room.authority.log_in("anna")
    for _ in range(6):
        room.boundary.normalizer.forget()
        await room.ask(room.authority.token(third))
    room.authority.log_out(first.session_id)
    await room.hear()
    room.cache.out = False
    assert await room.cache.get(f"session:{first.session_id}") is not None, "it missed the logout"
    room.clock.advance(30)
    await room.boundary.coordinator.ensure_fresh()
    for _ in range(3):
        await room.breakers.breaker("session_cache").call(room.cache.check)
    assert await room.boundary.normalizer.reconcile() > 0
    assert await room.cache.get(f"session:{first.session_id}") is None
    assert await room.cache.get(f"session:{third.session_id}") is not None
    assert not room.boundary.normalizer.degraded


async def test_without_auth_known_sessions_go_on_unconfirmed_with_the_lower_role(room: Room) -> None:
    session = room.authority.log_in("anna")
    token = room.authority.token(session, role="member")
    assert (await room.ask(token)).principal is not None
    room.authority.outage = Unavailable()
    assert (await room.ask(token)).status is Status.VALID, "the feed is young: what it said still holds"
    room.clock.advance(1.1)
    answer = await room.ask(token)
    assert (answer.status, answer.source, answer.degraded) == (Status.UNCONFIRMED, Source.FALLBACK, True)
    assert answer.principal is not None
    assert answer.principal.role is Role.MEMBER, "of admin in the record and member in the token, the lower"


async def test_without_auth_an_unknown_session_is_unconfirmed_by_its_token(room: Room) -> None:
    token = room.authority.token(room.authority.log_in("anna"))
    await room.boundary.adapter.adapt(token)
    room.authority.outage = Unavailable()
    room.clock.advance(1.1)
    answer = await room.ask(token)
    assert answer.principal is not None
    assert (answer.status, answer.source) == (Status.UNCONFIRMED, Source.TOKEN)
    assert answer.principal.role is Role.MEMBER, "never more than that on the token's word alone"


async def test_without_auth_a_known_revocation_holds_across_a_restart(room: Room) -> None:
    session = room.authority.log_in("anna")
    token = room.authority.token(session)
    await room.ask(token)
    room.authority.log_out(session.session_id)
    await room.hear()
    await room.boundary.stop()
    room.build()
    await room.boundary.fallback.start()
    await room.boundary.adapter.refresh_keys()
    room.authority.outage = Unavailable()
    assert (await room.ask(token)).status is Status.REVOKED


async def test_without_auth_a_session_known_before_a_restart_goes_on(room: Room) -> None:
    token = room.authority.token(room.authority.log_in("anna"))
    await room.ask(token)
    await room.boundary.stop()
    room.build()
    await room.boundary.fallback.start()
    await room.boundary.adapter.refresh_keys()
    room.authority.outage = Unavailable()
    answer = await room.ask(token)
    assert (answer.status, answer.source) == (Status.UNCONFIRMED, Source.FALLBACK)


async def test_going_on_unconfirmed_is_bounded(tmp_path: Path) -> None:
    room = Room(tmp_path, clock=ManualClock())
    boundary = room.build()
    await boundary.fallback.start()
    room.authority.add_user("anna")
    session = room.authority.log_in("anna")
    now_s = room.clock.now_us() // 1_000_000
    token = room.authority.token(session, exp=now_s + 7200)
    await room.ask(token)
    room.authority.outage = Unavailable()
    room.clock.advance(890)
    assert (await room.ask(token)).status is Status.UNCONFIRMED
    room.clock.advance(11)
    answer = await room.ask(token)
    assert (answer.status, answer.principal, answer.reason) == (Status.UNKNOWN, None, "unconfirmed_too_long")
    room.clock.step_wall(-600)
    assert (await room.ask(token)).status is Status.UNCONFIRMED
    room.clock.step_wall(-600)
    assert (await room.ask(token)).status is Status.UNKNOWN, "a stepped clock does not prolong it without end"
    await boundary.stop()


async def test_after_a_role_change_an_outage_leaves_the_least(room: Room) -> None:
    token = room.authority.token(room.authority.log_in("anna"))
    await room.ask(token)
    room.authority.change_role("anna", Role.OWNER)
    await room.hear()
    room.authority.outage = Unavailable()
    room.clock.advance(1.1)
    answer = await room.ask(token)
    assert answer.principal is not None
    assert (answer.status, answer.principal.role) == (Status.UNCONFIRMED, Role.GUEST)


def legacy(room: Room, **changes: object) -> str:
    now_s = room.clock.now_us() // 1_000_000
    claims = {"sub": "anna@example.org", "id": "anna", "role": "owner", "iat": now_s, "exp": now_s + 900}
    return sign(claims | changes, OLD_KEY, "JWT")


async def test_a_legacy_token_is_resolved_by_id_and_must_match_the_address(room: Room) -> None:
    answer = await room.ask(legacy(room))
    assert answer.principal is not None
    assert (answer.status, answer.principal.role, answer.principal.legacy) == (Status.VALID, Role.ADMIN, True)
    assert (await room.ask(legacy(room, sub="ANNA@example.org"))).status is Status.VALID
    assert (await room.ask(legacy(room, sub="otto@example.org"))).status is Status.REVOKED
    assert (await room.ask(legacy(room, id="nobody"))).status is Status.REVOKED
    room.authority.add_user("eve", tenant_id="u")
    assert (await room.ask(legacy(room, id="eve", sub="eve@example.org"))).status is Status.REVOKED, "another tenant"


async def test_a_legacy_session_ends_by_the_hash_of_its_token(room: Room) -> None:
    token, other = legacy(room), legacy(room, jti="2")
    answer = await room.ask(token)
    assert answer.principal is not None
    room.authority.revoke("session", tenant_id="t", session_id=answer.principal.session_id)
    await room.hear()
    assert (await room.ask(token)).status is Status.REVOKED
    assert (await room.ask(other)).status is Status.VALID
    room.authority.cut("anna")
    await room.hear()
    assert (await room.ask(other)).status is Status.REVOKED, "older than the cut"


async def test_a_legacy_token_is_held_to_the_second_factor_its_tenant_asks_for(room: Room) -> None:
    room.authority.users["anna"] = msgspec.structs.replace(room.authority.users["anna"], needs_mfa=True)
    token = legacy(room)
    answer = await room.ask(token)
    assert answer.principal is not None
    assert answer.principal.scopes == (Permission.OWN_PROFILE,)
    room.authority.outage = ConnectionError()
    assert isinstance(room.clock, ManualClock)
    room.clock.advance(2)
    again = await room.ask(token)
    assert again.principal is not None
    assert (again.status, again.principal.scopes) == (Status.UNCONFIRMED, (Permission.OWN_PROFILE,)), "no less asked"


async def test_a_legacy_token_that_nobody_resolved_yet_is_not_let_in_by_an_outage(room: Room) -> None:
    token = legacy(room)
    await room.boundary.adapter.adapt(token)
    room.authority.outage = ConnectionError()
    assert isinstance(room.clock, ManualClock)
    room.clock.advance(2)
    answer = await room.ask(token)
    assert (answer.status, answer.principal, answer.reason) == (Status.UNKNOWN, None, "legacy_unresolved")


async def test_uses_of_legacy_tokens_are_told_to_auth_and_kept_while_it_is_out(room: Room) -> None:
    await room.ask(legacy(room))
    await room.ask(legacy(room, id="nobody"))
    log = room.boundary.legacy_log
    room.authority.outage = ConnectionError()
    await log.flush()
    room.authority.outage = None
    await room.ask(legacy(room, jti="2"))
    await log.flush()
    assert {use.user_id for use in room.authority.legacy_uses} == {"anna"}, "who is not resolved is not counted"
    assert len({use.session_id for use in room.authority.legacy_uses}) == 2
    await log.flush()
    assert len(room.authority.legacy_uses) == 2


async def test_a_bug_in_auth_is_an_outage_not_an_open_door(room: Room) -> None:
    token = room.authority.token(room.authority.log_in("anna"))
    await room.boundary.adapter.adapt(token)
    room.authority.outage = KeyError("bug")
    answer = await room.ask(token)
    assert answer.status is Status.UNCONFIRMED


class Overtaken(dict[str, SessionState]):
    """Sessions of which one ends, and is heard to have ended, while auth's answer about it is on its way."""

    def __init__(self, room: Room, session_id: str, outage: Exception | None) -> None:
        super().__init__(room.authority.sessions)
        self._room, self._ends, self._outage = room, session_id, outage

    def get(self, session_id: str, default: object = None) -> SessionState:  # type: ignore[override]  # as it is called
        said = self[session_id]
        if session_id == self._ends:
            ended = self._room.authority.log_out(session_id)
            self._room.boundary.fallback.take([ended], ended.number, ended.change_id)
            if self._outage is not None:
                raise self._outage
        return said


@pytest.mark.parametrize("outage", [None, Unavailable()])
async def test_a_revocation_that_is_heard_while_auth_is_asked_wins(room: Room, outage: Exception | None) -> None:
    """Whether auth then says that the session lives, as it did when it was asked, or nothing any more."""
    session = room.authority.log_in("anna")
    token = room.authority.token(session)
    room.authority.sessions = Overtaken(room, session.session_id, outage)
    for _ in range(2):
        answer = await room.ask(token)
        assert (answer.status, answer.reason) == (Status.REVOKED, "session_revoked")
    assert room.asked_auth() == 1
