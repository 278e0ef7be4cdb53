"""Password hashes: argon2id in a bounded pool of threads, with equal work for people who don't exist."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import msgspec
from argon2 import PasswordHasher as Argon2
from argon2.exceptions import InvalidHashError, VerificationError

from sealwire.kit.problem import Unavailable
from sealwire.services.auth.password_rules import normalised

T = TypeVar("T")
NO_PASSWORD: Final = "!"  # noqa: S105 - the want of one
"""Stands where a hash would for people without a password; no password matches it, at the cost of any other."""


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Argon2id parameters. Defaults: OWASP Password Storage Cheat Sheet (19 MiB, 2 passes, 1 lane), about 20 ms."""

    memory_kib: int = 19_456
    passes: int = 2
    lanes: int = 1


class Check(msgspec.Struct, frozen=True):
    """The answer to a password check; `rehash` asks for a new hash because the parameters have risen since."""

    holds: bool
    rehash: bool


class PasswordHasher:
    """Argon2id off the event loop: at most `threads` at once and `max_waiting` in line; more are told to come back.

    `work_done` counts computed hashes, so that equal work is shown by counting and not with a stop watch.
    """

    def __init__(self, *, costs: Costs | None = None, threads: int = 2, max_waiting: int = 64) -> None:
        costs = costs or Costs()
        self._argon2 = Argon2(
            time_cost=costs.passes, memory_cost=costs.memory_kib, parallelism=costs.lanes, hash_len=32, salt_len=16
        )
        # Made before the first login: it stands in for people who don't exist and has to cost what theirs would.
        self._dummy = self._argon2.hash("no one has this password")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._max_open = threads + max_waiting
        self._open = 0
        self.work_done = 0

    def stop(self) -> None:
        """End the threads; what runs is finished, what waits is dropped. Safe to call twice."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """Return the hash in PHC form, parameters and salt inside. Raises: Unavailable when too many wait."""
        return await self._run(self._argon2.hash, normalised(password))

    async def check(self, stored: str | None, password: str) -> Check:
        """Compare `password` with a stored hash; None stands for a person who doesn't exist and costs the same.

        Raises: Unavailable when too many wait.
        """
        matches = await self._run(self._matches, stored or self._dummy, normalised(password))
        if stored is None or not matches:
            return Check(False, False)
        return Check(True, self._argon2.check_needs_rehash(stored))

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._argon2.verify(stored, password)
        except VerificationError:
            return False
        except InvalidHashError:
            # An account without a password, such as what an erasure leaves: no less work than a wrong one.
            with contextlib.suppress(VerificationError):
                self._argon2.verify(self._dummy, password)
            return False

    async def _run(self, work: Callable[..., T], *arguments: str) -> T:
        if self._open >= self._max_open:
            raise Unavailable("Too many people sign in at once.", retry_after_s=2.0)
        self._open += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        finally:
            self._open -= 1
            self.work_done += 1
