"""Full jitter stays in its bounds and uses all of them."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealwire.resilience.backoff import full_jitter


@given(attempt=st.integers(0, 2000), seed=st.integers(), base_s=st.floats(0.001, 10), factor=st.floats(1, 1000))
def test_delay_lies_within_the_bound(attempt: int, seed: int, base_s: float, factor: float) -> None:
    cap_s = base_s * factor
    delay_s = full_jitter(attempt, base_s=base_s, cap_s=cap_s, rng=Random(seed))
    assert 0 <= delay_s <= min(cap_s, base_s * 2.0 ** min(attempt, 500))


def test_delays_spread_over_the_whole_range() -> None:
    rng = Random(7)
    delays = [full_jitter(3, base_s=0.1, cap_s=10, rng=rng) for _ in range(2000)]
    assert min(delays) < 0.02
    assert max(delays) > 0.78
    assert 0.36 < sum(delays) / len(delays) < 0.44


@pytest.mark.parametrize(("attempt", "base_s", "cap_s"), [(-1, 0.1, 1), (0, 0, 1), (0, -1, 1), (0, 2, 1)])
def test_nonsense_is_refused(attempt: int, base_s: float, cap_s: float) -> None:
    with pytest.raises(ValueError):
        full_jitter(attempt, base_s=base_s, cap_s=cap_s, rng=Random(1))
