"""`sealwire drill …`: what its commands take, and how they tell what they saw."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from sealwire.cli.terminal import EXIT_FAILED, EXIT_USAGE, Json, fail, require_address, say, say_json, why

drill = typer.Typer(help="Take a part away from an installation, and prove what holds.", no_args_is_help=True)


@drill.command("redis-down")
def redis_down(
    fault: Annotated[list[str] | None, typer.Option("--fault", help="What befalls the cache: kill, pause, refuse, "
                     "latency, half-open, wrong, swapped, flapping or all; may be repeated.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="Which server stands in: valkey or redis.")] = "valkey",
    url: Annotated[str, typer.Option("--url", help="Drill this running installation instead of a throwaway one: its "
                   "gateway's address.")] = "",
    control: Annotated[Path | None, typer.Option("--control", help="The control socket of `sealwire drill proxy`, "
                       "which its cache is behind.")] = None,
    cache_url: Annotated[str, typer.Option("--cache-url", envvar="SEALWIRE_DRILL_CACHE_URL", help="Its cache's own "
                         "address, to look into it (default: the proxy's target, database 0).")] = "",
    prefix: Annotated[str, typer.Option("--prefix", help="Its [cache] prefix.")] = "sealwire",
    json: Json = False,
) -> None:  # fmt: skip
    """Take the session cache away; exit 0 only if every step holds.

    Without --url from a throwaway installation, started for it. With --url and --control from one that runs.
    """
    from aiohttp import ClientError

    from sealwire.cli import drill as drills
    from sealwire.testing.engines import FLAVOURS

    known = drills.FAULTS if not url else drills.PROXY_FAULTS
    faults = list(known) if "all" in (fault or ()) else fault or [known[0]]
    if unknown := [name for name in faults if name not in known]:
        fail(f"--fault {unknown[0]}: one of {', '.join(known)} or all", EXIT_USAGE)
    if engine not in FLAVOURS:
        fail(f"--engine {engine}: one of {', '.join(FLAVOURS)}", EXIT_USAGE)
    if bool(url) is not bool(control):
        fail("--url and --control belong together", EXIT_USAGE)
    if url:
        require_address("--url", url)

    def show(result: drills.StepResult) -> None:
        if json:
            say_json(result)
            return
        mark = typer.style("ok    ", fg=typer.colors.GREEN) if result.ok else typer.style("FAILED", fg=typer.colors.RED)
        typer.echo(f"{mark} ", nl=False)
        say(f"{result.fault:<9} {result.name:<66} {result.ms:>8.0f} ms  {result.detail}")

    try:
        if control is not None:
            passed = asyncio.run(drills.live_redis_down(url, control, cache_url, prefix, faults, show))
        else:
            passed = asyncio.run(drills.redis_down(engine, faults, show))
    except BrokenPipeError:
        raise
    except (OSError, RuntimeError, ValueError, ClientError) as error:
        fail(why(error))
    except (KeyError, TypeError):
        fail(f"{url}: its answers are not those of an installation")
    if json:
        say_json({"passed": passed})
    else:
        typer.echo("every step held" if passed else "some steps did not hold")
    raise typer.Exit(0 if passed else EXIT_FAILED)


@drill.command("proxy")
def proxy(
    to: Annotated[str, typer.Option("--to", help="The cache's address: redis://host:port. What stands before an @ "
                  "is not used: clients authenticate through the proxy.")],
    control: Annotated[Path, typer.Option("--control", help="Where its control socket is made.")],
    listen: Annotated[int, typer.Option("--listen", min=0, max=65_535, help="Its port on 127.0.0.1; 0: any.")] = 0,
    json: Json = False,
) -> None:  # fmt: skip
    """Stand between an installation and its cache, for drills on it: name this proxy as its [cache] url."""
    from sealwire.cli.drill_proxy import NoAddress, run_proxy

    def ready(port: int) -> None:
        if json:
            say_json({"listening": f"127.0.0.1:{port}", "control": str(control)})
        else:
            typer.echo(
                f"listening on 127.0.0.1:{port}; `sealwire drill redis-down --url URL --control {control}` uses it"
            )

    try:
        asyncio.run(run_proxy(to, listen, control, ready))
    except NoAddress as error:
        fail(f"--to: {error}", EXIT_USAGE)
    except OSError as error:
        fail(why(error))
