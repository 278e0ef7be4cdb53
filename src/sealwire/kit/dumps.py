"""Core dumps: what a process that holds keys doesn't leave behind when it crashes."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

_FILTER: Final = Path("/proc/self/coredump_filter")


def forbid_dumps() -> None:
    """Have no core file written, of this process and of those it starts, and no memory in what a collector is handed.

    Linux hands a dump to a program such as systemd-coredump also where files are limited to nothing; the filter
    (core(5)) takes all memory out of it. Against root, and a debugger of the same user, this is nothing.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # another system
        _FILTER.write_text("0x0")
