"""Verifies an audit log for the terminal: a live server, an export, a folder of tiles, a bundle of evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

import msgspec
import typer

from sealwire.cli.audit_live import LiveLog
from sealwire.cli.audit_progress import Progress
from sealwire.cli.audit_source import Kind, Unreadable, kind_of, read_checkpoint, read_key
from sealwire.cli.terminal import complain, say, say_json, why
from sealwire.services.compliance.bundle import verify_bundle
from sealwire.services.compliance.bundle_file import is_by_line
from sealwire.services.compliance.cut import line_is_cut
from sealwire.services.compliance.key_chain import refuse_other_keys
from sealwire.services.compliance.manifest import CheckpointLine, Manifest, ManifestLine
from sealwire.services.compliance.notes import (
    NoteInvalid,
    VerifierKey,
    parse_checkpoint,
    parse_key,
    parse_note,
    verify_cosignatures,
)
from sealwire.services.compliance.tile_folder import CHECKPOINT, verify_tiles
from sealwire.services.compliance.verify import Report, cut_in_a_line, verify_export
from sealwire.services.compliance.walk import UNREADABLE, Fault, Tampering

KEYS_FILE = "keys.json"
MOST_LINE_BYTES = 16 * 1024 * 1024
MOST_WHOLE_BYTES = 1024 * 1024 * 1024
_OK, _BROKEN, _USAGE = 0, 1, 2


class Keys(msgspec.Struct, frozen=True):
    """`keys.json` beside a folder of tiles: what the checkpoint's key line and its successors are."""

    first_key: str
    rotations: list[str] = []
    cosigned: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the command says of a log, as JSON."""

    ok: bool
    """Whether all of it holds and a signed checkpoint covers all of it."""
    source: str
    records: int
    first_seq: int
    last_seq: int
    covered: int
    root: str
    fault: Fault | None
    pruned: list[tuple[int, int]]
    hash_unproved: list[tuple[int, int]]
    """Pruned records of which the leaf hash is proved, and the chain hash is the log's word alone."""
    chosen_by: dict[str, str]
    """By what a bundle's records were chosen: that none was left out is proved of a range only."""
    key: str
    key_confirmed: bool
    """Whether the key was given with --key, and not taken from what was verified."""
    witnesses: dict[str, int]
    """When each witness asked for saw the log, in Unix seconds."""
    witnessed: dict[str, int]
    """How many records each vouches for; those above are covered by the log's own key alone."""


def verify_source(
    source: Path | LiveLog,
    *,
    key: Path | None,
    checkpoints: Sequence[Path],
    witnesses: Sequence[Path],
    as_json: bool,
) -> int:
    """Verify, report, and return the exit code: 0 it holds and is signed, 1 not, 2 wrong usage."""
    progress = Progress()
    try:
        given = read_key(key) if key is not None else None
        held = [read_checkpoint(path) for path in checkpoints]
        known = [read_key(path) for path in witnesses]
        report, used, notes = _verify(source, given, held, progress)
        progress.end()
        seen, report = _cosigned(report, notes, known)
    except Unreadable as error:
        complain(str(error))
        return _USAGE
    except OSError as error:
        complain(why(error))
        return _BROKEN
    verdict = Verdict(
        ok=report.ok and report.covered == report.records > 0, source=str(source), records=report.records,
        first_seq=report.first_seq, last_seq=report.last_seq,
        covered=report.covered, root=report.root, fault=report.fault, pruned=report.pruned,
        hash_unproved=report.hash_unproved, chosen_by=report.chosen_by,
        key=used.text if used is not None else "", key_confirmed=given is not None,
        witnesses={name: at_s for name, (at_s, _) in seen.items()},
        witnessed={name: size for name, (_, size) in seen.items()},
    )  # fmt: skip
    if as_json:
        say_json(verdict)
    else:
        tell(verdict)
    return _OK if verdict.ok else _BROKEN


def _verify(
    source: Path | LiveLog, key: VerifierKey | None, held: Sequence[str], progress: Progress
) -> tuple[Report, VerifierKey | None, list[str]]:
    """Return the report, the key that was trusted, and the checkpoints that the records are proved to lie under."""
    if isinstance(source, LiveLog):
        head = source.checkpoint()
        key = key or _named(head.first_key, f"{source} names no public key; give the log's with --key")
        if other := _other_key(key, head.rotations, head.first_key, head.public_key, head.checkpoint, str(source)):
            return other, key, []
        progress.total = head.tree_size
        notes = [note for note in (*held, head.checkpoint, head.cosigned) if note]
        report = verify_export(
            source.log(head), checkpoints=notes, keys=[key], rotations=head.rotations, progress=progress
        )
        return report, key, _below(notes, report.covered)
    kind = kind_of(source)
    if kind is Kind.TILES:
        keys = _keys_beside(source)
        key = key or _named(keys.first_key, "give the log's public key with --key")
        if other := _other_key(key, keys.rotations, keys.first_key, "", "", str(source / KEYS_FILE)):
            return other, key, []
        notes, own = [note for note in (*held, keys.cosigned) if note], _own_note(source)
        progress.total = sum(_sizes([own]))
        report = verify_tiles(source, keys=[key], rotations=keys.rotations, checkpoints=notes, progress=progress)
        return report, key, _below([*notes, own], report.covered)
    with source.open("rb") as file:
        if kind is Kind.BUNDLE:
            _refuse_too_large(source, file)
            report, used = verify_bundle(file, keys=[key] if key else (), checkpoints=held, progress=progress)
            return _tied(report, held), used, report.tied
        first = file.readline(MOST_LINE_BYTES)
        file.seek(0)
        if line_is_cut(first):
            return _nothing(cut_in_a_line(1)), key, []
        manifest = _manifest_in(first)
        key = key or _named(manifest.first_key if manifest else "", "give the log's public key with --key")
        notes = [*held, *([] if manifest is None else [n for n in (manifest.checkpoint, manifest.cosigned) if n])]
        progress.total = manifest.to_seq - manifest.from_seq + 1 if manifest else 0
        report = verify_export(_lines(file), checkpoints=held, keys=[key], progress=progress)
        return report, key, _below([*notes, *_note_in(first)], report.covered)


def _refuse_too_large(source: Path, file: BinaryIO) -> None:
    """Raises: Unreadable for a bundle that would be read whole, and is larger than a machine should be asked to."""
    by_line = is_by_line(file.readline(MOST_LINE_BYTES))
    if not by_line and file.seek(0, SEEK_END) > MOST_WHOLE_BYTES:
        raise Unreadable(f"{source}: too large, and not line by line as `sealwire audit bundle` writes it")
    file.seek(0)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file's lines, and of one longer than any that is written parts: memory stays flat whatever it is."""
    while line := file.readline(MOST_LINE_BYTES):
        yield line if len(line) < MOST_LINE_BYTES else line + b"\n"


def _other_key(
    key: VerifierKey, rotations: Sequence[str], first_key: str, public_key: str, note: str, where: str
) -> Report | None:
    """Return what is wrong with the keys that are named beside a log, None where they fit the one given."""
    try:
        refuse_other_keys([key], rotations, first_key=first_key, public_key=public_key, note=note, where=where)
    except NoteInvalid as error:
        return _nothing(Fault(Tampering.CHECKPOINT, None, str(error)))
    return None


def _nothing(fault: Fault) -> Report:
    """Return the report of a log of which no record was looked at."""
    return Report(ok=False, records=0, first_seq=1, last_seq=0, covered=0, root="", fault=fault)


def _tied(report: Report, held: Sequence[str]) -> Report:
    """Return the report, not ok where a bundle shows nothing of a checkpoint held: it was asked for."""
    left = _sizes([note for note in held if note not in report.tied])
    if not left or not report.ok:
        return report
    detail = (
        f"the bundle is not tied to the checkpoint held of size {left[0]}: a bundle made at that size is, or an export"
    )
    return msgspec.structs.replace(report, ok=False, fault=Fault(Tampering.NOT_SHOWN, None, detail))


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
    except UNREADABLE as error:
        raise Unreadable(f"{folder / KEYS_FILE}: not what `sealwire audit mirror` writes: {error}") from None


def _own_note(folder: Path) -> str:
    try:
        return (folder / CHECKPOINT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _manifest_in(line: bytes) -> Manifest | None:
    try:
        return msgspec.json.decode(line, type=ManifestLine).manifest
    except UNREADABLE:
        return None


def _note_in(line: bytes) -> list[str]:
    try:
        return [msgspec.json.decode(line, type=CheckpointLine).checkpoint]
    except UNREADABLE:
        return []


def _sizes(notes: Sequence[str]) -> list[int]:
    """Return the tree sizes of notes, 0 for one that is no checkpoint."""
    sizes = []
    for note in notes:
        try:
            sizes.append(parse_checkpoint(parse_note(note).text).size)
        except NoteInvalid:
            sizes.append(0)
    return sizes


def _below(notes: Sequence[str], covered: int) -> list[str]:
    """Return the notes whose root was compared with the records."""
    return [note for note, size in zip(notes, _sizes(notes), strict=True) if 0 < size <= covered]


def _cosigned(
    report: Report, notes: Sequence[str], witnesses: Sequence[VerifierKey]
) -> tuple[dict[str, tuple[int, int]], Report]:
    """Return when each witness saw the log, and up to which size; a report that held doesn't where one saw nothing."""
    seen: dict[str, tuple[int, int]] = {}
    for witness in witnesses:
        for note, size in zip(notes, _sizes(notes), strict=True):
            with suppress(NoteInvalid):
                at_s = verify_cosignatures(note, [witness])[witness.name]
                seen[witness.name] = max((at_s, size), seen.get(witness.name, (0, 0)), key=lambda found: found[1])
        if witness.name not in seen and report.ok:
            fault = Fault(Tampering.CHECKPOINT, None, f"{witness.name} cosigned no checkpoint of this log")
            report = msgspec.structs.replace(report, ok=False, fault=fault)
    return seen, report


def tell(verdict: Verdict) -> None:
    """Print the verdict for people."""
    if verdict.fault is None and not verdict.records:
        typer.secho("EMPTY", fg=typer.colors.RED, nl=False)
        say("  there are no records")
        return
    if verdict.fault is None and verdict.covered < verdict.records:
        typer.secho("UNSIGNED", fg=typer.colors.YELLOW, nl=False)
        say(f"  {verdict.records:,} records are chained, {verdict.covered:,} signed, root {verdict.root}")
        above = f"seq {verdict.first_seq + verdict.covered} to {verdict.last_seq}"
        say(f"No signed checkpoint covers {above}: whoever wrote the file may have written those as well.")
        say("Export with ?manifest=true, or give a signed note you hold with --checkpoint FILE. A part of a log is")
        say("proved by a bundle: `sealwire audit bundle`.")
        return
    if not verdict.ok:
        shown = verdict.fault is None or verdict.fault.kind is not Tampering.NOT_SHOWN
        typer.secho("BROKEN" if shown else "NOT SHOWN", fg=typer.colors.RED, nl=False)
        for fault in [verdict.fault] if verdict.fault is not None else []:
            at = "" if fault.seq is None else f" at seq {fault.seq}"
            say(f"  {fault.kind.value}{at}: {fault.detail}")
        return
    typer.secho("ok", fg=typer.colors.GREEN, nl=False)
    say(f"  {verdict.records:,} records, {verdict.covered:,} under a signed checkpoint, root {verdict.root}")
    if verdict.chosen_by:
        by = ", ".join(f"{name}={value}" for name, value in verdict.chosen_by.items())
        say(f"chosen by {by}: each is proved to be in the log, and not that none was left out")
    else:
        say(f"seq {verdict.first_seq} to {verdict.last_seq}, none left out")
    for first, last in verdict.pruned:
        say(f"pruned by retention, hashes kept: seq {first} to {last}")
    for first, last in verdict.hash_unproved:
        say(f"of seq {first} to {last} the leaf hashes are proved; the chain hashes are the log's word alone")
    for name, at_s in verdict.witnesses.items():
        size = verdict.witnessed[name]
        say(f"cosigned by {name} at {at_s} (Unix time): seq 1 to {size}")
        if size < verdict.last_seq:
            say(f"{name} vouches for nothing above seq {size}: the log's own key alone covers those records")
    if not verdict.key_confirmed:
        say(f"key {verdict.key} came with what was verified: compare it with the one you know, or give --key")
