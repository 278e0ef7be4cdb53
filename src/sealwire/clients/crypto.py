"""The client of crypto, and the key ring that lets services seal without asking it each time."""

from __future__ import annotations

from sealwire.clients.key_ring import KeyRing

__all__ = ["KeyRing"]
