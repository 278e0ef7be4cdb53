"""Signed notes, checkpoints, cosignatures, tiles and proofs as others would read them: nothing of ours is used here.

Written from C2SP signed-note, tlog-checkpoint, tlog-cosignature and tlog-tiles, and from RFC 9162 section 2.1, with
`hashlib` and `cryptography` alone. It is short and slow on purpose.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha256
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PLAIN, COSIGNATURE = b"\x01", b"\x04"


class Head(NamedTuple):
    """A checkpoint's first three lines."""

    origin: str
    size: int
    root: bytes


# ---- signed-note: "<text>\n— <key name> base64(32-bit key ID || signature)\n…"


def key_line(name: str, kind: bytes, public: bytes) -> str:
    """vkey: <name>+<hex key ID>+base64(<type byte><key>)."""
    return f"{name}+{key_id(name, kind, public).hex()}+{b64encode(kind + public).decode()}"


def key_id(name: str, kind: bytes, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def split_note(note: bytes) -> tuple[bytes, list[tuple[str, bytes, bytes]]]:
    """Return the text and, for each signature line, name, key id, signature."""
    text, _, lines = note.rpartition(b"\n\n")
    assert lines.endswith(b"\n")
    found = []
    for line in lines.decode()[:-1].split("\n"):
        dash, name, encoded = line.split(" ")
        assert dash == "—"
        raw = b64decode(encoded, validate=True)
        found.append((name, raw[:4], raw[4:]))
    return text + b"\n", found


def open_note(note: bytes, vkey: str) -> bytes:
    """Return the text if this key signed it. Raises: KeyError without its line; InvalidSignature."""
    name, known_id, encoded = vkey.split("+", 2)
    kind, public = b64decode(encoded)[:1], b64decode(encoded)[1:]
    assert key_id(name, kind, public).hex() == known_id
    text, lines = split_note(note)
    signature = {(n, i): s for n, i, s in lines}[name, bytes.fromhex(known_id)]
    if kind == COSIGNATURE:
        time, signature = int.from_bytes(signature[:8], "big"), signature[8:]
        signed = b"cosignature/v1\ntime %d\n" % time + text
    else:
        assert kind == PLAIN
        signed = text
    Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
    return text


def head_of(text: bytes) -> Head:
    origin, size, root, *_ = text.decode().split("\n")
    assert str(int(size)) == size
    return Head(origin, int(size), b64decode(root, validate=True))


def cosignature(private: Ed25519PrivateKey, name: str, text: bytes, at_s: int) -> str:
    """Return a witness's line under a checkpoint's text."""
    public = private.public_key().public_bytes_raw()
    signature = private.sign(b"cosignature/v1\ntime %d\n" % at_s + text)
    raw = key_id(name, COSIGNATURE, public) + at_s.to_bytes(8, "big") + signature
    return f"— {name} {b64encode(raw).decode()}\n"


# ---- RFC 9162, section 2.1


def leaf(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def mth(leaves: list[bytes]) -> bytes:
    """2.1.1: the Merkle Tree Hash, over leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return node(mth(leaves[:k]), mth(leaves[k:]))


def included(leaf_index: int, tree_size: int, hash_: bytes, path: list[bytes], root: bytes) -> bool:
    """2.1.3.2: verifying an inclusion proof."""
    if leaf_index >= tree_size:
        return False
    fn, sn, r = leaf_index, tree_size - 1, hash_
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node(p, r)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def consistent(first: int, second: int, first_hash: bytes, second_hash: bytes, path: list[bytes]) -> bool:
    """2.1.4.2: verifying consistency between two tree heads, 0 < first < second."""
    if not path:
        return False
    if first & first - 1 == 0:
        path = [first_hash, *path]
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node(c, fr), node(c, sr)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return fr == first_hash and sr == second_hash and sn == 0


# ---- tlog-tiles


def tile_path(level: str, index: int, width: int) -> str:
    """<L>/<N>[.p/<W>]: N in groups of three digits, all but the last led by x; W only for partial tiles."""
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.insert(0, f"x{index % 1000:03d}")
    return f"{level}/{'/'.join(groups)}" + (f".p/{width}" if width < 256 else "")


def tiles_in(size: int) -> list[tuple[int, int, int]]:
    """Level, index and width of every tile of a tree: floor(s / 256**l) mod 256 hashes in the partial one."""
    found = []
    level = 0
    while size >> 8 * level:
        nodes = size >> 8 * level
        found += [(level, n, 256) for n in range(nodes // 256)]
        if nodes % 256:
            found.append((level, nodes // 256, nodes % 256))
        level += 1
    return found


def entries_in(bundle: bytes) -> list[bytes]:
    """Entries behind big-endian uint16 lengths."""
    found = []
    while bundle:
        length = int.from_bytes(bundle[:2], "big")
        assert len(bundle) >= 2 + length
        found.append(bundle[2 : 2 + length])
        bundle = bundle[2 + length :]
    return found
