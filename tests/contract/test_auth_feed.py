"""Auth's feed of what ended, over time: what is over goes, and nothing comes back by that; over every wiring."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.outbox import OUTBOX_SCHEMA, POSITIONS_SCHEMA, SqliteOutbox
from sealwire.contracts.revocations import FeedQuery
from sealwire.kit.clock import US_PER_S
from sealwire.ports.events import NewEvent
from sealwire.services.auth.config import LegacyIssuer
from sealwire.testing.auth_room import BOUNDARY, CHEAP, AuthRoom
from sealwire.testing.wirings import WIRINGS

WEEK_S = 7 * 86_400
OLD = LegacyIssuer(key="k" * 40, alg="HS256", tenant="default", iss="old", max_age_s=WEEK_S)


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path, config=msgspec.structs.replace(CHEAP, legacy=(OLD,)), wiring=request.param)
    await opened.open()
    yield opened
    await opened.close()


async def later(room: AuthRoom, seconds: float) -> None:
    room.advance(seconds)
    await room.service.upkeep.sweep()


async def test_who_missed_only_what_is_over_waits_for_news_as_everybody_does(room: AuthRoom) -> None:
    """Else whoever follows the feed asks again and again, without a pause: in one process nothing else ever runs."""
    anna, _ = await room.enter("anna")
    await room.auth.logout(anna)
    await later(room, 2 * WEEK_S)
    (kept,) = (await room.auth.revocations(BOUNDARY, FeedQuery(after=0))).items  # the newest stays; it did not always
    await room.storage.db.write(lambda conn: conn.execute("DELETE FROM revocation WHERE number = ?", (kept.number,)))
    began = time.monotonic()
    answer = await room.auth.revocations(BOUNDARY, FeedQuery(after=0, wait_ms=300))
    assert (answer.items, answer.newest) == ([], 1)
    assert time.monotonic() - began >= 0.25
    waiting = asyncio.create_task(room.auth.revocations(BOUNDARY, FeedQuery(after=0, wait_ms=10_000)))
    await room.auth.logout(room.caller(await room.log_in("anna")))
    assert [entry.number for entry in (await waiting).items] == [2]


async def test_a_cut_is_known_for_as_long_as_a_legacy_token_made_before_may_live(room: AuthRoom) -> None:
    """A legacy token has no epoch: once the feed has forgotten the cut, nothing tells it from a new one."""
    anna, _ = await room.enter("anna")
    await room.auth.logout_all(anna)
    await later(room, WEEK_S + 5)
    (cut,) = (await room.auth.revocations(BOUNDARY, FeedQuery(after=0))).items
    assert cut.kind == "subject"
    assert cut.expires_at_s - cut.at_us // US_PER_S > WEEK_S


async def test_a_new_reader_of_events_that_are_trimmed_away_waits_for_news(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "some.db", (OUTBOX_SCHEMA, POSITIONS_SCHEMA))
    outbox = SqliteOutbox(db)
    event = NewEvent(event_id="e", tenant_id="t", kind="k", at_us=1, data=b"")
    await db.write(lambda conn: outbox.append(conn, [event]))
    await db.write(lambda conn: conn.execute("INSERT INTO consumer_position VALUES ('old', 1)").fetchall())
    assert await outbox.trim(before_us=2) == 1
    began = time.monotonic()
    assert not await outbox.wait(0, 0.3)
    assert time.monotonic() - began >= 0.25
    await db.close()
