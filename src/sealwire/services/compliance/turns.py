"""Turns: at most so many of a costly thing at once, half of them for one tenant; others are told when to come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sealwire.kit.problem import Unavailable

RETRY_AFTER_S: Final = 2.0


class Turns:
    """`with turns.one(tenant_id): …`. Nobody waits here: what waits would hold a connection and be forgotten."""

    def __init__(self, *, at_once: int, what: str) -> None:
        self._most = at_once
        self._of_tenant = max(1, at_once // 2)
        self._what = what
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many turns are taken."""
        return self._taken.total()

    @contextmanager
    def one(self, tenant_id: str) -> Iterator[None]:
        """Take a turn. Raises: Unavailable, with when to come back, when all are taken."""
        if self.taken >= self._most or self._taken[tenant_id] >= self._of_tenant:
            raise Unavailable(f"As many {self._what} as may be are being made.", retry_after_s=RETRY_AFTER_S)
        self._taken[tenant_id] += 1
        try:
            yield
        finally:
            self._taken[tenant_id] -= 1
            if not self._taken[tenant_id]:
                del self._taken[tenant_id]
