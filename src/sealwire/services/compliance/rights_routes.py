"""The route that gives out an export's archive."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from sealwire.contracts.gdpr import DOWNLOAD_PATH
from sealwire.kit.caller import Caller
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import Edge, Route, Run
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Permission


class ArchiveSource(Protocol):
    """What the route reads."""

    async def download(self, caller: Caller, job_id: str) -> tuple[int, AsyncGenerator[bytes, None]]: ...


def rights_routes(source: ArchiveSource, edge: Edge) -> list[Route]:
    """Return the raw routes of people's rights; all others are derived from their operations."""
    return [
        edge.stream(
            "GET",
            DOWNLOAD_PATH,
            _download(source),
            policy=Policy.CALLER,
            needs=Permission.OWN_DATA,
            summary="Fetch an export's ZIP, once, in a session of who asked for it",
        )
    ]


def _download(source: ArchiveSource) -> Run:
    async def run(exchange: Exchange, caller: Caller) -> None:
        size_bytes, parts = await source.download(caller, str(exchange.params["job_id"]))
        headers = (
            (b"content-type", b"application/zip"),
            (b"content-length", b"%d" % size_bytes),
            (b"content-disposition", b'attachment; filename="export.zip"'),
            (b"cache-control", b"no-store"),
        )
        async with aclosing(parts):
            await exchange.start(200, headers)
            async for part in parts:
                await exchange.write(part)
            await exchange.finish()

    return run
