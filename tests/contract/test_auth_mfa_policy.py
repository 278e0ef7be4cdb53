"""A tenant that asks for a second factor: whoever has none may enrol one, and do nothing else until then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pyotp
import pytest

from sealwire.boundary.config import BoundaryConfig
from sealwire.contracts.auth import OPERATIONS
from sealwire.contracts.logins import LoginResult, MfaAnswer, StepUp, TotpCode
from sealwire.contracts.sessions import RefreshRequest
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Page
from sealwire.kit.http import Edge
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Permission
from sealwire.kit.problem import EnrolmentRequired, Forbidden, Problem, StepUpRequired
from sealwire.services.auth.mfa_policy import MfaKept
from sealwire.testing.auth_room import CHEAP, AuthRoom, somebody
from sealwire.testing.boundary_room import BoundaryRoom, bearer, exchange_of
from sealwire.testing.wirings import WIRINGS

STRICT = msgspec.structs.replace(CHEAP, mfa_tenants=("selftest-strict",))


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path, wiring=request.param, config=STRICT)
    await opened.open()
    yield opened
    await opened.close()


def code(room: AuthRoom, secret: str) -> str:
    return pyotp.TOTP(secret).generate_otp(room.clock.now_us() // 30_000_000)


def is_bound(room: AuthRoom, granted: LoginResult) -> bool:
    return room.caller(granted).principal.scopes == (Permission.OWN_PROFILE,)


async def enrol(room: AuthRoom, caller: Caller) -> tuple[str, list[str]]:
    secret = (await room.auth.totp_enroll(caller)).secret
    codes = (await room.auth.totp_confirm(caller, TotpCode(code=code(room, secret)))).recovery_codes
    room.advance(60)
    return secret, codes


async def test_without_a_factor_one_may_enrol_and_nothing_else(room: AuthRoom) -> None:
    caller, granted = await room.enter("boss", tenant="selftest-strict")
    assert is_bound(room, granted)
    with pytest.raises(Forbidden):
        await room.auth.users(caller, Page())
    refreshed = await room.auth.refresh(somebody(), RefreshRequest(refresh_token=granted.refresh_token))
    assert is_bound(room, refreshed), "a refresh does not lift it"
    secret, _ = await enrol(room, caller)
    risen = await room.auth.step_up(caller, StepUp(method="totp", code=code(room, secret)))
    assert not is_bound(room, risen)
    assert (await room.auth.users(room.caller(risen), Page())).items


async def test_a_login_with_the_factor_is_whole(room: AuthRoom) -> None:
    caller, _ = await room.enter("boss", tenant="selftest-strict")
    secret, _ = await enrol(room, caller)
    asked = await room.log_in("boss", tenant="selftest-strict")
    granted = await room.auth.mfa_verify(
        somebody(), MfaAnswer(mfa_token=asked.mfa_token, method="totp", code=code(room, secret))
    )
    assert not is_bound(room, granted)
    with pytest.raises(MfaKept):
        await room.auth.totp_remove(room.caller(granted))


async def test_a_password_does_not_lift_it(room: AuthRoom) -> None:
    caller, _ = await room.enter("boss", tenant="selftest-strict")
    again = await room.auth.step_up(caller, StepUp(method="password", password="kettle walrus tin"))
    assert is_bound(room, again)


async def test_other_tenants_are_not_asked(room: AuthRoom) -> None:
    caller, granted = await room.enter("boss")
    assert room.caller(granted).principal.scopes is None
    assert (await room.auth.users(caller, Page())).items


async def test_a_star_asks_all(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path, config=msgspec.structs.replace(CHEAP, mfa_tenants=("*",)))
    await room.open()
    try:
        _, granted = await room.enter("boss")
        assert is_bound(room, granted)
    finally:
        await room.close()


async def test_methods_are_those_the_person_has(room: AuthRoom) -> None:
    caller, _ = await room.enter("anna")
    secret, codes = await enrol(room, caller)
    with pytest.raises(StepUpRequired) as wanted:
        await room.auth.step_up(caller, StepUp(method="password", password="kettle walrus tin"))
    assert wanted.value.extra["methods"] == ["totp", "recovery"]
    for used in codes:
        asked = await room.log_in("anna")
        assert asked.methods == ["totp", "recovery"]
        await room.auth.mfa_verify(somebody(), MfaAnswer(mfa_token=asked.mfa_token, method="recovery", code=used))
    asked = await room.log_in("anna")
    assert asked.methods == ["totp"]
    granted = await room.auth.mfa_verify(
        somebody(), MfaAnswer(mfa_token=asked.mfa_token, method="totp", code=code(room, secret))
    )
    assert granted.access_token


async def test_the_boundary_holds_a_session_to_it(tmp_path: Path) -> None:
    (tmp_path / "auth").mkdir()
    room = AuthRoom(tmp_path / "auth", config=STRICT)
    await room.open()
    before = BoundaryRoom(
        tmp_path, clock=room.clock, auth=room.auth, issuer=CHEAP.issuer, audience=CHEAP.audience,
        config=BoundaryConfig(self_test_every_s=0),
    )  # fmt: skip
    boundary = await before.open()
    try:
        _, granted = await room.enter("boss", tenant="selftest-strict")
        found = boundary.authenticator(exchange_of(bearer(granted.access_token)), Policy.CALLER)
        caller = found if isinstance(found, Caller) else await found
        edge = Edge(authenticate=boundary.authenticator)

        async def never(*_: Any) -> None: ...

        for name in ("me", "totp_enroll", "totp_confirm", "step_up", "logout"):
            edge.bind(OPERATIONS[name], never).check(caller)
        for name in ("users", "change_user"):
            with pytest.raises(EnrolmentRequired):
                edge.bind(OPERATIONS[name], never).check(caller)
        scope = {"type": "websocket", "headers": bearer(granted.access_token), "query_string": b"", "client": None}
        ended: list[Problem] = []
        with pytest.raises(Forbidden):
            await boundary.sockets.admit(boundary.sockets.read(scope), "", ended=ended.append)
    finally:
        await before.close()
        await room.close()
