"""Checkpoints of days long past become one a day; what others name stays, and everything still verifies."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sealwire.contracts.audit_log import (
    Actor,
    AuditBatch,
    AuditEntry,
    AuditQuery,
    Checkpoint,
    ConsistencyQuery,
    VerifyQuery,
)
from sealwire.kit.caller import service_caller
from sealwire.kit.ids import new_id
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.merkle import verify_consistency
from sealwire.services.compliance.witness_ports import StoredCosignature
from sealwire.testing.clock import ManualClock
from sealwire.testing.compliance import ComplianceRoom, open_compliance

CALLER = service_caller("gateway", "acme")
HOUR_S, DAY_US = 3_600, 86_400_000_000
CONFIG = ComplianceConfig(checkpoint_every_s=86_400, checkpoints_keep_days=2, retention_every_s=0)


async def sizes(room: ComplianceRoom) -> dict[int, int]:
    """Return the stored checkpoints: size and day."""
    found = await room.stores.audit.checkpoints("acme", above=-1, limit=1000)
    return {c.size: c.at_us // DAY_US for c in found}


async def records_of_thinning(room: ComplianceRoom, gone: int) -> list[int]:
    """Return how many checkpoints went by each record that says so, once they say it of so many."""
    async with asyncio.timeout(60):
        while True:
            records = (await room.service.query(CALLER, AuditQuery(action="audit.checkpoints_thinned"))).items
            counts = [r.metadata["count"] for r in records]
            if sum(counts) >= gone:
                return counts
            await asyncio.sleep(0.01)


async def signed(room: ComplianceRoom) -> Checkpoint:
    """Let the log grow and have it signed."""
    record = AuditEntry(
        audit_id=new_id(), tenant_id="acme", actor=Actor(type="user", id="anna"), action="a", resource_type="r",
        created_at_us=1_000_000,
    )  # fmt: skip
    await room.service.append(CALLER, AuditBatch(records=[record]))
    return await room.service.checkpoint(CALLER)


async def test_of_old_days_the_last_checkpoint_stays_and_old_proofs_verify(tmp_path: Path) -> None:
    clock = ManualClock()
    (folder := tmp_path / "c").mkdir()
    async with open_compliance(folder, clock=clock, config=CONFIG) as room:
        held: list[Checkpoint] = []
        for number in range(60):
            held.append(await signed(room))
            if number == 20:
                await room.service.rotate_checkpoint_keys()
            clock.advance(2 * HOUR_S)
        witnessed = held[7].tree_size
        cosignature = StoredCosignature(size=witnessed, name="w", key_id=b"1234", at_s=1, signature=b"s")
        await room.stores.cosignatures.add("acme", [cosignature])
        before = await sizes(room)
        engine = room.service.keeping.engine
        await engine.tidy()
        after = await sizes(room)
        keys = {key.size for key in await room.stores.audit.checkpoint_keys("acme")}
        named = {witnessed, *keys}
        old = clock.now_us() - 2 * DAY_US
        limit = {c.size: c.at_us for c in await room.stores.audit.checkpoints("acme", above=-1, limit=1000)}
        young = [size for size, at_us in limit.items() if at_us >= old]
        assert set(young) <= set(after), "the last days are kept whole"
        assert witnessed in after
        assert len(young) == 24
        assert max(before) in after
        assert set(before.values()) == set(after.values()), "every day has one"
        lone = [size for size in after if size not in young and size not in named]
        assert len(lone) <= len(set(before.values())) + 2, "one a day, one more where the key changed"
        assert len(before) - len(after) > 25
        await engine.tidy()
        assert await sizes(room) == after

        verdict = await room.service.verify(CALLER, VerifyQuery())
        assert verdict.ok, verdict.fault
        newest = await room.service.checkpoint(CALLER)
        for then in held[::9]:
            proof = await room.service.consistency(CALLER, ConsistencyQuery(from_=then.tree_size, to=newest.tree_size))
            hashes = [bytes.fromhex(h) for h in proof.hashes]
            roots = bytes.fromhex(then.root), bytes.fromhex(newest.root)
            verify_consistency(then.tree_size, newest.tree_size, *roots, hashes)
        gone = len(before) - len(after)
        assert sum(await records_of_thinning(room, gone)) == gone


async def test_checkpoints_may_be_kept_for_good(tmp_path: Path) -> None:
    clock = ManualClock()
    (folder := tmp_path / "c").mkdir()
    config = ComplianceConfig(checkpoint_every_s=86_400, checkpoints_keep_days=0, retention_every_s=0)
    async with open_compliance(folder, clock=clock, config=config) as room:
        for _ in range(4):
            await signed(room)
            clock.advance(HOUR_S)
        clock.advance(400 * 24 * HOUR_S)
        await room.service.keeping.engine.tidy()
        assert len(await sizes(room)) == 4
