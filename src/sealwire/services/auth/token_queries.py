"""Token queries: introspection (RFC 7662) and revocation (RFC 7009)."""

from __future__ import annotations

from sealwire.contracts.tokens import AccessClaims, Introspection, TokenQuery
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S
from sealwire.kit.jose import TokenRefused
from sealwire.kit.permission import Permission
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.revoker import Revoker
from sealwire.services.auth.sessions import SessionKeeper
from sealwire.services.auth.tokens import AccessTokens

INACTIVE = Introspection(active=False)


class TokenQueries:
    """Answers about tokens to those who may know: their owner, the tenant's administrators, services."""

    def __init__(
        self, *, stores: AuthStores, tokens: AccessTokens, sessions: SessionKeeper, journal: Journal, revoker: Revoker
    ) -> None:
        self._stores = stores
        self._tokens = tokens
        self._sessions = sessions
        self._journal = journal
        self._revoker = revoker

    async def introspect(self, caller: Caller, query: TokenQuery) -> Introspection:
        """Tell about an access or refresh token; anything the caller may not know of is just inactive."""
        claims = self._read(query.token)
        if claims is not None:
            return await self._access(caller, claims)
        return await self._refresh(caller, query.token)

    async def _access(self, caller: Caller, claims: AccessClaims) -> Introspection:
        found = await self._stores.sessions.get(claims.sid)
        if found is None or not _may_know(caller, claims.tid, claims.sub):
            return INACTIVE
        session, user, _ = found
        state = await self._sessions.state(claims.sid)
        lives = state.active and claims.epoch >= session.epoch and claims.sub == user.user_id
        if not lives or await self._stores.revocations.has_token(claims.jti):
            return INACTIVE
        return Introspection(
            active=True,
            sub=claims.sub,
            client_id=claims.client_id,
            tid=claims.tid,
            sid=claims.sid,
            role=user.role.value,
            token_type="Bearer",  # noqa: S106 - the scheme's name
            iss=claims.iss,
            aud=claims.aud,
            exp=claims.exp,
            iat=claims.iat,
            jti=claims.jti,
        )

    async def _refresh(self, caller: Caller, token: str) -> Introspection:
        found = await self._sessions.refresh_state(token)
        if found is None or not _may_know(caller, found[1].tenant_id, found[1].user_id):
            return INACTIVE
        session, user = found
        return Introspection(
            active=True,
            sub=user.user_id,
            client_id=session.client_id,
            tid=user.tenant_id,
            sid=session.session_id,
            role=user.role.value,
            token_type="refresh_token",  # noqa: S106 - RFC 7009 section 2.1's name
            exp=session.expires_us // US_PER_S,
            iat=session.created_us // US_PER_S,
        )

    async def revoke(self, caller: Caller, query: TokenQuery) -> None:
        """Revoke a token of the caller: of a refresh token the whole session (RFC 7009 section 2.1), else one token."""
        claims = self._read(query.token)
        if claims is None:
            await self._sessions.end_presented(caller, query.token)
            return
        if claims.sub != caller.user_id or claims.tid != caller.tenant_id:
            return
        if await self._stores.revocations.has_token(claims.jti):
            return
        event = self._journal.event(
            Kind.TOKEN_REVOKED, await self._journal.origin(caller), subject_id=claims.sub, resource_type="token",
            resource_id=claims.jti,
        )  # fmt: skip
        revocation = self._revoker.token(claims.tid, claims.sub, claims.sid, claims.jti, until_s=claims.exp)
        await self._stores.revocations.append(revocation, [event])

    def _read(self, token: str) -> AccessClaims | None:
        try:
            return self._tokens.read(token)
        except TokenRefused:
            return None


def _may_know(caller: Caller, tenant_id: str, user_id: str) -> bool:
    if caller.is_service:
        return True
    return caller.tenant_id == tenant_id and (caller.user_id == user_id or caller.may(Permission.MANAGE_USERS))
