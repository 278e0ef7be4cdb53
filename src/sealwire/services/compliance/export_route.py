"""The export and the bundle of evidence at the HTTP edge: files that are verified without the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import Protocol

from sealwire.contracts.audit import EvidenceQuery, ExportQuery, SlowReader
from sealwire.contracts.audit_log import AuditRecord, Checkpoint, LogQuery
from sealwire.kit.caller import Caller
from sealwire.kit.codec import convert_query, encode
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import Edge, Route, Run
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Invalid
from sealwire.services.compliance.manifest import CheckpointLine, End, EndLine, Manifest, ManifestLine, write_line
from sealwire.services.compliance.ocsf import ocsf_event
from sealwire.services.compliance.ports import StoredRecord
from sealwire.services.compliance.remains import PrunedLine, PrunedRecord, line_or_damage, write_pruned
from sealwire.services.compliance.turns import Turns

EXPORT_PATH = "/compliance/audit/export"
EVIDENCE_PATH = "/compliance/audit/evidence"
_RECORDS_A_CHUNK = 256
_NDJSON = (b"content-type", b"application/x-ndjson")
_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")


class ExportSource(Protocol):
    """What exports ask of the service."""

    evidence_turns: Turns
    stall_s: float
    evidence_s: float

    async def checkpoint(self, caller: Caller, query: LogQuery = ...) -> Checkpoint: ...
    async def manifest(self, caller: Caller, query: ExportQuery) -> Manifest: ...
    async def evidence(self, caller: Caller, query: EvidenceQuery) -> AsyncIterator[bytes]: ...
    async def records(
        self, caller: Caller, first_seq: int, limit: int, tenant_id: str | None = None
    ) -> Sequence[StoredRecord]: ...
    async def pruned_since(self, caller: Caller, seq: int, tenant_id: str | None = None) -> bool: ...
    async def log_size(self, caller: Caller, tenant_id: str | None = None) -> int: ...
    async def show(self, stored: StoredRecord) -> AuditRecord: ...


def export_routes(source: ExportSource, edge: Edge) -> list[Route]:
    """Return the routes of export and evidence."""
    return [
        edge.stream(
            "GET",
            EXPORT_PATH,
            _export(source),
            policy=Policy.CALLER,
            needs=Permission.READ_AUDIT,
            summary="The audit log as NDJSON: one canonical record a line, in seq order, sealed fields sealed",
        ),
        edge.stream(
            "GET",
            EVIDENCE_PATH,
            _evidence(source),
            policy=Policy.CALLER,
            needs=Permission.READ_AUDIT,
            step_up=True,
            summary="Evidence in one file: records with inclusion proofs, the signed checkpoint, the public keys",
        ),
    ]


def export_line(record: StoredRecord) -> bytes:
    """Return a record's line in an export: the record with its hash, or what is left of a pruned or damaged one."""
    if record.leaf:
        return write_pruned(PrunedLine(PrunedRecord(record.hash, record.leaf.hex(), record.seq))) + b"\n"
    return line_or_damage(record.body, record.hash, record.seq) + b"\n"


def _export(source: ExportSource) -> Run:
    async def run(exchange: Exchange, caller: Caller) -> None:
        query = convert_query(exchange.query, ExportQuery)
        if query.to_seq is not None and query.to_seq < (query.from_seq or 1):
            raise Invalid("`to_seq` may not be below `from_seq`.", path="$.to_seq")
        head, size, keys = await _head(source, caller, query)
        name = b'attachment; filename="audit.ndjson"'
        await exchange.start(200, (_NDJSON, _NO_STORE, (b"content-disposition", name)))
        written, count = sha256(head), 0
        if head:
            await exchange.write(head)
        async for chunk, records in _parts(source, caller, query, size, keys):
            written.update(chunk)
            if chunk:
                await exchange.write(chunk)
            count += records
        if query.manifest:
            await exchange.write(write_line(EndLine(End(records=count, sha256=written.hexdigest()))) + b"\n")
        await exchange.finish()

    return run


async def _head(source: ExportSource, caller: Caller, query: ExportQuery) -> tuple[bytes, int, int]:
    """Return what stands before the records, the size of the log the export is of, and how many keys it had."""
    if query.manifest:
        manifest = await source.manifest(caller, query)
        return write_line(ManifestLine(manifest)) + b"\n", manifest.tree_size, len(manifest.rotations)
    if query.checkpoint:
        c = await source.checkpoint(caller, LogQuery(tenant_id=query.tenant_id))
        return write_line(CheckpointLine(c.checkpoint)) + b"\n", c.tree_size, len(c.rotations)
    return b"", await source.log_size(caller, query.tenant_id), 0


async def _parts(
    source: ExportSource, caller: Caller, query: ExportQuery, size: int, rotations: int
) -> AsyncIterator[tuple[bytes, int]]:
    """Yield what stands behind the head, and how many records each part holds.

    What retention takes while it is read is named by records behind the checkpoint: then those follow, and a newer one.
    """
    signed = query.format == "sealed" and (query.manifest or query.checkpoint)
    whole = signed and query.from_seq in {None, 1} and query.to_seq is None
    first, last, note = query.from_seq or 1, min(query.to_seq or size, size), b""
    while True:
        gone = False
        while first <= last:
            records = await source.records(caller, first, min(_RECORDS_A_CHUNK, last - first + 1), query.tenant_id)
            gone = gone or any(r.leaf for r in records)
            yield await _lines(source, records, query), len(records)
            first = min(first + _RECORDS_A_CHUNK, last + 1)
        if note:
            yield note, 0
        if not (gone and whole and await source.pruned_since(caller, last, query.tenant_id)):
            return
        now = await source.checkpoint(caller, LogQuery(tenant_id=query.tenant_id))
        note = write_line(CheckpointLine(now.checkpoint, now.rotations[rotations:])) + b"\n"
        last, rotations = now.tree_size, len(now.rotations)


async def _lines(source: ExportSource, records: Sequence[StoredRecord], query: ExportQuery) -> bytes:
    if query.format == "sealed":
        return b"".join([export_line(r) for r in records])
    lines: list[bytes] = []
    for record in records:
        with suppress(ValueError):  # damaged: an event that nobody can tell
            lines += [encode(ocsf_event(await source.show(record))) + b"\n"] if record.body else []
    return b"".join(lines)


def _evidence(source: ExportSource) -> Run:
    async def run(exchange: Exchange, caller: Caller) -> None:
        query = convert_query(exchange.query, EvidenceQuery)
        with source.evidence_turns.one(caller.tenant_id):
            parts = await source.evidence(caller, query)
            name = b'attachment; filename="evidence.json"'
            await exchange.start(200, (_JSON, _NO_STORE, (b"content-disposition", name)))
            async with _within(source.evidence_s, "the reader of a bundle takes too long"):
                async for part in parts:
                    async with _within(source.stall_s, "the reader of a bundle takes nothing"):
                        await exchange.write(part)
                async with _within(source.stall_s, "the reader of a bundle takes nothing"):
                    await exchange.finish()

    return run


@asynccontextmanager
async def _within(limit_s: float, otherwise: str) -> AsyncIterator[None]:
    """Raise SlowReader after so long: others wait for the turn."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise SlowReader(otherwise) from None
