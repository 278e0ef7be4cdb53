"""Slow clients and smuggled requests against the real server: bounded, refused, and nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import time

import httpx
import pytest

from sealwire.testing.installation import Installation

HEADER_S, REQUEST_S, DEADLINE_S = 1.0, 4.0, 40.0


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory):
    """An installation that waits for a head and for a body for short times only."""
    env = {
        "SEALWIRE_GATEWAY__HEADER_TIMEOUT_S": str(HEADER_S),
        "SEALWIRE_GATEWAY__REQUEST_TIMEOUT_S": str(REQUEST_S),
    }
    running = Installation(tmp_path_factory.mktemp("impatient") / "data", env=env).start()
    yield running
    running.kill()


def until_closed(connection: socket.socket) -> bytes:
    """Return what comes until the server closes. Raises: TimeoutError."""
    connection.settimeout(DEADLINE_S)
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            got += chunk
    return got


def seconds_to_serve_another(place: Installation) -> float:
    began = time.monotonic()
    assert httpx.get(place.url + "/health").status_code == 200
    return time.monotonic() - began


# ---- slow clients


def test_heads_that_come_a_byte_at_a_time_end_in_time(impatient):
    """Slowloris: each byte is in time, the head is not."""
    many = [socket.create_connection(("127.0.0.1", impatient.base)) for _ in range(100)]
    for connection in many:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n")
    began = time.monotonic()
    open_ = set(many)
    served_s = []
    while open_ and time.monotonic() - began < DEADLINE_S:
        for connection in list(open_):
            try:
                connection.sendall(b"X")
            except OSError:
                open_.discard(connection)
        served_s.append(seconds_to_serve_another(impatient))
        time.sleep(0.2)
    assert not open_, "every one was closed"
    assert min(served_s) < HEADER_S, "nobody waits for them; the best of several tells it on a busy machine too"
    for connection in many:
        connection.close()


def test_a_slow_head_is_told_408(impatient):
    with socket.create_connection(("127.0.0.1", impatient.base)) as connection:
        connection.sendall(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\n")
        assert b" 408 " in until_closed(connection)


def test_a_connection_that_says_nothing_is_closed(impatient):
    with socket.create_connection(("127.0.0.1", impatient.base)) as connection:
        assert until_closed(connection) == b""


def test_bodies_that_never_end_are_ended_and_take_nobodys_place(impatient):
    """R-U-Dead-Yet: a long body announced, a byte now and then."""
    many = [socket.create_connection(("127.0.0.1", impatient.base)) for _ in range(60)]
    head = POST + b"Content-Length: 5000\r\n\r\n{"
    for connection in many:
        connection.sendall(head)
    began = time.monotonic()
    served_s = []
    while time.monotonic() - began < REQUEST_S / 2:
        for connection in many:
            with contextlib.suppress(OSError):  # on a machine that held us up it is over already
                connection.sendall(b" ")
        served_s.append(seconds_to_serve_another(impatient))
        time.sleep(0.1)
    assert min(served_s) < REQUEST_S / 2
    told = [until_closed(connection) for connection in many]
    assert {answer.split(b" ")[1] for answer in told if answer} == {b"504"}
    for connection in many:
        connection.close()


def test_a_reader_that_never_reads_does_not_hold_up_others(impatient):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.connect(("127.0.0.1", impatient.base))
    connection.settimeout(1)
    with contextlib.suppress(TimeoutError):  # the server reads no further while its answers are not taken
        connection.sendall(b"GET /documentation/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 200)
    for _ in range(5):
        assert seconds_to_serve_another(impatient) < DEADLINE_S
    connection.close()


# ---- smuggling (RFC 9112 section 11.2; RFC 9110 section 5)

HIDDEN = b"GET /api/v1/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
AMBIGUOUS = {
    "length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + HIDDEN,
    "two lengths in one": POST + b"Content-Length: 0, 44\r\n\r\n" + HIDDEN,
    "a signed length": POST + b"Content-Length: +4\r\n\r\n{}  " + HIDDEN,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + HIDDEN,
    "a hexadecimal length": POST + b"Content-Length: 0x4\r\n\r\n{}  " + HIDDEN,
    "a length with an underscore": POST + b"Content-Length: 4_4\r\n\r\n" + HIDDEN,
    "a length past 64 bits": POST + b"Content-Length: 18446744073709551617\r\n\r\n{" + HIDDEN,
    "an empty length": POST + b"Content-Length: \r\n\r\n" + HIDDEN,
    "a name with a blank": POST + b"Content-Length : 44\r\n\r\n" + HIDDEN,
    "a name with a tab": POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "an encoding nobody knows": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two encodings": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "an encoding in two lines": POST
    + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + HIDDEN,
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked behind a control character": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0")
    + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + HIDDEN,
    "two equal lengths": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + HIDDEN,
    "LF alone ends lines": b"GET /health HTTP/1.1\nHost: a\n\n" + HIDDEN,
    "LF alone ends one line": b"GET /health HTTP/1.1\r\nHost: a\nX: y\r\n\r\n" + HIDDEN,
    "LF alone ends the head": b"GET /health HTTP/1.1\r\nHost: a\r\n\n" + HIDDEN,
    "LF alone ends a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n" + HIDDEN,
    "LF in a chunk's extension": POST + b"Transfer-Encoding: chunked\r\n\r\n2;a\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a chunk size with a blank": POST + b"Transfer-Encoding: chunked\r\n\r\n2 \r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a chunk size with 0x": POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a length behind the body": POST
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nContent-Length: 99\r\n\r\n"
    + HIDDEN,
    "a head that begins with a blank": b"GET /health HTTP/1.1\r\n Host: a\r\n\r\n" + HIDDEN,
    "no host": b"GET /health HTTP/1.1\r\n\r\n" + HIDDEN,
    "two hosts": b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + HIDDEN,
    "the same host twice": b"GET /health HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n" + HIDDEN,
    "two hosts in one": b"GET /health HTTP/1.1\r\nHost: a, b\r\n\r\n" + HIDDEN,
    "a host with a blank": b"GET /health HTTP/1.1\r\nHost: a b\r\n\r\n" + HIDDEN,
    "a host with a path": b"GET /health HTTP/1.1\r\nHost: a/b\r\n\r\n" + HIDDEN,
    "a host with a user": b"GET /health HTTP/1.1\r\nHost: u@a\r\n\r\n" + HIDDEN,
    "a target on another host": b"GET http://evil.example/health HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
    "a target of another scheme": b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
    "a target of another scheme, and no host": b"GET file:///etc/passwd HTTP/1.0\r\n\r\n" + HIDDEN,
    "a target without a host, and none beside": b"GET http:///health HTTP/1.0\r\n\r\n" + HIDDEN,
    "a target on what is no host": b"GET http://a,b/health HTTP/1.0\r\n\r\n" + HIDDEN,
    "a target with a fragment": b"GET /health#x HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
    "a tunnel": b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n" + HIDDEN,
    "chunked not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a chunk size that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a signed chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a chunk past 64 bits": POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a chunk longer than said": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX\r\n0\r\n\r\n" + HIDDEN,
    "a folded header": POST + b"X-A: b\r\n Content-Length: 44\r\nContent-Length: zz\r\n\r\n" + HIDDEN,
    "NUL in a header": POST + b"X-A: b\x00c\r\nContent-Length: 2\r\n\r\n{}" + HIDDEN,
    "CR alone ends a line": POST.replace(b"\r\nContent", b"\rX: y\r\nContent")
    + b"Content-Length: 2\r\n\r\n{}"
    + HIDDEN,
    "a line without a colon": POST + b"nonsense\r\nContent-Length: 2\r\n\r\n{}" + HIDDEN,
    "a header of blanks": POST + b" : x\r\nContent-Length: 2\r\n\r\n{}" + HIDDEN,
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "no version": b"GET /health\r\n\r\n" + HIDDEN,
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_two_readers_could_read_differently_is_refused_and_the_connection_closed(impatient, name):
    with socket.create_connection(("127.0.0.1", impatient.base)) as connection:
        connection.sendall(AMBIGUOUS[name])
        got = until_closed(connection)
    answers = got.count(b"HTTP/1.1 ")
    assert answers <= 1, f"the hidden request was answered: {got[:400]!r}"
    if answers:
        assert got.split(b" ")[1][:1] == b"4", got[:200]
        assert b"smuggled" not in got


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: sealwire.example:3000\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: [::1]:3000\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost:\ta \t\r\n\r\n",
        b"GET http://a/health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://A.example/health HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET http://a/health HTTP/1.0\r\n\r\n",
        b"GET /health HTTP/1.0\r\n\r\n",
        b"\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_can_be_read_in_one_way_only_is_answered(impatient, request_):
    """RFC 9112 sections 2.2, 3.2.2 and 3.2."""
    with socket.create_connection(("127.0.0.1", impatient.base)) as connection:
        connection.sendall(request_)
        connection.settimeout(DEADLINE_S)
        assert connection.recv(4_096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "upgrade",
    [b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
     b"Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n"],
)  # fmt: skip
def test_other_protocols_are_not_switched_to(impatient, upgrade):
    with socket.create_connection(("127.0.0.1", impatient.base)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n" + upgrade + b"\r\n")
        connection.settimeout(DEADLINE_S)
        assert b" 101 " not in connection.recv(4_096)


def test_a_spoofed_address_is_not_believed(impatient):
    """Nobody is a trusted proxy here: what the client says of its address is in no record and opens no door."""
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Client-IP", "X-Forwarded-Host", "X-Original-URL"):
        answer = httpx.get(impatient.url + "/api/integration-health/", headers={name: "203.0.113.9"})
        assert "details" not in answer.json()["components"]["jwt_token_adapter"]
    spoofed = {"x-original-url": "/health", "x-rewrite-url": "/health", "x-http-method-override": "GET"}
    assert httpx.post(impatient.url + "/api/v1/auth/logout", headers=spoofed).status_code == 401
