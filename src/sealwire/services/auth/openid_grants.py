"""Grants: a code for a person's consent, tokens for the code, new tokens for old ones; all die with the session."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sealwire.contracts.tokens import Introspection
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.ids import new_id
from sealwire.kit.jose import TokenRefused
from sealwire.kit.problem import Unauthenticated
from sealwire.ports.events import NewEvent
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.model import Rotation, Verdict, rotate
from sealwire.services.auth.one_time import new_token, token_hash
from sealwire.services.auth.openid_errors import OAuthRefused
from sealwire.services.auth.openid_ports import GrantStore
from sealwire.services.auth.openid_records import ClientRecord, ConsentRecord, Fate, GrantRecord, Standing
from sealwire.services.auth.openid_requests import AuthorizationRequest
from sealwire.services.auth.openid_tokens import AppTokens
from sealwire.services.auth.people import People
from sealwire.services.auth.records import SessionRecord, UserRecord

CODE_LIFE_S: Final = 60
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")
INACTIVE: Final = Introspection(active=False)


class Grants:
    """What apps were given."""

    def __init__(
        self, *, store: GrantStore, tokens: AppTokens, people: People, journal: Journal, clock: Clock,
        config: AuthConfig,
    ) -> None:  # fmt: skip
        self._store = store
        self._tokens = tokens
        self._people = people
        self._journal = journal
        self._clock = clock
        self._grace_us = round(config.refresh_grace_s * US_PER_S)

    # ---- codes

    async def allows(self, user_id: str, client: ClientRecord, scopes: Sequence[str]) -> bool:
        """Whether the person allowed the app all of this before.

        A public app is asked for each time: nobody can know that it is the same one (RFC 6749 section 10.2).
        """
        if client.kind == "public":
            return False
        consent = await self._store.consent(user_id, client.client_id)
        return consent is not None and set(scopes) <= set(consent.scopes)

    async def give(
        self, caller: Caller, request: AuthorizationRequest, session: SessionRecord, user: UserRecord, *, asked: bool
    ) -> str | None:
        """Return a code; None when the session ended meanwhile. `asked`: the person was asked and agreed."""
        code, now_us = new_token("swo1"), self._clock.now_us()
        grant = GrantRecord(
            grant_id=new_id(),
            client_id=request.client_id,
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            session_id=session.session_id,
            scopes=request.scopes,
            epoch=user.epoch,
            auth_us=session.auth_us,
            amr=session.amr,
            code_hash=token_hash(code),
            redirect_uri=request.redirect_uri,
            challenge=request.challenge,
            nonce=request.nonce,
            created_us=now_us,
        )
        consent = None
        events = []
        if asked:
            before = await self._store.consent(user.user_id, request.client_id)
            scopes = tuple(sorted({*request.scopes, *(before.scopes if before is not None else ())}))
            consent = ConsentRecord(user_id=user.user_id, client_id=request.client_id, scopes=scopes, given_us=now_us)
            origin = await self._journal.origin(caller, user.tenant_id)
            events = [
                self._journal.event(
                    Kind.CONSENT_GIVEN, origin, subject_id=user.user_id, resource_type="openid_client",
                    resource_id=request.client_id, as_subject=True, scopes=" ".join(request.scopes),
                )
            ]  # fmt: skip
        return code if await self._store.give(grant, consent, events) else None

    async def redeem(self, caller: Caller, client: ClientRecord, form: Mapping[str, str]) -> dict[str, Any]:
        """Exchange a code for tokens. Raises: OAuthRefused `invalid_grant`, the same for every fault of the code."""
        verifier = form.get("code_verifier", "")
        if not _VERIFIER.fullmatch(verifier):
            raise OAuthRefused("invalid_request", "code_verifier has 43 to 128 unreserved characters.")
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        now_us = self._clock.now_us()

        def judge(standing: Standing) -> bool:
            grant = standing.grant
            return (
                now_us < grant.created_us + CODE_LIFE_S * US_PER_S
                and hmac.compare_digest(grant.challenge, challenge)
                and grant.redirect_uri == form.get("redirect_uri", "")
            )

        origin = await self._journal.origin(caller, client.tenant_id)

        def events_of(grant: GrantRecord, fate: Fate) -> list[NewEvent]:
            replayed = fate is Fate.REPLAYED
            return [
                self._journal.event(
                    Kind.CODE_REPLAYED if replayed else Kind.APP_SIGNED_IN, origin, subject_id=grant.user_id,
                    resource_type="openid_grant", resource_id=grant.grant_id, client_id=grant.client_id,
                    outcome="denied" if replayed else "success",
                )
            ]  # fmt: skip

        fate, standing = await self._store.redeem(
            token_hash(form.get("code", "")), judge, client_id=client.client_id, now_us=now_us, events_of=events_of
        )
        if fate is not Fate.REDEEMED or standing is None:
            raise OAuthRefused("invalid_grant", "The code is not valid.")
        return self._grant(standing, standing.grant.scopes, number=1, with_nonce=True)

    async def refresh(self, caller: Caller, client: ClientRecord, form: Mapping[str, str]) -> dict[str, Any]:
        """Exchange a refresh token; an old one ends its grant. Raises: OAuthRefused `invalid_grant`, `invalid_scope`.

        As at login a token may be used again for a few seconds and gets the same successor: answers get lost.
        """
        presented = self._tokens.read_refresh(form.get("refresh_token", ""))
        if presented is None:
            raise OAuthRefused("invalid_grant", "The refresh token is not valid.")
        grant_id, number = presented
        now_us = self._clock.now_us()
        wanted = frozenset(form.get("scope", "").split())
        origin = await self._journal.origin(caller, client.tenant_id)

        def judge(standing: Standing) -> Rotation:
            grant = standing.grant
            rotation = rotate(grant.refresh_head, grant.refresh_uses, number, now_us=now_us, grace_us=self._grace_us)
            # Before anything is stored: who asks for too much goes on with the token they have; a copy ends it.
            if rotation.verdict is not Verdict.REUSED and not wanted <= set(grant.scopes):
                raise OAuthRefused("invalid_scope", "More than was granted.")
            return rotation

        def events_of(grant: GrantRecord, rotation: Rotation) -> list[NewEvent]:
            if rotation.verdict is Verdict.REPEAT:
                return []
            reused = rotation.verdict is Verdict.REUSED
            return [
                self._journal.event(
                    Kind.TOKEN_REUSED if reused else Kind.TOKEN_REFRESHED, origin, subject_id=grant.user_id,
                    resource_type="openid_grant", resource_id=grant.grant_id, client_id=grant.client_id,
                    outcome="denied" if reused else "success",
                )
            ]  # fmt: skip

        rotated = await self._store.rotate(
            grant_id, judge, client_id=client.client_id, now_us=now_us, events_of=events_of
        )
        if rotated is None or rotated[1].verdict is Verdict.REUSED:
            raise OAuthRefused("invalid_grant", "The refresh token is not valid.")
        granted = rotated[0].grant.scopes
        scopes = tuple(scope for scope in granted if scope in wanted) if wanted else granted
        return self._grant(rotated[0], scopes, number=number + 1, with_nonce=False)

    def _grant(self, standing: Standing, scopes: Sequence[str], *, number: int, with_nonce: bool) -> dict[str, Any]:
        """Word the answer. Fewer `scopes` than granted are this access token's only (RFC 6749 section 6)."""
        access = self._tokens.access(standing, scopes)
        grant = standing.grant
        given = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": self._tokens.ttl_s,
            "refresh_token": self._tokens.refresh(grant.grant_id, number),
            "scope": " ".join(scopes),
        }
        if "openid" in scopes:
            given["id_token"] = self._tokens.identity(grant, access, with_nonce=with_nonce)
        return given

    # ---- using and ending

    async def userinfo(self, token: str) -> dict[str, Any]:
        """Return what the scopes of an access token tell (OpenID Connect Core 1.0 section 5.3).

        Raises: Unauthenticated for a token that is none, or whose grant, app, session or person is over.
        """
        standing = await self._living(token)
        scopes = self._tokens.read_access(token)["scope"].split() if standing is not None else []
        if standing is None or "openid" not in scopes:
            raise Unauthenticated
        claims: dict[str, Any] = {"sub": standing.user.user_id}
        if "profile" in scopes or "email" in scopes:
            person = await self._people.person(standing.user)
            if "profile" in scopes:
                claims["name"] = person.display_name
            if "email" in scopes:
                claims["email"] = person.email
        return claims

    async def introspect(self, client: ClientRecord, token: str) -> Introspection:
        """Tell an app about a token of its own; any other is just inactive (RFC 7662 section 2.2)."""
        standing = await self._living(token)
        kind, expires_s, issued_s, token_id, scope = "Bearer", 0, 0, "", ""
        if standing is not None:
            claims = self._tokens.read_access(token)
            scope = claims["scope"]
            expires_s, issued_s, token_id = claims["exp"], claims["iat"], claims["jti"]
        elif (presented := self._tokens.read_refresh(token)) is not None:
            standing, kind = await self._store.get(presented[0]), "refresh_token"
            if standing is not None and presented[1] < standing.grant.refresh_head:
                return INACTIVE
        if standing is None or standing.grant.client_id != client.client_id or not standing.lives(self._clock.now_us()):
            return INACTIVE
        grant = standing.grant
        return Introspection(
            active=True,
            sub=grant.user_id,
            client_id=grant.client_id,
            tid=grant.tenant_id,
            sid=grant.session_id,
            scope=scope or " ".join(grant.scopes),
            token_type=kind,
            iss=self._tokens.issuer,
            aud=self._tokens.audience if token_id else "",
            exp=expires_s or standing.session.expires_us // US_PER_S,
            iat=issued_s or grant.redeemed_us // US_PER_S,
            jti=token_id,
        )

    async def revoke(self, caller: Caller, client: ClientRecord, token: str) -> None:
        """End the grant of an app's token, whichever of the two it is; silent for any other (RFC 7009)."""
        presented = self._tokens.read_refresh(token)
        grant_id = presented[0] if presented is not None else ""
        if not grant_id:
            try:
                grant_id = str(self._tokens.read_access(token)["grant"])
            except TokenRefused:
                return
        origin = await self._journal.origin(caller, client.tenant_id)
        event = self._journal.event(
            Kind.TOKEN_REVOKED, origin, resource_type="openid_grant", resource_id=grant_id, client_id=client.client_id
        )
        await self._store.end(grant_id, client.client_id, self._clock.now_us(), [event])

    async def _living(self, token: str) -> Standing | None:
        try:
            claims = self._tokens.read_access(token)
        except TokenRefused:
            return None
        standing = await self._store.get(claims["grant"])
        if (
            standing is None
            or standing.grant.user_id != claims["sub"]
            or standing.grant.client_id != claims["client_id"]
        ):
            return None
        return standing if standing.lives(self._clock.now_us()) else None
