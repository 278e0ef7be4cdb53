"""Former titles and reactions as an export tells them: what was replaced while a legal hold covered it."""

from __future__ import annotations

from sealwire.contracts.custody import SubjectItem
from sealwire.kit.clock import rfc3339
from sealwire.services.messaging.bodies import Bodies
from sealwire.services.messaging.former_ports import FormerStore

Page = tuple[list[SubjectItem], str]
TITLES, REACTIONS = "former-titles", "former-reactions"


class FormerPages:
    """The last pages of an export. Each ends with the cursor of the next, "" at the end."""

    def __init__(self, *, store: FormerStore, bodies: Bodies) -> None:
        self._store = store
        self._bodies = bodies

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
        return items, f"{REACTIONS}:{found[-1].place}" if len(found) == limit else ""
