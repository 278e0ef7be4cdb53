"""A key's life under racing calls, against the real file: what any order of calls may end in, and never more."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.ciphers import Ciphertext, Plaintext, Sealed
from sealwire.contracts.crypto_terms import KeyUnusable
from sealwire.contracts.keys import Destruction, KeyChange, NewKey
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.permission import Role
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.model import REFUSE_AT_USES, ROTATE_AT_USES
from sealwire.services.crypto.providers import FileKeyProvider
from sealwire.services.crypto.service import CryptoService
from sealwire.testing.clock import ManualClock

ANNA = Caller(
    principal=Principal(kind="user", tenant_id="t1", subject="anna", role=Role.ADMIN, auth_time_s=4_000_000_000)
)
T = TypeVar("T")
SECRET = b"attack at dawn"
DAY_S = 86_400
USES_BLOCK = 16
SETTABLE = ("enabled", "decrypt_only", "disabled")
PROTECTS = {"enabled"}
OPENS = {"enabled", "decrypt_only"}
# What each wish makes of each state; absent: refused, and nothing changes.
WISHES = {
    "enable": dict.fromkeys(SETTABLE, "enabled"),
    "decrypt_only": dict.fromkeys(SETTABLE, "decrypt_only"),
    "disable": dict.fromkeys(SETTABLE, "disabled"),
    "schedule": dict.fromkeys(SETTABLE, "scheduled_for_destruction"),
    "cancel": {"scheduled_for_destruction": "disabled"},
}
USES = ("encrypt", "decrypt", "rotate", "rewrap")
# What a call is seen to have been, step by step: (of what kind, whether it was let). One of several explanations.
Steps = tuple[tuple[str, bool], ...]


class KeyLife(RuleBasedStateMachine):
    """Wishes one by one and many at once, uses between them, restarts, kills, days that pass.

    What is drawn depends on nothing that a race decided: how one ends is up to threads and the disk.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.sealed: list[Sealed] = []
        self.encrypted = 0
        self.destroy_in_s: float | None = None
        self.state = "enabled"
        self.run(self.open())
        self.key_id = self.run(self.crypto.generate_key(ANNA, NewKey())).key_id
        self.run(self.use())
        self.first = self.sealed[0]

    def run(self, work):
        return self.runner.run(work)

    async def open(self) -> None:
        self.db = Database.open(Path(self.folder.name) / "crypto.db", MIGRATIONS)
        self.store = SqliteKeyStore(self.db)
        self.crypto = CryptoService(
            store=self.store,
            provider=FileKeyProvider.open(Path(self.folder.name) / "kek"),
            clock=self.clock,
            config=CryptoConfig(reserve_uses=USES_BLOCK, journal_window_ms=1, destroy_check_s=3600),
        )
        await self.crypto.start()

    async def close(self) -> None:
        await self.crypto.stop()
        await self.db.close()

    async def kill(self) -> None:
        """Lose everything in memory: budgets, material, what waits to be recorded."""
        await self.crypto._keeper.stop()
        await self.crypto._chain._flights.settle()
        if (flushing := self.crypto._journal._flushing) is not None:
            flushing.cancel()
        await self.db.close()

    async def wish(self, what: str) -> bool:
        key_id = self.key_id
        try:
            if what == "schedule":
                await self.crypto.schedule_destruction(ANNA, key_id, Destruction(delay_days=2))
            elif what == "cancel":
                await self.crypto.cancel_destruction(ANNA, key_id)
            else:
                wanted = "enabled" if what == "enable" else "disabled" if what == "disable" else what
                await self.crypto.change_key(ANNA, key_id, KeyChange(state=wanted))
        except KeyUnusable:
            return False
        return True

    async def encrypt(self) -> Sealed | None:
        try:
            return await self.crypto.encrypt(ANNA, self.key_id, Plaintext(plaintext=SECRET))
        except KeyUnusable:
            return None

    async def decrypt(self, sealed: Sealed) -> bytes | None:
        try:
            return (await self.crypto.decrypt(ANNA, self.key_id, back(sealed))).plaintext
        except KeyUnusable:
            return None

    # ---- what happens

    @rule(what=st.sampled_from(sorted(WISHES)))
    def one_wish(self, what: str) -> None:
        done = self.run(self.wish(what))
        after = WISHES[what].get(self.state)
        assert done == (after is not None), f"{what} from {self.state}"
        if after is not None:
            if after == "scheduled_for_destruction":
                self.destroy_in_s = 2 * DAY_S
            self.state = after

    @rule(
        calls=st.lists(
            st.tuples(st.sampled_from([*sorted(WISHES), *USES]), st.sampled_from([None, None, None, 0, 1, 2, 4])),
            min_size=2,
            max_size=7,
        ),
        cold=st.booleans(),
    )
    def racing_calls(self, calls: list[tuple[str, int | None]], cold: bool) -> None:
        """Many at once, some given up after a few turns of the loop: one order of them explains all that was seen."""

        async def race() -> list[bool | None]:
            if cold:  # nothing is unwrapped: uses wait in the middle
                self.clock.advance(self.crypto._config.cache_age_s)
                self.crypto._chain.sweep()
            seen = await asyncio.gather(*(given_up(self.call(what), turns) for what, turns in calls))
            await self.crypto._chain._flights.settle()
            return seen

        said = self.run(race())
        before, self.state = self.state, self.run(self.stored_state())
        tasks = tuple(sorted(told(what, done) for (what, _), done in zip(calls, said, strict=True)))
        assert self.state in ends(before, tasks), (before, calls, said, self.state)
        if self.state == "scheduled_for_destruction":
            self.destroy_in_s = self.stored_wait_s()
        live = self.crypto._chain._keys.get(("t1", self.key_id))
        if live is not None and self.state not in OPENS:
            assert not live.materials, "no material of a key that opens nothing stays in memory"

    async def call(self, what: str) -> bool:
        if what in WISHES:
            return await self.wish(what)
        if what == "encrypt":
            return await self.use()
        if what == "decrypt":
            return await self.decrypt(self.first) == SECRET
        if what == "rewrap":
            return await self.rewrap()
        try:
            await self.crypto.rotate(ANNA, self.key_id)
        except KeyUnusable:
            return False
        return True

    async def rewrap(self) -> bool:
        try:
            self.sealed.append(await self.crypto.rewrap(ANNA, self.key_id, back(self.first)))
        except KeyUnusable:
            return False
        self.encrypted += 1
        return True

    def stored_wait_s(self) -> float:
        stored = self.run(self.store.key("t1", self.key_id))
        assert stored is not None
        assert stored.life.destroy_at_us is not None
        return (stored.life.destroy_at_us - self.clock.now_us()) / 1e6

    async def use(self) -> bool:
        sealed = await self.encrypt()
        if sealed is not None:
            self.encrypted += 1
            self.sealed.append(sealed)
        return sealed is not None

    @rule(count=st.integers(1, 20))
    def uses(self, count: int) -> None:
        async def all_at_once() -> list[bool]:
            return await asyncio.gather(*(self.use() for _ in range(count)))

        assert set(self.run(all_at_once())) == {self.state in PROTECTS}

    @rule(which=st.integers(0, 1 << 16))
    def open_one(self, which: int) -> None:
        found = self.run(self.decrypt(self.sealed[which % len(self.sealed)]))
        assert found == (SECRET if self.state in OPENS else None)

    @rule()
    def rotate(self) -> None:
        try:
            self.run(self.crypto.rotate(ANNA, self.key_id))
        except KeyUnusable:
            assert self.state not in PROTECTS
        else:
            assert self.state in PROTECTS

    @rule()
    def restart(self) -> None:
        self.run(self.close())
        self.run(self.open())

    @rule()
    def be_killed(self) -> None:
        self.run(self.kill())
        self.run(self.open())

    @rule(days=st.sampled_from([0.4, 1.0, 3.0]))
    def time_passes(self, days: float) -> None:
        self.clock.advance(days * DAY_S)
        if self.state == "scheduled_for_destruction" and self.destroy_in_s is not None:
            self.destroy_in_s -= days * DAY_S
        destroyed = self.run(self.crypto.destroy_due())
        due = self.state == "scheduled_for_destruction" and self.destroy_in_s is not None and self.destroy_in_s <= 0
        assert destroyed == int(due)
        if due:
            self.state = "destroyed"

    @rule(below=st.integers(0, 3 * USES_BLOCK))
    def nonces_near_the_half(self, below: int) -> None:
        """Set the count near 2^31 through the store, as years of use would."""
        self.count_up_to(ROTATE_AT_USES - below)

    @rule(below=st.integers(0, 3 * USES_BLOCK))
    def nonces_near_the_end(self, below: int) -> None:
        self.count_up_to(REFUSE_AT_USES - below)

    def count_up_to(self, uses: int) -> None:
        if self.state not in PROTECTS:
            return
        self.run(self.close())
        self.run(self.open())
        stored = self.run(self.store.key("t1", self.key_id))
        assert stored is not None
        missing = uses - stored.newest.reserved_uses
        if missing > 0:
            self.run(self.store.reserve(self.key_id, stored.newest.version, missing, limit=REFUSE_AT_USES))
            self.run(self.close())
            self.run(self.open())

    # ---- what always holds

    async def stored_state(self) -> str:
        stored = await self.store.key("t1", self.key_id)
        assert stored is not None
        return stored.life.state.value

    @invariant()
    def the_file_says_what_everybody_was_told(self) -> None:
        assert self.run(self.stored_state()) == self.state
        assert self.run(self.crypto.key(ANNA, self.key_id)).state == self.state

    @invariant()
    def uses_are_never_counted_too_few(self) -> None:
        stored = self.run(self.store.key("t1", self.key_id))
        assert stored is not None
        made: dict[int, int] = {}
        for sealed in self.sealed:
            made[sealed.version] = made.get(sealed.version, 0) + 1
        for version in stored.versions:
            assert made.get(version.version, 0) <= version.reserved_uses <= REFUSE_AT_USES

    @invariant()
    def no_nonce_comes_twice_under_a_version(self) -> None:
        used = [(sealed.version, sealed.iv) for sealed in self.sealed]
        assert len(set(used)) == len(used)

    @invariant()
    def destroyed_means_gone(self) -> None:
        if self.state == "destroyed":
            rows = self.db.read(
                "SELECT count(*) FROM versions WHERE key_id = ? AND wrapped IS NOT NULL", (self.key_id,)
            )
            assert rows == [(0,)]

    def teardown(self) -> None:
        self.run(self.close())
        self.runner.close()
        self.folder.cleanup()


def back(sealed: Sealed) -> Ciphertext:
    return Ciphertext(ciphertext=sealed.ciphertext, iv=sealed.iv, auth_tag=sealed.auth_tag, version=sealed.version)


async def given_up(call: Coroutine[Any, Any, T], turns: int | None) -> T | None:
    """Await a call, or cancel it after some turns of the loop as the end of a connection does; None: not known."""
    task = asyncio.get_running_loop().create_task(call)
    if turns is not None:
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None


def told(what: str, done: bool | None) -> tuple[Steps, ...]:
    """Return all that may have happened in a call of which this was seen."""
    if done is None:
        return ((), *told(what, True), *told(what, False))
    if what == "rewrap":  # opens, then protects
        if done:
            return ((("open", True), ("protect", True)),)
        return ((("open", False),), (("open", True), ("protect", False)))
    kind = {"encrypt": "protect", "rotate": "protect", "decrypt": "open"}.get(what, what)
    return (((kind, done),),)


def after_step(state: str, kind: str, let: bool) -> str | None:
    """Return the state after a step that was let or not; None when that can't have been in this state."""
    if kind in WISHES:
        after = WISHES[kind].get(state)
        return None if let is (after is None) else (after or state)
    return state if let is (state in (PROTECTS if kind == "protect" else OPENS)) else None


@cache
def ends(state: str, calls: tuple[tuple[Steps, ...], ...]) -> frozenset[str]:
    """Return where a key may be after calls that ran at once, whatever the order of their steps."""
    found = {state} if all(() in ways for ways in calls) else set()
    for at, ways in enumerate(calls):
        rest = calls[:at] + calls[at + 1 :]
        for steps in ways:
            if not steps:
                continue
            (kind, let), *more = steps
            if (after := after_step(state, kind, let)) is not None:
                left = ((tuple(more),),) if more else ()
                found |= ends(after, tuple(sorted(rest + left)))
    return frozenset(found)


async def test_who_gives_up_leaves_no_key_half_changed(tmp_path: Path) -> None:
    db = Database.open(tmp_path / "crypto.db", MIGRATIONS)
    store = SqliteKeyStore(db)
    crypto = CryptoService(
        store=store, provider=FileKeyProvider.open(tmp_path / "kek"), clock=ManualClock(), config=CryptoConfig()
    )
    await crypto.start()
    changed = 0
    for turns in range(12):
        key_id = (await crypto.generate_key(ANNA, NewKey())).key_id
        await given_up(crypto.rotate(ANNA, key_id), turns)
        await given_up(crypto.change_key(ANNA, key_id, KeyChange(state="disabled")), turns)
        await crypto._chain._flights.settle()
        stored, known = await store.key("t1", key_id), await crypto.key(ANNA, key_id)
        assert stored is not None
        assert known.state == stored.life.state.value, turns
        assert len(known.versions) == len(stored.versions), turns
        changed += known.state == "disabled"
        with pytest.raises(KeyUnusable) if known.state == "disabled" else nullcontext():
            await crypto.encrypt(ANNA, key_id, Plaintext(plaintext=SECRET))
    assert changed > 0
    await crypto.stop()
    await db.close()


class Slow(FileKeyProvider):
    """A provider that answers an unwrapping when it is told to; `asked` is set when it waits."""

    asked: asyncio.Event
    go_on: asyncio.Event

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytearray:
        self.asked.set()
        await self.go_on.wait()
        return await super().unwrap(wrapped, context)


@pytest.mark.parametrize(
    ("use", "off"),
    [("encrypt", "decrypt_only"), ("encrypt", "disabled"), ("decrypt", "disabled"), ("rotate", "disabled")],
)
async def test_a_state_that_changes_while_the_key_is_unwrapped_counts(tmp_path: Path, use: str, off: str) -> None:
    db = Database.open(tmp_path / "crypto.db", MIGRATIONS)
    clock, provider = ManualClock(), Slow.open(tmp_path / "kek")
    assert isinstance(provider, Slow)
    provider.asked, provider.go_on = asyncio.Event(), asyncio.Event()
    provider.go_on.set()
    crypto = CryptoService(store=SqliteKeyStore(db), provider=provider, clock=clock, config=CryptoConfig())
    await crypto.start()
    key_id = (await crypto.generate_key(ANNA, NewKey())).key_id
    sealed = await crypto.encrypt(ANNA, key_id, Plaintext(plaintext=SECRET))
    clock.advance(crypto._config.cache_age_s)
    crypto._chain.sweep()
    provider.asked.clear()
    provider.go_on.clear()
    calls = {
        "encrypt": lambda: crypto.encrypt(ANNA, key_id, Plaintext(plaintext=SECRET)),
        "decrypt": lambda: crypto.decrypt(ANNA, key_id, back(sealed)),
        "rotate": lambda: crypto.rotate(ANNA, key_id),
    }
    async with asyncio.timeout(30):
        call = asyncio.create_task(calls[use]())
        await provider.asked.wait()
        await crypto.change_key(ANNA, key_id, KeyChange(state=off))
        provider.go_on.set()
        with pytest.raises(KeyUnusable) if use != "rotate" else nullcontext():
            await call
    live = crypto._chain._keys["t1", key_id]
    assert live.stored.life.state.value == off
    assert off == "decrypt_only" or not live.materials, "nothing of it stays in memory"
    await crypto.stop()
    await db.close()


def test_an_order_that_cannot_have_been_is_found_out() -> None:
    disabled, sealed, refused = told("disable", True), told("encrypt", True), told("encrypt", False)
    assert ends("enabled", (disabled, sealed, refused)) == {"disabled"}
    assert ends("disabled", (disabled, sealed)) == frozenset()
    assert ends("enabled", (refused,)) == frozenset()
    assert ends("enabled", (told("disable", None), told("decrypt", True))) == {"enabled", "disabled"}
    assert ends("decrypt_only", (told("rewrap", False), told("enable", True))) == {"enabled"}


KeyLife.TestCase.settings = settings(max_examples=12, stateful_step_count=25)
test_any_order_of_calls = KeyLife.TestCase
