"""The command: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sealwire import __version__


def sealwire(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sealwire.cli.main", *args],
        capture_output=True, text=True, timeout=60, cwd=cwd, env={**os.environ, **env},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("made")
    assert sealwire("operator", "create", "op@example.org", cwd=cwd).returncode == 0
    return cwd / "data"


@pytest.fixture
def at_rest(made, tmp_path):
    """`data` in the test's own folder: an installation that has an operator and does not run."""
    return shutil.copytree(made, tmp_path / "data")


def test_check_passes_on_a_running_installation(installation, owner, tmp_path):
    done = sealwire("check", "--url", installation.url, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    for name in ("auth health", "auth ready", "compliance health", "compliance ready", "audit logging", "crypto health",
                 "crypto ready", "encrypt/decrypt round trip", "gateway health", "gateway audit logging", "socket 1",
                 "socket 2", "messaging", "media", "search", "end-to-end message", "boundary components",
                 "circuit breakers"):  # fmt: skip
        assert any(line.startswith("ok ") and f" {name} " in line for line in lines), name
    assert lines[-1] == "all checks passed"


def test_check_finds_the_address_by_the_data_folder_and_speaks_json(installation, owner, tmp_path):
    owner.log_in()
    done = sealwire("check", "--data", str(installation.data), "--token", owner.token, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert documents[-1] == {"passed": True}
    assert all(document["ok"] for document in documents[:-1])


def test_check_fails_where_nothing_runs(tmp_path):
    done = sealwire("check", "--url", "http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 1
    assert "can't be reached" in done.stdout


def test_check_says_where_there_is_no_installation(tmp_path):
    done = sealwire("check", "--data", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere holds no installation" in done.stderr
    assert "3000" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_check_says_that_an_installation_does_not_run(tmp_path, at_rest):
    for words in (("--data", "data"), ()):
        done = sealwire("check", *words, cwd=tmp_path)
        assert done.returncode == 1, words
        assert "the installation in data does not run" in done.stderr
        assert "3000" not in done.stdout + done.stderr


def test_the_version_is_told(tmp_path):
    done = sealwire("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"sealwire {__version__}\n")
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == __version__


@pytest.mark.parametrize("kind", ["rotate-signing", "rotate-checkpoint"])
def test_a_rotation_at_rest_is_queued_and_says_so(tmp_path, at_rest, kind):
    (tmp_path / "data" / "compliance.db").touch()  # there after a first start, which takes seconds
    done = sealwire("keys", kind, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "queued" in done.stdout
    assert "next start" in done.stdout
    again = sealwire("keys", kind, "--json", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    told = json.loads(again.stdout)
    assert (told["status"], told["error"], told["key_ids"]) == ("queued", "", [])
    waiting = json.loads((tmp_path / "data" / "errands" / f"{kind}.json").read_bytes())
    assert waiting["errand_id"] == told["errand_id"], "asking twice queues one"


def test_a_compromised_key_is_not_taken_for_queued_when_a_plain_rotation_is(tmp_path, at_rest):
    assert sealwire("keys", "rotate-signing", cwd=tmp_path).returncode == 0
    done = sealwire("keys", "rotate-signing", "--compromised", "--yes", cwd=tmp_path)
    assert done.returncode == 1
    assert "without --compromised" in done.stderr
    (tmp_path / "data" / "errands" / "rotate-signing.json").unlink()
    done = sealwire("keys", "rotate-signing", "--compromised", "--yes", cwd=tmp_path)
    assert done.returncode == 0
    assert "until then the old key counts" in done.stdout


def test_config_tells_value_meaning_range_and_origin(tmp_path):
    (tmp_path / "sealwire.toml").write_text("[gateway]\nmax_in_flight = 77\n")
    done = sealwire("config", "--json", cwd=tmp_path, SEALWIRE_AUTH__ACCESS_TTL_S="120")
    settings = {s["name"]: s for s in map(json.loads, done.stdout.splitlines())}
    assert settings["gateway.max_in_flight"]["value"] == 77
    assert settings["gateway.max_in_flight"]["origin"].endswith("sealwire.toml")
    assert settings["auth.access_ttl_s"]["origin"] == "SEALWIRE_AUTH__ACCESS_TTL_S"
    assert all(s["meaning"] and s["allowed"] for s in settings.values())


def test_config_shows_no_secret(tmp_path):
    secrets = {"SEALWIRE_AUTH__SMTP_PASSWORD": "hunter2", "SEALWIRE_AUTH__OWNER_TOKEN": "first-come",
               "SEALWIRE_CACHE__URL": "redis://me:hunter2@127.0.0.1:6379/0"}  # fmt: skip
    for args in (("config",), ("config", "--json")):
        done = sealwire(*args, cwd=tmp_path, **secrets)
        assert done.returncode == 0
        assert "hunter2" not in done.stdout
        assert "first-come" not in done.stdout
        assert "127.0.0.1:6379" in done.stdout


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"SEALWIRE_GATEWAY__MAX_IN_FLIGHT": "0"}, "gateway.max_in_flight"),
        ({"SEALWIRE_GATEWAY__NO_SUCH": "1"}, "gateway.no_such"),
        ({"SEALWIRE_SERVER__HOST": "0.0.0.0"}, "keys init"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_its_name(tmp_path, env, told):
    done = sealwire("up", "--data", "data", cwd=tmp_path, **env)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named(installation, tmp_path):
    done = sealwire("up", "--data", "data", "--port-base", str(installation.base), cwd=tmp_path)
    assert done.returncode == 1
    assert f":{installation.base}" in done.stderr
    assert "--port-base" in done.stderr


def test_data_in_use_is_not_removed(installation, owner, tmp_path):
    done = sealwire("up", "--data", str(installation.data), "--clean", "--yes", "--port-base", "9900", cwd=tmp_path)
    assert done.returncode == 1
    assert f"in use by process {installation.pid}" in done.stderr
    assert (installation.data / "auth.db").exists()
    assert owner.http.get("/auth/me").status_code == 200


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("years")
    done = sealwire("up", "--data", "data", "--port-base", "9900", cwd=tmp_path)
    assert done.returncode == 1
    assert "not Sealwire's" in done.stderr
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["thesis.txt"]
    done = sealwire("up", "--data", "data/thesis.txt", "--port-base", "9900", cwd=tmp_path)
    assert done.returncode == 1
    assert "not a folder" in done.stderr


def test_a_second_process_on_the_same_data_is_refused(installation, tmp_path):
    done = sealwire("up", "--data", str(installation.data), "--port-base", "9900", cwd=tmp_path)
    assert done.returncode == 1
    assert "in use" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("tenant", "list"),
        ("tenant", "suspend", "clinic", "--yes"),
        ("operator", "list"),
        ("operator", "disable", "somebody"),
        ("legacy", "report"),
    ],
)
def test_a_mistyped_data_folder_is_told_and_not_made_into_an_installation(tmp_path, words):
    done = sealwire(*words, "--data", "dta", cwd=tmp_path)
    assert done.returncode == 2
    assert "dta is not the data folder of an installation" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("tenant", "create", "St_Mary"), "slug: at most 64 of a-z"),
        (("tenant", "create", "clinic", "--owner-email", "chief"), "email: an address like"),
        (("operator", "create", "nobody"), "email: an address like"),
    ],
)
def test_wrong_words_are_told_before_anything_is_made(tmp_path, words, told):
    done = sealwire(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert "regex" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_list_says_so_and_is_one(tmp_path):
    assert sealwire("tenant", "create", "clinic", cwd=tmp_path).returncode == 0
    assert "nobody yet" in sealwire("operator", "list", cwd=tmp_path).stdout
    assert sealwire("operator", "list", "--json", cwd=tmp_path).stdout == ""


def test_a_key_encryption_key_that_does_not_open_is_told_without_a_trace(tmp_path, at_rest):
    kek = tmp_path / "data" / "keys" / "kek"
    good = kek.read_bytes()
    kek.write_text("not a key\n")
    for words in (("tenant", "list"), ("keys", "rewrap")):
        done = sealwire(*words, cwd=tmp_path)
        assert done.returncode == 1, words
        assert "sealwire: " in done.stderr
        assert "Traceback" not in done.stderr, done.stderr
    kek.write_bytes(good)
    done = sealwire("keys", "rewrap", cwd=tmp_path)
    assert done.returncode == 0, "work that nobody began is not in the way: " + done.stderr
