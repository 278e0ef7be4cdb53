"""Somebody with the database file changes it; verification on the live server names what and where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from random import Random

import apsw
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealwire.contracts.audit import EvidenceQuery
from sealwire.contracts.audit_log import (
    Actor,
    AuditBatch,
    AuditEntry,
    InclusionQuery,
    LogBroken,
    Verification,
    VerifyQuery,
)
from sealwire.kit.caller import service_caller
from sealwire.kit.ids import new_id
from sealwire.kit.pages import DegradedOnly
from sealwire.services.compliance.bundle import verify_bundle
from sealwire.services.compliance.chain import read_record
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.notes import ED25519, NoteSignature, VerifierKey, parse_key, parse_note, write_note
from sealwire.services.compliance.ports import LogAppend, LogHead
from sealwire.services.compliance.tiles import read_bundle, write_bundle
from sealwire.testing.compliance import ComplianceRoom, open_compliance

CALLER = service_caller("gateway", "acme")
RECORDS = 700


def entries(count: int) -> list[AuditEntry]:
    return [
        AuditEntry(
            audit_id=new_id(),
            tenant_id="acme",
            actor=Actor(type="user", id="anna"),
            action="message.sent",
            resource_type="message",
            metadata={"n": i},
        )
        for i in range(count)
    ]


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[ComplianceRoom]:
    async with open_compliance(tmp_path, config=ComplianceConfig(checkpoint_every_s=3600)) as room:
        sent = entries(RECORDS)
        for start in range(0, RECORDS, 70):
            await room.service.append(CALLER, AuditBatch(records=sent[start : start + 70]))
        await room.service.checkpoint(CALLER)
        yield room


def tamper(tmp_path: Path, change: Callable[[apsw.Connection], None]) -> None:
    conn = apsw.Connection(str(tmp_path / "compliance.db"))
    conn.set_busy_timeout(60_000)
    with conn:
        change(conn)
    conn.close()


async def verify(room: ComplianceRoom) -> Verification:
    found = await room.service.verify(CALLER, VerifyQuery())
    async with asyncio.timeout(20):
        for _ in range(100_000):
            if found.job_id is None or found.progress == 1:
                break
            await asyncio.sleep(0.001)
            found = await room.service.verify_job(CALLER, found.job_id)
    return found


def edit(conn: apsw.Connection, seq: int, change: Callable[[bytes], bytes | None]) -> None:
    """Change one record's bytes in its piece, as an editor of the file would; None takes it out."""
    place, bodies = conn.execute(
        "SELECT place, bodies FROM piece WHERE place & ((1 << 40) - 1) <= ? ORDER BY place DESC LIMIT 1", (seq,)
    ).fetchone()
    records = read_bundle(bodies)
    at = seq - (place & ((1 << 40) - 1))
    changed = change(records[at])
    records[at : at + 1] = [] if changed is None else [changed]
    conn.execute("UPDATE piece SET bodies = ? WHERE place = ?", (write_bundle(records), place))


async def test_an_untouched_log_holds(room: ComplianceRoom) -> None:
    found = await verify(room)
    assert found.ok, found.fault
    assert found.records == RECORDS


@pytest.mark.parametrize("seq", [1, 70, 71, 256, 257, 512, 513, 699, 700])
async def test_any_changed_bit_of_a_record_is_found(room: ComplianceRoom, tmp_path: Path, seq: int) -> None:
    rng = Random(seq)
    (stored,) = await room.stores.audit.records("acme", seq, 1)

    def write(body: bytes) -> None:
        tamper(tmp_path, lambda conn: edit(conn, seq, lambda _: body))

    for _ in range(4):
        changed = bytearray(stored.body)
        bit = rng.randrange(len(changed) * 8)
        changed[bit // 8] ^= 1 << bit % 8
        write(bytes(changed))
        found = await verify(room)
        assert (found.ok, found.first_bad_seq) == (False, seq), f"bit {bit}: {found.fault}"
        assert found.fault is not None
        assert found.fault.startswith("changed")
    write(stored.body)
    assert (await verify(room)).ok


async def test_a_damaged_file_is_told_and_not_a_crash(room: ComplianceRoom, tmp_path: Path) -> None:
    tamper(tmp_path, lambda conn: conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall() and None)
    root = (
        apsw.Connection(str(tmp_path / "compliance.db"))
        .execute("SELECT rootpage FROM sqlite_schema WHERE name = 'piece'")
        .get
    )
    with (tmp_path / "compliance.db").open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    found = await verify(room)
    assert not found.ok


async def test_a_record_changed_with_its_hash_is_found(room: ComplianceRoom, tmp_path: Path) -> None:
    def change(conn: apsw.Connection) -> None:
        place, hashes = conn.execute("SELECT place, hashes FROM piece WHERE place & ((1 << 40) - 1) = 281").fetchone()
        forged = b""

        def forge(body: bytes) -> bytes:
            nonlocal forged
            forged = body.replace(b"message.sent", b"message.read")
            return forged

        edit(conn, 290, forge)
        hashes = hashes[: 9 * 32] + sha256(forged).digest() + hashes[10 * 32 :]
        conn.execute("UPDATE piece SET hashes = ? WHERE place = ?", (hashes, place))

    tamper(tmp_path, change)
    found = await verify(room)
    assert (found.ok, found.first_bad_seq) == (False, 290), found.fault


async def test_a_record_taken_out_is_found(room: ComplianceRoom, tmp_path: Path) -> None:
    tamper(tmp_path, lambda conn: edit(conn, 300, lambda body: None))
    found = await verify(room)
    assert (found.ok, found.first_bad_seq) == (False, 300), found.fault


@pytest.mark.parametrize(
    ("sql", "seq", "kind"),
    [
        ("DELETE FROM piece WHERE place & ((1 << 40) - 1) = 281", 281, "removed"),
        ("DELETE FROM piece WHERE place & ((1 << 40) - 1) = 1", 1, "removed"),
        ("DELETE FROM piece WHERE place & ((1 << 40) - 1) >= 561", 561, "truncated"),
        ("UPDATE piece SET place = place + 1 WHERE place & ((1 << 40) - 1) = 1", 1, "removed"),
        ("UPDATE piece SET hashes = zeroblob(length(hashes)) WHERE place & ((1 << 40) - 1) = 141", 141, "changed"),
        ("UPDATE tile SET hashes = zeroblob(8192) WHERE place & ((1 << 40) - 1) = 0", 1, "tree"),
        (
            "UPDATE tile SET hashes = CAST(substr(hashes, 1, 8191) || x'00' AS BLOB) WHERE place & ((1 << 40) - 1) = 1",
            512,
            "tree",
        ),
        ("DELETE FROM tile WHERE place & ((1 << 40) - 1) = 1", 257, "tree"),
        ("UPDATE tile SET hashes = zeroblob(64) WHERE place & ((1 << 40) - 1) = 1 << 36", 1, "tree"),
        ("UPDATE checkpoint SET root = zeroblob(32)", None, "checkpoint"),
        ("UPDATE checkpoint SET note = replace(note, 'acme', 'evil')", None, "checkpoint"),
        (
            "UPDATE checkpoint SET note = substr(note, 1, length(note) - 9) || 'AAAAAAAA' || char(10)",
            None,
            "checkpoint",
        ),
        ("UPDATE tenant SET last_hash = zeroblob(32)", ..., "changed"),
        ("UPDATE piece SET bodies = 'text \u00b9' WHERE place & ((1 << 40) - 1) = 71", 71, "changed"),
        ("UPDATE tenant SET size = 300", 301, "truncated"),
        ("UPDATE tenant SET size = size + 5", ..., "truncated"),
    ],
)
async def test_tampering_with_the_tables(
    room: ComplianceRoom, tmp_path: Path, sql: str, seq: int | None, kind: str
) -> None:
    tamper(tmp_path, lambda conn: conn.execute(sql).fetchall() and None)
    found = await verify(room)
    assert not found.ok
    assert found.fault is not None
    assert found.fault.split(":")[0] == kind, found.fault
    if seq is not ...:
        assert found.first_bad_seq == seq, found.fault


async def test_two_pieces_swapped(room: ComplianceRoom, tmp_path: Path) -> None:
    def swap(conn: apsw.Connection) -> None:
        rows = conn.execute(
            "SELECT place, traits, hashes, bodies FROM piece WHERE place & ((1 << 40) - 1) IN (71, 141)"
        ).fetchall()
        for (place, *_), (_, *content) in zip(rows, rows[::-1], strict=True):
            conn.execute("UPDATE piece SET traits = ?, hashes = ?, bodies = ? WHERE place = ?", (*content, place))

    tamper(tmp_path, swap)
    found = await verify(room)
    assert (found.ok, found.first_bad_seq) == (False, 71)
    assert found.fault is not None
    assert found.fault.startswith("reordered"), found.fault


async def test_a_history_rewritten_behind_the_servers_back_is_never_signed(tmp_path: Path) -> None:
    """All records, hashes, tiles and the head are made consistent; only the signed checkpoint stands against it."""
    (tmp_path / "other").mkdir()
    first = entries(300)
    async with open_compliance(tmp_path) as room:
        await room.service.append(CALLER, AuditBatch(records=first))
        held = await room.service.checkpoint(CALLER)
    async with open_compliance(tmp_path / "other") as room:
        forged = [*first[:50], *entries(1), *first[51:]]
        await room.service.append(CALLER, AuditBatch(records=forged))
    source = apsw.Connection(str(tmp_path / "other" / "compliance.db"))
    tables = {t: source.execute(f"SELECT * FROM {t}").fetchall() for t in ("tenant", "piece", "audit_id", "tile")}
    source.close()

    def replace(conn: apsw.Connection) -> None:
        for table, rows in tables.items():
            conn.execute(f"DELETE FROM {table}")
            conn.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)

    tamper(tmp_path, replace)
    async with open_compliance(tmp_path) as room:
        await room.service.append(CALLER, AuditBatch(records=entries(5)))
        found = await verify(room)
        assert not found.ok
        assert found.fault is not None
        assert found.fault.startswith("forked"), found.fault
        assert found.checkpoint == held.checkpoint
        last = await room.stores.audit.last_checkpoint("acme")
        assert last is not None
        assert last.note == held.checkpoint, "nothing new was signed"


async def test_a_log_without_its_right_edge_takes_no_records_and_says_so(tmp_path: Path) -> None:
    async with open_compliance(tmp_path) as room:
        await room.service.append(CALLER, AuditBatch(records=entries(300)))
        await room.service.append(service_caller("gateway", "other"), AuditBatch(records=[]))
    tamper(
        tmp_path, lambda conn: conn.execute("DELETE FROM piece WHERE place & ((1 << 40) - 1) = 257").fetchall() and None
    )
    async with open_compliance(tmp_path) as room:
        assert (await room.service.append(CALLER, AuditBatch(records=entries(1)))).parked == 1
        with pytest.raises(DegradedOnly):
            await room.service.checks()["audit_logs"]()
        others = [msgspec.structs.replace(e, tenant_id="other") for e in entries(3)]
        assert (await room.service.append(CALLER, AuditBatch(records=others))).accepted == 3
        found = await verify(room)
        assert (found.ok, found.first_bad_seq) == (False, 257), found.fault


@pytest.mark.parametrize("level", [0, 1])
async def test_a_tile_that_was_cut_is_told_as_damage_of_the_log(tmp_path: Path, level: int) -> None:
    async with open_compliance(tmp_path) as room:
        for _ in range(2):
            await room.service.append(CALLER, AuditBatch(records=entries(300)))
        await room.service.checkpoint(CALLER)
    cut = "UPDATE tile SET hashes = substr(hashes, 1, 33) WHERE place & ((1 << 40) - 1) = ?"
    tamper(tmp_path, lambda conn: conn.execute(cut, (level << 36,)).fetchall() and None)
    async with open_compliance(tmp_path) as room:
        with pytest.raises(LogBroken):
            await room.service.inclusion(CALLER, InclusionQuery(seq=1, tree_size=600))
        if level:  # a tile of the right edge
            assert (await room.service.append(CALLER, AuditBatch(records=entries(1)))).parked == 1
            with pytest.raises(DegradedOnly):
                await room.service.checks()["audit_logs"]()
        found = await verify(room)
        assert found.fault is not None
        assert found.fault.startswith("tree"), found.fault


async def test_a_log_that_can_not_be_continued_fails_no_other_in_its_round(tmp_path: Path) -> None:
    """Its head was put back and its records stayed, so that what comes has their place; nothing signed says so."""
    others = [msgspec.structs.replace(e, tenant_id="other") for e in entries(4)]
    async with open_compliance(tmp_path) as room:
        for other in others[:2]:
            await room.service.append(CALLER, AuditBatch(records=[*entries(1), other]))
        row = (await room.stores.audit.records("acme", 1, 1))[0]
    tamper(
        tmp_path,
        lambda conn: (
            conn.execute("DELETE FROM checkpoint").fetchall()
            or conn.execute(
                "UPDATE tenant SET size = 1, last_hash = ? WHERE tenant_id = 'acme'", (bytes.fromhex(row.hash),)
            ).fetchall()
            or None
        ),
    )
    async with open_compliance(tmp_path) as room:
        for tenant in ("acme", "other"):  # both are known by now, and their groups go to the store together
            await room.service.inclusion(service_caller("gateway", tenant), InclusionQuery(seq=1, tree_size=1))
        assert (await room.service.append(CALLER, AuditBatch(records=[*entries(1), *others[2:]]))).parked == 1
        assert (await room.stores.audit.head("other")).size == 4


@pytest.mark.parametrize("spelling", [b'"metadata":{"n":0,', b'"metadata": {'])
async def test_bytes_that_are_not_canonical_are_found_when_asked_for(tmp_path: Path, spelling: bytes) -> None:
    """Hash and place are right: whoever wrote the log wrote them so, and two readers may read them in two ways."""
    async with open_compliance(tmp_path) as room:
        await room.service.append(CALLER, AuditBatch(records=entries(3)))
        head = await room.stores.audit.head("acme")
        (last,) = await room.stores.audit.records("acme", 3, 1)
        link = last.body.replace(b'"seq":3', b'"seq":4').replace(
            read_record(last.body).prev_hash.encode(), head.last_hash.encode()
        )
        (sent,) = entries(1)
        body = link.replace(b'"metadata":{', spelling)
        hash_hex = sha256(body).hexdigest()
        append = LogAppend(
            tenant_id="acme", before=head, after=LogHead(size=4, last_hash=hash_hex), entries=[sent], bodies=[body],
            hashes=[hash_hex], created_us=[1_000_000], tiles=[],
        )  # fmt: skip
        await room.stores.audit.append(append)
    async with open_compliance(tmp_path) as room:
        assert (await room.service.verify(CALLER, VerifyQuery())).ok
        for first in (1, 3, 4):
            found = await room.service.verify(CALLER, VerifyQuery(canonical=True, from_seq=first))
            assert (found.ok, found.first_bad_seq) == (False, 4), found.fault
            assert found.fault == "changed: the record is not canonical JSON"
        assert (await room.service.verify(CALLER, VerifyQuery(canonical=True, to_seq=3))).ok
        for last in (3, 4):
            parts = [part async for part in await room.service.evidence(CALLER, EvidenceQuery(to_seq=last))]
            report, _ = verify_bundle(b"".join(parts))
            assert report.ok is (last == 3), "in a bundle it is asked for always"


@pytest.mark.parametrize("newer", [False, True])
async def test_a_checkpoint_signed_by_a_key_of_ones_own_is_found(
    room: ComplianceRoom, tmp_path: Path, newer: bool
) -> None:
    """Whoever has the file may sign what it says: with a key that nobody vouches for, and that the row itself names."""
    private = Ed25519PrivateKey.generate()
    (stored,) = await room.stores.audit.checkpoints("acme", above=-1, limit=2)
    if newer:
        await room.service.append(CALLER, AuditBatch(records=entries(5)))
        await room.service.checkpoint(CALLER)
    text = parse_note(stored.note).text
    name = parse_key(stored.public_key).name
    key = VerifierKey(name=name, type=ED25519, public_key=private.public_key().public_bytes_raw())
    forged = write_note(text, [NoteSignature(name, key.key_id, private.sign(text.encode()))])
    sql = "UPDATE checkpoint SET note = ?, public_key = ? WHERE size = ?"
    for note, named in ((forged, key.text), (forged, stored.public_key), (stored.note, key.text)):
        row = (note, named, stored.size)
        tamper(tmp_path, lambda conn, row=row: conn.execute(sql, row).fetchall() and None)  # type: ignore[misc]  # bound now
        found = await verify(room)
        assert (found.ok, found.fault and found.fault.split(":")[0]) == (False, "checkpoint"), found.fault
        part = await room.service.verify(CALLER, VerifyQuery(from_seq=20, to_seq=30))
        assert part.ok is (newer or note == stored.note), "of a part the newest checkpoint is looked at, by its keys"
    tamper(
        tmp_path,
        lambda conn: conn.execute(sql, (stored.note, stored.public_key, stored.size)).fetchall() and None,
    )
    assert (await verify(room)).ok


async def test_a_part_of_a_log_is_compared_with_the_tiles_too(room: ComplianceRoom, tmp_path: Path) -> None:
    sql = "UPDATE tile SET hashes = CAST(substr(hashes, 1, 320) || zeroblob(32) || substr(hashes, 353) AS BLOB)"
    tamper(
        tmp_path, lambda conn: conn.execute(f"{sql} WHERE place & ((1 << 40) - 1) = 1").fetchall() and None
    )  # the leaf of 256 + 11
    assert (await room.service.verify(CALLER, VerifyQuery(from_seq=257, to_seq=266))).ok
    for first in (258, 267):
        found = await room.service.verify(CALLER, VerifyQuery(from_seq=first, to_seq=300))
        assert (found.ok, found.first_bad_seq) == (False, 267), found.fault


async def test_a_log_that_was_cut_back_is_neither_continued_nor_signed(tmp_path: Path) -> None:
    """As if an older copy of the records were put back: all fits but for what was signed since."""
    async with open_compliance(tmp_path) as room:
        await room.service.append(CALLER, AuditBatch(records=entries(256)))
        head = await room.stores.audit.head("acme")
        await room.service.append(CALLER, AuditBatch(records=entries(44)))
        held = await room.service.checkpoint(CALLER)

    def cut(conn: apsw.Connection) -> None:
        conn.execute("DELETE FROM piece WHERE place & ((1 << 40) - 1) > 256")
        row = (head.size, bytes.fromhex(head.last_hash))
        conn.execute("UPDATE tenant SET size = ?, last_hash = ?", row)

    tamper(tmp_path, cut)
    for more in (5, 60):
        async with open_compliance(tmp_path) as room:
            assert (await room.service.append(CALLER, AuditBatch(records=entries(more)))).parked == more
            with pytest.raises(LogBroken):
                await room.service.checkpoint(CALLER)
            found = await verify(room)
            assert (found.ok, found.fault and found.fault.split(":")[0]) == (False, "truncated"), found.fault
            assert (await room.stores.audit.head("acme")).size == 256
            last = await room.stores.audit.last_checkpoint("acme")
            assert last is not None
            assert last.note == held.checkpoint
