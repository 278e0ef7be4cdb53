"""A proof of identity counts for 15 minutes of real time, wherever the wall clock is set meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.proof_ages import ProofAges
from sealwire.contracts.sessions import SessionState
from sealwire.kit.caller import STEP_UP_WINDOW_S, Caller
from sealwire.kit.clock import US_PER_S
from sealwire.kit.operation import Policy
from sealwire.testing.boundary_room import BoundaryRoom, bearer, exchange_of
from sealwire.testing.clock import ManualClock

HOUR_S = 3_600
DAY_S = 86_400


class Room(BoundaryRoom):
    """A boundary that reads the feed when told to, and one person's session."""

    clock: ManualClock

    async def begin(self) -> None:
        boundary = self.build()
        await boundary.fallback.start()
        self.authority.add_user("anna")
        self.session: SessionState = self.authority.log_in("anna")

    @property
    def now_s(self) -> int:
        return self.clock.now_us() // US_PER_S

    def token(self, auth_time_s: int) -> str:
        """Return a token of the session as a refresh gives it: issued now, for what was proved then."""
        return self.authority.token(self.session, auth_time=auth_time_s, exp=self.now_s + DAY_S)

    async def counts(self, token: str) -> bool:
        """Whether the edge takes it for a recent proof, by the same wall clock."""
        await self.boundary.coordinator.ensure_fresh()
        found = self.boundary.authenticator(exchange_of(bearer(token)), Policy.CALLER)
        caller = found if isinstance(found, Caller) else await found
        return self.now_s - caller.principal.auth_time_s <= STEP_UP_WINDOW_S


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path, clock=ManualClock(), config=BoundaryConfig(self_test_every_s=0, sessions_cached=100))
    await room.begin()
    yield room
    await room.boundary.stop()


@pytest.mark.parametrize("back_s", [60, 600, HOUR_S])
async def test_a_clock_that_is_set_back_lends_a_proof_no_time(room: Room, back_s: int) -> None:
    proved_s = room.now_s
    token = room.token(proved_s)
    assert await room.counts(token)
    room.clock.advance(300)
    room.clock.step_wall(-back_s)
    if back_s < 300:  # else the token is from the future, and refused as a whole
        assert await room.counts(token)
    refreshed = room.token(proved_s)
    assert await room.counts(refreshed)
    room.clock.advance(STEP_UP_WINDOW_S - 300 - 20)
    assert await room.counts(refreshed)
    room.clock.advance(19)
    assert await room.counts(refreshed), "within the time that a look-up is remembered"
    room.clock.advance(2)
    assert not await room.counts(refreshed)
    assert not await room.counts(room.token(proved_s)), "another token is no other proof"
    assert await room.counts(room.token(room.now_s)), "a fresh one counts at once"


async def test_a_proof_that_was_too_old_does_not_become_young_again(room: Room) -> None:
    proved_s = room.now_s
    assert await room.counts(room.token(proved_s))
    room.clock.advance(2 * HOUR_S)
    assert not await room.counts(room.token(proved_s))
    room.clock.step_wall(-2 * HOUR_S + 60)
    assert not await room.counts(room.token(proved_s))
    assert await room.counts(room.token(room.now_s))


async def test_while_the_clock_goes_on_a_proof_counts_by_its_age(room: Room) -> None:
    token = room.token(room.now_s)
    room.clock.advance(STEP_UP_WINDOW_S - 10)
    assert await room.counts(token), "first seen late"
    room.clock.advance(11)
    assert not await room.counts(token)


@pytest.mark.parametrize("idle_s", [0, STEP_UP_WINDOW_S + 60, 6 * HOUR_S])
async def test_a_restart_with_the_clock_set_back_meanwhile_makes_no_proof_young_again(room: Room, idle_s: int) -> None:
    """The new process has seen none of it: what it knows is how far the clock had come."""
    proved_s = room.now_s
    assert await room.counts(room.token(proved_s))
    for _ in range(0, STEP_UP_WINDOW_S + 30, 30):
        room.clock.advance(30)
        await room.boundary.fallback.clean()
    room.clock.advance(idle_s)
    await room.boundary.stop()
    room.clock.step_wall(proved_s + 100 - room.now_s)
    await room.open()
    assert not await room.counts(room.token(proved_s)), "100 seconds old, says the clock"
    assert await room.counts(room.token(room.now_s)), "a fresh one counts at once"


async def test_a_restart_alone_takes_no_proof_away(room: Room) -> None:
    token = room.token(room.now_s)
    assert await room.counts(token)
    room.clock.advance(100)
    await room.boundary.stop()
    room.clock.advance(100)
    await room.open()
    assert await room.counts(token)
    room.clock.advance(STEP_UP_WINDOW_S - 199)
    assert not await room.counts(token)


LOGIN_S = 1_767_225_600


def ages(most: int = 3) -> tuple[ProofAges, ManualClock]:
    clock = ManualClock(now_us=LOGIN_S * US_PER_S)
    return ProofAges(clock=clock, max_proofs=most), clock


def test_what_is_forgotten_gains_nothing_and_loses_nothing_while_the_clock_goes_on() -> None:
    proofs, clock = ages()
    assert proofs.left_s("one", LOGIN_S) == STEP_UP_WINDOW_S
    clock.advance(600)
    for number in range(10):
        proofs.left_s(f"other-{number}", LOGIN_S)
    assert len(proofs) == 3
    assert proofs.left_s("one", LOGIN_S) == STEP_UP_WINDOW_S - 600


def test_what_is_forgotten_is_asked_for_again_after_the_clock_was_set_back() -> None:
    proofs, clock = ages()
    proofs.left_s("one", LOGIN_S)
    clock.advance(HOUR_S)
    for number in range(10):
        proofs.left_s(f"other-{number}", LOGIN_S)
    clock.step_wall(-HOUR_S + 120)
    assert proofs.left_s("one", LOGIN_S) == 0, "two minutes old, says the clock"
    now_s = LOGIN_S + 120
    assert proofs.left_s("one", now_s) == STEP_UP_WINDOW_S, "a fresh proof in the same session"
    assert proofs.left_s("new", now_s - 30) == STEP_UP_WINDOW_S - 30, "a fresh login"
    clock.advance(HOUR_S + STEP_UP_WINDOW_S)  # past where the clock had been, and all that it may have stamped then
    assert proofs.left_s("late", LOGIN_S + HOUR_S + 900) == STEP_UP_WINDOW_S - 120


def test_a_proof_from_the_future_is_from_before_the_clock_was_set_back() -> None:
    proofs, _ = ages()
    assert proofs.left_s("one", LOGIN_S + 60) == 0
    assert proofs.left_s("two", LOGIN_S + 5) == STEP_UP_WINDOW_S, "clocks that differ"


@pytest.mark.parametrize("step_s", [-HOUR_S, -7, HOUR_S, DAY_S])
def test_a_fresh_proof_counts_wherever_the_clock_is(step_s: int) -> None:
    proofs, clock = ages()
    for number in range(8):
        now_s = clock.now_us() // US_PER_S
        assert proofs.left_s(f"session-{number % 2}", now_s) == STEP_UP_WINDOW_S
        clock.advance(10 + number)
        clock.step_wall(step_s if number % 2 else -step_s)
