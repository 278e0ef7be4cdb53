"""Search: full text over what the caller may read at that moment."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Protocol

import msgspec

from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.contracts.media import InfoQuery, Media
from sealwire.contracts.messages import Message
from sealwire.contracts.messaging import Messaging
from sealwire.contracts.messaging_stream import CurrentQuery, ReadableQuery
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.contracts.search import SERVICE, Hit, Hits, SearchQuery
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.ids import new_id
from sealwire.kit.lifespan import Probe
from sealwire.kit.problem import Invalid, Unavailable
from sealwire.ports.index import BadCursor, Found, IndexFault, SearchIndex, Sought
from sealwire.services.search.config import SearchConfig
from sealwire.services.search.indexer import Indexer
from sealwire.services.search.model import FILE, read_query, read_time, version_of
from sealwire.services.search.snippet import Highlighter
from sealwire.services.search.subjects import SubjectEntries

FAILURES_TOLD = 3
MOST_IDS = 200


class Records(Protocol):
    """Where audit records go: the crash-safe spool. Never waits."""

    def put(self, entry: AuditEntry) -> None:
        """Take one record."""


class SearchService:
    """The contract `Search` over an index. The index proposes; messaging decides, message by message, what is shown."""

    def __init__(
        self,
        *,
        index: SearchIndex,
        messaging: Messaging,
        media: Media,
        clock: Clock,
        config: SearchConfig,
        records: Records | None = None,
        rng: Random | None = None,
    ) -> None:
        """`records` takes the audit records of searches (None: nowhere)."""
        self._index = index
        self._records = records
        self._clock = clock
        self._messaging = messaging
        self._media = media
        self._config = config
        self.indexer = Indexer(
            index=index,
            messaging=messaging,
            media=media,
            clock=clock,
            config=config,
            rng=rng or Random(),  # noqa: S311 - jitter, not a secret
        )
        subjects = SubjectEntries(index=index, indexer=self.indexer, messaging=messaging)
        self.export_subject, self.erase_subject = subjects.export_subject, subjects.erase_subject
        self.rectify_subject, self.restrict_subject = subjects.rectify_subject, subjects.restrict_subject
        self.probe_subject = subjects.probe_subject

    async def start(self) -> None:
        """Open the index from its snapshots and follow messaging from there."""
        await self._index.start()
        self.indexer.start()

    async def stop(self) -> None:
        """Stop following, seal what is indexed, leave nothing readable behind."""
        await self.indexer.stop()
        await self._index.stop()

    async def reindex(self) -> None:
        """Drop the index and read everything anew, in the background; what is asked meanwhile finds what is there."""
        await self.indexer.stop()
        self.indexer.start(anew=True)

    def checks(self) -> Mapping[str, Probe]:
        """Return what search depends on."""
        return {"index": self._index.check, "stream": self._probe_stream}

    async def _probe_stream(self) -> None:
        if self.indexer.failures >= FAILURES_TOLD:
            raise Unavailable(
                f"Messages are not indexed for the moment: {self.indexer.last_error}, "
                f"{self.indexer.newest - self.indexer.position} events behind."
            )

    async def search(self, caller: Caller, query: SearchQuery) -> Hits:
        """Find messages and files. Every hit is checked against messaging as it is now, so an edited or deleted text,
        or a conversation left a moment ago, is never shown, whatever the index still holds.

        Raises: ConversationNotFound, Invalid (`q`, `from`, `to`, `cursor`), Unavailable.
        """
        wanted = read_query(query.q)
        from_us, to_us = read_time(query.from_, "$.from"), read_time(query.to, "$.to")
        asking = msgspec.structs.replace(caller, service=SERVICE)
        readable = frozenset((await self._messaging.readable(asking, ReadableQuery())).conversation_ids)
        if query.conversation_id is not None:
            if query.conversation_id not in readable:
                raise ConversationNotFound
            readable = frozenset((query.conversation_id,))
        sought = Sought(
            words=wanted.words,
            phrases=wanted.phrases,
            without=wanted.without,
            conversation_ids=readable,
            sender_id=query.sender_id,
            kind=query.kind,
            from_us=from_us,
            to_us=to_us,
        )
        items, cursor = await self._collect(asking, sought, query, Highlighter(wanted))
        asked = () if query.conversation_id is None else (query.conversation_id,)
        up_to = self._index.indexed_up_to(caller.tenant_id, asked)
        self._record(caller, query, len(items))
        return Hits(items=items, next_cursor=cursor, indexed_up_to=dict(up_to))

    def _record(self, caller: Caller, query: SearchQuery, hits: int) -> None:
        """Put the audit record of a search: who looked where and how much was shown, never the words."""
        if self._records is None:
            return
        metadata: dict[str, str | int | float | bool | None] = {"hits": hits}
        if caller.trace_id:
            metadata["trace_id"] = caller.trace_id
        self._records.put(
            AuditEntry(
                audit_id=new_id(),
                tenant_id=caller.tenant_id,
                actor=Actor(type=caller.principal.kind, id=caller.principal.actor_id),
                action="search.performed",
                resource_type="search" if query.conversation_id is None else "conversation",
                resource_id=query.conversation_id or "",
                metadata=metadata,
                created_at_us=self._clock.now_us(),
            )
        )

    async def _collect(
        self, asking: Caller, sought: Sought, query: SearchQuery, highlighter: Highlighter
    ) -> tuple[list[Hit], str | None]:
        """Return up to `limit` hits that hold now, and the cursor after the last one looked at, None at the end."""
        items: list[Hit] = []
        cursor = query.cursor
        for _ in range(self._config.most_rounds):
            try:
                page = await self._index.search(asking.tenant_id, sought, limit=query.limit - len(items), cursor=cursor)
            except BadCursor as error:
                raise Invalid(str(error), path="$.cursor") from None
            except IndexFault as error:
                raise Unavailable("Search can't answer for the moment.") from error
            if not page.hits:
                return items, None
            items += await self._verified(asking, page.hits, highlighter)
            cursor = page.hits[-1].after
            if not page.more:
                return items, None
            if len(items) >= query.limit:
                break
        return items, cursor

    async def _verified(self, asking: Caller, found: list[Found], highlighter: Highlighter) -> list[Hit]:
        """Return those hits whose message may be read now and still is the one that was indexed."""
        ids = list(dict.fromkeys(hit.message_id for hit in found))[:MOST_IDS]
        current = await self._messaging.current(asking, CurrentQuery(message_ids=ids))
        messages = {message.message_id: message for message in current.items}
        names = await self._file_names(asking, [messages[f.message_id] for f in found if f.kind == FILE
                                                and f.message_id in messages])  # fmt: skip
        hits = []
        for hit in found:
            message = messages.get(hit.message_id)
            if message is None or message.body is None or version_of(message) != hit.version:
                continue
            text = names.get(hit.message_id, "") if hit.kind == FILE else message.body
            if text:
                hits.append(_hit(hit, highlighter.snippet(text)))
        return hits

    async def _file_names(self, asking: Caller, messages: list[Message]) -> dict[str, str]:
        """Return per message the names of those of its files that the caller may read now, one a line."""
        wanted = list(dict.fromkeys(media_id for message in messages for media_id in message.attachments))
        names: dict[str, str] = {}
        for start in range(0, len(wanted), MOST_IDS):
            query = InfoQuery(media_ids=wanted[start : start + MOST_IDS])
            names.update((info.media_id, info.filename) for info in (await self._media.infos(asking, query)).items)
        return {m.message_id: "\n".join(names[i] for i in m.attachments if i in names) for m in messages}


def _hit(found: Found, snippet: str) -> Hit:
    return Hit(
        message_id=found.message_id,
        conversation_id=found.conversation_id,
        seq=found.seq,
        sender_id=found.sender_id,
        snippet=snippet,
        score=round(found.score, 4),
        created_at=rfc3339(found.at_us),
        kind=found.kind,
    )
