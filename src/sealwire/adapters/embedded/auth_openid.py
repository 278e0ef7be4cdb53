"""Auth's apps, grants and consents (OpenID Connect) in SQLite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import apsw
import msgspec

from sealwire.adapters.embedded.auth_sessions import SESSION, session_of
from sealwire.adapters.embedded.auth_users import TENANT, USER, tenant_of, user_of
from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.kit.problem import QuotaExceeded
from sealwire.ports.events import NewEvent
from sealwire.services.auth.model import Rotation, Verdict
from sealwire.services.auth.openid_records import ClientRecord, ConsentRecord, Fate, GrantRecord, Notice, Standing
from sealwire.services.auth.records import RefreshUse

_CLIENT: Final = (
    "client_id, tenant_id, name, kind, secret_hash, redirect_uris, logout_uris, backchannel_uri, scopes, created_by,"
    " created_us, ended_us"
)
_GRANT: Final = (
    "grant_id, client_id, tenant_id, user_id, session_id, scopes, epoch, auth_us, amr, code_hash, redirect_uri,"
    " challenge, nonce, created_us, redeemed_us, refresh_head, refresh_uses, ended_us"
)
_OVER: Final = "(g.ended_us > 0 OR s.ended_us > 0 OR s.expires_us <= ?1)"
# Those not tried yet come first: apps that never answer must not keep others from being told.
_DUE: Final = (
    "SELECT g.client_id, g.tenant_id, g.user_id, g.session_id, c.backchannel_uri, max(g.attempts)"
    " FROM openid_grant g JOIN session s USING (session_id) JOIN openid_client c USING (client_id)"
    f" WHERE g.notify = 1 AND g.due_us <= ?1 AND {_OVER} GROUP BY g.client_id, g.session_id"
    " UNION ALL SELECT client_id, tenant_id, subject, session_id, backchannel_uri, attempts"
    " FROM openid_notice WHERE due_us <= ?1 ORDER BY 6 LIMIT ?2"
)
OPENID_SCHEMA: Final = """
CREATE TABLE openid_client (
    client_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    secret_hash BLOB NOT NULL,
    redirect_uris TEXT NOT NULL,
    logout_uris TEXT NOT NULL,
    backchannel_uri TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    ended_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX openid_client_tenant ON openid_client (tenant_id, client_id) WHERE ended_us = 0;

CREATE TABLE openid_consent (
    user_id TEXT NOT NULL REFERENCES user (user_id) ON DELETE CASCADE,
    client_id TEXT NOT NULL,
    scopes TEXT NOT NULL,
    given_us INTEGER NOT NULL,
    PRIMARY KEY (user_id, client_id)
) WITHOUT ROWID;

CREATE TABLE openid_grant (
    grant_id TEXT PRIMARY KEY,
    client_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    session_id TEXT NOT NULL REFERENCES session (session_id) ON DELETE CASCADE,
    scopes TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    auth_us INTEGER NOT NULL,
    amr TEXT NOT NULL,
    code_hash BLOB NOT NULL UNIQUE,
    redirect_uri TEXT NOT NULL,
    challenge TEXT NOT NULL,
    nonce TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    redeemed_us INTEGER NOT NULL,
    refresh_head INTEGER NOT NULL,
    refresh_uses BLOB NOT NULL,
    ended_us INTEGER NOT NULL,
    notify INTEGER NOT NULL DEFAULT 0,
    due_us INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX openid_grant_session ON openid_grant (session_id);
CREATE INDEX openid_grant_client ON openid_grant (client_id, user_id);
CREATE INDEX openid_grant_notify ON openid_grant (due_us) WHERE notify = 1;
CREATE INDEX openid_grant_code ON openid_grant (created_us) WHERE redeemed_us = 0;
"""
# A person who is erased takes sessions and grants along; that their apps are told stays to be done.
NOTICES_SCHEMA: Final = """
CREATE TABLE openid_notice (
    client_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    backchannel_uri TEXT NOT NULL,
    due_us INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    PRIMARY KEY (client_id, session_id)
) WITHOUT ROWID;
CREATE INDEX openid_notice_due ON openid_notice (due_us);

CREATE TRIGGER openid_grant_gone BEFORE DELETE ON openid_grant WHEN old.notify = 1
BEGIN
    INSERT OR IGNORE INTO openid_notice
    SELECT old.client_id, old.session_id, old.tenant_id, old.user_id, c.backchannel_uri, old.due_us, old.attempts
    FROM openid_client c WHERE c.client_id = old.client_id;
END;
"""

_uses = msgspec.msgpack.Decoder(tuple[RefreshUse, ...]).decode
_pack = msgspec.msgpack.Encoder().encode


class SqliteClientStore:
    """The table `openid_client`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def add(self, client: ClientRecord, *, most: int, events: Sequence[NewEvent]) -> None:
        c = client

        def add(conn: apsw.Connection) -> None:
            rows: list[Row] = conn.execute(
                "SELECT count(*) FROM openid_client WHERE tenant_id = ? AND ended_us = 0", (c.tenant_id,)
            ).fetchall()
            if rows[0][0] >= most:
                raise QuotaExceeded(f"The tenant has {most} apps, and may have no more.")
            conn.execute(
                f"INSERT INTO openid_client ({_CLIENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (c.client_id, c.tenant_id, c.name, c.kind, c.secret_hash, "\n".join(c.redirect_uris),
                 "\n".join(c.logout_uris), c.backchannel_uri, " ".join(c.scopes), c.created_by, c.created_us,
                 c.ended_us),
            )  # fmt: skip
            self._outbox.append(conn, events)

        await self._db.write(add)

    async def get(self, client_id: str) -> ClientRecord | None:
        rows = self._db.read(f"SELECT {_CLIENT} FROM openid_client WHERE client_id = ? AND ended_us = 0", (client_id,))
        return _client_of(rows[0]) if rows else None

    async def page(self, tenant_id: str, after: str, limit: int) -> Sequence[ClientRecord]:
        rows = self._db.read(
            f"SELECT {_CLIENT} FROM openid_client WHERE tenant_id = ? AND client_id > ? AND ended_us = 0"
            " ORDER BY client_id LIMIT ?",
            (tenant_id, after, limit),
        )
        return [_client_of(row) for row in rows]

    async def end(self, tenant_id: str, client_id: str, now_us: int, events: Sequence[NewEvent]) -> bool:
        def end(conn: apsw.Connection) -> bool:
            conn.execute(
                "UPDATE openid_client SET ended_us = ? WHERE client_id = ? AND tenant_id = ? AND ended_us = 0",
                (now_us, client_id, tenant_id),
            )
            if not conn.changes():
                return False
            conn.execute(
                "UPDATE openid_grant SET ended_us = ? WHERE client_id = ? AND ended_us = 0", (now_us, client_id)
            )
            self._outbox.append(conn, events)
            return True

        return await self._db.write(end)


class SqliteGrantStore:
    """The tables `openid_grant` and `openid_consent`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def give(self, grant: GrantRecord, consent: ConsentRecord | None, events: Sequence[NewEvent]) -> bool:
        g = grant

        def give(conn: apsw.Connection) -> bool:
            alive = conn.execute(
                "SELECT 1 FROM session s JOIN user u USING (user_id) JOIN tenant t ON t.tenant_id = u.tenant_id"
                " JOIN openid_client c ON c.client_id = ? AND c.tenant_id = u.tenant_id"
                " WHERE s.session_id = ? AND s.user_id = ? AND s.ended_us = 0 AND s.expires_us > ? AND u.epoch = ?"
                " AND u.status = 'active' AND t.status = 'active' AND c.ended_us = 0",
                (g.client_id, g.session_id, g.user_id, g.created_us, g.epoch),
            ).fetchall()
            if not alive:
                return False
            conn.execute(
                f"INSERT INTO openid_grant ({_GRANT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (g.grant_id, g.client_id, g.tenant_id, g.user_id, g.session_id, " ".join(g.scopes), g.epoch, g.auth_us,
                 " ".join(g.amr), g.code_hash, g.redirect_uri, g.challenge, g.nonce, g.created_us, g.redeemed_us,
                 g.refresh_head, _pack(g.refresh_uses), g.ended_us),
            )  # fmt: skip
            if consent is not None:
                conn.execute(
                    "REPLACE INTO openid_consent (user_id, client_id, scopes, given_us) VALUES (?, ?, ?, ?)",
                    (consent.user_id, consent.client_id, " ".join(consent.scopes), consent.given_us),
                )
            self._outbox.append(conn, events)
            return True

        return await self._db.write(give)

    async def redeem(
        self, code_hash: bytes, judge: Callable[[Standing], bool], *, client_id: str, now_us: int,
        events_of: Callable[[GrantRecord, Fate], Sequence[NewEvent]],
    ) -> tuple[Fate, Standing | None]:  # fmt: skip
        def redeem(conn: apsw.Connection) -> tuple[Fate, Standing | None]:
            standing = _standing(conn, "code_hash = ? AND client_id = ?", code_hash, client_id)
            if standing is None:
                return Fate.REFUSED, None
            grant = standing.grant
            if grant.redeemed_us or grant.ended_us:
                conn.execute(
                    "UPDATE openid_grant SET ended_us = ? WHERE grant_id = ? AND ended_us = 0", (now_us, grant.grant_id)
                )
                if conn.changes():
                    self._outbox.append(conn, events_of(grant, Fate.REPLAYED))
                return Fate.REPLAYED, standing
            redeemed = msgspec.structs.replace(standing, grant=msgspec.structs.replace(grant, redeemed_us=now_us))
            if not redeemed.lives(now_us) or not judge(redeemed):
                return Fate.REFUSED, None
            conn.execute(
                "UPDATE openid_grant SET redeemed_us = ?, notify = ? WHERE grant_id = ?",
                (now_us, 1 if standing.client.backchannel_uri else 0, grant.grant_id),
            )
            self._outbox.append(conn, events_of(grant, Fate.REDEEMED))
            return Fate.REDEEMED, redeemed

        return await self._db.write(redeem)

    async def rotate(
        self, grant_id: str, judge: Callable[[Standing], Rotation], *, client_id: str, now_us: int,
        events_of: Callable[[GrantRecord, Rotation], Sequence[NewEvent]],
    ) -> tuple[Standing, Rotation] | None:  # fmt: skip
        def rotate(conn: apsw.Connection) -> tuple[Standing, Rotation] | None:
            standing = _standing(conn, "grant_id = ? AND client_id = ?", grant_id, client_id)
            if standing is None or not standing.lives(now_us):
                return None
            rotation = judge(standing)
            if rotation.verdict is Verdict.REUSED:
                conn.execute("UPDATE openid_grant SET ended_us = ? WHERE grant_id = ?", (now_us, grant_id))
            else:
                conn.execute(
                    "UPDATE openid_grant SET refresh_head = ?, refresh_uses = ? WHERE grant_id = ?",
                    (rotation.head, _pack(rotation.uses), grant_id),
                )
            self._outbox.append(conn, events_of(standing.grant, rotation))
            return standing, rotation

        return await self._db.write(rotate)

    async def get(self, grant_id: str) -> Standing | None:
        return _standing(self._db, "grant_id = ?", grant_id)

    async def end(self, grant_id: str, client_id: str, now_us: int, events: Sequence[NewEvent]) -> bool:
        def end(conn: apsw.Connection) -> bool:
            conn.execute(
                "UPDATE openid_grant SET ended_us = ? WHERE grant_id = ? AND client_id = ? AND ended_us = 0",
                (now_us, grant_id, client_id),
            )
            if not conn.changes():
                return False
            self._outbox.append(conn, events)
            return True

        return await self._db.write(end)

    async def consent(self, user_id: str, client_id: str) -> ConsentRecord | None:
        rows = self._db.read(
            "SELECT scopes, given_us FROM openid_consent WHERE user_id = ? AND client_id = ?", (user_id, client_id)
        )
        if not rows:
            return None
        return ConsentRecord(
            user_id=user_id, client_id=client_id, scopes=tuple(rows[0][0].split()), given_us=rows[0][1]
        )

    async def consents(self, user_id: str, after: str, limit: int) -> Sequence[tuple[ConsentRecord, ClientRecord]]:
        rows = self._db.read(
            f"SELECT o.scopes, o.given_us, {', '.join('c.' + name for name in _CLIENT.split(', '))}"
            " FROM openid_consent o JOIN openid_client c USING (client_id)"
            " WHERE o.user_id = ? AND o.client_id > ? AND c.ended_us = 0 ORDER BY o.client_id LIMIT ?",
            (user_id, after, limit),
        )
        return [
            (
                ConsentRecord(user_id=user_id, client_id=row[2], scopes=tuple(row[0].split()), given_us=row[1]),
                _client_of(row[2:]),
            )
            for row in rows
        ]

    async def withdraw(self, user_id: str, client_id: str, now_us: int, events: Sequence[NewEvent]) -> bool:
        def withdraw(conn: apsw.Connection) -> bool:
            conn.execute("DELETE FROM openid_consent WHERE user_id = ? AND client_id = ?", (user_id, client_id))
            if not conn.changes():
                return False
            conn.execute(
                "UPDATE openid_grant SET ended_us = ? WHERE user_id = ? AND client_id = ? AND ended_us = 0",
                (now_us, user_id, client_id),
            )
            self._outbox.append(conn, events)
            return True

        return await self._db.write(withdraw)


class SqliteNoticeStore:
    """What of `openid_grant` waits to be told (`notify`: 0 nothing, 1 when it is over, 2 told), and `openid_notice`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def due(self, now_us: int, limit: int) -> Sequence[Notice]:
        def due(conn: apsw.Connection) -> list[Row]:
            return conn.execute(_DUE, (now_us, limit)).fetchall()

        return [
            Notice(client_id=c, tenant_id=t, user_id=u, session_id=s, backchannel_uri=b, attempts=n)
            for c, t, u, s, b, n in await self._db.scan(due)
        ]

    async def done(self, notice: Notice, events: Sequence[NewEvent]) -> None:
        def done(conn: apsw.Connection) -> None:
            conn.execute(
                "UPDATE openid_grant SET notify = 2 WHERE client_id = ? AND session_id = ? AND notify = 1",
                (notice.client_id, notice.session_id),
            )
            conn.execute(
                "DELETE FROM openid_notice WHERE client_id = ? AND session_id = ?",
                (notice.client_id, notice.session_id),
            )
            self._outbox.append(conn, events)

        await self._db.write(done)

    async def later(self, notice: Notice, due_us: int) -> None:
        def later(conn: apsw.Connection) -> None:
            conn.execute(
                "UPDATE openid_grant SET due_us = ?, attempts = attempts + 1"
                " WHERE client_id = ? AND session_id = ? AND notify = 1",
                (due_us, notice.client_id, notice.session_id),
            )
            conn.execute(
                "UPDATE openid_notice SET due_us = ?, attempts = attempts + 1 WHERE client_id = ? AND session_id = ?",
                (due_us, notice.client_id, notice.session_id),
            )

        await self._db.write(later)


def _standing(source: Database | apsw.Connection, where: str, *keys: str | bytes) -> Standing | None:
    """Read a grant and what it hangs on, each by its key."""

    def read(sql: str, params: tuple[str | bytes, ...]) -> list[Row]:
        return source.read(sql, params) if isinstance(source, Database) else source.execute(sql, params).fetchall()

    grants = read(f"SELECT {_GRANT} FROM openid_grant WHERE {where}", keys)
    if not grants:
        return None
    grant = _grant_of(grants[0])
    clients = read(f"SELECT {_CLIENT} FROM openid_client WHERE client_id = ?", (grant.client_id,))
    sessions = read(f"SELECT {SESSION} FROM session WHERE session_id = ?", (grant.session_id,))
    users = read(f"SELECT {USER} FROM user WHERE user_id = ?", (grant.user_id,))
    tenants = read(f"SELECT {TENANT} FROM tenant WHERE tenant_id = ?", (grant.tenant_id,))
    if not (clients and sessions and users and tenants):
        return None
    return Standing(
        grant=grant,
        client=_client_of(clients[0]),
        session=session_of(sessions[0]),
        user=user_of(users[0]),
        tenant=tenant_of(tenants[0]),
    )


def _client_of(row: Row) -> ClientRecord:
    client_id, tenant_id, name, kind, secret, redirects, logouts, backchannel, scopes, by, created, ended = row
    return ClientRecord(
        client_id=client_id, tenant_id=tenant_id, name=name, kind=kind, secret_hash=secret,
        redirect_uris=tuple(redirects.split("\n")), logout_uris=tuple(logouts.split()), backchannel_uri=backchannel,
        scopes=tuple(scopes.split()), created_by=by, created_us=created, ended_us=ended,
    )  # fmt: skip


def _grant_of(row: Row) -> GrantRecord:
    (
        grant_id, client_id, tenant_id, user_id, session_id, scopes, epoch, auth_us, amr, code_hash, redirect_uri,
        challenge, nonce, created_us, redeemed_us, refresh_head, refresh_uses, ended_us,
    ) = row  # fmt: skip
    return GrantRecord(
        grant_id=grant_id, client_id=client_id, tenant_id=tenant_id, user_id=user_id, session_id=session_id,
        scopes=tuple(scopes.split()), epoch=epoch, auth_us=auth_us, amr=tuple(amr.split()), code_hash=code_hash,
        redirect_uri=redirect_uri, challenge=challenge, nonce=nonce, created_us=created_us, redeemed_us=redeemed_us,
        refresh_head=refresh_head, refresh_uses=_uses(refresh_uses), ended_us=ended_us,
    )  # fmt: skip
