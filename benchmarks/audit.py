"""How many audit records per second become durable, and are verified, beside what hashing and the disk alone can do."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import apsw
import orjson
import uvloop

from benchmarks._middleware import AGENT, URL, middleware
from benchmarks.harness import results
from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry, InclusionQuery
from sealwire.kit.caller import service_caller
from sealwire.kit.ids import new_id
from sealwire.services.compliance.chain import line_of, read_link, record_hashes
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.merkle import leaf_hashes, pair_up
from sealwire.services.compliance.ports import AuditStore
from sealwire.services.compliance.verification import StoredLog
from sealwire.services.compliance.verify import verify_export
from sealwire.services.compliance.walk import Walk
from sealwire.testing.compliance import ComplianceRoom, open_compliance

WINDOW_S = 2.0
ROUNDS = 3
CALLER = service_caller("gateway", "t0")


def state_change(i: int, tenants: int) -> AuditEntry:
    """The record of a message sent: ids only."""
    return AuditEntry(
        audit_id=new_id(),
        tenant_id=f"t{i % tenants}",
        actor=Actor(type="user", id=f"0190aaaa-bbbb-7ccc-8ddd-{i % 500:012d}"),
        action="message.created",
        resource_type="message",
        resource_id=new_id(),
        metadata={"conversation_id": "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee", "seq": i, "trace_id": f"{i:032x}"},
        created_at_us=time.time_ns() // 1000,
    )


def request(i: int, tenants: int) -> AuditEntry:
    """The record of an API request: address and user agent are sealed under the person's key."""
    person = f"0190aaaa-bbbb-7ccc-8ddd-{i % 500:012d}"
    return AuditEntry(
        audit_id=new_id(),
        tenant_id=f"t{i % tenants}",
        actor=Actor(type="user", id=person),
        action="POST_/api/v1/conversations/{conversation_id}/messages",
        resource_type="api_request",
        metadata={
            "method": "POST", "url": URL, "status_code": 201, "response_time_ms": 1.234, "trace_id": f"{i:032x}",
        },
        personal={"ip_address": "192.0.2.1", "user_agent": AGENT},
        subject_id=person,
        created_at_us=time.time_ns() // 1000,
    )  # fmt: skip


async def appends(
    folder: Path, make: Callable[[int, int], AuditEntry], *, batch: int, senders: int, tenants: int, window_s: float
) -> dict[str, float]:
    """Senders that each make a batch, have it stored durably, and go on. Making the batches is not counted."""
    async with open_compliance(folder, config=ComplianceConfig(checkpoint_every_s=3600)) as room:
        warm = [make(i, tenants) for i in range(max(500, tenants))]
        await room.service.append(CALLER, AuditBatch(records=warm))
        gc.collect()
        gc.freeze()
        made_s = made_cpu_s = stored = 0.0
        end = time.perf_counter() + window_s

        async def sender(number: int) -> None:
            nonlocal made_s, made_cpu_s, stored
            i = number * batch
            while (began := time.perf_counter()) < end:
                began_cpu = time.process_time()
                records = [make(i + k, tenants) for k in range(batch)]
                made_s += time.perf_counter() - began
                made_cpu_s += time.process_time() - began_cpu
                await room.service.append(CALLER, AuditBatch(records=records))
                stored += batch
                i += batch * senders

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(sender(n) for n in range(senders)))
        took_s, cpu_s = time.perf_counter() - began - made_s, time.process_time() - cpu - made_cpu_s
        gc.unfreeze()
    return {"per_s": round(stored / took_s), "cpu_us_per_op": round(cpu_s / stored * 1e6, 1)}


def bound_appends(folder: Path, *, batch: int, window_s: float) -> dict[str, float]:
    """The least that a hash chain in SQLite costs: JSON, one SHA-256, one insert, COMMIT in FULL for each batch."""
    conn = apsw.Connection(str(folder / "bound.db"))
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=4000"):
        conn.execute(f"PRAGMA {pragma}").fetchall()
    conn.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, body BLOB, hash BLOB)")
    head, seq, made_s = b"\0" * 32, 0, 0.0
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < window_s:
        start = time.perf_counter()
        records = [request(seq + k, 1) for k in range(batch)]
        made_s += time.perf_counter() - start
        rows = []
        for record in records:
            seq += 1
            body = orjson.dumps(
                {"action": record.action, "actor": record.actor.id, "metadata": record.metadata, "prev": head.hex(),
                 "personal": record.personal, "seq": seq, "tenant_id": record.tenant_id, "id": record.audit_id},
                option=orjson.OPT_SORT_KEYS,
            )  # fmt: skip
            head = hashlib.sha256(body).digest()
            rows.append((seq, body, head))
        conn.execute("BEGIN IMMEDIATE")
        conn.executemany("INSERT INTO log VALUES (?, ?, ?)", rows)
        conn.execute("COMMIT")
    took_s, cpu_s = time.perf_counter() - began - made_s, time.process_time() - cpu - made_s
    conn.close()
    return {"per_s": round(seq / took_s), "cpu_us_per_op": round(cpu_s / seq * 1e6, 1)}


def bare_sync(folder: Path, window_s: float) -> dict[str, float]:
    """Overwrite 4 KiB and fdatasync, one after another."""
    fd = os.open(folder / "bare", os.O_RDWR | os.O_CREAT)
    block = os.urandom(4096)
    for i in range(64):
        os.pwrite(fd, block, i * 4096)
    os.fsync(fd)
    count, end = 0, time.perf_counter() + window_s
    while time.perf_counter() < end:
        os.pwrite(fd, block, count % 64 * 4096)
        os.fdatasync(fd)
        count += 1
    os.close(fd)
    return {"per_s": round(count / window_s)}


def bare_hash(bodies: list[bytes]) -> dict[str, float]:
    """Two SHA-256 of each record and nothing else: the bound of any verification of chain and tree."""
    began = time.perf_counter()
    for body in bodies:
        hashlib.sha256(body).hexdigest()
        hashlib.sha256(b"\0" + body).digest()
    return {"per_s": round(len(bodies) / (time.perf_counter() - began))}


def needed_hashes(bodies: list[bytes]) -> float:
    """Return records/s of the three SHA-256 that each needs and nothing else: its link, its leaf, its inner node."""
    began = time.perf_counter()
    for start in range(0, len(bodies), 256):
        part = bodies[start : start + 256]
        record_hashes(part)
        row = leaf_hashes(part)
        while len(row) > 1:
            row = pair_up(row[: len(row) & ~1])
    return len(bodies) / (time.perf_counter() - began)


async def reading(store: AuditStore, size: int) -> float:
    """Return records/s of reading them from storage and taking apart what binds each to its place."""
    began = time.perf_counter()
    for first in range(1, size + 1, 256):
        span = await store.span("t0", first, min(256, size + 1 - first))
        assert span is not None
        for body in span.bodies:
            read_link(body)
    return size / (time.perf_counter() - began)


async def _fill(room: ComplianceRoom, count: int) -> None:
    """As a log is in life: a request and the change it made, in turns."""
    for start in range(0, count, 500):
        records = [(request if k % 2 else state_change)(start + k, 1) for k in range(500)]
        await room.service.append(CALLER, AuditBatch(records=records))


async def verification(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """A log of `count` records verified where it is stored, and as an export without the server; proofs made."""
    async with open_compliance(folder, config=ComplianceConfig(checkpoint_every_s=3600)) as room:
        await _fill(room, count)
        store = room.stores.audit
        head = await store.head("t0")
        gc.collect()
        gc.freeze()
        seen: dict[str, list[float]] = {}
        bodies, lines = [], []
        for first in range(1, head.size + 1, 256):
            for r in await store.records("t0", first, 256):
                bodies.append(r.body)
                lines.append(line_of(r.body, r.hash) + b"\n")
        for _ in range(ROUNDS):
            for label, strict in (("verify, stored", False), ("verify, stored, canonical form too", True)):
                log = StoredLog(store=store, evidence=room.service._evidence, tenant_id="t0", progress=lambda n: None)
                log.walk = Walk(strict=strict)
                began = time.perf_counter()
                assert await log.verify(1, head.size, head) is None
                seen.setdefault(label, []).append(head.size / (time.perf_counter() - began))
            for label, strict in (("verify, export", False), ("verify, export, canonical form too", True)):
                began = time.perf_counter()
                assert verify_export(lines, strict=strict).ok
                seen.setdefault(label, []).append(head.size / (time.perf_counter() - began))
            seen.setdefault("bound: two SHA-256 a record", []).append(bare_hash(bodies)["per_s"])
            hashed, read = needed_hashes(bodies), await reading(store, head.size)
            seen.setdefault("bound: three SHA-256 a record, as needed", []).append(hashed)
            seen.setdefault("bound: reading and parsing alone", []).append(read)
            seen.setdefault("bound: the three, and reading and parsing", []).append(1 / (1 / hashed + 1 / read))
            began = time.perf_counter()
            for i in range(500):
                await room.service.inclusion(CALLER, InclusionQuery(seq=1 + i * 7919 % count, tree_size=count))
            seen.setdefault("inclusion proofs", []).append(500 / (time.perf_counter() - began))
        gc.unfreeze()
    return {label: {"per_s": round(median(rates))} for label, rates in seen.items()}


APPENDS: dict[str, dict[str, Any]] = {
    "append, batch 100, 1 sender": {"make": state_change, "batch": 100, "senders": 1, "tenants": 1},
    "append, batch 100, 8 senders": {"make": state_change, "batch": 100, "senders": 8, "tenants": 1},
    "append, batch 100, sealed": {"make": request, "batch": 100, "senders": 8, "tenants": 1},
    "append, batch 1,000": {"make": state_change, "batch": 1000, "senders": 2, "tenants": 1},
    "append, batch 1,000, 100 tenants": {"make": state_change, "batch": 1000, "senders": 4, "tenants": 100},
    "append, batch 100, 100 tenants": {"make": state_change, "batch": 100, "senders": 8, "tenants": 100},
    "append, batch 1, 64 senders": {"make": state_change, "batch": 1, "senders": 64, "tenants": 1},
    "append, batch 1, 100 tenants": {"make": state_change, "batch": 1, "senders": 64, "tenants": 100},
}


def measure(quick: bool) -> dict[str, Any]:
    """Return every figure; appends and their bound are interleaved, the median of the rounds counts."""
    rounds, window_s = (1, 0.5) if quick else (ROUNDS, WINDOW_S)
    seen: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(dir=".") as name:
        for round_ in range(rounds):
            folder = Path(name) / str(round_)
            folder.mkdir()
            seen.setdefault("bound: bare fdatasync", []).append(bare_sync(folder, window_s / 2))
            for batch in (100, 1000):
                place = folder / f"bound{batch}"
                place.mkdir()
                figure = bound_appends(place, batch=batch, window_s=window_s)
                seen.setdefault(f"bound: JSON, SHA-256, insert, batch {batch:,}", []).append(figure)
            for number, (label, options) in enumerate(APPENDS.items()):
                place = folder / str(number)
                place.mkdir()
                seen.setdefault(label, []).append(uvloop.run(appends(place, window_s=window_s, **options)))
        figures = {label: _median(found) for label, found in seen.items()}
        folder = Path(name) / "verify"
        folder.mkdir()
        figures |= uvloop.run(verification(folder, 5_000 if quick else 100_000))
        figures |= uvloop.run(middleware(Path(name), window_s))
    appended = figures["append, batch 100, 8 senders"]["per_s"]
    bound = figures["bound: JSON, SHA-256, insert, batch 100"]["per_s"]
    verified, hashed = figures["verify, stored"]["per_s"], figures["bound: two SHA-256 a record"]["per_s"]
    together = figures["bound: the three, and reading and parsing"]["per_s"]
    return {
        "figures": figures,
        "comparisons": [
            results.comparison("append, batch 100, against its bound", appended, bound, 1.0),
            results.comparison("append, batch 100, against 50,000/s", appended, 50_000, 1.0),
            results.comparison(
                "append, batch 1,000, against 50,000/s", figures["append, batch 1,000"]["per_s"], 50_000, 1.0
            ),
            results.comparison("verification against 250,000/s", verified, 250_000, 1.0),
            results.comparison("verification against bare hashing", verified, hashed, 0.4),
            results.comparison("verification against hashing, reading and parsing", verified, together, 0.8),
            *(
                results.comparison(f"{label} (µs)", figures[label]["us_per_op"], 10, 1.0, less_is_better=True)
                for label in ("middleware, record and spool", "middleware, all of it")
            ),
        ],
    }


def _median(found: list[dict[str, float]]) -> dict[str, float]:
    return sorted(found, key=lambda f: f["per_s"])[len(found) // 2]


if __name__ == "__main__":
    sys.exit(results.run(measure))
