"""docs/life/search.md, step by step, on a running installation."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sealwire.testing.installation import Installation, Person

PATIENCE_S = 60.0


def search(who: Person, q: str, **filters: Any) -> dict[str, Any]:
    """Search and return the answer. Raises: AssertionError unless it is 200."""
    answer = who.http.get("/search", params={"q": q, **filters})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def until(found: Callable[[], Any], what: str) -> Any:
    """Ask again until there is something. Raises: AssertionError after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not (result := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return result


def word() -> str:
    """Return a word nobody wrote before."""
    return "w" + secrets.token_hex(8)


def test_members_find_it_and_nobody_else(person: Callable[[str], Person], stranger: Callable[[str], Person]) -> None:
    ann, ben, eve, alien = person("ann"), person("ben"), person("eve"), stranger("alien")
    room, needle = ann.converse(ben), word()
    sent = ann.send(room, f"Der {needle} naht <b>bald</b>")
    (hit,) = until(lambda: search(ben, needle)["items"], "never found")
    assert hit["message_id"] == sent["message_id"]
    assert hit["snippet"] == f"Der <mark>{needle}</mark> naht &lt;b&gt;bald&lt;/b&gt;"
    assert {"message_id", "conversation_id", "seq", "sender_id", "snippet", "score", "created_at"} <= hit.keys()
    for outsider in (eve, alien):
        assert search(outsider, needle)["items"] == []
        answer = outsider.http.get("/search", params={"q": needle, "conversation_id": room})
        assert (answer.status_code, answer.json()["code"]) == (404, "conversation_not_found")
    assert ann.http.delete(f"/conversations/{room}/members/{ben.user_id}").status_code == 200
    assert search(ben, needle)["items"] == []


def test_who_searched_where_is_in_the_audit_log_and_the_words_are_not(stranger: Callable[[str], Person]) -> None:
    auditor = stranger("auditor")
    room, needle = auditor.converse(), word()
    search(auditor, needle, conversation_id=room)

    def recorded() -> Any:
        asked = {"action": "search.performed", "actor": auditor.user_id}
        return auditor.http.get("/compliance/audit", params=asked).json()["items"]

    (record,) = until(recorded, "never recorded")
    assert (record["resource_type"], record["resource_id"], record["metadata"]["hits"]) == ("conversation", room, 0)
    assert needle not in str(record)


def test_not_after_an_edit_and_not_after_a_delete(person: Callable[[str], Person]) -> None:
    ann, ben = person("ann"), person("ben")
    room, first, second = ann.converse(ben), word(), word()
    ann.send(room, first)
    until(lambda: search(ben, first)["items"], "never found")
    path = f"/conversations/{room}/messages/1"
    assert ann.http.patch(path, json={"body": second}).status_code == 200
    assert search(ben, first)["items"] == []
    until(lambda: search(ben, second)["items"], "the edit was never found")
    assert search(ben, first)["items"] == []
    assert ann.http.delete(path).status_code == 200
    assert search(ben, second)["items"] == []


def test_typos_beginnings_accents_and_unspaced_scripts(person: Callable[[str], Person]) -> None:
    ann, ben = person("ann"), person("ben")
    room = ann.converse(ben)
    ann.send(room, "Crème brûlée im Kaffeehaus, 今天天气很好")
    until(lambda: search(ben, "creme", conversation_id=room)["items"], "never found")
    for q in ("CREME", "brulee", "kaffee", "kafeehaus", "天气", '"creme brulee"', "creme -tee"):
        assert len(search(ben, q, conversation_id=room)["items"]) == 1, q
    for q in ("haus", "creme -kaffeehaus", '"brulee creme"', "!!!"):
        assert search(ben, q, conversation_id=room)["items"] == [], q


def test_filters_pages_and_how_far_it_is(person: Callable[[str], Person]) -> None:
    ann, ben = person("ann"), person("ben")
    room, needle = ann.converse(ben), word()
    for i in range(25):
        (ann if i % 5 else ben).send(room, f"{needle} {i}")
    until(lambda: search(ben, "x", conversation_id=room)["indexed_up_to"] == {room: 25}, "never caught up")
    seen, cursor = [], None
    while True:
        page = search(ben, needle, limit=4, **({"cursor": cursor} if cursor else {}))
        seen += [hit["seq"] for hit in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == list(range(1, 26))
    assert len(search(ann, needle, sender_id=ben.user_id, limit=100)["items"]) == 5
    assert search(ann, needle, to="2020-01-01T00:00:00Z")["items"] == []
    assert search(ann, needle, kind="file")["items"] == []


def test_a_file_is_found_by_its_name_until_it_is_deleted(person: Callable[[str], Person]) -> None:
    ann, ben = person("ann"), person("ben")
    room, needle = ann.converse(ben), word()
    metadata = {"filename": f"{needle}.txt", "filetype": "text/plain", "conversation_id": room}
    encoded = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in metadata.items())
    made = ann.http.post(
        "/media/uploads",
        content=b"some text",
        headers={
            "tus-resumable": "1.0.0",
            "upload-length": "9",
            "upload-metadata": encoded,
            "content-type": "application/offset+octet-stream",
        },
    )
    assert made.status_code == 201, made.text
    media_id = made.headers["location"].rsplit("/", 1)[-1]
    ann.send(room, "see the file", attachments=[media_id])
    (hit,) = until(lambda: search(ben, needle)["items"], "never found")
    assert (hit["kind"], hit["snippet"]) == ("file", f"<mark>{needle}</mark>.txt")
    assert search(ben, needle, kind="message")["items"] == []
    assert ann.http.delete(f"/media/{media_id}").status_code == 200
    assert search(ben, needle)["items"] == []


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({}, 422),
        ({"q": ""}, 422),
        ({"q": "x" * 600}, 422),
        ({"q": "x", "limit": 1000}, 422),
        ({"q": "x", "limit": "many"}, 422),
        ({"q": "x", "cursor": "../.."}, 422),
        ({"q": "x", "from": "soon"}, 422),
        ({"q": "x", "kind": "secret"}, 422),
        ({"q": "x", "tenant_id": "other"}, 422),
        ({"q": "a\0b"}, 422),
        ({"q": '"' * 100}, 200),
        ({"q": "a:b AND (c OR [d TO e]) ^2 ~1 *"}, 200),
        ({"q": "' OR 1=1 --"}, 200),
    ],
)
def test_bad_input_names_its_fault(owner: Person, params: dict[str, str], status: int) -> None:
    answer = owner.http.get("/search", params=params)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.json()["path"].startswith("$")


def test_after_a_kill_it_finds_what_it_found_and_what_came_since(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "data", env={"SEALWIRE_SEARCH__SNAPSHOT_EVERY_S": "1"}).start()
    try:
        ann = Person(installation.url, "ann")
        room, needle = ann.converse(), word()
        ann.send(room, f"{needle} before")
        until(lambda: search(ann, needle)["items"], "never found")
        until((tmp_path / "data" / "search" / "snapshots" / "state").exists, "no snapshot")
        ann.send(room, f"{needle} after")
        installation.kill()
        for path in (tmp_path / "data" / "search").rglob("*"):
            assert not path.is_file() or needle.encode() not in path.read_bytes(), path
        installation.start()
        ann.http.base_url = installation.url + "/api/v1"
        ann.log_in()
        until(lambda: len(search(ann, needle)["items"]) == 2, "not found again")
    finally:
        installation.kill()
