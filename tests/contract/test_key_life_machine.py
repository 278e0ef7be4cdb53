"""A key's life under racing calls, against the real file: what any order of calls may end in, and never more."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.crypto import Ciphertext, Destruction, KeyChange, KeyUnusable, NewKey, Plaintext, Sealed
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


class KeyLife(RuleBasedStateMachine):
    """Wishes one by one and many at once, uses between them, restarts, kills, days that pass."""

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
        asked = Ciphertext(ciphertext=sealed.ciphertext, iv=sealed.iv, auth_tag=sealed.auth_tag, version=sealed.version)
        try:
            return (await self.crypto.decrypt(ANNA, self.key_id, asked)).plaintext
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

    @rule(wishes=st.lists(st.sampled_from(sorted(WISHES)), min_size=2, max_size=6))
    def racing_wishes(self, wishes: list[str]) -> None:
        """Many at once: the end is one that some order of exactly those that were granted leads to."""

        async def race() -> list[bool]:
            return await asyncio.gather(*(self.wish(what) for what in wishes), *(self.use() for _ in range(2)))

        granted = [what for what, done in zip(wishes, self.run(race()), strict=False) if done]
        before, self.state = self.state, self.run(self.stored_state())
        assert self.state in ends(before, tuple(granted)), (before, granted, self.state)
        if "schedule" in granted:
            self.destroy_in_s = 2 * DAY_S

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

    @precondition(lambda self: self.sealed)
    @rule(data=st.data())
    def open_one(self, data: st.DataObject) -> None:
        found = self.run(self.decrypt(data.draw(st.sampled_from(self.sealed))))
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

    @precondition(lambda self: self.state in PROTECTS)
    @rule(below=st.integers(0, 3 * USES_BLOCK))
    def nonces_near_the_half(self, below: int) -> None:
        """Set the count near 2^31 through the store, as years of use would."""
        self.count_up_to(ROTATE_AT_USES - below)

    @precondition(lambda self: self.state in PROTECTS)
    @rule(below=st.integers(0, 3 * USES_BLOCK))
    def nonces_near_the_end(self, below: int) -> None:
        self.count_up_to(REFUSE_AT_USES - below)

    def count_up_to(self, uses: int) -> None:
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


def ends(state: str, granted: tuple[str, ...]) -> set[str]:
    """Return where a key may be after all of these wishes, each granted when its turn came, in any order."""
    if not granted:
        return {state}
    found: set[str] = set()
    for what in set(granted):
        if (after := WISHES[what].get(state)) is not None:
            rest = list(granted)
            rest.remove(what)
            found |= ends(after, tuple(rest))
    return found


KeyLife.TestCase.settings = settings(max_examples=12, stateful_step_count=25)
test_any_order_of_calls = KeyLife.TestCase
