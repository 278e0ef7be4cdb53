"""The embedded search index: a tantivy index per tenant in memory, sealed snapshots of it on disk.

Working copies live in a private folder of a memory file system; where there is none, in the process's own memory, and
then there are no snapshots: the feed is read from its beginning after every start. Changes queue up and are committed
together; committing runs on one thread of the index, searching on another, sealing on a third.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from sealwire.adapters.embedded.drivers.memory_folder import MemoryFolder, memory_roots
from sealwire.adapters.embedded.drivers.tantivy import TantivyIndex, entry_at
from sealwire.adapters.embedded.index_shard import Shard
from sealwire.adapters.embedded.index_snapshots import SnapshotFolder
from sealwire.adapters.embedded.index_vault import Restored, Vault
from sealwire.adapters.embedded.index_views import Mark, View, Views, make_view, read_mark, write_mark
from sealwire.kit.clock import Clock
from sealwire.kit.telemetry import fields
from sealwire.ports.index import (
    MAX_DEPTH,
    Field,
    Found,
    FoundPage,
    IndexFault,
    Put,
    Remove,
    SnapshotKeys,
    Sought,
)

MOST_WAITING = 20_000
MOST_WRITERS = 8
SMALL_DOCUMENTS, SMALL_CLAUSES = 20_000, 4
"""A search no larger than this takes less time (about 0.3 ms) than the way to another thread and back may."""
_RETRY_S = 1.0
_LOG = logging.getLogger("sealwire.search")


class IndexTuning(msgspec.Struct, frozen=True, kw_only=True):
    """How the index spends time and memory.

    Commits are at least `commit_every_s` apart, and nine times as long as the last one took: a tenth of a core at most.
    """

    commit_every_s: float = 0.3
    snapshot_every_s: float = 30.0
    rest_after_s: float = 20.0
    dead_keep_s: float = 3600.0
    bound_bytes: int = 256 * 1024 * 1024
    plain_tenants: frozenset[str] = frozenset()


class TantivySearchIndex:
    """Keeps `ports.index.SearchIndex`. `memory_roots` are the folders to look for memory in."""

    def __init__(
        self,
        *,
        folder: Path,
        keys: SnapshotKeys,
        clock: Clock,
        tuning: IndexTuning | None = None,
        roots: Iterable[Path] | None = None,
    ) -> None:
        self._tuning = tuning or IndexTuning()
        self._clock = clock
        self._roots = roots
        self._folder = folder
        self._vault = Vault(SnapshotFolder(folder / "snapshots"), keys)
        self._memory: MemoryFolder | None = None
        self._shards: dict[str, Shard] = {}
        self._views = Views(clock)
        self._upto = 0
        self._replay_from = 0
        self._mark = ""
        self._waiting = 0
        self._faults: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._stopped = asyncio.Event()
        self._dirty, self._hurry, self._round = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._indexing: ThreadPoolExecutor | None = None
        self._searching: ThreadPoolExecutor | None = None

    # ---- life
    async def start(self) -> None:
        """See `SearchIndex.start`."""
        self._indexing = ThreadPoolExecutor(1, "search-index")
        self._searching = ThreadPoolExecutor(1, "search-query")
        await asyncio.to_thread(shutil.rmtree, self._folder / "plain", ignore_errors=True)
        self._memory = MemoryFolder.open(memory_roots() if self._roots is None else self._roots, "search")
        if self._memory is not None:
            try:
                restored = await self._vault.restore(self._root)
            except BaseException:
                self._close()
                raise
            self._replay_from = self._upto = restored.position
            self._mark = restored.mark
            for part in restored.shards:
                self._shards[part.tenant_id] = self._shard(part.tenant_id, part)
        self._tasks = [asyncio.create_task(self._commit_rounds()), asyncio.create_task(self._keep_house())]

    async def stop(self) -> None:
        """See `SearchIndex.stop`."""
        if not self._tasks or self._stopping:
            return
        self._stopping = True  # the tasks end by themselves: a commit or a seal under way is finished, not torn
        self._stopped.set()
        self._dirty.set()
        self._hurry.set()
        try:
            await asyncio.gather(*self._tasks)
            await self._commit_dirty()
            await self.snapshot()
        except Exception as error:  # the next start replays from the last snapshot: nothing is lost but time
            _LOG.warning("search_snapshot_failed", extra=fields(error=repr(error)))
        finally:
            for shard in self._shards.values():
                shard.engine.drop_writer()
            self._shards.clear()
            self._close()

    def _close(self) -> None:
        for pool in (self._indexing, self._searching):
            if pool is not None:
                pool.shutdown()
        if self._memory is not None:
            self._memory.close()

    def replay_from(self) -> int:
        """See `SearchIndex.replay_from`."""
        return self._replay_from

    def mark(self) -> str:
        """See `SearchIndex.mark`."""
        return self._mark

    async def check(self) -> None:
        """See `SearchIndex.check`."""
        for shard in self._shards.values():
            if shard.held_at is not None:
                raise IndexFault(
                    f"The search index of tenant {shard.tenant_id} has reached its memory bound of "
                    f"{self._tuning.bound_bytes} bytes; newer messages are not found. Raise search.bound_bytes or name "
                    "the tenant in search.plain_tenants, which keeps its index on disk with every word readable there."
                )
        for fault in self._faults.values():
            raise IndexFault(fault)

    # ---- changes
    async def apply(self, changes: Sequence[Put | Remove], *, upto: int, mark: str = "") -> None:
        """See `SearchIndex.apply`."""
        for change in changes:
            self._waiting += self._shard_of(change.tenant_id).take(change)
        self._upto = max(self._upto, upto)
        self._mark = mark or self._mark
        await self._pace()

    async def load(self, puts: Sequence[Put]) -> None:
        """See `SearchIndex.load`."""
        for put in puts:
            self._shard_of(put.tenant_id).pending.append(put)
        self._waiting += len(puts)
        await self._pace()

    async def _pace(self) -> None:
        self._dirty.set()
        while self._waiting > MOST_WAITING and not self._stopping:
            await self._next_round()

    async def flush(self) -> int:
        """See `SearchIndex.flush`. Raises: IndexFault when a tenant's changes can't be committed."""
        goal = self._upto
        while (reached := self._covered()) < goal and not self._held():
            await self._next_round()
            if self._faults:
                raise IndexFault(next(iter(self._faults.values())))
            if self._covered() == reached:  # a tenant's engine is being rewritten
                await asyncio.sleep(0.01)
        return reached

    def _covered(self) -> int:
        return min((shard.covered(self._upto) for shard in self._shards.values()), default=self._upto)

    def _held(self) -> bool:
        return not self._waiting and any(shard.held_at is not None for shard in self._shards.values())

    async def _next_round(self) -> None:
        self._hurry.set()
        self._dirty.set()
        await self._round.wait()

    async def _commit_rounds(self) -> None:
        while not self._stopping:
            await self._dirty.wait()
            self._dirty.clear()
            began_s = self._clock.monotonic()
            failed = await self._commit_dirty()
            took_s = self._clock.monotonic() - began_s
            self._round.set()
            self._round = asyncio.Event()
            if failed:
                self._dirty.set()
            pause_s = _RETRY_S if failed else max(self._tuning.commit_every_s, 9 * took_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self._hurry.wait()
            except TimeoutError:
                continue
            self._hurry.clear()

    async def _commit_dirty(self) -> bool:
        """Commit what waits, tenant by tenant; return whether one failed and has to be tried again."""
        failed = False
        for shard in list(self._shards.values()):
            if not shard.pending or shard.lock.locked():
                continue
            async with shard.lock:
                failed |= not await self._commit(shard)
        writing = sorted((s for s in self._shards.values() if s.engine.writing), key=lambda s: s.written_at_s)
        for shard in writing[:-MOST_WRITERS]:
            async with shard.lock:
                await self._run(shard.engine.rest)
        return failed

    async def _commit(self, shard: Shard) -> bool:
        batch = shard.begin()
        try:
            await shard.feed(batch)
            await self._run(shard.engine.commit)
        except IndexFault as fault:
            shard.give_back(batch)
            shard.engine.drop_writer()
            self._faults[shard.tenant_id] = str(fault)
            _LOG.warning("search_index_commit_failed", extra=fields(tenant_id=shard.tenant_id, error=str(fault)))
            return False
        shard.done(batch, self._clock.monotonic())
        self._waiting -= len(batch)
        self._faults.pop(shard.tenant_id, None)
        free_bytes = self._memory.free_bytes() if self._memory else None
        if shard.held_at is None and await self._run(shard.past_bound, free_bytes):
            shard.held_at = shard.taken
            _LOG.error(
                "search_index_bound_reached",
                extra=fields(tenant_id=shard.tenant_id, bound_bytes=self._tuning.bound_bytes),
            )
        return True

    # ---- searching
    async def search(self, tenant_id: str, sought: Sought, *, limit: int, cursor: str | None = None) -> FoundPage:
        """See `SearchIndex.search`."""
        mark = None if cursor is None else read_mark(cursor)
        shard = self._shards.get(tenant_id)
        if shard is None or self._searching is None:
            return FoundPage(hits=[], more=False)
        view = self._views.find(tenant_id, sought, mark)
        if view is not None:
            return _page(view, mark, limit)
        known = frozenset(shard.seqs) & sought.conversation_ids
        narrowed = msgspec.structs.replace(sought, conversation_ids=known)
        clauses = len(sought.words) + len(sought.phrases) + len(sought.without)
        if clauses <= SMALL_CLAUSES and shard.engine.searcher.num_docs <= SMALL_DOCUMENTS:
            view, page = _look(shard.engine, tenant_id, sought, narrowed, mark, limit)
        else:
            view, page = await self._query(_look, shard.engine, tenant_id, sought, narrowed, mark, limit)
        if page.more:
            self._views.keep(view)
        return page

    def indexed_up_to(self, tenant_id: str, conversation_ids: Iterable[str]) -> Mapping[str, int]:
        """See `SearchIndex.indexed_up_to`."""
        shard = self._shards.get(tenant_id)
        seqs = shard.seqs if shard else {}
        return {conversation_id: seqs.get(conversation_id, 0) for conversation_id in conversation_ids}

    # ---- keeping house
    async def purge(self, tenant_id: str, field: Field, value: str) -> int:
        """See `SearchIndex.purge`."""
        await self.flush()
        shard = self._shards.get(tenant_id)
        if shard is None:
            return 0
        async with shard.lock:
            gone: int = await self._run(shard.remove_all, field, value)
            await shard.rewrite(self._run)
            self._views.forget(tenant_id)
        await self.snapshot()
        return gone

    async def count(self, tenant_id: str, field: Field, value: str) -> int:
        """See `SearchIndex.count`."""
        await self.flush()
        shard = self._shards.get(tenant_id)
        if shard is None:
            return 0
        async with shard.lock:
            found: int = await self._run(shard.engine.count, field, value)
        return found

    async def clear(self) -> None:
        """See `SearchIndex.clear`."""
        for shard in list(self._shards.values()):
            async with shard.lock:
                self._waiting -= len(shard.begin())
                del self._shards[shard.tenant_id]
                self._views.forget(shard.tenant_id)
                shard.engine.drop_writer()
                if shard.root is not None:
                    await self._run(shutil.rmtree, shard.root, True)
        self._upto = self._replay_from = 0
        self._mark = ""
        await self._vault.drop_all()

    async def snapshot(self) -> None:
        """Seal what changed since the last snapshot. Raises what keys and disk raise; the last one stays then."""
        if self._memory is not None:
            await self._vault.save(self._shards, self._covered, lambda: self._upto, lambda: self._mark)

    async def _keep_house(self) -> None:
        tick_s = min(5.0, self._tuning.snapshot_every_s)
        due_s = self._clock.monotonic() + self._tuning.snapshot_every_s
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(tick_s):
                    await self._stopped.wait()
            now_s = self._clock.monotonic()
            self._views.forget_old()
            for shard in list(self._shards.values()):
                if shard.engine.writing and now_s - shard.written_at_s > self._tuning.rest_after_s:
                    async with shard.lock:
                        await self._run(shard.engine.rest)
            if now_s >= due_s:
                due_s = now_s + self._tuning.snapshot_every_s
                await self._tidy(now_s)

    async def _tidy(self, now_s: float) -> None:
        try:
            for shard in list(self._shards.values()):
                if shard.wants_rewrite(now_s, self._tuning.dead_keep_s):
                    async with shard.lock:
                        await shard.rewrite(self._run)
            await self.snapshot()
            self._faults.pop("", None)
        except Exception as error:
            self._faults[""] = f"The search index could not be saved ({type(error).__name__})."
            _LOG.warning("search_snapshot_failed", extra=fields(error=repr(error)))

    # ---- parts
    def _shard_of(self, tenant_id: str) -> Shard:
        shard = self._shards.get(tenant_id)
        if shard is None:
            shard = self._shards[tenant_id] = self._shard(tenant_id, None)
        return shard

    def _root(self, tenant_id: str) -> Path | None:
        """Return a new place for a tenant's working copy: in memory, or on the disk where the settings accept that.

        Never one that was used: a merge under way may still write to the folder of an index that was dropped.
        """
        name = f"{self._vault.folder_name(tenant_id)}-{secrets.token_hex(4)}"
        if tenant_id in self._tuning.plain_tenants:
            return self._folder / "plain" / name
        return self._memory.path / name if self._memory else None

    def _shard(self, tenant_id: str, part: Restored | None) -> Shard:
        bounded = tenant_id not in self._tuning.plain_tenants
        shard = Shard(
            tenant_id,
            part.root if part else self._root(tenant_id),
            position=part.position if part else 0,
            seqs=part.seqs if part else {},
            bound_bytes=self._tuning.bound_bytes if bounded else None,
        )
        shard.saved = part is not None
        return shard

    async def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._indexing, call, *arguments)

    async def _query(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._searching, call, *arguments)


def _look(
    engine: TantivyIndex, tenant_id: str, sought: Sought, narrowed: Sought, mark: Mark | None, limit: int
) -> tuple[View, FoundPage]:
    searcher = engine.searcher
    ranked = engine.search(searcher, narrowed, MAX_DEPTH)
    view = make_view(tenant_id, sought, searcher, ranked)
    return view, _page(view, mark, limit)


def _page(view: View, mark: Mark | None, limit: int) -> FoundPage:
    start, hits = view.after(mark), []
    for passed, (score, at_us, address) in enumerate(view.ranked[start : start + limit], start + 1):
        entry = entry_at(view.searcher, address)
        hits.append(
            Found(
                message_id=entry.message_id,
                conversation_id=entry.conversation_id,
                seq=entry.seq,
                sender_id=entry.sender_id,
                kind=entry.kind,
                at_us=entry.at_us,
                version=entry.version,
                score=-score,
                after=write_mark(Mark(view=view.view_id, passed=passed, score=score, at_us=at_us)),
            )
        )
    return FoundPage(hits=hits, more=len(view.ranked) > start + limit)
