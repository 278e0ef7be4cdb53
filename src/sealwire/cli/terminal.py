"""What commands share: how they are given a data folder, and how they speak."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

EXIT_FAILED = 1
EXIT_USAGE = 2

Data = Annotated[Path, typer.Option("--data", help="The data folder.", envvar="SEALWIRE_SERVER__DATA")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one document a line.")]
DEFAULT_DATA = Path("data")


def fail(text: str, code: int = EXIT_FAILED) -> NoReturn:
    """Say what is wrong on stderr and leave."""
    typer.secho(f"sealwire: {text}", fg=typer.colors.RED, err=True)
    raise typer.Exit(code)


def require_address(option: str, url: str) -> None:
    """Leave with a word of usage where an address is none of http or https."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that don't close, a port that is none
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        fail(f"{option} {url}: an address like http://127.0.0.1:3000", EXIT_USAGE)


def note_of(text: str) -> str:
    """Return a file's signed note: nothing signed depends on how many newlines a shell, or jq, left at the end."""
    return text.rstrip("\r\n") + "\n"


def say_json(value: Any) -> None:
    """Print one JSON document on a line of its own."""
    from sealwire.kit.codec import encode

    sys.stdout.write(encode(value).decode() + "\n")
    sys.stdout.flush()
