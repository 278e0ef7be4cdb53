"""New databases for tests: copies of one that the same migrations made, for making it is most of a short test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from unittest.mock import patch

from sealwire.adapters.embedded.drivers import sqlite

FEW: Final = 2
"""Schemas of this many steps are tests' own: of how a schema is made, some of them."""

Migrate = Callable[[Path, str, Sequence[str]], None]


@contextmanager
def copied() -> Iterator[None]:
    """Let the first file of each schema in this process be made by its migrations, and others begin as copies of it.

    What a migration draws by lot is drawn for each file: such schemas are never copied; nor is anything on a VFS of a
    test's own. A file that is there already is migrated as ever.
    """
    migrate: Migrate = sqlite._migrate
    made: dict[tuple[str, ...], bytes] = {}

    def or_copy(path: Path, vfs: str, migrations: Sequence[str]) -> None:
        steps = tuple(migrations)
        if vfs or len(steps) <= FEW or path.exists() or any("random" in step.lower() for step in steps):
            migrate(path, vfs, migrations)
        elif steps in made:
            path.touch(0o600)
            path.write_bytes(made[steps])
        else:
            migrate(path, vfs, migrations)
            made[steps] = path.read_bytes()

    with patch.object(sqlite, "_migrate", or_copy):
        yield
