"""The checkpoint key's succession: who trusts the first key trusts its successors, each for its time."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.services.compliance.key_chain import KeyChain, Rotation, verify_rotation
from sealwire.services.compliance.merkle import leaf_hash
from sealwire.services.compliance.notes import (
    COSIGNATURE_V1,
    ED25519,
    NoteInvalid,
    NoteSignature,
    TreeHead,
    VerifierKey,
    checkpoint_text,
    cosignature,
    cosigned_message,
    verify_cosignatures,
    write_note,
)

ORIGIN = "log.example/acme"
PRIVATE = [Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in range(1, 6)]
KEYS = [VerifierKey(name=ORIGIN, type=ED25519, public_key=p.public_key().public_bytes_raw()) for p in PRIVATE]


def signed(text: str, *signers: int) -> str:
    lines = [NoteSignature(ORIGIN, KEYS[i].key_id, PRIVATE[i].sign(text.encode())) for i in signers]
    return write_note(text, lines)


def rotation(old: int, new: int, size: int) -> str:
    return signed(Rotation(origin=ORIGIN, size=size, old=KEYS[old], new=KEYS[new]).text, old, new)


def checkpoint(size: int, signer: int) -> str:
    return signed(checkpoint_text(TreeHead(origin=ORIGIN, size=size, root=leaf_hash(b"%d" % size))), signer)


def test_each_key_counts_for_its_time():
    chain = KeyChain.of([KEYS[0]], [rotation(0, 1, 100), rotation(1, 2, 250)])
    for size, signer in ((0, 0), (100, 0), (100, 1), (250, 1), (250, 2), (10**9, 2)):
        assert chain.checkpoint(checkpoint(size, signer)).size == size
    for size, signer in ((101, 0), (99, 1), (251, 1), (249, 2), (100, 3)):
        with pytest.raises(NoteInvalid):
            chain.checkpoint(checkpoint(size, signer))
    assert chain.keys == KEYS[:3]


def test_from_a_later_key_on_only_its_successors_are_trusted():
    chain = KeyChain.of([KEYS[1]], [rotation(0, 1, 100), rotation(1, 2, 250)])
    assert chain.keys == KEYS[1:3]
    with pytest.raises(NoteInvalid):
        chain.checkpoint(checkpoint(50, 0))


def test_rotations_nobody_trusted_vouches_for_are_passed_over():
    chain = KeyChain.of([KEYS[0]], [rotation(3, 4, 10)])
    assert chain.keys == KEYS[:1]


def test_two_successors_are_a_fork():
    with pytest.raises(NoteInvalid, match="two successors"):
        KeyChain.of([KEYS[0]], [rotation(0, 1, 100), rotation(0, 2, 100)])
    same = [rotation(0, 1, 100), rotation(0, 1, 100)]
    assert KeyChain.of([KEYS[0]], same).keys == KEYS[:2]


@pytest.mark.parametrize("signers", [(0,), (1,), (2, 1), (0, 2)])
def test_both_keys_have_to_sign(signers: tuple[int, ...]):
    text = Rotation(origin=ORIGIN, size=5, old=KEYS[0], new=KEYS[1]).text
    with pytest.raises(NoteInvalid):
        verify_rotation(signed(text, *signers))


def test_a_rotation_is_no_checkpoint_and_a_checkpoint_no_rotation():
    with pytest.raises(NoteInvalid):
        KeyChain.of([KEYS[0]]).checkpoint(rotation(0, 1, 100))
    with pytest.raises(NoteInvalid):
        verify_rotation(checkpoint(100, 0))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_changed_bit_of_a_rotation_is_found(data: st.DataObject):
    raw = bytearray(rotation(0, 1, 100).encode())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    try:
        changed = raw.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(NoteInvalid):
        verify_rotation(changed)


def test_witnesses_cosign_checkpoints():
    private = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
    witness = VerifierKey(
        name="witness.example", type=COSIGNATURE_V1, public_key=private.public_key().public_bytes_raw()
    )
    text = checkpoint_text(TreeHead(origin=ORIGIN, size=7, root=leaf_hash(b"7")))
    line = cosignature(witness, 1_700_000_000, private.sign(cosigned_message(text, 1_700_000_000)))
    stranger = NoteSignature("somebody.else", b"abcd", b"anything at all")
    note = write_note(text, [NoteSignature(ORIGIN, KEYS[0].key_id, PRIVATE[0].sign(text.encode())), stranger, line])
    assert KeyChain.of([KEYS[0]]).checkpoint(note).size == 7
    assert verify_cosignatures(note, [witness]) == {"witness.example": 1_700_000_000}
    other = VerifierKey(name="other.example", type=COSIGNATURE_V1, public_key=witness.public_key)
    with pytest.raises(NoteInvalid, match=r"other\.example"):
        verify_cosignatures(note, [witness, other])
    late = cosignature(witness, 1_700_000_001, line.signature[8:])
    with pytest.raises(NoteInvalid):
        verify_cosignatures(write_note(text, [late]), [witness])
