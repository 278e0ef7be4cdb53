"""Passkeys on the sign-in pages: what a page asks of a browser, and whether an answer is to that very page."""

from __future__ import annotations

import hmac
from typing import Final

import msgspec

from sealwire.contracts.logins import MfaFailed
from sealwire.contracts.passkeys import PasskeyLogin, PasskeyLoginStart, PasskeyRefused
from sealwire.contracts.webauthn import RequestOptions
from sealwire.kit.caller import Caller
from sealwire.kit.codec import encode
from sealwire.kit.problem import StepUpRequired
from sealwire.services.auth import ceremonies
from sealwire.services.auth.openid_browser import Interaction, Present
from sealwire.services.auth.openid_pages import Offer
from sealwire.services.auth.passkey_proofs import PasskeyProofs
from sealwire.services.auth.relying_party import Party, origin_of

_answer: Final = msgspec.json.Decoder(PasskeyLogin)


class PagePasskeys:
    """Offers passkeys where they work: on pages whose origin, as the settings say, is one of the relying party's."""

    def __init__(self, *, proofs: PasskeyProofs, party: Party, issuer: str) -> None:
        origin = origin_of(issuer)
        self._proofs = proofs
        self._origin = origin if party.works and origin in party.origins else ""

    async def for_login(self, caller: Caller, tenant_id: str) -> Offer | None:
        """Ask whoever is there. The challenge is of the app's tenant: a passkey of another opens no session at all."""
        if not self._origin:
            return None
        return self._offer(await self._proofs.login_options(caller, PasskeyLoginStart(tenant=tenant_id)))

    async def for_second_factor(self, caller: Caller, mfa_token: str) -> Offer | None:
        """Ask whose password was right; None when there is no passkey that would do."""
        if not self._origin:
            return None
        try:
            return self._offer(await self._proofs.login_options(caller, PasskeyLoginStart(mfa_token=mfa_token)))
        except MfaFailed:
            return None

    async def for_confirm(self, caller: Caller, present: Present) -> Offer | None:
        """Ask who is signed in; None when there is no passkey that would do."""
        if not self._origin:
            return None
        try:
            return self._offer(await self._proofs.step_up_options(present.caller(caller), present.user))
        except StepUpRequired:
            return None

    async def login(self, caller: Caller, text: str, interaction: Interaction) -> str:
        """Open a session by an answer to the login page; return its id. Raises: PasskeyRefused."""
        return (await self._proofs.login(caller, read(text, interaction))).session_id

    def _offer(self, options: RequestOptions) -> Offer:
        return Offer(options=encode(options).decode(), challenge=options.challenge, origin=self._origin)


def read(text: str, interaction: Interaction) -> PasskeyLogin:
    """Read what a page's hidden field brought. Raises: PasskeyRefused unless it answers the challenge of that page."""
    try:
        assertion = _answer.decode(text)
        challenge = ceremonies.challenge_in(assertion.response.client_data_json, "webauthn.get")
    except (msgspec.DecodeError, UnicodeError, RecursionError, ceremonies.Refused):
        raise PasskeyRefused from None
    if not interaction.challenge or not hmac.compare_digest(ceremonies.encoded(challenge), interaction.challenge):
        raise PasskeyRefused
    return assertion
