"""`sealwire keys rotate-signing` and `rotate-checkpoint`: by the installation that runs, or by its next start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sealwire.cli.terminal import DEFAULT_DATA, EXIT_USAGE, Data, Json, fail, say_json

if TYPE_CHECKING:
    from sealwire.runtime.errands import Report

ANSWER_TIMEOUT_S = 30.0


def rotate_signing(
    data: Data = DEFAULT_DATA,
    compromised: Annotated[bool, typer.Option("--compromised", help="The old key counts no longer, at once, and "
                                              "every session of every tenant ends.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Sign access tokens with a new key. Tokens in flight stay good: the old key verifies until the last has ended."""
    _require(data, "auth.db")
    if compromised and not yes and not typer.confirm("End every session of every tenant?"):
        fail("nothing was changed", EXIT_USAGE)
    report = _asked(data, "rotate-signing", compromised=compromised, json=json)
    if not json:
        typer.echo(f"published keys: {', '.join(report.key_ids)}")
        typer.echo("every session has ended" if compromised else "the new key signs once verifiers know it")


def rotate_checkpoint(data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Sign checkpoints of every log with a new key, for which the old one vouches: the first key known is enough."""
    _require(data, "compliance.db")
    report = _asked(data, "rotate-checkpoint", compromised=False, json=json)
    if not json:
        typer.echo("\n".join(report.key_ids))
        typer.echo(f"{len(report.key_ids)} logs sign with a new key")


def _require(data: Path, database: str) -> None:
    if not (data / database).exists():
        fail(f"{data} is not the data folder of an installation that was started", EXIT_USAGE)


def _asked(
    data: Path, kind: Literal["rotate-signing", "rotate-checkpoint"], *, compromised: bool, json: bool
) -> Report:
    """Return what the installation reports; leave with a failure when nothing runs: the next start sees to it."""
    from sealwire.runtime import errands
    from sealwire.runtime.settings import is_in_use

    try:
        errand = errands.ask(data, kind, compromised=compromised)
    except OSError as error:
        fail(str(error))
    runs = is_in_use(data)
    report = errands.wait(data, errand, timeout_s=ANSWER_TIMEOUT_S) if runs else None
    if json:
        say_json(report or errands.Report(errand_id=errand.errand_id, error="waits for the next start"))
    if report is None:
        why = "the installation does not answer" if runs else "the installation does not run"
        fail(f"{why}: the rotation waits in the data folder and is the next start's first work")
    if report.error:
        fail(report.error)
    return report
