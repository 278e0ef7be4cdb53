"""What is done with an API key stands in the audit log under the key's id, whichever service did it."""

from __future__ import annotations

import time

import httpx
import pytest

from sealwire.testing.installation import Installation, Person

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    running = Installation(tmp_path_factory.mktemp("actors") / "data").start()
    yield running
    running.kill()


def test_the_key_is_the_actor_and_its_owner_is_not(place):
    owner, ben = Person(place.url, "owner"), Person(place.url, "ben")
    scopes = ["read", "post", "start_conversation", "upload", "use_keys", "manage_keys"]
    made = owner.http.post("/auth/api-keys", json={"name": "robot", "scopes": scopes})
    assert made.status_code == 200, made.text
    key_id, key = made.json()["api_key"]["api_key_id"], made.json()["key"]
    http = httpx.Client(base_url=place.url + "/api/v1", headers={"authorization": f"Bearer {key}"}, timeout=15)
    conversation = http.post("/conversations", json={"kind": "group", "member_ids": [ben.user_id]})
    assert conversation.status_code == 201, conversation.text
    path = f"/conversations/{conversation.json()['conversation_id']}"
    message = http.post(f"{path}/messages", json={"body": "beep", "client_message_id": "1"})
    assert message.status_code == 201, message.text
    assert message.json()["sender_id"] == owner.user_id, "to people it is the owner who speaks"
    assert http.put(f"{path}/messages/1/reactions/+1").status_code == 204
    sealed = http.post("/crypto/master/encrypt", json={"plaintext": "YmVlcA=="})
    assert sealed.status_code == 200, sealed.text
    metadata = "filename ZmlsZS50eHQ=,filetype dGV4dC9wbGFpbg=="
    upload = http.post(
        "/media/uploads",
        headers={"tus-resumable": "1.0.0", "upload-length": "4", "upload-metadata": metadata},
    )
    assert upload.status_code == 201, upload.text

    wanted = {"message.created", "reaction.added", "conversation.created", "crypto.", "media.upload"}
    deadline = time.monotonic() + DEADLINE_S
    missing = wanted
    while missing:
        assert time.monotonic() < deadline, missing
        answer = owner.http.get("/compliance/audit", params={"actor": key_id, "limit": 500})
        found = {record["action"] for record in answer.json()["items"]}
        missing = {word for word in wanted if not any(word in action for action in found)}
        time.sleep(0.1)
    records = owner.http.get("/compliance/audit", params={"limit": 1000}).json()["items"]
    by_keys = [record for record in records if record["actor"]["type"] == "api_key"]
    assert {record["actor"]["id"] for record in by_keys} == {key_id}
