"""The life of docs/life/key-rotation.md on a real installation: rotate, rewrap, move to a token and back, killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from functools import partial
from operator import eq
from pathlib import Path

import apsw
import httpx
import pytest
from typer.testing import CliRunner

from sealwire.cli import main
from sealwire.kit.files import count_in_files
from sealwire.runtime.settings import prepare_data
from sealwire.testing.installation import Installation, Person
from sealwire.testing.softhsm import LABEL, PIN, SoftHsm, library

SECRET = b64encode(b"attack at dawn").decode()
DEADLINE_S = 60.0
SOFTHSM = pytest.mark.skipif(library() is None, reason="SoftHSM2 is not installed (Debian: softhsm2)")


def sealwire(data: Path, *words: str, code: int = 0) -> list[dict[str, object]]:
    """Run a `sealwire keys` command; returns the JSON it printed."""
    command = [sys.executable, "-m", "sealwire.cli.main", "keys", *words, "--data", str(data), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=data.parent)
    assert done.returncode == code, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()] or [{"error": done.stderr}]


class Used:
    """An installation with something sealed by every part that seals; `reads` opens all of it again."""

    def __init__(self, running: Installation) -> None:
        self.running = running
        self.anna = Person(running.url, "anna")  # the first one is the owner
        self.bert = Person(running.url, "bert")
        self.room = self.anna.converse(self.bert)
        self.anna.send(self.room, "the tide turns at nine")
        self.sealed = self.post("/crypto/master/encrypt", {"plaintext": SECRET})
        made = self.post("/crypto/keys", {}, 201)
        self.key_id = made["key_id"]
        self.under_key = self.post(f"/crypto/keys/{self.key_id}/encrypt", {"plaintext": SECRET})

    def post(self, path: str, body: dict[str, object], status: int = 200) -> dict[str, str]:
        answer = self.anna.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    def reads(self) -> None:
        for person in (self.anna, self.bert):
            person.http.base_url = f"{self.running.url}/api/v1"
            person.log_in()
        found = self.bert.http.get(f"/conversations/{self.room}/messages").json()["items"]
        assert [item["body"] for item in found][:1] == ["the tide turns at nine"]
        for path, sealed in (("/crypto/master", self.sealed), (f"/crypto/keys/{self.key_id}", self.under_key)):
            asked = {name: sealed[name] for name in ("ciphertext", "iv", "auth_tag", "version")}
            assert self.post(f"{path}/decrypt", asked)["plaintext"] == SECRET

    def master_key_id(self) -> str:
        return self.sealed["key_id"]


@pytest.fixture
def running(tmp_path: Path):
    installation = Installation(tmp_path / "data").start()
    yield installation
    installation.kill()


def audit_actions(used: Used, *wanted: str) -> set[str]:
    deadline = time.monotonic() + DEADLINE_S
    found: set[str] = set()
    while time.monotonic() < deadline and not set(wanted) <= found:
        for action in wanted:
            items = used.anna.http.get("/compliance/audit", params={"action": action}).json()["items"]
            found |= {item["action"] for item in items}
        time.sleep(0.1)
    return found


def test_rotate_and_rewrap_while_it_runs_and_move_while_it_does_not(running: Installation, tmp_path: Path) -> None:
    used = Used(running)
    for _ in range(2):
        rotated = used.anna.http.post(f"/crypto/keys/{used.master_key_id()}/rotate")
        assert rotated.status_code == 200, rotated.text
    told = sealwire(running.data, "rewrap")
    assert told[-1]["finished"] is True
    assert told[-1]["done"] >= 3
    assert sealwire(running.data, "rewrap")[-1]["done"] == 0, "once is enough"
    assert used.post("/crypto/master/rewrap", {}) == {"moved": 0, "remaining": 0}
    used.reads()
    assert audit_actions(used, "crypto.keys.rewrapped", "crypto.key.rotated") == {
        "crypto.keys.rewrapped", "crypto.key.rotated",
    }  # fmt: skip
    running.kill()
    conn = apsw.Connection(str(running.data / "crypto.db"))
    for table, change in (("keys", "tenant_id = 'nobody'"), ("versions", "wrapped = randomblob(60)")):
        one = f"SELECT * FROM {table} WHERE key_id = '{used.master_key_id()}' LIMIT 1"
        conn.execute(f"CREATE TEMP TABLE lost AS {one}; UPDATE lost SET key_id = 'lost', {change}")
        conn.execute(f"INSERT INTO {table} SELECT * FROM lost; DROP TABLE lost")
    conn.close()
    new = tmp_path / "vault" / "kek"
    told = sealwire(running.data, "migrate-provider", "--to", "file", "--kek", str(new))[-1]
    assert (told["finished"], told["left"]) == (True, ["version 1 of the master key lost of tenant nobody"])
    os.unlink(running.data / "keys" / "kek")
    running.start()
    used.reads()


def test_a_new_key_file_takes_over_while_it_runs(running: Installation, tmp_path: Path) -> None:
    used = Used(running)
    old = running.data / "keys" / "kek"
    new = tmp_path / "vault" / "kek"
    told = sealwire(running.data, "migrate-provider", "--to", "file", "--kek", str(new))
    assert told[-1]["finished"] is True
    assert told[-1]["done"] >= 4, "two tenants' master keys, and the keys of this machine's own files"
    old.unlink()
    used.reads()
    running.kill()
    running.start()
    used.reads()
    assert not old.exists(), "the new one is found by the record, and no other is made"
    assert audit_actions(used, "crypto.key.rewrapped") == {"crypto.key.rewrapped"}
    new.rename(tmp_path / "lost")
    running.kill()
    with pytest.raises(RuntimeError, match="restore it from its backup"):
        running.start()
    (tmp_path / "lost").rename(new)
    running.start()
    used.reads()


@SOFTHSM
def test_to_a_token_and_back_with_the_token_taken_away_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", "")
    hsm = SoftHsm(tmp_path / "hsm")
    env = {
        "SEALWIRE_CRYPTO__PKCS11_MODULE": hsm.module,
        "SEALWIRE_CRYPTO__PKCS11_TOKEN": LABEL,
        "SEALWIRE_CRYPTO__PKCS11_PIN": f"file:{hsm.pin}",
        "SEALWIRE_CRYPTO__CACHE_AGE_S": "1",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    running = Installation(tmp_path / "data", env={"SOFTHSM2_CONF": str(hsm.conf)}, expose=True).start()
    try:
        used = Used(running)
        hsm.set_pin_file("0000-wrong")
        refused = sealwire(running.data, "migrate-provider", "--to", "pkcs11", code=1)
        assert "refuses the PIN" in str(refused[-1]["error"])
        hsm.set_pin_file(PIN)
        assert sealwire(running.data, "migrate-provider", "--to", "pkcs11")[-1]["finished"] is True
        (running.data / "keys" / "kek").unlink()
        used.reads()
        running.kill()
        running.start()
        used.reads()
        hsm.remove()
        ready = f"http://127.0.0.1:{running.base + 9}/ready"
        body = until(lambda: httpx.get(ready).json(), lambda found: found["status"] == "unavailable")
        assert body["checks"]["key_provider"]["status"] == "unavailable"
        assert body["checks"]["key_provider"]["detail"] == "TokenOut"
        assert body["checks"]["store"]["status"] == "ok"
        answer = until(lambda: encrypt(used), lambda found: found.status_code == 503)
        assert answer.json()["retry"] == "after"
        assert int(answer.headers["retry-after"]) >= 1
        hsm.insert()
        until(lambda: httpx.get(ready).json(), lambda found: found["status"] == "ready")
        until(lambda: encrypt(used), lambda found: found.status_code == 200)
        used.reads()
        back = tmp_path / "back"
        assert sealwire(running.data, "migrate-provider", "--to", "file", "--kek", str(back))[-1]["finished"] is True
        hsm.remove()
        used.reads()
        running.kill()
        running.start()
        used.reads()
        log = running.log.read_text()
        assert "the token" in log
        for pin in (PIN, "0000-wrong"):
            assert pin not in log
            assert count_in_files([running.data], [pin.encode()]) == 0
    finally:
        running.kill()


def encrypt(used: Used) -> httpx.Response:
    return used.anna.http.post("/crypto/master/encrypt", json={"plaintext": SECRET})


def until(ask, wanted):
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = ask()
        if wanted(found):
            return found
        assert time.monotonic() < deadline, getattr(found, "text", found)
        time.sleep(0.1)


@SOFTHSM
def test_an_installation_may_begin_in_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", "")
    hsm = SoftHsm(tmp_path / "hsm")
    env = {
        "SOFTHSM2_CONF": str(hsm.conf),
        "SEALWIRE_CRYPTO__PROVIDER": "pkcs11",
        "SEALWIRE_CRYPTO__PKCS11_MODULE": hsm.module,
        "SEALWIRE_CRYPTO__PKCS11_TOKEN": LABEL,
        "SEALWIRE_CRYPTO__PKCS11_PIN": "env:TOKEN_PIN",
        "TOKEN_PIN": PIN,
    }
    running = Installation(tmp_path / "data", env=env).start()
    try:
        used = Used(running)
        assert not (running.data / "keys" / "kek").exists()
        running.kill()
        running._env = {**env, "SEALWIRE_CRYPTO__PROVIDER": "file"}
        with pytest.raises(RuntimeError, match="migrate-provider --to file"):
            running.start()
        running._env = env
        running.start()
        used.reads()
    finally:
        running.kill()


def test_a_move_killed_at_any_time_ends_with_the_next_start(running: Installation, tmp_path: Path) -> None:
    used = Used(running)
    for n in range(3):
        new = tmp_path / f"vault{n}" / "kek"
        command = [sys.executable, "-m", "sealwire.cli.main", "keys", "migrate-provider", "--to", "file", "--kek",
                   str(new), "--data", str(running.data)]  # fmt: skip
        asked = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
        job = running.data / "keys" / "job.json"
        deadline = time.monotonic() + DEADLINE_S
        while not job.exists() and asked.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.5 + 0.03 * n)  # about when it is looked at; a kill may come at any time, and all are fine
        running.kill()
        asked.kill()
        asked.wait()
        running.start()
        until(job.exists, lambda there: not there)
        if new.exists():  # else killed before the installation had looked
            until(lambda: record(running), partial(eq, {"current": {"kind": "file", "kek": str(new)}}))
        used.reads()
    current = record(running)["current"]["kek"]
    for kek in (running.data / "keys" / "kek", *(tmp_path / f"vault{n}" / "kek" for n in range(3))):
        if str(kek) != current:
            kek.unlink(missing_ok=True)
    running.kill()
    running.start()
    used.reads()


def record(running: Installation) -> dict[str, dict[str, str]]:
    path = running.data / "keys" / "provider.json"
    return json.loads(path.read_bytes()) if path.exists() else {}


def test_wrong_usage_is_told(tmp_path: Path) -> None:
    prepare_data(tmp_path / "data")

    def refused(*words: str, data: str = "data") -> str:
        done = CliRunner().invoke(main.app, ["keys", *words, "--data", str(tmp_path / data), "--json"])
        assert done.exit_code == 2, done.output
        return done.stderr

    for words, told in (
        (("--to", "cloud"), "file or pkcs11"),
        (("--to", "file"), "--kek goes with"),
        (("--to", "pkcs11", "--kek", "x"), "--kek goes with"),
        (("--to", "pkcs11"), "crypto.pkcs11_module"),
        (("--to", "pkcs11", "--module", "m", "--token", "t", "--pin", "4711"), "--pin: where the PIN is"),
    ):
        assert told in refused("migrate-provider", *words)
    assert "not the data folder" in refused("rewrap", data="nowhere")
