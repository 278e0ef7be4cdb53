"""A WebSocket that is refused before it opens is in the audit log, with its time, path, reason and client."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.integration.test_socket_gate import address, ports, refusal
from tests.integration.test_turned_away import log_of_nobody
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from sealwire.services.socket.refusals import ACTION, MOST_LISTED, Refusals
from sealwire.testing.clock import ManualClock
from sealwire.testing.installation import PASSWORD, Installation

DEADLINE_S = 30.0
LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (\d+) ([a-z_]+) GET (/\S*)")


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[tuple[Installation, httpx.Client]]:
    """An installation where an address may have two sockets that wait, and an operator, who reads the log of nobody."""
    data = tmp_path / "data"
    command = [sys.executable, "-m", "sealwire.cli.main", "operator", "create", "op@example.org", "--data", str(data)]
    made = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    env = {
        "SEALWIRE_GATEWAY__RATE_LIMITS": "on",
        "SEALWIRE_GATEWAY__TRUSTED_PROXIES": '["127.0.0.1"]',
        "SEALWIRE_BOUNDARY__WAITING_PER_IP": "2",
        "SEALWIRE_SOCKET__AUTHENTICATE_S": "60",  # those who wait go on waiting while the others knock
        "SEALWIRE_BOUNDARY__HANDSHAKES_PER_MINUTE": "30",
    }
    running = Installation(data, env=env).start()
    client = httpx.Client(base_url=running.url + "/api/v1", timeout=30)
    who = {"email": "op@example.org", "password": PASSWORD, "tenant": "system"}
    invitation = json.loads(made.stdout.splitlines()[0])["token"]
    assert client.post("/auth/register", json={**who, "display_name": "Op", "invitation": invitation}).is_success
    client.headers["authorization"] = f"Bearer {client.post('/auth/login', json=who).json()['access_token']}"
    yield running, client
    running.kill()


async def test_every_refused_handshake_is_found_in_the_log(gated) -> None:
    running, client = gated
    here = {**address(), "User-Agent": "knocker/1"}
    mute = [await connect(url.replace("http", "ws") + "/ws", additional_headers=here) for url in ports(running)[:2]]
    refused = 0
    for number in range(33):  # all of them for those who wait, the last for how often it knocked
        answer = await refusal(ports(running)[number % 3], here)
        refused += answer.status_code == 429
    two = {"Authorization": "Bearer a.b.c", "Sec-WebSocket-Protocol": "sealwire.v1, bearer.d.e.f", **address()}
    async with connect(running.url.replace("http", "ws") + "/ws", additional_headers=two) as wire:
        with pytest.raises(ConnectionClosed):
            await wire.recv()
        assert wire.close_code is not None
    for wire in mute:
        await wire.close()
    assert refused == 33

    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = await asyncio.to_thread(log_of_nobody, client, action=ACTION)
        lines = [line for record in found for line in record["metadata"]["refused"].split("\n")]
        if len(lines) >= 34:
            break
        assert time.monotonic() < deadline, lines
        await asyncio.sleep(0.1)
    clients = [line for record in found for line in record["metadata"]["clients"].split("\n")]
    told = [LINE.fullmatch(line) for line in lines]
    assert all(told), lines
    assert len(told) == len(clients) == sum(record["metadata"]["handshakes"] for record in found) == 34
    assert sum(m[1] == "429" and m[2] == "rate_limited" and m[3] == "/ws" for m in told if m) == 33
    assert sum(int(m[1]) >= 1000 for m in told if m) == 1, "told by a close code"
    ours = here["X-Forwarded-For"]
    assert sum(line.startswith(f"{ours} knocker/1") for line in clients) == 33, clients[:3]
    assert {record["outcome"] for record in found} == {"denied"}
    assert {record["resource_id"] for record in found} == {"socket1", "socket2"}


class Records:
    def __init__(self) -> None:
        self.entries: list[Any] = []

    def put(self, entry: Any) -> None:
        self.entries.append(entry)


async def test_a_hundred_refusals_are_one_record_whatever_they_say_of_themselves() -> None:
    records, clock = Records(), ManualClock()
    refusals = Refusals(instance="socket1", records=records, clock=clock)
    scope = {"raw_path": b"/ws/" + b'"' * 4_000, "headers": [(b"user-agent", b"\xff" * 8_000)]}
    for _ in range(2 * MOST_LISTED):
        refusals.note(scope, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "connection_limit", 429)
    assert [entry.metadata["handshakes"] for entry in records.entries] == [100, 100]
    for entry in records.entries:
        assert len(entry.metadata["refused"].split("\n")) == len(entry.personal["clients"].split("\n")) == 100
        assert len(msgspec.json.encode([entry.metadata, entry.personal])) < 60_000, "with room for the seal"
    refusals.note(scope, "::1", "unavailable", 503)
    refusals.tell()
    refusals.tell()
    assert len(records.entries) == 3
