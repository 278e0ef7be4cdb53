"""`sealwire gdpr`: what a data protection officer checks without the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sealwire.cli.terminal import EXIT_FAILED, EXIT_USAGE, Json, fail, note_of, read_text, say, say_json, why

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
        trusted = parse_key(read_text(key).strip())
    except OSError as error:
        fail(why(error), EXIT_USAGE)
    except (NoteInvalid, ValueError) as error:
        fail(f"{key}: not a public key line: {error}", EXIT_USAGE)
    try:
        note = _note(read_text(file))
        statement = read_certificate(note, [trusted])
        lines = _lines(statement, digest(note))
    except OSError as error:
        fail(why(error), EXIT_USAGE)
    except (NoteInvalid, ValueError) as error:
        if json:
            say_json({"ok": False, "fault": str(error)})
            raise typer.Exit(EXIT_FAILED) from None
        fail(f"{file}: not genuine: {error}", EXIT_FAILED)
    if json:
        say_json({"ok": True, "sha256": digest(note), "statement": statement})
    else:
        typer.secho("ok", fg=typer.colors.GREEN, nl=False)
        for line in lines:
            say(f"  {line}")


def _note(text: str) -> str:
    """Return the certificate of a file that is one, or of a job's JSON that has one. Raises: ValueError."""
    if not text.startswith("{"):
        return note_of(text)
    import msgspec

    try:
        found = msgspec.json.decode(text).get("certificate")
    except (msgspec.DecodeError, RecursionError):
        found = None
    if not isinstance(found, str):
        raise ValueError("the document holds no certificate")
    return found


def _lines(statement: dict[str, Any], sha256: str) -> list[str]:
    """Return what a certificate states, for people. Raises: ValueError for a statement of another shape."""
    try:
        told = [f"person {statement['subject_id']} of tenant {statement['tenant_id']}, {statement['completed_at']}"]
        for part in statement["erased"]:
            counts = ", ".join(f"{count} {kind}" for kind, count in part["counts"].items()) or "nothing there"
            kept = ", ".join(f"{count} {kind}" for kind, count in part["kept_under_legal_hold"].items())
            told.append(f"{part['where']}: {counts}" + (f"; kept under a legal hold: {kept}" if kept else ""))
        probe = statement["probe"]
        told.append(f"probe: {probe['texts']} texts in {len(probe['places'])} places, {probe['found']} found")
    except (KeyError, TypeError, AttributeError):
        raise ValueError("the statement is not one of an erasure") from None
    return [*told, f"sha256 {sha256}"]
