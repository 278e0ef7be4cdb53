"""Reads an audit log from a running installation, through its public API."""

from __future__ import annotations

import fcntl
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from time import sleep
from typing import Any, BinaryIO, TypeVar

import msgspec

from sealwire.cli.terminal import plain, why
from sealwire.contracts.audit_log import Checkpoint, LogBroken, Proof, Verification
from sealwire.contracts.witness import CosignedCheckpoint
from sealwire.kit.files import write_whole
from sealwire.services.compliance.manifest import CheckpointLine, write_line
from sealwire.services.compliance.merkle import HASH_BYTES
from sealwire.services.compliance.notes import parse_checkpoint, parse_note
from sealwire.services.compliance.remains import PRUNED_LINE
from sealwire.services.compliance.tiles import BundleAddress, TileAddress, path_of, read_bundle, tiles_of

T = TypeVar("T")
PREFIX = "/api/v1/compliance/audit"
TIMEOUT_S = 60.0
RECORDS_A_REQUEST = 20_000
ATTEMPTS = 5
_ROUNDS = 5
"""How often a mirror goes on to a newer checkpoint, at most: where it ends pruned, each round sees so again."""
LOOK_S = 1.0
"""Between looks how far a long verification is."""
MOST_DETAIL = 300
"""Characters of what somebody else's server says that are repeated to people."""
_JSON = "application/json"
_NDJSON = "application/x-ndjson"
_BYTES = "application/octet-stream"
_READ_BYTES = 1 << 20
REMEDIES = {
    401: "the token has ended or is none: log in, and give the new one (--token, or SEALWIRE_TOKEN)",
    404: "is this the address of the gateway?",
}
"""What people can do about an answer, by its status."""


class Refused(ConnectionError):
    """The installation did not answer, or refused; `status` and `code` are of its answer, 0 and "" without one."""

    def __init__(self, text: str, status: int = 0, code: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class OtherLog(Refused):
    """A folder is of no log that can be read, or of another than the installation shows: asking again doesn't help."""


class Broken(Refused):
    """The connection ended before the answer did."""


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
        """Return the signed checkpoint over the log as it is now, and its keys.

        Raises: Refused; for a log that is damaged, so that nothing is signed over it, with what the installation finds.
        """
        try:
            return self._document("checkpoint", Checkpoint)
        except Refused as error:
            if error.code != LogBroken.code:
                raise
            raise self._damaged(error)[0] from None

    def _damaged(self, error: Refused) -> tuple[Refused, int]:
        """Say what is wrong with a log that is damaged, as the installation finds, and how many records hold."""
        found = self._document("verify", Verification)
        while found.job_id and found.progress < 1:
            sleep(LOOK_S)
            found = self._document(f"verify/{found.job_id}", Verification)
        if found.fault is None:
            return error, 0
        at = "" if found.first_bad_seq is None else f" at seq {found.first_bad_seq}"
        text = f"{self._url}: the log is damaged, and nothing is signed over it{at}: {found.fault}"
        return Refused(plain(text)[: 2 * MOST_DETAIL], error.status, error.code), found.records

    def consistency(self, older: int, newer: int) -> list[bytes]:
        """Return the proof that the tree of one size continues that of another; empty from nothing, or to the same."""
        if older in (0, newer):
            return []
        proof = self._document("proof/consistency", Proof, {"from": older, "to": newer})
        try:
            return [bytes.fromhex(text) for text in proof.hashes]
        except ValueError:
            raise Refused(f"{self._url}/proof/consistency gives what is no proof") from None

    def cosign(self, note: str) -> CosignedCheckpoint:
        """Hand in a checkpoint with witnesses' cosignatures."""
        document = msgspec.json.encode({"note": note, **self._tenant})
        return self._document("checkpoint/cosignatures", CosignedCheckpoint, content=document)

    def lines(self, size: int, first: int = 1) -> Iterator[bytes]:
        """Yield the export's lines of records `first` to `size`; a connection that breaks is opened anew."""
        at, failed = first, 0
        while at <= size:
            query = {"from_seq": at, "to_seq": min(size, at + RECORDS_A_REQUEST - 1)}
            began = at
            try:
                with self._open("export", query, gives=_NDJSON) as answer:
                    for line in answer:
                        if not line.endswith(b"\n"):
                            break  # cut: asked for again
                        yield line
                        at += 1
            except (OSError, HTTPException) as error:
                if isinstance(error, Refused) and not isinstance(error, Broken):
                    raise
                failed += 1
                if failed >= ATTEMPTS:
                    raise Refused(f"{self._url}: {why(error)}") from None
                continue
            if at == began:
                return  # records are missing: the verifier says where
            failed = 0

    def log(self, head: Checkpoint) -> Iterator[bytes]:
        """Yield an export of the log up to a checkpoint. Where records of it are pruned, those since follow and a newer
        checkpoint over them: what is pruned while it is read is named there."""
        known, first, note = head, 1, b""
        while True:
            count, gone = 0, False
            for line in self.lines(known.tree_size, first):
                count, gone = count + 1, gone or line.startswith(PRUNED_LINE)
                yield line
            if note:
                yield note
            if not gone or first + count <= known.tree_size:
                return
            now = self.checkpoint()
            if now.tree_size <= known.tree_size:
                return
            note = write_line(CheckpointLine(now.checkpoint, now.rotations[len(known.rotations) :])) + b"\n"
            known, first = now, known.tree_size + 1

    def evidence(self, query: dict[str, str], out: BinaryIO) -> None:
        """Write a bundle of evidence. Raises: Refused; OSError of the file."""
        self._pour("evidence", query, _JSON, out)

    def export(self, query: dict[str, str], out: BinaryIO) -> None:
        """Write an export with its manifest. Raises: Refused; OSError of the file."""
        self._pour("export", {"manifest": "true", **query}, _NDJSON, out)

    def mirror(self, folder: Path) -> int:
        """Save the log as a folder of tlog tiles with `keys.json` beside; return its size. Full tiles stay as they are.

        Raises: Refused, also when the installation shows another log, or less of it, than the folder has; OSError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder):
            return self._mirror(folder)

    def _mirror(self, folder: Path) -> int:
        for left in (folder / "tile").rglob(".*.new"):  # by a kill; nobody would write under its name again
            left.unlink(missing_ok=True)
        absent: set[str] = set()
        for _ in range(_ROUNDS):
            size, gone = self._round(folder, absent)
            if not gone or self.checkpoint().tree_size <= size:
                break  # else what was pruned meanwhile is named by a record behind it
        return size

    def _round(self, folder: Path, absent: set[str]) -> tuple[int, bool]:
        """Bring a folder up to a checkpoint. Return its size, and whether records of what was fetched are pruned."""
        head = self.checkpoint()
        size, gone = head.tree_size, False
        _require_same(folder, head)
        bundles = [BundleAddress(n, min(256, size - n * 256)) for n in range(-(-size // 256))]
        addresses: list[TileAddress | BundleAddress] = [*tiles_of(size), *bundles]
        for address in addresses:
            name = path_of(address)
            path = folder / "tile" / name
            if path.exists() or name in absent:
                continue
            try:
                content = self._whole(f"tile/{path_of(address)}", _BYTES)
            except Refused as error:
                if isinstance(address, BundleAddress) and error.status == 404:
                    absent.add(name)
                    gone = True
                    continue  # pruned: the hashes are in the tile
                raise
            if not _is_of(content, address):
                raise Refused(f"{self._url}/tile/{path_of(address)} gives something that is not this tile")
            gone = gone or (isinstance(address, BundleAddress) and not all(read_bundle(content)))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content, mode=0o644)  # what is there is not asked for again, so it has to be whole
        known = {"first_key": head.first_key, "rotations": head.rotations, "cosigned": head.cosigned}
        write_whole(folder / "keys.json", json.dumps(known).encode(), mode=0o644)
        write_whole(folder / "checkpoint", head.checkpoint.encode(), mode=0o644)
        return size, gone

    def _document(
        self, path: str, kind: type[T], query: dict[str, Any] | None = None, content: bytes | None = None
    ) -> T:
        document = self._whole(path, _JSON, query, content)
        try:
            return msgspec.json.decode(document, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Refused(f"{self._url}/{path} gives something else than it should: {REMEDIES[404]}") from None

    def _whole(self, path: str, gives: str, query: dict[str, Any] | None = None, content: bytes | None = None) -> bytes:
        try:
            with self._open(path, query, gives=gives, content=content) as answer:
                return bytes(answer.read())
        except Refused:
            raise
        except (OSError, HTTPException) as error:
            raise broken_off(self._url, error) from None

    def _pour(self, path: str, query: dict[str, str], gives: str, out: BinaryIO) -> None:
        try:
            opened = self._open(path, query, gives=gives)
        except Refused as error:
            if error.code != LogBroken.code or "to_seq" in query:
                raise
            told, records = self._damaged(error)
            more = f"\n`--to-seq {records}` saves what was signed of seq 1 to {records}" if records else ""
            raise Refused(f"{told}{more}", error.status, error.code) from None
        with opened as answer:
            while True:
                try:
                    chunk = answer.read(_READ_BYTES)
                except (OSError, HTTPException) as error:
                    raise broken_off(self._url, error) from None
                if not chunk:
                    return
                out.write(chunk)

    def _open(self, path: str, query: dict[str, Any] | None = None, *, gives: str, content: bytes | None = None) -> Any:
        """Ask, and return the answer when it is of the media type that `gives` names. Raises: Refused."""
        asked = urllib.parse.urlencode({**(query or {}), **self._tenant}) if content is None else ""
        request = urllib.request.Request(  # noqa: S310 - the address is the operator's own, checked below
            f"{self._url}/{path}{'?' + asked if asked else ''}",
            data=content,
            headers={
                "authorization": f"Bearer {self._token}",
                "accept": _JSON if gives == _JSON else "*/*",
                **({} if content is None else {"content-type": _JSON}),
            },
        )
        answer = self._ask(request, path)
        if (got := answer.headers.get_content_type()) != gives:
            answer.close()
            raise Refused(f"{self._url}/{path} gives {plain(got)} and not {gives}: {REMEDIES[404]}")
        return answer

    def _ask(self, request: urllib.request.Request, path: str) -> Any:
        if request.type not in {"http", "https"}:
            raise Refused(f"{self._url}: http or https")
        try:
            return OPENER.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            raise refusal(f"{self._url}/{path}", error) from None
        except urllib.error.URLError as error:
            raise Refused(f"{self._url} can't be reached: {why(error)}") from None
        except (OSError, HTTPException) as error:
            raise broken_off(self._url, error) from None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token is for the address that was given, and for no other."""

    def redirect_request(self, *_: Any) -> None:
        """Leave the redirect to be told as what it is."""


OPENER = urllib.request.build_opener(_Stay)
"""How the command line asks others; a redirect is an error."""


def refusal(name: str, error: urllib.error.HTTPError) -> Refused:
    """Say what an installation answered, and what can be done about it."""
    with error:
        if 300 <= error.code < 400:
            where = plain(str(error.headers.get("location", "elsewhere")))[:MOST_DETAIL]
            return Refused(f"{name} answers {error.code}: it is at {where}; give that address", error.code)
        remedy = f" ({REMEDIES[error.code]})" if error.code in REMEDIES else ""
        detail, code = _problem(error)
        wait = error.headers.get("retry-after", "")
        wait_s = float(wait) if wait.isdecimal() and len(wait) < 4 else 0.0
        return Refused(f"{name} answers {error.code}: {detail}{remedy}", error.code, code, retry_after_s=wait_s)


def broken_off(name: str, error: Exception) -> Broken:
    """Say how a connection ended before the answer did."""
    said = "it answered with half of what it meant to" if isinstance(error, IncompleteRead) else why(error)
    return Broken(f"{name}: the connection broke: {plain(said)[:MOST_DETAIL]}")


def _is_of(content: bytes, address: TileAddress | BundleAddress) -> bool:
    """Whether these are as many hashes, or entries, as the address says."""
    if isinstance(address, TileAddress):
        return len(content) == address.width * HASH_BYTES
    try:
        return len(read_bundle(content)) == address.width
    except ValueError:
        return False


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Own a folder meanwhile. Raises: Refused when another mirror is under way in it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Refused(f"{folder}: another mirror is under way there") from None
    finally:
        os.close(handle)


def _require_same(folder: Path, head: Checkpoint) -> None:
    """Hold the installation to what it showed before: the first key, and how long the log was. Raises: OtherLog."""
    keys, note = folder / "keys.json", folder / "checkpoint"
    try:
        known = json.loads(keys.read_bytes())["first_key"] if keys.exists() else head.first_key
        size = parse_checkpoint(parse_note(note.read_text(encoding="utf-8")).text).size if note.exists() else 0
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OtherLog(f"{keys} or {note} is not as it was saved: {error}") from None
    if known != head.first_key:
        raise OtherLog(f"the log's first key is {head.first_key}, and {known} in {keys}: it is another log")
    if size > head.tree_size:
        raise OtherLog(f"the log has {head.tree_size} records, and {size} in {note}: it was cut, or is another one")


def _problem(error: urllib.error.HTTPError) -> tuple[str, str]:
    """Return what the answer says for people and its code, however it was given: a proxy's page is not repeated."""
    with suppress(OSError, HTTPException, msgspec.MsgspecError, KeyError, TypeError, RecursionError, ValueError):
        problem = msgspec.json.decode(error.read(1 << 16))
        return plain(str(problem["detail"]))[:MOST_DETAIL], str(problem.get("code", ""))
    return plain(str(error.reason))[:MOST_DETAIL], ""
