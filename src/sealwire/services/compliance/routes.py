"""The HTTP edge of compliance: every operation bound to its use case, and what is no JSON: export, tiles, notes."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from sealwire.contracts.accountability import OPERATIONS
from sealwire.contracts.audit_log import CHECKPOINT, Checkpoint, LogQuery
from sealwire.contracts.compliance import Compliance
from sealwire.contracts.witness import COSIGNED, CosignedCheckpoint, Witnessing
from sealwire.kit.caller import Caller
from sealwire.kit.codec import convert_query, encode
from sealwire.kit.exchange import JSON, Exchange
from sealwire.kit.http import Edge, Route, Run
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Permission
from sealwire.services.compliance.export_route import ExportSource, export_routes
from sealwire.services.compliance.rights_routes import ArchiveSource, rights_routes
from sealwire.services.compliance.stream_route import LiveSource, stream_route

_VARY = (b"vary", b"accept-encoding")
_GZIP = (b"content-encoding", b"gzip")
_QUICK = 1
TILE_PATH = "/compliance/audit/tile/*"
_NOTE = (b"content-type", b"text/plain; charset=utf-8")
_BYTES = (b"content-type", b"application/octet-stream")
_NO_STORE = (b"cache-control", b"no-store")
_IMMUTABLE = (b"cache-control", b"private, max-age=31536000, immutable")


class AuditSource(Compliance, Witnessing, LiveSource, ExportSource, ArchiveSource, Protocol):
    """The contract, and what the streams read beside it."""

    async def tile(self, caller: Caller, path: str, tenant_id: str | None = None) -> bytes: ...


def routes(compliance: AuditSource, edge: Edge) -> list[Route]:
    """Return all routes; the gateway leaves those out that are for services."""
    notes = {CHECKPOINT.name: _note(compliance.checkpoint), COSIGNED.name: _note(compliance.cosigned)}
    bound = {name: edge.bind(op, getattr(compliance, name)) for name, op in OPERATIONS.items()}
    return [
        *(msgspec.structs.replace(route, run=notes.get(name, route.run)) for name, route in bound.items()),
        *rights_routes(compliance, edge),
        *export_routes(compliance, edge),
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


def _note(read: Callable[[Caller, LogQuery], Awaitable[Checkpoint | CosignedCheckpoint]]) -> Run:
    """The bare signed note, as tlog-tiles clients read it; for `Accept: application/json` with its root and key."""

    async def run(exchange: Exchange, caller: Caller) -> None:
        checkpoint = await read(caller, convert_query(exchange.query, LogQuery))
        if b"application/json" in (exchange.header(b"accept") or b""):
            await exchange.answer(200, encode(checkpoint), (JSON, _NO_STORE))
        else:
            await exchange.answer(200, checkpoint.checkpoint.encode(), (_NOTE, _NO_STORE))

    return run


def _tile(compliance: AuditSource) -> Run:
    async def run(exchange: Exchange, caller: Caller) -> None:
        path = exchange.params["rest"]
        query = convert_query(exchange.query, LogQuery)
        body = await compliance.tile(caller, path, query.tenant_id)
        if not path.startswith("entries/"):  # hashes grow no smaller
            await exchange.answer(200, body, (_BYTES, _IMMUTABLE))
        elif b"gzip" in (exchange.header(b"accept-encoding") or b""):
            await exchange.answer(200, gzip.compress(body, _QUICK, mtime=0), (_BYTES, _IMMUTABLE, _VARY, _GZIP))
        else:
            await exchange.answer(200, body, (_BYTES, _IMMUTABLE, _VARY))

    return run
