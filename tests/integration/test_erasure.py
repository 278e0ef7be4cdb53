"""The life of an erasure (docs/life/erasure.md) against a running installation, and an export before it."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from sealwire.kit.files import count_in_files
from sealwire.services.compliance.certificates import digest, read_certificate
from sealwire.services.compliance.chain import split_line
from sealwire.services.compliance.merkle import leaf_hash, verify_consistency, verify_inclusion
from sealwire.services.compliance.notes import parse_checkpoint, parse_key, verify_note
from sealwire.testing.installation import PASSWORD, Installation, Person
from sealwire.testing.patience import until_seen

NAME = "Ottilie Quackenbush"
WORD = "Rhabarberkompott"
QUICK = {
    "SEALWIRE_COMPLIANCE__RELAY_WAIT_S": "0.02",
    "SEALWIRE_GATEWAY__AUDIT_WAIT_S": "0.1",
    "SEALWIRE_COMPLIANCE__JOB_RETRY_BASE_S": "0.05",
    "SEALWIRE_COMPLIANCE__JOB_RETRY_CAP_S": "0.2",
}


@pytest.fixture
def installation(tmp_path) -> Iterator[Installation]:
    running = Installation(tmp_path / "data", env=QUICK).start()
    yield running
    running.kill()


def upload(who: Person, data: bytes, filename: str, conversation_id: str) -> str:
    told = {"filename": filename, "conversation_id": conversation_id}
    pairs = ",".join(f"{name} {b64encode(value.encode()).decode()}" for name, value in told.items())
    tus = {"tus-resumable": "1.0.0"}
    headers = {**tus, "upload-length": str(len(data)), "upload-metadata": pairs}
    made = who.http.post("/media/uploads", headers=headers)
    assert made.status_code == 201, made.text
    where = made.headers["location"].removeprefix("/api/v1")
    headers = {**tus, "upload-offset": "0", "content-type": "application/offset+octet-stream"}
    assert who.http.patch(where, content=data, headers=headers).status_code == 204
    return where.rpartition("/")[2]


def finished(who: Person, kind: str, job_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = who.http.get(f"/compliance/gdpr/{kind}/{job_id}").json()
        return job if job["status"] in ("done", "failed") else None

    job = until_seen(look)
    assert job["status"] == "done", job
    return job


class Scene:
    """Two people who talked, and what was signed of it."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.owner = Person(installation.url, "owner")
        self.agnes = Person(installation.url, "agnes")
        assert self.agnes.http.patch("/auth/me", json={"display_name": NAME}).status_code == 200
        self.group = self.owner.converse(self.agnes)
        self.said = self.agnes.send(self.group, f"there is {WORD} for everybody")
        self.owner.send(self.group, "no thank you", mentions=[self.agnes.user_id])
        self.media_id = upload(self.agnes, WORD.encode() * 5_000, f"{WORD}.txt", self.group)
        seq = self.said["seq"]
        self.agnes.http.put(f"/conversations/{self.group}/messages/{seq}/reactions/+1")
        self.agnes.http.post("/compliance/gdpr/consents", json={"purpose": "news", "policy_version": "1"})
        until_seen(lambda: self.found(self.owner, WORD))

    def found(self, who: Person, q: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = who.http.get("/search", params={"q": q}).json()["items"]
        return items

    def raw(self) -> int:
        needles = [self.agnes.email.encode(), NAME.encode(), WORD.encode()]
        return count_in_files([self.installation.data], needles)


def test_a_person_is_erased_and_the_log_stays_proven(installation, tmp_path):
    scene = Scene(installation)
    owner, agnes = scene.owner, scene.agnes
    until_seen(
        lambda: owner.http.get(
            "/compliance/audit", params={"actor": agnes.user_id, "action": "message.created"}
        ).json()["items"]
    )
    before = owner.http.get("/compliance/audit/checkpoint", headers={"accept": "application/json"}).json()
    key = parse_key(before["public_key"])
    old = parse_checkpoint(verify_note(before["checkpoint"], [key]).text)
    mine = owner.http.get("/compliance/audit", params={"actor": agnes.user_id}).json()["items"]
    seq = mine[0]["seq"]
    proof = owner.http.get("/compliance/audit/proof/inclusion", params={"seq": seq, "tree_size": old.size}).json()
    opened = [record for record in mine if record["metadata"].get("ip_address") == "127.0.0.1"]
    assert opened, "before the erasure the address is readable to those who may read the log"

    asked = agnes.http.post("/compliance/gdpr/erasures", json={"reason": "leaving"})
    assert asked.status_code == 202, asked.text
    job = finished(owner, "erasures", asked.json()["job_id"])

    # The certificate, and that the log names it.
    statement = read_certificate(job["certificate"], [parse_key(job["public_key"])])
    where = {part["where"]: part["counts"] for part in statement["erased"]}
    assert set(where) == {"auth", "messaging", "media", "search", "gateway", "compliance", "crypto", "audit"}
    assert where["messaging"]["message"] == 1
    assert where["media"]["file"] == 1
    assert where["audit"]["data_key"] >= 1
    assert statement["probe"]["found"] == 0
    assert statement["probe"]["texts"] >= 2
    told = until_seen(
        lambda: owner.http.get("/compliance/audit", params={"action": "gdpr.erasure.completed"}).json()["items"]
    )
    assert told[0]["metadata"]["certificate_sha256"] == digest(job["certificate"]) == job["certificate_sha256"]

    # Anybody can verify it, with the key alone.
    (tmp_path / "erasure.json").write_text(json.dumps(job))
    (tmp_path / "key").write_text(job["public_key"] + "\n")
    command = [sys.executable, "-m", "sealwire.cli.main", "gdpr", "verify-certificate", "erasure.json", "--key", "key"]
    genuine = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert genuine.returncode == 0, genuine.stderr
    assert genuine.stdout.startswith("ok")
    assert job["certificate_sha256"] in genuine.stdout
    for ends in ("", "\n\n"):  # $(…) takes the last newline away, jq -r adds one: nothing signed depends on it
        (tmp_path / "certificate").write_text(job["certificate"].rstrip("\n") + ends)
        saved = subprocess.run(
            [*command[:5], "certificate", *command[6:]], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert saved.returncode == 0, saved.stderr
        assert job["certificate_sha256"] in saved.stdout
    (tmp_path / "erasure.json").write_text(json.dumps(job).replace(agnes.user_id, owner.user_id))
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60).returncode == 1

    # Nothing is left, in no file, in no index, in no answer.
    assert scene.raw() == 0
    assert scene.found(owner, WORD) == []
    assert owner.http.get(f"/media/{scene.media_id}").status_code == 404
    assert list((installation.data / "blobs").rglob("*.part")) == []
    assert [p for p in (installation.data / "blobs").rglob("*") if p.is_file()] == []
    messages = owner.http.get(f"/conversations/{scene.group}/messages").json()["items"]
    assert [m["deleted"] for m in messages] == [True, False]
    assert agnes.user_id not in json.dumps(messages)
    assert agnes.user_id not in owner.http.get(f"/conversations/{scene.group}/members").text
    assert agnes.http.get("/auth/me").status_code == 401
    who = {"email": agnes.email, "password": PASSWORD}
    assert owner.http.post("/auth/login", json=who, headers={"authorization": ""}).status_code == 401

    # The log: what is personal is gone, what was proven stays proven.
    after = owner.http.get("/compliance/audit", params={"actor": agnes.user_id, "limit": 500}).json()["items"]
    assert {r["metadata"].get("ip_address", "erased") for r in after} == {"erased"}
    assert [r["hash"] for r in after][: len(mine)] == [r["hash"] for r in mine]
    assert owner.http.get("/compliance/audit/verify").json()["ok"]
    body = owner.http.get("/compliance/audit/export", params={"from_seq": seq, "to_seq": seq}).content.rstrip(b"\n")
    leaf, stated = split_line(body)
    assert stated == mine[0]["hash"]
    hashes = [bytes.fromhex(h) for h in proof["hashes"]]
    verify_inclusion(seq - 1, old.size, leaf_hash(leaf), hashes, old.root)
    newer = owner.http.get("/compliance/audit/checkpoint", headers={"accept": "application/json"}).json()
    grown = parse_checkpoint(verify_note(newer["checkpoint"], [parse_key(newer["public_key"])]).text)
    bounds = {"from": old.size, "to": grown.size}
    path = owner.http.get("/compliance/audit/proof/consistency", params=bounds).json()["hashes"]
    verify_consistency(old.size, grown.size, old.root, grown.root, [bytes.fromhex(h) for h in path])

    # The address is free again, for somebody else.
    again = owner.http.post("/auth/register", json={**who, "display_name": "Somebody"}, headers={"authorization": ""})
    assert again.status_code == 201, again.text
    assert again.json()["user"]["user_id"] != agnes.user_id
    second = owner.http.post("/compliance/gdpr/erasures", json={"subject_id": agnes.user_id, "reason": "again"})
    assert second.json()["job_id"] == job["job_id"]

    # After older data was put back, whom certificates name is erased again, once for each folder.
    (tmp_path / "kept.json").write_text(json.dumps(job))
    owner.log_in()
    command = [
        *command[:4],
        "replay",
        "kept.json",
        "--key",
        "key",
        "--save",
        "again",
        "--yes",
        "--url",
        installation.url,
    ]
    for before in (False, True):
        done = subprocess.run(
            [*command, "--json", "--token", owner.token], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        person, told = map(json.loads, done.stdout.splitlines())
        assert (person["subject_id"], person["outcome"], person["before"]) == (agnes.user_id, "erased", before)
        assert told == {"ok": True, "people": 1, "erased": 1}
    saved = json.loads((tmp_path / "again" / f"{agnes.user_id}.json").read_text())
    assert saved["job_id"] != job["job_id"]
    assert digest(saved["certificate"]) == person["sha256"]


def test_an_export_holds_what_is_theirs(installation):
    scene = Scene(installation)
    agnes, owner = scene.agnes, scene.owner
    asked = agnes.http.post("/compliance/gdpr/exports", json={})
    assert asked.status_code == 202, asked.text
    job = finished(agnes, "exports", asked.json()["job_id"])
    assert scene.raw() == 0, "the archive is sealed at rest"
    path = job["download"].removeprefix("/api/v1")
    assert owner.http.get(path).status_code == 403
    fetched = agnes.http.get(path)
    assert (fetched.status_code, fetched.headers["content-type"]) == (200, "application/zip")
    assert agnes.http.get(path).status_code == 410
    archive = zipfile.ZipFile(io.BytesIO(fetched.content))
    assert archive.testzip() is None
    manifest = json.loads(archive.read("manifest.json"))
    for line in manifest["files"]:
        assert hashlib.sha256(archive.read(line["path"])).hexdigest() == line["sha256"]
    assert archive.read(f"media/{scene.media_id}/{WORD}.txt") == WORD.encode() * 5_000
    profile = json.loads(archive.read("auth/profile.json"))[0]
    assert (profile["email"], profile["display_name"]) == (agnes.email, NAME)
    (message,) = json.loads(archive.read("messaging/message.json"))
    assert message["body"] == f"there is {WORD} for everybody"
    assert "no thank you" not in str([archive.read(name) for name in archive.namelist()])


def test_kept_for_the_conversation_and_put_right_and_restricted(installation):
    scene = Scene(installation)
    owner, agnes = scene.owner, scene.agnes
    new = {"subject_id": agnes.user_id, "changes": {"display_name": "Ottilie Hill"}}
    asked = owner.http.post("/compliance/gdpr/rectifications", json=new)
    assert asked.status_code == 202, asked.text
    finished(owner, "rectifications", asked.json()["job_id"])
    assert until_seen(lambda: agnes.http.get("/auth/me").json()["display_name"] == "Ottilie Hill")
    stop = {"subject_id": agnes.user_id, "reason": "contested"}
    assert owner.http.post("/compliance/gdpr/restrictions", json=stop).status_code == 200
    until_seen(lambda: agnes.http.get("/auth/me").status_code == 401)
    assert owner.http.post(
        "/auth/login", json={"email": agnes.email, "password": PASSWORD}, headers={"authorization": ""}
    ).status_code in (401, 403)
    (first, _) = owner.http.get(f"/conversations/{scene.group}/messages").json()["items"]
    assert first["body"] == f"there is {WORD} for everybody"
    assert owner.http.delete(f"/compliance/gdpr/restrictions/{agnes.user_id}").status_code == 200
    agnes.log_in()
    erase = {"subject_id": agnes.user_id, "reason": "asked by letter", "messages": "anonymise"}
    asked = owner.http.post("/compliance/gdpr/erasures", json=erase)
    job = finished(owner, "erasures", asked.json()["job_id"])
    assert agnes.user_id in job["certificate"]
    (first, _) = owner.http.get(f"/conversations/{scene.group}/messages").json()["items"]
    assert first["body"] == f"there is {WORD} for everybody"
    assert first["sender_id"] != agnes.user_id
    (hit,) = until_seen(lambda: scene.found(owner, WORD))
    assert hit["sender_id"] == first["sender_id"]


def test_the_last_owner_is_not_erased(installation):
    owner = Person(installation.url, "owner")
    refused = owner.http.post("/compliance/gdpr/erasures", json={"reason": "tired"})
    assert (refused.status_code, refused.json()["code"]) == (409, "last_owner")
    assert owner.http.get("/auth/me").status_code == 200


def test_while_the_person_is_sending(installation):
    scene = Scene(installation)
    owner, agnes = scene.owner, scene.agnes
    direct = agnes.converse(owner, kind="direct")
    refusals: list[int] = []
    begun = threading.Event()

    def send() -> None:
        for number in range(100_000):
            draft = {"body": f"{WORD} {number}", "client_message_id": f"race-{number}"}
            answer = agnes.http.post(f"/conversations/{(scene.group, direct)[number % 2]}/messages", json=draft)
            if answer.status_code not in (200, 201):
                refusals.append(answer.status_code)
                return
            if number == 10:
                begun.set()

    sending = threading.Thread(target=send)
    sending.start()
    assert begun.wait(20)
    asked = owner.http.post("/compliance/gdpr/erasures", json={"subject_id": agnes.user_id, "reason": "asked"})
    job = finished(owner, "erasures", asked.json()["job_id"])
    sending.join(20)
    assert refusals, "the person was cut off"
    assert refusals[0] in (401, 403, 404)
    assert read_certificate(job["certificate"], [parse_key(job["public_key"])])["probe"]["found"] == 0
    assert scene.raw() == 0
    for conversation in (scene.group, direct):
        items = owner.http.get(f"/conversations/{conversation}/messages", params={"limit": 200}).json()["items"]
        assert all(message["deleted"] for message in items if message["sender_id"] != owner.user_id)
    assert owner.send(scene.group, "is anybody there")["seq"]
    again = owner.http.post("/conversations", json={"kind": "direct", "member_ids": [agnes.user_id]})
    assert again.status_code in (404, 422), again.text


def test_a_legal_hold_stands_against_it(installation):
    scene = Scene(installation)
    owner, agnes = scene.owner, scene.agnes
    hold = owner.http.post("/compliance/holds", json={"subject_id": agnes.user_id, "reason": "a lawsuit"})
    assert hold.status_code == 200, hold.text
    refused = agnes.http.post("/compliance/gdpr/erasures", json={"reason": "leaving"})
    assert (refused.status_code, refused.json()["code"]) == (409, "legal_hold")
    assert agnes.http.get("/auth/me").status_code == 200
    assert owner.http.delete(f"/compliance/holds/{hold.json()['hold_id']}").status_code == 200
    kept = {"conversation_id": scene.group, "reason": "a lawsuit"}
    assert owner.http.post("/compliance/holds", json=kept).status_code == 200
    asked = agnes.http.post("/compliance/gdpr/erasures", json={"reason": "leaving"})
    job = finished(owner, "erasures", asked.json()["job_id"])
    statement = read_certificate(job["certificate"], [parse_key(job["public_key"])])
    held = {part["where"]: part["kept_under_legal_hold"] for part in statement["erased"]}
    assert held["messaging"]["message"] == 1
    assert held["media"]["file"] == 1
    items = owner.http.get(f"/conversations/{scene.group}/messages").json()["items"]
    assert items[0]["body"] == f"there is {WORD} for everybody"
