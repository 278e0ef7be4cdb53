"""Values that others published, each with its source, against the functions `docs/security/conformance.md` names.

What stands in other files already: the examples of RFC 7515 and RFC 8037 (`test_jose_conformance.py`), the roots of the
RFC 6962 reference tree (`test_merkle.py`), the example of RFC 8785 (`test_canonical.py`).
"""

from __future__ import annotations

import base64
import struct
from hashlib import sha512
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealwire.contracts.crypto_terms import KeyType
from sealwire.kit.envelopes import EnvelopeRefused, Sealed, derive, gcm_decrypt
from sealwire.kit.jose import Algorithm, Key, KeySet, Reason, TokenRefused, open_signed
from sealwire.kit.weak_keys import has_roca_fingerprint, is_of_small_order
from sealwire.services.auth.mfa import matching_step
from sealwire.services.compliance.canonical import NotCanonical, canonical, canonical_members
from sealwire.services.compliance.merkle import EMPTY_ROOT, ProofInvalid, leaf_hash, verify_consistency
from sealwire.services.compliance.notes import NoteInvalid, parse_key, parse_note, verify_note
from sealwire.services.crypto.material import Material, verify_signature
from sealwire.services.crypto.model import UseBudget

# ---- JOSE: Project Wycheproof, json_web_signature_test.json and json_web_key_test.json

ES256_KEY = {
    "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "kid-ec-sign",
    "x": "04N0xi21hshyvBp7I167sbE_bXqyqkAPfefdklMO7wY", "y": "UI8exy-C06a7DUnjIdENkxeFtHM4-l_41LqEw9nVgmw",
}  # fmt: skip
ES256 = (
    "eyJhbGciOiJFUzI1NiIsImtpZCI6ImtpZC1lYy1zaWduIn0.Zm9v."
    "5cA0OHyMP7ezamUd5c9kV-FrGxdx4hbGXOdplQkutrqWrte5P-pAvsE3Ve6xSyU3YDQwUHjVVOtvcrEbbnZ8yA"
)
RS256_KEY = {
    "kty": "RSA", "alg": "RS256", "use": "sig", "kid": "RS256_2048", "e": "AQAB",
    "n": "orRRoH0KpfluRVZxUTVQUUqKW0YuvvcXCU-h_ugiJOY3-XRtP3yv0xh42AMltu9aFwD2WQO0aUKeidbqyIRQl7WrOTGJ25JRLtincRoSU_rN"
         "IPecFegkfz0-QuRuSMmOJUov6XZTE6A-_48X4aApOXofomqNzib0kO2BKZYV2YFMItphBCjgnH2WWFlCZvXAIdD87KCNlFoSvoLeTR7Oa0wD"
         "FFtdNJXU7VQR64eNrwX9evw-Ca2g8RJkIvWQl1oZaYFvSGmLy7obTZyuedRg2Pn4Xnl1AF2bwixOWsD3waRdElaaYoB9O5oC5aUw53MGb0U9"
         "H1tMLpz3ggKD90K51Q",
}  # fmt: skip
RS256_OF_NOTHING = (
    "eyJhbGciOiJSUzI1NiIsImtpZCI6IlJTMjU2XzIwNDgifQ.."
    "OUCnIKayjkSDpunEbhafP20x0d06LUlX9wTDEcaXQbQA36A7dQX2A9girAFFax5ThM3sDu1nvgmiw2WoWhwOWnwUrB9HJmYVyzZXHkTXbBQZiv5F"
    "IJTjciJ76QJChR4K_hdeYuK8qczP9_2JmYVazeF-SAdR8Bpawf4Lv34az_aomN3nvn_aVb9CzZaA6ZIgf-VxtBGrKkRgd2EsKs2ixmJMFLPy5laN"
    "6KOsWBq9aGiJUnkwzdLbMc-3hqO8YbzVsusr5ZL5gXSWjSOew5NsgS7e-4F3QyTIOuYQSOoqz3lMz_88Dgo5oo5brI0E94GVb_KSbe97PZuxa9T1"
    "o1sEWw"
)
ROCA_N = (
    "AanFpofbj7KjD4Lf-N2hVMKR7yewSyXhhbirIMTGpfYEhZ_lnt5UoK98DnKIgArXGTu3MaW_HhFw16HGaTDUHqPrId7fe4r11CqRw09yBFuW79V8sYIw"
    "HdzCaWflUI6auImYbVfoN9_nD5n8N8SY9DwXw7mwZM9wREPXoDPgOoIWl6q_MPsp7n0zs3Z5ZaiQWOOzl1S9OhwAfSiiOwz6efnXEaxuTEtPd7BjSx7N"
    "aFka8Dx9U7YqXy2RFj1O9PjyaDGuRh7YXsX3iMUSP_wSyHQg_c_qHRtKUsNSGCT7OZg0hzm2KphtjnayKJvC64vAbROBR4Ubg6Bxg9IQVZ-QYyE"
)


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def material(key_type: KeyType, root: bytes) -> Material:
    budget = UseBudget(total=1, left=1, block=1)
    return Material(key_type=key_type, version=1, root=bytearray(root), budget=budget, expires_s=1.0)


def opened(token: str, key: dict[str, Any]) -> bytes:
    keys = KeySet([Key.from_public_jwk(key)])
    return open_signed(token, keys, typ=frozenset({""}), algorithms=frozenset(Algorithm), now_us=0).payload


def test_signatures_over_what_is_no_json() -> None:
    assert opened(ES256, ES256_KEY) == b"foo"
    assert opened(RS256_OF_NOTHING, RS256_KEY) == b""
    head, body, signature = ES256.split(".")
    for text in (f"{head}..{signature}", f"{head}.WG9v.{signature}", f"{head}.{body}.X{signature[1:]}"):
        with pytest.raises(TokenRefused) as refused:
            opened(text, ES256_KEY)
        assert refused.value.reason is Reason.SIGNATURE


@pytest.mark.parametrize(
    "changes",
    [
        {"use": "enc"},
        {"use": None},
        {"key_ops": ["encrypt"]},
        {"key_ops": ["sign"]},
        {"key_ops": []},
        {"key_ops": "verify"},
        {"kty": "RSA"},
        {"kty": "OKP"},
        {"kty": "ec"},
        {"alg": "ES521"},
        {"alg": "ES224"},
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"x": "04N0xi21hshyvBp7I167sbE_bXqyqkAPfefdklMO7wZ"},
        {"y": "UI8exy-C06a7DUnjIdENkxeFtHM4-l_41LqEw9nVgmx"},
    ],
    ids=str,
)
def test_a_key_that_says_it_is_for_something_else_is_refused(changes: dict[str, Any]) -> None:
    """RFC 7517 sections 4.1 to 4.4; rejectWrongUse, rejectWrongKeyOps, rejectsModifiedKey there."""
    assert Key.from_public_jwk({**ES256_KEY, "key_ops": ["verify"]}).alg is Algorithm.ES256
    with pytest.raises(ValueError):
        Key.from_public_jwk({**ES256_KEY, **changes})


def test_a_key_of_the_faulty_generator_is_refused() -> None:
    """rejectsKeyWithRocaVulnerability there; CVE-2017-15361."""
    with pytest.raises(ValueError, match="CVE-2017-15361"):
        Key.from_public_jwk({**RS256_KEY, "n": ROCA_N})
    assert not has_roca_fingerprint(int.from_bytes(unb64(RS256_KEY["n"]), "big"))


@pytest.mark.parametrize("kid", ["bilbo.baggins@hobbiton.example", "018c0ae5-4d9b-471b-bfd6-eef314bc7037", "a+b=="])
def test_the_key_ids_that_others_use(kid: str) -> None:
    """RFC 7520 section 3; padded base64 as some issuers have it. A slash, a blank or a quote stays refused."""
    assert Key.from_public_jwk({**ES256_KEY, "kid": kid}).kid == kid


def test_the_thumbprint_of_rfc_7638() -> None:
    """Section 3.1."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMst"
        "n64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajr"
        "n1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    key = Key.from_public_jwk({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})
    assert key.jwk.thumbprint() == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


# ---- Ed25519: the points of small order of C2SP CCTV `ed25519`, RFC 8032 section 7.1

SMALL = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


@pytest.mark.parametrize("point", SMALL)
def test_a_key_under_which_anybody_signs_is_refused(point: str) -> None:
    x = base64.urlsafe_b64encode(bytes.fromhex(point)).rstrip(b"=").decode()
    with pytest.raises(ValueError, match="small order"):
        Key.from_public_jwk({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "x", "x": x})


RFC8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        sha512(b"abc").hexdigest(),
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC8032, ids=["1", "2", "3", "SHA(abc)"])
def test_the_signatures_of_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    key, text, signed = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
    assert material("ed25519", bytes.fromhex(secret)).sign(text) == signed
    assert verify_signature(key, text, signed)
    assert not verify_signature(key, text + b"x", signed)
    assert not verify_signature(key, text, signed[:-1])
    assert not is_of_small_order(key)


# ---- HMAC-SHA-256: RFC 4231 section 4; test case 5 is of a truncated tag, which we don't take

RFC4231 = {
    "1": (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    "2": (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    "3": (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    "4": (bytes(range(1, 26)), b"\xcd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
    "6": (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    "7": (
        b"\xaa" * 131,
        (
            b"This is a test using a larger than block-size key and a larger than block-size data. "
            b"The key needs to be hashed before being used by the HMAC algorithm."
        ),
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
}


@pytest.mark.parametrize(("key", "message", "tag"), RFC4231.values(), ids=RFC4231)
def test_the_tags_of_rfc_4231(key: bytes, message: bytes, tag: str) -> None:
    ours, told = material("hmac-sha256", key), bytes.fromhex(tag)
    assert ours.tag(message) == told
    assert ours.verify_tag(message, told)
    assert not ours.verify_tag(message + b"x", told)
    assert not ours.verify_tag(message, told[:16])
    assert not ours.verify_tag(message, told + b"\0")


def test_the_truncated_tag_of_rfc_4231_is_not_taken() -> None:
    ours, short = material("hmac-sha256", b"\x0c" * 20), bytes.fromhex("a3b6167473100ee06e0c796c2955552b")
    assert ours.tag(b"Test With Truncation")[:16] == short
    assert not ours.verify_tag(b"Test With Truncation", short)


# ---- HKDF-SHA-256: RFC 5869 appendix A.1 to A.3

RFC5869 = {
    "A.1": (
        b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    "A.2": (
        bytes(range(0x50)), bytes(range(0x60, 0xB0)), bytes(range(0xB0, 0x100)),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    "A.3": (
        b"\x0b" * 22, b"", b"",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("key", "salt", "info", "output"), RFC5869.values(), ids=RFC5869)
def test_the_keys_of_rfc_5869(key: bytes, salt: bytes, info: bytes, output: str) -> None:
    """The first key is given as a cipher: it is known by what it opens."""
    told = bytes.fromhex(output)
    cipher, rest = derive(bytearray(key), salt=salt, info=info, keys=-(-len(told) // 32))
    assert rest[: len(told) - 32] == told[32:]
    assert cipher.decrypt(bytes(12), AESGCM(told[:32]).encrypt(bytes(12), b"x", None), None) == b"x"


# ---- AES-256-GCM (RFC 5116): McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 13 to 16

GCM = [
    ("00" * 32, "00" * 12, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
    ("00" * 32, "00" * 12, "", "00" * 16, "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"),
    (
        "feffe9928665731c6d6a8f9467308308" * 2,
        "cafebabefacedbaddecaf888",
        "",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
        "b094dac5d93471bdec1a502270e3cc6c",
    ),
    (
        "feffe9928665731c6d6a8f9467308308" * 2,
        "cafebabefacedbaddecaf888",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
        "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
]


@pytest.mark.parametrize(("key", "iv", "aad", "plain", "ciphertext", "tag"), GCM, ids=["13", "14", "15", "16"])
def test_known_answers_of_aes_gcm(key: str, iv: str, aad: str, plain: str, ciphertext: str, tag: str) -> None:
    cipher, context = AESGCM(bytes.fromhex(key)), bytes.fromhex(aad)
    whole = Sealed(bytes.fromhex(ciphertext), bytes.fromhex(iv), bytes.fromhex(tag))
    assert gcm_decrypt(cipher, whole, context) == bytes.fromhex(plain)
    broken = [
        whole._replace(auth_tag=whole.auth_tag[:-1]),  # Wycheproof: truncated and modified tags
        whole._replace(auth_tag=b""),
        whole._replace(auth_tag=bytes([whole.auth_tag[0] ^ 1]) + whole.auth_tag[1:]),
        whole._replace(iv=b""),  # Wycheproof: ZeroLengthIv, SmallIv, LongIv: we take 96 bits only
        whole._replace(iv=whole.iv[:8]),
        whole._replace(iv=whole.iv + bytes(4)),
        whole._replace(ciphertext=whole.ciphertext + b"\0"),
    ]
    for bad in broken:
        with pytest.raises(EnvelopeRefused):
            gcm_decrypt(cipher, bad, context)
    with pytest.raises(EnvelopeRefused):
        gcm_decrypt(cipher, whole, context + b"x")


# ---- TOTP: RFC 6238 appendix B (SHA-1), of whose eight digits ours are the last six

TOTP_SECRET = base64.b32encode(b"12345678901234567890").decode()


@pytest.mark.parametrize(
    ("at_s", "digits"),
    [
        (59, "94287082"),
        (1_111_111_109, "07081804"),
        (1_111_111_111, "14050471"),
        (1_234_567_890, "89005924"),
        (2_000_000_000, "69279037"),
        (20_000_000_000, "65353130"),
    ],
)
def test_the_codes_of_rfc_6238(at_s: int, digits: str) -> None:
    at_us, step = at_s * 1_000_000, at_s // 30
    code = digits[2:]
    for steps_late in (-1, 0, 1):
        assert matching_step(TOTP_SECRET, code, now_us=at_us + steps_late * 30_000_000) == step
    assert matching_step(TOTP_SECRET, code, now_us=at_us + 60_000_000) is None
    for other in (digits, code[:-1], code + "0", f" {code}", "", "é" * 6, "\uff11" * 6, "\ud800" * 6):
        assert matching_step(TOTP_SECRET, other, now_us=at_us) is None


def test_the_codes_of_rfc_4226() -> None:
    """Appendix D: counters 0 to 9; a step is the counter."""
    codes = ("755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489")
    for counter, code in enumerate(codes):
        assert matching_step(TOTP_SECRET, code, now_us=counter * 30_000_000) == counter


# ---- JCS: RFC 8785 appendix B

NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("7fffffffffffffff", None),
    ("7ff0000000000000", None),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("bits", "text"), NUMBERS)
def test_the_numbers_of_rfc_8785(bits: str, text: str | None) -> None:
    number: float = struct.unpack(">d", bytes.fromhex(bits))[0]
    if text is None:
        with pytest.raises(NotCanonical):
            canonical(number)
        return
    assert canonical(number) == text.encode()
    assert canonical({"a": [number]}) == f'{{"a":[{text}]}}'.encode()
    if abs(number) < 2**53:  # what a caller may put into a record is stricter
        assert canonical_members({"a": number}, {}) == f'{{"a":{text}}}'.encode()
    else:
        with pytest.raises(NotCanonical):
            canonical_members({"a": number}, {})


# ---- the tree: transparency-dev/merkle, testdata/consistency/additional


def test_heads_of_one_size_are_compared_and_nothing_else() -> None:
    """ "sizes are equal and proof is (not) empty", "roots do not match": their roots are words, not hashes."""
    one, two = b"don't care 1", b"don't care 2"
    for size in (0, 1, 8):
        verify_consistency(size, size, one, one, [])
        for other, proof in ((two, []), (one, [EMPTY_ROOT])):
            with pytest.raises(ProofInvalid):
                verify_consistency(size, size, one, other, proof)
    for older, newer in ((0, 1), (1, 0), (2, 1), (1, 2)):
        with pytest.raises(ProofInvalid):
            verify_consistency(older, newer, one, two, [])


def test_what_follows_the_empty_tree() -> None:
    """Any tree continues the empty one, whose root is one only: stricter than the reference, which doesn't look."""
    some = leaf_hash(b"x")
    verify_consistency(0, 1, EMPTY_ROOT, some, [])
    for root, proof in ((some, []), (EMPTY_ROOT, [EMPTY_ROOT]), (EMPTY_ROOT[:-1], [])):
        with pytest.raises(ProofInvalid):
            verify_consistency(0, 1, root, some, proof)


# ---- notes: golang.org/x/mod/sumdb/note, note_test.go

NEUMANN = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ROOT_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
BY_NEUMANN = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
BY_ROOT = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"


def test_no_part_and_no_change_of_a_key_line_is_a_key() -> None:
    parts = {NEUMANN[i:j] for i in range(len(NEUMANN)) for j in range(i + 1, len(NEUMANN) + 1)} - {NEUMANN}
    changed = {NEUMANN[:i] + chr(ord(c) + 1) + NEUMANN[i + 1 :] for i, c in enumerate(NEUMANN)}
    odd = {
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # a key too long
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # a type nobody knows
        NEUMANN.replace("c74f", "C74F"),
        NEUMANN + "\n", NEUMANN + " ", " " + NEUMANN, NEUMANN + "=", "\ud800" + NEUMANN,
    }  # fmt: skip
    for text in parts | changed | odd:
        with pytest.raises(NoteInvalid):
            parse_key(text)


def test_whose_signatures_count() -> None:
    neumann, root = parse_key(NEUMANN), parse_key(ROOT_KEY)
    note = f"{TEXT}\n{BY_NEUMANN}{BY_ROOT}"
    for keys in ([neumann], [root], [neumann, root]):
        assert verify_note(note, keys).text == TEXT
    bent = BY_ROOT[:60] + "ABCD" + BY_ROOT[60:]
    assert verify_note(f"{TEXT}\n{BY_NEUMANN}{BY_NEUMANN}{BY_ROOT}{bent}", [neumann]).text == TEXT
    for refused, keys in (
        (note, []),
        (f"{TEXT}\n{BY_NEUMANN}{bent}", [neumann, root]),
        (f"{TEXT}\n{BY_NEUMANN * 101}", [neumann]),
        (f"{TEXT}\n{BY_NEUMANN.replace('PeterNeumann', 'CarmenSandiego')}", [neumann]),
        (f"{TEXT}\n{BY_NEUMANN.replace('x08g', 'xxxx')}", [neumann]),
    ):
        with pytest.raises(NoteInvalid):
            verify_note(refused, keys)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"{TEXT}\n",
        f"{TEXT}\n{BY_NEUMANN[:-1]}",
        f"\x01{TEXT}\n{BY_NEUMANN}",
        f"\udcff{TEXT}\n{BY_NEUMANN}",
        f"{TEXT}\n{BY_NEUMANN.replace('PeterNeumann', 'Bad Name')}",
        f"{TEXT}\n{BY_NEUMANN}Unexpected line.\n",
        f"{TEXT}\n{BY_NEUMANN.replace('— ', '- ')}",
        TEXT.replace("\n", "\r\n") + "\n" + BY_NEUMANN,
    ],
)
def test_what_is_no_note(text: str) -> None:
    with pytest.raises(NoteInvalid):
        parse_note(text)
