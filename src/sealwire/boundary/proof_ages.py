"""How old proofs of identity are by a clock that never steps: a wall clock that is set back makes them young again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from sealwire.kit.caller import STEP_UP_WINDOW_S
from sealwire.kit.clock import US_PER_S, Clock

JUST_NOW_S: Final = 60.0


class ProofAges:
    """When each proof seen here is too old for what is sensitive, on the monotonic clock; for one event loop.

    A proof is a session's and a moment's (`auth_time`). It is known by how old it was when it was first seen, by the
    wall clock of then, so waiting for it to be forgotten gains nothing while that clock goes on as it should. Since it
    was set back it can't tell a proof of before from one of now: until it is past where it had been, a proof not known
    yet counts only if it was made just now. So does every new one, whatever is forgotten.
    """

    def __init__(self, *, clock: Clock, max_proofs: int, leeway_s: int = 5) -> None:
        """Keep the `max_proofs` used last, about 0.3 KiB each. `leeway_s`: how far clocks may differ."""
        self._clock = clock
        self._leeway_s = leeway_s
        self._max_proofs = max_proofs
        self._worn_at_s: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._newest_s = 0.0
        self._doubt_until_s = 0.0

    def __len__(self) -> int:
        return len(self._worn_at_s)

    def clock_was_at(self, newest_s: float) -> None:
        """Hear how far the wall clock had come before this start: behind that it was set back."""
        self._newest_s = max(self._newest_s, newest_s)

    def left_s(self, session_id: str, auth_time_s: int) -> float:
        """Return for how many seconds more the proof may count, whatever the wall clock says; 0 when for none."""
        monotonic_s, now_s = self._clock.monotonic(), self._clock.now_us() / US_PER_S
        if now_s < self._newest_s - self._leeway_s - 1:
            self._doubt_until_s = max(self._doubt_until_s, self._newest_s + STEP_UP_WINDOW_S)
            self._newest_s = now_s
        else:
            self._newest_s = max(self._newest_s, now_s)
        key = (session_id, auth_time_s)
        worn_at_s = self._worn_at_s.get(key)
        if worn_at_s is None:
            worn_at_s = monotonic_s + self._left_at_first_s(now_s - auth_time_s)
            if len(self._worn_at_s) >= self._max_proofs:
                self._worn_at_s.popitem(last=False)
            self._worn_at_s[key] = worn_at_s
        else:
            self._worn_at_s.move_to_end(key)
        return max(worn_at_s - monotonic_s, 0.0)

    def _left_at_first_s(self, age_s: float) -> float:
        """Return how long a proof may count that was never seen here, by the age that the wall clock gives it."""
        in_doubt = self._newest_s < self._doubt_until_s
        most_s = JUST_NOW_S + self._leeway_s if in_doubt else STEP_UP_WINDOW_S
        # From the future it is from before the clock was set back: such a proof made now has no such time.
        return STEP_UP_WINDOW_S - max(age_s, 0.0) if -self._leeway_s - 1 <= age_s < most_s else 0.0
