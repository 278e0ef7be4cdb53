"""A contract within this process, behind its guard: the same interface, every operation judged by the breaker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

from sealwire.kit.caller import Caller
from sealwire.kit.carrying import check_service
from sealwire.kit.operation import Operation
from sealwire.kit.problem import Forbidden
from sealwire.resilience.breaker import BreakerSnapshot, State
from sealwire.resilience.guard import Guard

T = TypeVar("T")


class Guarded:
    """Calls the operations of `implementation` through `guard`; all else it has is reached directly."""

    def __init__(self, implementation: object, operations: Mapping[str, Operation], guard: Guard) -> None:
        self._implementation = implementation
        self._guard = guard
        for name, operation in operations.items():
            setattr(self, name, _through(guard, operation, getattr(implementation, name)))

    def is_healthy(self) -> bool:
        """Whether calls go through at the moment."""
        return self._guard.breaker.state is not State.OPEN

    def get_circuit_breaker_state(self) -> BreakerSnapshot:
        """Return the breaker's state, counts and last transitions."""
        return self._guard.breaker.snapshot()

    def clear_cache(self) -> None:
        """Forget what is cached; here nothing is, unless the implementation has a cache of its own."""
        clear = getattr(self._implementation, "clear_cache", None)
        if clear is not None:
            clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._implementation, name)


def guarded(implementation: T, operations: Mapping[str, Operation], guard: Guard) -> T:
    """Return `implementation` behind `guard`, with the same methods."""
    return cast(T, Guarded(implementation, operations, guard))


def _through(guard: Guard, operation: Operation, fn: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    call, repeat = guard.call, operation.repeat

    def method(caller: Caller, *args: Any) -> Awaitable[Any]:
        if caller.service:
            try:
                check_service(operation, caller)
            except Forbidden as refused:
                return _fail(refused)
        return call(repeat, fn, caller, *args)

    method.__name__ = method.__qualname__ = getattr(fn, "__name__", "operation")
    method.__doc__ = fn.__doc__
    return method


async def _fail(refused: Forbidden) -> Any:
    raise refused
