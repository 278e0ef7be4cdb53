"""Signing keys of access tokens: made, published before they sign, kept until their last token has expired."""

from __future__ import annotations

from typing import Final

from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.jose import Algorithm, Key, KeySet, KeyState
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.events import Journal, Kind, Origin
from sealwire.services.auth.ports import KeyStore
from sealwire.services.auth.records import Reason, SigningKeyRecord
from sealwire.services.auth.revoker import Revoker
from sealwire.services.auth.vault import Vault

_RECORD: Final = "signing-key:"


class SigningKeys:
    """The keys in use, in memory as a KeySet; `start` loads them, or makes the first."""

    def __init__(
        self, *, store: KeyStore, vault: Vault, journal: Journal, revoker: Revoker, clock: Clock, config: AuthConfig
    ) -> None:
        self._store = store
        self._vault = vault
        self._journal = journal
        self._revoker = revoker
        self._clock = clock
        self._config = config
        self._records: dict[str, SigningKeyRecord] = {}
        self.keys = KeySet([])

    async def start(self, origin: Origin) -> None:
        """Load the keys; make one when none signs. Raises: Unavailable when crypto is out of reach."""
        await self._load()
        await self.end_sessions()
        if not any(key.state is KeyState.SIGNING for key in self.keys):
            key = self._make(KeyState.SIGNING)
            await self._put([key], origin, rotated="first")

    async def rotate(self, origin: Origin, *, compromised: bool) -> None:
        """Publish a new key; it signs after `key_publish_s`, when verifiers know it.

        A compromised key counts no longer, the new one signs at once, and every session of every tenant ends: whoever
        had the key could have stepped up in any of them.
        """
        if compromised:
            now = [key.in_state(KeyState.REVOKED) for key in self.keys if key.state is not KeyState.NEXT]
            dropped = [key.in_state(KeyState.REVOKED) for key in self.keys if key.state is KeyState.NEXT]
            await self._put(
                [*now, *dropped, self._make(KeyState.SIGNING)], origin, rotated="compromised", ends_sessions=True
            )
            await self.end_sessions()
            return
        if any(key.state is KeyState.NEXT for key in self.keys):
            return
        await self._put([self._make(KeyState.NEXT)], origin, rotated="published")
        await self.advance(origin)

    async def end_sessions(self) -> None:
        """End every session if a key was compromised and that is not done yet: also after a crash in between."""
        await self._store.end_all_sessions(lambda tenant: self._revoker.tenant(tenant, Reason.KEY))

    async def advance(self, origin: Origin) -> None:
        """Let a published key sign when it is known for long enough, and the old one retire."""
        now_us = self._clock.now_us()
        due_us = now_us - self._config.key_publish_s * US_PER_S
        ready = [k for k in self.keys if k.state is KeyState.NEXT and self._records[k.kid].created_us <= due_us]
        if not ready:
            return
        until_us = now_us + (self._config.access_ttl_s + 2 * self._config.leeway_s + 60) * US_PER_S
        old = [
            k.in_state(KeyState.RETIRING, verify_until_us=until_us) for k in self.keys if k.state is KeyState.SIGNING
        ]
        await self._put([ready[-1].in_state(KeyState.SIGNING), *old], origin, rotated="signing")

    async def forget(self, origin: Origin) -> None:
        """Destroy keys that verify nothing any more, their private halves with them."""
        now_us = self._clock.now_us()
        over = [k for k in self.keys if k.state in (KeyState.RETIRING, KeyState.REVOKED) and not k.verifies(now_us)]
        if not over:
            return
        events = [
            self._journal.event(
                Kind.KEY_ROTATED, origin, resource_type="signing_key", resource_id=key.kid, rotated="destroyed"
            )
            for key in over
        ]
        await self._store.drop_signing_keys([key.kid for key in over], events)
        gone = {key.kid for key in over}
        self._records = {kid: record for kid, record in self._records.items() if kid not in gone}
        self.keys = KeySet([key for key in self.keys if key.kid not in gone])

    async def _load(self) -> None:
        keys = []
        for record in await self._store.signing_keys():
            self._records[record.kid] = record
            pem = await self._vault.open("", _RECORD + record.kid, record.sealed_pem)
            alg, state = Algorithm(record.alg), KeyState(record.state)
            keys.append(Key.from_pem(pem, alg, kid=record.kid, state=state, verify_until_us=record.verify_until_us))
        self.keys = KeySet(keys)

    async def _put(self, keys: list[Key], origin: Origin, *, rotated: str, ends_sessions: bool = False) -> None:
        records = [await self._record(key) for key in keys]
        event = self._journal.event(
            Kind.KEY_ROTATED, origin, resource_type="signing_key", resource_id=keys[0].kid, rotated=rotated
        )
        events = [event]
        if ends_sessions:
            reason = Reason.KEY.value
            events.append(self._journal.event(Kind.SESSIONS_ENDED, origin, resource_type="installation", reason=reason))
        await self._store.put_signing_keys(records, events, ends_sessions=ends_sessions)
        self._records.update({record.kid: record for record in records})
        self.keys = KeySet({**{key.kid: key for key in self.keys}, **{key.kid: key for key in keys}}.values())

    async def _record(self, key: Key) -> SigningKeyRecord:
        known = self._records.get(key.kid)
        return SigningKeyRecord(
            kid=key.kid,
            alg=key.alg.value,
            state=key.state.value,
            sealed_pem=known.sealed_pem if known else await self._vault.seal("", _RECORD + key.kid, key.private_pem()),
            created_us=known.created_us if known else self._clock.now_us(),
            verify_until_us=key.verify_until_us,
        )

    def _make(self, state: KeyState) -> Key:
        return Key.generate(Algorithm(self._config.signing_alg), state=state)
