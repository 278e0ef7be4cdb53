"""Courier: tells apps when a session ends that they signed somebody in with, however it ended, until they took it.

OpenID Connect Back-Channel Logout 1.0. The queue is the grants themselves: one that is redeemed and over, and not told
of, is due. Of a person who is erased only the notice stays. So nothing can be lost between the end of a session and its
notice, by no crash and by no way of ending.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from sealwire.kit.caller import service_caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.tasks import cancel_and_wait
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.openid_ports import NoticeStore, Outward, OutwardRefused
from sealwire.services.auth.openid_records import Notice
from sealwire.services.auth.openid_tokens import AppTokens
from sealwire.services.auth.ports import RevocationStore

_LOG = logging.getLogger("sealwire.auth")

AT_ONCE: Final = 20
LOOK_EVERY_S: Final = 15.0
GATHER_S: Final = 0.2
FIRST_WAIT_S: Final = 2.0
LONGEST_WAIT_S: Final = 900.0
MOST_ATTEMPTS: Final = 56
"""About twelve hours."""


class LogoutCourier:
    """One background task, woken by the revocation feed."""

    def __init__(
        self, *, store: NoticeStore, feed: RevocationStore, tokens: AppTokens, outward: Outward, journal: Journal,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._store = store
        self._feed = feed
        self._tokens = tokens
        self._outward = outward
        self._journal = journal
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="auth-logout-courier")

    async def stop(self) -> None:
        """End; what was not told is the next start's. Safe to call twice."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def deliver(self) -> int:
        """Tell what is due, some at once; return how many were due."""
        due = await self._store.due(self._clock.now_us(), AT_ONCE)
        await asyncio.gather(*(self._tell(notice) for notice in due))
        return len(due)

    async def _tell(self, notice: Notice) -> None:
        try:
            answer = await self._outward.post(notice.backchannel_uri, {"logout_token": self._tokens.logout(notice)})
        except OutwardRefused:
            _LOG.warning(
                "the app %s is never told of a logout: its address is in no network of auth.outward_networks",
                notice.client_id,
            )
            await self._close(notice, "address_refused")
        except OSError as error:
            _LOG.warning("an app could not be told of a logout, will try again: %s", type(error).__name__)
            await self._put_off(notice)
        else:
            if answer.status in (200, 204):
                await self._close(notice, "")
            elif answer.status in (400, 501):  # section 2.8: it understood, and won't
                await self._close(notice, "refused_by_app")
            else:
                await self._put_off(notice)

    async def _put_off(self, notice: Notice) -> None:
        if notice.attempts >= MOST_ATTEMPTS:
            await self._close(notice, "given_up")
            return
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(notice.attempts, 20))
        await self._store.later(notice, self._clock.now_us() + round(wait_s * US_PER_S))

    async def _close(self, notice: Notice, fault: str) -> None:
        origin = await self._journal.origin(service_caller("auth", notice.tenant_id))
        # Not about the person: they may have been erased by then.
        event = self._journal.event(
            Kind.APP_TOLD, origin, resource_type="openid_client", resource_id=notice.client_id,
            outcome="failure" if fault else "success", session_id=notice.session_id, reason=fault or None,
        )  # fmt: skip
        await self._store.done(notice, [event])

    async def _run(self) -> None:
        while True:
            try:
                after = await self._feed.newest()
                while await self.deliver() == AT_ONCE:
                    pass
                await self._feed.wait(after, LOOK_EVERY_S)
                await asyncio.sleep(GATHER_S)  # of many logouts at once most are told in one round
            except Exception as error:
                _LOG.warning("logouts wait to be told, will try again: %r", error)
                await asyncio.sleep(LOOK_EVERY_S)
