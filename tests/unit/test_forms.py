"""Writing many records at once gives what writing them one by one gives, or nothing at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealwire.contracts.audit_log import Actor, AuditEntry
from sealwire.kit.clock import rfc3339
from sealwire.kit.problem import Invalid
from sealwire.services.compliance.chain import Form
from sealwire.services.compliance.forms import plain_forms
from sealwire.services.compliance.sealing import _forms_one_by_one, _Stamps

AT = "2026-01-01T00:00:00.000000Z"
SEALED = {"ip_address": {"of": "u1", "sealed": "AQ=="}, "user_agent": {"sealed_with": "ip_address"}}
odd_texts = st.sampled_from(
    ["", "é", "\n", "\\n", '"', '","prev_hash":""', '","seq":0,"tenant_id":"', "\\", "\0", "\ud800", "\x7f", "\u2028"]
)
texts = st.text("ab {}:,\n", max_size=6) | odd_texts
numbers = (
    st.integers(-(2**54), 2**54)
    | st.floats()
    | st.floats(1e-5, 1e-3)
    | st.floats(1e14, 1e22)
    | st.integers(-9, 9).map(float)
)
names = st.sampled_from(["a", "prev_hash", "seq", "tenant_id", "ip_address", "B", "é"]) | texts
members = st.dictionaries(names, texts | numbers | st.booleans() | st.none(), max_size=4)
odd_members: st.SearchStrategy[Any] = members | st.dictionaries(
    names, st.lists(st.none(), max_size=1) | st.just({"a": 1}), max_size=1
)


@st.composite
def entries(draw: st.DrawFn) -> AuditEntry:
    text = st.sampled_from(["message", "a.b"]) | texts
    return AuditEntry(
        audit_id=draw(text),
        tenant_id=draw(text),
        actor=Actor(type="user", id=draw(text)),
        action=draw(text),
        resource_type=draw(text),
        resource_id=draw(text | st.just("x" * 65_000)),
        metadata=draw(odd_members),
    )


def slowly(made: list[AuditEntry], sealed: list[dict[str, Any]]) -> list[Form] | None:
    try:
        return _forms_one_by_one(made, sealed, [AT] * len(made))
    except Invalid:
        return None


@settings(max_examples=500)
@given(st.lists(st.tuples(entries(), st.sampled_from([{}, SEALED])), max_size=3))
def test_what_is_written_at_once_is_what_is_written_one_by_one(pairs: list[tuple[AuditEntry, dict[str, Any]]]) -> None:
    made, sealed = [entry for entry, _ in pairs], [some for _, some in pairs]
    quick = plain_forms(made, sealed, [AT] * len(made))
    if quick is not None:
        assert quick == slowly(made, sealed)


def plain(**other: Any) -> AuditEntry:
    fields: dict[str, Any] = {
        "audit_id": "id", "tenant_id": "acme", "actor": Actor(type="user", id="u1"), "action": "message.created",
        "resource_type": "message", "metadata": {"a": "é", "n": 5, "t": 1.25, "known": True, "left": None},
    }  # fmt: skip
    return AuditEntry(**{**fields, **other})


def test_plain_records_are_written_at_once() -> None:
    """Or the quick way would prove nothing, and nobody would see that it is not taken."""
    made = [plain(), plain(action="größer"), plain(resource_id="line\nbreak")]
    sealed: list[dict[str, Any]] = [{}, SEALED, {}]
    found = plain_forms(made, sealed, [AT] * 3)
    assert found is not None
    assert found == slowly(made, sealed)
    assert b'"prev_hash":"' + b"f" * 64 + b'","resource_id"' in found[0].bytes_at(17, b"f" * 64)
    assert found[0].bytes_at(17, b"f" * 64).endswith(b',"seq":17,"tenant_id":"acme"}')


@pytest.mark.parametrize(
    "other",
    [
        {"metadata": {"é": 1}}, {"metadata": {"n": 2**53}}, {"metadata": {"n": 5.0}}, {"metadata": {"n": 1e-7}},
        {"metadata": {"n": float("nan")}}, {"metadata": {"n": [1]}}, {"metadata": {"ip_address": "x"}},
        {"metadata": {"a": "\0"}}, {"action": "\0"}, {"resource_id": "x" * 65_536}, {"action": "\ud800"},
    ],
)  # fmt: skip
def test_what_is_not_plain_is_looked_at_one_by_one(other: dict[str, Any]) -> None:
    assert plain_forms([plain(), plain(**other)], [{}, SEALED], [AT] * 2) is None


@given(st.integers(0, 3_000_000), st.lists(st.integers(-1, 3_000_000) | st.just(10**18), max_size=4))
def test_times_are_written_alike_together_and_one_by_one(before: int, times: list[int]) -> None:
    stamps = _Stamps()
    assert stamps.of(times) == []
    stamps.at(before)
    alike = all(time // 1_000_000 == before // 1_000_000 for time in times)
    assert stamps.of(times) == ([rfc3339(time) for time in times] if alike else [])
