"""Challenges for passkeys: nothing is stored when one is given out, and what is spent when it is answered.

A challenge is 256 random bits, when it ends, and a keyed hash of both with what it is for, whose it is and the session
or login it belongs to. So whoever only looks at a page writes nothing, and an answer still counts there and nowhere
else, once: the first answer puts its hash where the second finds it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from typing import Final

from sealwire.kit.clock import US_PER_S, Clock
from sealwire.services.auth.passkey_store import PasskeyStore, Purpose
from sealwire.services.auth.records import Record
from sealwire.services.auth.vault import Vault

_CHANCE_BYTES: Final = 32
_TIME_BYTES: Final = 8
_MAC_BYTES: Final = 32
CHALLENGE_BYTES: Final = _CHANCE_BYTES + _TIME_BYTES + _MAC_BYTES
KEPT_S: Final = 86_400
"""How long it is remembered past its end that one was spent: a clock that is put back revives none."""


class Asked(Record):
    """What a challenge asks for.

    `user_id`: who has to answer; None is whoever can, and an empty text nobody (an address that is not known).
    `tenant_id` empty is any tenant. `bound_to`: the session, or the login that waits, in which it has to be answered.
    """

    purpose: Purpose
    tenant_id: str
    user_id: str | None
    bound_to: str = ""


class Challenges:
    """Gives them out and takes each once."""

    def __init__(self, *, store: PasskeyStore, vault: Vault, clock: Clock, ttl_s: int) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._ttl_s = ttl_s

    def make(self, asked: Asked) -> bytes:
        """Return a new challenge; nothing is kept of it."""
        until_us = self._clock.now_us() + self._ttl_s * US_PER_S
        head = os.urandom(_CHANCE_BYTES) + until_us.to_bytes(_TIME_BYTES, "big")
        return head + self._mac(head, asked)

    async def spend(self, challenge: bytes, wanted: Iterable[Asked]) -> Asked | None:
        """Return which of `wanted` a challenge of ours asks for, to exactly one caller; None when none or too late."""
        head, mac = challenge[:-_MAC_BYTES], challenge[-_MAC_BYTES:]
        if len(challenge) != CHALLENGE_BYTES:
            return None
        until_us = int.from_bytes(head[_CHANCE_BYTES:], "big")
        asked = next((one for one in wanted if hmac.compare_digest(self._mac(head, one), mac)), None)
        if asked is None or until_us <= self._clock.now_us():
            return None
        spent = hashlib.sha256(challenge).digest()
        return asked if await self._store.spend(spent, until_us + KEPT_S * US_PER_S) else None

    def _mac(self, head: bytes, asked: Asked) -> bytes:
        whose = "anybody" if asked.user_id is None else "user:" + asked.user_id
        parts = (asked.purpose.value, asked.tenant_id, whose, asked.bound_to)
        return self._vault.derive("passkey-challenge", head.hex(), *parts)
