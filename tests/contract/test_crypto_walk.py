"""Every operation of crypto, one by one: where the wire contract puts it, what is recorded, and what never is."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from msgspec.structs import asdict, replace

from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.contracts.ciphers import Ciphertext, CiphertextBatch, Plaintext, PlaintextBatch, Sealed
from sealwire.contracts.crypto import OPERATIONS, Crypto
from sealwire.contracts.crypto_terms import DecryptionFailed, KeyUnusable
from sealwire.contracts.custody import (
    HoldPlacement,
    SubjectChanges,
    SubjectErasure,
    SubjectProbe,
    SubjectQuery,
    SubjectRestriction,
)
from sealwire.contracts.data_keys import DataKeyDestruction, DataKeyRequest, SystemDataKeyRequest, WrappedKey
from sealwire.contracts.holds import LegalHold
from sealwire.contracts.keys import Destruction, KeyChange, NewKey, RewrapStep
from sealwire.contracts.signatures import Signable, SignedMessage, SystemSignable
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.codec import Page, decode_body, encode
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden, Invalid
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.events import audit_entry
from sealwire.services.crypto.providers import FileKeyProvider
from sealwire.services.crypto.service import CryptoService
from sealwire.testing.clock import ManualClock

ANNA = Caller(
    principal=Principal(kind="user", tenant_id="t1", subject="anna", role=Role.ADMIN, auth_time_s=4_000_000_000)
)
MESSAGING = service_caller("messaging", "t1")
SECRET = b"attack at dawn, by the eastern gate"
CONTEXT = {"record": "7", "purpose": "plans"}

PUBLIC = {
    ("POST", "/crypto/keys"), ("GET", "/crypto/keys"), ("GET", "/crypto/keys/{key_id}"),
    ("POST", "/crypto/keys/{key_id}/rotate"), ("PATCH", "/crypto/keys/{key_id}"),
    ("POST", "/crypto/keys/{key_id}/schedule-destruction"), ("POST", "/crypto/keys/{key_id}/cancel-destruction"),
    ("POST", "/crypto/keys/{key_id}/encrypt"), ("POST", "/crypto/keys/{key_id}/decrypt"),
    ("POST", "/crypto/master/encrypt"), ("POST", "/crypto/master/decrypt"),
    ("POST", "/crypto/keys/{key_id}/encrypt-batch"), ("POST", "/crypto/keys/{key_id}/decrypt-batch"),
    ("POST", "/crypto/keys/{key_id}/rewrap"), ("POST", "/crypto/keys/{key_id}/data-key"),
    ("POST", "/crypto/keys/{key_id}/sign"), ("POST", "/crypto/keys/{key_id}/verify"),
    ("POST", "/crypto/keys/{key_id}/hmac"), ("POST", "/crypto/master/rewrap"),
    ("POST", "/crypto/master/encrypt-batch"), ("POST", "/crypto/master/decrypt-batch"),
}  # fmt: skip
"""The Crypto table of the wire contract, and the sweep after a rotation."""


class Walk:
    """A service, and one of everything made by it."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.db = Database.open(folder / "crypto.db", MIGRATIONS)
        self.store = SqliteKeyStore(self.db)
        self.service = CryptoService(
            store=self.store, provider=FileKeyProvider.open(folder / "kek"), clock=self.clock,
            config=CryptoConfig(reserve_uses=16, journal_window_ms=1),
        )  # fmt: skip

    async def open(self) -> None:
        await self.service.start()
        crypto: Crypto = self.service
        self.aes = (await crypto.generate_key(ANNA, NewKey())).key_id
        self.doomed = (await crypto.generate_key(ANNA, NewKey())).key_id
        self.signer = (await crypto.generate_key(ANNA, NewKey(key_type="ed25519"))).key_id
        self.mac = (await crypto.generate_key(ANNA, NewKey(key_type="hmac-sha256"))).key_id
        self.sealed = await crypto.encrypt(ANNA, self.aes, plain())
        self.master = await crypto.encrypt_with_master_key(ANNA, plain())
        self.signature = await crypto.sign(ANNA, self.signer, Signable(message=SECRET))
        self.wrapped = await crypto.data_key(ANNA, self.aes, DataKeyRequest(context=CONTEXT))
        self.current = await crypto.system_data_key(MESSAGING, SystemDataKeyRequest(context={"scope": "c1"}))
        await crypto.schedule_destruction(ANNA, self.doomed, Destruction(delay_days=1))

    async def close(self) -> None:
        await self.service.stop()
        await self.db.close()

    async def new_entries(self) -> list[Any]:
        """Return the audit records since the last time."""
        self.service._journal.sum_up()
        await self.service._journal.flush()
        events = await self.store.feed.read(self.seen, 1000)
        self.seen = events[-1].position if events else self.seen
        return [audit_entry(event) for event in events]

    seen = 0


@pytest.fixture
async def walk(tmp_path: Path) -> AsyncIterator[Walk]:
    walk = Walk(tmp_path)
    await walk.open()
    yield walk
    await walk.close()


def plain() -> Plaintext:
    return Plaintext(plaintext=SECRET, context=CONTEXT)


def back(sealed: Sealed, **changes: Any) -> Ciphertext:
    members = {
        "ciphertext": sealed.ciphertext, "iv": sealed.iv, "auth_tag": sealed.auth_tag, "version": sealed.version,
        "context": CONTEXT,
    }  # fmt: skip
    return Ciphertext(**{**members, **changes})


Call = Callable[[Walk], Awaitable[Any]]
# What each operation is called with, and the record it leaves; None: reads of what is no secret leave none.
CALLS: dict[str, tuple[Call, str | None]] = {
    "generate_key": (lambda w: w.service.generate_key(ANNA, NewKey(name="k")), "crypto.key.created"),
    "keys": (lambda w: w.service.keys(ANNA, Page()), None),
    "key": (lambda w: w.service.key(ANNA, w.aes), None),
    "rotate": (lambda w: w.service.rotate(ANNA, w.aes), "crypto.key.rotated"),
    "change_key": (
        lambda w: w.service.change_key(ANNA, w.mac, KeyChange(state="decrypt_only")), "crypto.key.state_changed",
    ),
    "schedule_destruction": (
        lambda w: w.service.schedule_destruction(ANNA, w.signer, Destruction()), "crypto.key.destruction_scheduled",
    ),
    "cancel_destruction": (
        lambda w: w.service.cancel_destruction(ANNA, w.doomed), "crypto.key.destruction_cancelled",
    ),
    "encrypt": (lambda w: w.service.encrypt(ANNA, w.aes, plain()), "crypto.encrypt"),
    "decrypt": (lambda w: w.service.decrypt(ANNA, w.aes, back(w.sealed)), "crypto.decrypt"),
    "encrypt_batch": (
        lambda w: w.service.encrypt_batch(ANNA, w.aes, PlaintextBatch(items=[plain()] * 3)), "crypto.encrypt",
    ),
    "decrypt_batch": (
        lambda w: w.service.decrypt_batch(ANNA, w.aes, CiphertextBatch(items=[back(w.sealed)] * 3)), "crypto.decrypt",
    ),
    "rewrap": (lambda w: w.service.rewrap(ANNA, w.aes, back(w.sealed)), "crypto.rewrap"),
    "data_key": (lambda w: w.service.data_key(ANNA, w.aes, DataKeyRequest(context=CONTEXT)), "crypto.data_key.created"),
    "sign": (lambda w: w.service.sign(ANNA, w.signer, Signable(message=SECRET)), "crypto.sign"),
    "verify": (
        lambda w: w.service.verify(
            ANNA, w.signer, SignedMessage(message=SECRET, signature=w.signature.signature, version=1)
        ),
        "crypto.verify",
    ),
    "hmac": (lambda w: w.service.hmac(ANNA, w.mac, Signable(message=SECRET)), "crypto.hmac"),
    "encrypt_with_master_key": (lambda w: w.service.encrypt_with_master_key(ANNA, plain()), "crypto.encrypt"),
    "decrypt_with_master_key": (
        lambda w: w.service.decrypt_with_master_key(ANNA, back(w.master)), "crypto.decrypt",
    ),
    "encrypt_batch_with_master_key": (
        lambda w: w.service.encrypt_batch_with_master_key(ANNA, PlaintextBatch(items=[plain()] * 3)), "crypto.encrypt",
    ),
    "decrypt_batch_with_master_key": (
        lambda w: w.service.decrypt_batch_with_master_key(ANNA, CiphertextBatch(items=[back(w.master)] * 3)),
        "crypto.decrypt",
    ),
    "system_data_key": (
        lambda w: w.service.system_data_key(MESSAGING, SystemDataKeyRequest(context={"scope": "c1"})),
        "crypto.data_key.loaded",
    ),
    "open_data_key": (
        lambda w: w.service.open_data_key(MESSAGING, WrappedKey(wrapped=w.current.wrapped, context={"scope": "c1"})),
        "crypto.data_key.opened",
    ),
    "destroy_data_keys": (
        lambda w: w.service.destroy_data_keys(MESSAGING, DataKeyDestruction(scope="c1")), "crypto.data_key.destroyed",
    ),
    "system_sign": (
        lambda w: w.service.system_sign(MESSAGING, SystemSignable(name="s", message=SECRET)), "crypto.sign",
    ),
}  # fmt: skip


async def rewrap_keys(walk: Walk) -> Any:
    """There is something to move only after the master key was rotated."""
    await walk.service.rotate(ANNA, walk.master.key_id)
    return await walk.service.rewrap_keys(ANNA, RewrapStep())


CALLS["rewrap_keys"] = (rewrap_keys, "crypto.keys.rewrapped")
OWN = {name for name, operation in OPERATIONS.items() if "/custody/" not in operation.path}


def test_the_walk_leaves_nothing_out() -> None:
    assert set(CALLS) == OWN


def test_the_public_operations_are_those_of_the_wire_contract() -> None:
    public = {(o.verb, o.path) for name, o in OPERATIONS.items() if name in OWN and o.policy is not Policy.SERVICE}
    assert public == PUBLIC
    assert all(OPERATIONS[name].needs is not None for name in OWN if OPERATIONS[name].policy is not Policy.SERVICE)


@pytest.mark.parametrize("name", sorted(CALLS))
async def test_each_operation_is_recorded_without_what_it_was_about(
    walk: Walk, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await walk.new_entries()
    call, action = CALLS[name]
    answer = await call(walk)
    entries = await walk.new_entries()
    if action is None:
        assert entries == []
        return
    entry, *others = [e for e in entries if e.action == action]
    assert len(others) == (name == "rewrap"), "a rewrap is an opening and a sealing"
    assert (entry.tenant_id, entry.outcome, entry.resource_type) == ("t1", "success", "key")
    assert entry.actor.id in ("anna", "messaging")
    assert entry.metadata.get("count", 1) == (3 if name.endswith("_batch") else entry.metadata.get("count", 1))
    assert name != "rewrap_keys" or entry.metadata["count"] == answer.moved > 1
    stored = b"".join(event.data for event in await walk.store.feed.read(0, 1000))
    for secret in secrets_of(walk, answer):
        assert secret not in stored
        assert secret not in caplog.text.encode()


def secrets_of(walk: Walk, answer: Any) -> list[bytes]:
    """Return what must stand in no record and no log: the text, keys in the clear, and the material of every key."""
    clear = [SECRET, *(text for text in (getattr(answer, "plaintext", b""), walk.current.plaintext) if text)]
    found = [*clear, *(b64encode(text) for text in clear)]
    for live in walk.service._chain._keys.values():
        for material in live.materials.values():
            found += [bytes(material._root), b64encode(material._root), material._root.hex().encode()]
    return found


FAILURES: dict[str, dict[str, Any]] = {
    "changed text": {"ciphertext": b"x" * len(SECRET)},
    "changed nonce": {"iv": bytes(12)},
    "changed tag": {"auth_tag": bytes(16)},
    "short nonce": {"iv": bytes(8)},
    "short tag": {"auth_tag": bytes(4)},
    "no tag": {"auth_tag": b""},
    "another context": {"context": {"record": "8", "purpose": "plans"}},
    "another purpose": {"context": {"record": "7", "purpose": "menus"}},
    "no context": {"context": {}},
    "more context": {"context": {**CONTEXT, "more": "x"}},
    "no such version": {"version": 9},
}


@pytest.mark.parametrize("fault", sorted(FAILURES))
async def test_whatever_does_not_fit_fails_alike_and_is_recorded(walk: Walk, fault: str) -> None:
    await walk.new_entries()
    told = set()
    for call in (
        walk.service.decrypt(ANNA, walk.aes, back(walk.sealed, **FAILURES[fault])),
        walk.service.decrypt_with_master_key(ANNA, back(walk.master, **FAILURES[fault])),
        walk.service.rewrap(ANNA, walk.aes, back(walk.sealed, **FAILURES[fault])),
        walk.service.decrypt_batch(
            ANNA, walk.aes, CiphertextBatch(items=[back(walk.sealed), back(walk.sealed, **FAILURES[fault])])
        ),
        walk.service.decrypt_batch_with_master_key(
            ANNA, CiphertextBatch(items=[back(walk.master), back(walk.master, **FAILURES[fault])])
        ),
    ):
        with pytest.raises(DecryptionFailed) as refused:
            await call
        told.add((refused.value.status, refused.value.code, refused.value.detail))
    assert told == {(422, "decryption_failed", "Decryption failed")}
    assert [entry.outcome for entry in await walk.new_entries()] == ["failure"] * 5


async def test_a_batch_under_the_master_key_keeps_its_order_and_fails_whole(walk: Walk) -> None:
    texts = [b"%d" % number for number in range(20)]
    batch = PlaintextBatch(items=[Plaintext(plaintext=text, context=CONTEXT) for text in texts])
    sealed = [back(item) for item in (await walk.service.encrypt_batch_with_master_key(ANNA, batch)).items]
    opened = await walk.service.decrypt_batch_with_master_key(ANNA, CiphertextBatch(items=sealed))
    assert [item.plaintext for item in opened.items] == texts
    sealed[7] = back(walk.sealed)  # under another key
    with pytest.raises(DecryptionFailed) as refused:
        await walk.service.decrypt_batch_with_master_key(ANNA, CiphertextBatch(items=sealed))
    assert refused.value.extra == {"path": "$.items[7]"}


async def test_what_sign_and_hmac_answer_is_verified_as_it_is_and_by_no_other_key(walk: Walk) -> None:
    tag = await walk.service.hmac(ANNA, walk.mac, Signable(message=SECRET))
    for key_id, made in ((walk.signer, walk.signature), (walk.mac, tag)):
        answer = decode_body(msgspec.json.Decoder(SignedMessage), encode({"message": SECRET, **asdict(made)}))
        assert (await walk.service.verify(ANNA, key_id, answer)).valid
        with pytest.raises(Invalid) as refused:
            await walk.service.verify(ANNA, key_id, replace(answer, key_id=walk.aes))
        assert refused.value.extra == {"path": "$.key_id"}


OFF: dict[str, tuple[Call, str]] = {
    "encrypt": (lambda w: w.service.encrypt(ANNA, w.aes, plain()), "crypto.encrypt"),
    "encrypt_batch": (
        lambda w: w.service.encrypt_batch(ANNA, w.aes, PlaintextBatch(items=[plain()] * 3)), "crypto.encrypt",
    ),
    "decrypt_batch": (
        lambda w: w.service.decrypt_batch(ANNA, w.aes, CiphertextBatch(items=[back(w.sealed)] * 3)), "crypto.decrypt",
    ),
    "decrypt": (lambda w: w.service.decrypt(ANNA, w.aes, back(w.sealed)), "crypto.decrypt"),
    "rewrap": (lambda w: w.service.rewrap(ANNA, w.aes, back(w.sealed)), "crypto.rewrap"),
    "rotate": (lambda w: w.service.rotate(ANNA, w.aes), "crypto.key.rotated"),
    "data_key": (lambda w: w.service.data_key(ANNA, w.aes, DataKeyRequest(context=CONTEXT)), "crypto.data_key.created"),
    "open_data_key": (
        lambda w: w.service.open_data_key(MESSAGING, WrappedKey(wrapped=w.wrapped.wrapped, context=CONTEXT)),
        "crypto.data_key.opened",
    ),
    "sign": (lambda w: w.service.sign(ANNA, w.signer, Signable(message=SECRET)), "crypto.sign"),
    "verify": (
        lambda w: w.service.verify(ANNA, w.signer, SignedMessage(message=SECRET, signature=w.signature.signature)),
        "crypto.verify",
    ),
    "hmac": (lambda w: w.service.hmac(ANNA, w.mac, Signable(message=SECRET)), "crypto.hmac"),
    "verify a tag": (
        lambda w: w.service.verify(ANNA, w.mac, SignedMessage(message=SECRET, signature=bytes(32))), "crypto.verify",
    ),
    "cancel_destruction": (
        lambda w: w.service.cancel_destruction(ANNA, w.aes), "crypto.key.destruction_cancelled",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(OFF))
async def test_what_a_keys_state_forbids_is_recorded(walk: Walk, name: str) -> None:
    for key_id in (walk.aes, walk.signer, walk.mac):
        await walk.service.change_key(ANNA, key_id, KeyChange(state="disabled"))
    await walk.new_entries()
    call, action = OFF[name]
    with pytest.raises(KeyUnusable):
        await call(walk)
    (entry,) = await walk.new_entries()
    assert (entry.action, entry.outcome, entry.tenant_id) == (action, "denied", "t1")
    assert entry.metadata.get("count", 1) == (3 if name.endswith("_batch") else 1)
    assert entry.resource_id in (walk.aes, walk.signer, walk.mac)


async def test_of_many_uses_each_is_counted_with_how_it_ended(walk: Walk) -> None:
    await walk.new_entries()
    for _ in range(15):
        await walk.service.decrypt(ANNA, walk.aes, back(walk.sealed))
        with pytest.raises(DecryptionFailed):
            await walk.service.decrypt(ANNA, walk.aes, back(walk.sealed, iv=bytes(12)))
    counted = Counter[str]()
    for entry in await walk.new_entries():
        counted[entry.outcome] += int(entry.metadata.get("count", 1))
    assert counted == {"success": 15, "failure": 15}


async def test_a_destruction_that_a_hold_forbids_is_recorded(walk: Walk) -> None:
    await walk.service.put_hold(service_caller("compliance", "t1"), "h1", HoldPlacement(subject_id="ann"))
    await walk.new_entries()
    with pytest.raises(LegalHold):
        await walk.service.schedule_destruction(ANNA, walk.aes, Destruction())
    (entry,) = await walk.new_entries()
    assert (entry.action, entry.outcome) == ("crypto.key.destruction_scheduled", "denied")
    assert (entry.tenant_id, entry.actor.id, entry.resource_id) == ("t1", "anna", walk.aes)


async def test_what_crypto_does_by_itself_is_in_the_log_of_whose_key_it_is(walk: Walk, tmp_path: Path) -> None:
    await walk.new_entries()
    walk.clock.advance(86_400)
    assert await walk.service.destroy_due() == 1
    await walk.service.move_to(FileKeyProvider.open(tmp_path / "another"), lambda progress: None)
    found = [(e.action, e.tenant_id, e.actor.id, e.resource_id) for e in await walk.new_entries()]
    assert found[:2] == [
        ("crypto.key.destroyed", "t1", "crypto", walk.doomed),
        ("crypto.key.rewrapped", "t1", "crypto", walk.master.key_id),
    ]
    assert [one[:2] for one in found[2:]] == [("crypto.provider.moved", "system")]


async def test_each_operation_asks_again_who_may(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call in this process came past no edge."""
    member = Caller(principal=Principal(kind="user", tenant_id="t1", subject="ben", role=Role.MEMBER))
    nameless = service_caller("", "t1")
    await walk.new_entries()
    calls = {**{name: call for name, (call, _) in CALLS.items()}, "rewrap_keys": rewrap_one}
    for name, call in calls.items():
        for stranger in (ANNA, nameless) if OPERATIONS[name].policy is Policy.SERVICE else (member,):
            with monkeypatch.context() as patch:
                patch.setitem(globals(), "ANNA", member)
                patch.setitem(globals(), "MESSAGING", stranger)
                with pytest.raises(Forbidden):
                    await call(walk)
    assert await walk.new_entries() == []


async def rewrap_one(walk: Walk) -> Any:
    return await walk.service.rewrap_keys(ANNA, RewrapStep())


async def test_a_services_key_that_is_off_makes_and_opens_no_data_key(walk: Walk) -> None:
    key_id = walk.current.key_id
    await walk.service.change_key(MESSAGING, key_id, KeyChange(state="disabled"))
    opened = WrappedKey(wrapped=walk.current.wrapped, context={"scope": "c1"})
    await walk.new_entries()
    for call in (
        walk.service.open_data_key(MESSAGING, opened),
        walk.service.system_data_key(MESSAGING, SystemDataKeyRequest(context={"scope": "c1"})),
        walk.service.system_data_key(MESSAGING, SystemDataKeyRequest(context={"scope": "c2"})),
    ):
        with pytest.raises(KeyUnusable):
            await call
    assert [(e.resource_id, e.outcome) for e in await walk.new_entries()] == [(key_id, "denied")] * 3


async def test_a_data_key_that_does_not_open_is_recorded(walk: Walk) -> None:
    await walk.service.destroy_data_keys(MESSAGING, DataKeyDestruction(scope="c1"))
    await walk.new_entries()
    wrapped = b64encode(bytes(90)).decode()
    mine = walk.wrapped.wrapped
    for key, refused, resource_id in (
        (WrappedKey(wrapped=walk.current.wrapped, context={"scope": "c9"}), DecryptionFailed, walk.current.key_id),
        (WrappedKey(wrapped="0" * 36, context={"scope": "c1"}), DecryptionFailed, "data"),
        (WrappedKey(wrapped=walk.current.wrapped, context={"scope": "c1"}), KeyUnusable, walk.current.key_id),
        (WrappedKey(wrapped="no base64 at all", context=CONTEXT), DecryptionFailed, "data"),
        (WrappedKey(wrapped=wrapped, context=CONTEXT), DecryptionFailed, "data"),
        (WrappedKey(wrapped=mine, context={"record": "8"}), DecryptionFailed, walk.aes),
        (WrappedKey(wrapped=mine[:-8] + "AAAAAAA=", context=CONTEXT), DecryptionFailed, walk.aes),
    ):
        with pytest.raises(refused):
            await walk.service.open_data_key(MESSAGING, key)
        (entry,) = await walk.new_entries()
        outcome = "failure" if refused is DecryptionFailed else "denied"
        assert (entry.action, entry.outcome, entry.resource_id) == ("crypto.data_key.opened", outcome, resource_id)


async def test_wrapped_keys_that_change_places_open_nowhere(walk: Walk) -> None:
    """Two data keys of a service, two keys of a tenant, under the same key above: who writes the file can do that."""
    second = await walk.service.system_data_key(MESSAGING, SystemDataKeyRequest(context={"scope": "c2"}))
    other = (await walk.service.generate_key(ANNA, NewKey())).key_id

    async def swap(table: str, column: str, one: str, two: str) -> None:
        def exchange(conn: apsw.Connection) -> None:
            rows = {
                name: conn.execute(f"SELECT wrapped FROM {table} WHERE {column} = ?", (name,)).get
                for name in (one, two)
            }
            for name, came_from in ((one, two), (two, one)):
                conn.execute(f"UPDATE {table} SET wrapped = ? WHERE {column} = ?", (rows[came_from], name))

        await walk.db.write(exchange)

    await swap("data_keys", "data_key_id", walk.current.wrapped, second.wrapped)
    for wrapped, scope in ((walk.current.wrapped, "c1"), (second.wrapped, "c2")):
        with pytest.raises(DecryptionFailed):
            await walk.service.open_data_key(MESSAGING, WrappedKey(wrapped=wrapped, context={"scope": scope}))
        made = await walk.service.system_data_key(MESSAGING, SystemDataKeyRequest(context={"scope": scope}))
        assert made.wrapped not in {walk.current.wrapped, second.wrapped}, "what comes is protected by a new one"
        assert made.plaintext not in (walk.current.plaintext, second.plaintext)
    await swap("versions", "key_id", walk.aes, other)
    walk.service._chain._keys.clear()  # as after a restart
    for key_id in (walk.aes, other):
        with pytest.raises(KeyUnusable):
            await walk.service.encrypt(ANNA, key_id, plain())


async def test_an_erasure_reaches_the_keys_of_every_service(walk: Walk) -> None:
    """Compliance excepted, which ends its own last."""
    request = SystemDataKeyRequest(context={"scope": "c1", "subject_id": "u1"})
    services = ("auth", "messaging", "media", "search", "socket", "gateway")
    made = {name: await walk.service.system_data_key(service_caller(name, "t1"), request) for name in services}
    custodian = service_caller("compliance", "t1")
    erased = await walk.service.erase_subject(custodian, "u1", SubjectErasure(job_id="j1", pseudonym="nobody"))
    assert (erased.done, erased.erased) == (True, {"data_key": len(services)})
    for name, key in made.items():
        with pytest.raises(KeyUnusable):
            await walk.service.open_data_key(
                service_caller(name, "t1"), WrappedKey(wrapped=key.wrapped, context=request.context)
            )
    assert (await walk.service.probe_subject(custodian, "u1", SubjectProbe())).places == {"data_keys": 0}


async def test_a_persons_rights_are_asked_for_by_compliance_alone(walk: Walk) -> None:
    for stranger in (ANNA, MESSAGING):
        for attempt in (
            walk.service.export_subject(stranger, "u1", SubjectQuery()),
            walk.service.erase_subject(stranger, "u1", SubjectErasure(job_id="j1", pseudonym="nobody")),
            walk.service.rectify_subject(stranger, "u1", SubjectChanges(job_id="j1")),
            walk.service.restrict_subject(stranger, "u1", SubjectRestriction(restricted=True)),
            walk.service.probe_subject(stranger, "u1", SubjectProbe()),
        ):
            with pytest.raises(Forbidden):
                await attempt
