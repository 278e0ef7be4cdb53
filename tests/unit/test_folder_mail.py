"""The folder of letters keeps what is new and drops what nobody took out in time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sealwire.adapters.embedded.mail import LETTER_KEPT_S, FolderMailer
from sealwire.ports.mail import Letter, MailRefused


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


async def test_old_letters_to_anybody_go_with_an_erasure_though_nothing_is_written(tmp_path: Path) -> None:
    mailer = FolderMailer(tmp_path / "outbox", sender="sealwire@localhost")
    await mailer.send(letter(1))
    old_s = time.time() - LETTER_KEPT_S - 60
    os.utime(tmp_path / "outbox" / "letter-1.eml", (old_s, old_s))
    assert await mailer.forget("somebody@else.example") == 0
    assert list((tmp_path / "outbox").iterdir()) == []


@pytest.mark.parametrize(
    "to", ["a@[1.2", "=?x?q?=0d=0a?=@b.c", "('?).[@;b.b:.[", "(@b.c", "<@b.c", 'a"@b.c', "a@b.c\x80"]
)
async def test_what_no_letter_can_carry_is_refused_for_good(tmp_path: Path, to: str) -> None:
    mailer = FolderMailer(tmp_path / "outbox", sender="sealwire@localhost")
    with pytest.raises(MailRefused):
        await mailer.send(Letter(letter_id="odd", to=to, subject="Hello", text="A link.", at_us=0))
    await mailer.send(letter(1))
    (tmp_path / "outbox" / ".half.part").touch()
    assert await mailer.forget("anna@example.org") == 1


@pytest.mark.parametrize(
    "to", ["o'brien+x@example.org", "a!#$%&*/=?^_`{|}~-@sub.example.org", "é@exämple.org", "a" * 64 + "@b.c"]
)
async def test_a_letter_is_found_by_its_address(tmp_path: Path, to: str) -> None:
    mailer = FolderMailer(tmp_path / "outbox", sender="sealwire@localhost")
    await mailer.send(Letter(letter_id="plain", to=to, subject="Hello", text="A link.", at_us=0))
    assert await mailer.find([to]) == 1
    assert await mailer.forget(to) == 1
