"""Every command line that the pages show is one: the command is there, it takes these options, and their values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sealwire.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "changes").glob("*.md")])
SHOWN = re.compile(r"`(?:[A-Z_]+=\S+ )?(?:\.venv/bin/)?sealwire ([a-z][^`]*)`")
BLOCK = re.compile(r"```sh\n(.*?)```", re.S)
LINE = re.compile(r"(?:^|[ /])sealwire ([a-z].*)$", re.M)
TREE: Any = typer.main.get_command(app)


def find(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that words begin with, and the words behind it."""
    command, at = TREE, 0
    while at < len(words) and words[at] in getattr(command, "commands", {}):
        command, at = command.commands[words[at]], at + 1
    return command, words[at:]


def mentioned() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for text in SHOWN.findall(page.read_text(encoding="utf-8").replace("\n", " ")):
            several = next((word for word in text.split() if "|" in word), "")
            for one in several.split("|"):
                yield page.name, text.replace(several, one) if several else text


def lines() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in LINE.findall(block):
                yield page.name, line.partition(" #")[0].strip()


def test_commands_and_options_in_the_text_exist() -> None:
    found = 0
    for page, text in mentioned():
        words = [word for word in shlex.split(text.replace("…", "")) if word not in ("…", "…,")]
        command, rest = find(words)
        assert command is not TREE, (page, text)
        assert not getattr(command, "commands", {}) or not rest, f"{page}: {text}: there is no such command"
        known = {option for param in command.params for option in param.opts} | {"--help"}
        for option in (word for word in rest if word.startswith("-")):
            assert option.partition("=")[0] in known, f"{page}: {text}: {option}"
        found += 1
    assert found > 20


def test_lines_to_copy_are_taken_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEALWIRE_TOKEN", raising=False)
    found = list(lines())
    assert len(found) > 5
    for page, line in found:
        command, rest = find(shlex.split(line))
        for word in rest:
            if re.fullmatch(r"[a-z]+\.(ndjson|key|json)", word):
                (tmp_path / word).touch()  # lines above that one made it
        try:
            command.make_context("sealwire", rest)  # reads the words, runs nothing
        except Exception as error:
            pytest.fail(f"{page}: sealwire {line}: {error}")
