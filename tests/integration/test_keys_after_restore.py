"""An older `crypto.db` is put back: what a newer hold keeps waits until crypto was told the hold."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from pathlib import Path

import apsw

from sealwire.contracts.holds import NewHold
from sealwire.contracts.keys import Destruction, NewKey
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.permission import Role
from sealwire.runtime import settings
from sealwire.runtime.assembly import Assembly

OWNER = Caller(principal=Principal(kind="user", tenant_id="default", subject="anna", role=Role.OWNER))


async def started(data: Path, last: str) -> Assembly:
    """Bring an installation up to a step, without its ports."""
    loaded, _ = settings.load(flags={"server": {"data": str(data)}}, env={}, file=data.parent / "none.toml")
    assembly = Assembly(settings=loaded)
    for name, run, _ in assembly.steps():
        await run()
        if name == last:
            return assembly
    raise AssertionError(last)


async def state_after_a_look(assembly: Assembly, key_id: str) -> str:
    await assembly._rooms["crypto"].service._keeper._look()
    return str((await assembly.contract("crypto").key(OWNER, key_id)).state)


async def test_a_key_whose_day_has_come_waits_for_the_holds(tmp_path: Path) -> None:
    data, older = tmp_path / "data", tmp_path / "older.db"
    first = await started(data, "audit trail")
    key = await first.contract("crypto").generate_key(OWNER, NewKey(key_type="aes-256-gcm"))
    await first.contract("crypto").schedule_destruction(OWNER, key.key_id, Destruction(delay_days=1))
    await first.stop()
    shutil.copy(data / "crypto.db", older)
    second = await started(data, "audit trail")
    hold = await second.contract("compliance").hold(OWNER, NewHold(reason="case 7", subject_id="ben"))
    await second.stop()
    for file in data.glob("crypto.db*"):
        file.unlink()
    shutil.copy(older, data / "crypto.db")
    with closing(apsw.Connection(str(data / "crypto.db"))) as conn:
        conn.execute("UPDATE keys SET destroy_at_us = 1 WHERE key_id = ?", (key.key_id,))

    errand = await started(data, "service crypto")  # as `sealwire keys` starts it, with nobody who could tell
    assert await state_after_a_look(errand, key.key_id) == "scheduled_for_destruction"
    await errand.stop()
    third = await started(data, "audit trail")
    try:
        async with asyncio.timeout(60):
            while not third.holds_told():  # noqa: ASYNC110 - the keeper tells nobody
                await asyncio.sleep(0.02)
        assert await state_after_a_look(third, key.key_id) == "scheduled_for_destruction"
        await third.contract("compliance").release(OWNER, hold.hold_id)
        keeper = third._rooms["crypto"].service._keeper
        async with asyncio.timeout(60):
            while await state_after_a_look(third, key.key_id) != "destroyed":
                keeper._next_look_s = 0
                await asyncio.sleep(0.02)
    finally:
        await third.stop()
