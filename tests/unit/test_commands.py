"""The command line as people meet it: what is wrong is told in a line, by its name, with the exit code it is documented
to have; never by a traceback, never with a secret in it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.unit.test_transfers import EXPORT, TOKEN, TYPES, Stranger, given, stranger

from sealwire.cli import main as command_line
from sealwire.cli.audit_commands import audit_export
from sealwire.cli.draft import draft_of
from sealwire.cli.tenants import show
from sealwire.cli.terminal import plain
from sealwire.services.compliance.notes import ED25519, VerifierKey

__all__ = ["stranger"]
Said = tuple[int, str, str]
Command = Callable[..., Said]


@pytest.fixture
def sealwire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Iterator[Command]:
    """Run the command in this process, in a folder of its own; what it prints is never a traceback."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["sealwire", *map(str, words)])
        capsys.readouterr()
        code = command_line.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        assert "a fault of sealwire" not in said.err, said.err
        assert "[Errno" not in said.err, said.err
        return code, said.out, said.err

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def commands() -> list[tuple[str, ...]]:
    def below(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, command in getattr(group, "commands", {}).items():
            yield from below(command, (*words, name))

    return list(below(typer.main.get_command(command_line.app), ()))


def test_every_command_explains_itself_and_refuses_what_it_does_not_know(sealwire: Command) -> None:
    assert len(commands()) > 30
    for words in commands():
        code, out, err = sealwire(*words, "--help")
        assert (code, err) == (0, "")
        assert out.startswith("Usage: sealwire")
        code, out, err = sealwire(*words, "--no-such-option")
        assert (code, out) == (2, ""), words
        assert "--no-such-option" in err
        assert "help" in err


GATE = ("--save", "new", "--url", "http://127.0.0.1:9", "--token", "t")


def wrong(tmp: Path) -> list[tuple[tuple[object, ...], int, str]]:
    """Words, the exit code, and what is said on stderr."""
    for name in ("made", "made/keys", "folder", "damaged"):
        (tmp / name).mkdir()
    for name in ("made/sealwire-data", "made/crypto.db", "made/auth.db", "damaged/sealwire-data"):
        (tmp / name).touch()
    (tmp / "damaged" / "auth.db").write_text(
        "this is no database at all, and it is long enough to be read as one\n" * 9
    )
    (tmp / "binary").write_bytes(bytes(range(256)))
    (tmp / "deep").write_text('{"a":' * 100_000)
    (tmp / "deep.ndjson").write_text('{"action":"a","prev_hash":"' + "0" * 64 + '","x":' + "[" * 100_000 + "\n")
    (tmp / "large").write_bytes(b"x" * (2 << 20))
    with (tmp / "vast").open("wb") as vast:  # a file of holes: 5 GiB that lie nowhere
        vast.write(b'{"format":"sealwire-evidence/1","origin":"')
        vast.truncate(5 << 30)
    raw = bytes(range(32))
    (tmp / "key").write_text(VerifierKey(name="a/erasure", type=ED25519, public_key=raw).text)
    (tmp / "socket-less").write_text("years of work")
    file, key = tmp / "binary", tmp / "key"
    return [
        (("gdpr", "verify-certificate", tmp / "folder", "--key", key), 2, "folder"),
        (("gdpr", "verify-certificate", file, "--key", tmp / "folder"), 2, "folder: Is a directory"),
        (("gdpr", "verify-certificate", file, "--key", file), 2, "binary: not a public key line: the file is no text"),
        (("gdpr", "verify-certificate", file, "--key", tmp / "large"), 2, "large: not a public key line: the file is"),
        (("gdpr", "verify-certificate", file, "--key", key), 1, "binary: not genuine: the file is no text"),
        (("gdpr", "verify-certificate", tmp / "deep", "--key", key), 1, "deep: not genuine: the document holds no"),
        (("gdpr", "verify-certificate", tmp / "large", "--key", key), 1, "large: not genuine: the file is far too"),
        (("gdpr", "verify-certificate", tmp / "none", "--key", key), 2, "none"),
        (("gdpr", "replay", key, "--key", file, *GATE), 2, "binary: not a public key line: the file is no text"),
        (("gdpr", "replay", tmp / "deep", key, "--key", key, *GATE), 1, "deep: not genuine: the document holds no"),
        (("gdpr", "replay", key, "--key", key, *GATE[:3], "nonsense", *GATE[4:]), 2, "--url nonsense: an address"),
        (("audit", "verify", tmp / "none"), 2, "none"),
        (("audit", "verify", tmp / "vast"), 2, "vast: too large, and not line by line as `sealwire audit bundle`"),
        (("audit", "verify", "/dev/zero"), 2, "/dev/zero: no file that can be read twice"),
        (("audit", "verify", file, "--key", "/dev/zero"), 2, "/dev/zero: not a public key line: the file is far"),
        (("audit", "verify", file, "--key", tmp / "folder"), 2, "folder: Is a directory"),
        (("audit", "verify", file, "--checkpoint", tmp / "folder"), 2, "folder: Is a directory"),
        (("audit", "verify", file, "--witness", tmp / "folder"), 2, "folder: Is a directory"),
        (("audit", "verify", "--url", "http://127.0.0.1:9", "--token", "a b"), 2, "--token: an access token is one"),
        (("audit", "verify", "--url", "http://127.0.0.1:9", "--token", "t"), 1, "can't be reached: Connection refused"),
        (("audit", "export", "x", "--url", "http://127.0.0.1:9", "--token", "t"), 1, "nothing was saved; ask again"),
        (("audit", "export", tmp / "folder", "--url", "http://127.0.0.1:9", "--token", "t"), 2, "is a directory"),
        (("audit", "mirror", file, "--url", "http://127.0.0.1:9", "--token", "t"), 2, "is a file"),
        (("audit", "cosign", file, "--url", "http://127.0.0.1:9", "--token", "t"), 2, "binary: not a signed"),
        (("check", "--url", "nonsense"), 2, "--url nonsense: an address like"),
        (("check", "--url", "http://127.0.0.1:9", "--token", "se\ncret"), 2, "--token: an access token is one word"),
        (("up", "--data", file), 1, "binary: not a folder"),
        (("up", "--port-base", "0"), 1, "--port-base: server.port_base"),
        (("keys", "init"), 2, "either --kek PATH or --pkcs11"),
        (("keys", "init", "--kek", tmp / "folder", "--data", "new"), 1, "folder is no regular file"),
        (("keys", "init", "--kek", file / "kek", "--data", "new"), 1, "binary"),
        (("keys", "init", "--kek", "kek", "--data", file), 1, "binary: not a folder"),
        (("keys", "init", "--kek", "new/kek", "--data", "new"), 2, "lies in the data folder"),
        (("keys", "rotate-signing", "--data", file), 2, "binary is not the data folder"),
        (("keys", "rewrap", "--data", tmp / "folder"), 2, "folder is not the data folder"),
        (("keys", "migrate-provider", "--to", "pkcs11", "--pin", "4321"), 2, "never the PIN itself"),
        (("tenant", "list", "--data", "made"), 1, "there is no key-encryption key at"),
        (("tenant", "list", "--data", "damaged"), 1, "a database in the data folder can't be used"),
        (("tenant", "create", os.fsdecode(b"\xff"), "--data", "made"), 2, "slug: at most 64"),
        (("tenant", "create", "clinic", "--name", os.fsdecode(b"\xff"), "--data", "made"), 2, "can be printed"),
        (("tenant", "show", "clinic\x1b[2K", "--data", "made"), 2, "can be printed"),
        (("tenant", "quota", "clinic", "--users", "9" * 5_000, "--data", "made"), 2, "a number, or none"),
        (("legacy", "report", "--refuse-from", "yesterday", "--data", "made"), 2, "--refuse-from: a time like"),
        (("drill", "redis-down", "--url", "nonsense", "--control", file), 2, "--url nonsense: an address like"),
        (("drill", "redis-down", "--url", "http://127.0.0.1:9", "--control", tmp / "none"), 1, "none: no `sealwire dr"),
        (("drill", "redis-down", "--fault", "rain"), 2, "--fault rain: one of"),
        (("drill", "proxy", "--to", "redis://127.0.0.1:1", "--control", "no/socket"), 1, "--control no/socket: can't"),
        (("drill", "proxy", "--to", "redis://127.0.0.1:1", "--control", "socket-less"), 1, "is there already"),
        (("drill", "proxy", "--to", "redis://me:4321@", "--control", "socket"), 2, "--to: no address of a cache"),
        (("drill", "proxy", "--to", "redis://:4321word", "--control", "socket"), 2, "--to: no address of a cache"),
    ]  # fmt: skip


def test_what_is_wrong_is_told_with_its_name_and_nothing_is_made_or_lost(sealwire: Command, tmp_path: Path) -> None:
    for words, expected, told in wrong(tmp_path):
        code, out, err = sealwire(*words)
        assert (code, out) == (expected, ""), (words, err)
        assert told in err, (words, err)
        assert "4321" not in err
        assert "secret" not in err.replace("se\ncret", "secret") or "token" not in words
    assert (tmp_path / "socket-less").read_text() == "years of work"
    code, out, _ = sealwire("audit", "verify", tmp_path / "deep.ndjson", "--key", tmp_path / "key")
    assert (code, "BROKEN  changed at seq 1" in out) == (1, True), out


def test_settings_that_can_not_be_read_are_told(sealwire: Command, tmp_path: Path) -> None:
    (tmp_path / "sealwire.toml").mkdir()
    for words in (("config",), ("up",), ("tenant", "create", "clinic")):
        assert sealwire(*words) == (1, "", "sealwire: sealwire.toml: can't be read: Is a directory\n")
    assert [path.name for path in tmp_path.iterdir()] == ["sealwire.toml"]


def test_a_question_that_nobody_answers_changes_nothing(sealwire: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115 - for as long as the test
    for words in (("tenant", "suspend", "clinic"), ("operator", "reset-factors", "op@example.org")):
        code, _, err = sealwire(*words)
        assert (code, "nothing was changed: nobody answered; --yes does not ask" in err) == (2, True)


def test_what_others_wrote_does_not_move_the_terminals_cursor(sealwire: Command, tmp_path: Path) -> None:
    assert plain("ok\x1b[2K\r\n\u202e\udcff\x9b") == "ok\\x1b[2K\\r\\n\\u202e\\udcff\\x9b"
    forger = VerifierKey(name="log\x1b[2K\x1b[1Gok", type=ED25519, public_key=bytes(32))
    (tmp_path / "tile").mkdir()
    (tmp_path / "keys.json").write_text(json.dumps({"first_key": forger.text}))
    (tmp_path / "checkpoint").write_text("log\n1\n")
    code, out, err = sealwire("audit", "verify", tmp_path)
    assert code == 1
    assert "\x1b" not in out + err
    assert f"key {plain(forger.text)} came" in out or "BROKEN" in out


@pytest.mark.parametrize(("users", "told"), [(0, " 0 users   owned"), (1, " 1 user    owned"), (2, " 2 users   owned")])
def test_one_user_is_no_users(capsys: pytest.CaptureFixture[str], users: int, told: str) -> None:
    found = {
        "slug": "clinic",
        "status": "active",
        "users": users,
        "owned": True,
        "quotas": {},
        "tenant_id": "t",
        "name": "C",
    }
    show(found, json=False)
    assert told in capsys.readouterr().out


def run(*words: object, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sealwire.cli.main", *map(str, words)]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, **more)


def test_what_can_not_be_printed_is_told_and_a_reader_may_have_enough(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run("config", cwd=tmp_path, stdout=full)
        _, err = done.communicate(timeout=60)
    assert (done.returncode, err) == (1, "sealwire: what is to be printed can't be: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = run("config", "--json", cwd=tmp_path, stdout=writer)
    os.close(writer)
    _, err = done.communicate(timeout=60)
    assert (done.returncode, err) == (1, "")


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "sealwire: interrupted\n"), (signal.SIGTERM, "")])
def test_an_interrupted_transfer_leaves_what_was_there(
    stranger: Stranger, tmp_path: Path, number: signal.Signals, said: str
) -> None:
    file = tmp_path / "audit.ndjson"
    file.write_bytes(b"of last year")
    whole = given(200, TYPES[audit_export], EXPORT * 8, cut=1000)

    def stall(request: Any) -> None:
        whole(request)
        request.wfile.flush()
        request.connection.settimeout(60)
        request.connection.recv(1)  # until the command is gone

    stranger.answer = stall
    command = run("audit", "export", file, "--url", stranger.url, env={**os.environ, "SEALWIRE_TOKEN": TOKEN})  # type: ignore[attr-defined]  # see there
    deadline = time.monotonic() + 60
    while not (draft_of(file).exists() and draft_of(file).stat().st_size):
        assert time.monotonic() < deadline
        assert command.poll() is None, command.communicate()
        time.sleep(0.01)
    command.send_signal(number)
    _, err = command.communicate(timeout=60)
    assert (command.returncode, err) == (128 + number, said)
    assert file.read_bytes() == b"of last year"
    assert list(tmp_path.iterdir()) == [file]


def test_files_and_folders_of_others_are_told(sealwire: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    at = ("--url", "http://127.0.0.1:9", "--token", "t")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "closed").mkdir(mode=0o000)
        (place / "file").write_text("{}")
        (place / "file").chmod(0o000)
        (place / "sealed").mkdir(mode=0o555)
        asked: list[tuple[tuple[object, ...], str]] = [
            (("audit", "export", place / "sealed" / "new", *at), f"{place / 'sealed' / 'new'}: Permission denied"),
            (("audit", "mirror", place / "sealed" / "new", *at), f"{place / 'sealed' / 'new'}: Permission denied"),
            (("audit", "export", place / "closed" / "new", *at), "Permission denied"),
            (("keys", "init", "--kek", place / "sealed" / "k", "--data", place / "sealed" / "d"), "Permission denied"),
            (("tenant", "list", "--data", place / "closed" / "data"), "Permission denied"),
            (("check", "--data", place / "closed" / "data"), "Permission denied"),
            (("keys", "rotate-signing", "--data", place / "closed" / "data"), "Permission denied"),
        ]
        for words, _ in asked:  # whoever can do all imports what it needs
            sealwire(*(str(word).replace(str(place), str(place / "none" / "none")) for word in words))
        monkeypatch.chdir("/")
        before = os.geteuid()
        if before == 0:
            os.seteuid(65534)
        try:
            told = [(words, *sealwire(*words), expected) for words, expected in asked]
            key = [sealwire("gdpr", "verify-certificate", place / "file", "--key", place / "file")]
        finally:
            os.seteuid(before)
        for words, code, out, err, expected in told:
            assert (code, out, expected in err) == (1, "", True), (words, err)
        assert key[0][0] == 2
        assert "file" in key[0][2]


def test_the_socket_of_a_killed_proxy_is_in_nobodys_way(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "socket"))
    left.close()
    proxy = run("drill", "proxy", "--to", "redis://127.0.0.1:1", "--control", tmp_path / "socket", "--json",
                stdout=subprocess.PIPE)  # fmt: skip
    assert proxy.stdout is not None
    assert json.loads(proxy.stdout.readline())["control"] == str(tmp_path / "socket")
    proxy.terminate()
    assert proxy.wait(timeout=60) == 0
