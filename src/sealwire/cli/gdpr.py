"""`sealwire gdpr`: certificates of erasures, checked without the server, and carried out again after a restore."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealwire.cli.terminal import (
    EXIT_FAILED,
    EXIT_USAGE,
    Json,
    fail,
    plain,
    read_text,
    require_address,
    require_token,
    require_yes,
    say,
    say_json,
    why,
)

if TYPE_CHECKING:
    from sealwire.cli.gdpr_replay import Told, Wanted
    from sealwire.cli.live_rights import LiveRights

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
    from sealwire.cli.gdpr_replay import note_in
    from sealwire.services.compliance.certificates import digest, read_certificate
    from sealwire.services.compliance.notes import NoteInvalid, parse_key

    try:
        trusted = parse_key(read_text(key).strip())
    except OSError as error:
        fail(why(error), EXIT_USAGE)
    except (NoteInvalid, ValueError) as error:
        fail(f"{key}: not a public key line: {error}", EXIT_USAGE)
    try:
        note = note_in(read_text(file))
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


@gdpr.command("replay")
def replay(
    certificates: Annotated[list[Path], typer.Argument(help="Certificates, or the erasures' JSON.", exists=True)],
    key: Annotated[list[Path], typer.Option("--key", help="File with the line of a public key; repeat it for several.",
                                            exists=True)],
    save: Annotated[Path, typer.Option("--save", help="Folder for the new certificates, one for each restore: who has "
                                       "one there is not erased once more.", file_okay=False)],
    url: Annotated[str, typer.Option("--url", help="The gateway's address.")],
    token: Annotated[str, typer.Option("--token", help="Access token of an owner who has just logged in.",
                                       envvar="SEALWIRE_TOKEN", show_envvar=True)],
    holds_released: Annotated[bool, typer.Option("--holds-released", help="Holds that certificates name and that are "
                                                 "not there were released.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Erase again everybody whom certificates name, after older data was put back.

    All certificates are verified first; unless all are genuine and of the token's tenant, nobody is erased. Run again
    with the same --save, it goes on where it was.

    Exit code 0: all are erased again, and nothing of them was found; 1: not all, or a certificate is not genuine; 2:
    wrong usage.
    """
    from sealwire.cli.audit_live import Refused
    from sealwire.cli.audit_source import Unreadable, read_key
    from sealwire.cli.gdpr_replay import Replay, Unsuitable, read_wanted, require_apart
    from sealwire.cli.live_rights import LiveRights

    require_address("--url", url)
    require_token(token)
    try:
        require_apart(certificates, save)
        trusted = [read_key(path) for path in key]
    except (Unsuitable, Unreadable) as error:
        fail(str(error), EXIT_USAGE)
    api = LiveRights(url, token)
    told: list[Told] = []
    try:
        wanted = read_wanted(certificates, trusted)
        _require_fit(api, wanted, holds_released=holds_released)
        if not yes:
            who = "1 person" if len(wanted) == 1 else f"{len(wanted)} people"
            require_yes(f"Erase {who} of tenant {wanted[0].tenant_id} again?", otherwise="nobody was erased")
        shown = _Shown(len(wanted), json=json)
        told = Replay(api=api, folder=save, tell=shown.tell, progress=shown.progress).run(wanted)
    except Unsuitable as error:
        fail(f"{error}\nnobody was erased")
    except Refused as error:
        fail(f"{error}\nrun it again with the same --save {save}, and it goes on")
    except OSError as error:
        fail(why(error))
    done = sum(one.outcome == "erased" for one in told)
    if json:
        say_json({"ok": done == len(wanted), "people": len(wanted), "erased": done})
    else:
        say(f"{done} of {len(wanted)} erased again; certificates in {save}")
    raise typer.Exit(0 if done == len(wanted) else EXIT_FAILED)


def _require_fit(api: LiveRights, wanted: list[Wanted], *, holds_released: bool) -> None:
    """Hold certificates to who asks and to the holds that are there. Raises: Unsuitable, Refused."""
    from sealwire.cli.gdpr_replay import Unsuitable, without_hold

    me = api.me()
    wrong = [
        f"the certificate of {person.subject_id} is of tenant {person.tenant_id}, and the token of {me.tenant_id}"
        for person in wanted
        if person.tenant_id != me.tenant_id
    ]
    if any(person.subject_id == me.user_id for person in wanted):
        wrong.append(f"the token is of {me.user_id}, who is to be erased: another owner has to ask")
    if not wrong and not holds_released and any(person.legal_holds for person in wanted):
        wrong += [
            f"hold {kept.hold_id} kept something of {person.subject_id} and is not in force: put it again, or say "
            "--holds-released"
            for person, kept in without_hold(wanted, api.holds())
        ]
    if wrong:
        raise Unsuitable("\n".join(wrong))


class _Shown:
    """Says what came of each person, and on a terminal how far the erasure under way is."""

    def __init__(self, people: int, *, json: bool) -> None:
        self._people = people
        self._json = json
        self._told = 0
        self._line = sys.stderr.isatty()

    def progress(self, subject_id: str, progress: float) -> None:
        if self._line:
            text = f"{self._told} of {self._people}; {subject_id} {progress:.0%}"
            typer.echo(f"\r{plain(text)}\x1b[K", err=True, nl=False)

    def tell(self, told: Told) -> None:
        self._told += 1
        if self._line:
            typer.echo("\r\x1b[K", err=True, nl=False)
        if self._json:
            say_json(told)
            return
        what = f"{told.outcome}{' before' if told.before else ''}"
        about = [text for text in (told.at, told.problem, told.saved) if text]
        say(f"{what:<15} {told.subject_id}  {'  '.join(about)}")


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
