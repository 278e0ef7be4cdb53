"""The path of docs/life/login.md, step by step, against a real installation."""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import Any

import httpx
import pyotp
import pytest

from sealwire.contracts.auth_terms import COOKIE_LOOPBACK, CSRF_HEADER
from sealwire.testing.installation import PASSWORD

STEP_S = 30


class Walker:
    """Somebody who walks the path, and keeps what they were given."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.email = f"walker-{secrets.token_hex(4)}@example.org"
        self.http = httpx.Client(base_url=url + "/api/v1", timeout=15)
        self.grant: dict[str, Any] = {}

    def call(self, verb: str, path: str, document: Any = None, *, token: str | None = None) -> httpx.Response:
        """Call with the newest access token, or with `token` ("" for none)."""
        used = self.grant.get("access_token", "") if token is None else token
        headers = {"authorization": f"Bearer {used}"} if used else {}
        return self.http.request(verb, path, json=document, headers=headers)

    def log_in(self, **members: Any) -> httpx.Response:
        """Send address and password."""
        return self.call("POST", "/auth/login", {"email": self.email, "password": PASSWORD, **members}, token="")

    def take(self, answer: httpx.Response) -> dict[str, Any]:
        """Take the tokens of an answer."""
        assert answer.status_code == 200, answer.text
        self.grant = answer.json()
        return self.grant


def claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


@pytest.fixture
def walker(installation, owner) -> Walker:
    walker = Walker(installation.url)
    document = {"email": walker.email, "password": PASSWORD, "display_name": "Walker"}
    registered = walker.call("POST", "/auth/register", document)
    assert registered.status_code == 201
    assert registered.json()["user"]["role"] == "member"
    assert registered.headers["cache-control"] == "no-store"
    return walker


def test_register_log_in_use_refresh_and_log_out(walker):
    # 1. registering: weak passwords are refused with a reason, a taken address too
    weak = {"email": "x" + walker.email, "password": "password12", "display_name": "X"}
    assert walker.call("POST", "/auth/register", weak).json()["code"] == "weak_password"
    taken = {"email": walker.email.upper(), "password": PASSWORD, "display_name": "X"}
    assert walker.call("POST", "/auth/register", taken).json()["code"] == "email_taken"
    # 2. the password: one answer for whoever it is
    wrong = walker.log_in(password="wrong anchor pebble")
    unknown = walker.log_in(email="nobody-" + walker.email)
    assert (wrong.status_code, unknown.status_code) == (401, 401)
    same = ("code", "title", "detail", "status")
    assert [wrong.json()[name] for name in same] == [unknown.json()[name] for name in same]
    # 3. the session and its tokens
    answer = walker.log_in()
    grant = walker.take(answer)
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers
    said = claims(grant["access_token"])
    assert (said["sid"], said["sub"]) == (grant["session_id"], grant["user"]["user_id"])
    assert said["exp"] - said["iat"] == grant["expires_in"]
    # 5. using it
    assert walker.call("GET", "/auth/me").json()["email"] == walker.email
    assert walker.call("GET", "/auth/me", token=grant["access_token"][:-4] + "AAAA").status_code == 401
    # 6. refreshing: the answer that was lost comes again, and one that is long past ends the family
    old = grant["refresh_token"]
    first = walker.call("POST", "/auth/refresh", {"refresh_token": old}, token="").json()
    again = walker.call("POST", "/auth/refresh", {"refresh_token": old}, token="").json()
    assert first["refresh_token"] == again["refresh_token"] != old
    walker.grant = again
    assert walker.call("GET", "/auth/me").status_code == 200
    # 7. sessions: one more, seen and ended from here
    here = walker.grant
    there = walker.take(walker.log_in())
    walker.grant = here
    listed = {item["session_id"]: item["current"] for item in walker.call("GET", "/auth/sessions").json()["items"]}
    assert listed == {here["session_id"]: True, there["session_id"]: False}
    assert walker.call("DELETE", f"/auth/sessions/{there['session_id']}").status_code == 204
    assert walker.call("GET", "/auth/me", token=there["access_token"]).status_code == 401
    ended = walker.call("POST", "/auth/refresh", {"refresh_token": there["refresh_token"]}, token="")
    assert ended.json()["code"] == "refresh_invalid"
    # 8. logging out
    assert walker.call("POST", "/auth/logout").status_code == 204
    assert walker.call("GET", "/auth/me").status_code == 401
    assert walker.call("POST", "/auth/refresh", {"refresh_token": here["refresh_token"]}, token="").status_code == 401


def test_the_second_factor_and_stepping_up(walker):
    walker.take(walker.log_in())
    # 4. an authenticator app: enrolled, confirmed, and wanted from then on
    secret = walker.call("POST", "/auth/mfa/totp/enroll").json()["secret"]
    app, now = pyotp.TOTP(secret), int(time.time())
    confirmed = walker.call("POST", "/auth/mfa/totp/confirm", {"code": app.at(now)})
    recovery = confirmed.json()["recovery_codes"]
    asked = walker.log_in().json()
    assert (asked["mfa_required"], "access_token" in asked) == (True, False)
    used_up = {"mfa_token": asked["mfa_token"], "method": "totp", "code": app.at(now)}
    assert walker.call("POST", "/auth/mfa/verify", used_up, token="").json()["code"] == "mfa_failed", "used before"
    good = {**used_up, "code": app.at(now + STEP_S)}
    grant = walker.take(walker.call("POST", "/auth/mfa/verify", good, token=""))
    assert {"pwd", "otp"} <= set(claims(grant["access_token"])["amr"])
    assert walker.call("POST", "/auth/mfa/verify", good, token="").status_code == 401, "the challenge is spent"
    # stepping up: the password alone is no proof any more, a recovery code is, once
    assert walker.call("POST", "/auth/step-up", {"method": "password", "password": PASSWORD}).status_code == 403
    proof = {"method": "recovery", "code": recovery[0]}
    before = claims(grant["access_token"])["auth_time"]
    stepped = walker.take(walker.call("POST", "/auth/step-up", proof))
    assert claims(stepped["access_token"])["auth_time"] >= before
    assert stepped["session_id"] == grant["session_id"]
    assert walker.call("POST", "/auth/step-up", proof).json()["code"] == "mfa_failed"


def test_a_browser_gets_a_cookie_and_its_changes_need_our_header(walker):
    # 3. and 5. by cookie
    answer = walker.log_in(cookie=True)
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= attributes
    assert answer.headers["set-cookie"].startswith(COOKIE_LOOPBACK + "=")
    browser = httpx.Client(base_url=walker.url + "/api/v1", cookies=answer.cookies)
    assert browser.get("/auth/me").json()["email"] == walker.email
    changed = {"display_name": "Changed"}
    refused = browser.patch("/auth/me", json=changed)
    assert (refused.status_code, refused.json()["code"]) == (403, "csrf_header_needed")
    assert browser.patch("/auth/me", json=changed, headers={CSRF_HEADER: "1"}).status_code == 200
    two = browser.get("/auth/me", headers={"authorization": "Bearer " + "x" * 20})
    assert two.status_code == 401, "two credentials that differ"
    left = browser.post("/auth/logout", headers={CSRF_HEADER: "1"})
    assert left.status_code == 204
    assert "max-age=0" in left.headers["set-cookie"].lower()
    stale = httpx.get(walker.url + "/api/v1/auth/me", headers={"cookie": answer.headers["set-cookie"].split(";")[0]})
    assert stale.status_code == 401
