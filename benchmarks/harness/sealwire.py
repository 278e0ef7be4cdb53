"""Our side: an installation in its own process on the server's core, people in it, and how they send and listen."""

from __future__ import annotations

import random
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import processes
from benchmarks.harness.cores import SERVER_CORE
from benchmarks.harness.load import (
    HTTP,
    KEY,
    RPC_ID,
    WEBSOCKET,
    Connection,
    Step,
    http_request,
    texts,
    upgrade_request,
)
from benchmarks.harness.setup_client import Client, wait_for

API = "/api/v1"
START_TIMEOUT_S = 30.0
OFFSETS = (0, 2, 3, 4, 5, 6, 7, 8, 9)
PASSWORD = "anvil ember quartz thimble 7731"


def free_port_base() -> int:
    """Return a base whose ports are all free at this moment."""
    for _ in range(200):
        base = random.randrange(12_000, 30_000, 10)
        try:
            for offset in OFFSETS:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise RuntimeError("no ten free ports in a row on this machine")


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody registered and logged in."""

    user_id: str
    token: str


def _last_line(log: Path) -> str:
    lines = log.read_text().strip().splitlines()
    return lines[-1] if lines else ""


class Sealwire:
    """`sealwire up` on a data folder, with everything on but the rate limits."""

    def __init__(self, data: Path, *, command: tuple[str, ...] = (), env: dict[str, str] | None = None) -> None:
        """Start it and wait until it is ready. `command` replaces `python -m sealwire.cli.main` (a profiler's).

        Raises: RuntimeError with the end of its log.
        """
        self.port = free_port_base()
        self.log = data.with_name(data.name + ".log")
        start = command or (sys.executable, "-m", "sealwire.cli.main")
        began = time.perf_counter()
        self.process = processes.spawn(
            [*start, "up", "--data", str(data), "--port-base", str(self.port), "--json"],
            core=SERVER_CORE,
            log=self.log,
            env={"SEALWIRE_GATEWAY__RATE_LIMITS": "off", **(env or {})},
            cwd=data.parent,
        )
        try:
            wait_for(self.port, "/ready", timeout_s=START_TIMEOUT_S, alive=lambda: self.process.poll() is None)
        except (RuntimeError, TimeoutError) as error:
            self.stop()
            raise RuntimeError(f"{error}: {_last_line(self.log)}; its log is {self.log}") from None
        self.ready_s = time.perf_counter() - began
        self._client = Client(self.port)

    @property
    def pids(self) -> list[int]:
        """The server's processes."""
        return processes.tree(self.process.pid)

    def stop(self) -> None:
        """Ask it to end."""
        processes.stop(self.process, grace_s=20)

    def register(self, name: str) -> Person:
        """Register somebody and log them in."""
        who = {"email": f"{name}@bench.example.org", "password": PASSWORD}
        made = self._client.call("POST", API + "/auth/register", {**who, "display_name": name})
        grant = self._client.call("POST", API + "/auth/login", who)
        return Person(user_id=made["user"]["user_id"], token=grant["access_token"])

    def room(self, owner: Person, members: list[Person]) -> str:
        """Make a group conversation with these members."""
        document = {"kind": "group", "title": "bench", "member_ids": [member.user_id for member in members]}
        return str(self._client.call("POST", API + "/conversations", document, token=owner.token)["conversation_id"])

    def sender(self, person: Person, room: str) -> Connection:
        """Return a connection that sends to the room by REST, one request at a time."""
        path = f"{API}/conversations/{room}/messages"
        templates = [
            http_request(self.port, path, f'{{"body":"{text}","client_message_id":"{KEY}"}}', token=person.token)
            for text in texts()
        ]
        return Connection(protocol=HTTP, templates=templates)

    def socket_sender(self, person: Person, room: str, in_flight: int) -> Connection:
        """Return a connection that sends to the room by rpc, up to `in_flight` calls at a time."""
        templates = [
            (
                f'{{"id":{RPC_ID},"rpc":{{"method":"message.send","data":{{"conversation_id":"{room}",'
                f'"body":"{text}","client_message_id":"{KEY}"}}}}}}'
            ).encode()
            for text in texts()
        ]
        return Connection(
            protocol=WEBSOCKET,
            upgrade=upgrade_request(self.port, "/ws"),
            steps=(self._connect(person),),
            templates=templates,
            in_flight=in_flight,
        )

    def receiver(self, person: Person, room: str) -> Connection:
        """Return a connection that is subscribed to the room."""
        subscribe = f'{{"id":2,"subscribe":{{"channel":"conversation:{room}"}}}}'
        return Connection(
            protocol=WEBSOCKET,
            upgrade=upgrade_request(self.port, "/ws"),
            steps=(self._connect(person), Step(send=subscribe.encode(), expect=b'"id":2')),
        )

    @staticmethod
    def _connect(person: Person) -> Step:
        return Step(send=f'{{"id":1,"connect":{{"token":"{person.token}"}}}}'.encode(), expect=b'"id":1')
