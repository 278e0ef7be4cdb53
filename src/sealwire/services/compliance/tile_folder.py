"""Verifies a folder of tlog tiles: `checkpoint`, `tile/<level>/<number>`, `tile/entries/<number>` (C2SP tlog-tiles).

Entries are records, so the chain is checked as well as the tree. A tile's hash that an entry doesn't have is the
entry's fault unless its neighbours in the chain vouch for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from sealwire.services.compliance.chain import read_link
from sealwire.services.compliance.cut import ends_early
from sealwire.services.compliance.key_chain import KeyChain
from sealwire.services.compliance.merkle import HASH_BYTES, TILE_WIDTH, leaf_hash
from sealwire.services.compliance.notes import NoteInvalid, TreeHead, VerifierKey
from sealwire.services.compliance.remains import PRUNED, pruned_item
from sealwire.services.compliance.tiles import BundleAddress, Tile, TileAddress, Tiling, path_of, split_hashes, width_in
from sealwire.services.compliance.verify import Report
from sealwire.services.compliance.walk import UNREADABLE, Fault, Item, Tampering, Walk

CHECKPOINT = "checkpoint"
Progress = Callable[[int], None]


def verify_tiles(
    folder: Path,
    *,
    keys: Sequence[VerifierKey],
    rotations: Sequence[str] = (),
    checkpoints: Sequence[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Verify a folder against its own checkpoint and those held. Raises: OSError."""
    log = _Folder(folder, progress)
    try:
        chain = KeyChain.of(keys, rotations)
        heads = [chain.checkpoint(_read_note(folder)), *map(chain.checkpoint, checkpoints)]
        if len({head.origin for head in heads}) > 1:
            raise NoteInvalid("the checkpoints are of different logs")
        fault = log.verify(heads)
    except NoteInvalid as error:
        fault = Fault(Tampering.CHECKPOINT, None, str(error))
    return log.report(fault)


def _read_note(folder: Path) -> str:
    try:
        return (folder / CHECKPOINT).read_bytes().decode()
    except UnicodeDecodeError:
        raise NoteInvalid("a note is UTF-8") from None
    except FileNotFoundError:
        raise NoteInvalid("the folder has no checkpoint") from None


class _Folder:
    """One folder being verified."""

    def __init__(self, folder: Path, progress: Progress | None) -> None:
        self._folder = folder
        self._progress = progress
        self._walk = Walk(strict=True, hashed=False)
        self._tiling = Tiling()
        self._covered = 0
        self._size = 0

    def verify(self, heads: Sequence[TreeHead]) -> Fault | None:
        """Check records and tiles up to the largest head's size, and the root at each head's."""
        self._size = heads[0].size
        walk, waiting = self._walk, sorted(heads, key=lambda h: h.size)
        while True:
            while waiting and waiting[0].size == walk.records:
                if fault := self._compare(waiting.pop(0)):
                    return fault
            if walk.records >= self._size:
                break
            stop = min(waiting[0].size, self._size) if waiting else self._size
            if fault := self._step(stop):
                return fault
            if self._progress is not None:
                self._progress(walk.records)
        if waiting:
            missing = waiting[-1].size - walk.records
            detail = f"a checkpoint covers {waiting[-1].size} records, the last {missing} are not in the folder"
            return Fault(Tampering.TRUNCATED, walk.expected, detail)
        return self._check_edges() or walk.unsaid()

    def report(self, fault: Fault | None) -> Report:
        """Return what came of it."""
        walk = self._walk
        return Report(
            ok=fault is None,
            records=walk.records,
            first_seq=1,
            last_seq=walk.expected - 1,
            covered=self._covered,
            root=walk.frontier.root().hex() if walk.frontier else "",
            fault=fault,
            pruned=walk.pruned,
        )

    def _compare(self, head: TreeHead) -> Fault | None:
        assert self._walk.frontier is not None  # from the first record on
        if self._walk.frontier.root() != head.root:
            detail = f"the records lead to another root than the checkpoint of size {head.size}"
            return Fault(Tampering.FORKED, self._covered + 1, detail)
        self._covered = head.size
        return None

    def _step(self, stop: int) -> Fault | None:
        """Check records up to a tile's border, or to `stop` when that comes first."""
        walk = self._walk
        number, start = divmod(walk.records, TILE_WIDTH)
        width = min(TILE_WIDTH, self._size - number * TILE_WIDTH)
        end = min(width, stop - number * TILE_WIDTH)
        tile = self._tile(TileAddress(0, number, width))
        entries = self._entries(BundleAddress(number, width))
        if entries is None and tile is None:
            return self._missing()
        if tile is None:
            return Fault(Tampering.TREE, walk.expected, f"tile {path_of(TileAddress(0, number, width))} is missing")
        if entries is None:
            entries = [b""] * width
        hashes = _whole_hashes(tile)
        items = [_item(body, number * TILE_WIDTH + i + 1, tile[i]) for i, body in enumerate(entries[:width])]
        known = items[start : min(end, hashes)]
        good, leaves = walk.feed(known)
        if fault := self._check_leaves(number, start, leaves, items, tile):
            return fault
        if good < len(known):
            return self._bad(items, start + good, number, tile[:hashes])
        if hashes < min(end, len(items)):
            return _cut_tile(TileAddress(0, number, width), hashes, walk.expected)
        if len(entries) > width:
            return Fault(Tampering.INSERTED, number * TILE_WIDTH + width + 1, "the bundle holds a record too many")
        if len(items) < end:
            return self._cut_bundle(BundleAddress(number, width)) or self._missing()
        return self._check_upper()

    def _bad(self, items: Sequence[Item], at: int, number: int, tile: Sequence[bytes]) -> Fault:
        """Say what is wrong where the chain breaks; the tile tells one changed record from records out of place."""
        here = enumerate(items[: len(tile)])
        wrong = [i for i, (body, _) in here if leaf_hash(body) != tile[i] and body[:1] != PRUNED]
        if wrong == [at]:
            return Fault(Tampering.CHANGED, self._walk.expected, "the record is not the one in the tree")
        return self._walk.diagnose(items[at], self._behind(items, at, number))

    def _behind(self, items: Sequence[Item], at: int, number: int) -> Iterator[Item]:
        yield from items[at + 1 :]
        width = min(TILE_WIDTH, self._size - (number + 1) * TILE_WIDTH)
        if width > 0:
            for body in self._entries(BundleAddress(number + 1, width)) or ():
                yield body, sha256(body).hexdigest()

    def _check_leaves(
        self, number: int, start: int, leaves: Sequence[bytes], items: Sequence[Item], tile: Sequence[bytes]
    ) -> Fault | None:
        """Compare leaves with the stored tile; the chain's word decides whose fault it is."""
        for i, leaf in enumerate(leaves, start):
            if leaf != tile[i]:
                seq = number * TILE_WIDTH + i + 1
                if self._is_continued(items, i, number):
                    return Fault(Tampering.TREE, seq, f"tile 0/{number} does not fit the records")
                return Fault(Tampering.CHANGED, seq, "the record is not the one in the tree")
        return None

    def _is_continued(self, items: Sequence[Item], at: int, number: int) -> bool:
        """Whether the record behind this one names its hash; of the very last one nothing can be said so."""
        following = next(self._behind(items, at, number), None)
        if following is None:
            return False
        try:
            return read_link(following[0]).prev_hash == items[at][1]
        except UNREADABLE:
            return False

    def _cut_bundle(self, address: BundleAddress) -> Fault | None:
        """Return the fault of a bundle that ends within an entry: of what is there of it nothing can be said."""
        found = self._file(address)
        if found is None or not _is_cut(*_split(found[0])):
            return None
        detail = f"tile/{path_of(address)} was cut: it ends in the middle of this record"
        return Fault(Tampering.TRUNCATED, self._walk.expected, detail)

    def _missing(self) -> Fault:
        expected = self._walk.expected
        for number in range(self._walk.records // TILE_WIDTH + 1, -(-self._size // TILE_WIDTH)):
            width = min(TILE_WIDTH, self._size - number * TILE_WIDTH)
            if self._entries(BundleAddress(number, width)) is not None:
                return Fault(Tampering.REMOVED, expected, "records are missing")
        missing = self._size - self._walk.records
        return Fault(Tampering.TRUNCATED, expected, f"the last {missing} of {self._size} records are missing")

    # ---- tiles above the leaves

    def _check_upper(self) -> Fault | None:
        for tile in self._tiling.add(self._walk.gained):
            full = len(tile.hashes) == TILE_WIDTH * HASH_BYTES
            if tile.level and full and (fault := self._check_tile(tile)):
                return fault
        return None

    def _check_edges(self) -> Fault | None:
        level = 1
        while self._size >> (8 * level):
            number, hashes = self._tiling.edge(level)
            if hashes and (fault := self._check_tile(Tile(level, number, b"".join(hashes)))):
                return fault
            level += 1
        return None

    def _check_tile(self, tile: Tile) -> Fault | None:
        width = len(tile.hashes) // HASH_BYTES
        expected = split_hashes(tile.hashes)
        stored = self._tile(TileAddress(tile.level, tile.number, width)) or []
        step = TILE_WIDTH**tile.level
        hashes = _whole_hashes(stored)
        for i in range(width):
            if hashes == i and stored:
                return _cut_tile(
                    TileAddress(tile.level, tile.number, width), i, (tile.number * TILE_WIDTH + i) * step + 1
                )
            if i >= len(stored) or stored[i] != expected[i]:
                seq = (tile.number * TILE_WIDTH + i) * step + 1
                return Fault(Tampering.TREE, seq, f"tile {tile.level}/{tile.number} does not fit the records")
        return None

    # ---- files

    def _file(self, address: TileAddress | BundleAddress) -> tuple[bytes, bool] | None:
        """Return a file's bytes and whether it is as wide as asked; a full one stands for any narrower."""
        exact = self._folder / "tile" / path_of(address)
        if exact.is_file():
            return exact.read_bytes(), True
        whole = TileAddress(address.level, address.number) if isinstance(address, TileAddress) else None
        wider = self._folder / "tile" / path_of(whole or BundleAddress(address.number))
        return (wider.read_bytes(), False) if wider.is_file() else None

    def _tile(self, address: TileAddress) -> list[bytes] | None:
        """Return a tile's hashes, padded with empty ones to its width; None when there is none."""
        found = self._file(address)
        if found is None or not width_in(address, self._size):
            return None
        hashes = [found[0][i : i + HASH_BYTES] for i in range(0, len(found[0]), HASH_BYTES)][: address.width]
        return hashes + [b""] * (address.width - len(hashes))

    def _entries(self, address: BundleAddress) -> list[bytes] | None:
        """Return a bundle's entries, as far as its lengths can be believed; what is left over is one entry more."""
        found = self._file(address)
        if found is None:
            return None
        content, exact = found
        entries, rest = _split(content)
        if rest and not _is_cut(entries, rest):
            entries.append(rest)
        return entries if exact else entries[: address.width]


def _split(bundle: bytes) -> tuple[list[bytes], bytes]:
    """Return a bundle's entries, and what is left where the last length promises more than there is."""
    entries: list[bytes] = []
    at = 0
    while at < len(bundle):
        end = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
        if end > len(bundle) or at + 1 == len(bundle):
            return entries, bundle[at:]
        entries.append(bundle[at + 2 : end])
        at = end
    return entries, b""


def _is_cut(entries: Sequence[bytes], rest: bytes) -> bool:
    """Whether what is left of a bundle is a record that ends too early; else it is the length that was changed."""
    return bool(rest) and len(entries) < TILE_WIDTH and (len(rest) <= 2 or ends_early(rest[2:]))


def _whole_hashes(tile: Sequence[bytes]) -> int:
    """Return how many hashes a tile has, of those that it should."""
    return sum(len(node) == HASH_BYTES for node in tile)


def _cut_tile(address: TileAddress, hashes: int, seq: int) -> Fault:
    detail = f"tile/{path_of(address)} was cut: it ends after {hashes} of {address.width} hashes"
    return Fault(Tampering.TRUNCATED, seq, detail)


def _item(body: bytes, seq: int, leaf: bytes) -> Item:
    """Return an entry as the walk takes it: an empty one stands for a pruned record, of which the tile has the hash."""
    if not body:
        return pruned_item(seq, leaf), ""
    return body, sha256(body).hexdigest()
