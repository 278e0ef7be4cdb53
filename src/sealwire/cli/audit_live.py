"""Reads an audit log from a running installation, through its public API."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec

from sealwire.contracts.audit_log import Checkpoint, Proof
from sealwire.contracts.witness import CosignedCheckpoint
from sealwire.kit.files import write_whole
from sealwire.services.compliance.notes import parse_checkpoint, parse_note
from sealwire.services.compliance.tiles import BundleAddress, TileAddress, path_of, tiles_of

PREFIX = "/api/v1/compliance/audit"
TIMEOUT_S = 60.0
RECORDS_A_REQUEST = 20_000
ATTEMPTS = 5


class Refused(ConnectionError):
    """The installation did not answer, or refused; `status` is that of its answer, 0 without one."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class LiveLog:
    """A tenant's log behind a gateway."""

    def __init__(self, url: str, token: str, *, tenant_id: str | None = None) -> None:
        """`tenant_id` names another log than the own tenant's (operators)."""
        self._url = url.rstrip("/") + PREFIX
        self._token = token
        self._tenant = {"tenant_id": tenant_id} if tenant_id else {}

    def __str__(self) -> str:
        return self._url

    def checkpoint(self) -> Checkpoint:
        """Return the signed checkpoint over the log as it is now, and its keys."""
        with self._open("checkpoint", accept="application/json") as answer:
            return msgspec.json.decode(answer.read(), type=Checkpoint)

    def consistency(self, older: int, newer: int) -> list[bytes]:
        """Return the proof that the tree of one size continues that of another; empty from nothing, or to the same."""
        if older in (0, newer):
            return []
        with self._open("proof/consistency", {"from": older, "to": newer}) as answer:
            proof = msgspec.json.decode(answer.read(), type=Proof)
        return [bytes.fromhex(text) for text in proof.hashes]

    def cosign(self, note: str) -> CosignedCheckpoint:
        """Hand in a checkpoint with witnesses' cosignatures."""
        document = msgspec.json.encode({"note": note, **self._tenant})
        with self._open("checkpoint/cosignatures", content=document) as answer:
            return msgspec.json.decode(answer.read(), type=CosignedCheckpoint)

    def lines(self, size: int, first: int = 1) -> Iterator[bytes]:
        """Yield the export's lines of records `first` to `size`; a connection that breaks is opened anew."""
        at, failed = first, 0
        while at <= size:
            query = {"from_seq": at, "to_seq": min(size, at + RECORDS_A_REQUEST - 1)}
            began = at
            try:
                with self._open("export", query) as answer:
                    for line in answer:
                        if not line.endswith(b"\n"):
                            break  # cut: asked for again
                        yield line
                        at += 1
            except (OSError, HTTPException) as error:
                if isinstance(error, Refused):
                    raise
                failed += 1
                if failed >= ATTEMPTS:
                    raise Refused(f"{self._url}: {error}") from None
                continue
            if at == began:
                return  # records are missing: the verifier says where
            failed = 0

    def evidence(self, query: dict[str, str], file: Path) -> None:
        """Save a bundle of evidence."""
        with self._open("evidence", query) as answer, file.open("wb") as out:
            while chunk := answer.read(1 << 20):
                out.write(chunk)

    def export(self, query: dict[str, str], file: Path) -> None:
        """Save an export with its manifest."""
        with self._open("export", {"manifest": "true", **query}) as answer, file.open("wb") as out:
            while chunk := answer.read(1 << 20):
                out.write(chunk)

    def mirror(self, folder: Path) -> int:
        """Save the log as a folder of tlog tiles with `keys.json` beside; return its size. Full tiles stay as they are.

        Raises: Refused, also when the installation shows another log, or less of it, than the folder has.
        """
        folder.mkdir(parents=True, exist_ok=True)
        head = self.checkpoint()
        size = head.tree_size
        _require_same(folder, head)
        bundles = [BundleAddress(n, min(256, size - n * 256)) for n in range(-(-size // 256))]
        addresses: list[TileAddress | BundleAddress] = [*tiles_of(size), *bundles]
        for address in addresses:
            path = folder / "tile" / path_of(address)
            if path.exists():
                continue
            try:
                with self._open(f"tile/{path_of(address)}") as answer:
                    content = answer.read()
            except Refused as error:
                if isinstance(address, BundleAddress) and error.status == 404:
                    continue  # pruned: the hashes are in the tile
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content, mode=0o644)  # what is there is not asked for again, so it has to be whole
        known = {"first_key": head.first_key, "rotations": head.rotations, "cosigned": head.cosigned}
        write_whole(folder / "keys.json", json.dumps(known).encode(), mode=0o644)
        write_whole(folder / "checkpoint", head.checkpoint.encode(), mode=0o644)
        return size

    def _open(
        self, path: str, query: dict[str, Any] | None = None, accept: str = "*/*", content: bytes | None = None
    ) -> Any:
        asked = urllib.parse.urlencode({**(query or {}), **self._tenant}) if content is None else ""
        request = urllib.request.Request(  # noqa: S310 - the address is the operator's own, checked below
            f"{self._url}/{path}{'?' + asked if asked else ''}",
            data=content,
            headers={
                "authorization": f"Bearer {self._token}",
                "accept": accept,
                **({} if content is None else {"content-type": "application/json"}),
            },
        )
        if request.type not in {"http", "https"}:
            raise Refused(f"{self._url}: http or https")
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310 - http or https, see above
        except urllib.error.HTTPError as error:
            raise Refused(f"{self._url}/{path} answers {error.code}: {_detail(error)}", error.code) from None
        except urllib.error.URLError as error:
            raise Refused(f"{self._url} can't be reached: {error.reason}") from None


def _require_same(folder: Path, head: Checkpoint) -> None:
    """Hold the installation to what it showed before: the first key, and how long the log was. Raises: Refused."""
    keys, note = folder / "keys.json", folder / "checkpoint"
    try:
        known = json.loads(keys.read_bytes())["first_key"] if keys.exists() else head.first_key
        size = parse_checkpoint(parse_note(note.read_text(encoding="utf-8")).text).size if note.exists() else 0
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{folder} can't be read: {error}") from None
    if known != head.first_key:
        raise Refused(f"the log's first key is {head.first_key}, and {known} in {keys}: it is another log")
    if size > head.tree_size:
        raise Refused(f"the log has {head.tree_size} records, and {size} in {note}: it was cut, or is another one")


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(msgspec.json.decode(error.read())["detail"])
    except (OSError, msgspec.MsgspecError, KeyError, TypeError):
        return str(error.reason)
