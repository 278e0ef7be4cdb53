"""kill -9 in the middle of it: whatever auth acknowledged is there after a restart, revocations above all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealwire.contracts.revocations import FeedQuery
from sealwire.contracts.sessions import RefreshInvalid, RefreshRequest, SessionQuery
from sealwire.kit.clock import SystemClock
from sealwire.testing.auth_room import BOUNDARY, AuthRoom, somebody
from sealwire.testing.victim import killed_after

VICTIM = """
import asyncio, json, sys
from pathlib import Path
from sealwire.contracts.sessions import RefreshRequest
from sealwire.kit.clock import SystemClock
from sealwire.testing.auth_room import AuthRoom, somebody

def say(**what):
    print(json.dumps(what), flush=True)

async def live(room, name):
    await room.register(name)
    while True:
        granted = await room.log_in(name)
        say(did="login", session=granted.session_id, token=granted.refresh_token)
        renewed = await room.auth.refresh(somebody(), RefreshRequest(refresh_token=granted.refresh_token))
        say(did="refresh", session=granted.session_id, token=renewed.refresh_token)
        await room.auth.logout(room.caller(renewed))
        say(did="logout", session=granted.session_id, token=renewed.refresh_token)

async def main():
    room = AuthRoom(Path(sys.argv[1]), clock=SystemClock())
    await room.open()
    await asyncio.gather(*(live(room, f"person{i}") for i in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [60, 131])
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, lines: int) -> None:
    said = await killed_after(VICTIM, tmp_path, lines)
    last = {entry["session"]: entry for entry in said}
    room = AuthRoom(tmp_path, clock=SystemClock())
    auth = await room.open()
    try:
        entries = (await auth.revocations(BOUNDARY, FeedQuery(limit=1_000))).items
        assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
        revoked = {entry.session_id for entry in entries}
        events = [event.kind for event in await room.service.events.read(0, 100_000)]
        assert events.count("auth.session-revoked") == len(entries), "change, feed and event are one transaction"
        for session_id, entry in last.items():
            state = await auth.session(BOUNDARY, SessionQuery(session_id=session_id))
            request = RefreshRequest(refresh_token=entry["token"])
            if entry["did"] == "logout":
                assert session_id in revoked
                assert not state.active, "an acknowledged revocation stays"
                with pytest.raises(RefreshInvalid):
                    await auth.refresh(somebody(), request)
            elif session_id not in revoked:
                assert (await auth.refresh(somebody(), request)).access_token, "an honest client goes on"
    finally:
        await room.close()
