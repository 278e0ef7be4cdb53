"""The crypto service: the list of its use cases."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from sealwire.contracts.ciphers import (
    Ciphertext,
    CiphertextBatch,
    Opened,
    OpenedBatch,
    Plaintext,
    PlaintextBatch,
    Sealed,
    SealedBatch,
)
from sealwire.contracts.crypto_terms import DecryptionFailed, KeyNotFound, KeyType, KeyUnusable
from sealwire.contracts.custody import HoldDesk
from sealwire.contracts.data_keys import (
    DataKey,
    DataKeyDestruction,
    DataKeyRequest,
    Destroyed,
    PlainKey,
    SystemDataKey,
    SystemDataKeyRequest,
    WrappedKey,
)
from sealwire.contracts.holds import LegalHold
from sealwire.contracts.keys import Destruction, Key, KeyChange, Keys, KeyVersion, NewKey, Rewrapped, RewrapStep
from sealwire.contracts.signatures import Signable, Signature, SignedMessage, SystemSignable, SystemSignature, Verdict
from sealwire.contracts.tenancy import QuotaSource
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock, rfc3339
from sealwire.kit.codec import Page
from sealwire.kit.cursors import read_cursor, write_cursor
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Forbidden, Invalid
from sealwire.services.crypto.ciphers import Ciphers
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.data_keys import DataKeys, system_purpose
from sealwire.services.crypto.events import key_event
from sealwire.services.crypto.jobs import Keeper
from sealwire.services.crypto.journal import UseJournal
from sealwire.services.crypto.keys import KeyChain, LiveKey
from sealwire.services.crypto.material import Material, verify_signature
from sealwire.services.crypto.model import KeyState, KeyUse, Life, TransitionRefused
from sealwire.services.crypto.ports import MASTER, KeyStore, StoredKey
from sealwire.services.crypto.provider_set import ProviderSet
from sealwire.services.crypto.providers import KeyProvider
from sealwire.services.crypto.rewrapping import Rewrapping, Tell
from sealwire.services.crypto.subjects import SubjectKeys

_WHY_NOT: Final = {
    KeyState.SCHEDULED: "The key is scheduled for destruction; cancel that first.",
    KeyState.DESTROYED: "The key is destroyed.",
}
"""Why a key's state can't be changed. From any other only a destruction that nobody scheduled can't be cancelled."""


class CryptoService:
    """`contracts.crypto.Crypto` in this process."""

    def __init__(
        self, *, store: KeyStore, provider: KeyProvider, clock: Clock, config: CryptoConfig,
        quotas: QuotaSource | None = None, holds_told: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        self._store = store
        self._providers = ProviderSet.of(provider)
        self._clock = clock
        self._config = config
        self._chain = KeyChain(store=store, provider=self._providers, clock=clock, config=config, quotas=quotas)
        self._journal = UseJournal(
            store=store,
            window_s=config.journal_window_ms / 1000,
            individually=config.journal_individually,
            limit=config.journal_limit,
        )
        self._ciphers = Ciphers(chain=self._chain, journal=self._journal, clock=clock)
        self._keeper = Keeper(
            chain=self._chain, store=store, journal=self._journal, clock=clock, config=config, holds_told=holds_told
        )
        self._data_keys = DataKeys(
            chain=self._chain, store=store, journal=self._journal, clock=clock, shred_soon=self._keeper.shred_soon
        )
        desk = HoldDesk(store.holds, clock)
        self.put_hold, self.release_hold = desk.put_hold, desk.release_hold
        subjects = SubjectKeys(store=store, data_keys=self._data_keys)
        self.export_subject, self.erase_subject = subjects.export_subject, subjects.erase_subject
        self.rectify_subject, self.restrict_subject = subjects.rectify_subject, subjects.restrict_subject
        self.probe_subject = subjects.probe_subject
        self._rewrapping = Rewrapping(chain=self._chain, store=store, providers=self._providers, clock=clock)
        self._started = False

    # ---- life

    async def start(self) -> None:
        """Prove the key-encryption key and begin to look after the keys. Raises: KekUnusable."""
        await self._providers.check()
        if absent := await self._store.kek_ids() - self._providers.kek_ids:
            await self._rewrapping.require_most(absent)
        self._keeper.start()
        self._started = True

    async def stop(self) -> None:
        """Record what was used, give unspent uses back, wipe every key, this also on a full disk. Safe to call twice.

        Raises: what the store raises.
        """
        if not self._started:
            return
        self._started = False
        await self._keeper.stop()
        try:
            await self._journal.stop()
        finally:
            try:
                await self._chain.stop()
            finally:
                self._providers.close()

    def checks(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Return what this needs to work, each with its probe."""
        return {"store": self._store.check, "key_provider": self._providers.check}

    async def destroy_due(self) -> int:
        """Destroy the keys whose time has come; return how many. The keeper does it by itself now and then."""
        return await self._keeper.destroy_due()

    # ---- moving

    async def move_to(self, provider: KeyProvider, tell: Tell) -> int:
        """Move every master key under another provider's key-encryption key. Raises: KekUnusable, Unavailable."""
        moved = await self._rewrapping.to_provider(provider, tell)
        self._keeper.shred_soon()
        return moved

    async def rewrap_all(self, caller: Caller, tell: Tell) -> int:
        """Move all keys of all tenants to the newest versions of what wraps them; returns how many moved."""
        _require_service(caller)
        moved = await self._rewrapping.all_tenants(caller, tell)
        self._keeper.shred_soon()
        return moved

    async def rewrap_keys(self, caller: Caller, step: RewrapStep) -> Rewrapped:
        _require(caller, Permission.MANAGE_KEYS)
        answer = await self._rewrapping.step(caller, step.limit)
        if answer.moved:
            self._keeper.shred_soon()
        return answer

    # ---- keys

    async def generate_key(self, caller: Caller, key: NewKey) -> Key:
        _require(caller, Permission.MANAGE_KEYS)
        return self._describe((await self._chain.create(caller, key.key_type, key.name)).stored)

    async def keys(self, caller: Caller, page: Page) -> Keys:
        _require(caller, Permission.USE_KEYS)
        found = await self._store.keys(caller.tenant_id, after=read_cursor(page.cursor), limit=page.limit + 1)
        items = [self._describe(stored) for stored in found[: page.limit]]
        return Keys(items=items, next_cursor=write_cursor(items[-1].key_id) if len(found) > page.limit else None)

    async def key(self, caller: Caller, key_id: str) -> Key:
        _require(caller, Permission.USE_KEYS)
        return self._describe((await self._chain.find(caller.tenant_id, key_id)).stored)

    async def rotate(self, caller: Caller, key_id: str) -> Key:
        _require(caller, Permission.MANAGE_KEYS)
        live = await self._chain.find(caller.tenant_id, key_id)
        with self._ciphers.refusals(caller, live, "crypto.key.rotated", live.stored.newest.version):
            return self._describe((await self._chain.rotate(caller, live)).stored)

    async def change_key(self, caller: Caller, key_id: str, change: KeyChange) -> Key:
        _require(caller, Permission.MANAGE_KEYS)
        wanted = KeyState(change.state)
        return await self._live(caller, key_id, "crypto.key.state_changed", wanted, lambda life: life.set_state(wanted))

    async def schedule_destruction(self, caller: Caller, key_id: str, destruction: Destruction) -> Key:
        _require(caller, Permission.MANAGE_KEYS)
        now_us = self._clock.now_us()
        return await self._live(
            caller,
            key_id,
            "crypto.key.destruction_scheduled",
            KeyState.SCHEDULED,
            lambda life: life.schedule(now_us=now_us, delay_days=destruction.delay_days),
        )

    async def cancel_destruction(self, caller: Caller, key_id: str) -> Key:
        _require(caller, Permission.MANAGE_KEYS)
        return await self._live(
            caller, key_id, "crypto.key.destruction_cancelled", KeyState.DISABLED, lambda life: life.cancel()
        )

    # ---- encrypt and decrypt

    async def encrypt(self, caller: Caller, key_id: str, plaintext: Plaintext) -> Sealed:
        _require(caller, Permission.USE_KEYS)
        live = await self._usable(caller, key_id, "aes-256-gcm")
        return (await self._ciphers.encrypt(caller, live, (plaintext,), "crypto.encrypt"))[0]

    async def decrypt(self, caller: Caller, key_id: str, ciphertext: Ciphertext) -> Opened:
        _require(caller, Permission.USE_KEYS)
        live = await self._usable(caller, key_id, "aes-256-gcm")
        return (await self._ciphers.decrypt(caller, live, (ciphertext,), "crypto.decrypt"))[0]

    async def encrypt_batch(self, caller: Caller, key_id: str, batch: PlaintextBatch) -> SealedBatch:
        _require(caller, Permission.USE_KEYS)
        live = await self._usable(caller, key_id, "aes-256-gcm")
        return SealedBatch(items=await self._ciphers.encrypt(caller, live, batch.items, "crypto.encrypt"))

    async def decrypt_batch(self, caller: Caller, key_id: str, batch: CiphertextBatch) -> OpenedBatch:
        _require(caller, Permission.USE_KEYS)
        live = await self._usable(caller, key_id, "aes-256-gcm")
        return OpenedBatch(items=await self._ciphers.decrypt(caller, live, batch.items, "crypto.decrypt", named=True))

    async def rewrap(self, caller: Caller, key_id: str, ciphertext: Ciphertext) -> Sealed:
        _require(caller, Permission.USE_KEYS)
        live = await self._usable(caller, key_id, "aes-256-gcm")
        opened = (await self._ciphers.decrypt(caller, live, (ciphertext,), "crypto.rewrap"))[0]
        again = Plaintext(plaintext=opened.plaintext, context=ciphertext.context)
        return (await self._ciphers.encrypt(caller, live, (again,), "crypto.rewrap"))[0]

    async def encrypt_with_master_key(self, caller: Caller, plaintext: Plaintext) -> Sealed:
        _require(caller, Permission.USE_KEYS)
        live = await self._chain.master(caller.tenant_id)
        return (await self._ciphers.encrypt(caller, live, (plaintext,), "crypto.encrypt"))[0]

    async def decrypt_with_master_key(self, caller: Caller, ciphertext: Ciphertext) -> Opened:
        live = await self._master_of(caller, (ciphertext,))
        return (await self._ciphers.decrypt(caller, live, (ciphertext,), "crypto.decrypt"))[0]

    async def encrypt_batch_with_master_key(self, caller: Caller, batch: PlaintextBatch) -> SealedBatch:
        _require(caller, Permission.USE_KEYS)
        live = await self._chain.master(caller.tenant_id)
        return SealedBatch(items=await self._ciphers.encrypt(caller, live, batch.items, "crypto.encrypt"))

    async def decrypt_batch_with_master_key(self, caller: Caller, batch: CiphertextBatch) -> OpenedBatch:
        live = await self._master_of(caller, batch.items, named=True)
        return OpenedBatch(items=await self._ciphers.decrypt(caller, live, batch.items, "crypto.decrypt", named=True))

    async def _master_of(self, caller: Caller, items: Sequence[Ciphertext], *, named: bool = False) -> LiveKey:
        """Return the master key that encrypted all of these. Raises: Forbidden, DecryptionFailed."""
        _require(caller, Permission.USE_KEYS)
        try:
            live = await self._chain.master(caller.tenant_id, make=False)
        except KeyNotFound:
            raise DecryptionFailed from None
        for place, item in enumerate(items):
            if item.key_id not in (None, live.stored.key_id):
                path = f"$.items[{place}]" if named else ""
                self._ciphers.refuse(caller, live, "crypto.decrypt", item.version, path=path)
        return live

    # ---- sign and authenticate

    async def sign(self, caller: Caller, key_id: str, message: Signable) -> Signature:
        _require(caller, Permission.USE_KEYS)
        live = await self._usable(caller, key_id, "ed25519")
        return await self._ciphers.authenticate(caller, live, message, "crypto.sign", Material.sign)

    async def hmac(self, caller: Caller, key_id: str, message: Signable) -> Signature:
        _require(caller, Permission.USE_KEYS)
        live = await self._usable(caller, key_id, "hmac-sha256")
        return await self._ciphers.authenticate(caller, live, message, "crypto.hmac", Material.tag)

    async def verify(self, caller: Caller, key_id: str, message: SignedMessage) -> Verdict:
        _require(caller, Permission.USE_KEYS)
        if message.key_id not in (None, key_id):
            raise Invalid("The signature is of another key than the one in the path.", path="$.key_id")
        live = await self._usable(caller, key_id, "ed25519", "hmac-sha256")
        text, signature = message.message, message.signature
        version = next((v for v in live.stored.versions if v.version == message.version), None)
        with self._ciphers.refusals(caller, live, "crypto.verify", message.version):
            live.require(KeyUse.PROCESS)
            if version is None:
                valid = False
            elif version.public_key is not None:
                valid = verify_signature(version.public_key, text, signature)
            else:
                valid = (await self._chain.material(live, version.version)).verify_tag(text, signature)
        self._ciphers.note(caller, live, "crypto.verify", message.version, outcome="success" if valid else "failure")
        return Verdict(valid=valid)

    # ---- data keys

    async def data_key(self, caller: Caller, key_id: str, request: DataKeyRequest) -> DataKey:
        _require(caller, Permission.USE_KEYS)
        if request.plain and not caller.is_service:
            raise Forbidden("A data key in the clear is given to services only.")
        live = await self._usable(caller, key_id, "aes-256-gcm")
        with self._ciphers.refusals(caller, live, "crypto.data_key.created"):
            made = await self._data_keys.wrap_new(caller, live, request.context, plain=request.plain)
        self._ciphers.note(caller, live, "crypto.data_key.created", made.version)
        return made

    async def system_data_key(self, caller: Caller, request: SystemDataKeyRequest) -> SystemDataKey:
        _require_service(caller)
        return await self._data_keys.current(caller, request)

    async def open_data_key(self, caller: Caller, key: WrappedKey) -> PlainKey:
        _require_service(caller)
        return await self._data_keys.open(caller, key)

    async def destroy_data_keys(self, caller: Caller, which: DataKeyDestruction) -> Destroyed:
        _require_service(caller)
        return await self._data_keys.destroy(caller, which)

    async def system_sign(self, caller: Caller, message: SystemSignable) -> SystemSignature:
        _require_service(caller)
        live = await self._chain.named(caller, system_purpose(caller.service), f"sign:{message.name}", "ed25519")
        with self._ciphers.refusals(caller, live, "crypto.sign"):
            if message.version is None or message.version == live.stored.newest.version:
                material = await self._chain.protecting(live)
            else:  # an older version vouches for its successor
                live.require(KeyUse.PROTECT)
                material = await self._chain.material(live, message.version)
        self._journal.tally(
            key_event(
                caller,
                "crypto.sign",
                key_id=live.stored.key_id,
                at_us=self._clock.now_us(),
                version=material.version,
                purpose=live.stored.purpose,
            )
        )
        public_key = next(v.public_key for v in live.stored.versions if v.version == material.version)
        return SystemSignature(
            signature=material.sign(message.message),
            public_key=public_key or b"",
            key_id=live.stored.key_id,
            version=material.version,
        )

    # ---- how

    async def _usable(self, caller: Caller, key_id: str, *types: KeyType) -> LiveKey:
        """Return a key that the caller may use for what needs one of `types`. Raises: KeyNotFound, KeyUnusable."""
        live = await self._chain.find(caller.tenant_id, key_id)
        stored = live.stored
        if stored.purpose.startswith("system:") and not (
            caller.is_service and stored.purpose == system_purpose(caller.service)
        ):
            raise KeyNotFound("There is no such key.")
        if stored.key_type not in types:
            raise KeyUnusable(f"The key is of type {stored.key_type}; this needs {' or '.join(types)}.")
        return live

    async def _live(
        self, caller: Caller, key_id: str, action: str, wanted: KeyState, change: Callable[[Life], Life]
    ) -> Key:
        """Change where a key is in its life. Raises: KeyNotFound, KeyUnusable when it can't go there."""
        live = await self._usable(caller, key_id, "aes-256-gcm", "ed25519", "hmac-sha256")
        if live.stored.purpose == MASTER:
            raise KeyUnusable("The tenant's master key wraps all its other keys; it stays enabled.")
        event = key_event(
            caller,
            action,
            key_id=key_id,
            at_us=self._clock.now_us(),
            version=live.stored.newest.version,
            detail=wanted.value,
            purpose=live.stored.purpose,
        )
        try:
            return self._describe((await self._chain.change_life(live, change, event)).stored)
        except LegalHold:
            self._ciphers.note(caller, live, action, live.stored.newest.version, outcome="denied")
            raise
        except TransitionRefused as refused:
            self._ciphers.note(caller, live, action, live.stored.newest.version, outcome="denied")
            not_scheduled = f"No destruction of the key is scheduled; it is {refused.now.value}."
            raise KeyUnusable(_WHY_NOT.get(refused.now, not_scheduled)) from None

    def _describe(self, stored: StoredKey) -> Key:
        destroy_at_us = stored.life.destroy_at_us
        master = stored.purpose == MASTER
        return Key(
            key_id=stored.key_id,
            tenant_id=stored.tenant_id,
            key_type=stored.key_type,
            state=stored.life.state.value,
            name=stored.name,
            purpose="tenant" if master else stored.purpose,
            created_at=rfc3339(stored.created_at_us),
            destroy_at=rfc3339(destroy_at_us) if destroy_at_us is not None else None,
            public_key=stored.newest.public_key,
            versions=[
                KeyVersion(
                    version=v.version, created_at=rfc3339(v.created_at_us), uses=self._chain.used(stored.key_id, v)
                )
                for v in stored.versions
            ],
        )


def _require(caller: Caller, permission: Permission) -> None:
    """Check once more what the edge has checked: a call in this process came past no edge. Raises: Forbidden."""
    if not caller.may(permission):
        raise Forbidden(f"Your role does not grant {permission.value}.")


def _require_service(caller: Caller) -> None:
    if not caller.is_service or not caller.service:
        raise Forbidden("This is for services, on their own behalf.")
