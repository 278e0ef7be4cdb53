"""Signing in for an app: who is there, do they have to prove it again, do they agree, then a code for the app."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec

from sealwire.contracts.logins import BadCredentials, Login, MfaAnswer, MfaFailed, StepUp, TooManyAttempts
from sealwire.contracts.openid import PageRefused
from sealwire.contracts.passkeys import PasskeyRefused
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.jose import TokenRefused
from sealwire.kit.problem import Invalid, StepUpRequired
from sealwire.services.auth import openid_pages as pages
from sealwire.services.auth.logins import Logins
from sealwire.services.auth.mfa_policy import MfaPolicy
from sealwire.services.auth.openid_browser import BrowserState, Interaction, Present, browser_hash
from sealwire.services.auth.openid_clients import ClientRegistry
from sealwire.services.auth.openid_errors import OAuthRefused
from sealwire.services.auth.openid_grants import Grants
from sealwire.services.auth.openid_passkeys import PagePasskeys, read
from sealwire.services.auth.openid_records import ClientRecord
from sealwire.services.auth.openid_requests import AuthorizationRequest, check_redirect, read_request, state_of
from sealwire.services.auth.openid_tokens import AppTokens
from sealwire.services.auth.people import People
from sealwire.services.auth.records import Reason, Record
from sealwire.services.auth.sessions import SessionKeeper

_WRONG = "E-mail or password is wrong, or the account is locked for a while."
_WRONG_CODE = "The code is not valid."
_WRONG_PASSKEY = "The passkey was not accepted, or the page was left too long. Try again, or go on another way."
_STALE = "This page is too old, or was opened in another browser. Go back to the app and begin again."


class Browser(Record):
    """What came along in cookies: who is signed in, and by what the browser is known again.

    `account`: the session of the API that came along, where a page looks at that too.
    """

    session: str
    browser: str
    account: str = ""


class Sent(Record):
    """The browser is sent on. `cookie` None: the session cookie stays as it is; empty: it goes."""

    url: str
    cookie: str | None = None


class Shown(Record):
    """A page is shown; `target` is where its forms may lead. `scripted`: it offers a passkey."""

    html: bytes
    status: int = 200
    target: str = ""
    cookie: str | None = None
    scripted: bool = False


Outcome = Sent | Shown


class SignIn:
    """Leads a browser from an app's request to the app's redirect URI."""

    def __init__(
        self, *, clients: ClientRegistry, grants: Grants, tokens: AppTokens, browsers: BrowserState, logins: Logins,
        passkeys: PagePasskeys, sessions: SessionKeeper, people: People, policy: MfaPolicy, clock: Clock,
    ) -> None:  # fmt: skip
        self._clients = clients
        self._grants = grants
        self._tokens = tokens
        self._browsers = browsers
        self._logins = logins
        self._passkeys = passkeys
        self._sessions = sessions
        self._people = people
        self._policy = policy
        self._clock = clock

    # ---- what the app asks

    async def begin(self, caller: Caller, params: Mapping[str, str], browser: Browser) -> Outcome:
        """Take an authorization request. Raises: PageRefused when the app or its address is in doubt."""
        client = await self._clients.find(params.get("client_id", ""))
        redirect_uri = check_redirect(client, params)
        assert client is not None  # or it was refused
        try:
            request = read_request(client, redirect_uri, params)
        except OAuthRefused as refused:
            return self._refuse(redirect_uri, state_of(params), refused.error, refused.description)
        interaction = Interaction(
            browser=browser_hash(browser.browser), started_us=self._clock.now_us(), request=request
        )
        return await self._advance(caller, client, interaction, await self._browsers.present(browser.session))

    def _is_meant(self, request: AuthorizationRequest, present: Present) -> bool:
        """Whether who is signed in is the person the app means, where it means one."""
        if not request.id_token_hint:
            return True
        try:
            hint = self._tokens.read_hint(request.id_token_hint, request.client_id)
        except TokenRefused:
            return False
        return bool(present.user.user_id == hint["sub"])

    # ---- what people answer

    async def login(self, caller: Caller, form: Mapping[str, str], browser: Browser) -> Outcome:
        """Take address and password, or a passkey."""
        client, interaction, _ = await self._opened(form, browser)
        before = await self._browsers.present(browser.session)
        if "other" in form:
            return await self._ask_login(caller, client, interaction, email="")
        if assertion := form.get("assertion"):
            try:
                session_id = await self._passkeys.login(caller, assertion, interaction)
            except PasskeyRefused:
                return await self._ask_login(caller, client, interaction, email="", fault=_WRONG_PASSKEY, status=401)
            return await self._entered(caller, client, interaction, before, session_id)
        email = form.get("email", "")
        try:
            wanted = msgspec.convert(
                {"email": email, "password": form.get("password", ""), "tenant": client.tenant_id}, Login
            )
            result = await self._logins.login(caller, wanted)
        except (BadCredentials, msgspec.ValidationError):
            return await self._ask_login(caller, client, interaction, email=email, fault=_WRONG, status=401)
        except TooManyAttempts as waits:
            return await self._ask_login(caller, client, interaction, email=email, fault=waits.detail, status=429)
        if result.mfa_required:
            return await self._ask_code(caller, client, interaction, result.mfa_token)
        return await self._entered(caller, client, interaction, before, result.session_id)

    async def code(self, caller: Caller, form: Mapping[str, str], browser: Browser) -> Outcome:
        """Take the second factor of a login."""
        client, interaction, _ = await self._opened(form, browser)
        before = await self._browsers.present(browser.session)
        code, mfa_token = form.get("code", "").strip(), form.get("mfa_token", "")
        assertion = form.get("assertion")
        wrong = _WRONG_PASSKEY if assertion else _WRONG_CODE
        try:
            if assertion:
                answer = MfaAnswer(mfa_token=mfa_token, method="passkey", code=read(assertion, interaction))
            else:
                answer = msgspec.convert({"mfa_token": mfa_token, "method": _method(code), "code": code}, MfaAnswer)
            result = await self._logins.mfa_verify(caller, answer)
        except (MfaFailed, PasskeyRefused, msgspec.ValidationError):
            return await self._ask_code(caller, client, interaction, mfa_token, fault=wrong, status=401)
        except TooManyAttempts as waits:
            return await self._ask_code(caller, client, interaction, mfa_token, fault=waits.detail, status=429)
        return await self._entered(caller, client, interaction, before, result.session_id)

    async def confirm(self, caller: Caller, form: Mapping[str, str], browser: Browser) -> Outcome:
        """Take a fresh proof by who is signed in; the session stays the same."""
        client, interaction, _ = await self._opened(form, browser)
        present = await self._browsers.present(browser.session)
        if present is None:
            return await self._ask_login(caller, client, interaction, email="")
        fault, status = "That is not right.", 401
        try:
            await self._logins.step_up(present.caller(caller), present.user, _proof(form, interaction))
        except (BadCredentials, MfaFailed, Invalid, msgspec.ValidationError):
            pass
        except PasskeyRefused:
            fault = _WRONG_PASSKEY
        except StepUpRequired:
            fault = "Use your second factor."
        except TooManyAttempts as waits:
            fault, status = waits.detail, 429
        else:
            return await self._advance(caller, client, interaction, await self._browsers.present(browser.session))
        return await self._ask_confirm(caller, client, interaction, present, fault=fault, status=status)

    async def decide(self, caller: Caller, form: Mapping[str, str], browser: Browser) -> Outcome:
        """Take a person's decision about what an app may know."""
        client, interaction, request = await self._opened(form, browser)
        if form.get("decision") != "allow":
            return self._refuse(request.redirect_uri, request.state, "access_denied", "The person declined.")
        present = await self._browsers.present(browser.session)
        if present is None or interaction.session_id != present.session.session_id:
            raise PageRefused(_STALE)
        return await self._advance(caller, client, interaction, present, agreed=True)

    async def _opened(
        self, form: Mapping[str, str], browser: Browser
    ) -> tuple[ClientRecord, Interaction, AuthorizationRequest]:
        """Read the form's request; it must be for this browser. Raises: PageRefused."""
        interaction = await self._browsers.open(form.get("request", ""), browser.browser)
        if interaction is None or interaction.request is None:
            raise PageRefused(_STALE)
        request = interaction.request
        client = await self._clients.find(request.client_id)
        check_redirect(client, {"redirect_uri": request.redirect_uri})
        assert client is not None  # or it was refused
        return client, interaction, request

    async def _entered(
        self,
        caller: Caller,
        client: ClientRecord,
        interaction: Interaction,
        before: Present | None,
        session_id: str,
    ) -> Outcome:
        """Go on after a login: the browser's session before it ends, and the new one is its only one."""
        if before is not None:
            await self._sessions.end(before.caller(caller), before.session.session_id, Reason.LOGOUT)
        present = await self._browsers.session(session_id)
        outcome = await self._advance(caller, client, interaction, present)
        return msgspec.structs.replace(outcome, cookie=self._browsers.cookie(session_id))

    # ---- what comes next

    async def _advance(
        self, caller: Caller, client: ClientRecord, interaction: Interaction, present: Present | None,
        *, agreed: bool = False,
    ) -> Outcome:  # fmt: skip
        request = interaction.request
        assert request is not None  # a request for a logout comes by another way
        silent = "none" in request.prompt
        foreign = present is not None and present.user.tenant_id != client.tenant_id
        if present is None or foreign or not self._is_meant(request, present):
            if silent:
                return self._refuse(request.redirect_uri, request.state, "login_required", "Nobody is signed in.")
            return await self._ask_login(caller, client, interaction, email=request.login_hint)
        if not _is_fresh(present, _fresh_since_us(interaction, request)):
            if silent:
                return self._refuse(request.redirect_uri, request.state, "login_required", "The login is too old.")
            return await self._ask_confirm(caller, client, interaction, present)
        if "mfa" not in present.session.amr and await self._policy.demands(client.tenant_id):
            if silent:
                return self._refuse(
                    request.redirect_uri, request.state, "interaction_required", "A second factor has to be set up."
                )
            raise PageRefused("Your organisation asks for a second factor. Set one up in Sealwire first.")
        known = await self._grants.allows(present.user.user_id, client, request.scopes)
        if not agreed and (not known or "consent" in request.prompt):
            if silent:
                return self._refuse(request.redirect_uri, request.state, "consent_required", "Nobody agreed yet.")
            return await self._ask_consent(client, interaction, present)
        code = await self._grants.give(caller, request, present.session, present.user, asked=agreed)
        if code is None:
            raise PageRefused("Your session has ended meanwhile. Go back to the app and begin again.")
        return Sent(url=self._answer(request.redirect_uri, request.state, code=code))

    async def _ask_login(
        self, caller: Caller, client: ClientRecord, interaction: Interaction,
        *, email: str, fault: str = "", status: int = 200,
    ) -> Outcome:  # fmt: skip
        offer = await self._passkeys.for_login(caller, client.tenant_id)
        request = await self._sealed(interaction, offer)
        html = pages.login(app=client.name, request=request, email=email, fault=fault, passkey=offer)
        return self._shown(html, interaction, status, offer)

    async def _ask_code(
        self, caller: Caller, client: ClientRecord, interaction: Interaction, mfa_token: str,
        *, fault: str = "", status: int = 200,
    ) -> Outcome:  # fmt: skip
        offer = await self._passkeys.for_second_factor(caller, mfa_token)
        request = await self._sealed(interaction, offer)
        html = pages.second_factor(app=client.name, request=request, mfa_token=mfa_token, fault=fault, passkey=offer)
        return self._shown(html, interaction, status, offer)

    async def _ask_confirm(
        self, caller: Caller, client: ClientRecord, interaction: Interaction, present: Present,
        *, fault: str = "", status: int = 200,
    ) -> Outcome:  # fmt: skip
        person = await self._people.person(present.user)
        offer = await self._passkeys.for_confirm(caller, present)
        html = pages.confirm(
            app=client.name, request=await self._sealed(interaction, offer), email=person.email,
            by_code=present.user.mfa, fault=fault, passkey=offer,
        )  # fmt: skip
        return self._shown(html, interaction, status, offer)

    async def _ask_consent(self, client: ClientRecord, interaction: Interaction, present: Present) -> Outcome:
        request = interaction.request
        assert request is not None  # as in _advance
        asked = msgspec.structs.replace(interaction, session_id=present.session.session_id, challenge="")
        person = await self._people.person(present.user)
        html = pages.consent(
            app=client.name, request=await self._browsers.seal(asked), email=person.email, scopes=request.scopes,
            target=request.redirect_uri,
        )  # fmt: skip
        return self._shown(html, interaction, 200)

    async def _sealed(self, interaction: Interaction, offer: pages.Offer | None) -> str:
        """Seal the request for its page, with the challenge that is to be answered there."""
        challenge = offer.challenge if offer is not None else ""
        return await self._browsers.seal(msgspec.structs.replace(interaction, challenge=challenge))

    def _shown(self, html: bytes, interaction: Interaction, status: int, offer: pages.Offer | None = None) -> Shown:
        assert interaction.request is not None  # as in _advance
        target = interaction.request.redirect_uri
        return Shown(html=html, status=status, target=target, scripted=offer is not None)

    def _refuse(self, redirect_uri: str, state: str, error: str, description: str) -> Sent:
        return Sent(url=self._answer(redirect_uri, state, error=error, error_description=description))

    def _answer(self, redirect_uri: str, state: str, **members: str) -> str:
        """Return the redirect URI with the answer: `state` as it came, and who answers (RFC 9207)."""
        given = {**members, **({"state": state} if state else {}), "iss": self._tokens.issuer}
        return redirect_uri + ("&" if "?" in redirect_uri else "?") + urlencode(given)


def _fresh_since_us(interaction: Interaction, request: AuthorizationRequest) -> int:
    """Return the earliest time at which the person may have proved who they are."""
    if {"login", "select_account"} & set(request.prompt):
        return interaction.started_us
    return interaction.started_us - request.max_age_s * US_PER_S if request.max_age_s >= 0 else 0


def _is_fresh(present: Present, since_us: int) -> bool:
    """Tell whether the proof an app asks for was made; with a second factor, one without it is none."""
    if since_us and present.user.mfa and "mfa" not in present.session.amr:
        return False
    return present.session.auth_us >= since_us


def _proof(form: Mapping[str, str], interaction: Interaction) -> StepUp:
    """Read the form of a fresh proof. Raises: PasskeyRefused, ValidationError."""
    if assertion := form.get("assertion"):
        return StepUp(method="passkey", code=read(assertion, interaction))
    if code := form.get("code", "").strip():
        return msgspec.convert({"method": _method(code), "code": code}, StepUp)
    return msgspec.convert({"method": "password", "password": form.get("password", "")}, StepUp)


def _method(code: str) -> str:
    return "totp" if code.replace(" ", "").isdigit() else "recovery"
