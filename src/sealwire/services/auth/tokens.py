"""Tokens: access tokens (RFC 9068), and refresh tokens, which are derived and never stored."""

from __future__ import annotations

import base64
import hmac
import re
from typing import Final

import msgspec

from sealwire.contracts.auth_terms import ACCESS_TYP
from sealwire.contracts.tokens import AccessClaims
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.ids import new_id
from sealwire.kit.jose import Reason, Rules, TokenRefused, sign, verify
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.records import SessionRecord, UserRecord
from sealwire.services.auth.signing import SigningKeys

_REFRESH: Final = re.compile(r"swr1\.([0-9a-f-]{36})\.([1-9][0-9]{0,9})\.([A-Za-z0-9_-]{43})")


class AccessTokens:
    """Issues and reads access tokens."""

    def __init__(self, *, signing: SigningKeys, clock: Clock, config: AuthConfig) -> None:
        self._signing = signing
        self._clock = clock
        self._config = config
        self._rules = Rules(
            typ=frozenset({ACCESS_TYP}),
            issuer=config.issuer,
            audience=config.audience,
            required=frozenset({"sub", "sid", "tid", "jti", "client_id"}),
            leeway_s=config.leeway_s,
        )

    @property
    def ttl_s(self) -> int:
        """How long a token lives."""
        return self._config.access_ttl_s

    def issue(self, user: UserRecord, session: SessionRecord, email: str, *, needs_mfa: bool) -> str:
        """Sign a token for a session. It never outlives the session; `needs_mfa`: without one it is for enrolling."""
        now_s = self._clock.now_us() // US_PER_S
        claims = AccessClaims(
            iss=self._config.issuer,
            aud=self._config.audience,
            sub=user.user_id,
            client_id=session.client_id,
            email=email,
            role=user.role,
            tid=user.tenant_id,
            sid=session.session_id,
            jti=new_id(),
            iat=now_s,
            exp=max(now_s + 1, min(now_s + self.ttl_s, session.expires_us // US_PER_S)),
            auth_time=session.auth_us // US_PER_S,
            amr=list(session.amr),
            epoch=user.epoch,
        )
        said = msgspec.to_builtins(claims)
        if needs_mfa and "mfa" not in session.amr:
            said["enrol_only"] = True
        else:
            del said["enrol_only"]
        return sign(said, self._signing.keys.signing_key(), ACCESS_TYP)

    def read(self, token: str) -> AccessClaims:
        """Verify a token of ours. Whether its session lives is another question. Raises: TokenRefused."""
        said = verify(token, self._signing.keys, self._rules, now_us=self._clock.now_us())
        try:
            return msgspec.convert(said.claims, AccessClaims)
        except msgspec.ValidationError as error:
            raise TokenRefused(Reason.CLAIM_TYPE, str(error)) from error


class PresentedRefresh(msgspec.Struct, frozen=True):
    """A refresh token as it came, not yet authentic."""

    session_id: str
    number: int
    mac: str


def read_refresh(token: str) -> PresentedRefresh | None:
    """Cut a refresh token up; None when it can't be one."""
    match = _REFRESH.fullmatch(token)
    return PresentedRefresh(match[1], int(match[2]), match[3]) if match else None


def refresh_token(secret: bytes, session_id: str, number: int) -> str:
    """Derive refresh token `number` of a session from the session's secret.

    A dump holds neither the token nor a hash of it, only the sealed secret. An old token stays recognisable for good
    without a row of its own, and a repeated request is answered with the same successor without keeping that anywhere.
    """
    mac = hmac.digest(secret, f"{session_id}.{number}".encode(), "sha256")
    return f"swr1.{session_id}.{number}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def is_authentic(presented: PresentedRefresh, secret: bytes) -> bool:
    """Tell whether the token was derived from that secret, in constant time."""
    expected = refresh_token(secret, presented.session_id, presented.number)
    return hmac.compare_digest(expected.rpartition(".")[2], presented.mac)
