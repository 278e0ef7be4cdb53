"""The README's tour works as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sealwire.testing.installation import Installation

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour speaks through curl, which is not on this machine")
def test_the_tour(tmp_path):
    installation = Installation(tmp_path / "data").start()
    try:
        tour = next(block for block in re.findall(r"```sh\n(.*?)```", README, re.S) if "API=" in block)
        script = tour.replace("http://127.0.0.1:3000", installation.url)
        script = script.replace(".venv/bin/sealwire", f"{sys.executable} -m sealwire.cli.main")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr + done.stdout
        lines = done.stdout.strip().splitlines()
        assert '"role":"owner"' in lines[0]
        assert '"body":"hello Ben"' in lines[1]
        assert lines[2] == "True"
        assert "<mark>" in lines[3]
        assert '"prev_hash"' in lines[4]
        assert lines[5] == "True"
        assert lines[6].startswith("ok")
        assert lines[-1] in ("unauthenticated", "session_revoked")
    finally:
        installation.kill()


def test_the_commands_of_the_readme_exist():
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
