"""Problems: one code is one meaning, also for who reads them on the other side of a wire."""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict

import sealwire
from sealwire.kit.problem import Problem

SHARED = {"internal", "unauthenticated", "deadline_exceeded"}
"""Codes whose classes differ in what raised them, not in what the caller is told."""


def test_a_code_belongs_to_one_problem():
    for module in pkgutil.walk_packages(sealwire.__path__, "sealwire."):
        importlib.import_module(module.name)
    classes: dict[str, list[str]] = defaultdict(list)
    todo: list[type[Problem]] = [Problem]
    while todo:
        kind = todo.pop()
        todo += [sub for sub in kind.__subclasses__() if sub.__module__.startswith("sealwire.")]
        classes[kind.code].append(f"{kind.__module__}.{kind.__qualname__}")
    shared = {code: names for code, names in classes.items() if len(names) > 1 and code not in SHARED}
    assert shared == {}
