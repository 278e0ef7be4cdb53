"""`sealwire keys …` for long work: moving keys to another provider, and to the newest versions of what wraps them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sealwire.cli.terminal import DEFAULT_DATA, EXIT_USAGE, Data, Json, fail, say_json

if TYPE_CHECKING:
    from sealwire.runtime.key_jobs import JobState, KeyJob
    from sealwire.runtime.key_provider import Place
    from sealwire.runtime.settings import Settings
    from sealwire.services.crypto.rewrapping import Progress

BEGUN_WITHIN_S = 15.0


def migrate_provider(
    to: Annotated[str, typer.Option("--to", help="file or pkcs11.")],
    kek: Annotated[Path | None, typer.Option("--kek", help="Where the new key file is, or is to be made.")] = None,
    module: Annotated[str | None, typer.Option("--module", help="PKCS#11 library (default: the setting).")] = None,
    token: Annotated[str | None, typer.Option("--token", help="Label of the token (default: the setting).")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Label of the key in it (default: the setting).")] = None,
    pin: Annotated[str | None, typer.Option("--pin", help="Where the PIN is, file:PATH or env:NAME; never it.")] = None,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Move all keys under another key-encryption key: file to token, back, or to a new file. While it runs, or not."""
    from sealwire.kit.config import SettingError
    from sealwire.runtime import settings as runtime_settings
    from sealwire.runtime.key_provider import file_place, token_place

    if to not in ("file", "pkcs11"):
        fail("--to: file or pkcs11", EXIT_USAGE)
    if (to == "file") is not (kek is not None):
        fail("--kek goes with --to file, and names the new key file", EXIT_USAGE)
    if pin is not None and not pin.startswith(("file:", "env:")):
        fail("--pin: where the PIN is, file:PATH or env:NAME; never the PIN itself", EXIT_USAGE)
    members = {"pkcs11_module": module, "pkcs11_token": token, "pkcs11_key": key, "pkcs11_pin": pin}
    try:
        settings, _ = runtime_settings.load(flags={"server": {"data": str(data)}, "crypto": members})
        place = file_place(kek) if kek is not None else token_place(settings.crypto)
        production = runtime_settings.installation(data) is not None
    except SettingError as error:
        fail(str(error), EXIT_USAGE)
    if kek is not None and production and Path(place.kek).is_relative_to(data.resolve()):
        fail(f"{kek} lies in the data folder; whoever copies the data would have the key as well", EXIT_USAGE)
    ended = _do(settings, "migrate-provider", place, as_json=json)
    if not json:
        typer.echo(f"{ended.done} key{'s' * (ended.done != 1)} moved and proven, the installation's own among them")
        for name in ended.left:
            typer.echo(f"damaged, and left under the old key-encryption key: {name}")
        typer.echo("nothing here that opens needs the old key-encryption key any more")
        typer.echo("keep it as long as you keep backups made before")


def rewrap(data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Move the stored keys of all tenants to the newest versions of what wraps them (after rotations)."""
    from sealwire.kit.config import SettingError
    from sealwire.runtime import settings as runtime_settings

    try:
        settings, _ = runtime_settings.load(flags={"server": {"data": str(data)}})
    except SettingError as error:
        fail(str(error), EXIT_USAGE)
    ended = _do(settings, "rewrap", None, as_json=json)
    if not json:
        typer.echo(f"{ended.done} key{'s' * (ended.done != 1)} moved")


def _do(
    settings: Settings, kind: Literal["migrate-provider", "rewrap"], place: Place | None, *, as_json: bool
) -> JobState:
    """Have the installation that runs do it, or do it here when none does."""
    from sealwire.kit.config import SettingError
    from sealwire.runtime import key_jobs
    from sealwire.runtime.settings import is_in_use
    from sealwire.services.crypto.providers import KekUnusable

    data = settings.data
    if not (data / "crypto.db").exists():
        fail(f"{data} is not the data folder of an installation that was started", EXIT_USAGE)
    try:
        job = key_jobs.ask(data, kind, place)
    except OSError as error:
        fail(str(error))

    def show(progress: Progress) -> None:
        if as_json:
            say_json(progress)
        elif progress.total:
            end = "\r" if sys.stdout.isatty() else "\n"
            sys.stdout.write(f"{progress.step} {progress.done} of {progress.total}   {end}")
            sys.stdout.flush()

    if is_in_use(data):
        ended = key_jobs.wait(data, job, begun_within_s=BEGUN_WITHIN_S, show=show)
    else:
        try:
            ended = asyncio.run(_alone(settings, job, show))
        except (SettingError, KekUnusable, OSError) as error:
            if key_jobs.state(data, job) is None:  # nobody began it: it must not stand in the way of the next one
                (data / "keys" / key_jobs.JOB).unlink(missing_ok=True)
            fail(str(error))
    if ended is None:
        fail("the installation does not answer; nothing was changed")
    if as_json:
        say_json(ended)
    if ended.error:
        fail(ended.error)
    return ended


async def _alone(settings: Settings, job: KeyJob, show: Callable[[Progress], None]) -> JobState | None:
    """Open the keys in this process, without a port, and wait for the job."""
    from sealwire.kit.dumps import forbid_dumps
    from sealwire.runtime import key_jobs
    from sealwire.runtime.assembly import Assembly

    forbid_dumps()
    assembly = Assembly(settings=settings)
    steps = {name: run for name, run, _ in assembly.steps()}
    try:
        for name in ("data folder", "key-encryption key", "service crypto"):
            await steps[name]()
        return await asyncio.to_thread(key_jobs.wait, settings.data, job, begun_within_s=BEGUN_WITHIN_S, show=show)
    finally:
        await assembly.stop()
