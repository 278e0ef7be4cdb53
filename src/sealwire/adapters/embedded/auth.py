"""Auth's storage in one SQLite file: its stores, signing keys and upkeep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import apsw

from sealwire.adapters.embedded.auth_api_keys import SqliteApiKeyStore
from sealwire.adapters.embedded.auth_changes import (
    EMAIL_CHANGE_KEPT_S,
    EXPIRED_EMAIL_CHANGES,
    SqliteEmailChangeStore,
    void_all_email_changes,
)
from sealwire.adapters.embedded.auth_external import SqliteIdentityStore
from sealwire.adapters.embedded.auth_feed import SqliteRevocationStore
from sealwire.adapters.embedded.auth_former import RELEASED_FORMER
from sealwire.adapters.embedded.auth_keeping import HELD_KEY, HELD_SESSION, SqliteSessionKeeping
from sealwire.adapters.embedded.auth_legacy import SWEEP_LEGACY, SqliteLegacyStore
from sealwire.adapters.embedded.auth_letters import SqliteInvitationStore, SqliteLetterStore, SqliteResetStore
from sealwire.adapters.embedded.auth_openid import SqliteClientStore, SqliteGrantStore, SqliteNoticeStore
from sealwire.adapters.embedded.auth_passkeys import SPENT_CHALLENGES, SqlitePasskeyStore
from sealwire.adapters.embedded.auth_proofs import SqliteAttemptStore, SqliteMfaStore
from sealwire.adapters.embedded.auth_schema import MIGRATIONS
from sealwire.adapters.embedded.auth_sessions import SqliteSessionStore
from sealwire.adapters.embedded.auth_subjects import SqliteSubjectStore
from sealwire.adapters.embedded.auth_users import SqliteTenantStore, SqliteUserStore, cut_suspended, delete_removed
from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.adapters.embedded.outbox import SqliteOutbox, SqlitePositions
from sealwire.kit.clock import US_PER_S
from sealwire.ports.events import NewEvent
from sealwire.services.auth.legacy import KEPT_S as LEGACY_KEPT_S
from sealwire.services.auth.openid_ports import OpenIdStores
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.records import NewRevocation, SigningKeyRecord
from sealwire.services.auth.resets import COUNTED_S as RESETS_COUNTED_S

SWEEP_ROWS = 500
CODE_KEPT_S = 3_600
TENANTS_A_STEP = 100
_EXPIRED = (
    "DELETE FROM session WHERE session_id IN"
    f" (SELECT session_id FROM session WHERE expires_us < ? AND NOT {HELD_SESSION} LIMIT ?)"
)
_ENDED = (
    "DELETE FROM session WHERE session_id IN"
    f" (SELECT session_id FROM session WHERE ended_us > 0 AND ended_us < ? AND NOT {HELD_SESSION} LIMIT ?)"
)
_API_KEYS = (
    f"DELETE FROM api_key WHERE key_id IN (SELECT key_id FROM api_key WHERE expires_us < ?1 AND NOT {HELD_KEY}"
    f" UNION ALL SELECT key_id FROM api_key WHERE ended_us > 0 AND ended_us < ?1 AND NOT {HELD_KEY} LIMIT ?2)"
)
_CHALLENGES = (
    "DELETE FROM challenge WHERE token_hash IN (SELECT token_hash FROM challenge WHERE expires_us < ? LIMIT ?)"
)
_ATTEMPTS = "DELETE FROM attempt WHERE key IN (SELECT key FROM attempt WHERE last_us < ? LIMIT ?)"
_RESETS = "DELETE FROM reset WHERE token_hash IN (SELECT token_hash FROM reset WHERE expires_us < ? LIMIT ?)"
_INVITATIONS = (
    "DELETE FROM invitation WHERE invitation_id IN (SELECT invitation_id FROM invitation WHERE expires_us < ? LIMIT ?)"
)
_CODES = (
    "DELETE FROM openid_grant WHERE grant_id IN"
    " (SELECT grant_id FROM openid_grant WHERE redeemed_us = 0 AND created_us < ? LIMIT ?)"
)
_SPENT_FLOWS = (
    "DELETE FROM external_spent WHERE flow_id IN (SELECT flow_id FROM external_spent WHERE until_us < ? LIMIT ?)"
)
_REVOCATIONS = (
    # The newest stays: whoever has read to the end knows by it that this is still the same feed.
    "DELETE FROM revocation WHERE number IN (SELECT number FROM revocation WHERE expires_at_s BETWEEN 1 AND ?"
    " AND number < (SELECT MAX(number) FROM revocation) LIMIT ?)"
)


class SqliteAuth:
    """Auth's file. `stores` are the ports over it."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._outbox = SqliteOutbox(db)
        feed = SqliteRevocationStore(db, self._outbox)
        users = SqliteUserStore(db, self._outbox, feed)
        self.stores = AuthStores(
            tenants=SqliteTenantStore(db, self._outbox, feed),
            users=users,
            subjects=SqliteSubjectStore(db, self._outbox, users),
            legacy=SqliteLegacyStore(db),
            sessions=SqliteSessionStore(db, self._outbox, feed),
            revocations=feed,
            attempts=SqliteAttemptStore(db, self._outbox),
            mfa=SqliteMfaStore(db, self._outbox),
            passkeys=SqlitePasskeyStore(db, self._outbox),
            resets=SqliteResetStore(db, self._outbox),
            email_changes=SqliteEmailChangeStore(db, self._outbox),
            invitations=SqliteInvitationStore(db, self._outbox),
            letters=SqliteLetterStore(db, self._outbox),
            api_keys=SqliteApiKeyStore(db, self._outbox, feed),
            identities=SqliteIdentityStore(db, self._outbox),
            openid=OpenIdStores(
                clients=SqliteClientStore(db, self._outbox),
                grants=SqliteGrantStore(db, self._outbox),
                notices=SqliteNoticeStore(db, self._outbox),
            ),
            keys=SqliteKeyStore(db, self._outbox, feed),
            keeping=SqliteSessionKeeping(db),
            upkeep=SqliteUpkeep(db, self._outbox),
            events=self._outbox,
            positions=SqlitePositions(db),
        )

    @classmethod
    def open(cls, path: Path) -> SqliteAuth:
        """Open or make the file. Raises: as `Database.open`."""
        return cls(Database.open(path, MIGRATIONS))

    async def close(self) -> None:
        """Let the waiting writes become durable and close the file."""
        await self.db.close()


class SqliteKeyStore:
    """The tables `signing_key` and `secret`."""

    def __init__(self, db: Database, outbox: SqliteOutbox, feed: SqliteRevocationStore) -> None:
        self._db = db
        self._outbox = outbox
        self._feed = feed

    async def signing_keys(self) -> Sequence[SigningKeyRecord]:
        rows = self._db.read(
            "SELECT kid, alg, state, sealed_pem, created_us, verify_until_us FROM signing_key ORDER BY created_us, kid"
        )
        return [
            SigningKeyRecord(kid=k, alg=a, state=s, sealed_pem=p, created_us=c, verify_until_us=v)
            for k, a, s, p, c, v in rows
        ]

    async def put_signing_keys(
        self, keys: Sequence[SigningKeyRecord], events: Sequence[NewEvent], *, ends_sessions: bool = False
    ) -> None:
        def put(conn: apsw.Connection) -> None:
            conn.executemany(
                "REPLACE INTO signing_key VALUES (?, ?, ?, ?, ?, ?)",
                [(k.kid, k.alg, k.state, k.sealed_pem, k.created_us, k.verify_until_us) for k in keys],
            )
            if ends_sessions:
                conn.execute("REPLACE INTO ending_sessions VALUES (1, '')")
                void_all_email_changes(conn)  # whoever has the key may have asked for them
            self._outbox.append(conn, events)

        await self._db.write(put)

    async def drop_signing_keys(self, kids: Sequence[str], events: Sequence[NewEvent]) -> None:
        def drop(conn: apsw.Connection) -> None:
            conn.executemany("DELETE FROM signing_key WHERE kid = ?", [(kid,) for kid in kids])
            self._outbox.append(conn, events)

        await self._db.write(drop)

    async def end_all_sessions(self, revocations: Callable[[str], NewRevocation]) -> int:
        def end(conn: apsw.Connection) -> int:
            noted: list[Row] = conn.execute("SELECT after FROM ending_sessions").fetchall()
            if not noted:
                return 0
            rows: list[Row] = conn.execute(
                "SELECT tenant_id FROM tenant WHERE tenant_id > ? ORDER BY tenant_id LIMIT ?",
                (noted[0][0], TENANTS_A_STEP),
            ).fetchall()
            for (tenant_id,) in rows:
                revocation = revocations(tenant_id)
                conn.execute("UPDATE user SET epoch = epoch + 1 WHERE tenant_id = ?", (tenant_id,))
                conn.execute(
                    "UPDATE session SET ended_us = ? WHERE tenant_id = ? AND ended_us = 0",
                    (revocation.at_us, tenant_id),
                )
                conn.execute(
                    "UPDATE api_key SET ended_us = ? WHERE tenant_id = ? AND ended_us = 0",
                    (revocation.at_us, tenant_id),
                )
                self._feed.add(conn, revocation)
            if rows:
                conn.execute("UPDATE ending_sessions SET after = ?", (rows[-1][0],))
            else:
                conn.execute("DELETE FROM ending_sessions")
            return len(rows)

        if not self._db.read("SELECT 1 FROM ending_sessions"):
            return 0
        ended = 0
        while done := await self._db.write(end):
            ended += done
        return ended

    async def secret(self, name: str, made: Callable[[], bytes]) -> bytes:
        def secret(conn: apsw.Connection) -> bytes:
            conn.execute("INSERT OR IGNORE INTO secret VALUES (?, ?)", (name, made()))
            rows: list[Row] = conn.execute("SELECT sealed FROM secret WHERE name = ?", (name,)).fetchall()
            return bytes(rows[0][0])

        return await self._db.write(secret)


class SqliteUpkeep:
    """Deletes what is over, a chunk a write."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox

    async def sweep(self, *, now_us: int, over_before_us: int, attempts_before_us: int) -> int:
        def sweep(conn: apsw.Connection) -> int:
            deleted = 0
            for sql, bound in (
                (_EXPIRED, over_before_us),
                (_ENDED, over_before_us),
                (_API_KEYS, over_before_us),
                (_CODES, now_us - CODE_KEPT_S * US_PER_S),
                (_SPENT_FLOWS, now_us),
                (_CHALLENGES, now_us),
                (SPENT_CHALLENGES, now_us),
                (_RESETS, now_us - RESETS_COUNTED_S * US_PER_S),
                (EXPIRED_EMAIL_CHANGES, now_us - EMAIL_CHANGE_KEPT_S * US_PER_S),
                (_INVITATIONS, now_us),
                (_ATTEMPTS, attempts_before_us),
                (_REVOCATIONS, now_us // US_PER_S),
                (RELEASED_FORMER, now_us),
                (SWEEP_LEGACY, now_us // US_PER_S - LEGACY_KEPT_S),
            ):
                conn.execute(sql, (bound, SWEEP_ROWS))
                deleted += conn.changes()
            return deleted + delete_removed(conn) + cut_suspended(conn)

        return await self._db.write(sweep)

    async def trim(self, before_us: int) -> int:
        return await self._outbox.trim(before_us=before_us)

    async def probe(self) -> None:
        await self._db.write(lambda conn: conn.execute("SELECT 1").fetchall())
