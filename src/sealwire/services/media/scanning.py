"""Scanners: what looks for malware in a file while its bytes pass by. Built in: the EICAR test signature."""

from __future__ import annotations

from typing import Final, Protocol


class ScanSession(Protocol):
    """One file being looked at."""

    async def feed(self, data: bytes) -> None:
        """Look at the next bytes. Memory stays flat. Raises: Unavailable."""

    async def finish(self) -> str:
        """Return what was found, in the scanner's words; empty when it is clean. Raises: Unavailable."""


class Scanner(Protocol):
    """A malware scanner. ClamAV keeps it by its INSTREAM command: `feed` sends chunks, `finish` reads the verdict."""

    def begin(self) -> ScanSession:
        """Begin with a file."""

    async def check(self) -> None:
        """Prove that it works. Raises: what makes it fail."""


# In two parts, so that no scanner takes this source for the test file itself.
EICAR: Final = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + rb"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


class SignatureScanner:
    """Looks for the EICAR test file anywhere in a file: enough to prove that quarantine works end to end."""

    def begin(self) -> SignatureSession:
        return SignatureSession()

    async def check(self) -> None:
        session = self.begin()
        await session.feed(EICAR)
        if not await session.finish():
            raise RuntimeError("the scanner does not find the test signature")


class SignatureSession:
    """Keeps as many of the last bytes as a signature that is cut by a chunk's end needs."""

    __slots__ = ("_found", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._found = False

    async def feed(self, data: bytes) -> None:
        if not self._found:
            keep = len(EICAR) - 1
            self._found = EICAR in data or EICAR in self._tail + data[:keep]
            self._tail = (self._tail + data[-keep:])[-keep:]

    async def finish(self) -> str:
        return "EICAR-Test-File" if self._found else ""
