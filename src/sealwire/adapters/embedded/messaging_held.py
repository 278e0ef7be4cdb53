"""What a legal hold covers in messaging's tables, said once: for every statement that deletes, replaces or counts.

A hold on a person covers what they wrote and what names them, whoever wrote it, and who was in the conversations they
were in; one on a conversation covers all of it.
"""

from __future__ import annotations

from typing import Final

import apsw

from sealwire.adapters.embedded.drivers.sqlite import fetch
from sealwire.adapters.embedded.holds import anybody_held_sql, held_sql

FEW: Final = 500
"""Of so many members or fewer each is looked up among the holds; of more, each hold on a person among them."""
_ANY_OF_FEW: Final = (
    "EXISTS (SELECT 1 FROM trace t CROSS JOIN legal_hold h INDEXED BY legal_hold_subject ON h.tenant_id = c.tenant_id"
    " AND h.subject_id = t.user_id WHERE t.conversation = c.num AND h.released_us IS NULL)"
)
_ANY_OF_MANY: Final = anybody_held_sql("c.tenant_id", "trace t ON t.user_id = h.subject_id AND t.conversation = c.num")
HELD_PLACE: Final = (
    f"({held_sql('c.tenant_id', conversation='c.conversation_id')}"
    f" OR iif(c.member_count <= {FEW}, {_ANY_OF_FEW}, {_ANY_OF_MANY}))"
)
"""Of a conversation `c`: its title, its seats, who made it, whose pair it is. By a hold on it, or on anybody who left a
trace there: leaving does not end that."""
HELD_MESSAGE: Final = (
    f"({held_sql('c.tenant_id', 'm.sender_id', 'c.conversation_id')} OR (m.meta IS NOT NULL AND EXISTS"
    " (SELECT 1 FROM json_each(CAST(m.meta AS TEXT), '$.mentions') j"
    f" WHERE {held_sql('c.tenant_id', 'j.value')})))"
)
"""Of a message `m` of `c`: by a hold on the conversation, on who wrote it, or on anybody it mentions."""
HELD_REACTION: Final = f"({held_sql('c.tenant_id', 'r.user_id')} OR {HELD_MESSAGE})"
"""Of a reaction `r` to `m`, which may be gone: by one on who put it, or by what holds its message."""
_KEEPS_MESSAGE: Final = (
    "(h.conversation_id = c.conversation_id OR h.subject_id = m.sender_id"
    " OR h.subject_id IN (SELECT value FROM json_each(CAST(m.meta AS TEXT), '$.mentions')))"
)
"""Of a hold `h` in force in the tenant: it keeps `m`."""
_HOLDS_ON_FILES: Final = (
    "SELECT DISTINCT j.value, h.hold_id FROM json_each(?2) j CROSS JOIN attachment a ON a.media_id = j.value"
    " CROSS JOIN message m ON m.key = a.key CROSS JOIN conversation c ON c.num = m.key >> 32 AND c.tenant_id = ?1"
    f" CROSS JOIN legal_hold h ON h.tenant_id = ?1 AND h.released_us IS NULL AND {_KEEPS_MESSAGE}"
    f" WHERE {HELD_MESSAGE} ORDER BY 1, 2"
)
_HOLDS_ON_PEOPLE: Final = (
    "SELECT DISTINCT h.hold_id FROM conversation c JOIN trace t ON t.conversation = c.num"
    " JOIN legal_hold h INDEXED BY legal_hold_subject ON h.tenant_id = c.tenant_id AND h.subject_id = t.user_id"
    " WHERE h.released_us IS NULL AND c.tenant_id = ?1 AND c.conversation_id IN (SELECT value FROM json_each(?2))"
    " ORDER BY h.hold_id"
)
_HELD_CONVERSATIONS: Final = (
    "SELECT c.conversation_id FROM json_each(?2) j JOIN conversation c ON c.conversation_id = j.value"
    f" WHERE c.tenant_id = ?1 AND {held_sql('c.tenant_id', conversation='c.conversation_id')} ORDER BY 1"
)


def holders(conn: apsw.Connection, tenant_id: str, conversation_ids: str) -> tuple[list[str], list[str]]:
    """Return which of these conversations (a JSON list) a hold names, and the holds on people who were ever there."""
    params = (tenant_id, conversation_ids)
    held = [str(id_) for (id_,) in fetch(conn, _HELD_CONVERSATIONS, params)]
    return held, [str(id_) for (id_,) in fetch(conn, _HOLDS_ON_PEOPLE, params)]


def held_files(conn: apsw.Connection, tenant_id: str, media_ids: str) -> dict[str, list[str]]:
    """Return those of these files (a JSON list) that are attached to held messages, with the holds that keep these."""
    found: dict[str, list[str]] = {}
    for media_id, hold_id in fetch(conn, _HOLDS_ON_FILES, (tenant_id, media_ids)):
        found.setdefault(str(media_id), []).append(str(hold_id))
    return found
