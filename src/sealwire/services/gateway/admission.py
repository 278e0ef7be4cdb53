"""Admission: how many requests may be in work at once, found by how late the event loop runs.

The idea is CoDel's (RFC 8289): a queue that empties now and then is a burst and harms nobody; one that stands only
makes everybody slow. Everything waits in one loop, so how late a timer fires is the length of that queue; waiting for a
disk is none of it. While the loop is late most of the time, fewer are let in; else more. Who isn't let in is answered
before anything is paid for them, so that refusing costs little.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.kit.caller import ANONYMOUS_TENANT
from sealwire.kit.clock import rfc3339
from sealwire.kit.codec import encode
from sealwire.kit.forwarded import forwarded_for
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Unavailable

PROBE_S: Final = 0.01
PROBES: Final = 10
"""An interval of 100 ms (RFC 8289 section 4.3). Their median counts: one long step, or a core lent out, is no queue."""
FEWER: Final = 0.75
MORE: Final = 1.25
MORE_AT_LEAST: Final = 4
TELL_EVERY_S: Final = 1.0
MOST_LISTED: Final = 100
"""Requests in one record, so that it stays below the 65,535 bytes that a record may have."""
MOST_PATH, MOST_SEGMENT, MOST_AGENT = 160, 40, 64
_LONG_SEGMENT: Final = re.compile(rb"[^/]{%d,}" % (MOST_SEGMENT + 1))


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
        proxies: Iterable[str] = (),
    ) -> None:
        """`proxies` are those whose X-Forwarded-For is believed."""
        self._target_s = target_s
        self._floor = min(floor, ceiling)
        self._ceiling = ceiling
        self._records = records
        self._proxies = frozenset(proxies)
        self._refused: list[tuple[int, str, bytes, str, str]] = []
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

    def full(self) -> bool:
        """Whether as many are in work as may be."""
        return self.active >= self.limit

    def open(self, path: bytes) -> bool:
        """Whether a request may come in. What tells the state of the installation always may."""
        return self.active < self.limit or not path.startswith(b"/api/v1/")

    def refuse(
        self, method: str, path: bytes, headers: Sequence[tuple[bytes, bytes]], client: tuple[str, int] | None
    ) -> None:
        """Note one that was not let in: when, what, and who, as far as that costs next to nothing."""
        self.shed += 1
        ip = client[0] if client else ""
        agent = b""
        forwarded: list[bytes] = []
        for name, value in headers:
            if name == b"user-agent":
                agent = value
            elif name == b"x-forwarded-for":
                forwarded.append(value)
        if forwarded:
            ip = forwarded_for(forwarded, ip, self._proxies)
        self._refused.append((time.time_ns(), method, path, ip, agent[:MOST_AGENT].decode("latin-1")))
        if len(self._refused) >= MOST_LISTED:
            self._tell(time.monotonic())

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
        """Record who was refused since the last time: every request, in as few records as hold them.

        One record each would cost more than answering does (docs/adr/0016): sealing, chaining and storing them.
        """
        refused, self._refused = self._refused, []
        shown = {path: _shown(path) for _, _, path, _, _ in refused}
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
                metadata={
                    "requests": count,
                    "within_s": round(seconds, 1),
                    "status_code": 503,
                    "refused": "\n".join(
                        f"{rfc3339(at_ns // 1000)} {method} {shown[path]}" for at_ns, method, path, _, _ in refused
                    ),
                },
                personal={"clients": "\n".join(f"{ip} {agent}" for *_, ip, agent in refused)} if refused else {},
                created_at_us=time.time_ns() // 1000,
            )
        )


def _shown(path: bytes) -> str:
    """Return a path without what may be a secret: a link's token is longer than any id of ours."""
    if len(path) > MOST_PATH:  # what the cut would leave of a long secret is no secret's business either
        path = path[:MOST_PATH].rpartition(b"/")[0] + b"/..."
    return _LONG_SEGMENT.sub(b"...", path).decode("latin-1")
