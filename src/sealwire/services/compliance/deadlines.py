"""Deadlines that the law counts in months."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime

from sealwire.kit.clock import US_PER_S


def a_month_after(at_us: int) -> int:
    """Return the same day of the next month, or its last day (GDPR Art. 12(3); Regulation 1182/71 Art. 3(2)(c))."""
    seconds, micros = divmod(at_us, US_PER_S)
    at = datetime.fromtimestamp(seconds, UTC)
    year, month = divmod(at.year * 12 + at.month, 12)
    day = min(at.day, monthrange(year, month + 1)[1])
    return int(at.replace(year=year, month=month + 1, day=day).timestamp()) * US_PER_S + micros
