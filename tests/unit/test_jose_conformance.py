"""Tokens as attackers make them, against the whole boundary: a table of classes, each with what belongs to it.

`test_jose_guard.py` holds the guard alone, rule by rule. Here the same installation that accepts the honest token of
each signature algorithm is shown every class of RFC 8725 and of the known attacks since, each built anew from public
facts; and the worked examples of the RFCs are read as their authors meant them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealwire.boundary.jwt_token_adapter import LegacyRule
from sealwire.boundary.model import Status
from sealwire.contracts.sessions import SessionState
from sealwire.kit.caller import SYSTEM_TENANT
from sealwire.kit.jose import Algorithm, Key, KeySet, Reason, Rules, TokenRefused, verify
from sealwire.kit.permission import Role
from sealwire.kit.problem import Unauthenticated
from sealwire.testing.authority import AUDIENCE, ISSUER
from sealwire.testing.boundary_room import BoundaryRoom
from sealwire.testing.clock import ManualClock

ED = Key.generate(Algorithm.EDDSA, kid="ed")
ES = Key.generate(Algorithm.ES256, kid="es")
RS = Key.generate(Algorithm.RS256, kid="rs")
PUBLISHED = (ED, ES, RS)
OLD = Key.generate(Algorithm.ES256, kid="old.1")
NAMED = Key.generate(Algorithm.RS256, kid="named.1")
SECRET = bytes(range(48))
STRANGER = Key.generate(Algorithm.EDDSA, kid="ed")
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
"""RFC 8032 section 5.1, L."""


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def as_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def raw_signature(key: Key, text: bytes) -> bytes:
    """Sign any bytes with the real key, past every check of ours."""
    private: Any = key.jwk.private_key
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(text)
    if isinstance(private, rsa.RSAPrivateKey):
        return private.sign(text, padding.PKCS1v15(), hashes.SHA256())
    r, s = decode_dss_signature(private.sign(text, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Forge:
    """An issuer's workshop gone over to the other side: every part of a token can be replaced."""

    def __init__(self, claims: dict[str, Any], legacy: dict[str, Any]) -> None:
        self.claims = claims
        self.legacy = legacy

    def head(self, key: Key = ED, **changes: Any) -> dict[str, Any]:
        """Return the header of an honest token; None leaves a member out."""
        base = {"alg": key.alg.value, "kid": key.kid, "typ": "at+jwt"}
        return {name: value for name, value in (base | changes).items() if value is not None}

    def said(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of an honest token; None leaves one out."""
        return {name: value for name, value in (self.claims | changes).items() if value is not None}

    def token(
        self, key: Key = ED, head: bytes | dict[str, Any] | None = None, body: bytes | dict[str, Any] | None = None
    ) -> str:
        """Return a token of these parts, genuinely signed."""
        head = self.head(key) if head is None else head
        body = self.claims if body is None else body
        text = ".".join(b64(part if isinstance(part, bytes) else as_json(part)) for part in (head, body))
        return f"{text}.{b64(raw_signature(key, text.encode()))}"

    def resigned(self, key: Key, signature: Callable[[bytes, bytes], bytes]) -> str:
        """Return an honest token with its signature replaced by `signature(text, honest signature)`."""
        text, _, honest = self.token(key).rpartition(".")
        return f"{text}.{b64(signature(text.encode(), unb64(honest)))}"

    def macced(self, secret: bytes, key: Key = RS, **head: Any) -> str:
        """Return a token with an HMAC in the place of the signature."""
        text = f"{b64(as_json(self.head(key, **({'alg': 'HS256'} | head))))}.{b64(as_json(self.claims))}"
        return f"{text}.{b64(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def alg_none(f: Forge) -> list[str]:
    made = []
    for alg in ("none", "None", "NONE", "nOnE", "none ", "", None):
        text = f"{b64(as_json(f.head(alg=alg)))}.{b64(as_json(f.claims))}"
        made += [f"{text}.", text, f"{text}.{b64(b'x')}", f"{text}.{b64(bytes(64))}"]
    return made


def confusion_of_public_key_and_secret(f: Forge) -> list[str]:
    made = []
    for key in PUBLISHED:
        public: Any = key.jwk.public_key
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        secrets = [pem, pem.strip(), pem.replace(b"\n", b"\r\n"), as_json(key.public_jwk()), key.kid.encode(),
                   public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), b""]  # fmt: skip
        if key is ED:
            secrets.append(public.public_bytes(Encoding.Raw, PublicFormat.Raw))
        made += [f.macced(secret, key, alg=alg) for secret in secrets for alg in ("HS256", key.alg.value)]
    return made


def confusion_of_algorithms(f: Forge) -> list[str]:
    others = ("RS256", "ES256", "EdDSA", "Ed25519", "PS256", "RS512", "ES384", "ES256K", "HS512", "RSA1_5", "dir")
    return [
        f.token(key, f.head(key, alg=alg)) for key in PUBLISHED for alg in others if alg != key.alg.value
    ] + [f.token(key, f.head(other)) for key in PUBLISHED for other in PUBLISHED if other is not key]  # fmt: skip


def key_id_injection(f: Forge) -> list[str]:
    kids = ("../ed", "./ed", "/dev/null", "ed/", "ed\x00", "ED", "ed ", "ed'--", "' UNION SELECT 'k", "|id", "$(id)",
            "http://evil.example/ed", "file:///dev/null", "ed%00", "..", ".", "*", "", "e" * 65)  # fmt: skip
    empty_file = [f.macced(b"", alg="HS256", kid=kid) for kid in ("/dev/null", "../../dev/null")]
    mistyped = [f.token(ED, {**f.head(), "kid": kid}) for kid in (None, 0, True, ["ed"], {"ed": "ed"})]
    return [f.token(ED, f.head(kid=kid)) for kid in kids] + mistyped + empty_file + [f.token(ED, f.head(kid=None))]


def keys_carried_or_named_by_the_token(f: Forge) -> list[str]:
    own = STRANGER.public_jwk()
    members = {"jwk": own, "jku": "https://evil.example/jwks", "x5u": "https://evil.example/c", "x5c": ["MIIB"],
               "x5t": "AAAA", "x5t#S256": "AAAA", "jwks": {"keys": [own]}, "key": own}  # fmt: skip
    return [
        f.token(key, {**f.head(), name: value}) for key in (ED, STRANGER) for name, value in members.items()
    ] + [f.token(STRANGER)]  # fmt: skip


def header_extensions(f: Forge) -> list[str]:
    """What changes the meaning of a token: critical extensions, RFC 7797, compression, nesting."""
    members: tuple[dict[str, Any], ...] = (
               {"crit": ["exp"]}, {"crit": []}, {"b64": False, "crit": ["b64"]}, {"b64": False}, {"zip": "DEF"},
               {"cty": "JWT"}, {"enc": "A256GCM"}, {"epk": {}}, {"p2c": 2**31 - 1}, {"exp": 1},
               {"iss": ISSUER})  # fmt: skip
    nested = f.token(ED, None, f.token().encode())
    return [f.token(ED, {**f.head(), **extra}) for extra in members] + [nested]


def duplicate_members(f: Forge) -> list[str]:
    head, body = as_json(f.head()).decode(), as_json(f.claims).decode()
    heads = (head[:-1] + ',"alg":"none"}', '{"alg":"none",' + head[1:], head[:-1] + ',"\\u006bid":"es"}')
    bodies = (body[:-1] + ',"sub":"otto"}', '{"sub":"otto",' + body[1:], body[:-1] + ',"ro\\u006ce":"owner"}',
              body[:-1] + ',"x":[{"y":{"a":1,"a":2}}]}')  # fmt: skip
    return [f.token(ED, h.encode()) for h in heads] + [f.token(ED, None, b.encode()) for b in bodies]


def base64_in_another_dress(f: Forge) -> list[str]:
    made = []
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for key in PUBLISHED:
        parts = f.token(key).split(".")
        for place, good in enumerate(parts):
            bad = [good + "=", good + "==", good + "\n", " " + good, good[:8] + "\r\n" + good[8:], good + "A" * 4]
            bad += [good[:8] + wrong + good[9:] for wrong in ("+", "/", "*", "\x00", "%", "=", "é")]
            if len(good) % 4 != 0:  # bits that stand for nothing
                bad += [good[:-1] + alphabet[alphabet.index(good[-1]) ^ bit] for bit in (1, 2)]
            made += [".".join([*parts[:place], text, *parts[place + 1 :]]) for text in bad]
    return made


def other_serialisations(f: Forge) -> list[str]:
    head, body, signature = f.token().split(".")
    flat = {"protected": head, "payload": body, "signature": signature}
    return ["", ".", "..", "...", head, f"{head}.{body}", f"{head}.{body}.", f".{body}.{signature}",
            f"{head}..{signature}", f"{head}.{body}.{signature}.", f"{head}.{body}.{signature}.{signature}",
            f"{head}.{body}.{body}.{body}.{signature}", json.dumps(flat),
            json.dumps({"payload": body, "signatures": [flat]}), f"Bearer {head}.{body}.{signature}",
            f"{head}.{body}.{signature} ", f"\ufeff{head}.{body}.{signature}"]  # fmt: skip


def signatures_of_no_length_or_wrong_length(f: Forge) -> list[str]:
    lengths = (0, 1, 32, 63, 64, 65, 96, 128, 255, 256, 257, 512)
    made = [f.resigned(key, lambda _, __, n=n: bytes(n)) for key in PUBLISHED for n in lengths]  # type: ignore[misc]  # a default in a lambda
    made += [f.resigned(key, lambda _, good: good[:-1]) for key in PUBLISHED]
    made += [f.resigned(key, lambda _, good: good + b"\0") for key in PUBLISHED]
    return made + [f.resigned(key, lambda _, good: b"\0" + good) for key in PUBLISHED]


def ecdsa_special_values(f: Forge) -> list[str]:
    """CVE-2022-21449 and kin: r and s of zero, of the order and about it; and the DER form."""
    edge = (0, 1, P256_ORDER - 1, P256_ORDER, P256_ORDER + 1, 2**256 - 1)
    pairs = [r.to_bytes(32, "big") + s.to_bytes(32, "big") for r in edge for s in edge]
    made = [f.resigned(ES, lambda _, __, raw=raw: raw) for raw in pairs]  # type: ignore[misc]  # a default in a lambda
    made += [
        f.resigned(ES, lambda _, good: good[:32] + bytes(32)),
        f.resigned(ES, lambda _, good: bytes(32) + good[32:]),
    ]
    private: Any = ES.jwk.private_key
    return [*made, f.resigned(ES, lambda text, _: private.sign(text, ec.ECDSA(hashes.SHA256())))]


def ed25519_special_values(f: Forge) -> list[str]:
    """RFC 8032 section 5.1.7 wants S below the order; points of small order make signatures of anything."""

    def above_the_order(_: bytes, good: bytes) -> bytes:
        return good[:32] + (int.from_bytes(good[32:], "little") + ED25519_ORDER).to_bytes(32, "little")

    identity, order_two = (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")
    small = [
        point + s.to_bytes(32, "little") for point in (identity, order_two, bytes(32)) for s in (0, 1, ED25519_ORDER)
    ]
    return [f.resigned(ED, above_the_order), *(f.resigned(ED, lambda _, __, raw=raw: raw) for raw in small)]  # type: ignore[misc]  # a default in a lambda


def rsa_special_values(f: Forge) -> list[str]:
    """Fixed points of RSA, another padding, a weaker hash, a number beyond the modulus."""
    private: Any = RS.jwk.private_key
    modulus = private.public_key().public_numbers().n
    numbers = [n.to_bytes(256, "big") for n in (0, 1, modulus - 1, modulus, 2**2048 - 1)]
    made = [f.resigned(RS, lambda _, __, raw=raw: raw) for raw in numbers]  # type: ignore[misc]  # a default in a lambda
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    made.append(f.resigned(RS, lambda text, _: private.sign(text, pss, hashes.SHA256())))
    return [*made, f.resigned(RS, lambda text, _: private.sign(text, padding.PKCS1v15(), hashes.SHA512()))]


def oversized(f: Forge) -> list[str]:
    head, body, signature = f.token().split(".")
    return [f.token(ED, None, f.said(x="y" * 9_000)), f.token(ED, f.head(typ="x" * 600)), "A" * 1_000_000,
            f"{head}.{body}.{'A' * 5_000}", f"{head}.{'A' * 2_000_000}.{signature}", "." * 100_000]  # fmt: skip


def deep_nesting(f: Forge) -> list[str]:
    open_body = as_json(f.claims).decode()[:-1]
    bodies = (open_body + ',"x":' + "[" * 2_000 + "]" * 2_000 + "}",
              open_body + ',"x":' + '{"a":' * 700 + "1" + "}" * 701,
              "[" * 5_000, open_body + ',"x":' + "[" * 9 + "]" * 9 + "}")  # fmt: skip
    return [f.token(ED, None, body.encode()) for body in bodies] + [f.token(ED, b"[" * 300 + b"]" * 300)]


def encodings_other_than_utf8(f: Forge) -> list[str]:
    body, head = as_json(f.claims).decode(), as_json(f.head()).decode()
    made = []
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7"):
        if body.encode(encoding) != body.encode():
            made += [f.token(ED, None, body.encode(encoding)), f.token(ED, head.encode(encoding)[:380])]
    broken = (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80")
    return made + [f.token(ED, None, body.encode()[:-1] + b',"x":"' + bad + b'"}') for bad in broken]


def nul_and_control_characters(f: Forge) -> list[str]:
    body = as_json(f.claims)
    return [f.token(ED, None, f.said(sub="anna\x00otto")), f.token(ED, None, f.said(**{"sub\x00": "x"})),
            f.token(ED, None, body[:-1] + b',"x":"a\x00b"}'), f.token(ED, None, body + b"\x00"),
            f.token(ED, None, body[:-1] + b',"x":"a\nb"}'),
            f.token(ED, None, body[:-1] + b',"x":"\\ud800"}')]  # fmt: skip


def json_that_is_none(f: Forge) -> list[str]:
    body = as_json(f.claims).decode()
    bodies = ("null", "1", '"x"', "[]", f"[{body}]", body + body, body + "x", body[:-1], body[:-1] + ",}", "",
              body[:-1] + ',"x":NaN}', body[:-1] + ',"x":1e999}', body[:-1] + ',"x":' + "9" * 5_000 + "}",
              body.replace('"', "'"), body[:-1] + "/**/}")  # fmt: skip
    return [f.token(ED, None, text.encode() or b" ") for text in bodies]


def times_that_are_no_numbers(f: Forge) -> list[str]:
    now = f.claims["iat"]
    values = (str(now + 600), now + 600.5, float(now + 600), True, [now + 600], {"$gt": 0}, -1, 2**53, 10**40, None)
    return [
        f.token(ED, None, {**f.claims, name: value}) for name in ("exp", "iat", "nbf") for value in values
    ] + [f.token(ED, None, {**f.claims, "auth_time": str(now)}), f.token(ED, None, f.said(epoch="9"))]  # fmt: skip


def times_that_are_not_now(f: Forge) -> list[str]:
    now = f.claims["iat"]
    return [f.token(ED, None, f.said(**changes)) for changes in (
        {"nbf": now + 60}, {"nbf": now + 10**9}, {"iat": now + 60}, {"exp": now - 60, "iat": now - 600}, {"exp": 0},
        {"exp": now - 1, "iat": now}, {"nbf": now + 700}, {"exp": None}, {"iat": None})]  # fmt: skip


def another_type_of_token(f: Forge) -> list[str]:
    """An ID token, a service's identity, a logout token, a plain JWT: signed by us, but no access tokens."""
    types = ("JWT", "jwt", "", None, "id+jwt", "logout+jwt", "sw-svc+jwt", "service+jwt", "at-jwt", "at+jwt;x",
             " at+jwt", "application/application/at+jwt", "text/at+jwt", "JOSE", "at+JWТ")  # fmt: skip
    mistyped = [f.token(ED, {**f.head(), "typ": typ}) for typ in (None, 1, ["at+jwt"], {"at+jwt": 1})]
    return [f.token(key, f.head(key, typ=typ)) for key in PUBLISHED for typ in types] + mistyped


def another_issuer_or_audience(f: Forge) -> list[str]:
    said: list[dict[str, Any]] = [
        {"iss": iss} for iss in (None, "", ISSUER + "/", ISSUER.upper(), ISSUER + ".evil.example", [ISSUER], 1)
    ]
    said += [
        {"aud": aud} for aud in (None, "", [], "other", AUDIENCE + "x", [AUDIENCE, 1], {AUDIENCE: 1}, [[AUDIENCE]])
    ]
    return [f.token(ED, None, {n: v for n, v in (f.claims | changes).items() if v is not None}) for changes in said]


def enhanced_as_legacy(f: Forge) -> list[str]:
    """Tokens of auth's key in the shape of the old issuers, and with their names."""
    made = [f.token(key, f.head(key, typ=typ), f.legacy | extra)
            for key in PUBLISHED for typ in ("JWT", "at+jwt", None)
            for extra in ({}, {"iss": ISSUER}, {"iss": "https://old.example"},
                          {"iss": ISSUER, "aud": AUDIENCE})]  # fmt: skip
    made += [f.token(ED, f.head(kid=kid, typ="JWT"), f.legacy) for kid in ("old.1", "named.1", "old.hs")]
    return [*made, f.token(ED, None, f.said(id="anna")), f.token(ED, None, f.said(sub="anna@example.org"))]


def legacy_as_enhanced(f: Forge) -> list[str]:
    """Tokens of an old issuer's key that claim what only auth may: its issuer, type, session, times, roles."""
    own = {"kid": "old.1"}
    made = [f.token(OLD, f.head(OLD, typ=typ)) for typ in ("at+jwt", "JWT", None)]
    made += [f.token(OLD, f.head(OLD, typ="JWT") | own, f.legacy | extra) for extra in (
        {"iss": ISSUER}, {"iss": "https://old.example"}, {"aud": AUDIENCE}, {"tid": "t"}, {"sid": f.claims["sid"]},
        {"epoch": 99}, {"amr": ["pwd", "otp"]}, {"auth_time": f.legacy["iat"]}, {"client_id": "x"}, {"role": "service"},
        {"sub": "anna"}, {"id": "anna@example.org"}, {"email": "otto@example.org"})]  # fmt: skip
    made += [f.token(OLD, f.head(OLD, typ="at+jwt"), f.legacy), f.token(NAMED, f.head(NAMED, typ="JWT"), f.legacy)]
    hs = f.macced(SECRET, ED, kid="old.hs", typ="at+jwt")
    return [*made, hs, f.macced(SECRET, ED, kid="ed"), f.macced(SECRET, ED, kid="old.hs", typ="JWT")]


CLASSES: dict[str, Callable[[Forge], list[str]]] = {
    made.__name__: made
    for made in (
        alg_none, confusion_of_public_key_and_secret, confusion_of_algorithms, key_id_injection,
        keys_carried_or_named_by_the_token, header_extensions, duplicate_members, base64_in_another_dress,
        other_serialisations, signatures_of_no_length_or_wrong_length, ecdsa_special_values, ed25519_special_values,
        rsa_special_values, oversized, deep_nesting, encodings_other_than_utf8, nul_and_control_characters,
        json_that_is_none, times_that_are_no_numbers, times_that_are_not_now, another_type_of_token,
        another_issuer_or_audience, enhanced_as_legacy, legacy_as_enhanced,
    )
}  # fmt: skip


class Installation(BoundaryRoom):
    """A boundary that knows auth's three keys and three old issuers, and two people in two tenants."""

    clock: ManualClock

    async def status(self, token: str) -> Status:
        """Return what the boundary says of a token. Raises: Unauthenticated."""
        return (await self.boundary.normalizer.validate(await self.boundary.adapter.adapt(token))).status

    def forge(self, session: SessionState) -> Forge:
        honest = self.authority.token(session)
        now_s = self.clock.now_us() // 1_000_000
        legacy = {"sub": "anna@example.org", "id": "anna", "role": "member", "iat": now_s, "exp": now_s + 600}
        return Forge(json.loads(unb64(honest.split(".")[1])), legacy)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Installation]:
    place = Installation(
        tmp_path,
        clock=ManualClock(),
        legacy=[
            LegacyRule(key=OLD, tenant_id="t", kid="old.1"),
            LegacyRule(key=NAMED, tenant_id="t", iss="https://old.example"),
            LegacyRule(key=Key.from_secret(SECRET, kid="old.hs"), tenant_id="t", kid="old.hs"),
        ],
    )
    place.authority.keys = list(PUBLISHED)
    boundary = place.build()
    await boundary.fallback.start()
    await boundary.coordinator.ensure_fresh()
    place.authority.add_user("anna")
    place.authority.add_user("otto", tenant_id="t2", role=Role.OWNER)
    yield place
    await boundary.stop()


async def test_the_honest_token_of_every_issuer_is_accepted(place: Installation) -> None:
    forge = place.forge(place.authority.log_in("anna"))
    for key in PUBLISHED:
        assert await place.status(forge.token(key)) is Status.VALID
    assert await place.status(forge.token(OLD, forge.head(OLD, typ="JWT"), forge.legacy)) is Status.VALID
    named = forge.token(NAMED, forge.head(NAMED, typ="JWT", kid=None), forge.legacy | {"iss": "https://old.example"})
    assert await place.status(named) is Status.VALID
    forge.claims = forge.legacy
    assert await place.status(forge.macced(SECRET, kid="old.hs", typ="JWT")) is Status.VALID


@pytest.mark.parametrize("name", CLASSES)
async def test_every_class_of_attack_is_refused(place: Installation, name: str) -> None:
    session = place.authority.log_in("anna")
    forge = place.forge(session)
    honest = forge.token()
    attacks = [token for token in CLASSES[name](forge) if token != honest]
    assert attacks
    for token in attacks:
        with pytest.raises(Unauthenticated) as refused:
            await place.boundary.adapter.adapt(token)
        assert refused.value.status == 401
        assert refused.value.title in ("Authentication required", type(refused.value).title), "no word about why"
        assert place.boundary.adapter.remembered(token) is None
    assert await place.status(honest) is Status.VALID, "and nothing of it harmed who is honest"


@pytest.mark.parametrize(
    "changes",
    [
        {"tid": "t2"},
        {"tid": SYSTEM_TENANT},
        {"tid": "t2", "sub": "otto"},
        {"sub": "otto"},
        {"sub": "nobody"},
        {"tid": "t2", "role": "owner"},
    ],
)
async def test_a_token_of_another_tenant_or_person_bears_nobodys_session(
    place: Installation, changes: dict[str, str]
) -> None:
    """Genuinely signed, but the session it names is another's: the record decides, not the token."""
    forge = place.forge(place.authority.log_in("anna"))
    assert await place.status(forge.token(ED, None, forge.said(**changes))) is Status.REVOKED
    others = place.authority.log_in("otto")
    assert await place.status(forge.token(ED, None, forge.said(sid=others.session_id))) is Status.REVOKED


async def test_a_role_the_token_claims_is_a_hint(place: Installation) -> None:
    forge = place.forge(place.authority.log_in("anna"))
    token = await place.boundary.adapter.adapt(forge.token(ED, None, forge.said(role="owner", email="x@y.example")))
    said = (await place.boundary.normalizer.validate(token)).principal
    assert said is not None
    assert (said.role, said.email) == (Role.MEMBER, "anna@example.org")


async def test_a_legacy_token_whose_address_is_not_its_persons_is_refused(place: Installation) -> None:
    forge = place.forge(place.authority.log_in("anna"))
    for claims in ({"sub": "otto@example.org"}, {"id": "otto"}, {"id": "otto", "sub": "otto@example.org"}):
        token = forge.token(OLD, forge.head(OLD, typ="JWT"), forge.legacy | claims)
        assert await place.status(token) is not Status.VALID, "resolved by id, in the issuer's tenant, and compared"


# ---- the examples of the RFCs

EXAMPLE_BODY = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
RFC7515_HS256 = f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{EXAMPLE_BODY}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
RFC7515_SECRET = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
RFC7515_ES256 = (
    f"eyJhbGciOiJFUzI1NiJ9.{EXAMPLE_BODY}."
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)
RFC7515_ES256_KEY = {
    "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "example",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}  # fmt: skip
RFC8037_EDDSA = (
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
)
RFC8037_KEY = {
    "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "example",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}  # fmt: skip
EXAMPLE_RULES = Rules(
    typ=frozenset({"", "jwt"}), issuer="joe", audience=None, algorithms=frozenset(Algorithm), iat_required=False,
    default_kid="example",
)  # fmt: skip
BEFORE_EXAMPLES_END_US = 1_300_819_000 * 1_000_000


@pytest.mark.parametrize(
    ("token", "key"),
    [
        (RFC7515_HS256, Key.from_secret(unb64(RFC7515_SECRET), kid="example")),
        (RFC7515_ES256, Key.from_public_jwk(RFC7515_ES256_KEY)),
    ],
    ids=["RFC 7515 A.1", "RFC 7515 A.3"],
)
def test_examples_of_rfc_7515(token: str, key: Key) -> None:
    said = verify(token, KeySet([key]), EXAMPLE_RULES, now_us=BEFORE_EXAMPLES_END_US)
    assert (said.iss, said.exp, said.claims["http://example.com/is_root"]) == ("joe", 1_300_819_380, True)
    with pytest.raises(TokenRefused) as late:
        verify(token, KeySet([key]), EXAMPLE_RULES, now_us=1_400_000_000 * 1_000_000)
    assert late.value.reason is Reason.EXPIRED


def test_the_unsecured_example_of_rfc_7515() -> None:
    key = Key.from_public_jwk(RFC7515_ES256_KEY)
    with pytest.raises(TokenRefused):  # appendix A.5
        verify(f"eyJhbGciOiJub25lIn0.{EXAMPLE_BODY}.", KeySet([key]), EXAMPLE_RULES, now_us=BEFORE_EXAMPLES_END_US)


def test_the_example_of_rfc_8037() -> None:
    """Its payload is a sentence, not JSON: so that is what it is refused for."""
    keys = KeySet([Key.from_public_jwk(RFC8037_KEY)])
    for token, reason in ((RFC8037_EDDSA, Reason.JSON), (RFC8037_EDDSA.replace(".hg", ".hh"), Reason.SIGNATURE)):
        with pytest.raises(TokenRefused) as refused:
            verify(token, keys, EXAMPLE_RULES, now_us=BEFORE_EXAMPLES_END_US)
        assert refused.value.reason is reason


def test_the_thumbprint_of_rfc_8037() -> None:
    made = Key.from_public_jwk({**RFC8037_KEY, "kid": "x"})
    assert made.jwk.thumbprint() == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"  # appendix A.3
