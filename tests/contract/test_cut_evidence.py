"""Evidence that was cut, at any byte, never holds, and is told as cut, with the record from which on it is missing."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.test_compliance_evidence import AUDITOR, add, checkpoint, get

from sealwire.cli.audit import verify_source
from sealwire.services.compliance.bundle import verify_bundle
from sealwire.services.compliance.cut import ends_early
from sealwire.services.compliance.notes import VerifierKey, parse_key
from sealwire.services.compliance.tile_folder import verify_tiles
from sealwire.services.compliance.verify import Report, verify_export
from sealwire.services.compliance.walk import Tampering
from sealwire.testing.compliance import open_compliance

RECORDS = 520
HOLDS, BROKEN, USAGE = 0, 1, 2


class Log:
    """A log in every form in which it leaves the server; 3, 4 and 515 are pruned."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundle = self.export = self.bare = b""
        self.size = 0

    @property
    def key(self) -> VerifierKey:
        return parse_key((self.folder / "key").read_text())

    async def make(self) -> Log:
        async with open_compliance(self.folder / "log") as room:
            await add(room, RECORDS - 20)
            await checkpoint(room)
            await add(room, 19, RECORDS - 20)
            await room.service.pruning.prune("acme", [3, 4, 515], run_id="run")
            head = await checkpoint(room)
            self.size = head.tree_size
            self.bundle = (await get(room, "evidence?from_seq=505")).body
            self.export = (await get(room, "export?manifest=true&from_seq=505")).body
            self.bare = (await get(room, "export?to_seq=9")).body
            for path in (f"entries/002.p/{self.size - 512}", f"0/002.p/{self.size - 512}", "1/000.p/2", "entries/000",
                         "entries/001", "0/000", "0/001"):  # fmt: skip
                file = self.folder / "tiles" / "tile" / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(await room.service.tile(AUDITOR, path))
            (self.folder / "tiles" / "checkpoint").write_text(head.checkpoint)
            (self.folder / "tiles" / "keys.json").write_text(json.dumps({"first_key": head.first_key}))
            (self.folder / "key").write_text(head.first_key)
        return self


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return asyncio.run(Log(tmp_path_factory.mktemp("cut")).make())


def places(content: bytes, *, more: int = 150) -> Iterable[int]:
    """Where to cut: around every line's end, within the first and last line's marks, and anywhere."""
    near = {at + d for at, byte in enumerate(content) if byte == 10 for d in (-2, -1, 0, 1, 2)}
    ends = {*range(1, 60), *range(len(content) - 60, len(content))}
    braces = [at + 1 for at, byte in enumerate(content) if byte == 125][:60]
    anywhere = random.Random(len(content)).sample(range(1, len(content)), min(more, len(content) - 1))
    return sorted(at for at in {*near, *ends, *braces, *anywhere} if 0 < at < len(content))


def truncated(report: Report, at: object) -> int:
    assert not report.ok, at
    assert report.fault is not None
    assert report.fault.kind is Tampering.TRUNCATED, (at, report.fault)
    return report.fault.seq or 0


def test_a_bundle_cut_anywhere_is_truncated_where_it_ends(log: Log) -> None:
    report, _ = verify_bundle(log.bundle, keys=[log.key])
    assert (report.ok, report.pruned) == (True, [(515, 515)])
    for at in places(log.bundle):
        kept = log.bundle[:at]
        seq = truncated(verify_bundle(kept, keys=[log.key])[0], at)
        assert seq in (0, 504 + max(1, kept.count(b"\n"))) or b"later" in kept, at
    one_line = json.dumps(json.loads(log.bundle)).encode()
    assert verify_bundle(one_line, keys=[log.key])[0].ok
    for at in places(one_line):
        truncated(verify_bundle(one_line[:at], keys=[log.key])[0], at)


def test_an_export_cut_anywhere_is_truncated_where_it_ends(log: Log) -> None:
    def judged(content: bytes) -> Report:
        return verify_export(content.splitlines(keepends=True), keys=[log.key])

    assert judged(log.export).ok
    for at in places(log.export):
        if log.export[:at].count(b"\n"):
            whole = log.export[:at].count(b"\n") + (log.export[at : at + 1] == b"\n")
            assert truncated(judged(log.export[:at]), at) == min(504 + whole, RECORDS + 1)
        else:
            truncated(judged(log.export[:at]), at)


def test_a_record_that_was_changed_before_the_cut_is_what_is_named(log: Log) -> None:
    changed = log.export.replace(b"success", b"failure", 1)
    for at in range(len(changed) - 400, len(changed) - 1, 7):
        report = verify_export(changed[:at].splitlines(keepends=True), keys=[log.key])
        assert report.fault is not None
        assert (report.fault.kind, report.fault.seq) == (Tampering.CHANGED, 505)


@pytest.mark.parametrize("name", ["entries/000", "entries/001", "entries/002.p/8", "0/000", "0/002.p/8", "1/000.p/2"])
def test_a_tile_or_its_entries_cut_anywhere(log: Log, name: str) -> None:
    path = log.folder / "tiles" / "tile" / name
    before = path.read_bytes()
    number = int(name.partition("/")[2][:3])
    assert log.size == RECORDS
    assert verify_tiles(log.folder / "tiles", keys=[log.key]).ok
    try:
        for at in [0, *places(before, more=20)][:: 1 if len(before) < 20_000 else 25]:
            path.write_bytes(before[:at])
            report = verify_tiles(log.folder / "tiles", keys=[log.key])
            assert not report.ok, at
            assert report.fault is not None
            if name[0] == "e":
                between = "in the middle" not in report.fault.detail
                kind = Tampering.REMOVED if between and number < 2 else Tampering.TRUNCATED
                assert report.fault.kind is kind, (at, report.fault)
                assert report.fault.seq == report.records + 1
            else:
                step = 1 if name[0] == "0" else 256
                assert truncated(report, at) == number * 256 + at // 32 * step + 1
                assert f"tile/{name} was cut" in report.fault.detail
    finally:
        path.write_bytes(before)


def test_an_entry_whose_length_was_changed_is_changed_and_not_cut(log: Log) -> None:
    path = log.folder / "tiles" / "tile" / "entries/002.p/8"
    before = path.read_bytes()
    try:
        path.write_bytes(b"\xff" + before[1:])
        report = verify_tiles(log.folder / "tiles", keys=[log.key])
        assert report.fault is not None
        assert (report.fault.kind, report.fault.seq) == (Tampering.CHANGED, 513), report.fault
    finally:
        path.write_bytes(before)


def judged(source: Path, capsys: Any, **options: Any) -> tuple[int, str]:
    """Return the exit code of the command, and what it says, on stdout as a verdict or else on stderr."""
    options = {"key": None, "checkpoints": [], "witnesses": [], "as_json": False, **options}
    code = verify_source(source, **options)
    said = capsys.readouterr()
    return code, said.out or said.err


@pytest.mark.parametrize("form", ["bundle", "export", "bare"])
def test_the_command_says_so_from_the_first_byte_on_with_and_without_a_key(
    log: Log, tmp_path: Path, capsys: Any, form: str
) -> None:
    content: bytes = getattr(log, form)
    file = tmp_path / "file"
    for at in [*range(15 if form == "bare" else 5, 200, 5), *list(places(content, more=5))[-30:-1]]:
        if content[at - 1 : at + 1].count(b"\n") and form == "bare":
            continue  # a part of a log that nothing signed covers: UNSIGNED, whatever it ends with
        file.write_bytes(content[:at])
        for key in (log.folder / "key", None):
            code, said = judged(file, capsys, key=key)
            if form == "bare" and key is None and b"\n" in content[:at]:
                assert (code, "give the log's public key" in said) == (USAGE, True), (at, said)
            else:
                assert (code, "truncated" in said) == (BROKEN, True), (at, said)


def test_a_checkpoint_cut_anywhere_is_none_and_that_is_said(log: Log, tmp_path: Path, capsys: Any) -> None:
    folder, held, whole = log.folder / "tiles", tmp_path / "held", tmp_path / "bare"
    note = (folder / "checkpoint").read_bytes()
    whole.write_bytes(log.bare)
    key = log.folder / "key"
    try:
        for at in range(0, len(note) - 1, 3):
            (folder / "checkpoint").write_bytes(note[:at])
            code, said = judged(folder, capsys, key=key)
            assert (code, "checkpoint: " in said) == (BROKEN, True)
            assert "cut" in said or "this ends before" in said or "UTF-8" in said, said
            held.write_bytes(note[:at])
            code, said = judged(whole, capsys, key=key, checkpoints=[held])
            assert code in (USAGE, BROKEN), "one cut where its base64 ends is told as not signed"
            assert "cut" in said or "this ends before" in said or "no text" in said, (at, said)
    finally:
        (folder / "checkpoint").write_bytes(note)
    for at in range(0, key.stat().st_size, 3):
        held.write_bytes(key.read_bytes()[:at])
        code, said = judged(folder, capsys, key=held)
        assert (code, "not a public key line" in said) == (USAGE, True)


def test_what_is_nested_too_deep_is_called_broken_and_breaks_nothing(log: Log, tmp_path: Path, capsys: Any) -> None:
    deep = b"[" * 50_000 + b"]" * 50_000
    file, key, folder = tmp_path / "file", log.folder / "key", log.folder / "tiles"
    lines = log.bundle.splitlines(keepends=True)
    places = [
        log.bare.replace(b'"metadata":{', b'"metadata":{"a":' + deep + b",", 1),
        log.bare.replace(b'"metadata":{', b'"metadata":{"a":' + deep + b",", 3),
        log.bare.replace(b"\n", b'\n{"pruned":' + deep + b"}\n", 2),
        log.export.replace(b'"cosigned":', b'"a":' + deep + b',"cosigned":', 1),
        log.export.replace(b'"metadata":{', b'"metadata":{"a":' + deep + b",", 1),
        log.export.replace(b'{"end":{', b'{"end":{"a":' + deep + b",", 1),
        lines[0].replace(b'"cosigned":', b'"a":' + deep + b',"cosigned":') + b"".join(lines[1:]),
        log.bundle.replace(b'"metadata":{', b'"metadata":{"a":' + deep + b",", 1),
        log.bundle.replace(b"\n", b" ").replace(b'"metadata":{', b'"metadata":{"a":' + deep + b",", 1),
        log.bundle.replace(b'"later":{', b'"later":{"a":' + deep + b",", 1),
    ]
    for number, content in enumerate(places):
        assert deep in content, number
        file.write_bytes(content)
        code, said = judged(file, capsys, key=key)
        assert (code, said.startswith("BROKEN")) == (BROKEN, True), (number, said)
    named = folder / "keys.json"
    before = named.read_bytes()
    try:
        named.write_bytes(b'{"first_key":' + deep + b"}")
        code, said = judged(folder, capsys)
        assert (code, "keys.json: not what" in said) == (USAGE, True)
    finally:
        named.write_bytes(before)
    entries = folder / "tile" / "entries/002.p/8"
    before = entries.read_bytes()
    try:
        body = b'{"a":' + deep[25_000:75_000] + b"}"
        entries.write_bytes(len(body).to_bytes(2, "big") + body + before)
        code, said = judged(folder, capsys, key=key)
        assert (code, said.startswith("BROKEN")) == (BROKEN, True), said
    finally:
        entries.write_bytes(before)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), JSON, min_size=1, max_size=4), st.data())
def test_every_beginning_of_a_document_ends_early_and_nothing_else_does(document: Any, data: st.DataObject) -> None:
    text = msgspec.json.encode(document)
    assert not ends_early(text)
    assert not ends_early(text + b"}")
    assert ends_early(text[: data.draw(st.integers(1, len(text) - 1))])


def test_a_document_too_deep_to_say_is_not_called_cut() -> None:
    assert not ends_early(b"[" * 100_000)
