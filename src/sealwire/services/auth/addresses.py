"""Addresses: an e-mail address changes once the new one is proved; until then the old one holds, and hears of it."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from sealwire.contracts.addresses import EmailChangeAsked, EmailChanged, EmailChangeInvalid
from sealwire.contracts.logins import TooManyAttempts
from sealwire.contracts.users import EmailTaken
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.permission import GRANTS, Permission
from sealwire.kit.problem import Invalid
from sealwire.services.auth.address_store import EmailChangeRecord
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.letters import EMAIL_SUBJECT, email_text
from sealwire.services.auth.model import may_act_on
from sealwire.services.auth.one_time import new_token, token_hash
from sealwire.services.auth.people import People
from sealwire.services.auth.ports import AuthStores
from sealwire.services.auth.postman import Postman
from sealwire.services.auth.records import Cut, Reason, UserRecord
from sealwire.services.auth.revoker import Revoker
from sealwire.services.auth.vault import Person, Vault

_HOUR_S: Final = 3_600
_TRIES: Final = 3
FORMER_KEPT: Final = 8
"""Addresses remembered with a person, sealed, so that an erasure finds the letters that went to them."""


class BesideAddresses(NamedTuple):
    """Addresses of a person besides the one they have: that they had; that they, or others for them, asked for and
    nobody proved. `own` are those of both that aren't somebody else's by now: letters to these are to the person.
    """

    former: tuple[str, ...]
    unproved: tuple[str, ...]
    own: tuple[str, ...]


class AddressBook:
    """Asks for and does changes of addresses."""

    def __init__(
        self, *, stores: AuthStores, vault: Vault, people: People, postman: Postman, journal: Journal,
        revoker: Revoker, clock: Clock, config: AuthConfig, site: str,
    ) -> None:  # fmt: skip
        self._stores = stores
        self._vault = vault
        self._people = people
        self._postman = postman
        self._journal = journal
        self._revoker = revoker
        self._clock = clock
        self._config = config
        self._site = site

    async def ask(self, caller: Caller, user: UserRecord, email: str) -> EmailChangeAsked:
        """Send a letter to the address wanted. Whoever asks for themself is not told whether somebody has it.

        Raises: Invalid, TooManyAttempts; EmailTaken to an administrator, who sees all addresses anyway.
        """
        if (await self._people.person(user)).email == email:
            raise Invalid("That is the address already.", path="$.email")
        index, now_us = self._vault.email_index(user.tenant_id, email), self._clock.now_us()
        other = await self._stores.users.by_email(user.tenant_id, index)
        taken = other is not None and other.user_id != user.user_id
        if taken and caller.user_id != user.user_id:
            raise EmailTaken("Another user of the tenant has this address.")
        token = new_token("swe1")
        record = EmailChangeRecord(
            token_hash=token_hash(token),
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            asked_by=caller.user_id,
            email_index=index,
            sealed=await self._vault.seal(user.tenant_id, _record(user.user_id), email.encode()),
            created_us=now_us,
            expires_us=now_us + self._config.email_change_ttl_s * US_PER_S,
        )
        text = email_text(site=self._site, token=token, within_s=self._config.email_change_ttl_s)
        letter = await self._postman.seal(user.tenant_id, to=email, subject=EMAIL_SUBJECT, text=text)
        # The event is the same as well: its notice comes to who asks, and its record is in their export.
        event = self._journal.event(
            Kind.EMAIL_CHANGE_ASKED, await self._journal.origin(caller, user.tenant_id), subject_id=user.user_id
        )
        # One letter or none, one write: what somebody who asks for themself sees is the same.
        asked = await self._stores.email_changes.ask(
            record, None if taken else letter, most=self._config.email_changes_per_hour,
            since_us=now_us - _HOUR_S * US_PER_S, events=[event],
        )  # fmt: skip
        if not asked:
            raise TooManyAttempts("You asked for it some times already.", retry_after_s=_HOUR_S)
        self._postman.wake()
        return EmailChangeAsked()

    async def beside(self, user: UserRecord, person: Person) -> BesideAddresses:
        """Return the addresses that letters may have gone to, besides the one there is."""
        former, asked = dict.fromkeys(person.former), dict[str, None]()
        for change in await self._stores.email_changes.of(user.user_id):
            sealed = await self._vault.open_if_possible(user.tenant_id, _record(user.user_id), change.sealed)
            if sealed is not None:
                (former if change.proved else asked).setdefault(sealed.decode())
        former.pop(person.email, None)
        unproved = tuple(email for email in asked if email != person.email and email not in former)
        own = [email for email in (*former, *unproved) if await self._is_nobody_elses(user, email)]
        return BesideAddresses(former=tuple(former), unproved=unproved, own=tuple(own))

    async def _is_nobody_elses(self, user: UserRecord, email: str) -> bool:
        other = await self._stores.users.by_email(user.tenant_id, self._vault.email_index(user.tenant_id, email))
        return other is None or other.user_id == user.user_id

    async def confirm(self, caller: Caller, token: str) -> EmailChanged:
        """Let the new address hold; what is cached of the person is looked at anew, sessions go on.

        Raises: EmailChangeInvalid, EmailTaken.
        """
        spent = token_hash(token)
        for _ in range(_TRIES):  # a name that is changed at the same moment is not lost
            change = await self._stores.email_changes.find(spent, self._clock.now_us())
            user = await self._stores.users.get(change.user_id) if change is not None else None
            tenant = await self._stores.tenants.find(user.tenant_id) if user is not None else None
            if change is None or user is None or user.status != "active":
                break
            if tenant is None or tenant.status != "active" or not await self._is_entitled(change.asked_by, user):
                break
            email = (await self._vault.open(user.tenant_id, _record(user.user_id), change.sealed)).decode()
            if await self._change(caller, user, email, spent):
                return EmailChanged()
        raise EmailChangeInvalid

    async def _is_entitled(self, asked_by: str, user: UserRecord) -> bool:
        """Whether who asked may still do so. What changes after this looked voids the change in that transaction."""
        if asked_by == user.user_id:
            return True
        asker = await self._stores.users.get(asked_by)
        if asker is None or asker.tenant_id != user.tenant_id or asker.status != "active":
            return False
        return Permission.MANAGE_USERS in GRANTS[asker.role] and may_act_on(by=asker.role, of=user.role)

    async def _change(self, caller: Caller, user: UserRecord, email: str, spent: bytes) -> bool:
        before = await self._people.person(user)
        cut = Cut(
            tenant_id=user.tenant_id,
            user_id=user.user_id,
            reason=Reason.EMAIL,
            revocation=self._revoker.role(user.tenant_id, user.user_id, Reason.EMAIL),
            ends_sessions=False,
            expected_sealed=user.sealed,
            sealed=await self._vault.seal_person(user.tenant_id, user.user_id, moved(before, email)),
            email_index=self._vault.email_index(user.tenant_id, email),
            spends_email_change=spent,
        )
        event = self._journal.event(
            Kind.EMAIL_CHANGED, await self._journal.origin(caller, user.tenant_id, email_before=before.email),
            subject_id=user.user_id, as_subject=True,
        )  # fmt: skip
        return await self._stores.users.cut(cut, [event]) is not None


def moved(person: Person, email: str) -> Person:
    """Return a person with another address, who can still be found where letters to the old one lie."""
    former = tuple(dict.fromkeys(known for known in (person.email, *person.former) if known != email))[:FORMER_KEPT]
    return msgspec.structs.replace(person, email=email, former=former)


def _record(user_id: str) -> str:
    return "email-change:" + user_id
