"""Identifiers: UUIDv7 (RFC 9562 section 5.7), so that ids made later sort later."""

from __future__ import annotations

import os
import time
from binascii import hexlify


def new_id() -> str:
    """Return a UUIDv7 in its 36-character form: 48 bits of Unix milliseconds, 74 bits of chance."""
    h = "%012x" % (time.time_ns() // 1_000_000) + hexlify(os.urandom(10)).decode()
    return f"{h[:8]}-{h[8:12]}-7{h[13:16]}-{'89ab'[int(h[16], 16) & 3]}{h[17:20]}-{h[20:]}"
