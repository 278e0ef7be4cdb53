"""A passkey signs in to an app in a real Chromium: our script, our policy, its own WebAuthn, authlib's client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sealwire.testing.chromium import Chromium
from sealwire.testing.installation import Installation, Person
from sealwire.testing.openid_app import App

pytestmark = pytest.mark.asyncio(loop_scope="module")
BUTTON = "document.querySelector('form[data-options] button')"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Installation]:
    """An installation whose owner is of this test, at an address that passkeys work for."""
    running = Installation(tmp_path / "data", name="localhost").start()
    yield running
    running.kill()


async def test_a_passkey_alone_signs_in_to_an_app(site: Installation, chromium: Chromium, app_url: str) -> None:
    anna = Person(site.url, "anna")
    home = f"http://localhost:{site.base}"
    made = anna.http.post("/auth/clients", json={"name": "The app", "redirect_uris": [app_url]})
    assert made.status_code == 200, made.text
    app = App.of(home, made.json()["client"]["client_id"], made.json()["client_secret"])
    page = await chromium.page(home + "/documentation")
    await page.add_authenticator()
    begun = anna.http.post("/auth/passkeys/register/options").json()
    created = await page.run(f"""navigator.credentials.create({{publicKey:
        PublicKeyCredential.parseCreationOptionsFromJSON({json.dumps(begun)})}}).then(made => made.toJSON())""")
    assert anna.http.post("/auth/passkeys/register", json=created).status_code == 200

    asked = app.create_authorization_url(app_url)
    shown = await asyncio.to_thread(httpx.get, asked["url"], headers={"accept": "text/html"})
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; connect-src 'none'; " in policy
    assert "unsafe" not in policy
    assert shown.headers["permissions-policy"] == "publickey-credentials-get=(self)"

    await page.listen()
    await page.go(asked["url"])
    await page.until(f"document.title === 'Sign in' && !{BUTTON}.hidden")
    assert await page.run("document.scripts.length === 1 && !document.scripts[0].text")
    await page.run(f"{BUTTON}.click(); true")
    await page.until("document.title === 'Sign in to The app?'")
    assert await page.run("document.scripts.length") == 0, "nothing is asked there"
    await page.run("document.querySelector('button[value=allow]').click(); true")
    told = await page.until("document.title === 'the app' && location.href")
    code = told.partition("code=")[2].partition("&")[0]
    token = app.fetch_access_token(redirect_uri=app_url, code=code, code_verifier=asked["code_verifier"])
    claims = app.parse_id_token(token, nonce=asked["nonce"])
    assert claims["sub"] == anna.user_id
    assert {"hwk", "user", "mfa"} == set(claims["amr"])

    # asked to prove it again, in the same session
    asked = app.create_authorization_url(app_url, prompt="login")
    await page.go(asked["url"])
    await page.until(f"document.title === 'Confirm that it is you' && !{BUTTON}.hidden")
    await page.run(f"{BUTTON}.click(); true")
    told = await page.until(f"document.title === 'the app' && location.href.includes({json.dumps(asked['state'])})")
    assert page.console == []

    # a person who turns away is told so, and may try again; a page at another address promises nothing
    await page.go(app.create_authorization_url(app_url, prompt="login")["url"])
    await page.until(f"document.title === 'Confirm that it is you' && !{BUTTON}.hidden")
    await page.run(f"navigator.credentials.get = () => Promise.reject(new Error('no')); {BUTTON}.click(); true")
    await page.until(f"!document.querySelector('[role=alert]').hidden && !{BUTTON}.disabled")
    number = app.create_authorization_url(app_url)["url"].replace("localhost", "127.0.0.1", 1)
    await page.go(number)
    await page.until("document.title === 'Sign in' && document.readyState === 'complete'")
    assert await page.run(f"{BUTTON}.hidden")
    assert page.console == []

    # and the policy is one: what somebody else writes into a page does not run, and is told of
    await page.run("""const more = document.createElement('script'); more.text = 'window.ran = true';
        document.body.append(more); true""")
    assert await page.run("window.ran === undefined")
    await page.until_told("Content Security Policy")
