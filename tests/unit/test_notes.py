"""Signed notes and checkpoints: the published example verifies, ours round-trip, any changed bit is found."""

from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

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
    parse_checkpoint,
    parse_key,
    parse_note,
    verify_note,
    write_note,
)

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = VerifierKey(name="sealwire.example/audit/acme", type=ED25519, public_key=PRIVATE.public_key().public_bytes_raw())
HEAD = TreeHead(origin="sealwire.example/audit/acme", size=42, root=bytes(range(32)))

# The example in the documentation of golang.org/x/mod/sumdb/note.
NEUMANN_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def signed(text: str, key: VerifierKey = KEY, private: Ed25519PrivateKey = PRIVATE) -> str:
    return write_note(text, [NoteSignature(key.name, key.key_id, private.sign(text.encode()))])


def test_the_published_example_verifies() -> None:
    key = parse_key(NEUMANN_KEY)
    assert key.text == NEUMANN_KEY
    assert verify_note(NEUMANN_NOTE, [key]).text.startswith("If you think")


def test_a_checkpoint_round_trips() -> None:
    note = signed(checkpoint_text(HEAD))
    assert parse_checkpoint(verify_note(note, [parse_key(KEY.text)]).text) == HEAD
    assert note.split("\n")[:4] == [
        "sealwire.example/audit/acme",
        "42",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "",
    ]


@given(st.data())
def test_any_changed_bit_is_found(data: st.DataObject) -> None:
    note = signed(checkpoint_text(HEAD)).encode()
    at = data.draw(st.integers(0, len(note) * 8 - 1))
    changed = bytearray(note)
    changed[at // 8] ^= 1 << at % 8
    try:
        text = changed.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(NoteInvalid):
        verify_note(text, [KEY])


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    for candidate in (text, text + "\n\n— a AAAAAAA=\n"):
        with pytest.raises(NoteInvalid):
            verify_note(candidate, [KEY])
    with contextlib.suppress(NoteInvalid):
        parse_checkpoint(text)


def test_signatures_of_unknown_keys_are_passed_over_and_wrong_ones_of_known_keys_are_not() -> None:
    text = checkpoint_text(HEAD)
    ours = NoteSignature(KEY.name, KEY.key_id, PRIVATE.sign(text.encode()))
    stranger = NoteSignature("stranger.example", b"\1\2\3\4", b"x" * 64)
    verify_note(write_note(text, [stranger, ours]), [KEY])
    with pytest.raises(NoteInvalid):
        verify_note(write_note(text, [stranger]), [KEY])
    forged = NoteSignature(KEY.name, KEY.key_id, b"x" * 64)
    with pytest.raises(NoteInvalid):
        verify_note(write_note(text, [ours, forged]), [KEY])


def test_a_witness_cosigns() -> None:
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
    witness = VerifierKey(
        name="witness.example/w1", type=COSIGNATURE_V1, public_key=private.public_key().public_bytes_raw()
    )
    text = checkpoint_text(HEAD)
    line = cosignature(witness, 1679315147, private.sign(cosigned_message(text, 1679315147)))
    note = write_note(text, [NoteSignature(KEY.name, KEY.key_id, PRIVATE.sign(text.encode())), line])
    verify_note(note, [KEY])
    verify_note(note, [witness])
    assert cosigned_message(text, 7).startswith(b"cosignature/v1\ntime 7\nsealwire.example/audit/acme\n42\n")
    later = cosignature(witness, 1679315148, line.signature[8:])
    with pytest.raises(NoteInvalid):
        verify_note(write_note(text, [later]), [witness])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n1\n",
        "a\n01\n" + "A" * 43 + "=\n",
        "a\n-1\n" + "A" * 43 + "=\n",
        "a\n1\nAAAA\n",
        "a\n1\n" + "A" * 42 + "B=\n",
        "a\n1\n" + "A" * 43 + "=\n\nx\n",
        "a\n1\n" + "A" * 43 + "=",
        "a\n٣\n" + "A" * 43 + "=\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteInvalid):
        parse_checkpoint(text)


def test_extension_lines_are_kept() -> None:
    head = TreeHead(origin="a", size=0, root=bytes(32), extensions=("x 1", "y"))
    assert parse_checkpoint(checkpoint_text(head)) == head


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b"])
def test_names_a_note_can_not_hold(name: str) -> None:
    with pytest.raises(NoteInvalid):
        VerifierKey(name=name, type=ED25519, public_key=bytes(32))


def test_a_key_line_with_another_id_is_refused() -> None:
    with pytest.raises(NoteInvalid):
        parse_key(NEUMANN_KEY.replace("c74f20a3", "c74f20a4"))
    with pytest.raises(NoteInvalid):
        parse_key("x+y")
    with pytest.raises(NoteInvalid):
        parse_note("no note")
