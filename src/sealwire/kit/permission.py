"""Roles and what they may do: the one table that every check reads."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """A person's role in the tenant; `operator` lives in the reserved tenant `system`, `service` is one of us."""

    OWNER = "owner"
    ADMIN = "admin"
    AUDITOR = "auditor"
    MEMBER = "member"
    GUEST = "guest"
    OPERATOR = "operator"
    SERVICE = "service"


class Permission(StrEnum):
    """A single right. An operation names the one it needs."""

    OWN_PROFILE = "own_profile"
    READ = "read"
    POST = "post"
    START_CONVERSATION = "start_conversation"
    UPLOAD = "upload"
    SEARCH = "search"
    OWN_DATA = "own_data"
    MANAGE_USERS = "manage_users"
    INVITE = "invite"
    READ_AUDIT = "read_audit"
    MANAGE_GDPR = "manage_gdpr"
    MANAGE_RETENTION = "manage_retention"
    READ_RETENTION = "read_retention"
    USE_KEYS = "use_keys"
    MANAGE_KEYS = "manage_keys"
    HEALTH_DETAILS = "health_details"
    MANAGE_TENANTS = "manage_tenants"


_GUEST = frozenset({Permission.OWN_PROFILE, Permission.READ, Permission.POST, Permission.OWN_DATA})
_MEMBER = _GUEST | {Permission.START_CONVERSATION, Permission.UPLOAD, Permission.SEARCH}
_AUDITOR = frozenset(
    {
        Permission.OWN_PROFILE,
        Permission.OWN_DATA,
        Permission.READ,
        Permission.READ_AUDIT,
        Permission.READ_RETENTION,
        Permission.SEARCH,
    }
)
_ADMIN = _MEMBER | {
    Permission.MANAGE_USERS,
    Permission.INVITE,
    Permission.READ_AUDIT,
    Permission.MANAGE_GDPR,
    Permission.MANAGE_RETENTION,
    Permission.READ_RETENTION,
    Permission.USE_KEYS,
    Permission.MANAGE_KEYS,
    Permission.HEALTH_DETAILS,
}

GRANTS: dict[Role, frozenset[Permission]] = {
    Role.OWNER: _ADMIN,
    Role.ADMIN: _ADMIN,
    Role.AUDITOR: _AUDITOR,
    Role.MEMBER: _MEMBER,
    Role.GUEST: _GUEST,
    Role.OPERATOR: frozenset(
        {Permission.OWN_PROFILE, Permission.HEALTH_DETAILS, Permission.MANAGE_TENANTS, Permission.READ_AUDIT}
    ),
    Role.SERVICE: frozenset(Permission),
}

_RANK = (Role.GUEST, Role.MEMBER, Role.AUDITOR, Role.ADMIN, Role.OWNER)


def outranks(a: Role, b: Role) -> bool:
    """Tell whether `a` ranks above `b`; nobody does of a pair that can't be ranked."""
    return a in _RANK and b in _RANK and _RANK.index(a) > _RANK.index(b)


def lower(a: Role, b: Role) -> Role:
    """Return the role of the two that grants less; for a pair that can't be ranked, `guest`."""
    if a == b:
        return a
    if a not in _RANK or b not in _RANK:
        return Role.GUEST
    return a if _RANK.index(a) < _RANK.index(b) else b
