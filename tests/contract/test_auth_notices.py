"""Who hears of what: a letter about every change of what lets a person in, once, also after a crash, with no secret."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path

import apsw
import msgspec
import pytest

from sealwire.adapters.embedded.auth_changes import NOTICES_SINCE
from sealwire.contracts.api_keys import NewApiKey, NewServiceAccount
from sealwire.contracts.credentials import ResetConfirmation, ResetRequest
from sealwire.contracts.logins import BadCredentials, MfaAnswer, MfaFailed, PasswordChange, TotpCode
from sealwire.contracts.passkeys import PasskeyLoginStart, PasskeyRefused
from sealwire.contracts.sessions import RefreshRequest, RefreshReused
from sealwire.contracts.users import UserChange
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Page
from sealwire.services.auth.external_records import IdentityRecord
from sealwire.services.auth.notice_letters import MANY_FAILURES
from sealwire.services.auth.notices import CONSUMER
from sealwire.testing.auth_room import PASSWORD, AuthRoom, somebody
from sealwire.testing.authenticator import Bent, SoftAuthenticator

ORIGIN = "https://sealwire.local"
BETTER = "lantern otter seven"
Secrets = list[str]


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path)
    await opened.open()
    yield opened
    await opened.close()


async def notices(room: AuthRoom) -> list[EmailMessage]:
    return [letter for letter in await room.letters() if str(letter["Subject"]).startswith("Sealwire: ")]


async def change_password(room: AuthRoom, anna: Caller) -> Secrets:
    await room.auth.change_password(anna, PasswordChange(current_password=PASSWORD, new_password=BETTER))
    return [PASSWORD, BETTER]


async def reset_password(room: AuthRoom, anna: Caller) -> Secrets:
    await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    found = re.search(r"token=(\S+)", (await room.letters())[-1].get_content())
    assert found
    await room.auth.confirm_reset(somebody(), ResetConfirmation(token=found[1], new_password=BETTER))
    return [found[1], BETTER]


async def set_up_app(room: AuthRoom, anna: Caller) -> Secrets:
    secret = (await room.auth.totp_enroll(anna)).secret
    codes = (await room.auth.totp_confirm(anna, TotpCode(code=room.app_code(secret)))).recovery_codes
    return [secret, *codes]


async def remove_app(room: AuthRoom, anna: Caller) -> Secrets:
    made = await set_up_app(room, anna)
    await room.auth.totp_remove(anna)
    return made


async def use_recovery_code(room: AuthRoom, anna: Caller) -> Secrets:
    made = await set_up_app(room, anna)
    asked = await room.log_in("anna")
    await room.auth.mfa_verify(somebody(), MfaAnswer(mfa_token=asked.mfa_token, method="recovery", code=made[1]))
    return [*made, asked.mfa_token]


async def add_passkey(room: AuthRoom, anna: Caller) -> Secrets:
    device = SoftAuthenticator(ORIGIN)
    added = await room.auth.passkey_register(anna, device.create(await room.auth.passkey_register_options(anna)))
    return added.recovery_codes


async def remove_passkey(room: AuthRoom, anna: Caller) -> Secrets:
    made = await add_passkey(room, anna)
    await room.auth.remove_passkey(anna, (await room.auth.passkeys(anna)).items[0].passkey_id)
    return made


async def make_key(room: AuthRoom, anna: Caller) -> Secrets:
    return [(await room.auth.add_api_key(anna, NewApiKey(name="robot", scopes=["post"]))).key]


async def make_key_of_a_service(room: AuthRoom, anna: Caller) -> Secrets:
    account = NewServiceAccount(display_name="Robot", role="member")
    return [(await room.auth.add_api_key(anna, NewApiKey(name="r", scopes=["post"], service_account=account))).key]


async def unlink(room: AuthRoom, anna: Caller) -> Secrets:
    identity = IdentityRecord(
        identity_id="i-1", tenant_id=anna.tenant_id, user_id=anna.user_id, provider="p", issuer="https://p.example",
        subject_index=b"s", created_us=1,
    )  # fmt: skip
    await room.storage.stores.identities.add(identity, [])
    await room.auth.end_identity(anna, "i-1")
    return []


CHANGES: list[tuple[Callable[[AuthRoom, Caller], Awaitable[Secrets]], list[str]]] = [
    (change_password, ["your password was changed"]),
    (reset_password, ["your password was set anew"]),
    (set_up_app, ["an authenticator app was set up"]),
    (remove_app, ["an authenticator app was set up", "your authenticator app was removed"]),
    (use_recovery_code, ["an authenticator app was set up", "a recovery code was used"]),
    (add_passkey, ["a passkey was added"]),
    (remove_passkey, ["a passkey was added", "a passkey was removed"]),
    (make_key, ["an API key was made"]),
    (make_key_of_a_service, ["an API key was made"]),
    (unlink, ["an identity was unlinked from your account"]),
]


@pytest.mark.parametrize(("change", "subjects"), CHANGES)
async def test_a_person_hears_of_it_once_and_of_no_secret(
    room: AuthRoom, change: Callable[[AuthRoom, Caller], Awaitable[Secrets]], subjects: list[str]
) -> None:
    anna, _ = await room.enter("anna")
    secrets = await change(room, anna)
    letters = await notices(room)
    assert sorted(str(letter["Subject"]) for letter in letters) == sorted("Sealwire: " + said for said in subjects)
    for letter in letters:
        assert letter["To"] == "anna@example.org"
        text = letter.get_content().replace("\r\n", "\n")
        assert text.startswith("Hello Anna,")
        assert "From: 192.0.2.7\n" in text
        assert not [secret for secret in secrets if secret and secret in text]
        assert "://sealwire.local" not in text.replace("at https://sealwire.local, ", ""), "nothing to click on"
    assert await room.service.herald.tell() == 0
    await room.close()
    await room.open()
    assert len(await notices(room)) == len(subjects), "a restart says nothing twice"


async def test_what_a_crash_left_untold_is_told_by_the_next_start(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path)
    await room.open()
    anna, _ = await room.enter("anna")
    await room.service.herald.tell()
    await room.service.herald.stop()
    await room.service.postman.stop()
    await change_password(room, anna)
    position = await room.storage.stores.positions.load(CONSUMER)
    assert position < await room.service.events.newest()
    await room.close()

    again = AuthRoom(tmp_path, clock=room.clock)
    await again.open()
    assert [letter["Subject"] for letter in await notices(again)] == ["Sealwire: your password was changed"]
    await again.close()


async def test_a_letter_and_how_far_the_herald_came_are_one_write(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    await room.service.herald.stop()
    await room.service.postman.stop()
    await room.service.herald.tell()
    before = await room.storage.stores.positions.load(CONSUMER)
    await change_password(room, anna)
    await room.service.herald.tell()
    waiting = await room.storage.stores.letters.of(anna.tenant_id, "", 10)
    events = await room.service.events.read(before, 100)
    told = [event.event_id for event in events if event.kind == "auth.credential-change"]
    assert [letter.letter_id for letter in waiting] == told
    assert await room.storage.stores.positions.load(CONSUMER) == events[-1].position
    await room.storage.stores.letters.tell(waiting, CONSUMER, before)
    assert await room.storage.stores.letters.of(anna.tenant_id, "", 10) == waiting
    assert await room.storage.stores.positions.load(CONSUMER) == events[-1].position


async def test_nobody_hears_of_what_changes_no_way_in(room: AuthRoom) -> None:
    boss, granted = await room.enter("boss")
    anna = await room.add(boss, "anna")
    with pytest.raises(BadCredentials):
        await room.log_in("anna", password="not it at all")
    await room.log_in("anna")
    await room.auth.change_user(boss, anna, UserChange(role="admin"))
    await room.auth.totp_enroll(room.caller(granted))
    await room.auth.logout(boss)
    assert await room.letters() == []


async def test_a_login_after_many_attempts_is_told_of(room: AuthRoom) -> None:
    await room.enter("anna")
    for many in (False, True):
        for _ in range(MANY_FAILURES if many else MANY_FAILURES - 1):
            room.advance(1_000)
            with pytest.raises(BadCredentials):
                await room.log_in("anna", password="not it at all")
        room.advance(20_000)  # whoever guesses stops for the hours before it, as what they guessed is forgiven by it
        await room.log_in("anna")
        await room.log_in("anna")
        told = [str(letter["Subject"]) for letter in await notices(room)]
        assert told == ["Sealwire: a login after many attempts"] * many, "and the next one is a login as any"


async def test_who_has_a_second_factor_hears_of_a_login_after_many_attempts_too(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    secret = (await set_up_app(room, anna))[0]
    before = len(await notices(room))
    for _ in range(MANY_FAILURES):
        room.advance(1_000)
        with pytest.raises(BadCredentials):
            await room.log_in("anna", password="not it at all")
    room.advance(1_000)
    for _ in range(2):
        token = (await room.log_in("anna")).mfa_token
        await room.auth.mfa_verify(somebody(), MfaAnswer(mfa_token=token, method="totp", code=room.app_code(secret)))
    told = [str(letter["Subject"]) for letter in (await notices(room))[before:]]
    assert told == ["Sealwire: a login after many attempts"]


async def test_who_knows_the_password_and_fails_at_the_second_factor_is_told_of(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    secret = (await set_up_app(room, anna))[0]
    before = len(await notices(room))

    async def fail(times: int) -> str:
        """Try some codes of one login, as whoever begins another one before its tries are used up."""
        asked = await room.log_in("anna")
        for _ in range(times):
            room.advance(20)
            with pytest.raises(MfaFailed):
                await room.auth.mfa_verify(
                    somebody(), MfaAnswer(mfa_token=asked.mfa_token, method="recovery", code="a" * 24)
                )
        return asked.mfa_token

    token = await fail(2)
    await room.auth.mfa_verify(somebody(), MfaAnswer(mfa_token=token, method="totp", code=room.app_code(secret)))
    assert len(await notices(room)) == before, "two slips are none of an attacker"
    room.advance(1_000)
    await fail(MANY_FAILURES - 2)
    await fail(1)
    room.advance(4_000)
    await fail(1)
    (told,) = (await notices(room))[before:]
    assert told["Subject"] == "Sealwire: somebody knows your password"
    assert "They did not get in" in told.get_content().replace("=\n", "")


async def test_a_copied_session_is_told_of(room: AuthRoom) -> None:
    _, granted = await room.enter("anna")
    request = RefreshRequest(refresh_token=granted.refresh_token)
    await room.auth.refresh(somebody(), request)
    thief = msgspec.structs.replace(somebody(), user_agent="curl/8")
    with pytest.raises(RefreshReused):
        await room.auth.refresh(thief, request)
    (told,) = await notices(room)
    assert told["Subject"] == "Sealwire: a session of yours was ended"


async def test_a_copied_passkey_is_told_of(room: AuthRoom) -> None:
    anna, _ = await room.enter("anna")
    device = SoftAuthenticator(ORIGIN)
    await room.auth.passkey_register(anna, device.create(await room.auth.passkey_register_options(anna)))
    for _ in range(2):
        options = await room.auth.passkey_login_options(somebody(), PasskeyLoginStart())
        login = device.get(options, Bent(sign_count=5))
        with suppress(PasskeyRefused):
            await room.auth.passkey_login(somebody(), login)
    letter = (await notices(room))[-1]
    assert letter["Subject"] == "Sealwire: a passkey was suspended"
    assert "By: an administrator" not in letter.get_content()


async def test_who_keeps_an_api_key_is_reminded_once_before_it_ends(room: AuthRoom) -> None:
    boss, _ = await room.enter("boss")
    await room.add(boss, "anna", "admin")
    anna = room.caller(await room.log_in("anna"))
    month, week = 30 * 86_400, 7 * 86_400
    own = await room.auth.add_api_key(anna, NewApiKey(name="robot", scopes=["post"], expires_in_s=month))
    await room.auth.add_api_key(anna, NewApiKey(name="short", scopes=["post"], expires_in_s=week + 86_400))
    ended = await room.auth.add_api_key(anna, NewApiKey(name="ended", scopes=["post"], expires_in_s=month))
    await room.auth.end_api_key(anna, ended.api_key.api_key_id)
    machine = NewApiKey(
        name="m", scopes=["post"], expires_in_s=month, service_account=NewServiceAccount(display_name="M")
    )
    of_service = await room.auth.add_api_key(anna, machine)

    async def reminders() -> dict[str, str]:
        await room.service.upkeep.sweep()
        ending = [letter for letter in await room.letters() if letter["Subject"] == "Sealwire: an API key ends soon"]
        return {letter.get_content().replace("\r\n", "\n"): str(letter["To"]) for letter in ending}

    room.advance(month - week)
    assert await reminders() == {}
    room.advance(1)
    told = await reminders()
    assert sorted(told.values()) == ["anna@example.org"] * 2
    listed = {key.api_key_id: key for key in (await room.auth.api_keys(boss, Page())).items}
    for made in (own, of_service):
        (text,) = [text for text in told if made.api_key.prefix in text]
        assert f"ends at {listed[made.api_key.api_key_id].expires_at}" in text
        assert made.key not in text
    room.advance(86_400)
    assert await reminders() == told, "once"
    await room.close()
    await room.open()
    assert await reminders() == told


async def test_of_a_machines_key_whose_maker_is_gone_the_owner_is_reminded(room: AuthRoom) -> None:
    boss, _ = await room.enter("boss")
    anna_id = await room.add(boss, "anna", "admin")
    anna = room.caller(await room.log_in("anna"))
    new = NewApiKey(name="m", scopes=["post"], service_account=NewServiceAccount(display_name="M"))
    await room.auth.add_api_key(anna, new)
    await room.auth.change_user(boss, anna_id, UserChange(status="disabled"))
    room.advance(89 * 86_400)
    await room.service.upkeep.sweep()
    (letter,) = [found for found in await room.letters() if found["Subject"] == "Sealwire: an API key ends soon"]
    assert letter["To"] == "boss@example.org"


async def test_what_happened_before_there_were_notices_is_told_to_nobody(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path)
    await room.open()
    anna, _ = await room.enter("anna")
    await room.service.herald.stop()
    await room.service.postman.stop()
    await change_password(room, anna)

    def as_before(conn: apsw.Connection) -> None:
        conn.execute("DELETE FROM consumer_position WHERE consumer = ?", (CONSUMER,))
        conn.execute(NOTICES_SINCE)

    await room.storage.db.write(as_before)
    await room.close()
    again = AuthRoom(tmp_path, clock=room.clock)
    await again.open()
    assert await notices(again) == []
    await again.close()
