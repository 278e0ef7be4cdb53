"""The folder of letters keeps what is new and drops what nobody took out in time."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sealwire.adapters.embedded.mail import LETTER_KEPT_S, FolderMailer
from sealwire.ports.mail import Letter


def letter(number: int) -> Letter:
    return Letter(letter_id=f"letter-{number}", to="anna@example.org", subject="Hello", text="A link.", at_us=0)


async def test_letters_nobody_took_out_go_one_day(tmp_path: Path) -> None:
    mailer = FolderMailer(tmp_path / "outbox", sender="sealwire@localhost")
    for number in (1, 2):
        await mailer.send(letter(number))
    old_s = time.time() - LETTER_KEPT_S - 60
    os.utime(tmp_path / "outbox" / "letter-1.eml", (old_s, old_s))
    await mailer.send(letter(3))
    assert sorted(path.name for path in (tmp_path / "outbox").iterdir()) == ["letter-2.eml", "letter-3.eml"]
