"""Erases again whom certificates name, after older data was put back; what was begun before is taken up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import sleep
from typing import Any, Literal

import msgspec

from sealwire.cli.audit_live import Refused
from sealwire.cli.live_rights import LiveRights
from sealwire.cli.terminal import note_of, read_text, why
from sealwire.contracts.custody import MessagePolicy
from sealwire.contracts.gdpr import GdprJob, NewErasure
from sealwire.contracts.holds import Hold
from sealwire.kit.codec import encode
from sealwire.kit.files import write_whole
from sealwire.services.compliance.certificates import digest, read_certificate
from sealwire.services.compliance.notes import NoteInvalid, VerifierKey, parse_key

REASON = "older data was put back"
LOOK_S = 0.5
"""Between looks how far an erasure is."""
_AS_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._:-]{0,63}", re.ASCII)
_ENDING = (401, 404)
_ENDING_CODES = ("step_up_required", "mfa_enrolment_required", "forbidden")
"""Refusals that are about who asks, so that the next person's would be the same."""

Outcome = Literal["erased", "blocked", "refused", "incomplete", "failed"]


class Unsuitable(Exception):
    """What was given is not what it has to be: nobody has been erased."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A hold that kept something of a person when the certificate was made."""

    hold_id: str
    conversation_id: str = ""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A person to erase again, by the newest certificate that names them."""

    subject_id: str
    tenant_id: str
    completed_at: str
    messages: MessagePolicy
    legal_holds: tuple[Kept, ...] = ()


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a person: `saved` is where the new certificate lies; `before`: by an earlier run of the command."""

    subject_id: str
    outcome: Outcome
    problem: str | None = None
    at: str | None = None
    saved: str | None = None
    sha256: str | None = None
    before: bool = False


def note_in(text: str) -> str:
    """Return the certificate of a file that is one, or of a job's JSON that has one. Raises: ValueError."""
    if not text.startswith("{"):
        return note_of(text)
    try:
        found = msgspec.json.decode(text).get("certificate")
    except (msgspec.DecodeError, RecursionError):
        found = None
    if not isinstance(found, str):
        raise ValueError("the document holds no certificate")
    return found


def read_wanted(files: Sequence[Path], keys: Sequence[VerifierKey]) -> list[Wanted]:
    """Return whom certificates name, each person once, in the order of the first naming.

    Raises: Unsuitable with a line for each file that is not genuine, and of it no other.
    """
    newest: dict[tuple[str, str], Wanted] = {}
    wrong = []
    for file in files:
        try:
            found = _wanted(read_certificate(note_in(read_text(file)), keys))
        except OSError as error:
            wrong.append(why(error))
        except (NoteInvalid, ValueError) as error:
            wrong.append(f"{file}: not genuine: {error}")
        else:
            whose = (found.tenant_id, found.subject_id)
            if found.completed_at > newest.setdefault(whose, found).completed_at:
                newest[whose] = found
    if wrong:
        raise Unsuitable("\n".join(wrong))
    return list(newest.values())


def _wanted(statement: dict[str, Any]) -> Wanted:
    try:
        found = msgspec.convert(statement, Wanted)
    except msgspec.ValidationError as error:
        raise ValueError(f"the statement is not one of an erasure: {error}") from None
    if _AS_FILE.fullmatch(found.subject_id) is None:
        raise ValueError("the statement names nobody whose id is one")
    return found


def without_hold(wanted: Sequence[Wanted], holds: Sequence[Hold]) -> Iterator[tuple[Wanted, Kept]]:
    """Yield what a hold kept of a person that no hold would keep now: it is not in force, and no other like it.

    On whom a hold on somebody is, no certificate tells: each that was put again may be for one that is not there.
    """
    in_force = [hold for hold in holds if hold.state == "in_force"]
    there = {hold.hold_id for hold in in_force} | {hold.conversation_id for hold in in_force if hold.conversation_id}
    missing = [(p, kept) for p in wanted for kept in p.legal_holds if not {kept.hold_id, kept.conversation_id} & there]
    named = {kept.hold_id for person in wanted for kept in person.legal_holds}
    again = {hold.hold_id for hold in in_force if hold.subject_id} - named
    on_people = {kept.hold_id for _, kept in missing if not kept.conversation_id}
    for person, kept in missing:
        if kept.conversation_id or len(on_people) > len(again):
            yield person, kept


class Replay:
    """Erasures of people again, with what came of each in a folder of its own: it is taken up where it ended."""

    def __init__(
        self,
        *,
        api: LiveRights,
        folder: Path,
        tell: Callable[[Told], None],
        progress: Callable[[str, float], None],
        pause: Callable[[float], None] = sleep,
    ) -> None:
        """`tell` hears what came of each person as it is known, `progress` how far (0 to 1) whose erasure is."""
        self._api = api
        self._folder = folder
        self._tell = tell
        self._progress = progress
        self._pause = pause

    def run(self, wanted: Sequence[Wanted]) -> list[Told]:
        """Ask for all, as a proof of identity is fresh for a while only, then wait for each.

        Raises: Unsuitable, before anybody is asked for; Refused, where who asks is refused, or nobody answers; OSError
        of the folder.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        saved = {person.subject_id: self._saved(person) for person in wanted}
        told: list[Told] = []
        begun: list[tuple[Wanted, GdprJob, bool]] = []
        for person in wanted:
            try:
                begun.append((person, *self._begin(person, saved[person.subject_id])))
            except Refused as error:
                if error.status < 400 or error.status in _ENDING or error.status >= 429 or error.code in _ENDING_CODES:
                    raise
                told.append(self._say(Told(subject_id=person.subject_id, outcome="refused", problem=str(error))))
        return told + [self._say(self._wait(person, job, before=before)) for person, job, before in begun]

    def _say(self, told: Told) -> Told:
        self._tell(told)
        return told

    def _begin(self, person: Wanted, saved: GdprJob | None) -> tuple[GdprJob, bool]:
        """Return the erasure, and whether an earlier run had ended it."""
        if saved is not None and (job := self._known(saved)) is not None:
            return job, job.status == "done"
        wanted = NewErasure(subject_id=person.subject_id, messages=person.messages, reason=REASON, again=True)
        job = self._api.erase(wanted)
        self._keep(job)
        return job, False

    def _saved(self, person: Wanted) -> GdprJob | None:
        """Return the erasure that an earlier run began. Raises: Unsuitable, OSError."""
        place = self._place(person.subject_id)
        if not place.exists():
            return None
        try:
            saved = msgspec.json.decode(place.read_bytes(), type=GdprJob)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            saved = None
        if saved is None or (saved.kind, saved.subject_id) != ("erasure", person.subject_id):
            raise Unsuitable(f"{place}: not what this command saves; give a folder of its own")
        return saved

    def _known(self, saved: GdprJob) -> GdprJob | None:
        """Return an erasure as the installation knows it; None where it is to be asked for once more."""
        try:
            job = self._api.erasure(saved.job_id)
        except Refused as error:
            if error.code != "job_not_found":
                raise
            return None  # the books were put back once more
        good = job.subject_id == saved.subject_id and job.status != "failed" and job.problem != "erasure_incomplete"
        return job if good else None

    def _wait(self, person: Wanted, job: GdprJob, *, before: bool) -> Told:
        while job.status in ("pending", "running"):
            self._progress(person.subject_id, job.progress)
            self._pause(LOOK_S)
            job = self._api.erasure(job.job_id)
        self._keep(job)
        told = Told(subject_id=person.subject_id, outcome="failed", problem=job.problem, at=job.finished_at)
        if job.status == "blocked":
            return msgspec.structs.replace(told, outcome="blocked")
        if job.status != "done" or job.certificate is None:
            return told
        try:
            statement = read_certificate(job.certificate, [parse_key(job.public_key or "")])
        except (NoteInvalid, ValueError) as error:
            return msgspec.structs.replace(told, problem=f"the new certificate is not genuine: {error}")
        if (statement.get("subject_id"), statement.get("tenant_id")) != (person.subject_id, person.tenant_id):
            return msgspec.structs.replace(told, problem="the new certificate names somebody else")
        return msgspec.structs.replace(
            told,
            outcome="erased" if job.problem is None else "incomplete",
            saved=str(self._place(person.subject_id)),
            sha256=digest(job.certificate),
            before=before,
        )

    def _place(self, subject_id: str) -> Path:
        return self._folder / f"{subject_id}.json"

    def _keep(self, job: GdprJob) -> None:
        """Save an erasure as the installation answers it: a file for `verify-certificate` once it is done."""
        write_whole(self._place(job.subject_id), encode(job))


def require_apart(files: Sequence[Path], folder: Path) -> None:
    """Raise Unsuitable where certificates lie in the folder that is to say who was erased again already."""
    inside = [file for file in files if file.resolve().parent == folder.resolve()]
    if inside:
        raise Unsuitable(f"{inside[0]} lies in {folder}: new certificates go to a folder of their own")
