"""Passkeys in a real Chromium: its own WebAuthn, a virtual authenticator, our pages and answers as they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_asyncio

from sealwire.testing.chromium import Chromium, Page, PageFailed
from sealwire.testing.installation import PASSWORD, Installation, Person

pytestmark = pytest.mark.asyncio(loop_scope="module")
SCRIPT = """
const api = (path, body, token, verb) => fetch("/api/v1" + path, {
    method: verb || "POST", body: body === undefined ? undefined : JSON.stringify(body),
    credentials: token === "cookie" || (body && body.cookie) ? "same-origin" : "omit",
    headers: {"content-type": "application/json",
        ...(token && token !== "cookie" ? {authorization: "Bearer " + token} : {})},
}).then(async answer => ({status: answer.status, body: answer.status === 204 ? null : await answer.json()}));
const make = options => navigator.credentials.create(
    {publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options)}).then(made => made.toJSON());
const prove = options => navigator.credentials.get(
    {publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options)}).then(found => found.toJSON());
const need = (answer, status) => {
    if (answer.status !== (status || 200)) throw new Error(JSON.stringify(answer));
    return answer.body;
};
const register = async (token, name) => need(await api("/auth/passkeys/register",
    {...await make(need(await api("/auth/passkeys/register/options", undefined, token))), name}, token));
"""


async def run(page: Page, code: str, **known: Any) -> Any:
    """Run the body of an async function in the page."""
    named = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in known.items())
    return await page.run(f"(async () => {{ {SCRIPT}\n{named}\n{code} }})()")


@pytest_asyncio.fixture(loop_scope="module")
async def page(installation: Installation, chromium: Chromium) -> Page:
    return await chromium.page(f"http://localhost:{installation.base}/documentation")


@pytest.fixture
def anna(installation: Installation) -> Person:
    return Person(installation.url, "anna")


async def test_a_passkey_is_made_logs_in_and_proves_again(page: Page, anna: Person) -> None:
    key = await page.add_authenticator()
    added = await run(page, 'return await register(token, "This browser");', token=anna.token)
    assert added["passkey"]["name"] == "This browser"
    assert len(added["recovery_codes"]) == 10
    (kept,) = (await page.authenticator("getCredentials", key))["credentials"]
    assert kept["isResidentCredential"]
    assert kept["rpId"] == "localhost"

    granted = await run(page, """
        const options = need(await api("/auth/passkeys/login/options", {}));
        return need(await api("/auth/passkeys/login", await prove(options)));
    """)  # fmt: skip
    assert granted["user"]["user_id"] == anna.user_id

    by_address = await run(page, """
        const options = need(await api("/auth/passkeys/login/options", {email}));
        need(await api("/auth/passkeys/login", {...await prove(options), cookie: true}));
        return need(await api("/auth/me", undefined, "cookie", "GET"));
    """, email=anna.email)  # fmt: skip
    assert by_address["user_id"] == anna.user_id, "the browser keeps the session in its cookie"

    second = await run(page, """
        const wanted = need(await api("/auth/login", {email, password}));
        if (!wanted.mfa_required || wanted.access_token) throw new Error(JSON.stringify(wanted));
        const options = need(await api("/auth/passkeys/login/options", {mfa_token: wanted.mfa_token}));
        const code = JSON.stringify(await prove(options));
        return [wanted.methods, need(await api("/auth/mfa/verify",
            {mfa_token: wanted.mfa_token, method: "passkey", code}))];
    """, email=anna.email, password=PASSWORD)  # fmt: skip
    assert second[0] == ["passkey", "recovery"]
    assert second[1]["user"]["user_id"] == anna.user_id

    stepped = await run(page, """
        const options = need(await api("/auth/passkeys/step-up/options", undefined, token));
        return need(await api("/auth/step-up", {method: "passkey", code: await prove(options)}, token));
    """, token=granted["access_token"])  # fmt: skip
    assert stepped["session_id"] == granted["session_id"]

    listed = await run(page, 'return need(await api("/auth/passkeys", undefined, token, "GET"));', token=anna.token)
    assert [item["status"] for item in listed["items"]] == ["active"]
    assert listed["items"][0]["last_used_at"] is not None


async def test_an_authenticator_makes_one_passkey_for_a_person(page: Page, anna: Person) -> None:
    await page.add_authenticator()
    await run(page, 'await register(token, "One");', token=anna.token)
    proved = await run(page, """
        const options = need(await api("/auth/passkeys/step-up/options", undefined, token));
        return need(await api("/auth/step-up", {method: "passkey", code: await prove(options)}, token));
    """, token=anna.token)  # fmt: skip
    with pytest.raises(PageFailed, match="InvalidStateError"):
        await run(page, 'await register(token, "Two");', token=proved["access_token"])


async def test_who_is_not_verified_makes_none(page: Page, anna: Person) -> None:
    await page.add_authenticator(verifies=False)
    with pytest.raises(PageFailed, match="NotAllowedError"):
        await run(page, 'await register(token, "Mine");', token=anna.token)


async def test_a_copy_with_an_older_counter_is_refused(page: Page, anna: Person) -> None:
    key = await page.add_authenticator()
    await run(page, 'await register(token, "Mine");', token=anna.token)
    (copied,) = (await page.authenticator("getCredentials", key))["credentials"]
    login = """
        const options = need(await api("/auth/passkeys/login/options", {}));
        return await api("/auth/passkeys/login", await prove(options));
    """
    assert (await run(page, login))["status"] == 200
    assert (await run(page, login))["status"] == 200
    await page.authenticator("removeCredential", key, credentialId=copied["credentialId"])
    await page.authenticator("addCredential", key, credential=copied)
    refused = await run(page, login)
    assert (refused["status"], refused["body"]["code"]) == (401, "passkey_refused")
    listed = await run(page, 'return need(await api("/auth/passkeys", undefined, token, "GET"));', token=anna.token)
    assert [item["status"] for item in listed["items"]] == ["suspended"]


async def test_an_answer_from_a_page_elsewhere_is_refused(
    installation: Installation, chromium: Chromium, anna: Person
) -> None:
    """`elsewhere.localhost` is another origin on this machine; browsers let it claim its own domain only."""
    page = await chromium.page(f"http://elsewhere.localhost:{installation.base}/documentation")
    await page.add_authenticator()
    begun = anna.http.post("/auth/passkeys/register/options")
    assert begun.status_code == 200, begun.text
    made = await run(page, "options.rp.id = location.hostname; return await make(options);", options=begun.json())
    refused = anna.http.post("/auth/passkeys/register", json=made)
    assert (refused.status_code, refused.json()["code"]) == (422, "passkey_invalid")
