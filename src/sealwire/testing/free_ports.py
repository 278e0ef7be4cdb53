"""Finds ports for an installation: a base such that all of its ports are free."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Final

OFFSETS: Final = (0, 2, 3, 4, 5, 6, 7, 8, 9)
BASES: Final = 2_200


def free_port_base() -> int:
    """Return a base whose ports are all free at this moment, below those that the kernel gives to connections.

    Each process of pytest-xdist has bases of its own: another one could take a port between this look and its use.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for _ in range(200):
        base = 10_000 + (secrets.randbelow(BASES // workers) * workers + worker) * 10
        try:
            for offset in OFFSETS:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise RuntimeError("no ten free ports in a row on this machine")
