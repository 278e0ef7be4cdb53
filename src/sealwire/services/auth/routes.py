"""Auth's routes, each derived from its operation; browsers that ask for it get the session as a cookie."""

from __future__ import annotations

from sealwire.contracts import logins, passkeys, recovery, sessions, tokens, users
from sealwire.contracts.api_keys import ADD_API_KEY
from sealwire.contracts.identity import OPERATIONS, Identity
from sealwire.contracts.logins import Login, LoginResult, MfaAnswer
from sealwire.contracts.passkeys import PasskeyLogin
from sealwire.kit.exchange import Exchange, Headers
from sealwire.kit.http import Edge, Route
from sealwire.services.auth.cookies import clear_cookie, has_cookie, session_cookie

_NO_STORE = (b"cache-control", b"no-store")


def routes(auth: Identity, edge: Edge) -> list[Route]:
    """Return every route of auth. The gateway mounts those that are not for services."""
    decorate = {
        users.REGISTER: _not_stored,
        logins.LOGIN: _granted,
        logins.MFA_VERIFY: _granted,
        sessions.REFRESH: _granted,
        logins.STEP_UP: _granted,
        logins.TOTP_ENROLL: _not_stored,
        logins.TOTP_CONFIRM: _not_stored,
        recovery.NEW_RECOVERY_CODES: _not_stored,
        tokens.INTROSPECT: _not_stored,
        ADD_API_KEY: _not_stored,
        passkeys.PASSKEY_REGISTER_OPTIONS: _not_stored,
        passkeys.PASSKEY_REGISTER: _not_stored,
        passkeys.PASSKEY_LOGIN_OPTIONS: _not_stored,
        passkeys.PASSKEY_LOGIN: _granted,
        passkeys.PASSKEY_STEP_UP_OPTIONS: _not_stored,
        sessions.LOGOUT: _left,
        sessions.LOGOUT_ALL: _left,
        tokens.JWKS: _public_keys,
    }
    return [
        edge.bind(operation, getattr(auth, name), decorate=decorate.get(operation))
        for name, operation in OPERATIONS.items()
    ]


def _granted(exchange: Exchange, taken: object, given: object) -> Headers:
    """Tokens are never cached (RFC 6749 section 5.1); the cookie goes to who asked for it, or came with one."""
    assert isinstance(given, LoginResult)
    wanted = taken.cookie if isinstance(taken, Login | MfaAnswer | PasskeyLogin) else has_cookie(exchange)
    if wanted and given.access_token:
        return [_NO_STORE, session_cookie(exchange, given.access_token, given.expires_in)]
    return [_NO_STORE]


def _left(exchange: Exchange, taken: object, given: object) -> Headers:
    return [clear_cookie(exchange)] if has_cookie(exchange) else []


def _not_stored(exchange: Exchange, taken: object, given: object) -> Headers:
    return [_NO_STORE]


def _public_keys(exchange: Exchange, taken: object, given: object) -> Headers:
    """Short enough that a verifier knows a new key before it signs (`auth.key_publish_s`)."""
    return [(b"cache-control", b"public, max-age=60")]
