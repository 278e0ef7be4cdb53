"""One tenant's part of the search index: what waits, what can be found, and up to where the feed is in it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sealwire.adapters.embedded.drivers.tantivy import TantivyIndex, entry_at
from sealwire.ports.index import Field, Put, Remove

_SLICE = 32
"""How many changes are handed to the engine before other work gets its turn (about 0.3 ms)."""
ENTRY_BYTES = 100
"""What an entry takes besides its text, about."""
SPARE_BYTES = 16 * 1024 * 1024


class Run(Protocol):
    """Runs a blocking call on the index's thread."""

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> Awaitable[Any]: ...


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A still of a shard: hard links to its segment files, and what belongs to them."""

    folder: Path
    meta: bytes
    files: tuple[str, ...]
    position: int
    seqs: dict[str, int]


class Shard:
    """A tenant's engine and its bookkeeping. A change is taken, fed, committed, noted.

    `lock` is held by whoever works on the engine; `take` never waits for it.
    """

    def __init__(
        self, tenant_id: str, root: Path | None, *, position: int, bound_bytes: int | None, seqs: dict[str, int]
    ) -> None:
        self.tenant_id = tenant_id
        self.lock = asyncio.Lock()
        self.root = root
        self.generation = 0
        self.engine = TantivyIndex(self._folder())
        self.pending: deque[Put | Remove] = deque()
        self.taken = position
        self.seqs = seqs
        self.changed = False
        """Whether it differs from its snapshot."""
        self.saved = False
        self.held_at: int | None = None
        self.written_at_s = 0.0
        self._bound_bytes = bound_bytes
        self._in_flight_from: int | None = None
        self._dead = 0
        self._dead_since_s: float | None = None
        self._added_bytes = 0

    def _folder(self) -> Path | None:
        if self.root is None:
            return None
        folder = self.root / str(self.generation)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def take(self, change: Put | Remove) -> bool:
        """Queue a change; False when its position was taken before."""
        if change.position <= self.taken:
            return False
        self.taken = change.position
        self.pending.append(change)
        return True

    def covered(self, upto: int) -> int:
        """Return the position up to which nothing is missing, when the feed was taken up to `upto`."""
        if self._in_flight_from is not None:
            upto = min(upto, self._in_flight_from - 1)
        elif self.pending:
            upto = min(upto, self.pending[0].position - 1)
        return max(0, upto if self.held_at is None else min(upto, self.held_at))

    def begin(self) -> list[Put | Remove]:
        """Take what waits, to feed and commit it; `done` or `give_back` follows."""
        batch = list(self.pending)
        self.pending.clear()
        self._in_flight_from = batch[0].position if batch else None
        return batch

    def give_back(self, batch: list[Put | Remove]) -> None:
        """Queue a batch again that could not be committed."""
        self.pending.extendleft(reversed(batch))
        self._in_flight_from = None

    def done(self, batch: list[Put | Remove], now_s: float) -> None:
        """Note what a committed batch made findable."""
        self._in_flight_from, self.changed, self.written_at_s = None, True, now_s
        for change in batch:
            if isinstance(change, Remove) or not change.fresh:
                self._dead += 1
                self._dead_since_s = self._dead_since_s or now_s
            if isinstance(change, Put) and self.held_at is None:
                for entry in change.entries:
                    if entry.seq > self.seqs.get(entry.conversation_id, 0):
                        self.seqs[entry.conversation_id] = entry.seq

    async def feed(self, batch: list[Put | Remove]) -> None:
        """Hand changes to the engine in slices, so that the loop stays free. Raises: IndexFault."""
        engine = self.engine
        for start in range(0, len(batch), _SLICE):
            for change in batch[start : start + _SLICE]:
                if isinstance(change, Remove):
                    for value in (change.value, *change.more):
                        engine.remove(change.field, value)
                    continue
                if not change.fresh:
                    engine.remove("message_id", change.message_id)
                if self.held_at is None:
                    for entry in change.entries:
                        if entry.text:
                            engine.add(entry)
                            self._added_bytes += ENTRY_BYTES + len(entry.text)
            await asyncio.sleep(0)

    def size_bytes(self) -> int:
        """Return the size of the working copy's files; in process memory about what was put into it."""
        if self.engine.folder is None:
            return self._added_bytes
        total = 0
        for entry in os.scandir(self.engine.folder):
            try:
                total += entry.stat().st_size
            except FileNotFoundError:  # merged away meanwhile
                continue
        return total

    def past_bound(self, free_bytes: int | None) -> bool:
        """Whether the working copy takes more memory than it may, or than there will be when it is merged."""
        if self._bound_bytes is None:
            return False
        size = self.size_bytes()
        return size > self._bound_bytes or (free_bytes is not None and free_bytes < max(size // 2, SPARE_BYTES))

    def wants_rewrite(self, now_s: float, keep_s: float) -> bool:
        """Whether removed entries should go from the files now: they are many, or lie there for long."""
        if self._dead_since_s is None:
            return False
        return now_s - self._dead_since_s > keep_s or self._dead > max(1000, self.engine.searcher.num_docs // 4)

    def link(self, position: int) -> Link:
        """Take a still by hard links. Merges run beside it and remove files: then it is taken again."""
        assert self.root is not None
        target = self.root / "still"
        for _ in range(20):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(mode=0o700)
            meta, files = self.engine.segments()
            try:
                for name in files:
                    assert self.engine.folder is not None
                    os.link(self.engine.folder / name, target / name)
            except FileNotFoundError:
                continue
            return Link(folder=target, meta=meta, files=files, position=position, seqs=dict(self.seqs))
        raise OSError("the index changed faster than it could be linked")

    async def rewrite(self, run: Run) -> None:
        """Build the engine anew from what it holds, so that removed entries are gone from its files as well.

        Raises: IndexFault; the old engine stays then.
        """
        old, self.generation = self.engine, self.generation + 1
        searcher = old.searcher
        addresses = await run(old.addresses)
        new = TantivyIndex(self._folder())
        for start in range(0, len(addresses), _SLICE):
            for address in addresses[start : start + _SLICE]:
                new.add(entry_at(searcher, address))
            await asyncio.sleep(0)
        await run(new.commit)
        self.engine, self.changed = new, True
        self._dead, self._dead_since_s = 0, None
        await run(old.rest)
        if old.folder is not None:
            shutil.rmtree(old.folder, ignore_errors=True)

    def remove_all(self, field: Field, value: str) -> int:
        """Remove and commit at once; return how many entries went. Blocking."""
        gone = self.engine.count(field, value)
        self.engine.remove(field, value)
        self.engine.commit()
        return gone
