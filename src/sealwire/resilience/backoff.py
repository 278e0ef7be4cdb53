"""Delays between retries."""

from __future__ import annotations

from random import Random


def full_jitter(attempt: int, *, base_s: float, cap_s: float, rng: Random) -> float:
    """Draw the delay before retry number `attempt`: uniform over [0, min(cap_s, base_s * 2**attempt)], in seconds.

    Raises: ValueError if attempt < 0 or not 0 < base_s <= cap_s.
    Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    if attempt < 0 or not 0 < base_s <= cap_s:
        raise ValueError("attempt is at least 0 and 0 < base_s <= cap_s")
    return rng.uniform(0.0, min(cap_s, base_s * 2.0 ** min(attempt, 64)))
