"""API keys: made for a person or a service account, found by prefix, compared by hash, never wider than their owner."""

from __future__ import annotations

import base64
import hmac
import os
import re
from collections.abc import Sequence
from typing import Final

from sealwire.contracts.api_keys import (
    PREFIX,
    ApiKey,
    ApiKeyMade,
    ApiKeyNotFound,
    ApiKeyQuery,
    ApiKeyRefused,
    ApiKeys,
    ApiKeyState,
    NewApiKey,
)
from sealwire.contracts.sessions import SessionNotFound, SessionState
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.cursors import read_cursor, write_cursor
from sealwire.kit.ids import new_id
from sealwire.kit.permission import GRANTS, Permission, Role
from sealwire.kit.problem import Forbidden, Invalid
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.one_time import token_hash
from sealwire.services.auth.people import People
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.records import ApiKeyRecord, Reason, UserRecord
from sealwire.services.auth.revoker import Revoker
from sealwire.services.auth.users import Roster

_KEY: Final = re.compile(PREFIX + r"([a-z2-7]{16})_([A-Za-z0-9_-]{43})")


class KeyCabinet:
    """The API keys of every tenant. A key is its own session: it ends by the same feed, and is asked after alike."""

    def __init__(
        self, *, stores: AuthStores, users: Roster, people: People, journal: Journal, revoker: Revoker, clock: Clock,
        config: AuthConfig,
    ) -> None:  # fmt: skip
        self._stores = stores
        self._users = users
        self._people = people
        self._journal = journal
        self._revoker = revoker
        self._clock = clock
        self._config = config

    async def add(self, caller: Caller, new: NewApiKey) -> ApiKeyMade:
        """Make a key. Raises: Forbidden, Invalid, QuotaExceeded, Conflict."""
        if caller.principal.kind == "api_key":
            raise Forbidden("A key makes no keys.")
        scopes = tuple(sorted(set(new.scopes)))
        owner = await self._owner(caller, new, scopes)
        prefix = base64.b32encode(os.urandom(10)).decode().lower()
        key = f"{PREFIX}{prefix}_{base64.urlsafe_b64encode(os.urandom(32)).rstrip(b'=').decode()}"
        now_us = self._clock.now_us()
        record = ApiKeyRecord(
            key_id=new_id(),
            tenant_id=owner.tenant_id,
            owner_id=owner.user_id,
            prefix=prefix,
            secret_hash=token_hash(key),
            name=new.name,
            scopes=scopes,
            epoch=owner.epoch,
            created_by=caller.user_id,
            created_us=now_us,
            expires_us=now_us + min(new.expires_in_s, self._config.api_key_max_s) * US_PER_S,
        )
        event = self._journal.event(
            Kind.API_KEY_ADDED, await self._journal.origin(caller), subject_id=owner.user_id, resource_type="api_key",
            resource_id=record.key_id, scopes=" ".join(scopes),
        )  # fmt: skip
        await self._stores.api_keys.add(record, most=self._config.api_keys_per_tenant, events=[event])
        return ApiKeyMade(key=key, api_key=_shown(record))

    async def _owner(self, caller: Caller, new: NewApiKey, scopes: tuple[str, ...]) -> UserRecord:
        """Return whom the key is for. For another person nobody makes one: it would act in their name."""
        if new.service_account is not None:
            if new.owner_id is not None:
                raise Invalid("Name an owner or make one, not both.", path="$.owner_id")
            _check_scopes(Role(new.service_account.role), scopes)
            return await self._users.add_service_account(caller, new.service_account)
        owner = await self._stores.users.get(new.owner_id or caller.user_id)
        if owner is None or owner.tenant_id != caller.tenant_id:
            raise Forbidden("There is no such service account.")
        if not owner.service and owner.user_id != caller.user_id:
            raise Forbidden("A key is for oneself or for a service account.")
        _check_scopes(owner.role, scopes)
        return owner

    async def page(self, caller: Caller, page: Page) -> ApiKeys:
        """List the live keys of the caller's tenant."""
        records = await self._stores.api_keys.page(
            caller.tenant_id, read_cursor(page.cursor), page.limit + 1, self._clock.now_us()
        )
        shown = records[: page.limit]
        return ApiKeys(
            items=[_shown(record) for record in shown],
            next_cursor=write_cursor(shown[-1].key_id) if len(records) > page.limit else None,
        )

    async def end(self, caller: Caller, key_id: str) -> None:
        """End a key of the caller's tenant. Raises: ApiKeyNotFound."""
        record = await self._stores.api_keys.get(key_id, self._clock.now_us())
        if record is None or record.tenant_id != caller.tenant_id:
            raise ApiKeyNotFound("There is no such key.")
        revocation = self._revoker.session(
            record.tenant_id, record.owner_id, key_id, Reason.API_KEY, until_s=record.expires_us // US_PER_S
        )
        event = self._journal.event(
            Kind.API_KEY_ENDED, await self._journal.origin(caller), subject_id=record.owner_id,
            resource_type="api_key", resource_id=key_id,
        )  # fmt: skip
        if not await self._stores.api_keys.end(key_id, revocation, [event]):
            raise ApiKeyNotFound("There is no such key.")

    async def find(self, query: ApiKeyQuery) -> ApiKeyState:
        """Return whose key was presented. Raises: ApiKeyRefused."""
        match = _KEY.fullmatch(query.key)
        record = await self._stores.api_keys.by_prefix(match[1], self._clock.now_us()) if match else None
        if record is None or not hmac.compare_digest(record.secret_hash, token_hash(query.key)):
            raise ApiKeyRefused
        owner = await self._stores.users.get(record.owner_id)
        tenant = await self._stores.tenants.find(record.tenant_id)
        if owner is None or owner.status != "active" or tenant is None or tenant.status != "active":
            raise ApiKeyRefused
        return ApiKeyState(
            api_key_id=record.key_id,
            tenant_id=record.tenant_id,
            owner_id=owner.user_id,
            role=owner.role,
            email=(await self._people.person(owner)).email,
            scopes=_permissions(record.scopes),
            epoch=record.epoch,
            created_at_s=record.created_us // US_PER_S,
            expires_at_s=record.expires_us // US_PER_S,
        )

    async def state(self, key_id: str) -> SessionState:
        """Tell the boundary about a key as about a session. Raises: SessionNotFound."""
        record = await self._stores.api_keys.get(key_id, self._clock.now_us())
        owner = await self._stores.users.get(record.owner_id) if record is not None else None
        tenant = await self._stores.tenants.find(record.tenant_id) if record is not None else None
        if record is None or owner is None or tenant is None:
            raise SessionNotFound("No such session.")
        return SessionState(
            session_id=key_id,
            tenant_id=owner.tenant_id,
            user_id=owner.user_id,
            role=Role(owner.role),
            email=(await self._people.person(owner)).email,
            epoch=record.epoch,
            active=owner.status == "active" and tenant.status == "active",
            expires_at_s=record.expires_us // US_PER_S,
            kind="api_key",
        )


def _permissions(scopes: Sequence[str]) -> list[Permission]:
    """Return what scopes permit: who may manage may look."""
    found = [Permission(scope) for scope in scopes]
    if Permission.MANAGE_RETENTION in found and Permission.READ_RETENTION not in found:
        found.append(Permission.READ_RETENTION)
    return found


def _check_scopes(role: Role, scopes: tuple[str, ...]) -> None:
    """Refuse scopes that the owner's role does not grant. Raises: Forbidden."""
    for scope in scopes:
        if Permission(scope) not in GRANTS[role]:
            raise Forbidden(f"The key's owner has no permission {scope}.")


def _shown(record: ApiKeyRecord) -> ApiKey:
    return ApiKey(
        api_key_id=record.key_id,
        name=record.name,
        prefix=PREFIX + record.prefix,
        scopes=list(record.scopes),
        owner_id=record.owner_id,
        created_by=record.created_by,
        created_at=rfc3339(record.created_us),
        expires_at=rfc3339(record.expires_us),
        last_used_at=rfc3339(record.used_us) if record.used_us else None,
    )
