"""What was saved of an audit log: read back from the file itself, and told."""

from __future__ import annotations

from hashlib import file_digest
from pathlib import Path

import msgspec
import typer

from sealwire.cli.terminal import say_json
from sealwire.kit.codec import encode
from sealwire.services.compliance.bundle_file import BundleCut, count_exhibits

_TAIL_BYTES = 4096


class Saved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a command wrote where. `sha256` of a file; of a folder `files` says how many tiles and entries it has."""

    path: str
    records: int
    size_bytes: int
    sha256: str = ""
    files: int = 0


class Cut(Exception):
    """What arrived is not whole."""


class _End(msgspec.Struct, frozen=True):
    records: int


class _EndLine(msgspec.Struct, frozen=True):
    end: _End


def saved_export(file: Path) -> Saved:
    """Return what an export holds, as its last line says. Raises: Cut when that line is missing."""
    size = file.stat().st_size
    with file.open("rb") as source:
        source.seek(max(0, size - _TAIL_BYTES))
        last = source.read().rstrip(b"\n").rpartition(b"\n")[2]
    try:
        end = msgspec.json.decode(last, type=_EndLine).end
    except msgspec.MsgspecError:
        raise Cut(f"{file}: the export ends before its last line") from None
    return Saved(path=str(file), records=end.records, size_bytes=size, sha256=_digest(file))


def saved_bundle(file: Path) -> Saved:
    """Return what a bundle of evidence holds. Raises: Cut when it is not whole."""
    try:
        with file.open("rb") as source:
            records = count_exhibits(source)
    except BundleCut:
        raise Cut(f"{file}: the bundle is not whole") from None
    return Saved(path=str(file), records=records, size_bytes=file.stat().st_size, sha256=_digest(file))


def saved_tiles(folder: Path, records: int) -> Saved:
    """Return what a folder of tiles holds."""
    files = [path for path in (folder / "tile").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return Saved(path=str(folder), records=records, size_bytes=size, files=len(files))


def say(saved: Saved, *, as_json: bool) -> None:
    """Tell what was written where."""
    if as_json:
        say_json(msgspec.json.decode(encode(saved)))
        return
    what = f"{saved.files:,} files, " if saved.files else ""
    typer.secho("saved", fg=typer.colors.GREEN, nl=False)
    typer.echo(f"  {saved.path}: {saved.records:,} records, {what}{saved.size_bytes:,} bytes")
    if saved.sha256:
        typer.echo(f"  sha256 {saved.sha256}")


def _digest(file: Path) -> str:
    with file.open("rb") as source:
        return file_digest(source, "sha256").hexdigest()
