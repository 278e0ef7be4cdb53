"""Engines of the distributed family, one of each for all suites; where one is not there its tests skip and say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sealwire.testing.engines import RedisServer, binary


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RedisServer]]:
    """Return a running Redis or Valkey server by its name."""
    running: dict[str, RedisServer] = {}

    def of(flavour: str) -> RedisServer:
        if flavour not in running:
            if binary(flavour) is None:
                pytest.skip(f"no {flavour} server on this machine (requirements/dev.txt brings one)")
            running[flavour] = RedisServer(tmp_path_factory.mktemp(flavour), flavour=flavour).start()
        return running[flavour]

    yield of
    for server in running.values():
        server.kill()
