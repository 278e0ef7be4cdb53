"""The edge's authenticator: the short way and the long way give the same answers; every policy is held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import msgspec
import pytest

from sealwire.boundary.authenticator import CsrfNeeded
from sealwire.boundary.config import BoundaryConfig
from sealwire.contracts.admission import CredentialExpired, SessionRevoked
from sealwire.kit.caller import Caller
from sealwire.kit.clock import US_PER_S
from sealwire.kit.exchange import Exchange
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden, Problem, SessionUnconfirmed, Unauthenticated, Unavailable
from sealwire.testing.authority import TTL_S
from sealwire.testing.boundary_room import BoundaryRoom, bearer, exchange_of
from sealwire.testing.clock import ManualClock


class Room(BoundaryRoom):
    """A boundary that reads the feed when told to."""

    clock: ManualClock

    async def ask(self, exchange: Exchange, policy: Policy = Policy.CALLER) -> Caller:
        found = self.boundary.authenticator(exchange, policy)
        return found if isinstance(found, Caller) else await found

    def short_way(self, exchange: Exchange) -> bool:
        """Whether the answer is there without waiting."""
        found = self.boundary.authenticator(exchange, Policy.CALLER)
        if isinstance(found, Caller):
            return True
        assert isinstance(found, Awaitable)
        found.close()  # type: ignore[attr-defined]  # a coroutine
        return False

    async def hear(self) -> None:
        self.clock.advance(1.1)
        assert await self.boundary.coordinator.ensure_fresh()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    room = Room(tmp_path, clock=ManualClock(), config=BoundaryConfig(self_test_every_s=0, unconfirmed_s=60))
    boundary = room.build()
    await boundary.fallback.start()
    await boundary.coordinator.ensure_fresh()
    room.authority.add_user("anna")
    room.token = room.authority.token(room.authority.log_in("anna"))  # type: ignore[attr-defined]  # for brevity
    yield room
    await boundary.stop()


def token_of(room: Room) -> str:
    text: str = room.token  # type: ignore[attr-defined]  # set by the fixture
    return text


async def test_the_second_request_takes_the_short_way(room: Room) -> None:
    request = exchange_of(bearer(token_of(room)))
    assert not room.short_way(request)
    first = await room.ask(request)
    assert room.short_way(request)
    second = await room.ask(request)
    assert first == second
    assert (first.user_id, first.tenant_id, first.confirmed, first.ip) == ("anna", "t", True, "192.0.2.1")
    assert first.user_agent == "tests"


async def test_a_revocation_ends_the_short_way_at_once(room: Room) -> None:
    request = exchange_of(bearer(token_of(room)))
    caller = await room.ask(request)
    room.authority.revoke("token", tenant_id="t", token_id="someone-elses")
    await room.hear()
    assert room.short_way(request), "another's revocation costs one look, no question"
    room.authority.log_out(caller.principal.session_id)
    await room.hear()
    with pytest.raises(SessionRevoked):
        await room.ask(request)


async def test_a_change_of_role_is_seen_with_the_next_request(room: Room) -> None:
    request = exchange_of(bearer(token_of(room)))
    assert (await room.ask(request)).principal.role is Role.MEMBER
    room.authority.change_role("anna", Role.AUDITOR)
    await room.hear()
    assert (await room.ask(request)).principal.role is Role.AUDITOR
    assert room.short_way(request)


async def test_a_change_of_role_reaches_every_token_of_the_session(room: Room) -> None:
    state = room.authority.log_in("anna")
    one, two = (exchange_of(bearer(room.authority.token(state))) for _ in range(2))
    await room.ask(one)
    await room.ask(two)
    room.authority.change_role("anna", Role.GUEST)
    await room.hear()
    assert (await room.ask(two)).principal.role is Role.GUEST
    assert (await room.ask(one)).principal.role is Role.GUEST, "though the session was confirmed anew by the other"


async def test_the_short_way_ends_with_the_token_and_with_the_feed(room: Room) -> None:
    request = exchange_of(bearer(token_of(room)))
    await room.ask(request)
    room.authority.outage = Unavailable()
    room.clock.advance(1.1)
    caller = await room.ask(request)
    assert not caller.confirmed, "the feed is too old"
    room.clock.advance(60)
    with pytest.raises(SessionUnconfirmed):
        await room.ask(request)
    room.authority.outage = None
    room.clock.advance(0.2)
    assert (await room.ask(request)).confirmed
    room.clock.advance(545)
    with pytest.raises(CredentialExpired):
        await room.ask(request)


async def test_an_outage_is_never_a_401(room: Room) -> None:
    room.authority.outage = Unavailable()
    for request in (exchange_of(bearer(token_of(room))), exchange_of(bearer(token_of(room)))):
        with pytest.raises(Unavailable):
            await room.ask(request)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Basic YTpi")],
        [(b"authorization", b"Bearer \xff\xfe")],
        [(b"authorization", b"Bearer a b")],
        [(b"authorization", b"Bearer " + b"a" * 10_000)],
        [(b"authorization", b"Bearer a.b.c")],
        [(b"cookie", b"sealwire=")],
        [(b"cookie", b"other=x; sealwire2=y")],
        [(b"cookie", b"sealwire=a.b.c")],
    ],
)
async def test_what_is_no_credential_is_401(room: Room, headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Unauthenticated):
        await room.ask(exchange_of(headers))


async def test_two_different_credentials_are_refused_even_after_the_short_way(room: Room) -> None:
    one = token_of(room)
    two = room.authority.token(room.authority.log_in("anna"))
    await room.ask(exchange_of(bearer(one)))
    for headers in (
        [*bearer(one), *bearer(two)],
        [*bearer(two), *bearer(one)],
        [*bearer(one), (b"cookie", b"sealwire=" + two.encode())],
        [(b"cookie", b"a=b; sealwire=" + one.encode() + b"; sealwire=" + two.encode())],
        [(b"cookie", b"sealwire=" + one.encode()), (b"cookie", b"sealwire=" + two.encode())],
    ):
        with pytest.raises(Unauthenticated, match="one credential"):
            await room.ask(exchange_of(headers))
    await room.ask(exchange_of([*bearer(one), (b"cookie", b"sealwire=" + one.encode())]))
    await room.ask(exchange_of([*bearer(one), (b"accept", b"a"), (b"accept", b"b")]))


async def test_a_cookie_works_and_changes_need_our_pages_header(room: Room) -> None:
    cookie = [(b"cookie", b"theme=dark; sealwire=" + token_of(room).encode())]
    assert (await room.ask(exchange_of(cookie))).user_id == "anna"
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        with pytest.raises(CsrfNeeded):
            await room.ask(exchange_of(cookie, method=method))
        assert (await room.ask(exchange_of([*cookie, (b"x-sealwire-csrf", b"1")], method=method))).user_id == "anna"
        assert (await room.ask(exchange_of([*cookie, *bearer(token_of(room))], method=method))).user_id == "anna"


async def test_public_routes_know_nobody_and_mind_no_credential(room: Room) -> None:
    for policy in (Policy.PUBLIC, Policy.LINK):
        caller = await room.ask(exchange_of([(b"authorization", b"Bearer rubbish")]), policy)
        assert caller.is_anonymous
        assert (await room.ask(exchange_of(bearer(token_of(room))), policy)).is_anonymous


async def test_local_routes_are_for_this_machine_and_those_who_run_it(room: Room) -> None:
    for ip in ("127.0.0.1", "127.9.9.9", "::1"):
        assert (await room.ask(exchange_of([], ip=ip), Policy.LOOPBACK)).is_anonymous
    for ip in ("192.0.2.1", "", "localhost", "::ffff:192.0.2.1"):
        with pytest.raises(Problem):
            await room.ask(exchange_of([], ip=ip), Policy.LOOPBACK)
    with pytest.raises(Forbidden):
        await room.ask(exchange_of(bearer(token_of(room))), Policy.LOOPBACK)
    room.authority.add_user("otto", role=Role.ADMIN)
    operator = room.authority.token(room.authority.log_in("otto"))
    assert (await room.ask(exchange_of(bearer(operator)), Policy.LOOPBACK)).user_id == "otto"


async def test_who_sends_no_good_credential_is_anonymous_where_that_is_allowed(room: Room) -> None:
    optional = room.boundary.authenticator.optional
    assert (await optional(exchange_of([]))).is_anonymous
    assert (await optional(exchange_of([(b"authorization", b"Bearer x")]))).is_anonymous
    assert (await optional(exchange_of(bearer(token_of(room))))).user_id == "anna"


async def test_uses_of_sessions_are_told_to_auth_now_and_then(room: Room) -> None:
    request = exchange_of(bearer(token_of(room)))
    caller = await room.ask(request)
    await room.boundary.authenticator.start()
    await room.boundary.authenticator.stop()
    assert room.authority.seen_sessions == {caller.principal.session_id: request.started_us}
    room.authority.outage = Unavailable()
    await room.ask(request)
    await room.boundary.authenticator.start()
    await room.boundary.authenticator.stop()


async def test_what_was_resolved_is_forgotten_when_its_session_ends(room: Room) -> None:
    """A session that ends with its token is over then, whatever clocks may differ; one that goes on is not."""
    authority, clock = room.authority, room.clock
    ends_at_s = clock.now_us() // US_PER_S + TTL_S
    going_on, ending = authority.log_in("anna"), authority.log_in("anna")
    authority.sessions[ending.session_id] = msgspec.structs.replace(ending, expires_at_s=ends_at_s)
    tokens = [authority.token(session) for session in (going_on, ending)]
    clock.advance(ends_at_s - clock.now_us() / US_PER_S - 1)
    assert await room.boundary.coordinator.ensure_fresh()
    for token in tokens:
        assert (await room.ask(exchange_of(bearer(token)))).confirmed
    clock.advance(2)
    assert await room.boundary.coordinator.ensure_fresh()
    assert (await room.ask(exchange_of(bearer(tokens[0])))).confirmed
    with pytest.raises(SessionRevoked):
        await room.ask(exchange_of(bearer(tokens[1])))
