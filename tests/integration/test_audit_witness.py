"""A witness beside a running installation cosigns its log by the command line, and sees a fork for what it is."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.independent.c2sp import Head, head_of, open_note
from tests.independent.witness import Witness
from tests.integration.test_audit_evidence import JSON, key_of, messages, sealwire, verdict

from sealwire.testing.installation import Installation, Person
from sealwire.testing.patience import until_seen


@pytest.fixture(scope="module")
def witness() -> Iterator[Witness]:
    made = Witness("witness.example/w1")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def witnessed(witness: Witness, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    env = {"SEALWIRE_COMPLIANCE__WITNESSES": json.dumps([witness.vkey])}
    running = Installation(tmp_path_factory.mktemp("witnessed") / "data", env=env).start()
    yield running
    running.kill()


def test_a_witness_cosigns_and_the_verdict_tells_what_it_saw(witnessed, witness, tmp_path: Path) -> None:
    owner = Person(witnessed.url, "owner", tenant=f"selftest-{secrets.token_hex(6)}")
    room = owner.converse()
    at = ("--url", witnessed.url, "--token", owner.token)
    key, cosigner = key_of(owner, tmp_path), tmp_path / "w1.key"
    cosigner.write_text(witness.vkey)
    prefix = witness.start()
    unknown = sealwire("audit", "cosign", "--witness", prefix, *at)
    assert (unknown.returncode, "doesn't know this log" in unknown.stderr) == (1, True), unknown.stderr
    head = owner.http.get("/compliance/audit/checkpoint", headers=JSON).json()
    origin = head["first_key"].partition("+")[0]
    witness.keys[origin] = head["first_key"]

    sizes = []
    for i in range(3):
        owner.send(room, f"{i}")
        done = sealwire("audit", "cosign", "--witness", prefix, *at, "--json")
        assert done.returncode == 0, done.stderr
        kept = json.loads(done.stdout)
        assert list(kept["witnesses"]) == [witness.name]
        note = owner.http.get("/compliance/audit/checkpoint/cosigned").text.encode()
        assert head_of(open_note(note, witness.vkey)).size == kept["tree_size"] == witness.seen[origin].size
        sizes.append(kept["tree_size"])
    assert sizes == sorted(sizes)
    owner.send(room, "seen by nobody yet")
    until_seen(lambda: len(messages(owner)) == 4)  # its record is on its way
    found = verdict(*at, "--key", key, "--witness", cosigner)
    assert (found["ok"], found["witnessed"]) == (True, {witness.name: sizes[-1]}), found["fault"]
    assert found["records"] > sizes[-1]
    said = sealwire("audit", "verify", *at, "--key", key, "--witness", cosigner).stdout
    assert f"nothing above seq {sizes[-1]}: the log's own key alone" in said
    folder = tmp_path / "mirror"
    assert sealwire("audit", "mirror", folder, *at).returncode == 0
    assert verdict(folder, "--key", key, "--witness", cosigner)["witnessed"] == {witness.name: sizes[-1]}

    # By hand: another cosignature on the same checkpoint; and a file that is none.
    held = tmp_path / "held"
    held.write_bytes(note + witness.sign(open_note(note, witness.vkey)).encode())
    assert sealwire("audit", "cosign", held, *at).returncode == 0
    assert sealwire("audit", "cosign", cosigner, *at).returncode == 2
    assert sealwire("audit", "cosign", *at).returncode == 2

    # What the witness saw before is not what it is shown now.
    witness.seen[origin] = Head(origin, sizes[0], b"r" * 32)
    forked = sealwire("audit", "cosign", "--witness", prefix, *at)
    assert (forked.returncode, "forked" in forked.stderr) == (1, True), forked.stderr
    witness.seen[origin] = Head(origin, 10**6, b"r" * 32)
    cut = sealwire("audit", "cosign", "--witness", prefix, *at)
    assert (cut.returncode, "it was cut" in cut.stderr) == (1, True), cut.stderr
    away = sealwire("audit", "cosign", "--witness", "http://127.0.0.1:9", *at)
    assert away.returncode == 1
    member = Person(witnessed.url, "somebody")
    assert member.http.post("/compliance/audit/checkpoint/cosignatures", json={"note": note.decode()}).status_code in (
        403,
        409,
    ), "no auditor, or the note of another log"
