"""The hierarchy: key-encryption key → tenant master key → keys. Unwraps on demand, caches, counts, rotates, wipes."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import Final

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyDamaged, KeyNotFound, KeyType, KeyUnusable
from sealwire.contracts.tenancy import QuotaSource
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.envelopes import EnvelopeRefused, bind, wipe, wiping
from sealwire.kit.ids import new_id
from sealwire.kit.problem import PartOut
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.events import KeyEvent, key_event
from sealwire.services.crypto.flights import Flights
from sealwire.services.crypto.material import Material, new_material
from sealwire.services.crypto.model import (
    REFUSE_AT_USES,
    BudgetExhausted,
    KeyState,
    KeyUse,
    Life,
    UseBudget,
    allows,
)
from sealwire.services.crypto.ports import MASTER, KeyStore, StoredKey, StoredVersion
from sealwire.services.crypto.provider_set import ProviderSet
from sealwire.services.crypto.providers import KekUnusable, WrapRefused

_log = logging.getLogger("sealwire.crypto")
_UNLIMITED: Final = 1 << 62
"""Signatures and tags need no nonce; their uses are counted all the same."""
_QUIET_S: Final = 1.0


class LiveKey:
    """A key at hand: what is stored of it, and the versions that are unwrapped."""

    __slots__ = ("materials", "stored")

    def __init__(self, stored: StoredKey) -> None:
        self.stored = stored
        self.materials: dict[int, Material] = {}

    def require(self, use: KeyUse) -> None:
        """Raises: KeyUnusable when the key's state forbids the use."""
        state = self.stored.life.state
        if not allows(state, use):
            raise KeyUnusable(f"The key is {state.value}.")

    def wipe(self) -> None:
        """Forget the material; what is stored stays known."""
        for material in self.materials.values():
            material.wipe()
        self.materials.clear()


class KeyChain:
    """All keys of this installation, unwrapped when they are needed."""

    def __init__(
        self, *, store: KeyStore, provider: ProviderSet, clock: Clock, config: CryptoConfig,
        quotas: QuotaSource | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._quotas = quotas
        self._provider = provider
        self._clock = clock
        self._monotonic: Callable[[], float] = clock.monotonic
        self._config = config
        self._keys: OrderedDict[tuple[str, str], LiveKey] = OrderedDict()
        self._strays: deque[LiveKey] = deque()
        """Keys that were pushed out while a call unwrapped them: what that call uses is to be wiped as well."""
        self._ids: dict[tuple[str, str, str], str] = {}
        self._budgets: dict[tuple[str, int], UseBudget] = {}
        self._flights = Flights()
        self._quiet_until_s = 0.0

    # ---- finding and making

    async def find(self, tenant_id: str, key_id: str) -> LiveKey:
        """Return a key of the tenant. Raises: KeyNotFound."""
        if (live := self._keys.get((tenant_id, key_id))) is not None:
            self._keys.move_to_end((tenant_id, key_id))
            return live
        stored = await self._store.key(tenant_id, key_id)
        if stored is None:
            raise KeyNotFound("There is no such key.")
        return self._hold(stored)

    async def master(self, tenant_id: str, *, make: bool = True) -> LiveKey:
        """Return the tenant's master key, made on first use, once under any race. Raises: KeyNotFound unless `make`."""
        if (key_id := self._ids.get((tenant_id, MASTER, MASTER))) is not None:
            return await self.find(tenant_id, key_id)
        if not make and await self._store.named(tenant_id, MASTER, MASTER) is None:
            raise KeyNotFound("The tenant has no master key.")
        return await self.named(service_caller("crypto", tenant_id), MASTER, MASTER, "aes-256-gcm")

    async def named(self, caller: Caller, purpose: str, name: str, key_type: KeyType) -> LiveKey:
        """Return the key of a purpose other than `tenant`, made on first use, once under any race."""
        tenant_id = caller.tenant_id
        if (key_id := self._ids.get((tenant_id, purpose, name))) is not None:
            return await self.find(tenant_id, key_id)
        stored = await self._store.named(tenant_id, purpose, name)
        if stored is None:
            stored = await self._flights.join(
                ("create", tenant_id, purpose, name), lambda: self._create(caller, purpose, name, key_type)
            )
        self._ids[tenant_id, purpose, name] = stored.key_id
        return await self.find(tenant_id, stored.key_id)

    async def create(self, caller: Caller, key_type: KeyType, name: str | None) -> LiveKey:
        """Make a key of purpose `tenant`. Raises: QuotaExceeded."""
        return self._hold(await self._create(caller, "tenant", name, key_type))

    async def _create(self, caller: Caller, purpose: str, name: str | None, key_type: KeyType) -> StoredKey:
        async with self._provider.making():
            return await self._create_in(caller, purpose, name, key_type)

    async def _create_in(self, caller: Caller, purpose: str, name: str | None, key_type: KeyType) -> StoredKey:
        now_us = self._clock.now_us()
        tenant_id, key_id = caller.tenant_id, new_id()
        version = await self._new_version(tenant_id, key_id, key_type, purpose, 1, now_us)
        key = StoredKey(
            key_id=key_id,
            tenant_id=tenant_id,
            key_type=key_type,
            purpose=purpose,
            name=name,
            life=Life(),
            created_at_us=now_us,
            versions=(version,),
        )
        event = key_event(caller, "crypto.key.created", key_id=key_id, at_us=now_us, version=1, purpose=purpose)
        most = self._config.max_keys_per_tenant
        if purpose == "tenant" and self._quotas is not None:  # system keys are made on first use, whoever needs one
            own = (await self._quotas.of(tenant_id)).keys
            most = most if own is None else min(own, most)
        stored = await self._store.create(key, event, max_keys=most)
        if stored.key_id == key_id:  # ours: the uses reserved with it are ours too
            self._budgets[key_id, 1] = self._budget(key_type, version.reserved_uses, version.reserved_uses)
        return stored

    async def rotate(self, caller: Caller, live: LiveKey, *, expected: int = 0) -> LiveKey:
        """Add a version; with `expected` only if that is the newest still. Raises: KeyUnusable."""

        async def rotate() -> LiveKey:
            async with self._provider.making():
                return await self._rotate_in(caller, live, expected)

        return await self._flights.join(("add", live.stored.key_id, object()), rotate)

    async def _rotate_in(self, caller: Caller, live: LiveKey, expected: int) -> LiveKey:
        live.require(KeyUse.PROTECT)
        stored = live.stored
        if expected and stored.newest.version != expected:
            return live
        now_us = self._clock.now_us()
        number = stored.next_number
        version = await self._new_version(
            stored.tenant_id, stored.key_id, stored.key_type, stored.purpose, number, now_us
        )
        event = key_event(
            caller,
            "crypto.key.rotated",
            key_id=stored.key_id,
            at_us=now_us,
            version=number,
            purpose=stored.purpose,
            tenant_id=stored.tenant_id,
        )
        if await self._store.add_version(stored.key_id, version, event):
            self._budgets[stored.key_id, number] = self._budget(
                stored.key_type, version.reserved_uses, version.reserved_uses
            )
        return await self.refresh(live)

    async def change_life(self, live: LiveKey, change: Callable[[Life], Life], event: KeyEvent) -> LiveKey:
        """Change a key's life by a pure rule, against what is stored. Raises: what `change` raises.

        A caller who gives up in the middle leaves nothing half done: what is stored is what is known here.
        """
        return await self._flights.join(
            ("life", live.stored.key_id, object()), lambda: self._change_life(live, change, event)
        )

    async def _change_life(self, live: LiveKey, change: Callable[[Life], Life], event: KeyEvent) -> LiveKey:
        while True:
            before = live.stored.life
            after = change(before)
            if after == before or await self._store.change_life(live.stored.key_id, before, after, event):
                live = await self.refresh(live)
                if not allows(live.stored.life.state, KeyUse.PROCESS):
                    live.wipe()
                return live
            live = await self.refresh(live)

    async def refresh(self, live: LiveKey) -> LiveKey:
        """Read again what is stored of a key."""
        stored = await self._store.key(live.stored.tenant_id, live.stored.key_id)
        if stored is None:
            raise KeyNotFound("There is no such key.")
        live.stored = stored
        return live

    async def renew(self, tenant_id: str, key_id: str) -> None:
        """Read again what is stored of a key if it is at hand: it was wrapped anew."""
        if (live := self._keys.get((tenant_id, key_id))) is not None:
            await self.refresh(live)

    # ---- using

    async def protecting(self, live: LiveKey, count: int = 1) -> Material:
        """Return the newest version with `count` uses taken from its budget; use it before the next await.

        Rotates by itself from 2^31 uses on. Raises: KeyUnusable; Unavailable when the uses can't be made durable.
        """
        while True:
            live.require(KeyUse.PROTECT)
            material = await self.material(live, live.stored.newest.version)
            live.require(KeyUse.PROTECT)  # it may have waited for the material, and the key changed meanwhile
            budget = material.budget
            try:
                if budget.take(count):
                    if budget.low or budget.wants_rotation:
                        self._look_after(live, material)
                    return material
                await self._reserve(live.stored.key_id, material.version, budget, count)
            except BudgetExhausted:
                await self._rotate_once(live, material.version)

    async def material(self, live: LiveKey, version: int) -> Material:
        """Return a version's material; use it before the next await.

        Raises: KeyNotFound for a version there isn't; KeyUnusable when it is destroyed; DecryptionFailed when what is
        stored of it does not open, KeyDamaged when that of a master key doesn't; Unavailable.
        """
        while True:
            material = live.materials.get(version)
            if material is not None and self._monotonic() < material.expires_s:
                return material
            stored = _version(live.stored, version) or _version((await self.refresh(live)).stored, version)
            if stored is None:
                raise KeyNotFound("The key has no such version.")
            await self._flights.join(("unwrap", live.stored.key_id, version), partial(self._unwrap, live, stored))

    async def _unwrap(self, live: LiveKey, version: StoredVersion) -> None:
        try:
            root = await self._root(live.stored, version)
        except (DecryptionFailed, PartOut):  # since it was read, it may have moved, or been put back
            again = _version((await self.refresh(live)).stored, version.version)
            if again is None or again == version:
                raise
            root = await self._root(live.stored, version := again)
        key = live.stored
        if not allows(state := live.stored.life.state, KeyUse.PROCESS):  # since this began
            wipe(root)
            raise KeyUnusable(f"The key is {state.value}.")
        budget = self._budgets.get((key.key_id, version.version))
        if budget is None:
            budget = self._budget(key.key_type, version.reserved_uses, 0)
            self._budgets[key.key_id, version.version] = budget
        material = Material(
            key_type=key.key_type,
            version=version.version,
            root=root,
            budget=budget,
            expires_s=self._monotonic() + self._config.cache_age_s,
        )
        if (old := live.materials.get(version.version)) is not None:
            old.wipe()
        live.materials[version.version] = material
        if self._keys.get((key.tenant_id, key.key_id)) is not live:
            self._strays.append(live)
            if len(self._strays) > self._config.cache_keys:
                self._strays.popleft().wipe()

    async def _root(self, key: StoredKey, version: StoredVersion) -> bytearray:
        """Return the root of a version. Raises: KeyUnusable, KeyDamaged, DecryptionFailed, Unavailable."""
        wrapped = version.wrapped
        if wrapped is None:
            if key.life.state is not KeyState.DESTROYED:
                raise KeyDamaged(f"Version {version.version} of key {key.key_id} is lost.")
            raise KeyUnusable("The key is destroyed.")
        context = version_context(key.purpose, key.tenant_id, key.key_id, version.version, key.key_type)
        if key.purpose == MASTER:
            return await self.unwrap_master(wrapped, context, version.kek_id)
        try:
            above = await self.material(await self.master(key.tenant_id), version.master_version)
            return above.unwrap(wrapped, context)
        except KeyNotFound:
            raise KeyDamaged("A version of the tenant's master key is lost.") from None
        except EnvelopeRefused:
            _log.error("version %d of key %s does not open: its row was changed", version.version, key.key_id)
            raise DecryptionFailed from None

    async def unwrap_master(self, wrapped: bytes, context: bytes, kek_id: str) -> bytearray:
        """Have the provider unwrap a version of a master key, which `kek_id` wraps. Raises: KeyDamaged, Unavailable."""
        try:
            return await self._provider.unwrap(wrapped, context)
        except (KekUnusable, WrapRefused) as fault:
            if isinstance(fault, WrapRefused) and kek_id in self._provider.kek_ids:
                raise self._out(fault, "What is stored of the tenant's master key is damaged.", KeyDamaged) from None
            raise self._out(fault, "The key provider can't unwrap the tenant's master key.") from None

    def _out(self, fault: Exception, detail: str, kind: type[PartOut] = PartOut) -> PartOut:
        """Log what the provider's fault is, once a second at most, and return what callers are told.

        It says nothing against crypto itself: keys that are unwrapped go on being used meanwhile.
        """
        now_s = self._monotonic()
        if now_s >= self._quiet_until_s:
            self._quiet_until_s = now_s + _QUIET_S
            _log.error("%s: %s", "the key provider is out" if kind is PartOut else "a master key does not open", fault)
        return kind(detail)

    async def _new_version(
        self, tenant_id: str, key_id: str, key_type: KeyType, purpose: str, number: int, now_us: int
    ) -> StoredVersion:
        """Draw material for a version and wrap it; using it means unwrapping it, so that the way back is proven."""
        root, public_key = new_material(key_type)
        context = version_context(purpose, tenant_id, key_id, number, key_type)
        kek_id, master_version = "", 0
        with wiping(root):
            if purpose == MASTER:
                kek_id = self._provider.kek_id
                try:
                    wrapped = await self._provider.wrap(root, context)
                except KekUnusable as fault:
                    raise self._out(fault, "The key provider does not answer.") from None
            else:
                master = await self.master(tenant_id)
                above = await self.material(master, master.stored.newest.version)
                wrapped, master_version = above.wrap(root, context), above.version
        return StoredVersion(
            version=number,
            created_at_us=now_us,
            reserved_uses=self._config.reserve_uses,
            wrapped=wrapped,
            kek_id=kek_id,
            master_version=master_version,
            public_key=public_key,
        )

    # ---- counting

    def used(self, key_id: str, version: StoredVersion) -> int:
        """Return an upper bound of a version's uses."""
        budget = self._budgets.get((key_id, version.version))
        return budget.used if budget is not None else version.reserved_uses

    def _budget(self, key_type: KeyType, total: int, left: int) -> UseBudget:
        limit = REFUSE_AT_USES if key_type == "aes-256-gcm" else _UNLIMITED
        return UseBudget(total=total, left=left, block=self._config.reserve_uses, limit=limit)

    async def _reserve(self, key_id: str, version: int, budget: UseBudget, count: int) -> None:
        """Make a block of uses durable and ours. Raises: BudgetExhausted, Unavailable."""

        async def reserve() -> None:
            block = budget.next_block(count)
            total = await self._store.reserve(key_id, version, block, limit=budget.limit) if block > 0 else None
            if total is None:
                raise BudgetExhausted
            budget.grant(block, total)

        await self._flights.join(("reserve", key_id, version), reserve)

    def _look_after(self, live: LiveKey, material: Material) -> None:
        """Off the caller's path: reserve the next block, or rotate a version that has seen 2^31 uses."""
        key_id, version, budget = live.stored.key_id, material.version, material.budget
        if budget.wants_rotation and live.stored.key_type == "aes-256-gcm":
            if live.stored.newest.version == version:
                self._flights.start(("rotate", key_id, version), lambda: self._rotate(live, version))
        elif budget.low:
            self._flights.start(("refill", key_id, version), lambda: self._reserve(key_id, version, budget, 1))

    async def _rotate_once(self, live: LiveKey, version: int) -> None:
        await self._flights.join(("rotate", live.stored.key_id, version), lambda: self._rotate(live, version))

    async def _rotate(self, live: LiveKey, version: int) -> None:
        _log.info("key %s version %d has used up its nonces: rotating", live.stored.key_id, version)
        await self.rotate(service_caller("crypto", live.stored.tenant_id), live, expected=version)

    # ---- keeping

    def sweep(self) -> None:
        """Wipe material past its time."""
        now_s = self._monotonic()
        for live in self._keys.values():
            for number in [n for n, material in live.materials.items() if material.expires_s <= now_s]:
                live.materials.pop(number).wipe()
        self._wipe_strays()

    def _wipe_strays(self) -> None:
        while self._strays:
            self._strays.popleft().wipe()

    async def stop(self) -> None:
        """Give unspent uses back, after everything was wiped. Raises: what the store raises."""
        await self._flights.settle()
        for live in self._keys.values():
            live.wipe()
        self._wipe_strays()
        self._keys.clear()
        self._ids.clear()
        unspent = [(key_id, version, budget.give_back()) for (key_id, version), budget in self._budgets.items()]
        self._budgets.clear()
        await self._store.release([use for use in unspent if use[2]])

    def _hold(self, stored: StoredKey) -> LiveKey:
        name = (stored.tenant_id, stored.key_id)
        if (live := self._keys.get(name)) is not None:
            return live
        while len(self._keys) >= self._config.cache_keys:
            self._keys.popitem(last=False)[1].wipe()
        live = self._keys[name] = LiveKey(stored)
        return live


def _version(stored: StoredKey, number: int) -> StoredVersion | None:
    return next((version for version in stored.versions if version.version == number), None)


def version_context(purpose: str, tenant_id: str, key_id: str, version: int, key_type: str) -> bytes:
    """Say what a wrapped version is, so that it opens in its place only."""
    return bind("key", purpose, tenant_id, key_id, str(version), key_type)
