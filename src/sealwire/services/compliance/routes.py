"""The HTTP edge of compliance: every operation bound to its use case, and what is no JSON: export, tiles, the note."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec

from sealwire.contracts.compliance import CHECKPOINT, OPERATIONS, Compliance
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, convert_query, encode
from sealwire.kit.exchange import JSON, Exchange
from sealwire.kit.http import Edge, Route, Run
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Invalid
from sealwire.services.compliance.chain import line_of
from sealwire.services.compliance.ports import StoredRecord
from sealwire.services.compliance.stream_route import LiveSource, stream_route
from sealwire.services.compliance.verify import PrunedLine, PrunedRecord, write_pruned

EXPORT_PATH = "/compliance/audit/export"
TILE_PATH = "/compliance/audit/tile/*"
_RECORDS_A_CHUNK = 256
_NDJSON = (b"content-type", b"application/x-ndjson")
_NOTE = (b"content-type", b"text/plain; charset=utf-8")
_BYTES = (b"content-type", b"application/octet-stream")
_NO_STORE = (b"cache-control", b"no-store")
_IMMUTABLE = (b"cache-control", b"private, max-age=31536000, immutable")


class ExportQuery(Input):
    """A range of records, inclusive; without it all. `checkpoint` puts the signed checkpoint over the whole log first,
    as the line `{"checkpoint": "<note>"}`, so that the file alone can be verified with the public key."""

    from_seq: Annotated[int, msgspec.Meta(ge=1)] | None = None
    to_seq: Annotated[int, msgspec.Meta(ge=1)] | None = None
    checkpoint: bool = False


class AuditSource(Compliance, LiveSource, Protocol):
    """The contract, and what the streams read beside it."""

    async def tile(self, caller: Caller, path: str) -> bytes: ...
    async def records(self, caller: Caller, first_seq: int, limit: int) -> Sequence[StoredRecord]: ...
    async def log_size(self, caller: Caller) -> int: ...


def routes(compliance: AuditSource, edge: Edge) -> list[Route]:
    """Return all routes; the gateway leaves those out that are for services."""
    bound = [edge.bind(op, getattr(compliance, name)) for name, op in OPERATIONS.items() if op is not CHECKPOINT]
    checkpoint = edge.bind(CHECKPOINT, compliance.checkpoint)
    assert checkpoint.run is not None  # bound
    return [
        *bound,
        msgspec.structs.replace(checkpoint, run=_checkpoint(compliance)),
        edge.stream(
            "GET",
            EXPORT_PATH,
            _export(compliance),
            policy=Policy.CALLER,
            needs=Permission.READ_AUDIT,
            summary="The audit log as NDJSON: one canonical record a line, in seq order, sealed fields sealed",
        ),
        edge.stream(
            "GET",
            TILE_PATH,
            _tile(compliance),
            policy=Policy.CALLER,
            needs=Permission.READ_AUDIT,
            summary="The audit log as C2SP tlog-tiles: tile/<level>/<number>[.p/<width>], tile/entries/<number>",
        ),
        stream_route(compliance, edge),
    ]


def _checkpoint(compliance: AuditSource) -> Run:
    """The bare signed note, as tlog-tiles clients read it; for `Accept: application/json` with its root and key."""

    async def run(exchange: Exchange, caller: Caller) -> None:
        checkpoint = await compliance.checkpoint(caller)
        if b"application/json" in (exchange.header(b"accept") or b""):
            await exchange.answer(200, encode(checkpoint), (JSON, _NO_STORE))
        else:
            await exchange.answer(200, checkpoint.checkpoint.encode(), (_NOTE, _NO_STORE))

    return run


def _export(compliance: AuditSource) -> Run:
    async def run(exchange: Exchange, caller: Caller) -> None:
        query = convert_query(exchange.query, ExportQuery)
        head = b""
        if query.checkpoint:
            checkpoint = await compliance.checkpoint(caller)
            size = checkpoint.tree_size
            head = encode({"checkpoint": checkpoint.checkpoint}) + b"\n"
        else:
            size = await compliance.log_size(caller)
        first, last = query.from_seq or 1, min(query.to_seq or size, size)
        if query.to_seq is not None and query.to_seq < first:
            raise Invalid("`to_seq` is not below `from_seq`.", path="$.to_seq")
        name = b'attachment; filename="audit.ndjson"'
        await exchange.start(200, (_NDJSON, _NO_STORE, (b"content-disposition", name)))
        if head:
            await exchange.write(head)
        while first <= last:
            records = await compliance.records(caller, first, min(_RECORDS_A_CHUNK, last - first + 1))
            if records:
                await exchange.write(b"".join([export_line(r) for r in records]))
            first += _RECORDS_A_CHUNK
        await exchange.finish()

    return run


def export_line(record: StoredRecord) -> bytes:
    """Return a record's line in an export: the record with its hash, or what is left of a pruned one."""
    if record.leaf:
        return write_pruned(PrunedLine(PrunedRecord(record.hash, record.leaf.hex(), record.seq))) + b"\n"
    return line_of(record.body, record.hash) + b"\n"


def _tile(compliance: AuditSource) -> Run:
    async def run(exchange: Exchange, caller: Caller) -> None:
        path = exchange.params["rest"]
        body = await compliance.tile(caller, path)
        await exchange.answer(200, body, (_BYTES, _IMMUTABLE))

    return run
