"""Audit records as OCSF events: every class has what the schema requires of it."""

from __future__ import annotations

from typing import Any

import pytest

from sealwire.contracts.audit_log import Actor, AuditRecord
from sealwire.services.auth.events import Kind
from sealwire.services.compliance.ocsf import ACCOUNT_CHANGE, API_ACTIVITY, AUTHENTICATION, ocsf_event

BASE = {"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"}
REQUIRED = {
    API_ACTIVITY: BASE | {"actor", "api", "src_endpoint"},
    AUTHENTICATION: BASE | {"user"},
    ACCOUNT_CHANGE: BASE | {"user"},
}
REQUEST = {"method": "POST", "url": "/x", "status_code": 201, "ip_address": "192.0.2.1", "user_agent": "probe/1"}


def record(action: str, **changes: Any) -> AuditRecord:
    members: dict[str, Any] = {
        "audit_id": "id-1",
        "tenant_id": "acme",
        "seq": 7,
        "actor": Actor(type="user", id="anna"),
        "action": action,
        "resource_type": "user",
        "resource_id": "ben",
        "outcome": "success",
        "metadata": {},
        "created_at": "2026-01-01T00:00:00.123456Z",
        "prev_hash": "0" * 64,
        "hash": "1" * 64,
    }
    return AuditRecord(**{**members, **changes})


@pytest.mark.parametrize(
    ("action", "changes", "type_uid"),
    [
        ("auth.session-established", {}, 300201),
        ("auth.login.failed", {"outcome": "failure"}, 300201),
        ("auth.session-revoked", {}, 300202),
        ("auth.user.registered", {}, 300101),
        ("auth.credential-change", {}, 300103),
        ("auth.totp.confirmed", {}, 300110),
        ("message.created", {"resource_type": "message"}, 600301),
        ("message.edited", {"resource_type": "message"}, 600303),
        ("crypto.key.destroyed", {"resource_type": "key"}, 600304),
        ("GET_/api/v1/auth/me", {"resource_type": "api_request", "metadata": REQUEST}, 600302),
        ("PATCH_/api/v1/auth/me", {"resource_type": "api_request", "metadata": REQUEST}, 600303),
        ("something.new", {}, 600399),
    ],
)
def test_classes_and_activities(action: str, changes: dict[str, Any], type_uid: int) -> None:
    event = ocsf_event(record(action, **changes))
    assert event["type_uid"] == type_uid == event["class_uid"] * 100 + event["activity_id"]
    assert event["category_uid"] == event["class_uid"] // 1000


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("outcome", ["success", "failure", "denied"])
def test_every_event_of_auth_has_what_its_class_requires(kind: Kind, outcome: str) -> None:
    event = ocsf_event(record(kind.value, outcome=outcome))
    assert event.keys() >= REQUIRED[event["class_uid"]]
    assert event["metadata"]["version"] == "1.3.0"
    assert event["time"] == 1_767_225_600_123
    assert (event["status"] == "Success") is (outcome == "success")


def test_personal_data_goes_where_the_schema_has_a_place_for_it() -> None:
    event = ocsf_event(record("POST_/x", resource_type="api_request", metadata={**REQUEST, "trace_id": "t", "n": 1}))
    assert event["src_endpoint"] == {"ip": "192.0.2.1"}
    assert event["http_request"] == {"http_method": "POST", "url": {"path": "/x"}, "user_agent": "probe/1"}
    assert event["http_response"] == {"code": 201}
    assert event["metadata"]["correlation_uid"] == "t"
    assert event["unmapped"]["n"] == 1
    assert "ip_address" not in event["unmapped"]


def test_what_was_erased_is_told_as_such() -> None:
    erased = {**REQUEST, "ip_address": "erased", "user_agent": "erased"}
    event = ocsf_event(record("GET_/x", resource_type="api_request", metadata=erased))
    assert event["http_request"]["user_agent"] == "erased"
    assert "ip" not in event["src_endpoint"], "no address at all"
