"""Rules of files, pure: names, types, states."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum
from typing import Final
from urllib.parse import quote

MAX_NAME_BYTES: Final = 255
PERSONAL: Final = "personal"
"""The scope of data keys for files of no conversation."""
_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,62}")
_UNSAFE: Final = re.compile(r'[\\/:*?"<>|]')


class FileState(StrEnum):
    """Where a file is: `open` takes bytes; `partial` is complete and waits to be joined with others."""

    OPEN = "open"
    PARTIAL = "partial"
    SCANNING = "scanning"
    CLEAN = "clean"
    QUARANTINED = "quarantined"


def safe_name(name: str) -> str:
    """Return a file name without path, control characters, direction marks and what file systems refuse.

    At most 255 bytes of UTF-8, keeping a short extension; `file` when nothing is left.
    """
    name = re.split(r"[\\/]", unicodedata.normalize("NFC", name))[-1]
    name = "".join(ch for ch in name if unicodedata.category(ch) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))
    name = _UNSAFE.sub("_", name).strip(" .")
    while len(name.encode()) > MAX_NAME_BYTES:
        stem, dot, extension = name.rpartition(".")
        name = stem[:-1] + dot + extension if dot and stem and len(extension) <= 16 else name[:-1]
    return name or "file"


def content_disposition(name: str) -> str:
    """Return the header that makes a browser save the file under this name (RFC 6266, RFC 8187)."""
    plain = "".join(ch if " " <= ch <= "~" and ch not in '"\\%' else "_" for ch in name)
    header = f'attachment; filename="{plain}"'
    return header if plain == name else f"{header}; filename*=UTF-8''{quote(name, safe='')}"


def media_type(text: str) -> str:
    """Return a content type in lower case without parameters; empty for what is none."""
    kind = text.partition(";")[0].strip().lower()
    return kind if _TYPE.fullmatch(kind) else ""
