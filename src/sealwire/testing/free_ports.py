"""Finds ports for an installation: a base such that all of its ports are free."""

from __future__ import annotations

import secrets
import socket
from typing import Final

OFFSETS: Final = (0, 2, 3, 4, 5, 6, 7, 8, 9)


def free_port_base() -> int:
    """Return a base whose ports are all free at this moment."""
    for _ in range(200):
        base = 10_000 + secrets.randbelow(2_200) * 10
        try:
            for offset in OFFSETS:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise RuntimeError("no ten free ports in a row on this machine")
