"""The tree: RFC 9162 roots and proofs, of any size, from stored tiles; and nothing but the right proof is accepted."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.services.compliance import merkle
from sealwire.services.compliance.merkle import (
    EMPTY_ROOT,
    Frontier,
    ProofInvalid,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from sealwire.services.compliance.tiles import TileMap, Tiling, split_hashes

# The eight leaves and roots of the RFC 6962 reference implementation's tests.
LEAVES = [bytes.fromhex(x) for x in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
LEAVES.append(bytes(range(0x60, 0x70)))
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
sizes = st.integers(1, 700)


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(i.to_bytes(4, "big")) for i in range(count)]


def plain_root(rows: list[bytes]) -> bytes:
    """The recursive definition of RFC 9162 section 2.1.1, word for word."""
    if not rows:
        return sha256(b"").digest()
    if len(rows) == 1:
        return rows[0]
    k = 1
    while k * 2 < len(rows):
        k *= 2
    return node_hash(plain_root(rows[:k]), plain_root(rows[k:]))


def tiles(count: int) -> TileMap:
    """All tiles of a tree, as storage would hold them."""
    frontier, tiling, stored = Frontier(), Tiling(), {}
    for tile in tiling.add(frontier.extend(leaves(count))):
        stored[tile.level, tile.number] = tile.hashes
    number, edge = tiling.edge(0)
    stored[0, number] = b"".join(edge)
    return TileMap(stored)


def root(count: int) -> bytes:
    return root_of(leaves(count))


def test_known_roots() -> None:
    assert EMPTY_ROOT.hex() == ROOTS[0]
    frontier = Frontier()
    for data, expected in zip(LEAVES, ROOTS[1:], strict=True):
        frontier.append(leaf_hash(data))
        assert frontier.root().hex() == expected


@given(st.lists(st.integers(0, 300), max_size=6))
def test_batches_make_the_tree_that_single_appends_make(batches: list[int]) -> None:
    rows = leaves(sum(batches))
    grown, at = Frontier(), 0
    for count in batches:
        grown.extend(rows[at : at + count])
        at += count
        resumed = Frontier(grown.size, grown.peaks)
        assert resumed.root() == grown.root()
    assert grown.size == len(rows)
    assert grown.root() == plain_root(rows)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 24_000), min_size=1, max_size=4))
def test_tiles_hold_the_same_hashes_however_they_were_filled(batches: list[int]) -> None:
    total = sum(batches)
    rows = [i.to_bytes(32, "big") for i in range(total)]
    frontier, tiling, stored = Frontier(), Tiling(), {}
    at = 0
    for count in batches:
        for tile in tiling.add(frontier.extend(rows[at : at + count])):
            stored[tile.level, tile.number] = tile.hashes
        at += count
        if at % 3 == 0:
            tiling = tiling.copy()
    assert all(len(h) == 8192 for (level, _), h in stored.items() if level == 0)
    level0 = b"".join(stored.get((0, n), b"") for n in range(total // 256)) + b"".join(tiling.edge(0)[1])
    assert level0 == b"".join(rows)
    for number in range(total // 256):
        held = split_hashes(stored[1, number // 256])[number % 256]
        assert held == root_of(rows[number * 256 : number * 256 + 256])


@settings(max_examples=150)
@given(st.data())
def test_inclusion_proofs_verify_and_their_mutations_do_not(data: st.DataObject) -> None:
    size = data.draw(sizes)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, tiles(size))
    leaf, top = leaves(size)[index], root(size)
    verify_inclusion(index, size, leaf, proof, top)
    for i in range(len(proof)):
        bad = list(proof)
        bit = data.draw(st.integers(0, 255))
        bad[i] = (int.from_bytes(bad[i], "big") ^ (1 << bit)).to_bytes(32, "big")
        with pytest.raises(ProofInvalid):
            verify_inclusion(index, size, leaf, bad, top)
    wrong = [
        (index, size, leaf, proof[:-1] if proof else [leaf], top),
        (index, size, leaf, [*proof, top], top),
        (index, size, top if size > 1 else EMPTY_ROOT, proof, top),
        (index, size, leaf, proof, EMPTY_ROOT),
        (size, size, leaf, proof, top),
        (-1, size, leaf, proof, top),
    ]
    if size > 1:
        wrong.append((data.draw(st.integers(0, size - 1).filter(lambda i: i != index)), size, leaf, proof, top))
    for arguments in wrong:
        with pytest.raises(ProofInvalid):
            verify_inclusion(*arguments)


@settings(max_examples=150)
@given(st.data())
def test_consistency_proofs_verify_and_their_mutations_do_not(data: st.DataObject) -> None:
    newer = data.draw(sizes)
    older = data.draw(st.integers(0, newer))
    proof = merkle.consistency_proof(older, newer, tiles(newer))
    old, new = root(older), root(newer)
    verify_consistency(older, newer, old, new, proof)
    for i in range(len(proof)):
        bad = list(proof)
        bit = data.draw(st.integers(0, 255))
        bad[i] = (int.from_bytes(bad[i], "big") ^ (1 << bit)).to_bytes(32, "big")
        with pytest.raises(ProofInvalid):
            verify_consistency(older, newer, old, new, bad)
    with pytest.raises(ProofInvalid):
        verify_consistency(older, newer, old, new, [*proof, new])
    with pytest.raises(ProofInvalid):
        verify_consistency(newer + 1, newer, old, new, proof)
    if proof:
        with pytest.raises(ProofInvalid):
            verify_consistency(older, newer, old, new, proof[:-1])
        with pytest.raises(ProofInvalid):
            verify_consistency(older, newer, EMPTY_ROOT, new, proof)
        with pytest.raises(ProofInvalid):
            verify_consistency(older, newer, old, EMPTY_ROOT, proof)


def test_a_proof_across_many_tiles() -> None:
    size = 70_001
    stored = tiles(size)
    top = root(size)
    for index in (0, 255, 256, 65_535, 65_536, 70_000):
        verify_inclusion(
            index, size, leaf_hash(index.to_bytes(4, "big")), merkle.inclusion_proof(index, size, stored), top
        )
    needed = merkle.tiles_for(merkle.inclusion_ranges(0, size))
    assert len(needed) <= 8
    for older in (1, 256, 65_536, 65_537, 70_000):
        verify_consistency(older, size, root(older), top, merkle.consistency_proof(older, size, stored))


@given(st.integers(1, 256))
def test_the_nodes_within_a_tile(width: int) -> None:
    held = leaves(width)
    tile = TileMap({(0, 0): b"".join(held)})
    for height in range(8):
        for number in range(width >> height):
            start = number << height
            assert tile.node(height, number) == plain_root(held[start : start + (1 << height)])
        with pytest.raises(LookupError):
            tile.node(height, width >> height)


def test_a_tile_stored_anew_is_not_taken_for_the_old_one() -> None:
    size = 256
    honest = tiles(size)
    proof = merkle.inclusion_proof(0, size, honest)
    other = bytearray(b"".join(leaves(size)))
    other[-1] ^= 1
    assert merkle.inclusion_proof(0, size, TileMap({(0, 0): bytes(other)}))[-1] != proof[-1]
    assert merkle.inclusion_proof(0, size, honest) == proof


def test_a_missing_tile_is_told() -> None:
    with pytest.raises(LookupError):
        merkle.inclusion_proof(3, 10, TileMap({}))
    with pytest.raises(LookupError):
        merkle.inclusion_proof(3, 300, TileMap({(0, 0): bytes(32)}))


def test_a_frontier_needs_as_many_peaks_as_its_size_has_bits() -> None:
    with pytest.raises(ValueError):
        Frontier(3, [bytes(32)])
    with pytest.raises(ValueError):
        Frontier(1, [bytes(31)])
