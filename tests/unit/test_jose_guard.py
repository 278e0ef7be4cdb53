"""The token guard against every known class of attack (RFC 8725 and later), with PyJWT as an independent signer."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import warnings
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.kit.jose import (
    Algorithm,
    Hint,
    Key,
    KeySet,
    KeyState,
    Reason,
    Rules,
    TokenRefused,
    fingerprint,
    peek,
    sign,
    verify,
)
from sealwire.kit.problem import Unauthenticated

NOW_S = 1_800_000_000
NOW_US = NOW_S * 1_000_000
ISSUER, AUDIENCE = "https://sealwire.test", "sealwire-api"
KEYS = {alg: Key.generate(alg) for alg in (Algorithm.EDDSA, Algorithm.ES256, Algorithm.RS256)}
KEYSET = KeySet(KEYS.values())
ED = KEYS[Algorithm.EDDSA]
RULES = Rules(
    typ=frozenset({"at+jwt"}), issuer=ISSUER, audience=AUDIENCE, required=frozenset({"sub", "jti"}), leeway_s=5
)
SECRET = bytes(range(40))
LEGACY_RULES = Rules(
    typ=frozenset({"jwt", ""}),
    issuer=None,
    audience=None,
    algorithms=frozenset({Algorithm.HS256}),
    default_kid="old",
    max_age_s=3_600,
)
LEGACY_KEYS = KeySet([Key.from_secret(SECRET, kid="old")])


def claims(**changes: Any) -> dict[str, Any]:
    base = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "u-1",
        "jti": "t-1",
        "iat": NOW_S,
        "exp": NOW_S + 600,
    }
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def forge(header: bytes | dict[str, Any], payload: bytes | dict[str, Any], key: Key = ED) -> str:
    """Sign any header and payload bytes with the real key: what an issuer gone wrong could make."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    text = f"{b64(head)}.{b64(body)}"
    private = key.jwk.private_key
    return f"{text}.{b64(private.sign(text.encode()))}"  # type: ignore[union-attr,call-arg] # Ed25519 here


def header(**changes: Any) -> dict[str, Any]:
    base = {"alg": "EdDSA", "kid": ED.kid, "typ": "at+jwt"}
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def refused(token: str, reason: Reason, *, keys: KeySet = KEYSET, rules: Rules = RULES, now_us: int = NOW_US) -> None:
    with pytest.raises(TokenRefused) as caught:
        verify(token, keys, rules, now_us=now_us)
    assert caught.value.reason is reason, caught.value.note
    assert caught.value.document() == Unauthenticated().document(), "a client never learns why"


# --- what must be accepted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", list(KEYS))
def test_our_own_tokens_are_accepted_and_read_alike_by_pyjwt(alg: Algorithm) -> None:
    token = sign(claims(amr=["pwd"]), KEYS[alg], "at+jwt")
    said = verify(token, KEYSET, RULES, now_us=NOW_US)
    assert (said.sub, said.kid, said.alg, said.aud, said.claims["amr"]) == (
        "u-1",
        KEYS[alg].kid,
        alg,
        (AUDIENCE,),
        ["pwd"],
    )
    public = KEYS[alg].jwk.public_key
    options = {"verify_exp": False, "verify_iat": False}
    assert pyjwt.decode(token, public, [alg.value], audience=AUDIENCE, options=options) == said.claims  # type: ignore[arg-type]  # its options are a TypedDict


@pytest.mark.parametrize("alg", list(KEYS))
def test_pyjwt_tokens_are_accepted(alg: Algorithm) -> None:
    key = KEYS[alg]
    token = pyjwt.encode(claims(), key.private_pem().decode(), alg.value, {"kid": key.kid, "typ": "application/AT+JWT"})
    assert verify(token, KEYSET, RULES, now_us=NOW_US).jti == "t-1"


def test_audience_may_be_a_list() -> None:
    assert verify(forge(header(), claims(aud=["other", AUDIENCE])), KEYSET, RULES, now_us=NOW_US).aud[1] == AUDIENCE


def test_a_legacy_hs256_token_without_kid_is_accepted_only_by_legacy_rules() -> None:
    token = pyjwt.encode({"sub": "a@b.c", "id": "u-1", "iat": NOW_S, "exp": NOW_S + 60}, SECRET, "HS256")
    assert verify(token, LEGACY_KEYS, LEGACY_RULES, now_us=NOW_US).sub == "a@b.c"
    refused(token, Reason.KID)


def test_sign_and_verify_warn_about_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verify(sign(claims(), ED, "at+jwt"), KEYSET, RULES, now_us=NOW_US)


# --- algorithms (RFC 8725 sections 2.1, 3.1, 3.2) ------------------------------------------------------------------


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
def test_alg_none_in_any_case(alg: str) -> None:
    head, body, _ = sign(claims(), ED, "at+jwt").split(".")
    unsigned = b64(json.dumps(header(alg=alg)).encode())
    refused(f"{unsigned}.{body}.", Reason.NOT_COMPACT)
    refused(f"{unsigned}.{body}.AAAA", Reason.ALG)
    refused(f"{head}.{body}.", Reason.NOT_COMPACT)


@pytest.mark.parametrize("form", [Encoding.PEM, Encoding.DER])
def test_hs256_with_the_public_key_as_secret(form: Encoding) -> None:
    key = KEYS[Algorithm.RS256]
    public = key.jwk.public_key.public_bytes(form, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[union-attr]  # it is an EC key
    text = f"{b64(json.dumps(header(alg='HS256', kid=key.kid)).encode())}.{b64(json.dumps(claims()).encode())}"
    token = f"{text}.{b64(hmac.digest(public, text.encode(), hashlib.sha256))}"
    refused(token, Reason.ALG)
    refused(token, Reason.ALG, rules=RulesWith(algorithms=frozenset(Algorithm)))


def RulesWith(**changes: Any) -> Rules:  # noqa: N802 - reads like the struct it makes
    return Rules(**{**{name: getattr(RULES, name) for name in Rules.__struct_fields__}, **changes})


def test_a_key_accepts_no_algorithm_but_its_own() -> None:
    for key in KEYS.values():
        for other in ("RS256", "ES256", "EdDSA", "PS256", "RS384", "ES384", "ES256K", "HS256", "Ed25519", "Ed448"):
            if other != key.alg.value:
                head = b64(json.dumps({"alg": other, "kid": key.kid, "typ": "at+jwt"}).encode())
                _, body, signature = sign(claims(), key, "at+jwt").split(".")
                refused(f"{head}.{body}.{signature}", Reason.ALG)


def test_an_algorithm_outside_the_allow_list_of_the_rules() -> None:
    refused(
        sign(claims(), KEYS[Algorithm.ES256], "at+jwt"),
        Reason.ALG,
        rules=RulesWith(algorithms=frozenset({Algorithm.EDDSA})),
    )


@pytest.mark.parametrize("alg", [1, True, None, ["EdDSA"], {"EdDSA": 1}])
def test_an_alg_that_is_no_string(alg: object) -> None:
    refused(forge({**header(), "alg": alg}, claims()), Reason.ALG)


def test_weak_keys_are_refused_when_they_are_made() -> None:
    def pem(bits: int, exponent: int) -> bytes:
        pair = rsa.generate_private_key(exponent, bits)
        return pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for weak in (pem(1024, 65_537), pem(2048, 3)):
            with pytest.raises(ValueError, match="RSA"):
                Key.from_pem(weak, Algorithm.RS256)
    for secret in (b"", b"short", b"x" * 31, b"a" * 64, b"-----BEGIN PUBLIC KEY-----" + SECRET):
        with pytest.raises(ValueError):
            Key.from_secret(secret, kid="k")
    with pytest.raises(ValueError):
        Key.from_pem(ED.private_pem(), Algorithm.ES256)


def test_secrets_and_public_keys_never_share_a_set() -> None:
    with pytest.raises(ValueError, match="one set"):
        KeySet([ED, Key.from_secret(SECRET, kid="old")])
    with pytest.raises(ValueError, match="one id"):
        KeySet([ED, ED])


@pytest.mark.parametrize("alg", list(KEYS))
def test_signatures_of_zeros_and_of_wrong_length(alg: Algorithm) -> None:
    key = KEYS[alg]
    text = sign(claims(), key, "at+jwt").rpartition(".")[0]
    for length in (1, 2, 16, 63, 64, 65, 70, 72, 255, 256, 257):
        refused(f"{text}.{b64(bytes(length))}", Reason.SIGNATURE)


def test_ecdsa_special_values() -> None:
    """r and s of 0, of the order, beyond it (CVE-2022-21449 and kin), and a DER signature."""
    key = KEYS[Algorithm.ES256]
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    text, _, good = sign(claims(), key, "at+jwt").rpartition(".")
    r_good = unb64(good)[:32]
    for r in (0, 1, order, order - 1, 2**256 - 1):
        for s in (0, 1, order, order - 1, 2**256 - 1):
            refused(f"{text}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}", Reason.SIGNATURE)
    refused(f"{text}.{b64(r_good + bytes(32))}", Reason.SIGNATURE)


def test_the_twin_of_an_ecdsa_signature_has_the_same_fingerprint() -> None:
    key = KEYS[Algorithm.ES256]
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    token = sign(claims(), key, "at+jwt")
    text, _, good = token.rpartition(".")
    raw = unb64(good)
    twin = f"{text}.{b64(raw[:32] + (order - int.from_bytes(raw[32:], 'big')).to_bytes(32, 'big'))}"
    assert verify(twin, KEYSET, RULES, now_us=NOW_US).jti == "t-1", "mathematics allows it"
    assert twin != token
    assert fingerprint(twin) == fingerprint(token)
    assert fingerprint(sign(claims(jti="t-2"), key, "at+jwt")) != fingerprint(token)


# --- keys named or carried by the token (RFC 8725 sections 2.9, 3.10) ----------------------------------------------


@pytest.mark.parametrize(
    "member", ["jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256", "crit", "zip", "b64", "cty", "enc", "epk", "iss", "p2c"]
)
def test_any_other_header_member(member: str) -> None:
    values: dict[str, Any] = {"crit": ["exp"], "b64": False, "jwk": ED.public_jwk(), "zip": "DEF"}
    refused(
        forge({**header(), member: values.get(member, "https://evil.example/keys")}, claims()), Reason.HEADER_MEMBER
    )


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "a..b",
        "' OR '1'='1",
        "x' UNION SELECT 'key",
        "|cat /etc/passwd",
        "a b",
        "a\nb",
        "a\n",
        "",
        "k" * 129,
        "ключ",
        "$(id)",
        "a%2e%2e",
        1,
        None,
        True,
        ["a"],
        {"a": 1},
    ],
)
def test_kid_injection_and_paths(kid: object) -> None:
    refused(forge({**header(), "kid": kid}, claims()), Reason.KID)


def test_an_unknown_or_absent_kid() -> None:
    for kid in ("nobody", "/dev/null", "a/b", "//etc/passwd", "k" * 128):  # a slash is a letter: no id is a path here
        refused(forge(header(kid=kid), claims()), Reason.KEY_UNKNOWN)
    refused(forge(header(kid=None), claims()), Reason.KID)


def test_a_key_of_our_own_set_under_anothers_kid() -> None:
    other = Key.generate(Algorithm.EDDSA)
    refused(forge(header(), claims(), other), Reason.SIGNATURE)


# --- form (RFC 7515 section 7.1, RFC 4648 section 3.5) -------------------------------------------------------------


def test_other_serialisations() -> None:
    head, body, signature = sign(claims(), ED, "at+jwt").split(".")
    for text in (
        "",
        ".",
        "..",
        "...",
        "....",
        head,
        f"{head}.{body}",
        f"{head}.{body}.{signature}.",
        f"{head}.{body}.{signature}.{signature}",
        f"{head}.{body}.x.y.z",
        f".{body}.{signature}",
        json.dumps({"payload": body, "protected": head, "signature": signature}),
    ):
        refused(text, Reason.NOT_COMPACT)
    refused(f"{head}..{signature}", Reason.SIGNATURE)
    refused(f"{head}.{body}.{signature}é", Reason.NOT_COMPACT)
    refused(f"{head}.{body}.{signature}\ud800", Reason.NOT_COMPACT)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_base64_that_is_not_the_one_text(place: int) -> None:
    parts = sign(claims(), ED, "at+jwt").split(".")
    good = parts[place]
    for bad in (
        good + "=",
        good + "==",
        good + "\n",
        " " + good,
        good[:4] + "\n" + good[4:],
        good[:4] + "*" + good[4:],
        good[:4] + "+" + good[5:],
        good[:4] + "/" + good[5:],
        good[:4] + "\x00" + good[4:],
        "A" * (len(good) // 4 * 4 + 1),
    ):
        refused(".".join([*parts[:place], bad, *parts[place + 1 :]]), Reason.BASE64)


def test_base64_with_unused_bits_set() -> None:
    head, body, signature = sign(claims(), ED, "at+jwt").split(".")
    assert len(signature) % 4 == 2, "64 bytes leave 4 unused bits"
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = signature[:-1] + alphabet[alphabet.index(signature[-1]) + 1]
    assert unb64(twin) == unb64(signature), "a lenient decoder reads both alike"
    refused(f"{head}.{body}.{twin}", Reason.BASE64)


def test_oversized() -> None:
    head, body, signature = sign(claims(), ED, "at+jwt").split(".")
    refused("A" * 8_193, Reason.TOO_LARGE)
    refused(f"{head}.{'A' * 10_000_000}.{signature}", Reason.TOO_LARGE)
    refused(f"{b64(json.dumps(header(typ='x' * 500)).encode())}.{body}.{signature}", Reason.TOO_LARGE)
    refused(f"{head}.{body}.{'A' * 1_028}", Reason.TOO_LARGE)


# --- JSON (RFC 8725 sections 2.4, 3.7; RFC 7493) -------------------------------------------------------------------


def payload(**changes: Any) -> str:
    return json.dumps(claims(**changes))


HOSTILE_JSON = {
    "duplicate member": payload()[:-1] + ', "sub": "admin"}',
    "duplicate by escape": payload()[:-1] + ', "s\\u0075b": "admin"}',
    "duplicate deep inside": payload()[:-1] + ', "x": [{"a": 1, "a": 2}]}',
    "NaN": payload()[:-1] + ', "x": NaN}',
    "Infinity": payload()[:-1] + ', "x": -Infinity}',
    "overflow to infinity": payload()[:-1] + ', "x": 1e999}',
    "NUL by escape": payload(x="a\x00b"),
    "NUL in a name": payload(**{"a\x00": 1}),
    "lone surrogate": payload()[:-1] + ', "x": "\\ud800"}',
    "lone surrogate in a name": payload()[:-1] + ', "\\udfff": 1}',
    "array on top": "[" + payload() + "]",
    "string on top": '"x"',
    "null on top": "null",
    "trailing text": payload() + "{}",
    "trailing comma": payload()[:-1] + ",}",
    "comment": payload()[:-1] + "/* */}",
    "single quotes": payload().replace('"', "'"),
    "raw control character": payload()[:-1] + ', "x": "a\nb"}',
    "huge integer": payload()[:-1] + ', "x": ' + "9" * 5_000 + "}",
    "nested arrays": payload()[:-1] + ', "x": ' + "[" * 2_000 + "]" * 2_000 + "}",
    "nested objects": payload()[:-1] + ', "x": ' + '{"a":' * 800 + "1" + "}" * 800 + "}",
    "unclosed nesting": "[" * 5_000,
    "brackets hidden behind an open string": payload()[:-1] + ', "x": "' + "[" * 3_000,
}


@pytest.mark.parametrize("name", list(HOSTILE_JSON))
def test_json_that_could_be_read_in_two_ways_or_not_at_all(name: str) -> None:
    refused(forge(header(), HOSTILE_JSON[name].encode()), Reason.JSON)


@pytest.mark.parametrize(
    "raw",
    [
        payload().encode("utf-16"),
        payload().encode("utf-16-le"),
        payload().encode("utf-16-be"),
        payload().encode("utf-32"),
        b"\xef\xbb\xbf" + payload().encode(),
        payload().encode()[:-1] + b', "x": "\xff"}',
        payload().encode()[:-1] + b', "x": "\xc0\xaf"}',
        payload().encode()[:-1] + b', "x": "\xed\xa0\x80"}',
        payload().encode()[:-1] + b', "x": "a\x00b"}',
        payload().encode() + b"\x00",
    ],
)
def test_encodings_other_than_plain_utf8(raw: bytes) -> None:
    refused(forge(header(), raw), Reason.JSON)
    refused(forge(raw[:300], claims()), Reason.JSON)


def test_hostile_json_in_the_header() -> None:
    kid = ED.kid
    for text in (
        f'{{"alg":"none","alg":"EdDSA","kid":"{kid}","typ":"at+jwt"}}',
        f'{{"alg":"EdDSA","\\u0061lg":"none","kid":"{kid}","typ":"at+jwt"}}',
        "[" * 300,
        '["EdDSA"]',
        "{}x",
        "\ufeff{}",
    ):
        refused(forge(text.encode(), claims()), Reason.JSON)


def test_many_brackets_inside_strings_are_fine() -> None:
    token = forge(header(), claims(x="[{" * 500 + '\\"]' * 20))
    assert verify(token, KEYSET, RULES, now_us=NOW_US).sub == "u-1"


# --- type, issuer, audience, times (RFC 8725 sections 3.8-3.11) ----------------------------------------------------


@pytest.mark.parametrize("typ", ["JWT", "", None, "at+jwt ", "at-jwt", "application/x/at+jwt", "text/at+jwt", "AT+JWТ"])
def test_wrong_typ(typ: str | None) -> None:
    refused(forge(header(typ=typ), claims()), Reason.TYP)


@pytest.mark.parametrize("typ", [1, None, ["at+jwt"]])
def test_a_typ_that_is_no_string(typ: object) -> None:
    refused(forge({**header(), "typ": typ}, claims()), Reason.HEADER_MEMBER)


def test_wrong_issuer() -> None:
    for iss in (None, "", ISSUER + "/", ISSUER.upper(), ISSUER + ".evil.example"):
        refused(forge(header(), claims(iss=iss)), Reason.ISSUER)
    for mistyped in (1, [ISSUER], {"a": ISSUER}):
        refused(forge(header(), claims(iss=mistyped)), Reason.CLAIM_TYPE)


def test_wrong_audience() -> None:
    for aud in (None, "other", [AUDIENCE + "x"], AUDIENCE[:-1]):
        refused(forge(header(), claims(aud=aud)), Reason.AUDIENCE)
    for mistyped in ("", [], 1, [1], [AUDIENCE, 1], [[AUDIENCE]], {AUDIENCE: 1}, [AUDIENCE] * 17, True):
        refused(forge(header(), claims(aud=mistyped)), Reason.CLAIM_TYPE)


def test_an_audience_where_none_is_expected() -> None:
    token = pyjwt.encode({"sub": "a", "iat": NOW_S, "exp": NOW_S + 60, "aud": "x"}, SECRET, "HS256")
    refused(token, Reason.AUDIENCE, keys=LEGACY_KEYS, rules=LEGACY_RULES)


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", [str(NOW_S), NOW_S + 0.5, float(NOW_S), True, False, [], {}, -1, 2**53, 10**30])
def test_times_that_are_not_real_integers(name: str, value: object) -> None:
    refused(forge(header(), claims(**{name: value})), Reason.CLAIM_TYPE)


def test_null_is_not_absent() -> None:
    refused(forge(header(), {**claims(), "nbf": None}), Reason.CLAIM_TYPE)
    refused(forge(header(), {**claims(), "aud": None}), Reason.CLAIM_TYPE)


def test_times() -> None:
    token = forge(header(), claims(exp=NOW_S + 10))
    for later_s, accepted in ((0, True), (10, True), (14, True), (15, False), (16, False)):
        if accepted:
            verify(token, KEYSET, RULES, now_us=NOW_US + later_s * 1_000_000)
        else:
            refused(token, Reason.EXPIRED, now_us=NOW_US + later_s * 1_000_000)
    verify(forge(header(), claims(nbf=NOW_S + 5)), KEYSET, RULES, now_us=NOW_US)
    refused(forge(header(), claims(nbf=NOW_S + 6)), Reason.NOT_YET_VALID)
    refused(forge(header(), claims(iat=NOW_S + 6)), Reason.ISSUED_IN_FUTURE)
    refused(forge(header(), claims(exp=None)), Reason.CLAIM_MISSING)
    refused(forge(header(), claims(iat=None)), Reason.CLAIM_MISSING)
    refused(forge(header(), claims(iat=NOW_S - 5, exp=NOW_S - 5)), Reason.EXPIRED)
    refused(forge(header(), claims(iat=NOW_S + 4, exp=NOW_S + 4)), Reason.CONTRADICTION)
    refused(forge(header(), claims(nbf=NOW_S + 4, exp=NOW_S + 3, iat=NOW_S)), Reason.CONTRADICTION)


def test_longest_age() -> None:
    token = pyjwt.encode({"sub": "a", "iat": NOW_S - 3_606, "exp": NOW_S + 10**6}, SECRET, "HS256")
    refused(token, Reason.TOO_OLD, keys=LEGACY_KEYS, rules=LEGACY_RULES)


def test_required_claims() -> None:
    for changes in ({"sub": None}, {"jti": None}, {"sub": ""}):
        refused(forge(header(), claims(**changes)), Reason.CLAIM_MISSING)
    for mistyped in (1, True, ["u-1"], {"a": 1}, "x" * 513):
        refused(forge(header(), claims(sub=mistyped)), Reason.CLAIM_TYPE)


# --- key rotation --------------------------------------------------------------------------------------------------


def test_rotation_overlap_and_revocation() -> None:
    token = sign(claims(), ED, "at+jwt")
    retiring = ED.in_state(KeyState.RETIRING, verify_until_us=NOW_US + 1)
    fresh = Key.generate(Algorithm.EDDSA)
    overlap = KeySet([fresh, retiring])
    assert overlap.signing_key() is fresh
    assert verify(token, overlap, RULES, now_us=NOW_US).kid == ED.kid
    assert [entry["kid"] for entry in overlap.jwks(NOW_US)["keys"]] == [fresh.kid, ED.kid]
    refused(token, Reason.KEY_RETIRED, keys=overlap, now_us=NOW_US + 1)
    assert [entry["kid"] for entry in overlap.jwks(NOW_US + 1)["keys"]] == [fresh.kid]
    refused(token, Reason.KEY_RETIRED, keys=KeySet([ED.in_state(KeyState.REVOKED)]))
    for state in (KeyState.NEXT, KeyState.RETIRING, KeyState.REVOKED):
        with pytest.raises(ValueError):
            sign(claims(), ED.in_state(state), "at+jwt")


@pytest.mark.parametrize("alg", list(KEYS))
def test_keys_survive_storage_and_publication(alg: Algorithm) -> None:
    key = KEYS[alg]
    again = Key.from_pem(key.private_pem(), alg)
    assert again.kid == key.kid, "the thumbprint"
    published = json.loads(json.dumps(KeySet([key]).jwks(NOW_US)))["keys"][0]
    assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & published.keys()
    assert (published["alg"], published["use"], published["kid"]) == (alg.value, "sig", key.kid)
    public = Key.from_public_jwk(published)
    assert not public.is_private
    verify(sign(claims(), again, "at+jwt"), KeySet([public]), RULES, now_us=NOW_US)
    with pytest.raises(ValueError):
        sign(claims(), public, "at+jwt")


def test_a_published_key_that_holds_a_secret_is_refused() -> None:
    for entry in (
        {"kty": "oct", "k": b64(SECRET), "alg": "HS256", "kid": "x"},
        {**ED.public_jwk(), "d": b64(bytes(32))},
        {"kty": "OKP", "crv": "Ed25519"},
        {**ED.public_jwk(), "crv": "Ed448"},
    ):
        with pytest.raises(ValueError):
            Key.from_public_jwk(entry)


# --- any change, any text ------------------------------------------------------------------------------------------

TOKENS = [sign(claims(), key, "at+jwt") for key in KEYS.values()]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TOKENS), st.integers(0, 10_000), st.integers(0, 127))
def test_any_changed_character_is_refused(token: str, place: int, char: int) -> None:
    place %= len(token)
    changed = token[:place] + chr(char) + token[place + 1 :]
    if changed == token:
        return
    with pytest.raises(TokenRefused):
        verify(changed, KEYSET, RULES, now_us=NOW_US)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TOKENS), st.integers(0, 2), st.integers(0, 10_000), st.integers(0, 7))
def test_any_flipped_bit_is_refused(token: str, part: int, place: int, bit: int) -> None:
    parts = [bytearray(unb64(text)) for text in token.split(".")]
    parts[part][place % len(parts[part])] ^= 1 << bit
    with pytest.raises(TokenRefused):
        verify(".".join(b64(bytes(raw)) for raw in parts), KEYSET, RULES, now_us=NOW_US)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.lists(st.binary(max_size=200), min_size=3, max_size=3).map(lambda p: ".".join(map(b64, p))))
def test_any_text_is_refused_and_never_breaks_us(text: str) -> None:
    with pytest.raises(TokenRefused):
        verify(text, KEYSET, RULES, now_us=NOW_US)
    with contextlib.suppress(TokenRefused):  # `{}` twice and any signature can be read, and says nothing
        assert peek(text) == Hint(alg="", kid="", typ="", iss="")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["iss", "aud", "sub", "jti", "iat", "exp", "nbf"]), JSON_VALUES))
def test_any_signed_claims_are_accepted_with_right_types_or_refused(changes: dict[str, Any]) -> None:
    token = forge(header(), {**claims(), **changes})
    try:
        said = verify(token, KEYSET, RULES, now_us=NOW_US)
    except TokenRefused:
        return
    assert said.iss == ISSUER
    assert AUDIENCE in said.aud
    assert type(said.exp) is int
    assert said.exp > NOW_S - 5
    assert said.sub
    assert said.jti


# --- peek ----------------------------------------------------------------------------------------------------------


def test_peek_reads_the_origin_and_trusts_nothing() -> None:
    hint = peek(forge(header(typ="application/JWT"), claims()))
    assert (hint.alg, hint.kid, hint.typ, hint.iss) == ("EdDSA", ED.kid, "jwt", ISSUER)
    legacy = peek(pyjwt.encode({"sub": "a", "exp": 1}, SECRET, "HS256"))
    assert (legacy.kid, legacy.iss, legacy.typ) == ("", "", "jwt")
    with pytest.raises(TokenRefused):
        peek(forge({**header(), "jku": "https://evil.example"}, claims()))
