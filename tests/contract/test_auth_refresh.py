"""Refresh rotation against a model: whatever is lost, repeated or reordered, an honest client is never logged out.

The network may lose requests and answers, deliver them late, in any order and more than once. Browser tabs share what
they received. As long as a burst of that lasts no longer than the grace, every request is answered with a token that
works, and the same token always with the same successor. A copy presented later ends the session for good.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sealwire.contracts.sessions import RefreshInvalid, RefreshRequest, RefreshReused
from sealwire.services.auth.model import Verdict, rotate
from sealwire.services.auth.records import RefreshUse
from sealwire.testing.auth_room import CHEAP, AuthRoom, somebody
from sealwire.testing.clock import ManualClock

GRACE_S = CHEAP.refresh_grace_s
REST_S = 300.0


class World:
    """One room for all examples; each example is a login of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.room = AuthRoom(Path(self.folder.name), clock=self.clock)
        self.loop.run_until_complete(self.room.open())
        self.loop.run_until_complete(self.room.register("anna"))

    def log_in(self) -> str:
        return self.loop.run_until_complete(self.room.log_in("anna")).refresh_token

    def refresh(self, token: str) -> str:
        request = RefreshRequest(refresh_token=token)
        return self.loop.run_until_complete(self.room.auth.refresh(somebody(), request)).refresh_token

    def close(self) -> None:
        self.loop.run_until_complete(self.room.close())
        self.loop.close()
        self.folder.cleanup()


world: World | None = None


@pytest.fixture(scope="module", autouse=True)
def the_world() -> object:
    global world
    world = World()
    yield world
    world.close()
    world = None


class HonestClient(RuleBasedStateMachine):
    """Tabs, the network between, and the server."""

    @initialize()
    def log_in(self) -> None:
        assert world is not None
        self.world = world
        self.known = [world.log_in()]  # what any tab received in this burst, oldest first
        self.old: list[str] = []  # what was used in earlier bursts
        self.requests: list[str] = []
        self.answers: list[str] = []
        self.successor: dict[str, str] = {}
        self.left_s = GRACE_S
        self.stolen = False

    @precondition(lambda self: not self.stolen)
    @rule(data=st.data())
    def a_tab_asks(self, data: st.DataObject) -> None:
        """With the newest token it knows, or one that it has held in memory since the burst began."""
        self.requests.append(data.draw(st.sampled_from(self.known)))

    @precondition(lambda self: self.requests and not self.stolen)
    @rule(data=st.data(), again=st.booleans())
    def a_request_arrives(self, data: st.DataObject, again: bool) -> None:
        """In any order, and perhaps once more later."""
        at = data.draw(st.integers(0, len(self.requests) - 1))
        token = self.requests[at] if again else self.requests.pop(at)
        given = self.world.refresh(token)
        assert self.successor.setdefault(token, given) == given, "one token, one successor"
        self.answers.append(given)

    @precondition(lambda self: self.answers)
    @rule(data=st.data(), lost=st.booleans())
    def an_answer_arrives(self, data: st.DataObject, lost: bool) -> None:
        token = self.answers.pop(data.draw(st.integers(0, len(self.answers) - 1)))
        if not lost and token not in self.known:
            self.known.append(token)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def a_request_is_lost(self, data: st.DataObject) -> None:
        self.requests.pop(data.draw(st.integers(0, len(self.requests) - 1)))

    @rule(seconds=st.floats(0.0, GRACE_S / 3))
    def a_little_time_passes(self, seconds: float) -> None:
        passed = min(seconds, self.left_s)
        self.left_s -= passed
        self.world.clock.advance(passed)

    @precondition(lambda self: not self.stolen)
    @rule()
    def the_burst_ends(self) -> None:
        """What is under way is lost, the tabs try until they have a working token, then nothing happens for long."""
        token, fresh = self.known[-1], False
        while not fresh:
            fresh = token not in self.successor
            given = self.world.refresh(token)
            assert self.successor.setdefault(token, given) == given
            token = given
        newest = token
        self.old += self.successor
        self.requests, self.answers, self.known, self.successor = [], [], [newest], {}
        self.left_s = GRACE_S
        self.world.clock.advance(REST_S)

    @precondition(lambda self: self.old and not self.stolen)
    @rule(data=st.data())
    def a_thief_uses_a_copy(self, data: st.DataObject) -> None:
        """An old token, long after it was used: the session ends, for the honest client too."""
        with pytest.raises(RefreshReused):
            self.world.refresh(data.draw(st.sampled_from(self.old)))
        self.stolen = True

    @invariant()
    def after_a_theft_nothing_works(self) -> None:
        if getattr(self, "stolen", False):
            for token in (*self.known[-2:], *self.old[-2:]):
                with pytest.raises(RefreshInvalid):
                    self.world.refresh(token)


TestHonestClient = HonestClient.TestCase
TestHonestClient.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


# ---- the rule itself

G = 10


def use(number: int, at: int) -> RefreshUse:
    return RefreshUse(number, at)


def test_the_newest_rotates_and_is_remembered() -> None:
    judged = rotate(3, (use(2, 95),), 3, now_us=100, grace_us=G)
    assert (judged.verdict, judged.head, judged.uses) == (Verdict.ROTATE, 4, (use(2, 95), use(3, 100)))


def test_what_is_past_its_grace_is_not_kept() -> None:
    assert rotate(3, (use(1, 80), use(2, 90)), 3, now_us=101, grace_us=G).uses == (use(3, 101),)


def test_a_repetition_does_not_prolong_its_own_grace() -> None:
    uses = (use(1, 100),)
    for now in (100, 105, 110):
        judged = rotate(2, uses, 1, now_us=now, grace_us=G)
        assert judged.verdict is Verdict.REPEAT
        uses = judged.uses
    assert rotate(2, uses, 1, now_us=111, grace_us=G).verdict is Verdict.REUSED


def test_a_token_given_late_works_for_as_long_again() -> None:
    judged = rotate(3, (use(1, 100), use(2, 101)), 1, now_us=110, grace_us=G)
    assert judged.verdict is Verdict.REPEAT
    assert rotate(3, judged.uses, 2, now_us=120, grace_us=G).verdict is Verdict.REPEAT
    assert rotate(3, judged.uses, 2, now_us=121, grace_us=G).verdict is Verdict.REUSED


def test_a_number_above_the_newest_is_one_that_a_restored_backup_forgot() -> None:
    judged = rotate(3, (), 9, now_us=100, grace_us=G)
    assert (judged.verdict, judged.head) == (Verdict.ROTATE, 10)


def test_without_grace_every_repetition_is_reuse() -> None:
    first = rotate(1, (), 1, now_us=100, grace_us=0)
    assert rotate(2, first.uses, 1, now_us=101, grace_us=0).verdict is Verdict.REUSED


def test_another_client_may_not_repeat_inside_the_window() -> None:
    first = rotate(1, (), 1, now_us=100, grace_us=G, client=b"phone")
    assert rotate(2, first.uses, 1, now_us=101, grace_us=G, client=b"phone").verdict is Verdict.REPEAT
    assert rotate(2, first.uses, 1, now_us=101, grace_us=G, client=b"thief").verdict is Verdict.REUSED


@pytest.mark.parametrize("thief_first", [False, True])
def test_a_thief_inside_the_window_ends_the_family(thief_first: bool) -> None:
    assert world is not None
    room, loop, token = world.room, world.loop, world.log_in()
    here = somebody()
    thief = msgspec.structs.replace(here, user_agent="curl/8")
    first, second = (thief, here) if thief_first else (here, thief)
    request = RefreshRequest(refresh_token=token)
    given = loop.run_until_complete(room.auth.refresh(first, request)).refresh_token
    assert loop.run_until_complete(room.auth.refresh(first, request)).refresh_token == given
    with pytest.raises(RefreshReused):
        loop.run_until_complete(room.auth.refresh(second, request))
    for caller in (first, second):
        with pytest.raises(RefreshInvalid):
            loop.run_until_complete(room.auth.refresh(caller, RefreshRequest(refresh_token=given)))


def test_a_client_that_was_updated_between_refreshes_goes_on() -> None:
    assert world is not None
    room, loop, token = world.room, world.loop, world.log_in()
    given = loop.run_until_complete(room.auth.refresh(somebody(), RefreshRequest(refresh_token=token))).refresh_token
    updated = msgspec.structs.replace(somebody(), user_agent="test/1.1")
    assert loop.run_until_complete(room.auth.refresh(updated, RefreshRequest(refresh_token=given))).access_token
