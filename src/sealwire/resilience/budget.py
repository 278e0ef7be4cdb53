"""Retry budget: retries are a share of the calls, so that they never multiply an outage."""

from __future__ import annotations

from sealwire.kit.clock import Clock


class RetryBudget:
    """A token bucket. Each first attempt deposits `ratio` tokens, each retry takes one.

    Over any span the retries allowed are at most `cap + ratio * calls + per_s * seconds`. `per_s` lets a client that
    calls rarely retry at all. Source: Finagle's RetryBudget.
    """

    __slots__ = ("_at_s", "_cap", "_clock", "_per_s", "_ratio", "_tokens", "refused")

    def __init__(self, *, clock: Clock, ratio: float = 0.1, per_s: float = 1.0, cap: float = 20.0) -> None:
        if not 0 <= ratio <= 1 or per_s < 0 or cap < 1:
            raise ValueError("0 <= ratio <= 1, per_s >= 0, cap >= 1")
        self._clock = clock
        self._ratio, self._per_s, self._cap = ratio, per_s, cap
        self._tokens = cap
        self._at_s = clock.monotonic()
        self.refused = 0

    def deposit(self) -> None:
        """Count a first attempt."""
        tokens = self._tokens + self._ratio
        self._tokens = tokens if tokens < self._cap else self._cap

    def withdraw(self) -> bool:
        """Take the token of one retry; False when there is none."""
        now_s = self._clock.monotonic()
        self._tokens = min(self._cap, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return True
        self.refused += 1
        return False

    @property
    def tokens(self) -> float:
        """Tokens as of the last deposit or withdrawal."""
        return self._tokens
