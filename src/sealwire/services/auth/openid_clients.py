"""Apps that may sign people in: registered by administrators, each with its addresses; secrets kept as hashes."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_plus

from sealwire.contracts.openid import Client, ClientMade, ClientNotFound, Clients, NewClient
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.cursors import read_cursor, write_cursor
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Forbidden
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.one_time import new_token, token_hash
from sealwire.services.auth.openid_errors import OAuthRefused
from sealwire.services.auth.openid_ports import ClientStore
from sealwire.services.auth.openid_records import ClientRecord

CLIENT_ID: Final = re.compile(r"[0-9a-f-]{36}")
_NO_SECRET: Final = bytes(32)


class ClientRegistry:
    """The apps of every tenant."""

    def __init__(self, *, store: ClientStore, journal: Journal, clock: Clock, config: AuthConfig) -> None:
        self._store = store
        self._journal = journal
        self._clock = clock
        self._config = config

    async def add(self, caller: Caller, new: NewClient) -> ClientMade:
        """Register an app. Raises: Forbidden for an API key, QuotaExceeded."""
        if caller.principal.kind == "api_key":
            raise Forbidden("A key registers no apps.")
        secret = new_token("swc1") if new.kind == "confidential" else ""
        record = ClientRecord(
            client_id=new_id(),
            tenant_id=caller.tenant_id,
            name=new.name,
            kind=new.kind,
            secret_hash=token_hash(secret) if secret else b"",
            redirect_uris=tuple(dict.fromkeys(new.redirect_uris)),
            logout_uris=tuple(dict.fromkeys(new.post_logout_redirect_uris)),
            backchannel_uri=new.backchannel_logout_uri or "",
            scopes=tuple(sorted(set(new.scopes))),
            created_by=caller.user_id,
            created_us=self._clock.now_us(),
        )
        event = self._journal.event(
            Kind.CLIENT_ADDED, await self._journal.origin(caller), resource_type="openid_client",
            resource_id=record.client_id, kind_of_app=new.kind, scopes=" ".join(record.scopes),
        )  # fmt: skip
        await self._store.add(record, most=self._config.clients_per_tenant, events=[event])
        return ClientMade(client=shown(record), client_secret=secret)

    async def page(self, caller: Caller, page: Page) -> Clients:
        """List the apps of the caller's tenant."""
        records = await self._store.page(caller.tenant_id, read_cursor(page.cursor), page.limit + 1)
        listed = records[: page.limit]
        return Clients(
            items=[shown(record) for record in listed],
            next_cursor=write_cursor(listed[-1].client_id) if len(records) > page.limit else None,
        )

    async def end(self, caller: Caller, client_id: str) -> None:
        """End an app of the caller's tenant. Raises: ClientNotFound."""
        event = self._journal.event(
            Kind.CLIENT_ENDED, await self._journal.origin(caller), resource_type="openid_client", resource_id=client_id
        )
        if not await self._store.end(caller.tenant_id, client_id, self._clock.now_us(), [event]):
            raise ClientNotFound("There is no such app.")

    async def find(self, client_id: str) -> ClientRecord | None:
        """Return a live app by what a request names."""
        return await self._store.get(client_id) if CLIENT_ID.fullmatch(client_id) else None

    async def authenticate(self, authorization: bytes | None, form: Mapping[str, str]) -> ClientRecord:
        """Return the app that a request to the token endpoint comes from (RFC 6749 section 2.3).

        Raises: OAuthRefused `invalid_client`, the same for an unknown app and a wrong secret; `invalid_request` for
        two ways at once.
        """
        client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        if authorization is not None:
            if "client_secret" in form:
                raise OAuthRefused("invalid_request", "Authenticate in one way only.")
            named = client_id
            client_id, secret = _basic(authorization)
            if named and named != client_id:
                raise OAuthRefused("invalid_request", "Two different apps are named.")
        client = await self.find(client_id)
        stored = client.secret_hash if client is not None else b""
        holds = hmac.compare_digest(stored or _NO_SECRET, token_hash(secret))
        if client is None or (client.kind == "public" and (secret or authorization is not None)):
            raise OAuthRefused("invalid_client", "The app is unknown, or its secret is wrong.", status=401)
        if client.kind == "confidential" and not holds:
            raise OAuthRefused("invalid_client", "The app is unknown, or its secret is wrong.", status=401)
        return client


def shown(record: ClientRecord) -> Client:
    """Return an app as administrators see it."""
    return Client(
        client_id=record.client_id,
        name=record.name,
        kind=record.kind,
        redirect_uris=list(record.redirect_uris),
        post_logout_redirect_uris=list(record.logout_uris),
        backchannel_logout_uri=record.backchannel_uri or None,
        scopes=list(record.scopes),
        created_by=record.created_by,
        created_at=rfc3339(record.created_us),
    )


def _basic(authorization: bytes) -> tuple[str, str]:
    """Read HTTP Basic, each half form-encoded (RFC 6749 section 2.3.1). Raises: OAuthRefused."""
    scheme, _, value = authorization.partition(b" ")
    try:
        if scheme.lower() != b"basic":
            raise ValueError
        name, colon, secret = base64.b64decode(value.strip(), validate=True).decode("ascii").partition(":")
        if not colon:
            raise ValueError
    except (ValueError, binascii.Error):
        raise OAuthRefused("invalid_client", "Authenticate by HTTP Basic.", status=401) from None
    return unquote_plus(name), unquote_plus(secret)
