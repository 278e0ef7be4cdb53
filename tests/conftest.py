"""What all tests share: how hypothesis searches, and that nobody leaves a working copy behind in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sealwire.adapters.embedded.drivers.memory_folder import remove_stale

# Times are no property of ours on a machine shared with others; a failing example prints how to run it again.
settings.register_profile(
    "sealwire", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("sealwire")

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session", autouse=True)
def _nothing_readable_stays_in_memory() -> Iterator[None]:
    """A killed installation's working copy goes with the next start; tests that kill the last one remove it here."""
    yield
    if MEMORY.is_dir():
        remove_stale(MEMORY, f"sealwire-search-{os.getuid()}-")
