"""Signed tokens: our strict guard over joserfc. It decides what may reach a signature check; joserfc does the check.

Compact JWS only. As shipped no JOSE library refuses all of the known attacks (RFC 8725 and later ones): this guard
bounds sizes before anything is decoded, reads base64url and JSON in one way only, allows three header members, binds
the algorithm to the key and checks type, issuer, audience and times. A refusal never says why to a client.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from enum import StrEnum
from typing import Any, Final

import msgspec
from joserfc.jws import JWSRegistry

from sealwire.kit.jose_keys import KID, Algorithm, Key, KeySet, KeyState
from sealwire.kit.problem import Unauthenticated
from sealwire.kit.strict_json import NotStrictJson, read_object

__all__ = [
    "Algorithm",
    "Hint",
    "Key",
    "KeySet",
    "KeyState",
    "Reason",
    "Rules",
    "Signed",
    "TokenRefused",
    "Verified",
    "fingerprint",
    "open_signed",
    "peek",
    "sign",
    "verify",
]

MAX_TOKEN_BYTES: Final = 8_192
MAX_HEADER_BYTES: Final = 512
MAX_SIGNATURE_BYTES: Final = 1_024
"""Of the encoded segments. 1,024 holds RSA up to 6,144 bits; keys are bounded to 4,096."""
MAX_DEPTH: Final = 8
MAX_NUMERIC_DATE: Final = 2**53 - 1
"""What every JSON reader reads alike (RFC 7493 section 2.2)."""
MAX_TEXT_CHARS: Final = 512

_HEADER_MEMBERS: Final = frozenset({"alg", "kid", "typ"})
_US_PER_S: Final = 1_000_000
_ASYMMETRIC: Final = frozenset({Algorithm.EDDSA, Algorithm.RS256, Algorithm.ES256})
_encode = msgspec.json.Encoder().encode


class Reason(StrEnum):
    """Why a token was refused: for metrics and the log, never for a client."""

    TOO_LARGE = "too_large"
    NOT_COMPACT = "not_compact"
    BASE64 = "base64"
    JSON = "json"
    HEADER_MEMBER = "header_member"
    ALG = "alg"
    KID = "kid"
    KEY_UNKNOWN = "key_unknown"
    KEY_RETIRED = "key_retired"
    TYP = "typ"
    SIGNATURE = "signature"
    CLAIM_MISSING = "claim_missing"
    CLAIM_TYPE = "claim_type"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    ISSUED_IN_FUTURE = "issued_in_future"
    TOO_OLD = "too_old"
    CONTRADICTION = "contradiction"


class TokenRefused(Unauthenticated):
    """The token is not accepted. To a client it is only `unauthenticated`; `reason` and `note` are for us."""

    def __init__(self, reason: Reason, note: str = "") -> None:
        super().__init__()
        self.reason = reason
        self.note = note


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of token must say. No member that decides about trust has a default.

    `typ`: accepted media types, lower case, without `application/`; "" in it accepts a token without `typ`.
    `issuer`: exact `iss`; None only where the key alone tells the issuer (a legacy issuer named by `kid`).
    `audience`: must be (in) `aud`; None accepts only tokens without `aud` (RFC 7519 section 4.1.3).
    `required`: claims that must be there as non-empty strings, beside `exp`, which always must.
    `max_age_s`: longest time since `iat`, which is then required.
    `default_kid`: the key of a token without `kid` (a legacy issuer named by `iss`); None refuses such a token.
    """

    typ: frozenset[str]
    issuer: str | None
    audience: str | None
    algorithms: frozenset[Algorithm] = _ASYMMETRIC
    required: frozenset[str] = frozenset()
    iat_required: bool = True
    leeway_s: int = 5
    max_age_s: int | None = None
    default_kid: str | None = None


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified token says. `claims` are all members as read; the named ones are checked."""

    alg: Algorithm
    kid: str
    typ: str
    iss: str
    aud: tuple[str, ...]
    sub: str
    jti: str
    exp: int
    iat: int
    claims: dict[str, Any]


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A compact JWS whose signature holds: what was signed, under which key. Nothing in the payload is read yet."""

    key: Key
    typ: str
    payload: bytes


class Hint(msgspec.Struct, frozen=True, kw_only=True):
    """What an UNVERIFIED token claims about its origin: enough to choose rules, never to trust."""

    alg: str
    kid: str
    typ: str
    iss: str


class _Parsed(msgspec.Struct, frozen=True, gc=False):
    """A token cut up, its header read and checked for form."""

    header: dict[str, Any]
    signing_input: bytes
    payload: bytes
    signature: bytes


def sign(claims: dict[str, Any], key: Key, typ: str) -> str:
    """Sign `claims` as a compact JWS with header `alg`, `kid` and `typ`, all three taken from us.

    Raises: ValueError when the key has no private half or may not sign any more.
    """
    if key.state is not KeyState.SIGNING or not key.is_private:
        raise ValueError(f"key {key.kid} may not sign")
    header = _encode({"alg": key.alg, "kid": key.kid, "typ": typ})
    signing_input = _b64(header) + b"." + _b64(_encode(claims))
    signature: bytes = _ALGORITHMS[key.alg].sign(signing_input, key.jwk)
    return (signing_input + b"." + _b64(signature)).decode("ascii")


def verify(token: str, keys: KeySet, rules: Rules, *, now_us: int) -> Verified:
    """Check `token` against keys and rules at the time `now_us`; its payload is not read before its signature holds.

    Raises: TokenRefused, and nothing else, whatever the text is.
    """
    signed = open_signed(
        token, keys, typ=rules.typ, algorithms=rules.algorithms, now_us=now_us, default_kid=rules.default_kid
    )
    claims = _read_json(signed.payload)
    exp, iat = _check_times(claims, rules, now_us)
    iss, aud = _check_parties(claims, rules)
    for name in rules.required:
        if not _text(claims, name):
            raise TokenRefused(Reason.CLAIM_MISSING, name)
    return Verified(
        alg=signed.key.alg,
        kid=signed.key.kid,
        typ=signed.typ,
        iss=iss,
        aud=aud,
        sub=_text(claims, "sub"),
        jti=_text(claims, "jti"),
        exp=exp,
        iat=iat,
        claims=claims,
    )


def open_signed(
    token: str,
    keys: KeySet,
    *,
    typ: frozenset[str],
    algorithms: frozenset[Algorithm],
    now_us: int,
    default_kid: str | None = None,
) -> Signed:
    """Check the signature of a compact JWS (RFC 7515 section 5.2) whose payload may be anything, an empty one too.

    `typ`, `algorithms` and `default_kid` as in `Rules`. What says who may do something goes through `verify`.
    Raises: TokenRefused, and nothing else, whatever the text is.
    """
    parsed = _parse(token)
    key, said = _choose_key(parsed.header, keys, typ, algorithms, now_us, default_kid)
    if len(parsed.signature) != key.signature_bytes or not _signature_holds(parsed, key):
        raise TokenRefused(Reason.SIGNATURE)
    return Signed(key=key, typ=said, payload=parsed.payload)


def peek(token: str) -> Hint:
    """Read who a token says it is from, unverified, by the same strict reading: only to choose the rules to verify by.

    Raises: TokenRefused when it can't be a token at all.
    """
    parsed = _parse(token)
    claims = _read_json(parsed.payload)
    header = parsed.header
    return Hint(
        alg=_header_text(header, "alg"),
        kid=_header_text(header, "kid"),
        typ=_media_type(_header_text(header, "typ")),
        iss=_text(claims, "iss"),
    )


def fingerprint(token: str) -> str:
    """Return the SHA-256 of what was signed, hex: one value per signed statement.

    The signature is left out on purpose: an ECDSA signature (r, s) has a valid twin (r, n-s), so a fingerprint of the
    whole token would let a revoked one come back in another dress.
    """
    return hashlib.sha256(token.rpartition(".")[0].encode("ascii", "replace")).hexdigest()


def _parse(token: str) -> _Parsed:
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenRefused(Reason.TOO_LARGE)
    if not token.isascii():
        raise TokenRefused(Reason.NOT_COMPACT)
    segments = token.encode("ascii").split(b".", 3)
    if len(segments) != 3:
        raise TokenRefused(Reason.NOT_COMPACT)
    head, body, signature = segments
    if not head or not signature:
        raise TokenRefused(Reason.NOT_COMPACT)
    if len(head) > MAX_HEADER_BYTES or len(signature) > MAX_SIGNATURE_BYTES:
        raise TokenRefused(Reason.TOO_LARGE)
    header = _read_json(_unb64(head))
    if not header.keys() <= _HEADER_MEMBERS:
        raise TokenRefused(Reason.HEADER_MEMBER)
    return _Parsed(header, head + b"." + body, _unb64(body), _unb64(signature))


def _choose_key(
    header: dict[str, Any],
    keys: KeySet,
    types: frozenset[str],
    algorithms: frozenset[Algorithm],
    now_us: int,
    default_kid: str | None,
) -> tuple[Key, str]:
    """Find the one key this token may have been signed with; the key, not the token, names the algorithm."""
    kid = header.get("kid", default_kid)
    if type(kid) is not str or KID.fullmatch(kid) is None:
        raise TokenRefused(Reason.KID)
    key = keys.find(kid)
    if key is None:
        raise TokenRefused(Reason.KEY_UNKNOWN)
    if header.get("alg") != key.alg.value or key.alg not in algorithms:
        raise TokenRefused(Reason.ALG)
    if not key.verifies(now_us):
        raise TokenRefused(Reason.KEY_RETIRED)
    typ = _media_type(_header_text(header, "typ"))
    if typ not in types:
        raise TokenRefused(Reason.TYP)
    return key, typ


def _signature_holds(parsed: _Parsed, key: Key) -> bool:
    try:
        return _ALGORITHMS[key.alg].verify(parsed.signing_input, parsed.signature, key.jwk)
    except Exception:  # noqa: BLE001, RUF100 - whatever a hostile signature makes the library raise, it does not hold
        return False


def _check_times(claims: dict[str, Any], rules: Rules, now_us: int) -> tuple[int, int]:
    exp, nbf, iat = _numeric_date(claims, "exp"), _numeric_date(claims, "nbf"), _numeric_date(claims, "iat")
    if exp is None:
        raise TokenRefused(Reason.CLAIM_MISSING, "exp")
    if iat is None and (rules.iat_required or rules.max_age_s is not None):
        raise TokenRefused(Reason.CLAIM_MISSING, "iat")
    leeway_us = rules.leeway_s * _US_PER_S
    if exp * _US_PER_S + leeway_us <= now_us:
        raise TokenRefused(Reason.EXPIRED)
    if nbf is not None and nbf * _US_PER_S > now_us + leeway_us:
        raise TokenRefused(Reason.NOT_YET_VALID)
    if iat is None:
        return exp, 0
    if iat * _US_PER_S > now_us + leeway_us:
        raise TokenRefused(Reason.ISSUED_IN_FUTURE)
    if exp <= iat or (nbf is not None and nbf >= exp):
        raise TokenRefused(Reason.CONTRADICTION)
    if rules.max_age_s is not None and (iat + rules.max_age_s) * _US_PER_S + leeway_us <= now_us:
        raise TokenRefused(Reason.TOO_OLD)
    return exp, iat


def _check_parties(claims: dict[str, Any], rules: Rules) -> tuple[str, tuple[str, ...]]:
    iss = _text(claims, "iss")
    if rules.issuer is not None and iss != rules.issuer:
        raise TokenRefused(Reason.ISSUER)
    aud = _audience(claims)
    if (rules.audience not in aud) if rules.audience is not None else bool(aud):
        raise TokenRefused(Reason.AUDIENCE)
    return iss, aud


def _audience(claims: dict[str, Any]) -> tuple[str, ...]:
    """Read `aud`: one string or a list of them (RFC 7519 section 4.1.3)."""
    if "aud" not in claims:
        return ()
    aud = claims["aud"]
    listed = aud if type(aud) is list else [aud]
    if not listed or len(listed) > 16 or not all(type(a) is str and 0 < len(a) <= MAX_TEXT_CHARS for a in listed):
        raise TokenRefused(Reason.CLAIM_TYPE, "aud")
    return tuple(listed)


def _numeric_date(claims: dict[str, Any], name: str) -> int | None:
    """Read a time as a JSON integer of seconds: no string, no boolean, no fraction."""
    if name not in claims:
        return None
    at = claims[name]
    if type(at) is not int or not 0 <= at <= MAX_NUMERIC_DATE:
        raise TokenRefused(Reason.CLAIM_TYPE, name)
    return at


def _text(claims: dict[str, Any], name: str) -> str:
    text = claims.get(name, "")
    if type(text) is not str or len(text) > MAX_TEXT_CHARS:
        raise TokenRefused(Reason.CLAIM_TYPE, name)
    return text


def _header_text(header: dict[str, Any], name: str) -> str:
    text = header.get(name, "")
    if type(text) is not str:
        raise TokenRefused(Reason.HEADER_MEMBER, name)
    return text


def _media_type(typ: str) -> str:
    """Compare form of a `typ`: case folded, `application/` left out (RFC 7515 section 4.1.9, RFC 9068 section 4)."""
    if not typ.isascii():
        raise TokenRefused(Reason.TYP)
    typ = typ.lower()
    return typ[12:] if typ.startswith("application/") and "/" not in typ[12:] else typ


def _read_json(raw: bytes) -> dict[str, Any]:
    try:
        return read_object(raw, max_depth=MAX_DEPTH)
    except NotStrictJson as error:
        raise TokenRefused(Reason.JSON, error.why) from error


def _b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _unb64(segment: bytes) -> bytes:
    """Decode unpadded base64url; only the one text that encodes these bytes is accepted (RFC 4648 section 3.5)."""
    try:
        raw = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except binascii.Error as error:
        raise TokenRefused(Reason.BASE64) from error
    if _b64(raw) != segment:
        raise TokenRefused(Reason.BASE64)
    return raw


_ALGORITHMS: Final = {alg: JWSRegistry.algorithms[alg.value] for alg in Algorithm}
