"""Auth's sessions in SQLite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import apsw
import msgspec

from sealwire.adapters.embedded.auth_feed import SqliteRevocationStore, is_active_since
from sealwire.adapters.embedded.auth_users import TENANT, USER, tenant_of, user_of
from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.ports.events import NewEvent
from sealwire.services.auth.model import Rotation, Verdict
from sealwire.services.auth.records import NewRevocation, RefreshUse, SessionRecord, TenantRecord, UserRecord

SESSION: Final = (
    "session_id, tenant_id, user_id, epoch, created_us, seen_us, expires_us, auth_us, amr, client_id, sealed_secret,"
    " sealed_origin, refresh_head, refresh_uses, ended_us"
)
# A keyed hash of the account and the network in which the session was opened.
PLACE_SCHEMA: Final = """
ALTER TABLE session ADD COLUMN place BLOB NOT NULL DEFAULT x'';
CREATE INDEX session_place ON session (place) WHERE ended_us = 0;
"""
_uses = msgspec.msgpack.Decoder(tuple[RefreshUse, ...]).decode
_pack = msgspec.msgpack.Encoder().encode


def session_of(row: Row) -> SessionRecord:
    """Read the columns `SESSION`."""
    (
        session_id, tenant_id, user_id, epoch, created_us, seen_us, expires_us, auth_us, amr, client_id, sealed_secret,
        sealed_origin, refresh_head, refresh_uses, ended_us,
    ) = row  # fmt: skip
    return SessionRecord(
        session_id=session_id, tenant_id=tenant_id, user_id=user_id, epoch=epoch, created_us=created_us,
        seen_us=seen_us, expires_us=expires_us, auth_us=auth_us, amr=tuple(amr.split()), client_id=client_id,
        sealed_secret=sealed_secret, sealed_origin=sealed_origin, refresh_head=refresh_head,
        refresh_uses=_uses(refresh_uses), ended_us=ended_us,
    )  # fmt: skip


_SESSION: Final = f"SELECT {SESSION} FROM session WHERE session_id = ?"
_USER: Final = f"SELECT {USER} FROM user WHERE user_id = ?"
_TENANT: Final = f"SELECT {TENANT} FROM tenant WHERE tenant_id = ?"
Found = tuple[SessionRecord, UserRecord, TenantRecord]


class SqliteSessionStore:
    """The table `session`: a row is a session with its family of refresh tokens."""

    def __init__(self, db: Database, outbox: SqliteOutbox, feed: SqliteRevocationStore) -> None:
        self._db = db
        self._outbox = outbox
        self._feed = feed

    async def open(
        self, session: SessionRecord, *, place: bytes, most: int, forgive: Sequence[bytes],
        revoke: Callable[[str], NewRevocation], events: Sequence[NewEvent], ended_event: Callable[[str], NewEvent],
    ) -> bool:  # fmt: skip
        s = session

        def open_(conn: apsw.Connection) -> bool:
            if not is_active_since(conn, s.user_id, s.epoch):
                return False
            for oldest in self._beyond(conn, s, most):
                conn.execute("UPDATE session SET ended_us = ? WHERE session_id = ?", (s.created_us, oldest))
                self._feed.add(conn, revoke(oldest))
                self._outbox.append(conn, [ended_event(oldest)])
            conn.execute(
                f"INSERT INTO session ({SESSION}, place) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (s.session_id, s.tenant_id, s.user_id, s.epoch, s.created_us, s.seen_us, s.expires_us, s.auth_us,
                 " ".join(s.amr), s.client_id, s.sealed_secret, s.sealed_origin, s.refresh_head,
                 _pack(s.refresh_uses), s.ended_us, place),
            )  # fmt: skip
            _forgive(conn, forgive)
            self._outbox.append(conn, events)
            return True

        return await self._db.write(open_)

    @staticmethod
    def _beyond(conn: apsw.Connection, session: SessionRecord, most: int) -> list[str]:
        """Return the live sessions of the user that have to go so that one more fits."""
        rows: list[Row] = conn.execute(
            "SELECT session_id FROM session WHERE user_id = ? AND ended_us = 0 AND expires_us > ?"
            " ORDER BY seen_us DESC LIMIT -1 OFFSET ?",
            (session.user_id, session.created_us, most - 1),
        ).fetchall()
        return [row[0] for row in rows]

    async def get(self, session_id: str) -> Found | None:
        return _find(self._db.read, session_id)

    async def is_open_at(self, place: bytes, now_us: int) -> bool:
        sql = "SELECT 1 FROM session WHERE place = ? AND ended_us = 0 AND expires_us > ? LIMIT 1"
        return bool(self._db.read(sql, (place, now_us)))

    async def live(self, user_id: str, now_us: int, *, after: str, limit: int) -> Sequence[SessionRecord]:
        rows = self._db.read(
            f"SELECT {SESSION} FROM session WHERE user_id = ?1 AND ended_us = 0 AND expires_us > ?2"
            " AND (?3 = '' OR session_id < ?3) ORDER BY session_id DESC LIMIT ?4",
            (user_id, now_us, after, limit),
        )
        return [session_of(row) for row in rows]

    async def rotate(
        self, session_id: str, judge: Callable[[SessionRecord], Rotation], *, now_us: int, expires_us: int,
        sealed_origin: bytes, reused: NewRevocation, events: Sequence[NewEvent], reused_events: Sequence[NewEvent],
    ) -> tuple[SessionRecord, Rotation] | None:  # fmt: skip
        def rotate(conn: apsw.Connection) -> tuple[SessionRecord, Rotation] | None:
            found = _find(lambda sql, params: conn.execute(sql, params).fetchall(), session_id)
            if found is None:
                return None
            session, user, tenant = found
            dead = session.ended_us or session.expires_us <= now_us
            if dead or user.status != "active" or tenant.status != "active":
                return None
            rotation = judge(session)
            if rotation.verdict is Verdict.REUSED:
                conn.execute("UPDATE session SET ended_us = ? WHERE session_id = ?", (now_us, session_id))
                self._feed.add(conn, reused)
                self._outbox.append(conn, reused_events)
                return session, rotation
            conn.execute(
                "UPDATE session SET refresh_head = ?, refresh_uses = ?, seen_us = max(seen_us, ?), expires_us = ?,"
                " sealed_origin = ? WHERE session_id = ?",
                (rotation.head, _pack(rotation.uses), now_us, expires_us, sealed_origin, session_id),
            )
            if rotation.verdict is Verdict.ROTATE:
                self._outbox.append(conn, events)
            return session, rotation

        return await self._db.write(rotate)

    async def prove(
        self, session_id: str, *, auth_us: int, amr: tuple[str, ...], forgive: Sequence[bytes],
        events: Sequence[NewEvent],
    ) -> SessionRecord | None:  # fmt: skip
        def prove(conn: apsw.Connection) -> SessionRecord | None:
            conn.execute(
                "UPDATE session SET auth_us = ?, amr = ? WHERE session_id = ? AND ended_us = 0 AND expires_us > ?",
                (auth_us, " ".join(amr), session_id, auth_us),
            )
            if not conn.changes():
                return None
            _forgive(conn, forgive)
            self._outbox.append(conn, events)
            rows = conn.execute(_SESSION, (session_id,)).fetchall()
            return session_of(rows[0])

        return await self._db.write(prove)

    async def end(self, session_id: str, user_id: str, revocation: NewRevocation, events: Sequence[NewEvent]) -> bool:
        def end(conn: apsw.Connection) -> bool:
            conn.execute(
                "UPDATE session SET ended_us = ? WHERE session_id = ? AND user_id = ? AND ended_us = 0",
                (revocation.at_us, session_id, user_id),
            )
            if not conn.changes():
                return False
            self._feed.add(conn, revocation)
            self._outbox.append(conn, events)
            return True

        return await self._db.write(end)

    async def touch(self, seen: Sequence[tuple[str, int]]) -> None:
        def touch(conn: apsw.Connection) -> None:
            conn.executemany(
                "UPDATE session SET seen_us = ?2 WHERE session_id = ?1 AND seen_us < ?2 AND ended_us = 0", seen
            )
            conn.executemany("UPDATE api_key SET used_us = ?2 WHERE key_id = ?1 AND used_us < ?2", seen)

        await self._db.write(touch)


def _find(read: Callable[[str, tuple[str]], list[Row]], session_id: str) -> Found | None:
    """Read a session, its user and its tenant: three look-ups by key cost a quarter of one join over them."""
    if not (sessions := read(_SESSION, (session_id,))):
        return None
    session = session_of(sessions[0])
    users, tenants = read(_USER, (session.user_id,)), read(_TENANT, (session.tenant_id,))
    if not users or not tenants:
        return None
    return session, user_of(users[0]), tenant_of(tenants[0])


def _forgive(conn: apsw.Connection, keys: Sequence[bytes]) -> None:
    conn.executemany("DELETE FROM attempt WHERE key = ?", [(key,) for key in keys])
