"""Former versions as an export tells them: what was replaced or deleted and is stored still.

Bodies of before an edit are stored as long as their message; everything else only while a legal hold covers it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sealwire.contracts.custody import SubjectItem
from sealwire.kit.clock import rfc3339
from sealwire.services.messaging.bodies import Bodies
from sealwire.services.messaging.former_ports import FormerStore
from sealwire.services.messaging.model import read_meta
from sealwire.services.messaging.subject_ports import SubjectStore

Page = tuple[list[SubjectItem], str]
MESSAGES, DELETED, TITLES, REACTIONS = "former-messages", "deleted-messages", "former-titles", "former-reactions"
SEATS = "former-seats"


class FormerPages:
    """The last pages of an export. Each ends with the cursor of the next, "" at the end."""

    def __init__(self, *, store: FormerStore, subjects: SubjectStore, bodies: Bodies) -> None:
        self._store = store
        self._subjects = subjects
        self._bodies = bodies

    async def messages(self, tenant_id: str, subject_id: str, after: str, limit: int) -> Page:
        """Return what messages were before they were edited. Raises: ValueError for a place that is none."""
        items, place = await self._messages(tenant_id, subject_id, after, limit, deleted=False)
        return items, f"{MESSAGES}:{place}" if place else f"{DELETED}:"

    async def deleted(self, tenant_id: str, subject_id: str, after: str, limit: int) -> Page:
        """Return what holds keep of deleted messages. Raises: ValueError for a place that is none."""
        items, place = await self._messages(tenant_id, subject_id, after, limit, deleted=True)
        return items, f"{DELETED}:{place}" if place else f"{TITLES}:"

    async def _messages(self, tenant_id: str, subject_id: str, after: str, limit: int, *, deleted: bool) -> Page:
        key, _, version = after.partition(".")
        above = (int(key or 0), int(version or 0))
        found = await self._subjects.former_messages(tenant_id, subject_id, above, limit, deleted=deleted)
        items = []
        for f in found:
            m, content, until = f.message, await self._bodies.content(f.message), rfc3339(f.until_us)
            data: dict[str, Any] = {
                "conversation_id": m.conversation_id,
                "seq": m.seq,
                "version": m.version,
                "body": None if content is None else content.body,
                "former": True,
                ("deleted_at" if deleted else "replaced_at"): until,
            }
            if content is not None and content.ciphertexts is not None:
                data["ciphertexts"] = msgspec.to_builtins(content.ciphertexts)
            if deleted:
                meta = read_meta(m.meta)
                data |= {"attachments": meta.attachments, "mentions": meta.mentions, "reply_to": meta.reply_to}
            items.append(SubjectItem(kind="message", resource_id=m.message_id, at=rfc3339(m.created_at_us), data=data))
        return items, "{}.{}".format(*found[-1].place) if len(found) == limit else ""

    async def titles(self, tenant_id: str, subject_id: str, after: str, limit: int) -> Page:
        """Return former titles of the person's conversations. Raises: ValueError for a place that is none."""
        found = await self._store.titles(tenant_id, subject_id, int(after or 0), limit)
        items = []
        for f in found:
            title = await self._bodies.open_title(tenant_id, f.conversation_id, f.title)
            until = rfc3339(f.until_us)
            data = {"title": title, "former": True, "replaced_at": until}
            items.append(SubjectItem(kind="title", resource_id=f.conversation_id, at=until, data=data))
        return items, f"{TITLES}:{found[-1].place}" if len(found) == limit else f"{REACTIONS}:"

    async def reactions(self, tenant_id: str, subject_id: str, after: str, limit: int) -> Page:
        """Return reactions the person took back. Raises: ValueError for a place that is none."""
        found = await self._store.reactions(tenant_id, subject_id, int(after or 0), limit)
        items = []
        for f in found:
            data = {"conversation_id": f.conversation_id, "seq": f.seq, "emoji": f.emoji}
            more = {"former": True, "removed_at": rfc3339(f.until_us)}
            id_ = f"{f.conversation_id}:{f.seq}:{f.emoji}"
            items.append(SubjectItem(kind="reaction", resource_id=id_, at=rfc3339(f.at_us), data={**data, **more}))
        return items, f"{REACTIONS}:{found[-1].place}" if len(found) == limit else f"{SEATS}:"

    async def seats(self, tenant_id: str, subject_id: str, after: str, limit: int) -> Page:
        """Return memberships that ended, or had another role. Raises: ValueError for a place that is none."""
        found = await self._store.seats(tenant_id, subject_id, int(after or 0), limit)
        items = []
        for f in found:
            data = {"kind": f.kind, "role": f.role, "read_seq": f.read_seq}
            more = {"former": True, "replaced_at": rfc3339(f.until_us)}
            at = rfc3339(f.joined_at_us)
            items.append(SubjectItem(kind="membership", resource_id=f.conversation_id, at=at, data={**data, **more}))
        return items, f"{SEATS}:{found[-1].place}" if len(found) == limit else ""
