"""A media service on a folder, with the messaging, auth and crypto it needs: for tests that restart and race it."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterable, Iterable
from pathlib import Path
from typing import Any

from sealwire.adapters.embedded.blobs import FileBlobStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.adapters.embedded.media import MIGRATIONS, SqliteMediaStore
from sealwire.clients.crypto import KeyRing
from sealwire.contracts.media import OPERATIONS, Media
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.http import App, Edge
from sealwire.services.media.config import MediaConfig
from sealwire.services.media.routes import routes
from sealwire.services.media.scanning import SignatureScanner
from sealwire.services.media.service import MediaService
from sealwire.testing.asgi import Answer, ByName, Piece, ask
from sealwire.testing.messaging_room import MessagingRoom
from sealwire.testing.wirings import open_wiring

TUS = {"tus-resumable": "1.0.0"}
OCTETS = {**TUS, "content-type": "application/offset+octet-stream"}


def flip(path: Path, at: int) -> None:
    """Change one bit of the byte at `at`."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def metadata(**pairs: str) -> str:
    """Write `Upload-Metadata`."""
    return ",".join(f"{name} {b64encode(value.encode()).decode()}" for name, value in pairs.items())


class MediaRoom:
    """Media with its neighbours. Opening it again on the same folder is a restart."""

    def __init__(
        self, folder: Path, *, wiring: str = "direct", clock: Clock | None = None, config: MediaConfig | None = None
    ) -> None:
        self.folder = folder
        self.wiring = wiring
        self.config = config or MediaConfig()
        self.messages = MessagingRoom(folder, clock=clock)
        self.clock = self.messages.clock
        self.names = ByName()

    async def open(self) -> Media:
        """Start everything and return the service as its callers see it."""
        await self.messages.open()
        await self.open_media()
        return self.media

    async def open_media(self) -> None:
        """Start media alone."""
        self.db = Database.open(self.folder / "media.db", MIGRATIONS)
        self.store = SqliteMediaStore(self.db)
        self.blobs = FileBlobStore(self.folder / "blobs")
        self.service = MediaService(
            store=self.store,
            blobs=self.blobs,
            keys=KeyRing(crypto=self.messages.people.crypto, service="media", clock=self.clock),
            auth=self.messages.people.auth,
            messaging=self.messages.messaging,
            scanner=SignatureScanner(),
            clock=self.clock,
            config=self.config,
        )
        await self.service.start()
        self.media: Media = open_wiring(self.wiring, self.service, OPERATIONS, routes, clock=self.clock)
        self.app = App(routes(self.service, Edge(authenticate=self.names)))

    async def close_media(self) -> None:
        """Stop media alone."""
        await self.service.stop()
        await self.db.close()
        self.blobs.close()

    async def close(self) -> None:
        """Stop everything in order."""
        await self.close_media()
        await self.messages.close()

    async def again(self) -> None:
        """Restart media."""
        await self.close_media()
        await self.open_media()

    async def enter(self, name: str, *, tenant: str | None = None) -> Caller:
        """Register a person, log them in, and let them ask by their name."""
        caller = await self.messages.enter(name, tenant=tenant)
        self.names.callers[name] = caller
        return caller

    async def blob_of(self, media_id: str) -> Path:
        """Return where the bytes of a file lie that is one segment."""
        (segment,) = await self.store.segments(media_id)
        return self.folder / "blobs" / segment.blob_key[:2] / segment.blob_key

    async def ask(
        self,
        name: str,
        verb: str,
        target: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | Iterable[Piece] | AsyncIterable[bytes] = b"",
        leaves: bool = False,
        gate: asyncio.Event | None = None,
    ) -> Answer:
        """Ask as somebody."""
        return await ask(
            self.app,
            verb,
            target,
            headers={"authorization": name, **(headers or {})},
            body=body,
            leaves=leaves,
            gate=gate,
        )

    async def begin(self, name: str, length: int | None, **more: str) -> str:
        """Begin an upload; return its path. Keywords in capitals are headers, the others metadata."""
        headers = {**TUS, **{key.replace("_", "-").lower(): value for key, value in more.items() if key.isupper()}}
        pairs = {key: value for key, value in more.items() if not key.isupper()}
        if length is not None:
            headers["upload-length"] = str(length)
        if pairs:
            headers["upload-metadata"] = metadata(**pairs)
        answer = await self.ask(name, "POST", "/media/uploads", headers=headers)
        assert answer.status == 201, (answer.status, answer.body)
        return answer.headers["location"]

    async def send(self, name: str, where: str, offset: int, body: Any, **more: Any) -> Answer:
        """Send bytes of an upload. Further headers as keywords."""
        extra = {key.replace("_", "-"): value for key, value in more.items() if key not in ("leaves", "gate")}
        options = {key: value for key, value in more.items() if key in ("leaves", "gate")}
        headers = {**OCTETS, "upload-offset": str(offset), **extra}
        return await self.ask(name, "PATCH", where, headers=headers, body=body, **options)

    async def position(self, name: str, where: str) -> Answer:
        """Ask where an upload stands."""
        return await self.ask(name, "HEAD", where, headers=TUS)

    async def upload(self, name: str, data: bytes, **more: str) -> str:
        """Upload a file in one go; return its id."""
        where = await self.begin(name, len(data), **more)
        if data:
            answer = await self.send(name, where, 0, [data])
            assert answer.status == 204, (answer.status, answer.body)
        return where.rpartition("/")[2]
