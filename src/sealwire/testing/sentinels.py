"""A primary, a replica and three sentinels on loopback, for tests of a cache that survives the loss of its server."""

from __future__ import annotations

import signal
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from sealwire.testing.engines import START_TIMEOUT_S, RedisServer, answers, binary, command
from sealwire.testing.free_ports import free_port_base
from sealwire.testing.tls import EitherFront

NAME: Final = "main"
SENTINELS: Final = 3
QUORUM: Final = 2
FAILOVER_TIMEOUT_S: Final = 90.0


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Passwords: of `app` at the servers, of `watcher` at the sentinels, of both kinds among themselves."""

    app: str
    watcher: str
    peers: str

    def of_servers(self) -> list[str]:
        """Return options: `app` may use its own keys, and no command that administers; `peer` is for the others."""
        app = f"app on >{self.app} resetchannels ~sealwire:* +@all -@admin -@dangerous"
        peer = f"peer on >{self.peers} allkeys allchannels +@all"
        users = [word for user in ("default off", app, peer) for word in ("--user", *user.split())]
        return [*users, "--masteruser", "peer", "--masterauth", self.peers]

    def of_sentinels(self) -> str:
        """Return lines of the configuration: `watcher` may ask who the primary is, and nothing else."""
        return (
            f"sentinel auth-user {NAME} peer\nsentinel auth-pass {NAME} {self.peers}\nrequirepass {self.peers}\n"
            f"user watcher on >{self.watcher} -@all +auth +hello +sentinel|get-master-addr-by-name\n"
        )


class Sentinel:
    """One sentinel. It writes what it knows into its own configuration."""

    def __init__(
        self, folder: Path, *, flavour: str, place: int, down_after_ms: int, secrets: Secrets | None = None
    ) -> None:
        """`place` is the port at which the primary is reached."""
        program = binary(flavour)
        if program is None:
            raise FileNotFoundError(f"no {flavour} server on this machine")
        folder.mkdir(parents=True)
        self.port: int = free_port_base()
        self._config = folder / "sentinel.conf"
        self._config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\nlogfile {folder / 'sentinel.log'}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {place} {QUORUM}\n"
            f"sentinel down-after-milliseconds {NAME} {down_after_ms}\n"
            f"sentinel failover-timeout {NAME} 4000\n" + (secrets.of_sentinels() if secrets else "")
        )
        self._login = f"default {secrets.peers}" if secrets else ""
        self._program = str(program)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers. Raises: RuntimeError."""
        self._process = subprocess.Popen(  # noqa: S603 - a program of ours, without a shell
            [self._program, str(self._config), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait(lambda: answers(self.port), START_TIMEOUT_S, "the sentinel did not come up")

    def kill(self) -> None:
        """SIGKILL. Safe to call twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def alive(self) -> bool:
        """Whether it was started and not killed."""
        return self._process is not None

    def pause(self) -> None:
        """SIGSTOP: it answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def primary(self) -> int:
        """Return the port of whom it takes for the primary; 0 while it tells nobody."""
        told = command(self.port, "SENTINEL", "get-master-addr-by-name", NAME, login=self._login).split(b"\r\n")
        return int(told[4]) if len(told) > 4 and told[4].isdigit() else 0

    def ready(self) -> bool:
        """Whether it knows the replica and the other sentinels, so that a failover can be agreed on."""
        told = command(self.port, "SENTINEL", "master", NAME, login=self._login).split(b"\r\n")
        found = dict(zip(told[2::4], told[4::4], strict=False))
        return found.get(b"num-slaves") == b"1" and found.get(b"num-other-sentinels") == b"%d" % (SENTINELS - 1)


class Watched:
    """The whole set. Use as a context manager; `primary` and `replica` are as they were at the start."""

    def __init__(
        self,
        folder: Path,
        *,
        flavour: str = "valkey",
        down_after_ms: int = 1_000,
        secrets: Secrets | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """With `secrets` nobody is let in without a password, at servers and sentinels. With `context` all of them are
        announced at fronts that speak TLS with clients; among themselves they speak in the clear, as no wheel has TLS.

        Raises: FileNotFoundError when the engine is not there.
        """
        self._secrets = secrets
        self.fronts: list[EitherFront] = []

        def announced(port: int) -> int:
            if context is None:
                return port
            self.fronts.append(EitherFront(port, context))
            return self.fronts[-1].port

        common = ["--repl-diskless-sync-delay", "0", *(secrets.of_servers() if secrets else ())]
        self.primary = RedisServer(folder / "primary", flavour=flavour, options=common)
        place = announced(self.primary.port)
        self.replica = RedisServer(
            folder / "replica", flavour=flavour, options=[*common, "--replicaof", "127.0.0.1", str(place)]
        )
        self.replica_place = announced(self.replica.port)
        self.replica.options("--replica-announce-port", str(self.replica_place))
        self.sentinels = [
            Sentinel(
                folder / f"sentinel{i}", flavour=flavour, place=place, down_after_ms=down_after_ms, secrets=secrets
            )
            for i in range(SENTINELS)
        ]
        self._scheme = "redis" if context is None else "rediss"
        self._asked = [announced(sentinel.port) for sentinel in self.sentinels]

    def __enter__(self) -> Watched:
        try:
            for front in self.fronts:
                front.__enter__()
            self.primary.start()
            self.replica.start()
            _wait(self._in_step, START_TIMEOUT_S, "the replica does not follow")
            for sentinel in self.sentinels:
                sentinel.start()
            _wait(
                lambda: all(s.ready() for s in self.sentinels), START_TIMEOUT_S, "the sentinels do not find each other"
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for sentinel in self.sentinels:
            sentinel.kill()
        self.replica.kill()
        self.primary.kill()
        for front in self.fronts:
            front.__exit__()

    @property
    def url(self) -> str:
        """Its address, by way of the sentinels."""
        places = ",".join(f"127.0.0.1:{port}" for port in self._asked)
        login = f"app:{self._secrets.app}@" if self._secrets else ""
        return f"{self._scheme}+sentinel://{login}{places}/{NAME}/0"

    def wait_for_failover(self) -> float:
        """Wait until all sentinels that live tell the replica's address; return the seconds it took."""
        started = time.monotonic()
        alive = [sentinel for sentinel in self.sentinels if sentinel.alive]
        _wait(
            lambda: {sentinel.primary() for sentinel in alive} == {self.replica_place},
            FAILOVER_TIMEOUT_S,
            "no failover",
        )
        return time.monotonic() - started

    def _in_step(self) -> bool:
        login = f"peer {self._secrets.peers}" if self._secrets else ""
        return b"master_link_status:up" in command(self.replica.port, "INFO", "replication", login=login)


def _wait(holds: Callable[[], bool], within_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(0.02)
