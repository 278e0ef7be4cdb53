"""Compliance with the services that hold data around it, all real: for tests of legal holds and retention."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from sealwire.contracts.holds import NewHold
from sealwire.contracts.retention import NewRetentionRun, RetentionRun
from sealwire.kit.caller import Caller
from sealwire.kit.problem import Unavailable
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.media.config import MediaConfig
from sealwire.services.messaging.config import MessagingConfig
from sealwire.testing.compliance import ComplianceRoom, open_compliance
from sealwire.testing.media_room import MediaRoom


class Door:
    """A service behind a door that may be shut: then every call answers that it is out."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self.shut = False

    def __getattr__(self, name: str) -> Any:
        if self.shut:
            raise Unavailable("It is out.")
        return getattr(self._service, name)


class KeepingRoom:
    """`compliance` over crypto, auth, messaging and media. Jobs run when a test says so. Opening again is a restart."""

    def __init__(self, folder: Path, *, config: ComplianceConfig | None = None) -> None:
        self.folder = folder
        self.config = config or ComplianceConfig(retention_every_s=0, retention_pause_ms=0, hold_patience_s=0.3)
        self.files = MediaRoom(folder, config=MediaConfig(sweep_s=3600))
        self.messages = self.files.messages
        self.messages.config = MessagingConfig(purge_every_s=3600, trim_every_s=86_400)
        self.clock = self.files.clock
        self.compliance: ComplianceRoom
        self.doors: dict[str, Door] = {}

    async def open(self) -> None:
        """Start everything."""
        await self.files.open()
        await self.open_compliance()

    async def open_compliance(self, *, shut: Sequence[str] = ()) -> None:
        """Start compliance alone; the doors `shut` are."""
        people = self.messages.people
        self.doors = {
            "crypto": Door(people.crypto),
            "auth": Door(people.service),
            "messaging": Door(self.messages.service),
            "media": Door(self.files.service),
        }
        for name in shut:
            self.doors[name].shut = True
        folder = self.folder / "compliance"
        folder.mkdir(exist_ok=True)
        self._stack = AsyncExitStack()
        doors: Any = self.doors
        self.compliance = await self._stack.enter_async_context(
            open_compliance(folder, clock=self.clock, config=self.config, custodians=doors)
        )

    async def close_compliance(self) -> None:
        """Stop compliance alone."""
        await self._stack.aclose()

    async def close(self) -> None:
        """Stop everything in order."""
        await self.close_compliance()
        await self.files.close()

    async def hold(self, by: Caller, **covered: str) -> str:
        """Put a hold; return its id once it is in force."""
        return (await self.compliance.service.hold(by, NewHold(reason="case 7", **covered))).hold_id

    async def run(self, by: Caller, **wanted: Any) -> RetentionRun:
        """Start a run and wait for its end."""
        service = self.compliance.service
        begun = await service.start_run(by, NewRetentionRun(**wanted))
        await service.keeping.engine.settled(begun.run_id)
        return await service.run(by, begun.run_id)
