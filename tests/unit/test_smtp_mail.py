"""The SMTP mailer against a mail server in this process: what is taken over, refused for good, refused for now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sealwire.adapters.distributed.mail import SmtpMailer
from sealwire.ports.mail import Letter, MailRefused


class MailServer:
    """Enough of RFC 5321 for one client at a time."""

    def __init__(self) -> None:
        self.letters: list[bytes] = []
        self.recipient_reply = b"250 ok"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 test\r\n")
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                writer.write(b"354 go on\r\n")
                self.letters.append(await reader.readuntil(b"\r\n.\r\n"))
                writer.write(b"250 taken\r\n")
            elif verb == b"RCPT":
                writer.write(self.recipient_reply + b"\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                writer.write(b"250 ok\r\n")
        writer.close()


@pytest.fixture
async def site() -> AsyncIterator[tuple[MailServer, SmtpMailer]]:
    mail = MailServer()
    server = await asyncio.start_server(mail.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield (
        mail,
        SmtpMailer(host="127.0.0.1", port=port, tls="none", user="", password="", sender="sealwire@example.org"),
    )
    server.close()


async def test_a_letter_is_taken_over(site: tuple[MailServer, SmtpMailer]) -> None:
    mail, mailer = site
    plain = Letter(letter_id="letter-1", to="anna@example.org", subject="Grüße", text="Zeile\n.\nEnde\n", at_us=10**15)
    await mailer.check()
    await mailer.send(plain)
    (taken,) = mail.letters
    assert b"To: anna@example.org\r\n" in taken
    assert b"Message-ID: <letter-1@example.org>\r\n" in taken
    assert b"\r\n..\r\n" in taken, "a line with a dot alone does not end the letter"


async def test_refusals_for_good_and_for_now_are_told_apart(site: tuple[MailServer, SmtpMailer]) -> None:
    mail, mailer = site
    plain = Letter(letter_id="letter-2", to="gone@example.org", subject="s", text="t\n", at_us=0)
    mail.recipient_reply = b"550 no such mailbox"
    with pytest.raises(MailRefused):
        await mailer.send(plain)
    mail.recipient_reply = b"451 later"
    with pytest.raises(OSError, match="451"):
        await mailer.send(plain)
    assert mail.letters == []


@pytest.mark.parametrize("to", ["a@[1.2", "é@example.org"])
async def test_what_no_letter_can_carry_is_refused_for_good(site: tuple[MailServer, SmtpMailer], to: str) -> None:
    mail, mailer = site
    with pytest.raises(MailRefused):
        await mailer.send(Letter(letter_id="letter-3", to=to, subject="s", text="t\n", at_us=0))
    assert mail.letters == []


async def test_a_server_that_is_away_is_an_os_error() -> None:
    mailer = SmtpMailer(host="127.0.0.1", port=9, tls="none", user="", password="", sender="sealwire@example.org")
    with pytest.raises(OSError):
        await mailer.send(Letter(letter_id="letter-3", to="a@example.org", subject="s", text="t\n", at_us=0))
