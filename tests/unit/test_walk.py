"""Looking at many records at once finds what looking at them one by one finds, whatever was done to them."""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha256
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.services.compliance.canonical import canonical
from sealwire.services.compliance.chain import Record, RecordActor, record_bytes, record_hash
from sealwire.services.compliance.merkle import leaf_hash, root_of
from sealwire.services.compliance.plain_form import plain_records
from sealwire.services.compliance.remains import pruned_item
from sealwire.services.compliance.walk import UNREADABLE, Item, Walk

SEALED = {"ip_address": {"of": "u1", "sealed": "AQ=="}, "user_agent": {"sealed_with": "ip_address"}}
numbers = (
    st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-(2**53) + 1, 2**53 - 1)
    | st.floats(1e-5, 1e-3)
    | st.floats(1e14, 2**53 - 1)
    | st.integers(-20, 20).map(float)
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ['"', "\\", "\n", "\x7f", "\u2028", "1.0,", '{"a":1}', "é"]
)
plain_texts = st.text("abc .:,0-", max_size=8)
members = st.dictionaries(
    plain_texts | texts, plain_texts | texts | numbers | st.booleans() | st.none() | st.just({"of": "u", "sealed": "x"})
)


def body_of(seq: int, prev: str, metadata: dict[str, Any], tenant_id: str = "acme", action: str = "a.b") -> bytes:
    return record_bytes(
        Record(
            action=action,
            actor=RecordActor("u1", "user"),
            audit_id=f"id-{seq}",
            created_at="2026-01-01T00:00:00.000000Z",
            metadata=msgspec.Raw(canonical(metadata)),
            outcome="success",
            prev_hash=prev,
            resource_id="r",
            resource_type="message",
            seq=seq,
            tenant_id=tenant_id,
        )
    )


def log(count: int) -> list[Item]:
    items: list[Item] = []
    prev = "0" * 64
    for seq in range(1, count + 1):
        extra: dict[str, Any] = SEALED if seq % 2 else {"time_ms": 1.25, "known": True, "left": None}
        body = body_of(seq, prev, {"n": seq, **extra})
        prev = record_hash(body)
        items.append((body, prev))
    return items


LOG = log(150)


MORE_MEMBERS = {17, 18}
"""The ways of `spelled` that give canonical JSON, of a record with members that we don't write."""


def spelled(body: bytes, way: int) -> bytes:
    """The same JSON, or nearly, in bytes that are not its canonical form."""
    ways = [
        lambda b: b.replace(b",", b", ", 1),
        lambda b: b.replace(b":", b":\n", 1),
        lambda b: b + b" ",
        lambda b: b + b"\n",
        lambda b: b"\n" + b,
        lambda b: b"{" + b[b.index(b'"actor"') : -1] + b',"action":"a.b"}',
        lambda b: b.replace(b'"n":', b'"n":0,"n":', 1),
        lambda b: b.replace(b'"outcome":"success"', b'"outcome":"failure","outcome":"success"'),
        lambda b: b.replace(b"success", b"suc\\u0063ess"),
        lambda b: b.replace(b'"n"', b'"\\u006e"'),
        lambda b: b.replace(b'"n":', b'"n":-0,"o":', 1),
        lambda b: b.replace(b'"n":', b'"m":1e2,"n":', 1),
        lambda b: b.replace(b'"n":', b'"m":5.0,"n":', 1),
        lambda b: b.replace(b'"n":', b'"m":5.10,"n":', 1),
        lambda b: b.replace(b'"n":', b'"m":9007199254740993,"n":', 1),
        lambda b: b.replace(b'"n":', b'"m":-0.5E0,"n":', 1),
        lambda b: b.replace(b'"n":', b'"z":1,"n":', 1),
        lambda b: b.replace(b'"audit_id"', b'"aside":1,"audit_id"'),
        lambda b: b.replace(b'"type":"user"', b'"type":"user","zip":1'),
        lambda b: b.replace(b'"id":"u1","type":"user"', b'"type":"user","id":"u1"'),
    ]
    return ways[way % len(ways)](body)


def rechained(items: list[Item], start: int) -> list[Item]:
    """Make hashes right again from `start` on, whatever the bytes are: as the writer itself could."""
    done = list(items[:start])
    for body, _ in items[start:]:
        prev = done[-1][1] if done else "0" * 64
        at = body.rfind(b'"prev_hash":"')
        fixed = body[: at + 13] + prev.encode() + body[at + 77 :] if at >= 0 else body
        done.append((fixed, sha256(fixed).hexdigest()))
    return done


def state(walk: Walk) -> tuple[object, ...]:
    root = walk.frontier.root() if walk.frontier else None
    return walk.expected, walk.prev_hash, walk.tenant_id, walk.records, root, walk.pruned, walk.said, walk.gained


def one_by_one(walk: Walk, items: list[Item]) -> tuple[int, list[bytes]]:
    """Have a walk look at records one by one."""
    if walk.tenant_id is None or walk.prev_hash is None:
        walk._believe(items)
    return walk._one_by_one(items)


def both_ways(items: list[Item], *, strict: bool, cut: int = 0, **start: Any) -> tuple[int, tuple[object, ...]]:
    """Feed two walks, one as all do and one record by record; return how many fit and what it then knows."""
    quick, slow = Walk(strict=strict, **start), Walk(strict=strict, **start)
    fits = 0
    for part in (items[:cut], items[cut:]):
        good, leaves = quick.feed(part)
        assert (good, leaves) == one_by_one(slow, part)
        assert state(quick) == state(slow)
        fits += good
        if good < len(part):
            break
    return fits, state(quick)


@pytest.mark.parametrize("strict", [True, False])
def test_an_honest_log_is_taken_in_at_once(strict: bool) -> None:
    walk = Walk(strict=strict)
    leaves = walk.feed_all([b for b, _ in LOG], [h for _, h in LOG])
    assert leaves == [leaf_hash(b) for b, _ in LOG]
    assert walk.frontier is not None
    assert walk.frontier.root() == root_of(leaves)
    assert both_ways(LOG, strict=strict)[1] == state(walk)


@settings(max_examples=200)
@given(st.integers(0, len(LOG) - 1), st.data(), st.booleans(), st.booleans())
def test_any_changed_bit_is_found_where_it_is(index: int, data: st.DataObject, strict: bool, rehash: bool) -> None:
    body = bytearray(LOG[index][0])
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    body[bit // 8] ^= 1 << bit % 8
    items = [*LOG[:index], (bytes(body), LOG[index][1]), *LOG[index + 1 :]]
    assert both_ways(items, strict=strict)[0] == index
    if rehash:
        items[index] = (bytes(body), record_hash(bytes(body)))
        assert both_ways(items, strict=strict)[0] in {index, index + 1}


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 19)), max_size=4, unique_by=lambda change: change[0]),
    st.booleans(),
    st.data(),
)
def test_other_spellings_are_judged_alike(changes: list[tuple[int, int]], strict: bool, data: st.DataObject) -> None:
    items = LOG[:12]
    for index, way in changes:
        items[index] = (spelled(items[index][0], way), "")
    items = rechained(items, min((i for i, _ in changes), default=12))
    fits, _ = both_ways(items, strict=strict, cut=data.draw(st.integers(0, 12)))
    if strict:
        assert fits == min((i for i, way in changes if way not in MORE_MEMBERS), default=12)


@settings(max_examples=200)
@given(st.permutations(range(8)), st.integers(0, 8), st.booleans(), st.integers(0, 3))
def test_records_out_of_place_are_judged_alike(order: list[int], keep: int, strict: bool, other: int) -> None:
    items = [LOG[i] for i in order[:keep]] + LOG[8:20]
    if other == 1 and items:
        body = body_of(1, "0" * 64, {}, tenant_id="evil")
        items[0] = (body, record_hash(body))
    if other == 2:
        items[-1] = (items[-1][0], items[0][1])
    if other == 3:
        items[3] = (pruned_item(4, leaf_hash(LOG[3][0])), LOG[3][1])
    both_ways(items, strict=strict)
    both_ways(items, strict=strict, first_seq=order[0] + 1, prev_hash=None)


def test_bodies_that_are_records_only_together_are_none() -> None:
    (a, _), (b, _) = LOG[:2]
    for pair in ([a + b"\n" + b[:40], b[40:]], [a[:-1], b"}\n" + b], [a + b"\n" + b, b""], [a, b + b"\n"]):
        with suppress(*UNREADABLE):
            assert plain_records(pair) is None
        items = [(body, sha256(body).hexdigest()) for body in pair]
        assert Walk(strict=True).feed(items)[0] < 2


@settings(max_examples=200)
@given(members, st.sampled_from(["a.b", "é", 'a"b', "\n"]))
def test_what_is_proved_is_the_form_of_rfc_8785(metadata: dict[str, Any], action: str) -> None:
    body = body_of(1, "0" * 64, metadata, action=action)
    assert rfc8785.dumps(json.loads(body)) == body
    assert both_ways([(body, record_hash(body))], strict=True)[0] == 1
    loose = json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).encode()
    try:
        proved = plain_records([loose])
    except UNREADABLE:
        return
    assert proved is None or rfc8785.dumps(json.loads(loose)) == loose


@settings(max_examples=200)
@given(st.from_regex(rb"-?[0-9]{1,18}(\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?", fullmatch=True))
def test_a_number_is_proved_in_its_one_spelling_only(number: bytes) -> None:
    body = body_of(1, "0" * 64, {"n": 1}).replace(b'"n":1', b'"n":' + number)
    try:
        proved = plain_records([body])
    except UNREADABLE:
        return
    if proved is not None:
        value = json.loads(number)
        assert rfc8785.dumps(value) == number


def test_plain_records_are_proved_at_once() -> None:
    assert plain_records([body for body, _ in LOG[:32]]) is not None
    assert plain_records([]) == []
