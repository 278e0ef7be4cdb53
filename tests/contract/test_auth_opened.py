"""What auth tells of logins: each that let somebody in, in order, durably, and nothing personal; over every wiring."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.contracts.logins import BadCredentials, MfaAnswer, TotpCode
from sealwire.contracts.opened import OpenedQuery
from sealwire.contracts.revocations import FeedQuery
from sealwire.contracts.sessions import RefreshRequest
from sealwire.kit.codec import encode
from sealwire.kit.problem import Forbidden, Problem
from sealwire.services.auth.upkeep import EVENTS_KEPT_S
from sealwire.testing.auth_room import BOUNDARY, AuthRoom, somebody
from sealwire.testing.wirings import WIRINGS


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path, wiring=request.param)
    await opened.open()
    yield opened
    await opened.close()


async def sessions(room: AuthRoom) -> list[str]:
    return [login.session_id for login in await room.opened()]


async def test_each_way_in_is_told_of_and_nothing_else(room: AuthRoom) -> None:
    """A passkey and a provider: in the suites of those, which have what it takes."""
    caller, first = await room.enter("anna")
    assert await sessions(room) == [first.session_id]
    with pytest.raises(BadCredentials):
        await room.log_in("anna", password="not it at all 7")
    await room.auth.refresh(BOUNDARY, RefreshRequest(refresh_token=first.refresh_token))
    secret = (await room.auth.totp_enroll(caller)).secret
    codes = (await room.auth.totp_confirm(caller, TotpCode(code=room.app_code(secret)))).recovery_codes
    waits = await room.log_in("anna")
    assert await sessions(room) == [first.session_id], "who has proved the half is not in"
    by_app = await room.auth.mfa_verify(
        somebody(), MfaAnswer(mfa_token=waits.mfa_token, method="totp", code=room.app_code(secret))
    )
    waits = await room.log_in("anna")
    recovery = MfaAnswer(mfa_token=waits.mfa_token, method="recovery", code=codes[0])
    by_code = await room.auth.mfa_verify(somebody(), recovery)
    assert await sessions(room) == [first.session_id, by_app.session_id, by_code.session_id]
    before = await sessions(room)
    await room.auth.logout(room.caller(by_code))
    assert await sessions(room) == before


async def test_it_says_who_and_when_by_ids_alone_and_is_no_entry_of_the_revocations(room: AuthRoom) -> None:
    room.advance(5)
    caller, granted = await room.enter("anna")
    (login,) = await room.opened()
    assert (login.tenant_id, login.subject) == (caller.tenant_id, caller.user_id)
    assert (login.session_id, login.kind, login.at_us) == (granted.session_id, "login", room.clock.now_us())
    for personal in (b"anna", b"Anna", b"example.org", b"192.0.2.7", b"test/1.0"):
        assert personal not in encode(login)
    (record,) = [e for e in await room.service.events.read(0, 100) if e.kind == "auth.session-established"]
    assert login.change_id == (await room.service.audit_entries([record]))[0].audit_id
    feed = await room.auth.revocations(BOUNDARY, FeedQuery(after=0))
    assert (feed.items, feed.newest) == ([], 0)


async def test_a_reader_goes_on_where_it_was_also_after_a_restart_and_begins_at_the_end(room: AuthRoom) -> None:
    _, first = await room.enter("anna")
    end = await room.auth.opened(BOUNDARY, OpenedQuery())
    assert (end.items, end.upto) == ([], end.newest), "nobody is told of what was before"
    second = await room.log_in("anna")
    await room.close()
    await room.open()
    answer = await room.auth.opened(BOUNDARY, OpenedQuery(after=end.upto))
    assert [login.session_id for login in answer.items] == [second.session_id]
    assert (await room.auth.opened(BOUNDARY, OpenedQuery(after=answer.upto))).items == []
    found, after = [], 0
    while True:  # in the smallest steps: nothing is left out and nothing comes twice
        answer = await room.auth.opened(BOUNDARY, OpenedQuery(after=after, limit=1))
        found += [login.session_id for login in answer.items]
        assert answer.upto == after + 1
        after = answer.upto
        if after >= answer.newest:
            break
    assert found == [first.session_id, second.session_id]


async def test_who_read_another_copy_or_what_is_trimmed_away_goes_on_at_the_end(room: AuthRoom) -> None:
    await room.enter("anna")
    newest = (await room.auth.opened(BOUNDARY, OpenedQuery())).newest
    ahead = await room.auth.opened(BOUNDARY, OpenedQuery(after=newest + 100))
    assert (ahead.items, ahead.upto) == ([], newest), "the numbers of a copy that had come further"
    await room.storage.stores.positions.load("audit")
    await room.storage.db.write(
        lambda conn: conn.execute("UPDATE consumer_position SET position = ?", (newest,)).fetchall()
    )
    room.advance(EVENTS_KEPT_S + 1)
    assert await room.storage.stores.upkeep.trim(room.clock.now_us() - 1) > 0
    late = await room.service.opened(BOUNDARY, OpenedQuery(after=0))
    assert (late.items, late.upto, late.newest) == ([], newest, newest)


async def test_it_is_for_the_boundary_alone(room: AuthRoom) -> None:
    caller, _ = await room.enter("anna")
    with pytest.raises(Problem) as caught:
        await room.auth.opened(caller, OpenedQuery(after=0))
    assert room.wiring != "direct" or isinstance(caught.value, Forbidden)
    for wrong in ({"after": -2}, {"limit": 0}, {"limit": 1001}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, OpenedQuery)
