"""What every key provider promises: a key file, and a real SoftHSM2 token."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.adapters.hsm.pkcs11 import Pkcs11KeyProvider
from sealwire.kit.clock import SystemClock
from sealwire.services.crypto.providers import FileKeyProvider, KekUnusable, KeyProvider, WrapRefused
from sealwire.testing.softhsm import KEY, SoftHsm, library

WITHOUT = pytest.mark.skipif(library() is None, reason="SoftHSM2 is not installed (Debian: softhsm2)")


@pytest.fixture(params=["file", pytest.param("pkcs11", marks=WITHOUT)])
async def makers(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that opens the provider, always over the same key-encryption key for the same name."""
    opened: list[KeyProvider] = []
    monkeypatch.setenv("SOFTHSM2_CONF", "")
    hsm = SoftHsm(tmp_path / "hsm") if request.param == "pkcs11" else None

    async def open_provider(name: str = KEY) -> KeyProvider:
        provider: KeyProvider
        if hsm is None:
            provider = FileKeyProvider.open(tmp_path / name)
        else:
            provider = await Pkcs11KeyProvider.open(
                hsm.place(key=name), create=True, refused_pin=tmp_path / "pin-refused", clock=SystemClock()
            )
        opened.append(provider)
        return provider

    yield open_provider
    for provider in opened:
        provider.close()


@pytest.fixture
async def provider(makers) -> AsyncIterator[KeyProvider]:
    return await makers()


async def test_a_wrapped_key_comes_back(provider: KeyProvider) -> None:
    key = os.urandom(32)
    wrapped = await provider.wrap(key, b"here")
    assert key not in wrapped
    assert provider.holds(wrapped)
    assert await provider.unwrap(wrapped, b"here") == key
    assert await provider.wrap(key, b"here") != wrapped
    await provider.check()


async def test_it_opens_in_its_place_only_and_unchanged_only(provider: KeyProvider) -> None:
    wrapped = await provider.wrap(os.urandom(32), b"tenant-1")
    with pytest.raises(WrapRefused):
        await provider.unwrap(wrapped, b"tenant-2")
    for cut in (0, 1, 17, 40, len(wrapped) - 1):
        with pytest.raises(WrapRefused):
            await provider.unwrap(wrapped[:cut], b"tenant-1")
    for bit in range(0, len(wrapped) * 8, 7):
        changed = bytearray(wrapped)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WrapRefused):
            await provider.unwrap(bytes(changed), b"tenant-1")
    assert len(await provider.unwrap(wrapped, b"tenant-1")) == 32, "and is well afterwards"


async def test_another_key_does_not_open_it(makers) -> None:
    one, two = await makers(), await makers("another")
    wrapped = await one.wrap(os.urandom(32), b"here")
    assert one.kek_id != two.kek_id
    assert not two.holds(wrapped)
    with pytest.raises(WrapRefused):
        await two.unwrap(wrapped, b"here")


async def test_the_same_key_again_opens_what_it_wrapped(makers) -> None:
    one = await makers()
    wrapped = await one.wrap(b"k" * 32, b"here")
    one.close()
    again = await makers()
    assert again.kek_id == one.kek_id
    assert await again.unwrap(wrapped, b"here") == b"k" * 32


async def test_a_closed_one_says_so(provider: KeyProvider) -> None:
    wrapped = await provider.wrap(b"k" * 32, b"here")
    provider.close()
    provider.close()
    for call in (provider.check(), provider.wrap(b"k" * 32, b"here"), provider.unwrap(wrapped, b"here")):
        with pytest.raises(KekUnusable):
            await call


@given(flips=st.sets(st.integers(0, 8 * 141 - 1), min_size=1, max_size=4))
async def test_any_change_of_a_wrapped_key_is_refused(
    flips: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    provider = FileKeyProvider.open(tmp_path_factory.mktemp("kek") / "kek")
    wrapped = bytearray(await provider.wrap(bytes(32), b"here"))
    assert len(wrapped) == 142
    for bit in flips:
        wrapped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WrapRefused):
        await provider.unwrap(bytes(wrapped), b"here")
