"""Quota book: a tenant's quotas, remembered for a while so that auth is not asked each time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from sealwire.contracts.tenancy import Quotas, Tenancy
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.problem import Problem

FRESH_S: Final = 10.0
MOST: Final = 10_000
_NONE: Final = Quotas()


class QuotaBook:
    """Implements `contracts.tenancy.QuotaSource`. A change of quotas is in force within `fresh_s`."""

    def __init__(self, *, auth: Callable[[], Tenancy], service: str, clock: Clock, fresh_s: float = FRESH_S) -> None:
        """`auth` is looked up when it is needed: a service may start before auth does."""
        self._auth = auth
        self._service = service
        self._monotonic = clock.monotonic
        self._fresh_s = fresh_s
        self._known: OrderedDict[str, tuple[Quotas, float]] = OrderedDict()

    def known(self, tenant_id: str) -> Quotas | None:
        """See `QuotaSource.known`."""
        found = self._known.get(tenant_id)
        return found[0] if found is not None and found[1] > self._monotonic() else None

    async def of(self, tenant_id: str) -> Quotas:
        """See `QuotaSource.of`."""
        if (quotas := self.known(tenant_id)) is not None:
            return quotas
        before = self._known.get(tenant_id)
        try:
            quotas = await self._auth().tenant_quotas(service_caller(self._service, tenant_id))
        except (Problem, ConnectionError, TimeoutError, KeyError):
            quotas = before[0] if before is not None else _NONE
        self._known[tenant_id] = quotas, self._monotonic() + self._fresh_s
        self._known.move_to_end(tenant_id)
        if len(self._known) > MOST:
            self._known.popitem(last=False)
        return quotas
