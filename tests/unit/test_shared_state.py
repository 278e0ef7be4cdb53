"""Which family keeps what processes share: chosen by a setting, loaded only then."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from sealwire.adapters.distributed.cache import RedisCache
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
