"""The WebSocket gateway: no way past it, and nobody stays longer than the session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sealwire.boundary.config import BoundaryConfig
from sealwire.boundary.websocket_auth_gateway import AdmittedSocket
from sealwire.contracts.admission import CredentialExpired, SessionRevoked
from sealwire.contracts.conversations import CREATE
from sealwire.contracts.messages import SEND
from sealwire.contracts.sessions import SessionState
from sealwire.kit.carrying import check_service
from sealwire.kit.clock import US_PER_S
from sealwire.kit.exchange import Headers, Scope
from sealwire.kit.permission import Role
from sealwire.kit.problem import Forbidden, Problem, SessionUnconfirmed, Unauthenticated, Unavailable
from sealwire.testing.authority import TTL_S
from sealwire.testing.boundary_room import BoundaryRoom, bearer
from sealwire.testing.clock import ManualClock


def opening(headers: Headers, query: bytes = b"") -> Scope:
    return {"type": "websocket", "headers": headers, "query_string": query, "client": ("192.0.2.9", 1)}


class Room(BoundaryRoom):
    """A boundary that reads the feed when told to, and sockets that note why they ended."""

    clock: ManualClock

    def log_in(self, user_id: str = "anna") -> tuple[SessionState, str]:
        session = self.authority.log_in(user_id)
        return session, self.authority.token(session)

    async def admit(self, token: str, ended: list[Problem] | None = None) -> AdmittedSocket:
        gateway = self.boundary.sockets
        notes = [] if ended is None else ended
        return await gateway.admit(gateway.read(opening([])), token, ended=notes.append)

    async def hear(self) -> None:
        self.clock.advance(1.1)
        assert await self.boundary.coordinator.ensure_fresh()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    config = BoundaryConfig(self_test_every_s=0, origins=["https://app.example"], unconfirmed_s=60)
    room = Room(tmp_path, clock=ManualClock(), config=config)
    boundary = room.build()
    await boundary.fallback.start()
    await boundary.coordinator.ensure_fresh()
    room.authority.add_user("anna")
    room.authority.add_user("otto")
    yield room
    await boundary.stop()


async def test_a_token_is_taken_from_each_of_its_places(room: Room) -> None:
    _, token = room.log_in()
    read = room.boundary.sockets.read
    text = token.encode()
    own = [(b"host", b"chat.example:3000"), (b"origin", b"https://chat.example:3000")]
    listed = [(b"host", b"chat.example"), (b"origin", b"https://app.example")]
    assert read(opening(bearer(token))).token == token
    assert read(opening([(b"sec-websocket-protocol", b"sealwire.v1, bearer." + text)])).token == token
    assert read(opening([*own, (b"cookie", b"sealwire=" + text)])).token == token
    assert read(opening([*listed, (b"cookie", b"sealwire=" + text)])).token == token
    assert read(opening([])).token == ""
    handshake = read(opening([(b"user-agent", b"x" * 900)]))
    assert (handshake.ip, len(handshake.user_agent), len(handshake.trace_id)) == ("192.0.2.9", 512, 32)
    admitted = await room.admit(token)
    assert (admitted.caller.user_id, admitted.caller.confirmed) == ("anna", True)


def test_a_trusted_proxy_tells_the_address_and_nobody_else_does(room: Room) -> None:
    read = room.boundary.sockets.read
    told = [(b"x-forwarded-for", b"198.51.100.1, 203.0.113.5, 192.0.2.10")]
    assert read(opening(told)).ip == "203.0.113.5"
    assert read({**opening(told), "client": ("198.51.100.7", 1)}).ip == "198.51.100.7"
    assert read(opening([(b"x-forwarded-for", b"nonsense")])).ip == "192.0.2.9"


def test_only_our_subprotocol_is_echoed(room: Room) -> None:
    read = room.boundary.sockets.read
    offered = [(b"sec-websocket-protocol", b"bearer.a.b.c , sealwire.v1")]
    assert read(opening(offered)).subprotocol == "sealwire.v1"
    apart = [(b"sec-websocket-protocol", b"chat"), (b"sec-websocket-protocol", b"sealwire.v1")]
    assert read(opening(apart)).subprotocol == "sealwire.v1"
    assert read(opening([(b"sec-websocket-protocol", b"chat, bearer.a.b.c")])).subprotocol == ""


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"origin", b"https://chat.example")],
        [(b"host", b"chat.example")],
        [(b"host", b"chat.example"), (b"origin", b"https://evil.example")],
        [(b"host", b"chat.example"), (b"origin", b"null")],
        [(b"host", b"chat.example"), (b"origin", b"https://chat.example.evil.example")],
        [(b"host", b"chat.example"), (b"origin", b"https://chat.example:444")],
        [(b"host", b"chat.example"), (b"origin", b"https://chat.example"), (b"origin", b"https://evil.example")],
        [(b"host", b"evil.example"), (b"host", b"chat.example"), (b"origin", b"https://evil.example")],
        [(b"host", b"chat.example"), (b"origin", b"javascript://chat.example")],
    ],
)
def test_a_cookie_from_a_page_that_is_not_ours_is_refused(room: Room, headers: Headers) -> None:
    with pytest.raises(Unauthenticated):
        room.boundary.sockets.read(opening([*headers, (b"cookie", b"sealwire=a.b.c")]))


async def test_two_different_credentials_are_refused_wherever_they_stand(room: Room) -> None:
    gateway = room.boundary.sockets
    _, one = room.log_in()
    _, two = room.log_in()
    with pytest.raises(Unauthenticated):
        gateway.read(opening([*bearer(one), (b"sec-websocket-protocol", b"bearer." + two.encode())]))
    handshake = gateway.read(opening(bearer(one)))
    with pytest.raises(Unauthenticated):
        await gateway.admit(handshake, two, ended=print)
    await gateway.admit(handshake, one, ended=print)
    assert gateway.health().details["sockets"] == 1


async def test_a_token_in_the_url_counts_only_where_that_is_switched_on(room: Room) -> None:
    _, token = room.log_in()
    assert room.boundary.sockets.read(opening([], b"token=" + token.encode())).token == ""
    room.config = BoundaryConfig(self_test_every_s=0, url_tokens=True)
    gateway = room.build().sockets
    assert gateway.read(opening([], b"token=" + token.encode())).token == token
    with pytest.raises(Unauthenticated):
        gateway.read(opening(bearer("a.b.c"), b"token=" + token.encode()))


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 20_000, "é", "\0"])
async def test_nobody_gets_in_without_a_good_token(room: Room, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await room.admit(token)
    assert room.boundary.sockets.health().details["refused"] == 1


async def test_an_expired_token_is_told_apart(room: Room) -> None:
    _, token = room.log_in()
    room.clock.advance(700)
    await room.boundary.coordinator.ensure_fresh()
    with pytest.raises(CredentialExpired):
        await room.admit(token)


async def test_logout_ends_every_socket_of_the_session_and_no_other(room: Room) -> None:
    session, token = room.log_in()
    _, other = room.log_in()
    ended: list[Problem] = []
    sockets = [await room.admit(token, ended) for _ in range(3)]
    stays = await room.admit(other, ended)
    room.authority.log_out(session.session_id)
    await room.hear()
    assert [type(why) for why in ended] == [SessionRevoked] * 3
    for socket in sockets:
        with pytest.raises(SessionRevoked):
            _ = socket.caller
        room.boundary.sockets.release(socket)
    assert stays.caller.confirmed
    assert room.boundary.sockets.health().details["sockets"] == 1


@pytest.mark.parametrize("kind", ["subject", "tenant", "token"])
async def test_other_revocations_end_sockets_too(room: Room, kind: str) -> None:
    session, token = room.log_in()
    ended: list[Problem] = []
    socket = await room.admit(token, ended)
    bystander = await room.admit(room.log_in("otto")[1])
    if kind == "subject":
        room.authority.cut("anna")
    elif kind == "token":
        room.authority.revoke("token", tenant_id="t", token_id=socket.token.token_id)
    else:
        room.authority.end_tenant("t")
    await room.hear()
    await settle(room)
    assert [type(why) for why in ended] == [SessionRevoked]
    if kind != "tenant":
        assert bystander.caller.confirmed
    assert session.session_id


async def test_a_socket_of_right_after_the_end_of_its_tenants_sessions_stays(room: Room) -> None:
    """Opened in that very second, before the entry is known here: auth says that its session lives."""
    room.log_in()
    room.authority.end_tenant("t")
    _, token = room.log_in()
    ended: list[Problem] = []
    stays = await room.admit(token, ended)
    await room.hear()
    await settle(room)
    assert stays.caller.confirmed
    room.authority.cut("otto")  # something else ends, and everybody is looked at again
    await room.hear()
    assert stays.caller.confirmed
    assert (await room.admit(token)).caller.confirmed
    assert ended == []
    room.authority.end_tenant("t")
    await room.hear()
    await settle(room)
    assert [type(why) for why in ended] == [SessionRevoked]


async def test_a_password_change_leaves_the_session_it_was_made_in(room: Room) -> None:
    session, token = room.log_in()
    ended: list[Problem] = []
    here = await room.admit(token, ended)
    await room.admit(room.log_in()[1], ended)
    room.authority.cut("anna", keep=session.session_id)
    await room.hear()
    assert len(ended) == 1
    await settle(room)
    assert here.caller.confirmed


async def test_a_role_change_re_authorises_open_sockets(room: Room) -> None:
    _, token = room.log_in()
    socket = await room.admit(token)
    room.authority.change_role("anna", Role.GUEST)
    await room.hear()
    await settle(room)
    assert (socket.caller.principal.role, socket.caller.confirmed) == (Role.GUEST, True)


async def test_whoever_comes_by_a_socket_is_held_to_what_sockets_may_ask_for_them(room: Room) -> None:
    """Also in one process, where no service's key is looked at."""
    _, token = room.log_in()
    socket = await room.admit(token)
    for change in (lambda: None, lambda: room.authority.change_role("anna", Role.OWNER)):
        change()
        await room.hear()
        await settle(room)
        check_service(SEND, socket.caller)
        with pytest.raises(Forbidden):
            check_service(CREATE, socket.caller)


async def settle(room: Room) -> None:
    """Let the questions asked on the side be answered."""
    for task in list(room.boundary.sockets._renewals):
        await asyncio.wait_for(task, 30)


async def test_in_band_refresh_takes_only_a_token_of_the_same_session(room: Room) -> None:
    gateway = room.boundary.sockets
    session, token = room.log_in()
    socket = await room.admit(token)
    room.clock.advance(500)
    await room.boundary.coordinator.ensure_fresh()
    for wrong in (room.log_in()[1], room.log_in("otto")[1], "a.b.c", ""):
        with pytest.raises(Unauthenticated):
            await gateway.renew(socket, wrong)
    expires_at_s = socket.expires_at_s
    await gateway.renew(socket, room.authority.token(session))
    assert socket.expires_at_s == expires_at_s + 500
    room.clock.advance(300)
    await room.boundary.coordinator.ensure_fresh()
    assert socket.caller.confirmed
    room.clock.advance(400)
    await room.boundary.coordinator.ensure_fresh()
    with pytest.raises(CredentialExpired):
        _ = socket.caller


async def test_a_socket_may_be_refreshed_as_long_as_its_token_is_good_anywhere(room: Room) -> None:
    session, token = room.log_in()
    socket = await room.admit(token)
    room.clock.advance(socket.expires_at_s - room.clock.now_us() / US_PER_S + 4.5)
    await room.boundary.coordinator.ensure_fresh()
    assert 0 < socket.until_s - room.clock.monotonic() < 1
    await room.boundary.sockets.renew(socket, room.authority.token(session))
    assert socket.caller.confirmed


async def test_a_socket_never_outlives_its_session(room: Room) -> None:
    """What clocks may differ is for the end of a token whose session goes on: the next token would have come."""
    session, token = room.log_in()
    expires_at_s = room.clock.now_us() // US_PER_S + TTL_S
    room.authority.sessions[session.session_id] = msgspec.structs.replace(session, expires_at_s=expires_at_s)
    socket = await room.admit(token)
    assert socket.expires_at_s == expires_at_s
    room.clock.advance(expires_at_s - room.clock.now_us() / US_PER_S)
    await room.boundary.coordinator.ensure_fresh()
    assert socket.until_s <= room.clock.monotonic()
    with pytest.raises(CredentialExpired):
        _ = socket.caller


async def test_during_an_outage_sockets_go_on_unconfirmed_for_a_bounded_time(room: Room) -> None:
    session, token = room.log_in()
    ended: list[Problem] = []
    socket = await room.admit(token, ended)
    room.authority.outage = Unavailable()
    room.clock.advance(1.1)
    assert (socket.caller.confirmed, socket.caller.service) == (False, "socket")
    late = await room.admit(token)
    assert late.caller.confirmed is False
    room.clock.advance(61)
    with pytest.raises(SessionUnconfirmed):
        _ = socket.caller
    with pytest.raises(Unavailable):
        await room.admit(token)
    room.authority.outage = None
    await room.hear()
    assert socket.caller.confirmed
    room.authority.log_out(session.session_id)
    await room.hear()
    assert [type(why) for why in ended] == [SessionRevoked]


async def test_the_sweep_ends_what_was_unconfirmed_too_long_and_confirms_the_rest(room: Room) -> None:
    _, token = room.log_in()
    ended: list[Problem] = []
    await room.boundary.adapter.adapt(token)
    room.authority.outage = Unavailable()
    room.clock.advance(1.1)
    socket = await room.admit(token, ended)
    room.authority.outage = None
    await room.hear()
    await room.boundary.sockets.sweep()
    assert socket.caller.confirmed
    room.authority.outage = Unavailable()
    room.clock.advance(62)
    await room.boundary.sockets.sweep()
    assert [type(why) for why in ended] == [SessionUnconfirmed]


async def test_a_released_socket_is_forgotten_and_not_called(room: Room) -> None:
    session, token = room.log_in()
    ended: list[Problem] = []
    socket = await room.admit(token, ended)
    room.boundary.sockets.release(socket)
    room.boundary.sockets.release(socket)
    room.authority.log_out(session.session_id)
    await room.hear()
    assert ended == []
    with pytest.raises(SessionRevoked):
        await room.boundary.sockets.renew(socket, token)
    assert room.boundary.sockets.health().details["sessions"] == 0


async def test_a_socket_that_fails_to_close_does_not_keep_the_others_open(room: Room) -> None:
    session, token = room.log_in()
    gateway = room.boundary.sockets
    ended: list[Problem] = []

    def broken(_: Problem) -> None:
        raise RuntimeError

    handshake = gateway.read(opening(bearer(token)))
    await gateway.admit(handshake, "", ended=broken)
    await gateway.admit(handshake, "", ended=ended.append)
    await gateway.admit(handshake, "", ended=broken)
    room.authority.log_out(session.session_id)
    await room.hear()
    assert len(ended) == 1
    assert gateway.health().details["sockets"] == 0
