"""docs/security/asvs.md: every requirement of the four chapters has a line, and every test it names exists."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security/asvs.md").read_text()
SECTIONS = {
    6: (3, 12, 8, 6, 8, 4, 2, 4),
    7: (3, 4, 2, 5, 3, 2),
    9: (3, 4),
    10: (2, 3, 5, 16, 5, 2, 3),
}
"""How many requirements each section of a chapter has."""
LINES = {line.split("|")[1].strip(): line for line in PAGE.splitlines() if re.match(r"\| \d+\.\d+\.\d+ \|", line)}
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))


@cache
def found_in(path: str) -> frozenset[str]:
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)", (ROOT / path).read_text(), re.MULTILINE))


def test_every_requirement_has_one_line_with_a_state_and_a_reason() -> None:
    wanted = [
        f"{chapter}.{section}.{number}"
        for chapter, sections in SECTIONS.items()
        for section, count in enumerate(sections, 1)
        for number in range(1, count + 1)
    ]
    assert list(LINES) == wanted
    for number, line in LINES.items():
        _, _, asks, state, why, _ = (part.strip() for part in line.split("|"))
        assert asks, number
        assert state in ("met", "n/a", "not met"), number
        assert why, number
        if state == "met":
            assert "tests/" in why or "above" in why or "by design" in why, f"{number} is met: say what shows it"


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_test_named_exists(path: str, name: str) -> None:
    assert (ROOT / path).exists()
    if name:
        assert name in found_in(path)
