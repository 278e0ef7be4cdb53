"""The indexer: follows messaging's publications and keeps the index in step, from where its snapshot ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from random import Random

import msgspec

from sealwire.contracts.media import InfoQuery, Media
from sealwire.contracts.messages import Message
from sealwire.contracts.messaging import Messaging
from sealwire.contracts.messaging_stream import FROM_NOW, CatalogueQuery, Publication, PublicationQuery
from sealwire.contracts.publications import MessageDeleted, MessagePublished, MessagesPurged
from sealwire.contracts.search import SERVICE
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.problem import Problem
from sealwire.kit.tasks import cancel_and_wait
from sealwire.ports.index import IndexFault, Put, Remove, SearchIndex
from sealwire.services.search.config import SearchConfig
from sealwire.services.search.model import entries_of

BATCH = 500
MOST_UNANNOUNCED = 100_000
WAIT_MS = 1_000
"""Below what messaging's breaker takes for a slow call."""
BACKOFF_CAP_S = 5.0
_log = logging.getLogger("sealwire.search")
_message = msgspec.json.Decoder(MessagePublished)
_deleted = msgspec.json.Decoder(MessageDeleted)
_purged = msgspec.json.Decoder(MessagesPurged)


class Indexer:
    """A task that reads, turns events into changes, and applies them: at least once, in order, for good.

    Its position is the index's own (`SearchIndex.replay_from`), so a crash repeats what the last snapshot doesn't hold
    and nothing else; where it has none, everything is read from messaging's catalogue. A failure is tried again after
    a pause with jitter and shows in `failures`.
    """

    def __init__(
        self, *, index: SearchIndex, messaging: Messaging, media: Media, clock: Clock, config: SearchConfig, rng: Random
    ) -> None:
        self._index = index
        self._messaging = messaging
        self._media = media
        self._clock = clock
        self._config = config
        self._rng = rng
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._waiting_since_s: float | None = None
        self._caller = service_caller(SERVICE, SYSTEM_TENANT)
        self.built = False
        self._joined = False
        """Whether the stream was seen to go on right behind the position."""
        self._place = 0
        self._loaded: dict[str, int] = {}
        """Per conversation the highest `seq` read from the catalogue: what the stream tells of those is not news."""
        self._loaded_until = 0
        self.position = 0
        self._last = ""
        self._mark = ""
        """Of the stream that the restored index was made from, until messaging has said whether it still has it."""
        self.newest = 0
        self.failures = 0
        self.last_error = ""

    def start(self, *, anew: bool = False) -> None:
        """Begin after the position that the index names, or with everything `anew`."""
        self.position, self._last = self._index.replay_from(), ""
        self._mark = "" if anew else self._index.mark()
        self.built = self.position > 0 and not anew
        self._place = 0
        self._joined = False
        self._stopping.clear()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="search-indexer")

    async def stop(self) -> None:
        """End; what was read is applied before or read again after the next start."""
        self._stopping.set()
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self.step(wait_ms=WAIT_MS)
                self.failures, self.last_error = 0, ""
            except (Problem, IndexFault, OSError) as error:
                await self._back_off(error)
            except Exception as error:
                _log.exception("the indexer met what it should not")
                await self._back_off(error)

    async def step(self, *, wait_ms: int = 0) -> int:
        """Read and apply one batch; return how many events it held. Raises what messaging and the index raise."""
        if self._mark:
            await self._recognise()
        if not self.built:
            await self._build()
        query = PublicationQuery(after=self.position, last=self._last, limit=BATCH, wait_ms=wait_ms)
        read = await self._messaging.publications(self._caller, query)
        if read.broken:
            _log.warning("messaging's stream is not the one that was read: it was restored; indexing anew")
            self.built = False
            return 0
        self.newest = read.newest
        if not read.items:
            self._last = read.last
            return 0
        if not self._joined and read.items[0].position > self.position + 1:
            _log.warning("messaging's stream was trimmed past the end of the index; indexing anew")
            self.built = False
            return 0
        self._joined = True
        changes = [change for item in read.items if (change := await self._change(item)) is not None]
        position = read.items[-1].position
        await self._index.apply(changes, upto=position, mark=f"{position} {read.last}")
        self.position, self._last = position, read.last
        if position > self._loaded_until:
            self._loaded.clear()
        if len(read.items) < BATCH and self._config.linger_s:
            await asyncio.sleep(self._config.linger_s)
        return len(read.items)

    async def _recognise(self) -> None:
        """Ask whether messaging's stream is the one that the index was made from: it may have been restored from a
        backup while nobody followed it. Only who read it can tell, and messaging hears of it in this way."""
        position, _, last = self._mark.partition(" ")
        query = PublicationQuery(after=int(position), last=last, limit=1)
        if (await self._messaging.publications(self._caller, query)).broken:
            _log.warning("messaging was restored, or trimmed its stream, while search was down; indexing anew")
            self.built = False
        self._mark = ""

    async def _build(self) -> None:
        """Index all there is, then go on with the stream from where it stood before. Goes on where it failed."""
        newest = PublicationQuery(after=FROM_NOW, limit=1)
        if not self._place:
            stands = await self._messaging.publications(self._caller, newest)
            self.position, self._last = stands.newest, stands.last
            self._loaded.clear()
            await self._index.clear()
        while page := (await self._messaging.catalogue(self._caller, CatalogueQuery(after=self._place))).items:
            puts = [await self._put(item.tenant_id, 0, item.message, fresh=True) for item in page]
            self._loaded.update((item.message.conversation_id, item.message.seq) for item in page)
            await self._index.load([put for put in puts if put is not None])
            self._place = page[-1].place
        # A commit may show in the catalogue a moment before it is announced: hence the look at `seq`, not at positions.
        self._loaded_until = (await self._messaging.publications(self._caller, newest)).newest + MOST_UNANNOUNCED
        await self._index.apply([], upto=self.position, mark=f"{self.position} {self._last}")
        self.built, self._joined, self._place = True, True, 0

    async def _put(self, tenant_id: str, position: int, message: Message, *, fresh: bool) -> Put | None:
        """Return what is to be found of a message; None when nothing is."""
        names = await self._file_names(tenant_id, message.attachments) if message.attachments else []
        entries = entries_of(message, names)
        if not entries:
            return None
        return Put(tenant_id=tenant_id, position=position, message_id=message.message_id, entries=entries, fresh=fresh)

    async def _change(self, item: Publication) -> Put | Remove | None:
        """Return what an event changes in the index, by the current state of the message it speaks of."""
        tenant_id, position, kind = item.tenant_id, item.position, item.kind
        if kind in ("message.created", "message.edited"):
            message = _message.decode(item.data).message
            fresh = kind == "message.created" and message.seq > self._loaded.get(message.conversation_id, 0)
            if (put := await self._put(tenant_id, position, message, fresh=fresh)) is not None:
                return put
            return Remove(tenant_id=tenant_id, position=position, field="message_id", value=message.message_id)
        if kind == "message.deleted":
            message_id = _deleted.decode(item.data).message_id
            return Remove(tenant_id=tenant_id, position=position, field="message_id", value=message_id)
        if kind == "messages.purged":
            first, *more = _purged.decode(item.data).message_ids
            return Remove(tenant_id=tenant_id, position=position, field="message_id", value=first, more=tuple(more))
        if kind == "conversation.removed":
            return Remove(tenant_id=tenant_id, position=position, field="conversation_id", value=item.conversation_id)
        return None

    async def _file_names(self, tenant_id: str, media_ids: Sequence[str]) -> list[str]:
        """Return the names of attached files; none while media can't be asked for longer than is worth waiting."""
        try:
            infos = await self._media.infos(service_caller(SERVICE, tenant_id), InfoQuery(media_ids=list(media_ids)))
        except Problem as error:
            now_s = self._clock.monotonic()
            if self._waiting_since_s is None:
                self._waiting_since_s = now_s
            if now_s - self._waiting_since_s < self._config.media_patience_s:
                raise
            _log.warning("files of a message are indexed without their names: %s", error.code)
            return []
        self._waiting_since_s = None
        return [info.filename for info in infos.items]

    async def _back_off(self, error: Exception) -> None:
        self.failures += 1
        self.last_error = type(error).__name__
        if self.failures in (1, 10) or self.failures % 100 == 0:
            _log.warning("indexing failed %d times in a row: %r", self.failures, error)
        await asyncio.sleep(self._rng.uniform(0, min(BACKOFF_CAP_S, 0.1 * 2.0 ** min(self.failures, 10))))
