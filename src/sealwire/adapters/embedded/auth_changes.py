"""Auth's notices of changes in SQLite: where they begin in an installation that was there before them."""

from __future__ import annotations

from typing import Final

# What happened before there were notices is told to nobody: the herald begins behind it.
NOTICES_SINCE: Final = """
INSERT OR IGNORE INTO consumer_position SELECT 'notices', seq FROM sqlite_sequence WHERE name = 'outbox';
"""
