"""What is stored can be read by who has the pages alone: each form made here by hand, from its description.

Nothing of the code's own is used but the functions that open, so that a change of any byte of a form, which would leave
everything that is stored unreadable, is seen.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealwire.kit.envelopes import SealingKey, open_single
from sealwire.kit.segments import CHUNK_BYTES, SegmentOpener
from sealwire.services.crypto.providers import FileKeyProvider

KEY, KEY_ID, SALT, NONCE = bytes(range(32)), bytes(range(16)), bytes(range(64, 96)), bytes(range(100, 112))
CONTEXT = b"t1\0message\0m1"


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 section 2, with SHA-256."""
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    block, output = b"", b""
    for number in range(1, 1 + -(-length // 32)):
        block = hmac.digest(extracted, block + info + bytes([number]), "sha256")
        output += block
    return output[:length]


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def single(key: bytes, plaintext: bytes, context: bytes) -> bytes:
    keys = hkdf(key, SALT, b"sealwire envelope single v1", 64)
    commitment = sha256(keys[32:], SALT, NONCE, context)
    return b"\x02" + SALT + NONCE + commitment + AESGCM(keys[:32]).encrypt(NONCE, plaintext, context)


def test_a_bulk_envelope() -> None:
    keys = hkdf(KEY, KEY_ID, b"sealwire envelope bulk v1", 96)
    commitment = sha256(keys[32:64], KEY_ID, NONCE, CONTEXT)
    envelope = b"\x01" + KEY_ID + NONCE + commitment + AESGCM(keys[:32]).encrypt(NONCE, b"hello", CONTEXT)
    assert SealingKey(key_id=KEY_ID, key=KEY).open(envelope, CONTEXT) == b"hello"


def test_a_single_envelope() -> None:
    assert open_single(KEY, single(KEY, b"hello", CONTEXT), CONTEXT) == b"hello"


@pytest.mark.parametrize("size", [0, 5, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_a_segment(size: int) -> None:
    plain = bytes(i % 251 for i in range(size))
    root = hkdf(KEY, KEY_ID, b"sealwire envelope bulk v1", 96)[64:]
    head = b"\x01\x10" + KEY_ID + SALT
    keys = hkdf(root, SALT, b"sealwire segment v1" + sha256(head) + sha256(CONTEXT), 71)
    chunks = [plain[at : at + 65_536] for at in range(0, size, 65_536)] or [b""]
    opener = SegmentOpener(
        key=SealingKey(key_id=KEY_ID, key=KEY), header=head + keys[32:64], context=CONTEXT, plain_bytes=size
    )
    for number, chunk in enumerate(chunks):
        nonce = keys[64:] + number.to_bytes(4, "big") + bytes([number == len(chunks) - 1])
        assert opener.chunk(number, AESGCM(keys[:32]).encrypt(nonce, chunk, None)) == chunk


async def test_a_key_file_and_what_is_wrapped_under_it(tmp_path: Path) -> None:
    body = base64.b64encode(KEY)
    digits = hashlib.sha256(b"sealwire-kek-1:" + body).hexdigest()[:8].encode()
    path = tmp_path / "kek"
    path.write_bytes(b"sealwire-kek-1:" + body + b":" + digits + b"\n")
    path.chmod(0o600)
    provider = FileKeyProvider.open(path, create=False)
    fingerprint = hkdf(KEY, b"", b"sealwire kek fingerprint v1", 16)
    assert provider.kek_id == f"file:{fingerprint.hex()}"
    header = b"\x01" + fingerprint
    assert await provider.unwrap(header + single(KEY, b"a master key", header + b"here"), b"here") == b"a master key"
    provider.close()


def test_a_key_file_is_written_so(tmp_path: Path) -> None:
    FileKeyProvider.open(tmp_path / "kek").close()
    mark, body, digits = (tmp_path / "kek").read_bytes().removesuffix(b"\n").split(b":")
    assert mark == b"sealwire-kek-1"
    assert len(base64.b64decode(body, validate=True)) == 32
    assert digits == hashlib.sha256(mark + b":" + body).hexdigest()[:8].encode()
