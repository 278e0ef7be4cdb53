"""A stop that was asked for: nothing is cut off, nothing fails, and the last change reaches the audit log."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from sealwire.testing.installation import Installation, Person


@pytest.fixture
def installation(tmp_path: Path):
    """One whose relays hardly rest."""
    running = Installation(tmp_path / "data", env={"SEALWIRE_COMPLIANCE__RELAY_WAIT_S": "0.01"}).start()
    yield running
    running.kill()


def waiting(database: Path) -> int:
    """Return how many events of a stopped service were not handed to compliance."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        newest = db.execute("SELECT coalesce(max(position), 0) FROM outbox").fetchone()[0]
        done = db.execute("SELECT position FROM consumer_position WHERE consumer LIKE '%-audit'").fetchone()
    return int(newest) - int(done[0] if done else 0)


def test_the_relays_end_before_what_they_write_to(installation):
    """Crypto starts before compliance and outlives it; its relay must not."""
    owner = Person(installation.url, "owner")
    for _ in range(3):
        assert owner.http.post("/crypto/keys", json={"key_type": "hmac-sha256"}).status_code == 201
    assert installation.stop() == 0
    told = installation.log.read_text()
    assert "Traceback" not in told, told[-4000:]
    assert "Closed" not in told, told[-4000:]
    assert waiting(installation.data / "auth.db") == 0
