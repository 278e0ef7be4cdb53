"""kill -9 among resets, invitations and API keys: what is spent stays spent, what is ended ended, no letter is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sealwire.contracts.api_keys import ApiKeyQuery, ApiKeyRefused
from sealwire.contracts.credentials import InvitationInvalid, ResetConfirmation, ResetInvalid
from sealwire.contracts.users import Registration
from sealwire.kit.clock import SystemClock
from sealwire.testing.auth_room import BOUNDARY, PASSWORD, AuthRoom, somebody
from sealwire.testing.victim import killed_after

VICTIM = """
import asyncio, json, re, sys
from pathlib import Path
from sealwire.contracts.api_keys import NewApiKey, NewServiceAccount
from sealwire.contracts.users import Registration
from sealwire.contracts.credentials import NewInvitation, ResetConfirmation, ResetRequest
from sealwire.kit.clock import SystemClock
from sealwire.testing.auth_room import PASSWORD, AuthRoom, somebody

def say(**what):
    print(json.dumps(what), flush=True)

async def token_for(room, email):
    while True:
        for letter in await room.letters():
            found = re.search(r"(?:token|invitation)=(sw[pi]1[.][A-Za-z0-9_-]+)", letter.get_content())
            if letter["To"] == email and found[1] not in seen:
                seen.add(found[1])
                return found[1]
        await asyncio.sleep(0.002)

seen = set()

async def live(room, owner, worker):
    for n in range(10_000):
        email = f"p{worker}-{n}@example.org"
        await room.auth.invite(owner, NewInvitation(email=email))
        say(did="invited", to=email)
        token = await token_for(room, email)
        await room.auth.register(
            somebody(), Registration(email=email, password=PASSWORD, display_name="P", invitation=token))
        say(did="registered", token=token, email=email)
        await room.auth.reset_password(somebody(), ResetRequest(email=email))
        token = await token_for(room, email)
        await room.auth.confirm_reset(somebody(), ResetConfirmation(token=token, new_password="lantern otter seven"))
        say(did="reset", token=token, email=email)
        account = NewServiceAccount(display_name="R")
        made = await room.auth.add_api_key(owner, NewApiKey(name="k", scopes=["read"], service_account=account))
        say(did="made", key=made.key)
        await room.auth.end_api_key(owner, made.api_key.api_key_id)
        say(did="ended", key=made.key)

async def main():
    room = AuthRoom(Path(sys.argv[1]), clock=SystemClock())
    await room.open()
    owner, _ = await room.enter("boss")
    await asyncio.gather(*(live(room, owner, worker) for worker in range(3)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [23, 47])
async def test_what_was_spent_stays_spent(tmp_path: Path, lines: int) -> None:
    said = await killed_after(VICTIM, tmp_path, lines)
    room = AuthRoom(tmp_path, clock=SystemClock())
    auth = await room.open()
    try:
        ended = {entry["key"] for entry in said if entry["did"] == "ended"}
        written = {str(letter["To"]) for letter in await room.letters()}
        for entry in said:
            if entry["did"] == "invited":
                assert entry["to"] in written, "a letter is stored with what it is about"
            elif entry["did"] == "registered":
                form = Registration(
                    email=entry["email"], password=PASSWORD, display_name="P", invitation=entry["token"]
                )
                with pytest.raises(InvitationInvalid):
                    await auth.register(somebody(), form)
            elif entry["did"] == "reset":
                with pytest.raises(ResetInvalid):
                    await auth.confirm_reset(
                        somebody(), ResetConfirmation(token=entry["token"], new_password="another phrase here")
                    )
                name = entry["email"].partition("@")[0]
                assert (await room.log_in(name, password="lantern otter seven")).access_token
            elif entry["did"] == "ended" or entry["key"] in ended:
                with pytest.raises(ApiKeyRefused):
                    await auth.api_key(BOUNDARY, ApiKeyQuery(key=entry["key"]))
        assert not [file for file in room.outbox.glob("*.eml") if not re.search(rb"\r\n\r\n", file.read_bytes())]
    finally:
        await room.close()
