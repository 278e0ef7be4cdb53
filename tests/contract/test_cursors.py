"""Lists go on where a page ended, and a cursor that is none of theirs is refused instead of read as a place in them."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealwire.contracts import crypto, identity
from sealwire.kit.caller import service_caller
from sealwire.kit.codec import Page
from sealwire.kit.cursors import number_of, read_cursor, write_cursor
from sealwire.kit.ids import new_id
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Invalid
from sealwire.testing.auth_room import AuthRoom

SYSTEM = service_caller("gateway", "system")
FOREIGN = ("garbage", "0", new_id(), "%00", "äöü", "=", base64.urlsafe_b64encode(b"d:x").decode(), "Yzr/")
LISTS = [
    (table is crypto.OPERATIONS, operation)
    for table in (identity.OPERATIONS, crypto.OPERATIONS)
    for operation in table.values()
    if operation.takes is Page and operation.policy is not Policy.SERVICE
]


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path)
    await opened.open()
    yield opened
    await opened.close()


async def test_every_list_of_auth_and_crypto_refuses_what_is_no_cursor_of_it(room: AuthRoom) -> None:
    assert len(LISTS) >= 7
    owner, _ = await room.enter("owner")
    for of_crypto, operation in LISTS:
        read = getattr(room.crypto if of_crypto else room.auth, operation.name)
        by = SYSTEM if operation.needs is Permission.MANAGE_TENANTS else owner
        await read(by, Page(cursor=""))
        for cursor in FOREIGN:
            with pytest.raises(Invalid) as refused:
                await read(by, Page(cursor=cursor))
            assert refused.value.extra == {"path": "$.cursor"}


async def test_a_page_goes_on_where_the_one_before_ended(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    for _ in range(4):
        await room.log_in("owner")
    seen, cursor = [], None
    while True:
        page = await room.auth.sessions(owner, Page(limit=2, cursor=cursor))
        seen += [session.session_id for session in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == 5


def test_a_cursor_says_where_a_page_ended() -> None:
    for last in ("x", new_id(), "ä\n", "17"):
        assert read_cursor(write_cursor(last)) == last
    assert read_cursor(None) == ""
    assert number_of(write_cursor("17")) == 17
    for last in ("-1", "x", "1" * 17, "\u0661"):
        with pytest.raises(Invalid):
            number_of(write_cursor(last))
