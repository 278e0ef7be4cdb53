"""Logins are carried as the other changes are, and beside them: what happens to this feed concerns no revocation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.model import Health, Status
from sealwire.contracts.opened import Opened, OpenedQuery, OpenedSessions
from sealwire.kit.caller import Caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.problem import NotFound, Unavailable
from sealwire.testing.authority import MemoryAuthority
from sealwire.testing.boundary_room import BoundaryRoom
from sealwire.testing.patience import until


class Older(MemoryAuthority):
    """An auth that may be of a version without logins, or hang when it is asked for them."""

    older = hangs = False
    waiting = 0

    async def opened(self, caller: Caller, query: OpenedQuery) -> OpenedSessions:
        if self.hangs:
            self.waiting += 1
            await asyncio.Event().wait()
        if self.older:
            raise NotFound("There is nothing at this address.")
        return await super().opened(caller, query)


class Room(BoundaryRoom):
    """A running boundary with an instance that hears of logins, on the real clock."""

    authority: Older
    heard: list[Opened]

    async def begin(self) -> None:
        self.authority = Older(clock=self.clock)
        self.auth = self.authority.contract  # type: ignore[assignment]
        self.authority.add_user("anna")
        self.authority.log_in("anna")  # before this process was there
        self.heard = []
        boundary = self.build()
        boundary.serve_sockets("socket1", None, self.hear)
        await boundary.start()
        self.logins = boundary.coordinator.logins
        await until(lambda: self.logins.position >= 0)

    def hear(self, login: Opened) -> int:
        self.heard.append(login)
        return 2


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path, clock=SystemClock(), config=BoundaryConfig(self_test_every_s=0))
    await room.begin()
    yield room
    await room.close()


async def test_a_login_is_told_with_a_receipt_and_touches_nothing_else(room: Room) -> None:
    boundary, coordinator = room.boundary, room.boundary.coordinator
    version, position = boundary.fallback.book.version, boundary.fallback.position
    session = room.authority.log_in("anna")
    await until(lambda: room.heard)
    (login,) = room.heard
    assert login.session_id == session.session_id, "and not the one of before"
    receipt = coordinator.receipt_of(login.change_id)
    assert receipt is not None
    assert (receipt.kind, receipt.number, set(receipt.applied)) == ("login", 2, {"socket1"})
    assert (receipt.applied["socket1"].sockets, receipt.applied["socket1"].fault) == (2, "")
    details = coordinator.health().details
    assert details["logins"]["told"] == 1
    assert details["logins"]["propagation"]["socket1"].count == 1
    assert (details["changes_applied"], details["propagation"], details["latest_changes"]) == (0, {}, [])
    assert (boundary.fallback.book.version, boundary.fallback.position, len(boundary.fallback.book)) == (
        version, position, 0,
    )  # fmt: skip


async def test_the_same_entry_twice_is_told_once(room: Room) -> None:
    for _ in range(3):
        room.authority.log_in("anna")
    await until(lambda: len(room.heard) == 3)
    room.logins.position = 0  # as after auth came back from a copy
    await room.logins._read()
    assert [login.number for login in room.heard] == [2, 3, 4, 1], "the first one was told by nobody yet"
    room.logins._tell(room.heard)
    assert len(room.heard) == 4
    assert room.logins.logins == 4


async def test_an_auth_that_came_back_from_an_older_copy_is_followed_from_its_end(room: Room) -> None:
    for _ in range(3):
        room.authority.log_in("anna")
    await until(lambda: len(room.heard) == 3)
    del room.authority.logins[1:]
    await until(lambda: room.logins.position == 1)
    again = room.authority.log_in("anna")
    await until(lambda: len(room.heard) == 4)
    assert room.heard[-1].session_id == again.session_id


@pytest.mark.parametrize("how", ["older", "hangs"])
async def test_without_logins_every_revocation_holds_as_before(room: Room, how: str) -> None:
    coordinator = room.boundary.coordinator
    setattr(room.authority, how, True)
    session = room.authority.log_in("anna")
    token = await room.boundary.adapter.adapt(room.authority.token(session))
    if how == "older":
        await until(lambda: coordinator.health().details["logins"]["fault"] == "not_found")
    else:
        await until(lambda: room.authority.waiting)
    assert (await room.boundary.normalizer.validate(token)).status is Status.VALID
    room.authority.log_out(session.session_id)
    await until(lambda: room.boundary.fallback.book.against(token))
    assert coordinator.fresh
    assert coordinator.health().status is Health.HEALTHY
    assert room.heard == []
    setattr(room.authority, how, False)
    await until(lambda: room.heard)
    assert room.heard[0].session_id == session.session_id, "late, and not lost"


async def test_what_was_opened_while_auth_was_out_of_reach_is_told_afterwards(room: Room) -> None:
    room.authority.outage = Unavailable()
    await until(lambda: room.boundary.coordinator.health().details["logins"]["fault"] == "unavailable")
    opened = [room.authority.log_in("anna").session_id for _ in range(1_200)]
    room.authority.outage = None
    await until(lambda: len(room.heard) == 1_200)
    assert [login.session_id for login in room.heard] == opened


async def test_an_instance_that_fails_is_noted_and_keeps_nobody_from_hearing(room: Room) -> None:
    def broken(_: Opened) -> int:
        raise RuntimeError

    room.logins._listeners = {"broken": broken, **room.logins._listeners}
    room.authority.log_in("anna")
    await until(lambda: room.heard)
    receipt = room.logins.receipts.of(room.heard[0].change_id)
    assert receipt is not None
    assert (receipt.applied["broken"].fault, receipt.applied["socket1"].fault) == ("RuntimeError", "")
