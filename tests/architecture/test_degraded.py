"""What goes on while nobody can confirm a session (R6.6) is a list that somebody decided on, and nothing beside it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from sealwire.kit.caller import Caller, Principal
from sealwire.kit.http import Edge, Route
from sealwire.kit.operation import SAFE_VERBS, Degraded, Operation, Policy
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Forbidden, SessionUnconfirmed

CONTRACTS = ("identity", "messaging", "media", "search", "accountability", "crypto")
REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "operations.md"
OPEN = {
    # the own profile, and the way out
    "GET /auth/me", "PATCH /auth/me", "POST /auth/logout", "POST /auth/logout-all", "POST /auth/revoke",
    "DELETE /auth/sessions/{session_id}",
    # read, send, react
    "GET /conversations", "GET /conversations/{conversation_id}", "GET /conversations/{conversation_id}/members",
    "GET /conversations/{conversation_id}/messages", "POST /conversations/{conversation_id}/messages",
    "PATCH /conversations/{conversation_id}/messages/{seq:int}",
    "DELETE /conversations/{conversation_id}/messages/{seq:int}",
    "PUT /conversations/{conversation_id}/messages/{seq:int}/reactions/{emoji}",
    "DELETE /conversations/{conversation_id}/messages/{seq:int}/reactions/{emoji}",
    "POST /conversations/{conversation_id}/read",
    "GET /media/{media_id}", "GET /media/{media_id}/info", "HEAD /media/uploads/{media_id}",
}  # fmt: skip
READ_ONLY = {
    "GET /conversations", "POST /conversations", "GET /conversations/{conversation_id}",
    "PATCH /conversations/{conversation_id}", "DELETE /conversations/{conversation_id}",
    "GET /conversations/{conversation_id}/members", "POST /conversations/{conversation_id}/members",
    "DELETE /conversations/{conversation_id}/members/{user_id}",
    "PATCH /conversations/{conversation_id}/members/{user_id}",
    "POST /media/uploads", "HEAD /media/uploads/{media_id}", "PATCH /media/uploads/{media_id}",
    "DELETE /media/uploads/{media_id}", "POST /media/uploads/{media_id}",
}  # fmt: skip


def routes() -> list[Route]:
    """Every route of the contracts and of the services' own handlers that is for people."""
    edge = Edge(authenticate=lambda *_: Caller(principal=principal()))

    async def reached(*_: Any) -> None:
        """Stand where a service would."""

    found: list[Route] = []
    for name in CONTRACTS:
        operations: dict[str, Operation] = import_module(f"sealwire.contracts.{name}").OPERATIONS
        found += [edge.bind(operation, reached) for operation in operations.values()]
    for module, function in (
        ("auth.openid_routes", "openid_routes"),
        ("auth.external_routes", "external_routes"),
        ("media.routes", "routes"),
        ("compliance.routes", "routes"),
    ):
        own = getattr(import_module(f"sealwire.services.{module}"), function)(MagicMock(), edge)
        found += [route for route in own if route.operation is None]
    return [route for route in found if route.policy is Policy.CALLER]


def principal(*, legacy: bool = False) -> Principal:
    return Principal(
        kind="user", tenant_id="t", subject="u", role=Role.OWNER, session_id="s", email="", epoch=1, auth_time_s=2**33,
        amr=(), expires_at_s=2**33, token_id="j", legacy=legacy, scopes=None,
    )  # fmt: skip


def name(route: Route) -> str:
    return f"{route.verb} {route.path}"


def test_an_unconfirmed_session_and_a_legacy_token_may_do_what_is_on_the_list_and_nothing_else() -> None:
    passed = set()
    for route in routes():
        if route.needs is Permission.MANAGE_TENANTS:
            continue  # not even an owner's
        try:
            route.check(Caller(principal=principal(), confirmed=False))
            passed.add(name(route))
        except SessionUnconfirmed:
            with pytest.raises(Forbidden, match="low-risk"):
                route.check(Caller(principal=principal(legacy=True)))
    assert passed == OPEN


def test_read_only_things_can_be_looked_at_and_not_changed() -> None:
    found = {name(route): route for route in routes() if route.degraded is Degraded.READ_ONLY}
    assert set(found) == READ_ONLY
    for route in found.values():
        open_unconfirmed = name(route) in OPEN
        assert open_unconfirmed is (route.verb in SAFE_VERBS)
        if route.operation is not None:
            assert route.operation.open_unconfirmed is open_unconfirmed


def test_the_reference_shows_the_policy_of_every_one_of_them() -> None:
    lines = REFERENCE.read_text().splitlines()
    for route in routes():
        shown = next(line for line in lines if line.startswith(f"| `{name(route).replace(':int', '')}`"))
        assert f"| {route.degraded.value} |" in shown, shown
