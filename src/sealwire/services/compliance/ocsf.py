"""Audit records as OCSF events (Open Cybersecurity Schema Framework 1.3.0), for SIEMs.

| records                                          | class               | activity                        |
|--------------------------------------------------|---------------------|---------------------------------|
| `auth.session-established`, `auth.login.failed`  | 3002 Authentication | Logon                           |
| `auth.mfa.*`, `auth.recovery.used`               | 3002 Authentication | Logon                           |
| `auth.session-revoked`, `auth.sessions-revoked`  | 3002 Authentication | Logoff                          |
| `auth.token.refreshed`, `auth.token.reused`      | 3002 Authentication | Service Ticket Renew            |
| `auth.assurance-level-change`                    | 3002 Authentication | Preauth                         |
| `auth.user.*`, credentials, `auth.totp.*`        | 3001 Account Change | Create, Password Change, MFA …  |
| all others, API requests among them              | 6003 API Activity   | Create, Read, Update, Delete    |

What the schema has no place for stands in `unmapped`. `severity_id` is 1 (informational), 2 (low) for what failed, 3
(medium) for what was denied, 4 (high) for alarms of the log itself.
"""

from __future__ import annotations

from typing import Any, Final

from sealwire import __version__
from sealwire.contracts.audit_log import AuditRecord
from sealwire.kit.clock import parse_rfc3339
from sealwire.services.compliance.sealing import ERASED, KEY_DAMAGED, UNREADABLE

OCSF_VERSION: Final = "1.3.0"
API_ACTIVITY: Final = 6003
AUTHENTICATION: Final = 3002
ACCOUNT_CHANGE: Final = 3001
_OTHER: Final = 99
_CREATE, _READ, _UPDATE, _DELETE = 1, 2, 3, 4
_CLASSES: Final = {API_ACTIVITY: "API Activity", AUTHENTICATION: "Authentication", ACCOUNT_CHANGE: "Account Change"}
_CATEGORIES: Final = {3: "Identity & Access Management", 6: "Application Activity"}
_ACTIVITIES: Final[dict[int, dict[int, str]]] = {
    API_ACTIVITY: {1: "Create", 2: "Read", 3: "Update", 4: "Delete", 99: "Other"},
    AUTHENTICATION: {1: "Logon", 2: "Logoff", 5: "Service Ticket Renew", 6: "Preauth", 99: "Other"},
    ACCOUNT_CHANGE: {
        1: "Create", 3: "Password Change", 4: "Password Reset", 10: "MFA Factor Enable", 11: "MFA Factor Disable",
        99: "Other",
    },
}  # fmt: skip
_NAMED: Final[dict[str, tuple[int, int]]] = {
    "auth.session-established": (AUTHENTICATION, 1),
    "auth.login.failed": (AUTHENTICATION, 1),
    "auth.mfa.wanted": (AUTHENTICATION, 1),
    "auth.mfa.failed": (AUTHENTICATION, 1),
    "auth.recovery.used": (AUTHENTICATION, 1),
    "auth.session-revoked": (AUTHENTICATION, 2),
    "auth.sessions-revoked": (AUTHENTICATION, 2),
    "auth.token.refreshed": (AUTHENTICATION, 5),
    "auth.token.reused": (AUTHENTICATION, 5),
    "auth.token.revoked": (AUTHENTICATION, 2),
    "auth.assurance-level-change": (AUTHENTICATION, 6),
    "auth.proof.failed": (AUTHENTICATION, 6),
    "auth.user.registered": (ACCOUNT_CHANGE, 1),
    "auth.user.added": (ACCOUNT_CHANGE, 1),
    "auth.user.changed": (ACCOUNT_CHANGE, _OTHER),
    "auth.profile.changed": (ACCOUNT_CHANGE, _OTHER),
    "auth.credential-change": (ACCOUNT_CHANGE, 3),
    "auth.password-reset.asked": (ACCOUNT_CHANGE, 4),
    "auth.password-reset.done": (ACCOUNT_CHANGE, 4),
    "auth.totp.confirmed": (ACCOUNT_CHANGE, 10),
    "auth.totp.removed": (ACCOUNT_CHANGE, 11),
}
_VERBS: Final = {"GET": _READ, "HEAD": _READ, "OPTIONS": _READ, "POST": _CREATE, "PUT": _UPDATE, "PATCH": _UPDATE,
                 "DELETE": _DELETE}  # fmt: skip
_WORDS: Final = {
    "created": _CREATE, "added": _CREATE, "given": _CREATE, "put": _CREATE, "started": _CREATE, "uploaded": _CREATE,
    "joined": _CREATE, "connect": _CREATE, "read": _READ, "opened": _READ, "loaded": _READ, "decrypt": _READ,
    "performed": _READ,
    "edited": _UPDATE, "changed": _UPDATE, "rotated": _UPDATE, "policy_set": _UPDATE, "state_changed": _UPDATE,
    "deleted": _DELETE, "removed": _DELETE, "withdrawn": _DELETE, "left": _DELETE, "destroyed": _DELETE,
    "released": _DELETE, "ended": _DELETE, "policy_removed": _DELETE, "close": _DELETE,
}  # fmt: skip
_ALARMS: Final = frozenset({"audit.conflict", "audit.gap", "audit.refused"})
_MAPPED: Final = frozenset({"ip_address", "trace_id"})
_MAPPED_OF_REQUESTS: Final = _MAPPED | {"user_agent", "url", "method", "status_code"}


def ocsf_event(record: AuditRecord) -> dict[str, Any]:
    """Return the OCSF event of a record as a reader sees it."""
    class_uid, activity_id = classify(record)
    metadata = record.metadata
    succeeded = record.outcome == "success"
    event: dict[str, Any] = {
        "activity_id": activity_id,
        "activity_name": _ACTIVITIES[class_uid][activity_id],
        "category_uid": class_uid // 1000,
        "category_name": _CATEGORIES[class_uid // 1000],
        "class_uid": class_uid,
        "class_name": _CLASSES[class_uid],
        "type_uid": class_uid * 100 + activity_id,
        "time": parse_rfc3339(record.created_at) // 1000,
        "severity_id": _severity(record),
        "status_id": 1 if succeeded else 2,
        "status": "Success" if succeeded else "Failure",
        "status_detail": record.outcome,
        "message": record.action,
        "actor": {"user": _actor(record)},
        "src_endpoint": _endpoint(_text(metadata, "ip_address")),
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": "Sealwire", "vendor_name": "Sealwire", "version": __version__},
            "uid": record.audit_id,
            "sequence": record.seq,
            "tenant_uid": record.tenant_id,
            "event_code": record.action,
            "original_time": record.created_at,
            "correlation_uid": metadata.get("trace_id", ""),
            "log_name": "audit",
        },
        "unmapped": _unmapped(record),
    }
    if class_uid == API_ACTIVITY:
        event["api"] = _api(record)
        event["resources"] = [{"type": record.resource_type, "uid": record.resource_id}]
        if request := _http_request(record):
            event["http_request"] = request
            event["http_response"] = {"code": metadata.get("status_code", 0)}
    else:
        event["user"] = {"uid": record.resource_id if record.resource_type == "user" else record.actor.id}
        if email := _text(metadata, "email"):
            event["user"]["email_addr"] = email
    return event


def classify(record: AuditRecord) -> tuple[int, int]:
    """Return the class and the activity of a record."""
    if (named := _NAMED.get(record.action)) is not None:
        return named
    if record.resource_type == "api_request":
        return API_ACTIVITY, _VERBS.get(record.action.partition("_")[0], _OTHER)
    return API_ACTIVITY, _WORDS.get(record.action.rpartition(".")[2], _OTHER)


def _severity(record: AuditRecord) -> int:
    if record.action in _ALARMS:
        return 4
    return {"success": 1, "failure": 2, "denied": 3}.get(record.outcome, 1)


def _actor(record: AuditRecord) -> dict[str, Any]:
    """OCSF user types: 1 is a user, 3 a system's own, 0 unknown."""
    kinds = {"user": 1, "api_key": 1, "service": 3}
    return {"uid": record.actor.id, "type": record.actor.type, "type_id": kinds.get(record.actor.type, 0)}


def _api(record: AuditRecord) -> dict[str, Any]:
    service = {"name": record.action.partition(".")[0] if record.resource_type != "api_request" else "gateway"}
    return {"operation": record.action, "service": service}


def _endpoint(address: str) -> dict[str, str]:
    """An address that was erased, or never known, is none: the schema has a name for what there is instead."""
    return {"name": address or "unknown"} if address in {"", ERASED, KEY_DAMAGED, UNREADABLE} else {"ip": address}


def _http_request(record: AuditRecord) -> dict[str, Any]:
    if record.resource_type != "api_request":
        return {}
    request = {"http_method": _text(record.metadata, "method"), "url": {"path": _text(record.metadata, "url")}}
    if agent := _text(record.metadata, "user_agent"):
        request["user_agent"] = agent
    return request


def _unmapped(record: AuditRecord) -> dict[str, Any]:
    mapped = _MAPPED_OF_REQUESTS if record.resource_type == "api_request" else _MAPPED
    kept = {name: value for name, value in record.metadata.items() if name not in mapped}
    return {**kept, "hash": record.hash, "prev_hash": record.prev_hash}


def _text(metadata: dict[str, Any], name: str) -> str:
    value = metadata.get(name, "")
    return value if isinstance(value, str) else ""
