"""Logins: password first, second factor where one is enrolled, and the same answers to a session that steps up.

A failure says nothing: unknown tenant, unknown user, wrong password, disabled and locked account get one answer after
the same work (one password hash, one write).
"""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Final

import msgspec

from sealwire.contracts.logins import BadCredentials, Login, LoginResult, MfaAnswer, MfaFailed, PasswordChange, StepUp
from sealwire.contracts.users import WeakPassword
from sealwire.contracts.webauthn import Assertion
from sealwire.kit.caller import ANONYMOUS_TENANT, STEP_UP_WINDOW_S, Caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.problem import Invalid, StepUpRequired
from sealwire.ports.events import NewEvent
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.lockout import Lockout
from sealwire.services.auth.mfa import SecondFactors
from sealwire.services.auth.model import DEFAULT_TENANT
from sealwire.services.auth.passkey_proofs import PasskeyProofs
from sealwire.services.auth.passkey_store import Purpose
from sealwire.services.auth.password_rules import PasswordRules
from sealwire.services.auth.passwords import PasswordHasher
from sealwire.services.auth.people import People
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.records import Challenge, Cut, Reason, UserRecord
from sealwire.services.auth.revoker import Revoker
from sealwire.services.auth.sessions import SessionKeeper
from sealwire.services.auth.vault import Vault

_FAILED: Final = "E-mail or password is wrong, or the account is locked for a while."
_LATE: Final = "The code is not valid, or the login took too long; begin again."
_AMR: Final = {"totp": ("otp", "mfa"), "recovery": ("mfa",), "password": ("pwd",)}
"""RFC 8176."""


class Logins:
    """Proves who somebody is."""

    def __init__(
        self, *, stores: AuthStores, vault: Vault, hasher: PasswordHasher, rules: PasswordRules, lockout: Lockout,
        factors: SecondFactors, passkeys: PasskeyProofs, sessions: SessionKeeper, people: People, journal: Journal,
        revoker: Revoker, clock: Clock, config: AuthConfig,
    ) -> None:  # fmt: skip
        self._stores = stores
        self._vault = vault
        self._hasher = hasher
        self._rules = rules
        self._lockout = lockout
        self._factors = factors
        self._passkeys = passkeys
        self._sessions = sessions
        self._people = people
        self._journal = journal
        self._revoker = revoker
        self._clock = clock
        self._config = config

    # ---- login

    async def login(self, caller: Caller, login: Login) -> LoginResult:
        """Check the password. Raises: BadCredentials, TooManyAttempts."""
        tenant = await self._stores.tenants.find(login.tenant or DEFAULT_TENANT)
        tenant_id = tenant.tenant_id if tenant is not None else ""
        index = self._vault.email_index(tenant_id, login.email)
        async with self._lockout.login(index.hex(), caller.ip) as standing:
            user = await self._stores.users.by_email(tenant_id, index)
            check = await self._hasher.check(user.password_hash if user is not None else None, login.password)
            usable = user is not None and user.status == "active" and tenant is not None and tenant.status == "active"
            event = await self._login_failed(caller, login, tenant_id, user)
            async with self._lockout.verdict(standing) as now:
                if user is None or not check.holds or not usable or now.locked:
                    await self._lockout.fail(now, [event])
                    raise BadCredentials(_FAILED)
        if check.rehash:
            better = await self._hasher.hash(login.password)
            await self._stores.users.rehash(user.user_id, old=user.password_hash, new=better)
        if user.mfa:
            return await self._challenge(caller, user, _AMR["password"])
        granted = await self._sessions.open(
            caller, user, amr=_AMR["password"], forgive=standing.forgivable,
            failed_before=await self._lockout.failures(standing.own),
        )  # fmt: skip
        if granted is None:
            raise BadCredentials(_FAILED)
        return granted

    async def _login_failed(self, caller: Caller, login: Login, tenant_id: str, user: UserRecord | None) -> NewEvent:
        """Word the failure for the log of the tenant named; of an unknown user the address is sealed into it."""
        origin = await self._journal.origin(caller, tenant_id or ANONYMOUS_TENANT, email=login.email)
        subject_id = user.user_id if user is not None else ""
        return self._journal.event(
            Kind.LOGIN_FAILED, origin, subject_id=subject_id, outcome="failure", method="password"
        )

    async def _challenge(self, caller: Caller, user: UserRecord, amr: tuple[str, ...]) -> LoginResult:
        """Ask for the second factor, with a token that is worth nothing but that."""
        token = "swm1." + base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()
        origin = await self._journal.origin(caller, user.tenant_id)
        event = self._journal.event(Kind.MFA_WANTED, origin, subject_id=user.user_id, as_subject=True)
        challenge = Challenge(
            token_hash=_hash(token),
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            expires_us=self._clock.now_us() + self._config.mfa_ttl_s * US_PER_S,
            amr=amr,
        )
        await self._stores.mfa.challenge(challenge, [event])
        return LoginResult(mfa_required=True, mfa_token=token, methods=await self._factors.methods(user.user_id))

    async def mfa_verify(self, caller: Caller, answer: MfaAnswer) -> LoginResult:
        """Check the second factor. Raises: MfaFailed, TooManyAttempts."""
        token_hash, most, mfa = _hash(answer.mfa_token), self._config.mfa_attempts, self._stores.mfa
        waiting = await mfa.waiting(token_hash, now_us=self._clock.now_us(), most=most)
        user = await self._stores.users.get(waiting.user_id) if waiting is not None else None
        if user is None:
            raise MfaFailed(_LATE)
        async with self._lockout.proof(user.user_id) as standing:
            # Counted only now: a code that has to wait is not looked at, and must not use up the login.
            challenge = await mfa.attempt(token_hash, now_us=self._clock.now_us(), most=most)
            if challenge is None:
                raise MfaFailed(_LATE)
            proved = await self._proved(caller, user, answer.method, answer.code, Purpose.MFA, token_hash.hex())
            if proved is None:
                origin = await self._journal.origin(caller, user.tenant_id)
                event = self._journal.event(
                    Kind.MFA_FAILED, origin, subject_id=user.user_id, outcome="failure", method=answer.method,
                    failed_in_a_row=await self._lockout.failures(standing.forgivable) + 1,
                )  # fmt: skip
                await self._lockout.fail(standing, [event])
                raise MfaFailed
        if not await mfa.spend(token_hash):
            raise MfaFailed
        amr = (*challenge.amr, *proved)
        forgiven = self._lockout.full_login(user.email_index.hex(), caller.ip, user.user_id)
        granted = await self._sessions.open(
            caller, user, amr=amr, forgive=forgiven, failed_before=await self._lockout.failures(forgiven)
        )
        if granted is None:
            raise MfaFailed
        return granted

    async def admit(self, caller: Caller, user: UserRecord, *, amr: tuple[str, ...]) -> LoginResult:
        """Let in whom somebody else vouches for; a second factor of ours is asked for all the same.

        Raises: BadCredentials when they were deactivated meanwhile.
        """
        if user.mfa:
            return await self._challenge(caller, user, amr)
        granted = await self._sessions.open(caller, user, amr=amr, forgive=())
        if granted is None:
            raise BadCredentials(_FAILED)
        return granted

    # ---- again, in a session

    async def step_up(self, caller: Caller, user: UserRecord, proof: StepUp) -> LoginResult:
        """Check a fresh proof. Raises: BadCredentials, MfaFailed, TooManyAttempts, StepUpRequired, Invalid."""
        if proof.method == "password" and user.mfa:
            raise StepUpRequired("Use your second factor.", methods=await self._factors.proofs(user))
        async with self._lockout.proof(user.user_id) as standing:
            proved: tuple[str, ...] | None
            if proof.method == "password":
                if proof.password is None:
                    raise _missing("password")
                holds = (await self._hasher.check(user.password_hash, proof.password)).holds
                proved = _AMR["password"] if holds else None
            else:
                if proof.code is None:
                    raise _missing("code")
                session_id = caller.principal.session_id
                proved = await self._proved(caller, user, proof.method, proof.code, Purpose.STEP_UP, session_id)
            if proved is None:
                await self._lockout.fail(standing, [await self._proof_failed(caller, user, proof.method)])
                if proof.method == "password":
                    raise BadCredentials("The password is wrong.")
                raise MfaFailed
        # A password counts only while there is no second factor: what another one proved once is not claimed with it.
        before = caller.principal.amr if "mfa" in proved else ()
        amr = tuple(dict.fromkeys((*before, *proved)))
        return await self._sessions.prove(caller, user, amr=amr, forgive=standing.forgivable)

    async def _proved(
        self, caller: Caller, user: UserRecord, method: str, code: str | Assertion, purpose: Purpose, bound_to: str
    ) -> tuple[str, ...] | None:
        """Return what a second factor amounts to (RFC 8176); None when it does not hold."""
        if method == "passkey":
            assertion = _assertion(code)
            return await self._passkeys.holds(caller, user, assertion, purpose, bound_to) if assertion else None
        assert isinstance(code, str)  # the struct that brought it has checked that
        return _AMR[method] if await self._factors.holds(caller, user, method, code) else None

    async def require_recent(self, caller: Caller, user: UserRecord) -> None:
        """Refuse who has not proved for a while who they are, where the edge can't tell that it matters.

        Raises: StepUpRequired.
        """
        age_s = self._clock.now_us() / US_PER_S - caller.principal.auth_time_s
        lacks_factor = user.mfa and "mfa" not in caller.principal.amr
        if caller.principal.kind == "user" and (age_s > STEP_UP_WINDOW_S or lacks_factor):
            methods = await self._factors.proofs(user)
            raise StepUpRequired("Confirm your identity with POST /auth/step-up first.", methods=methods)

    async def change_password(self, caller: Caller, user: UserRecord, change: PasswordChange) -> None:
        """Change the password; the caller's session stays, all others end. Raises: BadCredentials, WeakPassword."""
        async with self._lockout.proof(user.user_id) as standing:
            if not (await self._hasher.check(user.password_hash, change.current_password)).holds:
                await self._lockout.fail(standing, [await self._proof_failed(caller, user, "password")])
                raise BadCredentials("The current password is wrong.")
        person = await self._people.person(user)
        self.require_good_password(change.new_password, person.email, person.display_name)
        if change.new_password == change.current_password:
            raise WeakPassword("The new password is the old one.", path="$.new_password")
        keep = "" if caller.principal.legacy else caller.principal.session_id
        cut = Cut(
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            reason=Reason.PASSWORD,
            revocation=self._revoker.subject(user.tenant_id, user.user_id, Reason.PASSWORD, keep_session=keep),
            keep_session=keep,
            password_hash=await self._hasher.hash(change.new_password),
            expected_hash=user.password_hash,
        )
        event = self._journal.event(
            Kind.PASSWORD_CHANGED, await self._journal.origin(caller), subject_id=user.user_id, credential="password"
        )
        if await self._stores.users.cut(cut, [event]) is None:
            raise BadCredentials("The password was changed meanwhile.")

    def require_good_password(self, password: str, *about: str, path: str = "$.new_password") -> None:
        """Refuse a weak password and say what would be better. Raises: WeakPassword."""
        weakness = self._rules.weakness(password, about=about)
        if weakness is not None:
            raise WeakPassword(weakness, path=path)

    async def _proof_failed(self, caller: Caller, user: UserRecord, method: str) -> NewEvent:
        origin = await self._journal.origin(caller)
        return self._journal.event(Kind.PROOF_FAILED, origin, subject_id=user.user_id, outcome="failure", method=method)


def _assertion(code: str | Assertion) -> Assertion | None:
    """Read an assertion that came as JSON in a text; None when it is none."""
    if isinstance(code, Assertion):
        return code
    try:
        return msgspec.json.decode(code, type=Assertion)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _missing(name: str) -> Invalid:
    return Invalid(f"This method needs `{name}`.", path=f"$.{name}")


def _hash(token: str) -> bytes:
    """Hash a token of 256 bits of chance: a fast hash is enough."""
    return hashlib.sha256(token.encode()).digest()
