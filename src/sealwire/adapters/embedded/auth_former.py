"""What a profile was, kept in auth's SQLite file while a legal hold covers the person.

It is written in the transaction that replaces the profile, sealed as it was, and goes with the sweep after the release
of the last hold, or with the person.
"""

from __future__ import annotations

from typing import Final

import apsw

from sealwire.adapters.embedded.holds import held_sql

FORMER_SCHEMA: Final = """
CREATE TABLE former_profile (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id TEXT NOT NULL REFERENCES user (user_id) ON DELETE CASCADE,
    sealed BLOB NOT NULL,
    until_us INTEGER NOT NULL
);
CREATE INDEX former_profile_of ON former_profile (user_id, num);
"""
_HELD: Final = held_sql("user.tenant_id", "user.user_id")
FORMER_ROWS: Final = (
    "SELECT CAST(num AS TEXT), until_us, sealed, '', '' FROM former_profile WHERE user_id = ?"
    " AND num > CAST(? AS INTEGER) ORDER BY num LIMIT ?"
)
# Looked for by the holds that were released before a time: while none was, this finds nothing at once.
RELEASED_FORMER: Final = (
    "DELETE FROM former_profile WHERE num IN (SELECT f.num FROM legal_hold h"
    " CROSS JOIN former_profile f ON f.user_id = h.subject_id CROSS JOIN user ON user.user_id = f.user_id"
    f" WHERE h.released_us <= ?1 AND user.tenant_id = h.tenant_id AND NOT {_HELD} LIMIT ?2)"
)


def keep_profile(conn: apsw.Connection, user_id: str, at_us: int) -> None:
    """From inside the write that replaces a profile, before it does: keep the profile if a hold covers the person."""
    conn.execute(
        "INSERT INTO former_profile (user_id, sealed, until_us)"
        f" SELECT user_id, sealed, ?2 FROM user WHERE user_id = ?1 AND {_HELD}",
        (user_id, at_us),
    )
