"""Run every static check, as many at a time as there are cores; report all failures, not just the first."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CHECKS: tuple[tuple[str, ...], ...] = (
    ("mypy",),  # the longest first
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("lint-imports",),
    ("python", "scripts/reference.py", "--check"),
)
COLLECT: tuple[str, ...] = ("pytest", "--collect-only", "-qq", "--no-header")
"""Leaves the tests compiled: the processes that run them read that, and do not all do the same work."""


def run(check: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run one check to its end."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    if check is COLLECT:
        env["PYTHONDONTWRITEBYTECODE"] = ""
    return subprocess.run(
        [str(BIN / check[0]), *check[1:]], cwd=ROOT, env=env, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def main() -> int:
    """Return the number of failed checks (the process's exit code)."""
    checks = (CHECKS[0], COLLECT, *CHECKS[1:]) if "--collect" in sys.argv[1:] else CHECKS
    failed = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for check, done in zip(checks, pool.map(run, checks), strict=True):
            print("$", *check, flush=True)
            if done.returncode or check is not COLLECT:
                print(done.stdout, end="", flush=True)
            if done.returncode:
                failed.append(" ".join(check))
    if failed:
        print("failed:", "; ".join(failed), file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
