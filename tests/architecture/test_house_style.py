"""What the house style asks of every file: a first line that says what it is, honest names, a bounded length."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BANNED_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "base", "core", "manager", "misc", "stuff"})
MOST_LINES, MOST_TEST_LINES = 450, 900
CONTRACT_LINES = 900
"""A contract is one list of structs and operations: longer, and flat."""
# Where a package came from and on whose machine it was built is nobody's business but theirs.
HOSTS = re.compile(r"https?://[\w.-]*(?:pypi|pythonhosted|npmjs|artifactory|nexus|jfrog|crates\.io|maven)[\w.-]*", re.I)
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:root|home/\w+|Users/\w+|work)/[\w.]")
SUPPRESSION = re.compile(r"#\s*(?:type:\s*ignore(?:\[[\w, -]+\])?|noqa(?::\s*[\w, ]+)?)\s*(?P<reason>.*)$")
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")


@cache
def tracked() -> tuple[Path, ...]:
    """Return the files of the repository as they are now; without git, those on the disk."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git working copy")
    names = [name for name in done.stdout.decode().split("\0") if name]
    return tuple(path for path in (ROOT / name for name in names) if path.is_file())


def modules(*folders: str) -> list[Path]:
    """Return the tracked Python files under these folders."""
    return [path for path in tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_first_line_of_a_module_says_what_it_is() -> None:
    silent = []
    for path in modules("src", "tests", "benchmarks", "scripts", "examples"):
        docstring = ast.get_docstring(ast.parse(path.read_bytes()), clean=True)
        if path.stat().st_size and (docstring is None or len(docstring.splitlines()[0].strip()) < 8):
            silent.append(shown(path))
    assert silent == []


def test_public_classes_and_functions_say_what_they_promise() -> None:
    silent = []
    for path in modules("src"):
        for node in ast.parse(path.read_bytes()).body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not node.name.startswith("_") and ast.get_docstring(node) is None:
                silent.append(f"{shown(path)}:{node.lineno} {node.name}")
    assert silent == []


def test_names_say_what_a_module_is_about() -> None:
    named = [shown(p) for p in modules("src", "tests", "benchmarks") if BANNED_NAMES & {p.stem, *p.stem.split("_")}]
    folders = [
        shown(p) for p in modules("src", "tests", "benchmarks") if BANNED_NAMES & set(p.relative_to(ROOT).parts[:-1])
    ]
    assert [*named, *folders] == []


def test_files_are_short_enough_to_be_read() -> None:
    long = []
    for path in modules("src", "tests", "benchmarks", "scripts"):
        parts = path.relative_to(ROOT).parts
        most = MOST_TEST_LINES if parts[0] == "tests" else CONTRACT_LINES if "contracts" in parts else MOST_LINES
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > most:
            long.append(f"{shown(path)}: {lines} lines, at most {most}")
    assert long == []


def test_nothing_is_left_unfinished() -> None:
    found = []
    for path in modules("src", "benchmarks", "scripts", "examples"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if UNFINISHED.search(line):
                found.append(f"{shown(path)}:{number} {line.strip()}")
    assert found == []


def test_what_is_suppressed_has_a_reason() -> None:
    bare = []
    for path in modules("src"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = SUPPRESSION.search(line)
            if match and len(match["reason"].strip(" -—#")) < 3:
                bare.append(f"{shown(path)}:{number} {line.strip()}")
    assert bare == []


def test_no_file_names_a_registry_or_a_machine() -> None:
    found = []
    for path in tracked():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in (HOSTS, MACHINE_PATHS):
            found += [f"{shown(path)}: {match.group()}" for match in pattern.finditer(text)]
    assert found == []


def test_ports_say_how_the_distributed_family_keeps_them() -> None:
    engines = re.compile(r"MongoDB|Redis|Kafka|Elasticsearch|\bS3\b")
    silent = []
    for path in modules("src"):
        parts = path.relative_to(ROOT).parts
        is_port = "ports" in parts[2:3] or (parts[2:3] == ("services",) and path.name == "ports.py")
        if is_port and path.name != "__init__.py" and not engines.search(path.read_text(encoding="utf-8")):
            silent.append(shown(path))
    assert silent == []
