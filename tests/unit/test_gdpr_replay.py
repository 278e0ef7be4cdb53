"""`sealwire gdpr replay`: whom certificates name is erased again, once, and nobody on the word of a forged one."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.unit.test_commands import Command, sealwire

from sealwire.cli import gdpr_replay, live_rights
from sealwire.services.compliance.canonical import canonical
from sealwire.services.compliance.notes import ED25519, NoteSignature, VerifierKey, write_note

__all__ = ["sealwire"]
NAME = "log/clinic/erasure"
OWNER = {"user_id": "owner-1", "tenant_id": "clinic", "email": "o@example.org", "display_name": "O", "role": "owner"}
HOLD = {"hold_id": "hold-1", "placed_at": "2026-11-01T00:00:00Z", "conversation_id": "talk-1"}


class Signer:
    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = VerifierKey(name=NAME, type=ED25519, public_key=self._key.public_key().public_bytes_raw())

    def certificate(self, subject_id: str, at: str = "2026-11-02T00:00:00Z", **more: Any) -> str:
        statement = {
            "kind": "sealwire.erasure-certificate.v1", "subject_id": subject_id, "tenant_id": "clinic",
            "completed_at": at, "messages": "tombstone", "legal_holds": [], **more,
        }  # fmt: skip
        text = f"{NAME}\n{canonical(statement).decode()}\n"
        return write_note(text, [NoteSignature(NAME, self.public.key_id, self._key.sign(text.encode()))])


class Clinic:
    """An installation that erases whom it is asked to, at the second look; `refused` answers for a person instead."""

    def __init__(self) -> None:
        self.signer = Signer()
        self.asked: list[dict[str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.holds: list[dict[str, Any]] = []
        self.refused: dict[str, tuple[int, str]] = {}
        self.busy: list[int] = []
        self.looks_left = 1_000
        self.problem: str | None = None

    def answer(self, verb: str, path: str, body: bytes) -> tuple[int, Any]:
        if self.busy:
            return self.busy.pop(), {"code": "rate_limited", "detail": "Later."}
        if path == "/auth/me":
            return 200, OWNER
        if path.startswith("/compliance/holds"):
            return 200, {"items": self.holds}
        if verb == "POST":
            return self._begin(json.loads(body))
        self.looks_left -= 1
        if self.looks_left < 0:
            return 401, {"code": "unauthenticated", "detail": "The token has ended."}
        job = self.jobs.get(path.rpartition("/")[2])
        if job is None:
            return 404, {"code": "job_not_found", "detail": "There is no such job"}
        before, job["looked"] = dict(job), True
        if job["looked"] and before.pop("looked", False) and job["status"] == "pending":
            self._end(job)
            before = dict(job)
        return 200, {name: value for name, value in before.items() if name != "looked"}

    def _begin(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append(wanted)
        if wanted["subject_id"] in self.refused:
            status, code = self.refused[wanted["subject_id"]]
            return status, {"code": code, "detail": f"It is {code}."}
        job = {
            "job_id": f"job-{len(self.asked)}", "kind": "erasure", "subject_id": wanted["subject_id"],
            "status": "pending", "progress": 0.0, "requested_at": "", "requested_by": "owner-1", "due_at": "",
        }  # fmt: skip
        self.jobs[str(job["job_id"])] = job
        return 202, job

    def _end(self, job: dict[str, Any]) -> None:
        certificate = self.signer.certificate(job["subject_id"], "2026-12-01T00:00:00Z")
        job |= {"status": "done", "problem": self.problem, "finished_at": "2026-12-01T00:00:00Z"}
        job |= {"certificate": certificate, "public_key": self.signer.public.text}


@pytest.fixture
def clinic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clinic]:
    it = Clinic()

    class Door(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, document = it.answer(self.command, self.path.removeprefix("/api/v1"), body)
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    monkeypatch.setattr(gdpr_replay, "LOOK_S", 0.001)
    monkeypatch.setattr(live_rights, "BUSY_WAIT_S", 0.001)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("CLINIC_URL", f"http://127.0.0.1:{server.server_port}")
    yield it
    server.shutdown()
    server.server_close()
    thread.join()


class Desk:
    """What the operator has: certificates, the tenant's key, and the command."""

    def __init__(self, folder: Path, clinic: Clinic, sealwire: Command, url: str) -> None:
        self.folder, self._clinic, self._sealwire, self._url = folder, clinic, sealwire, url
        (folder / "certificates").mkdir()
        (folder / "tenant.key").write_text(clinic.signer.public.text + "\n")

    def keep(self, name: str, certificate: str) -> None:
        (self.folder / "certificates" / name).write_text(certificate)

    def replay(self, *more: str, save: str = "again", yes: bool = True) -> tuple[int, str, str]:
        files = sorted((self.folder / "certificates").iterdir())
        words = ("--key", "tenant.key", "--save", save, "--url", self._url, "--token", "t", *["--yes"][:yes], *more)
        return self._sealwire("gdpr", "replay", *files, *words)


@pytest.fixture
def desk(tmp_path: Path, clinic: Clinic, sealwire: Command) -> Desk:
    return Desk(tmp_path, clinic, sealwire, os.environ["CLINIC_URL"])


def test_everybody_is_erased_again_once_by_the_newest_certificate(desk: Desk, clinic: Clinic) -> None:
    desk.keep("1", clinic.signer.certificate("agnes", "2026-11-09T00:00:00Z", messages="anonymise"))
    desk.keep("2.json", json.dumps({"job_id": "old", "certificate": clinic.signer.certificate("agnes")}))
    desk.keep("3", clinic.signer.certificate("berta").rstrip("\n"))
    clinic.busy = [503, 429]
    code, out, err = desk.replay()
    assert (code, err) == (0, "")
    assert "2 of 2 erased again" in out
    reason = {"reason": "older data was put back", "again": True}
    assert clinic.asked == [
        {"subject_id": "agnes", "messages": "anonymise", **reason},
        {"subject_id": "berta", "messages": "tombstone", **reason},
    ]
    saved = json.loads((desk.folder / "again" / "agnes.json").read_text())
    assert (saved["status"], saved["certificate"]) == ("done", clinic.jobs["job-1"]["certificate"])
    code, out, err = desk.replay("--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert (code, len(clinic.asked)) == (0, 2), "nobody is asked for twice"
    assert [(one["outcome"], one["before"]) for one in told[:-1]] == [("erased", True)] * 2
    assert told[-1] == {"ok": True, "people": 2, "erased": 2}


@pytest.mark.parametrize("what", ["forged", "changed", "another kind", "another tenant", "no file of it", "an odd id"])
def test_nobody_is_erased_when_one_certificate_is_not_genuine(desk: Desk, clinic: Clinic, what: str) -> None:
    good = clinic.signer.certificate("berta")
    desk.keep("1", clinic.signer.certificate("agnes"))
    desk.keep("2", {
        "forged": Signer().certificate("berta"),
        "changed": good.replace("berta", "carla"),
        "another kind": clinic.signer.certificate("berta", kind="sealwire.other.v1"),
        "another tenant": clinic.signer.certificate("berta", tenant_id="bank"),
        "no file of it": "{}",
        "an odd id": clinic.signer.certificate("../berta"),
    }[what])  # fmt: skip
    code, out, err = desk.replay()
    assert (code, out, clinic.asked) == (1, "", [])
    assert "nobody was erased" in err
    assert ("certificates/2" in err) is (what != "another tenant")
    assert "certificates/1" not in err


def test_who_asks_is_not_erased_by_it(desk: Desk, clinic: Clinic) -> None:
    desk.keep("1", clinic.signer.certificate("owner-1"))
    code, _, err = desk.replay()
    assert (code, clinic.asked) == (1, [])
    assert "another owner has to ask" in err


def test_a_hold_that_kept_something_has_to_be_there(desk: Desk, clinic: Clinic) -> None:
    on_somebody = {"hold_id": "hold-2", "placed_at": "2026-11-01T00:00:00Z"}
    desk.keep("1", clinic.signer.certificate("agnes", legal_holds=[HOLD, on_somebody]))
    row = {"reason": "r", "created_at": "", "created_by": "owner-1"}
    on_talk = {"hold_id": "new-1", "conversation_id": "talk-1", **row}
    code, _, err = desk.replay()
    assert (code, clinic.asked) == (1, [])
    assert "hold hold-1 kept something of agnes and is not in force" in err
    clinic.holds = [on_talk]
    code, _, err = desk.replay()
    assert (code, "hold-1" in err, "hold-2" in err, clinic.asked) == (1, False, True, [])
    clinic.holds = [on_talk, {"hold_id": "new-2", "subject_id": "carl", **row}]
    assert desk.replay()[0] == 0
    clinic.holds = []
    assert desk.replay("--holds-released", save="other")[0] == 0
    assert len(clinic.asked) == 2


@pytest.mark.parametrize("state", ["placing", "releasing"])
def test_a_hold_that_is_not_in_force_is_not_there(desk: Desk, clinic: Clinic, state: str) -> None:
    desk.keep("1", clinic.signer.certificate("agnes", legal_holds=[HOLD]))
    row = {"reason": "", "created_at": "", "created_by": "", "state": state}
    clinic.holds = [{"hold_id": "hold-1", "conversation_id": "talk-1", **row}]
    code, _, err = desk.replay()
    assert (code, "hold-1" in err, clinic.asked) == (1, True, [])


def test_one_hold_on_somebody_does_not_stand_for_two(desk: Desk, clinic: Clinic) -> None:
    first, second = ({"hold_id": f"hold-{n}", "placed_at": "2026-11-01T00:00:00Z"} for n in (2, 3))
    desk.keep("1", clinic.signer.certificate("agnes", legal_holds=[first]))
    desk.keep("2", clinic.signer.certificate("ben", legal_holds=[first, second]))
    row = {"reason": "", "created_at": "", "created_by": "", "state": "in_force"}
    clinic.holds = [{"hold_id": "hold-3", "subject_id": "carl", **row}]
    code, _, err = desk.replay()
    assert (code, "hold-2" in err, "hold-3" in err, clinic.asked) == (1, True, False, [])
    clinic.holds += [{"hold_id": "new-2", "subject_id": "dora", **row}]
    assert desk.replay()[0] == 0


def test_one_id_in_two_tenants_is_two_people(desk: Desk, clinic: Clinic) -> None:
    desk.keep("1", clinic.signer.certificate("agnes", "2026-11-02T00:00:00Z"))
    desk.keep("2", clinic.signer.certificate("agnes", "2026-11-01T00:00:00Z", tenant_id="school"))
    code, _, err = desk.replay()
    assert (code, "of tenant school" in err, clinic.asked) == (1, True, [])


def test_what_was_begun_is_gone_on_with(desk: Desk, clinic: Clinic) -> None:
    for name in ("agnes", "berta", "carl"):
        desk.keep(name, clinic.signer.certificate(name))
    clinic.looks_left = 2  # agnes is done, then the token ends
    code, _, err = desk.replay()
    assert (code, len(clinic.asked)) == (1, 3)
    assert "answers 401" in err
    assert "--save again" in err
    clinic.looks_left = 1_000
    code, out, _ = desk.replay("--json")
    assert (code, len(clinic.asked)) == (0, 3), "nobody is asked for twice"
    told = [json.loads(line) for line in out.splitlines()]
    assert [one["before"] for one in told[:-1]] == [True, False, False]
    clinic.jobs.clear()  # data was put back once more, into the same installation
    assert desk.replay()[0] == 0
    assert len(clinic.asked) == 6


def test_who_can_not_be_erased_is_told_and_the_others_are(desk: Desk, clinic: Clinic) -> None:
    for name in ("agnes", "berta"):
        desk.keep(name, clinic.signer.certificate(name))
    clinic.refused["agnes"] = (409, "legal_hold")
    code, out, _ = desk.replay()
    assert code == 1
    assert "refused         agnes" in out
    assert "It is legal_hold." in out
    assert "1 of 2 erased again" in out
    clinic.refused["agnes"] = (403, "step_up_required")
    code, out, err = desk.replay()
    assert (code, "erased again" in out, "It is step_up_required" in err) == (1, False, True)
    del clinic.refused["agnes"]
    assert desk.replay()[0] == 0
    assert [one["subject_id"] for one in clinic.asked] == ["agnes", "berta", "agnes", "agnes"]


def test_what_left_something_behind_is_asked_for_again(desk: Desk, clinic: Clinic) -> None:
    desk.keep("agnes", clinic.signer.certificate("agnes"))
    clinic.problem = "erasure_incomplete"
    code, out, _ = desk.replay()
    assert (code, out.startswith("incomplete")) == (1, True)
    clinic.problem = None
    assert desk.replay()[0] == 0
    assert len(clinic.asked) == 2


def test_it_asks_before_it_erases(desk: Desk, clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("agnes", "berta"):
        desk.keep(name, clinic.signer.certificate(name))
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, err = desk.replay(yes=False)
    assert (code, clinic.asked) == (2, [])
    assert "Erase 2 people of tenant clinic again?" in out + err
    assert "nobody was erased" in err
    assert not (desk.folder / "again").exists()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert desk.replay(yes=False)[0] == 0
    assert len(clinic.asked) == 2


def test_a_folder_with_something_else_in_it_is_no_place_for_new_certificates(desk: Desk, clinic: Clinic) -> None:
    desk.keep("agnes", clinic.signer.certificate("agnes"))
    code, _, err = desk.replay(save="certificates")
    assert (code, "new certificates go to a folder of their own" in err) == (2, True)
    (desk.folder / "again").mkdir()
    (desk.folder / "again" / "agnes.json").write_text("somebody else's")
    code, _, err = desk.replay()
    assert (code, "not what this command saves" in err, "nobody was erased" in err) == (1, True, True)
    assert clinic.asked == []
