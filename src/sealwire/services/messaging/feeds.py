"""Use cases for the other services: the stream of all events, one conversation's stream, what a caller may read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sealwire.contracts.messaging_stream import (
    FROM_NOW,
    Catalogue,
    Catalogued,
    CatalogueQuery,
    Current,
    CurrentQuery,
    Membership,
    Publication,
    PublicationQuery,
    Publications,
    Readable,
    ReadableQuery,
    StreamPage,
    StreamQuery,
)
from sealwire.contracts.messaging_terms import ConversationNotFound
from sealwire.kit.caller import Caller
from sealwire.kit.problem import Forbidden
from sealwire.services.messaging.bodies import Bodies
from sealwire.services.messaging.ports import ConversationEvents, ConversationStore, MessageStore
from sealwire.services.messaging.render import render_all
from sealwire.services.messaging.seats import Seats
from sealwire.services.messaging.tail import Entry, Tail


class FeedCases:
    """What sockets and search ask for."""

    def __init__(
        self,
        *,
        conversations: ConversationStore,
        messages: MessageStore,
        events: ConversationEvents,
        seats: Seats,
        bodies: Bodies,
        tail: Tail,
    ) -> None:
        self._conversations = conversations
        self._messages = messages
        self._events = events
        self._seats = seats
        self._bodies = bodies
        self._tail = tail
        self._renewing = asyncio.Lock()
        self._renewed = False

    async def publications(self, caller: Caller, query: PublicationQuery) -> Publications:
        """Return what comes after a position, waiting for it if asked to. For services only."""
        if not caller.is_service:
            raise Forbidden("Only a service may follow all conversations.")
        loop = asyncio.get_running_loop()
        until = loop.time() + query.wait_ms / 1000
        tail = self._tail
        if await self._is_another(query):
            newest, passed = tail.newest, tail.passed
            last = await self._last(newest)
            return Publications(items=[], newest=newest, broken=True, last=last, passing_newest=passed)
        while True:
            # A number from before messaging was started again: what passes by now is all new.
            passing_after = query.passing_after if query.passing_after <= tail.passed else 0
            passing = tail.passing(passing_after) if passing_after >= 0 else []
            if tail.newest > query.after or passing or (left_s := until - loop.time()) <= 0:
                break
            await tail.wait(left_s)
        newest, passed = tail.newest, tail.passed
        items = await self._after(query.after, query.limit) if newest > query.after else []
        last = await self._last(items[-1].position if items else min(query.after, newest))
        return Publications(items=items, newest=newest, last=last, passing=passing, passing_newest=passed)

    async def stream(self, caller: Caller, conversation_id: str, query: StreamQuery) -> StreamPage:
        """Return what a member missed of a conversation since an offset. Raises: ConversationNotFound."""
        await self._seats.require(caller, conversation_id)
        pairs, top = await self._events.stream(conversation_id, query.after_offset, query.limit)
        items = await render_all(self._bodies, pairs)
        return StreamPage(items=items, top_offset=top, epoch=self._events.epoch)

    async def membership(self, caller: Caller, conversation_id: str) -> Membership:
        """Return the caller's membership and where the stream stands. Raises: ConversationNotFound."""
        view = await self._conversations.view(conversation_id, caller.user_id)
        if view is None or view.record.tenant_id != caller.tenant_id:
            raise ConversationNotFound
        return Membership(
            conversation_id=conversation_id,
            role=view.role,
            last_seq=view.record.last_seq,
            top_offset=view.record.last_offset,
            epoch=self._events.epoch,
        )

    async def readable(self, caller: Caller, query: ReadableQuery) -> Readable:
        """Return the conversations the caller may read now."""
        del query
        return Readable(conversation_ids=[*await self._conversations.readable(caller.tenant_id, caller.user_id)])

    async def current(self, caller: Caller, query: CurrentQuery) -> Current:
        """Return messages by id, as they are now, of conversations the caller may read; no tombstones.

        What a restricted person wrote is left out: it is stored, and others read it where it was said, but it is not
        looked up for them (GDPR Art. 18(2)). Search shows nothing that isn't returned here, whatever is indexed.
        """
        stored = await self._messages.by_ids(caller.tenant_id, list(dict.fromkeys(query.message_ids)))
        stored = [m for m in stored if not self._seats.refuses(m.tenant_id, m.sender_id)]
        may_read = {id_: await self._may_read(caller, id_) for id_ in {m.conversation_id for m in stored}}
        views = await self._bodies.view([m for m in stored if may_read[m.conversation_id]])
        return Current(items=[view for view in views if not view.deleted])

    async def catalogue(self, caller: Caller, query: CatalogueQuery) -> Catalogue:
        """Return every message there is, page by page. The stream is trimmed, this is whole. For services only."""
        if not caller.is_service:
            raise Forbidden("Only a service may read the catalogue.")
        found = await self._messages.all_after(query.after, query.limit)
        views = await self._bodies.view([message for _, message in found], of_all=True)
        return Catalogue(
            items=[
                Catalogued(place=place, tenant_id=message.tenant_id, message=view)
                for (place, message), view in zip(found, views, strict=True)
            ]
        )

    async def _last(self, position: int) -> str:
        """Return how a reader names the event it read last: with the run, within which it need not be looked up."""
        return f"{self._events.run} {self._tail.name(position) or await self._events.name(position)}"

    async def _is_another(self, query: PublicationQuery) -> bool:
        """Whether the reader has read another stream than this one: the store was restored from a backup.

        Then the offsets that clients hold mean something else as well, and a new epoch tells them, once a run. Of what
        was trimmed nobody can tell: the reader begins anew, as it missed something, and nobody else is disturbed.
        """
        if query.last:
            run, _, name = query.last.partition(" ")
            if run == self._events.run or name == await self._events.name(query.after):
                return False
        elif query.after <= self._tail.newest or query.after >= FROM_NOW:
            return False
        async with self._renewing:
            if not self._renewed and not await self._was_trimmed(query.after):
                await self._events.renew_epoch()
                self._renewed = True
        return True

    async def _was_trimmed(self, position: int) -> bool:
        oldest = await self._events.after(0, 1)
        return bool(oldest) and oldest[0][0].position > position

    async def _may_read(self, caller: Caller, conversation_id: str) -> bool:
        try:
            await self._seats.require(caller, conversation_id)
        except ConversationNotFound:
            return False
        return True

    async def _after(self, after: int, limit: int) -> list[Publication]:
        entries = self._tail.read(after, limit)
        if entries is None:
            return await render_all(self._bodies, await self._events.after(after, limit), of_all=True)
        publications = [e.publication for e in entries]
        if None in publications:
            return await self._complete(entries)
        return publications  # type: ignore[return-value]  # none of them is None

    async def _complete(self, entries: Sequence[Entry]) -> list[Publication]:
        """Render from the store those whose message changed since, or was edited."""
        found = []
        for entry in entries:
            publication = entry.publication
            if publication is None:
                changes = entry.changes
                pairs = await self._events.after(entry.event.position - 1, 1)
                publication = (await render_all(self._bodies, pairs, of_all=True))[0]
                if changes == entry.changes:
                    entry.publication = publication
            found.append(publication)
        return found
