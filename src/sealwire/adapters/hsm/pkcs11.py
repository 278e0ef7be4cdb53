"""The PKCS#11 key provider: a key-encryption key that is made in a token and never leaves it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

import msgspec

from sealwire.adapters.hsm.endings import END_S, Endings
from sealwire.adapters.hsm.pin import PinSource, PinUnusable, RefusedPin
from sealwire.adapters.hsm.wire import FORMAT, HEADER_BYTES, Answer, Opening, Request
from sealwire.adapters.hsm.worker import Worker, WorkerLost, WorkerSilent
from sealwire.kit.clock import Clock
from sealwire.services.crypto.providers import KekUnusable, WrapRefused

_log = logging.getLogger("sealwire.crypto")
_FIRST_PAUSE_S: Final = 0.25
_MOST_PAUSE_S: Final = 5.0
_LOOK_S: Final = 0.005


class TokenPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Which token: library, labels, and where its PIN is (`file:PATH` or `env:NAME`; never the PIN)."""

    module: str
    token: str
    key: str
    pin: str
    timeout_s: float = 5.0


class TokenOut(KekUnusable):
    """The token, its library, its key or its session can't be used for the moment."""


class Pkcs11KeyProvider:
    """`KeyProvider` over a token. One worker process owns the session and is replaced when it dies.

    A call whose worker dies under it is asked once more of a fresh one: both calls are safe to repeat. Nobody waits
    longer than `timeout_s` for an answer, nor for a fresh worker. When the token is silent or no worker comes up, calls
    fail at once until the pause is over (0.25 s, doubling to 5 s), so an outage costs no storm of processes. Nor is one
    started while the last one isn't gone: a process that hangs in a driver may outlive its kill. A refused PIN is tried
    again only after it was changed.
    """

    name = "pkcs11"

    def __init__(
        self, *, place: TokenPlace, refused: RefusedPin, clock: Clock, worker: Worker, endings: Endings
    ) -> None:
        """Use `open`."""
        self._place = place
        self._endings = endings
        self._refused = refused
        self._clock = clock
        self._worker: Worker | None = worker
        self._fingerprint = worker.fingerprint
        self._starting: asyncio.Task[Worker] | None = None
        self._out: KekUnusable | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._not_before_s = 0.0
        self._closed = False
        self.kek_id = f"pkcs11:{worker.fingerprint.hex()}"

    @classmethod
    async def open(cls, place: TokenPlace, *, create: bool, refused_pin: Path, clock: Clock) -> Pkcs11KeyProvider:
        """Log in and find the key; make it in the token when there is none and `create`.

        `refused_pin` is where a refused PIN is remembered (never the PIN itself). Raises: KekUnusable.
        """
        refused, endings = RefusedPin(refused_pin), Endings()
        worker = await _start(place, refused, create=create, endings=endings)
        return cls(place=place, refused=refused, clock=clock, worker=worker, endings=endings)

    @property
    def worker_pid(self) -> int | None:
        """The process that holds the session now."""
        return self._worker.pid if self._worker is not None and self._worker.alive else None

    def holds(self, wrapped: bytes) -> bool:
        return wrapped[:HEADER_BYTES] == FORMAT + self._fingerprint

    async def wrap(self, key: bytes | bytearray, context: bytes) -> bytes:
        return (await self._ask(Request(do="wrap", data=bytes(key), context=context))).data

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytearray:
        if not self.holds(wrapped):
            raise WrapRefused(f"the key was wrapped under another key-encryption key than {self.kek_id}")
        answer = await self._ask(Request(do="unwrap", data=wrapped, context=context))
        if answer.refused:
            raise WrapRefused("the wrapped key was changed or belongs to another place")
        return bytearray(answer.data)

    async def check(self) -> None:
        """Have the token open a probe. Raises: KekUnusable."""
        await self._ask(Request(do="check"))

    def close(self) -> None:
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    async def _ask(self, request: Request) -> Answer:
        """Ask the worker, and a fresh one if that one is lost. Raises: KekUnusable."""
        try:
            return await self._ask_once(request)
        except WorkerLost as lost:
            _log.warning("the token's worker is replaced: %s", lost)
        try:
            return await self._ask_once(request)
        except WorkerLost as lost:
            raise TokenOut(str(lost)) from None

    async def _ask_once(self, request: Request) -> Answer:
        """Raises: WorkerLost when a fresh worker may do better; KekUnusable."""
        worker = await self._ready()
        try:
            return await worker.ask(request, timeout_s=self._place.timeout_s)
        except WorkerSilent as silent:
            out = TokenOut(str(silent))
            self._put_off(out)
            raise out from None

    async def _ready(self) -> Worker:
        """Return the worker, started anew if it is gone. Raises: KekUnusable."""
        worker = self._worker
        if worker is not None and worker.alive:
            return worker
        if self._closed:
            raise TokenOut("the key provider has been closed")
        if self._starting is None:
            if self._out is not None and self._clock.monotonic() < self._not_before_s:
                raise type(self._out)(str(self._out))
            self._starting = asyncio.get_running_loop().create_task(self._start_anew(), name="pkcs11-start")
            self._starting.add_done_callback(self._started)
        try:
            async with asyncio.timeout(self._place.timeout_s):
                return await asyncio.shield(self._starting)
        except TimeoutError:
            raise TokenOut(f"the token's worker does not come up within {self._place.timeout_s:g} s") from None

    async def _start_anew(self) -> Worker:
        """Replace the worker, for all who wait. Raises: KekUnusable."""
        try:
            worker = await self._replace()
        except KekUnusable as fault:
            self._put_off(fault)
            raise
        if self._out is not None:
            _log.warning("the token %r is back", self._place.token)
        self._out, self._pause_s = None, _FIRST_PAUSE_S
        self._worker = worker
        return worker

    def _started(self, starting: asyncio.Task[Worker]) -> None:
        self._starting = None
        if not starting.cancelled():
            starting.exception()  # seen, also when nobody waits any more

    async def _replace(self) -> Worker:
        await self._last_one_gone()
        worker = await _start(self._place, self._refused, create=False, endings=self._endings)
        if worker.fingerprint != self._fingerprint or self._closed:
            worker.close()
            raise TokenOut(f"the key {self._place.key!r} in the token is not the one it was, {self.kek_id}")
        return worker

    async def _last_one_gone(self) -> None:
        """Wait for the ends of those before. Raises: TokenOut when one doesn't end: its successor would hang too."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + 2 * END_S
        while pending := self._endings.pending():
            if loop.time() > until_s:
                raise TokenOut(
                    f"process {pending[0]}, which held the token's session, was killed and does not end; "
                    "it may hang in the token's driver"
                )
            await asyncio.sleep(_LOOK_S)

    def _put_off(self, fault: KekUnusable) -> None:
        if self._out is None or str(self._out) != str(fault):
            _log.error("the token %r is out: %s", self._place.token, fault)
        self._out = fault
        self._not_before_s = self._clock.monotonic() + self._pause_s
        self._pause_s = min(self._pause_s * 2, _MOST_PAUSE_S)


async def _start(place: TokenPlace, refused: RefusedPin, *, create: bool, endings: Endings) -> Worker:
    """Start a worker and let it log in, with a PIN that wasn't refused before. Raises: KekUnusable."""
    pin = PinSource(place.pin).read()
    refused.require_other(pin)
    opening = Opening(module=place.module, token=place.token, key=place.key, pin=pin.text, create=create)
    try:
        worker = await Worker.start(opening, timeout_s=place.timeout_s, endings=endings)
    except WorkerLost as lost:
        if lost.fault == "pin":  # of a locked token nobody tried it: it may be right, once that is unlocked
            refused.note(pin)
        out = PinUnusable if lost.fault in ("pin", "pin_locked", "pin_last_try") else TokenOut
        raise out(str(lost)) from None
    refused.clear()
    return worker
