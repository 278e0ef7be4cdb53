"""The embedded index at rest: sealed snapshots, restarts, damage, kills, and what is left in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sealwire.adapters.embedded.drivers.memory_folder import MemoryFolder
from sealwire.adapters.embedded.index import IndexTuning, TantivySearchIndex
from sealwire.kit.clock import SystemClock
from sealwire.kit.envelopes import SealingKey
from sealwire.ports.index import Entry, IndexFault, KeyDestroyed, Put, Sought
from sealwire.testing.backends import open_index
from sealwire.testing.snapshot_keys import LocalSnapshotKeys

WORDS = ("xylophone", "quetzal", "zephyrine")


def put(position: int, text: str, tenant: str = "t1", sender: str = "u1") -> Put:
    entry = Entry(
        message_id=f"m{position}",
        conversation_id="room-of-interest",
        seq=position,
        sender_id=sender,
        kind="message",
        at_us=position,
        version="",
        text=text,
    )
    return Put(tenant_id=tenant, position=position, message_id=entry.message_id, entries=(entry,), fresh=True)


async def find(index: object, word: str, tenant: str = "t1") -> list[str]:
    assert isinstance(index, TantivySearchIndex)
    sought = Sought(words=(word,), conversation_ids=frozenset(["room-of-interest"]))
    return sorted(hit.message_id for hit in (await index.search(tenant, sought, limit=100)).hits)


async def fill(folder: Path, keys: LocalSnapshotKeys, *puts: Put) -> None:
    async with open_index("embedded", folder, keys=keys) as index:
        await index.apply(puts, upto=puts[-1].position)
        await index.flush()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def content(folder: Path) -> bytes:
    """Return all files' bytes, passing over those that go away meanwhile."""
    read = []
    for path in files(folder):
        with contextlib.suppress(FileNotFoundError):
            read.append(path.read_bytes())
    return b"".join(read)


async def test_a_restart_finds_the_same_without_a_replay(tmp_path: Path) -> None:
    keys = LocalSnapshotKeys()
    await fill(tmp_path, keys, put(1, WORDS[0]), put(2, WORDS[1], "t2"))
    for extra in (3, 4, 5):
        async with open_index("embedded", tmp_path, keys=keys) as index:
            assert index.replay_from() == extra - 1
            assert (await find(index, WORDS[0]), await find(index, WORDS[1], "t2")) == (["m1"], ["m2"])
            assert index.indexed_up_to("t1", ["room-of-interest"])["room-of-interest"] in (1, extra - 1)
            await index.apply([put(1, "again"), put(extra, WORDS[2])], upto=extra)
            await index.flush()
            assert await find(index, "again") == []


async def test_what_came_after_the_snapshot_is_replayed_once(tmp_path: Path) -> None:
    keys = LocalSnapshotKeys()
    tuning = IndexTuning(snapshot_every_s=3600)
    index = TantivySearchIndex(folder=tmp_path, keys=keys, clock=SystemClock(), tuning=tuning)
    await index.start()
    await index.apply([put(1, WORDS[0])], upto=5)
    await index.flush()
    await index.snapshot()
    await index.apply([put(6, WORDS[1])], upto=9)
    await index.flush()
    async with open_index("embedded", tmp_path, keys=keys) as restarted:  # the first one was never stopped
        assert restarted.replay_from() == 5
        await restarted.apply([put(6, WORDS[1])], upto=9)
        await restarted.flush()
        assert (await find(restarted, WORDS[0]), await find(restarted, WORDS[1])) == (["m1"], ["m6"])
    await index.stop()


async def test_no_file_holds_a_readable_word(tmp_path: Path) -> None:
    await fill(
        tmp_path,
        LocalSnapshotKeys(),
        *(put(i, f"{WORDS[i % 3]} {'padding ' * 50}", sender="ada-lovelace") for i in range(1, 200)),
    )
    assert len(files(tmp_path)) > 5
    for path in files(tmp_path):
        content = path.read_bytes()
        for word in (*WORDS, "padding", "ada-lovelace", "room-of-interest"):
            assert word.encode() not in content, path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("harm", ["flip", "cut", "grow", "remove", "empty"])
async def test_a_damaged_snapshot_is_rebuilt_from_the_feed(tmp_path: Path, harm: str) -> None:
    keys = LocalSnapshotKeys()
    await fill(tmp_path, keys, put(1, WORDS[0]), put(2, WORDS[1], "t2"))
    for name in [path.relative_to(tmp_path) for path in files(tmp_path)]:
        path = tmp_path / name
        if not path.exists():
            continue
        content = path.read_bytes()
        if harm == "remove":
            path.unlink()
        else:
            changed = bytearray(content)
            changed[len(content) * 2 // 3] ^= 1
            path.write_bytes({"flip": bytes(changed), "cut": content[:-1], "grow": content + b"x", "empty": b""}[harm])
        async with open_index("embedded", tmp_path, keys=keys) as index:
            assert index.replay_from() == 0
            await index.apply([put(1, WORDS[0]), put(2, WORDS[1], "t2")], upto=2)
            assert await index.flush() == 2
            assert (await find(index, WORDS[0]), await find(index, WORDS[1], "t2")) == (["m1"], ["m2"])


async def test_files_of_two_tenants_cannot_be_exchanged(tmp_path: Path) -> None:
    keys = LocalSnapshotKeys()
    await fill(tmp_path, keys, put(1, WORDS[0]), put(2, WORDS[1], "t2"))
    first, second = sorted(path for path in (tmp_path / "snapshots").iterdir() if path.is_dir())
    first.rename(tmp_path / "x")
    second.rename(first)
    (tmp_path / "x").rename(second)
    async with open_index("embedded", tmp_path, keys=keys) as index:
        assert index.replay_from() == 0
        assert (await find(index, WORDS[1]), await find(index, WORDS[0], "t2")) == ([], [])


async def test_a_tenant_whose_key_was_destroyed_is_gone(tmp_path: Path) -> None:
    keys = LocalSnapshotKeys()
    await fill(tmp_path, keys, put(1, WORDS[0]), put(2, WORDS[1], "t2"))
    keys.destroy("t1")
    async with open_index("embedded", tmp_path, keys=keys) as index:
        assert index.replay_from() == 2
        assert (await find(index, WORDS[0]), await find(index, WORDS[1], "t2")) == ([], ["m2"])


async def test_purged_words_are_in_no_file_even_for_those_with_the_key(tmp_path: Path) -> None:
    keys, roots = LocalSnapshotKeys(), [tmp_path / "memory"]
    roots[0].mkdir()
    async with open_index("embedded", tmp_path / "data", keys=keys, roots=roots) as index:
        await index.apply([put(1, WORDS[0]), put(2, WORDS[1], sender="u2")], upto=2)
        await index.flush()
        await find(index, WORDS[0])
        before = {path.name for path in files(tmp_path / "data")}
        assert any(WORDS[0].encode() in path.read_bytes() for path in files(roots[0]))
        assert await index.purge("t1", "sender_id", "u1") == 1
        assert not any(WORDS[0].encode() in path.read_bytes() for path in files(roots[0]))
        assert any(WORDS[1].encode() in path.read_bytes() for path in files(roots[0]))
        after = {path.name for path in files(tmp_path / "data")}
        assert before & after <= {"state", "manifest"}  # every segment was written anew, the old ones are gone
        assert await find(index, WORDS[1]) == ["m2"]


async def test_the_working_copy_is_private_and_goes_with_the_process(tmp_path: Path) -> None:
    root = tmp_path / "memory"
    root.mkdir()
    async with open_index("embedded", tmp_path / "data", roots=[root]) as index:
        await index.apply([put(1, WORDS[0])], upto=1)
        await index.flush()
        (working,) = root.iterdir()
        assert stat.S_IMODE(working.stat().st_mode) == 0o700
    assert list(root.iterdir()) == []


async def test_what_dead_processes_left_in_memory_is_removed_and_what_living_ones_use_is_not(tmp_path: Path) -> None:
    living = MemoryFolder.open([tmp_path], "search")
    assert living is not None
    (living.path / "words").write_text(WORDS[0])
    left = tmp_path / f"sealwire-search-{os.getuid()}-gone"
    left.mkdir()
    (left / "lock").touch()
    (tmp_path / "else").mkdir()
    link = tmp_path / f"sealwire-search-{os.getuid()}-link"
    link.symlink_to(tmp_path / "else")
    second = MemoryFolder.open([tmp_path], "search")
    assert second is not None
    assert (living.path / "words").exists()
    assert (left.exists(), link.is_symlink(), (tmp_path / "else").exists()) == (False, True, True)
    living.close()
    living.close()
    second.close()


async def test_without_a_memory_folder_it_works_and_asks_for_the_whole_feed(tmp_path: Path) -> None:
    for _ in range(2):
        async with open_index("embedded", tmp_path, roots=[]) as index:
            assert index.replay_from() == 0
            await index.apply([put(1, WORDS[0]), put(2, WORDS[1], sender="u2")], upto=2)
            await index.flush()
            assert await find(index, WORDS[0]) == ["m1"]
            assert await index.purge("t1", "sender_id", "u1") == 1
            assert (await find(index, WORDS[0]), await find(index, WORDS[1])) == ([], ["m2"])
    assert not any(word.encode() in path.read_bytes() for path in files(tmp_path) for word in WORDS)


async def test_without_a_memory_folder_a_tenant_has_its_bound_too(tmp_path: Path) -> None:
    tuning = IndexTuning(commit_every_s=0.01, bound_bytes=1000)
    async with open_index("embedded", tmp_path, roots=[], tuning=tuning) as index:
        for i in range(1, 12):
            await index.apply([put(i, f"unique{i} and more")], upto=i)
            await index.flush()
        assert (await find(index, "unique2"), await find(index, "unique11")) == (["m2"], [])
        with pytest.raises(IndexFault):
            await index.check()


async def test_a_tenant_without_a_key_keeps_no_snapshot_and_holds_up_nobody(tmp_path: Path) -> None:
    class Refusing(LocalSnapshotKeys):
        async def sealing_key(self, tenant_id: str) -> SealingKey:
            if tenant_id == "t1":
                raise KeyDestroyed(tenant_id)
            return await super().sealing_key(tenant_id)

    keys = Refusing()
    await fill(tmp_path, keys, put(1, WORDS[0]), put(2, WORDS[1], "t2"))
    async with open_index("embedded", tmp_path, keys=keys) as index:
        assert index.replay_from() == 2
        assert (await find(index, WORDS[0]), await find(index, WORDS[1], "t2")) == ([], ["m2"])


async def test_a_start_without_keys_fails_and_loses_nothing(tmp_path: Path) -> None:
    class Out(LocalSnapshotKeys):
        out = False

        async def key_by_id(self, tenant_id: str, key_id: bytes) -> SealingKey:
            if self.out:
                raise ConnectionError
            return await super().key_by_id(tenant_id, key_id)

    keys, root = Out(), tmp_path / "memory"
    root.mkdir()
    await fill(tmp_path / "data", keys, put(1, WORDS[0]))
    keys.out = True
    index = TantivySearchIndex(folder=tmp_path / "data", keys=keys, clock=SystemClock(), roots=[root])
    with pytest.raises(ConnectionError):
        await index.start()
    await index.stop()
    assert list(root.iterdir()) == []
    keys.out = False
    async with open_index("embedded", tmp_path / "data", keys=keys) as index:
        assert index.replay_from() == 1
        assert await find(index, WORDS[0]) == ["m1"]


async def test_a_tenant_past_its_bound_is_held_and_said_and_the_others_go_on(tmp_path: Path) -> None:
    keys, small = LocalSnapshotKeys(), IndexTuning(commit_every_s=0.01, bound_bytes=20_000)
    async with open_index("embedded", tmp_path, keys=keys, tuning=small) as index:
        for i in range(1, 30):
            await index.apply([put(i, f"unique{i} " + os.urandom(2000).hex())], upto=i)
            await index.flush()
        with pytest.raises(IndexFault, match=r"t1.*plain_tenants"):
            await index.check()
        found, missing = await find(index, "unique1"), await find(index, "unique29")
        assert (found[:1], missing) == (["m1"], [])
        await index.apply([put(30, WORDS[0], "t2")], upto=30)
        await index.flush()
        assert await find(index, WORDS[0], "t2") == ["m30"]
    larger = IndexTuning(plain_tenants=frozenset({"t1"}))
    async with open_index("embedded", tmp_path, keys=keys, tuning=larger) as index:
        start = index.replay_from()
        assert 0 < start < 29
        await index.apply([put(i, f"unique{i}") for i in range(start + 1, 30)], upto=30)
        await index.flush()
        assert await find(index, "unique29") == ["m29"]
        await index.check()


async def test_removed_entries_leave_the_files_after_a_while(tmp_path: Path) -> None:
    root = tmp_path / "memory"
    root.mkdir()
    tuning = IndexTuning(commit_every_s=0.01, snapshot_every_s=0.05, dead_keep_s=0.01)
    async with open_index("embedded", tmp_path / "data", tuning=tuning, roots=[root]) as index:
        await index.apply([put(1, WORDS[0]), put(2, WORDS[1])], upto=2)
        await index.flush()
        edited = put(3, WORDS[2])
        await index.apply([Put(tenant_id="t1", position=3, message_id="m1", entries=edited.entries)], upto=3)
        await index.flush()
        async with asyncio.timeout(10):
            while WORDS[0].encode() in content(root):  # noqa: ASYNC110 - files give no event
                await asyncio.sleep(0.02)
        assert (await find(index, WORDS[1]), await find(index, WORDS[2])) == (["m2"], ["m3"])


KILLED = """
    import asyncio, sys
    from pathlib import Path
    from sealwire.adapters.embedded.index import IndexTuning, TantivySearchIndex
    from sealwire.kit.clock import SystemClock
    from tests.contract.test_index_at_rest import FixedKeys, put

    async def main():
        tuning = IndexTuning(commit_every_s=0.01, snapshot_every_s=0.02)
        index = TantivySearchIndex(folder=Path(sys.argv[1]), keys=FixedKeys(), clock=SystemClock(), tuning=tuning,
                                   roots=[Path(sys.argv[2])])
        await index.start()
        position = index.replay_from()
        print("ready", position, flush=True)
        while True:
            position += 1
            await index.apply([put(position, f"unique{position:07}")], upto=position)
            await asyncio.sleep(0.001)

    asyncio.run(main())
"""


class FixedKeys(LocalSnapshotKeys):
    """The same keys in every process."""

    async def sealing_key(self, tenant_id: str) -> SealingKey:
        if tenant_id not in self._keys:
            self._keys[tenant_id] = SealingKey(key_id=tenant_id.encode().ljust(16), key=tenant_id.encode().ljust(32))
        return self._keys[tenant_id]

    async def key_by_id(self, tenant_id: str, key_id: bytes) -> SealingKey:
        return await self.sealing_key(tenant_id)


def manifests(data: Path) -> list[int]:
    """Return when each was written; they are replaced meanwhile."""
    found = []
    for folder, _, names in os.walk(data):
        with contextlib.suppress(FileNotFoundError):
            found += [os.stat(os.path.join(folder, name)).st_mtime_ns for name in names if name == "manifest"]
    return found


async def test_killed_again_and_again_it_loses_nothing_before_replay_from(tmp_path: Path) -> None:
    root, data = tmp_path / "memory", tmp_path / "data"
    root.mkdir()
    reached = 0
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", textwrap.dedent(KILLED), str(data), str(root), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(80):
            ready, position = (await process.stdout.readline()).split()
            assert (ready, int(position)) >= (b"ready", reached)
            known, changes = manifests(data), 0
            while changes < 3:
                await asyncio.sleep(0.01)
                if (now := manifests(data)) != known:
                    known, changes = now, changes + 1
        process.send_signal(signal.SIGKILL)
        await process.wait()
        assert len(list(root.iterdir())) == 1  # what the kill left; the next start removes it
        async with open_index("embedded", data, keys=FixedKeys(), roots=[root]) as index:
            reached = index.replay_from()
            assert reached > int(position)
            wanted = range(1, reached + 1, max(1, reached // 25))
            assert [await find(index, f"unique{i:07}") == [f"m{i}"] for i in wanted] == [True] * len(wanted)
        assert list(root.iterdir()) == []
