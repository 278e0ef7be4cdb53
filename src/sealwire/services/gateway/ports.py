"""What the gateway asks of storage: a board on which several processes count together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class CountBoard(Protocol):
    """Counters that several gateways share, and who they are. It may lose everything at any time.

    `add` adds each amount to its counter and returns the new totals in the same order, and how many members were seen
    within `member_ttl_s`. A counter ends `ttl_s` after it began. Each counter's change is atomic; an answer that does
    not come leaves open whether it was counted.

    Redis, Valkey: one script of `INCRBY`, `PEXPIRE` and a sorted set of members, so one round trip and no counter
    without an end. There is no embedded one: a process that shares with nobody asks nobody.
    """

    async def add(
        self, counts: Mapping[str, int], *, ttl_s: float, member: str, member_ttl_s: float
    ) -> tuple[Sequence[int], int]:
        """Raises: ConnectionError when the board does not answer as it should, within its own time limit."""
