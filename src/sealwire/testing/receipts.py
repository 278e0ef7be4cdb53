"""What an installation itself measured of its changes: how long until they were in force, on its own clock.

A test's clock also counts how long the test waited for its turn on a busy machine.
"""

from __future__ import annotations

import time
from typing import Any, Final

import httpx

PATIENCE_S: Final = 40.0
EVERYWHERE: Final = frozenset({
    "fallback_session_provider", "journal", "jwt_token_adapter", "websocket_auth_gateway",
    "session_validation_normalizer", "socket1", "socket2",
})  # fmt: skip
"""The boundaries of an installation in one process."""


def latest(http: httpx.Client, kind: str) -> dict[str, Any]:
    """Return the receipt of the newest change of this kind, once it is in force everywhere.

    `http` carries the credential of somebody who may see details. Raises: AssertionError when that does not come about.
    """
    url = httpx.URL(http.base_url).copy_with(path="/api/integration-health/service-boundary-coordinator")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        seen = http.get(url).json()
        found: dict[str, Any] | None = next((r for r in seen.get("latest_changes", ()) if r["kind"] == kind), None)
        if found is not None and found["applied"].keys() >= EVERYWHERE:
            return found
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)


def slowest_s(receipt: dict[str, Any]) -> float:
    """Return how long it took until the change was in force everywhere. Raises: AssertionError for a fault."""
    faults = {where: applied["fault"] for where, applied in receipt["applied"].items() if applied["fault"]}
    assert not faults, faults
    return max(float(applied["took_us"]) for applied in receipt["applied"].values()) / 1_000_000
