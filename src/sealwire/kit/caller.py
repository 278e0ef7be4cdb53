"""Who asks: a verified principal and where the request came from. The first argument of every use case."""

from __future__ import annotations

from typing import Literal

import msgspec

from sealwire.kit.permission import GRANTS, Permission, Role

ANONYMOUS_TENANT = "anonymous"
SYSTEM_TENANT = "system"
STEP_UP_WINDOW_S = 15 * 60
"""How long a proof of identity is recent enough for what is sensitive."""


class Proofs(msgspec.Struct, frozen=True):
    """How a person can prove again who they are. With a `second_factor`, a proof without one is none."""

    methods: list[str]
    second_factor: bool = False


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A verified identity; one per token, shared by all requests that carry it.

    `subject` is an opaque user id or a service's name; of an API key it is its owner's id, and `session_id` the key's.
    `scopes`, where given, are the only permissions of the role that count. `epoch` is the subject's security epoch at
    the time the token was issued; times are Unix seconds (`auth_time_s` 0: too long ago to count as recent). `amr` is
    of the last proof (RFC 8176): "mfa" is in it exactly when a second factor was part of that one.
    """

    kind: Literal["user", "api_key", "service", "anonymous"]
    tenant_id: str
    subject: str
    role: Role
    session_id: str = ""
    email: str = ""
    epoch: int = 0
    auth_time_s: int = 0
    amr: tuple[str, ...] = ()
    expires_at_s: int = 0
    token_id: str = ""
    legacy: bool = False
    scopes: tuple[Permission, ...] | None = None

    @property
    def actor_id(self) -> str:
        """What the audit log names as the actor: of an API key the key, not its owner."""
        return self.session_id if self.kind == "api_key" else self.subject

    def may(self, permission: Permission) -> bool:
        """Whether role and scopes grant this."""
        return permission in GRANTS[self.role] and (self.scopes is None or permission in self.scopes)


ANONYMOUS = Principal(kind="anonymous", tenant_id=ANONYMOUS_TENANT, subject="", role=Role.GUEST)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """A principal in one request. `confirmed` is false while its session can't be confirmed (R6.6).

    `service` names the Sealwire service that calls, on its own or for the principal; empty at the public edge.
    """

    principal: Principal
    confirmed: bool = True
    service: str = ""
    ip: str = ""
    user_agent: str = ""
    trace_id: str = ""

    @property
    def tenant_id(self) -> str:
        """The tenant whose data this call may touch."""
        return self.principal.tenant_id

    @property
    def user_id(self) -> str:
        """The opaque id of the person (or key, or service) that asks."""
        return self.principal.subject

    @property
    def is_service(self) -> bool:
        """Whether one of our services calls on its own behalf."""
        return self.principal.kind == "service"

    @property
    def is_anonymous(self) -> bool:
        """Whether no valid credential came with the request."""
        return self.principal.kind == "anonymous"

    def may(self, permission: Permission) -> bool:
        """Whether the principal's role and scopes grant this."""
        return not self.is_anonymous and self.principal.may(permission)


def service_caller(service: str, tenant_id: str) -> Caller:
    """Return the caller a service is when it acts on its own in a tenant's data (in this process)."""
    principal = Principal(kind="service", tenant_id=tenant_id, subject=service, role=Role.SERVICE)
    return Caller(principal=principal, service=service)
