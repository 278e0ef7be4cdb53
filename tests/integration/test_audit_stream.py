"""The audit log as it grows, read by a real client: resumed after its connection broke, slow, logged out."""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sealwire.testing.held_up import HeldUp
from sealwire.testing.installation import Installation, Person
from sealwire.testing.patience import until_seen

PATH = "/api/v1/compliance/audit/stream"
STALL_S = 1.0
PATIENCE_S = 40.0


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    data: Path = tmp_path_factory.mktemp("stream") / "data"
    env = {
        "SEALWIRE_COMPLIANCE__STREAM_STALL_S": str(STALL_S),
        "SEALWIRE_COMPLIANCE__STREAM_HEARTBEAT_S": "0.2",
        "SEALWIRE_COMPLIANCE__STREAMS_PER_TENANT": "4",
    }
    running = Installation(data, env=env).start()
    yield running
    running.kill()


@pytest.fixture
def installation(streaming: Installation) -> Installation:
    """Instead of the one of all other flows: with short times."""
    return streaming


class Reader:
    """Reads server-sent events as WHATWG HTML section 9.2.6 says, on a thread."""

    def __init__(self, url: str, token: str, *, last_id: str = "", query: str = "") -> None:
        self.last_id = last_id
        self.events: list[dict[str, Any]] = []
        self.comments = 0
        self.ended = threading.Event()
        self.ended_at = 0.0
        self.status = 0
        self.opened = threading.Event()
        self._client = httpx.Client(timeout=httpx.Timeout(PATIENCE_S))
        self._headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
        if last_id:
            self._headers["last-event-id"] = last_id
        self._url = f"{url}{PATH}?{query}"
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            with self._client.stream("GET", self._url, headers=self._headers) as answer:
                self.status = answer.status_code
                event: dict[str, Any] = {}
                for line in answer.iter_lines():
                    self._take(line, event)
        except httpx.HTTPError:
            pass
        self.ended_at = time.monotonic()
        self.ended.set()
        self.opened.set()

    def _take(self, line: str, event: dict[str, Any]) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line.startswith(":"):
            self.comments += 1
        elif line:
            event[name] = value
        else:
            self.last_id = event.get("id", self.last_id)
            if "data" in event:
                self.events.append({**event, "data": json.loads(event["data"])})
            event.clear()
            self.opened.set()

    def break_off(self) -> None:
        """Cut the connection, as a network does."""
        for connection in self._client._transport._pool.connections:  # type: ignore[attr-defined]  # the real socket
            stream = connection._connection._network_stream
            stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    @property
    def seqs(self) -> list[int]:
        return [int(e["id"]) for e in self.events if e["event"] in ("record", "ocsf")]


@pytest.fixture
def stranger(installation: Installation) -> Callable[[str], Person]:
    """Make a person in a tenant of this test's own; the first one owns it."""
    tenant = f"selftest-{secrets.token_hex(6)}"
    return lambda name: Person(installation.url, name, tenant)


@pytest.fixture
def auditor(stranger: Callable[[str], Person]) -> Person:
    return stranger("auditor")


def test_records_come_as_they_are_written_and_heartbeats_between(installation, auditor):
    reader = Reader(installation.url, auditor.token)
    reader.opened.wait(PATIENCE_S)
    assert reader.status == 200
    room = auditor.converse()
    sent = auditor.send(room, "now")
    until_seen(lambda: [e for e in reader.events if e["data"]["resource_id"] == sent["message_id"]])
    until_seen(lambda: any(e["data"]["resource_type"] == "api_request" for e in reader.events))
    assert reader.seqs == list(range(reader.seqs[0], reader.seqs[0] + len(reader.seqs)))
    for event in reader.events:
        assert event["data"]["seq"] == int(event["id"])
        assert event["data"]["tenant_id"] == auditor.user["tenant_id"]
    until_seen(lambda: reader.comments)
    reader.break_off()


def test_a_client_that_comes_back_gets_each_record_once_in_order(installation, auditor):
    room = auditor.converse()
    done = threading.Event()

    def write() -> None:
        for i in range(120):
            until_seen(lambda i=i: breaks >= i // 30)  # it goes on after the break, and so do the breaks
            auditor.send(room, f"{i}")
        done.set()

    writer = threading.Thread(target=write)
    seen: list[int] = []
    events: list[dict[str, Any]] = []
    last_id = "0"
    breaks = 0
    writer.start()
    finished = lambda: done.is_set() and sum(e["data"]["action"] == "message.created" for e in events) == 120  # noqa: E731 - a condition
    deadline = time.monotonic() + 120
    while not finished():
        assert time.monotonic() < deadline, f"{len(seen)} records after {breaks} breaks"
        reader = Reader(installation.url, auditor.token, last_id=last_id)
        reader.opened.wait(PATIENCE_S)
        wanted = 17 + breaks * 5
        until_seen(lambda r=reader, n=wanted: len(r.events) >= n or r.comments or r.ended.is_set())
        reader.break_off()
        assert reader.ended.wait(PATIENCE_S)
        breaks += 1
        seen += reader.seqs
        events += [e for e in reader.events if e["event"] == "record"]
        last_id = reader.last_id
    writer.join()
    assert breaks > 2
    assert seen == list(range(1, len(seen) + 1))


def test_filters_move_the_place_on_over_what_does_not_match(installation, auditor):
    room = auditor.converse()
    auditor.send(room, "one")
    until_seen(lambda: auditor.http.get("/compliance/audit", params={"action": "message.created"}).json()["items"])
    reader = Reader(installation.url, auditor.token, query="action=message.created&after_seq=0")
    until_seen(lambda: reader.events and reader.comments)
    assert {e["data"]["action"] for e in reader.events} == {"message.created"}
    assert int(reader.last_id) >= reader.seqs[-1]
    reader.break_off()
    reader = Reader(installation.url, auditor.token, last_id=reader.last_id, query="action=message.created")
    until_seen(lambda: reader.comments)
    assert reader.events == []
    reader.break_off()


def test_siems_get_ocsf_events(installation, auditor):
    auditor.http.get("/auth/me", headers={"user-agent": "probe/1"})
    reader = Reader(installation.url, auditor.token, query="format=ocsf&after_seq=0")
    event = until_seen(
        lambda: next((e["data"] for e in reader.events if e["data"]["message"].endswith("/auth/me")), None)
    )
    until_seen(lambda: {3001, 3002, 6003} <= {e["data"]["class_uid"] for e in reader.events})  # accounts, logins, calls
    reader.break_off()
    assert (event["class_uid"], event["type_uid"], event["category_uid"]) == (6003, 600302, 6)
    assert event["metadata"]["tenant_uid"] == auditor.user["tenant_id"]
    assert event["src_endpoint"] == {"ip": "127.0.0.1"}
    assert event["http_request"]["user_agent"] == "probe/1"


def test_the_stream_ends_within_a_second_after_logout(installation, auditor):
    reader = Reader(installation.url, auditor.token)
    reader.opened.wait(PATIENCE_S)
    assert reader.status == 200
    with HeldUp(installation.pid, installation.data.parent) as held:
        before = time.monotonic()
        assert auditor.http.post("/auth/logout").status_code == 204
        assert reader.ended.wait(PATIENCE_S)
        assert reader.ended_at - before < 1.5 + held.up_s, "a second, and the way there and back"


def test_who_may_not_read_the_log_gets_no_stream(installation, auditor, stranger):
    member = stranger("member")
    answer = httpx.get(installation.url + PATH, headers={"authorization": f"Bearer {member.token}"})
    assert answer.status_code == 403
    assert httpx.get(installation.url + PATH).status_code == 401
    for query, headers, status in (
        ("after_seq=-1", {}, 422),
        ("unknown=1", {}, 422),
        ("", {"last-event-id": "x"}, 422),
        ("", {"last-event-id": "999999999"}, 404),
        ("tenant_id=other", {}, 403),
    ):
        answer = auditor.http.get(f"/compliance/audit/stream?{query}", headers=headers)
        assert answer.status_code == status, (query, answer.text)


def test_a_tenant_has_so_many_streams_at_once(installation, auditor):
    readers = [Reader(installation.url, auditor.token) for _ in range(4)]
    for reader in readers:
        reader.opened.wait(PATIENCE_S)
    answer = auditor.http.get("/compliance/audit/stream")
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_streams")
    assert "retry-after" in answer.headers
    for reader in readers:
        reader.break_off()
    reader = Reader(installation.url, auditor.token)

    def opens() -> bool:
        nonlocal reader
        reader.opened.wait(PATIENCE_S)
        if reader.status == 200:
            return True
        reader = Reader(installation.url, auditor.token)
        return False

    until_seen(opens)
    reader.break_off()


@pytest.mark.timeout(300)
def test_a_reader_that_takes_nothing_is_ended_and_holds_nobody_up(installation, auditor):
    room = auditor.converse()
    agent = "x" * 250
    for i in range(60):
        auditor.send(room, f"{i}")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", installation.base))
    connection.sendall(
        f"GET {PATH}?after_seq=0 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {auditor.token}\r\n\r\n".encode()
    )
    quick = Reader(installation.url, auditor.token, last_id="0")
    # More than the sockets' buffers hold: each request leaves a record of about 1 KiB.
    deadline = time.monotonic() + 240
    ended = False
    sent = 0
    while not ended:
        assert time.monotonic() < deadline, "the slow reader was never ended"
        for _ in range(200):
            auditor.http.get("/auth/me", headers={"user-agent": agent})
            sent += 1
        log = installation.log.read_text()
        ended = "slow_reader" in log
    until_seen(lambda: sum(e["data"]["action"] == "GET_/api/v1/auth/me" for e in list(quick.events)) >= sent)
    assert quick.seqs == list(range(1, len(quick.seqs) + 1))
    taken = b""
    connection.settimeout(PATIENCE_S)
    while True:
        try:
            part = connection.recv(1 << 16)
        except ConnectionResetError:
            break
        if not part:
            break
        taken += part
    assert taken.startswith(b"HTTP/1.1 200")
    assert not taken.endswith(b"0\r\n\r\n"), "broken off, not ended as if complete"
    quick.break_off()
    connection.close()


def test_a_stop_ends_streams_at_once(installation, auditor):
    reader = Reader(installation.url, auditor.token)
    reader.opened.wait(PATIENCE_S)
    with HeldUp(installation.pid, installation.data.parent) as held:
        before = time.monotonic()
        assert installation.stop() == 0
        assert reader.ended.wait(PATIENCE_S)
        assert reader.ended_at - before < 5 + held.up_s
    installation.start()
    again = Reader(installation.url, auditor.token, last_id=reader.last_id)
    auditor.converse()
    until_seen(lambda: again.events)
    assert again.seqs[0] == int(reader.last_id) + 1
    again.break_off()
