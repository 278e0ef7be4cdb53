"""A revoked session is dead everywhere within a second: REST, every socket, every instance."""

from __future__ import annotations

import asyncio
import time

import httpx

from sealwire.testing.held_up import HeldUp
from sealwire.testing.installation import PASSWORD, Person
from sealwire.testing.wire import Wire

BOUND_S = 1.0
"""What is promised; it takes some 20 ms, so a busy machine has room."""
CLOSED = {4501, 4502, 3500, 3501, 3505}


async def open_sockets(installation, person: Person) -> list[Wire]:
    wires = []
    for offset in (0, 2, 3):
        wire = await Wire(f"http://127.0.0.1:{installation.base + offset}").__aenter__()
        reply = await wire.connect(person.token)
        assert "client" in reply, reply
        wires.append(wire)
    return wires


async def test_logout_closes_every_socket_of_the_session_and_no_other(installation, person):
    ann = person("ann")
    first = ann.token
    others = await open_sockets(installation, ann)
    await asyncio.to_thread(ann.log_in)
    mine = await open_sockets(installation, ann)
    with HeldUp(installation.pid, installation.data.parent) as held:
        started = time.monotonic()
        answer = await asyncio.to_thread(ann.http.post, "/auth/logout")
        assert answer.status_code == 204
        codes = [await wire.closed() for wire in mine]
        assert time.monotonic() - started < BOUND_S + held.up_s
    assert codes == [4502] * 3
    assert all(wire.close_code is None for wire in others)
    refused = await asyncio.to_thread(ann.http.get, "/auth/me")
    assert refused.status_code == 401
    kept = await asyncio.to_thread(
        httpx.get, f"{installation.url}/api/v1/auth/me", headers={"authorization": f"Bearer {first}"}
    )
    assert kept.status_code == 200
    for wire in [*others, *mine]:
        await wire.__aexit__(None, None, None)


async def test_password_change_ends_the_other_sessions(installation, person):
    ann = person("ann")
    first = ann.token
    await asyncio.to_thread(ann.log_in)
    changed = await asyncio.to_thread(
        ann.http.post,
        "/auth/password/change",
        json={"current_password": PASSWORD, "new_password": "quite another battery"},
    )
    assert changed.status_code == 204, changed.text
    old = await asyncio.to_thread(
        httpx.get, f"{installation.url}/api/v1/auth/me", headers={"authorization": f"Bearer {first}"}
    )
    assert old.status_code == 401


async def test_disabling_a_user_ends_tokens_sockets_and_refresh(installation, owner, person):
    ben = person("ben")
    wires = await open_sockets(installation, ben)
    await asyncio.to_thread(owner.log_in)
    with HeldUp(installation.pid, installation.data.parent) as held:
        started = time.monotonic()
        done = await asyncio.to_thread(owner.http.patch, f"/auth/users/{ben.user_id}", json={"status": "disabled"})
        assert done.status_code == 200, done.text
        for wire in wires:
            assert await wire.closed() == 4502
        assert time.monotonic() - started < BOUND_S + held.up_s
    assert (await asyncio.to_thread(ben.http.get, "/auth/me")).status_code == 401
    refused = await asyncio.to_thread(
        ben.http.post,
        "/auth/refresh",
        json={"refresh_token": ben.grant["refresh_token"]},
        headers={"authorization": ""},
    )
    assert refused.status_code == 401
    for wire in wires:
        await wire.__aexit__(None, None, None)


def test_a_refresh_token_given_twice_at_once_gives_one_successor(person):
    ann = person("ann")
    old = {"refresh_token": ann.grant["refresh_token"]}
    first = ann.http.post("/auth/refresh", json=old, headers={"authorization": ""}).json()
    second = ann.http.post("/auth/refresh", json=old, headers={"authorization": ""}).json()
    assert first["refresh_token"] == second["refresh_token"]
    third = ann.http.post(
        "/auth/refresh", json={"refresh_token": first["refresh_token"]}, headers={"authorization": ""}
    )
    assert third.status_code == 200
