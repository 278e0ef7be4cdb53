"""Breakers by name, so that health, metrics and the coordinator see every one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sealwire.kit.clock import Clock
from sealwire.resilience.breaker import Breaker, BreakerRules, Listener, State
from sealwire.resilience.failure import is_failure


class Registry:
    """All breakers of one process."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}
        self._listeners: list[Listener] = []

    def breaker(
        self,
        name: str,
        rules: BreakerRules | None = None,
        *,
        is_failure: Callable[[Exception], bool] = is_failure,
    ) -> Breaker:
        """Return the breaker of this name; the first call makes it, with these rules."""
        if (known := self._breakers.get(name)) is not None:
            return known
        breaker = Breaker(name=name, clock=self._clock, rules=rules, is_failure=is_failure)
        for listener in self._listeners:
            breaker.listen(listener)
        self._breakers[name] = breaker
        return breaker

    def listen(self, listener: Listener) -> None:
        """Have every transition of every breaker, present and future, told to `listener`."""
        self._listeners.append(listener)
        for breaker in self._breakers.values():
            breaker.listen(listener)

    def __iter__(self) -> Iterator[Breaker]:
        return iter(self._breakers.values())

    def __len__(self) -> int:
        return len(self._breakers)

    @property
    def active(self) -> int:
        """How many breakers are not closed."""
        return sum(breaker.state is not State.CLOSED for breaker in self._breakers.values())
