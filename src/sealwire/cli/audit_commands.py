"""`sealwire audit …`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sealwire.cli.terminal import EXIT_USAGE, Json, fail, require_address, require_token, say, say_json, why

if TYPE_CHECKING:
    from io import BufferedRandom

    from sealwire.cli.audit_live import LiveLog
    from sealwire.cli.audit_saved import Saved

BUSY = 503
DAMAGED = "audit_log_broken"
BUSY_ATTEMPTS = 5
BUSY_WAIT_S = 2.0

audit = typer.Typer(help="The audit log.", no_args_is_help=True)

Url = Annotated[str | None, typer.Option("--url", help="The gateway's address.")]
Token = Annotated[
    str | None, typer.Option("--token", help="Access token of an auditor.", envvar="SEALWIRE_TOKEN", show_envvar=True)
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Whose log, for operators: anonymous or system.")]
Output = Annotated[Path, typer.Argument(help="The file to write.", dir_okay=False)]


@audit.command("verify")
def audit_verify(
    source: Annotated[
        Path | None, typer.Argument(help="An export (NDJSON), a folder of tiles, or a bundle of evidence.", exists=True)
    ] = None,
    url: Url = None,
    token: Token = None,
    tenant: Tenant = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="File with the log's first public key line.", exists=True)
    ] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="File with a signed note you hold.", exists=True)
    ] = None,
    witness: Annotated[
        list[Path] | None, typer.Option("--witness", help="File with the key line of a witness.", exists=True)
    ] = None,
    json: Json = False,
) -> None:
    """Verify a log: chain, tree, signed checkpoints. Trusts the public key alone; names the first bad record.

    Exit code 0: it holds; 1: it does not, nobody signed it, or not all is shown; 2: wrong usage, or no evidence at all.
    """
    from sealwire.cli.audit import verify_source

    if (source is None) == (url is None):
        fail("give either a file or folder, or --url", EXIT_USAGE)
    found = source if source is not None else live(url, token, tenant)
    code = verify_source(found, key=key, checkpoints=checkpoint or [], witnesses=witness or [], as_json=json)
    raise typer.Exit(code)


@audit.command("export")
def audit_export(
    file: Output,
    url: Url = None,
    token: Token = None,
    tenant: Tenant = None,
    from_seq: Annotated[int | None, typer.Option("--from-seq", min=1)] = None,
    to_seq: Annotated[int | None, typer.Option("--to-seq", min=1)] = None,
    json: Json = False,
) -> None:
    """Save the log, or a range of it, as NDJSON with its manifest. Says what was written where."""
    from sealwire.cli.audit_saved import saved_export

    log = live(url, token, tenant)
    asked = {k: str(v) for k, v in {"from_seq": from_seq, "to_seq": to_seq}.items() if v is not None}

    def save(draft: BufferedRandom) -> Saved:
        log.export(asked, draft)
        return saved_export(draft, file)

    _save(lambda: _whole(file, save), file, json=json)


@audit.command("bundle")
def audit_bundle(
    file: Output,
    url: Url = None,
    token: Token = None,
    tenant: Tenant = None,
    from_seq: Annotated[int | None, typer.Option("--from-seq", min=1)] = None,
    to_seq: Annotated[int | None, typer.Option("--to-seq", min=1)] = None,
    actor: Annotated[str | None, typer.Option("--actor", help="Only records of this actor's id.")] = None,
    action: Annotated[str | None, typer.Option("--action", help="Only records of this action.")] = None,
    resource_type: Annotated[str | None, typer.Option("--resource-type")] = None,
    resource_id: Annotated[str | None, typer.Option("--resource-id")] = None,
    outcome: Annotated[str | None, typer.Option("--outcome")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Not before this time (RFC 3339).")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Before this time (RFC 3339).")] = None,
    json: Json = False,
) -> None:
    """Save evidence in one file: records, their proofs, the signed checkpoint, the public keys.

    Asks for a token of a session that proved who it is within the last 15 minutes. Says what was written where.
    """
    from sealwire.cli.audit_saved import saved_bundle

    log = live(url, token, tenant)
    query = {
        "from_seq": from_seq, "to_seq": to_seq, "actor": actor, "action": action, "resource_type": resource_type,
        "resource_id": resource_id, "outcome": outcome, "from": since, "to": until,
    }  # fmt: skip
    asked = {k: str(v) for k, v in query.items() if v is not None}

    def save(draft: BufferedRandom) -> Saved:
        log.evidence(asked, draft)
        return saved_bundle(draft, file)

    _save(lambda: _whole(file, save), file, json=json)


@audit.command("mirror")
def audit_mirror(
    folder: Annotated[Path, typer.Argument(help="The folder; what is there already stays.", file_okay=False)],
    url: Url = None,
    token: Token = None,
    tenant: Tenant = None,
    json: Json = False,
) -> None:
    """Save the log as a folder of C2SP tlog tiles, or bring such a folder up to date. Says what was written where."""
    from sealwire.cli.audit_saved import saved_tiles

    log = live(url, token, tenant)
    _save(lambda: saved_tiles(folder, log.mirror(folder)), folder, json=json)


@audit.command("cosign")
def audit_cosign(
    note: Annotated[
        Path | None, typer.Argument(help="A checkpoint with witnesses' cosignatures under it.", exists=True)
    ] = None,
    witness: Annotated[
        str | None, typer.Option("--witness", help="Submission prefix of a C2SP tlog-witness, asked to cosign.")
    ] = None,
    url: Url = None,
    token: Token = None,
    tenant: Tenant = None,
    json: Json = False,
) -> None:
    """Have a witness cosign the newest checkpoint, or hand in a checkpoint that witnesses cosigned.

    Exit code 0: the installation keeps the cosignatures; 1: it or the witness refuses; 2: wrong usage.
    """
    from sealwire.cli.audit_source import Unreadable, read_checkpoint
    from sealwire.cli.audit_witness import ask_witness

    if (note is None) == (witness is None):
        fail("give either a file, or --witness", EXIT_USAGE)
    log = live(url, token, tenant)
    if witness is not None:
        require_address("--witness", witness)
    try:
        kept = log.cosign(read_checkpoint(note)) if note is not None else ask_witness(log, witness or "")
    except Unreadable as error:
        fail(str(error), EXIT_USAGE)
    except OSError as error:
        fail(why(error))
    if json:
        say_json(kept)
        return
    for name, at_s in kept.witnesses.items():
        say(f"cosigned by {name} at {at_s} (Unix time): seq 1 to {kept.tree_size}")


def live(url: str | None, token: str | None, tenant: str | None) -> LiveLog:
    """Return the log behind an address. Leaves where address or token can be none."""
    from sealwire.cli.audit_live import LiveLog

    if url is None or token is None:
        fail("give --url and --token (or SEALWIRE_TOKEN)", EXIT_USAGE)
    require_address("--url", url)
    require_token(token)
    return LiveLog(url, token, tenant_id=tenant)


def _whole(file: Path, save: Callable[[BufferedRandom], Saved]) -> Saved:
    """Put a file in place once all of it has come, and is what it should be."""
    from sealwire.cli.draft import drafted

    with drafted(file) as draft:
        return save(draft)


def _save(save: Callable[[], Saved], place: Path, *, json: bool) -> None:
    """Save, trying again for a while where the installation is busy; say what was written, or that nothing was."""
    from time import sleep

    from sealwire.cli.audit_live import OtherLog, Refused
    from sealwire.cli.audit_saved import Cut, tell
    from sealwire.cli.draft import NoFile

    for left in range(BUSY_ATTEMPTS - 1, -1, -1):
        try:
            saved = save()
            break
        except OtherLog as error:
            fail(f"{error}\nnothing was saved; choose another folder")
        except Refused as error:
            damaged = error.code == DAMAGED
            if damaged or error.status != BUSY or not left:
                fail(f"{why(error)}\n{_kept(place, again=not damaged)}")
        except Cut as error:
            fail(f"{place}: {error}\n{_kept(place)}")
        except NoFile as error:
            fail(str(error), EXIT_USAGE)
        except OSError as error:
            what = why(error)
            fail(f"{what if str(place) in what else f'{place}: {what}'}\n{_kept(place)}")
        sleep(BUSY_WAIT_S)
    tell(saved, as_json=json)


def _kept(place: Path, *, again: bool = True) -> str:
    """Say what is there after a failure, and what to do where asking again may help."""
    from os.path import exists, isdir  # these say no where pathlib's raise

    if isdir(place) and not _is_empty(place):
        return f"what {place} holds is whole" + ("; ask again, and it goes on from there" if again else "")
    kept = f"{place} is as it was before" if exists(place) and not isdir(place) else "nothing was saved"
    return f"{kept}; ask again" if again else kept


def _is_empty(folder: Path) -> bool:
    """Whether a folder, perhaps made just now, holds nothing. One that can't be read may hold anything."""
    try:
        return not any(folder.iterdir())
    except OSError:
        return False
