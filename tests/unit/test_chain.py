"""A record's bytes are RFC 8785, its hash covers them all, and a line of an export holds both."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from sealwire.services.compliance.canonical import NotCanonical, canonical
from sealwire.services.compliance.chain import (
    Record,
    RecordActor,
    TooLong,
    form_of,
    line_of,
    record_bytes,
    record_hash,
    reread,
    split_line,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [',"hash":"', '"', "\\", ',"metadata":', "\x00\x1f", "\U0001f600"]
)
scalars = texts | st.integers(-(2**53) + 1, 2**53 - 1) | st.booleans() | st.none() | st.floats(-1e15, 1e15)
metadata = st.dictionaries(texts, scalars | st.dictionaries(texts, texts, max_size=2), max_size=4)
records = st.builds(
    lambda meta, **rest: Record(metadata=msgspec.Raw(canonical(meta)), **rest),
    metadata,
    action=texts,
    actor=st.builds(RecordActor, texts, texts),
    audit_id=texts,
    created_at=texts,
    outcome=texts,
    prev_hash=st.just("0" * 64),
    resource_id=texts,
    resource_type=texts,
    seq=st.integers(1, 2**53 - 1),
    tenant_id=texts,
)


def record(**changes: Any) -> Record:
    plain = Record(
        action="a",
        actor=RecordActor("u1", "user"),
        audit_id="id",
        created_at="2026-01-01T00:00:00.000000Z",
        metadata=msgspec.Raw(b"{}"),
        outcome="success",
        prev_hash="0" * 64,
        resource_id="",
        resource_type="t",
        seq=1,
        tenant_id="acme",
    )
    return msgspec.structs.replace(plain, **changes)


@given(records)
def test_a_record_is_its_canonical_bytes(value: Record) -> None:
    body = record_bytes(value)
    assert rfc8785.dumps(json.loads(body)) == body
    assert record_hash(body) == sha256(body).hexdigest()


@given(records)
def test_a_line_holds_the_record_and_its_hash(value: Record) -> None:
    body = record_bytes(value)
    stated = record_hash(body)
    line = line_of(body, stated)
    document = json.loads(line)
    assert rfc8785.dumps(document) == line
    assert document.pop("hash") == stated
    assert rfc8785.dumps(document) == body
    assert split_line(line) == (body, stated)
    assert reread(line) == (body, stated)
    assert reread(json.dumps(json.loads(line), indent=1).encode()) == (body, stated)


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[1]", b'{"hash":1}', b'{"a":1,"a":2,"hash":"x"}', b"\xff", b'{"hash":"']
)
def test_what_is_no_record_is_refused(line: bytes) -> None:
    with pytest.raises(NotCanonical):
        reread(line)
    if b'{"a"' not in line:
        with pytest.raises(NotCanonical):
            split_line(line)


@given(records)
def test_a_record_gets_its_place(value: Record) -> None:
    blank = msgspec.structs.replace(value, prev_hash="", seq=0)
    assert form_of(record_bytes(blank)).bytes_at(value.seq, value.prev_hash.encode()) == record_bytes(value)


def test_a_record_that_is_just_not_too_long_has_its_place() -> None:
    last = msgspec.structs.replace(record(), seq=2**53 - 1, metadata=msgspec.Raw(canonical({"a": ""})))
    room = 65_535 - len(record_bytes(last))
    fits, too_long = (
        record(prev_hash="", seq=0, metadata=msgspec.Raw(canonical({"a": "x" * n}))) for n in (room, room + 1)
    )
    assert len(form_of(record_bytes(fits)).bytes_at(2**53 - 1, b"0" * 64)) == 65_535
    with pytest.raises(TooLong):
        form_of(record_bytes(too_long))


@given(st.integers(64_800, 65_400), st.text(st.sampled_from("\x00\x01a"), max_size=128))
def test_the_limit_is_exact(size: int, action: str) -> None:
    value = record(action=action, prev_hash="", seq=0, metadata=msgspec.Raw(canonical({"a": "x" * size})))
    longest = msgspec.structs.replace(value, seq=2**53 - 1, prev_hash="0" * 64)
    if len(record_bytes(longest)) <= 65_535:
        assert len(form_of(record_bytes(value)).bytes_at(2**53 - 1, b"0" * 64)) <= 65_535
    else:
        with pytest.raises(TooLong):
            form_of(record_bytes(value))
