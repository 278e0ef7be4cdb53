"""What commands share: how they are given a data folder, and how they speak."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

EXIT_FAILED = 1
EXIT_USAGE = 2
MOST_TEXT_BYTES = 1 << 20
"""Longer than any key, note or certificate in a file for people."""

Data = Annotated[Path, typer.Option("--data", help="The data folder.", envvar="SEALWIRE_SERVER__DATA")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one document a line.")]
DEFAULT_DATA = Path("data")


def plain(text: str) -> str:
    """Return a text as a terminal may show it: what would move its cursor, or is no character, as an escape.

    Names in evidence, of files and of people are others' to choose; a line of ours must not be theirs to overwrite.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def say(text: str, *, nl: bool = True) -> None:
    """Print a line on stdout."""
    typer.echo(plain(text), nl=nl)


def fail(text: str, code: int = EXIT_FAILED) -> NoReturn:
    """Say what is wrong on stderr and leave."""
    complain(text)
    raise typer.Exit(code)


def complain(text: str) -> None:
    """Say what is wrong on stderr; where nobody can be told any more, nobody is."""
    with suppress(OSError):
        typer.secho("sealwire: " + "\n".join(map(plain, text.split("\n"))), fg=typer.colors.RED, err=True)


def why(error: Exception) -> str:
    """Return what an error says to people: of the system, which file and what, without its number."""
    if isinstance(reason := getattr(error, "reason", None), Exception):  # what urllib wraps
        return why(reason)
    if isinstance(error, OSError) and error.strerror:
        of = "" if error.filename is None else f"{Path(error.filename)}: "
        return f"{of}{error.strerror}"
    return str(error) or type(error).__name__


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


def require_token(token: str) -> None:
    """Leave with a word of usage where an access token can be none; the token itself is never said."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        fail("--token: an access token is one word of plain ASCII", EXIT_USAGE)


def require_yes(question: str, *, otherwise: str) -> None:
    """Ask, and leave unless the answer is yes; `otherwise` says what was left alone."""
    try:
        agreed = typer.confirm(plain(question))
    except typer.Abort:
        typer.echo(err=True)
        fail(f"{otherwise}: nobody answered; --yes does not ask", EXIT_USAGE)
    if not agreed:
        fail(otherwise, EXIT_USAGE)


def read_text(path: Path) -> str:
    """Read a file of a key, a note or a certificate. Raises: OSError; ValueError for what is no text, or too long."""
    with path.open("rb") as file:
        content = file.read(MOST_TEXT_BYTES + 1)
    if len(content) > MOST_TEXT_BYTES:
        raise ValueError("the file is far too long")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("the file is no text") from None


def note_of(text: str) -> str:
    """Return a file's signed note: nothing signed depends on how many newlines a shell, or jq, left at the end."""
    return text.rstrip("\r\n") + "\n"


def say_json(value: Any) -> None:
    """Print one JSON document on a line of its own. Names of files that are no text are escaped: JSON is UTF-8."""
    import msgspec

    from sealwire.kit.codec import encode

    try:
        text = encode(value)
    except UnicodeEncodeError:
        text = encode(_readable(msgspec.to_builtins(value)))
    sys.stdout.write(text.decode() + "\n")
    sys.stdout.flush()


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_readable(name): _readable(member) for name, member in value.items()}
    return [_readable(member) for member in value] if isinstance(value, list) else value
