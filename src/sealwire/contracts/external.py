"""What auth promises of sign-in through somebody else: providers named in the settings, identities linked to people."""

from __future__ import annotations

from typing import Protocol

from sealwire.contracts.auth_terms import PROFILE, SERVICE
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, Output
from sealwire.kit.operation import Degraded, Operation, Policy, Repeat, table
from sealwire.kit.problem import Conflict, Forbidden, NotFound, Unauthenticated, Unavailable

PROVIDERS_PATH = "/auth/providers"
EXTERNAL_LOGIN_PATH = "/auth/external/login"
EXTERNAL_LINK_PATH = "/auth/external/link"


class ProviderNotFound(NotFound):
    """No such identity provider."""

    code, title = "provider_not_found", "No such identity provider"


class IdentityNotFound(NotFound):
    """The caller has no such identity."""

    code, title = "identity_not_found", "No such identity"


class ProviderUnavailable(Unavailable):
    """The identity provider is out of reach, or answers what can't be used. Says nothing about the person."""

    code, title = "provider_unavailable", "The identity provider is not available for the moment"


class ExternalRefused(Unauthenticated):
    """The provider's answer does not prove who this is; begin again."""

    code, title = "external_refused", "Signing in through the provider did not work"


class IdentityUnknown(Forbidden):
    """The provider knows the person, and no account here is linked to them."""

    code, title = "identity_unknown", "No account is linked to this identity"


class IdentityTaken(Conflict):
    """The identity is linked to another account."""

    code, title = "identity_taken", "This identity is linked to another account"


class Provider(Output):
    """An identity provider as a login page shows it. `start` is where the browser goes."""

    name: str
    label: str
    start: str
    sign_up: bool


class Providers(Output):
    """Those named in the settings."""

    items: list[Provider]


class ExternalLogin(Input):
    """Finish a login with what the provider proved; who it is stands in the cookie of the flow."""

    cookie: bool = False


class LinkedIdentity(Output):
    """An identity of the caller elsewhere."""

    identity_id: str
    provider: str
    issuer: str
    linked_at: str


class LinkedIdentities(Output):
    """Identities of the caller elsewhere."""

    items: list[LinkedIdentity]


PROVIDERS = Operation(
    name="providers",
    verb="GET",
    path=PROVIDERS_PATH,
    gives=Providers,
    service=SERVICE,
    policy=Policy.PUBLIC,
    degraded=Degraded.ALLOW,
    repeat=Repeat.SAFE,
    summary="Identity providers people may sign in through",
)
IDENTITIES = Operation(
    name="identities",
    verb="GET",
    path="/auth/identities",
    gives=LinkedIdentities,
    repeat=Repeat.SAFE,
    summary="The caller's identities elsewhere",
    **PROFILE,
)
END_IDENTITY = Operation(
    name="end_identity",
    verb="DELETE",
    path="/auth/identities/{identity_id}",
    repeat=Repeat.IDEMPOTENT,
    step_up=True,
    summary="Sign in by this identity no more",
    **PROFILE,
)

OPERATIONS = table(PROVIDERS, IDENTITIES, END_IDENTITY)


class External(Protocol):
    """The part of auth that deals with them."""

    async def providers(self, caller: Caller) -> Providers: ...
    async def identities(self, caller: Caller) -> LinkedIdentities: ...
    async def end_identity(self, caller: Caller, identity_id: str) -> None:
        """Raises: IdentityNotFound."""
