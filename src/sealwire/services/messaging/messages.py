"""Use cases about messages."""

from __future__ import annotations

from msgspec.structs import replace

from sealwire.contracts.messages import (
    Draft,
    Edit,
    History,
    IdempotencyConflict,
    Message,
    MessageNotFound,
    Messages,
    NotYours,
    Read,
    ReadState,
)
from sealwire.contracts.publications import ReceiptPublished
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Unavailable
from sealwire.services.messaging import model
from sealwire.services.messaging.bodies import Bodies, body_context, pack
from sealwire.services.messaging.config import MessagingConfig
from sealwire.services.messaging.meter import SendMeter
from sealwire.services.messaging.model import (
    Appended,
    Content,
    MessageMoved,
    SealedDraft,
    SeatStale,
    StoredMessage,
    actor_of,
)
from sealwire.services.messaging.ports import Keys, MessageStore
from sealwire.services.messaging.request_marks import RequestMarks
from sealwire.services.messaging.seats import Seats
from sealwire.services.messaging.tail import Sent, Tail

MOST_TRIES = 10


class MessageCases:
    """What a caller may do with messages. `send` is the hot path: nothing in it waits but for the disk."""

    def __init__(
        self,
        *,
        store: MessageStore,
        seats: Seats,
        keys: Keys,
        request_marks: RequestMarks,
        bodies: Bodies,
        tail: Tail,
        clock: Clock,
        config: MessagingConfig,
        meter: SendMeter | None = None,
    ) -> None:
        self._store = store
        self._meter = meter
        self._seats = seats
        self._keys = keys
        self._marks = request_marks
        self._bodies = bodies
        self._tail = tail
        self._clock = clock
        self._config = config

    async def send(self, caller: Caller, conversation_id: str, draft: Draft) -> Message:
        """See `Messaging.send`."""
        seat = self._seats.held(caller, conversation_id) or await self._seats.require(caller, conversation_id)
        model.require_post(seat.role)
        model.check_body(draft.body)
        tenant_id, me = seat.tenant_id, seat.user_id
        key = self._keys.ready(tenant_id, conversation_id, me)
        if key is None:
            key = await self._keys.sealing_key(tenant_id, conversation_id, me)
        marking_key = self._marks.held(tenant_id) or await self._marks.key(tenant_id)
        request_key, request_hash = marking_key.marks(conversation_id, me, draft)
        now_us = self._clock.now_us()
        expires_at_us = None if draft.expires_in_s is None else now_us + draft.expires_in_s * US_PER_S
        message_id = new_id()
        sent = Sent(
            draft,
            message_id=message_id,
            conversation_id=conversation_id,
            sender_id=me,
            created_at=rfc3339(now_us),
            expires_at=None if expires_at_us is None else rfc3339(expires_at_us),
        )
        sealed = SealedDraft(
            tenant_id=tenant_id,
            conversation_id=conversation_id,
            seat_version=seat.version,
            message_id=message_id,
            actor_kind=model.kind_of(caller),
            sender_id=me,
            client_message_id=draft.client_message_id,
            request_key=request_key,
            request_hash=request_hash,
            sealed=key.seal(
                pack(Content(draft.body, draft.ciphertexts)), body_context(tenant_id, conversation_id, message_id, 0)
            ),
            created_at_us=now_us,
            expires_at_us=expires_at_us,
            reply_to=draft.reply_to,
            meta=model.meta_of(draft),
            carried=sent,
        )
        if self._meter is None or self._meter.is_free(tenant_id):
            stored = await self._append(caller, sealed)
        else:
            stored = await self._meter.send(tenant_id, request_key, lambda: self._append(caller, sealed))
        if type(stored) is Appended:
            return sent.complete(stored.seq)
        return await self._duplicate(stored, request_hash)  # type: ignore[arg-type]  # the other of the two

    async def _append(self, caller: Caller, sealed: SealedDraft) -> Appended | StoredMessage:
        try:
            return await self._store.append(sealed)
        except SeatStale:
            return await self._append_again(caller, sealed)

    async def _append_again(self, caller: Caller, sealed: SealedDraft) -> Appended | StoredMessage:
        """The members changed while the message was on its way: look whether the caller still is one."""
        for _ in range(MOST_TRIES):
            self._seats.drop(sealed.conversation_id)
            seat = await self._seats.require(caller, sealed.conversation_id)
            model.require_post(seat.role)
            sealed.seat_version = seat.version
            try:
                return await self._store.append(sealed)
            except SeatStale:
                continue
        raise Unavailable("The members of this conversation change too fast. Try again.")

    async def _duplicate(self, stored: StoredMessage, request_hash: bytes) -> Message:
        if stored.request_hash != request_hash:
            raise IdempotencyConflict
        message = (await self._bodies.view([stored]))[0]
        return replace(message, duplicate=True)

    async def history(self, caller: Caller, conversation_id: str, query: History) -> Messages:
        """Return a page in `seq` order; `next_cursor` goes on in the direction asked. Raises: Invalid (`cursor`)."""
        await self._seats.require(caller, conversation_id)
        after, before = model.history_bounds(query)
        limit = query.limit
        stored = await self._store.history(conversation_id, after=after, before=before, limit=limit + 1)
        more = len(stored) > limit
        if after is not None:
            shown = stored[:limit]
            cursor = f"after.{shown[-1].seq}" if more else None
        else:
            shown = stored[-limit:]
            cursor = f"before.{shown[0].seq}" if more else None
        return Messages(items=await self._bodies.view(shown), next_cursor=cursor)

    async def edit(self, caller: Caller, conversation_id: str, seq: int, edit: Edit) -> Message:
        """Replace the body; the former one is kept. The same body again changes nothing."""
        model.check_body(edit.body)
        for _ in range(MOST_TRIES):
            seat = await self._seats.require(caller, conversation_id)
            model.require_post(seat.role)
            message = await self._store.message(conversation_id, seq)
            if message is None or message.deleted_at_us is not None:
                raise MessageNotFound
            if message.sender_id != caller.user_id:
                raise NotYours
            content = await self._bodies.open(message)
            if content is None:
                raise MessageNotFound
            if content.body != edit.body:
                sealed = await self._bodies.seal(
                    *(message.tenant_id, conversation_id, message.sender_id, message.message_id, message.version + 1),
                    Content(edit.body, content.ciphertexts),
                )
                try:
                    message = await self._store.edit(message, sealed, actor_of(caller), self._clock.now_us())
                except MessageMoved:
                    continue
            return (await self._bodies.view([message]))[0]
        raise Unavailable("The message is being changed by others. Try again.")

    async def delete(self, caller: Caller, conversation_id: str, seq: int) -> None:
        """Leave a tombstone; deleting it again changes nothing."""
        seat = await self._seats.require(caller, conversation_id)
        message = await self._store.message(conversation_id, seq)
        if message is None:
            raise MessageNotFound
        if message.sender_id != caller.user_id and seat.role not in ("owner", "moderator"):
            raise NotYours("Only its sender or a moderator may delete a message.")
        await self._store.delete(conversation_id, seq, actor_of(caller), self._clock.now_us())

    async def react(self, caller: Caller, conversation_id: str, seq: int, emoji: str) -> None:
        """Put a reaction; putting it again changes nothing. Raises: Invalid, MessageNotFound, TooManyReactions."""
        seat = await self._seats.require(caller, conversation_id)
        model.require_post(seat.role)
        model.check_emoji(emoji)
        await self._store.react(
            *(conversation_id, seq, emoji, caller.user_id, actor_of(caller), self._clock.now_us()),
            most=self._config.max_reactions,
        )

    async def unreact(self, caller: Caller, conversation_id: str, seq: int, emoji: str) -> None:
        """Take a reaction back; without one nothing changes. Raises: MessageNotFound."""
        await self._seats.require(caller, conversation_id)
        model.check_emoji(emoji)
        await self._store.unreact(conversation_id, seq, emoji, caller.user_id, actor_of(caller), self._clock.now_us())

    async def read(self, caller: Caller, conversation_id: str, read: Read) -> ReadState:
        """Say up to where the caller has read; it never goes back, nor beyond the last message."""
        seat = self._seats.held(caller, conversation_id) or await self._seats.require(caller, conversation_id)
        read_seq, unread, rose = await self._store.mark_read(conversation_id, caller.user_id, read.seq)
        if rose:
            self._tail.pass_by(
                seat.tenant_id,
                ReceiptPublished(
                    conversation_id=conversation_id,
                    user_id=caller.user_id,
                    read_seq=read_seq,
                    at=rfc3339(self._clock.now_us()),
                ),
            )
        return ReadState(read_seq=read_seq, unread=unread)
