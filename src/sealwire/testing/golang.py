"""Go programs that tests drive: built once a machine, outside the repository, modules pinned by their hashes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

BUILD_TIMEOUT_S = 300


class GoMissing(Exception):
    """Go or a module can't be had here; the text says which. Tests that need them are skipped, visibly."""


def program(folder: Path) -> Path:
    """Return the program whose source lies in `folder`, from a cache or built now. Raises: GoMissing."""
    if shutil.which("go") is None:
        raise GoMissing("go is not installed")
    sources = [*sorted(folder.glob("*.go")), folder / "go.mod", folder / "go.sum"]
    wanted = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sealwire-tests"
    built = caches / f"go-{wanted}"
    if not built.exists():
        caches.mkdir(parents=True, exist_ok=True)
        draft = caches / f"go-{wanted}.{os.getpid()}"
        command = ["go", "build", "-mod=readonly", "-o", str(draft), "."]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed command
                command, cwd=folder, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise GoMissing(f"go took longer than {BUILD_TIMEOUT_S} s") from None
        if done.returncode:
            raise GoMissing(f"go could not build it: {done.stderr.strip()[-300:]}")
        draft.replace(built)
    return built
