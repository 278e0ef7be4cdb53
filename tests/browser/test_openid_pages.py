"""The pages of a sign-in for an app in a real Chromium: its CSP lets them work, and lets the app's redirect through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealwire.testing.chromium import Chromium
from sealwire.testing.installation import PASSWORD, Installation, Person
from sealwire.testing.openid_app import App

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Installation]:
    """An installation whose owner is of this test."""
    running = Installation(tmp_path / "data").start()
    yield running
    running.kill()


async def test_a_person_signs_in_by_the_pages(site: Installation, chromium: Chromium, app_url: str) -> None:
    anna = Person(site.url, "anna")
    made = anna.http.post("/auth/clients", json={"name": "The app", "redirect_uris": [app_url]})
    assert made.status_code == 200, made.text
    app = App.of(site.url, made.json()["client"]["client_id"], made.json()["client_secret"])
    begun = app.create_authorization_url(app_url)
    page = await chromium.page(begun["url"])
    await page.until("document.title === 'Sign in'")
    # the style counts (its hash is in the policy), scripts don't
    assert await page.run("getComputedStyle(document.querySelector('main')).borderTopLeftRadius") == "8px"
    assert await page.run("document.scripts.length") == 0
    assert await page.run("document.querySelector('#password').type") == "password"
    fill = f"""document.querySelector('#email').value = {json.dumps(anna.email)};
        document.querySelector('#password').value = {json.dumps(PASSWORD)};
        document.querySelector('form').requestSubmit(); true"""
    await page.run(fill)
    await page.until("document.title === 'Sign in to The app?'")
    await page.run("document.querySelector('button[value=allow]').click(); true")
    shown = await page.until("document.title === 'the app' && location.href")
    code = shown.partition("code=")[2].partition("&")[0]
    token = app.fetch_access_token(redirect_uri=app_url, code=code, code_verifier=begun["code_verifier"])
    assert app.parse_id_token(token, nonce=begun["nonce"])["sub"] == anna.user_id
    assert await page.run("document.cookie") == "", "no script reads our cookies"
    # once more: nothing is asked, the app is shown at once
    again = app.create_authorization_url(app_url)
    await page.go(again["url"])
    await page.until(f"document.title === 'the app' && location.href.includes({json.dumps(again['state'])})")
