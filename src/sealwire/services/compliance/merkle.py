"""The Merkle tree of RFC 9162 section 2.1: hashes, an append-only frontier, inclusion and consistency proofs.

Nothing here does I/O. A tree is grown by a `Frontier`; proofs are made from hashes that `TileHashes` hands out and
checked without it. Trees of any size up to 2**62 leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Protocol

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
TILE_HEIGHT = 8
"""Stored hashes stand at heights 0, 8, 16, ... (C2SP tlog-tiles); those between are computed."""
TILE_WIDTH = 1 << TILE_HEIGHT
_TILES_IN_MEMORY = 512
"""Of how many tiles the inner nodes are remembered for proofs, at 16 KiB each."""


# OpenSSL 3 looks the algorithm up by its name at every sha256(); a copy of a state that is there costs less.
_begin_leaf = sha256(b"\x00").copy
_begin_node = sha256(b"\x01").copy


class ProofInvalid(ValueError):
    """The proof does not prove what it claims, or is not a proof."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf: SHA-256(0x00 || data)."""
    return sha256(b"\x00" + data).digest()


def leaf_hashes(entries: Sequence[bytes]) -> list[bytes]:
    """Return the hashes of many leaves."""
    begin, hashes = _begin_leaf, []
    for data in entries:
        h = begin()
        h.update(data)
        hashes.append(h.digest())
    return hashes


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def pair_up(row: Sequence[bytes]) -> list[bytes]:
    """Hash an even row of nodes into the row above it."""
    begin, hashes = _begin_node, []
    for left, right in zip(row[::2], row[1::2], strict=True):
        h = begin()
        h.update(left + right)
        hashes.append(h.digest())
    return hashes


class Frontier:
    """The right edge of a growing tree: one perfect subtree's root per set bit of its size.

    `peaks` is ordered from the tallest subtree to the shortest, which is the order in which they are stored.
    Memory O(log n); an append costs one hash amortised and O(log n) at worst.
    """

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """Continue a tree of `size` leaves. Raises: ValueError when the peaks don't fit the size."""
        if size < 0 or len(peaks) != size.bit_count() or any(len(p) != HASH_BYTES for p in peaks):
            raise ValueError(f"a tree of {size} leaves has {max(size, 0).bit_count()} peaks of {HASH_BYTES} bytes")
        self.size = size
        heights = [h for h in range(size.bit_length() - 1, -1, -1) if size >> h & 1]
        self._peaks: dict[int, bytes] = dict(zip(heights, peaks, strict=True))

    @property
    def peaks(self) -> list[bytes]:
        """The roots of the perfect subtrees, tallest first."""
        return [self._peaks[h] for h in sorted(self._peaks, reverse=True)]

    def copy(self) -> Frontier:
        """Return an independent frontier of the same tree."""
        twin = Frontier.__new__(Frontier)
        twin.size, twin._peaks = self.size, self._peaks.copy()
        return twin

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        self.extend([leaf])

    def extend(self, leaves: Sequence[bytes]) -> list[list[bytes]]:
        """Add leaf hashes in order; return the new nodes at heights 0, 8, 16, ...: what tile levels 0, 1, 2 gain."""
        gained: list[list[bytes]] = []
        row, height, peaks = list(leaves), 0, self._peaks
        while row:
            if height % TILE_HEIGHT == 0:
                gained.append(row)
            peak = peaks.pop(height, None)
            if peak is not None:
                row = [peak, *row]
            if len(row) & 1:
                peaks[height] = row[-1]
                row = row[:-1]
            row = pair_up(row)
            height += 1
        self.size += len(leaves)
        return gained

    def root(self) -> bytes:
        """Return the tree's root hash (RFC 9162 section 2.1.1)."""
        return fold(self.peaks)


def fold(peaks: Sequence[bytes]) -> bytes:
    """Combine perfect subtrees, tallest first, into the root of the tree they make up."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes held in memory."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


class TileHashes(Protocol):
    """Where a proof gets its hashes: the stored tiles, and the nodes that follow from them."""

    def node(self, height: int, number: int) -> bytes:
        """Return the root of the perfect subtree over leaves [number << height, number + 1 << height).

        Raises: LookupError when the tile is absent or too narrow.
        """


@lru_cache(maxsize=_TILES_IN_MEMORY)
def rows_of(tile: bytes) -> list[bytes]:
    """Return the rows of nodes of a tile, its own hashes first, each half as long as the one before (hashes joined).

    They are remembered by the tile's bytes alone, so what was stored anew is never taken for what stood there before.
    """
    rows = [tile]
    for _ in range(TILE_HEIGHT - 1):
        below, begin, row = rows[-1], _begin_node, []
        for at in range(0, len(below) - HASH_BYTES, 2 * HASH_BYTES):
            h = begin()
            h.update(below[at : at + 2 * HASH_BYTES])
            row.append(h.digest())
        rows.append(b"".join(row))
    return rows


LeafRange = tuple[int, int]


def _split(size: int) -> int:
    """Return the largest power of two smaller than `size` (RFC 9162 section 2.1.1); size > 1."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_ranges(index: int, size: int) -> list[LeafRange]:
    """Return the leaf ranges [from, to) whose roots prove leaf `index` in a tree of `size`, leaf's sibling first.

    Raises: ValueError unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError("the leaf lies outside the tree")
    ranges: list[LeafRange] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            ranges.append((middle, high))
            high = middle
        else:
            ranges.append((low, middle))
            low = middle
    ranges.reverse()
    return ranges


def consistency_ranges(older: int, newer: int) -> list[LeafRange]:
    """Return the leaf ranges whose roots prove that a tree of `newer` leaves continues one of `older`.

    Empty when older is 0 or equal to newer. Raises: ValueError unless 0 <= older <= newer.
    Source: RFC 9162 section 2.1.4.1.
    """
    if not 0 <= older <= newer:
        raise ValueError("the older tree is the smaller one")
    if older in {0, newer}:
        return []
    ranges: list[LeafRange] = []
    low, high, whole = 0, newer, True
    while older != high:
        middle = low + _split(high - low)
        if older <= middle:
            ranges.append((middle, high))
            high = middle
        else:
            ranges.append((low, middle))
            low, whole = middle, False
    if not whole:
        ranges.append((low, high))
    ranges.reverse()
    return ranges


def perfect_subtrees(low: int, high: int) -> Iterator[tuple[int, int]]:
    """Split leaves [low, high) into perfect subtrees (height, number at that height), left to right, tallest first.

    `low` must be a multiple of the tallest, as it is for every range of a proof.
    """
    at = low
    while at < high:
        height = (high - at).bit_length() - 1
        yield height, at >> height
        at += 1 << height


def tiles_for(ranges: Sequence[LeafRange]) -> set[tuple[int, int]]:
    """Return the tiles (level, number) that hold the hashes the roots of these ranges are computed from."""
    needed: set[tuple[int, int]] = set()
    for low, high in ranges:
        for height, number in perfect_subtrees(low, high):
            level, rest = divmod(height, TILE_HEIGHT)
            needed.add((level, (number << rest) // TILE_WIDTH))
    return needed


def range_root(low: int, high: int, tiles: TileHashes) -> bytes:
    """Return the root over the leaves [low, high). Raises: LookupError when a stored hash is absent."""
    return fold([tiles.node(height, number) for height, number in perfect_subtrees(low, high)])


def inclusion_proof(index: int, size: int, tiles: TileHashes) -> list[bytes]:
    """Make the proof that leaf `index` is in the tree of `size` leaves (RFC 9162 section 2.1.3.1)."""
    return [range_root(low, high, tiles) for low, high in inclusion_ranges(index, size)]


def consistency_proof(older: int, newer: int, tiles: TileHashes) -> list[bytes]:
    """Make the proof that the tree of `newer` leaves continues the one of `older` (RFC 9162 section 2.1.4.1)."""
    return [range_root(low, high, tiles) for low, high in consistency_ranges(older, newer)]


def _checked(proof: Sequence[bytes]) -> None:
    if any(len(p) != HASH_BYTES for p in proof):
        raise ProofInvalid(f"a hash in the proof is not {HASH_BYTES} bytes long")


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash stands at `index` in the tree with this size and root.

    Raises: ProofInvalid. Source: RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size:
        raise ProofInvalid("the leaf lies outside the tree")
    _checked([leaf, root, *proof])
    number, last, at = index, size - 1, leaf
    for p in proof:
        if last == 0:
            raise ProofInvalid("the proof is too long")
        if number & 1 or number == last:
            at = node_hash(p, at)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            at = node_hash(at, p)
        number, last = number >> 1, last >> 1
    if last != 0:
        raise ProofInvalid("the proof is too short")
    if at != root:
        raise ProofInvalid("the proof leads to another root")


def verify_consistency(older: int, newer: int, older_root: bytes, newer_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the newer tree begins with the older one.

    Raises: ProofInvalid. Source: RFC 9162 section 2.1.4.2; sizes that are equal or 0 need an empty proof. Two heads of
    one size are only compared: whether such a root can be is for who signed it. The empty tree has one root.
    """
    if not 0 <= older <= newer:
        raise ProofInvalid("the older tree is the smaller one")
    if older in {0, newer} and proof:
        raise ProofInvalid("the proof is too long")
    if older == newer:
        if older_root != newer_root:
            raise ProofInvalid("two roots for one size")
        return
    _checked([older_root, newer_root, *proof])
    if older == 0:
        if older_root != EMPTY_ROOT:
            raise ProofInvalid("the empty tree has another root")
        return
    steps = list(proof) if older & (older - 1) else [older_root, *proof]
    if not steps:
        raise ProofInvalid("the proof is too short")
    number, last = older - 1, newer - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    old = new = steps[0]
    for p in steps[1:]:
        if last == 0:
            raise ProofInvalid("the proof is too long")
        if number & 1 or number == last:
            old, new = node_hash(p, old), node_hash(p, new)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            new = node_hash(new, p)
        number, last = number >> 1, last >> 1
    if last != 0:
        raise ProofInvalid("the proof is too short")
    if old != older_root or new != newer_root:
        raise ProofInvalid("the proof leads to other roots")
