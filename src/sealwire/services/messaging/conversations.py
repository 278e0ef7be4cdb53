"""Use cases about conversations and their members."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from sealwire.contracts.auth import Auth
from sealwire.contracts.conversations import Conversation, ConversationChange, Conversations, NewConversation
from sealwire.contracts.members import Member, MemberChange, Members, NewMember
from sealwire.contracts.messaging_terms import SERVICE, ConversationNotFound, MemberRole
from sealwire.contracts.users import UserQuery
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Invalid, NotFound
from sealwire.services.messaging import model
from sealwire.services.messaging.bodies import Bodies
from sealwire.services.messaging.config import MessagingConfig
from sealwire.services.messaging.model import ConversationRecord, ConversationView, MemberRecord, actor_of
from sealwire.services.messaging.ports import ConversationStore
from sealwire.services.messaging.seats import Seats


class ConversationCases:
    """What a caller may do with conversations and members."""

    def __init__(
        self,
        *,
        store: ConversationStore,
        seats: Seats,
        bodies: Bodies,
        auth: Auth,
        clock: Clock,
        config: MessagingConfig,
        epoch: Callable[[], str],
    ) -> None:
        self._store = store
        self._seats = seats
        self._bodies = bodies
        self._auth = auth
        self._clock = clock
        self._config = config
        self._epoch = epoch

    async def create(self, caller: Caller, new: NewConversation) -> Conversation:
        """See `Messaging.create`."""
        me, tenant_id = caller.user_id, caller.tenant_id
        others = [user_id for user_id in dict.fromkeys(new.member_ids) if user_id != me]
        direct = new.kind == "direct"
        if direct and len(others) != 1:
            raise Invalid("A direct conversation has exactly one other member.", path="$.member_ids")
        if len(others) >= self._config.max_members:
            raise Invalid(f"A conversation has at most {self._config.max_members} members.", path="$.member_ids")
        await self._require_people(tenant_id, others, "$.member_ids")
        id_ = new_id()
        record = ConversationRecord(
            conversation_id=id_,
            tenant_id=tenant_id,
            kind=new.kind,
            title=await self._bodies.seal_title(tenant_id, id_, new.title),
            created_by=me,
            created_at_us=self._clock.now_us(),
        )
        mine: MemberRole = "member" if direct else "owner"
        members: list[tuple[str, MemberRole]] = [(me, mine), *((user_id, "member") for user_id in others)]
        pair = model.direct_pair(tenant_id, me, others[0]) if direct else ""
        conversation_id, existed = await self._store.create(record, members, pair, actor_of(caller))
        conversation = await self.get(caller, conversation_id)
        return msgspec.structs.replace(conversation, existed=True) if existed else conversation

    async def list(self, caller: Caller, page: Page) -> Conversations:
        """Return the caller's conversations, the one with the newest event first."""
        before = _read_cursor(page.cursor)
        views = await self._store.views(caller.tenant_id, caller.user_id, before, page.limit + 1)
        shown = views[: page.limit]
        return Conversations(
            items=[await self._conversation(view) for view in shown],
            next_cursor=str(shown[-1].place) if len(views) > len(shown) else None,
        )

    async def get(self, caller: Caller, conversation_id: str) -> Conversation:
        """Return a conversation of the caller. Raises: ConversationNotFound."""
        return await self._conversation(await self._view(caller, conversation_id))

    async def change(self, caller: Caller, conversation_id: str, change: ConversationChange) -> Conversation:
        """Change what is given. Raises: ConversationNotFound, MemberRoleNeeded, DirectIsFixed."""
        seat = await self._seats.require(caller, conversation_id)
        model.require_changeable(seat.kind)
        model.require_rank(seat.role, "moderator")
        if change.title is not msgspec.UNSET:
            title = await self._bodies.seal_title(caller.tenant_id, conversation_id, change.title)
            await self._store.retitle(conversation_id, title, actor_of(caller), self._clock.now_us())
        return await self.get(caller, conversation_id)

    async def remove(self, caller: Caller, conversation_id: str) -> None:
        """Remove a conversation. Raises: ConversationNotFound, MemberRoleNeeded, DirectIsFixed."""
        seat = await self._seats.require(caller, conversation_id)
        model.require_changeable(seat.kind)
        model.require_rank(seat.role, "owner")
        await self._store.remove(conversation_id, actor_of(caller), self._clock.now_us())

    async def members(self, caller: Caller, conversation_id: str, page: Page) -> Members:
        """Return the members in the order they joined. Raises: ConversationNotFound."""
        await self._seats.require(caller, conversation_id)
        after = _read_cursor(page.cursor)
        members = await self._store.members(conversation_id, after or 0, page.limit + 1)
        shown = members[: page.limit]
        return Members(
            items=[_member(m) for m in shown],
            next_cursor=str(shown[-1].place) if len(members) > len(shown) else None,
        )

    async def add_member(self, caller: Caller, conversation_id: str, new: NewMember) -> Member:
        """Add a member; one who is there stays as they are.

        Raises: ConversationNotFound, MemberRoleNeeded, DirectIsFixed; Invalid for somebody unknown.
        """
        seat = await self._seats.require(caller, conversation_id)
        model.require_changeable(seat.kind)
        model.require_reach(seat.role, new.role)
        await self._require_people(caller.tenant_id, [new.user_id], "$.user_id")
        return _member(
            await self._store.add_member(
                conversation_id,
                new.user_id,
                new.role,
                actor_of(caller),
                self._clock.now_us(),
                most=self._config.max_members,
            )
        )

    async def remove_member(self, caller: Caller, conversation_id: str, user_id: str) -> None:
        """Remove a member, or leave. Raises: ConversationNotFound, MemberRoleNeeded, OwnerNeeded, DirectIsFixed."""
        seat = await self._seats.require(caller, conversation_id)
        model.require_changeable(seat.kind)
        if user_id != caller.user_id:
            other = await self._store.seat(conversation_id, user_id)
            model.require_reach(seat.role, *([other.role] if other else []))
        await self._store.remove_member(conversation_id, user_id, actor_of(caller), self._clock.now_us())

    async def change_member(self, caller: Caller, conversation_id: str, user_id: str, change: MemberChange) -> Member:
        """Give a member another role. Raises: as `remove_member`; NotFound for somebody who is no member."""
        seat = await self._seats.require(caller, conversation_id)
        model.require_changeable(seat.kind)
        other = await self._store.seat(conversation_id, user_id)
        model.require_reach(seat.role, change.role, *([other.role] if other else []))
        member = await self._store.change_member(
            conversation_id, user_id, change.role, actor_of(caller), self._clock.now_us()
        )
        if member is None:
            raise NotFound("There is no such member.")
        return _member(member)

    async def _view(self, caller: Caller, conversation_id: str) -> ConversationView:
        view = await self._store.view(conversation_id, caller.user_id)
        if view is None or view.record.tenant_id != caller.tenant_id:
            raise ConversationNotFound
        return view

    async def _require_people(self, tenant_id: str, user_ids: Sequence[str], path: str) -> None:
        """Raises: Invalid unless all are active users of the tenant."""
        if not user_ids:
            return
        query = UserQuery(user_ids=[*user_ids])
        found = await self._auth.profiles(service_caller(SERVICE, tenant_id), query)
        known = {p.user_id for p in found.items if p.active and p.tenant_id == tenant_id}
        if unknown := [user_id for user_id in user_ids if user_id not in known]:
            raise Invalid(f"There is no user {unknown[0]}.", path=path)

    async def _conversation(self, view: ConversationView) -> Conversation:
        r = view.record
        return Conversation(
            conversation_id=r.conversation_id,
            tenant_id=r.tenant_id,
            kind=r.kind,
            title=await self._bodies.open_title(r.tenant_id, r.conversation_id, r.title),
            created_by=r.created_by,
            created_at=rfc3339(r.created_at_us),
            last_seq=r.last_seq,
            first_seq=r.first_seq,
            last_offset=r.last_offset,
            epoch=self._epoch(),
            read_seq=view.read_seq,
            unread=view.unread,
            role=view.role,
            member_count=r.member_count,
        )


def _member(record: MemberRecord) -> Member:
    return Member(
        conversation_id=record.conversation_id,
        user_id=record.user_id,
        role=record.role,
        joined_at=rfc3339(record.joined_at_us),
        read_seq=record.read_seq,
    )


def _read_cursor(cursor: str | None) -> int | None:
    """Return the place a list goes on from. Raises: Invalid for what no list gave."""
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise Invalid("This is no cursor of this list.", path="$.cursor")
    return int(cursor)
