"""For how long a busy machine held an installation up, so that a bound in seconds is not a bound on the machine."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final

LOOK_EVERY_S: Final = 0.02
SYNCS: Final = 4
"""So many syncs one after the other are in the way of a change: of the service, its journal and who tells of it."""


class HeldUp:
    """What two processes waited for while it is entered: a processor, and a disk. Next to nothing on a quiet machine.

    A bound of a product's answer is kept by `took_s < BOUND_S + held.up_s`: it is as strict as the machine is quiet.
    """

    def __init__(self, pid: int, folder: Path) -> None:
        """`pid` is whose answer is timed; this process, which asks, counts too. `folder` is on the disk it syncs to."""
        self._pids = (pid, os.getpid())
        self._file = folder / f"held-up-{os.getpid()}-{threading.get_ident()}"
        self._over = threading.Event()
        self._slowest_sync_s = self._seen_s = 0.0
        self._thread = threading.Thread(target=self._sync_on, daemon=True)

    def __enter__(self) -> HeldUp:
        self._before_s = self._waited_s()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._file.unlink(missing_ok=True)

    @property
    def up_s(self) -> float:
        """The seconds so far."""
        self._seen_s = max(self._seen_s, self._waited_s() - self._before_s)  # of a process that ended no more is told
        return self._seen_s + SYNCS * self._slowest_sync_s

    def _waited_s(self) -> float:
        """Sum up what the kernel says of all threads (proc(5), `schedstat`); nothing where it says nothing."""
        total_ns = 0
        for pid in self._pids:
            for told in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):  # a thread that ended
                    total_ns += int(told.read_text().split()[1])
        return total_ns / 1e9

    def _sync_on(self) -> None:
        with self._file.open("wb", buffering=0) as file:
            while not self._over.wait(LOOK_EVERY_S):
                began_s = time.monotonic()
                file.write(b"x")
                os.fsync(file.fileno())
                self._slowest_sync_s = max(self._slowest_sync_s, time.monotonic() - began_s)
