"""`sealwire gdpr`: what a data protection officer checks without the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sealwire.cli.terminal import EXIT_FAILED, EXIT_USAGE, Json, fail, note_of, say_json

gdpr = typer.Typer(help="People's rights.", no_args_is_help=True)


@gdpr.command("verify-certificate")
def verify_certificate(
    file: Annotated[Path, typer.Argument(help="The certificate, or the erasure's JSON that holds it.", exists=True)],
    key: Annotated[Path, typer.Option("--key", help="File with the line of the public key.", exists=True)],
    json: Json = False,
) -> None:
    """Verify the certificate of an erasure. Trusts the public key alone.

    The hash it prints is what the audit log names in its record `gdpr.erasure.completed`.
    Exit code 0: it is genuine; 1: it is not; 2: the key can't be read.
    """
    from sealwire.services.compliance.certificates import digest, read_certificate
    from sealwire.services.compliance.notes import NoteInvalid, parse_key

    try:
        trusted = parse_key(key.read_text(encoding="utf-8").strip())
    except (NoteInvalid, ValueError) as error:
        fail(f"{key}: not a public key line: {error}", EXIT_USAGE)
    try:
        note = _note(file.read_bytes())
        statement = read_certificate(note, [trusted])
    except (NoteInvalid, ValueError) as error:
        if json:
            say_json({"ok": False, "fault": str(error)})
            raise typer.Exit(EXIT_FAILED) from None
        fail(f"{file}: not genuine: {error}", EXIT_FAILED)
    if json:
        say_json({"ok": True, "sha256": digest(note), "statement": statement})
    else:
        _say(statement, digest(note))


def _note(content: bytes) -> str:
    """Return the certificate of a file that is one, or of a job's JSON that has one. Raises: ValueError."""
    text = content.decode("utf-8")
    if not text.startswith("{"):
        return note_of(text)
    import msgspec

    try:
        found = msgspec.json.decode(content).get("certificate")
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, str):
        raise ValueError("the document holds no certificate")
    return found


def _say(statement: dict[str, Any], sha256: str) -> None:
    typer.secho("ok", fg=typer.colors.GREEN, nl=False)
    typer.echo(f"  person {statement['subject_id']} of tenant {statement['tenant_id']}, {statement['completed_at']}")
    for part in statement["erased"]:
        counts = ", ".join(f"{count} {kind}" for kind, count in part["counts"].items()) or "nothing there"
        kept = ", ".join(f"{count} {kind}" for kind, count in part["kept_under_legal_hold"].items())
        typer.echo(f"  {part['where']}: {counts}" + (f"; kept under a legal hold: {kept}" if kept else ""))
    probe = statement["probe"]
    typer.echo(f"  probe: {probe['texts']} texts in {len(probe['places'])} places, {probe['found']} found")
    typer.echo(f"  sha256 {sha256}")
