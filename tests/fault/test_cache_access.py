"""The way to the session cache: TLS with its certificate checked, a user of little power, and no secret told anywhere.

The engines' wheels are built without TLS, so a front of ours ends it before a real server.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from sealwire.adapters.distributed.drivers.redis import RedisDriver
from sealwire.ports.cache import CacheFault
from sealwire.testing.engines import RedisServer, binary
from sealwire.testing.installation import Installation, Person
from sealwire.testing.tls import Authority, TlsFront

pytestmark = [
    pytest.mark.skipif(binary("valkey") is None, reason="no valkey server on this machine (requirements/dev.txt)"),
    pytest.mark.timeout(120),
]
SECRET = "correct-horse-battery"
USER = f"app on >{SECRET} resetchannels ~sealwire:* +@all -@admin -@dangerous"
DEADLINE_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that nobody may use without a password, and `app` for its own keys and harmless commands only."""
    with RedisServer(tmp_path / "engine", options=["--user", "default", "off", "--user", *USER.split()]) as server:
        yield server


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def front(server: RedisServer, authority: Authority) -> Iterator[TlsFront]:
    with TlsFront(server.port, authority.server_context("127.0.0.1")) as front:
        yield front


def address(port: int, secret: str = SECRET, scheme: str = "rediss") -> str:
    return f"{scheme}://app:{secret}@127.0.0.1:{port}/0"


async def ask(**options: object) -> object:
    driver = RedisDriver(timeout_s=5.0, connections=1, **options)  # type: ignore[arg-type]  # as given
    try:
        await driver.call("SET", driver.key("x"), "1")
        return await driver.call("GET", driver.key("x"))
    finally:
        await driver.aclose()


async def test_tls_with_our_authority_and_a_user_of_its_own(front: TlsFront, authority: Authority) -> None:
    assert await ask(url=address(front.port), ca=str(authority.path)) == b"1"
    assert await ask(url=address(front.port, scheme="valkeys"), ca=str(authority.path)) == b"1"


async def test_a_certificate_that_is_not_good_is_as_an_outage(
    front: TlsFront, server: RedisServer, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "other")
    with pytest.raises(CacheFault):
        await ask(url=address(front.port), ca=str(stranger.path))
    with pytest.raises(CacheFault):
        await ask(url=address(front.port))
    elsewhere = authority.server_context("cache.example.org")
    with TlsFront(server.port, elsewhere) as misnamed, pytest.raises(CacheFault):
        await ask(url=address(misnamed.port), ca=str(authority.path))
    with pytest.raises(CacheFault):
        await ask(url=address(server.port), ca=str(authority.path))


async def test_a_wrong_password_is_as_an_outage_and_is_not_told(server: RedisServer) -> None:
    wrong = "wrong-" + SECRET
    with pytest.raises(CacheFault) as fault:
        await ask(url=address(server.port, wrong, "redis"))
    assert SECRET not in str(fault.value)
    with pytest.raises(CacheFault):
        await ask(url=f"redis://127.0.0.1:{server.port}/0")
    with pytest.raises(CacheFault):
        await ask(url=address(server.port, scheme="redis"), prefix="another")


@pytest.mark.parametrize(
    "options",
    [
        {"url": "rediss://h/0?ssl_cert_reqs=none"},
        {"url": "redis://h/0?socket_timeout=3600"},
        {"url": "unix:///tmp/x?db=0&socket_timeout=1"},
        {"url": "redis://h/0", "ca": __file__},
        {"url": "rediss://h/0", "ca": "/nowhere/ca.pem"},
        {"url": "http://h/0"},
    ],
)
def test_an_address_can_not_take_the_checks_away(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        RedisDriver(**options)


@pytest.fixture
async def installation(tmp_path: Path, front: TlsFront, authority: Authority) -> AsyncIterator[Installation]:
    env = {"SEALWIRE_CACHE__URL": address(front.port), "SEALWIRE_CACHE__CA": str(authority.path)}
    running = Installation(tmp_path / "data", env={**env, "SEALWIRE_SERVER__LOG_LEVEL": "debug"}).start()
    yield running
    running.kill()


def test_an_installation_works_with_the_least_it_needs_and_tells_no_secret(
    installation: Installation, front: TlsFront, authority: Authority, server: RedisServer
) -> None:
    ann, ben = Person(installation.url, "ann"), Person(installation.url, "ben")
    assert ann.send(ann.converse(ben), "hello")["seq"] == 1
    deadline = time.monotonic() + DEADLINE_S
    while (checks := httpx.get(installation.url + "/ready").json()["checks"])["cache"]["status"] != "ok":
        assert time.monotonic() < deadline, checks
        time.sleep(0.05)
    server.kill()
    while httpx.get(installation.url + "/ready").json()["checks"]["cache"]["status"] != "degraded":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ann.http.get("/auth/me").status_code == 200
    told = installation.log.read_text() + httpx.get(installation.url + "/ready").text
    told += httpx.get(installation.url + "/metrics").text
    assert SECRET not in told
    env = {"SEALWIRE_CACHE__URL": address(front.port), "SEALWIRE_CACHE__CA": str(authority.path)}
    for words in (["--json"], []):
        command = [sys.executable, "-m", "sealwire.cli.main", "config", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=True)
        assert SECRET not in done.stdout + done.stderr
