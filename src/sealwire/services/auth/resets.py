"""Resets: a forgotten password set anew by whoever reads the account's mail. The second factor stays."""

from __future__ import annotations

from typing import Final

from sealwire.contracts.audit_log import Outcome
from sealwire.contracts.credentials import ResetAsked, ResetConfirmation, ResetDone, ResetInvalid, ResetRequest
from sealwire.contracts.logins import TooManyAttempts
from sealwire.contracts.users import WeakPassword
from sealwire.kit.caller import ANONYMOUS_TENANT, Caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.problem import Conflict
from sealwire.ports.events import NewEvent
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind, Origin
from sealwire.services.auth.letters import RESET_SUBJECT, reset_text
from sealwire.services.auth.lockout import Lockout
from sealwire.services.auth.model import DEFAULT_TENANT
from sealwire.services.auth.one_time import new_token, token_hash
from sealwire.services.auth.password_rules import PasswordRules
from sealwire.services.auth.passwords import PasswordHasher
from sealwire.services.auth.people import People
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.postman import Postman
from sealwire.services.auth.records import Cut, LetterRecord, Reason, ResetRecord, UserRecord
from sealwire.services.auth.revoker import Revoker
from sealwire.services.auth.vault import Person, Vault

COUNTED_S: Final = 3_600
"""A letter counts for so long against the next ones, also when its link has ended."""
_NOBODY: Final = Person("nobody@sealwire.invalid", "Nobody")
_NOBODY_ID: Final = "nobody"


class Resets:
    """Asks for and does resets."""

    def __init__(
        self, *, stores: AuthStores, vault: Vault, people: People, hasher: PasswordHasher, rules: PasswordRules,
        lockout: Lockout, postman: Postman, journal: Journal, revoker: Revoker, clock: Clock, config: AuthConfig,
        site: str,
    ) -> None:  # fmt: skip
        self._stores = stores
        self._vault = vault
        self._people = people
        self._hasher = hasher
        self._rules = rules
        self._lockout = lockout
        self._postman = postman
        self._journal = journal
        self._revoker = revoker
        self._clock = clock
        self._config = config
        self._site = site
        self._nobody = b""

    async def ask(self, caller: Caller, request: ResetRequest) -> ResetAsked:
        """Send a letter to the address the account has. Known or not: a letter is sealed, one write is made."""
        tenant = await self._stores.tenants.find(request.tenant or DEFAULT_TENANT)
        tenant_id = tenant.tenant_id if tenant is not None else ""
        index = self._vault.email_index(tenant_id, request.email)
        user = await self._stores.users.by_email(tenant_id, index)
        usable = user is not None and user.status == "active" and tenant is not None and tenant.status == "active"
        usable = usable and user is not None and not user.service
        person = await self._person(user if usable else None)
        token = new_token("swp1")
        letter = await self._letter(tenant_id, person, token)
        origin = await self._journal.origin(caller, tenant_id or ANONYMOUS_TENANT, email=request.email)
        if user is None or not usable:
            subject_id = user.user_id if user is not None else ""
            await self._stores.resets.decline([self._asked(origin, subject_id, "failure")])
        else:
            await self._store(user, token, letter, origin)
        return ResetAsked()

    async def _person(self, user: UserRecord | None) -> Person:
        """Open whose letter it is; without anybody, somebody who stands in for them at the same cost."""
        if not self._nobody:
            self._nobody = await self._vault.seal_person("", _NOBODY_ID, _NOBODY)
        if user is not None:
            return await self._people.person(user)
        await self._vault.open_if_possible("", "user:" + _NOBODY_ID, self._nobody)
        return _NOBODY

    async def send(self, caller: Caller, user: UserRecord) -> ResetAsked:
        """Send a letter because an administrator asks for it. Raises: Conflict, TooManyAttempts."""
        if user.status != "active":
            raise Conflict("The user is disabled; enable them first.")
        token = new_token("swp1")
        letter = await self._letter(user.tenant_id, await self._people.person(user), token, by_other=True)
        if not await self._store(user, token, letter, await self._journal.origin(caller), by_other=True):
            raise TooManyAttempts("They were sent some letters already.", retry_after_s=COUNTED_S)
        return ResetAsked()

    async def _letter(self, tenant_id: str, person: Person, token: str, *, by_other: bool = False) -> LetterRecord:
        """Seal a letter to the stored address, never to one typed: two that fold into one may be two mailboxes."""
        within_s = self._config.reset_ttl_s
        text = reset_text(
            display_name=person.display_name, site=self._site, token=token, within_s=within_s, by_other=by_other
        )
        return await self._postman.seal(tenant_id, to=person.email, subject=RESET_SUBJECT, text=text)

    async def _store(
        self, user: UserRecord, token: str, letter: LetterRecord, origin: Origin, *, by_other: bool = False
    ) -> bool:
        """Store token and letter; tell whether there were not too many of them."""
        now_us = self._clock.now_us()
        reset = ResetRecord(
            token_hash=token_hash(token),
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            created_us=now_us,
            expires_us=now_us + self._config.reset_ttl_s * US_PER_S,
            by_other=by_other,
        )
        asked = await self._stores.resets.ask(
            reset, letter, most=self._config.resets_per_hour, since_us=now_us - COUNTED_S * US_PER_S,
            events=[self._asked(origin, user.user_id, "success")],
            refused_events=[self._asked(origin, user.user_id, "denied")],
        )  # fmt: skip
        if asked:
            self._postman.wake()
        return asked

    def _asked(self, origin: Origin, subject_id: str, outcome: Outcome) -> NewEvent:
        return self._journal.event(Kind.RESET_ASKED, origin, subject_id=subject_id, outcome=outcome)

    async def confirm(self, caller: Caller, confirmation: ResetConfirmation) -> ResetDone:
        """Set the password; all sessions end, locks go. A weak password leaves the token as it is.

        Raises: ResetInvalid, WeakPassword.
        """
        spent = token_hash(confirmation.token)
        reset = await self._stores.resets.find(spent, self._clock.now_us())
        user = await self._stores.users.get(reset.user_id) if reset is not None else None
        tenant = await self._stores.tenants.find(user.tenant_id) if user is not None else None
        if user is None or user.status != "active" or tenant is None or tenant.status != "active":
            raise ResetInvalid
        person = await self._people.person(user)
        weakness = self._rules.weakness(confirmation.new_password, about=(person.email, person.display_name))
        if weakness is not None:
            raise WeakPassword(weakness, path="$.new_password")
        cut = Cut(
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            reason=Reason.RESET,
            revocation=self._revoker.subject(user.tenant_id, user.user_id, Reason.RESET),
            password_hash=await self._hasher.hash(confirmation.new_password),
            spends_reset=spent,
        )
        event = self._journal.event(
            Kind.PASSWORD_RESET, await self._journal.origin(caller, user.tenant_id), subject_id=user.user_id,
            as_subject=True, credential="password",
        )  # fmt: skip
        if await self._stores.users.cut(cut, [event]) is None:
            raise ResetInvalid
        await self._lockout.forgive_login(user.email_index.hex(), caller.ip)
        return ResetDone()
