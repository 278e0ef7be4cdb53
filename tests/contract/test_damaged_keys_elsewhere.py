"""What is stored of one tenant's keys is damaged: what follows all tenants at once goes on with the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from tests.contract.test_damaged_keys import Mend, changed, edit
from tests.contract.test_search import Files

from sealwire.contracts.logins import PasswordChange
from sealwire.testing.auth_room import PASSWORD, AuthRoom
from sealwire.testing.search_room import SearchRoom


def damage(folder: Path, tenant_id: str) -> Callable[[], None]:
    """Change what is stored of a tenant's master key; return what puts it back."""
    of = f"key_id = (SELECT key_id FROM keys WHERE tenant_id = '{tenant_id}' AND purpose = 'master')"
    change = changed("master", "versions", "wrapped", "randomblob(60)", of)
    mends: list[Mend] = []
    edit(folder, lambda conn: mends.append(change(conn)))
    return lambda: edit(folder, mends[0])


async def test_notices_of_others_are_written(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path)
    await room.open()
    people = [(await room.enter("ann"))[0], (await room.enter("ben", tenant="selftest-other"))[0]]
    await room.service.herald.tell()
    await room.hush()
    for caller in people:
        await room.auth.change_password(
            caller, PasswordChange(current_password=PASSWORD, new_password="lantern otter seven")
        )
    await room.close()
    damage(tmp_path, people[0].tenant_id)
    await room.open()
    told = [letter["To"] for letter in await room.letters() if "password was changed" in str(letter["Subject"])]
    assert told == ["ben@example.org"]
    await room.close()


async def test_search_starts_and_goes_on_with_the_others(tmp_path: Path) -> None:
    room = SearchRoom(tmp_path, media=Files())  # type: ignore[arg-type]  # the part it uses
    await room.open()
    ann, ben = await room.messages.enter("ann"), await room.messages.enter("ben", tenant="selftest-other")
    where, there = await room.messages.group(ann), await room.messages.group(ben)
    await room.messages.say(ann, where, "kingfisher one")
    await room.messages.say(ben, there, "kingfisher two")
    await room.caught_up()
    await room.close()
    mend = damage(tmp_path, ann.tenant_id)
    async with asyncio.timeout(120):
        for _ in range(2):
            await room.open()
            await room.messages.say(ben, there, "heron")
            await room.caught_up()
            assert await room.bodies(ben, "kingfisher") == ["kingfisher two"]
            await room.close()
        mend()
        await room.open()
        await room.caught_up()
        assert await room.bodies(ann, "kingfisher") == ["kingfisher one"], "its words are read again"
        await room.close()
