"""What `sealwire audit export`, `bundle` and `mirror` say they wrote, and what they do not call saved."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
from tests.integration.test_audit_evidence import sealwire

from sealwire.cli.audit_saved import Cut, saved_bundle, saved_export


def test_they_say_what_was_written_where(installation, stranger, tmp_path):
    person = stranger("auditor")
    room = person.converse()
    for number in range(3):
        person.send(room, f"number {number}")
    at = ("--url", installation.url, "--token", person.token)
    for command in ("export", "bundle"):
        file: Path = tmp_path / f"{command}.out"
        done = sealwire("audit", command, file, *at)
        assert done.returncode == 0, done.stderr
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        assert done.stdout.startswith(f"saved  {file}: ")
        assert sha256 in done.stdout
        done = sealwire("audit", command, file, *at, "--json")
        said = json.loads(done.stdout)
        assert (said["path"], said["size_bytes"]) == (str(file), file.stat().st_size)
        assert said["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert said["records"] >= 1
    folder = tmp_path / "log"
    said = json.loads(sealwire("audit", "mirror", folder, *at, "--json").stdout)
    files = [path for path in (folder / "tile").rglob("*") if path.is_file()]
    assert said["files"] == len(files)
    assert said["size_bytes"] == sum(path.stat().st_size for path in files)
    assert f"{folder}: " in sealwire("audit", "mirror", folder, *at).stdout
    refused = sealwire("audit", "bundle", tmp_path / "other", "--url", installation.url, "--token", "nobody")
    assert (refused.returncode, refused.stdout) == (1, "")


@pytest.mark.parametrize("content", [b"", b'{"manifest":{}}\n{"seq":1}\n', b'{"end":'])
def test_an_export_that_is_not_whole_is_not_told_as_saved(tmp_path, content):
    with pytest.raises(Cut):
        saved_export(io.BytesIO(content), tmp_path / "cut")


@pytest.mark.parametrize("content", [b"", b'{"records":[{"seq":1}', b'{"records":1}'])
def test_a_bundle_that_is_not_whole_is_not_told_as_saved(tmp_path, content):
    with pytest.raises(Cut):
        saved_bundle(io.BytesIO(content), tmp_path / "cut")
