"""A recent proof, exactly: every way in, every factor enrolled elsewhere meanwhile, any age, any tenant."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pyotp
import pytest

from sealwire.clients.step_up import proofs_by
from sealwire.contracts.credentials import NewInvitation
from sealwire.contracts.logins import LoginResult, MfaAnswer, StepUp, TotpCode
from sealwire.contracts.passkeys import PasskeyLoginStart
from sealwire.kit.caller import STEP_UP_WINDOW_S, Caller
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import App, Edge
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Role
from sealwire.kit.problem import StepUpRequired
from sealwire.services.auth.routes import routes
from sealwire.testing.auth_room import CHEAP, PASSWORD, AuthRoom, somebody
from sealwire.testing.authenticator import SoftAuthenticator
from sealwire.testing.clock import ManualClock

STRICT = "selftest-strict"
ORIGIN = "https://sealwire.local"
CONFIG = msgspec.structs.replace(CHEAP, mfa_tenants=(STRICT,))
WAYS = ("password", "federated", "totp", "passkey")
ENROLLED = ("nothing", "pending", "totp", "passkey", "suspended", "removed")
FACTORS = {"totp", "passkey", "suspended"}


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path, config=CONFIG)
    await opened.open()
    yield opened
    await opened.close()


def next_code(room: AuthRoom, secret: str) -> str:
    """Return a code of a step of its own: each is good once."""
    assert isinstance(room.clock, ManualClock)
    room.clock.advance(30)
    return pyotp.TOTP(secret).generate_otp(room.clock.now_us() // 30_000_000)


async def enrol_app(room: AuthRoom, caller: Caller) -> str:
    secret = (await room.auth.totp_enroll(caller)).secret
    await room.auth.totp_confirm(caller, TotpCode(code=next_code(room, secret)))
    return secret


async def enrol_passkey(room: AuthRoom, caller: Caller) -> SoftAuthenticator:
    device = SoftAuthenticator(ORIGIN)
    await room.auth.passkey_register(caller, device.create(await room.auth.passkey_register_options(caller)))
    return device


async def come_in(room: AuthRoom, name: str, way: str, tenant: str | None) -> LoginResult:
    """Register a person and open the session that is looked at."""
    caller, granted = await room.enter(name, tenant=tenant)
    if way == "totp":
        secret = await enrol_app(room, caller)
        asked = await room.log_in(name, tenant=tenant)
        answer = MfaAnswer(mfa_token=asked.mfa_token, method="totp", code=next_code(room, secret))
        return await room.auth.mfa_verify(somebody(), answer)
    if way == "passkey":
        device = await enrol_passkey(room, caller)
        return await room.auth.passkey_login(
            somebody(), device.get(await room.auth.passkey_login_options(somebody(), PasskeyLoginStart()))
        )
    return granted


async def enrol_elsewhere(room: AuthRoom, elsewhere: Caller, what: str) -> None:
    """Do in another session what the session that is looked at knows nothing of."""
    if what == "pending":
        await room.auth.totp_enroll(elsewhere)
    elif what == "totp":
        await enrol_app(room, elsewhere)
    elif what == "removed":
        await enrol_app(room, elsewhere)
        await room.auth.totp_remove(elsewhere)
    elif what in ("passkey", "suspended"):
        await enrol_passkey(room, elsewhere)
        if what == "suspended":
            found = await room.storage.stores.passkeys.of_user(elsewhere.user_id)
            for _ in range(2):  # the same counter twice
                await room.storage.stores.passkeys.use(
                    found[-1].passkey_id, sign_count=7, now_us=room.clock.now_us(), suspended_events=[]
                )


async def ask(room: AuthRoom, caller: Caller, verb: str, path: str, body: object = None) -> tuple[int, Any]:
    """Ask at the edge, as the gateway is built."""

    def who(exchange: Exchange, policy: Policy) -> Caller:
        return caller

    app = App(routes(room.auth, Edge(authenticate=who, proofs=proofs_by(room.auth, service="gateway"))))
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": json.dumps(body or {}).encode(), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": verb, "path": path, "query_string": b"", "scheme": "http", "client": ("127.0.0.1", 1),
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(m.get("body", b"") for m in sent[1:]) or b"{}")


def aged(caller: Caller, **changes: Any) -> Caller:
    principal = msgspec.structs.replace(caller.principal, **changes)
    return msgspec.structs.replace(caller, principal=principal)


@pytest.mark.parametrize(("way", "tenant"), list(product(WAYS, ("free", "strict"))))
async def test_what_counts_as_a_recent_proof(room: AuthRoom, way: str, tenant: str) -> None:
    where = STRICT if tenant == "strict" else None
    for number, (enrolled, age) in enumerate(product(ENROLLED, ("recent", "old"))):
        name = f"anna{number}"
        looked_at = room.caller(await come_in(room, name, way, where))
        with_factor = way in ("totp", "passkey")
        if enrolled == "removed" and (tenant == "strict" or with_factor):
            continue  # this is about a factor that came and went, and here one stays
        # In a session of its own; who has a factor already adds another one, which changes nothing.
        elsewhere = looked_at if with_factor else room.caller(await room.log_in(name, tenant=where))
        await enrol_elsewhere(room, elsewhere, enrolled)
        changes: dict[str, Any] = {"role": Role.OWNER, **({"amr": ("fed",)} if way == "federated" else {})}
        if age == "old":
            changes["auth_time_s"] = looked_at.principal.auth_time_s - STEP_UP_WINDOW_S - 3_600
        caller = aged(looked_at, **changes)

        has_factor = with_factor or enrolled in FACTORS
        counts = age == "recent" and (with_factor or not has_factor)
        told = f"{enrolled}, {age}"
        assert (await room.auth.me(caller)).mfa is has_factor, told
        status, answer = await ask(room, caller, "POST", "/auth/mfa/totp/enroll")
        assert (status, answer.get("code")) == ((200, None) if counts else (403, "step_up_required")), told
        assert counts or ("password" in answer["methods"]) is not has_factor, told

        status, answer = await ask(room, caller, "POST", "/auth/api-keys", {"name": "robot", "scopes": []})
        if tenant == "strict" and not with_factor:
            assert (status, answer["code"]) == (403, "mfa_enrolment_required"), told
        elif counts:
            assert status != 403, told
        else:
            assert (status, answer["code"]) == (403, "step_up_required"), told


async def test_a_step_up_with_the_factor_counts(room: AuthRoom) -> None:
    _, granted = await room.enter("anna")
    secret = await enrol_app(room, room.caller(await room.log_in("anna")))
    caller = room.caller(granted)
    assert (await ask(room, caller, "POST", "/auth/mfa/totp/enroll"))[0] == 403
    with pytest.raises(StepUpRequired):
        await room.auth.step_up(caller, StepUp(method="password", password=PASSWORD))
    proved = await room.auth.step_up(caller, StepUp(method="totp", code=next_code(room, secret)))
    assert (await ask(room, room.caller(proved), "POST", "/auth/mfa/totp/enroll"))[0] == 200


async def test_what_a_removed_factor_proved_is_not_claimed_with_a_password(room: AuthRoom) -> None:
    granted = await come_in(room, "anna", "totp", None)
    caller = room.caller(granted)
    await room.auth.totp_remove(caller)
    proved = room.caller(await room.auth.step_up(caller, StepUp(method="password", password=PASSWORD)))
    assert proved.principal.amr == ("pwd",)
    await enrol_app(room, room.caller(await room.log_in("anna")))
    status, answer = await ask(room, proved, "POST", "/auth/mfa/totp/enroll")
    assert (status, answer["methods"]) == (403, ["totp", "recovery"])


async def test_where_the_service_asks_itself_it_asks_the_same(room: AuthRoom) -> None:
    _, granted = await room.enter("anna")
    caller = room.caller(granted)
    assert await room.auth.invite(caller, NewInvitation(email="a@example.org", role="admin"))
    await enrol_app(room, room.caller(await room.log_in("anna")))
    with pytest.raises(StepUpRequired) as wanted:
        await room.auth.invite(caller, NewInvitation(email="b@example.org", role="admin"))
    assert wanted.value.extra["methods"] == ["totp", "recovery"]


async def test_old_tokens_of_a_session_prove_what_they_say(room: AuthRoom) -> None:
    """A token from before a step-up goes on to say what was proved then."""
    _, granted = await room.enter("anna")
    secret = await enrol_app(room, room.caller(await room.log_in("anna")))
    before = room.caller(granted)
    await room.auth.step_up(before, StepUp(method="totp", code=next_code(room, secret)))
    assert (await ask(room, before, "POST", "/auth/mfa/totp/enroll"))[0] == 403
