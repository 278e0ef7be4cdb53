"""Sessions: opened by a login, carried on by refresh tokens, ended by whoever may."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sealwire.contracts.logins import LoginResult
from sealwire.contracts.sessions import (
    RefreshInvalid,
    RefreshRequest,
    RefreshReused,
    Session,
    SessionNotFound,
    Sessions,
    SessionState,
)
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.cursors import read_cursor, write_cursor
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Unauthenticated
from sealwire.ports.events import NewEvent
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind, Origin
from sealwire.services.auth.lockout import Lockout
from sealwire.services.auth.mfa_policy import MfaPolicy
from sealwire.services.auth.model import Rotation, Verdict, rotate
from sealwire.services.auth.people import People
from sealwire.services.auth.ports import SessionStore
from sealwire.services.auth.records import Reason, SessionRecord, UserRecord
from sealwire.services.auth.revoker import Revoker
from sealwire.services.auth.tokens import AccessTokens, PresentedRefresh, is_authentic, read_refresh, refresh_token
from sealwire.services.auth.vault import Device, Vault

_SECRET_BYTES = 32


class SessionKeeper:
    """Opens, refreshes, lists and ends sessions."""

    def __init__(
        self, *, store: SessionStore, vault: Vault, people: People, lockout: Lockout, tokens: AccessTokens,
        journal: Journal, revoker: Revoker, policy: MfaPolicy, clock: Clock, config: AuthConfig,
    ) -> None:  # fmt: skip
        self._policy = policy
        self._store = store
        self._vault = vault
        self._people = people
        self._lockout = lockout
        self._tokens = tokens
        self._journal = journal
        self._revoker = revoker
        self._clock = clock
        self._config = config
        self._grace_us = round(config.refresh_grace_s * US_PER_S)

    # ---- opening and carrying on

    async def open(
        self, caller: Caller, user: UserRecord, *, amr: tuple[str, ...], forgive: Sequence[bytes],
        failed_before: int = 0,
    ) -> LoginResult | None:  # fmt: skip
        """Open a session for a user who has proved who they are; None when they were deactivated meanwhile.

        `failed_before`: how often it failed until now, which they hear of when it was often.
        """
        session_id, secret, now_us = new_id(), os.urandom(_SECRET_BYTES), self._clock.now_us()
        tenant_id = user.tenant_id
        session = SessionRecord(
            session_id=session_id,
            tenant_id=tenant_id,
            user_id=user.user_id,
            epoch=user.epoch,
            created_us=now_us,
            seen_us=now_us,
            expires_us=self._expiry_us(now_us, now_us),
            auth_us=now_us,
            amr=amr,
            client_id=self._config.client_id,
            sealed_secret=await self._vault.seal(tenant_id, "session-secret:" + session_id, secret),
            sealed_origin=await self._vault.seal_device(tenant_id, session_id, _device(caller)),
        )
        origin = await self._journal.origin(caller, tenant_id)
        event = self._journal.event(
            Kind.LOGIN, origin, subject_id=user.user_id, resource_type="session", resource_id=session_id,
            as_subject=True, amr=" ".join(amr), failed_before=failed_before or None,
        )  # fmt: skip
        opened = await self._store.open(
            session,
            place=self._lockout.place(user.email_index.hex(), caller.ip),
            most=self._config.sessions_per_user,
            forgive=forgive,
            revoke=lambda oldest: self._revoker.session(tenant_id, user.user_id, oldest, Reason.LIMIT),
            events=[event],
            ended_event=lambda oldest: self._ended(origin, user.user_id, oldest, Reason.LIMIT),
        )
        return await self._grant(user, session, refresh_token(secret, session_id, 1)) if opened else None

    async def refresh(self, caller: Caller, request: RefreshRequest) -> LoginResult:
        """Exchange a refresh token. Raises: RefreshInvalid, RefreshReused."""
        presented = read_refresh(request.refresh_token)
        found = await self._store.get(presented.session_id) if presented else None
        if presented is None or found is None:
            raise RefreshInvalid
        session, user, _ = found
        secret = await self._secret(session)
        if not is_authentic(presented, secret):
            raise RefreshInvalid
        rotated = await self._rotate(caller, session, presented)
        if rotated is None:
            raise RefreshInvalid
        session, rotation = rotated
        if rotation.verdict is Verdict.REUSED:
            raise RefreshReused("It was used before; the session has ended. Log in again.")
        return await self._grant(user, session, refresh_token(secret, session.session_id, presented.number + 1))

    async def _rotate(
        self, caller: Caller, session: SessionRecord, presented: PresentedRefresh
    ) -> tuple[SessionRecord, Rotation] | None:
        now_us = self._clock.now_us()
        tenant_id, user_id, session_id = session.tenant_id, session.user_id, session.session_id
        origin = await self._journal.origin(caller, tenant_id)
        client = self._vault.client_hash(session_id, caller.user_agent)

        def judge(now: SessionRecord) -> Rotation:
            return rotate(
                now.refresh_head, now.refresh_uses, presented.number, now_us=now_us, grace_us=self._grace_us,
                client=client,
            )  # fmt: skip

        return await self._store.rotate(
            session_id,
            judge,
            now_us=now_us,
            expires_us=self._expiry_us(session.created_us, now_us),
            sealed_origin=await self._vault.seal_device(tenant_id, session_id, _device(caller)),
            reused=self._revoker.session(tenant_id, user_id, session_id, Reason.REUSED),
            events=[
                self._journal.event(
                    Kind.TOKEN_REFRESHED, origin, subject_id=user_id, resource_type="session",
                    resource_id=session_id, as_subject=True,
                )
            ],
            reused_events=[
                self._journal.event(
                    Kind.TOKEN_REUSED, origin, subject_id=user_id, resource_type="session", resource_id=session_id,
                    outcome="denied",
                ),
                self._ended(origin, user_id, session_id, Reason.REUSED),
            ],
        )  # fmt: skip

    async def prove(
        self, caller: Caller, user: UserRecord, *, amr: tuple[str, ...], forgive: Sequence[bytes]
    ) -> LoginResult:
        """Note a fresh proof and give tokens with it: a new access token, and the newest refresh token once more.

        Raises: Unauthenticated when the session has ended meanwhile.
        """
        session_id = caller.principal.session_id
        origin = await self._journal.origin(caller)
        event = self._journal.event(
            Kind.STEPPED_UP, origin, subject_id=user.user_id, resource_type="session", resource_id=session_id,
            amr=" ".join(amr),
        )  # fmt: skip
        session = await self._store.prove(
            session_id, auth_us=self._clock.now_us(), amr=amr, forgive=forgive, events=[event]
        )
        if session is None:
            raise Unauthenticated("The session has ended.")
        secret = await self._secret(session)
        return await self._grant(user, session, refresh_token(secret, session_id, session.refresh_head))

    # ---- ending

    async def end(self, caller: Caller, session_id: str, reason: Reason) -> bool:
        """End one session of the caller; returns whether it lived."""
        origin = await self._journal.origin(caller)
        revocation = self._revoker.session(caller.tenant_id, caller.user_id, session_id, reason)
        event = self._ended(origin, caller.user_id, session_id, reason)
        return await self._store.end(session_id, caller.user_id, revocation, [event])

    async def end_presented(self, caller: Caller, token: str) -> None:
        """End the caller's session that a refresh token belongs to; silent for any other text."""
        presented = read_refresh(token)
        found = await self._store.get(presented.session_id) if presented else None
        if presented is None or found is None or found[1].user_id != caller.user_id:
            return
        if is_authentic(presented, await self._secret(found[0])):
            await self.end(caller, presented.session_id, Reason.TOKEN)

    # ---- looking

    async def state(self, session_id: str) -> SessionState:
        """Tell the boundary about a session. Raises: SessionNotFound."""
        found = await self._store.get(session_id)
        if found is None:
            raise SessionNotFound("No such session.")
        session, user, tenant = found
        person = await self._people.person(user)
        return SessionState(
            session_id=session_id,
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            role=user.role,
            email=person.email,
            epoch=session.epoch,
            active=self._lives(session) and user.status == "active" and tenant.status == "active",
            expires_at_s=session.expires_us // US_PER_S,
            kind="user",
        )

    async def refresh_state(self, token: str) -> tuple[SessionRecord, UserRecord] | None:
        """Return the session that a live, newest refresh token belongs to."""
        presented = read_refresh(token)
        found = await self._store.get(presented.session_id) if presented else None
        if presented is None or found is None:
            return None
        session, user, tenant = found
        active = self._lives(session) and user.status == "active" and tenant.status == "active"
        if (
            not active
            or presented.number < session.refresh_head
            or not is_authentic(presented, await self._secret(session))
        ):
            return None
        return session, user

    async def page(self, caller: Caller, page: Page) -> Sessions:
        """List the caller's live sessions, newest first."""
        records = await self._store.live(
            caller.user_id, self._clock.now_us(), after=read_cursor(page.cursor), limit=page.limit + 1
        )
        shown = records[: page.limit]
        items = [await self._shown(record, caller.principal.session_id) for record in shown]
        return Sessions(
            items=items, next_cursor=write_cursor(shown[-1].session_id) if len(records) > page.limit else None
        )

    async def _shown(self, record: SessionRecord, current: str) -> Session:
        device = await self._vault.open_device(record.tenant_id, record.session_id, record.sealed_origin)
        return Session(
            session_id=record.session_id,
            created_at=rfc3339(record.created_us),
            last_seen_at=rfc3339(record.seen_us),
            expires_at=rfc3339(record.expires_us),
            ip=device.ip,
            user_agent=device.user_agent,
            current=record.session_id == current,
        )

    def _lives(self, session: SessionRecord) -> bool:
        return session.ended_us == 0 and session.expires_us > self._clock.now_us()

    def _expiry_us(self, created_us: int, seen_us: int) -> int:
        absolute_us = created_us + self._config.session_absolute_s * US_PER_S
        return min(absolute_us, seen_us + self._config.session_idle_s * US_PER_S)

    def _ended(self, origin: Origin, user_id: str, session_id: str, reason: Reason) -> NewEvent:
        return self._journal.event(
            Kind.SESSION_ENDED, origin, subject_id=user_id, resource_type="session", resource_id=session_id,
            reason=reason.value,
        )  # fmt: skip

    async def _secret(self, session: SessionRecord) -> bytes:
        return await self._vault.open(session.tenant_id, "session-secret:" + session.session_id, session.sealed_secret)

    async def _grant(self, user: UserRecord, session: SessionRecord, refresh: str) -> LoginResult:
        person = await self._people.person(user)
        return LoginResult(
            access_token=self._tokens.issue(
                user, session, person.email, needs_mfa=await self._policy.demands(user.tenant_id)
            ),
            refresh_token=refresh,
            token_type="Bearer",  # noqa: S106 - the scheme's name
            expires_in=self._tokens.ttl_s,
            session_id=session.session_id,
            user=self._people.shown(user, person),
        )


def _device(caller: Caller) -> Device:
    return Device(caller.ip[:64], caller.user_agent[:256])
