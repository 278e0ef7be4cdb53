"""Postman: hands letters over to the mailer, later and off the path of any request, and again until it succeeds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from sealwire.contracts.crypto_terms import KeyDamaged
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.ids import new_id
from sealwire.kit.problem import Problem
from sealwire.kit.tasks import cancel_and_wait
from sealwire.ports.mail import Letter, Mailer, MailRefused
from sealwire.services.auth.events import Journal, Kind
from sealwire.services.auth.model import folded_email
from sealwire.services.auth.ports import LetterStore
from sealwire.services.auth.records import LetterRecord
from sealwire.services.auth.vault import Vault

_LOG = logging.getLogger("sealwire.auth")

AT_ONCE: Final = 50
LOOK_EVERY_S: Final = 15.0
FIRST_WAIT_S: Final = 5.0
LONGEST_WAIT_S: Final = 900.0
GIVEN_UP_S: Final = 86_400
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Letter).decode


class Postman:
    """One background task. A letter is stored sealed with what it is about, so a crash loses none."""

    def __init__(self, *, store: LetterStore, mailer: Mailer, vault: Vault, journal: Journal, clock: Clock) -> None:
        self._store = store
        self._mailer = mailer
        self._vault = vault
        self._journal = journal
        self._clock = clock
        self._wake = asyncio.Event()
        self._round = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="auth-postman")

    async def stop(self) -> None:
        """End; what was not handed over is the next start's. Safe to call twice."""
        task, self._task = self._task, None
        await cancel_and_wait(task)

    async def seal(self, tenant_id: str, *, to: str, subject: str, text: str, letter_id: str = "") -> LetterRecord:
        """Write a letter, to be stored in the same transaction as what it is about. `letter_id`: when it has one."""
        letter_id, now_us = letter_id or new_id(), self._clock.now_us()
        letter = Letter(letter_id=letter_id, to=to, subject=subject, text=text, at_us=now_us)
        sealed = await self._vault.seal(tenant_id, "letter:" + letter_id, _encode(letter))
        return LetterRecord(letter_id=letter_id, tenant_id=tenant_id, sealed=sealed, created_us=now_us, due_us=now_us)

    def wake(self) -> None:
        """Tell that a letter was stored."""
        self._wake.set()

    async def deliver(self) -> int:
        """Hand over what is due; return how many letters went."""
        went = 0
        async with self._round:
            for record in await self._store.due(self._clock.now_us(), AT_ONCE):
                went += await self._hand_over(record)
        return went

    async def forget(self, tenant_id: str, address: str) -> int:
        """Destroy every letter to an address that is still here, waiting or handed over; return how many there were."""
        async with self._round:
            found = await self._waiting(tenant_id, address)
            for letter_id in found:
                await self._store.done(letter_id, [])
            return len(found) + await self._mailer.forget(address)

    async def count(self, tenant_id: str, address: str, words: Sequence[str]) -> tuple[int, int]:
        """Return how many letters to an address wait, and how many that were handed over name one of the words."""
        waiting = len(await self._waiting(tenant_id, address)) if address else 0
        return waiting, await self._mailer.find([word for word in (*words, address) if word])

    async def _waiting(self, tenant_id: str, address: str) -> list[str]:
        wanted, found, after = folded_email(address), [], ""
        while records := await self._store.of(tenant_id, after, AT_ONCE):
            after = records[-1].letter_id
            for record in records:
                opened = await self._vault.open_if_possible(tenant_id, "letter:" + record.letter_id, record.sealed)
                if opened is not None and folded_email(_decode(opened).to) == wanted:
                    found.append(record.letter_id)
        return found

    async def _hand_over(self, record: LetterRecord) -> bool:
        try:
            opened = await self._vault.open_if_possible(record.tenant_id, "letter:" + record.letter_id, record.sealed)
        except KeyDamaged:  # of this tenant's keys: nobody else's letters wait for them
            _LOG.warning("a letter can't be opened for now, will try again: the keys of its tenant are damaged")
            await self._put_off(record)
            return False
        if opened is None:
            await self._store.done(record.letter_id, [])  # the tenant's keys are destroyed: it is gone
            return False
        try:
            await self._mailer.send(_decode(opened))
        except MailRefused:
            await self._drop(record, "refused")
        except (Problem, OSError) as error:
            _LOG.warning("a letter could not be handed over, will try again: %s", type(error).__name__)
            await self._put_off(record)
        except Exception:
            # A fault of ours, at this letter: it must not keep all that are due after it waiting.
            _LOG.exception("a letter could not be written, will try again")
            await self._put_off(record)
        else:
            await self._store.done(record.letter_id, [])
            return True
        return False

    async def _put_off(self, record: LetterRecord) -> None:
        now_us = self._clock.now_us()
        if now_us - record.created_us > GIVEN_UP_S * US_PER_S:
            await self._drop(record, "given_up")
            return
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(record.attempts, 20))
        await self._store.later(record.letter_id, now_us + round(wait_s * US_PER_S))

    async def _drop(self, record: LetterRecord, reason: str) -> None:
        origin = await self._journal.origin(service_caller("auth", record.tenant_id))
        event = self._journal.event(
            Kind.LETTER_DROPPED, origin, resource_type="letter", resource_id=record.letter_id, outcome="failure",
            reason=reason,
        )  # fmt: skip
        await self._store.done(record.letter_id, [event])

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                while await self.deliver() == AT_ONCE:
                    pass
            except Exception as error:
                _LOG.warning("letters wait, will try again: %r", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
