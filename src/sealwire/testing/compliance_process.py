"""Compliance in a process of its own, that can be killed: takes batches of audit records on a Unix socket.

    python -m sealwire.testing.compliance_process FOLDER SOCKET

A batch is a line of JSON (`AuditBatch`); the answer is a line `ok <accepted> <duplicates>`, `conflict`, or `no <why>`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sealwire.contracts.audit_log import AuditBatch, AuditConflict, AuditEntry
from sealwire.kit.caller import service_caller
from sealwire.kit.problem import Problem, Unavailable
from sealwire.testing.compliance import open_compliance

LINE_BYTES = 64 * 1024 * 1024
_CALLER = service_caller("gateway", "system")


async def serve(folder: Path, path: Path) -> None:
    """Serve until killed. Says `ready` once it does."""
    async with open_compliance(folder) as room:

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                try:
                    taken = await room.service.append(_CALLER, msgspec.json.decode(line, type=AuditBatch))
                    said = f"ok {taken.accepted} {taken.duplicates}"
                except AuditConflict:
                    said = "conflict"
                except Problem as problem:
                    said = f"no {problem.code}"
                writer.write(said.encode() + b"\n")
                await writer.drain()

        server = await asyncio.start_unix_server(answer, path, limit=LINE_BYTES)
        os.write(1, b"ready\n")
        await server.serve_forever()


class FarCompliance:
    """The sender's end: `deliver` for a spool. Opens the connection anew whenever it broke."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def deliver(self, entries: Sequence[AuditEntry]) -> None:
        """Hand records over. Raises: Unavailable, AssertionError for a conflict, which no resending may cause."""
        try:
            if self._ends is None:
                self._ends = await asyncio.open_unix_connection(self._path)
            reader, writer = self._ends
            writer.write(msgspec.json.encode(AuditBatch(records=list(entries))) + b"\n")
            await writer.drain()
            said = await reader.readline()
        except OSError as error:
            self._ends = None
            raise Unavailable(f"compliance is away: {error}") from None
        if not said.endswith(b"\n"):
            self._ends = None
            raise Unavailable("compliance went away")
        assert said != b"conflict\n", "a record came twice with different content"
        if not said.startswith(b"ok"):
            raise Unavailable(said.decode())


if __name__ == "__main__":
    Path(sys.argv[2]).unlink(missing_ok=True)
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
