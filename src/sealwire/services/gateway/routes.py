"""What the gateway opens to the world: every service's routes that are not for services, under /api/v1."""

from __future__ import annotations

from collections.abc import Iterable

from sealwire.kit.http import Route, mount
from sealwire.kit.operation import Policy

PREFIX = "/api/v1"
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def public_routes(routes: Iterable[Route]) -> list[Route]:
    """Return the routes a gateway may mount, with their public paths."""
    return mount(PREFIX, [route for route in routes if route.policy is not Policy.SERVICE])
