"""SIGKILL in the middle of a retention run, and right after a hold: the run ends exact, the hold holds."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest

from sealwire.testing.installation import Installation, Person

pytestmark = pytest.mark.timeout(300)  # it starts an installation five times
DAY_US = 86_400_000_000
MESSAGES = 36
KILLS = 3
PAUSE = "SEALWIRE_COMPLIANCE__RETENTION_PAUSE_MS"
PAUSE_S = 1.0
"""Long, so that whoever looks on is in time between two batches, however late their turn comes."""
SLOW = {
    "SEALWIRE_COMPLIANCE__RETENTION_BATCH": "2",
    PAUSE: str(round(PAUSE_S * 1_000)),
    "SEALWIRE_COMPLIANCE__RETENTION_EVERY_S": "0",
}


def age(data: Path, days: int) -> None:
    """Make all messages older, while nothing runs."""
    db = apsw.Connection(str(data / "messaging.db"))
    db.execute("UPDATE message SET created_at_us = created_at_us - ?", (days * DAY_US,))
    db.close()


def part(run: dict[str, Any]) -> dict[str, Any]:
    return dict(run["parts"][0])


def test_a_run_that_is_killed_again_and_again_ends_exact(tmp_path: Path) -> None:
    env, chance = dict(SLOW), Random(7)
    installation = Installation(tmp_path / "data", env=env).start()
    try:
        anna, ben = (Person(installation.url, name) for name in ("anna", "ben"))
        room = anna.converse(ben)
        for number in range(MESSAGES):
            (anna if number % 3 else ben).send(room, f"number {number}")
        kept = [number for number in range(MESSAGES) if number % 3 == 0]
        installation.stop()
        age(installation.data, 40)
        installation.start()
        policy = {"keep_days": 30, "action": "tombstone"}
        assert anna.http.put("/compliance/retention/policies/messages", json=policy).status_code == 200
        held = anna.http.post("/compliance/holds", json={"reason": "case", "subject_id": ben.user_id})
        assert (held.status_code, held.json()["state"]) == (200, "in_force")
        installation.kill()
        installation.start()
        run_id = anna.http.post("/compliance/retention/runs").json()["run_id"]
        run: dict[str, Any] = {}
        kills = counted_before = 0
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            run = anna.http.get(f"/compliance/retention/runs/{run_id}").json()
            if run["status"] == "done":
                break
            if kills < KILLS and part(run)["disposed"] > counted_before:
                counted_before = part(run)["disposed"]
                time.sleep(chance.uniform(0, 1.1 * PAUSE_S))  # between two batches, or in the middle of one
                kills += 1
                installation.kill()
                env[PAUSE] = "0" if kills == KILLS else env[PAUSE]
                installation.start()
            time.sleep(0.02)
        assert (run["status"], kills) == ("done", KILLS)
        counted = {name: part(run)[name] for name in ("due", "kept", "listed", "disposed", "held", "missing")}
        disposed = MESSAGES - len(kept)
        assert counted == {
            "due": MESSAGES, "kept": len(kept), "listed": disposed, "disposed": disposed, "held": 0, "missing": 0,
        }  # fmt: skip
        items = anna.http.get(f"/conversations/{room}/messages?after_seq=0&limit=200").json()["items"]
        assert [item["seq"] - 1 for item in items if item["body"] is not None] == kept
    finally:
        installation.kill()
