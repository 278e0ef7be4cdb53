"""Life of a sign-in with another app: docs/life/openid.md, by authlib's client as it is, against a running Sealwire."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
import pyotp
import pytest
from authlib.integrations.base_client import OAuthError
from joserfc import jwt
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from sealwire.testing.installation import PASSWORD, Installation, Person
from sealwire.testing.openid_app import App, Ears, PageBrowser
from sealwire.testing.patience import until_seen

REDIRECT = "https://app.example/callback?from=sealwire"
AFTER = "https://app.example/bye"
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation that may call apps on this machine."""
    data = tmp_path_factory.mktemp("openid") / "data"
    running = Installation(data, env={"SEALWIRE_AUTH__OUTWARD_NETWORKS": "127.0.0.0/8"}).start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def boss(site: Installation) -> Person:
    return Person(site.url, "boss")


@pytest.fixture
def anna(site: Installation, boss: Person) -> Person:
    return Person(site.url, "anna")


@pytest.fixture
def ears() -> Iterator[Ears]:
    made = Ears()
    yield made
    made.close()


def register(boss: Person, **members: Any) -> tuple[str, str | None]:
    """Register an app. Returns its id and secret."""
    wanted = {"name": "Notes & <Co>", "redirect_uris": [REDIRECT], "post_logout_redirect_uris": [AFTER], **members}
    answer = boss.http.post("/auth/clients", json=wanted)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    return made["client"]["client_id"], made.get("client_secret")


@pytest.fixture
def app(site: Installation, boss: Person, ears: Ears) -> App:
    """A confidential app that hears of logouts."""
    client_id, secret = register(boss, backchannel_logout_uri=ears.url)
    return App.of(site.url, client_id, secret)


def log_in(browser: PageBrowser, person: Person) -> httpx.Response:
    """Answer the login page."""
    return browser.send("/login", email=person.email, password=PASSWORD)


def code_for(app: App, browser: PageBrowser, person: Person | None = None, **params: Any) -> tuple[dict[str, Any], str]:
    """Lead a browser to the app's redirect URI, logging in and agreeing where asked. Returns what is needed, the code.

    `person` None: somebody is signed in already.
    """
    begun = app.create_authorization_url(REDIRECT, **params)
    browser.open(begun["url"])
    if person is not None:
        log_in(browser, person)
    if browser.answer is not None and browser.answer.status_code == 200:
        browser.send("/consent", decision="allow")
    assert browser.sent_to.startswith(REDIRECT + "&")
    assert browser.told["state"] == begun["state"]
    return begun, browser.told["code"]


def sign_in(app: App, browser: PageBrowser, person: Person | None = None, **params: Any) -> dict[str, Any]:
    """Sign somebody in by the whole flow. Returns the tokens, the ID token validated by authlib."""
    begun, code = code_for(app, browser, person, **params)
    token = app.fetch_access_token(redirect_uri=REDIRECT, code=code, code_verifier=begun["code_verifier"])
    token["claims"] = app.parse_id_token(token, nonce=begun["nonce"])
    return dict(token)


def changed(url: str, **members: str) -> str:
    """Return an authorization request with other parameters."""
    before, _, query = url.partition("?")
    return before + "?" + urlencode({**dict(parse_qsl(query)), **members})


def redeem(app: App, **form: str) -> httpx.Response:
    """Ask the token endpoint by hand, as an app in trouble would."""
    metadata = app.load_server_metadata()
    auth = (app.client_id, app.client_secret) if app.client_secret else None
    return httpx.post(metadata["token_endpoint"], data={"grant_type": "authorization_code", **form}, auth=auth)


# ---- the life


def test_a_person_signs_in_to_an_app_and_out_again(
    site: Installation, app: App, anna: Person, ears: Ears, boss: Person
) -> None:
    # 1. discovery
    metadata = app.load_server_metadata()
    assert metadata["issuer"] == site.url
    assert metadata["code_challenge_methods_supported"] == ["S256"]
    # 2. the app sends the browser; the page asks who is there, and says for whom
    browser = PageBrowser(site.url)
    begun = app.create_authorization_url(REDIRECT, login_hint=anna.email)
    shown = browser.open(begun["url"])
    assert shown.status_code == 200
    assert "script" not in browser.page.elements
    assert "Notes & <Co>" in browser.page.text
    assert "<Co>" not in shown.text, "an app's name is text"
    assert browser.page.form("/login").fields["email"] == anna.email
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self' https://app.example" in policy
    assert shown.headers["cache-control"] == "no-store"
    # 3. login: a wrong password is asked for again, in the same words as an unknown address
    wrong = browser.send("/login", email=anna.email, password="not it at all")
    unknown = browser.send("/login", email="nobody@example.org", password=PASSWORD)
    assert (wrong.status_code, unknown.status_code) == (401, 401)
    log_in(browser, anna)
    # 4. consent: who, to whom, what
    assert anna.email in browser.page.text
    assert "https://app.example" in browser.page.text
    browser.send("/consent", decision="allow")
    told = browser.told
    assert told["iss"] == site.url, "RFC 9207"
    assert told["state"] == begun["state"]
    # 5. the code for tokens; the ID token is validated by authlib: signature, iss, aud, nonce, at_hash, times
    token = app.fetch_access_token(redirect_uri=REDIRECT, code=told["code"], code_verifier=begun["code_verifier"])
    claims = app.parse_id_token(token, nonce=begun["nonce"])
    assert claims["sub"] == anna.user_id
    assert (claims["acr"], claims["amr"]) == ("aal1", ["pwd"])
    assert abs(claims["auth_time"] - time.time()) < 60
    assert {"email", "name"}.isdisjoint(claims), "what scopes tell is told by userinfo"
    # 6. userinfo
    assert app.userinfo(token=token) == {"sub": anna.user_id, "name": "anna", "email": anna.email}
    # the token opens nothing else
    alien = {"authorization": f"Bearer {token['access_token']}"}
    for path in ("/auth/me", "/conversations", "/auth/sessions"):
        assert httpx.get(f"{site.url}/api/v1{path}", headers=alien).status_code == 401
    # 7. refresh: rotated, a new ID token without the nonce; an old refresh token within its grace gets the same
    fresh = app.client(token).refresh_token(metadata["token_endpoint"], refresh_token=token["refresh_token"])
    assert fresh["refresh_token"] != token["refresh_token"]
    assert app.userinfo(token=fresh)["sub"] == anna.user_id
    assert "nonce" not in decode(app, fresh["id_token"])
    # 8. the app asks about its tokens; another app learns nothing
    client = app.client(fresh)
    asked = client.introspect_token(metadata["introspection_endpoint"], token=fresh["access_token"]).json()
    assert (asked["active"], asked["scope"], asked["sub"]) == (True, "openid profile email", anna.user_id)
    other = App.of(site.url, *register(boss))
    about = other.client(fresh).introspect_token(metadata["introspection_endpoint"], token=fresh["access_token"])
    assert about.json() == {"active": False}
    # 9. a second app in the same browser: no login, only consent
    second = sign_in(other, browser)
    assert second["claims"]["sid"] == claims["sid"]
    # 10. logout by the app's ID token: sent back with state; every token is dead, the other app is told
    url = app.create_logout_url(post_logout_redirect_uri=AFTER, id_token_hint=token["id_token"], state="s1")["url"]
    browser.open(url)
    assert browser.sent_to == AFTER + "?state=s1"
    until_seen(lambda: ears.heard)
    check_logout_token(app, ears.heard[0], claims)
    assert redeem(app, grant_type="refresh_token", refresh_token=fresh["refresh_token"]).json()["error"] == (
        "invalid_grant"
    )
    for held in (fresh, second):
        answer = httpx.get(metadata["userinfo_endpoint"], headers={"authorization": f"Bearer {held['access_token']}"})
        assert answer.status_code == 401
    begun = app.create_authorization_url(REDIRECT, prompt="none")
    browser.open(begun["url"])
    assert browser.told["error"] == "login_required"


def decode(app: App, token: str) -> dict[str, Any]:
    keys = KeySet.import_key_set(app.fetch_jwk_set(force=True))
    return dict(jwt.decode(token, keys, registry=JWSRegistry(algorithms=["EdDSA"])).claims)


def check_logout_token(app: App, token: str, claims: Any) -> None:
    """As OpenID Connect Back-Channel Logout 1.0 section 2.6 asks of an app."""
    said = decode(app, token)
    assert (said["iss"], said["aud"]) == (claims["iss"], app.client_id)
    assert (said["sub"], said["sid"]) == (claims["sub"], claims["sid"])
    assert said["events"] == {"http://schemas.openid.net/event/backchannel-logout": {}}
    assert "nonce" not in said
    assert said["jti"]
    assert said["exp"] - said["iat"] <= 120


# ---- ways of signing in


def test_a_public_app_signs_in_by_pkce_alone_and_is_asked_for_each_time(
    site: Installation, boss: Person, anna: Person
) -> None:
    client_id, secret = register(boss, kind="public", redirect_uris=[REDIRECT, "com.example.app:/cb"])
    assert secret is None
    app = App.of(site.url, client_id)
    browser = PageBrowser(site.url)
    token = sign_in(app, browser, anna)
    assert app.userinfo(token=token)["sub"] == anna.user_id
    browser.open(app.create_authorization_url(REDIRECT)["url"])
    assert browser.page.form("/consent"), "nobody knows that it is the same app"
    browser.open(app.create_authorization_url(REDIRECT, prompt="none")["url"])
    assert browser.told["error"] == "consent_required"
    metadata = app.load_server_metadata()
    asked = httpx.post(metadata["introspection_endpoint"], data={"client_id": client_id, "token": "x"})
    assert asked.status_code == 401, "it proves nothing of itself"
    revoked = httpx.post(
        metadata["revocation_endpoint"], data={"client_id": client_id, "token": token["refresh_token"]}
    )
    assert revoked.status_code == 200
    headers = {"authorization": f"Bearer {token['access_token']}"}
    assert httpx.get(metadata["userinfo_endpoint"], headers=headers).status_code == 401


def test_prompt_and_max_age_are_kept(site: Installation, app: App, anna: Person) -> None:
    browser = PageBrowser(site.url)
    first = sign_in(app, browser, anna)["claims"]
    # remembered: neither login nor consent
    again = sign_in(app, browser, prompt="none")["claims"]
    assert (again["sid"], again["auth_time"]) == (first["sid"], first["auth_time"])
    browser.open(app.create_authorization_url(REDIRECT, prompt="consent")["url"])
    assert browser.page.form("/consent")
    # a login asked for, or one too old: the same person proves it again in the same session
    until_seen(lambda: time.time() >= first["auth_time"] + 1)  # it is told in seconds: it has to be another one
    for params in ({"prompt": "login"}, {"max_age": 0}):
        begun = app.create_authorization_url(REDIRECT, **params)
        browser.open(begun["url"])
        assert browser.send("/confirm", password="not it at all").status_code == 401
        browser.send("/confirm", password=PASSWORD)
        token = app.fetch_access_token(
            redirect_uri=REDIRECT, code=browser.told["code"], code_verifier=begun["code_verifier"]
        )
        claims = app.parse_id_token(token, nonce=begun["nonce"])
        assert claims["sid"] == first["sid"]
        assert claims["auth_time"] > first["auth_time"]
    browser.open(app.create_authorization_url(REDIRECT, prompt="none", max_age=0)["url"])
    assert browser.told["error"] == "login_required"
    browser.open(app.create_authorization_url(REDIRECT, prompt="none login")["url"])
    assert browser.told["error"] == "invalid_request"


def test_a_second_factor_is_asked_for_where_one_is_enrolled(site: Installation, app: App, anna: Person) -> None:
    secret = anna.http.post("/auth/mfa/totp/enroll").json()["secret"]
    totp, now = pyotp.TOTP(secret), int(time.time())
    recovery = anna.http.post("/auth/mfa/totp/confirm", json={"code": totp.at(now)}).json()["recovery_codes"]
    browser = PageBrowser(site.url)
    begun = app.create_authorization_url(REDIRECT)
    browser.open(begun["url"])
    log_in(browser, anna)
    assert browser.send("/code", code=totp.at(now)).status_code == 401, "used before"
    browser.send("/code", code=recovery[0])
    browser.send("/consent", decision="allow")
    token = app.fetch_access_token(
        redirect_uri=REDIRECT, code=browser.told["code"], code_verifier=begun["code_verifier"]
    )
    claims = app.parse_id_token(token, nonce=begun["nonce"])
    assert claims["acr"] == "aal2"
    assert {"pwd", "mfa"} <= set(claims["amr"])


def test_a_fresh_proof_needs_a_factor_that_was_enrolled_elsewhere_meanwhile(
    site: Installation, app: App, anna: Person
) -> None:
    browser = PageBrowser(site.url)
    sign_in(app, browser, anna)
    assert "claims" in sign_in(app, browser, max_age=600), "recent enough"
    secret = anna.http.post("/auth/mfa/totp/enroll").json()["secret"]
    code = pyotp.TOTP(secret).at(int(time.time()))
    recovery = anna.http.post("/auth/mfa/totp/confirm", json={"code": code}).json()["recovery_codes"]
    browser.open(app.create_authorization_url(REDIRECT, max_age=600)["url"])
    assert browser.send("/confirm", password=PASSWORD).status_code == 401
    browser.send("/confirm", code=recovery[0])
    assert browser.told["code"]


def test_a_consent_is_seen_and_taken_back(site: Installation, app: App, anna: Person, ears: Ears) -> None:
    browser = PageBrowser(site.url)
    token = sign_in(app, browser, anna)
    (item,) = anna.http.get("/auth/consents").json()["items"]
    assert (item["client_id"], item["name"]) == (app.client_id, "Notes & <Co>")
    assert anna.http.delete(f"/auth/consents/{app.client_id}").status_code == 200
    assert anna.http.delete(f"/auth/consents/{app.client_id}").json()["code"] == "consent_not_found"
    assert anna.http.get("/auth/consents").json()["items"] == []
    url = app.load_server_metadata()["userinfo_endpoint"]
    assert httpx.get(url, headers={"authorization": f"Bearer {token['access_token']}"}).status_code == 401
    browser.open(app.create_authorization_url(REDIRECT, prompt="none")["url"])
    assert browser.told["error"] == "consent_required"
    until_seen(lambda: ears.heard)


def test_a_page_shows_ones_apps_and_takes_a_consent_back(site: Installation, app: App, anna: Person) -> None:
    browser, apps = PageBrowser(site.url), site.url + "/api/v1/auth/apps"
    assert "Nobody is signed in" in browser.open(apps).text
    token = sign_in(app, browser, anna)
    shown = browser.open(apps)
    assert "Notes &amp; &lt;Co&gt;" in shown.text
    assert anna.email in browser.page.text
    assert "script" not in browser.page.elements
    assert shown.headers["content-security-policy"].startswith("default-src 'none'")
    form = browser.page.form("/withdraw")
    stranger = PageBrowser(site.url)
    stranger.open(apps)
    data = {**form.fields}
    for client, site_of_form in ((stranger.http, "same-origin"), (browser.http, "cross-site")):
        headers = {"sec-fetch-site": site_of_form, "accept": "text/html"}
        assert client.post(form.action, data=data, headers=headers).status_code >= 400
    assert len(anna.http.get("/auth/consents").json()["items"]) == 1
    assert "No app knows anything of you" in browser.send("/withdraw").text
    assert anna.http.get("/auth/consents").json()["items"] == []
    again = browser.http.post(form.action, data=data, headers={"sec-fetch-site": "same-origin", "accept": "text/html"})
    assert again.status_code == 200, "it is taken back already"
    gone = redeem(app, grant_type="refresh_token", refresh_token=token["refresh_token"])
    assert gone.json()["error"] == "invalid_grant"


def test_the_page_of_ones_apps_knows_every_session(site: Installation, app: App, anna: Person) -> None:
    """One that logged in to the account, by cookie or token, sees and takes back what any browser agreed to."""
    apps = site.url + "/api/v1/auth/apps"
    sign_in(app, PageBrowser(site.url), anna)
    browser, stranger = PageBrowser(site.url), PageBrowser(site.url)
    login = {"email": anna.email, "password": PASSWORD, "cookie": True}
    granted = browser.http.post("/api/v1/auth/login", json=login)
    assert granted.status_code == 200
    assert "Notes &amp; &lt;Co&gt;" in browser.open(apps).text
    form = browser.page.form("/withdraw")
    stranger.open(apps)
    headers = {"sec-fetch-site": "same-origin", "accept": "text/html"}
    assert stranger.http.post(form.action, data={**form.fields}, headers=headers).status_code >= 400
    assert "No app knows anything of you" in browser.send("/withdraw").text
    assert anna.http.get("/auth/consents").json()["items"] == []
    # a form shown before the session ended does nothing after it
    sign_in(app, PageBrowser(site.url), anna)
    browser.open(apps)
    token = {"authorization": "Bearer " + granted.json()["access_token"]}
    assert "Notes &amp; &lt;Co&gt;" in stranger.http.get(apps, headers={"accept": "text/html", **token}).text
    assert browser.http.post("/api/v1/auth/logout", headers=token).status_code < 300
    assert browser.send("/withdraw").status_code >= 400
    assert len(anna.http.get("/auth/consents").json()["items"]) == 1
    assert "Nobody is signed in" in browser.open(apps).text


def test_declining_tells_the_app(site: Installation, app: App, anna: Person) -> None:
    browser = PageBrowser(site.url)
    begun = app.create_authorization_url(REDIRECT)
    browser.open(begun["url"])
    log_in(browser, anna)
    browser.send("/consent", decision="deny")
    assert (browser.told["error"], browser.told["state"]) == ("access_denied", begun["state"])


# ---- what is refused


def test_what_an_app_may_not_ask_for(site: Installation, boss: Person, app: App) -> None:
    browser = PageBrowser(site.url)
    good = app.create_authorization_url(REDIRECT)["url"]
    # an address in doubt is never sent to: the person sees why
    for uri in (
        REDIRECT + "/", REDIRECT.replace("https", "http"), REDIRECT + "&x=1", "https://app.example/callback",
        "https://app.example.evil.example/callback", "https://evil.example/", "javascript:alert(1)", "//evil.example",
    ):  # fmt: skip
        shown = browser.open(app.create_authorization_url(uri)["url"])
        assert shown.status_code == 400, uri
        assert "location" not in shown.headers
    assert browser.open(good.replace("redirect_uri=", "other=")).status_code == 400
    assert browser.open(good.replace(app.client_id, "0" * 36)).status_code == 400
    assert browser.open(good + "&scope=openid").status_code == 422, "given twice"
    # what the app may be told is told at its address
    for change, error in (
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_type": ""}, "unsupported_response_type"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge": "x" * 44}, "invalid_request"),
        ({"scope": "profile email"}, "invalid_scope"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"request": "x.y.z"}, "request_not_supported"),
        ({"request_uri": "https://evil.example"}, "request_uri_not_supported"),
        ({"max_age": "soon"}, "invalid_request"),
        ({"prompt": "perhaps"}, "invalid_request"),
    ):
        wrong = changed(good, **change)
        browser.open(wrong)
        assert browser.sent_to.startswith(REDIRECT + "&"), wrong
        assert (browser.told["error"], browser.told["iss"]) == (error, site.url), wrong
    # and what administrators may not register
    for uri in (
        "http://app.example/", "https://app.example/#x", "https://a@app.example/", "https://*.example/", "app:/cb",
        "javascript:alert(1)", "data:text/html,x", "https://app.example/a b", "https:///x",
    ):  # fmt: skip
        refused = boss.http.post("/auth/clients", json={"name": "x", "redirect_uris": [uri]})
        assert refused.status_code == 422, uri


def test_codes_are_for_one_app_one_verifier_one_address_and_one_use(
    site: Installation, boss: Person, app: App, anna: Person
) -> None:
    browser = PageBrowser(site.url)
    begun, code = code_for(app, browser, anna)
    verifier = begun["code_verifier"]
    good = {"code": code, "redirect_uri": REDIRECT, "code_verifier": verifier}
    other = App.of(site.url, *register(boss))
    assert redeem(other, **good).json()["error"] == "invalid_grant", "the code of another app"
    assert redeem(app, **{**good, "code_verifier": secrets.token_urlsafe(48)}).json()["error"] == "invalid_grant"
    assert redeem(app, **{**good, "code_verifier": "short"}).json()["error"] == "invalid_request"
    assert redeem(app, code=code, redirect_uri=REDIRECT).json()["error"] == "invalid_request", "no verifier"
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    assert redeem(app, **{**good, "code_verifier": challenge}).json()["error"] == "invalid_grant", "the challenge"
    assert redeem(app, **{**good, "redirect_uri": AFTER}).json()["error"] == "invalid_grant"
    assert redeem(app, code="swo1.x", redirect_uri=REDIRECT, code_verifier=verifier).json()["error"] == "invalid_grant"
    answer = redeem(app, **good)
    assert answer.status_code == 200, "none of that used it up"
    assert answer.headers["cache-control"] == "no-store"
    token = answer.json()
    assert app.userinfo(token=token)["sub"] == anna.user_id
    assert redeem(app, **good).json()["error"] == "invalid_grant", "a code works once"
    headers = {"authorization": f"Bearer {token['access_token']}"}
    assert httpx.get(app.load_server_metadata()["userinfo_endpoint"], headers=headers).status_code == 401
    gone = redeem(app, grant_type="refresh_token", refresh_token=token["refresh_token"])
    assert gone.json()["error"] == "invalid_grant", "and its replay ends what it gave"


def test_apps_have_to_say_who_they_are(site: Installation, boss: Person, app: App) -> None:
    endpoint = app.load_server_metadata()["token_endpoint"]
    form = {"grant_type": "authorization_code", "code": "swo1.x", "code_verifier": "v" * 43}
    ways: list[tuple[dict[str, Any], str, int]] = [
        ({"data": form}, "invalid_client", 401),
        ({"data": form, "auth": (app.client_id, "wrong")}, "invalid_client", 401),
        ({"data": form, "auth": ("0" * 36, app.client_secret)}, "invalid_client", 401),
        ({"data": {**form, "client_id": app.client_id}}, "invalid_client", 401),
        ({"data": {**form, "client_secret": app.client_secret, "client_id": app.client_id}}, "invalid_grant", 400),
        ({"data": {**form, "client_secret": app.client_secret}, "auth": (app.client_id, app.client_secret)},
         "invalid_request", 400),
        ({"data": {**form, "grant_type": "password"}, "auth": (app.client_id, app.client_secret)},
         "unsupported_grant_type", 400),
        ({"json": form, "auth": (app.client_id, app.client_secret)}, "invalid_request", 400),
        ({"content": b"code=1&code=2", "headers": {"content-type": "application/x-www-form-urlencoded"}},
         "invalid_request", 400),
    ]  # fmt: skip
    for request, error, status in ways:
        answer = httpx.post(endpoint, **request)
        assert (answer.json()["error"], answer.status_code) == (error, status), request
    # an app that is ended is nobody
    begun = app.create_authorization_url(REDIRECT)["url"]
    assert boss.http.delete(f"/auth/clients/{app.client_id}").status_code == 200
    assert boss.http.delete(f"/auth/clients/{app.client_id}").json()["code"] == "client_not_found"
    assert httpx.post(endpoint, data=form, auth=(app.client_id, app.client_secret)).json()["error"] == "invalid_client"
    assert PageBrowser(site.url).open(begun).status_code == 400


def test_secrets_are_shown_once_and_apps_are_for_administrators(
    site: Installation, boss: Person, anna: Person, app: App
) -> None:
    listed = boss.http.get("/auth/clients").text
    assert app.client_id in listed
    assert str(app.client_secret) not in listed
    stored = b"".join(path.read_bytes() for path in site.data.glob("auth.db*"))
    assert app.client_id.encode() in stored
    assert str(app.client_secret).encode() not in stored
    assert anna.http.get("/auth/clients").status_code == 403
    assert anna.http.post("/auth/clients", json={"name": "x", "redirect_uris": [REDIRECT]}).status_code == 403


def test_forms_are_for_the_browser_that_was_given_them(
    site: Installation, app: App, anna: Person, boss: Person
) -> None:
    thief, victim = PageBrowser(site.url), PageBrowser(site.url)
    url = app.create_authorization_url(REDIRECT)["url"]
    thief.open(url)
    victim.open(url)
    stolen = thief.page.form("/login").fields["request"]
    assert victim.send("/login", email=boss.email, password=PASSWORD, request=stolen).status_code == 400, "login CSRF"
    victim.open(url)
    log_in(victim, anna)
    form = victim.page.form("/consent")
    # sent by somebody else's page: no cookie of ours comes along, and the browser says where it is from
    bare = httpx.post(site.url + form.action, data={**form.fields, "decision": "allow"})
    assert bare.status_code == 400
    elsewhere = victim.http.post(
        form.action, data={**form.fields, "decision": "allow"}, headers={"sec-fetch-site": "cross-site"}
    )
    assert elsewhere.status_code == 400
    forged = victim.http.post(form.action, data={"request": form.fields["request"][:-4] + "AAAA", "decision": "allow"})
    assert forged.status_code == 400
    # the consent is of who saw the page
    log_in_again = PageBrowser(site.url)
    log_in_again.http.cookies = victim.http.cookies
    log_in_again.open(app.create_authorization_url(REDIRECT, prompt="login")["url"])
    log_in_again.send("/login", other="1")
    log_in_again.send("/login", email=boss.email, password=PASSWORD)
    assert victim.http.post(form.action, data={**form.fields, "decision": "allow"}).status_code == 400
    # cookies of these pages are no credential for the API
    jar = {name: value for name, value in victim.http.cookies.items() if "sso" in name}
    assert jar
    assert httpx.get(site.url + "/api/v1/auth/me", cookies=jar).status_code == 401


def test_a_session_that_ends_takes_everything_with_it(
    site: Installation, app: App, anna: Person, ears: Ears, boss: Person
) -> None:
    browser = PageBrowser(site.url)
    token = sign_in(app, browser, anna)
    begun, code = code_for(app, browser)
    # however it ends: here the person's password is changed elsewhere
    changed = anna.http.post(
        "/auth/password/change", json={"current_password": PASSWORD, "new_password": "granite otter plinth 9"}
    )
    assert changed.status_code == 204
    late = redeem(app, code=code, redirect_uri=REDIRECT, code_verifier=begun["code_verifier"])
    assert late.json()["error"] == "invalid_grant", "a code of a session that ended"
    metadata = app.load_server_metadata()
    headers = {"authorization": f"Bearer {token['access_token']}"}
    assert httpx.get(metadata["userinfo_endpoint"], headers=headers).status_code == 401
    gone = redeem(app, grant_type="refresh_token", refresh_token=token["refresh_token"])
    assert gone.json()["error"] == "invalid_grant"
    asked = httpx.post(
        metadata["introspection_endpoint"], data={"token": token["access_token"]},
        auth=(app.client_id, str(app.client_secret)),
    )  # fmt: skip
    assert asked.json() == {"active": False}
    browser.open(app.create_authorization_url(REDIRECT, prompt="none")["url"])
    assert browser.told["error"] == "login_required"
    until_seen(lambda: ears.heard)
    assert decode(app, ears.heard[0])["sid"] == token["claims"]["sid"]


def test_an_old_refresh_token_ends_its_grant(site: Installation, app: App, anna: Person) -> None:
    token = sign_in(app, PageBrowser(site.url), anna)
    old = token["refresh_token"]
    once = redeem(app, grant_type="refresh_token", refresh_token=old).json()
    again = redeem(app, grant_type="refresh_token", refresh_token=old).json()
    assert once["refresh_token"] == again["refresh_token"], "the answer that was lost comes again"
    wider = redeem(app, grant_type="refresh_token", refresh_token=once["refresh_token"], scope="openid admin")
    assert wider.json()["error"] == "invalid_scope"
    newest = redeem(app, grant_type="refresh_token", refresh_token=once["refresh_token"]).json()
    deadline = time.monotonic() + DEADLINE_S
    while redeem(app, grant_type="refresh_token", refresh_token=old).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    dead = redeem(app, grant_type="refresh_token", refresh_token=newest["refresh_token"])
    assert dead.json()["error"] == "invalid_grant", "the family"
    with pytest.raises(OAuthError):
        app.client(token).refresh_token(app.load_server_metadata()["token_endpoint"], refresh_token=old)


def test_logging_out_needs_a_token_or_a_yes(site: Installation, app: App, anna: Person, boss: Person) -> None:
    browser = PageBrowser(site.url)
    token = sign_in(app, browser, anna)
    endpoint = app.load_server_metadata()["end_session_endpoint"]
    # nowhere but to a registered address
    for params in (
        {"post_logout_redirect_uri": AFTER},
        {"post_logout_redirect_uri": "https://evil.example/", "client_id": app.client_id},
        {"post_logout_redirect_uri": "https://evil.example/", "id_token_hint": token["id_token"]},
        {"post_logout_redirect_uri": AFTER + "/", "id_token_hint": token["id_token"]},
        {"client_id": "0" * 36, "id_token_hint": token["id_token"]},
    ):
        answer = browser.open(f"{endpoint}?{urlencode(params)}")
        assert answer.status_code == 400, params
        assert "location" not in answer.headers
    # a link alone logs nobody out, nor does the token of somebody else
    browser.open(f"{endpoint}?{urlencode({'client_id': app.client_id, 'post_logout_redirect_uri': AFTER})}")
    form = browser.page.form("/end-session/confirm")
    assert httpx.post(site.url + form.action, data=form.fields).status_code == 400, "CSRF"
    stranger = sign_in(app, PageBrowser(site.url), boss)
    shown = browser.open(f"{endpoint}?{urlencode({'id_token_hint': stranger['id_token']})}")
    assert shown.status_code == 200
    assert app.userinfo(token=stranger)["sub"] == boss.user_id
    assert app.userinfo(token=token)["sub"] == anna.user_id
    browser.open(f"{endpoint}?{urlencode({'client_id': app.client_id, 'post_logout_redirect_uri': AFTER})}")
    browser.send("/end-session/confirm")
    assert browser.sent_to == AFTER
    headers = {"authorization": f"Bearer {token['access_token']}"}
    url = app.load_server_metadata()["userinfo_endpoint"]
    assert httpx.get(url, headers=headers).status_code == 401


def test_an_app_that_is_away_is_told_later(site: Installation, app: App, anna: Person, ears: Ears) -> None:
    ears.status = 503
    token = sign_in(app, PageBrowser(site.url), anna)
    assert anna.http.post("/auth/logout-all").status_code == 204
    until_seen(lambda: ears.asked)
    # a crash in between forgets nothing
    site.kill()
    ears.status = 200
    site.start()
    until_seen(lambda: ears.heard)
    assert decode(app, ears.heard[0])["sid"] == token["claims"]["sid"]
