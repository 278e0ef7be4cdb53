"""Refusals as OAuth words them: read by apps' libraries, so they are no problem documents."""

from __future__ import annotations


class OAuthRefused(Exception):
    """A request of an app that is refused with a code of RFC 6749 section 5.2, 4.1.2.1 or OpenID Connect Core 3.1.2.6.

    Faults of ours never become one: those stay problems (503), so that no app takes an outage for a refusal.
    """

    def __init__(self, error: str, description: str, *, status: int = 400) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status
