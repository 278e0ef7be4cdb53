"""Opens a port's implementation by family, so that one suite runs over all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from sealwire.adapters.embedded.index import IndexTuning, TantivySearchIndex
from sealwire.kit.clock import Clock, SystemClock
from sealwire.ports.index import SearchIndex, SnapshotKeys
from sealwire.testing.snapshot_keys import LocalSnapshotKeys

FAMILIES = ("embedded",)
"""The families that are there; suites take them as parameters, so that another one joins here."""


@asynccontextmanager
async def open_index(
    family: str,
    folder: Path,
    *,
    keys: SnapshotKeys | None = None,
    clock: Clock | None = None,
    tuning: IndexTuning | None = None,
    roots: Iterable[Path] | None = None,
) -> AsyncIterator[SearchIndex]:
    """Give a started search index that keeps its state in `folder`; opening it again there is a restart.

    Raises: ValueError for a family that isn't there.
    """
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r}")
    index = TantivySearchIndex(
        folder=folder, keys=keys or LocalSnapshotKeys(), clock=clock or SystemClock(), tuning=tuning, roots=roots
    )
    await index.start()
    try:
        yield index
    finally:
        await index.stop()
