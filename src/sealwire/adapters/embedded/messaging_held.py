"""What a legal hold covers in messaging's tables, said once: for every statement that deletes, replaces or counts.

A hold on a person covers what they wrote and what names them, whoever wrote it, and who was in the conversations they
were in; one on a conversation covers all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

import apsw

from sealwire.adapters.embedded.drivers.sqlite import fetch
from sealwire.adapters.embedded.holds import anybody_held_sql, held_sql
from sealwire.adapters.embedded.messaging_schema import LAST, SEQ_BITS

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
_THERE: Final = "FROM json_each(?2) v CROSS JOIN conversation c ON c.conversation_id = v.value AND c.tenant_id = ?1"
_HOLD_ON: Final = (
    "CROSS JOIN legal_hold h INDEXED BY legal_hold_subject ON h.tenant_id = ?1 AND h.released_us IS NULL"
    " AND h.subject_id ="
)
_HOLDS_ON_PEOPLE: Final = (
    f"SELECT DISTINCT h.hold_id {_THERE} CROSS JOIN trace t ON t.conversation = c.num {_HOLD_ON} t.user_id"
)
_KEY: Final = f"BETWEEN c.num << {SEQ_BITS} AND (c.num << {SEQ_BITS} | {LAST})"
_KEPT: Final = {
    "message": f"{_THERE} CROSS JOIN message m ON m.key {_KEY} AND m.sender_id = ?3",
    "mention": f"{_THERE} CROSS JOIN message m ON m.key {_KEY} AND instr(m.meta, CAST(?3 AS BLOB))",
    "reaction": f"{_THERE} CROSS JOIN former_reaction r ON r.key {_KEY} AND r.user_id = ?3"
    " CROSS JOIN message m ON m.key = r.key",
}
"""Messages that are held with what they are to a person (?3), as `HELD_MESSAGE` says."""
_MENTIONED: Final = "AND m.meta IS NOT NULL CROSS JOIN json_each(CAST(m.meta AS TEXT), '$.mentions') j"
_HOLDS_ON_MESSAGES: Final = {
    kind: (
        f"SELECT DISTINCT h.hold_id {rows} {_HOLD_ON} m.sender_id",
        f"SELECT DISTINCT h.hold_id {rows} {_MENTIONED} {_HOLD_ON} j.value",
    )
    for kind, rows in _KEPT.items()
}
_HELD_CONVERSATIONS: Final = (
    "SELECT c.conversation_id FROM json_each(?2) j JOIN conversation c ON c.conversation_id = j.value"
    f" WHERE c.tenant_id = ?1 AND {held_sql('c.tenant_id', conversation='c.conversation_id')} ORDER BY 1"
)


def holders(
    conn: apsw.Connection, tenant_id: str, subject_id: str, held: Iterable[tuple[str, str]]
) -> tuple[list[str], list[str]]:
    """Return who keeps what is held of a person in these conversations, given as (id, kind): the conversations that a
    hold names, and the holds on people, those alone that keep something of it.

    Seats, and who made a conversation, are kept by a hold on anybody who was ever there.
    """
    of: dict[str, list[str]] = {}
    for conversation_id, kind in held:
        of.setdefault(kind, []).append(conversation_id)

    def found(sql: str, ids: Iterable[str], *who: str) -> set[str]:
        return {str(id_) for (id_,) in fetch(conn, sql, (tenant_id, json.dumps(sorted(ids)), *who))}

    everywhere = {id_ for ids in of.values() for id_ in ids}
    of_messages = [kind for kind in of if kind in _HOLDS_ON_MESSAGES]
    keeping = found(_HOLDS_ON_PEOPLE, {id_ for kind, ids in of.items() if kind not in of_messages for id_ in ids})
    if keeping != found(_HOLDS_ON_PEOPLE, everywhere):  # else all who could are known, without a look at messages
        for kind in of_messages:
            for sql in _HOLDS_ON_MESSAGES[kind]:
                keeping |= found(sql, of[kind], subject_id)
    return sorted(found(_HELD_CONVERSATIONS, everywhere)), sorted(keeping)


def held_files(conn: apsw.Connection, tenant_id: str, media_ids: str) -> dict[str, list[str]]:
    """Return those of these files (a JSON list) that are attached to held messages, with the holds that keep these."""
    found: dict[str, list[str]] = {}
    for media_id, hold_id in fetch(conn, _HOLDS_ON_FILES, (tenant_id, media_ids)):
        found.setdefault(str(media_id), []).append(str(hold_id))
    return found
