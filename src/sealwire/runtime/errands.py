"""Errands: what the holder of the data folder asks of the installation that runs on it, by a file.

No second process touches the databases and no credential is needed: who may write into the data folder (mode 0700)
holds the keys anyway. A file that lies there when nothing runs is seen to at the next start, before anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from sealwire.kit.files import write_whole
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Problem
from sealwire.kit.tasks import cancel_and_wait

_LOG: Final = logging.getLogger("sealwire.errands")
FOLDER: Final = "errands"
_CALLED: Final = "call-"
LOOK_EVERY_S: Final = 0.5
ASK_EVERY_S: Final = 0.05


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """An operation of auth, its path's parameters and its body or query."""

    operation: str
    params: tuple[str, ...] = ()
    takes: msgspec.Raw = msgspec.Raw(b"")


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for."""

    errand_id: str
    kind: Literal["rotate-signing", "rotate-checkpoint", "call"]
    compromised: bool = False
    calls: tuple[Call, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: `error` is empty when it was done. `given`: what the calls answered, in order."""

    errand_id: str
    error: str = ""
    key_ids: list[str] = []
    given: list[msgspec.Raw] = []


Run = Callable[[Errand], Awaitable[Report]]


def ask(data: Path, kind: Literal["rotate-signing", "rotate-checkpoint"], *, compromised: bool) -> Errand:
    """Leave an errand in the data folder, durably. Raises: OSError; FileExistsError while another one waits."""
    folder = data / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{kind}.json"
    if path.exists():
        raise FileExistsError(f"{path} waits already; it is seen to when the installation runs")
    errand = Errand(errand_id=new_id(), kind=kind, compromised=compromised)
    write_whole(path, msgspec.json.encode(errand))
    return errand


def waiting(data: Path, kind: Literal["rotate-signing", "rotate-checkpoint"]) -> Errand | None:
    """Return the errand of this kind that nobody has seen to yet."""
    try:
        return msgspec.json.decode((data / FOLDER / f"{kind}.json").read_bytes(), type=Errand)
    except (OSError, msgspec.DecodeError):
        return None


def call(data: Path, calls: Sequence[Call], *, timeout_s: float) -> Report | None:
    """Have operations of auth carried out by the installation that runs; None when nobody saw to it in time.

    Neither errand nor report stays behind: an answer may hold a token that works once. Raises: OSError.
    """
    folder = data / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    errand = Errand(errand_id=new_id(), kind="call", calls=tuple(calls))
    path = folder / f"{_CALLED}{errand.errand_id}.json"
    write_whole(path, msgspec.json.encode(errand))
    try:
        return _report(path.with_suffix(".done"), errand, timeout_s)
    finally:
        path.unlink(missing_ok=True)
        path.with_suffix(".done").unlink(missing_ok=True)


def wait(data: Path, errand: Errand, *, timeout_s: float) -> Report | None:
    """Wait for the report of an errand; None when nobody saw to it in time."""
    return _report(data / FOLDER / f"{errand.kind}.done", errand, timeout_s)


def _report(path: Path, errand: Errand, timeout_s: float) -> Report | None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            report = msgspec.json.decode(path.read_bytes(), type=Report)
            if report.errand_id == errand.errand_id:
                return report
        time.sleep(ASK_EVERY_S)
    return None


class Errands:
    """Sees to the errands in a data folder; looks twice a second."""

    def __init__(self, *, data: Path, run: Run) -> None:
        self._folder = data / FOLDER
        self._run = run
        self._unreadable: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See to what waits already, then go on looking."""
        await self.look()
        self._task = asyncio.create_task(self._go_on(), name="errands")

    async def look_first(self) -> None:
        """See to what has to be done before anybody is answered: a key that may be stolen opens nothing meanwhile.

        Raises: what doing that raises, and OSError for what can't be read. The errand waits on then, and nothing may
        be answered: nobody is there any more to be told that the key still counts.
        """
        await self._see_to("rotate-signing.json", first=True)

    async def stop(self) -> None:
        """Stop looking. Safe to call twice."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def look(self) -> None:
        """See to the errands that wait. Each is taken away after it was done, so a crash repeats it."""
        await self._see_to("rotate-signing.json")
        await self._see_to("rotate-checkpoint.json")
        for name in sorted(path.name for path in self._folder.glob(f"{_CALLED}*.json")):
            await self._see_to(name)

    async def _see_to(self, name: str, *, first: bool = False) -> None:
        path = self._folder / name
        try:
            errand = msgspec.json.decode(path.read_bytes(), type=Errand)
        except FileNotFoundError:
            return
        except OSError as error:  # left by another user of the machine: it stays, as whoever left it was told
            if first:
                raise
            if name not in self._unreadable:
                self._unreadable.add(name)
                _LOG.warning("an errand can't be read: %s", error)
            return
        except msgspec.DecodeError as error:
            _LOG.warning("an errand can't be understood: %s", error)
            path.unlink(missing_ok=True)
            return
        try:
            report = await self._run(errand)
        except Exception as error:
            if first and errand.compromised:
                raise
            report = _failed(errand, error)
        write_whole(path.with_suffix(".done"), msgspec.json.encode(report))
        path.unlink(missing_ok=True)

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.look()
            except OSError as error:
                _LOG.warning("errands can't be seen to: %s", error)


def _failed(errand: Errand, error: Exception) -> Report:
    if isinstance(error, Problem):
        return Report(errand_id=errand.errand_id, error=error.detail or error.title)
    _LOG.error("an errand failed", exc_info=error)
    return Report(errand_id=errand.errand_id, error=str(error) or type(error).__name__)
