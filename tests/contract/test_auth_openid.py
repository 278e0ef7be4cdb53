"""OpenID Connect in auth: what time and races may not change (the flow: tests/integration/test_openid.py)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest

from sealwire.contracts.custody import SubjectErasure, SubjectQuery
from sealwire.contracts.openid import NewClient, PageRefused
from sealwire.contracts.users import UserChange
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.codec import Page
from sealwire.kit.problem import Unauthenticated
from sealwire.services.auth.openid_browser import browser_hash
from sealwire.services.auth.openid_courier import AT_ONCE, MOST_ATTEMPTS
from sealwire.services.auth.openid_errors import OAuthRefused
from sealwire.services.auth.openid_ports import Answer, OutwardRefused
from sealwire.services.auth.openid_signin import Browser, Sent, Shown
from sealwire.services.auth.openid_tokens import LOGOUT_TYP
from sealwire.testing.auth_room import CHEAP, PASSWORD, AuthRoom, somebody
from sealwire.testing.clock import ManualClock
from sealwire.testing.openid_app import Page as HtmlPage

REDIRECT = "https://app.example/cb"
EARS = "https://app.example/logout"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


class World:
    """The way out, as a test wants it: `fault` is raised, else `status` is answered."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, str]]] = []
        self.status = 200
        self.fault: Exception | None = None

    async def get(self, url: str, bearer: str = "") -> Answer:
        raise AssertionError("nobody asks for documents here")

    async def post(self, url: str, form: Mapping[str, str], basic: tuple[str, str] | None = None) -> Answer:
        if self.fault is not None:
            raise self.fault
        self.posts.append((url, dict(form)))
        return Answer(status=self.status, body=b"", content_type="")


class Stage(AuthRoom):
    """Auth with an owner, an app and anna at a browser."""

    owner: Caller
    anna: Caller

    async def people(self) -> None:
        """Let everybody in."""
        self.owner, _ = await self.enter("owner")
        self.anna, _ = await self.enter("anna")
        new = NewClient(name="App", redirect_uris=[REDIRECT], backchannel_logout_uri=EARS, scopes=("openid", "email"))
        made = await self.auth.add_client(self.owner, new)
        self.client_id, self.secret = made.client.client_id, made.client_secret
        self.browser = Browser(session="", browser="b1")

    @property
    def time(self) -> ManualClock:
        """The clock, to be moved."""
        assert isinstance(self.clock, ManualClock)
        return self.clock

    async def authorize(self, **params: str) -> Sent | Shown:
        """Ask for a code; answer what is asked as anna."""
        wanted = {
            "client_id": self.client_id, "redirect_uri": REDIRECT, "response_type": "code", "nonce": "n1",
            "scope": "openid email", "code_challenge": CHALLENGE, "code_challenge_method": "S256", **params,
        }  # fmt: skip
        sign_in = self.service.openid.sign_in
        outcome = await sign_in.begin(somebody(), wanted, self.browser)
        if isinstance(outcome, Shown) and "/login" in str(outcome.html):
            answered = {**fields(outcome, "/login"), "email": "anna@example.org", "password": PASSWORD}
            outcome = await sign_in.login(somebody(), answered, self.browser)
            assert outcome.cookie
            self.browser = Browser(session=outcome.cookie, browser=self.browser.browser)
        if isinstance(outcome, Shown):
            decided = {**fields(outcome, "/consent"), "decision": "allow"}
            outcome = await sign_in.decide(somebody(), decided, self.browser)
        return outcome

    async def code(self) -> str:
        """Return a code for anna."""
        outcome = await self.authorize()
        assert isinstance(outcome, Sent)
        return told(outcome)["code"]

    async def token(self, **form: str) -> dict[str, Any]:
        """Ask the token endpoint."""
        wanted = {"grant_type": "authorization_code", "redirect_uri": REDIRECT, "code_verifier": VERIFIER, **form}
        wanted |= {"client_id": self.client_id, "client_secret": self.secret}
        return await self.service.openid.token(somebody(), None, wanted)

    async def refused(self, **form: str) -> str:
        """Ask the token endpoint for what it has to refuse; return how."""
        with pytest.raises(OAuthRefused) as caught:
            await self.token(**form)
        return caught.value.error


def fields(shown: Shown, ending: str) -> dict[str, str]:
    return dict(HtmlPage(shown.html.decode()).form(ending).fields)


def told(sent: Sent) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(sent.url).query))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def stage(tmp_path: Path, world: World) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, config=CHEAP, outward=world)
    await stage.open()
    await stage.service.openid.courier.stop()  # a test delivers by itself
    await stage.people()
    yield stage
    await stage.close()


async def test_a_code_is_good_for_a_minute(stage: Stage) -> None:
    code = await stage.code()
    stage.time.advance(59)
    assert (await stage.token(code=code))["token_type"] == "Bearer"
    code = await stage.code()
    stage.time.advance(60)
    assert await stage.refused(code=code) == "invalid_grant"


async def test_of_many_who_redeem_a_code_at_once_one_gets_tokens_and_they_end(stage: Stage) -> None:
    code = await stage.code()
    outcomes = await asyncio.gather(*(stage.token(code=code) for _ in range(8)), return_exceptions=True)
    given = [outcome for outcome in outcomes if isinstance(outcome, dict)]
    assert len(given) == 1
    assert all(isinstance(o, OAuthRefused) and o.error == "invalid_grant" for o in outcomes if o not in given)
    assert await stage.refused(grant_type="refresh_token", refresh_token=given[0]["refresh_token"]) == "invalid_grant"


async def test_a_code_decided_before_a_deactivation_is_worth_nothing(stage: Stage) -> None:
    code = await stage.code()
    await stage.auth.change_user(stage.owner, stage.anna.user_id, UserChange(status="disabled"))
    assert await stage.refused(code=code) == "invalid_grant"
    await stage.auth.change_user(stage.owner, stage.anna.user_id, UserChange(status="active"))
    assert await stage.refused(code=code) == "invalid_grant", "its session has ended for good"


async def test_a_new_role_ends_no_sign_in_and_reaches_no_app(stage: Stage) -> None:
    token = await stage.token(code=await stage.code())
    await stage.auth.change_user(stage.owner, stage.anna.user_id, UserChange(role="guest"))
    assert await stage.service.openid.grants.userinfo(token["access_token"]) == {
        "sub": stage.anna.user_id, "email": "anna@example.org",
    }  # fmt: skip
    assert (await stage.token(grant_type="refresh_token", refresh_token=token["refresh_token"]))["scope"] == (
        "openid email"
    )


async def test_less_than_was_granted_is_given_and_more_changes_nothing(stage: Stage) -> None:
    token = await stage.token(code=await stage.code())
    again = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"]}
    assert await stage.refused(**again, scope="openid email profile") == "invalid_scope"
    assert isinstance(stage.clock, ManualClock)
    stage.clock.advance(120)  # past the grace in which a token may be repeated: it was not used up
    narrow = await stage.token(**again, scope="openid")
    assert narrow["scope"] == "openid"
    grants = stage.service.openid.grants
    assert await grants.userinfo(narrow["access_token"]) == {"sub": stage.anna.user_id}
    whole = await stage.token(grant_type="refresh_token", refresh_token=narrow["refresh_token"])
    assert whole["scope"] == "openid email", "less this time is not less for good (RFC 6749 section 6)"
    assert "email" in await grants.userinfo(whole["access_token"])
    bare = await stage.token(grant_type="refresh_token", refresh_token=whole["refresh_token"], scope="email")
    assert (bare["scope"], "id_token" in bare) == ("email", False)
    with pytest.raises(Unauthenticated):
        await grants.userinfo(bare["access_token"])


async def test_a_copy_that_asks_for_too_much_is_a_copy(stage: Stage) -> None:
    token = await stage.token(code=await stage.code())
    again = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"]}
    newest = await stage.token(**again)
    assert isinstance(stage.clock, ManualClock)
    stage.clock.advance(120)
    assert await stage.refused(**again, scope="openid profile") == "invalid_grant"
    assert await stage.refused(grant_type="refresh_token", refresh_token=newest["refresh_token"]) == "invalid_grant"


async def test_pages_are_for_their_browser_and_not_for_ever(stage: Stage) -> None:
    sign_in = stage.service.openid.sign_in
    params = {"client_id": stage.client_id, "redirect_uri": REDIRECT, "response_type": "code", "scope": "openid",
              "code_challenge": CHALLENGE, "code_challenge_method": "S256"}  # fmt: skip
    shown = await sign_in.begin(somebody(), params, stage.browser)
    assert isinstance(shown, Shown)
    form = {**fields(shown, "/login"), "email": "anna@example.org", "password": PASSWORD}
    for browser in (Browser(session="", browser="b2"), Browser(session="", browser="")):
        with pytest.raises(PageRefused):
            await sign_in.login(somebody(), form, browser)
    assert browser_hash("b1") not in shown.html.decode(), "sealed"
    stage.time.advance(16 * 60)
    with pytest.raises(PageRefused):
        await sign_in.login(somebody(), form, stage.browser)


async def test_cookies_of_the_pages_can_not_be_made(stage: Stage) -> None:
    await stage.authorize()
    good = stage.browser.session
    session_id = good.split(".")[1]
    for cookie in ("", "x", good[:-1], good + "x", f"sws1.{session_id}.{'A' * 43}", good.replace("sws1", "swr1")):
        stage.browser = Browser(session=cookie, browser="b1")
        outcome = await stage.service.openid.sign_in.begin(
            somebody(),
            {"client_id": stage.client_id, "redirect_uri": REDIRECT, "response_type": "code", "scope": "openid",
             "code_challenge": CHALLENGE, "code_challenge_method": "S256", "prompt": "none"},
            stage.browser,
        )  # fmt: skip
        assert isinstance(outcome, Sent)
        assert told(outcome)["error"] == "login_required", cookie


async def test_apps_are_told_once_whichever_way_a_session_ends(stage: Stage, world: World) -> None:
    courier = stage.service.openid.courier
    await stage.token(code=await stage.code())
    await stage.token(code=await stage.code())  # a second grant of the same app and session
    await stage.code()  # one that was never redeemed: the app has no session to end
    assert await courier.deliver() == 0
    await stage.auth.logout_all(stage.anna)
    assert await courier.deliver() == 1
    ((url, form),) = world.posts
    assert url == EARS
    header = msgspec.json.decode(base64.urlsafe_b64decode(form["logout_token"].split(".")[0] + "=="))
    assert header["typ"] == LOGOUT_TYP
    assert await courier.deliver() == 0


async def test_a_session_that_expires_is_told_of_too(stage: Stage, world: World) -> None:
    await stage.token(code=await stage.code())
    stage.time.advance(stage.config.session_idle_s + 1)
    await stage.service.openid.courier.deliver()
    assert len(world.posts) == 1


@pytest.mark.parametrize("fault", [OSError("away"), None])
async def test_an_app_that_is_away_is_told_again_later_each_time_and_then_given_up(
    stage: Stage, world: World, fault: Exception | None
) -> None:
    courier = stage.service.openid.courier
    await stage.token(code=await stage.code())
    await stage.auth.logout_all(stage.anna)
    world.fault, world.status = fault, 503
    waits = []
    for _ in range(4):
        waited_s = 0
        while await courier.deliver() == 0:
            stage.time.advance(1)
            waited_s += 1
        waits.append(waited_s)
    assert waits[0] == 0
    assert waits[1] > 0
    assert waits == sorted(waits)
    for _ in range(MOST_ATTEMPTS):
        stage.time.advance(1_000)
        await courier.deliver()
    stage.time.advance(86_400)
    assert await courier.deliver() == 0, "given up"


async def test_apps_that_never_answer_keep_no_other_from_being_told(stage: Stage, world: World) -> None:
    def queue(conn: Any) -> None:
        stuck = [(f"0-{number}", "https://tar.example/pit", number, 2) for number in range(3 * AT_ONCE)]
        for session_id, url, due_us, attempts in (*stuck, ("z", EARS, 1_000_000, 0)):
            row = (stage.client_id, session_id, "default", "somebody", url, due_us, attempts)
            conn.execute("INSERT INTO openid_notice VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    await stage.service.openid.courier.stop()
    await stage.storage.db.write(queue)
    await stage.service.openid.courier.deliver()
    assert EARS in [url for url, _ in world.posts], "who was not tried yet comes first"


async def test_an_address_that_may_not_be_called_is_not_tried_again(stage: Stage, world: World) -> None:
    await stage.token(code=await stage.code())
    await stage.auth.logout_all(stage.anna)
    world.fault = OutwardRefused("inside")
    assert await stage.service.openid.courier.deliver() == 1
    stage.time.advance(3_600)
    assert await stage.service.openid.courier.deliver() == 0


async def test_apps_are_told_of_a_person_who_is_erased(stage: Stage, world: World) -> None:
    token = await stage.token(code=await stage.code())
    compliance = service_caller("compliance", "default")
    exported, cursor = [], None
    while cursor is not None or not exported:
        page = await stage.auth.export_subject(compliance, stage.anna.user_id, SubjectQuery(cursor=cursor))
        exported += page.items
        cursor = page.next_cursor
    assert {"profile", "session", "consent"} <= {item.kind for item in exported}
    erasure = SubjectErasure(job_id="j1", pseudonym="p1")
    while not (await stage.auth.erase_subject(compliance, stage.anna.user_id, erasure)).done:
        pass
    left = stage.storage.db.read("SELECT (SELECT count(*) FROM openid_grant), (SELECT count(*) FROM openid_consent)")
    assert left == [(0, 0)]
    assert await stage.refused(grant_type="refresh_token", refresh_token=token["refresh_token"]) == "invalid_grant"
    world.status = 503
    assert await stage.service.openid.courier.deliver() == 1
    world.status = 200
    stage.time.advance(60)
    assert await stage.service.openid.courier.deliver() == 1
    assert len(world.posts) == 2
    assert stage.storage.db.read("SELECT count(*) FROM openid_notice") == [(0,)], "and then nothing is left of them"


async def test_codes_never_used_are_swept_and_apps_counted(stage: Stage) -> None:
    await stage.code()
    assert (await stage.auth.consents(stage.anna, Page())).items[0].client_id == stage.client_id
    stage.time.advance(2 * 86_400)
    await stage.service.upkeep.sweep()
    assert stage.storage.db.read("SELECT count(*) FROM openid_grant") == [(0,)]
    assert [c.client_id for c in (await stage.auth.clients(stage.owner, Page())).items] == [stage.client_id]
