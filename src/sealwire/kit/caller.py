"""Who asks: a verified principal and where the request came from. The first argument of every use case."""

from __future__ import annotations

from typing import Literal

import msgspec

from sealwire.kit.permission import GRANTS, Permission, Role

ANONYMOUS_TENANT = "anonymous"
SYSTEM_TENANT = "system"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A verified identity; one per token, shared by all requests that carry it.

    `subject` is an opaque user id, an API key's id or a service's name. `epoch` is the subject's security epoch at the
    time the token was issued; times are Unix seconds.
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
        """Whether the principal's role grants this."""
        return not self.is_anonymous and permission in GRANTS[self.principal.role]


def service_caller(service: str, tenant_id: str) -> Caller:
    """Return the caller a service is when it acts on its own in a tenant's data (in this process)."""
    principal = Principal(kind="service", tenant_id=tenant_id, subject=service, role=Role.SERVICE)
    return Caller(principal=principal, service=service)
