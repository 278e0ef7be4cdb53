"""A real installation and a real Chromium; without the latter the tests are skipped, and say so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from sealwire.testing.chromium import Chromium, ChromiumMissing
from sealwire.testing.installation import Installation


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    data: Path = tmp_path_factory.mktemp("installation") / "data"
    running = Installation(data).start()
    yield running
    running.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chromium]:
    try:
        browser = Chromium(tmp_path_factory.mktemp("chromium"))
    except ChromiumMissing as missing:
        pytest.skip(str(missing))
    async with browser:
        yield browser
