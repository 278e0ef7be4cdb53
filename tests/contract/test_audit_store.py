"""One suite for the store of audit logs, run on every family."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.kit.clock import rfc3339
from sealwire.kit.ids import new_id
from sealwire.services.compliance.canonical import canonical
from sealwire.services.compliance.chain import form_of, read_record, record_bytes
from sealwire.services.compliance.log_tree import Tree, chain_on, grow_from
from sealwire.services.compliance.merkle import TILE_WIDTH, leaf_hash, root_of
from sealwire.services.compliance.ports import (
    AuditIdsTaken,
    AuditStore,
    HeadMoved,
    LogAppend,
    LogEdge,
    LogHead,
    RecordFilter,
    StoredCheckpoint,
)
from sealwire.services.compliance.sealing import Intake, blank
from sealwire.services.compliance.tiles import tiles_of
from sealwire.testing.backends import FAMILIES
from sealwire.testing.compliance import open_compliance_stores


class Backend:
    """A family's store in a folder, closed and opened again at will."""

    def __init__(self, family: str, folder: Path) -> None:
        self.family, self.folder = family, folder

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AuditStore]:
        async with open_compliance_stores(self.family, self.folder) as stores:
            yield stores.audit


@pytest.fixture(params=FAMILIES)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return Backend(request.param, tmp_path)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[AuditStore]:
    async with backend.open() as store:
        yield store


def intake(number: int, *, audit_id: str = "", tenant: str = "acme", **changes: Any) -> Intake:
    entry = AuditEntry(
        audit_id=audit_id or new_id(),
        tenant_id=tenant,
        actor=Actor(type="user", id=changes.pop("actor", "anna")),
        action=changes.pop("action", "message.sent"),
        resource_type="message",
        resource_id=changes.pop("resource_id", f"r{number}"),
        outcome=changes.pop("outcome", "success"),
        metadata={"n": number},
    )
    at_us = changes.pop("at_us", 1_000_000 + number)
    at = rfc3339(at_us)
    return Intake(entry, form_of(record_bytes(blank(entry, canonical(entry.metadata), at))), at, at_us)


async def add(store: AuditStore, items: Sequence[Intake], tree: Tree | None = None, tenant: str = "acme") -> Tree:
    tree = tree or grow_from(await store.edge(tenant))
    append, grown = chain_on(tenant, tree, items)
    await store.append(append)
    return grown


async def everything(store: AuditStore, tenant: str = "acme") -> list[Any]:
    size = (await store.head(tenant)).size
    found: list[Any] = []
    for first in range(1, size + 1, TILE_WIDTH):
        found += await store.records(tenant, first, TILE_WIDTH)
    return found


async def test_an_empty_store(store: AuditStore) -> None:
    assert await store.head("acme") == LogHead()
    assert (await store.edge("acme")).head == LogHead()
    assert await store.records("acme", 1, 10) == []
    assert await store.tenants() == []
    assert await store.last_checkpoint("acme") is None
    assert await store.find("acme", ["x"]) == {}
    assert await store.tiles("acme", [(0, 0)]) == {}
    assert (await store.search("acme", RecordFilter(), after_seq=0, limit=5)).records == []
    await store.check()


async def test_what_was_appended_is_there_after_a_restart(backend: Backend) -> None:
    async with backend.open() as store:
        tree = await add(store, [intake(i) for i in range(700)])
        tree = await add(store, [intake(i) for i in range(700, 705)], tree)
        before = await everything(store)
    async with backend.open() as store:
        assert await store.head("acme") == tree.head
        assert await everything(store) == before
        assert [r.seq for r in before] == list(range(1, 706))
        again = grow_from(await store.edge("acme"))
        assert again.frontier.root() == tree.frontier.root() == root_of([leaf_hash(r.body) for r in before])
        assert await store.tenants() == ["acme"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=6))
async def test_edge_and_tiles_are_those_of_the_tree(backend: Backend, sizes: list[int]) -> None:
    tenant = new_id()
    async with backend.open() as store:
        for size in sizes:
            tree = await add(store, [intake(i, tenant=tenant) for i in range(size)], tenant=tenant)
        again = grow_from(await store.edge(tenant))
        assert again.head == tree.head
        assert again.frontier.peaks == tree.frontier.peaks
        leaves = [leaf_hash(r.body) for r in await everything(store, tenant)]
        for tile in tiles_of(sum(sizes)):
            held = (await store.tiles(tenant, [(tile.level, tile.number)])).get((tile.level, tile.number))
            if tile.level == 0 and tile.width < TILE_WIDTH:
                assert held is None
                assert again.tiling.edge(0) == (tile.number, leaves[tile.number * TILE_WIDTH :])
                continue
            step = TILE_WIDTH**tile.level
            start = tile.number * TILE_WIDTH
            parts = [root_of(leaves[(start + i) * step : (start + i + 1) * step]) for i in range(tile.width)]
            assert held == b"".join(parts)


async def test_many_small_appends_read_like_one_large_one(store: AuditStore) -> None:
    tree = None
    for i in range(300):
        tree = await add(store, [intake(i, action=f"a{i % 7}", at_us=10 * i)], tree)
    records = await everything(store)
    assert [r.seq for r in records] == list(range(1, 301))
    assert [r.seq for r in await store.records("acme", 250, 10)] == list(range(250, 260))
    found = await store.search("acme", RecordFilter(action="a3", from_us=1000, to_us=2001), after_seq=0, limit=100)
    assert [r.seq - 1 for r in found.records] == [i for i in range(100, 201) if i % 7 == 3]


async def test_a_second_writer_is_refused(store: AuditStore) -> None:
    old = grow_from(await store.edge("acme"))
    await add(store, [intake(1)], old)
    with pytest.raises(HeadMoved):
        await add(store, [intake(2)], old)
    assert (await store.head("acme")).size == 1


async def test_of_racing_writers_one_wins_each_place(store: AuditStore) -> None:
    async def write(count: int) -> int:
        moved = 0
        for i in range(count):
            while True:
                try:
                    await add(store, [intake(i), intake(i)])
                    break
                except HeadMoved:
                    moved += 1
        return moved

    await asyncio.gather(*(write(5) for _ in range(6)))
    records = await everything(store)
    assert [r.seq for r in records] == list(range(1, 61))
    prev = "0" * 64
    for record in records:
        document = msgspec.json.decode(record.body)
        assert (document["seq"], document["prev_hash"]) == (record.seq, prev)
        prev = record.hash
    assert (await store.head("acme")).last_hash == prev


@pytest.mark.parametrize("place", [0, 40, 99])
async def test_an_audit_id_is_taken_once_per_tenant(store: AuditStore, place: int) -> None:
    items = [intake(i) for i in range(100)]
    await add(store, items)
    taken = items[place].entry.audit_id
    again = [intake(i) for i in range(50)] + [intake(50, audit_id=taken)]
    with pytest.raises(AuditIdsTaken):
        await add(store, again)
    assert (await store.head("acme")).size == 100
    assert await store.find("acme", [taken, again[0].entry.audit_id]) == {taken: place + 1}
    await add(store, [intake(1, audit_id=taken, tenant="other")], tenant="other")
    assert await store.find("other", [taken]) == {taken: 1}


async def test_ids_that_only_look_alike_are_different(store: AuditStore) -> None:
    low = "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee"
    for audit_id in (low, low.upper(), low.replace("-", ""), "plain", "PLAIN", "a" * 64):
        await add(store, [intake(1, audit_id=audit_id)])
        assert len(await store.find("acme", [audit_id])) == 1
    assert (await store.head("acme")).size == 6


@pytest.mark.parametrize("odd", ['a"b', "a\\b", "größe", "a\nb", "a\0b", "[]", "1"])
async def test_ids_of_many_records_are_kept_as_they_are(store: AuditStore, odd: str) -> None:
    items = [intake(i) for i in range(40)] + [intake(40, audit_id=odd)] + [intake(i) for i in range(41, 60)]
    await add(store, items)
    expected = {item.entry.audit_id: seq for seq, item in enumerate(items, 1)}
    assert await store.find("acme", list(expected)) == expected
    for repeats in (1, 50):
        with pytest.raises(AuditIdsTaken):
            await add(store, [intake(i) for i in range(repeats)] + [intake(99, audit_id=odd)])
    assert (await store.head("acme")).size == 60


async def test_appends_of_many_tenants_at_once(store: AuditStore) -> None:
    tenants = [f"t{i}" for i in range(20)]
    await asyncio.gather(*(add(store, [intake(i, tenant=t) for i in range(30)], tenant=t) for t in tenants))
    assert sorted(await store.tenants()) == sorted(tenants)
    for tenant in tenants:
        assert len(await everything(store, tenant)) == 30
        assert (await store.search(tenant, RecordFilter(), after_seq=0, limit=100)).looked_up_to is None


async def test_one_tenants_failure_fails_no_other(store: AuditStore) -> None:
    taken = intake(1, tenant="a")
    await add(store, [taken], tenant="a")
    outcomes = await asyncio.gather(
        add(store, [intake(2, tenant="b")], tenant="b"),
        add(store, [intake(3, tenant="a", audit_id=taken.entry.audit_id)], tenant="a"),
        add(store, [intake(4, tenant="c")], tenant="c"),
        return_exceptions=True,
    )
    assert [isinstance(o, AuditIdsTaken) for o in outcomes] == [False, True, False]
    assert [(await store.head(t)).size for t in "abc"] == [1, 1, 1]


async def test_appends_of_many_tenants_are_whole_or_not_at_all_each(backend: Backend) -> None:
    """Those refused leave no trace, and give their place in the tenants' numbers to who is stored."""
    taken = intake(1, tenant="a")

    def made(tenant: str, items: Sequence[Intake], tree: Tree | None = None) -> LogAppend:
        return chain_on(tenant, tree or grow_from(LogEdge(head=LogHead())), items)[0]

    async with backend.open() as store:
        tree = await add(store, [taken], tenant="a")
        _, moved = chain_on("new-1", grow_from(LogEdge(head=LogHead())), [intake(2, tenant="new-1")])
        appends = [
            made("new-1", [intake(2, tenant="new-1")], moved),
            made("a", [intake(3, tenant="a"), intake(4, tenant="a", audit_id=taken.entry.audit_id)], tree),
            made("new-2", [intake(5, tenant="new-2"), intake(6, tenant="new-2")]),
            made("new-3", [intake(7, tenant="new-3")]),
        ]
        outcomes = await store.append_all(appends)
        assert [type(o) for o in outcomes] == [HeadMoved, AuditIdsTaken, type(None), type(None)]
        assert [(await store.head(t)).size for t in ("new-1", "a", "new-2", "new-3")] == [0, 1, 2, 1]
        assert await store.append_all([made("new-1", [intake(8, tenant="new-1")])]) == [None]
        assert await store.append_all([]) == []
        assert await store.append_all([made("a", [intake(i, tenant="a") for i in range(700)], tree)]) == [None]
    async with backend.open() as store:
        for tenant, count in (("new-1", 1), ("new-2", 2), ("new-3", 1), ("a", 701)):
            found = await everything(store, tenant)
            assert [(r.seq, read_record(r.body).tenant_id) for r in found] == [(i, tenant) for i in range(1, count + 1)]


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (RecordFilter(), lambda i: True),
        (RecordFilter(actor="u3"), lambda i: i % 5 == 3),
        (RecordFilter(action="a1"), lambda i: i % 3 == 1),
        (RecordFilter(resource_id="r17"), lambda i: i == 17),
        (RecordFilter(resource_type="message", outcome="denied"), lambda i: i % 11 == 0),
        (RecordFilter(resource_type="nothing"), lambda i: False),
        (RecordFilter(actor="u0", action="a2", outcome="success"), lambda i: i % 5 == 0 and i % 3 == 2 and i % 11),
        (RecordFilter(from_us=50, to_us=60), lambda i: 50 <= i < 60),
        (RecordFilter(from_us=590, actor="u4"), lambda i: i >= 590 and i % 5 == 4),
    ],
)
async def test_search(store: AuditStore, wanted: RecordFilter, matches: Any) -> None:
    items = [
        intake(i, actor=f"u{i % 5}", action=f"a{i % 3}", outcome="denied" if i % 11 == 0 else "success", at_us=i)
        for i in range(600)
    ]
    for start in range(0, 600, 37):
        await add(store, items[start : start + 37])
    expected = [i + 1 for i in range(600) if matches(i)]
    found, after = [], 0
    while True:
        page = await store.search("acme", wanted, after_seq=after, limit=9)
        assert len(page.records) <= 9
        found += [r.seq for r in page.records]
        if page.looked_up_to is None:
            break
        after = page.looked_up_to
    assert found == expected


async def test_text_with_one_code_is_told_apart(store: AuditStore) -> None:
    """`plumless` and `buckeroo` have the same CRC-32."""
    await add(store, [intake(1, action="plumless"), intake(2, action="buckeroo")])
    found = await store.search("acme", RecordFilter(action="buckeroo"), after_seq=0, limit=10)
    assert [r.seq for r in found.records] == [2]


async def test_checkpoints_are_kept(backend: Backend) -> None:
    made = [
        StoredCheckpoint(size=s, root=bytes([s]) * 32, note=f"note {s}", public_key="key", at_us=s) for s in (0, 3, 9)
    ]
    async with backend.open() as store:
        for checkpoint in made:
            await store.add_checkpoint("acme", checkpoint)
        await store.add_checkpoint("acme", msgspec.structs.replace(made[1], note="another"))
    async with backend.open() as store:
        assert await store.last_checkpoint("acme") == made[2]
        assert await store.checkpoints("acme", above=-1, limit=10) == made
        assert await store.checkpoints("acme", above=0, limit=1) == made[1:2]
        assert await store.last_checkpoint("other") is None
        assert await store.head("acme") == LogHead()
