"""Refused handshakes are in the audit log too: listed, up to a hundred of them in one record (docs/adr/0016).

One record each would cost more than refusing does, and whoever is refused comes back often.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.kit.caller import ANONYMOUS_TENANT
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.exchange import Scope
from sealwire.kit.ids import new_id
from sealwire.services.socket.ports import Records

ACTION: Final = "handshakes_refused"
MOST_LISTED: Final = 100
"""Refusals in one record, so that it stays below the 65,535 bytes that a record may have."""
TELL_EVERY_S: Final = 1.0
MOST_PATH, MOST_AGENT = 160, 64


class Refusals:
    """Lists the handshakes of one instance that were refused. For one event loop."""

    def __init__(self, *, instance: str, records: Records | None, clock: Clock) -> None:
        self._instance = instance
        self._records = records
        self._clock = clock
        self._listed: list[tuple[int, str, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    def note(self, scope: Scope, ip: str, code: str, status: int) -> None:
        """List a handshake that was answered with a problem, by `status` or by a close code of that number."""
        if self._records is None:
            return
        agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
        path: bytes = scope["raw_path"][:MOST_PATH]  # as it was sent: no control characters, no query
        asked = f"{status} {code} GET {path.decode('latin-1')}"
        self._listed.append((self._clock.now_us(), asked, f"{ip} {agent[:MOST_AGENT].decode('latin-1')}"))
        if len(self._listed) >= MOST_LISTED:
            self.tell()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_EVERY_S, self.tell)

    def tell(self) -> None:
        """Record what is listed since the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        listed, self._listed = self._listed, []
        if not listed or self._records is None:
            return
        self._records.put(
            AuditEntry(
                audit_id=new_id(),
                tenant_id=ANONYMOUS_TENANT,
                actor=Actor(type="anonymous", id=ANONYMOUS_TENANT),
                action=ACTION,
                resource_type="socket",
                resource_id=self._instance,
                outcome="denied",
                metadata={
                    "handshakes": len(listed),
                    "refused": "\n".join(f"{rfc3339(at_us)} {asked}" for at_us, asked, _ in listed),
                },
                personal={"clients": "\n".join(client for _, _, client in listed)},
                created_at_us=listed[0][0],
            )
        )
