"""The file of a bundle of evidence: a JSON document whose lines are read one by one, however many records it holds.

    {"format":"sealwire-evidence/2", …,"records":[
    {"record":{…},"proof":[…]},
    {"pruned":{…},"proof":[…]}
    ],"later":{"checkpoint":…,"consistency":[…]},"pruning":[
    {"record":{…},"proof":[…]}
    ]}

Of a bundle without pruned records the last line is `]}` at once. What vouches for pruned records stands behind the
records, under a checkpoint of its own, since a record may be pruned while the file is being written.
Any other spelling of such a document, and the format 1 of before, which had all of `pruning` in front, is read whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

import msgspec

from sealwire.services.compliance.canonical import NotCanonical
from sealwire.services.compliance.chain import refuse_doubles
from sealwire.services.compliance.cut import ends_early
from sealwire.services.compliance.remains import PrunedRecord

FORMAT = "sealwire-evidence/2"
FORMATS = frozenset({"sealwire-evidence/1", FORMAT})
MAX_LINE_BYTES = 4 * 1024 * 1024
"""Longer than any record with its proof can be in any spelling that is written."""
_RECORDS = b',"records":[\n'
_PRUNING = b',"pruning":[\n'
_END = b"]}\n"


class BundleCut(ValueError):
    """The file ends before its end."""


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What was asked; with nothing but a range, no record of it may be missing."""

    from_seq: int | None = None
    to_seq: int | None = None
    filters: dict[str, str] = {}


class Exhibit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A record (as a line of an export), or what is left of a pruned one, and its inclusion proof in lowercase hex."""

    record: msgspec.Raw = msgspec.Raw(b"")
    pruned: PrunedRecord | None = None
    proof: list[str] = []


class BundleHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands before the records."""

    format: str
    origin: str
    tenant_id: str
    made_at: str
    question: Question
    checkpoint: str
    public_key: str
    first_key: str
    rotations: list[str] = []
    cosigned: str = ""
    """The newest checkpoint that a witness cosigned, and the proof that `checkpoint` continues it."""
    consistency: list[str] = []


class Later(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The checkpoint that the records of pruning lie under, and the proof that it continues the bundle's own.

    `rotations` are those since the bundle's own, as the log's key may change while the bundle is written.
    """

    checkpoint: str
    consistency: list[str] = []
    rotations: list[str] = []


class Bundle(BundleHead, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole document. `pruning` are the records that say of each pruned one that it was pruned."""

    records: list[Exhibit]
    later: Later | None = None
    pruning: list[Exhibit] = []


class _Tail(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands between the records and those that vouch for the pruned ones."""

    later: Later | None = None


_encode = msgspec.json.Encoder().encode
_read_bundle = msgspec.json.Decoder(Bundle).decode
_read_head = msgspec.json.Decoder(BundleHead).decode
_read_tail = msgspec.json.Decoder(_Tail).decode
_read_exhibit = msgspec.json.Decoder(Exhibit).decode


# ---- writing


def write_head(head: BundleHead) -> bytes:
    """Return the first line."""
    return _encode(head)[:-1] + _RECORDS


def write_exhibit(exhibit: Exhibit, *, first: bool) -> bytes:
    """Return an exhibit's line up to its newline, and the end of the line before it."""
    return (b"" if first else b",\n") + _encode(exhibit)


def write_later(later: Later, *, empty: bool) -> bytes:
    """Return the end of the records, and the line that begins those of pruning."""
    return (b"" if empty else b"\n") + b'],"later":' + _encode(later) + _PRUNING


def write_end(*, empty: bool) -> bytes:
    """Return the end of the records or of those of pruning, and of the file."""
    return (b"" if empty else b"\n") + _END


# ---- reading


def is_by_line(first: bytes) -> bool:
    """Whether a file that begins with this line is read line by line, in memory that is flat."""
    return first.endswith(_RECORDS)


class BundleFile:
    """A bundle being read: `head`, then `exhibits` to their end, then `later` and `pruning`.

    What can't be read, or can be read in two ways, raises msgspec.MsgspecError, UnicodeDecodeError, RecursionError or
    NotCanonical; BundleCut what ends too early.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Read the head."""
        self._file = file
        self._end = b""
        self.later: Later | None = None
        self._pruning: Iterable[Exhibit] = ()
        first = file.readline()
        if first.endswith(_RECORDS):
            text = first[: -len(_RECORDS)] + b"}"
            self.head = _read_head(text)
            refuse_doubles(text)
            self.exhibits = self._by_line()
            return
        content = first + file.read()
        if ends_early(content):
            raise BundleCut
        bundle = _read_bundle(content)
        refuse_doubles(content)
        self.head, self.exhibits = bundle, iter(bundle.records)
        self.later, self._pruning = bundle.later, bundle.pruning

    def pruning(self) -> Iterator[Exhibit]:
        """Yield the records that say of others that they were pruned; when all exhibits were read."""
        yield from self._pruning

    def _by_line(self) -> Iterator[Exhibit]:
        yield from self._array()
        if self._end == _END:
            self._refuse_more()
            return
        if not self._end.startswith(b"],") or not self._end.endswith(_PRUNING):
            raise NotCanonical("the records don't end as they should")
        text = b"{" + self._end[2 : -len(_PRUNING)] + b"}"
        self.later = _read_tail(text).later
        refuse_doubles(text)
        self._pruning = self._last()

    def _last(self) -> Iterator[Exhibit]:
        yield from self._array()
        if self._end != _END:
            raise NotCanonical("the file doesn't end as it should")
        self._refuse_more()

    def _array(self) -> Iterator[Exhibit]:
        """Yield what stands a line each, up to the line that ends the array: `_end`."""
        first = more = True
        while line := self._file.readline(MAX_LINE_BYTES):
            if not line.endswith(b"\n"):
                if len(line) == MAX_LINE_BYTES:
                    raise NotCanonical("a line is too long")
                raise BundleCut
            if line.startswith(b"]"):
                if more and not first:
                    raise NotCanonical("a comma before the end")
                self._end = line
                return
            if not more:
                raise NotCanonical("a comma is missing")
            first, more = False, line.endswith(b",\n")
            text = line[: -2 if more else -1]
            exhibit = _read_exhibit(text)
            refuse_doubles(text)
            yield exhibit
        raise BundleCut

    def _refuse_more(self) -> None:
        if self._file.read(1):
            raise NotCanonical("something stands behind the end")


def count_exhibits(file: BinaryIO) -> int:
    """Return how many records a bundle holds, whatever they are. Raises: BundleCut."""
    first = file.readline()
    if not first.endswith(_RECORDS):
        try:
            return len(_read_bundle(first + file.read()).records)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BundleCut from None
    count, ended, line = 0, False, b""
    for line in file:
        ended = ended or line.startswith(b"]")
        count += not ended
    if line != _END:
        raise BundleCut
    return count
