"""Messaging comes back from an older copy and goes on counting: followers are told, and nobody recovers wrongly."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from sealwire.contracts.custody import SubjectErasure
from sealwire.contracts.media import Media
from sealwire.contracts.messaging import Messaging
from sealwire.contracts.messaging_stream import FROM_NOW, PublicationQuery
from sealwire.contracts.socket import SERVICE
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.problem import Unavailable
from sealwire.services.socket import protocol
from sealwire.testing.messaging_room import MessagingRoom
from sealwire.testing.search_room import SearchRoom
from sealwire.testing.socket_room import SocketRoom
from sealwire.testing.wire import Wire

SOCKET = service_caller(SERVICE, SYSTEM_TENANT)


class Way:
    """The way to messaging in another process: it can be cut, and another copy may be at its end afterwards."""

    def __init__(self) -> None:
        self.end: Messaging | None = None

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            if self.end is None:
                raise Unavailable
            return await getattr(self.end, name)(*args)

        return call


class Restorable(MessagingRoom):
    """Messaging whose file is copied and put back while those who follow it go on."""

    way: Way

    async def open(self) -> Messaging:
        self.way = getattr(self, "way", Way())
        await super().open()
        return cast(Messaging, self.way)

    async def stop(self) -> None:
        self.way.end = None
        await self.close()

    async def copy(self) -> None:
        await self.stop()
        shutil.copy(self.folder / "messaging.db", self.folder / "copy")
        await self.open()
        self.join()

    async def restore(self) -> None:
        """Be there again as in the copy, out of reach of those who follow until `join`."""
        await self.stop()
        for file in self.folder.glob("messaging.db*"):
            file.unlink()
        shutil.copy(self.folder / "copy", self.folder / "messaging.db")
        await self.open()

    def join(self) -> None:
        self.way.end = self.messaging


class House(SocketRoom):
    """Ann and Ben in one group; Ben listens by a socket."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, instances=1)
        self.place = self.people = Restorable(folder, clock=self.clock)

    async def begin(self) -> None:
        await self.open()
        self.place.join()
        self.ann, _ = await self.enter("ann")
        self.ben, self.token = await self.enter("ben")
        self.group = await self.place.group(self.ann, self.ben)
        await self.say("kept")
        await self.place.copy()

    async def say(self, *words: str) -> None:
        for word in words:
            await self.place.say(self.ann, self.group, word)

    async def ben_listens(self, **position: Any) -> tuple[Wire, dict[str, Any]]:
        wire = await Wire(self.urls[0]).__aenter__()
        assert "client" in await wire.connect(self.token)
        return wire, await wire.subscribe(self.group.conversation_id, **position)

    async def hears(self, wire: Wire, *words: str) -> list[dict[str, Any]]:
        """Wait until these came, and nothing else."""
        id_ = self.group.conversation_id
        await wire.until(lambda: len(wire.publications(id_)) >= len(words))
        heard = wire.publications(id_)
        assert [pub["data"]["message"]["body"] for pub in heard] == [*words]
        return heard


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.begin()
    yield house
    await house.close()


@pytest.mark.parametrize("said_since", [1, 3, 5])
async def test_who_follows_a_stream_that_was_restored_is_told_and_recovers_nothing(
    house: House, said_since: int
) -> None:
    """Also where it has grown up to what was read, or past it, before anybody could look."""
    wire, at = await house.ben_listens()
    await house.say("lost 1", "lost 2", "lost 3")
    heard = await house.hears(wire, "lost 1", "lost 2", "lost 3")
    await house.place.restore()
    await house.say(*[f"new {number}" for number in range(said_since)])
    house.place.join()
    assert await wire.closed() == protocol.INSUFFICIENT_STATE.code
    again, back = await house.ben_listens(recover=True, offset=heard[-1]["offset"], epoch=at["epoch"])
    assert (back["was_recovering"], back.get("recovered", False)) == (True, False)
    assert back["epoch"] != at["epoch"]
    await house.say("after")
    await house.hears(again, "after")


async def test_who_follows_a_stream_that_was_only_stopped_hears_of_nothing(house: House) -> None:
    wire, at = await house.ben_listens()
    await house.say("before")
    await house.hears(wire, "before")
    await house.place.stop()
    await house.place.open()
    await house.say("between")
    house.place.join()
    heard = await house.hears(wire, "before", "between")
    _, back = await house.ben_listens(recover=True, offset=heard[0]["offset"], epoch=at["epoch"])
    assert back["recovered"]
    assert [pub["data"]["message"]["body"] for pub in back["publications"]] == ["between"]


async def test_search_indexes_what_was_restored_anew(house: House, tmp_path: Path) -> None:
    room = SearchRoom(tmp_path, media=cast(Media, None))  # no files here
    room.messages, direct = house.place, house.place.messaging
    house.place.messaging = cast(Messaging, house.place.way)
    await room.open_search()
    house.place.messaging = direct
    await house.say("lost kingfisher", "lost heron")
    await room.caught_up()
    assert len(await room.bodies(house.ben, "lost")) == 2
    await house.place.restore()
    await house.say("found kingfisher", "found heron")
    house.place.join()
    async with asyncio.timeout(60):
        while len(await room.bodies(house.ben, "found")) < 2:  # noqa: ASYNC110 - search tells nobody
            await asyncio.sleep(0.02)
    assert await room.bodies(house.ben, "lost") == []
    await room.service.stop()


async def test_an_erasure_does_not_wait_for_a_stream_that_is_no_more(house: House, tmp_path: Path) -> None:
    room = SearchRoom(tmp_path, media=cast(Media, None))
    room.messages, direct = house.place, house.place.messaging
    house.place.messaging = cast(Messaging, house.place.way)
    await room.open_search()
    house.place.messaging = direct
    await room.caught_up()
    await room.service.indexer.stop()
    await house.say("lost kingfisher", "lost heron", "lost grebe")
    compliance, erasure = service_caller("compliance", "default"), SubjectErasure(job_id="j", pseudonym="p")
    assert not (await room.service.erase_subject(compliance, house.ann.user_id, erasure)).done
    await house.place.restore()
    house.place.join()
    room.ring._crypto = house.place.people.crypto  # it was opened anew, too
    room.service.indexer.start()
    async with asyncio.timeout(60):
        while not (await room.service.erase_subject(compliance, house.ann.user_id, erasure)).done:
            pass
    await room.caught_up()
    assert await room.bodies(house.ben, "kept") == []
    await room.service.stop()


async def test_search_that_was_down_meanwhile_notices_it_for_everybody(house: House, tmp_path: Path) -> None:
    """Nobody followed the stream when it was replaced: no socket was open, and search was stopped."""
    room = SearchRoom(tmp_path, media=cast(Media, None))
    room.messages = house.place
    await house.say("lost kingfisher", "lost heron", "lost grebe")
    wire, at = await house.ben_listens()
    await wire.__aexit__(None, None, None)
    for _ in range(2):  # a restart of search alone, and one of messaging meanwhile, are none of it
        await room.open_search()
        await room.caught_up()
        assert len(await room.bodies(house.ben, "lost")) == 3
        await room.service.stop()
        await house.place.stop()
        await house.place.open()
        house.place.join()
    assert (await house.place.messaging.get(house.ben, house.group.conversation_id)).epoch == at["epoch"]
    await house.place.restore()
    await house.say("found kingfisher", "found heron", "found grebe", "found teal")
    house.place.join()
    await room.open_search()
    async with asyncio.timeout(60):
        while len(await room.bodies(house.ben, "found")) < 4:  # noqa: ASYNC110 - search tells nobody
            await asyncio.sleep(0.02)
    assert await room.bodies(house.ben, "lost") == []
    _, back = await house.ben_listens(recover=True, offset=at["offset"], epoch=at["epoch"])
    assert (back["was_recovering"], back.get("recovered", False)) == (True, False)
    assert back["epoch"] != at["epoch"]
    await room.service.stop()


async def test_what_was_trimmed_while_search_was_down_is_no_sign_of_an_older_copy(house: House, tmp_path: Path) -> None:
    room = SearchRoom(tmp_path, media=cast(Media, None))
    room.messages = house.place
    await house.say("first kingfisher")
    wire, at = await house.ben_listens()
    await wire.__aexit__(None, None, None)
    await room.open_search()
    await room.caught_up()
    await room.service.stop()
    await house.say("second kingfisher", "third kingfisher")
    stores = house.place.stores
    await stores.positions.load("x")
    await stores.positions.save("x", await stores.events.newest())
    assert await stores.events.trim(house.clock.now_us() + 1, 1_000)
    await house.place.stop()
    await house.place.open()
    house.place.join()
    await room.open_search()
    async with asyncio.timeout(60):
        while len(await room.bodies(house.ben, "kingfisher")) < 3:  # noqa: ASYNC110 - search tells nobody
            await asyncio.sleep(0.02)
    assert (await house.place.messaging.get(house.ben, house.group.conversation_id)).epoch == at["epoch"]
    await room.service.stop()


async def test_the_stream_says_whether_it_is_the_one_that_was_read(house: House) -> None:
    async def ask(after: int, last: str = "") -> Any:
        return await house.place.messaging.publications(SOCKET, PublicationQuery(after=after, last=last))

    async def epoch() -> str:
        return (await house.place.messaging.get(house.ben, house.group.conversation_id)).epoch

    await house.say("lost")
    first = await epoch()
    read, now = await ask(0), await ask(FROM_NOW)
    assert (read.broken, now.broken, now.items) == (False, False, [])
    assert read.last == now.last != ""
    assert (await ask(read.newest, read.last)).last == read.last

    await house.place.stop()
    await house.place.open()
    still = await ask(read.newest, read.last)
    assert (still.broken, await epoch()) == (False, first)
    assert still.last != read.last, "of another run"

    await house.place.restore()
    await house.say("new")
    other = await ask(read.newest, still.last)
    assert (other.broken, other.items, other.newest) == (True, [], read.newest)
    second = await epoch()
    assert second != first
    assert (await ask(read.newest, read.last)).broken
    assert await epoch() == second, "once is enough"
    assert not (await ask(read.newest, other.last)).broken

    await house.place.stop()
    await house.place.open()
    assert await epoch() == second, "for good"
    assert not (await ask(read.newest, other.last)).broken
    past_the_end = await ask(read.newest + 1)
    assert past_the_end.broken, "what search's index knows by its number alone"
    assert await epoch() != second
