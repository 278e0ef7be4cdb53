"""Any history of a conversation, against a model of it in plain Python."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sealwire.contracts.conversations import Conversation
from sealwire.contracts.members import NewMember, OwnerNeeded
from sealwire.contracts.messages import Edit, History, IdempotencyConflict, MessageNotFound, NotYours, Read
from sealwire.contracts.messaging_stream import PublicationQuery, StreamQuery
from sealwire.contracts.messaging_terms import ConversationNotFound, MemberRoleNeeded
from sealwire.kit.caller import Caller, service_caller
from sealwire.services.messaging.config import MessagingConfig
from sealwire.testing.messaging_room import MessagingRoom

SOCKET = service_caller("socket", "default")
WHO = st.integers(0, 2)
KEYS = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h"])
BODIES = st.sampled_from(["x", "y", "z"])
SEQS = st.integers(1, 9)


class Expected:
    """A message of the model."""

    def __init__(self, sender: int, key: str, body: str) -> None:
        self.sender, self.key, self.asked = sender, key, body
        self.body: str | None = body
        self.reactions: list[tuple[str, int]] = []


class ConversationMachine(RuleBasedStateMachine):
    """Three people in one group; person 0 owns it and stays. Offsets are counted as events happen."""

    fresh_folder: Callable[[], Path]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.room = MessagingRoom(self.fresh_folder(), config=MessagingConfig(tail_events=16))
        self.run(self.room.open())
        self.people: list[Caller] = [self.run(self.room.enter(name)) for name in ("anna", "ben", "carl")]
        self.group: Conversation = self.run(self.room.group(self.people[0], *self.people[1:]))
        self.inside = {0, 1, 2}
        self.messages: list[Expected] = []
        self.read = dict.fromkeys(self.inside, 0)
        self.events = 4

    def run(self, awaitable: Awaitable[Any]) -> Any:
        async def go() -> Any:
            return await awaitable

        return self.loop.run_until_complete(go())

    def attempt(self, awaitable: Awaitable[Any]) -> Any:
        try:
            return self.run(awaitable)
        except (
            ConversationNotFound,
            IdempotencyConflict,
            MessageNotFound,
            NotYours,
            OwnerNeeded,
            MemberRoleNeeded,
        ) as e:
            return type(e)

    @property
    def id(self) -> str:
        return self.group.conversation_id

    def at(self, seq: int) -> Expected | None:
        return self.messages[seq - 1] if 0 < seq <= len(self.messages) else None

    @rule(who=WHO, key=KEYS, body=BODIES)
    def send(self, who: int, key: str, body: str) -> None:
        got = self.attempt(self.room.say(self.people[who], self.group, body, key))
        self.check_sent(who, key, body, got)

    @rule(drafts=st.lists(st.tuples(WHO, KEYS, BODIES), min_size=2, max_size=5, unique_by=lambda d: d[:2]))
    def send_at_once(self, drafts: list[tuple[int, str, str]]) -> None:
        async def go() -> list[Any]:
            sends = [self.room.say(self.people[who], self.group, body, key) for who, key, body in drafts]
            return await asyncio.gather(*sends, return_exceptions=True)

        answers = self.run(go())
        in_order = sorted(
            zip(drafts, answers, strict=True), key=lambda p: p[1].seq if not isinstance(p[1], Exception) else 0
        )
        for (who, key, body), got in in_order:
            self.check_sent(who, key, body, type(got) if isinstance(got, Exception) else got)

    def check_sent(self, who: int, key: str, body: str, got: Any) -> None:
        if who not in self.inside:
            assert got is ConversationNotFound
            return
        there = [(n, m) for n, m in enumerate(self.messages, 1) if (m.sender, m.key) == (who, key)]
        if not there:
            self.messages.append(Expected(who, key, body))
            self.events += 1
            assert (got.seq, got.body, got.duplicate) == (len(self.messages), body, False)
        elif there[0][1].asked != body:
            assert got is IdempotencyConflict
        else:
            assert (got.seq, got.body, got.duplicate) == (there[0][0], there[0][1].body, True)

    @rule(who=WHO, seq=SEQS, body=BODIES)
    def edit(self, who: int, seq: int, body: str) -> None:
        got = self.attempt(self.room.messaging.edit(self.people[who], self.id, seq, Edit(body=body)))
        message = self.at(seq)
        if who not in self.inside:
            assert got is ConversationNotFound
        elif message is None or message.body is None:
            assert got is MessageNotFound
        elif message.sender != who:
            assert got is NotYours
        else:
            self.events += message.body != body
            message.body = body
            assert (got.seq, got.body) == (seq, body)

    @rule(who=WHO, seq=SEQS)
    def delete(self, who: int, seq: int) -> None:
        got = self.attempt(self.room.messaging.delete(self.people[who], self.id, seq))
        message = self.at(seq)
        if who not in self.inside:
            assert got is ConversationNotFound
        elif message is None:
            assert got is MessageNotFound
        elif who not in (0, message.sender):
            assert got is NotYours
        elif message.body is not None:
            message.body, message.reactions = None, []
            self.events += 1

    @rule(who=WHO, seq=SEQS, put=st.booleans())
    def react(self, who: int, seq: int, put: bool) -> None:
        call = self.room.messaging.react if put else self.room.messaging.unreact
        got = self.attempt(call(self.people[who], self.id, seq, "👍"))
        message, mine = self.at(seq), ("👍", who)
        if who not in self.inside:
            assert got is ConversationNotFound
        elif message is None or (put and message.body is None):
            assert got is MessageNotFound
        elif put != (mine in message.reactions):
            self.events += 1
            if put:
                message.reactions.append(mine)
            else:
                message.reactions.remove(mine)

    @rule(who=WHO, seq=st.integers(0, 12))
    def mark_read(self, who: int, seq: int) -> None:
        got = self.attempt(self.room.messaging.read(self.people[who], self.id, Read(seq=seq)))
        if who not in self.inside:
            assert got is ConversationNotFound
            return
        self.read[who] = max(self.read[who], min(seq, len(self.messages)))
        assert (got.read_seq, got.unread) == (self.read[who], self.unread(who))

    def unread(self, who: int) -> int:
        return sum(m.sender != who and m.body is not None for m in self.messages[self.read[who] :])

    @rule(who=st.integers(1, 2), by_self=st.booleans())
    @precondition(lambda self: len(self.inside) > 1)
    def leave(self, who: int, by_self: bool) -> None:
        by = self.people[who if by_self else 0]
        got = self.attempt(self.room.messaging.remove_member(by, self.id, self.people[who].user_id))
        if who in self.inside:
            self.inside.discard(who)
            self.events += 1
        elif by_self:
            assert got is ConversationNotFound

    @rule(who=st.integers(1, 2))
    def join(self, who: int) -> None:
        self.run(self.room.messaging.add_member(self.people[0], self.id, NewMember(user_id=self.people[who].user_id)))
        if who not in self.inside:
            self.inside.add(who)
            self.read[who] = 0
            self.events += 1

    @rule()
    def restart(self) -> None:
        self.run(self.room.again())

    @invariant()
    def history_is_that_of_the_model(self) -> None:
        page = self.run(self.room.messaging.history(self.people[0], self.id, History(after_seq=0, limit=200)))
        ids = {person.user_id: n for n, person in enumerate(self.people)}
        found = [
            (m.seq, ids[m.sender_id], m.body, [("👍", ids[u]) for r in m.reactions for u in r.user_ids])
            for m in page.items
        ]
        assert found == [(n, m.sender, m.body, m.reactions) for n, m in enumerate(self.messages, 1)]

    @invariant()
    def the_stream_has_every_event_and_shows_only_what_is_there_now(self) -> None:
        caller = msgspec.structs.replace(self.people[0], service="socket")
        stream = self.run(self.room.messaging.stream(caller, self.id, StreamQuery(after_offset=0, limit=1000)))
        assert [p.offset for p in stream.items] == list(range(1, self.events + 1))
        for p in stream.items:
            data = msgspec.json.decode(p.data)
            if "message" in data:
                assert data["message"]["body"] == self.messages[p.seq - 1].body
        followed = self.run(self.room.messaging.publications(SOCKET, PublicationQuery(after=0, limit=1000)))
        assert [p.position for p in followed.items] == list(range(1, self.events + 1))
        newest = self.run(self.room.messaging.publications(SOCKET, PublicationQuery(after=max(0, self.events - 5))))
        assert newest.items == followed.items[-5:]
        for p in newest.items:
            data = msgspec.json.decode(p.data)
            if "message" in data:
                assert data["message"]["body"] == self.messages[p.seq - 1].body

    @invariant()
    def everybody_sees_their_unread(self) -> None:
        for who in self.inside:
            seen = self.run(self.room.messaging.get(self.people[who], self.id))
            assert (seen.unread, seen.read_seq) == (self.unread(who), self.read[who])
            assert (seen.last_seq, seen.last_offset) == (len(self.messages), self.events)

    def teardown(self) -> None:
        self.run(self.room.close())
        self.loop.close()


@pytest.mark.timeout(600)
def test_any_history_of_a_conversation(tmp_path_factory):
    folder = staticmethod(lambda: tmp_path_factory.mktemp("room"))
    machine = type("Machine", (ConversationMachine,), {"fresh_folder": folder})
    case = machine.TestCase
    case.settings = settings(max_examples=6, stateful_step_count=20, deadline=None)
    case("runTest").runTest()
