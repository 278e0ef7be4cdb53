"""An identity provider as a relying party sees it: discovery, keys, code for tokens, and what its tokens prove.

OpenID Connect Core 1.0 sections 3.1.3 and 5.3, RFC 9207. What it answers is read by the same strict guard as our own
tokens. Whatever fault is the provider's becomes ProviderUnavailable (503); ExternalRefused is about the person's proof.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from sealwire.contracts.external import ExternalRefused, ProviderUnavailable
from sealwire.contracts.openid import LOOPBACK_HOSTS
from sealwire.kit.clock import Clock
from sealwire.kit.jose import Algorithm, Key, KeySet, Rules, TokenRefused, Verified, peek, verify
from sealwire.kit.strict_json import NotStrictJson, read_object
from sealwire.resilience.breaker import Breaker, BreakerRules
from sealwire.services.auth.config import ExternalProvider
from sealwire.services.auth.openid_ports import Answer, Outward, OutwardRefused
from sealwire.services.auth.records import Record

METADATA_FRESH_S: Final = 3_600.0
KEYS_FRESH_S: Final = 600.0
KEYS_RETRY_S: Final = 10.0
MAX_KEYS: Final = 32
ID_TOKEN_AGE_S: Final = 600
_DEPTH: Final = 8
_ALG_OF: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
_HASHES: Final = {Algorithm.EDDSA: hashlib.sha512, Algorithm.ES256: hashlib.sha256, Algorithm.RS256: hashlib.sha256}


class Proof(Record):
    """What a provider proved about somebody. `issuer` and `subject` are who it is; the rest is what it says."""

    issuer: str
    subject: str
    email: str = ""
    email_verified: bool = False
    name: str = ""


class _Metadata(Record):
    authorization: str
    token: str
    userinfo: str
    keys: str
    tells_issuer: bool


class IdentityProvider:
    """One provider. Documents are cached; a breaker leaves a failing one alone."""

    def __init__(
        self, *, settings: ExternalProvider, redirect_uri: str, outward: Outward, clock: Clock, leeway_s: int
    ) -> None:
        self.settings = settings
        self._redirect_uri = redirect_uri
        self._outward = outward
        self._clock = clock
        self._breaker = Breaker(
            name=f"provider:{settings.name}", clock=clock, rules=BreakerRules(slow_call_s=5.0), is_failure=_is_outage
        )
        self._metadata: tuple[float, _Metadata] | None = None
        self._keys: tuple[float, KeySet] | None = None
        self._rules = Rules(
            typ=frozenset({"", "jwt"}),
            issuer=settings.issuer,
            audience=settings.client_id,
            required=frozenset({"sub"}),
            leeway_s=max(leeway_s, 30),
            max_age_s=ID_TOKEN_AGE_S,
        )

    # ---- the flow

    async def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """Return where the browser goes. Raises: ProviderUnavailable."""
        metadata = await self._discover()
        params = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": " ".join(self.settings.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": _b64(hashlib.sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
        }
        return metadata.authorization + ("&" if "?" in metadata.authorization else "?") + urlencode(params)

    async def check_answer(self, params: Mapping[str, str]) -> None:
        """Hold the answer to be this provider's (RFC 9207). Raises: ExternalRefused, ProviderUnavailable."""
        told = params.get("iss")
        if told is None and not (await self._discover()).tells_issuer:
            return
        if told != self.settings.issuer:
            raise ExternalRefused("The answer is of another provider.")

    async def prove(self, code: str, *, nonce: str, verifier: str) -> Proof:
        """Exchange the code and verify what comes for it. Raises: ExternalRefused, ProviderUnavailable."""
        metadata = await self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        basic = None
        if self.settings.client_secret:
            basic = (_quoted(self.settings.client_id), _quoted(self.settings.client_secret))
        else:
            form["client_id"] = self.settings.client_id
        given = self._read(await self._call(self._outward.post, metadata.token, form, basic), refused=True)
        id_token, access_token = given.get("id_token"), given.get("access_token")
        if type(id_token) is not str or type(access_token) is not str:
            raise ProviderUnavailable("The provider gave no ID token.")
        verified = await self._verify(id_token)
        self._check(verified, nonce, access_token)
        said = verified.claims
        if self.settings.sign_up and not _text(said, "email") and metadata.userinfo:
            told = self._read(await self._call(self._outward.get, metadata.userinfo, access_token))
            if told.get("sub") != verified.sub:  # Core section 5.3.2: or it is about somebody else
                raise ExternalRefused("The provider speaks of two people.")
            said = {**told, **said}
        return Proof(
            issuer=self.settings.issuer,
            subject=verified.sub,
            email=_text(said, "email"),
            email_verified=said.get("email_verified") is True,
            name=_text(said, "name"),
        )

    # ---- what its tokens prove

    async def _verify(self, id_token: str) -> Verified:
        """Verify by the provider's keys; one we don't know makes us ask for them again, now and then."""
        try:
            kid = peek(id_token).kid
            keys = await self._key_set(kid)
            return verify(id_token, keys, self._rules, now_us=self._clock.now_us())
        except TokenRefused:
            raise ExternalRefused from None

    def _check(self, verified: Verified, nonce: str, access_token: str) -> None:
        """Hold the claims of an ID token that the guard knows nothing of. Raises: ExternalRefused."""
        said, client_id = verified.claims, self.settings.client_id
        if not hmac.compare_digest(_text(said, "nonce").encode(), nonce.encode()):
            raise ExternalRefused
        authorized = said.get("azp", client_id if len(verified.aud) == 1 else None)
        if authorized != client_id or len(verified.sub) > 255:
            raise ExternalRefused
        if "at_hash" in said:
            digest = _HASHES[verified.alg](access_token.encode("ascii", "replace")).digest()
            if said["at_hash"] != _b64(digest[: len(digest) // 2]):
                raise ExternalRefused

    async def _key_set(self, kid: str) -> KeySet:
        now_s = self._clock.monotonic()
        if self._keys is not None:
            age_s = now_s - self._keys[0]
            known = self._keys[1].find(kid) is not None
            if (known and age_s < KEYS_FRESH_S) or (not known and age_s < KEYS_RETRY_S):
                return self._keys[1]
        document = self._read(await self._call(self._outward.get, (await self._discover()).keys))
        keys = _read_keys(document)
        self._keys = (now_s, keys)
        return keys

    # ---- what it publishes

    async def _discover(self) -> _Metadata:
        """Return the provider's metadata, an hour old at most. Raises: ProviderUnavailable."""
        now_s = self._clock.monotonic()
        if self._metadata is not None and now_s - self._metadata[0] < METADATA_FRESH_S:
            return self._metadata[1]
        url = self.settings.issuer.rstrip("/") + "/.well-known/openid-configuration"
        document = self._read(await self._call(self._outward.get, url))
        if document.get("issuer") != self.settings.issuer:  # Discovery section 4.3
            raise ProviderUnavailable("The provider's metadata names another issuer.")
        metadata = _Metadata(
            authorization=_endpoint(document, "authorization_endpoint"),
            token=_endpoint(document, "token_endpoint"),
            userinfo=_endpoint(document, "userinfo_endpoint") if "userinfo_endpoint" in document else "",
            keys=_endpoint(document, "jwks_uri"),
            tells_issuer=document.get("authorization_response_iss_parameter_supported") is True,
        )
        self._metadata = (now_s, metadata)
        return metadata

    async def _call(self, call: Any, *args: Any) -> Answer:
        """Call out through the breaker. Raises: ProviderUnavailable, CircuitOpen."""

        async def ask() -> Answer:
            answer: Answer = await call(*args)
            if answer.status >= 500 or answer.status == 429:
                raise OSError(f"status {answer.status}")
            return answer

        try:
            return await self._breaker.call(ask)
        except OutwardRefused:
            raise ProviderUnavailable("The provider names an address that may not be called.") from None
        except OSError:
            raise ProviderUnavailable("The provider can't be reached.") from None

    def _read(self, answer: Answer, *, refused: bool = False) -> dict[str, Any]:
        """Read a JSON answer. `refused`: a 400 is a statement about the code. Raises: ExternalRefused, as above."""
        if refused and answer.status == 400:
            raise ExternalRefused("The provider does not accept the code; begin again.")
        try:
            if answer.status != 200:
                raise ProviderUnavailable("The provider answers what can't be used.")
            return read_object(answer.body, max_depth=_DEPTH)
        except NotStrictJson:
            raise ProviderUnavailable("The provider answers what can't be read.") from None


def _is_outage(error: Exception) -> bool:
    return isinstance(error, OSError | OutwardRefused)


def _read_keys(document: Mapping[str, Any]) -> KeySet:
    """Read a JWKS: keys for signatures that we know how to use, the rest passed over. Raises: ProviderUnavailable."""
    listed = document.get("keys")
    if type(listed) is not list or len(listed) > MAX_KEYS:
        raise ProviderUnavailable("The provider publishes no keys.")
    found: dict[str, Key] = {}
    for jwk in listed:
        if type(jwk) is not dict or jwk.get("use", "sig") != "sig" or type(jwk.get("kty")) is not str:
            continue
        try:
            key = Key.from_public_jwk({"alg": _ALG_OF.get(jwk["kty"], ""), **jwk})
        except ValueError:
            continue
        found.setdefault(key.kid, key)
    return KeySet(found.values())


def _endpoint(document: Mapping[str, Any], name: str) -> str:
    """Read an address: https, or http on this machine (which `Outward` allows or not). Raises: ProviderUnavailable."""
    url = document.get(name)
    if type(url) is str and len(url) <= 2_048 and url.isascii() and url.isprintable() and " " not in url:
        parts = urlsplit(url)
        if parts.hostname and (parts.scheme == "https" or parts.hostname in LOOPBACK_HOSTS):
            return url
    raise ProviderUnavailable(f"The provider's {name} is no address.")


def _text(claims: Mapping[str, Any], name: str) -> str:
    text = claims.get(name, "")
    return text if type(text) is str and len(text) <= 512 else ""


def _quoted(text: str) -> str:
    """Encode one half of HTTP Basic (RFC 6749 section 2.3.1)."""
    from urllib.parse import quote_plus

    return quote_plus(text)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
