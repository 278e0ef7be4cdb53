"""docs/security/conformance.md: its examples run, and every call it names exists."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security/conformance.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)
CALLS = sorted(
    {f"sealwire.services.compliance.{name}" for name in re.findall(r"`((?:merkle|tiles|notes)\.\w+)", PAGE)}
    | set(re.findall(r"`(sealwire(?:\.\w+)+)[(`]", PAGE))
)


@pytest.mark.parametrize("example", EXAMPLES, ids=[re.findall(r"from sealwire\.(\S+)", text)[0] for text in EXAMPLES])
def test_an_example_runs(example: str) -> None:
    exec(compile(example, "docs/security/conformance.md", "exec"), {})


def test_every_call_exists() -> None:
    assert len(CALLS) > 30
    for name in CALLS:
        assert pkgutil.resolve_name(name), name


def test_what_it_points_to_is_there() -> None:
    for path in re.findall(r"`(tests/[\w/]+\.py)`", PAGE):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", PAGE):
        assert (ROOT / "docs/security" / target).exists(), target
