"""What auth stores for OpenID Connect: apps, what they were granted, and what people allowed them."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from sealwire.services.auth.records import Record, RefreshUse, SessionRecord, TenantRecord, UserRecord


class ClientRecord(Record):
    """An app of a tenant. `secret_hash` is empty for a public one; `ended_us` is 0 while it may sign people in."""

    client_id: str
    tenant_id: str
    name: str
    kind: Literal["confidential", "public"]
    secret_hash: bytes
    redirect_uris: tuple[str, ...]
    logout_uris: tuple[str, ...]
    backchannel_uri: str
    scopes: tuple[str, ...]
    created_by: str
    created_us: int
    ended_us: int = 0


class GrantRecord(Record):
    """What an app was given for one sign-in: first a code, then tokens. It lives while its session does.

    `code_hash`, `redirect_uri`, `challenge` and `nonce` are what the code is bound to; `redeemed_us` is 0 until it was
    used. `epoch` is the user's when the code was given. `refresh_head` and `refresh_uses` are as a session's.
    """

    grant_id: str
    client_id: str
    tenant_id: str
    user_id: str
    session_id: str
    scopes: tuple[str, ...]
    epoch: int
    auth_us: int
    amr: tuple[str, ...]
    code_hash: bytes
    redirect_uri: str
    challenge: str
    nonce: str
    created_us: int
    redeemed_us: int = 0
    refresh_head: int = 1
    refresh_uses: tuple[RefreshUse, ...] = ()
    ended_us: int = 0


class ConsentRecord(Record):
    """The widest scopes a person allowed an app."""

    user_id: str
    client_id: str
    scopes: tuple[str, ...]
    given_us: int


class Standing(Record):
    """A grant with all that it hangs on."""

    grant: GrantRecord
    client: ClientRecord
    session: SessionRecord
    user: UserRecord
    tenant: TenantRecord

    def lives(self, now_us: int) -> bool:
        """Whether grant, app, session, person and tenant all are what they have to be."""
        return (
            self.grant.redeemed_us > 0
            and self.grant.ended_us == 0
            and self.client.ended_us == 0
            and self.session.ended_us == 0
            and self.session.expires_us > now_us
            and self.grant.epoch >= self.session.epoch
            and self.user.status == "active"
            and self.tenant.status == "active"
        )


class Fate(StrEnum):
    """What became of a code that was presented."""

    REDEEMED = "redeemed"
    REFUSED = "refused"
    REPLAYED = "replayed"


class Notice(Record):
    """A logout that an app has to be told of: this session of this person, at this address."""

    client_id: str
    tenant_id: str
    user_id: str
    session_id: str
    backchannel_uri: str
    attempts: int
