"""What compliance serves beside JSON: the export, the bare note, tiles and bundles, as third-party tools read them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
import rfc8785

from sealwire.contracts.audit_log import Actor, AuditBatch, AuditEntry
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import App, Edge
from sealwire.kit.ids import new_id
from sealwire.kit.operation import Policy
from sealwire.kit.permission import Role
from sealwire.services.compliance.merkle import leaf_hash
from sealwire.services.compliance.notes import parse_checkpoint, parse_key, verify_note
from sealwire.services.compliance.routes import routes
from sealwire.services.compliance.tiles import path_of, read_bundle, split_hashes, tiles_of
from sealwire.services.compliance.verify import verify_export
from sealwire.testing.compliance import ComplianceRoom, open_compliance

GATEWAY = service_caller("gateway", "acme")
RECORDS = 600


class Client:
    """Asks the service's app as a person of a role."""

    def __init__(self, room: ComplianceRoom) -> None:
        self.role, self.tenant_id = Role.AUDITOR, "acme"
        self._app = App(routes(room.service, Edge(authenticate=self._authenticate)))

    def _authenticate(self, exchange: Exchange, policy: Policy) -> Caller:
        principal = Principal(kind="user", tenant_id=self.tenant_id, subject="anna", role=self.role)
        return Caller(principal=principal)

    async def get(self, path: str, query: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/compliance/audit/{path}",
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
            "client": ("127.0.0.1", 1),
        }
        await self._app(scope, receive, send)
        head = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], head, b"".join(m.get("body", b"") for m in sent[1:])


def entry(i: int) -> AuditEntry:
    return AuditEntry(
        audit_id=new_id(),
        tenant_id="acme",
        actor=Actor(type="user", id="anna"),
        action="GET_/api/v1/conversations",
        resource_type="api_request",
        metadata={"i": i, "url": "/é"},
        personal={"ip_address": "192.0.2.9", "user_agent": "curl"},
        subject_id="anna",
    )


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[ComplianceRoom]:
    async with open_compliance(tmp_path) as room:
        await room.service.append(GATEWAY, AuditBatch(records=[entry(i) for i in range(RECORDS)]))
        yield room


@pytest.fixture
def client(room: ComplianceRoom) -> Client:
    return Client(room)


async def test_the_export_is_one_canonical_record_a_line(client: Client) -> None:
    status, head, body = await client.get("export")
    assert (status, head["content-type"]) == (200, "application/x-ndjson")
    assert head["cache-control"] == "no-store"
    assert b"192.0.2" not in body
    prev = "0" * 64
    lines = body.splitlines()
    assert len(lines) == RECORDS
    for seq, line in enumerate(lines, 1):
        record = json.loads(line)
        assert rfc8785.dumps(record) == line
        stated = record.pop("hash")
        assert (record["seq"], record["prev_hash"]) == (seq, prev)
        assert sha256(rfc8785.dumps(record)).hexdigest() == stated
        prev = stated


async def test_an_export_with_its_checkpoint_is_verified_with_the_key_alone(client: Client) -> None:
    _, _, body = await client.get("export", "checkpoint=true")
    _, _, answer = await client.get("checkpoint", accept="application/json")
    key = parse_key(json.loads(answer)["public_key"])
    report = verify_export(body.splitlines(keepends=True), keys=[key])
    assert (report.ok, report.records, report.covered) == (True, RECORDS, RECORDS)
    changed = body.replace(b'"i":300', b'"i":301')
    assert verify_export(changed.splitlines(keepends=True), keys=[key]).first_bad_seq == 301


async def test_a_part_of_the_log(client: Client) -> None:
    _, _, body = await client.get("export", "from_seq=250&to_seq=520")
    assert [json.loads(line)["seq"] for line in body.splitlines()] == list(range(250, 521))
    assert verify_export(body.splitlines(), first_seq=250).ok
    assert (await client.get("export", "from_seq=601"))[2] == b""


@pytest.mark.parametrize(
    "query", ["from_seq=0", "from_seq=x", "to_seq=1&from_seq=2", "unknown=1", "checkpoint=perhaps"]
)
async def test_questions_that_make_no_sense(client: Client, query: str) -> None:
    status, head, body = await client.get("export", query)
    assert (status, head["content-type"]) == (422, "application/problem+json"), body


async def test_the_bare_note(client: Client) -> None:
    status, head, note = await client.get("checkpoint")
    assert (status, head["content-type"]) == (200, "text/plain; charset=utf-8")
    answer = json.loads((await client.get("checkpoint", accept="application/json"))[2])
    assert answer["checkpoint"] == note.decode()
    verify_note(note.decode(), [parse_key(answer["public_key"])])
    assert note.decode().split("\n")[2] == b64encode(bytes.fromhex(answer["root"])).decode()


async def test_tiles_and_bundles_make_up_the_tree(client: Client) -> None:
    note = (await client.get("checkpoint"))[2].decode()
    size = parse_checkpoint(note.rpartition("\n\n")[0] + "\n").size
    leaves: list[bytes] = []
    for number in range(-(-size // 256)):
        width = min(256, size - 256 * number)
        part = "" if width == 256 else f".p/{width}"
        status, head, bundle = await client.get(f"tile/entries/{number:03d}{part}")
        assert (status, head["content-type"]) == (200, "application/octet-stream")
        assert "immutable" in head["cache-control"]
        entries = read_bundle(bundle)
        assert len(entries) == width
        leaves += [leaf_hash(e) for e in entries]
    for tile in tiles_of(size):
        status, _, hashes = await client.get(f"tile/{path_of(tile)}")
        assert (status, len(hashes)) == (200, 32 * tile.width)
        if tile.level == 0:
            assert split_hashes(hashes) == leaves[tile.number * 256 : tile.number * 256 + tile.width]
    narrow = Random(1).sample(range(1, 88), 5)
    for width in narrow:
        _, _, hashes = await client.get(f"tile/0/002.p/{width}")
        assert split_hashes(hashes) == leaves[512 : 512 + width]


@pytest.mark.parametrize(
    "path", ["0/003", "0/002", "0/002.p/89", "2/000", "entries/009", "x", "", "0/../0", "0/2", "entries/002.p/0"]
)
async def test_tiles_that_are_not_there(client: Client, path: str) -> None:
    status, _, _ = await client.get(f"tile/{path}")
    assert status == 404


async def test_who_may_not_read_gets_nothing(client: Client) -> None:
    for role in (Role.MEMBER, Role.GUEST):
        client.role = role
        for path in ("export", "tile/0/000", "checkpoint"):
            assert (await client.get(path))[0] == 403
    client.role, client.tenant_id = Role.AUDITOR, "other"
    assert (await client.get("export"))[2] == b""
    assert (await client.get("tile/0/000"))[0] == 404
