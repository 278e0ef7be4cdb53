"""The coordinator: each change everywhere at once, with receipts; a feed not heard of in time covers nothing."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.model import Health, Status
from sealwire.contracts.revocations import FeedQuery, Revocation, Revocations
from sealwire.kit.caller import Caller
from sealwire.kit.clock import SystemClock
from sealwire.kit.problem import Unavailable
from sealwire.resilience.breaker import State
from sealwire.testing.authority import MemoryAuthority
from sealwire.testing.boundary_room import BoundaryRoom
from sealwire.testing.clock import ManualClock
from sealwire.testing.held_up import HeldUp


class Room(BoundaryRoom):
    """A running boundary on the real clock."""

    async def until(self, holds: object) -> float:
        """Wait until `holds()`; return the seconds it took."""
        started_s = time.monotonic()
        async with asyncio.timeout(30):
            while not holds():  # type: ignore[operator]  # noqa: ASYNC110 - a function of any state
                await asyncio.sleep(0.001)
        return time.monotonic() - started_s


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path, clock=SystemClock(), config=BoundaryConfig(self_test_every_s=0, feed_bound_s=0.5))
    await room.open()
    room.authority.add_user("anna")
    yield room
    room.authority.hang = False
    await room.close()


async def test_a_revocation_is_in_force_right_after_it_was_made(room: Room, tmp_path: Path) -> None:
    session = room.authority.log_in("anna")
    token = await room.boundary.adapter.adapt(room.authority.token(session))
    assert (await room.boundary.normalizer.validate(token)).status is Status.VALID
    with HeldUp(os.getpid(), tmp_path) as held:
        change = room.authority.log_out(session.session_id)
        took_s = await room.until(lambda: room.boundary.fallback.book.against(token))
        assert took_s < 0.2 + held.up_s
        await room.until(lambda: len(room.boundary.coordinator.receipts.of(change.change_id).applied) == 5)
    receipt = room.boundary.coordinator.receipts.of(change.change_id)
    assert receipt is not None
    assert set(receipt.applied) == {
        "fallback_session_provider",
        "journal",
        "jwt_token_adapter",
        "websocket_auth_gateway",
        "session_validation_normalizer",
    }
    assert all(
        applied.took_us < 1_000_000 * (1 + held.up_s) and not applied.fault for applied in receipt.applied.values()
    )
    assert room.boundary.coordinator.receipts.spread()["journal"].count == 1


async def test_an_idle_feed_beats_and_a_silent_one_goes_stale_within_its_bound(room: Room, tmp_path: Path) -> None:
    coordinator = room.boundary.coordinator
    with HeldUp(os.getpid(), tmp_path) as held:
        for _ in range(20):
            await asyncio.sleep(0.05)
            assert coordinator.fresh or coordinator.age_s < 0.5 + held.up_s
        await room.until(lambda: coordinator.fresh)
        room.authority.hang = True
        took_s = await room.until(lambda: not coordinator.fresh)
        assert took_s <= 0.55 + held.up_s
    assert coordinator.health().status is Health.UNHEALTHY
    assert not await coordinator.ensure_fresh()
    assert room.boundary.normalizer.degraded
    room.authority.hang = False
    await room.until(lambda: coordinator.fresh)
    assert coordinator.health().status is Health.HEALTHY


async def test_what_was_revoked_during_an_outage_is_applied_before_anything_is_trusted(room: Room) -> None:
    session = room.authority.log_in("anna")
    token = await room.boundary.adapter.adapt(room.authority.token(session))
    await room.boundary.normalizer.validate(token)
    room.authority.outage = Unavailable()
    await room.until(lambda: not room.boundary.coordinator.fresh)
    room.authority.log_out(session.session_id)
    assert (await room.boundary.normalizer.validate(token)).status is Status.UNCONFIRMED
    room.authority.outage = None
    await room.until(lambda: room.boundary.coordinator.fresh)
    assert (await room.boundary.normalizer.validate(token)).status is Status.REVOKED


async def test_one_question_for_all_who_want_to_know(room: Room) -> None:
    coordinator = room.boundary.coordinator
    room.authority.outage = Unavailable()
    await room.until(lambda: not coordinator.fresh)
    asked = room.authority.asked.count("revocations")
    answers = await asyncio.gather(*(coordinator.ensure_fresh() for _ in range(200)))
    assert not any(answers)
    assert room.authority.asked.count("revocations") - asked <= 3


async def test_a_long_feed_is_read_to_its_end_before_it_counts_as_fresh(tmp_path: Path) -> None:
    room = Room(tmp_path, clock=SystemClock())
    for i in range(1700):
        room.authority.revoke("session", tenant_id="t", session_id=f"s{i}")
    await room.open()
    assert room.boundary.fallback.position == 1700
    assert room.boundary.coordinator.fresh
    await room.close()
    again = Room(tmp_path, clock=SystemClock())
    again.authority.feed = room.authority.feed
    boundary = again.build()
    await boundary.fallback.start()
    assert (boundary.fallback.position, len(boundary.fallback.book)) == (1700, 1700)
    await again.close()


async def test_a_broken_boundary_holds_up_neither_the_feed_nor_the_others(room: Room) -> None:
    coordinator = room.boundary.coordinator
    heard: list[str] = []

    def broken(_: Revocation) -> None:
        raise RuntimeError

    async def hanging(_: Revocation) -> None:
        await asyncio.Event().wait()

    coordinator.subscribe("broken", broken)
    coordinator.subscribe("hanging", hanging)
    coordinator.subscribe("last", lambda change: heard.append(change.change_id))
    changes = [room.authority.revoke("token", tenant_id="t", token_id=f"j{i}") for i in range(5)]
    await room.until(lambda: len(heard) == 5)
    assert heard == [change.change_id for change in changes], "in the feed's order"
    receipt = coordinator.receipts.of(changes[0].change_id)
    assert receipt is not None
    assert receipt.applied["broken"].fault == "RuntimeError"
    assert coordinator.fresh
    await room.until(lambda: "hanging" in receipt.applied)
    assert receipt.applied["hanging"].fault == "TimeoutError"


async def test_entries_that_come_twice_are_applied_once(room: Room) -> None:
    heard: list[int] = []
    room.boundary.coordinator.subscribe("count", lambda change: heard.append(change.number))
    for i in range(3):
        room.authority.revoke("token", tenant_id="t", token_id=f"j{i}")
        await asyncio.gather(*(room.boundary.coordinator._read(wait_ms=0) for _ in range(5)))
    assert heard == [1, 2, 3]


async def test_a_feed_restored_from_a_backup_is_read_again(room: Room) -> None:
    for i in range(4):
        room.authority.revoke("session", tenant_id="t", session_id=f"s{i}")
    await room.until(lambda: room.boundary.fallback.position == 4)
    del room.authority.feed[2:]
    room.authority.revoke("session", tenant_id="t", session_id="after")
    await room.until(lambda: room.boundary.fallback.book.ended("after"))
    assert room.boundary.fallback.book.ended("s3"), "what was known stays known"
    assert room.boundary.fallback.position == 3
    assert room.boundary.coordinator.fresh


async def test_open_breakers_show_in_its_health(room: Room) -> None:
    breaker = room.breakers.breaker("search")
    while breaker.state is State.CLOSED:
        breaker.fail(breaker.acquire())
    assert room.boundary.coordinator.health().status is Health.DEGRADED
    breaker.reset()
    assert room.boundary.coordinator.health().status is Health.HEALTHY


async def test_the_age_counts_from_the_question_not_from_the_answer(tmp_path: Path) -> None:
    class Slow(MemoryAuthority):
        """An answer that is long on its way does not speak of the present."""

        async def revocations(self, caller: Caller, query: FeedQuery) -> Revocations:
            answer = await super().revocations(caller, query)
            await asyncio.sleep(0.12)
            return answer

    room = Room(tmp_path, clock=SystemClock(), config=BoundaryConfig(self_test_every_s=0, feed_bound_s=0.3))
    room.authority = Slow(clock=room.clock)
    room.auth = room.authority.contract
    await room.open()
    asked_s = time.monotonic()
    await room.boundary.coordinator._read(wait_ms=0)
    assert room.boundary.coordinator.fresh_until_s - 0.3 - asked_s < 0.1
    await room.close()
    await room.close()


async def test_what_a_process_catches_up_on_is_no_part_of_the_distribution(tmp_path: Path) -> None:
    """A journal that was lost, or an hour in which the process was not there: it served nobody meanwhile."""
    clock = ManualClock()
    room = Room(tmp_path, clock=clock)
    older = room.authority.revoke("session", tenant_id="t", session_id="s1")
    clock.advance(3_600)
    boundary = room.build()
    await boundary.fallback.start()
    assert await boundary.coordinator.ensure_fresh()
    assert boundary.fallback.book.ended("s1")
    receipts = boundary.coordinator.receipts
    receipt = receipts.of(older.change_id)
    assert receipt is not None
    assert receipt.caught_up
    assert receipt.applied["jwt_token_adapter"].took_us >= 3_600_000_000, "told as it was"
    assert receipts.spread() == {}
    clock.advance(1.1)
    newer = room.authority.revoke("session", tenant_id="t", session_id="s2")
    assert await boundary.coordinator.ensure_fresh()
    assert receipts.spread()["jwt_token_adapter"].count == 1
    assert receipts.spread()["jwt_token_adapter"].max_ms == 0
    found = receipts.of(newer.change_id)
    assert found is not None
    assert not found.caught_up
    await boundary.stop()


async def test_a_socket_instance_that_comes_again_has_one_place_in_the_receipts(room: Room) -> None:
    boundary = room.boundary
    boundary.serve_sockets("socket1")
    boundary.serve_sockets("socket2")
    session = room.authority.log_in("anna")
    token = room.authority.token(session)
    scope = {"type": "websocket", "headers": [], "query_string": b"", "client": ("192.0.2.1", 1)}
    ended: list[object] = []
    old = await boundary.sockets.admit(boundary.sockets.enter(scope, "socket1"), token, ended=ended.append)
    boundary.sockets.release(old)  # the instance stops and lets its sockets go
    boundary.serve_sockets("socket1")
    for _ in range(2):
        await boundary.sockets.admit(boundary.sockets.enter(scope, "socket1"), token, ended=ended.append)
    change = room.authority.log_out(session.session_id)
    await room.until(lambda: len(ended) == 2)
    receipt = boundary.coordinator.receipts.of(change.change_id)
    assert receipt is not None
    assert (receipt.applied["socket1"].sockets, receipt.applied["socket2"].sockets) == (2, 0)
    assert receipt.applied["websocket_auth_gateway"].sockets == 0
    spread = boundary.coordinator.receipts.spread()
    assert spread["socket1"].count == spread["socket2"].count == 1
