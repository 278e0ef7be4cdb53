"""The fallback provider and its journal: crashes, tampering, full disks, threads. Revocations stay."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from sealwire.adapters.embedded.session_journal import SealedSessionJournal
from sealwire.boundary.fallback_session_provider import FallbackSessionProvider
from sealwire.boundary.model import Health
from sealwire.boundary.ports import FeedPosition, JournalEntry, KnownRevocation, KnownSession
from sealwire.contracts.revocations import Revocation
from sealwire.contracts.sessions import SessionState
from sealwire.kit.envelopes import SealingKey
from sealwire.kit.permission import Role
from sealwire.testing.clock import ManualClock

KEY = SealingKey(key_id=b"boundary-testing", key=bytes(32))


def session(clock: ManualClock, session_id: str, *, life_s: int = 3600) -> SessionState:
    return SessionState(
        session_id=session_id,
        tenant_id="t",
        user_id="anna",
        role=Role.MEMBER,
        email="anna@example.org",
        epoch=1,
        active=True,
        expires_at_s=clock.now_us() // 1_000_000 + life_s,
    )


def ended(clock: ManualClock, number: int, session_id: str) -> Revocation:
    return Revocation(
        number=number, change_id=str(number), kind="session", tenant_id="t", session_id=session_id,
        at_us=clock.now_us(), expires_at_s=clock.now_us() // 1_000_000 + 3600,
    )  # fmt: skip


def provider(folder: Path, clock: ManualClock, **settings: int) -> FallbackSessionProvider:
    return FallbackSessionProvider(journal=SealedSessionJournal(folder / "journal", KEY), clock=clock, **settings)


async def test_sessions_and_revocations_survive_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    first = provider(tmp_path, clock)
    await first.start()
    first.remember(session(clock, "s1"), 3)
    first.remember(session(clock, "s2"), 3)
    first.take([ended(clock, 4, "s2")], 4)
    await first.persist()
    assert first.lookup("s2") is None
    await first.stop()
    await first.stop()
    again = provider(tmp_path, clock)
    await again.start()
    known = again.lookup("s1")
    assert known is not None
    assert (known.number, known.state.email) == (3, "anna@example.org")
    assert (again.lookup("s2"), again.position, len(again.book)) == (None, 4, 1)
    await again.stop()


async def test_a_kill_loses_no_persisted_revocation(tmp_path: Path) -> None:
    clock = ManualClock()
    first = provider(tmp_path, clock)
    await first.start()
    first.remember(session(clock, "s1"), 0)
    await first.flush()
    first.take([ended(clock, 1, "s1")], 1)
    await first.persist()
    again = provider(tmp_path, clock)  # the first one is simply gone, as after SIGKILL
    await again.start()
    assert (again.lookup("s1"), again.position) == (None, 1)
    await again.stop()
    await first.stop()


async def test_a_late_answer_of_auth_does_not_bring_a_revoked_session_back(tmp_path: Path) -> None:
    clock = ManualClock()
    kept = provider(tmp_path, clock)
    await kept.start()
    kept.take([ended(clock, 5, "s1")], 5)
    kept.remember(session(clock, "s1"), 4)
    kept.remember(session(clock, "s1"), 6)
    assert kept.lookup("s1") is None
    await kept.stop()
    again = provider(tmp_path, clock)
    await again.start()
    assert again.lookup("s1") is None
    assert "s1" in {r.session_id for r in again.book}
    await again.stop()


async def test_the_answer_that_knew_more_of_the_feed_stays(tmp_path: Path) -> None:
    clock = ManualClock()
    kept = provider(tmp_path, clock)
    kept.remember(session(clock, "s1"), 9)
    kept.remember(session(clock, "s1"), 4)
    known = kept.lookup("s1")
    assert known is not None
    assert known.number == 9


async def test_what_is_over_is_not_found_and_the_memory_is_bounded(tmp_path: Path) -> None:
    clock = ManualClock()
    kept = provider(tmp_path, clock, max_sessions=10)
    await kept.start()
    for i in range(30):
        kept.remember(session(clock, f"s{i}", life_s=60 if i % 2 else 600), 0)
    assert len(kept) == 10
    assert kept.lookup("s29") is not None
    clock.advance(61)
    assert kept.lookup("s29") is None
    assert kept.lookup("s28") is not None
    await kept.clean()
    assert len(kept) == 5
    await kept.stop()


async def test_the_journal_is_rewritten_when_it_is_mostly_garbage(tmp_path: Path) -> None:
    clock = ManualClock()
    kept = provider(tmp_path, clock)
    await kept.start()
    for _ in range(30):
        for i in range(50):
            kept.remember(session(clock, f"s{i}"), 0)
        await kept.flush()
    size = (tmp_path / "journal").stat().st_size
    await kept.clean()
    assert (tmp_path / "journal").stat().st_size < size / 20
    await kept.stop()
    again = provider(tmp_path, clock)
    await again.start()
    assert len(again) == 50
    await again.stop()


async def test_where_a_rewritten_journal_is_damaged_what_it_lost_is_read_from_auth_again(tmp_path: Path) -> None:
    """A position that is ahead of what is known skips revocations: of a legacy session nobody else knows the end."""
    clock = ManualClock()
    first = provider(tmp_path, clock)
    await first.start()
    for number in range(1100):
        first.remember(session(clock, f"s{number}", life_s=10), 0)
    await first.flush()
    first.take([ended(clock, number, f"ended-{number}") for number in (1, 2, 3)], 3)
    await first.persist()
    clock.advance(20)
    await first.clean()
    await first.stop()
    path = tmp_path / "journal"
    whole = path.read_bytes()
    assert len(whole) < 2_000, "rewritten"
    for at in range(40, len(whole), 25):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        path.write_bytes(flipped)
        for _ in range(2):  # the second start finds a journal that is whole again
            again = provider(tmp_path, clock)
            await again.start()
            assert {revocation.number for revocation in again.book} >= set(range(1, again.position + 1)), at
            await again.stop()


async def test_a_feed_that_went_back_is_followed_from_there_after_a_restart_too(tmp_path: Path) -> None:
    clock = ManualClock()
    first = provider(tmp_path, clock)
    await first.start()
    first.take([ended(clock, 9, "before")], 9)
    await first.persist()
    first.restart_feed("run")
    first.take([ended(clock, 5, "after")], 5)
    await first.persist()
    await first.stop()
    again = provider(tmp_path, clock)
    await again.start()
    assert (again.position, again.book.ended("before"), again.book.ended("after")) == (5, True, True)
    await again.stop()


def entries(clock: ManualClock, count: int) -> list[JournalEntry]:
    return [KnownSession(session(clock, f"s{i}"), i, clock.now_us()) for i in range(count)]


def test_a_torn_end_loses_only_what_was_torn(tmp_path: Path) -> None:
    clock = ManualClock()
    path = tmp_path / "journal"
    journal = SealedSessionJournal(path, KEY)
    journal.load()
    sizes = []
    for entry in entries(clock, 4):
        journal.append([entry])
        sizes.append(path.stat().st_size)
    journal.close()
    whole = path.read_bytes()
    for cut in range(sizes[1], len(whole) + 1):
        path.write_bytes(whole[:cut])
        torn = SealedSessionJournal(path, KEY)
        found = torn.load()
        assert len(found) == sum(size <= cut for size in sizes)
        assert not torn.damaged
        torn.append([FeedPosition(7)])
        torn.close()
        reopened = SealedSessionJournal(path, KEY)
        assert list(reopened.load()) == [*found, FeedPosition(7)]
        reopened.close()


def test_a_changed_moved_or_removed_entry_ends_the_journal_there(tmp_path: Path) -> None:
    clock = ManualClock()
    path = tmp_path / "journal"
    journal = SealedSessionJournal(path, KEY)
    journal.load()
    sizes = [path.stat().st_size]
    for entry in entries(clock, 4):
        journal.append([entry])
        sizes.append(path.stat().st_size)
    journal.close()
    whole = path.read_bytes()
    frames = [whole[a:b] for a, b in pairwise(sizes)]
    head = whole[: sizes[0]]
    flipped = bytearray(whole)
    flipped[sizes[1] + 60] ^= 1
    for damaged, good in (
        (bytes(flipped), 1),
        (head + frames[0] + frames[2] + frames[1] + frames[3], 1),
        (head + frames[0] + frames[2] + frames[3], 1),
        (head + frames[1] + frames[2] + frames[3], 0),
        (head + frames[0] + frames[0] + frames[1], 1),
        (b"another file altogether, of some length or other", 0),
    ):
        path.write_bytes(damaged)
        found = SealedSessionJournal(path, KEY)
        assert len(found.load()) == good
        assert found.damaged
        found.append([FeedPosition(1)])
        found.close()
        again = SealedSessionJournal(path, KEY)
        assert len(again.load()) == good + 1
        assert not again.damaged
        again.close()


def test_nothing_readable_is_on_disk_and_another_key_reads_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    path = tmp_path / "journal"
    journal = SealedSessionJournal(path, KEY)
    journal.load()
    journal.append([*entries(clock, 2), KnownRevocation(ended(clock, 1, "session-secret"))])
    journal.close()
    content = path.read_bytes()
    assert not any(word in content for word in (b"anna", b"example.org", b"session-secret", b"member"))
    assert path.stat().st_mode & 0o077 == 0
    other = SealedSessionJournal(path, SealingKey(key_id=b"boundary-another", key=bytes(range(32))))
    assert other.load() == []
    assert other.damaged
    other.close()


class FullDisk(SealedSessionJournal):
    """A disk that is full for a while."""

    full = False

    def append(self, entries: Sequence[JournalEntry]) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().append(entries)

    def replace(self, entries: Sequence[JournalEntry]) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().replace(entries)


async def test_what_a_full_disk_refused_is_written_before_anything_later(tmp_path: Path) -> None:
    clock = ManualClock()
    disk = FullDisk(tmp_path / "journal", KEY)
    kept = FallbackSessionProvider(journal=disk, clock=clock)
    await kept.start()
    kept.remember(session(clock, "s1"), 0)
    await kept.flush()
    disk.full = True
    kept.take([ended(clock, 1, "s1")], 1)
    with pytest.raises(OSError, match="No space"):
        await kept.persist()
    assert kept.lookup("s1") is None, "in force all the same"
    assert kept.health().status is Health.UNHEALTHY
    disk.full = False
    kept.take([ended(clock, 2, "s2")], 2)
    await kept.persist()
    assert kept.health().status is Health.HEALTHY
    again = provider(tmp_path, clock)
    await again.start()
    assert {r.session_id for r in again.book} == {"s1", "s2"}
    assert (again.position, again.lookup("s1")) == (2, None)
    await again.stop()
    await kept.stop()


async def test_what_is_over_is_forgotten_on_a_full_disk_too(tmp_path: Path) -> None:
    clock = ManualClock()
    disk = FullDisk(tmp_path / "journal", KEY)
    kept = FallbackSessionProvider(journal=disk, clock=clock)
    await kept.start()
    kept.remember(session(clock, "s1", life_s=60), 0)
    kept.take([ended(clock, 1, "s2")], 1)
    disk.full = True
    clock.advance(60)
    for left, passed_s in (({"sessions": 0, "revocations": 1}, 24 * 3600), ({"sessions": 0, "revocations": 0}, 0)):
        kept.remember(session(clock, "s3", life_s=0), 1)
        with pytest.raises(OSError, match="No space"):
            await kept.clean()
        assert left.items() <= kept.health().details.items()
        clock.advance(passed_s)
    disk.full = False
    await kept.stop()


async def test_threads_and_tasks_may_use_it_at_once(tmp_path: Path) -> None:
    clock = ManualClock()
    kept = provider(tmp_path, clock, max_sessions=500)
    await kept.start()
    faults: list[BaseException] = []

    def work(part: int) -> None:
        try:
            for i in range(400):
                kept.remember(session(clock, f"p{part}-{i}"), i)
                kept.lookup(f"p{part}-{i // 2}")
                if i % 10 == 0:
                    kept.take([ended(clock, part * 1000 + i + 1, f"p{part}-{i}")], 0)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        await kept.flush()
        await kept.clean()
        await asyncio.sleep(0)
    assert faults == []
    assert len(kept) <= 500
    assert len(kept.book) == 160
    assert all(kept.lookup(f"p{part}-{i}") is None for part in range(4) for i in range(0, 400, 10))
    await kept.stop()


async def test_a_returning_cache_gets_revocations_first(tmp_path: Path) -> None:
    clock = ManualClock()
    kept = provider(tmp_path, clock)
    for i in range(3):
        kept.remember(session(clock, f"s{i}"), 2)
    kept.take([ended(clock, 3, "s1"), ended(clock, 1, "s0-of-old")], 3)
    done: list[str] = []

    async def put(known: KnownSession) -> None:
        done.append(f"+{known.state.session_id}")

    async def delete(session_id: str) -> None:
        done.append(f"-{session_id}")

    assert await kept.reconcile(since=2, put=put, delete=delete) == 3
    assert done == ["-s1", "+s0", "+s2"]
