"""Evidence out of a running installation by the command line: verified live, mirrored, bundled, across new keys."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sealwire.testing.installation import Installation, Person

JSON = {"accept": "application/json"}


def sealwire(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sealwire.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def verdict(*arguments: object) -> dict[str, Any]:
    done = sealwire("audit", "verify", *arguments, "--json")
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1)
    return found


@pytest.fixture
def alone(stranger) -> Person:
    """The owner of a tenant of its own, with some history."""
    alone = stranger("auditor")
    room = alone.converse()
    for i in range(20):
        alone.send(room, f"{i}")
    deadline = time.monotonic() + 60
    while len(messages(alone)) < 20:
        assert time.monotonic() < deadline, "the records never came"
        time.sleep(0.1)
    return alone


def messages(person: Person) -> list[Any]:
    return list(person.http.get("/compliance/audit", params={"action": "message.created"}).json()["items"])


def key_of(person: Person, folder: Path) -> Path:
    path = folder / "log.key"
    path.write_text(person.http.get("/compliance/audit/checkpoint", headers=JSON).json()["first_key"] + "\n")
    return path


def test_a_live_log_is_verified_against_the_key_and_a_checkpoint_held(installation, alone, tmp_path):
    at = ("--url", installation.url, "--token", alone.token)
    key = key_of(alone, tmp_path)
    held = tmp_path / "held"
    held.write_text(alone.http.get("/compliance/audit/checkpoint").text)
    alone.send(alone.converse(), "later")
    found = verdict(*at, "--key", key, "--checkpoint", held)
    assert (found["ok"], found["key_confirmed"], found["fault"]) == (True, True, None)
    assert found["covered"] == found["records"] > 20
    assert verdict(*at)["key_confirmed"] is False
    said = sealwire("audit", "verify", *at).stdout
    assert "compare it with the one you know" in said
    other = Person(installation.url, "other", f"selftest-{secrets.token_hex(6)}")
    foreign = verdict("--url", installation.url, "--token", other.token, "--key", key)
    assert foreign["fault"]["kind"] == "checkpoint", "another log's key vouches for nothing here"
    assert sealwire("audit", "verify", "--url", installation.url, "--token", "nonsense").returncode == 1
    assert sealwire("audit", "verify").returncode == 2
    assert sealwire("audit", "verify", "--url", installation.url).returncode == 2


def test_a_mirror_and_a_bundle_are_verified_offline(installation, alone, tmp_path):
    at = ("--url", installation.url, "--token", alone.token)
    key = key_of(alone, tmp_path)
    folder = tmp_path / "mirror"
    for _ in range(2):  # the second time it is brought up to date
        assert sealwire("audit", "mirror", folder, *at).returncode == 0
    found = verdict(folder, "--key", key)
    assert (found["ok"], found["covered"] > 0) == (True, True)
    entries = max((folder / "tile" / "entries").rglob("*.p/*"), key=lambda path: int(path.name))  # the newest
    content = entries.read_bytes()
    entries.write_bytes(content.replace(b"message.created", b"message.deleted", 1))
    assert verdict(folder, "--key", key)["fault"]["kind"] == "changed"

    # The folder is not talked into another log, nor into a shorter one.
    for name, old, new in (
        ("keys.json", b"+", b"x+"),
        ("checkpoint", b"\n", b"\n9"),
    ):
        before = (folder / name).read_bytes()
        held = before.replace(old, new, 1)
        (folder / name).write_bytes(held)
        refused = sealwire("audit", "mirror", folder, *at)
        assert (refused.returncode, (folder / name).read_bytes()) == (1, held), refused.stderr
        (folder / name).write_bytes(before)

    bundle = tmp_path / "evidence.json"
    assert sealwire("audit", "bundle", bundle, *at, "--action", "message.created").returncode == 0
    found = verdict(bundle, "--key", key)
    assert (found["ok"], found["records"], found["covered"]) == (True, 20, 20)
    assert found["chosen_by"] == {"action": "message.created"}
    told = sealwire("audit", "verify", bundle, "--key", key).stdout
    assert "chosen by action=message.created: each is proved to be in the log, and not that none was left out" in told
    assert verdict(bundle)["key_confirmed"] is False
    bundle.write_text(bundle.read_text().replace('"outcome":"success"', '"outcome":"failure"', 1))
    assert verdict(bundle, "--key", key)["fault"]["kind"] == "changed"

    export = tmp_path / "audit.ndjson"
    assert sealwire("audit", "export", export, *at).returncode == 0
    assert verdict(export, "--key", key)["ok"] is True
    assert "\nseq 1 to " in sealwire("audit", "verify", export, "--key", key).stdout
    assert json.loads(export.read_text().splitlines()[0])["manifest"]["tenant_id"] == alone.user["tenant_id"]


def test_an_installations_checkpoint_keys_are_rotated_and_the_first_stays_enough(installation, alone, tmp_path):
    at = ("--url", installation.url, "--token", alone.token)
    key = key_of(alone, tmp_path)
    held = tmp_path / "held"
    held.write_text(alone.http.get("/compliance/audit/checkpoint").text)
    done = sealwire("keys", "rotate-checkpoint", "--data", installation.data, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == "done"
    assert told["key_ids"]
    alone.send(alone.converse(), "under the new key")
    head = alone.http.get("/compliance/audit/checkpoint", headers=JSON).json()
    assert head["public_key"] != head["first_key"]
    assert len(head["rotations"]) == 1
    found = verdict(*at, "--key", key, "--checkpoint", held)
    assert found["ok"] is True, found
    assert alone.http.get("/compliance/audit/verify").json()["ok"] is True


def test_a_rotation_asked_for_while_nothing_runs_is_the_next_starts_first_work(tmp_path):
    running = Installation(tmp_path / "data").start()
    owner = Person(running.url, "owner")
    owner.http.get("/compliance/audit/checkpoint")
    assert running.stop() == 0
    done = sealwire("keys", "rotate-checkpoint", "--data", running.data)
    assert done.returncode == 0
    assert "queued" in done.stdout
    assert "next start" in done.stdout
    running.start()
    try:
        deadline = time.monotonic() + 60
        while not owner.http.get("/compliance/audit/checkpoint", headers=JSON).json()["rotations"]:
            assert time.monotonic() < deadline, "never rotated"
            time.sleep(0.1)
    finally:
        running.kill()
