"""The page of one's apps: what each was allowed to know, and a button to take it back; for any session of a person."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from sealwire.contracts.openid import ConsentNotFound, PageRefused
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.codec import Page
from sealwire.services.auth import openid_pages as pages
from sealwire.services.auth.openid_browser import BrowserState, Interaction, Present, browser_hash
from sealwire.services.auth.openid_consents import ConsentBook
from sealwire.services.auth.openid_signin import Browser, Outcome, Shown
from sealwire.services.auth.people import People

_AT_ONCE = 200
_NOBODY = "Nobody is signed in in this browser. Sign in to one of your apps, or to your account, and come back."


class AppsPage:
    """Shows consents to whoever is signed in in a browser, and ends one when its button is pressed."""

    def __init__(self, *, consents: ConsentBook, browsers: BrowserState, people: People, clock: Clock) -> None:
        self._consents = consents
        self._browsers = browsers
        self._people = people
        self._clock = clock

    async def show(self, caller: Caller, params: Mapping[str, str], browser: Browser) -> Outcome:
        """Show the page."""
        present, account = await self._browsers.present(browser.session), False
        if present is None and browser.account:
            present, account = await self._browsers.session(browser.account), True
        if present is None:
            return Shown(html=pages.message("Your apps", _NOBODY))
        return await self._shown(caller, present, browser, account=account)

    async def withdraw(self, caller: Caller, form: Mapping[str, str], browser: Browser) -> Outcome:
        """Take one consent back. Raises: PageRefused unless it is the form we showed to this person in this browser."""
        interaction = await self._browsers.open(form.get("request", ""), browser.browser)
        if interaction is None or not interaction.consents:
            raise PageRefused("This page is too old, or was opened in another browser.")
        if interaction.account:  # shown to a session of the API: sealed for this very browser, and it has to live still
            present = await self._browsers.session(interaction.session_id)
        else:
            present = await self._browsers.present(browser.session)
        if present is None or present.session.session_id != interaction.session_id:
            raise PageRefused("Somebody else has signed in meanwhile, or nobody is any more.")
        with suppress(ConsentNotFound):  # taken back already: the page says so
            await self._consents.end(present.caller(caller), form.get("client_id", ""))
        return await self._shown(caller, present, browser, account=interaction.account)

    async def _shown(self, caller: Caller, present: Present, browser: Browser, *, account: bool) -> Outcome:
        found = await self._consents.page(present.caller(caller), Page(limit=_AT_ONCE))
        interaction = Interaction(
            browser=browser_hash(browser.browser), started_us=self._clock.now_us(),
            session_id=present.session.session_id, consents=True, account=account,
        )  # fmt: skip
        person = await self._people.person(present.user)
        request = await self._browsers.seal(interaction)
        return Shown(html=pages.apps(request=request, email=person.email, consents=found.items))
