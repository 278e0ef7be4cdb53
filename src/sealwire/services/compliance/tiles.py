"""Tiles and entry bundles (C2SP tlog-tiles): where they stand, what is in them, and how a log fills them."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec

from sealwire.services.compliance.merkle import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, rows_of

MAX_LEVEL = 63
MAX_ENTRY_BYTES = 65_535
_PATH = re.compile(r"(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


class TilePathInvalid(ValueError):
    """No tile and no bundle stands at this path."""


class BundleInvalid(ValueError):
    """The bytes are no entry bundle."""


class TileAddress(msgspec.Struct, frozen=True):
    """A tile: its level (0 holds leaf hashes), its number in the level, how many hashes wide (256 = full)."""

    level: int
    number: int
    width: int = TILE_WIDTH


class BundleAddress(msgspec.Struct, frozen=True):
    """An entry bundle: its number and how many entries (256 = full)."""

    number: int
    width: int = TILE_WIDTH


class Tile(msgspec.Struct, frozen=True):
    """A tile to store. A partial one is replaced by a wider one under the same level and number."""

    level: int
    number: int
    hashes: bytes


def encode_number(number: int) -> str:
    """Write a tile's number as 3-digit path elements, all but the last led by x: 1234067 is x001/x234/067."""
    if number < 0:
        raise TilePathInvalid("a tile's number is not negative")
    digits = str(number)
    digits = digits.rjust(-(-len(digits) // 3) * 3, "0")
    groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    return "/".join([*(f"x{g}" for g in groups[:-1]), groups[-1]])


def path_of(address: TileAddress | BundleAddress) -> str:
    """Return the path below `tile/`."""
    where = str(address.level) if isinstance(address, TileAddress) else "entries"
    part = f".p/{address.width}" if address.width < TILE_WIDTH else ""
    return f"{where}/{encode_number(address.number)}{part}"


def parse_path(path: str) -> TileAddress | BundleAddress:
    """Read a path below `tile/`; each tile has exactly one. Raises: TilePathInvalid."""
    match = _PATH.fullmatch(path)
    if match is None or len(path) > 64:
        raise TilePathInvalid("no tile has this path")
    where, digits, part = match.groups()
    number = int(digits.replace("x", "").replace("/", ""))
    width = int(part) if part else TILE_WIDTH
    if encode_number(number) != digits or (part and width >= TILE_WIDTH):
        raise TilePathInvalid("no tile has this path")
    if where == "entries":
        return BundleAddress(number, width)
    level = int(where)
    if level > MAX_LEVEL:
        raise TilePathInvalid("a tile's level is at most 63")
    return TileAddress(level, number, width)


def width_in(address: TileAddress | BundleAddress, tree_size: int) -> int:
    """Return how wide the tile or bundle is in a tree of this size; 0 when it does not exist there."""
    level = address.level if isinstance(address, TileAddress) else 0
    nodes = tree_size >> (8 * level)
    return max(0, min(TILE_WIDTH, nodes - address.number * TILE_WIDTH))


def tiles_of(tree_size: int) -> list[TileAddress]:
    """Return every tile of a tree of this size, level by level, the partial ones last in their level."""
    found = []
    level, nodes = 0, tree_size
    while nodes:
        full, rest = divmod(nodes, TILE_WIDTH)
        found += [TileAddress(level, n) for n in range(full)]
        if rest:
            found.append(TileAddress(level, full, rest))
        level, nodes = level + 1, full
    return found


def write_bundle(entries: Sequence[bytes]) -> bytes:
    """Join entries, each behind its length (big-endian, 16 bits). Raises: BundleInvalid for an entry too long."""
    count = len(entries)
    try:
        lengths = struct.pack(f">{count}H", *map(len, entries))
    except struct.error:
        raise BundleInvalid(f"an entry is longer than {MAX_ENTRY_BYTES} bytes") from None
    return b"".join(chain.from_iterable(zip(struct.unpack("2s" * count, lengths), entries, strict=True)))


def read_bundle(bundle: bytes) -> list[bytes]:
    """Take a bundle apart. Raises: BundleInvalid when its lengths don't add up."""
    entries: list[bytes] = []
    add, at, last = entries.append, 0, len(bundle) - 1
    while at < last:
        start = at + 2
        at = start + (bundle[at] << 8 | bundle[at + 1])
        add(bundle[start:at])
    if at != len(bundle):
        raise BundleInvalid("the bundle ends inside an entry")
    return entries


def split_hashes(hashes: bytes) -> list[bytes]:
    """Take a tile's bytes apart into hashes. Raises: ValueError when they are no multiple of 32."""
    if len(hashes) % HASH_BYTES:
        raise ValueError("a tile is a sequence of 32-byte hashes")
    return [hashes[i : i + HASH_BYTES] for i in range(0, len(hashes), HASH_BYTES)]


class TileMap:
    """Tiles in memory as a source of hashes for proofs (see merkle.TileHashes)."""

    __slots__ = ("_tiles",)

    def __init__(self, tiles: Mapping[tuple[int, int], bytes]) -> None:
        """Hold tiles by (level, number)."""
        self._tiles = tiles

    def node(self, height: int, number: int) -> bytes:
        """Return a node at or between tile levels. Raises: LookupError when the tile is absent or too narrow."""
        level, rest = divmod(height, TILE_HEIGHT)
        tile, at = divmod(number << rest, TILE_WIDTH)
        start = (at >> rest) * HASH_BYTES
        found = rows_of(self._tiles[level, tile])[rest][start : start + HASH_BYTES]
        if len(found) != HASH_BYTES:
            raise LookupError(f"tile {level}/{tile} ends before hash {at + (1 << rest)}")
        return found


class Tiling:
    """The unfinished tiles at the right edge of a growing log, one per level.

    Fed with what `merkle.Frontier.extend` returns. Level 0 is stored when full (until then its hashes follow from the
    records themselves); higher levels, which grow 256 times slower, are stored at every change.
    """

    __slots__ = ("_edges",)

    def __init__(self, edges: Mapping[int, tuple[int, Sequence[bytes]]] | None = None) -> None:
        """Continue from `edges`: level -> (number of the tile, the hashes it has so far)."""
        self._edges = {level: (number, list(hashes)) for level, (number, hashes) in (edges or {}).items()}

    def copy(self) -> Tiling:
        """Return an independent copy."""
        twin = Tiling.__new__(Tiling)
        twin._edges = self._edges.copy()  # what is in it is replaced, never changed
        return twin

    def add(self, gained: Sequence[Sequence[bytes]]) -> list[Tile]:
        """Take the new nodes of levels 0, 1, 2 …; return the tiles to store."""
        stored: list[Tile] = []
        for level, nodes in enumerate(gained):
            number, held = self._edges.get(level, (0, []))
            held = [*held, *nodes]
            while len(held) >= TILE_WIDTH:
                stored.append(Tile(level, number, b"".join(held[:TILE_WIDTH])))
                number, held = number + 1, held[TILE_WIDTH:]
            if held and level:
                stored.append(Tile(level, number, b"".join(held)))
            self._edges[level] = (number, held)
        return stored

    def edge(self, level: int) -> tuple[int, Sequence[bytes]]:
        """Return the unfinished tile of a level: its number and hashes."""
        return self._edges.get(level, (0, []))
