"""The reference stack: Fastify + better-sqlite3 (synchronous=FULL) + Socket.IO, from the peers' folder and npm."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import processes
from benchmarks.harness.cores import SERVER_CORE
from benchmarks.harness.load import KEY, SOCKETIO, Connection, Step, http_request, texts, upgrade_request
from benchmarks.harness.servers import free_port
from benchmarks.harness.setup_client import Client, wait_for

PACKAGES = (
    "fastify@5.12.8",
    "@fastify/jwt@10.2.8",
    "fast-jwt@6.3.6",
    "better-sqlite3@12.11.1",
    "socket.io@4.8.4",
    "ws@8.23.0",
    "argon2@0.45.1",
    "bcrypt@6.0.0",
)
NATIVE = ("better-sqlite3", "argon2", "bcrypt")
INSTALL_TIMEOUT_S = 600
REPOSITORY = Path(__file__).resolve().parents[2]


class Unavailable(Exception):
    """The reference can't run here; the text says why. What needs it is skipped, visibly."""


def peers_folder() -> Path:
    """Return the folder of the peers: $SEALWIRE_PEERS, or ../shared/peers beside the repository."""
    return Path(os.environ.get("SEALWIRE_PEERS") or REPOSITORY.parent / "shared" / "peers")


def node_folder() -> Path:
    """Return the folder with the reference's packages, installing them once. Raises: Unavailable."""
    if shutil.which("node") is None:
        raise Unavailable("node is not installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sealwire-bench" / "node"
    stamp = cache / ".installed"
    wanted = "\n".join(PACKAGES)
    if stamp.exists() and stamp.read_text() == wanted:
        return cache
    if shutil.which("npm") is None:
        raise Unavailable("npm is not installed")
    cache.mkdir(parents=True, exist_ok=True)
    print("installing the reference's packages (once; native modules may be compiled, which takes minutes)", flush=True)
    for command in (
        ["npm", "init", "-y"],
        ["npm", "install", "--no-audit", "--no-fund", *PACKAGES],
        ["npm", "approve-scripts", *NATIVE],  # newer npm runs no install script that was not approved
        ["npm", "rebuild", *NATIVE],
    ):
        _npm(command, cache)
    _check(cache)
    stamp.write_text(wanted)
    return cache


def _npm(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(command[:2])} took longer than {INSTALL_TIMEOUT_S} s") from None
    if done.returncode and command[1] == "install":
        raise Unavailable(f"npm could not install the reference: {done.stderr.strip()[-300:]}")


def _check(folder: Path) -> None:
    script = "; ".join(f"require('{package.rsplit('@', 1)[0]}')" for package in PACKAGES)
    done = subprocess.run(["node", "-e", script], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"the reference's packages don't load: {done.stderr.strip()[-300:]}")


@dataclass(frozen=True, kw_only=True)
class Account:
    """Somebody registered, with a token."""

    user_id: int
    token: str


class NodeServer:
    """A script under node on the server's core, with the reference's packages at hand."""

    def __init__(self, script: Path, data: Path, env: dict[str, str]) -> None:
        """Raises: Unavailable."""
        folder = node_folder()
        if not script.exists():
            raise Unavailable(f"{script} is not there; set SEALWIRE_PEERS to the folder of the peers")
        data.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = data / "reference.log"
        began = time.perf_counter()
        self.process = processes.spawn(
            ["node", str(script)],
            core=SERVER_CORE,
            log=self.log,
            # the script lies outside the package folder, so the search path is said
            env={**env, "PORT": str(self.port), "DATA": str(data), "NODE_PATH": str(folder / "node_modules")},
            cwd=folder,
        )
        try:
            wait_for(self.port, "/health", timeout_s=30, alive=lambda: self.process.poll() is None)
        except (RuntimeError, TimeoutError) as error:
            self.stop()
            raise Unavailable(f"the reference did not start: {error}: {self.log.read_text()[-300:]}") from None
        self.ready_s = time.perf_counter() - began

    @property
    def pids(self) -> list[int]:
        """The server's processes."""
        return processes.tree(self.process.pid)

    def stop(self) -> None:
        """End it."""
        processes.stop(self.process)


class Fastify(NodeServer):
    """The messaging reference: durable insert per POST before the answer, then fan-out by Socket.IO."""

    def __init__(self, data: Path, *, sync: str = "FULL") -> None:
        super().__init__(peers_folder() / "fastify_server.js", data, {"FANOUT": "socketio", "SYNC": sync})
        self._client = Client(self.port)

    def register(self, name: str) -> Account:
        """Register somebody."""
        made = self._client.call("POST", "/auth/register", {"name": name, "password": "correct horse " + name})
        return Account(user_id=made["id"], token=made["token"])

    def room(self, owner: Account, members: list[Account]) -> int:
        """Make a room with these members."""
        room = int(self._client.call("POST", "/rooms", {"name": "bench"}, token=owner.token)["id"])
        for member in members:
            self._client.call("POST", f"/rooms/{room}/join", {}, token=member.token)
        return room

    def sender(self, account: Account, room: int) -> Connection:
        """Return a connection that sends to the room by HTTP."""
        path = f"/rooms/{room}/messages"
        templates = [
            http_request(self.port, path, f'{{"body":"{text}","txn":"{KEY}"}}', token=account.token) for text in texts()
        ]
        return Connection(protocol=0, templates=templates)

    def receiver(self, account: Account, room: int) -> Connection:
        """Return a Socket.IO connection that hears all rooms of the account, this one among them."""
        return Connection(
            protocol=SOCKETIO,
            upgrade=upgrade_request(self.port, "/socket.io/?EIO=4&transport=websocket"),
            steps=(
                Step(expect=b'0{"sid"'),
                Step(send=f'40{{"token":"{account.token}"}}'.encode(), expect=b'42["ready"]'),
            ),
        )
