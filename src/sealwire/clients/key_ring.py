"""Key ring: a service's data keys, kept within limits of use and time and wiped, so that sealing asks nobody."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from typing import Final

from sealwire.contracts.crypto import Crypto
from sealwire.contracts.data_keys import DATA_KEY_USES, DataKeyDestruction, Destroyed, SystemDataKeyRequest, WrappedKey
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.envelopes import KEY_ID_BYTES, EnvelopeRefused, SealingKey, envelope_key_id, wiping
from sealwire.resilience import deadline

_Owner = tuple[str, str, str]
"""Tenant, scope, subject."""
_GRACE_S: Final = 30.0
_SWEEP_S: Final = 30.0


class _Held:
    """A key in the ring: whose it is and until when it may be used (seconds of the monotonic clock)."""

    __slots__ = ("expires_s", "key", "owner", "seals")

    def __init__(self, *, key: SealingKey, owner: _Owner, expires_s: float, seals: bool) -> None:
        self.key = key
        self.owner = owner
        self.expires_s = expires_s
        self.seals = seals


class KeyRing:
    """Data keys of one service, each for a scope (a conversation …) and a subject (the person whose data it protects).

    The usual way, without waiting when the key is at hand:

        key = ring.ready(tenant_id, scope, subject_id) or await ring.sealing_key(tenant_id, scope, subject_id)
        sealed = key.seal(plaintext, bind(tenant_id, "message", message_id))

        key = ring.ready_for(tenant_id, sealed) or await ring.opening_key(tenant_id, scope, subject_id, sealed)
        plaintext = key.open(sealed, bind(tenant_id, "message", message_id))

    The envelope names its key, so there is nothing to store beside it. A key leaves the ring after `max_age_s`, after
    `max_uses` seals, or when the ring is full (least recently loaded first), and is wiped half a minute later; what is
    forgotten or destroyed is wiped at once. So keep a key for the call at hand only. For one event loop.
    """

    def __init__(
        self,
        *,
        crypto: Crypto,
        service: str,
        clock: Clock,
        max_keys: int = 20_000,
        max_age_s: float = 600.0,
        max_uses: int = DATA_KEY_USES,
    ) -> None:
        if max_keys < 1 or max_age_s <= 0 or not 1 <= max_uses <= DATA_KEY_USES:
            raise ValueError(f"max_keys >= 1, max_age_s > 0, 1 <= max_uses <= {DATA_KEY_USES}")
        self._crypto = crypto
        self._service = service
        self._monotonic: Callable[[], float] = clock.monotonic
        self._max_keys = max_keys
        self._max_age_s = max_age_s
        self._max_uses = max_uses
        self._current: dict[_Owner, _Held] = {}
        self._by_id: OrderedDict[tuple[str, bytes], _Held] = OrderedDict()
        self._retired: deque[tuple[float, _Held]] = deque()
        self._loads: dict[tuple[_Owner, bytes], asyncio.Task[SealingKey]] = {}
        self._sweeping: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def ready(self, tenant_id: str, scope: str, subject_id: str) -> SealingKey | None:
        """Return the key to seal with when it is at hand and within its limits."""
        held = self._current.get((tenant_id, scope, subject_id))
        if held is not None and self._monotonic() < held.expires_s:
            key = held.key
            if key.uses < self._max_uses:
                return key
        return None

    async def sealing_key(self, tenant_id: str, scope: str, subject_id: str) -> SealingKey:
        """Return the key to seal with, asking crypto when it isn't at hand. Raises: what crypto raises."""
        if (key := self.ready(tenant_id, scope, subject_id)) is not None:
            return key
        return await self._load_once((tenant_id, scope, subject_id), b"")

    def ready_for(self, tenant_id: str, envelope: bytes) -> SealingKey | None:
        """Return the key that the envelope names when it is at hand."""
        held = self._by_id.get((tenant_id, envelope[1 : 1 + KEY_ID_BYTES]))
        if held is not None and self._monotonic() < held.expires_s:
            return held.key
        return None

    async def opening_key(self, tenant_id: str, scope: str, subject_id: str, envelope: bytes) -> SealingKey:
        """Return the key that the envelope names.

        Raises: EnvelopeRefused for what is no envelope; DecryptionFailed when crypto has no such key for this scope and
        subject; KeyUnusable when it was destroyed.
        """
        if (key := self.ready_for(tenant_id, envelope)) is not None:
            return key
        return await self._load_once((tenant_id, scope, subject_id), envelope_key_id(envelope))

    async def key_by_id(self, tenant_id: str, scope: str, subject_id: str, key_id: bytes) -> SealingKey:
        """Return the key with this id (a segment's header names it). Raises: as `opening_key`."""
        held = self._by_id.get((tenant_id, key_id))
        if held is not None and self._monotonic() < held.expires_s:
            return held.key
        return await self._load_once((tenant_id, scope, subject_id), key_id)

    async def seal(self, tenant_id: str, scope: str, subject_id: str, plaintext: bytes, aad: bytes) -> bytes:
        """Seal under the key of scope and subject: the whole way in one call."""
        key = self.ready(tenant_id, scope, subject_id) or await self.sealing_key(tenant_id, scope, subject_id)
        return key.seal(plaintext, aad)

    async def open(self, tenant_id: str, scope: str, subject_id: str, envelope: bytes, aad: bytes) -> bytes:
        """Open an envelope: the whole way in one call. Raises: EnvelopeRefused, and as `opening_key`."""
        key = self.ready_for(tenant_id, envelope)
        if key is None:
            key = await self.opening_key(tenant_id, scope, subject_id, envelope)
        return key.open(envelope, aad)

    async def destroy(self, tenant_id: str, *, scope: str = "", subject_id: str = "") -> int:
        """Destroy every data key of this service with this scope or subject, here and in crypto; return how many.

        Raises: what crypto raises; the ring has forgotten them also then, as they may be destroyed: the answer of a
        crypto that was killed after its commit never came.
        """
        return (await self._destroy(tenant_id, DataKeyDestruction(scope=scope, subject_id=subject_id))).destroyed

    async def destroy_free(self, tenant_id: str, *, subject_id: str, spare: Collection[str] = ()) -> Destroyed:
        """Destroy the data keys of a person that no legal hold keeps; say how many, and what stays. As `destroy`.

        `spare` are scopes where a hold on somebody else keeps what this person made: their keys stay until the next
        call doesn't name them.
        """
        which = DataKeyDestruction(subject_id=subject_id, spare_held=True, spare_scopes=sorted(spare))
        return await self._destroy(tenant_id, which)

    async def _destroy(self, tenant_id: str, which: DataKeyDestruction) -> Destroyed:
        self.forget(tenant_id, scope=which.scope, subject_id=which.subject_id)
        try:
            return await self._crypto.destroy_data_keys(self._caller(tenant_id), which)
        finally:  # somebody may have loaded one again meanwhile
            self.forget(tenant_id, scope=which.scope, subject_id=which.subject_id)

    def forget(self, tenant_id: str, *, scope: str = "", subject_id: str = "") -> None:
        """Wipe what the ring holds of a tenant, narrowed by scope and subject; a load under way is not kept either."""

        def chosen(owner: _Owner) -> bool:
            return (
                owner[0] == tenant_id
                and (not scope or owner[1] == scope)
                and (not subject_id or owner[2] == subject_id)
            )

        for name in [name for name, held in self._by_id.items() if chosen(held.owner)]:
            self._drop(name)
        for retired in [retired for retired in self._retired if chosen(retired[1].owner)]:
            self._retired.remove(retired)
            retired[1].key.wipe()
        for load in [load for load in self._loads if chosen(load[0])]:
            del self._loads[load]

    def sweep(self) -> None:
        """Wipe what is past its time. The ring does it by itself now and then while it holds keys."""
        self._reap()
        now_s = self._monotonic()
        for name in [name for name, held in self._by_id.items() if held.expires_s <= now_s]:
            self._retire(name)

    def clear_cache(self) -> None:
        """Wipe every key."""
        for name in list(self._by_id):
            self._drop(name)
        while self._retired:
            self._retired.pop()[1].key.wipe()
        self._loads.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def _sweep_later(self) -> None:
        """See to it that a key nobody uses doesn't outlive its limit in memory."""
        if self._sweeping is None:
            pause_s = min(self._max_age_s, _SWEEP_S)
            self._sweeping = asyncio.get_running_loop().call_later(pause_s, self._sweep_now)

    def _sweep_now(self) -> None:
        self._sweeping = None
        self.sweep()
        if self._by_id or self._retired:
            self._sweep_later()

    async def _load_once(self, owner: _Owner, key_id: bytes) -> SealingKey:
        """Load a key, once however many ask at the same time; `key_id` empty means the current one."""
        name = (owner, key_id)
        while True:
            load = self._loads.get(name)
            if load is None:
                with deadline.without():  # the load serves all who wait, not only the first one's deadline
                    load = asyncio.get_running_loop().create_task(self._load(owner, key_id))
                load.add_done_callback(_seen)
                self._loads[name] = load
            key = await asyncio.shield(load)
            if not key.wiped:
                return key

    async def _load(self, owner: _Owner, key_id: bytes) -> SealingKey:
        tenant_id, scope, subject_id = owner
        caller = self._caller(tenant_id)
        context = {"scope": scope, "subject_id": subject_id}
        me = asyncio.current_task()
        try:
            if key_id:
                wrapped = uuid_of(key_id)
                opened = await self._crypto.open_data_key(caller, WrappedKey(wrapped=wrapped, context=context))
                plaintext = opened.plaintext
            else:
                answer = await self._crypto.system_data_key(caller, SystemDataKeyRequest(context=context))
                wrapped, plaintext = answer.wrapped, answer.plaintext
            with wiping(plaintext):
                key = SealingKey(key_id=bytes_of(wrapped), key=plaintext)
            held = _Held(key=key, owner=owner, expires_s=self._monotonic() + self._max_age_s, seals=not key_id)
            if self._loads.get((owner, key_id)) is me:
                self._keep(held)
            else:  # forgotten meanwhile: good for those who wait, not kept
                self._wipe_later(held)
                self._sweep_later()
            return key
        finally:
            if self._loads.get((owner, key_id)) is me:
                del self._loads[owner, key_id]

    def _keep(self, held: _Held) -> None:
        self._reap()
        name = (held.owner[0], held.key.key_id)
        self._retire(name)
        while len(self._by_id) >= self._max_keys:
            self._retire(next(iter(self._by_id)))
        self._by_id[name] = held
        self._sweep_later()
        if held.seals:
            self._current[held.owner] = held

    def _take(self, name: tuple[str, bytes]) -> _Held | None:
        held = self._by_id.pop(name, None)
        if held is not None and self._current.get(held.owner) is held:
            del self._current[held.owner]
        return held

    def _drop(self, name: tuple[str, bytes]) -> None:
        """Take a key out and wipe it at once."""
        if (held := self._take(name)) is not None:
            held.key.wipe()

    def _retire(self, name: tuple[str, bytes]) -> None:
        """Take a key out for age or room; it is wiped a little later, as somebody may be about to use it."""
        if (held := self._take(name)) is not None:
            self._wipe_later(held)

    def _wipe_later(self, held: _Held) -> None:
        self._retired.append((self._monotonic() + _GRACE_S, held))

    def _reap(self) -> None:
        now_s = self._monotonic()
        while self._retired and self._retired[0][0] <= now_s:
            self._retired.popleft()[1].key.wipe()

    def _caller(self, tenant_id: str) -> Caller:
        return service_caller(self._service, tenant_id)


def bytes_of(data_key_id: str) -> bytes:
    """Return the 16 bytes of a data key's id. Raises: EnvelopeRefused when it is none."""
    try:
        raw = bytes.fromhex(data_key_id.replace("-", ""))
    except ValueError:
        raise EnvelopeRefused from None
    if len(raw) != KEY_ID_BYTES:
        raise EnvelopeRefused
    return raw


def uuid_of(key_id: bytes) -> str:
    """Return a data key's id as crypto names it."""
    h = key_id.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def _seen(load: asyncio.Task[SealingKey]) -> None:
    """Mark a failed load's error as seen, for when nobody waits for it any more."""
    if not load.cancelled():
        load.exception()
