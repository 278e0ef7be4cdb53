"""What is no evidence is wrong usage (2); evidence that was changed is broken (1), however much of it was."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.test_compliance_evidence import add, checkpoint, get

from sealwire.cli import audit_progress
from sealwire.cli.audit import verify_source
from sealwire.cli.audit_progress import Progress
from sealwire.testing.clock import ManualClock
from sealwire.testing.compliance import open_compliance

BROKEN, USAGE = 1, 2


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("audit.ndjson", b'{"prev_hash":"' + b"0" * 64 + b'"}\n' * 100)
    return content.getvalue()


NO_EVIDENCE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "blank lines": (b"\n\n \n", "empty"),
    "users": (b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n", "no audit export"),
    "binary": (bytes(range(256)) * 40, "no audit export"),
    "a program": (b"\x7fELF\x02\x01\x01" + bytes(4_000), "no audit export"),
    "JSON of something else": (json.dumps({"items": [{"hash": "0" * 64, "seq": 1}]}).encode(), "no audit export"),
    "a schema of records": (b'{"properties":{"prev_hash":{"type":"string"},"audit_id":{}}}', "no audit export"),
    "JSON lines": (b'{"level":"info","event":"up"}\n' * 50, "no audit export"),
    "not UTF-8": ("für\n".encode("latin-1") * 100, "no audit export"),
    "a ZIP archive": (archive(), "ZIP"),
    "half of it": (archive()[:60], "ZIP"),
    "gzip": (b"\x1f\x8b\x08\x00rest", "gzip"),
    "events for a SIEM": (b'{"activity_id":1,"class_uid":6003,"unmapped":{"audit_id":"a"}}\n', "SIEM"),
}


def judged(source: Path, **options: Any) -> int:
    return verify_source(source, **{"key": None, "checkpoints": [], "witnesses": [], "as_json": True, **options})


@pytest.mark.parametrize("name", NO_EVIDENCE)
def test_what_is_no_evidence_is_wrong_usage(name: str, tmp_path: Path, capsys: Any) -> None:
    content, why = NO_EVIDENCE[name]
    file = tmp_path / "file"
    file.write_bytes(content)
    assert judged(file) == USAGE
    said = capsys.readouterr()
    assert (said.out, why in said.err) == ("", True), said.err


@pytest.mark.parametrize("names", [(), ("readme.txt",), ("tiles/0",)])
def test_a_folder_without_tiles_is_wrong_usage(names: tuple[str, ...], tmp_path: Path, capsys: Any) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("nothing")
    assert judged(tmp_path) == USAGE
    assert "without log tiles" in capsys.readouterr().err


@pytest.fixture
async def export(tmp_path: Path) -> tuple[Path, Path, bytes]:
    """An export in a file, its key in another, and the checkpoint."""
    async with open_compliance(tmp_path / "log") as room:
        await add(room, 40)
        head = await checkpoint(room)
        (tmp_path / "export").write_bytes((await get(room, "export?manifest=true")).body)
    (tmp_path / "key").write_text(head.first_key)
    return tmp_path / "export", tmp_path / "key", head.checkpoint.encode()


WRONG: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("binary", bytes(range(256))),
    ("a certificate", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"),
    ("another id", b"sealwire.local/audit/acme+00000000+" + b"A" * 44),
]


@pytest.mark.parametrize("option", ["key", "checkpoints", "witnesses"])
@pytest.mark.parametrize(("name", "content"), WRONG)
def test_a_wrong_key_or_note_is_wrong_usage(
    export: tuple[Path, Path, bytes], option: str, name: str, content: bytes, capsys: Any
) -> None:
    file, key, _ = export
    wrong = key.parent / "wrong"
    wrong.write_bytes(content)
    options: dict[str, Any] = {"key": key, option: wrong if option == "key" else [wrong]}
    assert judged(file, **options) == USAGE
    assert "wrong: not a " in capsys.readouterr().err


def every_digit(lines: list[bytes]) -> list[bytes]:
    return [line.translate(bytes.maketrans(b"0123456789", b"1234567890")) for line in lines]


CHANGES: list[tuple[str, Callable[[list[bytes]], list[bytes]]]] = [
    ("the manifest", lambda lines: [lines[0].replace(b"export/1", b"export/2"), *lines[1:]]),
    ("the manifest's JSON", lambda lines: [b"{" + lines[0], *lines[1:]]),
    ("no manifest, a record", lambda lines: [lines[1].replace(b"success", b"failure"), *lines[2:]]),
    ("cut in a record", lambda lines: [b"".join(lines)[: len(lines[0]) + 300]]),
    ("every digit", every_digit),
    ("the first record's JSON", lambda lines: [lines[0], lines[1][1:], *lines[2:]]),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_changed_evidence_is_broken_and_never_taken_for_none(
    export: tuple[Path, Path, bytes], name: str, change: Callable[[list[bytes]], list[bytes]], capsys: Any
) -> None:
    file, key, _ = export
    assert judged(file, key=key) == 0
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))
    capsys.readouterr()
    assert judged(file, key=key) == BROKEN
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_what_nobody_signed_is_not_ok(export: tuple[Path, Path, bytes], capsys: Any) -> None:
    file, key, note = export
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[1:-1]))
    assert judged(file, key=key) == BROKEN
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["covered"], found["fault"]) == (False, 0, None)
    judged(file, key=key, as_json=False)
    assert capsys.readouterr().out.startswith("UNSIGNED")
    held = key.parent / "held"
    held.write_bytes(note)
    assert judged(file, key=key, checkpoints=[held]) == 0


def test_a_folder_that_lost_its_checkpoint_is_broken(tmp_path: Path, export: Any, capsys: Any) -> None:
    (tmp_path / "mirror" / "tile").mkdir(parents=True)
    assert judged(tmp_path / "mirror", key=export[1]) == BROKEN
    assert "no checkpoint" in capsys.readouterr().out


def test_a_long_verification_says_how_far_it_is(capsys: Any) -> None:
    clock = ManualClock()
    progress = Progress(monotonic=clock.monotonic)
    progress(10_000)
    assert capsys.readouterr().err == "", "what is quick says nothing"
    progress.total = 2_000_000
    clock.advance(audit_progress.ELSEWHERE_EVERY_S)
    progress(1_500_000)
    progress(1_500_100)
    clock.advance(audit_progress.ELSEWHERE_EVERY_S)
    progress(1_900_000)
    progress.end()
    said = capsys.readouterr().err
    assert said == "1,500,000 of 2,000,000 (75 %) records\n1,900,000 of 2,000,000 (95 %) records\n"
