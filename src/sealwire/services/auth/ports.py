"""What auth asks of storage and of key management.

Everywhere: `events` go into the outbox in the same transaction as the change, so neither exists without the other, and
what a method returns after a change is durable. Embedded: one SQLite file, one writer, synchronous=FULL. MongoDB: one
multi-document transaction per method with majority write and read concern; where a method says "atomic" about what it
read, the read is in that transaction and a write conflict tries the transaction again (callables given may then be
called again, so they are pure). Nothing here is ever answered from Redis: it caches sessions elsewhere and is no
authority.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from sealwire.contracts.revocations import Revocation
from sealwire.contracts.tenancy import Quotas
from sealwire.ports.events import EventFeed, NewEvent, Positions
from sealwire.services.auth.address_store import EmailChangeStore
from sealwire.services.auth.external_records import IdentityRecord, IdentityStore
from sealwire.services.auth.legacy_ports import LegacyStore
from sealwire.services.auth.model import Counted, Failures, Rotation
from sealwire.services.auth.openid_ports import OpenIdStores
from sealwire.services.auth.passkey_store import PasskeyStore, Removal
from sealwire.services.auth.records import (
    ApiKeyRecord,
    Challenge,
    Cut,
    InvitationRecord,
    LetterRecord,
    NewRevocation,
    ResetRecord,
    SessionRecord,
    SigningKeyRecord,
    TenantRecord,
    TotpRecord,
    UserRecord,
)
from sealwire.services.auth.retention import SessionKeeping
from sealwire.services.auth.subject_ports import SubjectStore

EventsOf = Callable[[UserRecord], Sequence[NewEvent]]


class Sealer(Protocol):
    """Seals under data keys of this service (the key ring of `clients/crypto.py`). May raise Unavailable."""

    async def seal(self, tenant_id: str, scope: str, subject_id: str, plaintext: bytes, aad: bytes) -> bytes:
        """Return the envelope."""

    async def open(self, tenant_id: str, scope: str, subject_id: str, envelope: bytes, aad: bytes) -> bytes:
        """Return the plaintext. Raises: EnvelopeRefused, DecryptionFailed, KeyUnusable."""

    async def destroy(self, tenant_id: str, *, scope: str = "", subject_id: str = "") -> int:
        """Destroy the data keys of a scope for good."""


class TenantStore(Protocol):
    """Tenants. MongoDB: unique index on `slug`."""

    async def add(self, tenant: TenantRecord, events: Sequence[NewEvent]) -> TenantRecord:
        """Store a tenant; when the slug is taken return the one that has it and store nothing."""

    async def find(self, id_or_slug: str) -> TenantRecord | None:
        """Return the tenant of that id, or else of that slug."""

    async def made_before(self, slug_prefix: str, before_us: int, limit: int) -> Sequence[TenantRecord]:
        """Return tenants with such a slug that are older."""

    async def page(self, after: str, limit: int) -> Sequence[TenantRecord]:
        """Return tenants in the order of their ids, from above `after`."""

    async def change(
        self, tenant_id: str, *, name: str | None, quotas: Callable[[Quotas], Quotas], events: Sequence[NewEvent]
    ) -> TenantRecord | None:
        """Rename a tenant, let `quotas` make its quotas of those it has. Atomic. None when there is no such tenant."""

    async def suspend(
        self, tenant_id: str, revocation: NewRevocation, events: Sequence[NewEvent]
    ) -> TenantRecord | None:
        """Suspend a tenant and put `revocation` into the feed; one that is suspended stays so, without another entry.

        Status and revocation are one transaction: from then on nothing of the tenant can be used. Epochs are raised,
        sessions and keys ended in chunks before it returns; after a crash `sweep` or `resume` does what is left over.
        """

    async def resume(self, tenant_id: str, events: Sequence[NewEvent]) -> TenantRecord | None:
        """Let people of a suspended tenant log in again. What they had before stays ended."""

    async def remove(self, tenant_id: str, revocation: NewRevocation, events: Sequence[NewEvent]) -> bool:
        """Delete the tenant with its users, credentials and sessions, and put `revocation` into the feed. Atomic.

        Returns whether it was there. Large tenants: the revocation and the tenant go first in one transaction, so that
        nothing of it can be used, and the rest follows in chunks; after a crash `sweep` deletes what is left over.
        """


class UserStore(Protocol):
    """Users and their epoch. MongoDB: unique index on (tenant_id, email_index)."""

    async def add(
        self, user: UserRecord, *, most: int, claim_owner: bool, needs_claim: bool, events_of: EventsOf,
        spends_invitation: str = "", identity: IdentityRecord | None = None,
    ) -> UserRecord:  # fmt: skip
        """Store a user; with `claim_owner`, the tenant's first one becomes its owner. Atomic.

        The tenant's flag `owner_claimed` is read and set in the same transaction, so two first registrations make one
        owner (MongoDB: a conditional update of the tenant's document). `needs_claim`: refuse when the flag is set.
        `spends_invitation`: the id of an invitation that is used up by it, and by one registration only.
        `identity`: an identity elsewhere that is linked to the user with it.
        Raises: EmailTaken; QuotaExceeded past `most` users; RegistrationClosed; InvitationInvalid when it is gone;
        IdentityTaken.
        """

    async def by_email(self, tenant_id: str, email_index: bytes) -> UserRecord | None:
        """Return the user with that address."""

    async def get(self, user_id: str) -> UserRecord | None:
        """Return a user."""

    async def first_owner(self, tenant_id: str) -> str | None:
        """Return the id of the tenant's oldest active owner."""

    async def many(self, tenant_id: str, user_ids: Sequence[str]) -> Sequence[UserRecord]:
        """Return those of the users that are in the tenant, in any order."""

    async def page(self, tenant_id: str, after: str, limit: int) -> Sequence[UserRecord]:
        """Return users of the tenant in the order of their ids, from above `after`."""

    async def set_sealed(
        self, user_id: str, sealed: bytes, events: Sequence[NewEvent], *, expected: bytes
    ) -> UserRecord | None:
        """Replace the sealed profile; None when it is not the `expected` one any more, or there is no such user.

        While a hold covers the user the former one is kept, here and in `cut`, until the sweep after the release.
        """

    async def rehash(self, user_id: str, *, old: str, new: str) -> None:
        """Replace a password's hash by one with better parameters, unless the password was changed meanwhile."""

    async def cut(self, cut: Cut, events: Sequence[NewEvent]) -> UserRecord | None:
        """THE choke point of deactivation: role, status and password change here and nowhere else. Atomic.

        Applies the change, raises the user's epoch by one, ends the user's sessions but `keep_session`, and puts the
        revocation (with the new epoch) into the feed. Returns the user afterwards; None when there is no such user in
        the tenant, or what is expected of it holds no more, or `spends_reset` or `spends_email_change` can't be spent.
        A new password or address and a disabled account end every reset token and every change of address that waits,
        and a new role those changes; what the user asked for of others ends with a new role and with the sessions;
        what ends sessions ends API keys too. `drops_factors` deletes every second factor with its recovery codes.
        A user who is restricted is changed only when `from_status` says so.
        Raises: LastOwner when the change would leave the tenant without an active owner; EmailTaken.
        """


class SessionStore(Protocol):
    """Sessions, the only authority for them. MongoDB: a document per session, family included; indexes on `user_id`
    and `expires_us`."""

    async def open(
        self, session: SessionRecord, *, place: bytes, most: int, forgive: Sequence[bytes],
        revoke: Callable[[str], NewRevocation], events: Sequence[NewEvent], ended_event: Callable[[str], NewEvent],
    ) -> bool:  # fmt: skip
        """Store a session, opened at `place`, and forget the failures under the keys `forgive`. Atomic.

        The user must be active and at the session's epoch, else nothing is stored and False returned: a login that was
        decided before a deactivation doesn't survive it. Past `most` live sessions the one unused for longest ends,
        with `revoke(session_id)` in the feed.
        """

    async def get(self, session_id: str) -> tuple[SessionRecord, UserRecord, TenantRecord] | None:
        """Return a session with its user and tenant, ended or not."""

    async def is_open_at(self, place: bytes, now_us: int) -> bool:
        """Whether a session that lives was opened at that place."""

    async def live(self, user_id: str, now_us: int, *, after: str, limit: int) -> Sequence[SessionRecord]:
        """Return the user's sessions that have not ended, newest first, from below the session `after`."""

    async def rotate(
        self, session_id: str, judge: Callable[[SessionRecord], Rotation], *, now_us: int, expires_us: int,
        sealed_origin: bytes, reused: NewRevocation, events: Sequence[NewEvent], reused_events: Sequence[NewEvent],
    ) -> tuple[SessionRecord, Rotation] | None:  # fmt: skip
        """Let `judge` decide about a refresh token and store the family afterwards. Atomic.

        ROTATE and REPEAT: seen now (and with `events` for ROTATE). REUSED: the session ends, `reused` goes into the
        feed. None when the session is unknown, ended or expired, or its user isn't active; `judge` is not asked then.
        """

    async def prove(self, session_id: str, *, auth_us: int, amr: tuple[str, ...], forgive: Sequence[bytes],
                    events: Sequence[NewEvent]) -> SessionRecord | None:  # fmt: skip
        """Note a fresh proof of identity. None when the session has ended."""

    async def end(self, session_id: str, user_id: str, revocation: NewRevocation, events: Sequence[NewEvent]) -> bool:
        """End one session of the user. Returns whether it lived; one that did not leaves no trace."""

    async def touch(self, seen: Sequence[tuple[str, int]]) -> None:
        """Move the last use of sessions, and of API keys by their ids, forward, never back."""


class RevocationStore(Protocol):
    """The numbered feed of what ended. Ordered and durable as in `ports.events.EventFeed`; MongoDB alike.

    `run` is an id of this opening of the storage; another copy can't be in its place before the next one.
    """

    run: str

    async def append(self, revocation: NewRevocation, events: Sequence[NewEvent]) -> int:
        """Add an entry that changes nothing else (a token, a legacy session); return its number."""

    async def read(self, after: int, limit: int) -> Sequence[Revocation]:
        """Return entries in order. Entries that can't matter any more may be missing, but for the newest of all."""

    async def holds(self, number: int, change_id: str) -> bool:
        """Whether the entry of this number is that change: otherwise this is not the feed that had it."""

    async def wait(self, after: int, timeout_s: float) -> bool:
        """Return True as soon as there is an entry above `after`; woken right after the commit."""

    async def newest(self) -> int:
        """Return the number of the newest entry ever."""

    async def has_token(self, token_id: str) -> bool:
        """Whether the feed holds a revocation of this `jti`."""


class AttemptStore(Protocol):
    """Failures by key. Keys are hashes, so that no address is stored in the clear. MongoDB: documents with a TTL."""

    async def locked_until(self, keys: Sequence[bytes]) -> Sequence[int]:
        """Return for each key until when it is locked (us), 0 if it isn't."""

    async def fail(self, under: Sequence[Counted], *, now_us: int, events: Sequence[NewEvent]) -> Sequence[Failures]:
        """Count a failure under each (`model.one_more`). Atomic."""

    async def failures(self, keys: Sequence[bytes], since_us: int) -> int:
        """Return the largest count under any of the keys whose last failure is newer than `since_us`."""

    async def forgive(self, keys: Sequence[bytes]) -> None:
        """Forget the failures under the keys."""


class MfaStore(Protocol):
    """Second factors. MongoDB: conditional updates, as each method says."""

    async def challenge(self, challenge: Challenge, events: Sequence[NewEvent]) -> None:
        """Store a login that waits for its second factor."""

    async def attempt(self, token_hash: bytes, *, now_us: int, most: int) -> Challenge | None:
        """Count an attempt on a challenge and return it; None when unknown, expired or out of attempts. Atomic."""

    async def waiting(self, token_hash: bytes, *, now_us: int, most: int) -> Challenge | None:
        """Return a challenge that can still be answered, without counting an attempt."""

    async def spend(self, token_hash: bytes) -> bool:
        """Delete the challenge; True for exactly one caller (it is what makes a challenge single-use)."""

    async def totp(self, user_id: str) -> TotpRecord | None:
        """Return the user's authenticator app."""

    async def enroll(self, user_id: str, pending_sealed: bytes, until_us: int, events: Sequence[NewEvent]) -> None:
        """Store a secret that waits to be confirmed, beside one in use."""

    async def confirm(
        self, user_id: str, *, pending_sealed: bytes, step: int, recovery: Sequence[bytes], events: Sequence[NewEvent]
    ) -> bool:
        """Put the pending secret into use, with fresh recovery codes; False when it is no longer that one. Atomic."""

    async def has_recovery(self, user_id: str) -> bool:
        """Whether a recovery code is left."""

    async def use_step(self, user_id: str, step: int) -> bool:
        """Mark a time step as used: True for exactly one caller per step, and never for an older one. Atomic."""

    async def use_recovery(self, user_id: str, code_hash: bytes, events: Sequence[NewEvent]) -> bool:
        """Use up a recovery code: True for exactly one caller (and only then `events` are stored). Atomic."""

    async def renew_recovery(self, user_id: str, recovery: Sequence[bytes], events: Sequence[NewEvent]) -> bool:
        """Replace the recovery codes of a user who has a second factor, usable or not; False without one. Atomic."""

    async def remove(self, user_id: str, *, keeps_a_factor: bool, events: Sequence[NewEvent]) -> Removal:
        """Delete the authenticator app; with the last second factor the recovery codes go too. Atomic.

        `keeps_a_factor`: not when no usable passkey would be left.
        """


class ResetStore(Protocol):
    """Reset tokens, by hash. MongoDB: documents with a TTL, index on `user_id`. Spent by `UserStore.cut`."""

    async def ask(
        self, reset: ResetRecord, letter: LetterRecord, *, most: int, since_us: int, events: Sequence[NewEvent],
        refused_events: Sequence[NewEvent],
    ) -> bool:  # fmt: skip
        """Store a token and its letter, unless the user was given `most` since `since_us` of which one still works.
        Atomic.

        Those that administrators had sent (`by_other`) and all others count each for themselves.
        Returns whether the letter goes out; if not, `refused_events` are stored instead.
        """

    async def decline(self, events: Sequence[NewEvent]) -> None:
        """Store the events alone: what is done for an address that nobody has."""

    async def find(self, token_hash: bytes, now_us: int) -> ResetRecord | None:
        """Return the live token of that hash."""


class InvitationStore(Protocol):
    """Invitations. MongoDB: unique index on (tenant_id, email_index). Spent by `UserStore.add`."""

    async def add(
        self, invitation: InvitationRecord, letter: LetterRecord, *, most: int, events: Sequence[NewEvent]
    ) -> None:
        """Store an invitation and its letter; it replaces an older one to the address. Atomic.

        Raises: QuotaExceeded past `most` open ones in the tenant.
        """

    async def find(self, token_hash: bytes, now_us: int) -> InvitationRecord | None:
        """Return the open invitation of that hash."""

    async def page(self, tenant_id: str, after: str, limit: int, now_us: int) -> Sequence[InvitationRecord]:
        """Return open invitations in the order of their ids, from above `after`."""

    async def remove(self, tenant_id: str, invitation_id: str, events: Sequence[NewEvent]) -> bool:
        """Withdraw one; False when there is none."""


class ApiKeyStore(Protocol):
    """API keys. MongoDB: unique index on `prefix`, indexes on `owner_id` and `tenant_id`."""

    async def add(self, key: ApiKeyRecord, *, most: int, events: Sequence[NewEvent]) -> None:
        """Store a key. Atomic. Raises: Conflict unless its owner is active and at its epoch; QuotaExceeded."""

    async def by_prefix(self, prefix: str, now_us: int) -> ApiKeyRecord | None:
        """Return the live key that begins so."""

    async def get(self, key_id: str, now_us: int) -> ApiKeyRecord | None:
        """Return a live key."""

    async def page(self, tenant_id: str, after: str, limit: int, now_us: int) -> Sequence[ApiKeyRecord]:
        """Return live keys in the order of their ids, from above `after`."""

    async def ending(self, now_us: int, *, before_us: int, least_life_us: int, limit: int) -> Sequence[ApiKeyRecord]:
        """Return live keys that end before `before_us`, made for `least_life_us` or longer, nobody was reminded of."""

    async def reminded(self, key_id: str, at_us: int, events: Sequence[NewEvent]) -> bool:
        """Note that somebody was reminded of a key that lives. Atomic; True for exactly one caller."""

    async def end(self, key_id: str, revocation: NewRevocation, events: Sequence[NewEvent]) -> bool:
        """End a key, with `revocation` in the feed. Atomic. Returns whether it lived."""


class LetterStore(Protocol):
    """Letters that wait to be handed over. They are stored by whoever writes them, with what they are about."""

    async def of(self, tenant_id: str, after: str, limit: int) -> Sequence[LetterRecord]:
        """Return the tenant's letters in the order of their ids, from above `after`, due or not."""

    async def tell(self, letters: Sequence[LetterRecord], consumer: str, position: int) -> None:
        """Store letters that a consumer of the outbox wrote, and how far it came by that. Atomic.

        A letter that is there already stays as it is.
        """

    async def due(self, now_us: int, limit: int) -> Sequence[LetterRecord]:
        """Return letters whose time has come, the earliest first."""

    async def done(self, letter_id: str, events: Sequence[NewEvent]) -> None:
        """Forget a letter: it was handed over, or never will be."""

    async def later(self, letter_id: str, due_us: int) -> None:
        """Count an attempt and try again at that time."""


class KeyStore(Protocol):
    """Signing keys and our own secrets, sealed."""

    async def signing_keys(self) -> Sequence[SigningKeyRecord]:
        """Return all signing keys, oldest first."""

    async def put_signing_keys(
        self, keys: Sequence[SigningKeyRecord], events: Sequence[NewEvent], *, ends_sessions: bool = False
    ) -> None:
        """Store or replace keys. Atomic. `ends_sessions`: note with it that every session has yet to be ended."""

    async def drop_signing_keys(self, kids: Sequence[str], events: Sequence[NewEvent]) -> None:
        """Delete keys for good. Atomic."""

    async def end_all_sessions(self, revocations: Callable[[str], NewRevocation]) -> int:
        """End every session of every tenant, with an entry per tenant in the feed, where that was noted.

        In chunks, each with how far it came; after a crash it goes on there. Returns how many tenants.
        """

    async def secret(self, name: str, made: Callable[[], bytes]) -> bytes:
        """Return the secret of that name, storing `made()` when there is none. Atomic: two callers get one secret."""


class Upkeep(Protocol):
    """What is done now and then, in short steps."""

    async def sweep(self, *, now_us: int, over_before_us: int, attempts_before_us: int) -> int:
        """Delete a chunk of what is over and not held: sessions and keys over before `over_before_us`, failures counted
        before `attempts_before_us`, challenges past their time, feed entries that can't matter any more, what is left
        of removed tenants. Returns how many rows; 0 when there is no more.
        """

    async def trim(self, before_us: int) -> int:
        """Delete events older than that which every consumer has passed."""

    async def probe(self) -> None:
        """Do nothing, durably. Raises: when storage does not work."""


class AuthStores(msgspec.Struct, frozen=True, kw_only=True):
    """All of auth's storage: one family's stores over one place, with its outbox and consumers' positions."""

    tenants: TenantStore
    users: UserStore
    sessions: SessionStore
    revocations: RevocationStore
    attempts: AttemptStore
    mfa: MfaStore
    passkeys: PasskeyStore
    resets: ResetStore
    email_changes: EmailChangeStore
    invitations: InvitationStore
    letters: LetterStore
    api_keys: ApiKeyStore
    subjects: SubjectStore
    legacy: LegacyStore
    openid: OpenIdStores
    identities: IdentityStore
    keys: KeyStore
    keeping: SessionKeeping
    upkeep: Upkeep
    events: EventFeed
    positions: Positions
