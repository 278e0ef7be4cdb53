"""kill -9 between a key's destruction and its shredding: the next start shreds it, however it was destroyed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sealwire.kit.files import count_in_files

LIFE = """
import asyncio, os, signal, sys
from pathlib import Path

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.crypto_terms import KeyUnusable
from sealwire.contracts.data_keys import DataKeyDestruction, SystemDataKeyRequest
from sealwire.contracts.keys import Destruction, NewKey
from sealwire.contracts.data_keys import WrappedKey
from sealwire.contracts.custody import SubjectErasure
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.files import count_in_files
from sealwire.kit.permission import Role
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.providers import FileKeyProvider
from sealwire.services.crypto.service import CryptoService
from sealwire.testing.clock import ManualClock

folder, life, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
MESSAGING, COMPLIANCE = service_caller("messaging", "t1"), service_caller("compliance", "t1")
ANNA = Caller(principal=Principal(kind="user", tenant_id="t1", subject="anna", role=Role.ADMIN, auth_time_s=4e9))
DOOMED, KEPT = {"scope": "c1", "subject_id": "u1"}, {"scope": "c1", "subject_id": "u2"}


def wrapped_in(db, of):
    table = "versions" if how == "due" else "data_keys"
    return db.read(f"SELECT wrapped FROM {table} WHERE {'key_id' if how == 'due' else 'data_key_id'} = ?", (of,))[0][0]


async def destroy(service, clock, doomed):
    if how == "asked":
        await service.destroy_data_keys(MESSAGING, DataKeyDestruction(subject_id="u1"))
    elif how == "custody":
        await service.erase_subject(COMPLIANCE, "u1", SubjectErasure(job_id="j1", pseudonym="nobody"))
    else:
        await service.schedule_destruction(ANNA, doomed, Destruction(delay_days=1))
        clock.advance(2 * 86_400)
        await service.destroy_due()


async def main():
    db, clock = Database.open(folder / "crypto.db", MIGRATIONS), ManualClock()
    store, begun = SqliteKeyStore(db), asyncio.Event()
    shred = store.shred

    async def shred_and_tell():
        await shred()
        begun.set()

    async def die():
        os.kill(os.getpid(), signal.SIGKILL)

    store.shred = shred_and_tell
    service = CryptoService(
        store=store, provider=FileKeyProvider.open(folder / "kek"), clock=clock, config=CryptoConfig()
    )
    await service.start()
    async with asyncio.timeout(50):
        if life == "first":
            doomed = await service.system_data_key(MESSAGING, SystemDataKeyRequest(context=DOOMED))
            kept = await service.system_data_key(MESSAGING, SystemDataKeyRequest(context=KEPT))
            name = (await service.generate_key(ANNA, NewKey())).key_id if how == "due" else doomed.wrapped
            print(wrapped_in(db, name).hex(), doomed.wrapped, kept.wrapped, kept.plaintext.hex(), flush=True)
            await begun.wait()
            store.shred = die
            await destroy(service, clock, name)
            await asyncio.Event().wait()  # for the keeper to begin shredding
        secret, doomed, kept, plaintext = bytes.fromhex(sys.argv[4]), sys.argv[5], sys.argv[6], sys.argv[7]
        while count_in_files([folder], [secret]):
            await asyncio.sleep(0.01)
        opened = await service.open_data_key(MESSAGING, WrappedKey(wrapped=kept, context=KEPT))
        assert opened.plaintext.hex() == plaintext
        if how != "due":
            try:
                await service.open_data_key(MESSAGING, WrappedKey(wrapped=doomed, context=DOOMED))
            except KeyUnusable:
                print("gone", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)  # no goodbye that could shred anything

asyncio.run(main())
"""


def live(folder: Path, *argv: str) -> list[str]:
    """Live until the kill; return what was said."""
    done = subprocess.run(
        [sys.executable, "-c", LIFE, str(folder), *argv], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == -9, done.stderr[-3000:]
    return done.stdout.split()


@pytest.mark.parametrize("how", ["asked", "custody", "due"])
def test_the_next_start_shreds_what_was_destroyed(tmp_path: Path, how: str) -> None:
    secret, *names = live(tmp_path, "first", how)
    assert count_in_files([tmp_path], [bytes.fromhex(secret)]) > 0, "the kill came before the shredding"
    said = live(tmp_path, "again", how, secret, *names)
    assert count_in_files([tmp_path], [bytes.fromhex(secret)]) == 0
    assert said == ([] if how == "due" else ["gone"])
