"""Mail into a folder: one RFC 5322 file a letter, for an installation without a mail server, and for tests."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from sealwire.kit.clock import US_PER_S
from sealwire.ports.mail import Letter

SUFFIX = ".eml"


class FolderMailer:
    """Files of mode 0600 in a folder of mode 0700. Whoever may read it may act for the people written to."""

    def __init__(self, folder: Path, *, sender: str) -> None:
        self._folder = folder
        self._sender = sender

    async def send(self, letter: Letter) -> None:
        """See `Mailer.send`."""
        await asyncio.to_thread(self._write, letter)

    async def check(self) -> None:
        """Raise OSError when the folder can't be had."""
        await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)

    def _write(self, letter: Letter) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = self._folder / f".{letter.letter_id}.part"
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(handle, "wb") as file:
            file.write(as_rfc5322(letter, sender=self._sender))
            file.flush()
            os.fsync(file.fileno())
        aside.rename(self._folder / (letter.letter_id + SUFFIX))
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def as_rfc5322(letter: Letter, *, sender: str) -> bytes:
    """Return the letter as it travels, with CRLF line ends."""
    # Here: most processes never write a letter, and the package takes its time to load.
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import formatdate

    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = letter.to
    message["Subject"] = letter.subject
    message["Date"] = formatdate(letter.at_us / US_PER_S)
    message["Message-ID"] = f"<{letter.letter_id}@{sender.rpartition('@')[2].rstrip('>') or 'sealwire.invalid'}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    # A link stays in one piece where it can: quoted-printable would cut it, and people read these files.
    message.set_content(letter.text, cte="7bit" if letter.text.isascii() else None)
    return message.as_bytes()
