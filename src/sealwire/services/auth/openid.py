"""OpenID Connect provider: its parts put together, so that other apps can sign people in with Sealwire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealwire.contracts.openid import (
    AUTHORIZE_PATH,
    END_SESSION_PATH,
    TOKEN_PATH,
    USERINFO_PATH,
    ProviderMetadata,
)
from sealwire.contracts.tokens import Introspection
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal
from sealwire.services.auth.logins import Logins
from sealwire.services.auth.mfa_policy import MfaPolicy
from sealwire.services.auth.openid_apps import AppsPage
from sealwire.services.auth.openid_browser import BrowserState
from sealwire.services.auth.openid_clients import ClientRegistry
from sealwire.services.auth.openid_consents import ConsentBook
from sealwire.services.auth.openid_courier import LogoutCourier
from sealwire.services.auth.openid_errors import OAuthRefused
from sealwire.services.auth.openid_grants import Grants
from sealwire.services.auth.openid_logout import AppLogout
from sealwire.services.auth.openid_passkeys import PagePasskeys
from sealwire.services.auth.openid_ports import Outward
from sealwire.services.auth.openid_signin import SignIn
from sealwire.services.auth.openid_tokens import PREFIX, AppTokens
from sealwire.services.auth.passkey_proofs import PasskeyProofs
from sealwire.services.auth.people import People
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.relying_party import Party
from sealwire.services.auth.sessions import SessionKeeper
from sealwire.services.auth.signing import SigningKeys
from sealwire.services.auth.vault import Vault


class OpenIdProvider:
    """The provider. Pages are answered by `sign_in`, `log_out` and `apps`; apps' calls by the methods here."""

    def __init__(
        self, *, stores: AuthStores, outward: Outward, vault: Vault, signing: SigningKeys, logins: Logins,
        sessions: SessionKeeper, people: People, policy: MfaPolicy, journal: Journal, clock: Clock, config: AuthConfig,
        issuer: str, proofs: PasskeyProofs, party: Party,
    ) -> None:  # fmt: skip
        self._issuer = issuer
        self._signing = signing
        self._clock = clock
        tokens = AppTokens(signing=signing, vault=vault, clock=clock, config=config, issuer=issuer)
        browsers = BrowserState(sessions=stores.sessions, vault=vault, clock=clock)
        self.clients = ClientRegistry(store=stores.openid.clients, journal=journal, clock=clock, config=config)
        self.grants = Grants(
            store=stores.openid.grants, tokens=tokens, people=people, journal=journal, clock=clock, config=config
        )
        self.consents = ConsentBook(store=stores.openid.grants, journal=journal, clock=clock)
        self.apps = AppsPage(consents=self.consents, browsers=browsers, people=people, clock=clock)
        self.sign_in = SignIn(
            clients=self.clients, grants=self.grants, tokens=tokens, browsers=browsers, logins=logins,
            passkeys=PagePasskeys(proofs=proofs, party=party, issuer=issuer), sessions=sessions, people=people,
            policy=policy, clock=clock,
        )  # fmt: skip
        self.log_out = AppLogout(
            clients=self.clients, tokens=tokens, browsers=browsers, sessions=sessions, people=people, clock=clock
        )
        self.courier = LogoutCourier(
            store=stores.openid.notices, feed=stores.revocations, tokens=tokens, outward=outward, journal=journal,
            clock=clock,
        )  # fmt: skip

    def metadata(self) -> ProviderMetadata:
        """Return what apps read first."""
        auth = self._issuer + PREFIX
        now_us = self._clock.now_us()
        return ProviderMetadata(
            issuer=self._issuer,
            authorization_endpoint=auth + AUTHORIZE_PATH,
            token_endpoint=auth + TOKEN_PATH,
            userinfo_endpoint=auth + USERINFO_PATH,
            end_session_endpoint=auth + END_SESSION_PATH,
            revocation_endpoint=auth + "/auth/revoke",
            introspection_endpoint=auth + "/auth/introspect",
            jwks_uri=self._issuer + "/.well-known/jwks.json",
            id_token_signing_alg_values_supported=sorted(
                {key.alg.value for key in self._signing.keys if key.verifies(now_us)}
            ),
        )

    async def token(self, caller: Caller, authorization: bytes | None, form: Mapping[str, str]) -> dict[str, Any]:
        """Answer the token endpoint. Raises: OAuthRefused."""
        client = await self.clients.authenticate(authorization, form)
        grant_type = form.get("grant_type", "")
        if grant_type == "authorization_code":
            return await self.grants.redeem(caller, client, form)
        if grant_type == "refresh_token":
            return await self.grants.refresh(caller, client, form)
        raise OAuthRefused("unsupported_grant_type", "grant_type is authorization_code or refresh_token.")

    async def introspect(self, authorization: bytes | None, form: Mapping[str, str]) -> Introspection:
        """Answer RFC 7662 to an app. Raises: OAuthRefused, also for a public one: it proves nothing of itself."""
        client = await self.clients.authenticate(authorization, form)
        if client.kind == "public":
            raise OAuthRefused("invalid_client", "Only an app with a secret may ask.", status=401)
        return await self.grants.introspect(client, _token(form))

    async def revoke(self, caller: Caller, authorization: bytes | None, form: Mapping[str, str]) -> None:
        """Answer RFC 7009 to an app. Raises: OAuthRefused."""
        client = await self.clients.authenticate(authorization, form)
        await self.grants.revoke(caller, client, _token(form))


def issuer_of(config: AuthConfig, public_url: str) -> str:
    """Return what apps know this installation by: the setting, or else the address people reach it at."""
    chosen = config.issuer if config.issuer != AuthConfig().issuer else public_url
    return (chosen or config.issuer).rstrip("/")


def _token(form: Mapping[str, str]) -> str:
    token = form.get("token", "")
    if not 0 < len(token) <= 8_192:
        raise OAuthRefused("invalid_request", "token is missing.")
    return token
