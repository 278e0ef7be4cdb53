"""Mail by SMTP: each letter in a connection of its own, in a thread, with a time limit on everything."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Sequence
from typing import Final, Literal

from sealwire.adapters.embedded.mail import as_rfc5322
from sealwire.ports.mail import Letter, MailRefused

TIMEOUT_S: Final = 20.0
_FOR_GOOD: Final = range(500, 600)


class SmtpMailer:
    """Letters to a mail server (RFC 5321); with `tls` other than `none` its certificate is checked."""

    def __init__(
        self, *, host: str, port: int, tls: Literal["starttls", "tls", "none"], user: str, password: str, sender: str,
        trust: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        """`trust`: which certificates count; without it those the machine trusts."""
        self._host = host
        self._port = port
        self._tls = tls
        self._user = user
        self._password = password
        self._sender = sender
        self._trust = trust

    async def send(self, letter: Letter) -> None:
        """See `Mailer.send`."""
        await asyncio.to_thread(self._send, letter)

    async def forget(self, address: str) -> int:
        """See `Mailer.forget`: nothing of a letter that was taken over is here."""
        return 0

    async def find(self, words: Sequence[str]) -> int:
        """See `Mailer.find`."""
        return 0

    async def check(self) -> None:
        """Greet the server. Raises: OSError."""
        await asyncio.to_thread(self._greet)

    def _send(self, letter: Letter) -> None:
        written = as_rfc5322(letter, sender=self._sender)
        if not letter.to.isascii():
            raise MailRefused("the address needs SMTPUTF8 (RFC 6531)")
        try:
            with self._connected() as server:
                server.sendmail(self._sender, [letter.to], written)
        except smtplib.SMTPRecipientsRefused as error:
            code = next(iter(error.recipients.values()))[0]
            raise MailRefused(str(code)) if code in _FOR_GOOD else OSError(f"smtp {code}") from None
        except smtplib.SMTPException as error:
            # What the server says may hold the address; only the kind of fault goes on.
            raise OSError(type(error).__name__) from None

    def _greet(self) -> None:
        with self._connected() as server:
            server.noop()

    def _connected(self) -> smtplib.SMTP:
        trust = self._trust or ssl.create_default_context()
        server: smtplib.SMTP
        if self._tls == "tls":
            server = smtplib.SMTP_SSL(self._host, self._port, timeout=TIMEOUT_S, context=trust)
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=TIMEOUT_S)
        try:
            if self._tls == "starttls":
                server.starttls(context=trust)
            if self._user:
                server.login(self._user, self._password)
        except BaseException:
            server.close()
            raise
        return server
