"""What is saved from an installation is whole or not there: transfers that break, and answers that are none."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer

from sealwire.cli import audit_commands
from sealwire.cli.audit_commands import audit_bundle, audit_cosign, audit_export, audit_mirror, audit_verify
from sealwire.cli.terminal import EXIT_FAILED, EXIT_USAGE

EXPORT = b'{"action":"a"}\n' * 20_000 + b'{"end":{"records":20000,"sha256":""}}\n'
BUNDLE = b'{"format":"sealwire-evidence/2","records":[\n' + b'{"proof":[]},\n' * 20_000 + b'{"proof":[]}\n]}\n'
TYPES = {audit_export: "application/x-ndjson", audit_bundle: "application/json"}
CONTENT = {audit_export: EXPORT, audit_bundle: BUNDLE}
TOKEN = "a-token-nobody-else-sees"
KEPT = b"the file of last month"
Handler = BaseHTTPRequestHandler


class Stranger:
    """A server of which nobody knows what it will answer."""

    def __init__(self) -> None:
        self.answer: Callable[[Handler], None] = lambda _: None
        self.asked: list[str | None] = []

    def serve(self, request: Handler) -> None:
        self.asked.append(request.headers.get("authorization"))
        self.answer(request)


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    it = Stranger()

    class Own(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            it.serve(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            it.serve(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    it.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]  # known only now
    yield it
    server.shutdown()
    server.server_close()
    thread.join()


def given(status: int, kind: str, content: bytes, *, cut: int = 0, **headers: str) -> Callable[[Handler], None]:
    """Answer; with `cut`, promise so many bytes more than come."""

    def answer(request: Handler) -> None:
        request.close_connection = True
        request.send_response(status)
        request.send_header("content-type", kind)
        request.send_header("content-length", str(len(content) + cut))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)

    return answer


def chunked(kind: str, content: bytes, *, end: bytes) -> Callable[[Handler], None]:
    def answer(request: Handler) -> None:
        request.close_connection = True
        request.send_response(200)
        request.send_header("content-type", kind)
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"%x\r\n%s\r\n%s" % (len(content), content, end))

    return answer


def raw(said: bytes) -> Callable[[Handler], None]:
    def answer(request: Handler) -> None:
        request.close_connection = True
        request.wfile.write(said)

    return answer


def left(command: Callable[..., None], stranger: Stranger, *where: Path, **options: Any) -> int:
    """Run a command and return its exit code; it leaves by no other way."""
    try:
        command(*where, url=stranger.url, token=TOKEN, **options)  # type: ignore[attr-defined]  # see above
    except typer.Exit as exit_:
        return exit_.exit_code
    return 0


@pytest.mark.parametrize("command", [audit_export, audit_bundle])
def test_a_transfer_that_breaks_leaves_what_was_there(
    command: Any, stranger: Stranger, tmp_path: Path, capsys: Any
) -> None:
    kind, content = TYPES[command], CONTENT[command]
    file = tmp_path / "evidence"
    broken = [
        given(200, kind, content[:-100_000], cut=100_000),
        given(200, kind, content[:-1]),
        given(200, kind, b""),
        chunked(kind, content[:-100_000], end=b""),
        chunked(kind, content[:-100_000], end=b"ffff\r\nhalf of a chu"),
        chunked(kind, content[:-100_000], end=b"0\r\n\r\n"),
        chunked(kind, content[:-100_000], end=b"no number\r\n"),
        raw(b""),
        raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
        raw(b"HTTP/1.1 200 OK\r\ncontent-le"),
    ]
    for answer in broken:
        stranger.answer = answer
        assert left(command, stranger, file) == EXIT_FAILED
        assert not any(tmp_path.iterdir()), "nothing where nothing was"
        said = capsys.readouterr()
        assert said.out == ""
        assert "nothing was saved; ask again" in said.err
        file.write_bytes(KEPT)
        assert left(command, stranger, file) == EXIT_FAILED
        assert file.read_bytes() == KEPT
        assert f"{file} is as it was before; ask again" in capsys.readouterr().err
        file.unlink()
    file.write_bytes(KEPT)
    stranger.answer = chunked(kind, content, end=b"0\r\n\r\n")
    assert left(command, stranger, file, json=True) == 0
    assert file.read_bytes() == content
    assert json.loads(capsys.readouterr().out)["sha256"] == hashlib.sha256(content).hexdigest()
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("command", [audit_export, audit_bundle, audit_mirror, audit_cosign, audit_verify])
def test_answers_that_are_none_are_told_to_people_and_the_token_is_not(
    command: Any, stranger: Stranger, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_commands, "BUSY_WAIT_S", 0.0)
    page = b"<html>Please sign in</html>"
    problem = json.dumps({"detail": "no \x1b[2K\rok  everything holds " + "x" * 1_000}).encode()
    options: dict[str, Any] = {}
    where = [tmp_path / "place"]
    if command is audit_verify:
        where = []
    elif command is audit_cosign:
        where, options = [], {"witness": "http://127.0.0.1:9"}
    for answer, words in (
        (given(401, "application/problem+json", b'{"detail":"Log in again."}'), "401: Log in again. (the token has"),
        (given(403, "application/problem+json", b'{"detail":"Not an auditor."}'), "403: Not an auditor."),
        (given(403, "text/html", page), "403: Forbidden"),
        (given(404, "text/html", page), "is this the address of the gateway?"),
        (given(500, "application/json", b"[]"), "500: Internal Server Error"),
        (given(503, "application/json", b"\xff"), "503: Service Unavailable"),
        (given(403, "application/problem+json", problem), r"no \x1b[2K\rok  everything"),
        (given(200, "text/html", page), "gives text/html"),
        (given(200, "application/json", page), "gi" if command in (audit_mirror, audit_cosign, audit_verify) else ""),
        (given(200, "application/json", b'{"checkpoint":1}'), ""),
        (given(302, "text/html", b"", location="http://127.0.0.1:1/elsewhere"), "it is at http://127.0.0.1:1/elsewhere"),
        (raw(b""), "the connection broke"),
        (raw(b"\x15\x03\x03\x00\x02\x02\x46"), "the connection broke"),
    ):  # fmt: skip
        stranger.answer = answer
        assert left(command, stranger, *where, **options) == EXIT_FAILED
        said = capsys.readouterr()
        assert words in said.err, said.err
        assert TOKEN not in said.out + said.err
        assert "Traceback" not in said.err
        assert "\x1b[2K" not in said.err
        assert len(said.err) < 1_000
    assert set(stranger.asked) == {f"Bearer {TOKEN}"}


def test_a_redirect_does_not_take_the_token_elsewhere(stranger: Stranger, tmp_path: Path, capsys: Any) -> None:
    thief = Stranger()
    url = stranger.url  # type: ignore[attr-defined]  # see above

    def answer(request: Handler) -> None:
        if "elsewhere" in request.path:
            thief.asked.append(request.headers.get("authorization"))
        given(302, "text/html", b"", location=f"{url}/elsewhere")(request)

    stranger.answer = answer
    for command in (audit_export, audit_mirror):
        assert left(command, stranger, tmp_path / "place") == EXIT_FAILED
    assert thief.asked == []


def test_what_can_not_be_written_is_told_before_anything_is_asked_for(
    stranger: Stranger, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place, code, words in (
        (tmp_path / "none" / "file", EXIT_USAGE, f"there is no folder {tmp_path / 'none'}"),
        (tmp_path / "file" / "below", EXIT_USAGE, f"there is no folder {tmp_path / 'file'}"),
        (Path("/dev/full"), EXIT_USAGE, "not a regular file"),
        (Path("/proc/file"), EXIT_FAILED, "/proc/file: "),
        (tmp_path / ("n" * 300), EXIT_FAILED, "File name too long"),
    ):
        for command in (audit_export, audit_bundle):
            assert left(command, stranger, place) == code, place
            said = capsys.readouterr().err
            assert words in said
            assert "[Errno" not in said
            assert ".part" not in said
    assert stranger.asked == []
    for place in (tmp_path / "file" / "below", Path("/proc/mirror")):
        stranger.answer = given(200, "application/json", b"{}")
        assert left(audit_mirror, stranger, place) == EXIT_FAILED
        assert f"sealwire: {place.parent if place.parent.is_file() else place}" in capsys.readouterr().err


def test_two_mirrors_in_one_folder_take_turns(stranger: Stranger, tmp_path: Path, capsys: Any) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert left(audit_mirror, stranger, tmp_path) == EXIT_FAILED
    finally:
        os.close(handle)
    assert "another mirror is under way there" in capsys.readouterr().err
    assert stranger.asked == []


def test_a_name_that_is_no_text_is_saved_and_told(stranger: Stranger, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / os.fsdecode(b"M\xe4rz")
    stranger.answer = given(200, TYPES[audit_export], EXPORT)
    assert left(audit_export, stranger, file) == 0
    assert "\\udce4rz: 20,000 records" in capsys.readouterr().out
    assert left(audit_export, stranger, file, json=True) == 0
    assert json.loads(capsys.readouterr().out)["path"].endswith("M\\udce4rz")
    assert file.read_bytes() == EXPORT
