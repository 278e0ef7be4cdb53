"""The file provider: a key-encryption key made once, kept to its owner, and refused when anything is off."""

from __future__ import annotations

import os
import resource
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sealwire.services.crypto.providers import FileKeyProvider, KekUnusable, WrapRefused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "kek"


def test_it_is_kept_to_its_owner(path: Path) -> None:
    FileKeyProvider.open(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["kek"]


async def test_it_is_made_once(path: Path) -> None:
    first = FileKeyProvider.open(path)
    again = FileKeyProvider.open(path)
    assert again.kek_id == first.kek_id
    assert await again.unwrap(await first.wrap(b"k" * 32, b"c"), b"c") == b"k" * 32
    await again.check()


def test_racing_makers_end_with_one_key(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = {provider.kek_id for provider in pool.map(lambda _: FileKeyProvider.open(path), range(16))}
    assert len(ids) == 1
    assert os.listdir(path.parent) == ["kek"]


def test_half_a_key_file_is_never_put_in_place(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))  # a disk that is full takes a part, and then no more
    try:
        with pytest.raises(OSError, match="File too large"):
            FileKeyProvider.open(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(path.parent) == []
    FileKeyProvider.open(path).close()


def test_absent_and_not_to_be_made(path: Path) -> None:
    with pytest.raises(KekUnusable, match="restore it from its backup"):
        FileKeyProvider.open(path, create=False)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o777])
def test_wider_permissions_are_refused(path: Path, mode: int) -> None:
    FileKeyProvider.open(path)
    path.chmod(mode)
    with pytest.raises(KekUnusable, match="chmod 600"):
        FileKeyProvider.open(path)


def test_damaged_content_is_refused_without_being_shown(path: Path) -> None:
    FileKeyProvider.open(path)
    whole = path.read_bytes()
    secret = whole.split(b":")[1].decode()
    for damaged in (
        b"",
        whole[:-5],
        whole[: len(whole) // 2],
        whole.replace(b"kek-1", b"kek-2"),
        whole[:20] + bytes((whole[20] ^ 1,)) + whole[21:],
        whole + whole,
        b"\xff\xfe" * 20,
        b"a:b:c",
        os.urandom(10_000),
    ):
        path.write_bytes(damaged)
        with pytest.raises(KekUnusable) as fault:
            FileKeyProvider.open(path)
        assert secret[:12] not in str(fault.value)
    path.write_bytes(whole)
    FileKeyProvider.open(path)


def test_a_link_is_judged_by_its_target_and_a_folder_is_refused(path: Path, tmp_path: Path) -> None:
    made = FileKeyProvider.open(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert FileKeyProvider.open(link).kek_id == made.kek_id
    path.chmod(0o644)
    with pytest.raises(KekUnusable, match="chmod 600"):
        FileKeyProvider.open(link)
    path.unlink()
    with pytest.raises(KekUnusable, match="there is no"):
        FileKeyProvider.open(link)
    with pytest.raises(KekUnusable, match="no regular file"):
        FileKeyProvider.open(tmp_path)


async def test_a_wrapped_key_opens_in_its_place_only(path: Path, tmp_path: Path) -> None:
    provider = FileKeyProvider.open(path)
    wrapped = await provider.wrap(b"k" * 32, b"tenant a")
    with pytest.raises(WrapRefused, match="another place"):
        await provider.unwrap(wrapped, b"tenant b")
    for at in range(len(wrapped)):
        changed = wrapped[:at] + bytes((wrapped[at] ^ 1,)) + wrapped[at + 1 :]
        with pytest.raises(WrapRefused):
            await provider.unwrap(changed, b"tenant a")
    with pytest.raises(WrapRefused):
        await provider.unwrap(b"", b"tenant a")
    other = FileKeyProvider.open(tmp_path / "other")
    with pytest.raises(WrapRefused, match=other.kek_id):
        await other.unwrap(wrapped, b"tenant a")


async def test_the_same_key_is_never_wrapped_alike(path: Path) -> None:
    provider = FileKeyProvider.open(path)
    assert len({await provider.wrap(b"k" * 32, b"c") for _ in range(20)}) == 20


async def test_a_closed_provider_says_so(path: Path) -> None:
    provider = FileKeyProvider.open(path)
    provider.close()
    with pytest.raises(KekUnusable, match="closed"):
        await provider.wrap(b"k" * 32, b"c")
    with pytest.raises(KekUnusable, match="closed"):
        await provider.check()
