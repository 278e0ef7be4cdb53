"""Gaps: records that could not be kept, counted per tenant, so that the log itself says how many and why.

A count is in the book (`gap_book.py`) before the spool goes on, and leaves it when compliance has the record that tells
of it. The record of a gap is the same each time it is made, so that sending it twice counts nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.kit.caller import ANONYMOUS_TENANT, SYSTEM_TENANT
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.ids import new_id
from sealwire.services.gateway.gap_book import Book, BookUnreadable, Gap, GapBook

ACTION = "audit.gap"
DIED_WITH_THE_PROCESS = "memory_lost"
"""Records that the disk refused, kept in memory until a kill: as many as that at most, the last may be delivered."""
BOOK_DAMAGED = "count_damaged"
_MAX_GAPS = 600
"""What the book has room for."""
_log = logging.getLogger("sealwire.spool")


class Gaps:
    """What was lost and is not recorded yet."""

    def __init__(self, *, clock: Clock, service: str, every_s: float, book: GapBook | None = None) -> None:
        """Records are made every `every_s` seconds at most. Without a `book` a kill loses what is counted."""
        self._clock = clock
        self._service = service
        self._every_s = every_s
        self._file = book
        self._due_s = 0.0
        self._open: dict[tuple[str, str], Gap] = {}
        self._closed: dict[str, Gap] = {}
        self._held: dict[str, tuple[int, int, int]] = {}
        self._again: list[AuditEntry] = []
        self._changed = False
        self.durable = book is not None
        """Whether the counts outlive this process."""

    def __bool__(self) -> bool:
        return bool(self._open or self._again)

    # ---- counting

    def count(self, entries: Sequence[AuditEntry], reason: str) -> None:
        """Count entries as lost; past many tenants, those of all others together under `system`."""
        for entry in entries:
            tenant_id = entry.tenant_id or ANONYMOUS_TENANT
            if (tenant_id, reason) not in self._open and len(self._open) + len(self._closed) >= _MAX_GAPS:
                tenant_id = SYSTEM_TENANT
            self.add(tenant_id, reason, 1, entry.created_at_us)

    def add(self, tenant_id: str, reason: str, count: int, at_us: int, last_us: int | None = None) -> None:
        """Count `count` records of a tenant as lost."""
        gap = self._open.get((tenant_id, reason))
        if gap is None:
            gap = self._open[tenant_id, reason] = Gap(
                gap_id=new_id(), tenant_id=tenant_id, reason=reason, count=0, first_us=at_us, last_us=at_us
            )
        gap.count += count
        gap.first_us, gap.last_us = min(gap.first_us, at_us), max(gap.last_us, at_us, last_us or at_us)
        self._changed = True

    def hold(self, entries: Sequence[AuditEntry]) -> None:
        """Note entries that are in memory alone: what is left of them when the process is killed is nothing."""
        for entry in entries:
            tenant_id = entry.tenant_id or ANONYMOUS_TENANT
            if tenant_id not in self._held and len(self._held) >= _MAX_GAPS:
                tenant_id = SYSTEM_TENANT
            count, first_us, last_us = self._held.get(tenant_id, (0, entry.created_at_us, 0))
            at_us = entry.created_at_us
            self._held[tenant_id] = (count + 1, min(first_us, at_us), max(last_us, at_us))
        self._changed = True

    def delivered(self, entries: Sequence[AuditEntry], *, held: bool) -> None:
        """Strike what compliance has: records of gaps, and entries that were `held`."""
        if self._closed:
            for entry in entries:
                if self._closed.pop(entry.audit_id, None) is not None:
                    self._changed = True
        for entry in entries if held else ():
            tenant_id = entry.tenant_id or ANONYMOUS_TENANT
            tenant_id = tenant_id if tenant_id in self._held else SYSTEM_TENANT
            count, first_us, last_us = self._held.pop(tenant_id, (0, 0, 0))
            if count > 1:
                self._held[tenant_id] = (count - 1, first_us, last_us)
            self._changed = True

    # ---- telling

    def due(self, *, now: bool = False) -> list[AuditEntry]:
        """Return the records of what was lost since the last time, when it is time for them.

        A gap whose last record still waits for compliance counts on, so that few records wait.
        """
        again, self._again = self._again, []
        if not self._open or (not now and self._clock.monotonic() < self._due_s):
            return again
        self._due_s = self._clock.monotonic() + self._every_s
        waiting = set() if now else {(gap.tenant_id, gap.reason) for gap in self._closed.values()}
        closing = [gap for key, gap in self._open.items() if key not in waiting]
        for gap in closing:
            del self._open[gap.tenant_id, gap.reason]
            gap.closed = True
            self._closed[gap.gap_id] = gap
        self._changed = self._changed or bool(closing)
        self.save()
        return again + [record_of(gap, self._service) for gap in closing]

    # ---- the book

    def load(self) -> list[AuditEntry]:
        """Read what a former life counted; return its records, to be sent again. Blocks."""
        return [*self._read(), *self.due(now=True)]

    def _read(self) -> list[AuditEntry]:
        """Take over what is in the book. Return the records of gaps that were closed."""
        if self._file is None:
            return []
        try:
            book = self._file.open()
            self.durable = True
        except BookUnreadable:
            _log.error("the counts of records lost before can't be read")
            book = Book()
            self.add(SYSTEM_TENANT, BOOK_DAMAGED, 1, self._clock.now_us())
        except OSError as error:
            _log.error("counts of lost records are in memory only: %r", error)
            self.durable = False
            return []
        for tenant_id, (count, first_us, last_us) in book.held.items():
            self.add(tenant_id, DIED_WITH_THE_PROCESS, count, first_us, last_us)
        again = []
        for gap in book.gaps:
            if gap.closed:
                self._closed[gap.gap_id] = gap
                again.append(record_of(gap, self._service))
            elif (gap.tenant_id, gap.reason) in self._open:  # counted before the book could be read
                self.add(gap.tenant_id, gap.reason, gap.count, gap.first_us, gap.last_us)
            else:
                self._open[gap.tenant_id, gap.reason] = gap
        return again

    def save(self) -> None:
        """Write what changed into the book; where that can't be, `durable` says so. Never raises."""
        if not self._changed or self._file is None:
            return
        if not self._file.is_open:  # the disk was full, or ill, when this process began
            self._again += self._read()
        if not self._file.is_open:
            return
        book = Book(gaps=[*self._open.values(), *self._closed.values()], held=self._held)
        try:
            self.durable = self._file.save(book)
            self._changed = False
        except OSError as error:
            if self.durable:
                _log.error("counts of lost records are in memory only: %r", error)
            self.durable = False

    @property
    def unsynced(self) -> bool:
        """Whether the book was written since it was synced."""
        return self._file is not None and self._file.unsynced

    def sync(self) -> None:
        """Make the book outlive the machine. Raises: OSError."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Save, and close the book."""
        self.save()
        if self._file is not None:
            self._file.close()


def record_of(gap: Gap, service: str) -> AuditEntry:
    """Return the record of a gap that is closed: the same each time, so that sending it twice counts nothing twice."""
    return AuditEntry(
        audit_id=gap.gap_id,
        tenant_id=gap.tenant_id,
        actor=Actor(type="service", id=service),
        action=ACTION,
        resource_type="api_request",
        outcome="failure",
        metadata={
            "dropped": gap.count,
            "reason": gap.reason,
            "from": rfc3339(gap.first_us),
            "to": rfc3339(gap.last_us),
        },
        created_at_us=gap.last_us,
    )


def damage_of(segment: Path, frames: int) -> Gap:
    """Return the gap that a damaged segment is: named by its file, as it is sent again until the file is gone."""
    at_us = segment.stat().st_mtime_ns // 1000
    return Gap(
        gap_id=f"damaged-{segment.stem}-{at_us}", tenant_id=SYSTEM_TENANT, reason="spool_damaged", count=frames,
        first_us=at_us, last_us=at_us, closed=True,
    )  # fmt: skip
