"""What auth promises to everybody: users, logins, sessions, tokens, revocations, tenants.

Each noun has a contract of its own; credentials beside the password, passkeys, apps and what operators do are put
together with them in `identity`.
"""

from __future__ import annotations

from typing import Protocol

from sealwire.contracts import logins, opened, revocations, sessions, tenants, tokens, users
from sealwire.kit.operation import table

OPERATIONS = table(
    *users.OPERATIONS.values(),
    *logins.OPERATIONS.values(),
    *sessions.OPERATIONS.values(),
    *tokens.OPERATIONS.values(),
    *revocations.OPERATIONS.values(),
    *opened.OPERATIONS.values(),
    *tenants.OPERATIONS.values(),
)


class Auth(
    users.UserDirectory,
    logins.LoginDesk,
    sessions.SessionBook,
    tokens.TokenDesk,
    revocations.RevocationFeed,
    opened.OpenedFeed,
    tenants.TenantRegistry,
    Protocol,
):
    """Auth, in this process or another. Every method may raise `Unavailable` when it is out of reach."""
