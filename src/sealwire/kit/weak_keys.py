"""Public keys that are well formed and still worth nothing: known fingerprints, checked when a key is made."""

from __future__ import annotations

from typing import Final

_ED25519_PRIME: Final = 2**255 - 19
_ORDER_8_Y: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y: Final = frozenset({0, 1, _ED25519_PRIME - 1, _ORDER_8_Y, _ED25519_PRIME - _ORDER_8_Y})
"""The y of the eight points whose order divides 8 (RFC 8032 section 5.1, cofactor); x is one of two, or 0."""

_ROCA_PRIMES: Final = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
_ROCA_GENERATOR: Final = 65_537


def is_of_small_order(public_key: bytes) -> bool:
    """Tell whether an Ed25519 public key (32 bytes) is a point of small order, in whatever encoding.

    Under such a key one signature holds for many messages, made by anybody. Source: the list in C2SP CCTV `ed25519`.
    """
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    return y % _ED25519_PRIME in _SMALL_ORDER_Y


def has_roca_fingerprint(modulus: int) -> bool:
    """Tell whether an RSA modulus is of the faulty generator whose primes are powers of 65537 modulo small primes.

    Source: Nemec, Sys, Svenda, Klinec, Matyas, "The Return of Coppersmith's Attack", CCS 2017, section 2.3. Of honest
    keys about one in 2^27 looks so too; it is refused, and another is made.
    """
    return all(modulus % prime in powers for prime, powers in _ROCA_RESIDUES)


def _powers(prime: int) -> frozenset[int]:
    found, power = {1}, _ROCA_GENERATOR % prime
    while power not in found:
        found.add(power)
        power = power * _ROCA_GENERATOR % prime
    return frozenset(found)


_ROCA_RESIDUES: Final = tuple((prime, _powers(prime)) for prime in _ROCA_PRIMES)
