"""Who is measured: our installation and the reference side by side, with the same people in the same room."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.fastify import Fastify, Unavailable
from benchmarks.harness.sealwire import Sealwire


@dataclass(frozen=True, kw_only=True)
class Side:
    """A running server with people, all of them in one room."""

    server: Any
    people: list[Any]
    room: Any

    def person(self, number: int) -> Any:
        """Return one of the people, again from the first when there are fewer."""
        return self.people[number % len(self.people)]


@dataclass(kw_only=True)
class Contest:
    """The sides that could be started, and why the others could not."""

    sides: dict[str, Side] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


@contextmanager
def contest(people: int, *, reference: bool = True) -> Iterator[Contest]:
    """Start both sides on data of their own with this many people each; stop them at the end."""
    found = Contest()
    starts: dict[str, Any] = {"sealwire": lambda folder: Sealwire(folder / "data")}
    if reference:
        starts["fastify"] = lambda folder: Fastify(folder / "fastify")
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as name, ExitStack() as servers:
        for side, start in starts.items():
            try:
                server = start(Path(name))
            except (Unavailable, RuntimeError) as error:
                found.skipped.append(f"{side}: {error}")
                continue
            servers.callback(server.stop)
            members = [server.register(f"person{number}") for number in range(people)]
            found.sides[side] = Side(server=server, people=members, room=server.room(members[0], members[1:]))
        yield found
