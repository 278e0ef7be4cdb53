"""Finds ports for an installation: a base such that all of its ports are free."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Final

OFFSETS: Final = (0, 2, 3, 4, 5, 6, 7, 8, 9)
BASES: Final = 2_200
_given: set[int] = set()


def free_port_base() -> int:
    """Return a base whose ports are all free at this moment, below those that the kernel gives to connections.

    Each process of pytest-xdist has bases of its own: another one could take a port between this look and its use.
    None is given twice in a process: whoever was given it may not listen yet, or be down to be started again.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for _ in range(20 * BASES):
        base = 10_000 + (secrets.randbelow(BASES // workers) * workers + worker) * 10
        if base in _given:
            continue
        try:
            for offset in OFFSETS:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        _given.add(base)
        return base
    raise RuntimeError("no ten free ports in a row on this machine")
