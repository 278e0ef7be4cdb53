"""Data keys: of services, one per context and kept here so that it can be destroyed; of tenants, wrapped ones."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import Final, NoReturn

from sealwire.contracts.crypto_terms import DataKeyDestroyed, DecryptionFailed, KeyDamaged, KeyNotFound
from sealwire.contracts.data_keys import (
    DATA_KEY_USES,
    DataKey,
    DataKeyDestruction,
    Destroyed,
    PlainKey,
    SystemDataKey,
    SystemDataKeyRequest,
    WrappedKey,
)
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.envelopes import EnvelopeRefused, bind, canonical_context, draw_key, wipe, wiping
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Invalid
from sealwire.services.crypto.events import KeyEvent, Outcome, key_event
from sealwire.services.crypto.journal import UseJournal
from sealwire.services.crypto.keys import KeyChain, LiveKey
from sealwire.services.crypto.model import ROTATE_AT_USES, KeyUse, allows
from sealwire.services.crypto.ports import KeyStore, StoredDataKey

_ID_CHARS: Final = 36
_FORMAT: Final = b"\x01"
_VERSION_AT: Final = 17
_ENVELOPE_AT: Final = 21
DATA: Final = "data"
"""The name of the key that wraps a service's data keys."""
_OPENED: Final = "crypto.data_key.opened"
_LOADED: Final = "crypto.data_key.loaded"
_log = logging.getLogger("sealwire.crypto")


def system_purpose(service: str) -> str:
    """Return the purpose of a service's own keys."""
    return f"system:{service}"


class DataKeys:
    """Makes, opens and destroys data keys."""

    def __init__(
        self, *, chain: KeyChain, store: KeyStore, journal: UseJournal, clock: Clock, shred_soon: Callable[[], None]
    ) -> None:
        """`shred_soon` removes what was destroyed from the files too, off the caller's path."""
        self._chain = chain
        self._store = store
        self._journal = journal
        self._clock = clock
        self._shred_soon = shred_soon

    async def current(self, caller: Caller, request: SystemDataKeyRequest) -> SystemDataKey:
        """Return the current data key of a service's context with `DATA_KEY_USES` more uses granted.

        One whose row is damaged is followed by a new one: what it protects waits for the row, what comes does not.
        """
        purpose = system_purpose(caller.service)
        live = await self._chain.named(caller, purpose, DATA, "aes-256-gcm")
        with self._refusals(caller, _LOADED, live.stored.key_id, 0, purpose):
            if not allows(live.stored.life.state, KeyUse.PROTECT):  # nobody can have switched it off but in the file
                await self._chain.refresh(live)
            live.require(KeyUse.PROTECT)
        digest = sha256(canonical_context(request.context)).digest()
        fresh = request.fresh
        while True:
            stored = await self._store.current_data_key(caller.tenant_id, caller.service, digest)
            if stored is None or fresh or stored.reserved_uses + DATA_KEY_USES > ROTATE_AT_USES:
                with self._refusals(caller, _LOADED, live.stored.key_id, 0, purpose):
                    made = await self._make(caller, live, request.context, digest, stored)
                if made is not None:
                    return made
                fresh = False  # another call made one at the same time
                continue
            event = self._event(caller, _LOADED, stored)
            if await self._store.grant_uses(stored.data_key_id, DATA_KEY_USES, event):
                try:
                    with self._refusals(caller, _LOADED, stored.key_id, stored.version, purpose):
                        return _data_key(stored, await self._unwrap(live, stored))
                except (DecryptionFailed, KeyDamaged, KeyNotFound):
                    _log.error("data key %s does not open: its row was changed; a new one follows", stored.data_key_id)
                    fresh = True

    async def open(self, caller: Caller, key: WrappedKey) -> PlainKey:
        """Return a data key in the clear. Raises: DecryptionFailed, KeyUnusable, KeyDamaged."""
        if len(key.wrapped) != _ID_CHARS:
            return await self._open_wrapped(caller, key)
        stored = await self._store.data_key(caller.tenant_id, caller.service, key.wrapped)
        if stored is None:
            self._refuse(caller)
        with self._refusals(caller, _OPENED, stored.key_id, stored.version, system_purpose(stored.service)):
            if sha256(canonical_context(key.context)).digest() != stored.context_digest:
                raise DecryptionFailed
            if stored.wrapped is None:
                raise DataKeyDestroyed
            live = await self._chain.find(caller.tenant_id, stored.key_id)
            live.require(KeyUse.PROCESS)
            plain = await self._unwrap(live, stored)
        return self._hand_out(plain, self._event(caller, _OPENED, stored))

    async def destroy(self, caller: Caller, which: DataKeyDestruction) -> Destroyed:
        """Destroy a service's data keys by scope or subject. Raises: LegalHold; Invalid when neither is given."""
        if not which.scope and not which.subject_id:
            raise Invalid("Name the subject_id or the scope whose data keys are to be destroyed.", path="$")
        event = key_event(
            caller,
            "crypto.data_key.destroyed",
            key_id=DATA,
            at_us=self._clock.now_us(),
            purpose=system_purpose(caller.service),
            detail=which.scope,
            subject_id=which.subject_id,
        )
        try:
            count, kept, spared = await self._store.destroy_data_keys(
                caller.tenant_id,
                caller.service,
                scope=which.scope,
                subject_id=which.subject_id,
                spare_held=which.spare_held,
                spare=which.spare_scopes,
                event=event,
            )
        except asyncio.CancelledError:  # who asked gave up; it is, or will be, done
            self._shred_soon()
            raise
        if count:  # a kill before this: the next start shreds
            self._shred_soon()
        return Destroyed(destroyed=count, kept=len(kept) + spared, kept_scopes=sorted(set(kept) - {""}))

    async def wrap_new(self, caller: Caller, live: LiveKey, context: dict[str, str], *, plain: bool) -> DataKey:
        """Return a fresh data key wrapped under a tenant's key: nothing is stored, the wrapped form holds it all."""
        live.require(KeyUse.PROTECT)
        material = await self._chain.material(live, live.stored.newest.version)
        live.require(KeyUse.PROTECT)  # it may have waited for the material, and the key changed meanwhile
        header = _FORMAT + bytes.fromhex(live.stored.key_id.replace("-", "")) + material.version.to_bytes(4, "big")
        with wiping(draw_key()) as key:
            wrapped = header + material.wrap(key, header + _tenant_context(caller.tenant_id, context))
            return DataKey(
                wrapped=b64encode(wrapped).decode(),
                key_id=live.stored.key_id,
                version=material.version,
                plaintext=bytes(key) if plain else b"",
            )

    async def _open_wrapped(self, caller: Caller, key: WrappedKey) -> PlainKey:
        try:
            wrapped = a2b_base64(key.wrapped, strict_mode=True)
        except ValueError:
            self._refuse(caller)
        if wrapped[:1] != _FORMAT or len(wrapped) < _ENVELOPE_AT:
            self._refuse(caller)
        h = wrapped[1:_VERSION_AT].hex()
        key_id = f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
        version = int.from_bytes(wrapped[_VERSION_AT:_ENVELOPE_AT], "big")
        with self._refusals(caller, _OPENED, key_id, version):
            try:
                live = await self._chain.find(caller.tenant_id, key_id)
                live.require(KeyUse.PROCESS)
                material = await self._chain.material(live, version)
                aad = wrapped[:_ENVELOPE_AT] + _tenant_context(caller.tenant_id, key.context)
                plain = material.unwrap(wrapped[_ENVELOPE_AT:], aad)
            except (KeyNotFound, EnvelopeRefused):
                raise DecryptionFailed from None
        event = key_event(caller, _OPENED, key_id=key_id, at_us=self._clock.now_us(), version=version)
        return self._hand_out(plain, event)

    def _hand_out(self, plain: bytearray, event: KeyEvent) -> PlainKey:
        """Record it first. Raises: Unavailable, with the key wiped, when that can't be done for now."""
        try:
            self._journal.note(event)
        except BaseException:
            wipe(plain)
            raise
        return PlainKey(plaintext=plain)

    def _refuse(self, caller: Caller) -> NoReturn:
        """Record that what was given names no data key. Raises: DecryptionFailed."""
        with self._refusals(caller, _OPENED, DATA, 0, system_purpose(caller.service)):
            raise DecryptionFailed

    def _refusals(
        self, caller: Caller, action: str, key_id: str, version: int, purpose: str = "tenant"
    ) -> AbstractContextManager[None]:
        def event(outcome: Outcome) -> KeyEvent:
            return key_event(
                caller,
                action,
                key_id=key_id,
                at_us=self._clock.now_us(),
                version=version,
                outcome=outcome,
                purpose=purpose,
            )

        return self._journal.refusals(event)

    async def _make(
        self, caller: Caller, live: LiveKey, context: dict[str, str], digest: bytes, replaced: StoredDataKey | None
    ) -> SystemDataKey | None:
        """Make a data key and let it be current; None when another one became current meanwhile."""
        newest = live.stored.newest.version
        try:
            material = await self._chain.material(live, newest)
        except (DecryptionFailed, KeyDamaged):  # damaged as well
            live = await self._chain.rotate(caller, live, expected=newest)
            material = await self._chain.material(live, live.stored.newest.version)
        data_key_id = new_id()
        with wiping(draw_key()) as plain:
            key = StoredDataKey(
                data_key_id=data_key_id,
                tenant_id=caller.tenant_id,
                service=caller.service,
                scope=context.get("scope", ""),
                subject_id=context.get("subject_id", ""),
                context_digest=digest,
                key_id=live.stored.key_id,
                version=material.version,
                wrapped=material.wrap(plain, system_context(caller.tenant_id, caller.service, data_key_id, digest)),
                reserved_uses=DATA_KEY_USES,
                created_at_us=self._clock.now_us(),
            )
            event = self._event(caller, "crypto.data_key.created", key)
            stored = await self._store.put_data_key(
                key, replaces=replaced.data_key_id if replaced is not None else "", event=event
            )
            return _data_key(key, bytearray(plain)) if stored.data_key_id == data_key_id else None

    async def _unwrap(self, live: LiveKey, key: StoredDataKey) -> bytearray:
        if key.wrapped is None:
            raise KeyDamaged(f"The data key {key.data_key_id} is lost.")
        material = await self._chain.material(live, key.version)
        context = system_context(key.tenant_id, key.service, key.data_key_id, key.context_digest)
        try:
            return material.unwrap(key.wrapped, context)
        except EnvelopeRefused:
            raise DecryptionFailed from None

    def _event(self, caller: Caller, action: str, key: StoredDataKey) -> KeyEvent:
        return key_event(
            caller,
            action,
            key_id=key.key_id,
            at_us=self._clock.now_us(),
            version=key.version,
            purpose=system_purpose(key.service),
            detail=key.data_key_id,
            subject_id=key.subject_id,
        )


def _data_key(key: StoredDataKey, plain: bytearray) -> SystemDataKey:
    return SystemDataKey(wrapped=key.data_key_id, key_id=key.key_id, version=key.version, plaintext=plain)


def system_context(tenant_id: str, service: str, data_key_id: str, digest: bytes) -> bytes:
    """Say which data key this is, so that its wrapped form opens in its place only."""
    return bind("data-key", tenant_id, service, data_key_id) + digest


def _tenant_context(tenant_id: str, context: dict[str, str]) -> bytes:
    return bind("tenant-data-key", tenant_id) + b"\0" + canonical_context(context)
