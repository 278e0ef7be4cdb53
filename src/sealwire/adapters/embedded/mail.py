"""Mail into a folder: one RFC 5322 file a letter, for an installation without a mail server, and for tests."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sealwire.kit.clock import US_PER_S
from sealwire.kit.files import sync_folder
from sealwire.ports.mail import Letter, MailRefused

if TYPE_CHECKING:
    from email.message import EmailMessage

SUFFIX = ".eml"
LETTER_KEPT_S = 30 * 86_400


class FolderMailer:
    """Files of mode 0600 in a folder of mode 0700. Whoever may read it may act for the people written to."""

    def __init__(self, folder: Path, *, sender: str) -> None:
        self._folder = folder
        self._sender = sender

    async def send(self, letter: Letter) -> None:
        """See `Mailer.send`."""
        await asyncio.to_thread(self._write, letter)

    async def forget(self, address: str) -> int:
        """See `Mailer.forget`."""
        return await asyncio.to_thread(self._forget, address)

    async def find(self, words: Sequence[str]) -> int:
        """See `Mailer.find`."""
        return await asyncio.to_thread(self._find, [word.casefold() for word in words])

    async def check(self) -> None:
        """Raise OSError when the folder can't be had."""
        await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)

    def _forget(self, address: str) -> int:
        self._drop_old()  # to addresses that nobody knows any more
        gone = 0
        for path in self._letters():
            if str(_read(path)["To"] or "").casefold() == address.casefold():  # a crash leaves a file half written
                path.unlink(missing_ok=True)
                gone += 1
        if gone:
            sync_folder(self._folder)
        return gone

    def _find(self, words: Sequence[str]) -> int:
        if not words:
            return 0
        texts = (
            f"{letter['To']}\n{letter['Subject']}\n{letter.get_content()}" for letter in map(_read, self._letters())
        )
        return sum(any(word in text.casefold() for word in words) for text in texts)

    def _letters(self) -> list[Path]:
        return [*self._folder.glob("*" + SUFFIX), *self._folder.glob(".*.part")]

    def _write(self, letter: Letter) -> None:
        written = as_rfc5322(letter, sender=self._sender)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = self._folder / f".{letter.letter_id}.part"
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(handle, "wb") as file:
            file.write(written)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(self._folder / (letter.letter_id + SUFFIX))
        self._drop_old()
        sync_folder(self._folder)

    def _drop_old(self) -> None:
        """Delete letters that nobody took out in time: what they offer ended long ago, and the folder must not grow."""
        before_s = time.time() - LETTER_KEPT_S
        for path in self._letters():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before_s:
                    path.unlink()


def _read(path: Path) -> EmailMessage:
    from email import message_from_bytes
    from email.policy import SMTP

    try:
        return message_from_bytes(path.read_bytes(), policy=SMTP)
    except FileNotFoundError:
        return message_from_bytes(b"To: \r\nSubject: \r\n\r\n", policy=SMTP)


def as_rfc5322(letter: Letter, *, sender: str) -> bytes:
    """Return the letter as it travels, with CRLF line ends.

    Raises: MailRefused for an address that would not be read back as it is: it would be lost, or go to another one.
    """
    # Here: most processes never write a letter, and the package takes its time to load.
    from email import message_from_bytes
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import formatdate

    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["Subject"] = letter.subject
    message["Date"] = formatdate(letter.at_us / US_PER_S)
    message["Message-ID"] = f"<{letter.letter_id}@{sender.rpartition('@')[2].rstrip('>') or 'sealwire.invalid'}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    # A link stays in one piece where it can: quoted-printable would cut it, and people read these files.
    message.set_content(letter.text, cte="7bit" if letter.text.isascii() else None)
    try:
        message["To"] = letter.to
        written = message.as_bytes()
        carried = message_from_bytes(written, policy=SMTP)["To"] == letter.to
    except Exception:  # the library's parser fails in a dozen ways on what is no address
        carried = False
    if not carried:
        raise MailRefused("this is no address that a letter can carry")
    return written
