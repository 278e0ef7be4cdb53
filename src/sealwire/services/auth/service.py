"""Auth: the list of its use cases. Each noun does its own work; here is who may and in which order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sealwire.contracts.api_keys import ApiKeyMade, ApiKeyQuery, ApiKeys, ApiKeyState, NewApiKey
from sealwire.contracts.audit_log import AuditEntry
from sealwire.contracts.credentials import (
    Invitation,
    Invitations,
    NewInvitation,
    ResetAsked,
    ResetConfirmation,
    ResetDone,
    ResetRequest,
)
from sealwire.contracts.logins import (
    Login,
    LoginResult,
    MfaAnswer,
    PasswordChange,
    RecoveryCodes,
    StepUp,
    TotpCode,
    TotpEnrollment,
)
from sealwire.contracts.opened import OpenedQuery, OpenedSessions
from sealwire.contracts.revocations import FeedQuery, Revocations
from sealwire.contracts.sessions import RefreshRequest, Seen, SessionNotFound, SessionQuery, Sessions, SessionState
from sealwire.contracts.tokens import Introspection, Jwks, SigningRotation, TokenQuery
from sealwire.contracts.users import (
    NewUser,
    ProfileChange,
    Profiles,
    Registered,
    Registration,
    User,
    UserChange,
    UserQuery,
    Users,
)
from sealwire.kit.caller import SYSTEM_TENANT, Caller, service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.codec import Page
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Forbidden, Unavailable
from sealwire.ports.events import Event, EventFeed, Positions
from sealwire.ports.mail import Mailer
from sealwire.services.auth.account_service import AccountService
from sealwire.services.auth.addresses import AddressBook
from sealwire.services.auth.api_keys import KeyCabinet
from sealwire.services.auth.breached import breached_in
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.external_logins import ExternalLogins
from sealwire.services.auth.external_service import ExternalService
from sealwire.services.auth.invitations import Guestbook
from sealwire.services.auth.legacy import LegacyService
from sealwire.services.auth.lockout import Lockout
from sealwire.services.auth.logins import Logins
from sealwire.services.auth.mfa import SecondFactors
from sealwire.services.auth.mfa_policy import MfaPolicy
from sealwire.services.auth.notices import Herald
from sealwire.services.auth.opened import read_opened
from sealwire.services.auth.openid import OpenIdProvider, issuer_of
from sealwire.services.auth.openid_ports import Outward
from sealwire.services.auth.openid_service import OpenIdService
from sealwire.services.auth.operators import Stewards
from sealwire.services.auth.passkey_proofs import PasskeyProofs
from sealwire.services.auth.passkey_service import PasskeyService
from sealwire.services.auth.passkeys import PasskeyCase
from sealwire.services.auth.password_rules import PasswordRules
from sealwire.services.auth.passwords import Costs, PasswordHasher
from sealwire.services.auth.people import People
from sealwire.services.auth.ports import AuthStores, Sealer
from sealwire.services.auth.postman import Postman
from sealwire.services.auth.records import Reason
from sealwire.services.auth.recovery import Rescue
from sealwire.services.auth.relying_party import party_of
from sealwire.services.auth.resets import Resets
from sealwire.services.auth.retention import RetentionService
from sealwire.services.auth.revoker import Revoker, kept_s
from sealwire.services.auth.sessions import SessionKeeper
from sealwire.services.auth.signing import SigningKeys
from sealwire.services.auth.subjects import SubjectService
from sealwire.services.auth.tenancy import TenancyService
from sealwire.services.auth.tenants import Tenants
from sealwire.services.auth.token_queries import TokenQueries
from sealwire.services.auth.tokens import AccessTokens
from sealwire.services.auth.upkeep import Upkeep
from sealwire.services.auth.users import Roster
from sealwire.services.auth.vault import Vault


class AuthService(
    TenancyService, SubjectService, LegacyService, RetentionService, PasskeyService, OpenIdService, ExternalService,
    AccountService,
):  # fmt: skip
    """Tenants, users, credentials, tokens, sessions and what ended (implements `contracts.identity.Identity`).

    `events` and `positions` are for the audit relay, which turns events into entries by `audit_entries`.
    """

    def __init__(
        self, *, stores: AuthStores, sealer: Sealer, mailer: Mailer, clock: Clock, config: AuthConfig,
        outward: Outward, public_url: str = "", holds_told: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        """`public_url`: where people reach this installation, which decides whose passkeys work; without: the issuer.

        Raises: ValueError for settings of passkeys that contradict each other.
        """
        site = issuer_of(config, public_url)
        party = party_of(config, public_url or config.issuer)
        vault = Vault(sealer=sealer, keys=stores.keys)
        people = People(vault=vault)
        journal = Journal(vault=vault, clock=clock)
        revoker = Revoker(clock=clock, keep_s=kept_s(config))
        costs = Costs(memory_kib=config.password_memory_kib, passes=config.password_passes)
        self.hasher = PasswordHasher(costs=costs, threads=config.hash_threads, max_waiting=config.hash_max_waiting)
        rules = PasswordRules(breached_in(config))
        lockout = Lockout(store=stores.attempts, sessions=stores.sessions, vault=vault, clock=clock, config=config)
        self.signing = SigningKeys(
            store=stores.keys, vault=vault, journal=journal, revoker=revoker, clock=clock, config=config
        )
        tokens = AccessTokens(signing=self.signing, clock=clock, config=config)
        policy = MfaPolicy(tenants=stores.tenants, config=config)
        self._sessions = SessionKeeper(
            store=stores.sessions, vault=vault, people=people, lockout=lockout, tokens=tokens, journal=journal,
            revoker=revoker, policy=policy, clock=clock, config=config,
        )  # fmt: skip
        self._factors = SecondFactors(
            store=stores.mfa, passkeys=stores.passkeys, vault=vault, people=people, lockout=lockout,
            policy=policy, journal=journal, clock=clock, drift_steps=config.totp_drift_steps,
        )  # fmt: skip
        case = PasskeyCase(
            store=stores.passkeys, vault=vault, people=people, policy=policy, journal=journal, party=party,
            clock=clock, config=config,
        )  # fmt: skip
        proofs = PasskeyProofs(
            stores=stores, case=case, factors=self._factors, sessions=self._sessions, lockout=lockout, vault=vault,
            journal=journal, party=party, clock=clock, config=config,
        )  # fmt: skip
        PasskeyService.__init__(self, case=case, proofs=proofs, second_factors=self._factors, people=stores.users)
        self._logins = Logins(
            stores=stores, vault=vault, hasher=self.hasher, rules=rules, lockout=lockout, factors=self._factors,
            passkeys=proofs, sessions=self._sessions, people=people, journal=journal, revoker=revoker, clock=clock,
            config=config,
        )  # fmt: skip
        tenants = Tenants(store=stores.tenants, vault=vault, journal=journal, revoker=revoker, clock=clock)
        self.postman = Postman(store=stores.letters, mailer=mailer, vault=vault, journal=journal, clock=clock)
        self.herald = Herald(
            feed=stores.events, positions=stores.positions, letters=stores.letters, users=stores.users, people=people,
            postman=self.postman, journal=journal, site=site,
        )  # fmt: skip
        self._guestbook = Guestbook(
            stores=stores, vault=vault, postman=self.postman, journal=journal, clock=clock, config=config, site=site
        )
        self._resets = Resets(
            stores=stores, vault=vault, people=people, hasher=self.hasher, rules=rules, lockout=lockout,
            postman=self.postman, journal=journal, revoker=revoker, clock=clock, config=config, site=site,
        )  # fmt: skip
        addresses = AddressBook(
            stores=stores, vault=vault, people=people, postman=self.postman, journal=journal, revoker=revoker,
            clock=clock, config=config, site=site,
        )  # fmt: skip
        rescue = Rescue(stores=stores, vault=vault, journal=journal, revoker=revoker)
        AccountService.__init__(self, addresses=addresses, rescue=rescue, resets=self._resets, accounts=stores.users)
        self._users = Roster(
            store=stores.users, tenants=tenants, vault=vault, hasher=self.hasher, rules=rules, people=people,
            guestbook=self._guestbook, policy=policy, journal=journal, revoker=revoker, clock=clock, config=config,
        )  # fmt: skip
        TenancyService.__init__(self, tenants=tenants, stewards=Stewards(users=self._users, guestbook=self._guestbook))
        LegacyService.__init__(self, store=stores.legacy, issuers=config.legacy, clock=clock)
        SubjectService.__init__(
            self, store=stores.subjects, users=stores.users, vault=vault, postman=self.postman,
            addresses=addresses, journal=journal, revoker=revoker, clock=clock,
        )  # fmt: skip
        RetentionService.__init__(self, keeping=stores.keeping, clock=clock)
        self._api_keys = KeyCabinet(
            stores=stores,
            users=self._users,
            people=people,
            journal=journal,
            revoker=revoker,
            clock=clock,
            config=config,
        )
        self._queries = TokenQueries(
            stores=stores, tokens=tokens, sessions=self._sessions, journal=journal, revoker=revoker
        )
        self.upkeep = Upkeep(
            stores=stores, signing=self.signing, tenants=tenants, journal=journal, clock=clock, config=config,
            holds_told=holds_told,
        )  # fmt: skip
        openid = OpenIdProvider(
            stores=stores, outward=outward, vault=vault, signing=self.signing, logins=self._logins,
            sessions=self._sessions, people=people, policy=policy, journal=journal, clock=clock, config=config,
            issuer=site, proofs=proofs, party=party,
        )  # fmt: skip
        OpenIdService.__init__(self, openid=openid)
        external = ExternalLogins(
            stores=stores, identities=stores.identities, outward=outward, logins=self._logins, users=self._users,
            vault=vault, journal=journal, clock=clock, config=config, site=site,
        )  # fmt: skip
        ExternalService.__init__(self, external=external)
        self._stores = stores
        self._vault = vault
        self._journal = journal
        self._revoker = revoker
        self._clock = clock

    # ---- life

    async def start(self) -> None:
        """Load or make keys, make the tenants `default` and `system`. Raises: Unavailable without crypto."""
        await self._vault.start()
        origin = await self._journal.origin(service_caller("auth", SYSTEM_TENANT))
        await self.signing.start(origin)
        await self._tenants.start()
        self.upkeep.start()
        self.postman.start()
        self.herald.start()
        self.openid.courier.start()

    async def stop(self) -> None:
        """Finish what runs and store the last uses. Safe to call twice."""
        await self.openid.courier.stop()
        await self.herald.stop()
        await self.postman.stop()
        await self.upkeep.stop()
        self.hasher.stop()

    def checks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the probes of what auth depends on."""
        return {"store": self._stores.upkeep.probe, "keys": self._probe_keys}

    async def _probe_keys(self) -> None:
        try:
            self.signing.keys.signing_key()
        except LookupError:
            raise Unavailable("There is no signing key.") from None
        await self._vault.open("", "probe", await self._vault.seal("", "probe", b"probe"))

    # ---- for the audit relay

    @property
    def events(self) -> EventFeed:
        """The outbox."""
        return self._stores.events

    @property
    def positions(self) -> Positions:
        """Where consumers of the outbox keep how far they came."""
        return self._stores.positions

    async def audit_entries(self, events: Sequence[Event]) -> list[AuditEntry]:
        """Turn events into audit entries, in order."""
        return [await self._journal.audit_entry(event) for event in events]

    # ---- coming in

    async def register(self, caller: Caller, registration: Registration) -> Registered:
        return await self._users.register(caller, registration)

    async def login(self, caller: Caller, login: Login) -> LoginResult:
        return await self._logins.login(caller, login)

    async def mfa_verify(self, caller: Caller, answer: MfaAnswer) -> LoginResult:
        return await self._logins.mfa_verify(caller, answer)

    async def refresh(self, caller: Caller, request: RefreshRequest) -> LoginResult:
        return await self._sessions.refresh(caller, request)

    async def step_up(self, caller: Caller, proof: StepUp) -> LoginResult:
        return await self._logins.step_up(caller, await self._users.get(caller), proof)

    async def reset_password(self, caller: Caller, request: ResetRequest) -> ResetAsked:
        return await self._resets.ask(caller, request)

    async def confirm_reset(self, caller: Caller, confirmation: ResetConfirmation) -> ResetDone:
        return await self._resets.confirm(caller, confirmation)

    # ---- going out

    async def logout(self, caller: Caller) -> None:
        principal = caller.principal
        if principal.legacy:
            # A legacy session is the token itself: nothing is stored of it but that it ended.
            revocation = self._revoker.session(
                caller.tenant_id, caller.user_id, principal.session_id, Reason.LOGOUT, until_s=principal.expires_at_s
            )
            event = self._journal.event(
                Kind.SESSION_ENDED, await self._journal.origin(caller), subject_id=caller.user_id,
                resource_type="session", resource_id=principal.session_id, reason=Reason.LOGOUT.value,
            )  # fmt: skip
            await self._stores.revocations.append(revocation, [event])
        else:
            await self._sessions.end(caller, principal.session_id, Reason.LOGOUT)

    async def logout_all(self, caller: Caller) -> None:
        await self._users.end_all_sessions(caller)

    async def end_session(self, caller: Caller, session_id: str) -> None:
        if not await self._sessions.end(caller, session_id, Reason.ENDED_BY_USER):
            raise SessionNotFound("You have no such session.")

    async def revoke(self, caller: Caller, query: TokenQuery) -> None:
        await self._queries.revoke(caller, query)

    # ---- oneself

    async def me(self, caller: Caller) -> User:
        return await self._users.me(caller)

    async def change_me(self, caller: Caller, change: ProfileChange) -> User:
        return await self._users.change_me(caller, change)

    async def sessions(self, caller: Caller, page: Page) -> Sessions:
        return await self._sessions.page(caller, page)

    async def change_password(self, caller: Caller, change: PasswordChange) -> None:
        await self._logins.change_password(caller, await self._users.get(caller), change)

    async def totp_enroll(self, caller: Caller) -> TotpEnrollment:
        return await self._factors.enroll(caller, await self._users.get(caller))

    async def totp_confirm(self, caller: Caller, code: TotpCode) -> RecoveryCodes:
        return await self._factors.confirm(caller, await self._users.get(caller), code)

    async def totp_remove(self, caller: Caller) -> None:
        await self._factors.remove(caller)

    # ---- administration

    async def users(self, caller: Caller, page: Page) -> Users:
        _require(caller, Permission.MANAGE_USERS)
        return await self._users.page(caller, page)

    async def add_user(self, caller: Caller, user: NewUser) -> User:
        _require(caller, Permission.MANAGE_USERS)
        _check_given_by_key(caller, user.role)
        added = await self._users.add(caller, user)
        if user.password is None:
            await self._resets.send(caller, added)
        return await self._users.show(added)

    async def change_user(self, caller: Caller, user_id: str, change: UserChange) -> User:
        _require(caller, Permission.MANAGE_USERS)
        if caller.principal.kind == "api_key":
            raise Forbidden("A key changes no roles.")
        return await self._users.change(caller, user_id, change)

    async def invite(self, caller: Caller, invitation: NewInvitation) -> Invitation:
        _require(caller, Permission.INVITE)
        _check_given_by_key(caller, invitation.role)
        if invitation.role not in (Role.MEMBER, Role.GUEST) and not caller.is_service:
            await self._logins.require_recent(caller, await self._users.get(caller))
        return await self._guestbook.add(caller, invitation)

    async def invitations(self, caller: Caller, page: Page) -> Invitations:
        _require(caller, Permission.INVITE)
        return await self._guestbook.page(caller, page)

    async def withdraw_invitation(self, caller: Caller, invitation_id: str) -> None:
        _require(caller, Permission.INVITE)
        await self._guestbook.withdraw(caller, invitation_id)

    async def api_keys(self, caller: Caller, page: Page) -> ApiKeys:
        _require(caller, Permission.MANAGE_USERS)
        return await self._api_keys.page(caller, page)

    async def add_api_key(self, caller: Caller, new: NewApiKey) -> ApiKeyMade:
        _require(caller, Permission.MANAGE_USERS)
        return await self._api_keys.add(caller, new)

    async def end_api_key(self, caller: Caller, api_key_id: str) -> None:
        _require(caller, Permission.MANAGE_USERS)
        await self._api_keys.end(caller, api_key_id)

    async def rotate_signing(self, caller: Caller, rotation: SigningRotation) -> Jwks:
        _require(caller, Permission.MANAGE_TENANTS)
        origin = await self._journal.origin(caller, SYSTEM_TENANT)
        await self.signing.rotate(origin, compromised=rotation.compromised)
        return await self.jwks(caller)

    # ---- for services

    async def jwks(self, caller: Caller) -> Jwks:
        return Jwks(keys=self.signing.keys.jwks(self._clock.now_us())["keys"])

    async def introspect(self, caller: Caller, query: TokenQuery) -> Introspection:
        return await self._queries.introspect(caller, query)

    async def session(self, caller: Caller, query: SessionQuery) -> SessionState:
        _require_service(caller)
        try:
            return await self._sessions.state(query.session_id)
        except SessionNotFound:
            return await self._api_keys.state(query.session_id)

    async def api_key(self, caller: Caller, query: ApiKeyQuery) -> ApiKeyState:
        _require_service(caller)
        return await self._api_keys.find(query)

    async def profiles(self, caller: Caller, query: UserQuery) -> Profiles:
        _require_service(caller)
        return await self._users.profiles(caller, query)

    async def seen(self, caller: Caller, seen: Seen) -> None:
        _require_service(caller)
        self.upkeep.note(seen)

    async def revocations(self, caller: Caller, query: FeedQuery) -> Revocations:
        _require_service(caller)
        feed = self._stores.revocations
        if query.last and not await feed.holds(query.after, query.last):
            return Revocations(items=[], newest=await feed.newest(), broken=True, run=feed.run)
        items = await feed.read(query.after, query.limit)
        if not items and query.wait_ms and await feed.wait(query.after, query.wait_ms / 1000):
            items = await feed.read(query.after, query.limit)
        return Revocations(items=list(items), newest=await feed.newest(), run=feed.run)

    async def opened(self, caller: Caller, query: OpenedQuery) -> OpenedSessions:
        _require_service(caller)
        return await read_opened(self._stores.events, query)


def _require(caller: Caller, permission: Permission) -> None:
    """Check once more what the edge has checked: a call in this process came past no edge. Raises: Forbidden."""
    if not caller.may(permission):
        raise Forbidden(f"Your role does not grant {permission.value}.")


def _check_given_by_key(caller: Caller, role: str) -> None:
    """Let a key bring in members and guests only: with any other it would grow out of its scopes. Raises: Forbidden."""
    if caller.principal.kind == "api_key" and role not in (Role.MEMBER, Role.GUEST):
        raise Forbidden("A key brings in members and guests only.")


def _require_service(caller: Caller) -> None:
    """Raises: Forbidden unless one of our services asks on its own behalf."""
    if not caller.is_service:
        raise Forbidden("This is for services, on their own behalf.")
