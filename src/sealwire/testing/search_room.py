"""A search service on a folder, with the messaging, auth and crypto it needs: for tests that restart it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sealwire.adapters.embedded.index import IndexTuning, TantivySearchIndex
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.audit_log import AuditEntry
from sealwire.contracts.media import Media
from sealwire.contracts.search import OPERATIONS, Hits, Search, SearchQuery
from sealwire.kit.caller import Caller
from sealwire.kit.clock import SystemClock
from sealwire.services.search.config import SearchConfig
from sealwire.services.search.keys import SnapshotDataKeys
from sealwire.services.search.routes import routes
from sealwire.services.search.service import SearchService
from sealwire.testing.messaging_room import MessagingRoom
from sealwire.testing.wirings import open_wiring

QUICK = SearchConfig(linger_s=0.0, commit_every_s=0.01)


class SearchRoom:
    """Search with its neighbours. Opening it again on the same folder is a restart."""

    def __init__(self, folder: Path, *, media: Media, wiring: str = "direct", config: SearchConfig = QUICK) -> None:
        self.folder = folder
        self.wiring = wiring
        self.config = config
        self.media = media
        self.clock = SystemClock()
        self.records: list[AuditEntry] = []
        self.messages = MessagingRoom(folder, clock=self.clock)

    def put(self, entry: AuditEntry) -> None:
        """Keep an audit record, as the spool does."""
        self.records.append(entry)

    async def open(self) -> Search:
        """Start everything and return the service as its callers see it."""
        await self.messages.open()
        return await self.open_search()

    async def open_search(self) -> Search:
        """Start search alone."""
        self.ring = ring = KeyRing(crypto=self.messages.people.crypto, service="search", clock=self.clock)
        self.index = TantivySearchIndex(
            folder=self.folder / "search",
            keys=SnapshotDataKeys(ring),
            clock=self.clock,
            tuning=IndexTuning(commit_every_s=self.config.commit_every_s),
        )
        self.service = SearchService(
            index=self.index,
            messaging=self.messages.messaging,
            media=self.media,
            clock=self.clock,
            config=self.config,
            records=self,
        )
        await self.service.start()
        self.search: Search = open_wiring(self.wiring, self.service, OPERATIONS, routes, clock=self.clock)
        return self.search

    async def close(self) -> None:
        """Stop everything in order."""
        await self.service.stop()
        await self.messages.close()

    async def caught_up(self, within_s: float = 60.0) -> None:
        """Wait until everything announced can be found. Raises: TimeoutError."""
        async with asyncio.timeout(within_s):
            newest = await self.messages.stores.events.newest()
            while not self.service.indexer.built or self.service.indexer.position < newest:  # noqa: ASYNC110 - a position, no event to wait for
                await asyncio.sleep(0.005)
            await self.index.flush()

    async def find(self, who: Caller, q: str, **filters: object) -> Hits:
        """Search as somebody."""
        return await self.search.search(who, SearchQuery(q=q, **filters))  # type: ignore[arg-type]  # named by the test

    async def bodies(self, who: Caller, q: str, **filters: object) -> list[str]:
        """Search and return the snippets without their marks."""
        hits = await self.find(who, q, **filters)
        return [hit.snippet.replace("<mark>", "").replace("</mark>", "") for hit in hits.items]
