"""JWT token adapter: tokens of both formats, verified once, normalised to one shape (R6.1).

Which format a token has is decided by the issuer whose key verified it, never by the look of a claim. What could be
read as either, or contradicts itself, is refused. Who a legacy token speaks of is for auth to confirm.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Any, Final, Self

import msgspec

from sealwire.boundary.model import ENROL_ONLY, ComponentHealth, Health, VerifiedToken
from sealwire.contracts.admission import CredentialExpired
from sealwire.contracts.api_keys import PREFIX as API_KEY_PREFIX
from sealwire.contracts.api_keys import ApiKeyState
from sealwire.contracts.auth_terms import ACCESS_TYP
from sealwire.contracts.revocations import Revocation
from sealwire.contracts.tokens import AccessClaims, Jwks
from sealwire.kit.clock import US_PER_S, Clock, parse_rfc3339, rfc3339
from sealwire.kit.jose import (
    Algorithm,
    Key,
    KeySet,
    KeyState,
    Reason,
    Rules,
    TokenRefused,
    Verified,
    fingerprint,
    peek,
    verify,
)
from sealwire.kit.permission import Role
from sealwire.kit.problem import Problem, Unauthenticated, Unavailable
from sealwire.resilience.cache import TtlCache

_LOG = logging.getLogger("sealwire.boundary")

KEYS_FRESH_S: Final = 300.0
KEYS_RETRY_S: Final = 2.0
"""A token with an unknown key makes us ask auth for its keys again, at most this often."""
_LEGACY_TYP: Final = frozenset({"", "jwt"})
_ENHANCED_ONLY: Final = ("tid", "sid", "client_id", "amr", "auth_time", "epoch", "enrol_only")
_PERSONS: Final = frozenset(Role) - {Role.SERVICE}
API_KEY_REMEMBERED_S: Final = 300.0
ApiKeySource = Callable[[str], Awaitable[ApiKeyState]]
KeySource = Callable[[], Awaitable[Jwks]]


class LegacyRule(msgspec.Struct, frozen=True, kw_only=True):
    """An issuer of legacy tokens that is still accepted. Its key is no key of ours. `kid` or `iss` names it.

    `sunset_us` is when that ends (0: no date), in microseconds since the epoch.
    """

    key: Key
    tenant_id: str
    kid: str = ""
    iss: str = ""
    max_age_s: int = 86_400
    sunset_us: int = 0

    def __post_init__(self) -> None:
        if bool(self.kid) == bool(self.iss) or (self.kid and self.kid != self.key.kid):
            raise ValueError("a legacy issuer is named by `kid` (its key's) or by `iss`")

    @classmethod
    def read(
        cls, *, key: str, alg: str, tenant_id: str, kid: str = "", iss: str = "", max_age_s: int, sunset: str = ""
    ) -> Self:
        """Read the settings of a legacy issuer: `key` is PEM, or for HS256 the secret; `sunset` is RFC 3339.

        Raises: ValueError for a key that is weak or of another kind, and for a time that is none.
        """
        algorithm = Algorithm(alg)
        if algorithm is Algorithm.HS256:
            made = Key.from_secret(key.encode(), kid=kid or "legacy")
        else:
            made = Key.from_pem(key.encode(), algorithm, kid=kid or None, state=KeyState.RETIRING)
        sunset_us = parse_rfc3339(sunset) if sunset else 0
        return cls(key=made, tenant_id=tenant_id, kid=kid, iss=iss, max_age_s=max_age_s, sunset_us=sunset_us)

    def rules(self, leeway_s: int) -> Rules:
        """Return what a token of this issuer must say."""
        return Rules(
            typ=_LEGACY_TYP,
            issuer=self.iss or None,
            audience=None,
            algorithms=frozenset({self.key.alg}),
            required=frozenset({"sub", "id", "role"}),
            leeway_s=leeway_s,
            max_age_s=self.max_age_s,
            default_kid=self.key.kid if self.iss else None,
        )


class _LegacyClaims(msgspec.Struct, frozen=True, kw_only=True):
    """`sub` is the e-mail address, `id` the user id."""

    sub: str
    id: str
    role: Role
    email: str | None = None


def normalised(verified: Verified, audience: str | None) -> VerifiedToken:
    """Return an enhanced token's claims in the one shape. Raises: TokenRefused for what contradicts itself."""
    if "id" in verified.claims or "@" in verified.sub:
        raise TokenRefused(Reason.CONTRADICTION, "reads as legacy too")
    try:
        claims = msgspec.convert(verified.claims | {"aud": audience}, AccessClaims)
    except msgspec.ValidationError as error:
        raise TokenRefused(Reason.CLAIM_TYPE, str(error)) from None
    if claims.role not in _PERSONS or claims.epoch < 0 or not 0 <= claims.auth_time <= claims.exp:
        raise TokenRefused(Reason.CONTRADICTION, "claims")
    return VerifiedToken(
        tenant_id=claims.tid,
        subject=claims.sub,
        session_id=claims.sid,
        token_id=claims.jti,
        role=claims.role,
        email=claims.email,
        kid=verified.kid,
        epoch=claims.epoch,
        issued_at_s=claims.iat,
        expires_at_s=claims.exp,
        auth_time_s=claims.auth_time,
        amr=tuple(claims.amr),
        scopes=ENROL_ONLY if claims.enrol_only else None,
    )


class JwtTokenAdapter:
    """Verifies tokens and remembers the good ones. A remembered token is given out only before its end."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        keys: KeySource,
        api_keys: ApiKeySource | None = None,
        legacy: Iterable[LegacyRule] = (),
        leeway_s: int = 5,
        max_cached: int = 20_000,
        clock: Clock,
        rng: Random,
    ) -> None:
        self._issuer = issuer
        self._source = keys
        self._api_keys = api_keys
        self._clock = clock
        self._enhanced = Rules(
            typ=frozenset({ACCESS_TYP}),
            issuer=issuer,
            audience=audience,
            algorithms=frozenset({Algorithm.EDDSA, Algorithm.RS256, Algorithm.ES256}),
            required=frozenset({"iss", "sub", "jti", "tid", "sid", "client_id", "role"}),
            leeway_s=leeway_s,
        )
        self._leeway_s = leeway_s
        self._legacy = {rule.iss or rule.kid: (rule, KeySet([rule.key]), rule.rules(leeway_s)) for rule in legacy}
        self._keys = KeySet([])
        self._keys_at_s: float | None = None
        self._asked_at_s = clock.monotonic() - KEYS_RETRY_S
        self._asking = asyncio.Lock()
        self._known: TtlCache[str, VerifiedToken] = TtlCache(
            max_entries=max_cached, ttl_s=86_400.0, jitter=0.0, clock=clock, rng=rng
        )
        self.refused: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.legacy_seen: Counter[str] = Counter()

    def remembered(self, token: str) -> VerifiedToken | None:
        """Return a token verified before, if its time is not over."""
        return self._known.get(token)

    async def adapt(self, token: str) -> VerifiedToken:
        """Verify a token and read it.

        Raises: CredentialExpired for a genuine token whose time is over, Unauthenticated for every other fault of it,
        Unavailable while the keys can't be had.
        """
        found = self._known.get(token)
        if found is not None:
            return found
        if token.startswith(API_KEY_PREFIX):
            return await self._adapt_api_key(token)
        try:
            verified = await self._verify(token)
        except TokenRefused as refused:
            self.refused[refused.reason.value] += 1
            if refused.reason in (Reason.EXPIRED, Reason.TOO_OLD):
                raise CredentialExpired from None
            raise Unauthenticated from None
        self.accepted["legacy" if verified.legacy else "enhanced"] += 1
        left_s = verified.expires_at_s + self._leeway_s - self._clock.now_us() / US_PER_S
        self._known.put(token, verified, ttl_s=left_s)
        return verified

    async def _adapt_api_key(self, key: str) -> VerifiedToken:
        """Have auth say whose key it is. It is remembered for a while; that it lives is held against the feed.

        Raises: Unauthenticated, Unavailable.
        """
        if self._api_keys is None:
            raise Unauthenticated
        try:
            state = await self._api_keys(key)
        except Unauthenticated:
            self.refused["api_key"] += 1
            raise
        self.accepted["api_key"] += 1
        verified = VerifiedToken(
            tenant_id=state.tenant_id,
            subject=state.owner_id,
            session_id=state.api_key_id,
            token_id=state.api_key_id,
            role=state.role,
            email=state.email,
            kid="",
            epoch=state.epoch,
            issued_at_s=state.created_at_s,
            expires_at_s=state.expires_at_s,
            auth_time_s=0,
            kind="api_key",
            scopes=tuple(state.scopes),
        )
        left_s = verified.expires_at_s - self._clock.now_us() / US_PER_S
        self._known.put(key, verified, ttl_s=min(left_s, API_KEY_REMEMBERED_S))
        return verified

    async def refresh_keys(self) -> None:
        """Fetch auth's published keys; tokens of keys that are gone are forgotten. Raises: what the source raises."""
        self._asked_at_s = self._clock.monotonic()
        published = await self._source()
        self._keys = KeySet([Key.from_public_jwk(dict(jwk)) for jwk in published.keys])
        self._keys_at_s = self._clock.monotonic()
        kids = {key.kid for key in self._keys} | {rule.key.kid for rule, _, _ in self._legacy.values()}
        self._known.invalidate_where(lambda _, token: token.kid not in kids)

    def apply(self, change: Revocation) -> Awaitable[None] | None:
        """Take a change (a boundary of the coordinator): after a whole tenant ended a key may be gone, so ask again.

        Single tokens need no forgetting: whoever uses a remembered token holds it against the revocations.
        """
        return self.refresh_keys() if change.kind == "tenant" else None

    def forget_one(self, token: str) -> None:
        """Forget one verified token; the next time it is verified anew."""
        self._known.invalidate(token)

    def forget(self) -> None:
        """Forget all verified tokens; keys stay."""
        self._known.clear()

    def health(self) -> ComponentHealth:
        """Healthy with keys at hand; degraded when they could not be renewed for long; unhealthy without any."""
        age_s = None if self._keys_at_s is None else self._clock.monotonic() - self._keys_at_s
        status = Health.HEALTHY
        if age_s is None or not len(self._keys):
            status = Health.UNHEALTHY
        elif age_s > 4 * KEYS_FRESH_S:
            status = Health.DEGRADED
        details: dict[str, Any] = {
            "keys": len(self._keys),
            "keys_age_s": None if age_s is None else round(age_s, 1),
            "tokens_cached": len(self._known),
            "cache_hits": self._known.hits,
            "cache_misses": self._known.misses,
            "accepted": dict(self.accepted),
            "refused": dict(self.refused),
            "legacy_issuers": len(self._legacy),
            "legacy_tokens_seen": sum(self.legacy_seen.values()),
            "legacy_tenants": len(self.legacy_seen),
            "legacy_sunsets": sorted(rfc3339(r.sunset_us) for r, _, _ in self._legacy.values() if r.sunset_us),
            "legacy_report": "GET /api/v1/auth/legacy",
        }
        return ComponentHealth(status=status, details=details)

    async def _verify(self, token: str) -> VerifiedToken:
        hint = peek(token)
        if hint.iss == self._issuer:
            return await self._verify_enhanced(token, hint.kid)
        found = self._legacy.get(hint.iss or hint.kid)
        if found is None:
            raise TokenRefused(Reason.ISSUER)
        return self._verify_legacy(token, *found)

    async def _verify_enhanced(self, token: str, kid: str) -> VerifiedToken:
        await self._ensure_key(kid)
        verified = verify(token, self._keys, self._enhanced, now_us=self._clock.now_us())
        return normalised(verified, self._enhanced.audience)

    def _verify_legacy(self, token: str, rule: LegacyRule, keys: KeySet, rules: Rules) -> VerifiedToken:
        now_us = self._clock.now_us()
        if rule.sunset_us and now_us >= rule.sunset_us:
            raise TokenRefused(Reason.TOO_OLD, "sunset")
        verified = verify(token, keys, rules, now_us=now_us)
        if any(name in verified.claims for name in _ENHANCED_ONLY):
            raise TokenRefused(Reason.CONTRADICTION, "reads as enhanced too")
        try:
            claims = msgspec.convert(verified.claims, _LegacyClaims)
        except msgspec.ValidationError as error:
            raise TokenRefused(Reason.CLAIM_TYPE, str(error)) from None
        if (
            "@" not in claims.sub
            or "@" in claims.id
            or claims.role not in _PERSONS
            or (claims.email is not None and claims.email.casefold() != claims.sub.casefold())
        ):
            raise TokenRefused(Reason.CONTRADICTION, "claims")
        self.legacy_seen[rule.tenant_id] += 1
        return VerifiedToken(
            tenant_id=rule.tenant_id,
            subject=claims.id,
            session_id=fingerprint(token),
            token_id=verified.jti,
            role=claims.role,
            email=claims.sub,
            kid=verified.kid,
            epoch=0,
            issued_at_s=verified.iat,
            expires_at_s=min(verified.exp, verified.iat + rule.max_age_s),
            auth_time_s=0,
            legacy=True,
        )

    async def _ensure_key(self, kid: str) -> None:
        """Have auth's keys, young enough and with this one if it is published.

        Raises: Unavailable without any, and for a key that may be one of those which could not be asked for.
        """
        if self._wants_keys(kid):
            async with self._asking:
                if self._wants_keys(kid):
                    try:
                        await self.refresh_keys()
                    except Problem:
                        pass  # the keys at hand go on; without any the answer is below
                    except Exception:
                        _LOG.exception("auth's published keys can't be read")
        known_s = self._keys_at_s
        if known_s is None or (known_s < self._asked_at_s and self._keys.find(kid) is None):
            raise Unavailable("The keys that verify tokens can't be had for the moment.")

    def _wants_keys(self, kid: str) -> bool:
        now_s = self._clock.monotonic()
        stale = self._keys_at_s is None or now_s - self._keys_at_s > KEYS_FRESH_S or self._keys.find(kid) is None
        return stale and now_s - self._asked_at_s >= KEYS_RETRY_S
