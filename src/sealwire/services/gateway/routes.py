"""The public routes: every contract's operations under /api/v1, and who decorates which answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sealwire.kit.http import Decorate, Edge, Route
from sealwire.kit.operation import Operation, Policy
from sealwire.services.gateway.cookies import Cookies

PREFIX = "/api/v1"
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")


def operation_routes(
    edge: Edge, contracts: Iterable[tuple[Mapping[str, Operation], object]], cookies: Cookies
) -> list[Route]:
    """Bind the public operations of every contract to its implementation, here or remote."""
    decorate: dict[str, Decorate] = {
        "login": cookies.after_login,
        "mfa_verify": cookies.after_login,
        "refresh": cookies.after_renewal,
        "step_up": cookies.after_renewal,
        "logout": cookies.after_logout,
        "logout_all": cookies.after_logout,
    }
    return [
        edge.bind(
            operation,
            getattr(implementation, name),
            decorate=decorate.get(name) if operation.service == "auth" else None,
        )
        for operations, implementation in contracts
        for name, operation in operations.items()
        if operation.policy is not Policy.SERVICE
    ]
