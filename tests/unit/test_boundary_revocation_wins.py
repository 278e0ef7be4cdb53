"""Whatever happens in whatever order, a revocation the boundary knows is never undone, and nobody gets more.

Logins, logouts, password and role changes, outages of auth and of the cache, a cache that returns with what it held at
another time, kills and restarts, clocks that step. The model is the list of what was revoked and what was heard of it.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.model import Status, Validation
from sealwire.contracts.admission import CredentialExpired, SessionRevoked
from sealwire.contracts.sessions import SessionState
from sealwire.kit.permission import Role, lower
from sealwire.kit.problem import Problem, Unavailable
from sealwire.testing.boundary_room import BoundaryRoom
from sealwire.testing.clock import ManualClock

UNCONFIRMED_S = 120
PEOPLE = ("anna",)


class Issued:
    """A token and what the test knows of it."""

    def __init__(self, text: str, session: SessionState, epoch: int, role: Role) -> None:
        self.text, self.session, self.epoch, self.role = text, session, epoch, role


class BoundaryMachine(RuleBasedStateMachine):
    """One boundary, restarted now and then, before one authority."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="sealwire-boundary-"))
        self.clock = ManualClock()
        self.room = BoundaryRoom(
            self.folder,
            clock=self.clock,
            config=BoundaryConfig(self_test_every_s=0, unconfirmed_s=UNCONFIRMED_S, memory_ttl_s=20, cache_ttl_s=40),
        )
        self.tokens: list[Issued] = []
        self.sockets: list[tuple[Any, Issued, list[Problem]]] = []
        self.snapshots: list[Any] = []
        self.dead_known: set[str] = set()  # token texts that were dead when the boundary last heard the feed
        self.died_s: dict[str, float] = {}  # when tokens died, on the monotonic clock

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        for person in PEOPLE:
            self.room.authority.add_user(person)
        self.run(self.start())

    async def start(self) -> None:
        boundary = self.room.build()
        await boundary.fallback.start()
        try:
            await boundary.adapter.refresh_keys()
        except Problem:
            boundary.adapter._keys_at_s = None
        await boundary.coordinator.ensure_fresh()
        self.note_heard()

    def really_dead(self, issued: Issued) -> bool:
        """What auth would say of the token now."""
        state = self.room.authority.sessions[issued.session.session_id]
        return not state.active

    def note_heard(self) -> None:
        if self.room.boundary.fallback.position == len(self.room.authority.feed):
            self.dead_known |= {issued.text for issued in self.tokens if self.really_dead(issued)}

    def note_deaths(self) -> None:
        for issued in self.tokens:
            if self.really_dead(issued):
                self.died_s.setdefault(issued.text, self.clock.monotonic())

    def dead_for_a_second(self, issued: Issued) -> bool:
        return self.clock.monotonic() - self.died_s.get(issued.text, float("inf")) >= 1.0

    # -- what people do
    @rule(person=st.sampled_from(PEOPLE))
    def log_in(self, person: str) -> None:
        session = self.room.authority.log_in(person)
        user = self.room.authority.users[person]
        text = self.room.authority.token(session, exp=self.clock.now_us() // 1_000_000 + 7200)
        self.tokens.append(Issued(text, session, user.epoch, user.role))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def log_out(self, data: st.DataObject) -> None:
        issued = data.draw(st.sampled_from(self.tokens))
        self.room.authority.log_out(issued.session.session_id)
        self.note_deaths()

    @rule(person=st.sampled_from(PEOPLE), keep=st.booleans())
    def change_password(self, person: str, keep: bool) -> None:
        live = [sid for sid, state in self.room.authority.sessions.items() if state.user_id == person and state.active]
        self.room.authority.cut(person, keep=live[-1] if keep and live else "")
        self.note_deaths()

    @rule(person=st.sampled_from(PEOPLE), role=st.sampled_from([Role.GUEST, Role.MEMBER, Role.ADMIN]))
    def change_role(self, person: str, role: Role) -> None:
        self.room.authority.change_role(person, role)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def open_socket(self, data: st.DataObject) -> None:
        issued = data.draw(st.sampled_from(self.tokens))
        ended: list[Problem] = []
        gateway = self.room.boundary.sockets
        handshake = gateway.read({"type": "websocket", "headers": [], "query_string": b"", "client": None})
        try:
            socket = self.run(gateway.admit(handshake, issued.text, ended=ended.append))
        except Problem:
            return
        assert issued.text not in self.dead_known
        self.sockets.append((socket, issued, ended))

    # -- what happens to the machines
    @rule(out=st.booleans())
    def auth_goes_or_comes(self, out: bool) -> None:
        self.room.authority.outage = Unavailable() if out else None

    @rule(out=st.booleans())
    def cache_goes_or_comes(self, out: bool) -> None:
        self.room.cache.out = out

    @rule()
    def cache_is_backed_up(self) -> None:
        self.snapshots.append(self.room.cache.snapshot())

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def cache_returns_with_older_data(self, data: st.DataObject) -> None:
        self.room.cache.restore(data.draw(st.sampled_from(self.snapshots)))

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        if clean:
            self.run(self.room.boundary.stop())
        else:
            # A kill: what was applied and persisted is on disk, nothing else.
            self.run(self.room.boundary.fallback.persist())
        self.sockets.clear()
        self.run(self.start())

    @rule(seconds=st.sampled_from([0.3, 1.1, 5, 30, 100]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-3600, -60, 60, 3600]))
    def the_wall_clock_steps(self, seconds: float) -> None:
        self.clock.step_wall(seconds)

    @rule(revoked_meanwhile=st.booleans(), person=st.sampled_from(PEOPLE))
    def an_outage_begins(self, revoked_meanwhile: bool, person: str) -> None:
        """All that was said so far is heard; then auth is out for longer than the feed may be old."""
        self.room.authority.outage = None
        self.hear()
        self.a_known_revocation_is_never_undone()
        self.room.authority.outage = Unavailable()
        if revoked_meanwhile:
            self.change_password(person, keep=False)
        self.clock.advance(1.1)

    @rule()
    def hear(self) -> None:
        self.clock.advance(1.1)
        self.run(self.hear_and_reconcile())

    async def hear_and_reconcile(self) -> None:
        await self.room.boundary.coordinator.ensure_fresh()
        await asyncio.sleep(0)
        await self.room.boundary.normalizer.reconcile()
        await self.room.boundary.fallback.clean()
        self.note_heard()

    # -- what must hold
    async def ask(self, issued: Issued) -> Validation | None:
        try:
            token = await self.room.boundary.adapter.adapt(issued.text)
        except Problem:
            return None
        return await self.room.boundary.normalizer.validate(token)

    @invariant()
    def a_known_revocation_is_never_undone(self) -> None:
        for issued in self.tokens[-6:]:
            answer = self.run(self.ask(issued))
            self.note_heard()
            if answer is None:
                continue
            if issued.text in self.dead_known:
                assert answer.status is Status.REVOKED
            if answer.status is Status.VALID:
                assert not self.dead_for_a_second(issued)
            if answer.status is Status.UNCONFIRMED:
                assert self.room.authority.outage is not None or self.room.breakers.active, (
                    "somebody could not be asked"
                )
                assert answer.degraded
                assert answer.principal is not None
                assert lower(answer.principal.role, issued.role) is answer.principal.role, "never more than the token"
            assert (answer.principal is None) == (answer.status in (Status.REVOKED, Status.UNKNOWN))

    @invariant()
    def sockets_follow(self) -> None:
        for socket, issued, ended in self.sockets:
            try:
                caller = socket.caller
            except (SessionRevoked, CredentialExpired):
                continue
            except Problem:
                continue
            assert issued.text not in self.dead_known
            assert not ended
            assert not (caller.confirmed and self.dead_for_a_second(issued))

    async def end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def teardown(self) -> None:
        if hasattr(self.room, "boundary"):
            self.run(self.room.boundary.stop())
        self.run(self.end_tasks())
        self.loop.close()
        shutil.rmtree(self.folder)


TestBoundaryMachine = BoundaryMachine.TestCase
TestBoundaryMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
