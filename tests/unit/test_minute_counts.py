"""Counters of a minute: exact alone, within the limit together, never open when the others are not heard."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItemPerMinute
from limits.strategies import FixedWindowRateLimiter

from sealwire.kit.clock import US_PER_S
from sealwire.kit.exchange import Exchange
from sealwire.kit.operation import RateClass
from sealwire.services.gateway.config import GatewayConfig
from sealwire.services.gateway.limiter import Limiter
from sealwire.services.gateway.minute_counts import FRESH_S, MinuteCounts
from sealwire.testing.clock import ManualClock

KEY = "write/anna/10/1/minute"


def test_it_is_a_storage_of_the_library_limits() -> None:
    clock = ManualClock()
    limiter = FixedWindowRateLimiter(MinuteCounts(clock=clock))
    item = RateLimitItemPerMinute(3)
    assert [limiter.hit(item, "anna") for _ in range(4)] == [True, True, True, False]
    assert limiter.hit(item, "otto")
    reset_s, left = limiter.get_window_stats(item, "anna")
    assert left == 0
    assert 0 < reset_s - clock.now_us() / US_PER_S <= 60
    clock.advance(60)
    assert limiter.hit(item, "anna"), "another minute"


def test_what_others_counted_counts() -> None:
    counts = MinuteCounts(clock=ManualClock(), members=2)
    for _ in range(3):
        counts.incr(KEY, 60)
    minute, told = counts.take(100)
    assert told == {KEY: 3}
    counts.hear(minute, [8], 2)
    assert counts.incr(KEY, 60) == 9
    assert counts.get(KEY) == 9


def test_while_nothing_is_heard_each_of_ours_counts_for_everybody() -> None:
    clock = ManualClock()
    counts = MinuteCounts(clock=clock)
    minute, _ = counts.take(100)
    counts.hear(minute, [], 3)
    assert counts.incr(KEY, 60) == 1
    clock.advance(FRESH_S + 0.01)
    assert counts.incr(KEY, 60) == 2 * 3
    counts.take(100)
    counts.give_up()
    assert counts.incr(KEY, 60) == 3 * 3, "what may have been told is told again"


def test_a_process_that_shares_with_nobody_has_the_whole_limit() -> None:
    counts = MinuteCounts(clock=ManualClock())
    assert [counts.incr(KEY, 60) for _ in range(3)] == [1, 2, 3]


def test_an_answer_of_the_last_minute_says_nothing_of_this_one() -> None:
    clock = ManualClock()
    counts = MinuteCounts(clock=clock)
    counts.incr(KEY, 60)
    minute, _ = counts.take(100)
    clock.advance(60)
    assert counts.incr(KEY, 60) == 1
    counts.hear(minute, [900], 2)
    assert counts.incr(KEY, 60) == 2


def test_much_is_told_in_parts() -> None:
    counts = MinuteCounts(clock=ManualClock())
    for number in range(25):
        counts.incr(f"k{number}", 60)
    seen = []
    for _ in range(3):
        minute, told = counts.take(10)
        seen += told
        counts.hear(minute, list(told.values()), 1)
    assert sorted(seen) == sorted(f"k{n}" for n in range(25))
    assert counts.take(10)[1] == {}


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["hit", "exchange", "lost", "unheard"])), max_size=80))
def test_two_processes_never_let_in_more_than_the_limit_but_for_what_was_not_told_yet(
    steps: list[tuple[int, str]],
) -> None:
    """`lost`: the board counted, the answer got lost. `unheard`: it was not asked. Counting twice only tightens."""
    clock = ManualClock()
    both = [MinuteCounts(clock=clock, members=2) for _ in range(2)]
    board: Counter[str] = Counter()
    admitted, untold = 0, 0
    for who, step in steps:
        counts = both[who]
        if step == "hit":
            if counts.incr(KEY, 60) <= 10:
                admitted += 1
                untold += 1
        else:
            minute, told = counts.take(100)
            if step == "unheard":
                counts.give_up()
                continue
            board.update(told)
            if step == "lost":
                counts.give_up()
            else:
                counts.hear(minute, [board[key] for key in told], 2)
    assert admitted <= 20, "each alone keeps to the limit"
    for counts in both:
        minute, told = counts.take(100)
        board.update(told)
        counts.hear(minute, [board[key] for key in told], 2)
    assert board[KEY] >= admitted, "nothing that was let in is forgotten"


def test_a_limiter_counts_under_the_keys_of_the_library() -> None:
    """Processes of an earlier version share the counts."""
    counts = MinuteCounts(clock=ManualClock())
    config = GatewayConfig()
    limiter = Limiter(config=config, counts=counts)

    async def nowhere(*_: Any) -> Any:
        return {}

    scope = {"method": "POST", "path": "/", "headers": [], "client": ("192.0.2.7", 1)}
    exchange = Exchange(scope, nowhere, nowhere)
    limiter.begin(exchange)
    limiter.count_caller(exchange, RateClass.WRITE, "anna/x")
    assert dict(counts.take(10)[1]) == {
        RateLimitItemPerMinute(config.per_ip_per_minute, namespace="ip").key_for("192.0.2.7"): 1,
        RateLimitItemPerMinute(config.write_per_minute, namespace="write").key_for("anna/x"): 1,
    }
    assert exchange.extra_headers[:2] == [(b"ratelimit-limit", b"1200"), (b"ratelimit-remaining", b"1199")]
