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
    """Two processes spend from memory; the store may fail after it stored; either process may be killed or stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.durable = 0
        self.spent = 0
        self.budgets = [UseBudget(total=0, block=8), UseBudget(total=0, block=8)]

    @rule(who=st.integers(0, 1), count=st.integers(1, 20))
    def take(self, who: int, count: int) -> None:
        if self.budgets[who].take(count):
            self.spent += count

    @rule(who=st.integers(0, 1), count=st.integers(1, 20), answered=st.booleans())
    def reserve(self, who: int, count: int, answered: bool) -> None:
        block = self.budgets[who].next_block(count)
        self.durable += block
        if answered:
            self.budgets[who].grant(block, self.durable)

    @rule(who=st.integers(0, 1))
    def kill(self, who: int) -> None:
        self.budgets[who] = UseBudget(total=self.durable, block=8)

    @rule(who=st.integers(0, 1))
    def stop_cleanly(self, who: int) -> None:
        self.durable -= self.budgets[who].give_back()
        self.budgets[who] = UseBudget(total=self.durable, block=8)

    @invariant()
    def never_too_few(self) -> None:
        assert self.spent + sum(budget.left for budget in self.budgets) <= self.durable


Budget.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBudget = Budget.TestCase


@given(st.integers(1, 5_000))
def test_a_granted_block_lets_the_waiting_through(count: int) -> None:
    budget = UseBudget(total=0, block=1024)
    assert not budget.take(count)
    block = budget.next_block(count)
    assert block == count + 1024
    budget.grant(block, block)
    assert budget.take(count)
    assert not budget.low
    assert budget.used == count


def test_rotation_is_wanted_at_half_way_and_the_end_is_the_end() -> None:
    assert (ROTATE_AT_USES, REFUSE_AT_USES) == (2_147_483_648, 4_294_967_296), "NIST SP 800-38D section 8.3"
    budget = UseBudget(total=ROTATE_AT_USES, left=1, block=1024)
    assert not budget.wants_rotation
    assert budget.take()
    assert budget.wants_rotation
    budget = UseBudget(total=REFUSE_AT_USES - 5, block=1024)
    assert budget.next_block() == 5
    budget.grant(5, REFUSE_AT_USES)
    assert budget.take(5)
    with pytest.raises(BudgetExhausted):
        budget.take()
    assert not budget.low


def test_a_request_larger_than_what_is_left_is_refused_whole() -> None:
    budget = UseBudget(total=REFUSE_AT_USES - 5, block=1024)
    with pytest.raises(BudgetExhausted):
        budget.take(6)
    assert budget.used == REFUSE_AT_USES - 5


def test_the_last_uses_can_be_had_and_none_behind_them() -> None:
    budget = UseBudget(total=REFUSE_AT_USES - 5, block=1024)
    assert not budget.take(5), "they are there, once they are durable"
    with pytest.raises(BudgetExhausted):
        budget.take(6)


def test_blocks_of_other_processes_count_whoever_hears_of_them_first() -> None:
    budget = UseBudget(total=0, block=10)
    budget.grant(10, 200)
    budget.grant(10, 100)
    assert (budget.total, budget.left) == (200, 20)


def test_what_is_given_back_was_not_used() -> None:
    budget = UseBudget(total=100, left=40, block=10)
    assert (budget.give_back(), budget.total, budget.used, budget.give_back()) == (40, 60, 60, 0)
    assert not budget.take()


@pytest.mark.parametrize(("total", "left"), [(-1, 0), (5, 6), (5, -1), (REFUSE_AT_USES + 1, 0)])
def test_impossible_counts_are_refused(total: int, left: int) -> None:
    with pytest.raises(ValueError, match="impossible"):
        UseBudget(total=total, left=left, block=8)
