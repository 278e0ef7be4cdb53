"""Logout asked for by an app (OpenID Connect RP-Initiated Logout 1.0): by its ID token, or after the person agreed."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from sealwire.contracts.openid import PageRefused
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.jose import TokenRefused
from sealwire.services.auth import openid_pages as pages
from sealwire.services.auth.openid_browser import BrowserState, Interaction, Present, browser_hash
from sealwire.services.auth.openid_clients import ClientRegistry
from sealwire.services.auth.openid_requests import state_of
from sealwire.services.auth.openid_signin import Browser, Outcome, Sent, Shown
from sealwire.services.auth.openid_tokens import AppTokens, audience_hint
from sealwire.services.auth.people import People
from sealwire.services.auth.records import Reason
from sealwire.services.auth.sessions import SessionKeeper


class AppLogout:
    """Ends the session an app signed somebody in with. Apps of the same session hear of it (openid_courier.py)."""

    def __init__(
        self, *, clients: ClientRegistry, tokens: AppTokens, browsers: BrowserState, sessions: SessionKeeper,
        people: People, clock: Clock,
    ) -> None:  # fmt: skip
        self._clients = clients
        self._tokens = tokens
        self._browsers = browsers
        self._sessions = sessions
        self._people = people
        self._clock = clock

    async def ask(self, caller: Caller, params: Mapping[str, str], browser: Browser) -> Outcome:
        """Take a request for a logout. Raises: PageRefused for an address that is not the app's.

        An ID token of ours that is of the session in this browser (or while there is none in it) is enough; without,
        or when it is about somebody else, the person is asked: a link alone logs nobody out.
        """
        client_id, session_id = self._hinted(params)
        uri = await self._target(client_id, params)
        present = await self._browsers.present(browser.session)
        if session_id and (present is None or present.session.session_id == session_id):
            ended = present or await self._browsers.session(session_id)
            if ended is not None:
                await self._end(caller, ended)
            return self._left(uri)
        if present is None:
            return self._left(uri)
        interaction = Interaction(
            browser=browser_hash(browser.browser), started_us=self._clock.now_us(),
            session_id=present.session.session_id, logout_uri=uri,
        )  # fmt: skip
        person = await self._people.person(present.user)
        html = pages.log_out(request=await self._browsers.seal(interaction), email=person.email)
        return Shown(html=html, target=uri)

    async def confirm(self, caller: Caller, form: Mapping[str, str], browser: Browser) -> Outcome:
        """Take the person's answer. Raises: PageRefused unless it is the form we showed to this browser."""
        interaction = await self._browsers.open(form.get("request", ""), browser.browser)
        present = await self._browsers.present(browser.session)
        if interaction is None or interaction.logout_uri is None:
            raise PageRefused("This page is too old, or was opened in another browser.")
        if present is not None:
            if present.session.session_id != interaction.session_id:
                raise PageRefused("Somebody else has signed in meanwhile.")
            await self._end(caller, present)
        return self._left(interaction.logout_uri)

    def _hinted(self, params: Mapping[str, str]) -> tuple[str, str]:
        """Return the app that asks, and the session its ID token is of ("" without a good one)."""
        named, hint = params.get("client_id", ""), params.get("id_token_hint", "")
        if not hint:
            return named, ""
        try:
            client_id = audience_hint(hint)
            claims = self._tokens.read_hint(hint, client_id)
        except TokenRefused:
            return named, ""
        if named and named != client_id:
            raise PageRefused("The request names one app, and shows the token of another.")
        return client_id, str(claims["sid"])

    async def _target(self, client_id: str, params: Mapping[str, str]) -> str:
        """Return where the browser goes afterwards, with `state`; "" to stay here. Raises: PageRefused."""
        uri = params.get("post_logout_redirect_uri", "")
        if not uri:
            return ""
        client = await self._clients.find(client_id)
        if client is None or uri not in client.logout_uris:
            raise PageRefused("The app wants you to go to an address that is not registered for it.")
        state = state_of(params)
        return uri + ("&" if "?" in uri else "?") + urlencode({"state": state}) if state else uri

    async def _end(self, caller: Caller, present: Present) -> None:
        await self._sessions.end(present.caller(caller), present.session.session_id, Reason.LOGOUT)

    def _left(self, uri: str) -> Outcome:
        if uri:
            return Sent(url=uri, cookie="")
        return Shown(html=pages.message("Signed out", "You are signed out."), cookie="")
