"""Sliding window: calls, failures and slow calls of the last seconds, in buckets."""

from __future__ import annotations

from collections import deque


class RateWindow:
    """Counts over time. The current bucket's counters are plain attributes, so that counting a call is one addition.

    The window covers the current bucket and the whole ones before it: between `window_s - window_s / buckets` and
    `window_s` seconds. Source of the shape: resilience4j's time-based sliding window.
    """

    __slots__ = ("_bucket_s", "_past", "calls", "end_s", "failures", "lifetime_calls", "slow")

    def __init__(self, *, window_s: float, buckets: int, now_s: float) -> None:
        self._bucket_s = window_s / buckets
        self._past: deque[tuple[int, int, int]] = deque(maxlen=max(buckets - 1, 1))
        self.calls = self.failures = self.slow = 0
        self.lifetime_calls = 0
        self.end_s = now_s + self._bucket_s

    def roll(self, now_s: float) -> None:
        """Close the buckets that ended before `now_s`. Call it when `now_s >= end_s`."""
        steps = int((now_s - self.end_s) / self._bucket_s) + 1
        kept = self._past.maxlen or 1
        self._past.append((self.calls, self.failures, self.slow))
        if steps > 1:
            self._past.extend([(0, 0, 0)] * min(steps - 1, kept))
        self._fold()
        self.end_s += steps * self._bucket_s
        if self.end_s <= now_s:  # the division above rounded down
            self.end_s = now_s + self._bucket_s

    def forget(self, now_s: float) -> None:
        """Start over with an empty window; the lifetime count goes on."""
        self._past.clear()
        self._fold()
        self.end_s = now_s + self._bucket_s

    def totals(self) -> tuple[int, int, int]:
        """Return calls, failures and slow calls in the window."""
        calls, failures, slow = self.calls, self.failures, self.slow
        for past in self._past:
            calls, failures, slow = calls + past[0], failures + past[1], slow + past[2]
        return calls, failures, slow

    @property
    def all_calls(self) -> int:
        """Calls counted since the beginning, those that left the window included."""
        return self.lifetime_calls + self.calls

    def _fold(self) -> None:
        self.lifetime_calls += self.calls
        self.calls = self.failures = self.slow = 0
