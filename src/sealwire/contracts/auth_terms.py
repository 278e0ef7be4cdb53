"""What the contracts of auth have in common: its name, whom operations are for, forms of what callers send, cookies."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from sealwire.kit.codec import form
from sealwire.kit.operation import Degraded, Policy, RateClass, Repeat
from sealwire.kit.permission import Permission

SERVICE = "auth"
BOUNDARY: Final = frozenset({"gateway", "socket"})
"""The services with a session boundary: where people come in."""
ACCESS_TYP = "at+jwt"
"""Media type of our access tokens (RFC 9068 section 2.1)."""
COOKIE = "__Host-sealwire"
COOKIE_LOOPBACK = "sealwire"
"""The session cookie holds the access token; the plain name is for http on loopback, where `__Host-` needs https."""
CSRF_HEADER = "X-Sealwire-CSRF"

_EMAIL: Final = form(
    r"^[^\s@\x00-\x20\x7f]+@[^\s@\x00-\x20\x7f]+\.[^\s@.]+$", "Write a whole e-mail address, such as anna@example.org."
)
_SLUG: Final = form(r"^[a-z0-9][a-z0-9-]*$", "Write small letters, digits and hyphens, and no hyphen first.")
_CODE: Final = form(
    r"^ *(?:[A-Za-z0-9][ -]*){6,32}$", "Write the code as it is shown: 6 to 32 letters and digits; spaces don't matter."
)
Email = Annotated[str, msgspec.Meta(max_length=254, pattern=_EMAIL)]
Password = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Slug = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=_SLUG)]
Token = Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]
Code = Annotated[str, msgspec.Meta(min_length=6, max_length=64, pattern=_CODE)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""A number or a time as storage and records can keep it: what is larger is refused here, and not by the database."""
UserRole = Literal["owner", "admin", "auditor", "member", "guest", "operator"]

OPEN: Final[dict[str, Any]] = {
    "service": SERVICE,
    "policy": Policy.PUBLIC,
    "rate": RateClass.AUTH,
    "degraded": Degraded.ALLOW,
}
"""Members of an operation for anybody: who has no session yet proves something."""
PROFILE: Final[dict[str, Any]] = {"service": SERVICE, "needs": Permission.OWN_PROFILE}
"""Of one for people, about themselves."""
ADMIN: Final[dict[str, Any]] = {"service": SERVICE, "needs": Permission.MANAGE_USERS}
"""Of one for administrators."""
INTERNAL: Final[dict[str, Any]] = {
    "service": SERVICE,
    "policy": Policy.SERVICE,
    "degraded": Degraded.ALLOW,
    "repeat": Repeat.SAFE,
}
"""Of one for other services, which may ask twice."""
