"""Brings an installation up in named steps, keeps it up, and takes it down in reverse."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from sealwire.kit.codec import encode
from sealwire.kit.dumps import forbid_dumps
from sealwire.runtime.assembly import Assembly
from sealwire.runtime.errands import Errand, Errands, Report
from sealwire.runtime.offline import see_to
from sealwire.runtime.settings import Settings

_LOG = logging.getLogger("sealwire.supervisor")

GC_THRESHOLDS = (20_000, 50, 20)
"""Python's own are for short programs: with them a busy server looks through its whole memory again and again, 5 to 8 %
of its time in pauses of up to 100 ms, and finds next to nothing: requests leave no cycles behind."""


_ROTATE_FIRST: Final = "Start again when that is mended; until then the old key would count on"


class StartFailed(Exception):
    """A step failed; the text says which, why, and what to do."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the start."""

    name: str
    run: Callable[[], Awaitable[None]]
    remedy: str


class Reporter(Protocol):
    """Told how the start goes."""

    def begin(self, step: str, number: int, of: int) -> None: ...
    def done(self, step: str, seconds: float) -> None: ...
    def up(self, url: str, notes: list[str]) -> None: ...
    def say(self, text: str) -> None: ...


class TextReporter:
    """Lines for people, coloured on a terminal."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty()

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def begin(self, step: str, number: int, of: int) -> None:
        if self._colour:
            sys.stdout.write(f"{number:>2}/{of} {step} …\r")
            sys.stdout.flush()

    def done(self, step: str, seconds: float) -> None:
        print(f"{self._paint('32', 'ok')} {step:<44} {seconds * 1000:7.0f} ms", flush=True)

    def up(self, url: str, notes: list[str]) -> None:
        print(f"\nSealwire is up at {self._paint('1', url)}   (API: {url}/documentation)", flush=True)
        for note in notes:
            print(note, flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)


class JsonReporter:
    """One JSON document a line."""

    def _say(self, **members: object) -> None:
        sys.stdout.write(encode(members).decode() + "\n")
        sys.stdout.flush()

    def begin(self, step: str, number: int, of: int) -> None:
        self._say(event="step_begun", step=step, number=number, of=of)

    def done(self, step: str, seconds: float) -> None:
        self._say(event="step_done", step=step, ms=round(seconds * 1000, 1))

    def up(self, url: str, notes: list[str]) -> None:
        self._say(event="up", url=url, notes=notes)

    def say(self, text: str) -> None:
        self._say(event="note", text=text)


class Supervisor:
    """Starts an assembly, waits for a signal, stops it."""

    def __init__(self, *, assembly: Assembly, reporter: Reporter) -> None:
        self._assembly = assembly
        self._reporter = reporter
        self._asked_to_stop = asyncio.Event()
        self._errands = Errands(data=assembly.settings.data, run=self._see_to)

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM. Raises: StartFailed after everything begun was stopped again."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._on_signal)
        try:
            if await self.start():
                await self._errands.start()
                await self._asked_to_stop.wait()
                self._reporter.say("stopping: requests in flight finish, sockets move on (again to stop now)")
        finally:
            await self._errands.stop()
            await self._assembly.stop()

    async def start(self) -> bool:
        """Run every step in order. Returns whether it came to the end (False when asked to stop meanwhile)."""
        steps = [Step(name=name, run=run, remedy=remedy) for name, run, remedy in self._assembly.steps()]
        for number, step in enumerate(steps, 1):
            if self._asked_to_stop.is_set():
                return False
            self._reporter.begin(step.name, number, len(steps))
            started = time.perf_counter()
            try:
                await step.run()
            except Exception as error:
                _LOG.debug("step failed: %s", step.name, exc_info=True)
                why = str(error).rstrip(".") or type(error).__name__
                raise StartFailed(f"{step.name}: {why}. {step.remedy}") from error
            self._reporter.done(step.name, time.perf_counter() - started)
            if step.name == "service auth":
                await self._look_first()
        settle_collector()
        self._reporter.up(self._assembly.url, self._assembly.notes)
        return True

    async def _look_first(self) -> None:
        try:
            await self._errands.look_first()
        except Exception as error:
            _LOG.debug("errand failed", exc_info=True)
            why = str(error).rstrip(".") or type(error).__name__
            raise StartFailed(f"the signing key is to be rotated first: {why}. {_ROTATE_FIRST}") from error

    async def _see_to(self, errand: Errand) -> Report:
        if errand.kind == "rotate-checkpoint":
            keys = await self._assembly.contract("compliance").rotate_checkpoint_keys()
            return Report(errand_id=errand.errand_id, key_ids=keys)
        return await see_to(self._assembly.contract("auth"), errand)

    def _on_signal(self) -> None:
        if self._asked_to_stop.is_set():
            os._exit(1)
        self._asked_to_stop.set()


def settle_collector() -> None:
    """Leave what the start has made out of later collections, and collect less often (cycles are rare here)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()


def run(settings: Settings, *, as_json: bool) -> int:
    """Bring the installation up in this process and serve. Returns the exit code. Raises: StartFailed."""
    import uvloop

    from sealwire.kit.telemetry import configure_logging

    forbid_dumps()
    configure_logging(settings.server.log_level)
    reporter: Reporter = JsonReporter() if as_json else TextReporter()

    async def serve() -> None:
        await Supervisor(assembly=Assembly(settings=settings), reporter=reporter).run()

    uvloop.run(serve())
    return 0
