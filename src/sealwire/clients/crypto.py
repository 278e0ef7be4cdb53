"""The client of crypto: the contract in this process or across HTTP, and the key ring that seals without asking."""

from __future__ import annotations

from sealwire.clients.guarded import guarded
from sealwire.clients.http import Transport, remote
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.ciphers import Ciphertext, Opened, Plaintext, Sealed
from sealwire.contracts.crypto import OPERATIONS, Crypto
from sealwire.contracts.keys import Key, Keys, NewKey
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.codec import Page
from sealwire.resilience.breaker import BreakerSnapshot, State
from sealwire.resilience.guard import Guard

__all__ = ["CryptoClient", "KeyRing", "local_crypto", "remote_crypto"]


def local_crypto(service: Crypto, guard: Guard) -> Crypto:
    """Return the service in this process behind its guard."""
    return guarded(service, OPERATIONS, guard)


def remote_crypto(transport: Transport, guard: Guard) -> Crypto:
    """Return the service at the other end of `transport`. `guard` needs a timeout."""
    client: Crypto = remote(OPERATIONS, transport, guard)
    return client


class CryptoClient:
    """What programs call every day, wherever the service is; `crypto` is the whole contract, `ring` the data keys."""

    def __init__(self, *, crypto: Crypto, guard: Guard, service: str, clock: Clock) -> None:
        """`crypto` is what `local_crypto` or `remote_crypto` gave; `service` is whose data keys the ring holds."""
        self.crypto = crypto
        self._guard = guard
        self.ring = KeyRing(crypto=crypto, service=service, clock=clock)

    async def generate_key(self, caller: Caller, key: NewKey) -> Key:
        """Make a key."""
        return await self.crypto.generate_key(caller, key)

    async def get_tenant_keys(self, caller: Caller, page: Page | None = None) -> Keys:
        """Return the tenant's keys."""
        return await self.crypto.keys(caller, page or Page())

    async def rotate_key(self, caller: Caller, key_id: str) -> Key:
        """Add a version to a key."""
        return await self.crypto.rotate(caller, key_id)

    async def encrypt(self, caller: Caller, key_id: str, plaintext: Plaintext) -> Sealed:
        """Encrypt under a key."""
        return await self.crypto.encrypt(caller, key_id, plaintext)

    async def decrypt(self, caller: Caller, key_id: str, ciphertext: Ciphertext) -> Opened:
        """Decrypt. Raises: DecryptionFailed."""
        return await self.crypto.decrypt(caller, key_id, ciphertext)

    async def encrypt_with_master_key(self, caller: Caller, plaintext: Plaintext) -> Sealed:
        """Encrypt under the tenant's master key."""
        return await self.crypto.encrypt_with_master_key(caller, plaintext)

    async def decrypt_with_master_key(self, caller: Caller, ciphertext: Ciphertext) -> Opened:
        """Decrypt what was encrypted under the tenant's master key. Raises: DecryptionFailed."""
        return await self.crypto.decrypt_with_master_key(caller, ciphertext)

    def is_healthy(self) -> bool:
        """Whether calls go through at the moment."""
        return self._guard.breaker.state is not State.OPEN

    def get_circuit_breaker_state(self) -> BreakerSnapshot:
        """Return the breaker's state, counts and last transitions."""
        return self._guard.breaker.snapshot()

    def clear_cache(self) -> None:
        """Wipe the data keys held."""
        self.ring.clear_cache()
