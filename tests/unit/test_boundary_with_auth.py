"""The boundary before the real auth service: what auth ends is dead here within the bound, and nothing else is."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.model import Status
from sealwire.contracts.admission import SessionRevoked
from sealwire.contracts.logins import LoginResult, PasswordChange
from sealwire.contracts.sessions import RefreshRequest
from sealwire.contracts.tokens import SigningRotation, TokenQuery
from sealwire.contracts.users import UserChange
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import US_PER_S, Clock, SystemClock
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Role
from sealwire.kit.problem import Problem, Unauthenticated
from sealwire.testing.auth_room import CHEAP, PASSWORD, AuthRoom, somebody
from sealwire.testing.boundary_room import BoundaryRoom, bearer, exchange_of
from sealwire.testing.clock import ManualClock
from sealwire.testing.held_up import HeldUp


class House:
    """Auth on a folder, a running boundary before it."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        (folder / "auth").mkdir()
        self.auth_room = AuthRoom(folder / "auth", clock=clock)
        self._folder = folder
        self._clock = clock

    async def open(self) -> None:
        await self.auth_room.open()
        self.room = BoundaryRoom(
            self._folder,
            clock=self._clock,
            auth=self.auth_room.auth,
            issuer=CHEAP.issuer,
            audience=CHEAP.audience,
            config=BoundaryConfig(self_test_every_s=0),
        )
        self.boundary = await self.room.open()

    async def close(self) -> None:
        await self.room.close()
        await self.auth_room.close()

    async def ask(self, granted: LoginResult) -> Caller:
        found = self.boundary.authenticator(exchange_of(bearer(granted.access_token)), Policy.CALLER)
        return found if isinstance(found, Caller) else await found

    async def let_in(self, granted: LoginResult) -> Caller:
        """Wait until the token is taken: its key may be a moment old."""
        async with asyncio.timeout(30):
            while True:
                try:
                    return await self.ask(granted)
                except Unauthenticated:
                    await asyncio.sleep(0.002)

    async def dead_after_s(self, granted: LoginResult) -> float:
        """Wait until the token is refused; return how long that took."""
        started_s = time.monotonic()
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.ask(granted)
                except Unauthenticated:
                    return time.monotonic() - started_s
                await asyncio.sleep(0.002)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.open()
    yield house
    await house.close()


async def test_a_login_is_known_and_a_logout_is_dead_at_once(house: House, tmp_path: Path) -> None:
    owner, granted = await house.auth_room.enter("anna")
    caller = await house.ask(granted)
    assert caller.confirmed
    assert (caller.user_id, caller.principal.role, caller.principal.session_id) == (
        owner.user_id,
        Role.OWNER,
        granted.session_id,
    )
    ended: list[Problem] = []
    gateway = house.boundary.sockets
    handshake = gateway.read(
        {"type": "websocket", "headers": bearer(granted.access_token), "query_string": b"", "client": None}
    )
    await gateway.admit(handshake, "", ended=ended.append)
    await house.auth_room.auth.logout(caller)
    with HeldUp(os.getpid(), tmp_path) as held:
        assert await house.dead_after_s(granted) < 0.5 + held.up_s
    assert [type(why) for why in ended] == [SessionRevoked]


async def test_refreshed_tokens_are_of_the_same_session(house: House) -> None:
    _, granted = await house.auth_room.enter("anna")
    fresh = await house.auth_room.auth.refresh(somebody(), RefreshRequest(refresh_token=granted.refresh_token))
    assert (await house.ask(fresh)).principal.session_id == granted.session_id
    assert (await house.ask(granted)).confirmed, "the older token of the session is good until its end"


async def test_a_password_change_ends_the_other_sessions_only(house: House) -> None:
    _, here = await house.auth_room.enter("anna")
    there = await house.auth_room.log_in("anna")
    caller = await house.ask(here)
    await house.ask(there)
    await house.auth_room.auth.change_password(
        caller, PasswordChange(current_password=PASSWORD, new_password="another kettle of fish")
    )
    await house.dead_after_s(there)
    assert (await house.ask(here)).confirmed
    later = await house.auth_room.log_in("anna", password="another kettle of fish")
    assert (await house.ask(later)).confirmed


async def test_a_new_role_counts_with_the_next_request_and_disabling_ends_it_all(house: House) -> None:
    owner, _ = await house.auth_room.enter("anna")
    _, granted = await house.auth_room.enter("otto")
    otto = (await house.ask(granted)).user_id
    await house.auth_room.auth.change_user(owner, otto, UserChange(role="auditor"))
    async with asyncio.timeout(30):
        while (await house.ask(granted)).principal.role is not Role.AUDITOR:  # noqa: ASYNC110 - asking is it
            await asyncio.sleep(0.002)
    await house.auth_room.auth.change_user(owner, otto, UserChange(status="disabled"))
    await house.dead_after_s(granted)


async def test_a_revoked_token_is_dead_and_its_session_may_live(house: House) -> None:
    _, granted = await house.auth_room.enter("anna")
    caller = await house.ask(granted)
    await house.auth_room.auth.revoke(caller, TokenQuery(token=granted.access_token))
    await house.dead_after_s(granted)


async def test_the_self_test_passes_with_a_genuine_token(house: House) -> None:
    _, granted = await house.auth_room.enter("anna")
    report = await house.boundary.health._self_test.run(granted.access_token)
    assert report.ok, [step for step in report.steps if not step.ok]


async def test_revocations_survive_a_restart_without_auth(house: House) -> None:
    _, granted = await house.auth_room.enter("anna")
    caller = await house.ask(granted)
    token = await house.boundary.adapter.adapt(granted.access_token)
    await house.auth_room.auth.logout(caller)
    await house.dead_after_s(granted)
    await house.room.close()
    house.boundary = house.room.build()
    await house.boundary.fallback.start()
    assert house.boundary.fallback.book.against(token)
    answer = await house.boundary.normalizer.validate(token)
    assert answer.status is Status.REVOKED


async def test_right_after_a_stolen_key_was_given_up_a_new_login_works(tmp_path: Path) -> None:
    """Times of issue are whole seconds: in the very second of the end auth says which session began after it."""
    clock = ManualClock(now_us=SystemClock().now_us() // US_PER_S * US_PER_S)
    house = House(tmp_path, clock)
    await house.open()
    try:
        auth = house.auth_room.auth
        _, before = await house.auth_room.enter("anna")
        await house.ask(before)
        await auth.rotate_signing(service_caller("gateway", "system"), SigningRotation(compromised=True))
        after = await house.auth_room.log_in("anna")
        await house.dead_after_s(before)
        assert (await house.let_in(after)).confirmed
        again = await auth.refresh(somebody(), RefreshRequest(refresh_token=after.refresh_token))
        assert (await house.ask(again)).confirmed
        with pytest.raises(Unauthenticated):
            await auth.refresh(somebody(), RefreshRequest(refresh_token=before.refresh_token))
        token = await house.boundary.adapter.adapt(after.access_token)
        assert house.boundary.fallback.book.against(token), "it is as good as dead where auth can't be asked"
        clock.step_wall(-3_600)  # the clock was ahead at the end, and is put right: nobody waits for an hour
        late = await house.auth_room.log_in("anna")
        assert (await house.ask(late)).confirmed
        await auth.logout(await house.ask(late))
        with HeldUp(os.getpid(), tmp_path) as held:
            assert await house.dead_after_s(late) < 0.5 + held.up_s
    finally:
        await house.close()
