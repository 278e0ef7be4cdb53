"""What auth promises of OpenID Connect: apps that sign people in with Sealwire, and the consents people gave them."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from sealwire.contracts.auth_terms import ADMIN, PROFILE, SERVICE
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, Output, Page, RuleBroken, ShortText
from sealwire.kit.operation import Degraded, Operation, Policy, RateClass, Repeat, table
from sealwire.kit.problem import NotFound, Problem

AUTHORIZE_PATH: Final = "/auth/authorize"
PASSKEY_SCRIPT_PATH: Final = "/auth/authorize/passkey.js"
TOKEN_PATH: Final = "/auth/token"  # noqa: S105 - a path
USERINFO_PATH: Final = "/auth/userinfo"
END_SESSION_PATH: Final = "/auth/end-session"
APPS_PATH: Final = "/auth/apps"
"""A page, where a person signed in in a browser sees and takes back consents."""
SCOPES: Final = ("openid", "profile", "email")
"""None of them opens the API: an app's token is for its one audience, the userinfo endpoint (docs/adr/0014)."""
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})
Scope = Literal["openid", "profile", "email"]
Uri = Annotated[str, msgspec.Meta(min_length=8, max_length=512)]
_PRINTABLE: Final = re.compile(r"[!#-;=?-\[\]_a-z~]+")
"""ASCII without blanks, quotes, angle brackets, backslash, `^`, backtick, braces and bar (RFC 3986 appendix A)."""
_PRIVATE_USE: Final = re.compile(r"[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+")


class ClientNotFound(NotFound):
    """No such app in this tenant."""

    code, title = "client_not_found", "No such app"


class ConsentNotFound(NotFound):
    """The caller gave that app no consent."""

    code, title = "consent_not_found", "No such consent"


class PageRefused(Problem):
    """A sign-in page can't go on: the app or its address is in doubt, or the form is not this browser's, or too old.

    The app is told nothing of it; a browser gets it as a page.
    """

    code, title, status = "sign_in_refused", "This did not work", 400


def check_uri(uri: str, *, private_use: bool) -> None:
    """Refuse an address that no browser should be sent to.

    https, or http on this machine, or (`private_use`: RFC 8252 section 7.1) a scheme named after a domain; compared
    as text later, so nothing in it may read two ways. Raises: ValueError.
    """
    if _PRINTABLE.fullmatch(uri) is None or "#" in uri or "*" in uri:
        raise ValueError("an address is plain ASCII, without blanks, fragment and wildcard")
    parts = urlsplit(uri)
    host = parts.hostname or ""
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address holds no user name")
    if parts.scheme == "https" and host:
        return
    if parts.scheme == "http" and host in LOOPBACK_HOSTS:
        return
    if private_use and _PRIVATE_USE.fullmatch(parts.scheme) and not host:
        return
    raise ValueError("an address begins with https://, or is on this machine, or is a scheme named after a domain")


def _check_member(member: str, uri: str, *, private_use: bool) -> None:
    """Raises: RuleBroken."""
    try:
        check_uri(uri, private_use=private_use)
    except ValueError as error:
        raise RuleBroken(str(error), member) from None


class NewClient(Input):
    """An app. `confidential`: it keeps a secret on a server; `public`: it can't (in a browser, on a telephone).

    `backchannel_logout_uri` is told when a session ends that it signed somebody in with. `scopes` are the most it gets.
    """

    name: ShortText
    redirect_uris: Annotated[list[Uri], msgspec.Meta(min_length=1, max_length=16)]
    kind: Literal["confidential", "public"] = "confidential"
    post_logout_redirect_uris: Annotated[list[Uri], msgspec.Meta(max_length=16)] = []
    backchannel_logout_uri: Uri | None = None
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1, max_length=3)] = ("openid", "profile", "email")

    def __post_init__(self) -> None:
        private_use = self.kind == "public"
        for name, uris in (
            ("redirect_uris", self.redirect_uris),
            ("post_logout_redirect_uris", self.post_logout_redirect_uris),
        ):
            for i, uri in enumerate(uris):
                _check_member(f"{name}[{i}]", uri, private_use=private_use)
        if self.backchannel_logout_uri is not None:
            _check_member("backchannel_logout_uri", self.backchannel_logout_uri, private_use=False)
        if "openid" not in self.scopes:
            raise RuleBroken("An app that signs people in needs the scope openid.", "scopes")


class Client(Output):
    """An app as administrators see it."""

    client_id: str
    name: str
    kind: Literal["confidential", "public"]
    redirect_uris: list[str]
    post_logout_redirect_uris: list[str]
    backchannel_logout_uri: str | None
    scopes: list[str]
    created_by: str
    created_at: str


class ClientMade(Output, omit_defaults=True):
    """`client_secret` is shown now and never again; a public app has none."""

    client: Client
    client_secret: str = ""


class Clients(Output):
    """The tenant's apps."""

    items: list[Client]
    next_cursor: str | None = None


class Consent(Output):
    """What a person allowed an app."""

    client_id: str
    name: str
    scopes: list[str]
    given_at: str


class Consents(Output):
    """The apps the caller signed in to."""

    items: list[Consent]
    next_cursor: str | None = None


class ProviderMetadata(Output):
    """OpenID Connect Discovery 1.0 section 3, RFC 8414, RFC 9207."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str
    end_session_endpoint: str
    revocation_endpoint: str
    introspection_endpoint: str
    jwks_uri: str
    id_token_signing_alg_values_supported: list[str]
    scopes_supported: tuple[str, ...] = SCOPES
    response_types_supported: tuple[str, ...] = ("code",)
    response_modes_supported: tuple[str, ...] = ("query",)
    grant_types_supported: tuple[str, ...] = ("authorization_code", "refresh_token")
    subject_types_supported: tuple[str, ...] = ("public",)
    acr_values_supported: tuple[str, ...] = ("aal1", "aal2")
    prompt_values_supported: tuple[str, ...] = ("none", "login", "consent", "select_account")
    claims_supported: tuple[str, ...] = (
        "iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "at_hash", "sid", "name", "email",
    )  # fmt: skip
    code_challenge_methods_supported: tuple[str, ...] = ("S256",)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic", "client_secret_post", "none")
    revocation_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic", "client_secret_post", "none")
    introspection_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic", "client_secret_post")
    authorization_response_iss_parameter_supported: bool = True
    backchannel_logout_supported: bool = True
    backchannel_logout_session_supported: bool = True
    claims_parameter_supported: bool = False
    request_parameter_supported: bool = False
    request_uri_parameter_supported: bool = False


OPENID_CONFIGURATION = Operation(
    name="openid_configuration",
    verb="GET",
    path="/.well-known/openid-configuration",
    gives=ProviderMetadata,
    service=SERVICE,
    policy=Policy.PUBLIC,
    rate=RateClass.NONE,
    degraded=Degraded.ALLOW,
    repeat=Repeat.SAFE,
    summary="Where apps sign people in (OpenID Connect Discovery)",
)
CLIENTS = Operation(
    name="clients",
    verb="GET",
    path="/auth/clients",
    takes=Page,
    gives=Clients,
    repeat=Repeat.SAFE,
    summary="Apps that may sign people of the tenant in",
    **ADMIN,
)
ADD_CLIENT = Operation(
    name="add_client",
    verb="POST",
    path="/auth/clients",
    takes=NewClient,
    gives=ClientMade,
    step_up=True,
    summary="Let an app sign people of the tenant in",
    **ADMIN,
)
END_CLIENT = Operation(
    name="end_client",
    verb="DELETE",
    path="/auth/clients/{client_id}",
    repeat=Repeat.IDEMPOTENT,
    summary="End an app: its codes and tokens are dead at once",
    **ADMIN,
)
CONSENTS = Operation(
    name="consents",
    verb="GET",
    path="/auth/consents",
    takes=Page,
    gives=Consents,
    repeat=Repeat.SAFE,
    summary="Apps the caller signed in to",
    **PROFILE,
)
END_CONSENT = Operation(
    name="end_consent",
    verb="DELETE",
    path="/auth/consents/{client_id}",
    repeat=Repeat.IDEMPOTENT,
    summary="Take a consent back: the app's tokens are dead at once",
    **PROFILE,
)

OPERATIONS = table(OPENID_CONFIGURATION, CLIENTS, ADD_CLIENT, END_CLIENT, CONSENTS, END_CONSENT)


class OpenId(Protocol):
    """The part of auth that deals with them."""

    async def openid_configuration(self, caller: Caller) -> ProviderMetadata: ...
    async def clients(self, caller: Caller, page: Page) -> Clients: ...
    async def add_client(self, caller: Caller, new: NewClient) -> ClientMade:
        """Raises: QuotaExceeded."""

    async def end_client(self, caller: Caller, client_id: str) -> None:
        """Raises: ClientNotFound."""

    async def consents(self, caller: Caller, page: Page) -> Consents: ...
    async def end_consent(self, caller: Caller, client_id: str) -> None:
        """Raises: ConsentNotFound."""
