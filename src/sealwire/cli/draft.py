"""A file for the user: it grows beside its place and goes there when it is whole; what was there stays until then."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from sealwire.kit.files import sync_folder

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LEFT = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Taken(OSError):
    """Another command is writing the file."""


class NoFile(OSError):
    """What is there is no file that could be replaced."""


def draft_of(file: Path) -> Path:
    """Return where a file lies until it is whole."""
    return file.with_name(f".{file.name}.part")


@contextmanager
def drafted(file: Path) -> Iterator[BufferedRandom]:
    """Give a file to write, and to read back; put it in place, durably, when the block ends without an exception.

    With one, also that of a signal, nothing is left of it. What a kill left is removed by the next that writes the same
    file. Of a link, what it points to is replaced; mode and owner stay. Raises: NoFile, Taken, OSError.
    """
    place = file.resolve()
    draft = draft_of(place)
    before = place.stat() if place.exists() else None
    if before is not None and not stat.S_ISREG(before.st_mode):
        raise NoFile(f"{file}: not a regular file; what is saved is read back before it is called saved")
    if not place.parent.is_dir():
        raise NoFile(f"{file}: there is no folder {place.parent}")
    try:
        opened = _alone(draft)
    except OSError as error:
        if error.filename is not None:
            error.filename = str(file)  # people know it by this name
        raise
    with opened as out:
        try:
            if before is not None:
                with suppress(PermissionError):  # somebody else's file: from now on it is ours
                    os.fchown(out.fileno(), before.st_uid, before.st_gid)
                os.fchmod(out.fileno(), stat.S_IMODE(before.st_mode))
            yield out
            out.flush()
            os.fsync(out.fileno())
            draft.replace(place)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
    sync_folder(place.parent)


def _alone(draft: Path) -> BufferedRandom:
    """Open a draft that nobody else writes or could have opened. Raises: Taken, OSError."""
    if draft.is_symlink() or draft.exists():
        _remove(draft)
    try:
        handle = os.open(draft, _NEW, 0o666)
    except FileExistsError:
        raise _taken(draft) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink == 0:  # removed as left over, in the moment before it was locked
            raise _taken(draft)
    except BlockingIOError:
        os.close(handle)
        raise _taken(draft) from None
    except OSError:
        os.close(handle)
        raise
    return os.fdopen(handle, "w+b")


def _remove(draft: Path) -> None:
    """Remove what a kill left. Raises: Taken when somebody writes it."""
    try:
        handle = os.open(draft, _LEFT)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        draft.unlink()  # a link is nobody's draft
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            draft.unlink()
    except BlockingIOError:
        raise _taken(draft) from None
    finally:
        os.close(handle)


def _taken(draft: Path) -> Taken:
    return Taken(f"{draft.name.removeprefix('.').removesuffix('.part')}: another command is writing it")
