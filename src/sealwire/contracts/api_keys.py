"""What auth promises of API keys and service accounts: credentials of machines, never wider than their owner."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Protocol

import msgspec

from sealwire.contracts.auth_terms import ADMIN, BOUNDARY, SERVICE
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output, Page, ShortText
from sealwire.kit.operation import Degraded, Operation, Policy, Repeat, table
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import NotFound, Unauthenticated

PREFIX: Final = "swk1_"
"""Every key begins with it, so that boundary and secret scanners know one when they see it."""
Scope = Literal[
    "read", "post", "start_conversation", "upload", "search", "own_data", "manage_users", "invite", "read_audit",
    "manage_gdpr", "manage_retention", "read_retention", "use_keys", "manage_keys", "health_details",
]  # fmt: skip
"""Every permission but `own_profile`, by which credentials are changed, and `manage_tenants`.

`manage_retention` holds `read_retention`.
"""


class ApiKeyNotFound(NotFound):
    """No such live key in this tenant."""

    code, title = "api_key_not_found", "No such API key"


class ApiKeyRefused(Unauthenticated):
    """The key is unknown, ended or too old, or its owner is disabled: one answer for all of them."""

    code, title = "api_key_refused", "The API key is not valid"


class NewServiceAccount(Input):
    """A member of the tenant that is no person: it has a role and keys, and can't log in."""

    display_name: ShortText
    role: Literal["admin", "auditor", "member", "guest"] = "member"


class NewApiKey(Input):
    """A key for oneself, for a service account (`owner_id`), or for a new one (`service_account`).

    `scopes` are those of the owner's permissions that the key has too; it never has more than the owner has now.
    """

    name: ShortText
    scopes: Annotated[list[Scope], msgspec.Meta(min_length=1, max_length=32)]
    expires_in_s: Annotated[int, msgspec.Meta(ge=60, le=31_536_000)] = 90 * 86_400
    owner_id: Id | None = None
    service_account: NewServiceAccount | None = None


class ApiKey(Output):
    """A key as administrators see it. `prefix` is how its text begins; `last_used_at` is a few seconds late."""

    api_key_id: str
    name: str
    prefix: str
    scopes: list[str]
    owner_id: str
    created_by: str
    created_at: str
    expires_at: str
    last_used_at: str | None = None


class ApiKeyMade(Output):
    """`key` is shown now and never again."""

    key: str
    api_key: ApiKey


class ApiKeys(Output):
    """The tenant's live keys."""

    items: list[ApiKey]
    next_cursor: str | None = None


class ApiKeyQuery(Input):
    """A key as it was presented."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class ApiKeyState(Output):
    """What the boundary needs to know of a key. Its session is the key itself: `auth.session` answers for its id."""

    api_key_id: str
    tenant_id: str
    owner_id: str
    role: Role
    email: str
    scopes: list[Permission]
    epoch: int
    created_at_s: int
    expires_at_s: int


API_KEYS = Operation(
    name="api_keys",
    verb="GET",
    path="/auth/api-keys",
    takes=Page,
    gives=ApiKeys,
    repeat=Repeat.SAFE,
    summary="Live API keys of the tenant",
    **ADMIN,
)
ADD_API_KEY = Operation(
    name="add_api_key",
    verb="POST",
    path="/auth/api-keys",
    takes=NewApiKey,
    gives=ApiKeyMade,
    step_up=True,
    summary="Make an API key, for oneself or for a service account",
    **ADMIN,
)
END_API_KEY = Operation(
    name="end_api_key",
    verb="DELETE",
    path="/auth/api-keys/{api_key_id}",
    repeat=Repeat.IDEMPOTENT,
    summary="End an API key; dead everywhere within a second",
    **ADMIN,
)
API_KEY = Operation(
    name="api_key",
    verb="POST",
    path="/auth/internal/api-key",
    takes=ApiKeyQuery,
    gives=ApiKeyState,
    service=SERVICE,
    policy=Policy.SERVICE,
    degraded=Degraded.ALLOW,
    repeat=Repeat.SAFE,
    callers=BOUNDARY,
    summary="Whose key this is, for the boundary",
)

OPERATIONS = table(API_KEYS, ADD_API_KEY, END_API_KEY, API_KEY)


class ApiKeyring(Protocol):
    """The part of auth that deals with them."""

    async def api_keys(self, caller: Caller, page: Page) -> ApiKeys: ...
    async def add_api_key(self, caller: Caller, new: NewApiKey) -> ApiKeyMade:
        """Raises: Forbidden (a scope or owner that the caller may not give; a key asks), QuotaExceeded, Conflict."""

    async def end_api_key(self, caller: Caller, api_key_id: str) -> None:
        """Raises: ApiKeyNotFound."""

    async def api_key(self, caller: Caller, query: ApiKeyQuery) -> ApiKeyState:
        """Raises: ApiKeyRefused."""
