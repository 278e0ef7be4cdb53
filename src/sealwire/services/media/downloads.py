"""Downloads: a file, or ranges of it, opened chunk by chunk as the client takes them."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Sequence
from typing import Final, Literal, NamedTuple

from sealwire.contracts.media import MediaDamaged, MediaInfo, MediaNotFound, MediaQuarantined
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.exchange import Exchange, Headers
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Problem, Unavailable
from sealwire.services.media.access import Access, require
from sealwire.services.media.config import MediaConfig
from sealwire.services.media.events import media_event
from sealwire.services.media.examination import Facts, decode_facts
from sealwire.services.media.looks import Looks
from sealwire.services.media.model import FileState, content_disposition
from sealwire.services.media.ports import MediaStore, StoredFile
from sealwire.services.media.ranges import ByteRange, Unsatisfiable, parse_range
from sealwire.services.media.sniffing import OCTETS
from sealwire.services.media.transfers import Transfer, Transfers
from sealwire.services.media.uploads import Uploads
from sealwire.services.media.vault import Vault

_STATUS: Final[dict[FileState, Literal["scanning", "clean", "quarantined"]]] = {
    FileState.SCANNING: "scanning",
    FileState.CLEAN: "clean",
    FileState.QUARANTINED: "quarantined",
}
"""The states of a complete file, as the contract names them."""
# With what every answer of an app carries (nosniff, no frames, same origin): a file runs nothing and shows nothing.
_SAFE: Final[Headers] = [
    (b"content-security-policy", b"default-src 'none'; sandbox"),
    (b"accept-ranges", b"bytes"),
]
_log = logging.getLogger("sealwire.media")
_FRESH: Final = (b"cache-control", b"private, no-cache")


class RangeNotSatisfiable(Problem):
    """The file has no such bytes; `size_bytes` tells how many it has."""

    code, title, status = "range_not_satisfiable", "The file has no such bytes", 416


class _Body(NamedTuple):
    """Bytes of a file, the first of them opened."""

    first: bytes
    rest: AsyncIterator[bytes]


class Downloads:
    """Gives files out."""

    def __init__(
        self,
        *,
        store: MediaStore,
        vault: Vault,
        access: Access,
        transfers: Transfers,
        uploads: Uploads,
        looks: Looks,
        clock: Clock,
        config: MediaConfig,
    ) -> None:
        self._store = store
        self._vault = vault
        self._access = access
        self._transfers = transfers
        self._uploads = uploads
        self._looks = looks
        self._clock = clock
        self._config = config

    async def find(self, caller: Caller, media_id: str) -> StoredFile:
        """Return a complete file that the caller may read. Raises: MediaNotFound."""
        require(caller, Permission.READ)
        file = await self._store.file(caller.tenant_id, media_id)
        if file is None or file.state not in _STATUS:
            raise MediaNotFound
        await self._access.require_read(caller, file)
        return file

    async def describe(self, file: StoredFile) -> MediaInfo:
        """Return what may be told of a complete file."""
        meta = await self._uploads.meta(file)
        facts = await self.facts(file)
        return MediaInfo(
            media_id=file.media_id,
            tenant_id=file.tenant_id,
            owner_id=file.owner_id,
            filename=meta.filename,
            content_type=facts.content_type or OCTETS,
            size_bytes=file.offset,
            sha256=facts.sha256,
            status=_STATUS[file.state],
            created_at=rfc3339(file.created_at_us),
            conversation_id=file.conversation_id,
        )

    async def facts(self, file: StoredFile) -> Facts:
        """Return what is known of a file's contents: nothing before it was looked at."""
        if not file.facts:
            return Facts()
        return decode_facts(
            await self._vault.open_note(
                file.tenant_id, file.owner_id, file.conversation_id, file.media_id, "media-facts", file.facts
            )
        )

    async def answer(self, exchange: Exchange, caller: Caller, media_id: str) -> None:
        """Answer GET and HEAD (RFC 9110 sections 13 to 15).

        Where its bytes can't be read any more, what is whole in front of that is sent, and the answer is broken off.
        Raises: MediaNotFound, MediaQuarantined, RangeNotSatisfiable, Unavailable while it is being scanned;
        MediaDamaged, which the log and the audit log hear of too.
        """
        file = await self._ready(caller, media_id)
        try:
            await self._answer(exchange, caller, file)
        except MediaDamaged as damaged:
            reason = str(damaged.extra.get("reason", ""))
            _log.error("the file %s can't be read any more: %s", media_id, reason)
            event = media_event(
                caller, "media.damaged", media_id=media_id, at_us=self._clock.now_us(), owner_id=file.owner_id,
                conversation_id=file.conversation_id, size_bytes=file.offset, detail=reason, outcome="failure",
            )  # fmt: skip
            await self._store.tell(event)
            raise

    async def _answer(self, exchange: Exchange, caller: Caller, file: StoredFile) -> None:
        info = await self.describe(file)
        etag = f'"{info.sha256[:32]}"'
        headers = [*_SAFE, _FRESH, (b"etag", etag.encode())]
        if _matches(exchange.text_header(b"if-none-match", 4096), etag):
            await exchange.answer(304, b"", headers)
            return
        size = file.offset
        ranges: list[ByteRange] = []
        asked = exchange.text_header(b"range", 1024)
        if asked and exchange.text_header(b"if-range", 256) in ("", etag):
            try:
                ranges = parse_range(asked, size)
            except Unsatisfiable:
                exchange.extra_headers.append((b"content-range", b"bytes */%d" % size))
                raise RangeNotSatisfiable(f"The file has {size} bytes.", size_bytes=size) from None
        headers.append((b"content-disposition", content_disposition(info.filename).encode()))
        await self._send(exchange, caller, file, info.content_type.encode(), headers, ranges)

    async def _ready(self, caller: Caller, media_id: str) -> StoredFile:
        """Return a file that is clean, waiting a little for a scan under way."""
        file = await self.find(caller, media_id)
        if file.state is FileState.SCANNING:
            await self._looks.wait(media_id, self._config.scan_wait_s)
            file = await self.find(caller, media_id)
        if file.state is FileState.SCANNING:
            raise Unavailable("The file is being scanned; ask again in a moment.", retry_after_s=1)
        if file.state is FileState.QUARANTINED:
            raise MediaQuarantined
        return file

    async def _send(
        self,
        exchange: Exchange,
        caller: Caller,
        file: StoredFile,
        kind: bytes,
        headers: Headers,
        ranges: Sequence[ByteRange],
    ) -> None:
        size = file.offset
        if len(ranges) > 1:
            await self._send_parts(exchange, caller, file, kind, headers, ranges)
            return
        start, end = ranges[0] if ranges else (0, size)
        headers = [*headers, (b"content-type", kind), (b"content-length", b"%d" % (end - start))]
        if ranges:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size)))
        with self._transfers.track(caller, file.media_id, file.conversation_id) as transfer:
            body = None if exchange.method == "HEAD" else await self._begin(file, start, end)
            await exchange.start(206 if ranges else 200, headers)
            if body is not None:
                await self._write(exchange, transfer, *body)
            await exchange.finish()

    async def _send_parts(
        self,
        exchange: Exchange,
        caller: Caller,
        file: StoredFile,
        kind: bytes,
        headers: Headers,
        ranges: Sequence[ByteRange],
    ) -> None:
        """Answer several ranges as multipart/byteranges (RFC 9110 section 14.6)."""
        boundary = os.urandom(16).hex().encode()
        heads = [
            b"--%s\r\ncontent-type: %s\r\ncontent-range: bytes %d-%d/%d\r\n\r\n"
            % (boundary, kind, start, end - 1, file.offset)
            for start, end in ranges
        ]
        tail = b"--%s--\r\n" % boundary
        length = len(tail) + sum(len(head) + r.end - r.start + 2 for head, r in zip(heads, ranges, strict=True))
        headers = [
            *headers,
            (b"content-type", b"multipart/byteranges; boundary=" + boundary),
            (b"content-length", b"%d" % length),
        ]
        with self._transfers.track(caller, file.media_id, file.conversation_id) as transfer:
            body = None if exchange.method == "HEAD" else await self._begin(file, *ranges[0])
            await exchange.start(206, headers)
            if body is None:
                await exchange.finish()
                return
            for head, (start, end) in zip(heads, ranges, strict=True):
                await transfer.wait(exchange.write, head)
                await self._write(exchange, transfer, *(body or await self._begin(file, start, end)))
                body = None
                await transfer.wait(exchange.write, b"\r\n")
            await exchange.finish(tail)

    async def _begin(self, file: StoredFile, start: int, end: int) -> _Body:
        """Open the first bytes, before anything is answered: a file that is damaged there is refused with a reason."""
        segments = await self._store.segments(file.media_id)
        rest = self._vault.read_all(file.tenant_id, file.owner_id, segments, start, end)
        return _Body(await anext(rest, b""), rest)

    @staticmethod
    async def _write(exchange: Exchange, transfer: Transfer, first: bytes, rest: AsyncIterator[bytes]) -> None:
        if first:
            await transfer.wait(exchange.write, first)
        async for data in rest:
            await transfer.wait(exchange.write, data)


def _matches(header: str, etag: str) -> bool:
    """Compare `If-None-Match` weakly (RFC 9110 section 13.1.2)."""
    return header.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in header.split(","))
