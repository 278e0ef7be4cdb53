"""What all tests share: how hypothesis searches, and that nobody leaves a working copy behind in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest.mock import patch

import httpx
import pytest
from httpx._transports import default as httpx_transports
from hypothesis import HealthCheck, settings

from sealwire.adapters.embedded.drivers.memory_folder import remove_stale
from sealwire.testing import new_files

# Times are no property of ours on a machine shared with others; a failing example prints how to run it again.
# The examples follow from the test's own text: a commit passes or fails wherever and whenever it is tested. Others are
# looked for with `--hypothesis-profile=search`.
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("search", deadline=None, print_blob=True, derandomize=False, suppress_health_check=QUIET)
settings.register_profile("sealwire", settings.get_profile("search"), derandomize=True, database=None)
settings.load_profile("sealwire")

BARE_CALL_S = 60.0
for part in ("connect", "read", "write", "pool"):  # of a call that names no timeout: 5 s are few on a busy machine
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, part, BARE_CALL_S)

MEMORY = Path("/dev/shm")
LONG_FIRST = ("fault", "integration", "browser", "contract")
"""Files of these begin in this order, all others after them: at the end no worker has a long one left to itself."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return LONG_FIRST.index(folder) if folder in LONG_FIRST else len(LONG_FIRST)

    items.sort(key=turn)


@pytest.fixture(scope="session", autouse=True)
def _new_databases_are_copies() -> Iterator[None]:
    with new_files.copied():
        yield


@pytest.fixture(scope="session", autouse=True)
def _authorities_are_read_once() -> Iterator[None]:
    """By default httpx reads all of the machine's for each client, for plain HTTP too: most of a request's cost."""
    with patch.object(httpx_transports, "create_ssl_context", cache(httpx_transports.create_ssl_context)):
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_readable_stays_in_memory() -> Iterator[None]:
    """A killed installation's working copy goes with the next start; tests that kill the last one remove it here."""
    yield
    if MEMORY.is_dir():
        remove_stale(MEMORY, f"sealwire-search-{os.getuid()}-")
