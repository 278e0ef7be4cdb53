"""Auth's rows of one person in SQLite. Tables that refer to `user` are found by their foreign keys, not by a list."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import apsw

from sealwire.adapters.embedded.auth_former import FORMER_ROWS
from sealwire.adapters.embedded.auth_users import SqliteUserStore
from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.adapters.embedded.holds import SqliteHoldBook, is_held
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.contracts.holds import LegalHold
from sealwire.ports.events import NewEvent
from sealwire.services.auth.records import Cut, UserRecord
from sealwire.services.auth.subject_ports import Erasing, KeptStatus, RowKind, SubjectRow

_WHOSE: Final = (
    "SELECT tenant_id FROM user WHERE user_id = ?1 UNION ALL SELECT tenant_id FROM erased_user WHERE user_id = ?1"
)
_REFERENCES: Final = (
    """SELECT t.name, f."from" FROM sqlite_master t, pragma_foreign_key_list(t.name) f"""
    " WHERE t.type = 'table' AND f.\"table\" = 'user' ORDER BY t.name"
)
_LOOSE: Final = (
    "SELECT t.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table' AND c.name = 'user_id'"
    " AND t.name NOT IN ('user', 'erased_user') AND NOT EXISTS (SELECT 1 FROM pragma_foreign_key_list(t.name))"
)
_ROWS: Final = {
    "session": "SELECT session_id, created_us, sealed_origin, seen_us, amr FROM session WHERE user_id = ?"
    " AND session_id > ? ORDER BY session_id LIMIT ?",
    "api_key": "SELECT key_id, created_us, x'', name, scopes FROM api_key WHERE owner_id = ? AND key_id > ?"
    " ORDER BY key_id LIMIT ?",
    "passkey": "SELECT passkey_id, created_us, sealed_name, used_us, '' FROM passkey WHERE user_id = ?"
    " AND passkey_id > ? ORDER BY passkey_id LIMIT ?",
    "consent": "SELECT client_id, given_us, x'', scopes, '' FROM openid_consent WHERE user_id = ? AND client_id > ?"
    " ORDER BY client_id LIMIT ?",
    "identity": "SELECT identity_id, created_us, x'', provider, issuer FROM external_identity WHERE user_id = ?"
    " AND identity_id > ? ORDER BY identity_id LIMIT ?",
    "former": FORMER_ROWS,
}
_FACTS: Final = {
    "session": ("last_seen_us", "amr"),
    "api_key": ("name", "scopes"),
    "passkey": ("last_used_us", ""),
    "consent": ("scopes", ""),
    "identity": ("provider", "issuer"),
    "former": ("", ""),
}


class SqliteSubjectStore:
    """Over the tables of auth."""

    def __init__(self, db: Database, outbox: SqliteOutbox, users: SqliteUserStore) -> None:
        self._db = db
        self._outbox = outbox
        self._users = users
        self.holds = SqliteHoldBook(db)

    # ---- erasing

    async def require_erasable(self, user: UserRecord) -> None:
        def look(conn: apsw.Connection) -> None:
            _require_free(conn, user)
            self._users.keep_an_owner(conn, user)

        await self._db.write(look)

    async def begin_erasing(self, user: UserRecord, cut: Cut, events: Sequence[NewEvent]) -> Mapping[str, int] | None:
        def begin(conn: apsw.Connection) -> Mapping[str, int] | None:
            _require_free(conn, user)
            gone = _referring(conn, user.user_id) | {"invitation": _invitations(conn, user.email_index)}
            if self._users.cut_within(conn, cut, events) is None:
                return None
            until = conn.execute("SELECT coalesce(max(position), 0) FROM outbox").get
            conn.execute(
                "INSERT INTO erased_user VALUES (?, ?, 'erased', ?, ?, ?, 0, ?)",
                (user.user_id, user.tenant_id, cut.revocation.at_us, user.sealed, user.email_index, until),
            )
            conn.execute("DELETE FROM invitation WHERE email_index = ?", (user.email_index,))
            for (table,) in conn.execute(_LOOSE).fetchall():
                conn.execute(f"DELETE FROM {table} WHERE user_id = ?", (user.user_id,))
            conn.execute("DELETE FROM user WHERE user_id = ?", (user.user_id,))  # all that refers to it goes with it
            conn.execute("UPDATE tenant SET users = users - 1 WHERE tenant_id = ?", (user.tenant_id,))
            return {"profile": 1} | {kind: count for kind, count in gone.items() if count and kind != "restriction"}

        return await self._db.write(begin)

    async def erasing(self, tenant_id: str, user_id: str) -> Erasing | None:
        rows = self._db.read(
            "SELECT sealed, email_index FROM erased_user WHERE user_id = ? AND tenant_id = ? AND sealed IS NOT NULL",
            (user_id, tenant_id),
        )
        if not rows:
            return None
        return Erasing(user_id=user_id, tenant_id=tenant_id, sealed=rows[0][0], email_index=rows[0][1])

    async def forget_events(
        self, user_id: str, strip: Callable[[bytes], bytes | None], *, limit: int
    ) -> tuple[int, bool]:
        def forget(conn: apsw.Connection) -> tuple[int, bool]:
            places: list[Row] = conn.execute(
                "SELECT event_after, event_until FROM erased_user WHERE user_id = ?", (user_id,)
            ).fetchall()
            after, until = places[0]
            passed = conn.execute("SELECT min(position) FROM consumer_position").get
            upto = until if passed is None else min(until, passed)
            found: list[Row] = conn.execute(
                "SELECT position, data FROM outbox WHERE position > ? AND position <= ? ORDER BY position LIMIT ?",
                (after, upto, limit),
            ).fetchall()
            stripped = [(strip(data), position) for position, data in found]
            changed = [(data, position) for data, position in stripped if data is not None]
            conn.executemany("UPDATE outbox SET data = ? WHERE position = ?", changed)
            reached = found[-1][0] if len(found) == limit else upto
            conn.execute("UPDATE erased_user SET event_after = ? WHERE user_id = ?", (max(after, reached), user_id))
            return len(changed), reached >= until

        return await self._db.write(forget)

    async def finish_erasing(self, user_id: str, attempts: Sequence[bytes]) -> int:
        def finish(conn: apsw.Connection) -> int:
            forgotten = 0
            for key in attempts:
                conn.execute("DELETE FROM attempt WHERE key = ?", (key,))
                forgotten += conn.changes()
            conn.execute("UPDATE erased_user SET sealed = NULL, email_index = NULL WHERE user_id = ?", (user_id,))
            return forgotten

        return await self._db.write(finish)

    async def compact(self) -> None:
        while await self._db.reclaim():  # in small steps first: writers wait for the last one only
            pass
        await self._db.compact()

    # ---- restricting

    async def restrict(self, cut: Cut, events: Sequence[NewEvent]) -> bool:
        def restrict(conn: apsw.Connection) -> bool:
            if self._users.cut_within(conn, cut, events) is None:
                return False
            conn.execute("INSERT OR REPLACE INTO restriction VALUES (?, ?)", (cut.user_id, cut.from_status))
            return True

        return await self._db.write(restrict)

    async def kept_status(self, user_id: str) -> KeptStatus | None:
        rows = self._db.read("SELECT before FROM restriction WHERE user_id = ?", (user_id,))
        return rows[0][0] if rows else None

    async def release(self, cut: Cut, events: Sequence[NewEvent]) -> bool:
        def release(conn: apsw.Connection) -> bool:
            if self._users.cut_within(conn, cut, events) is None:
                return False
            conn.execute("DELETE FROM restriction WHERE user_id = ?", (cut.user_id,))
            return True

        return await self._db.write(release)

    # ---- telling and looking

    async def rows(self, user_id: str, kind: RowKind, after: str, limit: int) -> Sequence[SubjectRow]:
        return [
            SubjectRow(
                kind=kind, row_id=row_id, at_us=at_us, sealed=sealed,
                facts={name: fact for name, fact in zip(_FACTS[kind], facts, strict=True) if name},
            )
            for row_id, at_us, sealed, *facts in self._db.read(_ROWS[kind], (user_id, after, limit))
        ]  # fmt: skip

    async def places(
        self, tenant_id: str, user_id: str, email_index: bytes, words: Sequence[bytes]
    ) -> Mapping[str, int]:
        def count(conn: apsw.Connection) -> dict[str, int]:
            who = user_id if conn.execute(_WHOSE, (user_id,)).get in (None, tenant_id) else ""
            found = _referring(conn, who) | {"invitation": _invitations(conn, email_index)}
            found["user"] = conn.execute("SELECT count(*) FROM user WHERE user_id = ?", (who,)).get
            found["erasing"] = conn.execute(
                "SELECT count(*) FROM erased_user WHERE user_id = ? AND sealed IS NOT NULL", (who,)
            ).get
            found["words_in_file"] = sum(
                _occurrences(path, words) for path in self._db.path.parent.glob(self._db.path.name + "*")
            )
            return found

        return await self._db.scan(count)


def _require_free(conn: apsw.Connection, user: UserRecord) -> None:
    if is_held(conn, user.tenant_id, subject_id=user.user_id):
        raise LegalHold("A legal hold covers this person.")


def _referring(conn: apsw.Connection, user_id: str) -> dict[str, int]:
    """Count the rows of every table that refers to the user."""
    return {
        str(table): conn.execute(f"SELECT count(*) FROM {table} WHERE {column} = ?", (user_id,)).get
        for table, column in conn.execute(_REFERENCES).fetchall()
    }


def _invitations(conn: apsw.Connection, email_index: bytes) -> int:
    return int(conn.execute("SELECT count(*) FROM invitation WHERE email_index = ?", (email_index,)).get)


def _occurrences(path: Path, words: Sequence[bytes]) -> int:
    """Count the words in a file as it lies on disk."""
    if not words or not path.is_file() or not path.stat().st_size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = 0
        for word in words:
            at = content.find(word)
            while at >= 0:
                found += 1
                at = content.find(word, at + 1)
        return found
