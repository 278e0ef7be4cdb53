"""Auditors see what is kept for how long, and what a hold keeps; they change none of it."""

from __future__ import annotations

import time

import pytest

from sealwire.contracts import holds, retention, retention_policies
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import Edge
from sealwire.kit.operation import Operation, Policy
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden

OPERATIONS = [
    operation
    for noun in (holds, retention, retention_policies)
    for operation in noun.OPERATIONS.values()
    if operation.policy is Policy.CALLER
]


def person(role: Role) -> Caller:
    principal = Principal(kind="user", tenant_id="t", subject="p", role=role, session_id="s", auth_time_s=time.time())
    return Caller(principal=principal, ip="127.0.0.1", user_agent="", trace_id="")


def nobody(exchange: Exchange, policy: Policy) -> Caller:
    raise Forbidden


async def call() -> None: ...


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_auditors_look_and_change_nothing(operation: Operation) -> None:
    route = Edge(authenticate=nobody).bind(operation, call)
    route.check(person(Role.ADMIN))
    if operation.verb == "GET":
        route.check(person(Role.AUDITOR))
    else:
        with pytest.raises(Forbidden):
            route.check(person(Role.AUDITOR))
    with pytest.raises(Forbidden):
        route.check(person(Role.MEMBER))
