"""A program that is killed in the middle of its work, and what it had said by then."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any


async def killed_after(program: str, folder: Path, lines: int, *, timeout_s: float = 100.0) -> list[dict[str, Any]]:
    """Run a Python program on `folder` and kill it once it has printed `lines` lines of JSON; return all it printed.

    A line that the kill cut short is left out. Raises: TimeoutError when it says too little in `timeout_s`,
    AssertionError when it ended by itself.
    """
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert victim.stdout is not None
    said: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(timeout_s):
            while len(said) < lines:
                line = await victim.stdout.readline()
                assert line, "the victim ended by itself"
                said.append(json.loads(line))
        victim.kill()
        rest = await victim.stdout.read()
    finally:
        if victim.returncode is None:
            victim.kill()
        await victim.wait()
    return said + [json.loads(line) for line in rest[: rest.rfind(b"\n") + 1].splitlines()]
