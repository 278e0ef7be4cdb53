"""Ceremonies of WebAuthn: whatever bytes come, the answer is a refusal and no accident; who we are, by settings."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sealwire.contracts.passkeys import NewPasskey, PasskeyLogin
from sealwire.contracts.webauthn import (
    Account,
    CreationOptions,
    Parameters,
    RelyingParty,
    RequestOptions,
)
from sealwire.services.auth.ceremonies import (
    ACCEPTED,
    MAX_KEY_BYTES,
    Refused,
    challenge_in,
    check_assertion,
    check_registration,
    decoded,
    encoded,
)
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.relying_party import Party, party_of
from sealwire.testing.authenticator import EDDSA, ES256, RS256, Bent, SoftAuthenticator

HERE = Party("sealwire.local", ("https://sealwire.local", "https://chat.sealwire.local"))
CHALLENGE = bytes(range(32))


def creation(accepted: list[Parameters] = ACCEPTED) -> CreationOptions:
    return CreationOptions(
        rp=RelyingParty(id=HERE.rp_id, name="Here"),
        user=Account(id=encoded(b"anna"), name="anna@example.org", display_name="Anna"),
        challenge=encoded(CHALLENGE),
        pub_key_cred_params=accepted,
        timeout=1,
        exclude_credentials=[],
    )


def request() -> RequestOptions:
    return RequestOptions(challenge=encoded(CHALLENGE), timeout=1, rp_id=HERE.rp_id)


class Made:
    """One passkey, made once for all examples: what was registered, and an assertion of it."""

    def __init__(self) -> None:
        self.device = SoftAuthenticator(HERE.origins[0])
        self.registered = self.device.create(creation())
        self.key = asyncio.run(check_registration(HERE, self.registered, CHALLENGE))
        self.assertion = self.device.get(request())


@pytest.fixture(scope="module")
def made() -> Made:
    return Made()


def bent(struct: NewPasskey | PasskeyLogin, member: str, data: bytes) -> Any:
    """Return the struct with a member of its response replaced."""
    document = msgspec.to_builtins(struct)
    document["response"][member] = encoded(data) or "A"
    return msgspec.convert(document, type(struct))


def member_of(struct: NewPasskey | PasskeyLogin, member: str) -> bytes:
    return decoded(msgspec.to_builtins(struct)["response"][member])


# ---- assertions


def test_a_straight_assertion_holds_at_every_origin_of_ours(made: Made) -> None:
    for origin in HERE.origins:
        proof = asyncio.run(
            check_assertion(HERE, made.device.get(request(), Bent(origin=origin)), CHALLENGE, made.key.public_key)
        )
        assert proof.sign_count == made.device.held[0].sign_count
        assert not proof.backup_eligible


@given(
    member=st.sampled_from(["clientDataJSON", "authenticatorData", "signature"]),
    at=st.integers(min_value=0, max_value=10_000),
    bit=st.integers(min_value=0, max_value=7),
)
def test_any_flipped_bit_of_an_assertion_is_refused(made: Made, member: str, at: int, bit: int) -> None:
    data = bytearray(member_of(made.assertion, member))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(Refused):
        asyncio.run(check_assertion(HERE, bent(made.assertion, member, bytes(data)), CHALLENGE, made.key.public_key))


@given(member=st.sampled_from(["clientDataJSON", "authenticatorData", "signature"]), data=st.binary(max_size=300))
def test_any_bytes_for_an_assertion_are_refused(made: Made, member: str, data: bytes) -> None:
    sent = bent(made.assertion, member, data)
    with pytest.raises(Refused):
        asyncio.run(check_assertion(HERE, sent, CHALLENGE, made.key.public_key))


@given(data=st.binary(max_size=200))
def test_any_bytes_for_a_stored_key_are_refused(made: Made, data: bytes) -> None:
    with pytest.raises(Refused):
        asyncio.run(check_assertion(HERE, made.assertion, CHALLENGE, data))


def test_another_challenge_is_refused(made: Made) -> None:
    with pytest.raises(Refused):
        asyncio.run(check_assertion(HERE, made.assertion, bytes(32), made.key.public_key))


# ---- registrations


@pytest.mark.parametrize("alg", [ES256, EDDSA, RS256])
def test_every_kind_of_key_we_ask_for_is_taken(alg: int) -> None:
    made = SoftAuthenticator(HERE.origins[0], algs=(alg,)).create(creation())
    key = asyncio.run(check_registration(HERE, made, CHALLENGE))
    assert len(key.public_key) <= MAX_KEY_BYTES


def test_a_kind_of_key_that_nobody_asked_for_is_refused() -> None:
    made = SoftAuthenticator(HERE.origins[0], algs=(-36,)).create(creation([Parameters(alg=-36)]))
    with pytest.raises(Refused):
        asyncio.run(check_registration(HERE, made, CHALLENGE))


@given(
    member=st.sampled_from(["clientDataJSON", "attestationObject"]),
    at=st.integers(min_value=0, max_value=10_000),
    bit=st.integers(min_value=0, max_value=7),
)
def test_a_flipped_bit_of_a_registration_is_refused_or_another_key(made: Made, member: str, at: int, bit: int) -> None:
    """Nothing signs a registration without attestation: what it holds is what the browser says over TLS."""
    data = bytearray(member_of(made.registered, member))
    data[at % len(data)] ^= 1 << bit
    sent = bent(made.registered, member, bytes(data))
    try:
        key = asyncio.run(check_registration(HERE, sent, CHALLENGE))
    except Refused:
        return
    assert key.credential_id == decoded(sent.raw_id)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.binary(max_size=50) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    )
)
@example({"fmt": "none", "attStmt": {}, "authData": b""})
@example({"fmt": "none", "attStmt": [], "authData": bytes(37)})
@example({"fmt": 5, "attStmt": {}, "authData": bytes(200)})
@example({"fmt": "packed", "attStmt": {"alg": -7, "sig": b"x"}, "authData": bytes(37)})
def test_any_cbor_for_an_attestation_is_refused(made: Made, statement: Any) -> None:
    sent = bent(made.registered, "attestationObject", cbor2.dumps(statement))
    with pytest.raises(Refused):
        asyncio.run(check_registration(HERE, sent, CHALLENGE))


@given(st.binary(max_size=200))
def test_any_bytes_for_client_data_are_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        challenge_in(encoded(data) or "A", "webauthn.get")


@pytest.mark.parametrize("text", ["A", "AAAAA", "AB", "AA==", "A A", "é"])
def test_base64url_has_one_form(text: str) -> None:
    with pytest.raises(Refused):
        decoded(text)
    assert decoded(base64.urlsafe_b64encode(b"abc").decode()) == b"abc"


# ---- who we are


@pytest.mark.parametrize(
    ("url", "rp_id", "origin"),
    [
        ("http://127.0.0.1:3000", "localhost", "http://localhost:3000"),
        ("http://[::1]:3000/", "localhost", "http://localhost:3000"),
        ("http://localhost:3000", "localhost", "http://localhost:3000"),
        ("https://chat.example.org", "chat.example.org", "https://chat.example.org"),
        ("https://Chat.Example.org:443/path?x", "chat.example.org", "https://chat.example.org"),
        ("https://chat.example.org:8443", "chat.example.org", "https://chat.example.org:8443"),
        ("https://bücher.example", "xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("http://chat.example.org", "chat.example.org", "http://chat.example.org"),
    ],
)
def test_who_we_are_follows_from_the_public_address(url: str, rp_id: str, origin: str) -> None:
    assert party_of(AuthConfig(), url) == Party(rp_id, (origin,))


@pytest.mark.parametrize(
    ("url", "works"),
    [
        ("https://chat.example.org", True),
        ("http://127.0.0.1:3000", True),
        ("http://chat.example.org", False),
        ("http://0.0.0.0:3000", False),
        ("https://192.0.2.7", False),
        ("https://[2001:db8::1]:3000", False),
    ],
)
def test_browsers_make_passkeys_for_names_by_https(url: str, works: bool) -> None:
    assert party_of(AuthConfig(), url).works is works


def test_settings_say_otherwise() -> None:
    config = AuthConfig(
        passkey_rp_id="example.org", passkey_origins=("https://chat.example.org", "https://example.org:443")
    )
    assert party_of(config, "http://127.0.0.1:3000") == Party(
        "example.org", ("https://chat.example.org", "https://example.org")
    )


@pytest.mark.parametrize(
    ("rp_id", "origins"),
    [
        ("example.org", ("https://example.com",)),
        ("example.org", ("https://notexample.org",)),
        ("chat.example.org", ("https://example.org",)),
        ("", ("https://a.example.org", "https://b.example.org")),
        ("example.org", ("http://example.org",)),
        ("example.org", ("example.org",)),
        ("example.org", ("ftp://example.org",)),
    ],
)
def test_settings_that_can_not_work_are_refused_by_name(rp_id: str, origins: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"auth\.passkey_"):
        party_of(AuthConfig(passkey_rp_id=rp_id, passkey_origins=origins), "https://example.org")


def test_nothing_of_it_is_loaded_before_the_first_passkey() -> None:
    code = "import sys, sealwire.runtime.assembly; sys.exit(bool({'webauthn', 'cbor2', 'OpenSSL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
