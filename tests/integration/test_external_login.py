"""Life of a sign-in through an identity provider, which is another Sealwire: docs/life/openid.md, second part."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from sealwire.contracts.auth_terms import CSRF_HEADER
from sealwire.testing.free_ports import free_port_base
from sealwire.testing.installation import PASSWORD, Installation, Person
from sealwire.testing.openid_app import PageBrowser

NETWORKS = {"SEALWIRE_AUTH__OUTWARD_NETWORKS": "127.0.0.0/8"}
DEADLINE_S = 30.0
SECRET = "swc1.not-shown-to-anybody"


class Pair:
    """A provider and the installation that trusts it."""

    def __init__(self, folder: Any) -> None:
        self.provider = Installation(folder / "provider", env=NETWORKS).start()
        self.boss = Person(self.provider.url, "boss")
        env = dict(NETWORKS)
        self.site = Installation(folder / "site", env=env)
        nowhere = free_port_base()
        settings = [
            {**self._registered("open"), "sign_up": True, "trust_email": True, "label": "The other one"},
            {**self._registered("strict"), "sign_up": True},
            self._registered("closed"),
            {"name": "gone", "issuer": f"http://127.0.0.1:{nowhere}", "client_id": "x", "client_secret": SECRET},
        ]
        env["SEALWIRE_AUTH__PROVIDERS"] = json.dumps(settings)
        self.site.start()
        self.owner = Person(self.site.url, "owner")

    def _registered(self, name: str) -> dict[str, Any]:
        callback = f"{self.site.url}/api/v1/auth/providers/{name}/callback"
        made = self.boss.http.post("/auth/clients", json={"name": name, "redirect_uris": [callback]}).json()
        return {
            "name": name,
            "issuer": self.provider.url,
            "client_id": made["client"]["client_id"],
            "client_secret": made["client_secret"],
        }


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"))
    yield made
    made.site.kill()
    made.provider.kill()


def patiently(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask again while the answer is an outage, as `Retry-After` says: a machine at its limit makes some."""
    deadline = time.monotonic() + DEADLINE_S
    while (answer := ask()).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.5)
    return answer


class Visitor:
    """Somebody at a browser. Cookies know no ports, so they have one jar here and one there."""

    def __init__(self, pair: Pair, person: Person | None = None) -> None:
        self.pair = pair
        self.person = person or Person(pair.provider.url, "vera")
        self.here = httpx.Client(base_url=pair.site.url + "/api/v1", timeout=20)
        self.there = PageBrowser(pair.provider.url)

    def to_provider(self, name: str, **params: str) -> str:
        """Go to the provider and agree; return the address it sends back to."""
        begun = patiently(lambda: self.here.get(f"/auth/providers/{name}/start", params=params))
        assert begun.status_code == 303, begun.text
        self.there.open(begun.headers["location"])
        if self._is_shown("Password"):
            self.there.send("/login", email=self.person.email, password=PASSWORD)
        if self._is_shown("Allow"):
            self.there.send("/consent", decision="allow")
        return self.there.sent_to

    def _is_shown(self, text: str) -> bool:
        answer = self.there.answer
        return answer is not None and answer.status_code == 200 and text in self.there.page.text

    def through(self, name: str, **params: str) -> httpx.Response:
        """Go all the way, to the page that the callback answers with."""
        back = self.to_provider(name, **params)
        return patiently(lambda: self.here.get(back))

    def log_in(self, **body: Any) -> httpx.Response:
        """Use what the provider proved."""
        return self.here.post("/auth/external/login", json=body)


def test_a_person_signs_up_and_in_through_a_provider(pair: Pair) -> None:
    vera = Visitor(pair)
    listed = vera.here.get("/auth/providers").json()["items"]
    assert [item["name"] for item in listed] == ["open", "strict", "closed", "gone"]
    assert listed[0]["label"] == "The other one"
    begun = patiently(lambda: vera.here.get("/auth/providers/open/start"))
    asked = dict(parse_qsl(urlsplit(begun.headers["location"]).query))
    assert asked["code_challenge_method"] == "S256"
    assert asked["nonce"]
    assert asked["state"]
    cookie = begun.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert asked["state"].lower() not in cookie, "sealed"
    # the whole way, and on to the page that asked
    back = vera.through("open", return_to="/console?x=1")
    assert (back.status_code, back.headers["location"]) == (303, "/console?x=1")
    answer = vera.log_in(cookie=True)
    assert answer.status_code == 200, answer.text
    grant = answer.json()
    assert grant["user"]["email"] == vera.person.email
    assert grant["user"]["role"] == "member"
    assert (
        httpx.get(
            pair.site.url + "/api/v1/auth/me", headers={"authorization": f"Bearer {grant['access_token']}"}
        ).status_code
        == 200
    )
    assert vera.here.get("/auth/me").json()["user_id"] == grant["user"]["user_id"], "the cookie, as asked for"
    # a proof is used once
    assert vera.log_in().status_code == 401
    # the next time it is the same person
    again = Visitor(pair, vera.person)
    again.through("open")
    assert again.log_in().json()["user"]["user_id"] == grant["user"]["user_id"]
    (item,) = again.here.get("/auth/identities", headers={"authorization": f"Bearer {grant['access_token']}"}).json()[
        "items"
    ]
    assert (item["provider"], item["issuer"]) == ("open", pair.provider.url)


def test_an_address_links_nothing(pair: Pair) -> None:
    """Whoever claims somebody's address at a provider is not that somebody."""
    vera = Visitor(pair)
    victim = httpx.post(
        pair.site.url + "/api/v1/auth/register",
        json={"email": vera.person.email, "password": PASSWORD, "display_name": "Victim"},
    )
    assert victim.status_code == 201
    vera.through("open")
    taken = vera.log_in()
    assert (taken.status_code, taken.json()["code"]) == (409, "email_taken")
    # where nobody may sign up, or the address is not verified, nobody does
    for name in ("closed", "strict"):
        stranger = Visitor(pair)
        stranger.through(name)
        refused = stranger.log_in()
        assert (refused.status_code, refused.json()["code"]) == (403, "identity_unknown")


def test_linking_is_done_from_inside_the_account(pair: Pair) -> None:
    vera = Visitor(pair)
    vera.through("closed")
    nobody = vera.here.post("/auth/external/link", json={})
    assert nobody.status_code == 401, "nobody is logged in"
    anna = Person(pair.site.url, "anna")
    token = {"authorization": f"Bearer {anna.token}"}
    linked = vera.here.post("/auth/external/link", json={}, headers=token)
    assert linked.status_code == 200, linked.text
    assert vera.here.post("/auth/external/link", json={}, headers=token).status_code == 401, "used up"
    # now it is a way in, to this account and no other
    again = Visitor(pair, vera.person)
    again.through("closed")
    assert again.log_in().json()["user"]["user_id"] == anna.user_id
    bert = Person(pair.site.url, "bert")
    third = Visitor(pair, vera.person)
    third.through("closed")
    other = third.here.post("/auth/external/link", json={}, headers={"authorization": f"Bearer {bert.token}"})
    assert (other.status_code, other.json()["code"]) == (409, "identity_taken")
    # and no more once it is unlinked
    identity_id = linked.json()["identity_id"]
    assert bert.http.delete(f"/auth/identities/{identity_id}").json()["code"] == "identity_not_found"
    assert anna.http.delete(f"/auth/identities/{identity_id}").status_code == 200
    assert anna.http.get("/auth/identities").json()["items"] == []
    last = Visitor(pair, vera.person)
    last.through("closed")
    assert last.log_in().json()["code"] == "identity_unknown"


def test_a_disabled_account_stays_out_whoever_vouches(pair: Pair) -> None:
    vera = Visitor(pair)
    vera.through("open")
    user_id = vera.log_in().json()["user"]["user_id"]
    assert pair.owner.http.patch(f"/auth/users/{user_id}", json={"status": "disabled"}).status_code == 200
    again = Visitor(pair, vera.person)
    again.through("open")
    assert again.log_in().status_code == 401


def test_answers_are_held_against_the_browser_that_asked(pair: Pair) -> None:
    vera, thief = Visitor(pair), Visitor(pair)
    back = vera.to_provider("open")
    # the thief's code in the victim's browser, and the victim's in the thief's: state is in the cookie
    assert thief.here.get(back).status_code == 401, "no flow of this browser"
    theirs = thief.to_provider("open")
    assert vera.here.get(theirs).status_code == 401, "login CSRF"
    # mix-up: another issuer answers, or another provider's callback is used
    assert vera.here.get(back.replace("iss=http", "iss=https")).status_code == 401
    assert vera.here.get(back.split("&iss=")[0]).status_code == 401, "this provider always says who it is"
    assert vera.here.get(back.replace("/open/", "/closed/")).status_code == 401
    # what the provider refuses is no outage
    refused = patiently(lambda: vera.here.get(back.replace("code=swo1.", "code=swo1.x")))
    assert refused.status_code == 401
    assert vera.log_in().status_code == 401, "nothing was proved"
    assert patiently(lambda: vera.here.get(back)).status_code == 200, "none of that used it up"
    assert vera.log_in().status_code == 200
    # no place elsewhere to return to
    for place in ("//evil.example", "https://evil.example", "/\\evil.example", "/x\r\ny", "javascript:alert(1)"):
        other = Visitor(pair, vera.person)
        shown = other.through("open", return_to=place)
        assert (shown.status_code, "location" in shown.headers) == (200, False), place
    # a form of another site can't finish it
    last = Visitor(pair, vera.person)
    last.through("open")
    form = last.here.post("/auth/external/login", data={"cookie": "true"}, headers={CSRF_HEADER: "1"})
    assert form.status_code == 415


def test_an_outage_of_the_provider_is_an_outage(pair: Pair) -> None:
    vera = Visitor(pair)
    away = vera.here.get("/auth/providers/gone/start")
    assert away.status_code == 503
    assert away.headers["retry-after"]
    assert SECRET not in away.text
    assert vera.here.get("/auth/providers/nobody/start").status_code == 404
    back = vera.to_provider("open")
    pair.provider.kill()
    try:
        assert vera.here.get(back).status_code == 503, "never a word about the person"
        assert pair.owner.http.get("/auth/me").status_code == 200, "and nobody else notices"
    finally:
        pair.provider.start()
    # the same address once more: nothing was lost, not even the code, which is good for a minute
    began = time.monotonic()
    while (late := vera.here.get(back)).status_code == 503:
        assert time.monotonic() - began < 60, "it never came back"
        time.sleep(0.1)
    if time.monotonic() - began < 30:
        assert late.status_code == 200
        assert vera.log_in().json()["user"]["email"] == vera.person.email
