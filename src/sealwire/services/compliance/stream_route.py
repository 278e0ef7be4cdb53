"""The live stream at the HTTP edge: server-sent events (WHATWG HTML section 9.2), `id` being the record's `seq`.

retry: 2000             once, first: how soon a client whose connection broke comes back
id, event, data         a record; `event` is `record`, or `ocsf`
event: lag              the reader is far behind; `data` says how many records
: heartbeat             nothing came for a while; `id` without data moves the place on over what didn't match
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol

from sealwire.contracts.audit import SlowReader, StreamQuery
from sealwire.contracts.audit_log import AuditRecord
from sealwire.kit.caller import Caller
from sealwire.kit.codec import convert_query, encode
from sealwire.kit.exchange import Disconnected, Exchange
from sealwire.kit.http import Edge, Route, Run
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Invalid
from sealwire.services.compliance.chain import line_of
from sealwire.services.compliance.live import Follower, Seen
from sealwire.services.compliance.ocsf import ocsf_event
from sealwire.services.compliance.ports import StoredRecord
from sealwire.services.compliance.remains import DamagedRecord

STREAM_PATH = "/compliance/audit/stream"
LAG_RECORDS = 1_000
"""Past this many records behind, a reader is told."""
_CHUNK_BYTES = 64 * 1024
_SSE = (b"content-type", b"text/event-stream; charset=utf-8")
_NO_STORE = (b"cache-control", b"no-store")
_UNBUFFERED = (b"x-accel-buffering", b"no")
_RETRY = b"retry: 2000\n\n"


class LiveSource(Protocol):
    """What the stream asks of the service."""

    heartbeat_s: float
    stall_s: float

    async def follow(self, caller: Caller, query: StreamQuery, after_seq: int | None) -> Follower: ...
    async def show(self, stored: StoredRecord) -> AuditRecord: ...


def stream_route(source: LiveSource, edge: Edge) -> Route:
    """Return the route of the live stream."""
    return edge.stream(
        "GET",
        STREAM_PATH,
        _stream(source),
        policy=Policy.CALLER,
        needs=Permission.READ_AUDIT,
        summary="The audit log as it grows, as server-sent events: id = seq, resumed by Last-Event-ID",
    )


def _stream(source: LiveSource) -> Run:
    async def run(exchange: Exchange, caller: Caller) -> None:
        query = convert_query(exchange.query, StreamQuery)
        after_seq = _last_event_id(exchange, query.after_seq)
        follower = await source.follow(caller, query, after_seq)
        gone = asyncio.ensure_future(_leave(exchange))
        gone.add_done_callback(lambda _: follower.close())
        try:
            await exchange.start(200, (_SSE, _NO_STORE, _UNBUFFERED))
            await _tell(exchange, source, follower, query)
        finally:
            follower.close()
            gone.cancel()

    return run


def _last_event_id(exchange: Exchange, after_seq: int | None) -> int | None:
    """Return where a client that comes back stopped. Raises: Invalid for an id that is no `seq`."""
    header = exchange.header(b"last-event-id")
    if not header:
        return after_seq
    if not header.isdigit() or len(header) > 18:
        raise Invalid("`Last-Event-ID` is the seq of a record.", path="$.last_event_id")
    return int(header)


async def _leave(exchange: Exchange) -> None:
    """Return when the client has gone."""
    with suppress(Disconnected):
        async for _ in exchange.chunks():
            pass
        await exchange.disconnected()


async def _tell(exchange: Exchange, source: LiveSource, follower: Follower, query: StreamQuery) -> None:
    """Write what the follower sees until it is closed. Raises: SlowReader."""
    await _write(exchange, _RETRY + _place(follower.at_seq), source.stall_s)
    lagging = False
    while (seen := await follower.next(source.heartbeat_s)) is not None:
        if not seen.records:
            await _write(exchange, b": heartbeat\n" + _place(seen.up_to_seq), source.stall_s)
            continue
        if (seen.behind > LAG_RECORDS) is not lagging:
            lagging = not lagging
            await _write(exchange, b'event: lag\ndata: {"behind":%d}\n\n' % seen.behind, source.stall_s)
        await _records(exchange, source, seen, query)
    await exchange.finish()


async def _records(exchange: Exchange, source: LiveSource, seen: Seen, query: StreamQuery) -> None:
    parts: list[bytes] = []
    size = 0
    for stored in seen.records:
        part = await _event(source, stored, query)
        parts.append(part)
        size += len(part)
        if size >= _CHUNK_BYTES:
            await _write(exchange, b"".join(parts), source.stall_s)
            parts, size = [], 0
    if parts:
        await _write(exchange, b"".join(parts), source.stall_s)


async def _event(source: LiveSource, stored: StoredRecord, query: StreamQuery) -> bytes:
    try:
        if query.format == "sealed":
            return b"id: %d\nevent: record\ndata: %b\n\n" % (stored.seq, line_of(stored.body, stored.hash))
        record = await source.show(stored)
    except ValueError:  # told, and passed: whoever comes back would stop there for good
        damaged = encode(DamagedRecord(stored.hash, stored.seq))
        return b"id: %d\nevent: damaged\ndata: %b\n\n" % (stored.seq, damaged)
    if query.format == "ocsf":
        return b"id: %d\nevent: ocsf\ndata: %b\n\n" % (stored.seq, encode(ocsf_event(record)))
    return b"id: %d\nevent: record\ndata: %b\n\n" % (stored.seq, encode(record))


def _place(seq: int) -> bytes:
    """Return an event without data: it moves the client's last event id and is not dispatched."""
    return b"id: %d\n\n" % seq


async def _write(exchange: Exchange, chunk: bytes, stall_s: float) -> None:
    try:
        async with asyncio.timeout(stall_s):
            await exchange.write(chunk)
    except TimeoutError:
        raise SlowReader from None
