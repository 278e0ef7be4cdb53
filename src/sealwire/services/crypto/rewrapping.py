"""Moving wrapped keys: to the newest version of what wraps them, or under another provider's key-encryption key.

Both are sweeps in parts: find some, unwrap, wrap anew, prove the way back, replace what is still unchanged in one
transaction with its audit event. Nothing else is remembered, so a sweep that was killed begins where there is still
something to do, and doing it twice changes nothing. Everything stays readable all the while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from hmac import compare_digest
from typing import Final

import msgspec

from sealwire.contracts.crypto_terms import DecryptionFailed, KeyDamaged, KeyNotFound, KeyUnusable
from sealwire.contracts.keys import Rewrapped
from sealwire.kit.caller import SYSTEM_TENANT, Caller, service_caller
from sealwire.kit.clock import Clock
from sealwire.kit.envelopes import EnvelopeRefused, wipe, wiping
from sealwire.services.crypto.data_keys import system_context
from sealwire.services.crypto.events import key_event
from sealwire.services.crypto.keys import KeyChain, LiveKey, version_context
from sealwire.services.crypto.material import Material
from sealwire.services.crypto.ports import MASTER, KeyStore, Rewrap, WrappedItem
from sealwire.services.crypto.provider_set import ProviderSet
from sealwire.services.crypto.providers import KekUnusable, KeyProvider, WrapRefused

_log = logging.getLogger("sealwire.crypto")
AT_ONCE: Final = 100
_DAMAGED_OR_OFF: Final = (EnvelopeRefused, DecryptionFailed, KeyDamaged, KeyNotFound, KeyUnusable)
_FROM_THE_START: Final = ("", 0)


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a sweep is. `total` may grow while it runs. `left` names a key that does not open and stays as it is."""

    step: str
    done: int
    total: int
    left: str = ""


Tell = Callable[[Progress], None]


class Rewrapping:
    """The sweeps over all wrapped keys."""

    def __init__(self, *, chain: KeyChain, store: KeyStore, providers: ProviderSet, clock: Clock) -> None:
        self._chain = chain
        self._store = store
        self._rewraps = store.rewraps
        self._providers = providers
        self._clock = clock

    async def require_most(self, absent: Collection[str]) -> None:
        """See whether those master keys that are stored under an `absent` key-encryption key are few. Then rows were
        damaged, or left behind by a move: they are told in the log, and hold up no other tenant.

        Raises: KekUnusable when they are more than all others: then the wrong key-encryption key is in place.
        """
        strange: list[WrappedItem] = []
        after, count = _FROM_THE_START, 0
        while items := await self._rewraps.masters(not_under="", after=after, limit=AT_ONCE):
            strange += [item for item in items if item.under in absent and not self._providers.holds(item.wrapped)]
            after = (items[-1].id, items[-1].version)
            count += len(items)
        if 2 * len(strange) > count:
            raise KekUnusable(
                f"stored keys are wrapped under {', '.join(sorted(absent))}, the provider holds "
                f"{self._providers.kek_id}; put the right key-encryption key in place"
            )
        for item in strange:
            _log.error("%s is under %s, which is not here; it does not open", _name(item), item.under)

    # ---- to the newest version

    async def step(self, caller: Caller, limit: int) -> Rewrapped:
        """Move up to `limit` wrapped keys of the caller's tenant to the newest version of what wraps them.

        One that does not open is passed over, told in the log, and remains.
        """
        moved = await self._step(caller, limit)
        return Rewrapped(moved=moved, remaining=await self._rewraps.count_stale(caller.tenant_id))

    async def all_tenants(self, caller: Caller, tell: Tell) -> int:
        """Move everything of every tenant; returns how many keys moved."""
        tenants: list[str] = []
        while some := await self._rewraps.tenants(after=tenants[-1] if tenants else "", limit=1000):
            tenants += some
        moved = 0
        for number, tenant_id in enumerate(tenants, 1):
            on_behalf = service_caller(caller.service or "crypto", tenant_id)
            try:
                while count := await self._step(on_behalf, AT_ONCE):
                    moved += count
            except KeyDamaged as fault:  # no reason to stop for the others
                _log.error("keys of %s stay as they are: %s", tenant_id, fault)
            tell(Progress(step="tenants", done=number, total=len(tenants)))
        return moved

    async def _step(self, caller: Caller, limit: int) -> int:
        try:
            master = await self._chain.master(caller.tenant_id, make=False)
        except KeyNotFound:
            return 0
        items = await self._rewraps.stale(caller.tenant_id, limit=limit)
        rewraps = []
        for item in items:
            await asyncio.sleep(0)  # others go on between two keys
            try:
                rewraps.append(await self._rewrap(master, item))
            except _DAMAGED_OR_OFF as fault:  # no reason to stop
                _log.error("%s %s does not open, and stays as it is: %r", item.kind, item.id, fault)
        event = key_event(
            caller,
            "crypto.keys.rewrapped",
            key_id=master.stored.key_id,
            at_us=self._clock.now_us(),
            version=master.stored.newest.version,
            count=len(rewraps),
        )
        moved = await self._rewraps.replace(rewraps, [event]) if rewraps else 0
        for key_id in {item.id for item in items if item.kind == "key"}:
            await self._chain.renew(caller.tenant_id, key_id)
        return moved

    async def _rewrap(self, master: LiveKey, item: WrappedItem) -> Rewrap:
        """Wrap an item under the newest version of what wraps it."""
        if item.kind == "data_key":
            above = await self._chain.find(item.tenant_id, item.under)
            old_version = item.version
            context = system_context(item.tenant_id, item.purpose, item.id, item.context_digest)
        else:
            above, old_version = master, int(item.under)
            context = version_context(item.purpose, item.tenant_id, item.id, item.version, item.key_type)
        with wiping((await self._chain.material(above, old_version)).unwrap(item.wrapped, context)) as plain:
            material = await self._chain.material(above, above.stored.newest.version)
            wrapped = material.wrap(plain, context)
            _prove(material, wrapped, context, plain)
        return Rewrap(item=item, wrapped=wrapped, under=str(material.version))

    # ---- under another provider's key

    async def to_provider(self, provider: KeyProvider, tell: Tell) -> int:
        """Move every master key under `provider`, which wraps from now on; returns how many versions moved.

        Afterwards no other key-encryption key is needed for what is stored here, proven by opening all of it. The other
        providers stay until the caller lets them go. A version that does not open is passed over and told (`left`).
        Raises: KekUnusable, Unavailable; then it is to be asked again; KeyDamaged when most do not open.
        """
        await provider.check()
        self._providers.prefer(provider)
        kek_id = self._providers.kek_id
        await self._providers.settled()
        total = await self._rewraps.count_masters(not_under=kek_id)
        moved, after = 0, _FROM_THE_START
        left: list[WrappedItem] = []
        while items := await self._rewraps.masters(not_under=kek_id, after=after, limit=AT_ONCE):
            moved += await self._move(items, kek_id, left)
            after = (items[-1].id, items[-1].version)
            tell(Progress(step="moved", done=moved, total=max(total, moved)))
        for item in left:
            _log.error("%s does not open, and stays as it is, under %s", _name(item), item.under)
            tell(Progress(step="moved", done=moved, total=max(total, moved), left=_name(item)))
        count = await self._prove_all(provider, tell, left)
        if len(left) > count:
            raise KeyDamaged(f"{len(left)} of {len(left) + count} master keys do not open; the log names them.")
        event = key_event(
            service_caller("crypto", SYSTEM_TENANT),
            "crypto.provider.moved",
            key_id=kek_id,
            at_us=self._clock.now_us(),
            count=max(1, count),
            purpose=MASTER,
            detail=kek_id,
        )
        await self._store.record([event])
        return moved

    async def _move(self, items: Sequence[WrappedItem], kek_id: str, left: list[WrappedItem]) -> int:
        rewraps = []
        events = []
        for item in items:
            await asyncio.sleep(0)  # others go on between two keys
            context = _master_context(item)
            try:
                opened = await self._providers.unwrap(item.wrapped, context)
            except WrapRefused:
                left.append(item)
                continue
            with wiping(opened) as plain:
                wrapped = await self._providers.wrap(plain, context)
                with wiping(await self._providers.unwrap(wrapped, context)) as again:
                    if not compare_digest(plain, again):
                        raise KekUnusable(f"{kek_id} does not give back what it wrapped")
            rewraps.append(Rewrap(item=item, wrapped=wrapped, under=kek_id))
            events.append(
                key_event(
                    service_caller("crypto", item.tenant_id),
                    "crypto.key.rewrapped",
                    key_id=item.id,
                    at_us=self._clock.now_us(),
                    version=item.version,
                    purpose=MASTER,
                    detail=f"{item.under} to {kek_id}",
                )
            )
        moved = await self._rewraps.replace(rewraps, events)
        for rewrap in rewraps:
            with suppress(KeyDamaged):
                await self._chain.renew(rewrap.item.tenant_id, rewrap.item.id)
        return moved

    async def _prove_all(self, provider: KeyProvider, tell: Tell, left: Sequence[WrappedItem]) -> int:
        """Open every version but those `left` by the new provider alone. Raises: WrapRefused, KekUnusable."""
        total = await self._rewraps.count_masters(not_under="") - len(left)
        after, count = _FROM_THE_START, 0
        while items := await self._rewraps.masters(not_under="", after=after, limit=AT_ONCE):
            after = (items[-1].id, items[-1].version)
            items = [item for item in items if item not in left]
            for item in items:
                await asyncio.sleep(0)
                wipe(await provider.unwrap(item.wrapped, _master_context(item)))
            count += len(items)
            tell(Progress(step="verified", done=count, total=max(total, count)))
        return count


def _name(item: WrappedItem) -> str:
    return f"version {item.version} of the master key {item.id} of tenant {item.tenant_id}"


def _master_context(item: WrappedItem) -> bytes:
    return version_context(MASTER, item.tenant_id, item.id, item.version, "aes-256-gcm")


def _prove(material: Material, wrapped: bytes, context: bytes, plain: bytearray) -> None:
    """See that what was wrapped comes back. Raises: RuntimeError."""
    with wiping(material.unwrap(wrapped, context)) as again:
        if not compare_digest(again, plain):
            raise RuntimeError("a key does not come back from its new wrapping")
