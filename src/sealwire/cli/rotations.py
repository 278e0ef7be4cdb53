"""`sealwire keys rotate-signing` and `rotate-checkpoint`: by the installation that runs, or by its next start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sealwire.cli.terminal import DEFAULT_DATA, EXIT_USAGE, Data, Json, fail, require_yes, say_json, why

if TYPE_CHECKING:
    from sealwire.runtime.errands import Errand, Report

ANSWER_TIMEOUT_S = 30.0
Kind = Literal["rotate-signing", "rotate-checkpoint"]


def rotate_signing(
    data: Data = DEFAULT_DATA,
    compromised: Annotated[bool, typer.Option("--compromised", help="The old key counts no longer, at once, and "
                                              "every session of every tenant ends.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Sign access tokens with a new key. Tokens in flight stay good: the old key verifies until the last has ended.

    Exit code 0: done, or queued because nothing runs; which of them, the answer says (--json: `status`).
    """
    _require(data, "auth.db")
    if compromised and not yes:
        require_yes("End every session of every tenant?", otherwise="nothing was changed")
    report = _asked(data, "rotate-signing", compromised=compromised, json=json)
    if report is not None and not json:
        typer.echo(f"published keys: {', '.join(report.key_ids)}")
        typer.echo("every session has ended" if compromised else "the new key signs once verifiers know it")


def rotate_checkpoint(data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Sign checkpoints of every log with a new key, for which the old one vouches: the first key known is enough.

    Exit code 0: done, or queued because nothing runs; which of them, the answer says (--json: `status`).
    """
    _require(data, "compliance.db")
    report = _asked(data, "rotate-checkpoint", compromised=False, json=json)
    if report is not None and not json:
        typer.echo("\n".join(report.key_ids))
        typer.echo(f"{len(report.key_ids)} logs sign with a new key")


def _require(data: Path, database: str) -> None:
    if not (data / database).exists():
        fail(f"{data} is not the data folder of an installation that was started", EXIT_USAGE)


def _asked(data: Path, kind: Kind, *, compromised: bool, json: bool) -> Report | None:
    """Return what the installation reports; None when nothing runs and the rotation is queued, which has been said.

    Leaves with a failure when the rotation failed, or when the installation runs and does not answer.
    """
    from sealwire.runtime import errands
    from sealwire.runtime.settings import is_in_use

    runs = is_in_use(data)
    errand = _queued(data, kind, compromised=compromised, runs=runs)
    report = errands.wait(data, errand, timeout_s=ANSWER_TIMEOUT_S) if runs else None
    status = "queued" if report is None else "failed" if report.error else "done"
    silence = f"the installation has not answered for {ANSWER_TIMEOUT_S:g} s" if runs else ""
    if json:
        told: dict[str, Any] = {"errand_id": errand.errand_id, "status": status}
        told["error"] = silence if report is None else report.error
        told["key_ids"] = [] if report is None else report.key_ids
        say_json(told)
    if silence and report is None:
        fail(f"{silence}: the rotation is queued, and done when it answers, or at its next start")
    if report is None and not json:
        typer.echo("queued: the installation does not run; the rotation is its next start's first work")
        if compromised:
            typer.echo("until then the old key counts where tokens are verified without this installation")
    if report is not None and report.error:
        fail(report.error)
    return report


def _queued(data: Path, kind: Kind, *, compromised: bool, runs: bool) -> Errand:
    """Leave the errand in the data folder; of one that lies there already there is no second."""
    from sealwire.runtime import errands

    try:
        return errands.ask(data, kind, compromised=compromised)
    except FileExistsError as there:
        waits = errands.waiting(data, kind)
        if runs or waits is None:
            fail(str(there))
        if compromised and not waits.compromised:
            fail(f"{data / errands.FOLDER / kind}.json waits already, without --compromised; remove it and ask again")
        return waits
    except OSError as error:
        fail(why(error))
