"""Passkeys on the pages of a sign-in for an app, with an authenticator in software: each answer counts on its page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from html import escape
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.contracts.openid import NewClient, PageRefused
from sealwire.contracts.passkeys import PasskeyLoginStart
from sealwire.contracts.webauthn import RequestOptions
from sealwire.kit.caller import Caller
from sealwire.services.auth.openid_pages import Offer, login
from sealwire.services.auth.openid_signin import Browser, Outcome, Sent, Shown
from sealwire.testing.auth_room import CHEAP, PASSWORD, AuthRoom, somebody
from sealwire.testing.authenticator import Bent, SoftAuthenticator
from sealwire.testing.clock import ManualClock
from sealwire.testing.openid_app import Page as HtmlPage

ORIGIN = "https://sealwire.local"
REDIRECT = "https://app.example/cb"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(b"v" * 43).digest()).rstrip(b"=").decode()
FIRST, SECOND = Browser(session="", browser="b1"), Browser(session="", browser="b2")


class Stage(AuthRoom):
    """Auth with an owner, an app, and anna, who has a passkey."""

    anna: Caller
    device: SoftAuthenticator

    async def people(self) -> None:
        """Let everybody in."""
        owner, _ = await self.enter("owner")
        made = await self.auth.add_client(owner, NewClient(name="App", redirect_uris=[REDIRECT]))
        self.client_id = made.client.client_id
        self.anna, self.device, self.recovery = await self.person("anna")

    async def person(self, name: str, *, tenant: str | None = None) -> tuple[Caller, SoftAuthenticator, list[str]]:
        """Return somebody with a passkey."""
        caller, _ = await self.enter(name, tenant=tenant)
        device = SoftAuthenticator(ORIGIN)
        added = await self.auth.passkey_register(
            caller, device.create(await self.auth.passkey_register_options(caller))
        )
        return caller, device, added.recovery_codes

    async def begin(self, browser: Browser = FIRST, **params: str) -> Outcome:
        """Ask for a code."""
        wanted = {
            "client_id": self.client_id, "redirect_uri": REDIRECT, "response_type": "code", "scope": "openid",
            "code_challenge": CHALLENGE, "code_challenge_method": "S256", **params,
        }  # fmt: skip
        return await self.service.openid.sign_in.begin(somebody(), wanted, browser)

    async def login(self, form: dict[str, str], browser: Browser = FIRST) -> Outcome:
        """Send the login form."""
        return await self.service.openid.sign_in.login(somebody(), form, browser)

    async def password(self) -> Outcome:
        """Log in by password as far as that goes."""
        plain = HtmlPage(shown(await self.begin()).html.decode()).form("/login").fields
        return await self.login({**plain, "email": "anna@example.org", "password": PASSWORD})

    async def enter_by_passkey(self) -> Browser:
        """Return the browser of anna, who has signed in by passkey."""
        outcome = await self.login(answered(await self.begin(), "/login", self.device))
        assert outcome.cookie
        return Browser(session=outcome.cookie, browser="b1")

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        assert isinstance(self.clock, ManualClock)
        self.clock.advance(seconds)

    def sessions(self) -> int:
        """Return how many sessions were ever opened."""
        ((count,),) = self.storage.db.read("SELECT count(*) FROM session")
        return int(count)


def shown(outcome: Outcome) -> Shown:
    assert isinstance(outcome, Shown)
    return outcome


def options(outcome: Outcome, ending: str) -> RequestOptions | None:
    """Return what a page asks of an authenticator; None when it offers no passkey. What it says of scripts fits."""
    page = HtmlPage(shown(outcome).html.decode())
    form = page.passkey(ending)
    assert ("script" in page.elements) == shown(outcome).scripted == (form is not None)
    if form is None:
        return None
    assert form.data["origin"] == ORIGIN
    return msgspec.json.decode(form.data["options"], type=RequestOptions)


def answered(outcome: Outcome, ending: str, device: SoftAuthenticator, bent: Bent | None = None) -> dict[str, str]:
    """Return the form of a page as the script sends it."""
    asked = options(outcome, ending)
    form = HtmlPage(shown(outcome).html.decode()).passkey(ending)
    assert asked is not None
    assert form is not None
    proof = device.get(asked, bent or Bent())
    return {**form.fields, "assertion": msgspec.json.encode(proof).decode()}


def refused(outcome: Outcome) -> bool:
    """Tell whether a page asks once more, with a new challenge, and lets nobody in."""
    return isinstance(outcome, Shown) and outcome.status == 401 and outcome.cookie is None


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, config=CHEAP)
    await stage.open()
    await stage.people()
    yield stage
    await stage.close()


async def test_a_passkey_alone_signs_in_for_an_app(stage: Stage) -> None:
    asked = options(await stage.begin(), "/login")
    assert asked is not None
    assert (asked.rp_id, asked.allow_credentials, asked.user_verification) == ("sealwire.local", [], "required")
    browser = await stage.enter_by_passkey()
    consent = shown(await stage.begin(browser))
    assert b"anna@example.org" in consent.html
    assert not consent.scripted
    decided = {**HtmlPage(consent.html.decode()).form("/consent").fields, "decision": "allow"}
    outcome = await stage.service.openid.sign_in.decide(somebody(), decided, browser)
    assert isinstance(outcome, Sent)
    assert "code=" in outcome.url


async def test_a_passkey_finishes_a_login_by_password(stage: Stage) -> None:
    step = await stage.password()
    asked = options(step, "/code")
    assert asked is not None
    assert len(asked.allow_credentials) == 1
    form = answered(step, "/code", stage.device)
    sign_in = stage.service.openid.sign_in
    assert (await sign_in.code(somebody(), form, FIRST)).cookie
    assert refused(await sign_in.code(somebody(), form, FIRST)), "used before"
    # without a script: a recovery code does as before
    plain = HtmlPage(shown(await stage.password()).html.decode()).form("/code").fields
    assert (await sign_in.code(somebody(), {**plain, "code": stage.recovery[0]}, FIRST)).cookie


async def test_a_passkey_confirms_who_is_signed_in(stage: Stage) -> None:
    browser, sign_in = await stage.enter_by_passkey(), stage.service.openid.sign_in
    before = stage.sessions()
    stage.advance(60)
    confirm = await stage.begin(browser, prompt="login")
    form = answered(confirm, "/confirm", stage.device)
    done = shown(await sign_in.confirm(somebody(), form, browser))
    assert (done.status, done.scripted) == (200, False)
    assert b"Allow" in done.html
    assert stage.sessions() == before, "the session stays"
    stage.advance(60)
    again = await stage.begin(browser, prompt="login")
    replayed = {**form, "request": HtmlPage(shown(again).html.decode()).form("/confirm").fields["request"]}
    assert refused(await sign_in.confirm(somebody(), replayed, browser))
    assert refused(await sign_in.confirm(somebody(), form, browser)), "spent"


@pytest.mark.parametrize("ending", ["/login", "/code", "/confirm"])
async def test_an_answer_counts_on_its_page_and_once(stage: Stage, ending: str) -> None:
    sign_in = stage.service.openid.sign_in
    browser, again = FIRST, stage.begin
    if ending == "/confirm":
        browser = await stage.enter_by_passkey()

    async def page() -> Outcome:
        if ending == "/code":
            return await stage.password()
        stage.advance(1)
        return await again(browser, prompt="login")

    send: Callable[..., Any] = {"/login": sign_in.login, "/code": sign_in.code, "/confirm": sign_in.confirm}[ending]
    first, second = await page(), await page()
    form = answered(first, ending, stage.device)
    elsewhere = answered(second, ending, stage.device)
    count = stage.sessions()
    # another browser can't send this page's form, with its own request it is another challenge
    other = Browser(session=browser.session, browser="b2")
    with pytest.raises(PageRefused):
        await send(somebody(), form, other)
    theirs = shown(await stage.begin(SECOND))
    request = HtmlPage(theirs.html.decode()).form("/login").fields["request"]
    assert refused(await send(somebody(), {**form, "request": request}, other))
    # the same browser, another request
    assert refused(await send(somebody(), {**form, "request": elsewhere["request"]}, browser))
    # nor what is no answer at all, or signed by nobody or on another page
    for text in ("x", "{}", "[" * 9_000, '{"id": 1}', "\ud800"):
        assert refused(await send(somebody(), {**form, "assertion": text}, browser)), text
    for bent in (Bent(tampered="signature"), Bent(origin="https://evil.example"), Bent(verified=False)):
        outcome = await send(somebody(), answered(await page(), ending, stage.device, bent), browser)
        assert refused(outcome), bent
    assert stage.sessions() == count
    # what was refused for its place was not used up, and a refusal offers the next try
    outcome = await send(somebody(), form, browser)
    assert not refused(outcome)
    assert refused(await send(somebody(), form, browser)), "once"
    assert stage.sessions() == count + (ending != "/confirm")


async def test_a_refused_page_can_be_tried_again(stage: Stage) -> None:
    page = await stage.begin()
    stage.advance(stage.config.passkey_ttl_s + 1)
    late = await stage.login(answered(page, "/login", stage.device))
    assert refused(late)
    assert (await stage.login(answered(late, "/login", stage.device))).cookie


async def test_to_look_at_a_page_writes_nothing(stage: Stage) -> None:
    browser = await stage.enter_by_passkey()
    stage.advance(60)
    code = await stage.password()
    await stage.hush()
    rows = stage.storage.db.stats.rows
    for _ in range(20):
        assert options(await stage.begin(SECOND), "/login")
        assert options(await stage.begin(browser, prompt="login"), "/confirm")
        assert shown(await stage.begin(browser)).html
        assert shown(await stage.service.openid.apps.show(somebody(), {}, browser)).html
    assert stage.storage.db.stats.rows == rows
    assert options(code, "/code")


async def test_a_challenge_of_the_api_is_not_answered_on_a_page(stage: Stage) -> None:
    page = await stage.begin()
    form = answered(page, "/login", stage.device)
    from_api = stage.device.get(await stage.auth.passkey_login_options(somebody(), PasskeyLoginStart()))
    count = stage.sessions()
    assert refused(await stage.login({**form, "assertion": msgspec.json.encode(from_api).decode()}))
    assert stage.sessions() == count


async def test_a_passkey_of_another_tenant_opens_no_session(stage: Stage) -> None:
    _, device, _ = await stage.person("eve", tenant="selftest-other")
    count = stage.sessions()
    assert refused(await stage.login(answered(await stage.begin(), "/login", device)))
    assert stage.sessions() == count, "not even one that is ended at once"
    # not for who is signed in here already either: that session stays
    browser = await stage.enter_by_passkey()
    page = await stage.begin(browser, id_token_hint="of somebody else")
    assert refused(await stage.login(answered(page, "/login", device), browser))
    assert b"anna@example.org" in shown(await stage.begin(browser)).html


async def test_a_suspended_passkey_is_neither_offered_nor_taken(stage: Stage) -> None:
    browser, sign_in = await stage.enter_by_passkey(), stage.service.openid.sign_in
    stage.advance(60)
    step, confirm = await stage.password(), await stage.begin(browser, prompt="login")
    at_code = answered(step, "/code", stage.device)
    at_confirm = answered(confirm, "/confirm", stage.device)
    assert refused(await stage.login(answered(await stage.begin(), "/login", stage.device, Bent(sign_count=1))))
    (kept,) = (await stage.auth.passkeys(stage.anna)).items
    assert kept.status == "suspended"
    for answer, outcome in (
        ("/code", await sign_in.code(somebody(), at_code, FIRST)),
        ("/confirm", await sign_in.confirm(somebody(), at_confirm, browser)),
    ):
        assert refused(outcome), answer
        assert options(outcome, answer) is None, answer
    assert refused(await stage.login(answered(await stage.begin(), "/login", stage.device)))


@pytest.mark.parametrize(
    "settings",
    [
        {"issuer": "http://192.0.2.7:3000"},
        {"issuer": "http://127.0.0.1:3000"},
        {"passkey_origins": ("https://chat.sealwire.local",), "passkey_rp_id": "sealwire.local"},
    ],
)
async def test_where_passkeys_do_not_work_none_is_offered(tmp_path: Path, settings: dict[str, Any]) -> None:
    room = Stage(tmp_path, config=msgspec.structs.replace(CHEAP, **settings))
    await room.open()
    try:
        owner, _ = await room.enter("owner")
        made = await room.auth.add_client(owner, NewClient(name="App", redirect_uris=[REDIRECT]))
        room.client_id = made.client.client_id
        assert options(await room.begin(), "/login") is None
    finally:
        await room.close()


def test_what_is_told_to_the_script_is_escaped() -> None:
    evil = """"><script>alert('1')</script>"""
    html = login(app="A", request="r", email="", passkey=Offer(options=evil, challenge="c", origin=evil)).decode()
    assert html.count(escape(evil)) == 2
    assert html.count("<script") == 1
