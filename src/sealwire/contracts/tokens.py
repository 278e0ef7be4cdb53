"""What auth promises of tokens: their claims, introspection, revocation, the keys that sign them."""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from sealwire.contracts.auth_terms import PROFILE, SERVICE, Token
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Input, Output
from sealwire.kit.operation import Degraded, Operation, Policy, RateClass, Repeat, table
from sealwire.kit.permission import Permission, Role


class TokenQuery(Input):
    """RFC 7009 and RFC 7662, form encoded."""

    token: Token
    token_type_hint: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class Introspection(Output, omit_defaults=True):
    """RFC 7662 section 2.2; only `active` when the token is not valid."""

    active: bool
    sub: str = ""
    client_id: str = ""
    tid: str = ""
    sid: str = ""
    role: str = ""
    scope: str = ""
    token_type: str = ""
    iss: str = ""
    aud: str = ""
    exp: int = 0
    iat: int = 0
    jti: str = ""

    def __post_init__(self) -> None:
        if not self.active and self.sub:
            raise ValueError("an inactive token tells nothing else")


class AccessClaims(Output):
    """The claims of an enhanced access token (RFC 9068 and ours).

    `role` and `email` are hints; the user record decides. `epoch` is the user's security epoch when it was issued.
    `enrol_only`, left out when false: the tenant asks for a second factor and the session was opened without one.
    """

    iss: str
    aud: str
    sub: str
    client_id: str
    email: str
    role: Role
    tid: str
    sid: str
    jti: str
    iat: int
    exp: int
    auth_time: int
    amr: list[str]
    epoch: int = 0
    enrol_only: bool = False


class SigningRotation(Input):
    """`compromised`: the old key counts no longer, at once, and every session ends."""

    compromised: bool = False


class Jwks(Output):
    """RFC 7517 section 5."""

    keys: list[dict[str, str]]


REVOKE = Operation(
    name="revoke",
    verb="POST",
    path="/auth/revoke",
    takes=TokenQuery,
    form=True,
    repeat=Repeat.IDEMPOTENT,
    degraded=Degraded.ALLOW,
    summary="Revoke a token (RFC 7009)",
    **PROFILE,
)
INTROSPECT = Operation(
    name="introspect",
    verb="POST",
    path="/auth/introspect",
    takes=TokenQuery,
    gives=Introspection,
    form=True,
    repeat=Repeat.SAFE,
    callers=frozenset({"socket"}),
    summary="Ask about a token (RFC 7662)",
    **PROFILE,
)
JWKS = Operation(
    name="jwks",
    verb="GET",
    path="/.well-known/jwks.json",
    gives=Jwks,
    service=SERVICE,
    policy=Policy.PUBLIC,
    repeat=Repeat.SAFE,
    degraded=Degraded.ALLOW,
    rate=RateClass.NONE,
    callers=frozenset({"socket"}),
    summary="The keys that verify access tokens (RFC 7517)",
)
ROTATE_SIGNING = Operation(
    name="rotate_signing",
    verb="POST",
    path="/auth/signing-keys/rotate",
    takes=SigningRotation,
    gives=Jwks,
    service=SERVICE,
    needs=Permission.MANAGE_TENANTS,
    step_up=True,
    summary="Begin to sign with a new key (operators)",
)

OPERATIONS = table(REVOKE, INTROSPECT, JWKS, ROTATE_SIGNING)


class TokenDesk(Protocol):
    """The part of auth that signs and tells about tokens."""

    async def revoke(self, caller: Caller, query: TokenQuery) -> None:
        """Revoke an access or refresh token of the caller; silent when it is unknown (RFC 7009 section 2.2)."""

    async def introspect(self, caller: Caller, query: TokenQuery) -> Introspection:
        """Tell about a token of the caller's tenant."""

    async def jwks(self, caller: Caller) -> Jwks: ...

    async def rotate_signing(self, caller: Caller, rotation: SigningRotation) -> Jwks:
        """Publish a new key, sign with it once verifiers know it, keep the old one until its last token expired."""
