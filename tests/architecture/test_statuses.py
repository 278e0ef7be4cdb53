"""What answers something else than 200 is what the wire contract says so of."""

from __future__ import annotations

from importlib import import_module

from sealwire.kit.operation import Operation, Policy

CONTRACTS = ("identity", "messaging", "media", "search", "accountability", "crypto")
OTHERS = {
    "POST /auth/register": 201,
    "POST /auth/logout": 204,
    "POST /auth/logout-all": 204,
    "POST /auth/password/change": 204,
    "DELETE /auth/sessions/{session_id}": 204,
    "PUT /conversations/{conversation_id}/messages/{seq:int}/reactions/{emoji}": 204,
    "DELETE /conversations/{conversation_id}/messages/{seq:int}/reactions/{emoji}": 204,
    "POST /crypto/keys": 201,
    "POST /compliance/gdpr/exports": 202,
    "POST /compliance/gdpr/erasures": 202,
    "POST /compliance/gdpr/rectifications": 202,
}
BY_THE_ANSWER = {
    "POST /conversations",  # 201; 200 where the pair has its conversation already
    "POST /conversations/{conversation_id}/messages",  # 201; 200 where it was sent before
    "GET /compliance/audit/verify",  # 200; 202 where it is a job
}


def test_an_operation_answers_200_unless_the_wire_contract_says_otherwise() -> None:
    operations: list[Operation] = []
    for name in CONTRACTS:
        operations += import_module(f"sealwire.contracts.{name}").OPERATIONS.values()
    public = {f"{one.verb} {one.path}": one.status for one in operations if one.policy is not Policy.SERVICE}
    assert {where for where, status in public.items() if not isinstance(status, int)} == BY_THE_ANSWER
    assert {where: status for where, status in public.items() if isinstance(status, int) and status != 200} == OTHERS
