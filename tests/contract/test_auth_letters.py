"""The promises of password resets and invitations, over every wiring; letters go into the folder."""

from __future__ import annotations

import asyncio
import re
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.contracts.addresses import EmailChange
from sealwire.contracts.credentials import (
    InvitationInvalid,
    InvitationNotFound,
    NewInvitation,
    ResetConfirmation,
    ResetInvalid,
    ResetRequest,
)
from sealwire.contracts.logins import BadCredentials
from sealwire.contracts.users import EmailTaken, RegistrationClosed, UserChange, WeakPassword
from sealwire.contracts.users import Registration as Form
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Page
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden, Problem, QuotaExceeded
from sealwire.ports.mail import Letter, MailRefused
from sealwire.services.auth.letters import EMAIL_SUBJECT, RESET_SUBJECT
from sealwire.testing.auth_room import CHEAP, PASSWORD, AuthRoom, somebody
from sealwire.testing.clock import ManualClock
from sealwire.testing.wirings import WIRINGS

BETTER = "lantern otter seven"


@pytest.fixture(params=WIRINGS)
async def room(request: Any, tmp_path: Path) -> AsyncIterator[AuthRoom]:
    opened = AuthRoom(tmp_path, wiring=request.param)
    await opened.open()
    yield opened
    await opened.close()


async def token_in_last_letter(room: AuthRoom) -> str:
    texts = [letter.get_content() for letter in await room.letters()]
    return [found for text in texts for found in re.findall(r"(?:token|invitation)=(sw[pi]1\.[\w-]+)", text)][-1]


async def ask(room: AuthRoom, name: str = "anna") -> str:
    assert (await room.auth.reset_password(somebody(), ResetRequest(email=f"{name}@example.org"))).accepted
    return await token_in_last_letter(room)


def set_anew(token: str, password: str = BETTER) -> ResetConfirmation:
    return ResetConfirmation(token=token, new_password=password)


def form(name: str, token: str, **more: Any) -> Form:
    return Form(email=f"{name}@example.org", password=PASSWORD, display_name=name.title(), invitation=token, **more)


# ---- resets


async def test_a_reset_sets_the_password_once_and_ends_every_session(room: AuthRoom) -> None:
    _, granted = await room.enter("anna")
    token = await ask(room)
    (letter,) = await room.letters()
    assert letter["To"] == "anna@example.org"
    assert letter["From"] == CHEAP.mail_from
    (file,) = room.outbox.glob("*")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await room.auth.confirm_reset(somebody(), set_anew(token))
    assert not await room.is_live(granted)
    with pytest.raises(BadCredentials):
        await room.log_in("anna")
    assert (await room.log_in("anna", password=BETTER)).access_token
    with pytest.raises(ResetInvalid):
        await room.auth.confirm_reset(somebody(), set_anew(token, "another good one"))
    assert {"auth.password-reset.asked", "auth.password-reset.done"} <= set(await room.events())


async def test_an_unknown_address_gets_the_same_answer_and_no_letter(room: AuthRoom) -> None:
    await room.register("anna")
    known = await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    for email, tenant in (("nobody@example.org", None), ("anna@example.org", "no-such-tenant")):
        assert await room.auth.reset_password(somebody(), ResetRequest(email=email, tenant=tenant)) == known
    assert len(await room.letters()) == 1
    assert (await room.events()).count("auth.password-reset.asked") == 3


async def test_a_weak_password_leaves_the_token_good(room: AuthRoom) -> None:
    await room.register("anna")
    token = await ask(room)
    with pytest.raises(WeakPassword):
        await room.auth.confirm_reset(somebody(), set_anew(token, "password"))
    await room.auth.confirm_reset(somebody(), set_anew(token))


async def test_tokens_expire_and_a_reset_ends_the_others(room: AuthRoom) -> None:
    await room.register("anna")
    first, second = await ask(room), await ask(room)
    await room.auth.confirm_reset(somebody(), set_anew(second))
    with pytest.raises(ResetInvalid):
        await room.auth.confirm_reset(somebody(), set_anew(first, "yet another phrase"))
    third = await ask(room)
    room.advance(CHEAP.reset_ttl_s)
    with pytest.raises(ResetInvalid):
        await room.auth.confirm_reset(somebody(), set_anew(third, "yet another phrase"))
    for nonsense in ("x", "swp1." + "A" * 43, third[:-1]):
        with pytest.raises(ResetInvalid):
            await room.auth.confirm_reset(somebody(), set_anew(nonsense))


async def test_racing_confirmations_have_one_winner(room: AuthRoom) -> None:
    await room.register("anna")
    token = await ask(room)
    answers = await asyncio.gather(
        *(room.auth.confirm_reset(somebody(), set_anew(token, f"{BETTER} {n}")) for n in range(8)),
        return_exceptions=True,
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["ResetDone"] + ["ResetInvalid"] * 7
    winner = next(n for n, answer in enumerate(answers) if not isinstance(answer, BaseException))
    assert (await room.log_in("anna", password=f"{BETTER} {winner}")).access_token


async def test_nobody_is_flooded_with_letters(room: AuthRoom) -> None:
    await room.register("anna")
    for _ in range(CHEAP.resets_per_hour + 3):
        await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    assert len(await room.letters()) == CHEAP.resets_per_hour


async def test_letters_count_for_an_hour_but_leave_nobody_without_one_that_works(room: AuthRoom) -> None:
    await room.register("anna")
    for _ in range(CHEAP.resets_per_hour + 3):
        await ask(room)
    room.advance(CHEAP.reset_ttl_s)
    await room.service.upkeep.sweep()
    token = await ask(room)
    assert len(await room.letters()) == CHEAP.resets_per_hour + 1, "none of those before worked any longer"
    await ask(room)
    assert len(await room.letters()) == CHEAP.resets_per_hour + 1, "and one of them does"
    await room.auth.confirm_reset(somebody(), set_anew(token))


async def test_what_was_asked_for_while_the_clock_was_ahead_keeps_nobody_from_asking(room: AuthRoom) -> None:
    assert isinstance(room.clock, ManualClock)
    anna, _ = await room.enter("anna")
    for number in range(CHEAP.resets_per_hour):
        await ask(room)
        await room.auth.change_email(anna, EmailChange(email=f"anna{number}@example.org"))
    before = len(await room.letters())
    room.clock.step_wall(-86_400)
    await ask(room)
    await room.auth.change_email(anna, EmailChange(email="another@example.org"))
    after = {str(letter["Subject"]) for letter in (await room.letters())[before:]}
    assert after >= {RESET_SUBJECT, EMAIL_SUBJECT}


async def test_a_disabled_user_gets_no_letter_and_has_no_token_left(room: AuthRoom) -> None:
    admin, _ = await room.enter("boss")
    user_id = await room.add(admin, "anna")
    token = await ask(room)
    await room.auth.change_user(admin, user_id, UserChange(status="disabled"))
    before = len(await room.letters())
    await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    assert len(await room.letters()) == before
    await room.auth.change_user(admin, user_id, UserChange(status="active"))
    with pytest.raises(ResetInvalid):
        await room.auth.confirm_reset(somebody(), set_anew(token))


async def test_a_reset_lifts_the_lock_of_the_account(room: AuthRoom) -> None:
    await room.register("anna")
    for _ in range(CHEAP.lockout_free + 1):
        with pytest.raises(BadCredentials):
            await room.log_in("anna", password="wrong")
    await room.auth.confirm_reset(somebody(), set_anew(await ask(room)))
    assert (await room.log_in("anna", password=BETTER)).access_token


async def test_no_token_and_no_address_lies_in_the_file(room: AuthRoom) -> None:
    await room.service.postman.stop()
    await room.register("anna")
    await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    (record,) = await room.storage.stores.letters.due(room.clock.now_us(), 10)
    stored = b"".join(file.read_bytes() for file in room.folder.glob("auth.db*"))
    assert b"swp1." not in stored
    assert b"anna@example.org" not in stored
    token = await token_in_last_letter(room)
    assert record.letter_id
    assert token.encode() not in b"".join(file.read_bytes() for file in room.folder.glob("auth.db*"))


# ---- letters


async def test_a_letter_that_could_not_go_is_there_after_a_restart(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path)
    await room.open()
    await room.register("anna")
    (tmp_path / "outbox").write_text("a file in the folder's place")
    await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    assert await room.service.postman.deliver() == 0
    await room.close()
    (tmp_path / "outbox").unlink()
    room.advance(3_000)
    await room.open()
    assert len(await room.letters()) == 1
    await room.close()


class Refusing:
    async def forget(self, address: str) -> int:
        return 0

    async def find(self, words: Sequence[str]) -> int:
        return 0

    async def send(self, letter: Letter) -> None:
        raise MailRefused("550")

    async def check(self) -> None: ...


async def test_a_letter_refused_for_good_is_dropped_and_told(room: AuthRoom) -> None:
    await room.service.postman.stop()
    await room.register("anna")
    await room.auth.reset_password(somebody(), ResetRequest(email="anna@example.org"))
    room.service.postman._mailer = Refusing()
    assert await room.service.postman.deliver() == 0
    assert not await room.storage.stores.letters.due(room.clock.now_us() + 10**15, 10)
    assert (await room.events())[-1] == "auth.letter.dropped"


@pytest.mark.parametrize(
    ("name", "greeted"),
    [
        ("Anna O'Neil-Öz, Dr. med.", "Hello Anna O'Neil-Öz, Dr. med.,"),
        ("Anna\n\tB.", "Hello Anna B.,"),
        ("you won: https://thief.example/", "Hello,"),
        ("look at thief.example now", "Hello,"),
        ("your account was locked " * 5, "Hello,"),
        ("\n", "Hello,"),
    ],
)
async def test_a_name_in_a_letter_is_a_name(room: AuthRoom, name: str, greeted: str) -> None:
    victim = Form(email="victim@example.org", password=PASSWORD, display_name=name)
    await room.auth.register(somebody(), victim)
    await room.auth.confirm_reset(somebody(), set_anew(await ask(room, "victim")))
    assert [letter.get_content().splitlines()[0] for letter in await room.letters()] == [greeted] * 2


class Stumbling(Refusing):
    """Fails at the first letter as nobody foresaw."""

    def __init__(self) -> None:
        self.went: list[str] = []
        self.first = ""

    async def send(self, letter: Letter) -> None:
        self.first = self.first or letter.letter_id
        if letter.letter_id == self.first:
            raise AttributeError("a fault of ours")
        self.went.append(letter.to)


async def test_a_letter_that_can_not_be_written_does_not_keep_others_waiting(room: AuthRoom) -> None:
    await room.service.postman.stop()
    await room.register("anna")
    await room.register("bob")
    for name in ("anna", "bob"):
        await room.auth.reset_password(somebody(), ResetRequest(email=f"{name}@example.org"))
        room.advance(1)
    room.service.postman._mailer = mailer = Stumbling()
    assert await room.service.postman.deliver() == 1
    assert mailer.went == ["bob@example.org"]
    assert len(await room.storage.stores.letters.due(room.clock.now_us() + 10**15, 10)) == 1, "it is tried again"


def test_a_letter_can_not_carry_headers() -> None:
    for to in ("a@example.org\r\nBcc: b@example.org", "a@example.org\nx: y"):
        with pytest.raises(ValueError, match="headers"):
            Letter(letter_id="x", to=to, subject="s", text="t", at_us=0)


# ---- invitations


@pytest.fixture(params=WIRINGS)
async def closed(request: Any, tmp_path: Path) -> AsyncIterator[tuple[AuthRoom, Caller]]:
    """A room where people come in by invitation, and its owner."""
    opened = AuthRoom(tmp_path, wiring=request.param)
    await opened.open()
    owner, _ = await opened.enter("boss")
    await opened.close()
    opened.config = msgspec.structs.replace(CHEAP, registration="invite", invitations_per_tenant=3)
    await opened.open()
    yield opened, owner
    await opened.close()


async def invite(room: AuthRoom, by: Caller, name: str, **more: Any) -> tuple[str, str]:
    made = await room.auth.invite(by, NewInvitation(email=f"{name}@example.org", **more))
    return made.invitation_id, await token_in_last_letter(room)


async def test_an_invitation_lets_one_person_in_once(closed: tuple[AuthRoom, Caller]) -> None:
    room, owner = closed
    with pytest.raises(RegistrationClosed):
        await room.register("anna")
    _, token = await invite(room, owner, "anna", role="auditor")
    with pytest.raises(InvitationInvalid):
        await room.auth.register(somebody(), form("otto", token))
    with pytest.raises(InvitationInvalid):
        await room.auth.register(somebody(), form("anna", token, tenant="elsewhere"))
    user = (await room.auth.register(somebody(), form("anna", token))).user
    assert (user.role, user.tenant_id) == (Role.AUDITOR, owner.tenant_id)
    with pytest.raises(InvitationInvalid):
        await room.auth.register(somebody(), form("anna", token))
    assert (await room.auth.invitations(owner, Page())).items == []
    with pytest.raises(EmailTaken):
        await room.auth.invite(owner, NewInvitation(email="anna@example.org"))
    assert {"auth.invitation.added", "auth.user.registered"} <= set(await room.events())


async def test_racing_registrations_by_one_invitation_make_one_user(closed: tuple[AuthRoom, Caller]) -> None:
    room, owner = closed
    _, token = await invite(room, owner, "anna")
    answers = await asyncio.gather(
        *(room.auth.register(somebody(), form("anna", token)) for _ in range(8)), return_exceptions=True
    )
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert all(isinstance(answer, Problem) for answer in answers if isinstance(answer, BaseException))


async def test_a_newer_invitation_replaces_the_older_and_withdrawing_ends_it(closed: tuple[AuthRoom, Caller]) -> None:
    room, owner = closed
    _, older = await invite(room, owner, "anna")
    invitation_id, newer = await invite(room, owner, "ANNA")
    (listed,) = (await room.auth.invitations(owner, Page())).items
    assert (listed.invitation_id, listed.email) == (invitation_id, "ANNA@example.org")
    await room.auth.withdraw_invitation(owner, invitation_id)
    for token in (older, newer):
        with pytest.raises(InvitationInvalid):
            await room.auth.register(somebody(), form("anna", token))
    with pytest.raises(InvitationNotFound):
        await room.auth.withdraw_invitation(owner, invitation_id)


async def test_invitations_expire_and_are_counted(closed: tuple[AuthRoom, Caller]) -> None:
    room, owner = closed
    _, token = await invite(room, owner, "anna", expires_in_s=60)
    room.advance(60)
    with pytest.raises(InvitationInvalid):
        await room.auth.register(somebody(), form("anna", token))
    for name in ("b", "c", "e"):
        await invite(room, owner, name)
    with pytest.raises(QuotaExceeded):
        await invite(room, owner, "d")
    assert sorted(item.email for item in (await room.auth.invitations(owner, Page())).items) == [
        "b@example.org", "c@example.org", "e@example.org"
    ]  # fmt: skip
    first = await room.auth.invitations(owner, Page(limit=2))
    assert len(first.items) == 2
    assert len((await room.auth.invitations(owner, Page(limit=2, cursor=first.next_cursor))).items) == 1


async def test_an_invitation_is_as_good_as_who_gave_it(closed: tuple[AuthRoom, Caller]) -> None:
    room, owner = closed
    admin_id = await room.add(owner, "admin", "admin")
    admin = room.caller(await room.log_in("admin"))
    with pytest.raises(Forbidden):
        await room.auth.invite(admin, NewInvitation(email="anna@example.org", role="owner"))
    _, token = await invite(room, admin, "anna", role="admin")
    await room.auth.change_user(owner, admin_id, UserChange(role="member"))
    with pytest.raises(InvitationInvalid):
        await room.auth.register(somebody(), form("anna", token))
    member = room.caller(await room.log_in("admin"))
    with pytest.raises(Forbidden):
        await room.auth.invite(member, NewInvitation(email="x@example.org"))


# ---- where letters lead


async def test_letters_lead_to_the_address_people_reach_the_installation_at(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path, public_url="http://127.0.0.1:4700")
    await room.open()
    owner, _ = await room.enter("olga")
    await room.auth.invite(owner, NewInvitation(email="ivo@example.org"))
    await room.auth.reset_password(somebody(), ResetRequest(email="olga@example.org"))
    invitation, reset = sorted(
        (letter.get_content() for letter in await room.letters()), key=lambda text: "swp1." in text
    )
    await room.close()
    assert "http://127.0.0.1:4700/console#/register?invitation=swi1." in invitation
    assert "tenant" not in invitation, "who is in the default tenant names none"
    assert "http://127.0.0.1:4700/console#/reset?token=swp1." in reset
