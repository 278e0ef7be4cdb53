"""Every deletion looks at the holds inside of its own transaction: a hold stored right before it is seen.

The hold is put into the queue of writes at the moment in which the deletion asks for its write: whatever the deletion
looked up before that moment did not show it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.conversations import Conversation
from sealwire.contracts.data_keys import DataKeyDestruction
from sealwire.contracts.holds import LegalHold
from sealwire.contracts.messages import Draft, History, Message
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.ids import new_id
from sealwire.services.media.events import media_event
from sealwire.services.media.keeping_ports import HoldCame, Spared
from sealwire.services.messaging.config import MessagingConfig
from sealwire.services.messaging.model import Actor
from sealwire.services.messaging.subject_ports import Rewritten
from sealwire.testing.media_room import MediaRoom

SELF = Actor("service", "compliance")
LATER_US = 1 << 60
NOBODY = Spared(frozenset(), {})


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[MediaRoom]:
    room = MediaRoom(tmp_path)
    room.messages.config = MessagingConfig(purge_every_s=3600, trim_every_s=86_400)
    await room.open()
    yield room
    await room.close()


@pytest.fixture
async def anna(room: MediaRoom) -> Caller:
    return await room.enter("anna")


@pytest.fixture
async def group(room: MediaRoom, anna: Caller) -> Conversation:
    return await room.messages.group(anna)


@pytest.fixture
async def said(room: MediaRoom, anna: Caller, group: Conversation) -> Message:
    return await room.messages.say(anna, group, "evidence")


def hold_meanwhile(
    db: Database, monkeypatch: pytest.MonkeyPatch, who: Caller, conversation_id: str | None = None
) -> None:
    """Let a hold on `who`, or on a conversation, be stored right before the next write, however that is asked for."""
    row = (who.tenant_id, new_id(), None if conversation_id else who.user_id, conversation_id)

    def put(conn: apsw.Connection) -> None:
        conn.execute("INSERT INTO legal_hold VALUES (?, ?, ?, ?, 1, NULL)", row)

    honest = {name: getattr(db, name) for name in ("write", "write_aside")}

    def first_the_hold(name: str) -> Callable[..., Any]:
        def write(fn: Callable[[apsw.Connection], Any]) -> asyncio.Future[Any]:
            for other, method in honest.items():
                monkeypatch.setattr(db, other, method)
            held = asyncio.ensure_future(honest["write"](put))
            held.add_done_callback(lambda done: done.result())
            return honest[name](fn)  # type: ignore[no-any-return]  # as the method it stands for

        return write

    for name in honest:
        monkeypatch.setattr(db, name, first_the_hold(name))


def contents(room: MediaRoom) -> int:
    (count,) = room.messages.stores.db.read("SELECT count(*) FROM message WHERE sealed IS NOT NULL")[0]
    return int(count)


async def test_deleting_a_message(
    room: MediaRoom, anna: Caller, group: Conversation, said: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = room.messages.stores
    hold_meanwhile(stores.db, monkeypatch, anna)
    assert await stores.messages.delete(group.conversation_id, said.seq, SELF, LATER_US)
    assert contents(room) == 1


@pytest.mark.parametrize("rows", [False, True])
async def test_disposing_of_a_message(
    room: MediaRoom, anna: Caller, said: Message, monkeypatch: pytest.MonkeyPatch, rows: bool
) -> None:
    stores = room.messages.stores
    hold_meanwhile(stores.db, monkeypatch, anna)
    done = await stores.keeping.dispose("default", "run", [said.message_id], rows=rows, actor=SELF, at_us=LATER_US)
    assert (done.disposed, done.held) == (0, 1)
    assert contents(room) == 1


async def test_purging_what_a_released_hold_kept(
    room: MediaRoom, anna: Caller, group: Conversation, said: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = room.messages.stores
    await stores.keeping.holds.put("default", "h1", subject_id=anna.user_id, conversation_id="", at_us=1)
    await stores.messages.delete(group.conversation_id, said.seq, SELF, LATER_US)
    await stores.keeping.holds.release("default", "h1", at_us=2)
    hold_meanwhile(stores.db, monkeypatch, anna)
    await stores.keeping.purge_released(0, 100)
    assert contents(room) == 1


@pytest.mark.parametrize("what", ["tombstone", "rewrite", "begin"])
async def test_erasing_a_person(
    room: MediaRoom, anna: Caller, said: Message, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    stores = room.messages.stores
    (written,) = await stores.subjects.messages("default", anna.user_id, 0, 10)
    erasing: dict[str, Callable[[], Awaitable[Any]]] = {
        "tombstone": lambda: stores.subjects.tombstone("default", anna.user_id, [written.place], "p-1", LATER_US),
        "rewrite": lambda: stores.subjects.rewrite("default", anna.user_id, [], "p-1", LATER_US),
        "begin": lambda: stores.subjects.begin_erasing("default", anna.user_id),
    }
    hold_meanwhile(stores.db, monkeypatch, anna)
    with pytest.raises(LegalHold):
        await erasing[what]()
    assert contents(room) == 1


async def test_erasing_a_mention(
    room: MediaRoom, anna: Caller, group: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = room.messages.stores
    draft = Draft(body="as you wish", client_message_id="k", mentions=[anna.user_id])
    await room.messages.messaging.send(anna, group.conversation_id, draft)
    (mention,) = await stores.subjects.mentions("default", anna.user_id, 0, 10)
    hold_meanwhile(stores.db, monkeypatch, anna, group.conversation_id)
    assert await stores.subjects.unmention("default", [(mention, b"")], LATER_US) == 0
    assert stores.db.read("SELECT meta FROM message") == [(mention.meta,)]


@pytest.mark.parametrize("what", ["delete", "dispose", "tombstone", "rewrite"])
async def test_what_names_somebody_else(
    room: MediaRoom, anna: Caller, group: Conversation, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    ben, stores = await room.enter("ben"), room.messages.stores
    draft = Draft(body="to you", client_message_id="k", mentions=[ben.user_id])
    told = await room.messages.messaging.send(anna, group.conversation_id, draft)
    (written,) = await stores.subjects.messages("default", anna.user_id, 0, 10)
    again = Rewritten(written.place, 0, b"other", None)
    deleting: dict[str, Callable[[], Awaitable[Any]]] = {
        "delete": lambda: stores.messages.delete(group.conversation_id, told.seq, SELF, LATER_US),
        "dispose": lambda: stores.keeping.dispose(
            "default", "run-1", [told.message_id], rows=True, actor=SELF, at_us=LATER_US
        ),
        "tombstone": lambda: stores.subjects.tombstone("default", anna.user_id, [written.place], "p-1", LATER_US),
        "rewrite": lambda: stores.subjects.rewrite("default", anna.user_id, [again], "p-1", LATER_US),
    }
    sealed = stores.db.read("SELECT sealed, sender_id, meta FROM message")
    hold_meanwhile(stores.db, monkeypatch, ben)
    await deleting[what]()
    assert stores.db.read("SELECT sealed, sender_id, meta FROM message") == sealed


@pytest.mark.parametrize("what", ["remove", "change", "erase"])
async def test_who_was_in_a_conversation(
    room: MediaRoom, anna: Caller, group: Conversation, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    ben, stores, id_ = await room.enter("ben"), room.messages.stores, group.conversation_id
    await stores.conversations.add_member(id_, ben.user_id, "member", SELF, LATER_US, most=9)
    ending: dict[str, Callable[[], Awaitable[Any]]] = {
        "remove": lambda: stores.conversations.remove_member(id_, ben.user_id, SELF, LATER_US),
        "change": lambda: stores.conversations.change_member(id_, ben.user_id, "reader", SELF, LATER_US),
        "erase": lambda: stores.subjects.leave("default", ben.user_id, 10, LATER_US),
    }
    hold_meanwhile(stores.db, monkeypatch, anna, id_)
    await ending[what]()
    assert stores.db.read("SELECT user_id, role FROM former_seat") == [(ben.user_id, "member")]


async def test_who_made_a_conversation(
    room: MediaRoom, anna: Caller, group: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = room.messages.stores
    hold_meanwhile(stores.db, monkeypatch, anna, group.conversation_id)
    assert await stores.subjects.unname("default", anna.user_id, "p-1") == 0
    assert stores.db.read("SELECT created_by FROM conversation") == [(anna.user_id,)]


async def test_forgetting_a_removed_conversation(
    room: MediaRoom, anna: Caller, group: Conversation, said: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = room.messages.stores
    await room.messages.messaging.remove(anna, group.conversation_id)
    hold_meanwhile(stores.db, monkeypatch, anna)
    with pytest.raises(LegalHold):
        await stores.conversations.forget(group.conversation_id, 100)
    assert contents(room) == 1


@pytest.mark.parametrize("what", ["delete", "erase"])
async def test_deleting_files(room: MediaRoom, anna: Caller, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    media_id = await room.upload("anna", b"evidence")
    event = media_event(anna, "media.deleted", media_id=media_id, at_us=LATER_US)
    hold_meanwhile(room.db, monkeypatch, anna)
    if what == "delete":
        with pytest.raises(HoldCame):
            await room.store.delete(media_id, event=event, spared=NOBODY)
    else:
        with pytest.raises(LegalHold):
            await room.store.subjects.erase("default", anna.user_id, [media_id], lambda *_: event, spared=NOBODY)
    assert room.db.read("SELECT count(*) FROM segments") == [(1,)]


async def test_destroying_keys(room: MediaRoom, anna: Caller, said: Message, monkeypatch: pytest.MonkeyPatch) -> None:
    people = room.messages.people
    hold_meanwhile(people._crypto_db, monkeypatch, anna)
    with pytest.raises(LegalHold):
        await people.crypto.destroy_data_keys(
            service_caller("messaging", "default"), DataKeyDestruction(subject_id=anna.user_id)
        )
    await room.messages.again()
    (view,) = (await room.messages.messaging.history(anna, said.conversation_id, History())).items
    assert view.body == "evidence"
