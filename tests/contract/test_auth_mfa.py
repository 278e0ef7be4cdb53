"""The promises of auth's second factors and step-up, over every wiring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pyotp
import pytest

from sealwire.adapters.embedded.mail import FolderMailer
from sealwire.contracts.logins import (
    BadCredentials,
    LoginResult,
    MfaAnswer,
    MfaFailed,
    PasswordChange,
    StepUp,
    TooManyAttempts,
    TotpCode,
)
from sealwire.contracts.passkeys import PasskeyLoginStart
from sealwire.contracts.sessions import RefreshRequest
from sealwire.contracts.tokens import TokenQuery
from sealwire.kit.caller import Caller
from sealwire.kit.problem import Invalid, StepUpRequired, Unauthenticated
from sealwire.services.auth.service import AuthService
from sealwire.testing.auth_room import CHEAP, PASSWORD, AuthRoom, somebody
from sealwire.testing.authenticator import SoftAuthenticator
from sealwire.testing.wirings import WIRINGS


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Any) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path, wiring=request.param)
    await opened.open()
    yield opened
    await opened.close()


class Phone:
    """An authenticator app: it knows the secret and what time it is."""

    def __init__(self, room: AuthRoom, secret: str) -> None:
        self._totp = pyotp.TOTP(secret)
        self._room = room

    def code(self, steps: int = 0) -> str:
        return self._totp.generate_otp(self._room.clock.now_us() // 30_000_000 + steps)


async def enrolled(room: AuthRoom, name: str = "anna") -> tuple[Caller, Phone, list[str]]:
    caller, _ = await room.enter(name)
    phone = Phone(room, (await room.auth.totp_enroll(caller)).secret)
    codes = (await room.auth.totp_confirm(caller, TotpCode(code=phone.code()))).recovery_codes
    room.advance(60)
    return caller, phone, codes


async def wanted(room: AuthRoom, name: str = "anna") -> str:
    asked = await room.log_in(name)
    assert asked.mfa_required
    assert asked.access_token == asked.refresh_token == asked.session_id == ""
    assert asked.user is None
    assert asked.methods == ["totp", "recovery"]
    return asked.mfa_token


def totp(token: str, code: str) -> MfaAnswer:
    return MfaAnswer(mfa_token=token, method="totp", code=code)


async def test_enrolling_and_logging_in_with_the_app(room: AuthRoom) -> None:
    caller, _ = await room.enter("anna")
    enrollment = await room.auth.totp_enroll(caller)
    uri = urlsplit(enrollment.otpauth_uri)
    assert parse_qs(uri.query)["secret"] == [enrollment.secret]
    assert not (await room.log_in("anna")).mfa_required, "not before it is confirmed"
    phone = Phone(room, enrollment.secret)
    with pytest.raises(MfaFailed):
        await room.auth.totp_confirm(caller, TotpCode(code=phone.code(steps=5)))
    as_apps_show_it = f"{phone.code()[:3]} {phone.code()[3:]}"
    codes = (await room.auth.totp_confirm(caller, TotpCode(code=as_apps_show_it))).recovery_codes
    assert len(set(codes)) == 10
    assert (await room.auth.me(caller)).mfa
    with pytest.raises(MfaFailed):
        await room.auth.mfa_verify(somebody(), totp(await wanted(room), phone.code()))  # used for confirming
    room.advance(30)
    granted = await room.auth.mfa_verify(somebody(), totp(await wanted(room), phone.code()))
    assert room.caller(granted).principal.amr == ("pwd", "otp", "mfa")
    assert granted.user is not None


async def test_codes_of_the_step_before_and_after_are_accepted_and_no_others(room: AuthRoom) -> None:
    _, phone, _ = await enrolled(room)
    room.clock.advance(10 * 30)  # so that none is refused for being older than the one of the enrolment
    for steps, accepted in ((-2, False), (2, False), (-1, True), (1, True)):
        answer = totp(await wanted(room), phone.code(steps))
        if accepted:
            assert (await room.auth.mfa_verify(somebody(), answer)).access_token
        else:
            with pytest.raises(MfaFailed):
                await room.auth.mfa_verify(somebody(), answer)
    for older in (0, -1, 1):
        with pytest.raises(MfaFailed):
            await room.auth.mfa_verify(somebody(), totp(await wanted(room), phone.code(older)))


async def test_where_the_settings_say_so_a_code_is_good_for_its_own_half_minute_only(tmp_path: Any) -> None:
    room = AuthRoom(tmp_path, config=msgspec.structs.replace(CHEAP, totp_drift_steps=0))
    await room.open()
    _, phone, _ = await enrolled(room)
    for early_or_late in (-1, 1):
        with pytest.raises(MfaFailed):
            await room.auth.mfa_verify(somebody(), totp(await wanted(room), phone.code(early_or_late)))
    assert (await room.auth.mfa_verify(somebody(), totp(await wanted(room), phone.code()))).access_token
    await room.close()


async def test_one_code_used_by_many_at_once_lets_one_in(room: AuthRoom) -> None:
    _, phone, _ = await enrolled(room)
    tokens = [await wanted(room) for _ in range(5)]
    answers = await asyncio.gather(
        *(room.auth.mfa_verify(somebody(), totp(token, phone.code())) for token in tokens), return_exceptions=True
    )
    assert sum(isinstance(a, LoginResult) for a in answers) == 1
    assert sum(isinstance(a, MfaFailed) for a in answers) == 4


async def test_one_code_counts_once_in_two_processes_over_one_store(room: AuthRoom) -> None:
    """Turns are taken in one process only: what holds between two is the write that uses the code up."""
    _, phone, _ = await enrolled(room)
    other = AuthService(
        stores=room.storage.stores, sealer=room.ring, mailer=FolderMailer(room.outbox, sender=CHEAP.mail_from),
        clock=room.clock, config=CHEAP, outward=room.outward,
    )  # fmt: skip
    await other.start()
    try:
        for _ in range(4):
            room.advance(60)
            tokens = [await wanted(room) for _ in range(2)]
            answers = await asyncio.gather(
                room.service.mfa_verify(somebody(), totp(tokens[0], phone.code())),
                other.mfa_verify(somebody(), totp(tokens[1], phone.code())),
                return_exceptions=True,
            )
            assert sum(isinstance(answer, MfaFailed) for answer in answers) == 1
            assert sum(isinstance(answer, LoginResult) for answer in answers) == 1
    finally:
        await other.stop()


async def test_a_login_that_waits_ends_with_the_password_it_was_begun_by(room: AuthRoom) -> None:
    caller, phone, _ = await enrolled(room)
    token = await wanted(room)
    await room.service.change_password(
        caller, PasswordChange(current_password=PASSWORD, new_password="lantern otter seven")
    )
    with pytest.raises(MfaFailed):
        await room.auth.mfa_verify(somebody(), totp(token, phone.code()))
    asked = await room.log_in("anna", password="lantern otter seven")
    assert (await room.auth.mfa_verify(somebody(), totp(asked.mfa_token, phone.code()))).access_token


async def test_one_challenge_lets_one_in(room: AuthRoom) -> None:
    _, phone, codes = await enrolled(room)
    token = await wanted(room)
    answers = await asyncio.gather(
        room.auth.mfa_verify(somebody(), totp(token, phone.code())),
        room.auth.mfa_verify(somebody(), MfaAnswer(mfa_token=token, method="recovery", code=codes[0])),
        return_exceptions=True,
    )
    assert sum(isinstance(a, LoginResult) for a in answers) == 1


async def test_a_challenge_bears_few_attempts_and_little_time(room: AuthRoom) -> None:
    _, phone, _ = await enrolled(room)
    token = await wanted(room)
    for _ in range(4):
        with pytest.raises(MfaFailed):
            await room.auth.mfa_verify(somebody(), totp(token, "000000"))
    room.advance(3_600)
    token = await wanted(room)
    room.advance(301)
    with pytest.raises(MfaFailed):
        await room.auth.mfa_verify(somebody(), totp(token, phone.code()))
    for nonsense in ("x", "swm1.x", token + "x"):
        with pytest.raises(MfaFailed):
            await room.auth.mfa_verify(somebody(), totp(nonsense, phone.code()))


async def test_guessing_codes_over_many_logins_is_slow(room: AuthRoom) -> None:
    _, phone, _ = await enrolled(room)
    tokens = [await wanted(room) for _ in range(3)]
    for i in range(5):
        with pytest.raises(MfaFailed):
            await room.auth.mfa_verify(somebody(), totp(tokens[i % 2], f"{i:06}"))
    with pytest.raises(TooManyAttempts):
        await room.auth.mfa_verify(somebody(), totp(tokens[2], phone.code()))
    room.advance(30)
    assert (await room.auth.mfa_verify(somebody(), totp(tokens[2], phone.code()))).access_token


async def test_a_code_that_has_to_wait_uses_up_nothing_of_the_login(room: AuthRoom) -> None:
    _, phone, _ = await enrolled(room)
    tokens = [await wanted(room) for _ in range(2)]
    for i in range(room.config.lockout_free):
        with pytest.raises(MfaFailed):
            await room.auth.mfa_verify(somebody(), totp(tokens[0], f"{i:06}"))
    for _ in range(room.config.mfa_attempts + 1):
        with pytest.raises(TooManyAttempts):
            await room.auth.mfa_verify(somebody(), totp(tokens[1], phone.code()))
    room.advance(30)
    assert (await room.auth.mfa_verify(somebody(), totp(tokens[1], phone.code()))).access_token


async def fail_at_the_password(room: AuthRoom, times: int) -> None:
    for _ in range(times):
        with pytest.raises(BadCredentials):
            await room.log_in("anna", password="not it at all")


@pytest.mark.parametrize("way", ["totp", "passkey"])
async def test_a_login_with_both_factors_forgives_what_failed_at_the_password(room: AuthRoom, way: str) -> None:
    anna, phone, _ = await enrolled(room)
    device = SoftAuthenticator("https://sealwire.local")
    await room.auth.passkey_register(anna, device.create(await room.auth.passkey_register_options(anna)))
    free = room.config.lockout_free
    for _ in range(2):
        await fail_at_the_password(room, free - 1)
        if way == "passkey":
            options = await room.auth.passkey_login_options(somebody(), PasskeyLoginStart())
            assert (await room.auth.passkey_login(somebody(), device.get(options))).access_token
        else:
            token = (await room.log_in("anna")).mfa_token
            assert (await room.auth.mfa_verify(somebody(), totp(token, phone.code()))).access_token
        room.advance(30)
    assert (await room.log_in("anna")).mfa_required, "as many slips as twice the free ones, and no lock"


async def test_the_password_without_the_second_factor_forgives_nothing(room: AuthRoom) -> None:
    _, phone, _ = await enrolled(room)
    free = room.config.lockout_free
    await fail_at_the_password(room, free - 1)
    token = await wanted(room)
    with pytest.raises(MfaFailed):
        await room.auth.mfa_verify(somebody(), totp(token, "000000"))
    await fail_at_the_password(room, 1)
    with pytest.raises(BadCredentials):
        await room.log_in("anna")
    answer = totp(token, phone.code())
    assert (await room.auth.mfa_verify(somebody(), answer)).access_token, "who was let half in before it may finish"
    assert (await room.log_in("anna")).mfa_required, "and then it is forgiven"


async def test_guesses_sent_at_once_are_judged_as_few_as_one_by_one(room: AuthRoom) -> None:
    _, phone, _ = await enrolled(room)
    token = await wanted(room)
    guesses = [f"{n:06}" for n in range(40) if f"{n:06}" != phone.code()]
    answers = await asyncio.gather(
        *(room.auth.mfa_verify(somebody(), totp(token, guess)) for guess in guesses), return_exceptions=True
    )
    assert all(isinstance(a, MfaFailed | TooManyAttempts) for a in answers)
    judged = (await room.events()).count("auth.mfa.failed")
    assert judged == room.config.mfa_attempts, "the challenge bears no more, however fast they come"
    with pytest.raises(MfaFailed):
        await room.auth.mfa_verify(somebody(), totp(token, phone.code()))


async def test_guesses_spread_over_many_logins_at_once_are_counted_one_by_one(room: AuthRoom) -> None:
    _, phone, _ = await enrolled(room)
    tokens = [await wanted(room) for _ in range(6)]
    answers = await asyncio.gather(
        *(room.auth.mfa_verify(somebody(), totp(token, "x00000")) for token in tokens for _ in range(5)),
        return_exceptions=True,
    )
    assert (await room.events()).count("auth.mfa.failed") == room.config.lockout_free
    assert sum(isinstance(a, TooManyAttempts) for a in answers) == len(answers) - room.config.lockout_free
    with pytest.raises((TooManyAttempts, MfaFailed)):
        await room.auth.mfa_verify(somebody(), totp(tokens[0], phone.code()))


async def test_one_code_counts_once_for_logging_in_and_stepping_up_together(room: AuthRoom) -> None:
    caller, phone, codes = await enrolled(room)
    for method, code in (("totp", phone.code()), ("recovery", codes[0])):
        tokens = [await wanted(room) for _ in range(3)]
        answers = await asyncio.gather(
            *(room.auth.mfa_verify(somebody(), msgspec.convert(
                {"mfa_token": token, "method": method, "code": code}, MfaAnswer)) for token in tokens),
            room.auth.step_up(caller, msgspec.convert({"method": method, "code": code}, StepUp)),
            return_exceptions=True,
        )  # fmt: skip
        assert sum(isinstance(a, LoginResult) for a in answers) == 1
        assert sum(isinstance(a, MfaFailed) for a in answers) == 3
        room.advance(3_600)


@pytest.mark.parametrize("code", ["12345", "1" * 33, "12 456", "éééééé", "123456\n"])
def test_what_can_be_no_code_is_not_taken(code: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"mfa_token": "swm1.x", "method": "totp", "code": code}, MfaAnswer)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"method": "recovery", "code": code}, StepUp)


async def test_recovery_codes_work_once_each(room: AuthRoom) -> None:
    caller, _, codes = await enrolled(room)
    recover = MfaAnswer(mfa_token=await wanted(room), method="recovery", code=codes[0].upper().replace("-", ""))
    granted = await room.auth.mfa_verify(somebody(), recover)
    assert room.caller(granted).principal.amr == ("pwd", "mfa")
    spaced = MfaAnswer(mfa_token=await wanted(room), method="recovery", code=" " + codes[5].replace("-", " ") + " ")
    assert (await room.auth.mfa_verify(somebody(), spaced)).access_token, "as it was written down, or pasted"
    with pytest.raises(MfaFailed):
        await room.auth.mfa_verify(
            somebody(), MfaAnswer(mfa_token=await wanted(room), method="recovery", code=codes[0])
        )
    answers = await asyncio.gather(
        *(room.auth.step_up(caller, StepUp(method="recovery", code=codes[1])) for _ in range(4)),
        return_exceptions=True,
    )
    assert sum(isinstance(a, LoginResult) for a in answers) == 1
    assert (await room.events()).count("auth.recovery.used") == 3


async def test_codes_are_the_persons_own(room: AuthRoom) -> None:
    _, anna_phone, anna_codes = await enrolled(room)
    await enrolled(room, "ben")
    for answer in (
        totp(await wanted(room, "ben"), anna_phone.code()),
        MfaAnswer(mfa_token=await wanted(room, "ben"), method="recovery", code=anna_codes[0]),
    ):
        with pytest.raises(MfaFailed):
            await room.auth.mfa_verify(somebody(), answer)


async def test_removing_the_app_and_changing_the_phone(room: AuthRoom) -> None:
    caller, phone, codes = await enrolled(room)
    new = Phone(room, (await room.auth.totp_enroll(caller)).secret)
    granted = await room.auth.mfa_verify(somebody(), totp(await wanted(room), phone.code()))
    assert granted.access_token, "the old one works until the new one is confirmed"
    room.advance(60)
    fresh = (await room.auth.totp_confirm(caller, TotpCode(code=new.code()))).recovery_codes
    room.advance(60)
    for old in (totp("", phone.code()), MfaAnswer(mfa_token="", method="recovery", code=codes[0])):
        with pytest.raises(MfaFailed):
            await room.auth.mfa_verify(
                somebody(), MfaAnswer(mfa_token=await wanted(room), method=old.method, code=old.code)
            )
    await room.auth.totp_remove(caller)
    await room.auth.totp_remove(caller)
    assert not (await room.log_in("anna")).mfa_required
    assert not (await room.auth.me(caller)).mfa
    with pytest.raises(MfaFailed):
        await room.auth.step_up(caller, StepUp(method="recovery", code=fresh[0]))
    assert (await room.events()).count("auth.totp.removed") == 1


async def test_a_pending_secret_is_confirmed_soon_or_never(room: AuthRoom) -> None:
    caller, _ = await room.enter("anna")
    phone = Phone(room, (await room.auth.totp_enroll(caller)).secret)
    room.advance(901)
    with pytest.raises(MfaFailed):
        await room.auth.totp_confirm(caller, TotpCode(code=phone.code()))


# ---- step-up


async def test_stepping_up_gives_a_token_with_a_new_time_and_keeps_the_refresh_token(room: AuthRoom) -> None:
    caller, granted = await room.enter("anna")
    room.advance(3_000)
    stepped = await room.auth.step_up(caller, StepUp(method="password", password=PASSWORD))
    fresh = room.caller(stepped).principal
    assert fresh.auth_time_s == caller.principal.auth_time_s + 3_000
    assert fresh.session_id == caller.principal.session_id
    assert stepped.refresh_token == granted.refresh_token, "an answer that gets lost logs nobody out"
    renewed = await room.auth.refresh(somebody(), RefreshRequest(refresh_token=stepped.refresh_token))
    assert room.caller(renewed).principal.auth_time_s == fresh.auth_time_s
    assert "auth.assurance-level-change" in await room.events()


async def test_the_token_from_before_a_step_up_proves_nothing_new_and_can_be_ended(room: AuthRoom) -> None:
    caller, granted = await room.enter("anna")
    room.advance(100)
    stepped = await room.auth.step_up(caller, StepUp(method="password", password=PASSWORD))
    new = room.caller(stepped)
    assert room.caller(granted).principal.auth_time_s < new.principal.auth_time_s - 99
    await room.auth.revoke(new, TokenQuery(token=granted.access_token))
    states = [
        (await room.auth.introspect(new, TokenQuery(token=token))).active
        for token in (granted.access_token, stepped.access_token, stepped.refresh_token)
    ]
    assert states == [False, True, True], "the token, and neither the session nor what keeps it open"


async def test_step_up_refuses_wrong_and_missing_proofs(room: AuthRoom) -> None:
    caller, _ = await room.enter("anna")
    with pytest.raises(BadCredentials):
        await room.auth.step_up(caller, StepUp(method="password", password="wrong"))
    with pytest.raises(MfaFailed):
        await room.auth.step_up(caller, StepUp(method="totp", code="123456"))
    for lacking in (StepUp(method="password"), StepUp(method="totp", password=PASSWORD)):
        with pytest.raises(Invalid):
            await room.auth.step_up(caller, lacking)
    for _ in range(3):
        with pytest.raises(BadCredentials):
            await room.auth.step_up(caller, StepUp(method="password", password="wrong"))
    with pytest.raises(TooManyAttempts):
        await room.auth.step_up(caller, StepUp(method="password", password=PASSWORD))


async def test_with_a_second_factor_the_password_alone_is_no_step_up(room: AuthRoom) -> None:
    caller, phone, _ = await enrolled(room)
    with pytest.raises(StepUpRequired) as caught:
        await room.auth.step_up(caller, StepUp(method="password", password=PASSWORD))
    assert caught.value.extra["methods"] == ["totp", "recovery"]
    stepped = await room.auth.step_up(caller, StepUp(method="totp", code=phone.code()))
    assert room.caller(stepped).principal.amr == ("pwd", "otp", "mfa")
    with pytest.raises(MfaFailed):
        await room.auth.step_up(caller, StepUp(method="totp", code=phone.code()))


async def test_an_ended_session_does_not_step_up(room: AuthRoom) -> None:
    caller, _ = await room.enter("anna")
    await room.auth.logout(caller)
    with pytest.raises(Unauthenticated):
        await room.auth.step_up(caller, StepUp(method="password", password=PASSWORD))
