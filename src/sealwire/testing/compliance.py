"""Opens compliance by family, with a real crypto beside it: for suites and benchmarks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from sealwire.adapters.embedded.blobs import FileBlobStore
from sealwire.adapters.embedded.compliance import SqliteCompliance
from sealwire.adapters.embedded.crypto import MIGRATIONS as CRYPTO_MIGRATIONS
from sealwire.adapters.embedded.crypto import SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.custody import SubjectCustody
from sealwire.kit.clock import Clock, SystemClock
from sealwire.kit.files import count_in_files
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.ports import ComplianceStores
from sealwire.services.compliance.rights import Surroundings
from sealwire.services.compliance.service import ComplianceService
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.providers import FileKeyProvider
from sealwire.services.crypto.service import CryptoService
from sealwire.testing.backends import FAMILIES


class ComplianceRoom:
    """A compliance service on a folder, and the parts of it that tests look at."""

    def __init__(
        self, *, service: ComplianceService, stores: ComplianceStores, crypto: CryptoService, keys: KeyRing
    ) -> None:
        self.service = service
        self.stores = stores
        self.crypto = crypto
        self.keys = keys


@asynccontextmanager
async def open_compliance_stores(family: str, folder: Path) -> AsyncIterator[ComplianceStores]:
    """Give compliance's stores of a family, kept in `folder`. Raises: ValueError for a family that isn't there."""
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r}")
    file = SqliteCompliance.open(folder / "compliance.db")
    try:
        yield file.stores
    finally:
        await file.close()


@asynccontextmanager
async def open_compliance(
    folder: Path,
    *,
    family: str = "embedded",
    clock: Clock | None = None,
    config: ComplianceConfig | None = None,
    custodians: Mapping[str, SubjectCustody] | None = None,
) -> AsyncIterator[ComplianceRoom]:
    """Give a started compliance service; opening it again on the same folder is a restart."""
    clock = clock or SystemClock()
    crypto_db = Database.open(folder / "crypto.db", CRYPTO_MIGRATIONS)
    crypto = CryptoService(
        store=SqliteKeyStore(crypto_db),
        provider=FileKeyProvider.open(folder / "kek"),
        clock=clock,
        config=CryptoConfig(),
    )
    await crypto.start()
    keys = KeyRing(crypto=crypto, service="compliance", clock=clock)
    try:
        async with open_compliance_stores(family, folder) as stores:
            around = Surroundings(
                custodians=lambda: {**(custodians or {}), "compliance": service.own},
                blobs=FileBlobStore(folder.parent / f"{folder.name}-exports"),
                count_in_data=lambda texts: asyncio.to_thread(count_in_files, [folder], texts),
                rng=Random(1),  # noqa: S311 - jitter, not a secret
            )
            service = ComplianceService(
                stores=stores, crypto=crypto, keys=keys, around=around, clock=clock, config=config or ComplianceConfig()
            )
            await service.start()
            try:
                yield ComplianceRoom(service=service, stores=stores, crypto=crypto, keys=keys)
            finally:
                await service.stop()
    finally:
        await crypto.stop()
        await crypto_db.close()
