"""What lies on the disk tells nothing: no body, no file, no token, no password, no address of a person."""

from __future__ import annotations

import base64
import os
import re
import secrets
import time
from pathlib import Path

import pytest


def test_a_copy_of_the_data_folder_holds_no_readable_secret(installation, owner, person):
    ann, ben = person("ann"), person("ben")
    room = ann.converse(ben)
    word = f"Kranichfeder{secrets.token_hex(6)}"
    ann.send(room, f"the word is {word}")
    edited = ann.http.patch(f"/conversations/{room}/messages/1", json={"body": f"now it is {word} again"})
    assert edited.status_code == 200
    content = f"FILE-{word}".encode() * 50
    metadata = f"filename {base64.b64encode(b'note.txt').decode()}"
    made = ann.http.post(
        "/media/uploads",
        content=content,
        headers={
            "tus-resumable": "1.0.0",
            "upload-length": str(len(content)),
            "upload-metadata": metadata,
            "content-type": "application/offset+octet-stream",
        },
    )
    assert made.status_code == 201, made.text
    agent = f"agent-{secrets.token_hex(8)}"
    assert ann.http.get("/auth/me", headers={"user-agent": agent}).status_code == 200
    deadline = time.monotonic() + 60
    while not ann.http.get("/search", params={"q": word}).json()["items"]:
        assert time.monotonic() < deadline, "never found"
        time.sleep(0.1)
    # What the spool and the relays write must be sealed as well: it is there when it is in the log.
    wanted = {"GET_/api/v1/auth/me", "message.edited"}
    while not wanted <= (seen := actions(owner, ann)):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    needles = {
        "body": word.encode(),
        "file": b"FILE-" + word.encode(),
        "access token": ann.token.encode(),
        "refresh token": ann.grant["refresh_token"].encode(),
        "e-mail": ann.email.encode(),
        "user agent": agent.encode(),
    }
    for folder, _, names in os.walk(installation.data):
        for path in (Path(folder, name) for name in names):
            try:
                found = path.read_bytes().lower()
            except FileNotFoundError:  # segments and snapshots come and go
                continue
            for what, needle in needles.items():
                assert needle.lower() not in found, f"{what} is readable in {path.name}"


def actions(owner, person) -> set[str]:
    """Return what the audit log holds of somebody's doings."""
    answer = owner.http.get("/compliance/audit", params={"actor": person.user_id, "limit": 200})
    assert answer.status_code == 200, answer.text
    return {record["action"] for record in answer.json()["items"]}


def test_keys_and_data_are_for_their_owner_only(installation):
    for path in (installation.data / "keys").rglob("*"):
        assert path.parent.name == "public" or path.name == "public" or path.stat().st_mode & 0o077 == 0, path
    assert installation.data.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not Path("/proc/self/coredump_filter").exists(), reason="no /proc on this system")
def test_a_crash_leaves_no_memory_on_the_disk(installation):
    process = Path(f"/proc/{installation.pid}")
    assert re.search(r"^Max core file size +0 +0 ", (process / "limits").read_text(), re.MULTILINE)
    assert int((process / "coredump_filter").read_text(), 16) == 0
