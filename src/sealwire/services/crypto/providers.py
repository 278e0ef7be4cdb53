"""Key providers: who holds the key-encryption key (KEK). Here: the file provider, for one machine."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealwire.kit.envelopes import KEY_BYTES, EnvelopeRefused, draw_key, open_single, seal_single, wipe, wiping
from sealwire.kit.files import sync_folder, write_all
from sealwire.kit.ids import new_id

FINGERPRINT_BYTES: Final = 16
_FORMAT: Final = b"\x01"
_HEADER_BYTES: Final = 1 + FINGERPRINT_BYTES
_MARK: Final = b"sealwire-kek-1:"
_BODY_END: Final = len(_MARK) + 44
"""The file's one line is the mark, the key in base64, a colon, eight check digits."""
_FILE_LIMIT_BYTES: Final = 4096
_QUOTE: Final = ord('"')


class KekUnusable(Exception):
    """The key-encryption key can't be used; the message says why and what to do."""


class WrapRefused(Exception):
    """The wrapped key does not open: another KEK, another context, or changed bytes."""


class KeyProvider(Protocol):
    """Wraps and unwraps keys under a KEK that never leaves it.

    An implementation over PKCS#11 keeps the KEK non-extractable in its token and runs the calls in its own worker
    process; one over a cloud's key service calls it. Every call may wait and every call may fail for a while: the
    crypto service caches what it unwrapped. `context` (tenant, key, version) is bound: a wrapped key moved to another
    row does not open. Both calls are safe to repeat; wrapping the same key twice gives two different wrapped forms.
    """

    @property
    def name(self) -> str:
        """What kind it is, for people: `file`, `pkcs11`."""

    @property
    def kek_id(self) -> str:
        """Which KEK wraps now; stands beside every wrapped key, so that a move to another one can be resumed."""

    def holds(self, wrapped: bytes) -> bool:
        """Tell by its header whether a key was wrapped under this KEK."""

    async def wrap(self, key: bytes | bytearray, context: bytes) -> bytes:
        """Return `key` wrapped, bound to `context`. Raises: KekUnusable."""

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytearray:
        """Return the key, in memory that the caller wipes. Raises: WrapRefused; KekUnusable when that isn't known."""

    async def check(self) -> None:
        """Prove that the KEK works. Raises: KekUnusable."""

    def close(self) -> None:
        """Wipe what is in memory."""


class FileKeyProvider:
    """A KEK of 32 random bytes in a file that only its owner may read."""

    name = "file"

    def __init__(self, *, path: Path, kek: bytearray) -> None:
        """Use `kek`, which this object owns and wipes from now on; `open` and `create` read it from the file."""
        self._path = path
        self._kek = kek
        self._fingerprint = _fingerprint(kek)
        self.kek_id = f"file:{self._fingerprint.hex()}"

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> FileKeyProvider:
        """Read the KEK at `path`, or make it there when absent and `create`.

        Raises: KekUnusable when it is absent, readable by others, not ours, or not what we wrote.
        """
        if create and not os.path.lexists(path):
            _create(path)
        return cls(path=path, kek=_read(path))

    def holds(self, wrapped: bytes) -> bool:
        return wrapped[:_HEADER_BYTES] == _FORMAT + self._fingerprint

    async def wrap(self, key: bytes | bytearray, context: bytes) -> bytes:
        header = _FORMAT + self._fingerprint
        return header + seal_single(self._live(), key, header + context)

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytearray:
        header = wrapped[:_HEADER_BYTES]
        if header[:1] != _FORMAT:
            raise WrapRefused("the wrapped key has an unknown format")
        if header[1:] != self._fingerprint:
            raise WrapRefused(f"the key was wrapped under the key-encryption key {header[1:].hex()}, not {self.kek_id}")
        try:
            return open_single(self._live(), wrapped[_HEADER_BYTES:], header + context)
        except EnvelopeRefused:
            raise WrapRefused("the wrapped key was changed or belongs to another place") from None

    async def check(self) -> None:
        """Wrap and unwrap a probe; the file itself may be on a medium that is taken away after the start."""
        probe = os.urandom(KEY_BYTES)
        try:
            if await self.unwrap(await self.wrap(probe, b"check"), b"check") != probe:
                raise KekUnusable("the key-encryption key does not give back what it wrapped")
        except WrapRefused as fault:
            raise KekUnusable(str(fault)) from None

    def close(self) -> None:
        wipe(self._kek)
        self._kek = bytearray()

    def _live(self) -> bytearray:
        if not self._kek:
            raise KekUnusable("the key provider has been closed")
        return self._kek


def _fingerprint(kek: bytearray) -> bytes:
    """Name a KEK without telling anything about it."""
    return HKDF(SHA256(), FINGERPRINT_BYTES, None, b"sealwire kek fingerprint v1").derive(kek)


def _check_digits(line: bytearray) -> bytes:
    """Return eight hex digits that tell a damaged file from a key (no secret: a hash of what stands before them)."""
    return sha256(memoryview(line)[:_BODY_END]).hexdigest()[:8].encode()


def _create(path: Path) -> None:
    """Write a new KEK so that the name appears only with its whole content on disk, and once under races."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{new_id()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb", buffering=0) as file, wiping(draw_key()) as key, wiping(_line(key)) as line:
            write_all(file.fileno(), line)
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first: its key is the one
            os.link(draft, path)
    finally:
        draft.unlink()
    sync_folder(path.parent)


def _read(path: Path) -> bytearray:
    """Read a KEK file, refusing one that others may read or that isn't whole. Raises: KekUnusable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # through a link, as mounted secrets are; the target is checked
    except FileNotFoundError:
        raise KekUnusable(f"there is no key-encryption key at {path}; restore it from its backup") from None
    except OSError as fault:
        raise KekUnusable(f"the key-encryption key at {path} can't be opened: {fault.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise KekUnusable(f"{path} is no regular file")
        if status.st_uid not in (os.geteuid(), 0):
            raise KekUnusable(f"{path} belongs to another user (uid {status.st_uid}); the key may be known to them")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise KekUnusable(f"{path} may be read or written by others (mode {mode:04o}); run: chmod 600 {path}")
        with wiping(bytearray(min(status.st_size, _FILE_LIMIT_BYTES))) as content:
            os.readv(fd, [content])
            return _parse(content, path)
    finally:
        os.close(fd)


def _line(key: bytearray) -> bytearray:
    """Return the content of a KEK file. No key is ever in `bytes` or `str`, which can't be wiped."""
    line = bytearray(_BODY_END + 10)  # all the room it needs: a buffer that grows leaves copies behind
    line[: len(_MARK)] = _MARK
    msgspec.json.Encoder().encode_into(key, line, len(_MARK) - 1)
    line[len(_MARK) - 1] = line[_BODY_END] = ord(":")
    line += _check_digits(line) + b"\n"
    return line


def _parse(content: bytearray, path: Path) -> bytearray:
    """Return the key in a KEK file's content, which is changed by that. Raises: KekUnusable, repeating none of it."""
    fault = KekUnusable(f"{path} does not hold a whole Sealwire key-encryption key; restore it from its backup")
    if not content.startswith(_MARK) or content[_BODY_END:].removesuffix(b"\n") != b":" + _check_digits(content):
        raise fault
    content[len(_MARK) - 1] = content[_BODY_END] = _QUOTE  # a JSON string, where it stands
    try:
        key = msgspec.json.decode(memoryview(content)[len(_MARK) - 1 : _BODY_END + 1], type=bytearray)
    except msgspec.DecodeError:
        raise fault from None
    if len(key) != KEY_BYTES:
        raise fault
    return key
