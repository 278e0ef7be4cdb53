"""Keys of service identities in a folder: each service's private half in a file of its own, the public halves beside.

In the split form a service's process is given only its own private file; the folder of public halves is for all.
"""

from __future__ import annotations

import json
from pathlib import Path

from sealwire.kit.files import write_whole
from sealwire.kit.ids import new_id
from sealwire.kit.jose import Algorithm, Key, KeySet


class ServiceKeys:
    """`<folder>/<service>.pem` (mode 0600) and `<folder>/public/<service>.json`, one Ed25519 pair per service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._public = folder / "public"

    def private(self, service: str) -> Key:
        """Return the service's own key, made on first use; on return both halves are durable.

        Raises: OSError, ValueError for a file that holds no such key.
        """
        path = self._folder / f"{service}.pem"
        if not path.exists():
            self._public.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_whole(path, Key.generate(Algorithm.EDDSA).private_pem(), mode=0o600)
        kid_path = self._public / f"{service}.json"
        pem = path.read_bytes()
        if kid_path.exists():
            key = Key.from_pem(pem, Algorithm.EDDSA, kid=json.loads(kid_path.read_bytes())["kid"])
            if key.public_jwk() == json.loads(kid_path.read_bytes()):
                return key
        key = Key.from_pem(pem, Algorithm.EDDSA, kid=f"{service}.{new_id()}")
        write_whole(kid_path, json.dumps(key.public_jwk()).encode(), mode=0o644)
        return key

    def published(self) -> dict[str, KeySet]:
        """Return the public keys by the service that owns them."""
        return {
            path.stem: KeySet([Key.from_public_jwk(json.loads(path.read_bytes()))])
            for path in sorted(self._public.glob("*.json"))
        }
