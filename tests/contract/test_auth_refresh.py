"""Refresh rotation against a model: whatever is lost, repeated or reordered, an honest client is never logged out.

The network may lose requests and answers, deliver them late, in any order, more than once and 32 at the same moment.
Browser tabs share what they received. The server is restarted, its clock is put back. As long as a burst of that lasts
no longer than the grace, every request is answered with a token that works, and the same token always with the same
successor. A copy presented a millisecond later, or by another client at any time, ends the session for good, and no
other session of the person.
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

from sealwire.contracts.revocations import FeedQuery
from sealwire.contracts.sessions import RefreshInvalid, RefreshRequest, RefreshReused
from sealwire.services.auth.model import Verdict, rotate
from sealwire.services.auth.records import RefreshUse
from sealwire.testing.auth_room import BOUNDARY, CHEAP, AuthRoom, somebody
from sealwire.testing.clock import ManualClock

GRACE_S = CHEAP.refresh_grace_s
REST_S = GRACE_S + 0.001
"""Just past the window: nothing of a burst may be repeated after it."""
TABS = 32


class World:
    """One room for all examples; each example is a login of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.room = AuthRoom(Path(self.folder.name), clock=self.clock)
        self.loop.run_until_complete(self.room.open())
        self.people = 0

    def log_in(self, sessions: int = 1) -> list[str]:
        """Return a refresh token of each session of somebody new."""
        self.people += 1
        name = f"person{self.people}"
        self.loop.run_until_complete(self.room.register(name))
        return [self.loop.run_until_complete(self.room.log_in(name)).refresh_token for _ in range(sessions)]

    def refresh(self, token: str, agent: str = "") -> str:
        caller = msgspec.structs.replace(somebody(), user_agent=agent) if agent else somebody()
        request = RefreshRequest(refresh_token=token)
        return self.loop.run_until_complete(self.room.auth.refresh(caller, request)).refresh_token

    def refresh_at_once(self, tokens: list[str]) -> list[str]:
        async def all_of_them() -> list[str]:
            granted = await asyncio.gather(
                *(self.room.auth.refresh(somebody(), RefreshRequest(refresh_token=token)) for token in tokens)
            )
            return [one.refresh_token for one in granted]

        return self.loop.run_until_complete(all_of_them())

    def newest_revocation(self) -> int:
        return self.loop.run_until_complete(self.room.auth.revocations(BOUNDARY, FeedQuery())).newest

    def restart(self) -> None:
        self.loop.run_until_complete(self.room.close())
        self.loop.run_until_complete(self.room.open())

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
        here, self.elsewhere = world.log_in(2)  # the second is one that nothing here concerns
        self.known = [here]  # what any tab received in this burst, oldest first
        self.old: list[str] = []  # what was used in earlier bursts
        self.requests: list[str] = []
        self.answers: list[str] = []
        self.successor: dict[str, str] = {}
        self.left_s = GRACE_S
        self.stolen = False
        self.restarts = self.steps = 1

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

    @precondition(lambda self: not self.stolen)
    @rule(data=st.data())
    def many_tabs_ask_at_once(self, data: st.DataObject) -> None:
        """Whichever is judged first: every one of them is answered, equal tokens by equal ones."""
        tokens = data.draw(st.lists(st.sampled_from(self.known), min_size=2, max_size=TABS))
        for token, given in zip(tokens, self.world.refresh_at_once(tokens), strict=True):
            assert self.successor.setdefault(token, given) == given, "one token, one successor"
            self.answers.append(given)

    @rule()
    def the_other_session_goes_on(self) -> None:
        """Also after a theft in this one."""
        self.elsewhere = self.world.refresh(self.elsewhere)

    @precondition(lambda self: self.restarts)
    @rule()
    def the_server_restarts(self) -> None:
        self.restarts -= 1
        self.world.restart()

    @precondition(lambda self: self.steps and not self.stolen)
    @rule(seconds=st.floats(1.0, 3_600.0))
    def the_clock_is_put_back(self, seconds: float) -> None:
        """What was used in what is the future now stays good for who used it, from the next look on for a grace: a copy
        in the hands of the same client is not told from it that long."""
        self.steps -= 1
        self.old = []
        self.world.clock.step_wall(-seconds)

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
        self._is_stolen(data.draw(st.sampled_from(self.old)), "")

    @precondition(lambda self: self.successor and not self.stolen)
    @rule(data=st.data())
    def a_thief_uses_a_copy_inside_the_window(self, data: st.DataObject) -> None:
        """Another client with a token that was used: one of the two is not who it says it is."""
        self._is_stolen(data.draw(st.sampled_from(sorted(self.successor))), "curl/8")

    def _is_stolen(self, token: str, agent: str) -> None:
        before = self.world.newest_revocation()
        with pytest.raises(RefreshReused):
            self.world.refresh(token, agent)
        assert self.world.newest_revocation() == before + 1, "told to everybody, once"
        self.stolen = True

    @invariant()
    def after_a_theft_nothing_works(self) -> None:
        if getattr(self, "stolen", False):
            for token in (*self.known[-2:], *self.old[-2:]):
                with pytest.raises(RefreshInvalid):
                    self.world.refresh(token)


TestHonestClient = HonestClient.TestCase
TestHonestClient.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


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


def test_a_clock_that_is_put_back_prolongs_no_grace_for_long() -> None:
    """What was used in what is the future now counts as used when it is first looked at again."""
    judged = rotate(2, (use(1, 1_000),), 1, now_us=100, grace_us=G)
    assert (judged.verdict, judged.uses) == (Verdict.REPEAT, (use(1, 100),))
    assert rotate(2, judged.uses, 1, now_us=110, grace_us=G).verdict is Verdict.REPEAT
    assert rotate(2, judged.uses, 1, now_us=111, grace_us=G).verdict is Verdict.REUSED
    after = rotate(2, (use(1, 1_000),), 2, now_us=100, grace_us=G)
    assert after.uses == (use(1, 100), use(2, 100)), "another token of the family is looked at first"


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
    room, loop, (token,) = world.room, world.loop, world.log_in()
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
    room, loop, (token,) = world.room, world.loop, world.log_in()
    given = loop.run_until_complete(room.auth.refresh(somebody(), RefreshRequest(refresh_token=token))).refresh_token
    updated = msgspec.structs.replace(somebody(), user_agent="test/1.1")
    assert loop.run_until_complete(room.auth.refresh(updated, RefreshRequest(refresh_token=given))).access_token
