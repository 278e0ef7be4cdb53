"""What a file or folder given to `sealwire audit verify` is: nothing that is no evidence is called broken evidence."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

from sealwire.cli.terminal import note_of, read_text, why
from sealwire.services.compliance.cut import ends_early
from sealwire.services.compliance.notes import NoteInvalid, VerifierKey, parse_checkpoint, parse_key, parse_note
from sealwire.services.compliance.tile_folder import CHECKPOINT

LOOK_BYTES = 256 * 1024
_BUNDLE_START = b'{"format":"sealwire-evidence/'
_RECORD = re.compile(rb'"(?:prev_hash|audit_id)"\s*:\s*"|"sealwire-audit-export/|^\{"(?:pruned|checkpoint|end)":', re.M)
_FIRST_LINES = (b'{"ma', b'{"ch', b'{"action":"', b'{"pruned":')
_OCSF = b'"class_uid":'
_ARCHIVES = {b"PK": "a ZIP archive", b"\x1f\x8b": "a gzip file", b"7z\xbc\xaf": "a 7z archive", b"BZh": "a bzip2 file"}


class Unreadable(Exception):
    """What was given is not what the option or argument is for: wrong usage, no verdict."""


class Kind(Enum):
    """How evidence comes."""

    EXPORT = "export"
    BUNDLE = "bundle"
    TILES = "tiles"


def kind_of(source: Path) -> Kind:
    """Say what evidence this is, changed though it may be. Raises: Unreadable for what is none; OSError."""
    if source.is_dir():
        if (source / "tile").is_dir() or (source / CHECKPOINT).is_file():
            return Kind.TILES
        raise Unreadable(f"{source}: a folder without log tiles (no `checkpoint`, no `tile`)")
    if source.exists() and not source.is_file():
        raise Unreadable(f"{source}: no file that can be read twice; save what it gives in one")
    with source.open("rb") as file:
        start = file.read(LOOK_BYTES)
    if not start.strip():
        raise Unreadable(f"{source}: empty, so no audit export")
    if start.startswith(_BUNDLE_START) or _BUNDLE_START.startswith(start):
        return Kind.BUNDLE
    if b"\n" not in start and start.startswith(_FIRST_LINES) and ends_early(start):
        return Kind.EXPORT  # cut, before what tells it from anything else
    for mark, name in _ARCHIVES.items():
        if start.startswith(mark):
            raise Unreadable(f"{source}: {name}, no audit export; unpack it first")
    if _RECORD.search(start) is None or (_OCSF in start and b'"prev_hash"' not in start):
        what = "events for a SIEM, which carry no hashes" if _OCSF in start else "no audit export or bundle of evidence"
        raise Unreadable(f"{source}: {what}; `sealwire audit export` and `audit bundle` make what can be verified")
    return Kind.EXPORT


def read_key(path: Path) -> VerifierKey:
    """Read a public key line from a file. Raises: Unreadable."""
    try:
        return parse_key(read_text(path).strip())
    except OSError as error:
        raise Unreadable(why(error)) from None
    except (NoteInvalid, ValueError) as error:
        raise Unreadable(f"{path}: not a public key line: {error}") from None


def read_checkpoint(path: Path) -> str:
    """Read a signed checkpoint from a file; who signed it is not looked at. Raises: Unreadable."""
    text = ""
    try:
        text = read_text(path)
        note = note_of(text)
        parse_checkpoint(parse_note(note).text)
    except OSError as error:
        raise Unreadable(why(error)) from None
    except (NoteInvalid, ValueError) as error:
        cut = " (the file ends in the middle of a line: it may have been cut)" if text and text[-1] != "\n" else ""
        raise Unreadable(f"{path}: not a signed checkpoint: {error}{cut}") from None
    return note
