"""API keys at the boundary: a Bearer credential of kind `api_key`, dead everywhere within the bound."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sealwire.boundary.config import BoundaryConfig
from sealwire.contracts.admission import SessionRevoked
from sealwire.contracts.api_keys import ApiKeyMade, NewApiKey, NewServiceAccount
from sealwire.contracts.auth import OPERATIONS
from sealwire.contracts.users import UserChange
from sealwire.kit.caller import Caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.http import Route
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Forbidden, Problem, Unauthenticated
from sealwire.testing.auth_room import CHEAP, AuthRoom
from sealwire.testing.boundary_room import BoundaryRoom, bearer, edge_of, exchange_of
from sealwire.testing.held_up import HeldUp


class House:
    """Auth on a folder, a running boundary before it, an owner and a key of a service account."""

    def __init__(self, folder: Path) -> None:
        (folder / "auth").mkdir()
        self.auth_room = AuthRoom(folder / "auth", clock=SystemClock())
        self._folder = folder

    async def open(self) -> None:
        await self.auth_room.open()
        self.owner, _ = await self.auth_room.enter("boss")
        self.room = BoundaryRoom(
            self._folder, clock=self.auth_room.clock, auth=self.auth_room.auth, issuer=CHEAP.issuer,
            audience=CHEAP.audience, config=BoundaryConfig(self_test_every_s=0),
        )  # fmt: skip
        self.boundary = await self.room.open()
        account = NewServiceAccount(display_name="Robot", role="admin")
        new = NewApiKey(name="ci", scopes=["read", "post", "manage_users"], service_account=account)
        self.made: ApiKeyMade = await self.auth_room.auth.add_api_key(self.owner, new)

    async def close(self) -> None:
        await self.room.close()
        await self.auth_room.close()

    async def ask(self, key: str = "") -> Caller:
        found = self.boundary.authenticator(exchange_of(bearer(key or self.made.key)), Policy.CALLER)
        return found if isinstance(found, Caller) else await found

    async def dead_after_s(self) -> float:
        """Wait until the key is refused; return how long that took."""
        started_s = time.monotonic()
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.ask()
                except Unauthenticated:
                    return time.monotonic() - started_s
                await asyncio.sleep(0.002)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.open()
    yield house
    await house.close()


def route(house: House, name: str) -> Route:
    async def never(*_: Any) -> None: ...

    return edge_of(house.boundary).bind(OPERATIONS[name], never)


async def test_a_key_is_a_credential_with_its_scopes_only(house: House) -> None:
    for _ in range(2):  # resolved, then from memory
        caller = await house.ask()
        principal = caller.principal
        assert (principal.kind, principal.subject, principal.session_id) == (
            "api_key", house.made.api_key.owner_id, house.made.api_key.api_key_id,
        )  # fmt: skip
        assert caller.confirmed
        assert principal.actor_id == house.made.api_key.api_key_id
        assert caller.may(Permission.POST)
        assert not caller.may(Permission.MANAGE_KEYS), "its owner may, the key may not"
    route(house, "users").check(caller)
    for forbidden in ("me", "change_user", "change_password", "rotate_signing"):
        with pytest.raises(Forbidden):
            route(house, forbidden).check(caller)


async def test_an_ended_key_is_dead_within_the_bound_on_requests_and_sockets(house: House, tmp_path: Path) -> None:
    await house.ask()
    ended: list[Problem] = []
    gateway = house.boundary.sockets
    scope = {"type": "websocket", "headers": bearer(house.made.key), "query_string": b"", "client": None}
    await gateway.admit(gateway.read(scope), "", ended=ended.append)
    await house.auth_room.auth.end_api_key(house.owner, house.made.api_key.api_key_id)
    with HeldUp(os.getpid(), tmp_path) as held:
        assert await house.dead_after_s() < 1 + held.up_s
    assert [type(why) for why in ended] == [SessionRevoked]


async def test_a_role_change_of_the_owner_bounds_the_key_within_the_bound(house: House) -> None:
    assert (await house.ask()).may(Permission.MANAGE_USERS)
    await house.auth_room.auth.change_user(house.owner, house.made.api_key.owner_id, UserChange(role="guest"))
    caller = await house.ask()
    async with asyncio.timeout(30):
        while caller.principal.role is not Role.GUEST:
            await asyncio.sleep(0.002)
            caller = await house.ask()
    assert not caller.may(Permission.MANAGE_USERS)
    assert caller.may(Permission.POST)


async def test_a_disabled_owner_ends_the_key_within_the_bound(house: House, tmp_path: Path) -> None:
    await house.ask()
    await house.auth_room.auth.change_user(house.owner, house.made.api_key.owner_id, UserChange(status="disabled"))
    with HeldUp(os.getpid(), tmp_path) as held:
        assert await house.dead_after_s() < 1 + held.up_s


async def test_what_is_no_key_is_refused(house: House) -> None:
    for wrong in (house.made.key[:-1], "swk1_", "swk1_a_b", "swk1_" + "a" * 16 + "_" + "A" * 43):
        with pytest.raises(Unauthenticated):
            await house.ask(wrong)
