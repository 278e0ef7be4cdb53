"""What a look at the holds costs: an index look-up each, however many holds the tenant has (ADR 0019)."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealwire.adapters.embedded import (
    auth_schema,
    crypto,
    media,
    messaging_held,
    messaging_schema,
)
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.holds import SqliteHoldBook, held_sql

SCHEMAS = {
    "auth": auth_schema.MIGRATIONS,
    "crypto": crypto.MIGRATIONS,
    "media": media.MIGRATIONS,
    "messaging": messaging_schema.MIGRATIONS,
}
BY_SUBJECT = "legal_hold_subject (tenant_id=? AND subject_id=?)"
BY_CONVERSATION = "legal_hold_conversation (tenant_id=? AND conversation_id=?)"


def looks(db: Database, condition: str) -> list[str]:
    """Return how SQLite looks at the holds."""
    plan = [str(row[3]) for row in db.read(f"EXPLAIN QUERY PLAN SELECT 1 WHERE {condition}", ("t", "s", "c"))]
    return [step.partition(" INDEX ")[2] or step for step in plan if "legal_hold" in step]


@pytest.mark.parametrize("service", SCHEMAS)
async def test_each_look_is_one_in_an_index(service: str, tmp_path: Path) -> None:
    db = Database.open(tmp_path / "holds.db", SCHEMAS[service])
    try:
        assert looks(db, held_sql("?1", "?2", "?3")) == [BY_SUBJECT, BY_CONVERSATION]
        assert looks(db, f"{held_sql('?1', '?2')} OR ?3") == [BY_SUBJECT]
        assert looks(db, f"{held_sql('?1', conversation='?3')} OR ?2") == [BY_CONVERSATION]
    finally:
        await db.close()


async def test_of_the_holds_of_a_tenant_those_in_force_on_people_are_read_and_no_others(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "holds.db", SCHEMAS["messaging"])
    try:
        sql = f"EXPLAIN QUERY PLAN SELECT 1 FROM conversation c WHERE c.num = 1 AND {messaging_held.HELD_PLACE}"
        plan = [str(row[3]) for row in db.read(sql)]
        assert "SEARCH h USING INDEX legal_hold_subject (tenant_id=? AND subject_id>?)" in plan
        # Of few people each is looked up among the holds, however many there are.
        assert "SEARCH h USING INDEX legal_hold_subject (tenant_id=? AND subject_id=?)" in plan
        assert any("COVERING INDEX trace_of (conversation=?)" in step for step in plan), plan
        assert any("COVERING INDEX trace_of (conversation=? AND user_id=?)" in step for step in plan), plan
        # Whom a message mentions is read of that message alone, and each looked up.
        sql = "EXPLAIN QUERY PLAN SELECT 1 FROM message m JOIN conversation c ON c.num = m.key >> 32 WHERE m.key = 1"
        plan = [str(row[3]) for row in db.read(f"{sql} AND {messaging_held.HELD_MESSAGE}")]
        assert [step.partition(" INDEX ")[2] for step in plan if "legal_hold" in step] == [
            BY_SUBJECT, BY_CONVERSATION, BY_SUBJECT,
        ], plan  # fmt: skip
    finally:
        await db.close()


async def test_what_is_looked_for_by_nothing_is_not_held(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "holds.db", SCHEMAS["auth"])
    try:
        book = SqliteHoldBook(db)
        await book.put("t", "h1", subject_id="s", conversation_id="", at_us=1)
        await book.put("t", "h2", subject_id="", conversation_id="c", at_us=1)
        assert db.read(f"SELECT {held_sql('?1')}") == [(0,)]
        assert db.read(f"SELECT {held_sql('?1', '?2', '?3')}", ("t", None, None)) == [(0,)]
        assert await book.covers("t", subject_id="s")
        assert await book.covers("t", conversation_id="c")
        assert not await book.covers("t", subject_id="c", conversation_id="s")
        await book.release("t", "h1", at_us=2)
        assert not await book.covers("t", subject_id="s")
    finally:
        await db.close()


@pytest.mark.parametrize("members", [0, messaging_held.FEW, messaging_held.FEW + 1])
async def test_a_place_is_held_by_who_was_there_however_many_are(tmp_path: Path, members: int) -> None:
    db = Database.open(tmp_path / "holds.db", SCHEMAS["messaging"])
    try:
        new = (
            "INSERT INTO conversation (num, conversation_id, tenant_id, kind, created_by, created_at_us, member_count)"
        )
        await db.write(lambda conn: conn.execute(f"{new} VALUES (1, 'c', 't', 'group', 's', 1, ?)", (members,)))
        await db.write(lambda conn: conn.execute("INSERT INTO trace VALUES ('s', 1), ('p', 1), ('elsewhere', 2)"))
        held, book = f"SELECT {messaging_held.HELD_PLACE} FROM conversation c", SqliteHoldBook(db)
        for tenant, subject, conversation, covers in [
            ("t", "elsewhere", "", False), ("u", "s", "", False), ("u", "", "c", False), ("t", "p", "", True),
            ("t", "", "c", True),
        ]:  # fmt: skip
            hold_id = f"{tenant}-{subject}-{conversation}"
            await book.put(tenant, hold_id, subject_id=subject, conversation_id=conversation, at_us=1)
            assert db.read(held) == [(covers,)], hold_id
            await book.release(tenant, hold_id, at_us=2)
            assert db.read(held) == [(False,)], hold_id
    finally:
        await db.close()
