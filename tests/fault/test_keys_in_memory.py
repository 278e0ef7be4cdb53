"""What of a key is in a process's memory while it is used, and that nothing is once it was forgotten.

The memory of another process is read, as a debugger or a dump would, and looked through for the keys' own bytes and for
what is derived from them. With a token the bytes of master keys pass through a pipe: this is about the file provider.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.data_keys import SystemDataKeyRequest
from sealwire.kit import envelopes
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import SystemClock
from sealwire.services.crypto import material
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.providers import FileKeyProvider
from sealwire.services.crypto.service import CryptoService

pytestmark = pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc on this system")
PROGRAM = """
import asyncio, sys
from pathlib import Path
from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.clients.key_ring import KeyRing
from sealwire.kit.clock import SystemClock
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.providers import FileKeyProvider
from sealwire.services.crypto.service import CryptoService

folder = Path(sys.argv[1])

def at(step):
    print(step, flush=True)
    sys.stdin.readline()

async def use():
    db, clock = Database.open(folder / "crypto.db", MIGRATIONS), SystemClock()
    provider = FileKeyProvider.open(folder / "kek")
    service = CryptoService(store=SqliteKeyStore(db), provider=provider, clock=clock, config=CryptoConfig())
    await service.start()
    ring = KeyRing(crypto=service, service="messaging", clock=clock)
    sealed = await ring.seal("t1", "c1", "u1", b"text", b"context")  # made
    ring.clear_cache()
    await ring.open("t1", "c1", "u1", sealed, b"context")  # opened
    await ring.seal("t1", "c1", "u1", b"text", b"context")  # granted
    at("in use")
    ring.clear_cache()
    at("out of the ring")
    await service.stop()
    await db.close()
    at("stopped")

asyncio.run(use())
"""


def memory_of(pid: int) -> list[bytes]:
    """Return what a process may write to, and what else it can read."""
    regions = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) r", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE)
    found = []
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for begin, end in ((int(begin, 16), int(end, 16)) for begin, end in regions):
                try:
                    memory.seek(begin)
                    found.append(memory.read(end - begin))
                except (OSError, OverflowError, ValueError):  # the kernel's own pages
                    continue
    except PermissionError:
        pytest.skip("this user may not look into another process's memory")
    return found


async def secrets_in(folder: Path) -> dict[str, bytes]:
    """Return all that the folder's keys are and what is derived from them."""
    db = Database.open(folder / "crypto.db", MIGRATIONS)
    provider = FileKeyProvider.open(folder / "kek", create=False)
    service = CryptoService(store=SqliteKeyStore(db), provider=provider, clock=SystemClock(), config=CryptoConfig())
    await service.start()
    request = SystemDataKeyRequest(context={"scope": "c1", "subject_id": "u1"})
    data_key = await service.system_data_key(service_caller("messaging", "t1"), request)
    salt = bytes.fromhex(data_key.wrapped.replace("-", ""))
    derived = HKDF(SHA256(), 96, salt, envelopes._BULK_INFO).derive(data_key.plaintext)
    found = {
        "kek": bytes(provider._kek),
        "kek, as in its file": b64encode(provider._kek).rstrip(b"="),
        "kek, extracted": hmac.digest(bytes(32), provider._kek, "sha256"),
        "data key": bytes(data_key.plaintext),
        "data key, extracted": hmac.digest(salt, data_key.plaintext, "sha256"),
        "data key, cipher": derived[:32],
        "data key, commitment": derived[32:64],
        "data key, segments": derived[64:],
    }
    for live in service._chain._keys.values():
        for version in live.materials.values():
            purpose = live.stored.purpose
            found[purpose] = bytes(version._root)
            found[f"{purpose}, extracted"] = hmac.digest(bytes(32), version._root, "sha256")
            found[f"{purpose}, cipher"] = bytes(material._derive(version._root, material._API_INFO))
            found[f"{purpose}, wrapping"] = bytes(version._wrapping or b"")
    await service.stop()
    await db.close()
    assert len(set(found.values())) == len(found) == 16
    return found


def test_what_of_a_key_is_in_memory(tmp_path: Path) -> None:
    program = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        seen: dict[str, list[bytes]] = {}
        try:
            for step in ("in use", "out of the ring", "stopped"):
                assert process.stdout.readline() == f"{step}\n"
                seen[step] = memory_of(process.pid)
                if step != "stopped":
                    process.stdin.write("\n")
                    process.stdin.flush()
        finally:
            process.kill()
    secrets = asyncio.run(secrets_in(tmp_path))
    found = {
        step: {name for name, secret in secrets.items() if any(secret in region for region in memory)}
        for step, memory in seen.items()
    }
    keys = {f"{name}{part}" for name in ("master", "system:messaging") for part in ("", ", cipher", ", wrapping")}
    sealing = {f"data key, {part}" for part in ("cipher", "commitment", "segments")}
    assert found["in use"] == {"kek", *keys, *sealing}, "not the data key itself"
    assert found["out of the ring"] == {"kek", *keys}
    assert found["stopped"] == set()
