"""Coming in through an identity provider: a flow in the browser, a proof, then a login or a link. Never by address."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from sealwire.contracts.auth_terms import Email
from sealwire.contracts.crypto_terms import DecryptionFailed, KeyUnusable
from sealwire.contracts.external import (
    PROVIDERS_PATH,
    ExternalRefused,
    IdentityNotFound,
    IdentityUnknown,
    LinkedIdentities,
    LinkedIdentity,
    Provider,
    ProviderNotFound,
    Providers,
)
from sealwire.contracts.logins import BadCredentials, LoginResult
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.kit.envelopes import EnvelopeRefused
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Forbidden
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.external_provider import IdentityProvider, Proof
from sealwire.services.auth.external_records import IdentityRecord, IdentityStore
from sealwire.services.auth.logins import Logins
from sealwire.services.auth.openid_ports import Outward
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.records import Record, TenantRecord, UserRecord
from sealwire.services.auth.users import Roster
from sealwire.services.auth.vault import Vault

PREFIX: Final = "/api/v1"
FLOW_LIFE_S: Final = 600
PROOF_LIFE_S: Final = 120
KEPT_S: Final = 86_400
"""How long it is remembered past its end that a proof was used: a clock that is put back revives none."""
_RECORD: Final = "external-flow"
_AMR: Final = ("fed",)
"""No value of RFC 8176 says "somebody else vouches"; this one is widely used."""


class Flow(Record):
    """A flow in a browser, sealed in its cookie. `proof` is there once the provider has answered."""

    flow_id: str
    provider: str
    started_us: int
    state: str = ""
    nonce: str = ""
    verifier: str = ""
    return_to: str = ""
    proof: Proof | None = None
    proved_us: int = 0


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Flow).decode


class ExternalLogins:
    """Sign-in through the providers of the settings."""

    def __init__(
        self, *, stores: AuthStores, identities: IdentityStore, outward: Outward, logins: Logins, users: Roster,
        vault: Vault, journal: Journal, clock: Clock, config: AuthConfig, site: str,
    ) -> None:  # fmt: skip
        self._stores = stores
        self._identities = identities
        self._logins = logins
        self._users = users
        self._vault = vault
        self._journal = journal
        self._clock = clock
        self._providers = {
            settings.name: IdentityProvider(
                settings=settings, redirect_uri=f"{site}{PREFIX}{PROVIDERS_PATH}/{settings.name}/callback",
                outward=outward, clock=clock, leeway_s=config.leeway_s,
            )
            for settings in config.providers
        }  # fmt: skip

    def listed(self) -> Providers:
        """Return the providers as a login page shows them."""
        items = [
            Provider(
                name=name,
                label=provider.settings.label or name,
                start=f"{PREFIX}{PROVIDERS_PATH}/{quote(name)}/start",
                sign_up=provider.settings.sign_up,
            )
            for name, provider in self._providers.items()
        ]
        return Providers(items=items)

    # ---- the browser's way

    async def start(self, name: str, return_to: str) -> tuple[str, str]:
        """Begin a flow: where the browser goes, and its cookie. Raises: ProviderNotFound, ProviderUnavailable."""
        provider = self._provider(name)
        state, nonce, verifier = _random(), _random(), _random()
        url = await provider.authorization_url(state=state, nonce=nonce, verifier=verifier)
        flow = Flow(
            flow_id=new_id(), provider=name, started_us=self._clock.now_us(), state=state, nonce=nonce,
            verifier=verifier, return_to=return_to if _is_local(return_to) else "",
        )  # fmt: skip
        return url, await self._seal(flow)

    async def answered(self, name: str, params: Mapping[str, str], cookie: str) -> tuple[str, str]:
        """Take the provider's answer: the path to go on to ("" for none), and the cookie that holds the proof.

        Raises: ExternalRefused, ProviderNotFound, ProviderUnavailable.
        """
        provider, flow = self._provider(name), await self._open(cookie)
        given = params.get("state", "").encode("utf-8", "replace")
        if flow is None or flow.provider != name or not hmac.compare_digest(flow.state.encode(), given):
            raise ExternalRefused("This was begun in another browser, or too long ago; begin again.")
        if flow.proof is not None:
            raise ExternalRefused("This was finished already.")
        await provider.check_answer(params)
        if "error" in params or not params.get("code"):
            raise ExternalRefused("The provider did not sign you in.")
        proof = await provider.prove(params["code"], nonce=flow.nonce, verifier=flow.verifier)
        proved = Flow(
            flow_id=flow.flow_id, provider=name, started_us=flow.started_us, proof=proof,
            proved_us=self._clock.now_us(),
        )  # fmt: skip
        return flow.return_to, await self._seal(proved)

    # ---- what comes of a proof

    async def login(self, caller: Caller, cookie: str) -> LoginResult:
        """Open a session for whom the proof is about; sign them up where that is allowed.

        Raises: ExternalRefused, IdentityUnknown, EmailTaken, QuotaExceeded.
        """
        provider, proof, tenant = await self._proved(cookie)
        index = self._index(proof)
        identity = await self._identities.find(tenant.tenant_id, index)
        if identity is not None:
            user = await self._stores.users.get(identity.user_id)
        elif provider.settings.sign_up:
            user = await self._sign_up(caller, provider, proof, tenant)
        else:
            raise IdentityUnknown("Log in as before and link this identity to your account.")
        if user is None or user.status != "active" or user.tenant_id != tenant.tenant_id:
            raise ExternalRefused
        try:
            return await self._logins.admit(caller, user, amr=_AMR)
        except BadCredentials:
            raise ExternalRefused from None

    async def link(self, caller: Caller, cookie: str) -> LinkedIdentity:
        """Link the proof to the caller's account. Raises: ExternalRefused, Forbidden, IdentityTaken."""
        if caller.principal.kind != "user" or caller.principal.legacy:
            raise Forbidden("Only a person links an identity, to their own account.")
        _, proof, tenant = await self._proved(cookie, of_tenant=caller.tenant_id)
        identity = self._identity(proof, tenant.tenant_id, caller.user_id)
        event = self._journal.event(
            Kind.IDENTITY_LINKED, await self._journal.origin(caller), subject_id=caller.user_id,
            resource_type="external_identity", resource_id=identity.identity_id, provider=identity.provider,
        )  # fmt: skip
        await self._identities.add(identity, [event])
        found = await self._identities.find(identity.tenant_id, identity.subject_index)
        return _shown(found or identity)

    async def page(self, caller: Caller) -> LinkedIdentities:
        """List the caller's identities."""
        return LinkedIdentities(items=[_shown(identity) for identity in await self._identities.of(caller.user_id)])

    async def unlink(self, caller: Caller, identity_id: str) -> None:
        """Unlink one. Raises: IdentityNotFound."""
        event = self._journal.event(
            Kind.IDENTITY_UNLINKED, await self._journal.origin(caller), subject_id=caller.user_id,
            resource_type="external_identity", resource_id=identity_id,
        )  # fmt: skip
        if not await self._identities.remove(caller.user_id, identity_id, [event]):
            raise IdentityNotFound("You have no such identity.")

    async def _sign_up(
        self, caller: Caller, provider: IdentityProvider, proof: Proof, tenant: TenantRecord
    ) -> UserRecord:
        """Make a user with the identity, in one transaction. An address that is taken is taken: it links nothing."""
        try:
            email = msgspec.convert(proof.email, Email)
        except msgspec.ValidationError:
            raise IdentityUnknown("The provider tells no address to make an account with.") from None
        if not proof.email_verified and not provider.settings.trust_email:
            raise IdentityUnknown("The provider has not verified your address.")
        identity = self._identity(proof, tenant.tenant_id, "")
        return await self._users.add_external(caller, tenant, email, proof.name[:256] or email, identity)

    async def _proved(self, cookie: str, *, of_tenant: str = "") -> tuple[IdentityProvider, Proof, TenantRecord]:
        """Use up the proof in a flow's cookie. Raises: ExternalRefused, Forbidden for another tenant's provider."""
        flow = await self._open(cookie)
        if flow is None or flow.proof is None:
            raise ExternalRefused("There is nothing to finish here; begin again.")
        until_us = flow.proved_us + PROOF_LIFE_S * US_PER_S
        if self._clock.now_us() > until_us:
            raise ExternalRefused("That took too long; begin again.")
        provider = self._provider(flow.provider)
        tenant = await self._stores.tenants.find(provider.settings.tenant)
        if tenant is None or tenant.status != "active":
            raise ExternalRefused
        if of_tenant and tenant.tenant_id != of_tenant:
            raise Forbidden("This provider is for another tenant.")
        kept_until_us = until_us + KEPT_S * US_PER_S
        if flow.proof.issuer != provider.settings.issuer or not await self._identities.spend(
            flow.flow_id, kept_until_us
        ):
            raise ExternalRefused("This was finished already.")
        return provider, flow.proof, tenant

    def _identity(self, proof: Proof, tenant_id: str, user_id: str) -> IdentityRecord:
        name = next(name for name, each in self._providers.items() if each.settings.issuer == proof.issuer)
        return IdentityRecord(
            identity_id=new_id(),
            tenant_id=tenant_id,
            user_id=user_id,
            provider=name,
            issuer=proof.issuer,
            subject_index=self._index(proof),
            created_us=self._clock.now_us(),
        )

    def _index(self, proof: Proof) -> bytes:
        return self._vault.derive("external-subject", proof.issuer, proof.subject)

    def _provider(self, name: str) -> IdentityProvider:
        try:
            return self._providers[name]
        except KeyError:
            raise ProviderNotFound("There is no such provider.") from None

    async def _seal(self, flow: Flow) -> str:
        sealed = await self._vault.seal("", _RECORD, _encode(flow))
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")

    async def _open(self, cookie: str) -> Flow | None:
        try:
            sealed = base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4))
            flow = _decode(await self._vault.open("", _RECORD, sealed))
        except (binascii.Error, ValueError, EnvelopeRefused, DecryptionFailed, KeyUnusable, msgspec.MsgspecError):
            return None
        return flow if self._clock.now_us() <= flow.started_us + FLOW_LIFE_S * US_PER_S else None


def _is_local(path: str) -> bool:
    """Whether this is a path on this site, and can be read as nothing else."""
    return (
        path.startswith("/")
        and not path.startswith("//")
        and path.isascii()
        and path.isprintable()
        and not any(mark in path for mark in '\\ "<>')
        and len(path) <= 512
    )


def _shown(record: IdentityRecord) -> LinkedIdentity:
    return LinkedIdentity(
        identity_id=record.identity_id,
        provider=record.provider,
        issuer=record.issuer,
        linked_at=rfc3339(record.created_us),
    )


def _random() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode("ascii")
