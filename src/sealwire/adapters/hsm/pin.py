"""Where a token's PIN is: in a file of its owner's or in the environment, and nowhere else."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sealwire.kit.files import write_whole
from sealwire.services.crypto.providers import KekUnusable

_MOST_BYTES = 1024


class PinUnusable(KekUnusable):
    """There is no PIN to log in with, or the one there is was refused before."""


class Pin(NamedTuple):
    """A PIN, and what tells it from the one that is there after somebody changed it."""

    text: str
    identity: str

    def __repr__(self) -> str:
        return "Pin(***)"


class PinSource:
    """Reads the PIN anew for each login, so that a corrected one needs no restart."""

    def __init__(self, place: str, *, env: Mapping[str, str] = os.environ) -> None:
        """`place` is `file:PATH` or `env:NAME`. Raises: PinUnusable for anything else, without repeating it."""
        kind, _, self._name = place.partition(":")
        if kind not in ("file", "env") or not self._name:
            raise PinUnusable("crypto.pkcs11_pin says where the PIN is: file:PATH or env:NAME")
        self._in_file = kind == "file"
        self._env = env

    def read(self) -> Pin:
        """Return the PIN. Raises: PinUnusable when there is none, or others may read it."""
        if self._in_file:
            return _read(Path(self._name))
        if not (text := self._env.get(self._name, "")):
            raise PinUnusable(f"the environment holds no PIN in {self._name}")
        return Pin(text, "env")


class RefusedPin:
    """Remembers durably which PIN a token refused: every start that tried it again would bring the token's lock nearer.

    Of the PIN itself nothing is kept, not even a hash: the few digits of a PIN are found from one in seconds. A file is
    told by its inode, time and size; for the environment this file has to be removed by hand.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = ""

    def require_other(self, pin: Pin) -> None:
        """Raises: PinUnusable when this is the one that was refused."""
        if pin.identity != (self._identity or self._stored()):
            return
        way = "put the right one in its file" if pin.identity != "env" else f"correct it and remove {self._path}"
        raise PinUnusable(f"the token refused this PIN, and it isn't tried again: {way}")

    def note(self, pin: Pin) -> None:
        """Remember that the token refused it."""
        self._identity = pin.identity
        write_whole(self._path, pin.identity.encode())

    def clear(self) -> None:
        """The token took a PIN."""
        self._identity = ""
        self._path.unlink(missing_ok=True)

    def _stored(self) -> str:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return ""


def _read(path: Path) -> Pin:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as fault:
        raise PinUnusable(f"the PIN's file {path} can't be opened: {fault.strerror}") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise PinUnusable(f"{path} is no regular file")
        if status.st_mode & 0o077:
            raise PinUnusable(f"{path} may be read or written by others; run: chmod 600 {path}")
        text = os.read(handle, _MOST_BYTES).decode("utf-8", "replace").rstrip("\r\n")
    finally:
        os.close(handle)
    if not text:
        raise PinUnusable(f"the PIN's file {path} is empty")
    return Pin(text, f"file:{status.st_ino}:{status.st_mtime_ns}:{status.st_size}")
