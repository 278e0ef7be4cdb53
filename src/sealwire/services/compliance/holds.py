"""Legal holds (R4.6): in force only once every service that owns what they cover has them durably.

A hold is `placing` until all have it, then `in_force`; it is `releasing` until all have let it go, then it is gone.
What is under way is finished by this keeper, after a crash too: every step may be done again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

from sealwire.contracts.compliance_terms import SERVICE
from sealwire.contracts.custody import HoldCustody, HoldPlacement
from sealwire.contracts.holds import Hold, HoldGap, HoldPending, Holds, NewHold
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.cursors import read_cursor, write_cursor
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Invalid, NotFound, Unavailable
from sealwire.kit.tasks import cancel_and_wait
from sealwire.ports.events import NewEvent
from sealwire.services.compliance.events import change_event
from sealwire.services.compliance.retention_ports import HoldStore

HOLDERS: Final = ("crypto", "auth", "messaging", "media")
"""Who owns what a hold covers; compliance keeps its own. Keys are kept first and let go last: at no moment may a key be
destroyed whose data another still keeps."""
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 5.0
_log = logging.getLogger("sealwire.compliance")
HoldCustodians = Callable[[], Mapping[str, HoldCustody]]


class HoldKeeper:
    """Places and releases holds, and answers what they cover."""

    def __init__(
        self,
        *,
        store: HoldStore,
        custodians: HoldCustodians,
        released: Callable[[str], Awaitable[None]],
        gaps: Callable[[str, Hold], Awaitable[list[HoldGap]]],
        knows: Callable[[str, Hold], Awaitable[bool | None]],
        clock: Clock,
        patience_s: float,
    ) -> None:
        """`custodians` gives the services there are, all or none; `patience_s` is how long a caller waits for them;
        `released` hears of the tenant when nobody keeps any more what a hold kept; `gaps` tells what
        erasures had taken of what a hold covers, asked once every service has it, `knows` whether there is the person
        or conversation that it names, None where nobody can say."""
        self._gaps = gaps
        self._knows = knows
        self._released = released
        self._store = store
        self._custodians = custodians
        self._clock = clock
        self._patience_s = patience_s
        self._untold: list[tuple[str, Hold]] | None = None  # before the start nobody knows
        self._telling: asyncio.Task[None] | None = None
        self._work: dict[str, asyncio.Task[None]] = {}
        self._decisions: set[asyncio.Task[asyncio.Task[None] | None]] = set()

    async def start(self) -> None:
        """Take up what is unsettled, and tell the services what is in force, once more.

        A service whose file was put back from an older copy knows no hold that is newer.
        """
        self._untold = list(await self._store.in_force())
        for tenant_id, hold in await self._store.unsettled():
            self._settle(tenant_id, hold)
        with suppress(Exception):  # mostly they come up later than this
            await self._tell()
        if not self.told:
            self._telling = asyncio.get_running_loop().create_task(self._tell_soon(), name="legal-holds-told")

    @property
    def told(self) -> bool:
        """Whether every service has every hold that is in force."""
        return self._untold == []

    def require_told(self) -> None:
        """Raise Unavailable until every service has every hold that is in force: nothing is deleted for compliance
        before."""
        if not self.told:
            raise Unavailable("Legal holds are being told to the services once more.")

    async def _tell(self) -> None:
        while self._untold:
            tenant_id, hold = self._untold[-1]
            await self._put(tenant_id, hold)
            self._untold.pop()
            await asyncio.sleep(0)  # there may be thousands, and who knows a hold answers without a pause

    async def _tell_soon(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self.told:
            try:
                await self._tell()
            except Exception as error:
                level = logging.WARNING if pause_s == LONGEST_PAUSE_S else logging.DEBUG
                _log.log(level, "legal holds wait to be told again: %r", error)
                await asyncio.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 1.25)  # asked on and on, a service would be taken for out

    async def stop(self) -> None:
        """End; what is unsettled is taken up at the next start."""
        await cancel_and_wait(*self._decisions)
        if self._telling is not None:
            await cancel_and_wait(self._telling)
        work, self._work = list(self._work.values()), {}
        await cancel_and_wait(*work)

    async def holds(self, caller: Caller, page: Page) -> Holds:
        """Return the tenant's holds."""
        found = await self._store.page(caller.tenant_id, after=read_cursor(page.cursor), limit=page.limit + 1)
        items = list(found[: page.limit])
        more = len(found) > page.limit
        return Holds(items=items, next_cursor=write_cursor(items[-1].hold_id) if more else None)

    async def hold(self, caller: Caller, new: NewHold) -> Hold:
        """Put a hold on a person or a conversation, and wait until it is in force.

        Raises: Invalid unless exactly one is named; HoldPending when not all have it yet: it is in force later, by
        itself, and `GET /compliance/holds` says when.
        """
        if (new.subject_id is None) == (new.conversation_id is None):
            member = "subject_id" if new.subject_id is None else "conversation_id"
            raise Invalid("Name either subject_id or conversation_id.", path=f"$.{member}")
        now_us = self._clock.now_us()
        hold = Hold(
            hold_id=new_id(),
            reason=new.reason,
            created_at=rfc3339(now_us),
            created_by=caller.user_id,
            subject_id=new.subject_id,
            conversation_id=new.conversation_id,
            state="placing",
        )
        event = change_event(
            caller,
            "hold.put",
            resource_type="hold",
            resource_id=hold.hold_id,
            at_us=now_us,
            subject_id=new.subject_id or "",
            conversation_id=new.conversation_id or "",
        )
        await self._wait_for(self._begin_placing(caller.tenant_id, hold, event))
        stored = await self._store.get(caller.tenant_id, hold.hold_id)
        if stored is None or stored.state != "in_force":
            raise HoldPending(
                "Not every service has the hold yet; it is placed as soon as they answer.", hold_id=hold.hold_id
            )
        return stored

    async def release(self, caller: Caller, hold_id: str) -> None:
        """Release a hold: decided when this returns, and done as soon as every service knows. Raises: NotFound."""
        tenant_id = caller.tenant_id
        event = change_event(
            caller, "hold.released", resource_type="hold", resource_id=hold_id[:128], at_us=self._clock.now_us()
        )
        await self._wait_for(self._begin_releasing(tenant_id, hold_id, event))

    # ---- how

    async def _wait_for(self, decision: Coroutine[Any, Any, asyncio.Task[None] | None]) -> None:
        """Wait until something is decided and, with patience, settled. It is both without whoever waits here, too."""
        deciding = asyncio.get_running_loop().create_task(decision, name="legal-hold-decision")
        self._decisions.add(deciding)
        deciding.add_done_callback(self._decisions.discard)
        if (settling := await asyncio.shield(deciding)) is not None:
            await asyncio.wait({settling}, timeout=self._patience_s)

    async def _begin_placing(self, tenant_id: str, hold: Hold, event: NewEvent) -> asyncio.Task[None]:
        await self._store.place(tenant_id, hold, event)
        return self._settle(tenant_id, hold)

    async def _begin_releasing(self, tenant_id: str, hold_id: str, event: NewEvent) -> asyncio.Task[None] | None:
        if not await self._store.begin_release(tenant_id, hold_id, event):
            raise NotFound("There is no such hold.")
        if (placing := self._work.pop(hold_id, None)) is not None:
            placing.cancel()
            await asyncio.wait({placing})
        stored = await self._store.get(tenant_id, hold_id)
        return self._settle(tenant_id, stored) if stored is not None else None

    def _settle(self, tenant_id: str, hold: Hold) -> asyncio.Task[None]:
        task = self._work.get(hold.hold_id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._until_settled(tenant_id, hold), name="legal-hold")
            self._work[hold.hold_id] = task
            task.add_done_callback(lambda done: self._ended(hold.hold_id, done))
        return task

    def _ended(self, hold_id: str, task: asyncio.Task[None]) -> None:
        if self._work.get(hold_id) is task:
            del self._work[hold_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a legal hold is left unsettled until the next start: %r", error)

    async def _until_settled(self, tenant_id: str, hold: Hold) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await (self._place(tenant_id, hold) if hold.state == "placing" else self._release(tenant_id, hold))
                return
            except Exception as error:
                _log.warning("the legal hold %s waits: %r", hold.hold_id, error)
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    async def _put(self, tenant_id: str, hold: Hold) -> None:
        caller = service_caller(SERVICE, tenant_id)
        placement = HoldPlacement(subject_id=hold.subject_id, conversation_id=hold.conversation_id)
        for custodian in self._holders():
            await custodian.put_hold(caller, hold.hold_id, placement)

    async def _place(self, tenant_id: str, hold: Hold) -> None:
        caller = service_caller(SERVICE, tenant_id)
        await self._put(tenant_id, hold)
        now_us = self._clock.now_us()
        gaps = await self._gaps(tenant_id, hold)  # nothing more can go: what is gone now is all
        found = any(gap.subject_id == hold.subject_id for gap in gaps) or await self._knows(tenant_id, hold)
        told = {"erased_before_by": ",".join(gap.job_id for gap in gaps)} if gaps else {}
        if found is False:
            told["found"] = "nothing"
        event = change_event(
            caller, "hold.in_force", resource_type="hold", resource_id=hold.hold_id, at_us=now_us, **told
        )
        await self._store.confirm(tenant_id, hold.hold_id, rfc3339(now_us), gaps, found, event)

    async def _release(self, tenant_id: str, hold: Hold) -> None:
        caller = service_caller(SERVICE, tenant_id)
        for custodian in reversed(self._holders()):
            await custodian.release_hold(caller, hold.hold_id)
        await self._released(tenant_id)  # before the hold is gone: after a crash it is heard of again
        now_us = self._clock.now_us()
        event = change_event(caller, "hold.ended", resource_type="hold", resource_id=hold.hold_id, at_us=now_us)
        await self._store.drop(tenant_id, hold.hold_id, event)

    def _holders(self) -> list[HoldCustody]:
        """Return who must have a hold. Raises: Unavailable while one of them isn't there: nothing is in force then."""
        there = self._custodians()
        return [there[name] for name in HOLDERS if name in there]
