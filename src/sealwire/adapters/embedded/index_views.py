"""Stills of searches that are paged through, so that a later page continues the order of the first."""

from __future__ import annotations

import re
import secrets
import struct
from bisect import bisect_right
from collections import OrderedDict
from typing import Any

import msgspec

from sealwire.adapters.embedded.drivers.tantivy import Ranked
from sealwire.kit.clock import Clock
from sealwire.ports.index import BadCursor, Sought

VIEWS, VIEW_TTL_S = 64, 60.0
_CURSOR = re.compile(r"([0-9a-f]{16})\.(\d{1,4})\.([0-9a-f]{8})\.(-?\d{1,18})", re.ASCII)
_SCORE = struct.Struct(">f")


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page ended: which view, how many hits were passed, and the last one's place in the order (negated)."""

    view: str
    passed: int
    score: float
    at_us: int


def write_mark(mark: Mark) -> str:
    """Return the cursor for a mark."""
    return f"{mark.view}.{mark.passed}.{_SCORE.pack(mark.score).hex()}.{mark.at_us}"


def read_mark(cursor: str) -> Mark:
    """Read a cursor. Raises: BadCursor."""
    if (match := _CURSOR.fullmatch(cursor)) is None:
        raise BadCursor("The cursor is none of ours.")
    view, passed, score, at_us = match.groups()
    return Mark(view=view, passed=int(passed), score=_SCORE.unpack(bytes.fromhex(score))[0], at_us=int(at_us))


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A search's hits in order, in the state of the index in which they were found."""

    view_id: str
    tenant_id: str
    sought: Sought
    searcher: Any
    ranked: list[Ranked]

    def after(self, mark: Mark | None) -> int:
        """Return the index of the first hit after the mark, whether it was set in this view or in one that is gone."""
        if mark is None:
            return 0
        if mark.view == self.view_id:
            return mark.passed
        return bisect_right(self.ranked, (mark.score, mark.at_us), key=lambda hit: hit[:2])


def make_view(tenant_id: str, sought: Sought, searcher: Any, ranked: list[Ranked]) -> View:
    """Return a new view."""
    return View(view_id=secrets.token_hex(8), tenant_id=tenant_id, sought=sought, searcher=searcher, ranked=ranked)


class Views:
    """The newest views, bounded in number and age: each keeps files of the index in memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._views: OrderedDict[str, tuple[float, View]] = OrderedDict()

    def keep(self, view: View) -> None:
        """Keep a view for a while."""
        self.forget_old()
        self._views[view.view_id] = (self._clock.monotonic() + VIEW_TTL_S, view)
        while len(self._views) > VIEWS:
            self._views.popitem(last=False)

    def find(self, tenant_id: str, sought: Sought, mark: Mark | None) -> View | None:
        """Return the view the mark was set in, if it is still there and was of the very same search."""
        kept = self._views.get(mark.view) if mark else None
        if kept is None or kept[0] < self._clock.monotonic():
            return None
        view = kept[1]
        return view if view.tenant_id == tenant_id and view.sought == sought else None

    def forget_old(self) -> None:
        """Let go of views past their time."""
        now_s = self._clock.monotonic()
        while self._views and next(iter(self._views.values()))[0] < now_s:
            self._views.popitem(last=False)

    def forget(self, tenant_id: str) -> None:
        """Let go of a tenant's views."""
        for view_id in [view.view_id for _, view in self._views.values() if view.tenant_id == tenant_id]:
            del self._views[view_id]
