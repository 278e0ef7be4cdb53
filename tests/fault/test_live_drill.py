"""`sealwire drill redis-down` on an installation that was running already, with people and rate limits of its own."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sealwire.cli.drill_proxy import RemoteProxy
from sealwire.testing.engines import RedisServer, binary
from sealwire.testing.faults import Fault
from sealwire.testing.installation import Installation, Person

pytestmark = [
    pytest.mark.skipif(binary("valkey") is None, reason="no valkey server on this machine (requirements/dev.txt)"),
    pytest.mark.timeout(200),
]
DEADLINE_S = 60.0


class Place:
    """An installation at work, its cache behind the drill's proxy."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.control = folder / "drill.sock"
        command = [sys.executable, "-m", "sealwire.cli.main", "drill", "proxy", "--to", server.url, "--control",
                   str(self.control), "--json"]  # fmt: skip
        self.proxy = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.proxy.stdout is not None
        listening = json.loads(self.proxy.stdout.readline())["listening"]
        env = {"SEALWIRE_GATEWAY__RATE_LIMITS": "on", "SEALWIRE_CACHE__URL": f"redis://{listening}/0"}
        self.installation = Installation(folder / "data", env=env).start()

    @property
    def cache(self) -> str:
        return str(httpx.get(self.installation.url + "/ready").json()["checks"]["cache"]["status"])

    def until_cache_is(self, status: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while self.cache != status:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def drill(self, *words: str) -> tuple[int, list[dict[str, Any]]]:
        command = [sys.executable, "-m", "sealwire.cli.main", "drill", "redis-down", "--url", self.installation.url,
                   "--control", str(self.control), "--json", *words]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=150)
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()] or [{"said": done.stderr}]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("live")
    with RedisServer(folder / "engine") as server:
        place = Place(folder, server)
        yield place
        place.installation.kill()
        place.proxy.terminate()
        assert place.proxy.wait(10) == 0
        assert not place.control.exists()


def test_every_step_holds_and_nobody_at_work_notices(place: Place) -> None:
    worker = Person(place.installation.url, "worker")
    code, lines = place.drill("--fault", "half-open")  # the hardest; test_redis_outage.py has them all, on a stage
    assert [line for line in lines if line.get("ok") is False or "said" in line] == []
    assert (code, lines[-1]) == (0, {"passed": True})
    assert len(lines) == 12 + 1
    assert worker.http.get("/auth/me").status_code == 200
    place.until_cache_is("ok")


def test_a_drill_that_dies_leaves_nothing_broken(place: Place) -> None:
    remote = RemoteProxy(place.control)
    remote.set(Fault.REFUSE)
    place.until_cache_is("degraded")
    remote.close()  # as the end of its process does
    place.until_cache_is("ok")


def test_the_control_socket_is_its_owners_alone_and_takes_one_drill_at_a_time(place: Place) -> None:
    assert stat.S_IMODE(os.stat(place.control).st_mode) == 0o600
    remote = RemoteProxy(place.control)
    try:
        with pytest.raises(OSError):
            RemoteProxy(place.control)
    finally:
        remote.close()
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(place.control))
        rude.sendall(b'{"fault":"earthquake"}\n')
        rude.settimeout(DEADLINE_S)
        assert rude.recv(100) == b""
    place.until_cache_is("ok")


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--fault", "kill"), "--fault kill"), (("--fault", "pause"), "--fault pause")],
)
def test_nobody_kills_the_cache_of_an_installation_at_work(place: Place, words: tuple[str, ...], said: str) -> None:
    code, lines = place.drill(*words)
    assert code == 2
    assert said in str(lines[0])


def test_the_proxy_and_the_installation_are_named_together() -> None:
    command = [sys.executable, "-m", "sealwire.cli.main", "drill", "redis-down", "--url", "http://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--control" in done.stderr
