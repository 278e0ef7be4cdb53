"""What is stored of one tenant's keys is damaged: nobody else waits for that, and nothing of the tenant is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import apsw
import msgspec
import pytest
from tests.contract.test_parked_records import (
    CONFIG,
    GATEWAY,
    RARELY,
    entries,
    records,
    until_whole,
    verified,
    woven,
)

from sealwire.clients.compliance import send_records
from sealwire.contracts.audit_log import AuditBatch, AuditEntry
from sealwire.contracts.crypto_terms import KeyDamaged, KeyUnusable
from sealwire.contracts.custody import SubjectProbe
from sealwire.contracts.data_keys import SystemDataKeyRequest
from sealwire.contracts.gdpr import NewErasure
from sealwire.contracts.keys import Destruction, NewKey
from sealwire.contracts.logins import BadCredentials
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.codec import Page
from sealwire.kit.envelopes import SealingKey
from sealwire.kit.permission import Role
from sealwire.kit.problem import Unavailable
from sealwire.resilience.failure import is_failure
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.crypto.events import audit_entry, key_event
from sealwire.services.crypto.model import KeyState
from sealwire.services.crypto.providers import KekUnusable
from sealwire.testing.auth_room import AuthRoom
from sealwire.testing.clock import ManualClock
from sealwire.testing.compliance import open_compliance
from sealwire.testing.custody import MemoryCustody

Mend = Callable[[apsw.Connection], None]
Damage = Callable[[apsw.Connection], Mend]
_MASTER = "SELECT key_id FROM keys WHERE tenant_id = 'acme' AND purpose = 'master'"
_SYSTEM = "SELECT key_id FROM keys WHERE tenant_id = 'acme' AND purpose = 'system:compliance' AND name = 'data'"


_IDS = {"versions": ("key_id", "version"), "keys": ("key_id",), "data_keys": ("data_key_id",)}


def changed(name: str, table: str, column: str, to: str, where: str) -> Damage:
    def damage(conn: apsw.Connection) -> Mend:
        ids = _IDS[table]
        held = conn.execute(f"SELECT {column}, {', '.join(ids)} FROM {table} WHERE {where}").fetchall()
        assert held
        conn.execute(f"UPDATE {table} SET {column} = {to} WHERE {where}")
        of = " AND ".join(f"{name} = ?" for name in ids)
        return lambda conn: conn.executemany(f"UPDATE {table} SET {column} = ? WHERE {of}", held).fetchall() and None

    damage.__name__ = name
    return damage


def lost(name: str, *rows: tuple[str, str]) -> Damage:
    def damage(conn: apsw.Connection) -> Mend:
        held = [(table, conn.execute(f"SELECT * FROM {table} WHERE key_id IN ({of})").fetchall()) for table, of in rows]
        ids = [(table, {row[0] for row in found}) for table, found in held]
        for table, names in ids:
            conn.executemany(f"DELETE FROM {table} WHERE key_id = ?", [(name,) for name in names])

        def mend(conn: apsw.Connection) -> None:
            for table, found in reversed(held):
                assert found
                marks = ", ".join("?" * len(found[0]))
                conn.executemany(f"INSERT INTO {table} VALUES ({marks})", found)

        return mend

    damage.__name__ = name
    return damage


OF_MASTER, OF_SYSTEM = f"key_id = ({_MASTER})", f"key_id = ({_SYSTEM})"
DAMAGES = [
    changed("master", "versions", "wrapped", "randomblob(length(wrapped))", OF_MASTER),
    changed("master_tail", "versions", "wrapped", "CAST(substr(wrapped, 1, 40) || randomblob(9) AS BLOB)", OF_MASTER),
    changed("master_cut", "versions", "wrapped", "x'01'", OF_MASTER),
    changed("master_empty", "versions", "wrapped", "NULL", OF_MASTER),
    changed("master_text", "versions", "wrapped", "'text'", OF_MASTER),
    changed("master_uses", "versions", "reserved_uses", "'text'", OF_MASTER),
    changed("master_state", "keys", "state", "'enchanted'", OF_MASTER),
    changed("master_type", "keys", "key_type", "'ed25519'", OF_MASTER),
    changed("master_purpose", "keys", "purpose", "'faster'", OF_MASTER),
    lost("master_version", ("versions", _MASTER)),
    lost("master_key", ("keys", _MASTER)),
    lost("master_all", ("versions", _MASTER), ("keys", _MASTER)),
    changed("system_disabled", "keys", "state", "'disabled'", OF_SYSTEM),
    changed("system_under", "versions", "master_version", "7", OF_SYSTEM),
    lost("system_version", ("versions", _SYSTEM)),
    lost("system_key", ("keys", _SYSTEM)),
    lost("system_all", ("versions", _SYSTEM), ("keys", _SYSTEM)),
    changed("data_key_uses", "data_keys", "reserved_uses", "'text'", "tenant_id = 'acme'"),
    changed("data_key_under", "data_keys", "key_id", "'gone'", "tenant_id = 'acme'"),
]  # fmt: skip


def edit(folder: Path, change: Callable[[apsw.Connection], object]) -> None:
    conn = apsw.Connection(str(folder / "crypto.db"))
    conn.set_busy_timeout(5000)
    with conn:
        change(conn)
    conn.close()


async def damaged(folder: Path, damage: Damage) -> tuple[list[AuditEntry], Mend]:
    """Make the logs of two tenants, and damage the keys of one. Return its records, and what mends them."""
    sent = entries(4)
    async with open_compliance(folder) as room:
        await room.service.append(GATEWAY, AuditBatch(records=[*sent, *entries(2, "other")]))
    mends: list[Mend] = []
    edit(folder, lambda conn: mends.append(damage(conn)))
    return sent, mends[0]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
async def test_damaged_keys_of_a_tenant_hold_up_nobody_else(tmp_path: Path, damage: Damage) -> None:
    before, mend = await damaged(tmp_path, damage)
    sent, others = entries(12), entries(12, "other")
    async with open_compliance(tmp_path, config=CONFIG) as room:
        for start in (0, 4):
            await send_records(room.service, GATEWAY, woven(sent[start : start + 4], others[start : start + 4]))
        assert [r.audit_id for r in await records(room, "other")][2:] == [e.audit_id for e in others[:8]]
        assert [r.metadata["email"] for r in (await records(room, "other"))[2:]] == [
            e.personal["email"] for e in others[:8]
        ]
    found = [path.name for path in tmp_path.iterdir() if b"example.org" in path.read_bytes()]  # noqa: ASYNC240 - small
    assert not found, "what waits is sealed"
    async with open_compliance(tmp_path, config=CONFIG) as room:  # as after a crash: what waits is in the file
        await send_records(room.service, GATEWAY, woven(sent[4:], others[4:]))
        assert [r.audit_id for r in await records(room, "other")][2:] == [e.audit_id for e in others]
        edit(tmp_path, mend)
        await until_whole(room)
        found = await records(room)
        assert [r.audit_id for r in found if r.action == "message.sent"] == [e.audit_id for e in [*before, *sent]]
        again = await room.service.append(GATEWAY, AuditBatch(records=woven(sent, others)))
        assert (again.accepted, again.duplicates) == (0, 24)
    async with open_compliance(tmp_path) as room:
        found = [r for r in await records(room) if r.action == "message.sent"]
        assert [r.metadata["email"] for r in found] == [e.personal["email"] for e in [*before, *sent]]
        await verified(room)
        await verified(room, "other")


async def test_a_reader_is_told_what_is_damaged_and_what_is_erased(tmp_path: Path) -> None:
    """Of a person whose key is damaged nobody shall believe that they were erased, nor the other way round."""
    async with open_compliance(tmp_path) as room:
        sent = entries(4)
        await room.service.append(GATEWAY, AuditBatch(records=sent))
        assert await room.keys.destroy("acme", scope="audit-day:2023-11-14") == 1
        await room.stores.rights.mark_erased("acme", "ben")
        room.service._sealer.forget("acme", "ben")
        late = msgspec.structs.replace(entries(1)[0], subject_id="ben")
        await room.service.append(GATEWAY, AuditBatch(records=[late]))
    for damage in (
        changed("wrapped", "data_keys", "wrapped", "randomblob(60)", "subject_id = 'anna'"),
        changed("emptied", "data_keys", "wrapped", "NULL", "subject_id = 'anna'"),
        changed("lost", "data_keys", "service", "'messaging', current = 0", "subject_id = 'anna'"),
        changed("above", "keys", "state", "'disabled'", OF_SYSTEM),
        changed("master", "versions", "wrapped", "randomblob(60)", OF_MASTER),
    ):
        mends: list[Mend] = []
        edit(tmp_path, lambda conn, damage=damage, mends=mends: mends.append(damage(conn)))
        async with open_compliance(tmp_path, config=RARELY) as room:
            shown = [r.metadata["email"] for r in await records(room) if r.action == "message.sent"]
            assert shown == ["erased", "key_damaged", "erased", "key_damaged", "erased"], damage.__name__
            if damage.__name__ == "master":  # not through with anna's erasure: her key is there to be put back
                room.service._sealer.forget("acme", "anna")
                shown = [r.metadata["email"] for r in await records(room) if r.action == "message.sent"]
                assert shown == ["erased", "key_damaged", "erased", "key_damaged", "erased"]
                room.service._sealer.forgotten.remove(("acme", "anna"))
            again = await room.service.append(GATEWAY, AuditBatch(records=sent))
            assert (again.accepted, again.duplicates) in {(0, 4), (4, 0)}, "known, or waiting; no alarm"
        edit(tmp_path, mends[0])
    async with open_compliance(tmp_path, config=CONFIG) as room:
        await until_whole(room)
        shown = [r.metadata["email"] for r in await records(room) if r.action == "message.sent"]
        assert shown == ["erased", sent[1].personal["email"], "erased", sent[3].personal["email"], "erased"]
        assert not [r for r in await records(room) if r.action == "audit.conflict"]
        await verified(room)


async def test_who_is_erased_while_records_wait_is_erased_in_those_too(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    _, mend = await damaged(folder, DAMAGES[0])
    waits = entries(2)
    anna = Caller(principal=Principal(kind="user", tenant_id="acme", subject="anna", role=Role.MEMBER, session_id="s"))
    config = ComplianceConfig(parked_retry_s=3600, job_retry_base_s=0.01, job_retry_cap_s=0.02, relay_wait_s=0.01)
    people = {"auth": MemoryCustody()}
    people["auth"].put("acme", "anna", "profile", "anna", email="anna@example.org")
    async with open_compliance(folder, config=config, custodians=people) as room:
        assert (await room.service.append(GATEWAY, AuditBatch(records=waits))).parked == 2
        edit(folder, mend)
        asked = await room.service.request_erasure(anna, NewErasure())
        async with asyncio.timeout(60):
            await room.service.rights.runner.settled(asked.job_id)
        assert (await room.stores.rights.job("acme", asked.job_id)).status == "done"
        assert sum(room.service.parking.waiting.values()) >= 2, "they waited all the while"
        left = room.crypto._store._db.read(
            "SELECT subject_id FROM data_keys WHERE scope = 'parked:acme' AND wrapped IS NOT NULL"
        )
        assert left == [("",)], "anna's is destroyed"
    async with open_compliance(folder, config=CONFIG) as room:
        await until_whole(room)
        shown = {r.audit_id: r.metadata["email"] for r in await records(room) if "email" in r.metadata}
        assert shown[waits[0].audit_id] == waits[0].personal["email"], "of nobody who is known"
        assert shown[waits[1].audit_id] == "erased"
        await verified(room)


@pytest.mark.parametrize("damage", [None, DAMAGES[0]], ids=["whole", "damaged"])
async def test_who_is_erased_while_a_key_is_waited_for_is_erased_in_that_record_too(
    tmp_path: Path, damage: Damage | None
) -> None:
    """The key that is made after the others were destroyed would outlive the erasure and its certificate."""
    if damage is not None:
        await damaged(tmp_path, damage)
    late = entries(2)[1]
    assert late.subject_id == "anna"
    async with open_compliance(tmp_path, config=RARELY) as room:
        asked = room.keys.sealing_key

        async def meanwhile(tenant_id: str, scope: str, subject_id: str) -> SealingKey:
            if tenant_id == "acme":
                await room.stores.rights.mark_erased("acme", "anna")
                room.service._sealer.forget("acme", "anna")
                await room.keys.destroy("acme", subject_id="anna")
                await room.keys.destroy("system", scope="parked:acme", subject_id="anna")
            return await asked(tenant_id, scope, subject_id)

        room.keys.sealing_key = meanwhile
        assert (await room.service.append(GATEWAY, AuditBatch(records=[late]))).accepted == 1
        probe = await room.service.own.probe_subject(
            service_caller("compliance", "acme"), "anna", SubjectProbe(words=[])
        )
        assert probe.places["records"] == 0
        left = room.crypto._store._db.read(
            "SELECT count(*) FROM data_keys WHERE scope = 'parked:acme' AND subject_id = 'anna' AND wrapped IS NOT NULL"
        )
        assert left == [(0,)]
        if damage is None:
            assert [r.metadata["email"] for r in await records(room)] == ["erased"]


async def test_crypto_that_is_out_is_no_damage(tmp_path: Path) -> None:
    """Then nothing is parked, and the whole batch is sent again."""
    async with open_compliance(tmp_path) as room:

        async def out(wrapped: bytes, context: bytes) -> bytearray:
            raise KekUnusable("the token is gone")

        batch = AuditBatch(records=woven(entries(2), entries(2, "other")))
        provider = room.crypto._providers._providers[0]
        right, provider.unwrap = provider.unwrap, out
        with pytest.raises(Unavailable) as told:
            await room.service.append(GATEWAY, batch)
        assert told.value.code == "part_out"
        assert not room.service.parking.waiting
        provider.unwrap = right
        assert (await room.service.append(GATEWAY, batch)).accepted == 4


async def test_damage_of_one_key_opens_no_breaker(tmp_path: Path) -> None:
    await damaged(tmp_path, DAMAGES[0])
    async with open_compliance(tmp_path, config=RARELY) as room:
        with pytest.raises(KeyDamaged) as told:
            await room.crypto.generate_key(service_caller("auth", "acme"), NewKey(key_type="ed25519"))
        assert (told.value.status, is_failure(told.value)) == (503, False)
        assert await room.crypto.destroy_due() == 0
        assert await room.crypto.rewrap_all(service_caller("crypto", "system"), lambda progress: None) == 0


async def test_a_key_that_is_due_and_not_scheduled_is_not_looked_at_for_ever(tmp_path: Path) -> None:
    """Its row was changed; and the keys behind it are destroyed all the same."""
    admin, clock = service_caller("auth", "acme"), ManualClock()
    async with open_compliance(tmp_path, clock=clock) as room:
        await room.crypto._keeper.stop()
        key_ids = [(await room.crypto.generate_key(admin, NewKey(key_type="ed25519"))).key_id for _ in range(102)]
        await room.crypto.schedule_destruction(admin, key_ids[-1], Destruction(delay_days=1))
    edit(tmp_path, lambda conn: conn.executemany(
        "UPDATE keys SET destroy_at_us = 1 WHERE key_id = ?", [(key_id,) for key_id in key_ids[:-1]]
    ).fetchall())  # fmt: skip
    clock.advance(2 * 86_400)
    async with open_compliance(tmp_path, clock=clock) as room:
        await room.crypto._keeper.stop()
        async with asyncio.timeout(60):
            await room.crypto.destroy_due()
        states = [(await room.crypto.key(admin, key_id)).state for key_id in key_ids]
        assert states == ["enabled"] * 101 + ["destroyed"]


async def test_events_and_letters_of_auth_wait_for_nobody_elses_keys(tmp_path: Path) -> None:
    room = AuthRoom(tmp_path)
    await room.open()
    await room.enter("owner")
    with pytest.raises(BadCredentials):
        await room.log_in("nobody", tenant="no-such-tenant")
    events = await room.service.events.read(0, 100)
    postman = room.service.postman
    await postman.stop()
    sealed = [
        await postman.seal(tenant, to=f"{tenant}@example.org", subject="s", text="t") for tenant in ("default", "other")
    ]
    await room.storage.stores.letters.tell(sealed, "test", 1)
    await room.close()
    edit(tmp_path, lambda conn: conn.execute(
        "UPDATE versions SET wrapped = randomblob(60)"
        " WHERE key_id = (SELECT key_id FROM keys WHERE tenant_id = 'default' AND purpose = 'master')"
    ))  # fmt: skip
    await room.open()
    made = await room.service.audit_entries(events)
    assert len(made) == len(events)
    for entry in made:
        if entry.tenant_id == "default":
            assert (entry.personal, entry.metadata["personal"]) == ({}, "key_damaged")
    assert any(entry.personal for entry in made if entry.tenant_id == "anonymous")
    async with asyncio.timeout(60):
        while [one.letter_id for one in await room.storage.stores.letters.of("other", "", 9)]:
            await room.service.postman.deliver()
    assert [letter["To"] for letter in await room.letters()] == ["other@example.org"]
    assert [one.attempts for one in await room.storage.stores.letters.of("default", "", 9)] == [1], "it is tried again"
    await room.close()


async def test_what_is_refused_is_recorded_once(tmp_path: Path) -> None:
    """Of a key that is switched off while a call waits for it."""
    ours = service_caller("compliance", "acme")
    wanted = SystemDataKeyRequest(context={"scope": "s"})
    async with open_compliance(tmp_path) as room:
        await room.crypto.system_data_key(ours, wanted)
        chain, store = room.crypto._chain, room.crypto._store
        live = await chain.named(ours, "system:compliance", "data", "aes-256-gcm")
        granted = store.grant_uses

        async def meanwhile(*args: object) -> bool:
            done = await granted(*args)
            event = key_event(ours, "crypto.key.state_changed", key_id=live.stored.key_id, at_us=1)
            await chain.change_life(live, lambda life: life.set_state(KeyState.DISABLED), event)
            return done

        store.grant_uses = meanwhile
        with pytest.raises(KeyUnusable):
            await room.crypto.system_data_key(ours, wanted)
        with pytest.raises(KeyUnusable):
            await room.crypto.system_data_key(ours, wanted)
        await room.crypto._journal.flush()
        told = [audit_entry(event) for event in await store.feed.read(0, 1000)]
        denied = [(e.action, e.metadata.get("version")) for e in told if e.outcome == "denied"]
        assert denied == [("crypto.data_key.loaded", 1), ("crypto.data_key.loaded", None)], "one for each call"


async def test_who_has_no_copy_of_the_row_goes_on_under_a_new_version(tmp_path: Path) -> None:
    before, _ = await damaged(tmp_path, DAMAGES[0])
    waits = entries(2)
    async with open_compliance(tmp_path, config=CONFIG) as room:
        assert (await room.service.append(GATEWAY, AuditBatch(records=waits))).parked == 2
        admin = service_caller("auth", "acme")
        master = next(key for key in (await room.crypto.keys(admin, Page())).items if key.name == "master")
        await room.crypto.rotate(admin, master.key_id)
        await until_whole(room)
        shown = [r.metadata["email"] for r in await records(room) if r.action == "message.sent"]
        assert shown == ["key_damaged"] * len(before) + [entry.personal["email"] for entry in waits]
