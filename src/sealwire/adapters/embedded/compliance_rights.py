"""Jobs for people's rights, restrictions and erased people, in compliance's file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import apsw
import msgspec

from sealwire.adapters.embedded.compliance_retention import is_covered
from sealwire.adapters.embedded.disposals import Disposals
from sealwire.adapters.embedded.drivers.sqlite import Database, fetch
from sealwire.adapters.embedded.outbox import SqliteOutbox
from sealwire.contracts.custody import Disposed
from sealwire.contracts.gdpr import Receipt
from sealwire.contracts.holds import LegalHold
from sealwire.kit.files import count_in_files
from sealwire.ports.events import NewEvent
from sealwire.services.compliance.job_ports import Archive, JobFilter, StoredJob, StoredPart, StoredRestriction

RIGHTS_SCHEMA: Final = """
CREATE TABLE gdpr_job (
    job_id TEXT PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    status TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    requested_us INTEGER NOT NULL,
    due_us INTEGER NOT NULL,
    finished_us INTEGER,
    progress REAL NOT NULL,
    receipts BLOB NOT NULL,
    problem TEXT,
    box BLOB,
    certificate TEXT,
    public_key TEXT,
    archive BLOB,
    expires_us INTEGER
) WITHOUT ROWID;
CREATE UNIQUE INDEX gdpr_job_erasing ON gdpr_job (tenant_id, subject_id)
    WHERE kind = 'erasure' AND finished_us IS NULL;
CREATE INDEX gdpr_job_of ON gdpr_job (tenant_id, subject_id);
CREATE INDEX gdpr_job_unfinished ON gdpr_job (job_id) WHERE finished_us IS NULL;
CREATE INDEX gdpr_job_archive ON gdpr_job (expires_us) WHERE expires_us IS NOT NULL;
CREATE TABLE restriction (
    tenant_id TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    by_id TEXT NOT NULL,
    reason BLOB NOT NULL,
    PRIMARY KEY (tenant_id, subject_id)
) WITHOUT ROWID;
CREATE TABLE erased_subject (
    tenant_id TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    PRIMARY KEY (tenant_id, subject_id)
) WITHOUT ROWID;
"""
PARTS_SCHEMA: Final = """
CREATE TABLE gdpr_export_part (
    job_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    blob_key TEXT NOT NULL,
    header BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    contents BLOB NOT NULL,
    UNIQUE (job_id, number)
);
CREATE INDEX gdpr_export_part_blob ON gdpr_export_part (blob_key);
"""
# A restriction that a crash kept from being told is told at the next start: as who asked for it might have it told.
SPARING_SCHEMA: Final = "ALTER TABLE restriction ADD COLUMN spares_owners INTEGER NOT NULL DEFAULT 0;"
# A page of a tenant's jobs, the newest first, without sorting all there ever were.
LISTED_SCHEMA: Final = "CREATE INDEX gdpr_job_listed ON gdpr_job (tenant_id, job_id);"
_COLUMNS: Final = (
    "job_id, tenant_id, kind, subject_id, status, requested_by, requested_us, due_us, finished_us, progress, receipts,"
    " problem, box, certificate, public_key, archive"
)
_JOB: Final = f"SELECT {_COLUMNS} FROM gdpr_job"
_SAVE: Final = (
    f"UPDATE gdpr_job SET {', '.join(f'{name.strip()} = ?{i}' for i, name in enumerate(_COLUMNS.split(','), 1))},"
    " expires_us = ?17 WHERE job_id = ?1 AND finished_us IS NULL"
)
# By the index of archives: there are as many as were made within their time, of jobs there are as many as ever were.
DUE_EXPORTS: Final = (
    "SELECT j.job_id, EXISTS (SELECT 1 FROM hold h WHERE h.tenant_id = j.tenant_id AND h.subject_id = j.subject_id)"
    " FROM gdpr_job j INDEXED BY gdpr_job_archive WHERE j.expires_us IS NOT NULL AND j.archive IS NOT NULL"
    " AND j.tenant_id = ?1 AND j.kind = 'export' AND j.finished_us < ?2 AND (?3 = '' OR j.job_id < ?3)"
    " ORDER BY j.job_id DESC LIMIT ?4"
)
_encode = msgspec.msgpack.Encoder().encode
_receipts = msgspec.msgpack.Decoder(tuple[Receipt, ...]).decode
_archive = msgspec.msgpack.Decoder(Archive).decode


class SqliteRightsStore:
    """`services.compliance.job_ports.RightsStore`."""

    def __init__(self, db: Database, outbox: SqliteOutbox) -> None:
        self._db = db
        self._outbox = outbox
        self._disposals = Disposals(db)

    async def add(self, job: StoredJob, event: NewEvent, *, waits: bool = False) -> StoredJob:
        def add(conn: apsw.Connection) -> StoredJob:
            if not waits and job.kind == "erasure" and is_covered(conn, job.tenant_id, subject_id=job.subject_id):
                raise LegalHold("A legal hold covers this person; erasing waits until it is released.")
            conn.execute(
                f"INSERT OR IGNORE INTO gdpr_job ({_COLUMNS}, expires_us) VALUES ({', '.join('?' * 17)})", _row(job)
            )
            if conn.changes():
                self._outbox.append(conn, [event])
                return job
            where = "WHERE tenant_id = ? AND subject_id = ? AND kind = 'erasure' AND finished_us IS NULL"
            return _read(conn.execute(f"{_JOB} {where}", (job.tenant_id, job.subject_id)).fetchall()[0])

        return await self._db.write(add)

    async def save(self, job: StoredJob, events: Sequence[NewEvent] = ()) -> None:
        def save(conn: apsw.Connection) -> None:
            conn.execute(_SAVE, _row(job))
            if conn.changes() and events:
                self._outbox.append(conn, events)

        await self._db.write(save)

    async def job(self, tenant_id: str, job_id: str) -> StoredJob | None:
        found = self._jobs("WHERE job_id = ? AND tenant_id = ?", (job_id, tenant_id))
        return found[0] if found else None

    async def jobs(self, tenant_id: str, wanted: JobFilter, *, before: str, limit: int) -> Sequence[StoredJob]:
        where, params = ["tenant_id = ?"], [tenant_id]
        for name in ("kind", "subject_id", "requested_by", "status"):
            if (value := getattr(wanted, name)) is not None:
                where.append(f"{name} = ?")
                params.append(value)
        if before:
            where.append("job_id < ?")
            params.append(before)
        more: list[Any] = [*params]
        if wanted.due_before_us is not None:
            where.append("finished_us IS NULL AND due_us < ?")
            more.append(wanted.due_before_us)
        return self._jobs(f"WHERE {' AND '.join(where)} ORDER BY job_id DESC LIMIT ?", (*more, limit))

    async def unfinished(self) -> Sequence[StoredJob]:
        return self._jobs("WHERE finished_us IS NULL ORDER BY job_id", ())

    async def expired(self, now_us: int, limit: int) -> Sequence[StoredJob]:
        return self._jobs("WHERE expires_us <= ? ORDER BY expires_us LIMIT ?", (now_us, limit))

    async def clear_archive(self, job_id: str, events: Sequence[NewEvent] = ()) -> bool:
        def clear(conn: apsw.Connection) -> bool:
            conn.execute(
                "UPDATE gdpr_job SET archive = NULL, expires_us = NULL WHERE job_id = ? AND archive IS NOT NULL",
                (job_id,),
            )
            if not conn.changes():
                return False
            self._outbox.append(conn, events)
            return True

        return await self._db.write(clear)

    async def clear_archives(
        self, tenant_id: str, run_id: str, job_ids: Sequence[str], at_us: int, event_of: Callable[[StoredJob], NewEvent]
    ) -> Disposed:
        def clear(conn: apsw.Connection, some: Sequence[str]) -> Disposed:
            gone = held = 0
            for job_id in some:
                where = "WHERE job_id = ? AND tenant_id = ? AND archive IS NOT NULL"
                rows = conn.execute(f"{_JOB} {where}", (job_id, tenant_id)).fetchall()
                if not rows:
                    continue
                job = _read(rows[0])
                if is_covered(conn, tenant_id, subject_id=job.subject_id):
                    held += 1
                    continue
                conn.execute("UPDATE gdpr_job SET archive = NULL, expires_us = NULL WHERE job_id = ?", (job_id,))
                self._outbox.append(conn, [event_of(job)])
                gone += 1
            return Disposed(disposed=gone, held=held, missing=len(some) - gone - held)

        return await self._disposals.dispose(run_id, job_ids, at_us, clear)

    async def due_exports(
        self, tenant_id: str, finished_before_us: int, *, before: str, limit: int
    ) -> Sequence[tuple[str, bool]]:
        def look(conn: apsw.Connection) -> list[tuple[str, bool]]:
            rows = conn.execute(DUE_EXPORTS, (tenant_id, finished_before_us, before, limit))
            return [(str(job_id), bool(held)) for job_id, held in rows]

        return await self._db.scan(look)

    async def archive_keys(self) -> frozenset[str]:
        rows = self._db.read("SELECT archive FROM gdpr_job WHERE archive IS NOT NULL")
        return frozenset(key for (archive,) in rows if (key := _archive(archive).blob_key))

    # ---- parts of archives

    async def save_part(self, job: StoredJob, part: StoredPart, events: Sequence[NewEvent] = ()) -> bool:
        def save(conn: apsw.Connection) -> bool:
            conn.execute(_SAVE, _row(job))
            if not conn.changes():
                return False
            row = (part.job_id, part.number, part.blob_key, part.header, part.size_bytes, part.contents)
            conn.execute("INSERT INTO gdpr_export_part VALUES (?, ?, ?, ?, ?, ?)", row)
            if events:
                self._outbox.append(conn, events)
            return True

        return await self._db.write(save)

    async def parts(self, job_id: str, *, after: int, limit: int) -> Sequence[StoredPart]:
        rows = self._db.read(
            "SELECT job_id, number, blob_key, header, size_bytes, contents FROM gdpr_export_part"
            " WHERE job_id = ? AND number > ? ORDER BY number LIMIT ?",
            (job_id, after, limit),
        )
        return [
            StoredPart(job_id=job, number=n, blob_key=key, header=header, size_bytes=size, contents=contents)
            for job, n, key, header, size, contents in rows
        ]

    async def count_parts(self, job_id: str) -> int:
        return int(self._db.read("SELECT count(*) FROM gdpr_export_part WHERE job_id = ?", (job_id,))[0][0])

    async def drop_part(self, job_id: str, number: int) -> None:
        sql = "DELETE FROM gdpr_export_part WHERE job_id = ? AND number = ?"
        await self._db.write(lambda conn: conn.execute(sql, (job_id, number)).fetchall())

    async def names_blob(self, blob_key: str) -> bool:
        return bool(self._db.read("SELECT 1 FROM gdpr_export_part WHERE blob_key = ?", (blob_key,)))

    async def abandoned(self, limit: int) -> Sequence[StoredJob]:
        return self._jobs(
            "WHERE finished_us IS NOT NULL AND archive IS NULL AND job_id IN (SELECT job_id FROM gdpr_export_part)"
            " LIMIT ?",
            (limit,),
        )

    # ---- one person's jobs

    async def of_subject(self, tenant_id: str, subject_id: str) -> Sequence[StoredJob]:
        return self._jobs("WHERE tenant_id = ? AND subject_id = ?", (tenant_id, subject_id))

    async def empty_boxes(self, tenant_id: str, subject_id: str, *, but: str) -> int:
        def empty(conn: apsw.Connection) -> int:
            conn.execute(
                "UPDATE gdpr_job SET box = NULL, status = iif(finished_us IS NULL, 'failed', status),"
                " problem = iif(finished_us IS NULL, 'the person was erased', problem),"
                " finished_us = ifnull(finished_us, requested_us)"
                " WHERE tenant_id = ? AND subject_id = ? AND job_id <> ? AND (box IS NOT NULL OR finished_us IS NULL)",
                (tenant_id, subject_id, but),
            )
            return int(conn.changes())

        return await self._db.write(empty)

    async def erased(self, tenant_id: str) -> Sequence[tuple[str, str]]:
        sql = "SELECT tenant_id, subject_id FROM erased_subject WHERE ?1 = '' OR tenant_id = ?1"
        return [(tenant, subject) for tenant, subject in self._db.read(sql, (tenant_id,))]

    async def mark_erased(self, tenant_id: str, subject_id: str) -> None:
        sql = "INSERT OR IGNORE INTO erased_subject VALUES (?, ?)"
        await self._db.write(lambda conn: conn.execute(sql, (tenant_id, subject_id)).fetchall())

    # ---- restrictions

    async def restrict(self, tenant_id: str, restriction: StoredRestriction, event: NewEvent) -> StoredRestriction:
        r = restriction

        def restrict(conn: apsw.Connection) -> StoredRestriction:
            conn.execute(
                "INSERT OR IGNORE INTO restriction VALUES (?, ?, ?, ?, ?, ?)",
                (tenant_id, r.subject_id, r.at_us, r.by, r.reason, r.spares_owners),
            )
            if conn.changes():
                self._outbox.append(conn, [event])
            sql = "SELECT at_us, by_id, reason FROM restriction WHERE tenant_id = ? AND subject_id = ?"
            at_us, by, reason = fetch(conn, sql, (tenant_id, r.subject_id))[0]
            return StoredRestriction(subject_id=r.subject_id, at_us=at_us, by=by, reason=reason)

        return await self._db.write(restrict)

    async def restricted(self) -> Mapping[tuple[str, str], bool]:
        rows = self._db.read("SELECT tenant_id, subject_id, spares_owners FROM restriction")
        return {(tenant, subject): bool(spares_owners) for tenant, subject, spares_owners in rows}

    async def lift(self, tenant_id: str, subject_id: str, event: NewEvent) -> bool:
        def lift(conn: apsw.Connection) -> bool:
            conn.execute("DELETE FROM restriction WHERE tenant_id = ? AND subject_id = ?", (tenant_id, subject_id))
            if not conn.changes():
                return False
            self._outbox.append(conn, [event])
            return True

        return await self._db.write(lift)

    async def restrictions(self, tenant_id: str, *, after: str, limit: int) -> Sequence[StoredRestriction]:
        rows = self._db.read(
            "SELECT subject_id, at_us, by_id, reason FROM restriction WHERE tenant_id = ? AND subject_id > ?"
            " ORDER BY subject_id LIMIT ?",
            (tenant_id, after, limit),
        )
        return [StoredRestriction(subject_id=s, at_us=at, by=by, reason=reason) for s, at, by, reason in rows]

    # ---- one person

    async def forget_subject(self, tenant_id: str, subject_id: str, limit: int) -> int:
        def forget(conn: apsw.Connection) -> int:
            conn.execute(
                "DELETE FROM consent WHERE number IN"
                " (SELECT number FROM consent WHERE tenant_id = ? AND subject_id = ? LIMIT ?)",
                (tenant_id, subject_id, limit),
            )
            gone = int(conn.changes())
            conn.execute("DELETE FROM restriction WHERE tenant_id = ? AND subject_id = ?", (tenant_id, subject_id))
            return gone + int(conn.changes())

        return await self._db.write(forget)

    async def count_subject(self, tenant_id: str, subject_id: str) -> int:
        rows = self._db.read(
            "SELECT (SELECT count(*) FROM consent WHERE tenant_id = ?1 AND subject_id = ?2)"
            " + (SELECT count(*) FROM restriction WHERE tenant_id = ?1 AND subject_id = ?2)"
            " + (SELECT count(*) FROM gdpr_job WHERE tenant_id = ?1 AND subject_id = ?2 AND kind <> 'erasure'"
            " AND (box IS NOT NULL OR archive IS NOT NULL"
            " OR EXISTS (SELECT 1 FROM gdpr_export_part p WHERE p.job_id = gdpr_job.job_id)))",
            (tenant_id, subject_id),
        )
        return int(rows[0][0])

    async def count_in_files(self, texts: Sequence[bytes]) -> int:
        path = self._db.path
        return await asyncio.to_thread(count_in_files, [path, path.with_name(path.name + "-wal")], texts)

    def _jobs(self, where: str, params: tuple[Any, ...]) -> list[StoredJob]:
        return [_read(row) for row in self._db.read(f"{_JOB} {where}", params)]


def _row(job: StoredJob) -> tuple[Any, ...]:
    archive = job.archive
    return (
        job.job_id, job.tenant_id, job.kind, job.subject_id, job.status, job.requested_by, job.requested_us,
        job.due_us, job.finished_us, job.progress, _encode(job.receipts), job.problem, job.box, job.certificate,
        job.public_key, None if archive is None else _encode(archive), None if archive is None else archive.expires_us,
    )  # fmt: skip


def _read(row: Sequence[Any]) -> StoredJob:
    (
        job_id, tenant_id, kind, subject_id, status, requested_by, requested_us, due_us, finished_us, progress,
        receipts, problem, box, certificate, public_key, archive,
    ) = row  # fmt: skip
    return StoredJob(
        job_id=job_id, tenant_id=tenant_id, kind=kind, subject_id=subject_id, status=status, requested_by=requested_by,
        requested_us=requested_us, due_us=due_us, finished_us=finished_us, progress=progress,
        receipts=_receipts(receipts), problem=problem, box=box, certificate=certificate, public_key=public_key,
        archive=None if archive is None else _archive(archive),
    )  # fmt: skip
