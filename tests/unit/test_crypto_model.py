"""Key rules: the life of a key as a state machine, and the nonce budget that never counts too few."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sealwire.services.crypto.model import (
    REFUSE_AT_USES,
    ROTATE_AT_USES,
    US_PER_DAY,
    BudgetExhausted,
    KeyState,
    KeyUse,
    Life,
    TransitionRefused,
    UseBudget,
    allows,
)

SETTABLE = {KeyState.ENABLED, KeyState.DECRYPT_ONLY, KeyState.DISABLED}


class KeyLife(RuleBasedStateMachine):
    """Any caller may try anything at any time; what is final stays final and the clock alone ends a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life()
        self.now_us = 0
        self.ended = False

    @rule(wanted=st.sampled_from(list(KeyState)))
    def set_state(self, wanted: KeyState) -> None:
        before = self.life
        if before.state in SETTABLE and wanted in SETTABLE:
            self.life = before.set_state(wanted)
            assert self.life.state is wanted
        else:
            with pytest.raises(TransitionRefused):
                before.set_state(wanted)

    @rule(days=st.integers(-1, 40))
    def schedule(self, days: int) -> None:
        before = self.life
        if days < 1:
            with pytest.raises(ValueError, match="at least one day"):
                before.schedule(now_us=self.now_us, delay_days=days)
        elif before.state in SETTABLE:
            self.life = before.schedule(now_us=self.now_us, delay_days=days)
            assert not self.life.due(self.now_us + days * US_PER_DAY - 1)
            assert self.life.due(self.now_us + days * US_PER_DAY)
        else:
            with pytest.raises(TransitionRefused):
                before.schedule(now_us=self.now_us, delay_days=days)

    @rule()
    def cancel(self) -> None:
        if self.life.state is KeyState.SCHEDULED:
            self.life = self.life.cancel()
            assert self.life == Life(state=KeyState.DISABLED)
        else:
            with pytest.raises(TransitionRefused):
                self.life.cancel()

    @rule(days=st.integers(0, 20))
    def wait(self, days: int) -> None:
        self.now_us += days * US_PER_DAY

    @rule()
    def destroy(self) -> None:
        if self.life.due(self.now_us):
            self.life = self.life.destroy(now_us=self.now_us)
            self.ended = True
        else:
            with pytest.raises(TransitionRefused):
                self.life.destroy(now_us=self.now_us)

    @precondition(lambda self: self.ended)
    @rule()
    def erase_again(self) -> None:
        assert self.life.erase() == self.life

    @invariant()
    def final_is_final(self) -> None:
        assert (self.life.state is KeyState.DESTROYED) == self.ended

    @invariant()
    def only_a_scheduled_key_has_a_date(self) -> None:
        assert (self.life.destroy_at_us is not None) == (self.life.state is KeyState.SCHEDULED)


KeyLife.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestKeyLife = KeyLife.TestCase


def test_what_each_state_allows() -> None:
    table = {state: {use for use in KeyUse if allows(state, use)} for state in KeyState}
    assert table == {
        KeyState.ENABLED: {KeyUse.PROTECT, KeyUse.PROCESS},
        KeyState.DECRYPT_ONLY: {KeyUse.PROCESS},
        KeyState.DISABLED: set(),
        KeyState.SCHEDULED: set(),
        KeyState.DESTROYED: set(),
    }


class Budget(RuleBasedStateMachine):
    """Uses spent from memory, blocks made durable by a store that may fail, a process that may be killed."""

    def __init__(self) -> None:
        super().__init__()
        self.durable = 0
        self.spent = 0
        self.budget = UseBudget(reserved=0, block=8)

    @rule(count=st.integers(1, 20))
    def take(self, count: int) -> None:
        if self.budget.take(count):
            self.spent += count

    @rule(count=st.integers(1, 20), survives=st.booleans())
    def reserve(self, count: int, survives: bool) -> None:
        self.durable += self.budget.next_block(count)
        if survives:
            self.budget.grant(self.durable)

    @rule()
    def kill(self) -> None:
        self.budget = UseBudget(reserved=self.durable, block=8)

    @rule()
    def stop_cleanly(self) -> None:
        self.budget = UseBudget(reserved=self.budget.reserved, used=self.budget.used, block=8)

    @invariant()
    def never_too_few(self) -> None:
        assert self.spent <= self.budget.used <= self.budget.reserved <= self.durable


Budget.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBudget = Budget.TestCase


@given(st.integers(1, 5_000))
def test_a_granted_block_lets_the_waiting_through(count: int) -> None:
    budget = UseBudget(reserved=0, block=1024)
    assert not budget.take(count)
    block = budget.next_block(count)
    assert block == count + 1024
    budget.grant(block)
    assert budget.take(count)
    assert not budget.low


def test_rotation_is_wanted_at_half_way_and_the_end_is_the_end() -> None:
    budget = UseBudget(reserved=ROTATE_AT_USES, used=ROTATE_AT_USES - 1, block=1024)
    assert not budget.wants_rotation
    assert budget.take()
    assert budget.wants_rotation
    budget = UseBudget(reserved=REFUSE_AT_USES - 5, block=1024)
    assert budget.next_block() == 5
    budget.grant(REFUSE_AT_USES)
    assert budget.take(5)
    with pytest.raises(BudgetExhausted):
        budget.take()
    assert not budget.low


def test_a_request_larger_than_what_is_left_is_refused_whole() -> None:
    budget = UseBudget(reserved=REFUSE_AT_USES - 5, block=1024)
    with pytest.raises(BudgetExhausted):
        budget.take(6)
    assert budget.used == REFUSE_AT_USES - 5


@pytest.mark.parametrize(("reserved", "used"), [(-1, None), (5, 6), (5, -1), (REFUSE_AT_USES + 1, None)])
def test_impossible_counts_are_refused(reserved: int, used: int | None) -> None:
    with pytest.raises(ValueError, match="impossible"):
        UseBudget(reserved=reserved, used=used, block=8)
