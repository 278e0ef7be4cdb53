"""Recent proof: what administers asks for one, or a reason stands here; and what a thief would do first asks too."""

from __future__ import annotations

import importlib
import pkgutil

import sealwire.contracts
from sealwire.kit.operation import Operation, Policy, Repeat
from sealwire.kit.permission import Permission

ADMINISTERS = frozenset(
    {
        Permission.INVITE,
        Permission.MANAGE_GDPR,
        Permission.MANAGE_KEYS,
        Permission.MANAGE_RETENTION,
        Permission.MANAGE_TENANTS,
        Permission.MANAGE_USERS,
    }
)
WITHOUT = {
    "invite": "the service asks where more than a member's role is given, so that keys can bring members in",
    "withdraw_invitation": "takes access away",
    "end_api_key": "takes access away: to make that hard would help a thief",
    "end_client": "takes access away",
    "generate_key": "gives nobody anything that is there",
    "rotate": "old versions go on to open what they sealed",
    "rewrap_keys": "changes what wraps keys, and never who may use them",
    "cancel_destruction": "keeps what could be lost",
}
"""Operations that administer and ask for no recent proof, each with its reason."""
ALWAYS = {
    "totp_enroll", "totp_remove", "passkey_register_options", "passkey_register", "remove_passkey", "add_api_key",
    "add_user", "change_user", "add_tenant", "remove_tenant", "rotate_signing", "schedule_destruction", "change_key",
    "set_policy", "remove_policy", "hold", "release", "request_export", "request_erasure", "change_email",
    "change_email_of", "new_recovery_codes", "reset_factors", "send_reset", "end_sessions_of",
}  # fmt: skip


def operations() -> dict[str, Operation]:
    found: dict[str, Operation] = {}
    for module in pkgutil.iter_modules(sealwire.contracts.__path__):
        found |= getattr(importlib.import_module(f"sealwire.contracts.{module.name}"), "OPERATIONS", {})
    return found


def test_what_administers_asks_for_a_recent_proof() -> None:
    lacking = [
        name
        for name, operation in operations().items()
        if operation.policy is Policy.CALLER
        and operation.needs in ADMINISTERS
        and operation.repeat is not Repeat.SAFE
        and not operation.step_up
        and name not in WITHOUT
    ]
    assert lacking == [], "let them ask for a step-up, or say here why they need not"


def test_what_a_thief_would_do_first_asks_for_one() -> None:
    known = operations()
    assert {name for name in ALWAYS if not known[name].step_up} == set()


def test_reasons_are_given_for_what_there_is() -> None:
    known = operations()
    assert {name for name in WITHOUT if name not in known or known[name].step_up} == set()
