"""What crypto keeps while a legal hold is in force: the keys of what the hold covers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.crypto_terms import KeyUnusable
from sealwire.contracts.custody import HoldPlacement
from sealwire.contracts.data_keys import DataKeyDestruction, SystemDataKeyRequest
from sealwire.contracts.data_keys import WrappedKey as Wrapped
from sealwire.contracts.holds import LegalHold
from sealwire.contracts.keys import Destruction, NewKey
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.providers import FileKeyProvider
from sealwire.services.crypto.service import CryptoService
from sealwire.testing.clock import ManualClock

ADMIN = Caller(principal=Principal(kind="user", tenant_id="t1", subject="admin", role=Role.ADMIN))
COMPLIANCE = service_caller("compliance", "t1")
MESSAGING = service_caller("messaging", "t1")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def crypto(tmp_path: Path, clock: ManualClock) -> AsyncIterator[CryptoService]:
    db = Database.open(tmp_path / "crypto.db", MIGRATIONS)
    provider = FileKeyProvider.open(tmp_path / "kek")
    # It destroys when a test asks for it, not by itself.
    config = CryptoConfig(destroy_check_s=3600)
    service = CryptoService(store=SqliteKeyStore(db), provider=provider, clock=clock, config=config)
    await service.start()
    yield service
    await service.stop()
    await db.close()


async def data_key(crypto: CryptoService, scope: str, subject_id: str) -> Wrapped:
    context = {"scope": scope, "subject_id": subject_id}
    made = await crypto.system_data_key(MESSAGING, SystemDataKeyRequest(context=context))
    return Wrapped(wrapped=made.wrapped, context=context)


async def test_only_compliance_places_holds(crypto: CryptoService) -> None:
    for caller in (ADMIN, MESSAGING):
        with pytest.raises(Forbidden):
            await crypto.put_hold(caller, "h1", HoldPlacement(subject_id="ann"))


@pytest.mark.parametrize("placement", [HoldPlacement(subject_id="ann"), HoldPlacement(conversation_id="c1")])
@pytest.mark.parametrize("which", [DataKeyDestruction(subject_id="ann"), DataKeyDestruction(scope="c1")])
async def test_data_keys_of_what_a_hold_covers_stay(
    crypto: CryptoService, placement: HoldPlacement, which: DataKeyDestruction
) -> None:
    key = await data_key(crypto, "c1", "ann")
    await crypto.put_hold(COMPLIANCE, "h1", placement)
    with pytest.raises(LegalHold):
        await crypto.destroy_data_keys(MESSAGING, which)
    await crypto.open_data_key(MESSAGING, key)
    await crypto.release_hold(COMPLIANCE, "h1")
    assert (await crypto.destroy_data_keys(MESSAGING, which)).destroyed == 1
    with pytest.raises(KeyUnusable):
        await crypto.open_data_key(MESSAGING, key)


async def test_a_hold_covers_nobody_else(crypto: CryptoService) -> None:
    await data_key(crypto, "c2", "bob")
    await crypto.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id="ann"))
    await crypto.put_hold(service_caller("compliance", "t2"), "h2", HoldPlacement(subject_id="bob"))
    assert (await crypto.destroy_data_keys(MESSAGING, DataKeyDestruction(subject_id="bob"))).destroyed == 1


async def test_a_key_is_not_scheduled_for_destruction_under_a_hold(crypto: CryptoService) -> None:
    key = await crypto.generate_key(ADMIN, NewKey(key_type="aes-256-gcm"))
    await crypto.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id="ann"))
    with pytest.raises(LegalHold):
        await crypto.schedule_destruction(ADMIN, key.key_id, Destruction(delay_days=7))
    assert (await crypto.key(ADMIN, key.key_id)).state == "enabled"


async def test_a_delayed_destruction_waits_for_the_release(crypto: CryptoService, clock: ManualClock) -> None:
    key = await crypto.generate_key(ADMIN, NewKey(key_type="aes-256-gcm"))
    await crypto.schedule_destruction(ADMIN, key.key_id, Destruction(delay_days=7))
    await crypto.put_hold(COMPLIANCE, "h1", HoldPlacement(conversation_id="c1"))
    clock.advance(8 * 86_400)
    assert await crypto.destroy_due() == 0
    assert (await crypto.key(ADMIN, key.key_id)).state == "scheduled_for_destruction"
    await crypto.release_hold(COMPLIANCE, "h1")
    assert await crypto.destroy_due() == 1
    assert (await crypto.key(ADMIN, key.key_id)).state == "destroyed"


async def test_a_placement_that_comes_after_its_release_does_nothing(crypto: CryptoService) -> None:
    await data_key(crypto, "c1", "ann")
    await crypto.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id="ann"))
    await crypto.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id="ann"))
    await crypto.release_hold(COMPLIANCE, "h1")
    await crypto.release_hold(COMPLIANCE, "h1")
    await crypto.put_hold(COMPLIANCE, "h1", HoldPlacement(subject_id="ann"))
    assert (await crypto.destroy_data_keys(MESSAGING, DataKeyDestruction(subject_id="ann"))).destroyed == 1
