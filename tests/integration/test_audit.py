"""The audit trail of the main job: read, verified by the server, proved, exported, verified without the server."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sealwire.testing.installation import Person
from sealwire.testing.patience import until_seen

JSON = {"accept": "application/json"}


def records(auditor: Person, **query: str) -> list[dict[str, Any]]:
    return list(auditor.http.get("/compliance/audit", params={"limit": "1000", **query}).json()["items"])


@pytest.fixture
def alone(stranger):
    """The owner of a tenant of its own, so that the log holds what this test did and nothing else."""
    return stranger("auditor")


def test_the_main_job_leaves_its_trail(alone, stranger):
    ben = stranger("ben")
    room = alone.converse(ben)
    sent = alone.send(room, "for the record")
    alone.http.patch(f"/conversations/{room}/messages/1", json={"body": "corrected"})
    alone.http.delete(f"/conversations/{room}/messages/1")
    assert ben.http.get("/auth/users").status_code == 403
    until_seen(lambda: records(alone, action="message.deleted"))
    trail = [r["action"] for r in records(alone) if r["resource_id"] == sent["message_id"]]
    assert trail == ["message.created", "message.edited", "message.deleted"]
    until_seen(lambda: records(alone, resource_type="api_request", outcome="denied"))
    denied = records(alone, resource_type="api_request", outcome="denied")[0]
    assert denied["action"] == "GET_/api/v1/auth/users"
    assert denied["actor"] == {"type": "user", "id": ben.user_id}
    assert denied["metadata"]["status_code"] == 403
    assert denied["metadata"]["ip_address"] == "127.0.0.1", "a reader with permission gets personal data opened"
    assert "for the record" not in json.dumps(records(alone))


def test_the_chain_holds_and_the_server_says_so(alone):
    alone.converse()
    trail = until_seen(lambda: records(alone))
    assert [r["seq"] for r in trail] == list(range(1, len(trail) + 1))
    assert trail[0]["prev_hash"] == "0" * 64
    assert all(a["hash"] == b["prev_hash"] for a, b in pairwise(trail))
    verdict = alone.http.get("/compliance/audit/verify").json()
    assert verdict["ok"] is True
    assert verdict["first_bad_seq"] is None
    assert verdict["records"] >= len(trail)


def test_an_inclusion_proof_leads_to_the_signed_root(alone):
    alone.converse()
    until_seen(lambda: len(records(alone)) > 3)
    head = alone.http.get("/compliance/audit/checkpoint", headers=JSON).json()
    size, root = head["tree_size"], head["root"]
    exported = alone.http.get("/compliance/audit/export", params={"to_seq": size}).text.splitlines()
    for seq in (1, size):
        record = json.loads(exported[seq - 1])
        record.pop("hash")
        leaf = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        proof = alone.http.get("/compliance/audit/proof/inclusion", params={"seq": seq, "tree_size": size}).json()
        assert (proof["leaf_index"], proof["tree_size"]) == (seq - 1, size)
        assert folded(leaf, seq - 1, size, [bytes.fromhex(h) for h in proof["hashes"]]).hex() == root


def folded(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.3.2, written here apart from the product's own."""
    node, fn, sn = hashlib.sha256(b"\0" + leaf).digest(), index, size - 1
    for sibling in path:
        if fn % 2 == 1 or fn == sn:
            node = hashlib.sha256(b"\1" + sibling + node).digest()
            while fn % 2 == 0 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            node = hashlib.sha256(b"\1" + node + sibling).digest()
        fn, sn = fn >> 1, sn >> 1
    assert sn == 0
    return node


def verify(file: Path, key: Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "sealwire.cli.main", "audit", "verify", str(file), "--key", str(key), "--json"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, dict(json.loads(done.stdout))


def test_an_export_is_verified_offline_and_tampering_is_named(alone, tmp_path):
    room = alone.converse()
    for i in range(5):
        alone.send(room, f"{i}")
    until_seen(lambda: len(records(alone, action="message.created")) == 5)
    key, file = tmp_path / "log.key", tmp_path / "audit.ndjson"
    key.write_text(alone.http.get("/compliance/audit/checkpoint", headers=JSON).json()["public_key"] + "\n")
    file.write_text(alone.http.get("/compliance/audit/export", params={"checkpoint": "true"}).text)
    code, report = verify(file, key)
    assert (code, report["ok"]) == (0, True), report
    assert report["covered"] > 0

    lines = file.read_text().splitlines(keepends=True)
    for name, changed in {
        "changed": [*lines[:4], lines[4].replace('"success"', '"failure"'), *lines[5:]],
        "removed": [*lines[:4], *lines[5:]],
        "reordered": [*lines[:4], lines[5], lines[4], *lines[6:]],
        "truncated": lines[:-3],
    }.items():
        broken = tmp_path / f"{name}.ndjson"
        broken.write_text("".join(changed))
        code, report = verify(broken, key)
        assert (code, report["ok"]) == (1, False), name
        assert report["fault"]["kind"] == name
    held = tmp_path / "note"
    note = alone.http.get("/compliance/audit/checkpoint").text  # before the export: records go on coming
    held.write_text(note + "\n")  # as `echo` leaves it
    unsigned = tmp_path / "unsigned.ndjson"
    unsigned.write_text(alone.http.get("/compliance/audit/export").text)
    command = [sys.executable, "-m", "sealwire.cli.main", "audit", "verify", str(unsigned), "--key", str(key)]
    assert "UNSIGNED" in subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    signed = subprocess.run([*command, "--checkpoint", str(held)], capture_output=True, text=True, timeout=60)
    assert signed.returncode == 0
    assert signed.stdout.startswith("ok")
    (tmp_path / "empty").write_text("")
    command[-3] = str(tmp_path / "empty")
    nothing = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (nothing.returncode, "no audit export" in nothing.stderr) == (2, True), "no verdict on what is no evidence"
    other = tmp_path / "other.key"
    other.write_text("not a key\n")
    command = [sys.executable, "-m", "sealwire.cli.main", "audit", "verify", str(file), "--key", str(other)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "not a public key line" in done.stderr


def test_the_checkpoint_is_a_signed_note(alone):
    note = alone.http.get("/compliance/audit/checkpoint")
    assert note.headers["content-type"].startswith("text/plain")
    origin, size, root, blank, signature = note.text.splitlines()[:5]
    assert origin
    assert int(size) >= 0
    assert len(root) == 44
    assert blank == ""
    assert signature.startswith(f"\u2014 {origin} ")


def test_records_of_one_tenant_are_not_shown_in_another(alone, person, owner):
    room = alone.converse()
    sent = alone.send(room, "ours")
    until_seen(lambda: records(alone, action="message.created"))
    assert all(r["resource_id"] != sent["message_id"] for r in records(owner))
    foreign = owner.http.get("/compliance/audit", params={"tenant_id": alone.user["tenant_id"]})
    assert foreign.status_code in (403, 404, 422) or foreign.json()["items"] == []
    assert person("member").http.get("/compliance/audit").status_code == 403
