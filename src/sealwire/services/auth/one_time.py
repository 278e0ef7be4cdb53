"""One-time tokens: 256 bits of chance, known by their hash only."""

from __future__ import annotations

import base64
import hashlib
import os


def new_token(kind: str) -> str:
    """Return a fresh token that says what it is for, so that secret scanners and people can tell."""
    return f"{kind}.{base64.urlsafe_b64encode(os.urandom(32)).rstrip(b'=').decode()}"


def token_hash(token: str) -> bytes:
    """Hash a token of 256 bits of chance: a fast hash is enough."""
    return hashlib.sha256(token.encode()).digest()
