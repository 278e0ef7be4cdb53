"""The promises of passkeys over every wiring, with an authenticator in software that also lies as it is told."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pyotp
import pytest

from sealwire.contracts.logins import (
    BadCredentials,
    LoginResult,
    MfaAnswer,
    MfaFailed,
    StepUp,
    TooManyAttempts,
    TotpCode,
)
from sealwire.contracts.passkeys import (
    FactorsQuery,
    NewPasskey,
    Passkey,
    PasskeyAdded,
    PasskeyChange,
    PasskeyInvalid,
    PasskeyLogin,
    PasskeyLoginStart,
    PasskeyNotFound,
    PasskeyRefused,
    PasskeysUnusable,
    PasskeyTaken,
)
from sealwire.contracts.users import UserChange, UserNotFound
from sealwire.contracts.webauthn import Assertion, RequestOptions
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.problem import Forbidden, Invalid, QuotaExceeded, StepUpRequired
from sealwire.services.auth.external_records import IdentityRecord
from sealwire.services.auth.mfa_policy import MfaKept
from sealwire.services.auth.one_time import token_hash
from sealwire.services.auth.passkey_challenges import CHALLENGE_BYTES, KEPT_S
from sealwire.services.auth.passkey_challenges import Asked as PasskeyAsked
from sealwire.services.auth.passkey_store import Purpose
from sealwire.testing.auth_room import CHEAP, AuthRoom, somebody
from sealwire.testing.authenticator import EDDSA, ES256, RS256, Bent, SoftAuthenticator
from sealwire.testing.clock import ManualClock
from sealwire.testing.wirings import WIRINGS

ORIGIN = "https://sealwire.local"
ANYBODY = PasskeyLoginStart()


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path, wiring=request.param)
    await opened.open()
    yield opened
    await opened.close()


async def add(room: AuthRoom, caller: Caller, device: SoftAuthenticator, name: str = "Key") -> PasskeyAdded:
    return await room.auth.passkey_register(
        caller, device.create(await room.auth.passkey_register_options(caller), name=name)
    )


async def owner_of(
    room: AuthRoom, name: str = "anna", *, tenant: str | None = None, **device: Any
) -> tuple[Caller, SoftAuthenticator, PasskeyAdded]:
    """Register a person and give them a passkey."""
    caller, _ = await room.enter(name, tenant=tenant)
    made = SoftAuthenticator(ORIGIN, **device)
    return caller, made, await add(room, caller, made)


async def asked(room: AuthRoom, start: PasskeyLoginStart = ANYBODY) -> RequestOptions:
    return await room.auth.passkey_login_options(somebody(), start)


async def log_in(room: AuthRoom, device: SoftAuthenticator, bent: Bent | None = None) -> LoginResult:
    return await room.auth.passkey_login(somebody(), device.get(await asked(room), bent or Bent()))


async def entries(room: AuthRoom, action: str) -> list[Any]:
    events = [event for event in await room.service.events.read(0, 10_000) if event.kind == action]
    return await room.service.audit_entries(events)


def as_text(login: PasskeyLogin) -> str:
    return msgspec.json.encode(login).decode()


# ---- making one


async def test_options_say_what_is_asked_of_an_authenticator(room: AuthRoom) -> None:
    caller, _ = await room.enter("anna")
    options = msgspec.to_builtins(await room.auth.passkey_register_options(caller))
    assert options["rp"] == {"id": "sealwire.local", "name": "Sealwire"}
    assert options["user"]["name"] == "anna@example.org"
    handle = base64.urlsafe_b64decode(options["user"]["id"] + "==").decode()
    assert handle == caller.user_id, "opaque: it says nothing of the person"
    assert len(base64.urlsafe_b64decode(options["challenge"] + "==")) == CHALLENGE_BYTES
    assert [p["alg"] for p in options["pubKeyCredParams"]] == [EDDSA, ES256, RS256]
    assert options["authenticatorSelection"] == {
        "residentKey": "required",
        "requireResidentKey": True,
        "userVerification": "required",
    }
    assert options["attestation"] == "none"
    assert options["excludeCredentials"] == []
    again = await room.auth.passkey_register_options(caller)
    assert again.challenge != options["challenge"]


@pytest.mark.parametrize("alg", [ES256, EDDSA, RS256])
async def test_a_passkey_logs_in_without_an_address(room: AuthRoom, alg: int) -> None:
    caller, device, added = await owner_of(room, algs=(alg,))
    assert added.passkey.status == "active"
    assert added.passkey.last_used_at is None
    granted = await log_in(room, device)
    principal = room.caller(granted).principal
    assert principal.subject == caller.user_id
    assert principal.amr == ("hwk", "user", "mfa")
    assert granted.refresh_token
    assert await room.is_live(granted)
    (kept,) = (await room.auth.passkeys(caller)).items
    assert kept.last_used_at is not None
    assert (kept.passkey_id, kept.name, kept.backed_up) == (added.passkey.passkey_id, "Key", False)


async def test_a_passkey_that_is_synchronised_says_so(room: AuthRoom) -> None:
    _, device, added = await owner_of(room, backup_eligible=True, counts=False)
    assert added.passkey.backed_up
    for _ in range(2):  # it keeps no counter, so none goes back
        assert room.caller(await log_in(room, device)).principal.amr == ("swk", "user", "mfa")


async def test_the_first_passkey_brings_recovery_codes_and_ends_login_by_password_alone(room: AuthRoom) -> None:
    caller, _, added = await owner_of(room)
    assert len(set(added.recovery_codes)) == 10
    assert (await room.auth.me(caller)).mfa
    wanted = await room.log_in("anna")
    assert wanted.mfa_required
    assert wanted.methods == ["passkey", "recovery"]
    recovered = MfaAnswer(mfa_token=wanted.mfa_token, method="recovery", code=added.recovery_codes[0])
    assert (await room.auth.mfa_verify(somebody(), recovered)).access_token
    assert (await add(room, caller, SoftAuthenticator(ORIGIN))).recovery_codes == [], "there are nine left"


async def test_an_authenticator_is_told_which_passkeys_there_are(room: AuthRoom) -> None:
    caller, device, _ = await owner_of(room)
    options = await room.auth.passkey_register_options(caller)
    assert [d.transports for d in options.exclude_credentials] == [["internal"]]
    with pytest.raises(ValueError, match="excluded"):
        device.create(options)


async def test_one_credential_is_registered_once_whoever_asks(room: AuthRoom) -> None:
    _, device, _ = await owner_of(room)
    ben, _ = await room.enter("ben")
    same = Bent(credential_id=device.held[0].credential_id)
    with pytest.raises(PasskeyTaken):
        await room.auth.passkey_register(
            ben, SoftAuthenticator(ORIGIN).create(await room.auth.passkey_register_options(ben), same)
        )
    assert not (await room.auth.me(ben)).mfa


async def test_there_are_few_per_person_also_when_asked_for_at_once(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path, config=msgspec.structs.replace(CHEAP, passkeys_per_user=2))
    await room.open()
    try:
        caller, _ = await room.enter("anna")
        answers = [SoftAuthenticator(ORIGIN).create(await room.auth.passkey_register_options(caller)) for _ in range(4)]
        made = await asyncio.gather(
            *(room.auth.passkey_register(caller, answer) for answer in answers), return_exceptions=True
        )
        assert sum(isinstance(one, PasskeyAdded) for one in made) == 2
        assert sum(isinstance(one, QuotaExceeded) for one in made) == 2
        assert len((await room.auth.passkeys(caller)).items) == 2
        with pytest.raises(QuotaExceeded):
            await room.auth.passkey_register_options(caller)
    finally:
        await room.close()


BENT_REGISTRATIONS: dict[str, Bent] = {
    "wrong origin": Bent(origin="https://sealwire.local.evil.example"),
    "http instead of https": Bent(origin="http://sealwire.local"),
    "wrong relying party": Bent(rp_id="evil.example"),
    "a login's answer": Bent(kind="webauthn.get"),
    "in a frame of another site": Bent(cross_origin=True),
    "below another site": Bent(top_origin="https://evil.example"),
    "nobody present": Bent(present=False),
    "nobody verified": Bent(verified=False),
    "a challenge of its own": Bent(challenge=base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")),
    "cut short": Bent(tampered="authenticator_data"),
}


@pytest.mark.parametrize("how", BENT_REGISTRATIONS)
async def test_a_bent_registration_is_refused(room: AuthRoom, how: str) -> None:
    caller, _ = await room.enter("anna")
    answer = SoftAuthenticator(ORIGIN).create(await room.auth.passkey_register_options(caller), BENT_REGISTRATIONS[how])
    with pytest.raises(PasskeyInvalid):
        await room.auth.passkey_register(caller, answer)
    assert (await room.auth.passkeys(caller)).items == []
    assert not (await room.log_in("anna")).mfa_required


async def test_a_registration_answers_once_in_time_and_in_its_session(room: AuthRoom) -> None:
    caller, _ = await room.enter("anna")
    elsewhere = room.caller(await room.log_in("anna"))
    ben, _ = await room.enter("ben")
    for other in (ben, elsewhere):
        answer = SoftAuthenticator(ORIGIN).create(await room.auth.passkey_register_options(caller))
        with pytest.raises(PasskeyInvalid):
            await room.auth.passkey_register(other, answer)
    late = SoftAuthenticator(ORIGIN).create(await room.auth.passkey_register_options(caller))
    room.advance(301)
    with pytest.raises(PasskeyInvalid):
        await room.auth.passkey_register(caller, late)
    answer = SoftAuthenticator(ORIGIN).create(await room.auth.passkey_register_options(caller))
    made = await asyncio.gather(*(room.auth.passkey_register(caller, answer) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(one, PasskeyAdded) for one in made) == 1
    assert sum(isinstance(one, PasskeyInvalid) for one in made) == 4


@pytest.mark.parametrize(
    "bend",
    [
        lambda d: d["response"].update(attestationObject="AAAA"),
        lambda d: d["response"].update(attestationObject=_b64(b"\x9f" * 4000)),
        lambda d: d["response"].update(attestationObject=_b64(b"\xa3cfmtcx")),
        lambda d: d["response"].update(clientDataJSON=_b64(b"[]")),
        lambda d: d["response"].update(clientDataJSON=_b64(b"\xff\xfe")),
        lambda d: d["response"].update(clientDataJSON=_b64(b"[" * 9000)),
        lambda d: d.update(id="AAAA"),
        lambda d: d.update(rawId="AAAAA"),
    ],
)
async def test_nonsense_for_a_registration_is_refused_and_breaks_nothing(
    room: AuthRoom, bend: Callable[[Any], None]
) -> None:
    caller, _ = await room.enter("anna")
    answer = SoftAuthenticator(ORIGIN).create(await room.auth.passkey_register_options(caller))
    document = json.loads(msgspec.json.encode(answer))
    bend(document)
    with pytest.raises(PasskeyInvalid):
        await room.auth.passkey_register(caller, msgspec.convert(document, NewPasskey))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def test_attestations_that_nobody_asked_for_are_refused(room: AuthRoom) -> None:
    import cbor2

    caller, _ = await room.enter("anna")
    answer = SoftAuthenticator(ORIGIN).create(await room.auth.passkey_register_options(caller))
    document = json.loads(msgspec.json.encode(answer))
    statement = cbor2.loads(base64.urlsafe_b64decode(document["response"]["attestationObject"] + "=="))
    document["response"]["attestationObject"] = _b64(cbor2.dumps({**statement, "fmt": "android-safetynet"}))
    with pytest.raises(PasskeyInvalid):
        await room.auth.passkey_register(caller, msgspec.convert(document, NewPasskey))


# ---- logging in

BENT_LOGINS: dict[str, Bent] = {
    "wrong origin": Bent(origin="https://sealwire.example"),
    "wrong relying party": Bent(rp_id="evil.example"),
    "a registration's answer": Bent(kind="webauthn.create"),
    "in a frame of another site": Bent(cross_origin=True),
    "nobody present": Bent(present=False),
    "nobody verified": Bent(verified=False),
    "tampered signature": Bent(tampered="signature"),
    "tampered authenticator data": Bent(tampered="authenticator_data"),
    "tampered client data": Bent(tampered="client_data"),
    "a challenge of its own": Bent(challenge=base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")),
    "an unknown credential": Bent(credential_id=bytes(32)),
    "somebody else's handle": Bent(user_handle=_b64(b"0194-somebody-else")),
    "no handle": Bent(user_handle=""),
    "suddenly synchronised": Bent(backup_eligible=True),
}


@pytest.mark.parametrize("how", BENT_LOGINS)
async def test_a_bent_login_is_refused_with_one_answer(room: AuthRoom, how: str) -> None:
    _, device, _ = await owner_of(room)
    with pytest.raises(PasskeyRefused) as caught:
        await log_in(room, device, BENT_LOGINS[how])
    assert caught.value.document()["detail"] == PasskeyRefused.title
    assert "auth.login.failed" in await room.events()
    assert (await log_in(room, device)).access_token, "and nothing is lost for its owner"


async def test_a_login_answers_once_and_in_time(room: AuthRoom) -> None:
    _, device, _ = await owner_of(room)
    answer = device.get(await asked(room))
    granted = await room.auth.passkey_login(somebody(), answer)
    assert granted.access_token
    with pytest.raises(PasskeyRefused):
        await room.auth.passkey_login(somebody(), answer)
    assert [login.session_id for login in await room.opened()][1:] == [granted.session_id], "told of, and once"
    late = device.get(await asked(room))
    room.advance(301)
    with pytest.raises(PasskeyRefused):
        await room.auth.passkey_login(somebody(), late)


async def test_one_challenge_answered_many_times_at_once_lets_one_in(room: AuthRoom) -> None:
    _, device, _ = await owner_of(room, counts=False)
    options = await asked(room)
    answers = await asyncio.gather(
        *(room.auth.passkey_login(somebody(), device.get(options)) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(a, LoginResult) for a in answers) == 1
    assert sum(isinstance(a, PasskeyRefused) for a in answers) == 7


async def test_a_challenge_is_for_one_purpose(room: AuthRoom) -> None:
    caller, device, _ = await owner_of(room)
    wanted = await room.log_in("anna")
    of_mfa = await asked(room, PasskeyLoginStart(mfa_token=wanted.mfa_token))
    of_step_up = await room.auth.passkey_step_up_options(caller)
    for options in (of_mfa, of_step_up):
        with pytest.raises(PasskeyRefused):
            await room.auth.passkey_login(somebody(), device.get(options))
    of_login = await asked(room)
    with pytest.raises(MfaFailed):
        await room.auth.step_up(caller, StepUp(method="passkey", code=as_text(device.get(of_login))))
    register = await room.auth.passkey_register_options(caller)
    with pytest.raises(PasskeyRefused):
        await log_in(room, device, Bent(challenge=register.challenge))


async def test_a_challenge_for_an_address_is_for_that_person(room: AuthRoom) -> None:
    anna, device, _ = await owner_of(room)
    _, bens, _ = await owner_of(room, "ben")
    for_anna = PasskeyLoginStart(email="Anna@Example.org")
    with pytest.raises(PasskeyRefused):
        await room.auth.passkey_login(somebody(), bens.get(await asked(room, for_anna)))
    granted = await room.auth.passkey_login(somebody(), device.get(await asked(room, for_anna)))
    assert room.caller(granted).user_id == anna.user_id
    handleless = device.get(await asked(room, for_anna), Bent(user_handle=""))
    assert (await room.auth.passkey_login(somebody(), handleless)).access_token, "who it is, is known already"


async def test_nothing_tells_whether_an_address_is_known_or_has_a_passkey(room: AuthRoom) -> None:
    _, device, _ = await owner_of(room)
    await room.register("ben")
    await room.hush()
    seen = []
    for email, tenant in (("anna", None), ("ben", None), ("nobody", None), ("anna", "no-such-tenant")):
        start = PasskeyLoginStart(email=f"{email}@example.org", tenant=tenant)
        writes, events = room.storage.db.stats.rows, len(await room.events())
        options = await asked(room, start)
        work = (room.storage.db.stats.rows - writes, len(await room.events()) - events)
        seen.append((work, {**msgspec.to_builtins(options), "challenge": len(options.challenge)}))
        if email != "anna" or tenant:
            with pytest.raises(PasskeyRefused):
                await room.auth.passkey_login(somebody(), device.get(options))
    assert seen[0][0] == (0, 0), "who asks writes nothing"
    assert seen == [seen[0]] * 4
    assert seen[0][1]["allowCredentials"] == []


async def test_a_tenant_that_is_named_is_meant(room: AuthRoom) -> None:
    _, device, _ = await owner_of(room, "eve", tenant="selftest-other")
    with pytest.raises(PasskeyRefused):
        await room.auth.passkey_login(somebody(), device.get(await asked(room, PasskeyLoginStart(tenant="default"))))
    there = PasskeyLoginStart(tenant="selftest-other")
    assert (await room.auth.passkey_login(somebody(), device.get(await asked(room, there)))).access_token
    assert (await room.auth.passkey_login(somebody(), device.get(await asked(room)))).access_token


async def test_a_disabled_person_and_a_removed_passkey_do_not_log_in(room: AuthRoom) -> None:
    owner, _ = await room.enter("owner")
    caller, device, added = await owner_of(room)
    answer = device.get(await asked(room))
    await room.auth.change_user(owner, caller.user_id, UserChange(status="disabled"))
    with pytest.raises(PasskeyRefused):
        await room.auth.passkey_login(somebody(), answer)
    await room.auth.change_user(owner, caller.user_id, UserChange(status="active"))
    granted = await log_in(room, device)
    answer = device.get(await asked(room))
    await room.auth.remove_passkey(room.caller(granted), added.passkey.passkey_id)
    with pytest.raises(PasskeyRefused):
        await room.auth.passkey_login(somebody(), answer)


async def test_a_counter_that_goes_back_suspends_the_passkey(room: AuthRoom) -> None:
    caller, device, added = await owner_of(room)
    assert (await log_in(room, device, Bent(sign_count=40))).access_token
    with pytest.raises(PasskeyRefused):
        await log_in(room, device, Bent(sign_count=40))
    (kept,) = (await room.auth.passkeys(caller)).items
    assert kept.status == "suspended"
    with pytest.raises(PasskeyRefused):
        await log_in(room, device, Bent(sign_count=4_000))
    (entry,) = await entries(room, "auth.passkey.suspended")
    assert (entry.outcome, entry.resource_id, entry.subject_id) == (
        "denied", added.passkey.passkey_id, caller.user_id
    )  # fmt: skip
    wanted = await room.log_in("anna")
    assert wanted.mfa_required, "what protected the account goes on to"
    assert wanted.methods == ["recovery"]
    with pytest.raises(MfaFailed):
        await asked(room, PasskeyLoginStart(mfa_token=wanted.mfa_token))


async def test_a_counter_counts_only_under_a_signature(room: AuthRoom) -> None:
    caller, device, _ = await owner_of(room)
    await log_in(room, device, Bent(sign_count=40))
    with pytest.raises(PasskeyRefused):
        await log_in(room, device, Bent(sign_count=3, tampered="signature"))
    assert (await room.auth.passkeys(caller)).items[0].status == "active"
    with pytest.raises(PasskeyRefused):
        await log_in(room, device, Bent(sign_count=0))
    assert (await room.auth.passkeys(caller)).items[0].status == "suspended", "0 after 40 is back, too"


# ---- as a second factor


@pytest.mark.parametrize("as_json", [True, False])
async def test_a_passkey_finishes_a_login_by_password(room: AuthRoom, as_json: bool) -> None:
    _, device, _ = await owner_of(room)
    wanted = await room.log_in("anna")
    options = await asked(room, PasskeyLoginStart(mfa_token=wanted.mfa_token))
    assert len(options.allow_credentials) == 1
    login = device.get(options)
    code = as_text(login) if as_json else msgspec.convert(msgspec.to_builtins(login), Assertion)
    answer = MfaAnswer(mfa_token=wanted.mfa_token, method="passkey", code=code)
    granted = await room.auth.mfa_verify(somebody(), answer)
    assert room.caller(granted).principal.amr == ("pwd", "hwk", "user", "mfa")
    with pytest.raises(MfaFailed):
        await room.auth.mfa_verify(somebody(), answer)


async def test_an_answer_belongs_to_its_login(room: AuthRoom) -> None:
    _, device, _ = await owner_of(room)
    _, bens, _ = await owner_of(room, "ben")
    first, second = await room.log_in("anna"), await room.log_in("anna")
    answer = device.get(await asked(room, PasskeyLoginStart(mfa_token=first.mfa_token)))
    with pytest.raises(MfaFailed):
        await room.auth.mfa_verify(
            somebody(), MfaAnswer(mfa_token=second.mfa_token, method="passkey", code=as_text(answer))
        )
    theirs = bens.get(await asked(room, PasskeyLoginStart(mfa_token=second.mfa_token)), held=bens.held[0])
    with pytest.raises(MfaFailed):
        await room.auth.mfa_verify(
            somebody(), MfaAnswer(mfa_token=second.mfa_token, method="passkey", code=as_text(theirs))
        )


async def test_a_passkey_of_somebody_else_is_never_a_proof(room: AuthRoom) -> None:
    """Challenges are bound to a person; if one were not, who answers it would still have to be the one it is about."""
    anna, device, _ = await owner_of(room)
    ben, bens, _ = await owner_of(room, "ben")
    wanted = await room.log_in("anna")

    def answer(who: Caller, held: SoftAuthenticator, options: RequestOptions, purpose: Purpose, bound_to: str) -> str:
        challenge = room.service._case.challenges.make(
            PasskeyAsked(purpose=purpose, tenant_id=who.tenant_id, user_id=who.user_id, bound_to=bound_to)
        )
        return as_text(held.get(options, Bent(challenge=_b64(challenge)), held=held.held[0]))

    step_up = await room.auth.passkey_step_up_options(anna)
    second = await asked(room, PasskeyLoginStart(mfa_token=wanted.mfa_token))
    token, session = token_hash(wanted.mfa_token or "").hex(), anna.principal.session_id
    with pytest.raises(MfaFailed):
        await room.auth.step_up(
            anna, StepUp(method="passkey", code=answer(ben, bens, step_up, Purpose.STEP_UP, session))
        )
    text = answer(ben, bens, second, Purpose.MFA, token)
    with pytest.raises(MfaFailed):
        await room.auth.mfa_verify(somebody(), MfaAnswer(mfa_token=wanted.mfa_token, method="passkey", code=text))
    own = answer(anna, device, step_up, Purpose.STEP_UP, session)
    assert (await room.auth.step_up(anna, StepUp(method="passkey", code=own))).access_token
    text = answer(anna, device, second, Purpose.MFA, token)
    granted = await room.auth.mfa_verify(somebody(), MfaAnswer(mfa_token=wanted.mfa_token, method="passkey", code=text))
    assert room.caller(granted).user_id == anna.user_id


async def test_texts_that_are_no_assertion_count_as_failures(room: AuthRoom) -> None:
    await owner_of(room)
    wanted = await room.log_in("anna")
    for text in ("123456", "{}{}{}", "[" * 5000, '{"id": 1}'):
        with pytest.raises(MfaFailed):
            await room.auth.mfa_verify(somebody(), MfaAnswer(mfa_token=wanted.mfa_token, method="passkey", code=text))
    for _ in range(2):
        with pytest.raises((MfaFailed, TooManyAttempts)):
            await room.auth.mfa_verify(
                somebody(), MfaAnswer(mfa_token=wanted.mfa_token, method="passkey", code="123456")
            )
    with pytest.raises(MfaFailed):
        await asked(room, PasskeyLoginStart(mfa_token=wanted.mfa_token))


async def test_options_for_a_login_need_one_that_waits(room: AuthRoom) -> None:
    _, device, _ = await owner_of(room)
    with pytest.raises(MfaFailed):
        await asked(room, PasskeyLoginStart(mfa_token="swm1.nonsense"))
    wanted = await room.log_in("anna")
    with pytest.raises(Invalid):
        await asked(room, PasskeyLoginStart(mfa_token=wanted.mfa_token, email="anna@example.org"))
    room.advance(301)
    with pytest.raises(MfaFailed):
        await asked(room, PasskeyLoginStart(mfa_token=wanted.mfa_token))
    assert device.held


# ---- stepping up


async def test_a_passkey_steps_up_in_its_session(room: AuthRoom) -> None:
    caller, device, _ = await owner_of(room)
    elsewhere = room.caller(await log_in(room, device))
    room.advance(3_000)
    answer = device.get(await room.auth.passkey_step_up_options(caller))
    with pytest.raises(MfaFailed):
        await room.auth.step_up(elsewhere, StepUp(method="passkey", code=as_text(answer)))
    answer = device.get(await room.auth.passkey_step_up_options(caller))
    stepped = await room.auth.step_up(caller, StepUp(method="passkey", code=as_text(answer)))
    fresh = room.caller(stepped).principal
    assert fresh.auth_time_s == caller.principal.auth_time_s + 3_000
    assert fresh.amr == ("pwd", "hwk", "user", "mfa")
    with pytest.raises(MfaFailed):
        await room.auth.step_up(caller, StepUp(method="passkey", code=as_text(answer)))
    with pytest.raises(StepUpRequired) as caught:
        await room.auth.step_up(caller, StepUp(method="password", password="kettle walrus tin"))
    assert caught.value.extra["methods"] == ["passkey", "recovery"]


async def test_who_has_no_passkey_hears_what_would_do(room: AuthRoom) -> None:
    caller, _ = await room.enter("anna")
    with pytest.raises(StepUpRequired) as caught:
        await room.auth.passkey_step_up_options(caller)
    assert caught.value.extra["methods"] == ["password"]


async def test_methods_are_exactly_what_the_person_can_do_now(room: AuthRoom) -> None:
    caller, _ = await room.enter("anna")
    asks = service_caller("gateway", "default")

    async def methods() -> list[str]:
        return (await room.auth.factors(asks, FactorsQuery(user_id=caller.user_id))).methods

    assert await methods() == ["password"]
    secret = (await room.auth.totp_enroll(caller)).secret
    assert await methods() == ["password"], "not before it is confirmed"
    code = pyotp.TOTP(secret).generate_otp(room.clock.now_us() // 30_000_000)
    await room.auth.totp_confirm(caller, TotpCode(code=code))
    assert await methods() == ["totp", "recovery"]
    device = SoftAuthenticator(ORIGIN)
    added = await add(room, caller, device)
    assert await methods() == ["passkey", "totp", "recovery"]
    await room.auth.totp_remove(caller)
    assert await methods() == ["passkey", "recovery"], "recovery codes stand in for whatever is left"
    await log_in(room, device, Bent(sign_count=9))
    with pytest.raises(PasskeyRefused):
        await log_in(room, device, Bent(sign_count=9))
    assert await methods() == ["recovery"]
    await room.auth.remove_passkey(caller, added.passkey.passkey_id)
    assert await methods() == ["password"]
    assert not (await room.log_in("anna")).mfa_required
    with pytest.raises(Forbidden):
        await room.auth.factors(caller, FactorsQuery(user_id=caller.user_id))
    for stranger in (FactorsQuery(user_id="nobody"), FactorsQuery(user_id=caller.user_id)):
        with pytest.raises(UserNotFound):
            await room.auth.factors(service_caller("gateway", "elsewhere"), stranger)


async def test_who_came_through_a_provider_has_no_password_to_prove(room: AuthRoom) -> None:
    tenant = await room.storage.stores.tenants.find("default")
    assert tenant is not None
    identity = IdentityRecord(
        identity_id="i1", tenant_id="default", user_id="", provider="p", issuer="https://elsewhere.example",
        subject_index=b"s", created_us=room.clock.now_us(),
    )  # fmt: skip
    made = await room.service._users.add_external(somebody(), tenant, "eve@example.org", "Eve", identity)
    query = FactorsQuery(user_id=made.user_id)
    assert (await room.auth.factors(service_caller("gateway", "default"), query)).methods == []
    with pytest.raises(BadCredentials):
        await room.log_in("eve", password="!")
    with pytest.raises(BadCredentials):
        await room.log_in("eve")


# ---- keeping them


async def test_passkeys_are_listed_renamed_and_removed_by_their_owner(room: AuthRoom) -> None:
    caller, _, first = await owner_of(room)
    second = await add(room, caller, SoftAuthenticator(ORIGIN), name="Phone")
    ben, _ = await room.enter("ben")
    assert [p.name for p in (await room.auth.passkeys(caller)).items] == ["Key", "Phone"]
    assert (await room.auth.passkeys(ben)).items == []
    with pytest.raises(PasskeyNotFound):
        await room.auth.rename_passkey(ben, first.passkey.passkey_id, PasskeyChange(name="Mine"))
    with pytest.raises(PasskeyNotFound):
        await room.auth.remove_passkey(ben, first.passkey.passkey_id)
    renamed = await room.auth.rename_passkey(caller, first.passkey.passkey_id, PasskeyChange(name="Blue key"))
    assert isinstance(renamed, Passkey)
    assert renamed.name == "Blue key"
    await room.auth.remove_passkey(caller, first.passkey.passkey_id)
    with pytest.raises(PasskeyNotFound):
        await room.auth.remove_passkey(caller, first.passkey.passkey_id)
    assert [p.passkey_id for p in (await room.auth.passkeys(caller)).items] == [second.passkey.passkey_id]
    assert (await room.auth.me(caller)).mfa
    await room.auth.remove_passkey(caller, second.passkey.passkey_id)
    assert not (await room.auth.me(caller)).mfa
    assert not (await room.log_in("anna")).mfa_required


async def test_every_change_is_an_event_and_tells_no_secret(room: AuthRoom) -> None:
    caller, device, added = await owner_of(room)
    await room.auth.rename_passkey(caller, added.passkey.passkey_id, PasskeyChange(name="Anna's blue key"))
    await room.auth.remove_passkey(caller, added.passkey.passkey_id)
    told = b""
    for kind in ("added", "renamed", "removed"):
        (entry,) = await entries(room, f"auth.passkey.{kind}")
        assert (entry.resource_type, entry.resource_id) == ("passkey", added.passkey.passkey_id)
        assert entry.actor.id == caller.user_id
        told += msgspec.json.encode(entry)
    secrets = ["blue key", device.held[0].user_handle, *added.recovery_codes]
    secrets += [_b64(device.held[0].credential_id), device.held[0].credential_id.hex()]
    assert not [secret for secret in secrets if secret.encode() in told]


async def test_a_dump_holds_neither_credential_nor_name(room: AuthRoom) -> None:
    _, device, added = await owner_of(room)
    await room.service.stop()
    dump = b"".join(path.read_bytes() for path in room.folder.iterdir() if path.name.startswith("auth.db"))
    public = device.held[0].key.public_key().public_numbers().x.to_bytes(32, "big")
    assert device.held[0].credential_id not in dump
    assert public not in dump
    assert added.recovery_codes[0].encode() not in dump


async def test_a_key_that_was_swapped_in_the_store_opens_nothing(room: AuthRoom) -> None:
    _, device, annas = await owner_of(room)
    _, thief, bens = await owner_of(room, "ben")
    (theirs,) = room.storage.db.read("SELECT sealed_key FROM passkey WHERE passkey_id = ?", (bens.passkey.passkey_id,))
    await room.storage.db.write(
        lambda conn: conn.execute(
            "UPDATE passkey SET sealed_key = ? WHERE passkey_id = ?", (theirs[0], annas.passkey.passkey_id)
        ).fetchall()
    )
    annas_id = Bent(credential_id=device.held[0].credential_id, user_handle=device.held[0].user_handle)
    for authenticator, bent in ((thief, annas_id), (device, Bent())):
        with pytest.raises(PasskeyRefused):
            await log_in(room, authenticator, bent)
    assert (await log_in(room, thief)).access_token


async def test_an_api_key_has_no_passkeys(room: AuthRoom) -> None:
    caller, _, added = await owner_of(room)
    key = msgspec.structs.replace(
        caller, principal=msgspec.structs.replace(caller.principal, kind="api_key", auth_time_s=2**40)
    )
    with pytest.raises(Forbidden):
        await room.auth.passkey_register_options(key)
    with pytest.raises(Forbidden):
        await room.auth.remove_passkey(key, added.passkey.passkey_id)
    with pytest.raises(Forbidden):
        await room.auth.rename_passkey(key, added.passkey.passkey_id, PasskeyChange(name="x"))


async def test_where_browsers_make_none_people_are_told_why(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path, config=msgspec.structs.replace(CHEAP, issuer="http://192.0.2.7:3000"))
    await room.open()
    try:
        caller, _ = await room.enter("anna")
        with pytest.raises(PasskeysUnusable, match="public_url"):
            await room.auth.passkey_register_options(caller)
    finally:
        await room.close()


# ---- where a second factor is asked for


async def test_a_tenant_that_asks_for_a_second_factor_takes_a_passkey(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path, config=msgspec.structs.replace(CHEAP, mfa_tenants=("default",)))
    await room.open()
    try:
        caller, granted = await room.enter("boss")
        assert room.caller(granted).principal.scopes is not None, "may enrol and nothing else"
        device = SoftAuthenticator(ORIGIN)
        first = await add(room, caller, device)
        whole = await log_in(room, device)
        assert room.caller(whole).principal.scopes is None
        answer = as_text(device.get(await room.auth.passkey_step_up_options(caller)))
        risen = await room.auth.step_up(caller, StepUp(method="passkey", code=answer))
        assert room.caller(risen).principal.scopes is None
        with pytest.raises(MfaKept):
            await room.auth.remove_passkey(caller, first.passkey.passkey_id)
        secret = (await room.auth.totp_enroll(caller)).secret
        code = pyotp.TOTP(secret).generate_otp(room.clock.now_us() // 30_000_000)
        await room.auth.totp_confirm(caller, TotpCode(code=code))
        answers = await asyncio.gather(
            room.auth.remove_passkey(caller, first.passkey.passkey_id),
            room.auth.totp_remove(caller),
            return_exceptions=True,
        )
        assert sum(isinstance(a, MfaKept) for a in answers) == 1, "one of the two stays, however they race"
        assert (await room.auth.me(caller)).mfa
    finally:
        await room.close()


async def test_challenges_survive_a_restart_and_what_is_spent_is_swept(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path)
    await room.open()
    try:
        _, device, _ = await owner_of(room, counts=False)
        answer = device.get(await asked(room))
        await room.close()
        await room.open()
        count = "SELECT count(*) FROM passkey_spent"
        before = room.storage.db.read(count)[0][0]
        assert (await room.auth.passkey_login(somebody(), answer)).access_token
        assert room.storage.db.read(count) == [(before + 1,)]
        room.advance(301)
        await room.service.upkeep.sweep()
        assert isinstance(room.clock, ManualClock)
        room.clock.step_wall(-301)
        with pytest.raises(PasskeyRefused):
            await room.auth.passkey_login(somebody(), answer)
        room.advance(302 + KEPT_S)
        await room.service.upkeep.sweep()
        assert room.storage.db.read(count) == [(0,)]
    finally:
        await room.close()


async def test_who_asks_and_asks_leaves_nothing(room: AuthRoom) -> None:
    caller, device, _ = await owner_of(room)
    wanted = await room.log_in("anna")
    rows = room.storage.db.stats.rows
    for _ in range(50):
        await asked(room)
        await asked(room, PasskeyLoginStart(email="anna@example.org"))
        await asked(room, PasskeyLoginStart(mfa_token=wanted.mfa_token))
        await room.auth.passkey_step_up_options(caller)
        await room.auth.passkey_register_options(caller)
    assert room.storage.db.stats.rows == rows
    spent = room.storage.db.read("SELECT count(*) FROM passkey_spent")
    with pytest.raises(PasskeyRefused):
        await log_in(room, device, Bent(credential_id=bytes(32)))
    assert room.storage.db.read("SELECT count(*) FROM passkey_spent") == spent, "a stranger spends nothing"
    assert await log_in(room, device)


async def test_a_challenge_that_was_altered_is_none(room: AuthRoom) -> None:
    _, device, _ = await owner_of(room, counts=False)
    options = await asked(room)
    plain = base64.urlsafe_b64decode(options.challenge + "==")
    for at in (0, 31, 32, 39, 40, len(plain) - 1):
        bent = bytearray(plain)
        bent[at] ^= 1
        with pytest.raises(PasskeyRefused):
            await room.auth.passkey_login(somebody(), device.get(options, Bent(challenge=_b64(bytes(bent)))))
    for other in (plain[:-1], plain + b"\0", plain[:32]):
        with pytest.raises(PasskeyRefused):
            await room.auth.passkey_login(somebody(), device.get(options, Bent(challenge=_b64(other))))
    assert (await room.auth.passkey_login(somebody(), device.get(options))).access_token
