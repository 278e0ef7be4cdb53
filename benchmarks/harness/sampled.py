"""Runs the `sealwire` command and samples where its main thread spends CPU time. No clock runs until SIGUSR1.

usage: python sampled.py OUT up --data ...   (as `sealwire up`, with OUT in front)

The next SIGUSR1 writes OUT: one stack a line, outermost function first, and how often it was seen. A timer of the
thread's own CPU time interrupts it; Python hears of that between two instructions, so time in C counts for the line
that called it. What passed before a function's first instruction was its caller's: in the event loop's case, the loop
and the kernel.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

EVERY_S = 0.002
SIGEV_THREAD_ID = 4
CLOCK_THREAD_CPUTIME_ID = 3
RESUME = 151
"""The instruction at which a function begins or goes on (Python 3.11)."""
LOOP = "event loop and sockets"


class _Event(ctypes.Structure):
    _fields_ = [
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("tid", ctypes.c_int),
        ("rest", ctypes.c_char * 44),
    ]


class _Times(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns")]


class Sampler:
    """Counts stacks of the main thread."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._seen: Counter[tuple[CodeType | str, ...]] = Counter()
        self._running = False
        self._timer = ctypes.c_void_p()
        self._libc = ctypes.CDLL(None, use_errno=True)
        event = _Event(signo=signal.SIGPROF, notify=SIGEV_THREAD_ID, tid=threading.get_native_id())
        if self._libc.timer_create(CLOCK_THREAD_CPUTIME_ID, ctypes.byref(event), ctypes.byref(self._timer)):
            raise OSError(ctypes.get_errno(), "no timer of CPU time")
        signal.signal(signal.SIGPROF, self._sample)
        signal.signal(signal.SIGUSR1, self._toggle)

    def _toggle(self, _signum: int, _frame: FrameType | None) -> None:
        self._running = not self._running
        every_ns = int(EVERY_S * 1e9) if self._running else 0
        times = _Times(every_ns=every_ns, first_ns=every_ns)
        self._libc.timer_settime(self._timer, 0, ctypes.byref(times), None)
        if not self._running:
            text = "".join(f"{';'.join(map(_name, stack))} {count}\n" for stack, count in self._seen.items())
            self._out.with_suffix(".part").write_text(text)
            os.replace(self._out.with_suffix(".part"), self._out)
            self._seen.clear()

    def _sample(self, _signum: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_code[frame.f_lasti] == RESUME:
            frame = frame.f_back
        stack: list[CodeType | str] = []
        while frame is not None:
            stack.append(frame.f_code)
            frame = frame.f_back
        if stack and isinstance(stack[0], CodeType) and stack[0].co_filename.endswith("asyncio/runners.py"):
            stack.insert(0, LOOP)
        self._seen[tuple(reversed(stack))] += 1


def _name(code: CodeType | str) -> str:
    if isinstance(code, str):
        return code
    path = code.co_filename.replace("\\", "/")
    for root in ("/site-packages/", "/src/"):
        path = path.rpartition(root)[2]
    return f"{path}:{code.co_qualname}"


if __name__ == "__main__":
    _sampler = Sampler(Path(sys.argv[1]))
    sys.argv = ["sealwire", *sys.argv[2:]]
    del sys.path[0]  # this folder, whose `sealwire` is not the package
    from sealwire.cli.main import main

    sys.exit(main())
