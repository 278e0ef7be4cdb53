"""Problems: one code is one meaning, also for who reads them on the other side of a wire."""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from pathlib import Path

import sealwire
from sealwire.kit.problem import Problem

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "problems.md"
SHARED = {"internal", "unauthenticated", "deadline_exceeded", "audit_log_broken"}
"""Codes whose classes differ in what raised them, not in what the caller is told."""


def codes() -> dict[str, list[str]]:
    """Return every code there is, with its classes."""
    for module in pkgutil.walk_packages(sealwire.__path__, "sealwire."):
        importlib.import_module(module.name)
    classes: dict[str, list[str]] = defaultdict(list)
    todo: list[type[Problem]] = [Problem]
    while todo:
        kind = todo.pop()
        todo += [sub for sub in kind.__subclasses__() if sub.__module__.startswith("sealwire.")]
        classes[kind.code].append(f"{kind.__module__}.{kind.__qualname__}")
    return classes


def test_a_code_belongs_to_one_problem():
    classes = codes()
    shared = {code: names for code, names in classes.items() if len(names) > 1 and code not in SHARED}
    assert shared == {}


def test_every_code_stands_in_the_reference():
    text = PAGE.read_text(encoding="utf-8")
    assert [code for code in sorted(codes()) if f"| `{code}` |" not in text] == []
