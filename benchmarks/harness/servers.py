"""A small Python server of the benchmarks: a module that takes a port and answers `/` on it, pinned to its core."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import processes
from benchmarks.harness.cores import SERVER_CORE

START_TIMEOUT_S = 20.0


def free_port() -> int:
    """Return a port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until somebody listens. Raises: RuntimeError with the log's end."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.005)
    processes.stop(process)
    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")


class PythonServer:
    """`python -m MODULE PORT [ARGUMENTS]`, ended at the end of the block."""

    def __init__(self, module: str, folder: Path, *arguments: str) -> None:
        self.port = free_port()
        log = folder / f"{module}.log"
        command = [sys.executable, "-m", module, str(self.port), *arguments]
        self.process = processes.spawn(command, core=SERVER_CORE, log=log)
        wait_for_port(self.port, self.process, log)

    @property
    def pids(self) -> list[int]:
        """The server's processes."""
        return processes.tree(self.process.pid)

    def __enter__(self) -> PythonServer:
        return self

    def __exit__(self, *_: Any) -> None:
        processes.stop(self.process)
