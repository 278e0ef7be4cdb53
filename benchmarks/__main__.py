"""Runs the benchmarks one after another and keeps what they found in benchmarks/results/*.json.

usage: python -m benchmarks [--only NAME]... [--quick] [--list]
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import results
from benchmarks.harness.cores import pinning

FOLDER = Path(__file__).parent
TIMEOUT_S = 1800
FIRST = ("machine",)
"""The bounds come first, so that they stand above what is held against them."""


def available() -> dict[str, str]:
    """Return the question of every benchmark by name: the first line of each module of this folder."""
    found = {}
    for path in sorted(FOLDER.glob("*.py"), key=lambda path: (path.stem not in FIRST, path.stem)):
        if not path.stem.startswith("_") and not path.stem.endswith("_server"):
            text = ast.get_docstring(ast.parse(path.read_text())) or ""
            found[path.stem] = text.partition("\n")[0]
    return found


def main() -> int:
    """Run what was asked for. Returns 1 when a benchmark failed; a missed target fails nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="run this one; may be given several times")
    parser.add_argument("--quick", action="store_true", help="short windows, nothing kept: a look, not a measurement")
    parser.add_argument("--list", action="store_true", help="list the benchmarks")
    arguments = parser.parse_args()
    questions = available()
    if unknown := set(arguments.only or ()) - set(questions):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(questions)}")
    if arguments.list:
        for name, question in questions.items():
            print(f"{name:<18}{question}")
        return 0
    print(f"{json.dumps(results.machine())}\n{pinning()}\n")
    failed = [name for name in arguments.only or questions if not _run(name, questions[name], arguments.quick)]
    for name in failed:
        print(f"FAILED: {name}")
    return 1 if failed else 0


def _run(name: str, question: str, quick: bool) -> bool:
    """Run one benchmark in a process of its own; show and keep what it found."""
    print(f"{name}: {question}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *(["--quick"] if quick else [])]
    try:
        done = subprocess.run(
            command,
            cwd=FOLDER.parent,
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"  it took longer than {TIMEOUT_S} s")
        return False
    found = _last_document(done.stdout)
    if done.returncode or found is None:
        print(f"  it ended with {done.returncode}")
        return False
    if "figures" not in found:
        found = {"figures": found}
    results.show(found)
    if not quick:
        path = results.save(name, question, f"python -m benchmarks --only {name}", found)
        print(f"  kept in {path.relative_to(FOLDER.parent)}")
    print(flush=True)
    return True


def _last_document(text: str) -> dict[str, Any] | None:
    """Return the JSON document of the last line that is one; what else was printed is shown."""
    found = None
    for line in text.splitlines():
        try:
            document = json.loads(line) if line.startswith("{") else None
        except ValueError:
            document = None
        if isinstance(document, dict):
            found = document
        else:
            print(f"  {line}")
    return found


if __name__ == "__main__":
    sys.exit(main())
