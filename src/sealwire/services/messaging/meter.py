"""Meter: how many messages a tenant has sent, where it has a quota of them: counted once, then kept in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sealwire.contracts.tenancy import QuotaSource
from sealwire.kit.problem import QuotaExceeded
from sealwire.services.messaging.model import Appended, StoredMessage
from sealwire.services.messaging.ports import MessageStore

T = TypeVar("T")


class SendMeter:
    """One process stores messages, so its count is the count. A tenant without a quota costs one look-up."""

    def __init__(self, *, store: MessageStore, quotas: QuotaSource) -> None:
        self._store = store
        self._quotas = quotas
        self._sent: dict[str, int] = {}

    def is_free(self, tenant_id: str) -> bool:
        """Whether the tenant is known to have no quota of messages."""
        quotas = self._quotas.known(tenant_id)
        if quotas is None or quotas.messages is not None:
            return False
        if self._sent:
            self._sent.pop(tenant_id, None)  # counted anew when it gets one again
        return True

    async def send(self, tenant_id: str, request_key: bytes, append: Callable[[], Awaitable[T]]) -> T | StoredMessage:
        """Store a message if there is room for it. Raises: QuotaExceeded, and what `append` raises.

        One that was stored before (the same request again) takes no room, and is answered while there is none too.
        """
        most = (await self._quotas.of(tenant_id)).messages
        if most is None:
            return await append()
        if tenant_id not in self._sent:
            counted = await self._store.sent(tenant_id)
            self._sent.setdefault(tenant_id, counted)
        if self._sent[tenant_id] >= most:
            if (before := await self._store.of_request(request_key)) is not None:
                return before
            raise QuotaExceeded(f"The tenant has sent {most} messages, and may send no more.", limit=most)
        self._sent[tenant_id] += 1
        try:
            stored = await append()
        except BaseException:
            self._give_back(tenant_id)
            raise
        if type(stored) is not Appended:
            self._give_back(tenant_id)
        return stored

    def _give_back(self, tenant_id: str) -> None:
        if tenant_id in self._sent:
            self._sent[tenant_id] -= 1
