"""Service identities: a call between services carries a short-lived signed statement of who calls, for whom, what.

A JWT of type `svc+jwt` under the calling service's own Ed25519 key, bound to the callee (`aud`) and the operation
(`op`), 60 s long at most, with the end caller's verified principal in it. The callee decides anew what that principal
may do, and whether the operation is the calling service's to ask for at all (kit/carrying.py). Statements are cached:
the same caller asking the same operation again costs a dictionary look-up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from random import Random
from typing import Annotated, Any, Final

import msgspec

from sealwire.kit.caller import ANONYMOUS, Caller, Principal
from sealwire.kit.carrying import check_service
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.exchange import Exchange
from sealwire.kit.ids import new_id
from sealwire.kit.jose import Algorithm, Key, KeySet, Reason, Rules, TokenRefused, sign, verify
from sealwire.kit.operation import Operation, Policy
from sealwire.kit.problem import Unauthenticated
from sealwire.resilience import deadline
from sealwire.resilience.cache import TtlCache

TYP: Final = "svc+jwt"
MAX_LIFE_S: Final = 60
REUSED_S: Final = 30.0
"""A statement is sent again for so long; what is left of its life is for the way and for clocks that differ."""
TIMEOUT_HEADER: Final = "x-sealwire-timeout-ms"
MAX_TIMEOUT_MS: Final = 600_000


_FOR_ALL: Final = frozenset({Policy.PUBLIC, Policy.LOOPBACK})
"""Health and its kin: no operations, and open to every service."""


class _Carried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The end caller as it travels in the claim `caller`."""

    principal: Principal
    confirmed: bool = True
    ip: Annotated[str, msgspec.Meta(max_length=64)] = ""
    user_agent: Annotated[str, msgspec.Meta(max_length=512)] = ""


class ServiceIdentity:
    """What one service signs its calls with. The private half of its key never leaves the process."""

    def __init__(self, *, service: str, key: Key, clock: Clock, rng: Random, max_cached: int = 20_000) -> None:
        if key.alg is not Algorithm.EDDSA:
            raise ValueError("service identities are signed with Ed25519")
        self.service = service
        self._key = key
        self._clock = clock
        self._issued: TtlCache[tuple[str, str, Principal, bool, str, str], str] = TtlCache(
            max_entries=max_cached, ttl_s=REUSED_S, clock=clock, rng=rng
        )

    def token(self, caller: Caller, *, audience: str, operation: str) -> str:
        """Return a statement that this service asks `operation` of `audience` for `caller`."""
        key = (audience, operation, caller.principal, caller.confirmed, caller.ip, caller.user_agent)
        token = self._issued.get(key)
        if token is None:
            token = self._issue(caller, audience, operation)
            self._issued.put(key, token)
        return token

    def clear_cache(self) -> None:
        """Forget the issued statements."""
        self._issued.clear()

    def _issue(self, caller: Caller, audience: str, operation: str) -> str:
        now_s = self._clock.now_us() // US_PER_S
        carried = _Carried(
            principal=caller.principal,
            confirmed=caller.confirmed,
            ip=caller.ip[:64],
            user_agent=caller.user_agent[:512],
        )
        claims: dict[str, Any] = {
            "iss": self.service,
            "sub": self.service,
            "aud": audience,
            "op": operation,
            "iat": now_s,
            "exp": now_s + MAX_LIFE_S,
            "jti": new_id(),
            "caller": msgspec.to_builtins(carried),
        }
        return sign(claims, self._key, TYP)


class Identified(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified statement says. `until_us` is when it ends."""

    service: str
    operation: str
    until_us: int
    carried: _Carried


class ServiceVerifier:
    """Checks statements meant for one service against every other service's published key."""

    def __init__(
        self, *, audience: str, keys: Mapping[str, KeySet], clock: Clock, rng: Random, max_cached: int = 20_000
    ) -> None:
        """`keys` are the public keys by the service that owns them. Raises: ValueError for a key id of two owners."""
        self._owner = {key.kid: service for service, owned in keys.items() for key in owned}
        listed = [key for owned in keys.values() for key in owned]
        self._keys = KeySet(listed)
        self._clock = clock
        self._rules = Rules(
            typ=frozenset({TYP}),
            issuer=None,
            audience=audience,
            algorithms=frozenset({Algorithm.EDDSA}),
            required=frozenset({"iss", "sub", "jti", "op"}),
            max_age_s=MAX_LIFE_S,
        )
        self._known: TtlCache[str, Identified] = TtlCache(max_entries=max_cached, ttl_s=REUSED_S, clock=clock, rng=rng)

    def identify(self, token: str, *, operation: str) -> Identified:
        """Return who calls for whom. Raises: TokenRefused for a statement that does not hold or is for another call."""
        found = self._known.get(token)
        if found is None or self._clock.now_us() >= found.until_us:
            found = self._verify(token)
            self._known.put(token, found)
        if found.operation != operation:
            raise TokenRefused(Reason.CONTRADICTION, "op")
        return found

    def clear_cache(self) -> None:
        """Forget the verified statements."""
        self._known.clear()

    def _verify(self, token: str) -> Identified:
        verified = verify(token, self._keys, self._rules, now_us=self._clock.now_us())
        if verified.iss != verified.sub or self._owner.get(verified.kid) != verified.sub:
            raise TokenRefused(Reason.ISSUER, "a service speaks for itself only")
        if verified.exp - verified.iat > MAX_LIFE_S:
            raise TokenRefused(Reason.TOO_OLD, "too long a life")
        try:
            carried = msgspec.convert(verified.claims.get("caller"), _Carried)
        except msgspec.ValidationError:
            raise TokenRefused(Reason.CLAIM_TYPE, "caller") from None
        if carried.principal.kind == "service" and carried.principal.subject != verified.sub:
            raise TokenRefused(Reason.CONTRADICTION, "caller")
        operation = verified.claims["op"]
        return Identified(service=verified.sub, operation=operation, until_us=verified.exp * US_PER_S, carried=carried)


def _is_local(ip: str) -> bool:
    try:
        return ipaddress.ip_address(ip).is_loopback
    except ValueError:
        return False


class ServiceAuthenticator:
    """Lets services, and nobody else, into a service's own port (an `Authenticate` of kit.http).

    Health and documentation are no operations and stay open to whoever reaches the port, metrics to this machine. It
    also takes the rest of the request's time over from the caller, so that nobody works for an answer no longer waited
    for.
    """

    def __init__(self, *, verifier: ServiceVerifier, clock: Clock) -> None:
        self._verifier = verifier
        self._clock = clock

    def __call__(self, exchange: Exchange, policy: Policy) -> Caller:
        """Raises: Unauthenticated; Forbidden for what is not the service's to call."""
        operation: Operation | None = exchange.route.operation
        header = exchange.text_header(b"authorization", 16_384)
        if not header:
            if operation is None and (
                policy is Policy.PUBLIC or (policy is Policy.LOOPBACK and _is_local(exchange.ip))
            ):
                return Caller(principal=ANONYMOUS, ip=exchange.ip, trace_id=exchange.trace_id)
            raise Unauthenticated("This port is for services.")
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated
        name = operation.name if operation is not None else f"{exchange.route.verb} {exchange.route.path}"
        found = self._verifier.identify(token, operation=name)
        self._take_deadline(exchange)
        carried = found.carried
        caller = Caller(
            principal=carried.principal,
            confirmed=carried.confirmed,
            service=found.service,
            ip=carried.ip,
            user_agent=carried.user_agent,
            trace_id=exchange.trace_id,
        )
        if operation is not None or exchange.route.policy not in _FOR_ALL:
            check_service(operation, caller)
        return caller

    def _take_deadline(self, exchange: Exchange) -> None:
        text = exchange.text_header(TIMEOUT_HEADER.encode(), 16)
        if text.isascii() and text.isdigit():
            # A server runs each request in a task, so the deadline ends with it.
            deadline.begin(min(int(text), MAX_TIMEOUT_MS) / 1000, self._clock)
