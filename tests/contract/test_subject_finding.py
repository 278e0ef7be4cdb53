"""Finding what a person left: by index, in every file, however large the installation; and nothing is missed by it."""

from __future__ import annotations

import apsw
import pytest

from sealwire.adapters.embedded.crypto import MIGRATIONS as CRYPTO
from sealwire.adapters.embedded.crypto import OF_SUBJECT
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.media import MIGRATIONS as MEDIA
from sealwire.adapters.embedded.messaging_schema import MIGRATIONS as MESSAGING
from sealwire.adapters.embedded.messaging_subjects import FINDING, TRACES
from sealwire.contracts.custody import SubjectErasure, SubjectProbe, SubjectQuery
from sealwire.contracts.messages import Draft
from sealwire.kit.caller import service_caller
from sealwire.testing.messaging_room import MessagingRoom

HERE = {"tenant": "t", "person": "p", "after": 0, "last": 1, "limit": 1, "beside": ""}
FILES = "SELECT media_id FROM files WHERE tenant_id = ? AND owner_id = ? AND media_id > ? ORDER BY media_id LIMIT ?"
KEYS = f"SELECT data_key_id FROM data_keys WHERE {OF_SUBJECT}"


def plan(folder, migrations, sql: str, values) -> list[str]:
    path = folder / "plan.db"
    if not path.exists():
        conn = apsw.Connection(str(path))
        for step in migrations:
            conn.execute(step)
        conn.close()
    rows = apsw.Connection(str(path)).execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
    return [row[3] for row in rows]


@pytest.mark.parametrize("what", sorted(FINDING))
def test_messaging_reads_no_conversation_the_person_was_not_in(tmp_path, what):
    steps = plan(tmp_path, MESSAGING, FINDING[what], HERE)
    assert steps, "there is a plan"
    assert [step for step in steps if step.startswith("SCAN") and "VIRTUAL TABLE" not in step] == [], "JSON is no table"
    assert [step for step in steps if "TEMP B-TREE" in step] == [], "in the order of the table"


@pytest.mark.parametrize(
    ("migrations", "sql", "values"),
    [(MESSAGING, TRACES, ("t", "p", 0)), (MEDIA, FILES, ("t", "p", "", 1)), (CRYPTO, KEYS, ("t", "p"))],
    ids=["traces", "files", "keys"],
)
def test_what_is_a_person_s_is_found_by_index(tmp_path, migrations, sql, values):
    steps = plan(tmp_path, migrations, sql, values)
    assert [step for step in steps if step.startswith("SCAN")] == []
    assert any("SEARCH" in step for step in steps)


@pytest.fixture
async def room(tmp_path):
    opened = MessagingRoom(tmp_path)
    await opened.open()
    yield opened
    await opened.close()


async def erase(room, who) -> dict[str, int]:
    compliance, erased = service_caller("compliance", who.tenant_id), dict[str, int]()
    while True:
        erasure = SubjectErasure(job_id="job-1", pseudonym="somebody-1")
        answer = await room.messaging.erase_subject(compliance, who.user_id, erasure)
        for kind, count in answer.erased.items():
            erased[kind] = erased.get(kind, 0) + count
        if answer.done:
            return erased


async def test_what_was_left_behind_long_ago_is_found(room):
    agnes, bertil = await room.enter("agnes"), await room.enter("bertil")
    left, other, never = [await room.group(bertil, agnes) for _ in range(2)] + [await room.group(bertil)]
    for number in range(3):
        await room.say(agnes, left, f"number {number}")
        await room.say(bertil, left, f"answer {number}")
    await room.messaging.react(agnes, left.conversation_id, 2, "+1")
    await room.messaging.remove_member(bertil, left.conversation_id, agnes.user_id)
    for conversation in (other, never):  # mentioned also where they never were
        draft = Draft(body="ask her", client_message_id="m", mentions=[agnes.user_id])
        await room.messaging.send(bertil, conversation.conversation_id, draft)
    compliance, items, cursor = service_caller("compliance", agnes.tenant_id), [], None
    while True:
        page = await room.messaging.export_subject(compliance, agnes.user_id, SubjectQuery(limit=1, cursor=cursor))
        items += [item.kind for item in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert items == ["membership", *["message"] * 3, "reaction"]
    erased = await erase(room, agnes)
    assert (erased["message"], erased["reaction"], erased["mention"], erased["membership"]) == (3, 1, 2, 1)
    places = (await room.messaging.probe_subject(compliance, agnes.user_id, SubjectProbe())).places
    assert set(places.values()) == {0}, places


async def test_files_of_before_learn_their_traces(tmp_path):
    before = MESSAGING[: next(i for i, step in enumerate(MESSAGING) if "CREATE TABLE trace" in step)]
    path = tmp_path / "messaging.db"
    db = Database.open(path, before)
    mention = b'{"mentions":["dora","emil"]}'

    def fill(conn: apsw.Connection) -> None:
        conn.execute(
            "INSERT INTO conversation (conversation_id, tenant_id, kind, created_by, created_at_us)"
            " VALUES ('c1', 't', 'group', 'agnes', 1), ('c2', 't', 'group', 'agnes', 1)"
        )
        conn.execute("INSERT INTO member (conversation, user_id, role, joined_at_us) VALUES (1, 'agnes', 'owner', 1)")
        conn.execute(
            "INSERT INTO message (key, message_id, sender_id, client_message_id, request_key, request_hash,"
            " created_at_us, meta) VALUES (?, x'01', 'bertil', '', x'', x'', 1, ?)",
            (2 << 32 | 1, mention),
        )
        conn.execute("INSERT INTO reaction VALUES (?, '+1', 'cleo', 1)", (2 << 32 | 1,))

    await db.write(fill)
    await db.close()
    db = Database.open(path, MESSAGING)
    try:
        assert set(db.read("SELECT user_id, conversation FROM trace")) == {
            ("agnes", 1), ("bertil", 2), ("cleo", 2), ("dora", 2), ("emil", 2),
        }  # fmt: skip
    finally:
        await db.close()
