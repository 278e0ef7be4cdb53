"""The tail of the stream and the cache of seats: bounds, holes, races."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from sealwire.contracts.messages import Draft
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.contracts.publications import ReceiptPublished
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.permission import Role
from sealwire.services.messaging.events import Announcement, ConversationEvent
from sealwire.services.messaging.model import Seat
from sealwire.services.messaging.seats import Seats
from sealwire.services.messaging.tail import Sent, Tail


def created(position: int, body: str = "hello", message_id: str = "") -> Announcement:
    message_id = message_id or f"m{position}"
    sent = Sent(
        Draft(body=body, client_message_id="k"),
        message_id=message_id,
        conversation_id="c",
        sender_id="anna",
        created_at="",
        expires_at=None,
    )
    return Announcement(event(position, "message.created", message_id), sent)


def event(position: int, kind: str, message_id: str = "") -> ConversationEvent:
    return ConversationEvent(
        position=position,
        event_id=f"e{position}",
        tenant_id="t",
        conversation_id="c",
        offset=position,
        kind=kind,
        at_us=0,
        actor_kind="user",
        actor_id="anna",
        seq=position,
        message_id=message_id,
    )


def positions(tail: Tail, after: int, limit: int = 100) -> list[int] | None:
    entries = tail.read(after, limit)
    return None if entries is None else [e.event.position for e in entries]


def test_it_keeps_the_newest_and_says_when_it_does_not_reach_back():
    tail = Tail(most_events=8, most_bytes=1 << 20)
    tail.begin(10)
    assert positions(tail, 10) == []
    assert positions(tail, 9) is None
    for n in range(11, 31):
        tail.announced([created(n)])
    assert tail.newest == 30
    held = positions(tail, 25)
    assert held == [26, 27, 28, 29, 30]
    assert positions(tail, 25, 2) == [26, 27]
    assert positions(tail, 10) is None
    assert positions(tail, 30) == []
    assert positions(tail, 99) == []


def test_it_is_bounded_in_bytes():
    tail = Tail(most_events=1000, most_bytes=100_000)
    for n in range(1, 50):
        tail.announced([created(n, "x" * 10_000)])
    held = positions(tail, 48)
    assert held == [49]
    oldest = next(n for n in range(49) if tail.read(n, 1) is not None)
    assert 40 <= oldest < 48


def test_a_hole_is_never_served():
    tail = Tail(most_events=100, most_bytes=1 << 20)
    tail.announced([created(1), created(2)])
    tail.announced([created(5)])
    assert positions(tail, 2) is None
    assert positions(tail, 4) == [5]


@pytest.mark.parametrize("kind", ["message.edited", "message.deleted", "reaction.added"])
def test_what_changed_is_not_shown_from_memory(kind):
    tail = Tail(most_events=100, most_bytes=1 << 20)
    tail.announced([created(1, message_id="m"), created(2)])
    (entry, other) = tail.read(0, 10)
    assert b"hello" in bytes(entry.publication.data)
    tail.announced([Announcement(event(3, kind, "m"))])
    assert entry.publication is None
    assert entry.changes == 1
    assert other.publication is not None
    tail.announced([Announcement(event(4, "conversation.removed"))])
    assert other.publication is None


async def test_receipts_pass_by_newest_only():
    tail = Tail(most_events=100, most_bytes=1 << 20)

    def receipt(user_id: str, seq: int) -> ReceiptPublished:
        return ReceiptPublished(conversation_id="c", user_id=user_id, read_seq=seq, at="")

    waiting = asyncio.ensure_future(tail.wait(10))
    await asyncio.sleep(0)
    tail.pass_by("t", receipt("anna", 1))
    async with asyncio.timeout(8):
        await waiting
    tail.pass_by("t", receipt("ben", 1))
    tail.pass_by("t", receipt("anna", 2))
    assert [p.number for p in tail.passing(0)] == [2, 3]
    assert [msgspec.json.decode(p.data)["read_seq"] for p in tail.passing(2)] == [2]
    assert tail.passing(3) == []
    await tail.wait(0.01)


class SlowStore:
    """Answers seats when it is told to."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Seat | None] = asyncio.get_running_loop().create_future()
        self.asked = 0

    async def seat(self, conversation_id: str, user_id: str) -> Seat | None:
        self.asked += 1
        return await self.answer


def seat(version: int) -> Seat:
    return Seat(tenant_id="t", conversation_id="c", kind="group", user_id="anna", role="member", version=version)


def caller(tenant_id: str = "t") -> Caller:
    return Caller(principal=Principal(kind="user", tenant_id=tenant_id, subject="anna", role=Role.MEMBER))


async def test_a_seat_read_before_a_change_is_not_kept():
    store = SlowStore()
    seats = Seats(store, most=10)
    reading = asyncio.ensure_future(seats.require(caller(), "c"))
    await asyncio.sleep(0)
    seats.announced([Announcement(event(1, "member.left"))])
    store.answer.set_result(seat(1))
    await reading
    assert seats.held(caller(), "c") is None
    await seats.require(caller(), "c")
    assert seats.held(caller(), "c") == seat(1)
    assert seats.held(caller("other"), "c") is None
    with pytest.raises(ConversationNotFound):
        await seats.require(caller("other"), "c")
    seats.announced([created(2)])
    assert seats.held(caller(), "c") is not None


async def test_seats_are_bounded():
    store = SlowStore()
    store.answer.set_result(seat(1))
    seats = Seats(store, most=2)
    for n in range(5):
        store.answer = asyncio.get_running_loop().create_future()
        store.answer.set_result(msgspec.structs.replace(seat(1), conversation_id=f"c{n}"))
        await seats.require(caller(), f"c{n}")
    assert [seats.held(caller(), f"c{n}") is not None for n in range(5)] == [False, False, False, True, True]
