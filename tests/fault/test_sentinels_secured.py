"""Sentinels and servers that ask for a password, over TLS: known, used, followed after the loss of the primary.

The engines' wheels are built without TLS. So every server and sentinel stands behind a front of ours, whose address is
the one that is announced: what the client does is all as with engines that have it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sealwire.adapters.distributed.drivers.redis import RedisDriver
from sealwire.ports.cache import CacheFault
from sealwire.testing.engines import binary, command
from sealwire.testing.installation import Installation, Person
from sealwire.testing.sentinels import Secrets, Watched
from sealwire.testing.tls import Authority

pytestmark = [
    pytest.mark.skipif(binary("valkey") is None, reason="no valkey server on this machine (requirements/dev.txt)"),
    pytest.mark.timeout(300),
]
DEADLINE_S = 60.0
SECRETS = Secrets(app="correct-horse", watcher="battery-staple", peers="among-ourselves")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Watched]:
    context = authority.server_context("127.0.0.1")
    with Watched(tmp_path_factory.mktemp("watched"), secrets=SECRETS, context=context) as watched:
        yield watched


def driver(watched: Watched, ca: Path, *, url: str = "", user: str = "watcher", secret: str = "") -> RedisDriver:
    return RedisDriver(
        url=url or watched.url, ca=str(ca), timeout_s=5.0, connections=2, sentinel_user=user,
        sentinel_password=secret or SECRETS.watcher,
    )  # fmt: skip


async def fault(driver: RedisDriver) -> str:
    try:
        with pytest.raises(CacheFault) as caught:
            await driver.call("GET", driver.key("x"))
    finally:
        await driver.aclose()
    return str(caught.value)


async def test_whoever_is_not_who_was_expected_is_as_an_outage(
    watched: Watched, authority: Authority, tmp_path: Path
) -> None:
    assert command(watched.primary.port, "PING").startswith(b"-NOAUTH")
    assert command(watched.sentinels[0].port, "PING").startswith(b"-NOAUTH")
    for wrong in (
        driver(watched, authority.path, secret="wrong"),
        driver(watched, authority.path, user="nobody"),
        driver(watched, authority.path, url=watched.url.replace(SECRETS.app, "wrong")),
        driver(watched, Authority(tmp_path / "other").path),
    ):
        told = await fault(wrong)
        assert not any(secret in told for secret in (SECRETS.app, SECRETS.watcher))


def test_an_installation_uses_it_and_tells_no_password(watched: Watched, authority: Authority, tmp_path: Path) -> None:
    env = {
        "SEALWIRE_CACHE__URL": watched.url,
        "SEALWIRE_CACHE__CA": str(authority.path),
        "SEALWIRE_CACHE__SENTINEL_USER": "watcher",
        "SEALWIRE_CACHE__SENTINEL_PASSWORD": SECRETS.watcher,
    }
    running = Installation(tmp_path / "data", env=env | {"SEALWIRE_SERVER__LOG_LEVEL": "debug"}).start()
    try:
        deadline = time.monotonic() + DEADLINE_S
        while (checks := httpx.get(running.url + "/ready").json()["checks"])["cache"]["status"] != "ok":
            assert time.monotonic() < deadline, checks
            time.sleep(0.05)
        ann = Person(running.url, "ann")
        assert ann.http.get("/auth/me").status_code == 200
        kept = f"sealwire:session:{ann.grant['session_id']}"
        while not command(watched.primary.port, "EXISTS", kept, login=f"app {SECRETS.app}").startswith(b":1"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        told = running.log.read_text()
    finally:
        running.kill()
    assert not any(secret in told for secret in (SECRETS.app, SECRETS.watcher))


async def test_it_is_followed_to_the_new_primary(watched: Watched, authority: Authority) -> None:
    cache = driver(watched, authority.path)
    try:
        await cache.call("SET", cache.key("x"), "1")
        assert await cache.call("GET", cache.key("x")) == b"1"
        with pytest.raises(CacheFault):
            await cache.call("CONFIG", "GET", "requirepass")
        primary, replica, *sentinels = (front.secured > 0 for front in watched.fronts)
        assert (primary, replica, sentinels) == (True, False, [True] * 3), (
            "over TLS, and the replica is nobody's to ask"
        )
        watched.primary.kill()
        await asyncio.to_thread(watched.wait_for_failover)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                await cache.call("SET", cache.key("y"), "2")
                break
            except CacheFault:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        assert await cache.call("GET", cache.key("y")) == b"2"
        assert all(front.secured for front in watched.fronts)
    finally:
        await cache.aclose()
