"""The turnstile: counts by address and person, nothing left behind, nobody put out for somebody new."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.boundary.turnstile import Seat, SocketLimits, Turnstile
from sealwire.contracts.admission import ConnectionLimit
from sealwire.kit.forwarded import network_of
from sealwire.kit.problem import RateLimited
from sealwire.testing.clock import ManualClock


def turnstile(**limits: int) -> tuple[Turnstile, ManualClock]:
    clock = ManualClock()
    wide = {"per_user": 100, "per_address": 100, "waiting_per_address": 100, "handshakes_per_minute": 1_000}
    return Turnstile(limits=SocketLimits(**{**wide, **limits}), clock=clock), clock


def through(door: Turnstile, ip: str) -> Seat:
    return door.enter(door.knock(ip))


def test_an_address_past_its_handshakes_waits_for_the_next_minute_and_others_do_not() -> None:
    door, clock = turnstile(handshakes_per_minute=3)
    for _ in range(3):
        through(door, "192.0.2.1").leave()
    with pytest.raises(RateLimited) as refused:
        door.knock("192.0.2.1")
    assert 1 <= (refused.value.retry_after_s or 0) <= 60
    through(door, "192.0.2.2")
    clock.advance(60)
    through(door, "192.0.2.1")


def test_who_does_not_authenticate_takes_no_more_places_than_allowed() -> None:
    door, _ = turnstile(waiting_per_address=2)
    one, _ = through(door, "192.0.2.1"), through(door, "192.0.2.1")
    with pytest.raises(RateLimited):
        door.knock("192.0.2.1")
    one.take()
    one.take()
    through(door, "192.0.2.1")
    assert (door.inside, door.waiting) == (3, 2)


def test_an_address_has_so_many_sockets_and_gets_another_when_one_is_gone() -> None:
    door, _ = turnstile(per_address=2)
    seats = [through(door, "192.0.2.1") for _ in range(2)]
    for seat in seats:
        seat.take()
    with pytest.raises(ConnectionLimit):
        door.knock("192.0.2.1")
    seats[0].leave()
    seats[0].leave()
    through(door, "192.0.2.1")


def test_a_person_has_so_many() -> None:
    door, _ = turnstile(per_user=2)
    door.check_person(1)
    with pytest.raises(ConnectionLimit):
        door.check_person(2)
    assert door.refused["user"] == 1


def test_without_limits_it_only_counts() -> None:
    door = Turnstile(limits=None, clock=ManualClock())
    seats = [through(door, "192.0.2.1") for _ in range(50)]
    door.check_person(10_000)
    assert door.inside == 50
    for seat in seats:
        seat.leave()
    assert (door.inside, door.waiting, door.details()["addresses"]) == (0, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["enter", "take", "leave"])), max_size=60))
def test_whatever_sockets_do_nothing_is_left_behind(steps: list[tuple[int, str]]) -> None:
    door, _ = turnstile()
    seats: dict[int, list[Seat]] = {0: [], 1: [], 2: []}
    for address, step in steps:
        if step == "enter":
            seats[address].append(through(door, f"192.0.2.{address}"))
        elif seats[address]:
            getattr(seats[address][-1], step)()
            if step == "leave":
                seats[address].pop()
    assert door.inside == sum(map(len, seats.values()))
    assert 0 <= door.waiting <= door.inside
    for left in seats.values():
        for seat in left:
            seat.leave()
    assert (door.inside, door.waiting, door.details()["addresses"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("no: address", "no: address"),
    ],
)
def test_one_host_with_a_whole_network_is_one(ip: str, network: str) -> None:
    assert network_of(ip) == network
