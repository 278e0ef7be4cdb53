"""The client of auth: short caches that never outlive a revocation, and the names other programs call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sealwire.clients.auth import AuthClient, local_auth
from sealwire.contracts.auth import OPERATIONS
from sealwire.contracts.revocations import FeedQuery
from sealwire.contracts.sessions import RefreshInvalid, SessionNotFound
from sealwire.contracts.users import UserChange, UserNotFound
from sealwire.kit.problem import Unauthenticated
from sealwire.resilience.breaker import State
from sealwire.resilience.guard import Guard
from sealwire.resilience.registry import Registry
from sealwire.testing.auth_room import BOUNDARY, AuthRoom
from sealwire.testing.clock import ManualClock


class Counted:
    """Passes everything on to auth and counts the calls."""

    def __init__(self, auth: Any) -> None:
        self._auth = auth
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        if name not in OPERATIONS:
            raise AttributeError(name)
        method = getattr(self._auth, name)

        async def call(*args: Any) -> Any:
            self.calls += 1
            return await method(*args)

        return call


class Desk:
    """A room, a client in front of it, and the count of what got through."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.room = AuthRoom(folder, clock=self.clock)

    async def open(self) -> Desk:
        self.counted = Counted(await self.room.open())
        guard = Guard.of("auth", registry=Registry(clock=self.clock), clock=self.clock, rng=Random(1))
        self.client = AuthClient(
            auth=local_auth(self.counted, guard),  # type: ignore[arg-type] # it passes every method on
            service="gateway",
            clock=self.clock,
            rng=Random(1),
        )
        return self


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    opened = await Desk(tmp_path).open()
    yield opened
    await opened.room.close()


async def test_a_token_is_validated_once_in_a_while(desk: Desk) -> None:
    anna, granted = await desk.room.enter("anna")
    for _ in range(100):
        assert (await desk.client.validate_token(granted.access_token)).sub == anna.user_id
    assert desk.counted.calls == 1
    desk.clock.advance(0.6)
    await desk.client.validate_token(granted.access_token)
    assert desk.counted.calls == 2


async def test_a_revocation_holds_within_a_second_and_at_once_with_the_feed(desk: Desk) -> None:
    anna, granted = await desk.room.enter("anna")
    await desk.client.validate_token(granted.access_token)
    await desk.client.get_session(granted.session_id)
    await desk.room.auth.logout(anna)
    desk.clock.advance(0.51)
    with pytest.raises(Unauthenticated):
        await desk.client.validate_token(granted.access_token)
    assert not (await desk.client.get_session(granted.session_id)).active

    again = await desk.room.log_in("anna")
    await desk.client.validate_token(again.access_token)
    await desk.client.get_session(again.session_id)
    assert (await desk.client.get_user_profile("default", anna.user_id)).epoch == 1
    await desk.room.auth.logout_all(desk.room.caller(again))
    desk.client.follow((await desk.room.auth.revocations(BOUNDARY, FeedQuery())).items)
    with pytest.raises(Unauthenticated):
        await desk.client.validate_token(again.access_token)
    assert not (await desk.client.get_session(again.session_id)).active
    assert (await desk.client.get_user_profile("default", anna.user_id)).epoch == 2


async def test_entries_about_others_leave_the_cache_alone(desk: Desk) -> None:
    _, granted = await desk.room.enter("anna")
    ben, _ = await desk.room.enter("ben")
    await desk.client.validate_token(granted.access_token)
    await desk.room.auth.logout(ben)
    desk.client.follow((await desk.room.auth.revocations(BOUNDARY, FeedQuery())).items)
    before = desk.counted.calls
    await desk.client.validate_token(granted.access_token)
    assert desk.counted.calls == before


async def test_an_expired_token_is_refused_from_the_cache_too(desk: Desk) -> None:
    _, granted = await desk.room.enter("anna")
    desk.clock.advance(599.7)
    await desk.client.validate_token(granted.access_token)
    desk.clock.advance(0.3)
    with pytest.raises(Unauthenticated):
        await desk.client.validate_token(granted.access_token)


async def test_what_is_no_token(desk: Desk) -> None:
    for nonsense in ("", "x", "a.b.c", "x" * 100_000, "\ud800", "é" * 100):
        with pytest.raises(Unauthenticated):
            await desk.client.validate_token(nonsense)


async def test_profiles_are_per_tenant_and_change_with_the_feed(desk: Desk) -> None:
    owner, _ = await desk.room.enter("owner")
    ben, _ = await desk.room.enter("ben")
    assert (await desk.client.get_user_profile("default", ben.user_id)).display_name == "Ben"
    with pytest.raises(UserNotFound):
        await desk.client.get_user_profile("system", ben.user_id)
    with pytest.raises(SessionNotFound):
        await desk.client.get_session("nothing")
    await desk.room.auth.change_user(owner, ben.user_id, UserChange(status="disabled"))
    desk.client.follow((await desk.room.auth.revocations(BOUNDARY, FeedQuery())).items)
    assert not (await desk.client.get_user_profile("default", ben.user_id)).active


async def test_refreshing_and_revoking(desk: Desk) -> None:
    anna, granted = await desk.room.enter("anna")
    renewed = await desk.client.refresh_token(granted.refresh_token, ip="192.0.2.1", user_agent="sdk")
    await desk.client.validate_token(renewed.access_token)
    await desk.client.revoke_token(anna, renewed.access_token)
    with pytest.raises(Unauthenticated):
        await desk.client.validate_token(renewed.access_token)
    await desk.client.revoke_token(anna, renewed.refresh_token)
    with pytest.raises(RefreshInvalid):
        await desk.client.refresh_token(renewed.refresh_token)


async def test_health_and_breaker(desk: Desk) -> None:
    assert desk.client.is_healthy()
    assert desk.client.get_circuit_breaker_state().state is State.CLOSED
    _, granted = await desk.room.enter("anna")
    await desk.client.validate_token(granted.access_token)
    desk.client.clear_cache()
    before = desk.counted.calls
    await desk.client.validate_token(granted.access_token)
    assert desk.counted.calls == before + 1
