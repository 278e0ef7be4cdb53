"""Verifies an audit log for the terminal: a live server, an export, a folder of tiles, a bundle of evidence."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer

from sealwire.cli.audit_live import LiveLog
from sealwire.cli.terminal import note_of
from sealwire.kit.codec import encode
from sealwire.services.compliance.bundle import verify_bundle
from sealwire.services.compliance.notes import NoteInvalid, VerifierKey, parse_key, verify_cosignatures
from sealwire.services.compliance.tile_folder import CHECKPOINT, verify_tiles
from sealwire.services.compliance.verify import Report, verify_export
from sealwire.services.compliance.walk import Fault, Tampering

PROGRESS_EVERY = 10_000
KEYS_FILE = "keys.json"
_BUNDLE_START = b'{"format":"sealwire-evidence/'
_OK, _BROKEN, _USAGE = 0, 1, 2


class Keys(msgspec.Struct, frozen=True):
    """`keys.json` beside a folder of tiles: what the checkpoint's key line and its successors are."""

    first_key: str
    rotations: list[str] = []


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the command says of a log, as JSON."""

    ok: bool
    source: str
    records: int
    first_seq: int
    last_seq: int
    covered: int
    root: str
    fault: Fault | None
    pruned: list[tuple[int, int]]
    key: str
    key_confirmed: bool
    """Whether the key was given with --key, and not taken from what was verified."""
    witnesses: dict[str, int]


class Unreadable(Exception):
    """A key or a note can't be read: wrong usage, no verdict."""


def verify_source(
    source: Path | LiveLog,
    *,
    key: Path | None,
    checkpoints: Sequence[Path],
    witnesses: Sequence[Path],
    as_json: bool,
) -> int:
    """Verify, report, and return the exit code: 0 the log holds, 1 it does not or there is none, 2 wrong usage."""
    progress = Progress()
    try:
        given = read_key(key) if key is not None else None
        held = [note_of(path.read_text(encoding="utf-8")) for path in checkpoints]
        report, used, notes = _verify(source, given, held, progress)
        progress.end()
        seen, report = _cosigned(report, [*held, *notes], [read_key(path) for path in witnesses])
    except Unreadable as error:
        typer.secho(f"sealwire: {error}", fg=typer.colors.RED, err=True)
        return _USAGE
    except (OSError, ConnectionError) as error:
        typer.secho(f"sealwire: {error}", fg=typer.colors.RED, err=True)
        return _BROKEN
    verdict = Verdict(
        ok=report.ok, source=str(source), records=report.records, first_seq=report.first_seq, last_seq=report.last_seq,
        covered=report.covered, root=report.root, fault=report.fault, pruned=report.pruned,
        key=used.text if used is not None else "", key_confirmed=given is not None, witnesses=seen,
    )  # fmt: skip
    if as_json:
        sys.stdout.write(encode(verdict).decode() + "\n")
    else:
        say(verdict)
    return _OK if verdict.ok and verdict.records else _BROKEN


def _verify(
    source: Path | LiveLog, key: VerifierKey | None, held: Sequence[str], progress: Progress
) -> tuple[Report, VerifierKey | None, list[str]]:
    """Return the report, the key that was trusted, and the notes that came with the log."""
    if isinstance(source, LiveLog):
        head = source.checkpoint()
        key = key or parse_key(head.first_key)
        progress.total = head.tree_size
        report = verify_export(
            source.lines(head.tree_size), checkpoints=[*held, head.checkpoint], keys=[key], rotations=head.rotations,
            progress=progress,
        )  # fmt: skip
        return report, key, [head.checkpoint]
    if source.is_dir():
        keys = _keys_beside(source)
        key = key or _named(keys.first_key, "give the log's public key with --key")
        report = verify_tiles(source, keys=[key], rotations=keys.rotations, checkpoints=held, progress=progress)
        return report, key, [(source / CHECKPOINT).read_text(encoding="utf-8", errors="replace")]
    with source.open("rb") as file:
        start = file.read(len(_BUNDLE_START))
        file.seek(0)
        if start == _BUNDLE_START:
            content = file.read()
            report, used = verify_bundle(content, keys=[key] if key else (), progress=progress)
            return report, used, _notes_in(content)
        first = file.readline()
        file.seek(0)
        key = key or _named(_first_key(first), "give the log's public key with --key")
        return verify_export(file, checkpoints=held, keys=[key], progress=progress), key, _notes_in(first)


def read_key(path: Path) -> VerifierKey:
    """Read a public key line from a file. Raises: Unreadable."""
    try:
        return parse_key(path.read_text(encoding="utf-8").strip())
    except (OSError, NoteInvalid, ValueError) as error:
        raise Unreadable(f"{path}: not a public key line: {error}") from None


def _named(text: str, otherwise: str) -> VerifierKey:
    try:
        return parse_key(text)
    except NoteInvalid:
        raise Unreadable(otherwise) from None


def _keys_beside(folder: Path) -> Keys:
    try:
        return msgspec.json.decode((folder / KEYS_FILE).read_bytes(), type=Keys)
    except FileNotFoundError:
        return Keys(first_key="")
    except msgspec.MsgspecError as error:
        raise Unreadable(f"{folder / KEYS_FILE}: {error}") from None


def _members(line: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    found = document.get("manifest", document) if isinstance(document, dict) else {}
    return found if isinstance(found, dict) else {}


def _first_key(line: bytes) -> str:
    found = _members(line).get("first_key", "")
    return found if isinstance(found, str) else ""


def _notes_in(content: bytes) -> list[str]:
    note = _members(content).get("checkpoint")
    return [note] if isinstance(note, str) else []


def _cosigned(report: Report, notes: Sequence[str], witnesses: Sequence[VerifierKey]) -> tuple[dict[str, int], Report]:
    """Ask that each witness cosigned one of the notes; a report that held doesn't otherwise."""
    seen: dict[str, int] = {}
    for witness in witnesses:
        for note in notes:
            try:
                seen |= verify_cosignatures(note, [witness])
            except NoteInvalid:
                continue
        if witness.name not in seen and report.ok:
            fault = Fault(Tampering.CHECKPOINT, None, f"{witness.name} cosigned no checkpoint of this log")
            report = msgspec.structs.replace(report, ok=False, fault=fault)
    return seen, report


class Progress:
    """Shows how far a verification is, on a terminal."""

    def __init__(self) -> None:
        self.total = 0
        self._shown = 0
        self._terminal = sys.stderr.isatty()

    def __call__(self, records: int) -> None:
        """Hear how many records are checked."""
        if self._terminal and records - self._shown >= PROGRESS_EVERY:
            self._shown = records
            of = f" of {self.total:,} ({records * 100 // self.total} %)" if self.total else ""
            typer.echo(f"\r{records:,}{of} records", err=True, nl=False)

    def end(self) -> None:
        """Leave the line."""
        if self._shown:
            typer.echo("", err=True)


def say(verdict: Verdict) -> None:
    """Print the verdict for people."""
    if verdict.ok and not verdict.records:
        typer.secho("EMPTY", fg=typer.colors.RED, nl=False)
        typer.echo("  there are no records")
        return
    if not verdict.ok:
        shown = verdict.fault is None or verdict.fault.kind is not Tampering.NOT_SHOWN
        typer.secho("BROKEN" if shown else "NOT SHOWN", fg=typer.colors.RED, nl=False)
        for fault in [verdict.fault] if verdict.fault is not None else []:
            at = "" if fault.seq is None else f" at seq {fault.seq}"
            typer.echo(f"  {fault.kind.value}{at}: {fault.detail}")
        return
    if not verdict.covered:
        typer.secho("UNSIGNED", fg=typer.colors.YELLOW, nl=False)
        typer.echo(f"  {verdict.records:,} records are chained, root {verdict.root}")
        typer.echo("No signed checkpoint covers them: whoever wrote the file may have written the chain as well.")
        typer.echo("Export with ?manifest=true, or give a signed note you hold with --checkpoint FILE.")
        return
    typer.secho("ok", fg=typer.colors.GREEN, nl=False)
    typer.echo(f"  {verdict.records:,} records, {verdict.covered:,} under a signed checkpoint, root {verdict.root}")
    for first, last in verdict.pruned:
        typer.echo(f"pruned by retention, hashes kept: seq {first} to {last}")
    for name, at_s in verdict.witnesses.items():
        typer.echo(f"cosigned by {name} at {at_s} (Unix time)")
    if not verdict.key_confirmed:
        typer.echo(f"key {verdict.key} came with what was verified: compare it with the one you know, or give --key")
