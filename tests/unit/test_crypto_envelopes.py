"""Envelopes: round trips, every flipped bit refused, and no envelope that opens under two keys or two contexts."""

from __future__ import annotations

import os
import struct
from functools import partial

import pytest
import rfc8785
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from sealwire.kit.envelopes import (
    BULK_OVERHEAD_BYTES,
    KEY_ID_BYTES,
    EnvelopeRefused,
    Sealed,
    SealingKey,
    bind,
    canonical_context,
    envelope_key_id,
    gcm_decrypt,
    gcm_encrypt,
    open_single,
    require_own_copy,
    seal_single,
)

KEY = bytes(range(32))
KEY_ID = bytes(range(100, 116))
bodies = st.binary(max_size=300)
contexts = st.binary(min_size=1, max_size=300)
parts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
places = st.tuples(parts, parts, parts)


def sealing_key(key: bytes = KEY, key_id: bytes = KEY_ID) -> SealingKey:
    return SealingKey(key_id=key_id, key=key)


def flips(data: bytes) -> list[bytes]:
    return [data[:at] + bytes((data[at] ^ (1 << bit),)) + data[at + 1 :] for at in range(len(data)) for bit in range(8)]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(bodies, contexts)
def test_a_bulk_envelope_opens_to_what_was_sealed(plaintext: bytes, aad: bytes) -> None:
    envelope = sealing_key().seal(plaintext, aad)
    assert len(envelope) == len(plaintext) + BULK_OVERHEAD_BYTES
    assert envelope_key_id(envelope) == KEY_ID
    assert sealing_key().open(envelope, aad) == plaintext


@given(bodies, contexts)
def test_a_single_envelope_opens_to_what_was_sealed(plaintext: bytes, aad: bytes) -> None:
    assert open_single(KEY, seal_single(KEY, plaintext, aad), aad) == plaintext


def test_every_flipped_bit_of_a_bulk_envelope_is_refused() -> None:
    key = sealing_key()
    for changed in flips(key.seal(b"hello", b"context")):
        with pytest.raises(EnvelopeRefused):
            key.open(changed, b"context")


def test_every_flipped_bit_of_a_single_envelope_is_refused() -> None:
    for changed in flips(seal_single(KEY, b"hi", b"context")):
        with pytest.raises(EnvelopeRefused):
            open_single(KEY, changed, b"context")


@given(bodies, st.integers(0, 400))
def test_a_cut_envelope_is_refused(plaintext: bytes, keep: int) -> None:
    envelope = sealing_key().seal(plaintext, b"c")
    if keep < len(envelope):
        with pytest.raises(EnvelopeRefused):
            sealing_key().open(envelope[:keep], b"c")
        with pytest.raises(EnvelopeRefused):
            open_single(KEY, envelope[:keep], b"c")


@given(bodies, contexts, bodies)
def test_another_context_is_refused(plaintext: bytes, aad: bytes, other: bytes) -> None:
    if aad == other:
        return
    key = sealing_key()
    with pytest.raises(EnvelopeRefused):
        key.open(key.seal(plaintext, aad), other)
    with pytest.raises(EnvelopeRefused):
        open_single(KEY, seal_single(KEY, plaintext, aad), other)


@given(bodies, contexts, st.data())
def test_any_changed_bit_is_refused(plaintext: bytes, aad: bytes, data: st.DataObject) -> None:
    """One bit, anywhere, of any envelope; and of its context."""
    key = sealing_key()
    for envelope, opened in (
        (key.seal(plaintext, aad), key.open),
        (seal_single(KEY, plaintext, aad), partial(open_single, KEY)),
    ):
        bit = data.draw(st.integers(0, len(envelope) * 8 - 1))
        with pytest.raises(EnvelopeRefused):
            opened(flipped(envelope, bit), aad)
        bit = data.draw(st.integers(0, len(aad) * 8 - 1))
        with pytest.raises(EnvelopeRefused):
            opened(envelope, flipped(aad, bit))


def test_without_a_context_nothing_is_sealed() -> None:
    with pytest.raises(ValueError, match="needs a context"):
        sealing_key().seal(b"x", b"")
    with pytest.raises(ValueError, match="needs a context"):
        seal_single(KEY, b"x", b"")


@given(bodies, places, places)
def test_tenant_purpose_and_record_are_bound_each_and_in_order(
    plaintext: bytes, here: tuple[str, str, str], there: tuple[str, str, str]
) -> None:
    """No way to cut and join names makes one place another."""
    assert (bind(*here) == bind(*there)) == (here == there)
    if here != there:
        key = sealing_key()
        with pytest.raises(EnvelopeRefused):
            key.open(key.seal(plaintext, bind(*here)), bind(*there))


def test_another_key_or_key_id_is_refused() -> None:
    envelope = sealing_key().seal(b"x", b"c")
    for other in (sealing_key(key=os.urandom(32)), sealing_key(key_id=os.urandom(KEY_ID_BYTES))):
        with pytest.raises(EnvelopeRefused):
            other.open(envelope, b"c")


def test_nonces_never_repeat_across_draws() -> None:
    key = sealing_key()
    nonces = {key.seal(b"", b"c")[17:29] for _ in range(2_000)}
    assert len(nonces) == 2_000
    assert key.uses == 2_000


def test_a_wiped_key_neither_seals_nor_opens() -> None:
    key = sealing_key()
    envelope = key.seal(b"x", b"c")
    assert any(key.segment_root)
    key.wipe()
    assert not any(key.segment_root), "nor is it in memory for segments"
    with pytest.raises(EnvelopeRefused):
        key.open(envelope, b"c")
    with pytest.raises(EnvelopeRefused):
        key.seal(b"x", b"c")


def test_the_key_handed_in_may_be_wiped_afterwards() -> None:
    material = bytearray(KEY)
    key = SealingKey(key_id=KEY_ID, key=material)
    material[:] = bytes(32)
    assert sealing_key().open(key.seal(b"x", b"a"), b"a") == b"x"


@pytest.mark.parametrize(("key_id", "key"), [(b"", KEY), (KEY_ID, b""), (KEY_ID, KEY[:31]), (KEY_ID + b"x", KEY)])
def test_wrong_lengths_are_refused(key_id: bytes, key: bytes) -> None:
    with pytest.raises(ValueError, match="16-byte id"):
        SealingKey(key_id=key_id, key=key)


# --- one ciphertext, two keys: the attack, and that envelopes withstand it -----------------------------------------


def gf_mul(x: int, y: int) -> int:
    """Multiply in GF(2^128) as GCM does (NIST SP 800-38D section 6.3)."""
    z = 0
    for bit in range(127, -1, -1):
        if (x >> bit) & 1:
            z ^= y
        y = (y >> 1) ^ (0xE1 << 120 if y & 1 else 0)
    return z


def gf_inverse(x: int) -> int:
    """Return x^(2^128 - 2)."""
    result, square = 1 << 127, x
    for _ in range(127):
        square = gf_mul(square, square)
        result = gf_mul(result, square)
    return result


def block(key: bytes, data: bytes) -> int:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # the bare block cipher, to do GCM's algebra
    return int.from_bytes(encryptor.update(data), "big")


def collide(key_1: bytes, key_2: bytes, nonce: bytes, first_block: bytes) -> bytes:
    """Return ciphertext ‖ tag that AES-GCM opens under both keys (Dodis, Grubbs, Ristenpart, Woodage, CRYPTO 2018).

    Two blocks of ciphertext, the second chosen so that both keys give the same tag: one linear equation.
    """
    c_1 = int.from_bytes(first_block, "big")
    lengths = int.from_bytes(struct.pack(">QQ", 0, 256), "big")
    powers = []
    for key in (key_1, key_2):
        h = block(key, bytes(16))
        h2 = gf_mul(h, h)
        h3 = gf_mul(h2, h)
        rest = gf_mul(c_1, h3) ^ gf_mul(lengths, h) ^ block(key, nonce + b"\x00\x00\x00\x01")
        powers.append((h2, rest))
    (a, rest_1), (b, rest_2) = powers
    c_2 = gf_mul(rest_1 ^ rest_2, gf_inverse(a ^ b))
    tag = gf_mul(c_2, a) ^ rest_1
    return first_block + c_2.to_bytes(16, "big") + tag.to_bytes(16, "big")


def test_plain_gcm_opens_one_ciphertext_under_two_keys() -> None:
    """Why envelopes don't use AES-GCM alone."""
    key_1, key_2, nonce = os.urandom(32), os.urandom(32), os.urandom(12)
    forged = collide(key_1, key_2, nonce, os.urandom(16))
    one = gcm_decrypt(AESGCM(key_1), Sealed(forged[:-16], nonce, forged[-16:]), b"")
    two = gcm_decrypt(AESGCM(key_2), Sealed(forged[:-16], nonce, forged[-16:]), b"")
    assert one != two


def test_no_envelope_opens_under_two_keys() -> None:
    """The same attack with full knowledge of both data keys and everything derived from them.

    It opens without additional data, so that the forgery itself is one; sealing asks for some.
    """
    from sealwire.kit import envelopes

    keys = [os.urandom(32), os.urandom(32)]
    derived = []
    for key in keys:
        okm = envelopes.HKDF(envelopes.SHA256(), 96, KEY_ID, envelopes._BULK_INFO).derive(key)
        derived.append(okm[:32])
    nonce = os.urandom(12)
    forged = collide(derived[0], derived[1], nonce, os.urandom(16))
    for key in derived:  # the forgery itself works
        AESGCM(key).decrypt(nonce, forged, b"")
    candidates = [sealing_key(key=key) for key in keys]
    opened = 0
    for maker in candidates:  # with either key's own commitment in front
        honest = maker.seal(b"", b"any")
        commitment = envelopes.sha256(bytes(maker._rest[:32]) + KEY_ID + nonce).digest()
        envelope = honest[:17] + nonce + commitment + forged
        results = []
        for key in candidates:
            try:
                results.append(key.open(envelope, b""))
            except EnvelopeRefused:
                results.append(None)
        assert sum(result is not None for result in results) <= 1
        opened += sum(result is not None for result in results)
    assert opened == 2  # each forgery is well formed for the one key it commits to


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4))
def test_the_context_is_canonical(context: dict[str, str]) -> None:
    turned = dict(reversed(context.items()))
    assert canonical_context(context) == canonical_context(turned)
    assert canonical_context(context) == rfc8785.dumps(context)


@given(st.dictionaries(st.text(alphabet=st.characters(max_codepoint=127), max_size=8), st.text(max_size=8), max_size=6))
def test_the_fast_way_to_canonical_bytes_is_the_same(context: dict[str, str]) -> None:
    assert canonical_context(context) == rfc8785.dumps(context)


def test_no_context_and_an_empty_one_are_the_same() -> None:
    assert canonical_context(None) == canonical_context({}) == b"{}"


@given(bodies, bodies)
def test_the_api_form_round_trips_and_refuses(plaintext: bytes, aad: bytes) -> None:
    key = AESGCM(KEY)
    sealed = gcm_encrypt(key, plaintext, aad)
    assert (len(sealed.iv), len(sealed.auth_tag), len(sealed.ciphertext)) == (12, 16, len(plaintext))
    assert gcm_decrypt(key, sealed, aad) == plaintext
    for bad in (
        sealed._replace(iv=sealed.iv[:-1]),
        sealed._replace(auth_tag=sealed.auth_tag[:12]),
        sealed._replace(auth_tag=b"", ciphertext=sealed.ciphertext + sealed.auth_tag),
        sealed._replace(ciphertext=sealed.ciphertext + b"\0"),
    ):
        with pytest.raises(EnvelopeRefused):
            gcm_decrypt(key, bad, aad)


def test_a_forked_process_does_not_use_the_same_nonces_again():
    key = SealingKey(key_id=bytes(16), key=bytes(32))
    key.seal(b"x", b"c")  # a block of nonces is drawn now
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, b"".join(key.seal(b"x", b"c")[17:29] for _ in range(20)))
        os._exit(0)
    os.wait()
    theirs = os.read(reader, 4096)
    ours = {key.seal(b"x", b"c")[17:29] for _ in range(20)}
    assert len(theirs) == 240
    assert not ours & {theirs[at : at + 12] for at in range(0, 240, 12)}


class Lazy:
    """What AESGCM is over OpenSSL 3.0 and 3.1: it looks at the key again for each use."""

    def __init__(self, key: bytearray) -> None:
        self._key = key

    def encrypt(self, nonce: bytes, data: bytes, aad: bytes | None) -> bytes:
        return AESGCM(self._key).encrypt(nonce, data, aad)


def test_a_cipher_that_would_use_wiped_memory_is_not_used() -> None:
    require_own_copy(AESGCM)
    with pytest.raises(RuntimeError, match=r"OpenSSL 3\.2"):
        require_own_copy(Lazy)  # type: ignore[arg-type]  # the one method it needs
