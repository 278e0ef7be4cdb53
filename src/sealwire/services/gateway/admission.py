"""Admission: how many requests may be in work at once, found by how late the event loop runs.

The idea is CoDel's (RFC 8289): a queue that empties now and then is a burst and harms nobody; one that stands only
makes everybody slow. Everything waits in one loop, so how late a timer fires is the length of that queue; waiting for a
disk is none of it. While the loop is late most of the time, fewer are let in; else more. Who isn't let in is answered
before anything is paid for them, so that refusing costs little.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from sealwire.contracts.compliance import Actor, AuditEntry
from sealwire.kit.caller import ANONYMOUS_TENANT
from sealwire.kit.codec import encode
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Unavailable

PROBE_S: Final = 0.01
PROBES: Final = 10
"""An interval of 100 ms (RFC 8289 section 4.3). Their median counts: one long step, or a core lent out, is no queue."""
FEWER: Final = 0.75
MORE: Final = 1.25
MORE_AT_LEAST: Final = 4
TELL_EVERY_S: Final = 1.0


class RecordSink(Protocol):
    """Where audit records go. Never waits."""

    def put(self, entry: AuditEntry) -> None: ...


class Admission:
    """Counts what is in work, and says whether one more may come in. Asked for every request, so it does little.

    Only requests that have arrived whole and are not answered yet count: a slow client takes no place.
    """

    def __init__(
        self,
        *,
        target_s: float,
        floor: int,
        ceiling: int,
        registry: CollectorRegistry,
        records: RecordSink,
    ) -> None:
        self._target_s = target_s
        self._floor = min(floor, ceiling)
        self._ceiling = ceiling
        self._records = records
        self.limit = ceiling
        self.active = 0
        self.shed = 0
        self._most = 0
        self._late_s: list[float] = []
        self._probe: asyncio.TimerHandle | None = None
        self._told = 0
        self._told_s = time.monotonic()
        self._counter = Counter("sealwire_http_shed_early", "Requests refused before they were read", registry=registry)
        Gauge("sealwire_http_admitted_limit", "Requests that may be in work now", registry=registry).set_function(
            lambda: self.limit
        )
        refusal = Unavailable("More is asked than can be answered in time; please come back.", retry_after_s=1)
        self.refusal = encode(refusal.document())
        self.lines = (
            b"content-type: application/problem+json\r\nretry-after: 1\r\ncache-control: no-store\r\n"
            b"x-content-type-options: nosniff\r\n"
        )

    def open(self, url: bytes) -> bool:
        """Whether a request may come in. What tells the state of the installation always may."""
        return self.active < self.limit or not url.startswith(b"/api/v1/")

    def refuse(self) -> None:
        """Count one that was not let in."""
        self.shed += 1

    def begin(self) -> None:
        """Count one that is whole and in work now."""
        self.active += 1
        if self.active > self._most:
            self._most = self.active
        if self._probe is None:
            self._look_again()

    def end(self) -> None:
        """Count it as answered, or begun to be."""
        self.active -= 1

    def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        self._probe = loop.call_later(PROBE_S, self._look, time.monotonic() + PROBE_S)

    def _look(self, due_s: float) -> None:
        """Note how late the loop is; after ten of these, adjust. Stops while nothing is in work."""
        self._late_s.append(time.monotonic() - due_s)
        if len(self._late_s) >= PROBES:
            self.adjust(sorted(self._late_s)[PROBES // 2])
            self._late_s.clear()
        if self.active or self.limit < self._ceiling or self.shed > self._told:
            self._look_again()
        else:
            self._probe = None

    def adjust(self, late_s: float) -> None:
        """Set the limit by how late the loop is most of the time."""
        if late_s > self._target_s:
            self.limit = max(self._floor, int(min(self.limit, self._most) * FEWER))
        elif self.limit < self._ceiling:
            self.limit = min(self._ceiling, max(int(self.limit * MORE), self.limit + MORE_AT_LEAST))
        self._most = self.active
        now_s = time.monotonic()
        if self.shed > self._told and now_s - self._told_s >= TELL_EVERY_S:
            self._tell(now_s)

    def _tell(self, now_s: float) -> None:
        """Record how many were refused since the last time: one record for all, else each would cost what it spares."""
        count, self._told = self.shed - self._told, self.shed
        seconds, self._told_s = now_s - self._told_s, now_s
        self._counter.inc(count)
        self._records.put(
            AuditEntry(
                audit_id=new_id(),
                tenant_id=ANONYMOUS_TENANT,
                actor=Actor(type="anonymous", id=ANONYMOUS_TENANT),
                action="requests_shed",
                resource_type="gateway",
                outcome="denied",
                metadata={"requests": count, "within_s": round(seconds, 1), "status_code": 503},
                created_at_us=time.time_ns() // 1000,
            )
        )
