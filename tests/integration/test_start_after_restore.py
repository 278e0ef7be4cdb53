"""Older files are put back: what a newer hold keeps goes with no start, however long its time is over."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from pathlib import Path

import apsw

from sealwire.contracts.conversations import NewConversation
from sealwire.contracts.holds import NewHold
from sealwire.contracts.keys import Destruction, NewKey
from sealwire.contracts.messages import Draft
from sealwire.contracts.users import Registration
from sealwire.kit.caller import ANONYMOUS, Caller, Principal
from sealwire.kit.permission import Role
from sealwire.runtime import settings
from sealwire.runtime.assembly import Assembly

STRANGER = Caller(principal=ANONYMOUS, ip="192.0.2.7")
ANNA = Registration(email="anna@example.org", password="seven tidy lighthouses", display_name="anna")


async def started(data: Path, last: str) -> Assembly:
    """Bring an installation up to a step, without its ports."""
    loaded, _ = settings.load(flags={"server": {"data": str(data)}}, env={}, file=data.parent / "none.toml")
    assembly = Assembly(settings=loaded)
    for name, run, _ in assembly.steps():
        await run()
        if name == last:
            return assembly
    raise AssertionError(last)


async def state_after_a_look(assembly: Assembly, owner: Caller, key_id: str) -> str:
    await assembly._rooms["crypto"].service._keeper._look()
    return str((await assembly.contract("crypto").key(owner, key_id)).state)


def put_back(data: Path, older: Path, change: str) -> None:
    """Have an older file in place of the one of its name, with something in it due."""
    for file in data.glob(f"{older.name}*"):
        file.unlink()
    shutil.copy(older, data)
    with closing(apsw.Connection(str(data / older.name))) as conn:
        conn.execute(change)


async def test_what_a_newer_hold_keeps_waits_for_it_though_its_time_is_over(tmp_path: Path) -> None:
    data, older = tmp_path / "data", tmp_path / "older"
    older.mkdir()
    first = await started(data, "audit trail")
    anna = (await first.contract("auth").register(STRANGER, ANNA)).user.user_id
    owner = Caller(principal=Principal(kind="user", tenant_id="default", subject=anna, role=Role.OWNER))
    key = (await first.contract("crypto").generate_key(owner, NewKey(key_type="aes-256-gcm"))).key_id
    await first.contract("crypto").schedule_destruction(owner, key, Destruction(delay_days=1))
    group = await first.contract("messaging").create(owner, NewConversation(kind="group", title="Harbour"))
    draft = Draft(body="kept for the court", client_message_id="m1", expires_in_s=86_400)
    await first.contract("messaging").send(owner, group.conversation_id, draft)
    await first.stop()
    for name in ("crypto.db", "messaging.db"):
        shutil.copy(data / name, older)
    second = await started(data, "audit trail")
    new = NewHold(reason="case 7", conversation_id=group.conversation_id)
    hold = await second.contract("compliance").hold(owner, new)
    await second.stop()
    put_back(data, older / "crypto.db", f"UPDATE keys SET destroy_at_us = 1 WHERE key_id = '{key}'")
    put_back(data, older / "messaging.db", "UPDATE message SET expires_at_us = 1")

    errand = await started(data, "service crypto")  # as `sealwire keys` starts it, with nobody who could tell
    assert await state_after_a_look(errand, owner, key) == "scheduled_for_destruction"
    await errand.stop()
    third = await started(data, "audit trail")
    try:
        async with asyncio.timeout(60):
            with closing(apsw.Connection(str(data / "messaging.db"), flags=apsw.SQLITE_OPEN_READONLY)) as conn:
                while conn.execute("SELECT deleted_at_us FROM message").get is None:  # noqa: ASYNC110 - nobody is told
                    await asyncio.sleep(0.02)
                assert conn.execute("SELECT sealed IS NOT NULL FROM message").get == 1, "it holds all it held"
            assert third.holds_told()
            assert await state_after_a_look(third, owner, key) == "scheduled_for_destruction"
            await third.contract("compliance").release(owner, hold.hold_id)
            while await state_after_a_look(third, owner, key) != "destroyed":
                third._rooms["crypto"].service._keeper._next_look_s = 0
                await asyncio.sleep(0.02)
    finally:
        await third.stop()
