"""What was saved of an audit log: read back from the file itself, and told."""

from __future__ import annotations

import os
from hashlib import file_digest
from io import BufferedRandom
from pathlib import Path

import msgspec
import typer

from sealwire.cli.terminal import say, say_json
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


def saved_export(draft: BufferedRandom, file: Path) -> Saved:
    """Return what an export, to be put at `file`, holds, as its last line says. Raises: Cut when it is not whole."""
    size = draft.seek(0, os.SEEK_END)
    draft.seek(max(0, size - _TAIL_BYTES))
    tail = draft.read()
    last = tail[:-1].rpartition(b"\n")[2]
    try:
        end = msgspec.json.decode(last, type=_EndLine).end
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        end = None
    if end is None or not tail.endswith(b"\n"):
        raise Cut("the export ends before its last line")
    return Saved(path=str(file), records=end.records, size_bytes=size, sha256=_digest(draft))


def saved_bundle(draft: BufferedRandom, file: Path) -> Saved:
    """Return what a bundle of evidence, to be put at `file`, holds. Raises: Cut when it is not whole."""
    draft.seek(0)
    try:
        records = count_exhibits(draft)
    except BundleCut:
        raise Cut("the bundle ends before its end") from None
    return Saved(path=str(file), records=records, size_bytes=draft.seek(0, os.SEEK_END), sha256=_digest(draft))


def saved_tiles(folder: Path, records: int) -> Saved:
    """Return what a folder of tiles holds."""
    files = [path for path in (folder / "tile").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return Saved(path=str(folder), records=records, size_bytes=size, files=len(files))


def tell(saved: Saved, *, as_json: bool) -> None:
    """Tell what was written where."""
    if as_json:
        say_json(saved)
        return
    what = f"{saved.files:,} files, " if saved.files else ""
    typer.secho("saved", fg=typer.colors.GREEN, nl=False)
    say(f"  {saved.path}: {saved.records:,} records, {what}{saved.size_bytes:,} bytes")
    if saved.sha256:
        say(f"  sha256 {saved.sha256}")


def _digest(draft: BufferedRandom) -> str:
    draft.seek(0)
    return file_digest(draft, "sha256").hexdigest()
