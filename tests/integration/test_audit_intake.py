"""What reaches the audit log when somebody tries to keep things out of it."""

from __future__ import annotations

import secrets
import time

import httpx


def wait_for_record(owner, url: str, within_s: float = 60) -> None:
    """Wait until the owner's request of this path stands in the log of the owner's tenant."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        cursor, query = None, {"actor": owner.user_id, "resource_type": "api_request", "limit": 1000}
        while True:
            page = owner.http.get("/compliance/audit", params=query | ({"cursor": cursor} if cursor else {})).json()
            if any(item["metadata"].get("url") == url for item in page["items"]):
                return
            cursor = page["next_cursor"]
            if cursor is None:
                break
        time.sleep(0.05)
    raise AssertionError(f"{url} is not in the audit log after {within_s:g} s")


def test_a_request_that_can_not_be_recorded_as_it_is_holds_up_no_other_record(installation, owner):
    answer = httpx.get(f"{installation.url}/a%00b")
    assert answer.status_code == 404
    missing = secrets.token_hex(8)
    assert owner.http.get(f"/conversations/{missing}").status_code == 404
    wait_for_record(owner, f"/api/v1/conversations/{missing}")
    checks = httpx.get(f"{installation.url}/ready").json()["checks"]
    spool = [check for name, check in checks.items() if name.startswith("audit_spool")]
    assert [check["status"] for check in spool] == ["ok"]


def test_what_a_caller_names_stands_in_the_record_or_is_refused(installation, owner):
    """A number that a record can't hold would leave a record that says nothing of the key it was tried on."""
    key_id = owner.http.post("/crypto/keys", json={"key_type": "aes-256-gcm"}).json()["key_id"]
    tried = {"ciphertext": "", "iv": "AAAAAAAAAAAAAAAA", "auth_tag": "AAAAAAAAAAAAAAAAAAAAAA=="}
    answer = owner.http.post(f"/crypto/keys/{key_id}/decrypt", json={**tried, "version": 2**63})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    answer = owner.http.post(f"/crypto/keys/{key_id}/decrypt", json={**tried, "version": 2**31 - 1})
    assert (answer.status_code, answer.json()["code"]) == (422, "decryption_failed")


def test_input_of_one_person_takes_messaging_out_for_nobody(installation, owner, person):
    room = owner.converse(person("ben"))
    for i in range(60):
        number = {"ciphertexts": [{"n": 2**70}]} if i % 2 else {"reply_to": 2**70}
        draft = {"body": "x", "client_message_id": secrets.token_hex(8), **number}
        answer = owner.http.post(f"/conversations/{room}/messages", json=draft)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert owner.send(room, "still here")["seq"] == 1
