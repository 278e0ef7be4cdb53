"""Sealed snapshots of search indexes: what of the working copies in memory survives on disk, readable to nobody.

A file is one sealed segment (`kit.segments`: AES-256-GCM in authenticated chunks, key-committing) with tenant and file
name as its context. tantivy's segment files never change, so each is sealed once; a manifest per tenant names those of
the newest snapshot and is replaced atomically.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from sealwire.kit.envelopes import TAG_BYTES, EnvelopeRefused, SealingKey, bind
from sealwire.kit.files import sync_folder
from sealwire.kit.segments import (
    HEADER_BYTES,
    SEALED_CHUNK_BYTES,
    SegmentOpener,
    SegmentSealer,
    chunk_count,
    header_key_id,
    sealed_bytes,
)

_PIECE_BYTES = 256 * 1024


class Damaged(Exception):
    """A snapshot is missing a part, was changed, or belongs elsewhere."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's snapshot: tantivy's metadata, its files, and up to where the feed is in it."""

    tenant_id: str
    position: int
    meta: bytes
    files: tuple[str, ...]
    seqs: dict[str, int]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All snapshots together: every tenant with one, and the position up to which nothing is missing from them.

    `mark` is of the feed they were made from (`SearchIndex.mark`). `lacking` are tenants whose keys could not be had:
    their words are missing, so the next life reads everything anew.
    """

    position: int
    tenants: tuple[str, ...]
    mark: str = ""
    lacking: tuple[str, ...] = ()


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

    def key_id(self, path: Path) -> bytes:
        """Return the id of the data key that a file names. Raises: Damaged."""
        try:
            with path.open("rb") as file:
                return header_key_id(file.read(HEADER_BYTES))
        except (EnvelopeRefused, FileNotFoundError) as error:
            raise Damaged(f"{path.name} is missing or no sealed file") from error

    def seal_bytes(self, path: Path, tenant_id: str, content: bytes, key: SealingKey) -> None:
        """Write a sealed file in one step: whole and durable, or not at all."""
        with _replacing(path) as target:
            _seal(target, [content], tenant_id, path.name, key)

    def seal_file(self, path: Path, tenant_id: str, source: Path, key: SealingKey) -> None:
        """Seal a file's content, in pieces."""
        with source.open("rb") as content, _replacing(path) as target:
            _seal(target, iter(lambda: content.read(_PIECE_BYTES), b""), tenant_id, path.name, key)

    def open_bytes(self, path: Path, tenant_id: str, key: SealingKey) -> bytes:
        """Return a sealed file's content. Raises: Damaged."""
        return b"".join(_chunks(path, tenant_id, key))

    def open_file(self, path: Path, tenant_id: str, key: SealingKey, target: Path) -> None:
        """Write a sealed file's content to `target`, which counts only when this returns. Raises: Damaged."""
        with target.open("wb") as file:
            for chunk in _chunks(path, tenant_id, key):
                file.write(chunk)

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
        sync_folder(self._path.parent)


def _context(tenant_id: str, name: str) -> bytes:
    return bind("search-snapshot", tenant_id, name)


def _seal(target: BinaryIO, pieces: Iterable[bytes], tenant_id: str, name: str, key: SealingKey) -> None:
    sealer = SegmentSealer(key=key, context=_context(tenant_id, name))
    target.write(sealer.header)
    for piece in pieces:
        target.write(sealer.update(piece))
    target.write(sealer.finish())


def _chunks(path: Path, tenant_id: str, key: SealingKey) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
            size = plain_size(os.fstat(file.fileno()).st_size)
            opener = SegmentOpener(key=key, header=header, context=_context(tenant_id, path.name), plain_bytes=size)
            for index in range(chunk_count(size)):
                yield opener.chunk(index, file.read(SEALED_CHUNK_BYTES))
    except (EnvelopeRefused, ValueError) as error:
        raise Damaged(f"{path.name} was changed or cut") from error
    except FileNotFoundError as error:
        raise Damaged(f"{path.name} is missing") from error


def plain_size(sealed_size: int) -> int:
    """Return how many bytes a sealed file of this size holds. Raises: ValueError when no file has this size."""
    body = sealed_size - HEADER_BYTES
    size = body - TAG_BYTES * -(-body // SEALED_CHUNK_BYTES)
    if body < TAG_BYTES or sealed_bytes(size) != sealed_size:
        raise ValueError("no sealed file has this size")
    return size
