"""Worker processes on their way out: ended and reaped, while nobody waits for one that can't end."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
from typing import Final

_log = logging.getLogger("sealwire.crypto")
END_S: Final = 1.0
"""What a process may take to end by itself, and again after it was killed."""


class Endings:
    """The processes that were told to end.

    A stopped one ends when it is killed; one that is stuck in a driver (state D) when that lets it go, maybe never.
    """

    def __init__(self) -> None:
        self._leaving: list[subprocess.Popen[bytes]] = []

    def see_off(self, process: subprocess.Popen[bytes], *, grace_s: float = 0.0) -> None:
        """Kill it, or let it end by itself within `grace_s` first. Returns at once.

        A thread waits for it, two seconds at most: the stop of the service leaves no worker behind that can be killed.
        """
        if not grace_s:
            process.kill()
        self._leaving.append(process)
        threading.Thread(target=_wait_for, args=(process, grace_s), name="pkcs11-ending").start()

    def pending(self) -> list[int]:
        """Return the ids of those that aren't gone yet."""
        self._leaving = [process for process in self._leaving if process.poll() is None]
        return [process.pid for process in self._leaving]


def _wait_for(process: subprocess.Popen[bytes], grace_s: float) -> None:
    for within_s in (grace_s, END_S):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(within_s)
            return
        process.kill()
    _log.error("process %d, which held the token's session, was killed and does not end", process.pid)
