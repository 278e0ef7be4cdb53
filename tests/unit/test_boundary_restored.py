"""Auth comes back from an older copy and goes on counting: what it ends from then on is dead here all the same."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.fallback_session_provider import FallbackSessionProvider
from sealwire.boundary.model import Status
from sealwire.contracts.identity import Identity
from sealwire.contracts.logins import LoginResult
from sealwire.contracts.revocations import FeedQuery
from sealwire.contracts.users import UserChange
from sealwire.kit.caller import Caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.permission import Role
from sealwire.kit.problem import Unavailable
from sealwire.testing.auth_room import BOUNDARY, CHEAP, AuthRoom
from sealwire.testing.boundary_room import BoundaryRoom
from sealwire.testing.clock import ManualClock
from sealwire.testing.patience import until


class Wire:
    """The way to auth in another process: it can be cut, and another auth may be at its end afterwards."""

    def __init__(self) -> None:
        self.end: Identity | None = None

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            if self.end is None:
                raise Unavailable
            try:
                return await getattr(self.end, name)(*args)
            except Exception as error:
                raise Unavailable from error  # stopped under our hands

        return call


class House:
    """Auth on a folder that is copied and put back; a boundary of another process before it."""

    def __init__(self, folder: Path) -> None:
        (folder / "auth").mkdir()
        self.folder = folder
        self.wire = Wire()
        self.auth_room = AuthRoom(folder / "auth", clock=SystemClock())
        self.room = BoundaryRoom(
            folder, clock=SystemClock(), auth=cast(Identity, self.wire), issuer=CHEAP.issuer, audience=CHEAP.audience,
            config=BoundaryConfig(self_test_every_s=0),
        )  # fmt: skip

    async def open(self) -> None:
        self.wire.end = await self.auth_room.open()
        self.boundary = await self.room.open()

    async def close(self) -> None:
        await self.room.close()
        await self.auth_room.close()

    async def restart(self, *, of: str = "") -> None:
        """Start auth anew, on the copy `of`; the boundary does not reach it before `self.wire.end` is set."""
        self.wire.end = None
        await self.auth_room.close()
        if of:
            shutil.copy(self.folder / of, self.folder / "auth" / "auth.db")
        await self.auth_room.open()

    async def copy(self, name: str) -> None:
        await self.restart()
        await self.auth_room.close()
        assert not (self.folder / "auth" / "auth.db-wal").exists(), "all of it is in one file"
        shutil.copy(self.folder / "auth" / "auth.db", self.folder / name)
        self.wire.end = await self.auth_room.open()

    @property
    def fallback(self) -> FallbackSessionProvider:
        return self.boundary.fallback

    async def status(self, granted: LoginResult) -> tuple[Status, Role | None]:
        answer = await self.boundary.normalizer.validate(await self.boundary.adapter.adapt(granted.access_token))
        return answer.status, answer.principal.role if answer.principal is not None else None

    async def log_in_and_out(self, times: int) -> None:
        for _ in range(times):
            granted = await self.auth_room.log_in("anna")
            await self.auth_room.auth.logout(self.auth_room.caller(granted))

    async def newest(self) -> int:
        return (await self.auth_room.auth.revocations(BOUNDARY, FeedQuery())).newest


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.open()
    yield house
    await house.close()


async def grow_apart(house: House) -> tuple[Caller, str, LoginResult, LoginResult, LoginResult]:
    """Read more of a feed than the copy has, then put the copy back and let it end others by those numbers."""
    owner, here = await house.auth_room.enter("anna")
    there = await house.auth_room.log_in("anna")
    _, otto = await house.auth_room.enter("otto")
    otto_id = house.auth_room.caller(otto).user_id
    await house.auth_room.auth.change_user(owner, otto_id, UserChange(role="auditor"))
    await house.copy("older.db")
    for granted in (here, there, otto):
        assert (await house.status(granted))[0] is Status.VALID
    await house.log_in_and_out(3)
    newest = await house.newest()
    await until(lambda: house.fallback.position == newest)
    for granted in (here, there, otto):
        assert (await house.status(granted))[0] is Status.VALID, "known at the newest number"
    await house.restart(of="older.db")
    assert await house.newest() == newest - 3
    return owner, otto_id, here, there, otto


async def test_what_the_restored_auth_ended_under_numbers_known_here_is_dead(house: House) -> None:
    owner, otto_id, here, there, otto = await grow_apart(house)
    position, auth = house.fallback.position, house.auth_room.auth
    await auth.logout(house.auth_room.caller(there))
    await auth.change_user(owner, otto_id, UserChange(role="guest"))
    await house.log_in_and_out(2)
    assert await house.newest() > position, "by the numbers alone nothing is amiss"
    house.wire.end = auth
    newest = await house.newest()
    await until(lambda: house.fallback.position == newest and house.boundary.coordinator.fresh)
    assert await house.status(there) == (Status.REVOKED, None)
    assert await house.status(otto) == (Status.VALID, Role.GUEST)
    assert await house.status(here) == (Status.VALID, Role.OWNER)
    await house.room.close()
    house.boundary = house.room.build()
    await house.fallback.start()
    await house.boundary.adapter.refresh_keys()
    assert (house.fallback.position, house.fallback.last != "") == (newest, True)
    house.wire.end = None
    assert (await house.status(there))[0] is Status.REVOKED, "and stays so without auth"
    assert await house.status(here) == (Status.UNCONFIRMED, Role.OWNER), "nothing was said of anna: as it was"


async def test_an_auth_restored_and_not_yet_grown_is_noticed_too_and_does_not_count_as_an_outage(house: House) -> None:
    *_, here, there, _ = await grow_apart(house)
    house.wire.end = house.auth_room.auth
    newest = await house.newest()
    await until(lambda: house.fallback.position == newest and house.boundary.coordinator.fresh)
    assert {await house.status(granted) for granted in (here, there)} == {(Status.VALID, Role.OWNER)}


async def test_a_start_of_the_same_auth_makes_nobody_read_anything_again(house: House) -> None:
    owner, here = await house.auth_room.enter("anna")
    await house.log_in_and_out(2)
    await until(lambda: house.fallback.position == 2)
    turns, changes = house.fallback.turns, house.boundary.coordinator.changes
    await house.restart()
    house.wire.end = house.auth_room.auth
    await house.auth_room.auth.logout(owner)
    await until(lambda: house.fallback.position == 3)
    assert (house.fallback.turns, house.boundary.coordinator.changes) == (turns, changes + 1)
    assert (await house.status(here))[0] is Status.REVOKED


async def test_the_newest_entry_stays_so_that_the_feed_is_known_again(house: House) -> None:
    await house.auth_room.enter("anna")
    await house.log_in_and_out(3)
    await until(lambda: house.fallback.position == 3)
    swept = await house.auth_room.storage.stores.upkeep.sweep(now_us=2**52, over_before_us=0, attempts_before_us=0)
    assert swept >= 2
    auth, last = house.auth_room.auth, house.fallback.last
    kept = await auth.revocations(BOUNDARY, FeedQuery())
    assert [(entry.number, entry.change_id) for entry in kept.items] == [(3, last)]
    assert not (await auth.revocations(BOUNDARY, FeedQuery(after=3, last=last))).broken
    gone = await auth.revocations(BOUNDARY, FeedQuery(after=2, last="somebody's"))
    assert (gone.broken, gone.items, gone.newest) == (True, [], 3), "read from the start, and miss nothing"


async def test_a_session_known_by_another_feeds_numbers_is_never_newer_than_what_is_said_now(tmp_path: Path) -> None:
    """In memory, in the shared cache and in the journal: all three say up to which number it was known to live."""
    room = BoundaryRoom(tmp_path, clock=ManualClock())
    room.authority.add_user("anna", role=Role.ADMIN)
    session = room.authority.log_in("anna")
    for i in range(5):
        room.authority.revoke("session", tenant_id="t", session_id=f"s{i}")
    boundary = room.build()
    await boundary.fallback.start()
    assert await boundary.coordinator.ensure_fresh()
    token = await boundary.adapter.adapt(room.authority.token(session))
    assert (await boundary.normalizer.validate(token)).principal.role is Role.ADMIN  # type: ignore[union-attr]  # valid
    del room.authority.feed[1:]
    room.authority.run = "restored"
    room.authority.change_role("anna", Role.GUEST)
    room.clock.advance(1.1)  # type: ignore[attr-defined]  # a clock of tests
    assert await boundary.coordinator.ensure_fresh()
    assert boundary.fallback.position == 2
    for forget in (lambda: None, boundary.normalizer.forget):
        forget()
        answer = await boundary.normalizer.validate(token)
        assert answer.principal is not None
        assert answer.principal.role is Role.GUEST
    asked = room.authority.asked.count("session")
    boundary.normalizer.forget()
    assert (await boundary.normalizer.validate(token)).status is Status.VALID
    assert room.authority.asked.count("session") == asked, "said anew, it is good for the shared cache again"
    await boundary.stop()


async def test_an_answer_of_before_that_comes_after_counts_as_old(tmp_path: Path) -> None:
    room = BoundaryRoom(tmp_path, clock=ManualClock())
    boundary = room.build()
    await boundary.fallback.start()
    room.authority.add_user("anna")
    for i in range(5):
        room.authority.revoke("session", tenant_id="t", session_id=f"s{i}")
    assert await boundary.coordinator.ensure_fresh()
    before = boundary.fallback.run
    del room.authority.feed[:]
    room.authority.run = "restored"
    room.authority.change_role("anna", Role.GUEST)
    room.clock.advance(1.1)  # type: ignore[attr-defined]  # a clock of tests
    assert await boundary.coordinator.ensure_fresh()
    boundary.fallback.remember(room.authority.log_in("anna"), 5, before)
    (known,) = boundary.fallback._sessions.values()
    assert boundary.fallback.book.latest("t", "anna") > boundary.fallback.number_of(known)
    await boundary.stop()
