"""The HTTP edge of media: its operations, tus 1.0.0 for uploads, and downloads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from sealwire.contracts.media import OPERATIONS
from sealwire.kit.caller import Caller
from sealwire.kit.exchange import Exchange, Headers
from sealwire.kit.http import Edge, Route
from sealwire.kit.operation import Degraded, Policy, RateClass
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Malformed, MethodNotAllowed, UnsupportedMedia
from sealwire.services.media import tus
from sealwire.services.media.ports import StoredFile
from sealwire.services.media.service import MediaService
from sealwire.services.media.uploads import Beginning, OffsetConflict

_UPLOADS: Final = "/media/uploads"
_UPLOAD: Final = "/media/uploads/{media_id}"
Handler = Callable[[Exchange, Caller], Awaitable[None]]


def routes(media: MediaService, edge: Edge) -> list[Route]:
    """Return all routes; the gateway leaves those out that are for services."""
    door = Tus(media)
    files = Files(media)
    take: dict[str, Any] = {
        "policy": Policy.CALLER, "needs": Permission.UPLOAD, "rate": RateClass.WRITE, "degraded": Degraded.READ_ONLY,
    }  # fmt: skip
    give: dict[str, Any] = {"needs": Permission.READ, "degraded": Degraded.ALLOW}
    return [
        *(edge.bind(operation, getattr(media, name)) for name, operation in OPERATIONS.items()),
        edge.stream("OPTIONS", _UPLOADS, door.options, policy=Policy.PUBLIC, summary="What of tus is spoken here"),
        edge.stream("POST", _UPLOADS, door.create, summary="Begin an upload (tus)", **take),
        edge.stream("OPTIONS", _UPLOAD, door.options, policy=Policy.PUBLIC, summary="What of tus is spoken here"),
        edge.stream("HEAD", _UPLOAD, door.head, summary="Where an upload stands (tus)", **take),
        edge.stream("PATCH", _UPLOAD, door.patch, summary="Send bytes of an upload (tus)", **take),
        edge.stream("DELETE", _UPLOAD, door.delete, summary="End an upload (tus)", **take),
        edge.stream("POST", _UPLOAD, door.override, summary="PATCH or DELETE by X-HTTP-Method-Override", **take),
        edge.stream("GET", "/media/{media_id}", files.get, policy=Policy.CALLER, summary="Download a file", **give),
        edge.stream("GET", "/media/{media_id}/shared", files.shared, policy=Policy.LINK, summary="Download by a link"),
    ]


class Files:
    """GET of files."""

    def __init__(self, media: MediaService) -> None:
        self._media = media

    async def get(self, exchange: Exchange, caller: Caller) -> None:
        """Answer GET and HEAD."""
        await self._media.downloads.answer(exchange, caller, exchange.params["media_id"])

    async def shared(self, exchange: Exchange, caller: Caller) -> None:
        """Answer GET and HEAD of a link; who it is for stands in the link. Raises: Malformed without one."""
        token = exchange.query.get("link", "")
        if not token:
            raise Malformed("The link is not whole.", path="link")
        media_id = exchange.params["media_id"]
        await self._media.downloads.answer(exchange, await self._media.links.read(token, media_id), media_id)


class Tus:
    """The tus protocol, https://tus.io/protocols/resumable-upload, version 1.0.0."""

    def __init__(self, media: MediaService) -> None:
        self._uploads = media.uploads
        self._max_bytes = media.config.max_file_bytes

    async def options(self, exchange: Exchange, caller: Caller) -> None:
        """Tell versions, extensions and limits."""
        await exchange.answer(204, b"", tus.options(self._max_bytes))

    async def create(self, exchange: Exchange, caller: Caller) -> None:
        """Begin an upload, with its first bytes where the client sends some (creation-with-upload)."""
        self._enter(exchange)
        partial, parts = tus.parse_concat(exchange.text_header(b"upload-concat", 65_536))
        metadata = tus.Metadata(exchange.text_header(b"upload-metadata", tus.MAX_METADATA_CHARS + 1))
        file = await self._uploads.begin(
            caller,
            Beginning(
                length=None if parts else self._length(exchange),
                meta=metadata.meta,
                conversation_id=metadata.conversation_id,
                partial=partial,
                parts=parts,
            ),
        )
        exchange.extra_headers.append((b"location", f"{exchange.path.rstrip('/')}/{file.media_id}".encode()))
        if exchange.header(b"content-type") == tus.OCTETS and not parts:
            file = await self._receive(exchange, caller, file.media_id, 0)
            exchange.extra_headers.append((b"upload-offset", b"%d" % file.offset))
        await exchange.answer(201, b"", self._expires(file))

    async def head(self, exchange: Exchange, caller: Caller) -> None:
        """Tell where an upload stands."""
        self._enter(exchange)
        file = await self._uploads.position(caller, exchange.params["media_id"])
        headers = [tus.NO_STORE, (b"upload-offset", b"%d" % file.offset), *self._expires(file)]
        if file.length is None:
            headers.append((b"upload-defer-length", b"1"))
        else:
            headers.append((b"upload-length", b"%d" % file.length))
        if file.partial:
            headers.append((b"upload-concat", b"partial"))
        elif file.parts:
            base = exchange.path.rpartition("/")[0]
            headers.append((b"upload-concat", f"final;{' '.join(f'{base}/{part}' for part in file.parts)}".encode()))
        await exchange.answer(200, b"", headers)

    async def patch(self, exchange: Exchange, caller: Caller) -> None:
        """Take bytes."""
        self._enter(exchange)
        if exchange.header(b"content-type") != tus.OCTETS:
            raise UnsupportedMedia(f"Send the bytes as {tus.OCTETS.decode()}.")
        media_id = exchange.params["media_id"]
        offset = tus.parse_number(exchange.text_header(b"upload-offset"), "Upload-Offset")
        if length := exchange.text_header(b"upload-length"):
            await self._uploads.set_length(caller, media_id, tus.parse_number(length, "Upload-Length"))
        file = await self._receive(exchange, caller, media_id, offset)
        headers = [(b"upload-offset", b"%d" % file.offset), *self._expires(file)]
        await exchange.answer(204, b"", headers)

    async def delete(self, exchange: Exchange, caller: Caller) -> None:
        """End an upload."""
        self._enter(exchange)
        await self._uploads.end(caller, exchange.params["media_id"])
        await exchange.answer(204)

    async def override(self, exchange: Exchange, caller: Caller) -> None:
        """Do what `X-HTTP-Method-Override` says, for clients that can send POST only. Raises: MethodNotAllowed."""
        handlers: dict[str, Handler] = {"PATCH": self.patch, "DELETE": self.delete, "HEAD": self.head}
        handler = handlers.get(exchange.text_header(b"x-http-method-override").upper())
        if handler is None:
            raise MethodNotAllowed("This path answers HEAD, PATCH, DELETE.", allow=["HEAD", "PATCH", "DELETE"])
        await handler(exchange, caller)

    async def _receive(self, exchange: Exchange, caller: Caller, media_id: str, offset: int) -> StoredFile:
        exchange.untimed = True  # the transfer's own watch ends what stalls
        checksum = tus.parse_checksum(exchange.text_header(b"upload-checksum"))
        try:
            return await self._uploads.receive(caller, media_id, offset, exchange.chunks(), checksum)
        except OffsetConflict as conflict:
            exchange.extra_headers.append((b"upload-offset", b"%d" % conflict.extra["offset"]))
            raise

    def _enter(self, exchange: Exchange) -> None:
        """Name the version in every answer, also of a fault. Raises: WrongVersion."""
        exchange.extra_headers.append(tus.RESUMABLE)
        if exchange.text_header(b"tus-resumable") != tus.VERSION:
            exchange.extra_headers.append((b"tus-version", tus.VERSION.encode()))
            raise tus.WrongVersion("Send Tus-Resumable: 1.0.0.")

    def _length(self, exchange: Exchange) -> int | None:
        """Return the announced length, None when it comes later. Raises: Malformed."""
        length, later = exchange.text_header(b"upload-length"), exchange.text_header(b"upload-defer-length")
        if bool(length) == bool(later) or later not in ("", "1"):
            raise Malformed("Send either Upload-Length or Upload-Defer-Length: 1.", path="Upload-Length")
        return tus.parse_number(length, "Upload-Length") if length else None

    def _expires(self, file: StoredFile) -> Headers:
        if file.expires_at_us is None:
            return []
        return [(b"upload-expires", tus.http_date(file.expires_at_us))]
