"""A private folder on a file system that lives in memory, gone when its process is."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})
_YOUNG_S = 60.0


def memory_roots() -> list[Path]:
    """Return the folders of this machine that live in memory and take our files; none off Linux."""
    candidates = [Path("/dev/shm"), Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"))]  # noqa: S108 - private below
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return []
    in_memory = {mount.split()[1] for mount in mounts if mount.split()[2] in MEMORY_FILE_SYSTEMS}
    return [root for root in candidates if str(root) in in_memory and os.access(root, os.W_OK | os.X_OK)]


class MemoryFolder:
    """A folder only its owner may enter (0700), locked while its process lives and removed by `close`.

    What a killed process left is removed by the next `open` of the same user: the lock tells the dead from the living.
    """

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, roots: Iterable[Path], purpose: str) -> MemoryFolder | None:
        """Return a new folder under the first root that takes it, or None."""
        prefix = f"sealwire-{purpose}-{os.getuid()}-"
        for root in roots:
            remove_stale(root, prefix)
            try:
                path = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
            except OSError:
                continue
            lock_fd = os.open(path / "lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(path, lock_fd)
        return None

    def free_bytes(self) -> int:
        """Return how much more the file system takes."""
        state = os.statvfs(self.path)
        return state.f_bavail * state.f_frsize

    def close(self) -> None:
        """Remove the folder and all in it. Safe to call twice."""
        if self._lock_fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock_fd)
            self._lock_fd = -1


def remove_stale(root: Path, prefix: str) -> int:
    """Remove our folders whose process is gone; return how many. Never follows a link, never touches another user's."""
    removed = 0
    for entry in os.scandir(root):
        if not entry.name.startswith(prefix):
            continue
        state = entry.stat(follow_symlinks=False)
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
            continue
        if _abandoned(Path(entry.path), state.st_mtime):
            shutil.rmtree(entry.path, ignore_errors=True)
            removed += 1
    return removed


def _abandoned(path: Path, changed_at_s: float) -> bool:
    try:
        fd = os.open(path / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # made a moment ago and not locked yet, or killed in between
        return time.time() - changed_at_s > _YOUNG_S
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
