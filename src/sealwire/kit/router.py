"""Finds the route of a method and path: exact paths in one look, others by walking their segments."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from sealwire.kit.operation import PARAMETER

T = TypeVar("T")
MAX_INT_DIGITS = 18
REMEMBERED_PATHS = 4096
REMEMBERED_CHARS = 200


class _Node(Generic[T]):
    __slots__ = ("is_int", "literals", "name", "parameter", "rest", "targets")

    def __init__(self, name: str = "", is_int: bool = False) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.parameter: _Node[T] | None = None
        self.rest: dict[str, T] = {}
        self.targets: dict[str, T] = {}
        self.name = name
        self.is_int = is_int


class Router(Generic[T]):
    """A table of targets by verb and path. `{name}` matches one segment, `{name:int}` a natural number,
    a last segment `*` the rest of the path (as the parameter `rest`)."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, T]] = {}
        self._root: _Node[T] = _Node()
        self._walked: dict[str, tuple[dict[str, T], dict[str, Any], tuple[str, ...]]] = {}

    def add(self, verb: str, path: str, target: T) -> None:
        """Add a target. Raises: ValueError when verb and path are taken."""
        is_exact = "{" not in path and not path.endswith("/*")
        targets = self._exact.setdefault(path, {}) if is_exact else self._place(path)
        if verb in targets:
            raise ValueError(f"{verb} {path} is bound twice")
        targets[verb] = target
        self._walked.clear()

    def _place(self, path: str) -> dict[str, T]:
        node = self._root
        for segment in path.split("/")[1:]:
            if segment == "*":
                return node.rest
            match = PARAMETER.fullmatch(segment)
            if match is None:
                node = node.literals.setdefault(segment, _Node())
            else:
                if node.parameter is None:
                    node.parameter = _Node(match[1], bool(match[2]))
                if (node.parameter.name, node.parameter.is_int) != (match[1], bool(match[2])):
                    raise ValueError(f"{path}: another path names this segment {{{node.parameter.name}}}")
                node = node.parameter
        return node.targets

    def find(self, verb: str, path: str) -> tuple[T | None, dict[str, Any], tuple[str, ...]]:
        """Return target and parameters, or None and the verbs this path has (none when nothing is there).

        GET targets answer HEAD too. The last paths with parameters are remembered: busy conversations come again.
        """
        found = self._walked.get(path)
        if found is None:
            params: dict[str, Any] = {}
            targets = self._exact.get(path)
            if targets is None:
                targets = self._walk(path, params)
                if targets is None:
                    return None, params, ()
            found = (targets, params, tuple(targets))
            if len(path) <= REMEMBERED_CHARS:
                if len(self._walked) >= REMEMBERED_PATHS:
                    self._walked.clear()
                self._walked[path] = found
        targets, params, verbs = found
        target = targets.get(verb)
        if target is None and verb == "HEAD":
            target = targets.get("GET")
        return target, params.copy(), verbs

    def _walk(self, path: str, params: dict[str, Any]) -> dict[str, T] | None:
        node = self._root
        segments = path.split("/")
        for i in range(1, len(segments)):
            segment = segments[i]
            following = node.literals.get(segment)
            if following is None:
                following = node.parameter
                if following is None or not segment or "\0" in segment or len(segment) > 512:
                    if node.rest:
                        params["rest"] = "/".join(segments[i:])
                        return node.rest
                    return None
                if following.is_int:
                    if not segment.isascii() or not segment.isdigit() or len(segment) > MAX_INT_DIGITS:
                        return None
                    params[following.name] = int(segment)
                else:
                    params[following.name] = segment
            node = following
        return node.targets or None
