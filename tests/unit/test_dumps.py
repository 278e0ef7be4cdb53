"""A crash leaves no memory on the disk."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CRASH = """
import os, resource, sys
from sealwire.kit import dumps
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
if sys.argv[1] == "forbidden":
    dumps.forbid_dumps()
elif sys.argv[1] == "handed to a collector":
    dumps.resource.setrlimit = lambda *limits: None  # which no limit of files keeps out
    dumps.forbid_dumps()
secret = bytearray(b"\\x5a" * 7 + os.environb[b"WORD"] + b"\\x5a" * 7)
os.environb[b"WORD"] = b""
os.abort()
"""
WORD = b"9f41c2d7"
PATTERN = Path("/proc/sys/kernel/core_pattern")


def core_of(folder: Path, how: str) -> list[bytes]:
    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", CRASH, how], cwd=folder, env={"WORD": WORD.decode()})
    assert done.returncode == -6
    return [path.read_bytes() for path in folder.iterdir()]


@pytest.mark.skipif(not PATTERN.exists() or PATTERN.read_text()[:1] in "|/", reason="dumps go elsewhere on this system")
@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, reason="no dumps are written on this system")
def test_no_dump_holds_what_was_in_memory(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    if free < 1 << 30:
        pytest.skip("a dump may take some hundred megabytes")
    needle = b"\x5a" * 7 + WORD + b"\x5a" * 7
    (allowed,) = core_of(tmp_path / "a", "allowed")
    assert needle in allowed
    assert core_of(tmp_path / "b", "forbidden") == []
    (collected,) = core_of(tmp_path / "c", "handed to a collector")
    assert needle not in collected
