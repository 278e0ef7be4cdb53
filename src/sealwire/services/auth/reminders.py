"""Reminders: an API key that will end is told of some days before, once, so that nothing stops by surprise (ASVS 5.0,
6.4.5). The herald writes the letter, as of what happened.
"""

from __future__ import annotations

from typing import Final

from sealwire.contracts.api_keys import PREFIX
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.records import ApiKeyRecord

AT_ONCE: Final = 100
_DAY_US: Final = 86_400 * US_PER_S


class Reminders:
    """Notes which keys end soon."""

    def __init__(self, *, stores: AuthStores, journal: Journal, clock: Clock, config: AuthConfig) -> None:
        self._keys = stores.api_keys
        self._users = stores.users
        self._journal = journal
        self._clock = clock
        self._notice_us = config.api_key_notice_days * _DAY_US

    async def note(self) -> int:
        """Note every key that ends soon and was not noted before; return how many.

        A key made for less than twice the notice is passed over: whoever made it so short knows.
        """
        noted = 0
        while self._notice_us:
            now_us = self._clock.now_us()
            keys = await self._keys.ending(
                now_us, before_us=now_us + self._notice_us, least_life_us=2 * self._notice_us, limit=AT_ONCE
            )
            for key in keys:
                noted += await self._note(key, now_us)
            if len(keys) < AT_ONCE:
                break
        return noted

    async def _note(self, key: ApiKeyRecord, now_us: int) -> bool:
        event = self._journal.event(
            Kind.API_KEY_ENDING, await self._journal.origin(service_caller("auth", key.tenant_id)),
            subject_id=key.owner_id, resource_type="api_key", resource_id=key.key_id, prefix=PREFIX + key.prefix,
            ends_at=rfc3339(key.expires_us), keeper=await self._keeper(key),
        )  # fmt: skip
        return await self._keys.reminded(key.key_id, now_us, [event])

    async def _keeper(self, key: ApiKeyRecord) -> str | None:
        """Return who hears of it in the place of a service account: who made the key, else the oldest owner."""
        owner = await self._users.get(key.owner_id)
        if owner is None or not owner.service:
            return None
        maker = await self._users.get(key.created_by)
        if maker is not None and maker.status == "active" and maker.tenant_id == key.tenant_id:
            return maker.user_id
        return await self._users.first_owner(key.tenant_id)
