"""The promises of crypto, over every wiring."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.clients.crypto import CryptoClient, KeyRing, local_crypto
from sealwire.contracts.ciphers import Ciphertext, CiphertextBatch, Plaintext, PlaintextBatch, Sealed
from sealwire.contracts.crypto import OPERATIONS, Crypto
from sealwire.contracts.crypto_terms import MAX_PLAINTEXT_BYTES, DecryptionFailed, KeyNotFound, KeyUnusable
from sealwire.contracts.data_keys import (
    DATA_KEY_USES,
    DataKeyDestruction,
    DataKeyRequest,
    Destroyed,
    SystemDataKeyRequest,
    WrappedKey,
)
from sealwire.contracts.keys import Destruction, KeyChange, NewKey
from sealwire.contracts.signatures import Signable, SignedMessage, SystemSignable
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.codec import Page, decode_body, encode
from sealwire.kit.envelopes import EnvelopeRefused, bind
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden, Invalid, QuotaExceeded, Unavailable
from sealwire.resilience.guard import Guard
from sealwire.resilience.registry import Registry
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.events import audit_entry, key_event
from sealwire.services.crypto.model import REFUSE_AT_USES, ROTATE_AT_USES
from sealwire.services.crypto.providers import FileKeyProvider, KekUnusable
from sealwire.services.crypto.routes import routes
from sealwire.services.crypto.service import CryptoService
from sealwire.testing.clock import ManualClock
from sealwire.testing.wirings import WIRINGS, open_wiring

DAY_S = 86_400


def person(tenant_id: str = "t1", role: Role = Role.ADMIN) -> Caller:
    principal = Principal(
        kind="user", tenant_id=tenant_id, subject=f"anna-{tenant_id}", role=role, auth_time_s=4_000_000_000
    )
    return Caller(principal=principal)


ANNA, BEN = person("t1"), person("t2")
MESSAGING, MEDIA = service_caller("messaging", "t1"), service_caller("media", "t1")
GATEWAY, COMPLIANCE = service_caller("gateway", "t1"), service_caller("compliance", "t1")
SECRET = b"attack at dawn"


class Room:
    """A crypto service on a folder; `again` is a restart, `killed` one without a goodbye."""

    def __init__(self, folder: Path, wiring: str, config: CryptoConfig) -> None:
        self.folder, self.wiring, self.config = folder, wiring, config
        self.clock = ManualClock()

    async def open(self) -> Crypto:
        self.db = Database.open(self.folder / "crypto.db", MIGRATIONS)
        self.store = SqliteKeyStore(self.db)
        self.service = CryptoService(
            store=self.store,
            provider=FileKeyProvider.open(self.folder / "kek"),
            clock=self.clock,
            config=self.config,
        )
        await self.service.start()
        return open_wiring(self.wiring, self.service, OPERATIONS, routes, clock=self.clock)

    async def close(self) -> None:
        await self.service.stop()
        await self.db.close()

    async def again(self) -> Crypto:
        await self.close()
        return await self.open()

    async def killed(self) -> Crypto:
        await self.service._keeper.stop()
        await self.service._chain._flights.settle()
        await self.db.close()
        return await self.open()

    async def actions(self) -> list[str]:
        await self.service._journal.flush()
        return [event.kind for event in await self.store.feed.read(0, 10_000)]


@pytest.fixture(params=WIRINGS)
async def room(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path, request.param, CryptoConfig(reserve_uses=16, max_keys_per_tenant=5, journal_window_ms=1))
    yield room
    await room.close()


@pytest.fixture
async def crypto(room: Room) -> Crypto:
    return await room.open()


def back(sealed: Sealed, context: dict[str, str] | None = None, **changes: object) -> Ciphertext:
    ciphertext = Ciphertext(
        ciphertext=sealed.ciphertext,
        iv=sealed.iv,
        auth_tag=sealed.auth_tag,
        version=sealed.version,
        context=context or {},
        key_id=sealed.key_id,
    )
    return msgspec.structs.replace(ciphertext, **changes)


async def test_a_round_trip_under_a_key(crypto: Crypto, room: Room) -> None:
    key = await crypto.generate_key(ANNA, NewKey(name="reports"))
    assert (key.key_type, key.state, key.name, key.purpose, key.tenant_id) == (
        "aes-256-gcm", "enabled", "reports", "tenant", "t1",
    )  # fmt: skip
    context = {"record": "7", "b": "ü"}
    sealed = await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET, context=context))
    assert (sealed.key_id, sealed.version) == (key.key_id, 1)
    assert len(sealed.iv) == 12
    assert len(sealed.auth_tag) == 16
    turned = dict(reversed(context.items()))
    assert (await crypto.decrypt(ANNA, key.key_id, back(sealed, turned))).plaintext == SECRET
    again = await room.again()
    assert (await again.decrypt(ANNA, key.key_id, back(sealed, context))).plaintext == SECRET


async def test_any_mismatch_is_refused_alike(crypto: Crypto, room: Room) -> None:
    one = await crypto.generate_key(ANNA, NewKey())
    two = await crypto.generate_key(ANNA, NewKey())
    context = {"a": "b"}
    sealed = await crypto.encrypt(ANNA, one.key_id, Plaintext(plaintext=SECRET, context=context))
    flipped = bytearray(sealed.ciphertext)
    flipped[0] ^= 1
    attempts = [
        (one.key_id, back(sealed)),
        (one.key_id, back(sealed, {"a": "c"})),
        (one.key_id, back(sealed, {"a": "b", "c": ""})),
        (one.key_id, back(sealed, context, version=2)),
        (one.key_id, back(sealed, context, iv=bytes(12))),
        (one.key_id, back(sealed, context, iv=b"")),
        (one.key_id, back(sealed, context, auth_tag=bytes(16))),
        (one.key_id, back(sealed, context, auth_tag=sealed.auth_tag[:12])),
        (one.key_id, back(sealed, context, ciphertext=bytes(flipped))),
        (one.key_id, back(sealed, context, ciphertext=b"")),
        (two.key_id, back(sealed, context)),
    ]
    told = set()
    for key_id, ciphertext in attempts:
        with pytest.raises(DecryptionFailed) as refused:
            await crypto.decrypt(ANNA, key_id, ciphertext)
        told.add((refused.value.detail, str(refused.value.extra)))
    assert len(told) == 1
    await room.service._journal.flush()
    entries = [audit_entry(e) for e in await room.store.feed.read(0, 1000)]
    failed = [int(e.metadata.get("count", 1) or 0) for e in entries if e.outcome == "failure"]  # type: ignore[arg-type]  # a count is a number
    assert sum(failed) == len(attempts)


@pytest.mark.parametrize("text", ["abc", "AA", "AA=", "A===", "AA==AA==", "A A=", "-_-_", "AAAA\\n", "ä==="])
def test_what_is_no_base64_names_the_member(text: str) -> None:
    body = b'{"items": [{"plaintext": "AAAA"}, {"plaintext": "%s"}]}' % text.encode()
    with pytest.raises(Invalid) as refused:
        decode_body(msgspec.json.Decoder(PlaintextBatch), body)
    assert refused.value.extra["path"] == "$.items[1].plaintext"


def test_bytes_are_base64_on_the_wire_only() -> None:
    sealed = Sealed(ciphertext=b"\xfb\xff", iv=bytes(12), auth_tag=b"\x01" * 16, key_id="k", version=3)
    written = encode(sealed)
    assert written == (
        b'{"ciphertext":"+/8=","iv":"AAAAAAAAAAAAAAAA","auth_tag":"AQEBAQEBAQEBAQEBAQEBAQ==","key_id":"k","version":3}'
    )
    read = decode_body(msgspec.json.Decoder(Ciphertext), written)
    assert (read.ciphertext, read.iv, read.auth_tag) == (sealed.ciphertext, sealed.iv, sealed.auth_tag)
    limit = b64encode(bytes(MAX_PLAINTEXT_BYTES)).decode()
    decode_body(msgspec.json.Decoder(Plaintext), b'{"plaintext": "%s"}' % limit.encode())
    with pytest.raises(Invalid):
        decode_body(msgspec.json.Decoder(Plaintext), b'{"plaintext": "%sAAAA"}' % limit.encode())


async def test_tenants_see_nothing_of_each_other(crypto: Crypto) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    sealed = await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    master = await crypto.encrypt_with_master_key(ANNA, Plaintext(plaintext=SECRET))
    for attempt in (
        crypto.key(BEN, key.key_id),
        crypto.rotate(BEN, key.key_id),
        crypto.encrypt(BEN, key.key_id, Plaintext(plaintext=SECRET)),
        crypto.decrypt(BEN, key.key_id, back(sealed)),
        crypto.change_key(BEN, key.key_id, KeyChange(state="disabled")),
        crypto.schedule_destruction(BEN, key.key_id, Destruction()),
        crypto.key(BEN, "no-such-key"),
    ):
        with pytest.raises(KeyNotFound):
            await attempt
    assert (await crypto.keys(BEN, Page())).items == []
    with pytest.raises(DecryptionFailed):
        await crypto.decrypt_with_master_key(BEN, back(master))
    await crypto.encrypt_with_master_key(BEN, Plaintext(plaintext=SECRET))
    with pytest.raises(DecryptionFailed):
        await crypto.decrypt_with_master_key(BEN, back(master))
    with pytest.raises(DecryptionFailed):
        await crypto.decrypt_with_master_key(BEN, back(master, key_id=None))


async def test_the_master_key_is_made_once_under_a_race_and_stays(crypto: Crypto, room: Room) -> None:
    sealed = await asyncio.gather(
        *(crypto.encrypt_with_master_key(ANNA, Plaintext(plaintext=SECRET)) for _ in range(20))
    )
    assert len({s.key_id for s in sealed}) == 1
    assert len({s.iv for s in sealed}) == 20
    for s in sealed:
        assert (await crypto.decrypt_with_master_key(ANNA, back(s))).plaintext == SECRET
    assert (await room.actions()).count("crypto.key.created") == 1
    for attempt in (
        crypto.change_key(ANNA, sealed[0].key_id, KeyChange(state="disabled")),
        crypto.schedule_destruction(ANNA, sealed[0].key_id, Destruction()),
    ):
        with pytest.raises(KeyUnusable):
            await attempt
    rotated = await crypto.rotate(ANNA, sealed[0].key_id)
    assert [v.version for v in rotated.versions] == [1, 2]
    key = await crypto.generate_key(ANNA, NewKey())
    again = await room.again()
    assert (await again.decrypt_with_master_key(ANNA, back(sealed[0]))).plaintext == SECRET
    assert (await again.encrypt_with_master_key(ANNA, Plaintext(plaintext=SECRET))).version == 2
    await again.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))


async def test_rotation_keeps_what_was_sealed_and_rewrap_moves_it(crypto: Crypto) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    old = await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET, context={"a": "1"}))
    assert [v.version for v in (await crypto.rotate(ANNA, key.key_id)).versions] == [1, 2]
    new = await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    assert (old.version, new.version) == (1, 2)
    moved = await crypto.rewrap(ANNA, key.key_id, back(old, {"a": "1"}))
    assert moved.version == 2
    for sealed, context in ((old, {"a": "1"}), (new, {}), (moved, {"a": "1"})):
        assert (await crypto.decrypt(ANNA, key.key_id, back(sealed, context))).plaintext == SECRET
    with pytest.raises(DecryptionFailed):
        await crypto.rewrap(ANNA, key.key_id, back(old))


async def test_states_say_what_a_key_does(crypto: Crypto) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    sealed = await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))

    async def may() -> tuple[bool, bool]:
        outcome = []
        for attempt in (
            crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET)),
            crypto.decrypt(ANNA, key.key_id, back(sealed)),
        ):
            try:
                await attempt
                outcome.append(True)
            except KeyUnusable:
                outcome.append(False)
        return outcome[0], outcome[1]

    assert await may() == (True, True)
    assert (await crypto.change_key(ANNA, key.key_id, KeyChange(state="decrypt_only"))).state == "decrypt_only"
    assert await may() == (False, True)
    assert (await crypto.change_key(ANNA, key.key_id, KeyChange(state="disabled"))).state == "disabled"
    assert await may() == (False, False)
    with pytest.raises(KeyUnusable):
        await crypto.rotate(ANNA, key.key_id)
    await crypto.change_key(ANNA, key.key_id, KeyChange(state="enabled"))
    assert await may() == (True, True)


async def test_a_state_that_there_is_not_is_answered_with_those_there_are(room: Room) -> None:
    room.wiring = "loopback"  # in this process types say it
    crypto = await room.open()
    key = await crypto.generate_key(ANNA, NewKey())
    with pytest.raises(Invalid) as refused:
        await crypto.change_key(ANNA, key.key_id, KeyChange(state="asleep"))  # type: ignore[arg-type]  # on purpose
    assert refused.value.extra["path"] == "$.state"
    assert refused.value.extra["allowed"] == ["decrypt_only", "disabled", "enabled"]
    assert refused.value.detail == "Expected one of `decrypt_only`, `disabled`, `enabled`."


async def test_destruction_waits_can_be_called_off_and_is_final(crypto: Crypto, room: Room) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    sealed = await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    scheduled = await crypto.schedule_destruction(ANNA, key.key_id, Destruction(delay_days=7))
    assert scheduled.state == "scheduled_for_destruction"
    assert scheduled.destroy_at is not None
    with pytest.raises(KeyUnusable):
        await crypto.decrypt(ANNA, key.key_id, back(sealed))
    for attempt in (
        crypto.schedule_destruction(ANNA, key.key_id, Destruction()),
        crypto.change_key(ANNA, key.key_id, KeyChange(state="enabled")),
    ):
        with pytest.raises(KeyUnusable, match="cancel that first"):
            await attempt
    assert (await crypto.cancel_destruction(ANNA, key.key_id)).state == "disabled"
    with pytest.raises(KeyUnusable, match="No destruction of the key is scheduled; it is disabled"):
        await crypto.cancel_destruction(ANNA, key.key_id)
    await crypto.change_key(ANNA, key.key_id, KeyChange(state="enabled"))
    assert (await crypto.decrypt(ANNA, key.key_id, back(sealed))).plaintext == SECRET
    await crypto.schedule_destruction(ANNA, key.key_id, Destruction(delay_days=7))
    room.clock.advance(7 * DAY_S - 1)
    assert await room.service.destroy_due() == 0
    room.clock.advance(1)
    assert await room.service.destroy_due() == 1
    assert await room.service.destroy_due() == 0
    again = await room.again()
    found = await again.key(ANNA, key.key_id)
    assert (found.state, found.destroy_at) == ("destroyed", None)
    for attempt in (
        again.decrypt(ANNA, key.key_id, back(sealed)),
        again.change_key(ANNA, key.key_id, KeyChange(state="enabled")),
        again.cancel_destruction(ANNA, key.key_id),
        again.rotate(ANNA, key.key_id),
    ):
        with pytest.raises(KeyUnusable):
            await attempt
    actions = await room.actions()
    assert actions.count("crypto.key.destroyed") == 1


async def test_racing_changes_of_state_end_in_one_that_was_asked(crypto: Crypto, room: Room) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    asked = [
        crypto.change_key(ANNA, key.key_id, KeyChange(state="disabled")),
        crypto.change_key(ANNA, key.key_id, KeyChange(state="decrypt_only")),
        crypto.schedule_destruction(ANNA, key.key_id, Destruction()),
        crypto.rotate(ANNA, key.key_id),
        crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET)),
    ] * 1
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(not isinstance(r, BaseException) or isinstance(r, KeyUnusable) for r in results)
    live = await crypto.key(ANNA, key.key_id)
    stored = await room.store.key("t1", key.key_id)
    assert stored is not None
    assert live.state == stored.life.state.value


async def test_batches_keep_their_order_and_fail_whole(crypto: Crypto, room: Room) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    texts = [b"%d" % i for i in range(100)]
    batch = PlaintextBatch(items=[Plaintext(plaintext=t, context={"i": t}) for t in texts])
    sealed = (await crypto.encrypt_batch(ANNA, key.key_id, batch)).items
    assert len({s.iv for s in sealed}) == 100
    items = [back(s, {"i": t}) for s, t in zip(sealed, texts, strict=True)]
    opened = await crypto.decrypt_batch(ANNA, key.key_id, CiphertextBatch(items=items))
    assert [o.plaintext for o in opened.items] == texts
    items[50] = msgspec.structs.replace(items[50], context={"i": "other"})
    with pytest.raises(DecryptionFailed) as failed:
        await crypto.decrypt_batch(ANNA, key.key_id, CiphertextBatch(items=items))
    assert (failed.value.extra, failed.value.detail) == ({"path": "$.items[50]"}, DecryptionFailed.title)
    assert (await crypto.key(ANNA, key.key_id)).versions[0].uses == 100
    await room.service._journal.flush()
    entries = [audit_entry(e) for e in await room.store.feed.read(0, 100)]
    found = [(e.action, e.outcome, e.metadata.get("count", 1)) for e in entries if "crypt" in e.action[7:]]
    assert found == [
        ("crypto.encrypt", "success", 100), ("crypto.decrypt", "success", 100), ("crypto.decrypt", "failure", 1),
    ]  # fmt: skip


async def test_a_key_that_does_not_open_is_refused_and_stops_no_other(crypto: Crypto, room: Room) -> None:
    keys = [await crypto.generate_key(ANNA, NewKey(key_type=type_)) for type_ in ("aes-256-gcm",) * 2 + ("ed25519",)]
    damaged, whole, signing = (key.key_id for key in keys)
    text = Plaintext(plaintext=SECRET)
    sealed = {key_id: await crypto.encrypt(ANNA, key_id, text) for key_id in (damaged, whole)}
    sql = "UPDATE versions SET wrapped = zeroblob(length(wrapped)) WHERE key_id IN (?, ?)"
    await room.db.write(lambda conn: conn.execute(sql, (damaged, signing)).fetchall())
    crypto = await room.again()
    before = len(await room.actions())
    for _ in range(2):
        with pytest.raises(KeyUnusable):
            await crypto.encrypt(ANNA, damaged, text)
        with pytest.raises(DecryptionFailed):
            await crypto.decrypt(ANNA, damaged, back(sealed[damaged]))
        with pytest.raises(DecryptionFailed):
            await crypto.data_key(ANNA, damaged, DataKeyRequest())
        with pytest.raises(KeyUnusable):
            await crypto.sign(ANNA, signing, Signable(message=SECRET))
    assert (await crypto.decrypt(ANNA, whole, back(sealed[whole]))).plaintext == SECRET
    assert len(await room.actions()) == before + 9, "each is recorded"
    entries = [audit_entry(event) for event in await room.store.feed.read(0, 1000)][before:]
    assert [entry.outcome for entry in entries] == ["failure"] * 8 + ["success"]
    assert (await crypto.rotate(ANNA, damaged)).versions[-1].version == 2
    anew = await crypto.encrypt(ANNA, damaged, text)
    assert (await crypto.decrypt(ANNA, damaged, back(anew))).plaintext == SECRET


async def test_signatures_and_tags(crypto: Crypto) -> None:
    signing = await crypto.generate_key(ANNA, NewKey(key_type="ed25519"))
    tagging = await crypto.generate_key(ANNA, NewKey(key_type="hmac-sha256"))
    assert signing.public_key is not None
    assert tagging.public_key is None
    signed = await crypto.sign(ANNA, signing.key_id, Signable(message=SECRET))
    Ed25519PublicKey.from_public_bytes(signing.public_key).verify(signed.signature, SECRET)
    tagged = await crypto.hmac(ANNA, tagging.key_id, Signable(message=SECRET))
    await crypto.rotate(ANNA, signing.key_id)
    await crypto.rotate(ANNA, tagging.key_id)
    for key, made in ((signing, signed), (tagging, tagged)):
        message = SignedMessage(message=SECRET, signature=made.signature, version=1)
        assert (await crypto.verify(ANNA, key.key_id, message)).valid
        for other in (
            msgspec.structs.replace(message, version=2),
            msgspec.structs.replace(message, version=9),
            msgspec.structs.replace(message, message=b"x"),
            msgspec.structs.replace(message, signature=b"x" * 64),
            msgspec.structs.replace(message, signature=b""),
        ):
            assert not (await crypto.verify(ANNA, key.key_id, other)).valid
    aes = await crypto.generate_key(ANNA, NewKey())
    for attempt in (
        crypto.sign(ANNA, aes.key_id, Signable(message=SECRET)),
        crypto.sign(ANNA, tagging.key_id, Signable(message=SECRET)),
        crypto.hmac(ANNA, signing.key_id, Signable(message=SECRET)),
        crypto.encrypt(ANNA, signing.key_id, Plaintext(plaintext=SECRET)),
        crypto.data_key(ANNA, signing.key_id, DataKeyRequest()),
        crypto.verify(ANNA, aes.key_id, SignedMessage(message=SECRET, signature=SECRET)),
    ):
        with pytest.raises(KeyUnusable):
            await attempt


async def test_lists_page_and_the_quota_holds(crypto: Crypto) -> None:
    made = [(await crypto.generate_key(ANNA, NewKey())).key_id for _ in range(5)]
    with pytest.raises(QuotaExceeded):
        await crypto.generate_key(ANNA, NewKey())
    seen: list[str] = []
    cursor = None
    while True:
        page = await crypto.keys(ANNA, Page(limit=2, cursor=cursor))
        seen += [key.key_id for key in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert [key_id for key_id in seen if key_id in made] == sorted(made)
    assert len(seen) == 6  # and the master key, made with the first one


# ---- data keys


async def test_a_tenants_data_key_is_given_wrapped_to_people_and_plain_to_services(crypto: Crypto) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    wrapped = await crypto.data_key(ANNA, key.key_id, DataKeyRequest(context={"a": "b"}))
    assert wrapped.plaintext == b""
    with pytest.raises(Forbidden):
        await crypto.data_key(ANNA, key.key_id, DataKeyRequest(plain=True))
    plain = await crypto.data_key(GATEWAY, key.key_id, DataKeyRequest(context={"a": "b"}, plain=True))
    opened = await crypto.open_data_key(MESSAGING, WrappedKey(wrapped=plain.wrapped, context={"a": "b"}))
    assert opened.plaintext == plain.plaintext
    assert len(opened.plaintext) == 32
    await crypto.rotate(ANNA, key.key_id)
    await crypto.open_data_key(MESSAGING, WrappedKey(wrapped=wrapped.wrapped, context={"a": "b"}))
    for caller, bad, context in (
        (MESSAGING, plain.wrapped, {"a": "c"}),
        (service_caller("messaging", "t2"), plain.wrapped, {"a": "b"}),
        (MESSAGING, plain.wrapped[:-4] + "AAAA", {"a": "b"}),
        (MESSAGING, "", {}),
        (MESSAGING, "AAAA", {}),
        (MESSAGING, "!!", {}),
    ):
        with pytest.raises(DecryptionFailed):
            await crypto.open_data_key(caller, WrappedKey(wrapped=bad, context=context))


async def test_a_services_data_key_is_current_per_context(crypto: Crypto, room: Room) -> None:
    context = {"scope": "c1", "subject_id": "u1"}
    request = SystemDataKeyRequest(context=context)
    made = await asyncio.gather(*(crypto.system_data_key(MESSAGING, request) for _ in range(10)))
    assert len({(k.wrapped, bytes(k.plaintext)) for k in made}) == 1
    other = await crypto.system_data_key(MESSAGING, SystemDataKeyRequest(context={**context, "subject_id": "u2"}))
    assert other.plaintext != made[0].plaintext
    assert (await crypto.system_data_key(MEDIA, request)).plaintext != made[0].plaintext
    fresh = await crypto.system_data_key(MESSAGING, SystemDataKeyRequest(context=context, fresh=True))
    assert fresh.wrapped != made[0].wrapped
    again = await room.again()
    assert (await again.system_data_key(MESSAGING, request)).plaintext == fresh.plaintext
    old = await again.open_data_key(MESSAGING, WrappedKey(wrapped=made[0].wrapped, context=context))
    assert old.plaintext == made[0].plaintext
    for caller, bad in (
        (MEDIA, context),
        (service_caller("messaging", "t2"), context),
        (MESSAGING, {**context, "scope": "c2"}),
    ):
        with pytest.raises(DecryptionFailed):
            await again.open_data_key(caller, WrappedKey(wrapped=made[0].wrapped, context=bad))


async def test_system_keys_are_out_of_everybodys_reach(crypto: Crypto) -> None:
    made = await crypto.system_data_key(COMPLIANCE, SystemDataKeyRequest(context={"scope": "x"}))
    signed = await crypto.system_sign(COMPLIANCE, SystemSignable(name="checkpoint", message=SECRET))
    Ed25519PublicKey.from_public_bytes(signed.public_key).verify(signed.signature, SECRET)
    shown = {key.key_id: key.purpose for key in (await crypto.keys(ANNA, Page())).items}
    assert shown[made.key_id] == shown[signed.key_id] == "system:compliance"
    ciphertext = Ciphertext(ciphertext=b"", iv=b"", auth_tag="", version=1)
    for caller in (ANNA, GATEWAY):
        for attempt in (
            crypto.encrypt(caller, made.key_id, Plaintext(plaintext=SECRET)),
            crypto.decrypt(caller, made.key_id, ciphertext),
            crypto.encrypt_batch(caller, made.key_id, PlaintextBatch(items=[Plaintext(plaintext=SECRET)])),
            crypto.decrypt_batch(caller, made.key_id, CiphertextBatch(items=[ciphertext])),
            crypto.rewrap(caller, made.key_id, ciphertext),
            crypto.data_key(caller, made.key_id, DataKeyRequest()),
            crypto.change_key(caller, made.key_id, KeyChange(state="disabled")),
            crypto.schedule_destruction(caller, made.key_id, Destruction()),
            crypto.cancel_destruction(caller, made.key_id),
            crypto.sign(caller, signed.key_id, Signable(message=SECRET)),
        ):
            with pytest.raises(KeyNotFound):
                await attempt


async def test_members_use_and_manage_no_keys(crypto: Crypto) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    sealed = await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    for caller in (person(role=Role.MEMBER), person(role=Role.AUDITOR), person(role=Role.GUEST)):
        for attempt in (
            crypto.keys(caller, Page()),
            crypto.key(caller, key.key_id),
            crypto.generate_key(caller, NewKey()),
            crypto.rotate(caller, key.key_id),
            crypto.change_key(caller, key.key_id, KeyChange(state="disabled")),
            crypto.schedule_destruction(caller, key.key_id, Destruction()),
            crypto.encrypt(caller, key.key_id, Plaintext(plaintext=SECRET)),
            crypto.decrypt(caller, key.key_id, back(sealed)),
            crypto.encrypt_with_master_key(caller, Plaintext(plaintext=SECRET)),
            crypto.data_key(caller, key.key_id, DataKeyRequest()),
        ):
            with pytest.raises(Forbidden):
                await attempt


async def test_people_get_nothing_meant_for_services(room: Room) -> None:
    room.wiring = "direct"  # over HTTP the edge refuses them before
    crypto = await room.open()
    for attempt in (
        crypto.system_data_key(ANNA, SystemDataKeyRequest(context={})),
        crypto.open_data_key(ANNA, WrappedKey(wrapped="x", context={})),
        crypto.destroy_data_keys(ANNA, DataKeyDestruction(scope="x")),
        crypto.system_sign(ANNA, SystemSignable(name="x", message=SECRET)),
    ):
        with pytest.raises(Forbidden):
            await attempt


async def test_destroying_a_persons_data_keys_ends_them(crypto: Crypto, room: Room) -> None:
    context = {"scope": "c1", "subject_id": "u1"}
    made = await crypto.system_data_key(MESSAGING, SystemDataKeyRequest(context=context))
    with pytest.raises(Invalid):
        await crypto.destroy_data_keys(MESSAGING, DataKeyDestruction())
    assert (await crypto.destroy_data_keys(MESSAGING, DataKeyDestruction(subject_id="u1"))).destroyed == 1
    assert (await crypto.destroy_data_keys(MESSAGING, DataKeyDestruction(subject_id="u1"))).destroyed == 0
    with pytest.raises(KeyUnusable):
        await crypto.open_data_key(MESSAGING, WrappedKey(wrapped=made.wrapped, context=context))
    fresh = await crypto.system_data_key(MESSAGING, SystemDataKeyRequest(context=context))
    assert fresh.plaintext != made.plaintext
    assert (await room.actions()).count("crypto.data_key.destroyed") == 1


# ---- the ring


async def test_the_ring_seals_and_opens_and_asks_once(crypto: Crypto, room: Room) -> None:
    ring = KeyRing(crypto=crypto, service="messaging", clock=room.clock, max_age_s=60)
    aad = bind("t1", "message", "m1")
    sealed = await asyncio.gather(*(ring.seal("t1", "c1", "u1", b"hello", aad) for _ in range(10)))
    assert (await room.actions()).count("crypto.data_key.created") == 1
    assert ring.ready("t1", "c1", "u1") is not None
    assert ring.ready_for("t1", sealed[0]) is not None
    assert ring.ready_for("t2", sealed[0]) is None
    other = KeyRing(crypto=crypto, service="messaging", clock=room.clock)
    for envelope in sealed:
        assert await other.open("t1", "c1", "u1", envelope, aad) == b"hello"
    assert (await room.actions()).count("crypto.data_key.opened") == 1
    with pytest.raises(EnvelopeRefused):
        await other.open("t1", "c1", "u1", sealed[0], bind("t1", "message", "m2"))
    stranger = KeyRing(crypto=crypto, service="media", clock=room.clock)
    with pytest.raises(DecryptionFailed):
        await stranger.open("t1", "c1", "u1", sealed[0], aad)
    with pytest.raises(EnvelopeRefused):
        await other.open("t1", "c1", "u1", b"nonsense", aad)
    room.clock.advance(61)
    assert ring.ready("t1", "c1", "u1") is None
    assert ring.ready_for("t1", sealed[0]) is None
    assert await ring.open("t1", "c1", "u1", sealed[0], aad) == b"hello"


async def test_a_key_asked_for_by_its_id_is_asked_for_again_after_its_time(crypto: Crypto, room: Room) -> None:
    ring = KeyRing(crypto=crypto, service="messaging", clock=room.clock, max_age_s=60)
    key = await ring.sealing_key("t1", "c1", "u1")
    assert await ring.key_by_id("t1", "c1", "u1", key.key_id) is key
    with pytest.raises(DecryptionFailed):
        await ring.key_by_id("t2", "c1", "u1", key.key_id)
    await crypto.destroy_data_keys(MESSAGING, DataKeyDestruction(scope="c1"))
    assert await ring.key_by_id("t1", "c1", "u1", key.key_id) is key, "whoever destroys elsewhere has to wait so long"
    room.clock.advance(61)
    with pytest.raises(KeyUnusable):
        await ring.key_by_id("t1", "c1", "u1", key.key_id)


async def test_the_ring_keeps_its_limits_and_wipes(crypto: Crypto, room: Room) -> None:
    ring = KeyRing(crypto=crypto, service="messaging", clock=room.clock, max_keys=3, max_uses=5, max_age_s=60)
    first = await ring.sealing_key("t1", "c1", "u1")
    for _ in range(5):
        first.seal(b"", b"c")
    assert ring.ready("t1", "c1", "u1") is None
    second = await ring.sealing_key("t1", "c1", "u1")
    assert (second.key_id, second.uses) == (first.key_id, 0)
    for i in range(5):
        await ring.seal("t1", f"c{i}", "u2", b"", b"c")
    assert len(ring) == 3
    room.clock.advance(31)
    ring.sweep()
    assert first.wiped
    assert second.wiped
    room.clock.advance(30)
    ring.sweep()
    assert len(ring) == 0
    held = await ring.sealing_key("t1", "c1", "u1")
    ring.clear_cache()
    assert held.wiped
    assert len(ring) == 0


async def test_the_ring_wipes_by_itself_what_nobody_asks_for(crypto: Crypto, room: Room) -> None:
    ring = KeyRing(crypto=crypto, service="messaging", clock=room.clock, max_age_s=0.05)
    key = await ring.sealing_key("t1", "c1", "u1")
    async with asyncio.timeout(20):
        while not key.wiped:
            room.clock.advance(60)
            await asyncio.sleep(0.01)


async def test_a_key_that_left_the_ring_is_wiped_at_once_when_it_is_destroyed(crypto: Crypto, room: Room) -> None:
    ring = KeyRing(crypto=crypto, service="messaging", clock=room.clock, max_keys=1)
    left, other = [await ring.sealing_key("t1", f"c{n}", f"u{n}") for n in (1, 2)]
    assert not left.wiped, "somebody may be about to use it"
    assert await ring.destroy("t1", subject_id="u1") == 1
    assert (left.wiped, other.wiped) == (True, False)


async def test_the_ring_forgets_and_destroys(crypto: Crypto, room: Room) -> None:
    ring = KeyRing(crypto=crypto, service="messaging", clock=room.clock)
    sealed = {(s, u): await ring.seal("t1", s, u, b"x", b"c") for s in ("c1", "c2") for u in ("u1", "u2")}
    assert await ring.destroy("t1", subject_id="u1") == 2
    for (scope, user), envelope in sealed.items():
        if user == "u1":
            with pytest.raises(KeyUnusable):
                await ring.open("t1", scope, user, envelope, b"c")
        else:
            assert await ring.open("t1", scope, user, envelope, b"c") == b"x"
    assert await ring.destroy("t1", scope="c1") == 1
    with pytest.raises(KeyUnusable):
        await ring.open("t1", "c1", "u2", sealed["c1", "u2"], b"c")


async def test_the_ring_forgets_also_when_the_answer_is_lost(crypto: Crypto, room: Room) -> None:
    class LostAnswer:
        """Crypto that dies between its commit and its answer."""

        def __getattr__(self, name: str) -> object:
            return getattr(crypto, name)

        async def destroy_data_keys(self, caller: Caller, which: DataKeyDestruction) -> Destroyed:
            await ring.sealing_key("t1", "c1", "u1")  # somebody seals in between
            await crypto.destroy_data_keys(caller, which)
            raise Unavailable

    ring = KeyRing(crypto=LostAnswer(), service="messaging", clock=room.clock)  # type: ignore[arg-type]  # as far as used
    sealed = await ring.seal("t1", "c1", "u1", b"x", b"c")
    with pytest.raises(Unavailable):
        await ring.destroy("t1", subject_id="u1")
    assert ring.ready("t1", "c1", "u1") is None
    with pytest.raises(KeyUnusable):
        await ring.open("t1", "c1", "u1", sealed, b"c")


async def test_what_is_forgotten_while_it_is_loaded_is_not_kept(crypto: Crypto, room: Room) -> None:
    ring = KeyRing(crypto=crypto, service="messaging", clock=room.clock)
    load = asyncio.create_task(ring.sealing_key("t1", "c1", "u1"))
    while not ring._loads:  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)
    ring.forget("t1", subject_id="u1")
    assert not (await load).wiped, "good for who waited"
    assert (len(ring), ring.ready("t1", "c1", "u1")) == (0, None)


async def test_a_load_that_fails_is_not_remembered(crypto: Crypto, room: Room) -> None:
    ring = KeyRing(crypto=crypto, service="messaging", clock=room.clock)
    sealed = await ring.seal("t1", "c1", "u1", b"x", b"c")
    ring.clear_cache()
    outcomes = await asyncio.gather(
        *(ring.open("t1", "c9", "u1", sealed, b"c") for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(o, DecryptionFailed) for o in outcomes)
    assert await ring.open("t1", "c1", "u1", sealed, b"c") == b"x"


# ---- the client


async def test_the_client_has_its_names_and_a_breaker(crypto: Crypto, room: Room) -> None:
    guard = Guard.of("crypto", registry=Registry(clock=room.clock), clock=room.clock, rng=Random(1))
    client = CryptoClient(crypto=local_crypto(crypto, guard), guard=guard, service="messaging", clock=room.clock)
    key = await client.generate_key(ANNA, NewKey())
    sealed = await client.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    assert (await client.decrypt(ANNA, key.key_id, back(sealed))).plaintext == SECRET
    assert len((await client.rotate_key(ANNA, key.key_id)).versions) == 2
    assert key.key_id in [found.key_id for found in (await client.get_tenant_keys(ANNA)).items]
    master = await client.encrypt_with_master_key(ANNA, Plaintext(plaintext=SECRET))
    assert (await client.decrypt_with_master_key(ANNA, back(master))).plaintext == SECRET
    with pytest.raises(DecryptionFailed):
        await client.decrypt(ANNA, key.key_id, back(sealed, version=9))
    assert client.is_healthy()
    assert client.get_circuit_breaker_state().name == "crypto"
    held = await client.ring.sealing_key("t1", "c1", "u1")
    client.clear_cache()
    assert held.wiped


# ---- counting


async def test_uses_survive_and_a_kill_counts_too_many_never_too_few(crypto: Crypto, room: Room) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    for _ in range(50):
        await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    assert (await crypto.key(ANNA, key.key_id)).versions[0].uses == 50
    again = await room.again()
    assert (await again.key(ANNA, key.key_id)).versions[0].uses == 50
    for _ in range(30):
        await again.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    killed = await room.killed()
    uses = (await killed.key(ANNA, key.key_id)).versions[0].uses
    assert 80 <= uses <= 80 + 3 * 16


async def test_a_version_that_is_used_up_is_followed_by_another(crypto: Crypto, room: Room) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    crypto = await room.again()
    await room.store.reserve(key.key_id, 1, ROTATE_AT_USES, limit=REFUSE_AT_USES)
    first = await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    assert first.version == 1
    await room.service._chain._flights.settle()
    assert (await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))).version == 2
    assert (await crypto.decrypt(ANNA, key.key_id, back(first))).plaintext == SECRET
    assert "crypto.key.rotated" in await room.actions()


async def test_no_use_beyond_the_nonce_limit(crypto: Crypto, room: Room) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    crypto = await room.again()
    found = await room.store.key("t1", key.key_id)
    assert found is not None
    await room.store.reserve(key.key_id, 1, REFUSE_AT_USES - found.newest.reserved_uses - 3, limit=REFUSE_AT_USES)
    batch = PlaintextBatch(items=[Plaintext(plaintext=SECRET)] * 10)
    sealed = await crypto.encrypt_batch(ANNA, key.key_id, batch)
    assert {s.version for s in sealed.items} == {2}
    found = await room.store.key("t1", key.key_id)
    assert found is not None
    assert found.versions[0].reserved_uses <= REFUSE_AT_USES


# ---- the installation


async def test_every_operation_is_recorded_and_none_tells_the_plaintext(crypto: Crypto, room: Room) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    sealed = await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    await crypto.decrypt(ANNA, key.key_id, back(sealed))
    await crypto.change_key(ANNA, key.key_id, KeyChange(state="disabled"))
    with pytest.raises(KeyUnusable):
        await crypto.decrypt(ANNA, key.key_id, back(sealed))
    actions = await room.actions()
    assert sorted(actions) == [
        "crypto.decrypt",
        "crypto.decrypt",
        "crypto.encrypt",
        "crypto.key.created",
        "crypto.key.created",
        "crypto.key.state_changed",
    ]
    entries = [audit_entry(e) for e in await room.store.feed.read(0, 100)]
    assert {e.actor.id for e in entries} == {"anna-t1", "crypto"}
    assert "denied" in {e.outcome for e in entries}
    everything = b"".join(e.data for e in await room.store.feed.read(0, 100))
    assert SECRET not in everything
    assert b64encode(SECRET) not in everything


async def test_many_uses_of_a_kind_share_a_record_that_counts_them(crypto: Crypto, room: Room) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    journal = room.service._journal
    journal._window_s = 60.0  # so that the window ends when this test says so
    for _ in range(37):
        await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    sealed = await crypto.encrypt(GATEWAY, key.key_id, Plaintext(plaintext=SECRET))
    await crypto.decrypt(ANNA, key.key_id, back(sealed))
    await journal.flush()
    await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    await journal.flush()
    entries = [audit_entry(e) for e in await room.store.feed.read(0, 1000)]
    annas = [e.metadata.get("count", 1) for e in entries if e.action == "crypto.encrypt" and e.actor.id == "anna-t1"]
    assert annas == [1] * 10 + [27, 1]
    assert [e.actor.id for e in entries if e.action == "crypto.encrypt"].count("gateway") == 1
    assert [e.action for e in entries].count("crypto.decrypt") == 1


async def test_the_file_holds_no_key_in_the_clear(crypto: Crypto, room: Room) -> None:
    plain = (await crypto.system_data_key(MESSAGING, SystemDataKeyRequest(context={"scope": "x"}))).plaintext
    key = await crypto.generate_key(ANNA, NewKey())
    await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    roots = [bytes(m._root) for live in room.service._chain._keys.values() for m in live.materials.values()]
    assert roots
    files = b"".join(f.read_bytes() for f in room.folder.iterdir())
    assert not any(secret in files for secret in [plain, *roots])


async def test_another_kek_is_refused_at_the_start(crypto: Crypto, room: Room) -> None:
    await crypto.generate_key(ANNA, NewKey())
    await room.close()
    kek = room.folder / "kek"
    kept = kek.read_bytes()
    kek.unlink()
    with pytest.raises(KekUnusable, match="put the right"):
        await room.open()
    await room.db.close()
    kek.write_bytes(kept)
    await (await room.open()).generate_key(ANNA, NewKey())


async def test_material_is_wiped_after_its_time_and_comes_back(crypto: Crypto, room: Room) -> None:
    key = await crypto.generate_key(ANNA, NewKey())
    sealed = await crypto.encrypt(ANNA, key.key_id, Plaintext(plaintext=SECRET))
    chain = room.service._chain
    held = [m for live in chain._keys.values() for m in live.materials.values()]
    room.clock.advance(room.config.cache_age_s)
    chain.sweep()
    assert all(bytes(m._root) == bytes(32) for m in held)
    assert not any(live.materials for live in chain._keys.values())
    assert (await crypto.decrypt(ANNA, key.key_id, back(sealed))).plaintext == SECRET


async def test_the_checks_hold(crypto: Crypto, room: Room) -> None:
    assert set(room.service.checks()) == {"store", "key_provider"}
    for probe in room.service.checks().values():
        await probe()


async def test_no_more_keys_are_unwrapped_than_may_be(tmp_path: Path) -> None:
    room = Room(tmp_path, "direct", CryptoConfig(cache_keys=16, journal_window_ms=1))
    crypto = await room.open()
    callers = [person(f"tenant-{n}") for n in range(24)]
    seen = set()
    sealed = []
    for caller in callers:
        sealed.append(await crypto.encrypt_with_master_key(caller, Plaintext(plaintext=SECRET)))
        seen |= {material for live in room.service._chain._keys.values() for material in live.materials.values()}
        assert len(room.service._chain._keys) <= 16
    at_hand = {material for live in room.service._chain._keys.values() for material in live.materials.values()}
    assert len(seen) == 24
    assert all(bytes(material._root) == bytes(32) for material in seen - at_hand), "what had to go was wiped"
    assert not any(bytes(material._root) == bytes(32) for material in at_hand)
    for caller, one in zip(callers, sealed, strict=True):
        assert (await crypto.decrypt_with_master_key(caller, back(one))).plaintext == SECRET
    uses = [
        (await crypto.key(caller, one.key_id)).versions[0].uses for caller, one in zip(callers, sealed, strict=True)
    ]
    assert uses == [1] * 24, "and counted on"
    await room.close()


async def test_a_services_data_key_is_followed_by_another_at_half_its_nonces(crypto: Crypto, room: Room) -> None:
    request = SystemDataKeyRequest(context={"scope": "c1", "subject_id": "u1"})
    first = await crypto.system_data_key(MESSAGING, request)
    event = key_event(MESSAGING, "crypto.data_key.loaded", key_id=first.key_id, at_us=1)
    assert await room.store.grant_uses(first.wrapped, ROTATE_AT_USES - 2 * DATA_KEY_USES, event)
    assert (await crypto.system_data_key(MESSAGING, request)).wrapped == first.wrapped, "up to 2^31 and no further"
    second = await crypto.system_data_key(MESSAGING, request)
    assert second.wrapped != first.wrapped
    assert second.plaintext != first.plaintext
    opened = await crypto.open_data_key(MESSAGING, WrappedKey(wrapped=first.wrapped, context=request.context))
    assert opened.plaintext == first.plaintext
    stored = await room.store.data_key("t1", "messaging", first.wrapped)
    assert stored is not None
    assert stored.reserved_uses == ROTATE_AT_USES
