"""Whom a service says it speaks for is held against the session it names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.boundary.carried_sessions import CarriedSessions
from sealwire.boundary.config import BoundaryConfig
from sealwire.contracts.admission import SessionRevoked
from sealwire.contracts.tokens import INTROSPECT
from sealwire.kit.caller import ANONYMOUS, Caller, Principal, service_caller
from sealwire.kit.clock import US_PER_S
from sealwire.kit.http import Route
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden, SessionUnconfirmed, Unauthenticated, Unavailable
from sealwire.testing.boundary_room import BoundaryRoom, exchange_of
from sealwire.testing.clock import ManualClock


class Room(BoundaryRoom):
    """A boundary that reads the feed when told to, and a service that says what it likes."""

    clock: ManualClock

    async def held(
        self, said: Principal, *, legacy_tenants: tuple[str, ...] = (), policy: Policy = Policy.CALLER
    ) -> Caller:
        caller = Caller(principal=said, service="gateway")
        held = CarriedSessions(
            services=lambda _exchange, _policy: caller, normalizer=self.boundary.normalizer, clock=self.clock,
            legacy_tenants=legacy_tenants,
        )  # fmt: skip
        exchange = exchange_of([])
        exchange.route = Route(verb="GET", path="/x", policy=policy, operation=INTROSPECT)
        found = held(exchange, policy)
        return found if isinstance(found, Caller) else await found

    def said(self, **changes: Any) -> Principal:
        return Principal(
            **{"kind": "user", "tenant_id": "t", "subject": "anna", "role": Role.OWNER, "epoch": 1_000, **changes}
        )


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path, clock=ManualClock(), config=BoundaryConfig(self_test_every_s=0))
    boundary = room.build()
    await boundary.fallback.start()
    await boundary.coordinator.ensure_fresh()
    room.authority.add_user("anna")
    room.authority.add_user("otto")
    yield room
    await boundary.stop()


async def test_it_lives_it_is_theirs_and_the_record_says_who_they_are(room: Room) -> None:
    session = room.authority.log_in("anna")
    caller = await room.held(room.said(session_id=session.session_id, email="boss@example.org"))
    assert (caller.principal.role, caller.principal.email) == (room.authority.users["anna"].role, "anna@example.org")
    assert (caller.confirmed, caller.service) == (True, "gateway")
    for lie in ({"subject": "otto"}, {"tenant_id": "other"}, {"session_id": "nowhere"}, {"session_id": ""}):
        with pytest.raises(SessionRevoked):
            await room.held(room.said(**{"session_id": session.session_id, **lie}))
    room.authority.log_out(session.session_id)
    room.clock.advance(1.1)
    assert await room.boundary.coordinator.ensure_fresh()
    with pytest.raises(SessionRevoked):
        await room.held(room.said(session_id=session.session_id))


async def test_a_legacy_token_is_believed_where_there_are_some(room: Room) -> None:
    until_s = room.clock.now_us() // US_PER_S + 600
    legacy = room.said(legacy=True, session_id="f" * 64, email="anna@example.org", expires_at_s=until_s)
    with pytest.raises(SessionRevoked):
        await room.held(legacy)
    assert (await room.held(legacy, legacy_tenants=("t",))).principal.role is room.authority.users["anna"].role
    with pytest.raises(SessionRevoked):
        await room.held(
            msgspec.structs.replace(legacy, session_id="e" * 64, email="x@y.example"), legacy_tenants=("t",)
        )


async def test_in_an_outage_who_is_known_goes_on_and_nobody_else(room: Room) -> None:
    known, other = room.authority.log_in("anna"), room.authority.log_in("otto")
    assert (await room.held(room.said(session_id=known.session_id))).confirmed
    room.authority.outage = Unavailable()
    room.clock.advance(100)
    assert not (await room.held(room.said(session_id=known.session_id))).confirmed
    with pytest.raises(SessionUnconfirmed):
        await room.held(room.said(session_id=other.session_id, subject="otto"))


async def test_services_and_those_who_have_not_said_who_they_are_have_no_session(room: Room) -> None:
    assert (await room.held(ANONYMOUS, policy=Policy.PUBLIC)).is_anonymous
    assert (await room.held(service_caller("gateway", "t").principal, policy=Policy.SERVICE)).is_service
    assert (await room.held(service_caller("socket", "t").principal)).is_service, "the operation names it"


async def test_nobody_and_no_service_does_what_people_do(room: Room) -> None:
    session = room.authority.log_in("anna")
    for kind in ("anonymous", "service"):
        for policy in (Policy.CALLER, Policy.PUBLIC, Policy.SERVICE, Policy.LINK):
            with pytest.raises(Unauthenticated):
                await room.held(room.said(kind=kind, session_id=session.session_id), policy=policy)
    with pytest.raises(Unauthenticated):
        await room.held(ANONYMOUS)
    with pytest.raises(Forbidden):
        await room.held(service_caller("gateway", "t").principal)


async def test_a_legacy_tokens_id_becomes_nobodys_session(room: Room) -> None:
    """Neither one that a service has made up, which would stay in memory, nor one of a token that came by."""
    until_s = room.clock.now_us() // US_PER_S + 600
    ben = room.authority.log_in("otto")
    legacy = room.said(legacy=True, session_id="f" * 64, email="anna@example.org", expires_at_s=until_s)
    assert (await room.held(legacy, legacy_tenants=("t",))).principal.legacy
    for made_up in ("made-up", ben.session_id, ""):
        with pytest.raises(SessionRevoked):
            await room.held(msgspec.structs.replace(legacy, session_id=made_up), legacy_tenants=("t",))
        with pytest.raises(SessionRevoked):
            await room.held(room.said(session_id=made_up), legacy_tenants=("t",))
    with pytest.raises(SessionRevoked):
        await room.held(room.said(session_id="f" * 64), legacy_tenants=("t",))
    assert (await room.held(room.said(session_id=ben.session_id, subject="otto"))).principal.subject == "otto"
    assert room.boundary.fallback.lookup("f" * 64) is None
    assert room.boundary.legacy_log.noted == 0, "whoever verified it has"


async def test_an_api_key_is_no_session_of_its_owner(room: Room) -> None:
    key = room.authority.log_in("anna")
    room.authority.sessions[key.session_id] = msgspec.structs.replace(
        room.authority.sessions[key.session_id], kind="api_key"
    )
    with pytest.raises(SessionRevoked):
        await room.held(room.said(session_id=key.session_id))
    assert (await room.held(room.said(session_id=key.session_id, kind="api_key"))).principal.kind == "api_key"
