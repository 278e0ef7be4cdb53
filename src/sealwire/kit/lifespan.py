"""What has a start and an end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

Probe = Callable[[], Awaitable[str | None]]
"""Raises when the dependency does not work; may return what is worth telling of it."""


class Component(Protocol):
    """A part that the supervisor starts in order and stops in reverse."""

    async def start(self) -> None:
        """Be ready on return. Raises what made it fail."""

    async def stop(self) -> None:
        """Take no new work, finish what is in flight, flush. Safe to call twice."""

    def checks(self) -> Mapping[str, Probe]:
        """Return the dependencies by name; a probe raises when its dependency does not work."""
