"""Tokens for apps: ID, access (for one audience), refresh (derived, never stored) and logout tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Any, Final

from sealwire.contracts.auth_terms import ACCESS_TYP
from sealwire.contracts.openid import USERINFO_PATH
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.ids import new_id
from sealwire.kit.jose import Algorithm, Reason, Rules, TokenRefused, sign, verify
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.openid_records import GrantRecord, Notice, Standing
from sealwire.services.auth.signing import SigningKeys
from sealwire.services.auth.vault import Vault

PREFIX: Final = "/api/v1"
ID_TYP: Final = "JWT"
LOGOUT_TYP: Final = "logout+jwt"
LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
LOGOUT_LIFE_S: Final = 120
HINT_AGE_S: Final = 365 * 86_400
_REFRESH: Final = re.compile(r"swg1\.([0-9a-f-]{36})\.([1-9][0-9]{0,9})\.([A-Za-z0-9_-]{43})")
_HASHES: Final = {Algorithm.EDDSA: hashlib.sha512, Algorithm.ES256: hashlib.sha256, Algorithm.RS256: hashlib.sha256}


class AppTokens:
    """Issues and reads what apps hold."""

    def __init__(self, *, signing: SigningKeys, vault: Vault, clock: Clock, config: AuthConfig, issuer: str) -> None:
        self._signing = signing
        self._vault = vault
        self._clock = clock
        self._config = config
        self.issuer = issuer
        self.audience = issuer + PREFIX + USERINFO_PATH
        self._rules = Rules(
            typ=frozenset({ACCESS_TYP}),
            issuer=self.issuer,
            audience=self.audience,
            required=frozenset({"sub", "sid", "jti", "client_id", "scope", "grant"}),
            leeway_s=config.leeway_s,
        )

    @property
    def ttl_s(self) -> int:
        """How long an access token lives."""
        return self._config.access_ttl_s

    def access(self, standing: Standing, scopes: Sequence[str]) -> str:
        """Sign an access token for the userinfo endpoint and nothing else: the API refuses its audience.

        `scopes`: of those granted the ones this token has.
        """
        grant, now_s = standing.grant, self._clock.now_us() // US_PER_S
        claims = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": grant.user_id,
            "client_id": grant.client_id,
            "scope": " ".join(scopes),
            "sid": grant.session_id,
            "grant": grant.grant_id,
            "jti": new_id(),
            "iat": now_s,
            "exp": max(now_s + 1, min(now_s + self.ttl_s, standing.session.expires_us // US_PER_S)),
        }
        return sign(claims, self._signing.keys.signing_key(), ACCESS_TYP)

    def read_access(self, token: str) -> dict[str, Any]:
        """Verify an access token of an app; whether its grant lives is another question. Raises: TokenRefused."""
        return verify(token, self._signing.keys, self._rules, now_us=self._clock.now_us()).claims

    def identity(self, grant: GrantRecord, access_token: str, *, with_nonce: bool) -> str:
        """Sign an ID token (OpenID Connect Core 1.0 section 2); `nonce` only in the first one (section 12.2)."""
        key, now_s = self._signing.keys.signing_key(), self._clock.now_us() // US_PER_S
        digest = _HASHES[key.alg](access_token.encode("ascii")).digest()
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": grant.user_id,
            "aud": grant.client_id,
            "iat": now_s,
            "exp": now_s + self.ttl_s,
            "auth_time": grant.auth_us // US_PER_S,
            "acr": "aal2" if "mfa" in grant.amr else "aal1",
            "amr": list(grant.amr),
            "at_hash": _b64(digest[: len(digest) // 2]),
            "sid": grant.session_id,
        }
        if with_nonce and grant.nonce:
            claims["nonce"] = grant.nonce
        return sign(claims, key, ID_TYP)

    def read_hint(self, token: str, client_id: str) -> dict[str, Any]:
        """Read an ID token of ours that comes back as a hint, expired or not. Raises: TokenRefused.

        `client_id` empty: of whichever app its `aud` names.
        """
        rules = Rules(
            typ=frozenset({ID_TYP.lower()}),
            issuer=self.issuer,
            audience=client_id,
            required=frozenset({"sub", "sid"}),
            leeway_s=HINT_AGE_S,
        )
        return verify(token, self._signing.keys, rules, now_us=self._clock.now_us()).claims

    def logout(self, notice: Notice) -> str:
        """Sign a logout token (OpenID Connect Back-Channel Logout 1.0 section 2.4)."""
        now_s = self._clock.now_us() // US_PER_S
        claims = {
            "iss": self.issuer,
            "sub": notice.user_id,
            "aud": notice.client_id,
            "iat": now_s,
            "exp": now_s + LOGOUT_LIFE_S,
            "jti": new_id(),
            "sid": notice.session_id,
            "events": {LOGOUT_EVENT: {}},
        }
        return sign(claims, self._signing.keys.signing_key(), LOGOUT_TYP)

    # ---- refresh tokens

    def refresh(self, grant_id: str, number: int) -> str:
        """Derive refresh token `number` of a grant, as those of sessions are (docs/adr/0007)."""
        mac = self._vault.derive("openid-refresh", grant_id, str(number))
        return f"swg1.{grant_id}.{number}.{_b64(mac)}"

    def read_refresh(self, token: str) -> tuple[str, int] | None:
        """Return grant and number of a refresh token that we derived; None for any other text."""
        match = _REFRESH.fullmatch(token)
        if match is None:
            return None
        grant_id, number = match[1], int(match[2])
        genuine = hmac.compare_digest(self.refresh(grant_id, number), token)
        return (grant_id, number) if genuine else None


def audience_hint(token: str) -> str:
    """Return the app an ID token says it is for, unverified: only to choose whose token to verify it as."""
    from sealwire.kit.strict_json import NotStrictJson, read_object

    parts = token.split(".")
    if len(token) > 8_192 or len(parts) != 3:
        raise TokenRefused(Reason.NOT_COMPACT)
    try:
        claims = read_object(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), max_depth=8)
    except (ValueError, NotStrictJson):
        raise TokenRefused(Reason.JSON) from None
    audience = claims.get("aud")
    if type(audience) is not str:
        raise TokenRefused(Reason.AUDIENCE)
    return audience


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
