"""Lockout: whoever fails often has to wait, longer each time; per account and address, per account, per address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from sealwire.contracts.logins import TooManyAttempts
from sealwire.kit.clock import US_PER_S, Clock
from sealwire.kit.forwarded import network_of
from sealwire.kit.problem import Unavailable
from sealwire.ports.events import NewEvent
from sealwire.services.auth.config import AuthConfig
from sealwire.services.auth.model import Counted
from sealwire.services.auth.ports import AttemptStore, SessionStore
from sealwire.services.auth.vault import Vault

_MAX_IN_TURN = 64
_MAX_JUDGED = 1_024


class Standing(msgspec.Struct, frozen=True):
    """How one attempt stands: what a failure counts under, and whether account or pair are locked now.

    `own`: where failures of its account, or of its person's proofs, are counted. `forgivable`: which of those a success
    forgives.
    """

    under: tuple[Counted, ...]
    own: tuple[bytes, ...]
    forgivable: tuple[bytes, ...]
    locked: bool


class Lockout:
    """Counts failures. A lock of the account is not told (it would say that the account exists); one of the address is.

    Attempts under the same account and address take turns, so that a hundred guesses sent at once are counted as a
    hundred and not as one.
    """

    def __init__(
        self, *, store: AttemptStore, sessions: SessionStore, vault: Vault, clock: Clock, config: AuthConfig
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._vault = vault
        self._clock = clock
        self._config = config
        self._turns: dict[bytes, tuple[asyncio.Lock, list[None]]] = {}

    @asynccontextmanager
    async def login(self, account: str, ip: str) -> AsyncIterator[Standing]:
        """Take a turn for a login on `account` from `ip`. Raises: TooManyAttempts when the address has to wait.

        Of IPv6 the network counts, as it does for the limits of the gateway: one host has a whole one to choose from.
        """
        by_pair, by_account = self._login_keys(account, ip)
        by_ip = self._vault.attempt_key("ip", network_of(ip))
        async with self._turn(by_pair):
            pair_us, account_us, ip_us = await self._left_us([by_pair, by_account, by_ip])
            if ip_us:
                raise _wait(ip_us)
            config = self._config
            under = (
                self._counted(by_pair, config.lockout_free),
                self._counted(by_account, config.lockout_free_account, of_account=True),
                self._counted(by_ip, config.lockout_free_ip),
            )
            locked = await self._is_locked(by_pair, pair_us, account_us)
            own = (by_pair, by_account)
            # Where a lock of the account holds for everybody else, who gets in does not lift it for them.
            yield Standing(under, own, (by_pair,) if account_us else own, locked)

    @asynccontextmanager
    async def proof(self, user_id: str) -> AsyncIterator[Standing]:
        """Take a turn for a proof by a known user (code, step-up). Raises: TooManyAttempts when they have to wait."""
        key = self._vault.attempt_key("proof", user_id)
        async with self._turn(key):
            (left_us,) = await self._left_us([key])
            if left_us:
                raise _wait(left_us)
            under = self._counted(key, self._config.lockout_free, of_account=True)
            yield Standing((under,), (key,), (key,), False)

    def _counted(self, key: bytes, free: int, *, of_account: bool = False) -> Counted:
        """Say how failures count. Those of an account, wherever they come from, are not forgotten within the hour: who
        has many addresses would only have to pause."""
        config = self._config
        forget_s = config.lockout_forget_account_s if of_account else config.lockout_forget_s
        return Counted(key=key, free=free, base_s=config.lockout_base_s, cap_s=config.lockout_cap_s, forget_s=forget_s)

    @asynccontextmanager
    async def verdict(self, standing: Standing) -> AsyncIterator[Standing]:
        """Look again once the work is done, one attempt on an account, and one from an address, after the other.

        Attempts from many addresses, or on many accounts, begin before the first of them has failed: each is judged as
        things stand when those before it were counted. What is locked by now is refused, however right it is.
        """
        by_pair, by_account, by_ip = (one.key for one in standing.under)
        async with self._turn(by_account, most=_MAX_JUDGED), self._turn(by_ip, most=_MAX_JUDGED):
            pair_us, account_us, ip_us = await self._left_us([by_pair, by_account, by_ip])
            locked = standing.locked or bool(ip_us) or await self._is_locked(by_pair, pair_us, account_us)
            yield msgspec.structs.replace(standing, locked=locked)

    async def _is_locked(self, by_pair: bytes, pair_us: int, account_us: int) -> bool:
        """Tell whether an account is locked for an address: by failures from there, or by failures from everywhere.

        The latter holds for nobody in a network where a session of the account was opened that still lives: whoever
        knows an address could keep its person out otherwise, by a guess every quarter of an hour.
        """
        known = await self._sessions.is_open_at(by_pair, self._clock.now_us())
        return bool(pair_us) or (bool(account_us) and not known)

    async def _left_us(self, keys: Sequence[bytes]) -> list[int]:
        """Return how long each key has to wait; 0 when it has not.

        No lock is longer than the longest: one that seems so was set before the clock was put back, and is void. What
        was counted is not, so the next failure locks again.
        """
        now_us, cap_us = self._clock.now_us(), round(self._config.lockout_cap_s * US_PER_S)
        left = [until_us - now_us for until_us in await self._store.locked_until(keys)]
        return [left_us if 0 < left_us <= cap_us else 0 for left_us in left]

    async def failures(self, keys: Sequence[bytes]) -> int:
        """Return how many failures are counted under one of the keys of a person, or their account, by now."""
        kept_s = max(self._config.lockout_forget_account_s, self._config.lockout_forget_s)
        return await self._store.failures(keys, self._clock.now_us() - kept_s * US_PER_S)

    def full_login(self, account: str, ip: str, user_id: str) -> tuple[bytes, ...]:
        """Return what a login with both factors forgives: failures at the password, here too, and at other proofs.

        The password alone forgives nothing where a second factor is wanted: whoever knows it would guess on for ever.
        """
        return (*self._login_keys(account, ip), self._vault.attempt_key("proof", user_id))

    async def forgive_login(self, account: str, ip: str) -> None:
        """Forget the failures on an account, also from that address: its password is a new one."""
        await self._store.forgive(self._login_keys(account, ip))

    def place(self, account: str, ip: str) -> bytes:
        """Return what a session remembers of where it was opened."""
        return self._login_keys(account, ip)[0]

    def _login_keys(self, account: str, ip: str) -> tuple[bytes, bytes]:
        return self._vault.attempt_key("pair", account, network_of(ip)), self._vault.attempt_key("account", account)

    async def fail(self, standing: Standing, events: Sequence[NewEvent]) -> None:
        """Count a failure (none while locked: waiting is not prolonged by being asked) and store the events."""
        under = () if standing.locked else standing.under
        await self._store.fail(under, now_us=self._clock.now_us(), events=events)

    @asynccontextmanager
    async def _turn(self, key: bytes, *, most: int = _MAX_IN_TURN) -> AsyncIterator[None]:
        lock, waiting = self._turns.setdefault(key, (asyncio.Lock(), []))
        if len(waiting) >= most:
            raise Unavailable("Too many sign-ins at once for this account.", retry_after_s=2.0)
        waiting.append(None)
        try:
            async with lock:
                yield
        finally:
            waiting.pop()
            if not waiting:
                self._turns.pop(key, None)


def _wait(left_us: int) -> TooManyAttempts:
    return TooManyAttempts("Too many attempts failed; wait before the next one.", retry_after_s=left_us / US_PER_S)
