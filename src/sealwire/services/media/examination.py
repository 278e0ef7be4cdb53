"""What is learnt of a file as its bytes pass by: first bytes, SHA-256, and what the scanner says."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from sealwire.services.media.scanning import Scanner
from sealwire.services.media.sniffing import SNIFF_BYTES, sniff


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a complete file is. `found` is the scanner's word for what it found; empty means clean."""

    sha256: str = ""
    content_type: str = ""
    found: str = ""


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the uploader said of a file."""

    filename: str = ""
    claimed_type: str = ""


encode = msgspec.json.Encoder().encode
decode_facts = msgspec.json.Decoder(Facts).decode
decode_meta = msgspec.json.Decoder(Meta).decode


class Examination:
    """A look at one file from its first byte to its last, in order. `position` is how far it came."""

    __slots__ = ("_hash", "_head", "_scan", "position")

    def __init__(self, scanner: Scanner) -> None:
        self.position = 0
        self._head = b""
        self._hash = sha256()
        self._scan = scanner.begin()

    async def feed(self, data: bytes) -> None:
        """Look at the next bytes. Raises: what the scanner raises."""
        if len(self._head) < SNIFF_BYTES:
            self._head = (self._head + data)[:SNIFF_BYTES]
        self._hash.update(data)
        self.position += len(data)
        await self._scan.feed(data)

    async def finish(self, claimed_type: str) -> Facts:
        """Return what the file is. Raises: what the scanner raises."""
        return Facts(
            sha256=self._hash.hexdigest(),
            content_type=sniff(self._head, claimed_type),
            found=await self._scan.finish(),
        )
