"""The records a ZIP is made of, so that one can be written, left, and gone on with: nothing of it is kept in memory.

Sizes follow their data (a data descriptor), and every size has 64 bits, as nobody knows them beforehand.
Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.9, 4.3.12 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import zlib
from hashlib import sha256
from struct import Struct
from typing import Final

import msgspec

STORED: Final = 0
DEFLATED: Final = 8
_ZIP64: Final = 45
_UNIX: Final = 3
_FLAGS: Final = 0x0808
"""Sizes follow the data; names are UTF-8."""
_TIME, _DATE = 0, (1 << 5) | 1
"""1980-01-01: the oldest a ZIP knows. When things happened stands in the data."""
_READABLE: Final = 0o100600 << 16
_MOST: Final = 0xFFFFFFFF
_MANY: Final = 0xFFFF
_LOCAL: Final = Struct("<4sHHHHHLLLHH")
_SIZES: Final = Struct("<HHQQ")
_DESCRIPTOR: Final = Struct("<4sLQQ")
_CENTRAL: Final = Struct("<4sBBHHHHHLLLHHHHHLL")
_PLACES: Final = Struct("<HHQQQ")
_END64: Final = Struct("<4sQHHLLQQQQ")
_LOCATOR: Final = Struct("<4sLQL")
_END: Final = Struct("<4sHHHHLLH")


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finished member: what the manifest says of it, and what the ZIP's directory does.

    `offset` is where it begins in the archive, `packed_bytes` how much its data takes there.
    """

    path: str
    sha256: str
    size_bytes: int
    crc: int
    packed_bytes: int
    offset: int
    method: int
    items: int | None = None


class Packer:
    """The data of one member: packed as it comes, measured and hashed."""

    def __init__(self, path: str, *, offset: int, pack: bool) -> None:
        self.path = path
        self.size_bytes = 0
        self._offset = offset
        self._method = DEFLATED if pack else STORED
        self._deflate = zlib.compressobj(-1, zlib.DEFLATED, -zlib.MAX_WBITS) if pack else None
        self._hash = sha256()
        self._crc = 0
        self._packed_bytes = 0

    def head(self) -> bytes:
        """Return what stands before the data."""
        name, sizes = self.path.encode(), _SIZES.pack(1, 16, 0, 0)
        return (
            _LOCAL.pack(b"PK\3\4", _ZIP64, _FLAGS, self._method, _TIME, _DATE, 0, _MOST, _MOST, len(name), len(sizes))
            + name
            + sizes
        )

    def add(self, data: bytes) -> bytes:
        """Take plain bytes, return what is to be written of them now."""
        self._hash.update(data)
        self._crc = zlib.crc32(data, self._crc)
        self.size_bytes += len(data)
        packed = data if self._deflate is None else self._deflate.compress(data)
        self._packed_bytes += len(packed)
        return packed

    def end(self) -> bytes:
        """Return the rest of the data, and the sizes that follow it."""
        rest = b"" if self._deflate is None else self._deflate.flush()
        self._packed_bytes += len(rest)
        return rest + _DESCRIPTOR.pack(b"PK\7\x08", self._crc, self._packed_bytes, self.size_bytes)

    def entry(self, items: int | None = None) -> Entry:
        """Return the finished member; `items` is how many things it lists."""
        return Entry(
            self.path, self._hash.hexdigest(), self.size_bytes, self._crc, self._packed_bytes, self._offset,
            self._method, items,
        )  # fmt: skip


def directory_line(entry: Entry) -> bytes:
    """Return a member's record in the directory at the end."""
    name, packed, size, offset, places = entry.path.encode(), entry.packed_bytes, entry.size_bytes, entry.offset, b""
    if max(packed, size, offset) >= _MOST:  # only then: some readers know no other way to say it
        places = _PLACES.pack(1, 24, size, packed, offset)
        packed = size = offset = _MOST
    return (
        _CENTRAL.pack(
            b"PK\1\2", _ZIP64, _UNIX, _ZIP64, _FLAGS, entry.method, _TIME, _DATE, entry.crc, packed, size, len(name),
            len(places), 0, 0, 0, _READABLE, offset,
        )
        + name
        + places
    )  # fmt: skip


def directory_end(*, members: int, offset: int, size_bytes: int) -> bytes:
    """Return what ends an archive whose directory of so many members begins at `offset` and is so long."""
    far = b""
    if members >= _MANY or max(offset, size_bytes) >= _MOST:
        far = _END64.pack(b"PK\6\6", 44, _ZIP64, _ZIP64, 0, 0, members, members, size_bytes, offset)
        far += _LOCATOR.pack(b"PK\6\7", 0, offset + size_bytes, 1)
    count, size, at = min(members, _MANY), min(size_bytes, _MOST), min(offset, _MOST)
    return far + _END.pack(b"PK\5\6", 0, 0, count, count, size, at, 0)
