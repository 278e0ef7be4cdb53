"""Auth's tenants and users in SQLite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import apsw
import msgspec

from sealwire.adapters.embedded.auth_api_keys import end_keys_of
from sealwire.adapters.embedded.auth_changes import (
    drop_factors,
    spend_email_change,
    void_email_changes,
    void_what_they_asked,
)
from sealwire.adapters.embedded.auth_external import insert_identity
from sealwire.adapters.embedded.auth_feed import SqliteRevocationStore
from sealwire.adapters.embedded.auth_former import keep_profile
from sealwire.adapters.embedded.auth_letters import spend_invitation, spend_reset
from sealwire.adapters.embedded.drivers.sqlite import Database, Row
from sealwire.adapters.embedded.holds import is_tenant_held
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.contracts.holds import LegalHold
from sealwire.contracts.tenancy import Quotas
from sealwire.contracts.users import EmailTaken, LastOwner, RegistrationClosed
from sealwire.kit.permission import Role
from sealwire.kit.problem import QuotaExceeded
from sealwire.ports.events import NewEvent
from sealwire.services.auth.external_records import IdentityRecord
from sealwire.services.auth.ports import EventsOf
from sealwire.services.auth.records import Cut, NewRevocation, TenantRecord, UserRecord

TENANT: Final = "tenant_id, slug, name, created_us, status, owner_claimed, users, quotas"
USER: Final = "user_id, tenant_id, email_index, sealed, role, password_hash, created_us, status, epoch, mfa, service"
USERS_A_STEP: Final = 200
_TAKEN: Final = "Log in instead, or use another address."
_read_quotas = msgspec.json.Decoder(Quotas).decode
_NO_QUOTAS: Final = Quotas()


def tenant_of(row: Row) -> TenantRecord:
    """Read the columns `TENANT`."""
    tenant_id, slug, name, created_us, status, claimed, users, quotas = row
    return TenantRecord(
        tenant_id=tenant_id, slug=slug, name=name, created_us=created_us, status=status, owner_claimed=bool(claimed),
        users=users, quotas=_read_quotas(quotas) if quotas else _NO_QUOTAS,
    )  # fmt: skip


def user_of(row: Row) -> UserRecord:
    """Read the columns `USER`."""
    user_id, tenant_id, email_index, sealed, role, password_hash, created_us, status, epoch, mfa, service = row
    return UserRecord(
        user_id=user_id,
        tenant_id=tenant_id,
        email_index=email_index,
        sealed=sealed,
        role=Role(role),
        password_hash=password_hash,
        created_us=created_us,
        status=status,
        epoch=epoch,
        mfa=bool(mfa),
        service=bool(service),
    )


class SqliteTenantStore:
    """The table `tenant`."""

    def __init__(self, db: Database, outbox: SqliteOutbox, feed: SqliteRevocationStore) -> None:
        self._db = db
        self._outbox = outbox
        self._feed = feed

    async def add(self, tenant: TenantRecord, events: Sequence[NewEvent]) -> TenantRecord:
        def add(conn: apsw.Connection) -> TenantRecord:
            taken = conn.execute(f"SELECT {TENANT} FROM tenant WHERE slug = ?", (tenant.slug,)).fetchall()
            if taken:
                return tenant_of(taken[0])
            conn.execute(
                "INSERT INTO tenant (tenant_id, slug, name, status, owner_claimed, created_us)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (tenant.tenant_id, tenant.slug, tenant.name, tenant.status, tenant.owner_claimed, tenant.created_us),
            )
            self._outbox.append(conn, events)
            return tenant

        return await self._db.write(add)

    async def find(self, id_or_slug: str) -> TenantRecord | None:
        rows = self._db.read(
            f"SELECT {TENANT} FROM tenant WHERE tenant_id = ?1"
            f" UNION ALL SELECT {TENANT} FROM tenant WHERE slug = ?1 LIMIT 1",
            (id_or_slug,),
        )
        return tenant_of(rows[0]) if rows else None

    async def made_before(self, slug_prefix: str, before_us: int, limit: int) -> Sequence[TenantRecord]:
        rows = self._db.read(
            f"SELECT {TENANT} FROM tenant WHERE slug >= ?1 AND slug < ?2 AND created_us < ?3 LIMIT ?4",
            (slug_prefix, slug_prefix[:-1] + chr(ord(slug_prefix[-1]) + 1), before_us, limit),
        )
        return [tenant_of(row) for row in rows]

    async def page(self, after: str, limit: int) -> Sequence[TenantRecord]:
        rows = self._db.read(
            f"SELECT {TENANT} FROM tenant WHERE tenant_id > ? ORDER BY tenant_id LIMIT ?", (after, limit)
        )
        return [tenant_of(row) for row in rows]

    async def change(
        self, tenant_id: str, *, name: str | None, quotas: Callable[[Quotas], Quotas], events: Sequence[NewEvent]
    ) -> TenantRecord | None:
        def change(conn: apsw.Connection) -> TenantRecord | None:
            tenant = _tenant(conn, tenant_id)
            if tenant is None:
                return None
            now = quotas(tenant.quotas)
            conn.execute(
                "UPDATE tenant SET name = ?, quotas = ? WHERE tenant_id = ?",
                (name or tenant.name, "" if now == _NO_QUOTAS else msgspec.json.encode(now).decode(), tenant_id),
            )
            self._outbox.append(conn, events)
            return _tenant(conn, tenant_id)

        return await self._db.write(change)

    async def suspend(
        self, tenant_id: str, revocation: NewRevocation, events: Sequence[NewEvent]
    ) -> TenantRecord | None:
        def suspend(conn: apsw.Connection) -> TenantRecord | None:
            conn.execute(
                "UPDATE tenant SET status = 'suspended' WHERE tenant_id = ? AND status = 'active'", (tenant_id,)
            )
            if conn.changes():
                conn.execute("INSERT OR REPLACE INTO suspended_tenant VALUES (?, ?, '')", (tenant_id, revocation.at_us))
                self._feed.add(conn, revocation)
                self._outbox.append(conn, events)
            return _tenant(conn, tenant_id)

        suspended = await self._db.write(suspend)
        while await self._db.write(cut_suspended):
            pass
        return suspended

    async def resume(self, tenant_id: str, events: Sequence[NewEvent]) -> TenantRecord | None:
        while await self._db.write(cut_suspended):  # what a crash left over: nothing of before may live again
            pass

        def resume(conn: apsw.Connection) -> TenantRecord | None:
            conn.execute(
                "UPDATE tenant SET status = 'active' WHERE tenant_id = ? AND status = 'suspended'", (tenant_id,)
            )
            if conn.changes():
                self._outbox.append(conn, events)
            return _tenant(conn, tenant_id)

        return await self._db.write(resume)

    async def remove(self, tenant_id: str, revocation: NewRevocation, events: Sequence[NewEvent]) -> bool:
        def remove(conn: apsw.Connection) -> bool:
            if is_tenant_held(conn, tenant_id):
                raise LegalHold("A legal hold is in force in this tenant.")
            conn.execute("DELETE FROM tenant WHERE tenant_id = ?", (tenant_id,))
            if not conn.changes():
                return False
            conn.execute("INSERT INTO removed_tenant VALUES (?)", (tenant_id,))
            self._feed.add(conn, revocation)
            self._outbox.append(conn, events)
            return True

        removed = await self._db.write(remove)
        while await self._db.write(delete_removed):
            pass
        return removed


def delete_removed(conn: apsw.Connection) -> int:
    """Delete some users of removed tenants, their sessions and credentials with them; return how many rows went."""
    rows: list[Row] = conn.execute("SELECT tenant_id FROM removed_tenant LIMIT 1").fetchall()
    if not rows:
        return 0
    tenant_id = rows[0][0]
    conn.execute(
        "DELETE FROM user WHERE user_id IN (SELECT user_id FROM user WHERE tenant_id = ? LIMIT ?)",
        (tenant_id, USERS_A_STEP),
    )
    deleted = conn.changes()
    if not deleted:
        conn.execute("DELETE FROM openid_client WHERE tenant_id = ?", (tenant_id,))
        conn.execute("DELETE FROM removed_tenant WHERE tenant_id = ?", (tenant_id,))
    return deleted + 1


def cut_suspended(conn: apsw.Connection) -> int:
    """Raise the epoch of some users of suspended tenants, end their sessions and keys; return how many rows it took.

    Nothing of such a tenant can be used from the moment it is suspended; this is so that nothing comes back with it.
    """
    rows: list[Row] = conn.execute("SELECT tenant_id, at_us, after FROM suspended_tenant LIMIT 1").fetchall()
    if not rows:
        return 0
    tenant_id, at_us, after = rows[0]
    found: list[Row] = conn.execute(
        "SELECT user_id FROM user WHERE tenant_id = ? AND user_id > ? ORDER BY user_id LIMIT ?",
        (tenant_id, after, USERS_A_STEP),
    ).fetchall()
    for (user_id,) in found:
        conn.execute("UPDATE user SET epoch = epoch + 1 WHERE user_id = ?", (user_id,))
        conn.execute("UPDATE session SET ended_us = ? WHERE user_id = ? AND ended_us = 0", (at_us, user_id))
        conn.execute("DELETE FROM challenge WHERE user_id = ?", (user_id,))
        conn.execute("DELETE FROM reset WHERE user_id = ?", (user_id,))
        void_email_changes(conn, user_id)
        end_keys_of(conn, user_id, at_us)
    if found:
        conn.execute("UPDATE suspended_tenant SET after = ? WHERE tenant_id = ?", (found[-1][0], tenant_id))
    else:
        conn.execute("DELETE FROM suspended_tenant WHERE tenant_id = ?", (tenant_id,))
    return len(found) + 1


def _tenant(conn: apsw.Connection, tenant_id: str) -> TenantRecord | None:
    rows = conn.execute(f"SELECT {TENANT} FROM tenant WHERE tenant_id = ?", (tenant_id,)).fetchall()
    return tenant_of(rows[0]) if rows else None


class SqliteUserStore:
    """The table `user`."""

    def __init__(self, db: Database, outbox: SqliteOutbox, feed: SqliteRevocationStore) -> None:
        self._db = db
        self._outbox = outbox
        self._feed = feed

    async def add(
        self, user: UserRecord, *, most: int, claim_owner: bool, needs_claim: bool, events_of: EventsOf,
        spends_invitation: str = "", identity: IdentityRecord | None = None,
    ) -> UserRecord:  # fmt: skip
        def add(conn: apsw.Connection) -> UserRecord:
            found: list[Row] = conn.execute(
                "SELECT owner_claimed, users FROM tenant WHERE tenant_id = ? AND status = 'active'", (user.tenant_id,)
            ).fetchall()
            if not found:
                raise RegistrationClosed("The tenant is gone, or suspended.")
            claimed, users = found[0]
            claimed = claimed or _has_owner(conn, user.tenant_id)
            if needs_claim and claimed:
                raise RegistrationClosed("This tenant has its owner; ask for an invitation.")
            if users >= most:
                if _find(conn, user.tenant_id, user.email_index):
                    raise EmailTaken(_TAKEN)  # a request that comes again: it asks for no more room
                raise QuotaExceeded(f"The tenant has {most} users, and may have no more.")
            if spends_invitation:
                spend_invitation(conn, user, spends_invitation)
            first = claim_owner and not claimed
            added = _with_role(user, Role.OWNER) if first else user
            _insert(conn, added)
            if identity is not None:
                insert_identity(conn, identity)
            conn.execute(
                "UPDATE tenant SET users = users + 1, owner_claimed = owner_claimed OR ? WHERE tenant_id = ?",
                (first or user.role is Role.OWNER, user.tenant_id),
            )
            self._outbox.append(conn, events_of(added))
            return added

        return await self._db.write(add)

    async def by_email(self, tenant_id: str, email_index: bytes) -> UserRecord | None:
        rows = self._db.read(
            f"SELECT {USER} FROM user WHERE tenant_id = ? AND email_index = ?",
            (tenant_id, email_index),
        )
        return user_of(rows[0]) if rows else None

    async def get(self, user_id: str) -> UserRecord | None:
        rows = self._db.read(f"SELECT {USER} FROM user WHERE user_id = ?", (user_id,))
        return user_of(rows[0]) if rows else None

    async def first_owner(self, tenant_id: str) -> str | None:
        rows = self._db.read(
            "SELECT user_id FROM user WHERE tenant_id = ? AND role = 'owner' AND status = 'active'"
            " ORDER BY user_id LIMIT 1",
            (tenant_id,),
        )
        return rows[0][0] if rows else None

    async def many(self, tenant_id: str, user_ids: Sequence[str]) -> Sequence[UserRecord]:
        marks = ", ".join("?" * len(user_ids))
        rows = self._db.read(
            f"SELECT {USER} FROM user WHERE tenant_id = ? AND user_id IN ({marks})",
            (tenant_id, *user_ids),
        )
        return [user_of(row) for row in rows]

    async def page(self, tenant_id: str, after: str, limit: int) -> Sequence[UserRecord]:
        rows = self._db.read(
            f"SELECT {USER} FROM user WHERE tenant_id = ? AND user_id > ? ORDER BY user_id LIMIT ?",
            (tenant_id, after, limit),
        )
        return [user_of(row) for row in rows]

    async def set_sealed(
        self, user_id: str, sealed: bytes, events: Sequence[NewEvent], *, expected: bytes
    ) -> UserRecord | None:
        def set_sealed(conn: apsw.Connection) -> UserRecord | None:
            user = _get(conn, user_id)
            if user is None or user.sealed != expected:
                return None
            keep_profile(conn, user_id, max((event.at_us for event in events), default=0))
            conn.execute("UPDATE user SET sealed = ? WHERE user_id = ?", (sealed, user_id))
            self._outbox.append(conn, events)
            return _get(conn, user_id)

        return await self._db.write(set_sealed)

    async def rehash(self, user_id: str, *, old: str, new: str) -> None:
        await self._db.write(
            lambda conn: conn.execute(
                "UPDATE user SET password_hash = ? WHERE user_id = ? AND password_hash = ?", (new, user_id, old)
            ).fetchall()
        )

    async def cut(self, cut: Cut, events: Sequence[NewEvent]) -> UserRecord | None:
        return await self._db.write(lambda conn: self.cut_within(conn, cut, events))

    def cut_within(self, conn: apsw.Connection, cut: Cut, events: Sequence[NewEvent]) -> UserRecord | None:
        """From inside a write: what `cut` does."""
        user = _get(conn, cut.user_id)
        if user is None or user.tenant_id != cut.tenant_id or not _may_change(user, cut):
            return None
        if cut.spends_reset is not None and not spend_reset(conn, cut):
            return None
        if cut.spends_email_change is not None and not spend_email_change(conn, cut):
            return None
        role, status = cut.role or user.role, cut.status or user.status
        if role is not Role.OWNER or status != "active":
            self.keep_an_owner(conn, user)
        conn.execute(
            "UPDATE user SET role = ?, status = ?, password_hash = ?, epoch = epoch + 1 WHERE user_id = ?",
            (role.value, status, cut.password_hash or user.password_hash, user.user_id),
        )
        if cut.sealed is not None:
            _rename(conn, user, cut)
        if cut.password_hash is not None or cut.email_index is not None or status != "active":
            conn.execute("DELETE FROM reset WHERE user_id = ?", (user.user_id,))
            void_email_changes(conn, user.user_id)
        elif role is not user.role:  # who asked for it ranked higher than the person, and may no longer
            void_email_changes(conn, user.user_id)
        if cut.ends_sessions or status != "active" or role is not user.role:
            void_what_they_asked(conn, user.user_id)
        if cut.drops_factors:
            drop_factors(conn, user.user_id)
        if cut.ends_sessions:
            conn.execute(
                "UPDATE session SET ended_us = ? WHERE user_id = ? AND ended_us = 0 AND session_id <> ?",
                (cut.revocation.at_us, user.user_id, cut.keep_session),
            )
            conn.execute("DELETE FROM challenge WHERE user_id = ?", (user.user_id,))
            end_keys_of(conn, user.user_id, cut.revocation.at_us)
        self._feed.add(conn, cut.revocation, epoch=user.epoch + 1)
        self._outbox.append(conn, events)
        return _get(conn, user.user_id)

    @staticmethod
    def keep_an_owner(conn: apsw.Connection, user: UserRecord) -> None:
        """From inside a write: raise LastOwner when the tenant would have no active owner without this user."""
        if user.role is Role.OWNER and user.status == "active":
            _keep_an_owner(conn, user)


def _may_change(user: UserRecord, cut: Cut) -> bool:
    if cut.expected_hash is not None and cut.expected_hash != user.password_hash:
        return False
    if cut.expected_role is not None and cut.expected_role is not user.role:
        return False
    if cut.expected_sealed is not None and cut.expected_sealed != user.sealed:
        return False
    return cut.from_status == user.status or (cut.from_status is None and user.status in ("active", "disabled"))


def _rename(conn: apsw.Connection, user: UserRecord, cut: Cut) -> None:
    keep_profile(conn, user.user_id, cut.revocation.at_us)
    try:
        conn.execute(
            "UPDATE user SET sealed = ?, email_index = ? WHERE user_id = ?",
            (cut.sealed, cut.email_index or user.email_index, user.user_id),
        )
    except apsw.ConstraintError as error:
        raise EmailTaken("Another user of the tenant has this address.") from error


def _insert(conn: apsw.Connection, user: UserRecord) -> None:
    try:
        conn.execute(
            f"INSERT INTO user ({USER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (user.user_id, user.tenant_id, user.email_index, user.sealed, user.role.value, user.password_hash,
             user.created_us, user.status, user.epoch, user.mfa, user.service),
        )  # fmt: skip
    except apsw.ConstraintError as error:
        raise EmailTaken(_TAKEN) from error


def _find(conn: apsw.Connection, tenant_id: str, email_index: bytes) -> bool:
    sql = "SELECT 1 FROM user WHERE tenant_id = ? AND email_index = ?"
    return bool(conn.execute(sql, (tenant_id, email_index)).fetchall())


def _get(conn: apsw.Connection, user_id: str) -> UserRecord | None:
    rows = conn.execute(f"SELECT {USER} FROM user WHERE user_id = ?", (user_id,)).fetchall()
    return user_of(rows[0]) if rows else None


def _has_owner(conn: apsw.Connection, tenant_id: str) -> bool:
    return bool(
        conn.execute(
            "SELECT 1 FROM user WHERE tenant_id = ? AND role = 'owner' AND status = 'active' LIMIT 1", (tenant_id,)
        ).fetchall()
    )


def _with_role(user: UserRecord, role: Role) -> UserRecord:
    return msgspec.structs.replace(user, role=role)


def _keep_an_owner(conn: apsw.Connection, user: UserRecord) -> None:
    others = conn.execute(
        "SELECT 1 FROM user WHERE tenant_id = ? AND role = 'owner' AND status = 'active' AND user_id <> ? LIMIT 1",
        (user.tenant_id, user.user_id),
    ).fetchall()
    if not others:
        raise LastOwner("Make somebody else an owner first.")
