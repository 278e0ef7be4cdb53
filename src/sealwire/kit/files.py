"""Files that are whole or not there, and durable when a call returns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_all(handle: int, content: bytes | bytearray) -> None:
    """Write all of it, however often the system takes a part only. Raises: OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a new or renamed file is there after a crash. Raises: OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put a file in place with all of its content, durably, or leave what was there. One writer at a time.

    Raises: OSError.
    """
    draft = path.with_name(f".{path.name}.new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(handle, content)
            os.fsync(handle)
        finally:
            os.close(handle)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)  # a full disk needs no half of a file beside
        raise
    sync_folder(path.parent)


def count_in_files(paths: Iterable[Path], needles: Sequence[bytes], *, chunk_bytes: int = 1 << 17) -> int:
    """Return how often any of these byte strings stands in files, or in all files of folders. Reads; for a thread.

    Memory stays flat in the size of a file. A file that went away meanwhile holds nothing.
    """
    wanted = [needle for needle in needles if needle]
    if not wanted:
        return 0
    longest, found = max(map(len, wanted)), 0
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if not file.is_file():
                continue
            try:
                with file.open("rb") as source:
                    tail = b""
                    while chunk := source.read(chunk_bytes):
                        text = tail + chunk
                        # What lies in the tail altogether was counted with the chunk before.
                        found += sum(text.count(needle) - tail.count(needle) for needle in wanted)
                        tail = text[-(longest - 1) :] if longest > 1 else b""
            except FileNotFoundError:
                continue
    return found
