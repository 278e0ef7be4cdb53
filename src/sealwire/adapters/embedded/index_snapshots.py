"""Sealed snapshots of search indexes: what of the working copies in memory survives on disk, readable to nobody.

A file is a head (magic, tenant, wrapped data key) and Cobblestone-256 ciphertext: AES-256-GCM in authenticated 16 KiB
chunks, key-committing, with the tenant and the file's name as context (C2SP chunked-encryption). Segment files never
change, so each is sealed once; a manifest per tenant names those of the newest snapshot and is replaced atomically.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from sealwire.ports.index import SnapshotKey

MAGIC = b"sealwire snapshot 1\n"
_PIECE_BYTES = 256 * 1024
_HEAD_LIMIT_BYTES = 8192


class Damaged(Exception):
    """A snapshot is missing a part, was changed, or belongs elsewhere."""


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What a sealed file says in the clear: an opaque tenant id and the data key, wrapped."""

    tenant_id: str
    wrapped: bytes


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's snapshot: tantivy's metadata, its files, and up to where the feed is in it."""

    tenant_id: str
    position: int
    meta: bytes
    files: tuple[str, ...]
    seqs: dict[str, int]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All snapshots together: every tenant with one, and the position up to which nothing is missing from them."""

    position: int
    tenants: tuple[str, ...]


class SnapshotFolder:
    """A folder of sealed files: `state`, and per tenant a folder with `manifest` and segment files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self) -> None:
        """Make the folder (0700) if absent and remove what an interrupted write left."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in self.root.rglob("*.new"):
            leftover.unlink(missing_ok=True)

    def tenant_folder(self, tenant_id: str) -> Path:
        """Return where a tenant's files are; the name tells nothing and can't leave the root."""
        return self.root / hashlib.sha256(tenant_id.encode()).hexdigest()[:32]

    def wrapped_key(self, path: Path, tenant_id: str) -> bytes:
        """Read the wrapped data key from the head of a tenant's file. Raises: Damaged."""
        try:
            with path.open("rb") as file:
                return _read_head(file, tenant_id).wrapped
        except FileNotFoundError as error:
            raise Damaged(f"{path.name} is missing") from error

    def seal_bytes(self, path: Path, tenant_id: str, content: bytes, key: SnapshotKey) -> None:
        """Write a sealed file in one step: whole and durable, or not at all."""
        with _replacing(path) as target:
            _seal(target, [content], tenant_id, path.name, key)

    def seal_file(self, path: Path, tenant_id: str, source: Path, key: SnapshotKey) -> None:
        """Seal a file's content, in pieces."""
        with source.open("rb") as content, _replacing(path) as target:
            _seal(target, iter(lambda: content.read(_PIECE_BYTES), b""), tenant_id, path.name, key)

    def open_bytes(self, path: Path, tenant_id: str, key: bytes) -> bytes:
        """Return a sealed file's content. Raises: Damaged."""
        return b"".join(_pieces(path, tenant_id, key))

    def open_file(self, path: Path, tenant_id: str, key: bytes, target: Path) -> None:
        """Write a sealed file's content to `target`, which counts only when this returns. Raises: Damaged."""
        with target.open("wb") as file:
            for piece in _pieces(path, tenant_id, key):
                file.write(piece)

    def keep_only(self, tenant_id: str, names: set[str]) -> None:
        """Remove a tenant's files that no manifest names any more."""
        for path in self.tenant_folder(tenant_id).iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)

    def drop(self, tenant_id: str) -> None:
        """Remove all of a tenant's files."""
        shutil.rmtree(self.tenant_folder(tenant_id), ignore_errors=True)

    def drop_all_but(self, tenant_ids: tuple[str, ...]) -> None:
        """Remove the folders of tenants that the state doesn't name."""
        kept = {self.tenant_folder(tenant_id).name for tenant_id in tenant_ids}
        for path in self.root.iterdir():
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)


class _replacing:  # noqa: N801 - reads as a verb where it is used
    """Write beside the path, make it durable, and put it in place only when the block ended well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = path.with_name(path.name + ".new")

    def __enter__(self) -> BinaryIO:
        self._path.parent.mkdir(exist_ok=True, mode=0o700)
        fd = os.open(self._new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        self._file = os.fdopen(fd, "wb")
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if kind is not None:
            self._new.unlink(missing_ok=True)
            return
        os.replace(self._new, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _context(tenant_id: str, name: str) -> bytes:
    return b"sealwire/search-snapshot\0" + tenant_id.encode() + b"\0" + name.encode()


def _seal(target: BinaryIO, pieces: Iterable[bytes], tenant_id: str, name: str, key: SnapshotKey) -> None:
    head = msgspec.msgpack.encode(Head(tenant_id, key.wrapped))
    target.write(MAGIC + len(head).to_bytes(2, "big") + head)
    encryptor = Cobblestone256Encryptor(key.key, _context(tenant_id, name))
    for piece in pieces:
        target.write(encryptor.update(piece))
    target.write(encryptor.finalize())


def _read_head(file: BinaryIO, tenant_id: str) -> Head:
    if file.read(len(MAGIC)) != MAGIC:
        raise Damaged("not a snapshot file")
    size = int.from_bytes(file.read(2), "big")
    if size > _HEAD_LIMIT_BYTES:
        raise Damaged("head too large")
    try:
        head = msgspec.msgpack.decode(file.read(size), type=Head)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damaged("unreadable head") from error
    if head.tenant_id != tenant_id:
        raise Damaged("another tenant's file")
    return head


def _pieces(path: Path, tenant_id: str, key: bytes) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            _read_head(file, tenant_id)
            decryptor = Cobblestone256Decryptor(key, _context(tenant_id, path.name))
            while piece := file.read(_PIECE_BYTES):
                yield decryptor.update(piece)
            yield decryptor.finalize()
    except InvalidTag as error:
        raise Damaged(f"{path.name} was changed or cut") from error
    except FileNotFoundError as error:
        raise Damaged(f"{path.name} is missing") from error
