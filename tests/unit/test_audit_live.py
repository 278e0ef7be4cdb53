"""Reading a log from an installation: addresses that are none, a damaged log, a mirror that a full disk interrupted."""

from __future__ import annotations

import json
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer

from sealwire.cli import audit_live
from sealwire.cli.audit import verify_source
from sealwire.cli.audit_commands import audit_bundle, audit_cosign, audit_export, audit_mirror, live
from sealwire.cli.audit_live import PREFIX, LiveLog, Refused
from sealwire.cli.terminal import EXIT_USAGE
from sealwire.services.compliance.notes import NoteSignature, TreeHead, checkpoint_text, write_note
from sealwire.services.compliance.tiles import write_bundle

RECORDS = 256
BUNDLE = write_bundle([bytes(range(256))] * 256)
TILE = b"h" * 32 * RECORDS
NOTE = write_note(
    checkpoint_text(TreeHead(origin="log", size=RECORDS, root=bytes(32))), [NoteSignature("log", b"0123", bytes(64))]
)
CHECKPOINT = {"checkpoint": NOTE, "tree_size": RECORDS, "root": "", "public_key": "k", "first_key": "k"}


BROKEN = {"code": "audit_log_broken", "detail": "The audit log is damaged; run its verification."}
FOUND: dict[str, Any] = {
    "ok": False, "records": 284, "first_bad_seq": 285, "root": "", "checkpoint": "",
    "fault": "truncated: the log has 285 records, the last 1 are missing",
}  # fmt: skip


class Shelf(BaseHTTPRequestHandler):
    """Answers as a gateway does, for a log of one full tile."""

    def do_GET(self) -> None:
        """Give the checkpoint, the bundle, or the tile."""
        path = self.path.removeprefix(PREFIX)
        content = json.dumps(CHECKPOINT).encode() if path == "/checkpoint" else BUNDLE if "entries" in path else TILE
        content = TILE[:32] if path == "/tile/1/000.p/1" else content
        self.send_response(200)
        self.send_header("content-type", "application/json" if path == "/checkpoint" else "application/octet-stream")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Damaged(BaseHTTPRequestHandler):
    """Answers as a gateway does for a log whose last record is gone."""

    fault: str | None = FOUND["fault"]

    def do_GET(self) -> None:
        """Sign nothing, and say what the verification finds."""
        found = {**FOUND, "fault": self.fault}
        verifies = self.path.removeprefix(PREFIX) == "/verify"
        content = json.dumps(found if verifies else BROKEN).encode()
        self.send_response(200 if verifies else 503)
        self.send_header("content-type", "application/json" if verifies else "application/problem+json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Verifying(Damaged):
    """The same while a long verification is under way."""

    fault = None


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[LiveLog]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield LiveLog(f"http://127.0.0.1:{server.server_port}", "token")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def log() -> Iterator[LiveLog]:
    with serving(Shelf) as log:
        yield log


def test_a_mirror_that_was_cut_short_goes_on_with_whole_files(log: LiveLog, tmp_path: Path) -> None:
    folder = tmp_path / "mirror"

    def cut_short(most_bytes: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                log.mirror(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    cut_short(len(BUNDLE) // 2)
    assert log.mirror(folder) == RECORDS
    cut_short(10)  # nothing but the keys and the checkpoint is written again
    assert log.mirror(folder) == RECORDS, "the first key is still known, and how long the log was"
    assert (folder / "tile" / "entries" / "000").read_bytes() == BUNDLE
    assert (folder / "tile" / "0" / "000").read_bytes() == TILE


def test_of_a_damaged_log_it_says_what_is_wrong_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Damaged) as log:
        assert verify_source(log, key=None, checkpoints=[], witnesses=[], as_json=False) == 1
    said = capsys.readouterr().err
    assert "at seq 285: truncated: the log has 285 records" in said
    assert "run its verification" not in said, "that is what was run"
    with serving(Verifying) as log, pytest.raises(Refused, match="run its verification"):
        log.checkpoint()


@pytest.mark.parametrize("url", ["", "there", "127.0.0.1:3000", "ftp://a", "http://", "http://[", "http://a:99999",
                                 "http://a b", "http://a\n"])  # fmt: skip
def test_what_is_no_address_is_wrong_usage(url: str) -> None:
    with pytest.raises(typer.Exit) as left:
        live(url, "token", None)
    assert left.value.exit_code == EXIT_USAGE
    with pytest.raises(typer.Exit) as left:
        audit_cosign(witness=url, url="http://127.0.0.1:9", token="token")
    assert left.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("token", ["", "two words", "a\nb", "a\u20ac", "a\0"])
def test_what_is_no_token_is_wrong_usage(token: str) -> None:
    with pytest.raises(typer.Exit) as left:
        live("http://127.0.0.1:9", token, None)
    assert left.value.exit_code == EXIT_USAGE


class Signed(Damaged):
    """The same, up to a seq that was signed before; the verification is a long one."""

    looked = 0
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        """Give what was signed, or nothing."""
        self.asked.append(path := self.path.removeprefix(PREFIX))
        if "to_seq=284" in path:
            self.answer(200, b'{"end":{"records":256,"sha256":""}}\n', "application/x-ndjson")
        elif path == "/verify":
            self.answer(202, json.dumps({**FOUND, "fault": None, "job_id": "j", "progress": 0.0}).encode())
        elif path == "/verify/j":
            Signed.looked += 1
            done = Signed.looked % 2 == 0
            self.answer(200, json.dumps({**FOUND, "job_id": "j", "progress": 1.0 if done else 0.5}).encode())
        else:
            self.answer(503, json.dumps(BROKEN).encode(), "application/problem+json")

    def answer(self, status: int, content: bytes, kind: str = "application/json") -> None:
        """Answer."""
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.mark.parametrize("save", [audit_export, audit_bundle])
def test_of_a_damaged_log_it_is_said_what_can_be_saved_and_not_to_ask_again(
    save: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_live, "LOOK_S", 0.01)
    file = tmp_path / "log"
    Signed.asked.clear()
    with serving(Signed) as log, pytest.raises(typer.Exit):
        save(file, url=str(log).removesuffix(PREFIX), token="token")
    told = capsys.readouterr().err
    assert "at seq 285: truncated: the log has 285 records" in told
    assert "\n`--to-seq 284` saves what was signed of seq 1 to 284\n" in told
    assert told.endswith("nothing was saved\n")
    assert [path.partition("?")[0] for path in Signed.asked[1:]] == ["/verify", "/verify/j", "/verify/j"], "once"
    if save is audit_export:
        with serving(Signed) as log:
            save(file, url=str(log).removesuffix(PREFIX), token="token", to_seq=284)
        assert "256 records" in capsys.readouterr().out
    with serving(Signed) as log, pytest.raises(typer.Exit):
        save(file, url=str(log).removesuffix(PREFIX), token="token", to_seq=9)
    assert "is damaged" in capsys.readouterr().err


def test_a_mirror_that_got_nothing_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_live, "LOOK_S", 0.01)
    for folder, left in (tmp_path / "new", "nothing was saved"), (tmp_path, f"what {tmp_path} holds is whole"):
        with serving(Signed) as log, pytest.raises(typer.Exit):
            audit_mirror(folder, url=str(log).removesuffix(PREFIX), token="token")
        assert capsys.readouterr().err.endswith(f"\n{left}\n")


def test_a_folder_that_is_of_no_log_or_another_is_not_called_whole(
    log: LiveLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = str(log).removesuffix(PREFIX)
    longer = write_note(
        checkpoint_text(TreeHead(origin="log", size=RECORDS + 1, root=bytes(32))),
        [NoteSignature("log", b"0123", bytes(64))],
    )
    audit_mirror(tmp_path, url=address, token="token")
    for name, content in ("checkpoint", NOTE[:-9]), ("checkpoint", longer), ("keys.json", '{"first_key": "other"}'):
        audit_mirror(tmp_path, url=address, token="token")
        was = (tmp_path / name).read_text()
        (tmp_path / name).write_text(content)
        with pytest.raises(typer.Exit):
            audit_mirror(tmp_path, url=address, token="token")
        told = capsys.readouterr().err
        assert told.endswith("\nnothing was saved; choose another folder\n")
        assert str(tmp_path / name) in told
        (tmp_path / name).write_text(was)
