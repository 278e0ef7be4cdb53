"""Run every static check; report all failures, not just the first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CHECKS: tuple[tuple[str, ...], ...] = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
    ("python", "scripts/reference.py", "--check"),
)


def main() -> int:
    """Return the number of failed checks (the process's exit code)."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    failed = []
    for check in CHECKS:
        print("$", *check, flush=True)
        if subprocess.run([str(BIN / check[0]), *check[1:]], cwd=ROOT, env=env, check=False).returncode:
            failed.append(" ".join(check))
    if failed:
        print("failed:", "; ".join(failed), file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
