"""The machine's wall clock steps by an hour, before a revocation, after it, across a restart: the dead stay dead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sealwire.boundary.jwt_token_adapter import LegacyRule
from sealwire.boundary.model import Status, Validation
from sealwire.contracts.sessions import SessionState
from sealwire.kit.jose import Algorithm, Key, sign
from sealwire.kit.problem import Unauthenticated, Unavailable
from sealwire.testing.boundary_room import BoundaryRoom
from sealwire.testing.clock import ManualClock

HOUR_S = 3_600
DAY_S = 86_400
OLD_KEY = Key.generate(Algorithm.EDDSA, kid="old.1")


class Room(BoundaryRoom):
    """A boundary that reads the feed when told to."""

    clock: ManualClock

    async def begin(self) -> None:
        boundary = self.build()
        await boundary.fallback.start()
        await boundary.adapter.refresh_keys()
        await boundary.coordinator.ensure_fresh()

    async def hear(self) -> None:
        self.clock.advance(1.1)
        assert await self.boundary.coordinator.ensure_fresh()
        await self.boundary.fallback.persist()

    async def ask(self, token: str) -> Validation | None:
        """Return what the boundary says; None for a token whose own times are out."""
        try:
            verified = await self.boundary.adapter.adapt(token)
        except Unauthenticated:
            return None
        return await self.boundary.normalizer.validate(verified)

    async def is_dead(self, token: str) -> None:
        """Assert that nobody lets it in, whoever can be asked."""
        for out in (None, Unavailable()):
            self.authority.outage = out
            self.clock.advance(1.1)
            answer = await self.ask(token)
            assert answer is None or answer.status is Status.REVOKED, (answer, out)
            self.boundary.normalizer.forget()
        self.authority.outage = None

    async def restart(self) -> None:
        await self.boundary.stop()
        await self.begin()

    def legacy(self) -> str:
        now_s = self.clock.now_us() // 1_000_000
        claims = {"sub": "anna@example.org", "id": "anna", "role": "member", "iat": now_s, "exp": now_s + DAY_S}
        return sign(claims, OLD_KEY, "JWT")


@pytest.fixture
async def room(tmp_path: Path) -> Room:
    room = Room(tmp_path, clock=ManualClock(), legacy=[LegacyRule(key=OLD_KEY, tenant_id="t", kid="old.1")])
    room.authority.add_user("anna")
    await room.begin()
    return room


def end_session(room: Room, session: SessionState) -> None:
    room.authority.log_out(session.session_id)


def end_subject(room: Room, session: SessionState) -> None:
    room.authority.cut(session.user_id)


def end_tenant(room: Room, session: SessionState) -> None:
    room.authority.cut(session.user_id)  # epochs are raised as well
    room.authority.revoke("tenant", tenant_id=session.tenant_id)


ENDINGS = [end_session, end_subject, end_tenant]


@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.parametrize("before_s", [-HOUR_S, 0, HOUR_S])
@pytest.mark.parametrize("after_s", [-HOUR_S, HOUR_S, DAY_S])
@pytest.mark.parametrize("restart", [False, True])
async def test_a_session_that_ended_stays_dead(
    room: Room, end: Callable[[Room, SessionState], None], before_s: int, after_s: int, restart: bool
) -> None:
    session = room.authority.log_in("anna")
    now_s = room.clock.now_us() // 1_000_000
    token = room.authority.token(session, exp=now_s + 3 * DAY_S)
    seen = await room.ask(token)
    assert seen is not None
    assert seen.status is Status.VALID
    older = room.cache.snapshot()
    room.clock.step_wall(before_s)
    end(room, session)
    await room.hear()
    await room.is_dead(token)
    room.clock.step_wall(after_s)
    if restart:
        await room.restart()
    room.cache.restore(older)
    await room.is_dead(token)
    room.clock.step_wall(-after_s - before_s)
    room.clock.advance(HOUR_S)
    await room.boundary.fallback.clean()
    await room.is_dead(token)
    if restart:
        await room.restart()
    await room.is_dead(token)
    await room.boundary.stop()


@pytest.mark.parametrize("before_s", [-HOUR_S, HOUR_S])
@pytest.mark.parametrize("restart", [False, True])
async def test_a_legacy_token_that_was_used_before_the_password_changed_stays_dead(
    room: Room, before_s: int, restart: bool
) -> None:
    """It has no epoch, and a clock that is an hour behind says that it was issued after the change."""
    token = room.legacy()
    seen = await room.ask(token)
    assert seen is not None
    assert seen.status is Status.VALID
    await room.boundary.fallback.flush()
    room.clock.step_wall(before_s)
    room.authority.cut("anna")
    await room.hear()
    await room.is_dead(token)
    room.clock.step_wall(-before_s)
    if restart:
        await room.restart()
    await room.is_dead(token)
    await room.is_dead(token)
    await room.boundary.stop()


async def test_a_legacy_token_goes_on_when_only_the_role_changed(room: Room) -> None:
    token = room.legacy()
    await room.ask(token)
    room.authority.change_role("anna", room.authority.users["anna"].role)
    await room.hear()
    seen = await room.ask(token)
    assert seen is not None
    assert seen.status is Status.VALID
    await room.boundary.stop()
