"""Messaging's part of a person's rights: what is theirs to read, erased, put right, kept without processing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from sealwire.contracts.custody import (
    SubjectChanges,
    SubjectErased,
    SubjectErasure,
    SubjectFindings,
    SubjectItem,
    SubjectItems,
    SubjectProbe,
    SubjectQuery,
    SubjectRectified,
    SubjectRestriction,
    require_custodian,
)
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.problem import Invalid
from sealwire.services.messaging.bodies import Bodies, body_context, pack
from sealwire.services.messaging.former import DELETED, MESSAGES, REACTIONS, SEATS, TITLES, FormerPages
from sealwire.services.messaging.former_ports import FormerStore
from sealwire.services.messaging.model import MessageMeta, read_meta, write_meta
from sealwire.services.messaging.ports import Keys
from sealwire.services.messaging.seats import Seats
from sealwire.services.messaging.subject_ports import Rewritten, SubjectStore, WrittenMessage

CHUNK: Final = 500
"""Things looked up at once, and changed in steps as large as the store says."""
SEALED_AT_ONCE: Final = 40
"""Messages sealed anew without a pause: a millisecond or two."""
T = TypeVar("T")
_Page = tuple[list[SubjectItem], str]


class _Places:
    """Up to where messages, reactions and mentions of a job are done."""

    def __init__(self) -> None:
        self.message = 0
        self.reaction = (0, "")
        self.mention = 0


class SubjectCases:
    """`SubjectCustody` over messaging's store. Its erasure: seats first, so that nothing new comes; then what is said,
    reactions, mentions, names; keys last (or first, where nothing is to be read any more)."""

    def __init__(
        self, *, store: SubjectStore, former: FormerStore, seats: Seats, bodies: Bodies, keys: Keys, clock: Clock
    ) -> None:
        self._store = store
        self._former = former
        self._former_pages = FormerPages(store=former, subjects=store, bodies=bodies)
        self._seats = seats
        self._bodies = bodies
        self._keys = keys
        self._clock = clock
        self._places: dict[str, _Places] = {}
        """Up to where a job is done: a start from the beginning finds the same, only later."""

    async def start(self) -> None:
        """Learn who is marked."""
        for tenant_id, subject_id, _ in await self._store.marks():
            self._seats.refuse(tenant_id, subject_id)

    # ---- export

    async def export_subject(self, caller: Caller, subject_id: str, query: SubjectQuery) -> SubjectItems:
        """See `SubjectCustody`: memberships, messages, reactions; then what these were, as far as it is stored."""
        tenant_id = require_custodian(caller)
        phase, _, after = (query.cursor or "seats:").partition(":")
        read = {
            "seats": self._seats_page,
            "messages": self._messages_page,
            "reactions": self._reactions_page,
            MESSAGES: self._former_pages.messages,
            DELETED: self._former_pages.deleted,
            TITLES: self._former_pages.titles,
            REACTIONS: self._former_pages.reactions,
            SEATS: self._former_pages.seats,
        }.get(phase)
        if read is None:
            raise Invalid("Give a `next_cursor` as it was.", path="$.cursor")
        try:
            items, cursor = await read(tenant_id, subject_id, after, query.limit)
        except (ValueError, OverflowError):
            raise Invalid("Give a `next_cursor` as it was.", path="$.cursor") from None
        return SubjectItems(items=items, next_cursor=cursor or None)

    async def _seats_page(self, tenant_id: str, subject_id: str, after: str, limit: int) -> _Page:
        found = await self._store.seats(tenant_id, subject_id, int(after or 0), limit)
        items = []
        for sat in found:
            title = await self._bodies.open_title(tenant_id, sat.conversation_id, sat.title)
            data = {"kind": sat.kind, "title": title, "role": sat.role, "read_seq": sat.read_seq}
            at = rfc3339(sat.joined_at_us)
            items.append(SubjectItem(kind="membership", resource_id=sat.conversation_id, at=at, data=data))
        return items, f"seats:{found[-1].place}" if len(found) == limit else "messages:"

    async def _messages_page(self, tenant_id: str, subject_id: str, after: str, limit: int) -> _Page:
        found = await self._store.messages(tenant_id, subject_id, int(after or 0), limit)
        items = []
        for view in await self._bodies.view([written.message for written in found]):
            data: dict[str, Any] = msgspec.to_builtins(view)
            del data["reactions"], data["message_id"]
            items.append(SubjectItem(kind="message", resource_id=view.message_id, at=view.created_at, data=data))
        return items, f"messages:{found[-1].place}" if len(found) == limit else "reactions:"

    async def _reactions_page(self, tenant_id: str, subject_id: str, after: str, limit: int) -> _Page:
        key, _, emoji = after.partition(".")
        place = (int(key or 0), bytes.fromhex(emoji).decode())
        found = await self._store.reactions(tenant_id, subject_id, place, limit)
        items = [
            SubjectItem(
                kind="reaction", resource_id=f"{r.conversation_id}:{r.seq}:{r.emoji}", at=rfc3339(r.at_us),
                data={"conversation_id": r.conversation_id, "seq": r.seq, "emoji": r.emoji},
            )
            for r in found
        ]  # fmt: skip
        if len(found) < limit:
            return items, f"{MESSAGES}:"
        return items, f"reactions:{found[-1].key}.{found[-1].emoji.encode().hex()}"

    # ---- erasure

    async def erase_subject(self, caller: Caller, subject_id: str, erasure: SubjectErasure) -> SubjectErased:
        """See `SubjectCustody`. One kind of thing a call, in this order."""
        tenant_id = require_custodian(caller)
        if erasure.check_only:
            await self._store.require_free(tenant_id, subject_id)
            return SubjectErased(done=False)
        if not self._seats.refuses(tenant_id, subject_id) or erasure.job_id not in self._places:
            await self._store.begin_erasing(tenant_id, subject_id)
            self._seats.refuse(tenant_id, subject_id)
            self._places[erasure.job_id] = _Places()
        limit, now_us = min(erasure.limit, CHUNK), self._clock.now_us()
        places = self._places[erasure.job_id]
        if left := await self._store.leave(tenant_id, subject_id, min(limit, self._store.step), now_us):
            return SubjectErased(done=False, erased={"membership": left})
        if messages := await self._store.messages(tenant_id, subject_id, places.message, limit):
            count = 0
            for some in self._steps(messages, SEALED_AT_ONCE if erasure.messages == "anonymise" else limit):
                count += await self._erase_some(tenant_id, subject_id, erasure, some, now_us)
                places.message = some[-1].place
            return SubjectErased(done=False, erased={"message": count})
        if reactions := await self._store.reactions(tenant_id, subject_id, places.reaction, limit):
            count = 0
            for few in self._steps(reactions):
                count += await self._store.unreact(tenant_id, subject_id, few, now_us)
                places.reaction = (few[-1].key, few[-1].emoji)
            return SubjectErased(done=False, erased={"reaction": count})
        if mentions := await self._store.mentions(tenant_id, subject_id, places.mention, limit):
            count = 0
            for those in self._steps(mentions):
                changed = [(mention, _without(mention.meta, subject_id)) for mention in those]
                count += await self._store.unmention(tenant_id, changed, now_us)
                places.mention = those[-1].key
            return SubjectErased(done=False, erased={"mention": count})
        if former := await self._former.erase(tenant_id, subject_id, min(limit, self._store.step)):
            return SubjectErased(done=False, erased={"former": former})
        return await self._finish(tenant_id, subject_id, erasure)

    def _steps(self, things: Sequence[T], most: int = CHUNK) -> Iterator[Sequence[T]]:
        """Yield the things in steps as large as the store says when each begins."""
        at = 0
        while at < len(things):
            some = things[at : at + min(self._store.step, most)]
            yield some
            at += len(some)

    async def _erase_some(
        self, tenant_id: str, subject_id: str, erasure: SubjectErasure, found: Sequence[WrittenMessage], now_us: int
    ) -> int:
        """Erase these, as far as no hold keeps them."""
        free = [written for written in found if not written.held]
        alive = [w for w in free if w.message.sealed is not None and w.message.deleted_at_us is None]
        erased = 0
        if erasure.messages == "anonymise" and alive:
            rewritten = await self._rewritten(alive, erasure.pseudonym)
            readable = {r.key for r in rewritten}
            erased += await self._store.rewrite(tenant_id, subject_id, rewritten, erasure.pseudonym, now_us)
            free = [written for written in free if written.place not in readable]
        if free:
            keys = [written.place for written in free]
            erased += await self._store.tombstone(tenant_id, subject_id, keys, erasure.pseudonym, now_us)
        return erased

    async def _rewritten(self, written: Sequence[WrittenMessage], pseudonym: str) -> list[Rewritten]:
        """Seal what can be read of these under the pseudonym's keys; files of the person are not kept with it."""
        rewritten = []
        for place, m, _ in written:
            if (content := await self._bodies.content(m)) is None:
                continue
            version, conversation_id = m.version + 1, m.conversation_id
            context = body_context(m.tenant_id, conversation_id, m.message_id, version)
            key = self._keys.ready(m.tenant_id, conversation_id, pseudonym)
            if key is None:
                key = await self._keys.sealing_key(m.tenant_id, conversation_id, pseudonym)
            meta = write_meta(msgspec.structs.replace(read_meta(m.meta), attachments=[]))
            rewritten.append(Rewritten(place, m.version, key.seal(pack(content), context), meta))
        return rewritten

    async def _finish(self, tenant_id: str, subject_id: str, erasure: SubjectErasure) -> SubjectErased:
        """Names, keys, files: only when a last look finds nothing that came while the first was under way."""
        named = await self._store.unname(tenant_id, subject_id, erasure.pseudonym)
        remains = await self._store.remains(tenant_id, subject_id)
        if any(remains.left.values()):
            self._places[erasure.job_id] = _Places()
            return SubjectErased(done=False, erased={"conversation": named} if named else {})
        held = remains.held
        written = {place.conversation_id for place in held if place.kind == "message"}
        keys = await self._keys.destroy_free(tenant_id, subject_id=subject_id, spare=written)
        if not held:
            await self._store.forget_traces(tenant_id, subject_id)
        await self._store.compact()
        del self._places[erasure.job_id]
        erased, kept = {"conversation": named, "data_key": keys.destroyed}, {"data_key": keys.kept}
        for place in held:
            kept[place.kind] = kept.get(place.kind, 0) + place.things
        return SubjectErased(
            done=True,
            erased={kind: count for kind, count in erased.items() if count},
            kept={kind: count for kind, count in kept.items() if count},
            kept_in=sorted({*keys.kept_scopes, *remains.kept_in}),
            kept_by=list(remains.kept_by),
        )

    # ---- the rest

    async def rectify_subject(self, caller: Caller, subject_id: str, changes: SubjectChanges) -> SubjectRectified:
        """See `SubjectCustody`. Messaging knows people by their ids alone."""
        require_custodian(caller)
        return SubjectRectified()

    async def restrict_subject(self, caller: Caller, subject_id: str, restriction: SubjectRestriction) -> None:
        """See `SubjectCustody`: the person takes part in nothing, and everything stays."""
        tenant_id = require_custodian(caller)
        await self._store.restrict(tenant_id, subject_id, restriction.restricted)
        marked = {(tenant, person) for tenant, person, _ in await self._store.marks()}
        if (tenant_id, subject_id) in marked:
            self._seats.refuse(tenant_id, subject_id)
        else:
            self._seats.admit(tenant_id, subject_id)

    async def probe_subject(self, caller: Caller, subject_id: str, probe: SubjectProbe) -> SubjectFindings:
        """See `SubjectCustody`."""
        tenant_id = require_custodian(caller)
        places: Mapping[str, int] = await self._store.counts(tenant_id, subject_id)
        files = await self._store.count_in_files([word.encode() for word in probe.words])
        return SubjectFindings(places={**places, "files": files})


def _without(meta: bytes, subject_id: str) -> bytes | None:
    """Return a message's meta without its mentions of the person."""
    read: MessageMeta = read_meta(meta)
    return write_meta(msgspec.structs.replace(read, mentions=[who for who in read.mentions if who != subject_id]))
