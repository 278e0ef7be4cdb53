"""Revoker: words the entries of the revocation feed."""

from __future__ import annotations

from typing import Final

from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.ids import new_id
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.records import NewRevocation, Reason

MARGIN_S: Final = 3_600


def kept_s(config: AuthConfig) -> int:
    """Return how long an entry stays in the feed: no shorter than a token lives that only the feed can tell as dead.

    Those are tokens of the legacy format: they have no epoch and no session that auth could be asked for.
    """
    return max(config.revocation_keep_s, *(issuer.max_age_s + MARGIN_S for issuer in config.legacy), 0)


class Revoker:
    """Makes feed entries with an id, a time and the time after which they can't matter."""

    def __init__(self, *, clock: Clock, keep_s: int) -> None:
        self._clock = clock
        self._keep_s = keep_s

    def session(
        self, tenant_id: str, user_id: str, session_id: str, reason: Reason, *, until_s: int = 0
    ) -> NewRevocation:
        """One session is dead. `until_s`: when its last token expires, where that is later than usual (legacy)."""
        now_us = self._clock.now_us()
        return NewRevocation(
            change_id=new_id(),
            kind="session",
            tenant_id=tenant_id,
            subject=user_id,
            session_id=session_id,
            at_us=now_us,
            expires_at_s=max(until_s, now_us // US_PER_S + self._keep_s),
            reason=reason,
        )

    def subject(self, tenant_id: str, user_id: str, reason: Reason, *, keep_session: str = "") -> NewRevocation:
        """Every session of a user is dead, but `keep_session`. Its epoch is filled in by the store."""
        now_us = self._clock.now_us()
        return NewRevocation(
            change_id=new_id(),
            kind="subject",
            tenant_id=tenant_id,
            subject=user_id,
            session_id=keep_session,
            at_us=now_us,
            expires_at_s=now_us // US_PER_S + self._keep_s,
            reason=reason,
        )

    def role(self, tenant_id: str, user_id: str, reason: Reason) -> NewRevocation:
        """What a user may do has changed; the sessions live on."""
        now_us = self._clock.now_us()
        return NewRevocation(
            change_id=new_id(),
            kind="role",
            tenant_id=tenant_id,
            subject=user_id,
            at_us=now_us,
            expires_at_s=now_us // US_PER_S + self._keep_s,
            reason=reason,
        )

    def token(self, tenant_id: str, user_id: str, session_id: str, token_id: str, *, until_s: int) -> NewRevocation:
        """One access token is dead."""
        return NewRevocation(
            change_id=new_id(),
            kind="token",
            tenant_id=tenant_id,
            subject=user_id,
            session_id=session_id,
            token_id=token_id,
            at_us=self._clock.now_us(),
            expires_at_s=until_s + MARGIN_S,
            reason=Reason.TOKEN,
        )

    def tenant(self, tenant_id: str, reason: Reason) -> NewRevocation:
        """Every session of a tenant is dead."""
        now_us = self._clock.now_us()
        return NewRevocation(
            change_id=new_id(),
            kind="tenant",
            tenant_id=tenant_id,
            at_us=now_us,
            expires_at_s=now_us // US_PER_S + self._keep_s,
            reason=reason,
        )
