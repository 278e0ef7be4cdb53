"""kill -9 among suspensions and erasures: what was answered holds, and what was cut short can be finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealwire.contracts.custody import SubjectErasure
from sealwire.contracts.sessions import RefreshInvalid, RefreshRequest, SessionNotFound, SessionQuery
from sealwire.contracts.tenancy import TenantChange
from sealwire.contracts.users import UserQuery
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import SystemClock
from sealwire.testing.auth_room import BOUNDARY, AuthRoom, somebody
from sealwire.testing.victim import killed_after

VICTIM = """
import asyncio, json, sys
from pathlib import Path
from sealwire.contracts.tenants import NewTenant
from sealwire.contracts.credentials import ResetRequest
from sealwire.contracts.custody import SubjectErasure
from sealwire.contracts.tenancy import TenantChange
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import SystemClock
from sealwire.testing.auth_room import AuthRoom, somebody

SYSTEM = service_caller("gateway", "system")
COMPLIANCE = service_caller("compliance", "default")

def say(**what):
    print(json.dumps(what), flush=True)

async def erase(room, owner, worker):
    for n in range(10_000):
        name = f"p{worker}-{n}"
        user_id = await room.add(owner, name)
        granted = await room.log_in(name)
        await room.auth.reset_password(somebody(), ResetRequest(email=f"{name}@example.org"))
        who = {"user_id": user_id, "session_id": granted.session_id, "refresh": granted.refresh_token}
        who["email"] = f"{name}@example.org"
        say(did="begun", **who)
        done = False
        while not done:
            erasure = SubjectErasure(job_id="job-1", pseudonym="nobody-1")
            done = (await room.auth.erase_subject(COMPLIANCE, user_id, erasure)).done
            say(did="erased" if done else "cut", **who)

async def suspend(room, worker):
    for n in range(10_000):
        slug = f"t{worker}-{n}"
        await room.auth.add_tenant(SYSTEM, NewTenant(slug=slug, name=slug))
        await room.register("anna", tenant=slug)
        granted = await room.log_in("anna", tenant=slug)
        what = {"slug": slug, "session_id": granted.session_id, "refresh": granted.refresh_token}
        await room.auth.change_tenant(SYSTEM, slug, TenantChange(status="suspended"))
        say(did="suspended", **what)
        if n % 2:
            await room.auth.change_tenant(SYSTEM, slug, TenantChange(status="active"))
            say(did="resumed", **what)

async def main():
    room = AuthRoom(Path(sys.argv[1]), clock=SystemClock())
    await room.open()
    owner, _ = await room.enter("boss")
    await asyncio.gather(*(erase(room, owner, worker) for worker in range(3)), suspend(room, 0), suspend(room, 1))

asyncio.run(main())
"""
COMPLIANCE, SYSTEM = service_caller("compliance", "default"), service_caller("gateway", "system")


async def gone(room: AuthRoom, what: dict[str, Any]) -> None:
    """Neither session nor refresh token does anything any more."""
    try:
        state = await room.auth.session(BOUNDARY, SessionQuery(session_id=what["session_id"]))
    except SessionNotFound:
        pass
    else:
        assert not state.active, what
    with pytest.raises(RefreshInvalid):
        await room.auth.refresh(somebody(), RefreshRequest(refresh_token=what["refresh"]))


@pytest.mark.parametrize("lines", [15, 60])
async def test_what_was_answered_holds_and_the_rest_can_be_finished(tmp_path: Path, lines: int) -> None:
    said = await killed_after(VICTIM, tmp_path, lines)
    room = AuthRoom(tmp_path, clock=SystemClock())
    await room.open()
    try:
        for what in said:
            if what["did"] != "begun":
                await gone(room, what)
        erasure = SubjectErasure(job_id="job-1", pseudonym="nobody-1")
        for user_id in {what["user_id"] for what in said if "user_id" in what}:
            for _ in range(20):
                if (await room.auth.erase_subject(COMPLIANCE, user_id, erasure)).done:
                    break
            else:
                pytest.fail("the erasure does not end")
            assert (await room.auth.profiles(BOUNDARY, UserQuery(user_ids=[user_id]))).items == []
        assert room.storage.db.read("SELECT count(*) FROM erased_user WHERE sealed IS NOT NULL") == [(0,)]
        erased = {what["email"] for what in said if "email" in what}
        assert not erased & {letter["To"] for letter in await room.letters()}, "no letter of theirs is left"
        for what in said:
            if what["did"] == "suspended":
                await room.auth.change_tenant(SYSTEM, what["slug"], TenantChange(status="active"))
                await gone(room, what)
                assert (await room.log_in("anna", tenant=what["slug"])).session_id
        assert room.storage.db.read("SELECT count(*) FROM suspended_tenant") == [(0,)]
    finally:
        await room.close()
