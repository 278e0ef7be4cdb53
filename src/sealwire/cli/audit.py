"""`sealwire audit verify`: check an exported log without the server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from sealwire.kit.codec import encode
from sealwire.services.compliance.notes import NoteInvalid, parse_key
from sealwire.services.compliance.verify import Report, verify_export

PROGRESS_EVERY = 50_000


def verify_file(file: Path, key: Path, *, checkpoints: Sequence[Path], as_json: bool) -> int:
    """Verify and report, against signed notes in the export and in `checkpoints`.

    Returns the exit code: 0 the log holds, 1 it does not or there is none, 2 the key can't be read.
    """
    try:
        verifier = parse_key(key.read_text(encoding="utf-8").strip())
    except (NoteInvalid, ValueError) as error:
        typer.secho(f"sealwire: {key}: not a public key line: {error}", fg=typer.colors.RED, err=True)
        return 2
    shown = 0

    def progress(records: int) -> None:
        nonlocal shown
        if records - shown >= PROGRESS_EVERY and sys.stderr.isatty():
            shown = records
            typer.echo(f"\r{records:,} records", err=True, nl=False)

    with file.open("rb") as lines:
        held = [path.read_text(encoding="utf-8") for path in checkpoints]
        report = verify_export(lines, checkpoints=held, keys=[verifier], progress=progress)
    if as_json:
        sys.stdout.write(encode(report).decode() + "\n")
    else:
        say(report)
    return 0 if report.ok and report.records else 1


def say(report: Report) -> None:
    """Print the verdict for people."""
    if report.ok and not report.records:
        typer.secho("EMPTY", fg=typer.colors.RED, nl=False)
        typer.echo("  the file holds no records")
        return
    if report.ok and not report.covered:
        typer.secho("UNSIGNED", fg=typer.colors.YELLOW, nl=False)
        typer.echo(f"  {report.records:,} records are chained, root {report.root}")
        typer.echo("No signed checkpoint covers them: whoever wrote the file may have written the chain as well.")
        typer.echo("Export with ?checkpoint=true, or give a signed note you hold with --checkpoint FILE.")
        return
    if report.ok:
        typer.secho("ok", fg=typer.colors.GREEN, nl=False)
        typer.echo(f"  {report.records:,} records, {report.covered:,} under a signed checkpoint, root {report.root}")
        return
    typer.secho("BROKEN", fg=typer.colors.RED, nl=False)
    for fault in [report.fault] if report.fault is not None else []:
        at = "" if fault.seq is None else f" at seq {fault.seq}"
        typer.echo(f"  {fault.kind.value}{at}: {fault.detail}")
