"""Restriction (GDPR Art. 18): what the person wrote is kept where it was said, and not looked up for others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from sealwire.testing.installation import Installation, Person
from sealwire.testing.patience import until_seen

WORD = "Zwetschgendatschi"


@pytest.fixture
def installation(tmp_path) -> Iterator[Installation]:
    running = Installation(tmp_path / "data").start()
    yield running
    running.kill()


def found(who: Person, **query: str) -> list[str]:
    answer = who.http.get("/search", params={"q": WORD, **query})
    assert answer.status_code == 200, answer.text
    return [item["sender_id"] for item in answer.json()["items"]]


def test_others_do_not_find_what_a_restricted_person_wrote(installation):
    owner, agnes, ben = (Person(installation.url, name) for name in ("owner", "agnes", "ben"))
    group = owner.converse(agnes, ben)
    agnes.send(group, f"my {WORD} is the best")
    ben.send(group, f"no, my {WORD}")
    until_seen(lambda: len(found(owner)) == 2)

    new = {"subject_id": agnes.user_id, "reason": "she contests what it says"}
    assert owner.http.post("/compliance/gdpr/restrictions", json=new).status_code == 200
    for who in (owner, ben):  # from the answer on, for everybody, by words and by author
        assert found(who) == [ben.user_id]
        assert found(who, sender_id=agnes.user_id) == []
    said = owner.http.get(f"/conversations/{group}/messages").json()["items"]
    assert [m["body"] for m in said] == [f"my {WORD} is the best", f"no, my {WORD}"], "where it was said it stays"
    assert agnes.http.get("/search", params={"q": WORD}).status_code == 401, "who is restricted is not logged in"

    installation.kill()
    shutil.rmtree(installation.data / "search")  # a restart, and everything is indexed anew
    installation.start()
    until_seen(lambda: found(owner))
    assert found(owner) == [ben.user_id]

    assert owner.http.delete(f"/compliance/gdpr/restrictions/{agnes.user_id}").status_code == 200
    assert sorted(found(owner)) == sorted([agnes.user_id, ben.user_id])
    agnes.log_in()
    assert agnes.user_id in found(agnes)
