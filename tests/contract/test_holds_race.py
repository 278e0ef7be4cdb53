"""Holds against everything that deletes, in any order and at the same time.

The promise: once a hold is acknowledged, what it covers and was there at that moment is there, and can be opened, until
the hold is released. Whatever was deleted before may be gone.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sealwire.clients.key_ring import uuid_of
from sealwire.contracts.conversations import Conversation
from sealwire.contracts.data_keys import DataKeyDestruction
from sealwire.contracts.holds import NewHold
from sealwire.contracts.messages import Edit, MessageNotFound
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.contracts.retention import NewRetentionRun, RunActive
from sealwire.contracts.retention_policies import NewRetentionPolicy
from sealwire.kit.caller import service_caller
from sealwire.kit.envelopes import envelope_key_id
from sealwire.kit.problem import Problem
from sealwire.testing.keeping_room import KeepingRoom

DAY_S = 86_400
GONE = (ConversationNotFound, MessageNotFound)
NAMES = ("anna", "ben")
small = st.integers(0, 5)
operation = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(NAMES), small),
    st.tuples(st.just("edit"), small, small),
    st.tuples(st.just("delete"), small, small),
    st.tuples(st.just("upload"), st.sampled_from(NAMES), small),
    st.tuples(st.just("drop"), small, small),
    st.tuples(st.just("remove"), small, small),
    st.tuples(st.just("destroy_scope"), small, small),
    st.tuples(st.just("destroy_subject"), st.sampled_from(NAMES), small),
    st.tuples(st.just("purge"), small, small),
    st.tuples(st.just("tidy"), small, small),
    st.tuples(st.just("retain"), small, small),
    st.tuples(st.just("hold_person"), st.sampled_from(NAMES), small),
    st.tuples(st.just("hold_room"), small, small),
    st.tuples(st.just("release"), small, small),
)


class HoldsRace(RuleBasedStateMachine):
    """A whole compliance with its neighbours, and what every hold in force protects."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="holds-"))
        self.loop = asyncio.new_event_loop()
        self.room = KeepingRoom(self.folder)
        self.conversations: list[Conversation] = []
        self.files: list[tuple[str, str]] = []
        self.protected: dict[str, tuple[frozenset[tuple[str, bytes]], frozenset[str]]] = {}
        self.run(self._open())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    async def _open(self) -> None:
        await self.room.open()
        self.people = {name: await self.room.files.enter(name) for name in NAMES}
        for _ in range(2):
            self.conversations.append(await self.room.messages.group(self.people["anna"], self.people["ben"]))
        for resource_type in ("messages", "media"):
            policy = NewRetentionPolicy(keep_days=1, action="delete")
            await self.room.compliance.service.set_policy(self.people["anna"], resource_type, policy)

    def teardown(self) -> None:
        self.run(self.room.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    @rule(together=st.lists(operation, min_size=1, max_size=4), days=st.sampled_from([0, 0, 2, 9]))
    def happen(self, together: list[tuple[str, Any, Any]], days: int) -> None:
        """Let several things happen at once, and then time pass."""

        async def happen() -> None:
            done = await asyncio.gather(
                *(getattr(self, name)(first, second) for name, first, second in together), return_exceptions=True
            )
            for outcome in done:
                if isinstance(outcome, Exception) and not isinstance(outcome, Problem):
                    raise outcome

        self.run(happen())
        self.room.clock.advance(days * DAY_S)  # type: ignore[attr-defined]  # a clock that is moved by hand

    # ---- what happens

    def _in(self, number: int) -> Conversation:
        return self.conversations[number % len(self.conversations)]

    async def say(self, name: str, number: int) -> None:
        await self.room.messages.say(self.people[name], self._in(number), f"said by {name}")

    async def edit(self, number: int, seq: int) -> None:
        with suppress(*GONE):
            await self.room.messages.messaging.edit(
                self.people["anna"], self._in(number).conversation_id, seq + 1, Edit(body="said otherwise")
            )

    async def delete(self, number: int, seq: int) -> None:
        with suppress(*GONE):
            await self.room.messages.messaging.delete(self.people["anna"], self._in(number).conversation_id, seq + 1)

    async def upload(self, name: str, number: int) -> None:
        conversation_id = self._in(number).conversation_id
        with suppress(AssertionError):  # refused: the conversation was removed, or its key destroyed, meanwhile
            self.files.append((name, await self.room.files.upload(name, b"a file", conversation_id=conversation_id)))

    async def drop(self, number: int, _: int) -> None:
        if self.files:
            name, media_id = self.files[number % len(self.files)]
            await self.room.files.media.delete(self.people[name], media_id)

    async def remove(self, number: int, _: int) -> None:
        gone = self._in(number)
        await self.room.messages.messaging.remove(self.people["anna"], gone.conversation_id)
        self.conversations.remove(gone)
        self.conversations.append(await self.room.messages.group(self.people["anna"], self.people["ben"]))

    async def destroy_scope(self, number: int, _: int) -> None:
        which = DataKeyDestruction(scope=self._in(number).conversation_id)
        await self.room.messages.people.crypto.destroy_data_keys(service_caller("messaging", "default"), which)

    async def destroy_subject(self, name: str, _: int) -> None:
        which = DataKeyDestruction(subject_id=self.people[name].user_id)
        for service in ("messaging", "media"):
            await self.room.messages.people.crypto.destroy_data_keys(service_caller(service, "default"), which)
        self.room.messages.ring.clear_cache()

    async def purge(self, _: int, __: int) -> None:
        await self.room.messages.service._jobs.purge()
        sweeper = self.room.files.service._sweeper
        await sweeper.expire()
        await sweeper._released()
        await sweeper._forgotten()
        await sweeper.bury()

    async def tidy(self, _: int, __: int) -> None:
        stores = self.room.messages.stores
        await stores.positions.save("audit", await stores.events.newest())
        await self.room.messages.service._jobs.tidy()

    async def retain(self, _: int, __: int) -> None:
        service = self.room.compliance.service
        with suppress(RunActive):
            run = await service.start_run(self.people["anna"], NewRetentionRun())
            await service.keeping.engine.settled(run.run_id)

    async def hold_person(self, name: str, _: int) -> None:
        await self._hold(NewHold(reason="case", subject_id=self.people[name].user_id))

    async def hold_room(self, number: int, _: int) -> None:
        await self._hold(NewHold(reason="case", conversation_id=self._in(number).conversation_id))

    async def _hold(self, new: NewHold) -> None:
        hold = await self.room.compliance.service.hold(self.people["anna"], new)
        # No await between the acknowledgement and this look at what is there.
        self.protected[hold.hold_id] = self._covered(new)

    async def release(self, number: int, _: int) -> None:
        if self.protected:
            hold_id = list(self.protected)[number % len(self.protected)]
            del self.protected[hold_id]
            await self.room.compliance.service.release(self.people["anna"], hold_id)

    # ---- what has to hold

    def _covered(self, new: NewHold) -> tuple[frozenset[tuple[str, bytes]], frozenset[str]]:
        """Return contents of messages, former ones too, whose keys live, and the blobs of files, that a hold covers."""
        who, where = new.subject_id or "", new.conversation_id or ""
        rows = self.room.messages.stores.db.read(
            "SELECT m.sender_id, s.sealed FROM message m JOIN conversation c ON c.num = m.key >> 32 JOIN"
            " (SELECT key, sealed FROM message UNION ALL SELECT key, sealed FROM message_version) s ON s.key = m.key"
            " WHERE s.sealed IS NOT NULL AND (m.sender_id = ? OR c.conversation_id = ?)",
            (who, where),
        )
        contents = frozenset((sender, sealed) for sender, sealed in rows if self._opens(sealed))
        blobs = self.room.files.db.read(
            "SELECT s.blob_key FROM segments s JOIN files f USING (media_id)"
            " WHERE f.owner_id = ? OR f.conversation_id = ?",
            (who, where),
        )
        return contents, frozenset(str(row[0]) for row in blobs)

    def _opens(self, sealed: bytes) -> bool:
        """Say whether the data key of an envelope is there."""
        wrapped = uuid_of(envelope_key_id(sealed))
        db = self.room.messages.people._crypto_db
        return bool(db.read("SELECT 1 FROM data_keys WHERE data_key_id = ? AND wrapped IS NOT NULL", (wrapped,)))

    @invariant()
    def what_a_hold_protects_is_there(self) -> None:
        stores = self.room.messages.stores
        there = {
            row[0] for row in stores.db.read("SELECT sealed FROM message UNION ALL SELECT sealed FROM message_version")
        }
        blobs = {row[0] for row in self.room.files.db.read("SELECT blob_key FROM segments")}
        for contents, files in self.protected.values():
            for _, sealed in contents:
                assert sealed in there, "a content that a hold covers is gone"
                assert self._opens(sealed), "the key of a content that a hold covers is gone"
            assert files <= blobs, "a file that a hold covers is gone"


HoldsRace.TestCase.settings = settings(
    max_examples=10,
    derandomize=True,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestHoldsRace = HoldsRace.TestCase
