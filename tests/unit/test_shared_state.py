"""Which family keeps what processes share: chosen by a setting, loaded only then."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from sealwire.adapters.distributed.cache import RedisCache
from sealwire.adapters.distributed.drivers.cache_address import CacheAddress
from sealwire.adapters.embedded.cache import ProcessCache
from sealwire.kit.clock import SystemClock
from sealwire.kit.config import SettingError
from sealwire.runtime import settings
from sealwire.runtime.shared_state import SharedState


def load(data: Path, **env: str) -> settings.Settings:
    return settings.load(flags={"server": {"data": str(data)}}, env=env, file=data / "none.toml")[0]


async def opened(config: settings.CacheConfig) -> SharedState:
    state = SharedState.open(config, clock=SystemClock(), rng=random.SystemRandom())
    await state.stop()
    return state


async def test_it_is_in_process_unless_an_address_is_set(tmp_path):
    assert isinstance((await opened(load(tmp_path).cache)).cache, ProcessCache)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys", "unix"])
async def test_an_address_brings_the_distributed_family(tmp_path, scheme):
    address = "unix:///run/redis.sock" if scheme == "unix" else f"{scheme}://127.0.0.1:6379/0"
    assert isinstance((await opened(load(tmp_path, SEALWIRE_CACHE__URL=address).cache)).cache, RedisCache)


@pytest.mark.parametrize("address", ["memcached://x", "http://127.0.0.1", "127.0.0.1:6379", "redis://"])
def test_an_address_of_something_else_stops_the_start(tmp_path, address):
    with pytest.raises(SettingError, match=r"SEALWIRE_CACHE__URL: cache\.url"):
        load(tmp_path, SEALWIRE_CACHE__URL=address)


def test_a_password_in_the_address_is_not_shown(tmp_path):
    env = {"SEALWIRE_CACHE__URL": "redis://sealwire:hush@cache.example.org:6379/0"}
    loaded, found = settings.load(flags={}, env=env, file=tmp_path / "none.toml")
    assert "hush" in loaded.cache.url
    assert next(s.value for s in found if s.name == "cache.url") == "redis://***@cache.example.org:6379/0"


def test_the_client_library_is_loaded_only_when_it_is_wanted():
    seen = "import sys, sealwire.runtime.assembly; sys.exit(any(m.split('.')[0] == 'redis' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", seen], check=False).returncode == 0


SENTINELS = "redis+sentinel://app:hush@one:26379,two,[::1]:5/main/2"


async def test_sentinels_are_named_in_the_address_and_their_password_is_never_shown(tmp_path):
    env = {
        "SEALWIRE_CACHE__URL": SENTINELS,
        "SEALWIRE_CACHE__SENTINEL_USER": "watcher",
        "SEALWIRE_CACHE__SENTINEL_PASSWORD": "whisper",
    }
    loaded, found = settings.load(flags={}, env=env, file=tmp_path / "none.toml")
    assert isinstance((await opened(loaded.cache)).cache, RedisCache)
    shown = {s.name: s.value for s in found}
    assert shown["cache.url"] == "redis+sentinel://***@one:26379,two,[::1]:5/main/2"
    assert shown["cache.sentinel_password"] == "***"
    where = CacheAddress.read(SENTINELS)
    assert where.sentinels == (("one", 26379), ("two", 26379), ("::1", 5))
    assert (where.name, where.db, where.user, where.password) == ("main", 2, "app", "hush")
    assert CacheAddress.read("valkeys+sentinel://one/main").tls


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("redis+cluster://one,two", "Redis Cluster is not supported"),
        ("rediss+cluster://u:hush@one", "Redis Cluster is not supported"),
        ("redis://one:6379,two:6379/0", r"redis\+sentinel://"),
        ("redis+sentinel://one,two", "names no server"),
        ("redis+sentinel://one,,two/main", "no host"),
        ("redis+sentinel://one:70000/main", "no host"),
        ("redis+sentinel://one/main/zero", "a number"),
        ("redis+sentinel://one/main?quorum=1", "no options"),
        ("redis://u:hush@one/zero", "a number"),
        ("unix://", "no socket"),
    ],
)
def test_an_address_of_no_use_is_refused_with_the_reason_and_without_its_password(tmp_path, address, told):
    with pytest.raises(SettingError, match=told) as refused:
        load(tmp_path, SEALWIRE_CACHE__URL=address)
    assert "hush" not in str(refused.value)
    assert str(refused.value).startswith("SEALWIRE_CACHE__URL: cache.url: ")


def test_a_password_for_sentinels_where_there_are_none_is_refused(tmp_path):
    with pytest.raises(SettingError, match="names no sentinels"):
        load(tmp_path, SEALWIRE_CACHE__URL="redis://one", SEALWIRE_CACHE__SENTINEL_PASSWORD="whisper")
