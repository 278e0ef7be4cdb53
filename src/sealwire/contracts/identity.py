"""Identity: all that auth answers, its contracts put together."""

from __future__ import annotations

from typing import Final, Protocol

from sealwire.contracts import (
    addresses,
    api_keys,
    auth,
    credentials,
    custody,
    external,
    legacy,
    openid,
    passkeys,
    recovery,
    tenancy,
)
from sealwire.contracts.auth_terms import SERVICE
from sealwire.kit.operation import table

OPERATIONS: Final = table(
    *auth.OPERATIONS.values(),
    *credentials.OPERATIONS.values(),
    *api_keys.OPERATIONS.values(),
    *passkeys.OPERATIONS.values(),
    *addresses.OPERATIONS.values(),
    *recovery.OPERATIONS.values(),
    *tenancy.OPERATIONS.values(),
    *legacy.OPERATIONS.values(),
    *custody.operations(SERVICE, custody.SUBJECT, custody.HOLDS, custody.RETENTION),
    *openid.OPERATIONS.values(),
    *external.OPERATIONS.values(),
)


class Identity(
    auth.Auth,
    credentials.Credentials,
    api_keys.ApiKeyring,
    passkeys.PasskeyRing,
    addresses.Addresses,
    recovery.Recovery,
    tenancy.Tenancy,
    legacy.Legacy,
    custody.SubjectCustody,
    custody.HoldCustody,
    custody.RetentionCustody,
    openid.OpenId,
    external.External,
    Protocol,
):
    """Auth with everything, in this process or another."""
