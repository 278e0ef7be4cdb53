"""Node packages that tests drive unmodified: installed once a machine, outside the repository, versions pinned."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

INSTALL_TIMEOUT_S = 300


class NodeMissing(Exception):
    """Node, npm or the packages can't be had here; the text says which. Tests that need them are skipped, visibly."""


def modules(folder: Path) -> Path:
    """Return a `node_modules` with what `folder`/package.json names, from a cache or from npm. Raises: NodeMissing."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise NodeMissing(f"{tool} is not installed")
    wanted = (folder / "package.json").read_bytes()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sealwire-tests"
    cache = caches / f"node-{hashlib.sha256(wanted).hexdigest()[:16]}"
    stamp = cache / ".complete"
    if not stamp.exists():
        cache.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", ".npmrc"):
            shutil.copyfile(folder / name, cache / name)
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed command
                command, cwd=cache, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise NodeMissing(f"npm took longer than {INSTALL_TIMEOUT_S} s") from None
        if done.returncode:
            raise NodeMissing(f"npm could not install the packages: {done.stderr.strip()[-300:]}")
        stamp.touch()
    return cache / "node_modules"


class NodeScript:
    """A script under Node that reads JSON commands from stdin and writes JSON events to stdout, a line each."""

    def __init__(self, script: Path, *arguments: str) -> None:
        """Raises: NodeMissing."""
        self._command = ["node", str(script), *arguments]
        self._env = {**os.environ, "NODE_PATH": str(modules(script.parent))}
        self._changed = asyncio.Event()
        self.events: list[dict[str, Any]] = []

    async def __aenter__(self) -> NodeScript:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, env=self._env, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            limit=16 * 1024 * 1024,
        )  # fmt: skip
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reader

    def do(self, command: str, **rest: Any) -> None:
        """Have the script do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **rest}).encode() + b"\n")

    def seen(self, event: str, **matching: Any) -> list[dict[str, Any]]:
        """Return the events of this name so far whose members match."""
        return [e for e in self.events if e["event"] == event and matching.items() <= e.items()]

    async def until(self, condition: Callable[[], object], within_s: float = 60.0) -> None:
        """Wait until it is so. Raises: TimeoutError; ConnectionError when the script ended."""
        async with asyncio.timeout(within_s):
            while not condition():
                if self._reader.done():
                    raise ConnectionError(f"the script ended with {self._process.returncode}: {self.events[-5:]}")
                self._changed.clear()
                await self._changed.wait()

    async def answer(self, tag: str) -> dict[str, Any]:
        """Wait for the answer with this tag."""
        await self.until(lambda: self.seen("answer", tag=tag))
        return self.seen("answer", tag=tag)[0]

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.events.append(json.loads(line))
            self._changed.set()
        self._changed.set()
