"""The `sealwire` command."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from sealwire import __version__
from sealwire.cli.audit_commands import audit
from sealwire.cli.drill_commands import drill
from sealwire.cli.gdpr import gdpr
from sealwire.cli.keys import migrate_provider, rewrap
from sealwire.cli.legacy import legacy
from sealwire.cli.rotations import rotate_checkpoint, rotate_signing
from sealwire.cli.tenants import operator, tenant
from sealwire.cli.terminal import (
    DEFAULT_DATA,
    EXIT_FAILED,
    EXIT_USAGE,
    Data,
    Json,
    complain,
    fail,
    plain,
    require_address,
    require_token,
    require_yes,
    say,
    say_json,
    why,
)

app = typer.Typer(
    name="sealwire",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
keys = typer.Typer(help="Keys of the installation.", no_args_is_help=True)
app.add_typer(audit, name="audit")
app.add_typer(gdpr, name="gdpr")
app.add_typer(keys, name="keys")
keys.command("migrate-provider")(migrate_provider)
keys.command("rewrap")(rewrap)
app.add_typer(drill, name="drill")

app.add_typer(tenant, name="tenant")
app.add_typer(operator, name="operator")
app.add_typer(legacy, name="legacy")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sealwire {__version__}")
        raise typer.Exit


@app.callback()
def sealwire(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", callback=_version,
                                          is_eager=True)] = False,
) -> None:  # fmt: skip
    """A self-hosted, multi-tenant, secure messaging backend."""


@app.command()
def up(
    data: Annotated[Path | None, typer.Option("--data", help="The data folder (default: data).")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on (default: 127.0.0.1).")] = None,
    port_base: Annotated[int | None, typer.Option("--port-base", help="The gateway's port; others follow.")] = None,
    expose_services: Annotated[bool | None, typer.Option("--expose-services", help="Open all service ports.")] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Remove the data first, after asking.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Start every service in this process and serve until told to stop."""
    gc.disable()  # nothing of what a start imports and makes is garbage: a fifth of its time (settle_collector enables)
    from sealwire.kit.config import SettingError
    from sealwire.runtime import settings as runtime_settings
    from sealwire.runtime.supervisor import StartFailed, run

    flags = {"server": {"data": data and str(data), "host": host, "port_base": port_base,
                        "expose_services": expose_services}}  # fmt: skip
    try:
        settings, _ = runtime_settings.load(flags=flags)
        folder = Path(settings.server.data)
        if clean and folder.exists():
            if not yes:
                question = f"Remove {folder.resolve()} with all messages, keys and audit records?"
                require_yes(question, otherwise="nothing was removed")
            runtime_settings.remove_data(folder)
        code = run(settings, as_json=json)
    except (SettingError, StartFailed) as error:
        fail(str(error))
    raise typer.Exit(code)


@app.command()
def config(
    data: Annotated[Path | None, typer.Option("--data", help="The data folder.")] = None, json: Json = False
) -> None:
    """Print every setting: value, where it came from, meaning and range."""
    from sealwire.kit.config import SettingError
    from sealwire.runtime import settings as runtime_settings

    try:
        _, found = runtime_settings.load(flags={"server": {"data": data and str(data)}})
    except SettingError as error:
        fail(str(error))
    if json:
        for setting in found:
            say_json(setting)
        return
    section = ""
    for setting in found:
        if (head := setting.name.partition(".")[0]) != section:
            section = head
            typer.secho(f"\n[{section}]", bold=True)
        colour = None if setting.origin == "default" else typer.colors.GREEN
        typer.secho(plain(f"{setting.name.partition('.')[2]} = {setting.value!r}"), fg=colour, nl=False)
        say(f"   # {setting.meaning} ({setting.allowed}; from {setting.origin})")


@app.command()
def check(
    url: Annotated[str | None, typer.Option("--url", help="The gateway's address.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The data folder, to find the address in.")] = None,
    token: Annotated[str | None, typer.Option("--token", help="Access token of an owner or admin.",
                                              envvar="SEALWIRE_TOKEN")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Run the self-test against a running installation; exit 0 only if every check passes."""
    from sealwire.cli.check import CheckResult, self_test

    if url is not None:
        require_address("--url", url)
    if token is not None:
        require_token(token)
    address = url or _address(data)

    def show(result: CheckResult) -> None:
        if json:
            say_json(result)
            return
        mark = typer.style("ok    ", fg=typer.colors.GREEN) if result.ok else typer.style("FAILED", fg=typer.colors.RED)
        typer.echo(f"{mark} ", nl=False)
        say(f"{result.name:<28} {result.ms:>8.1f} ms  {result.detail}")

    passed = asyncio.run(self_test(address, token, show))
    if json:
        say_json({"passed": passed})
    else:
        typer.echo("all checks passed" if passed else "some checks failed")
    raise typer.Exit(0 if passed else EXIT_FAILED)


def _address(data: Path | None) -> str:
    """Return where the installation of a data folder serves; of none that is named or here, where one usually does."""
    from sealwire.runtime import settings as runtime_settings

    folder = data or DEFAULT_DATA
    if not (folder / runtime_settings.MARKER).exists():
        if data is None:
            return "http://127.0.0.1:3000"
        fail(f"{data} holds no installation; give the folder of one that runs, or --url", EXIT_USAGE)
    if not runtime_settings.is_in_use(folder):
        fail(f"the installation in {folder} does not run; `sealwire up` starts it")
    if (address := runtime_settings.running_url(folder)) is None:
        fail(f"the installation in {folder} is starting or stopping; ask again in a moment")
    return address


@keys.command("init")
def keys_init(
    kek: Annotated[Path | None, typer.Option("--kek", help="Where the key-encryption key is to be kept.")] = None,
    pkcs11: Annotated[bool, typer.Option("--pkcs11", help="It is kept in the token that the settings name.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Keep the key-encryption key outside of the data folder: marks the installation as production."""
    from sealwire.kit.config import SettingError
    from sealwire.runtime import settings as runtime_settings
    from sealwire.services.crypto.providers import KekUnusable

    if (kek is None) is not pkcs11:
        fail("either --kek PATH or --pkcs11", EXIT_USAGE)
    try:
        runtime_settings.mark_production(data, kek)
    except (SettingError, KekUnusable, OSError) as error:
        fail(why(error))
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
    where = f"{kek.resolve()} (back it up apart from the data)" if kek else "made in the token at the first start"
    say(f"key-encryption key: {where}; the installation is production")


keys.command("rotate-signing")(rotate_signing)
keys.command("rotate-checkpoint")(rotate_checkpoint)


def main() -> int:
    """Run the command; the exit code is 0, 1 (failed) or 2 (wrong usage), or 128 and the signal that ended it."""
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is signal.SIG_DFL:  # a drafted file is taken away, what was begun is ended
            signal.signal(name, _end)
    if sys.stdout is None:  # closed by who started this: nobody reads
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    code = EXIT_FAILED
    try:
        app(prog_name="sealwire")
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else EXIT_FAILED
        if code == 128 + signal.SIGINT:
            complain("interrupted")
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
        complain("interrupted")
    except OSError as error:  # commands tell of files by name: without one it is what they print to
        complain(why(error) if error.filename is not None else f"what is to be printed can't be: {why(error)}")
    except Exception as error:
        if type(error).__module__ == "apsw":
            complain(f"a database in the data folder can't be used: {error}")
            return code
        logging.getLogger("sealwire.cli").debug("a fault", exc_info=True)
        complain(f"a fault of sealwire itself: {type(error).__name__} at {_place(error)}; please report it")
    return code if _flushed() else max(code, EXIT_FAILED)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _flushed() -> bool:
    """Write out what waits for stdout; where that fails say so, and let the rest go."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough
        pass
    except OSError as error:
        complain(f"what is to be printed can't be: {why(error)}")
    else:
        return True
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return False


def _place(error: Exception) -> str:
    """Say where an error arose, without what it says: that may hold what is nobody's business."""
    from traceback import extract_tb

    frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
    return " < ".join(reversed(frames[-4:]))


if __name__ == "__main__":
    sys.exit(main())
