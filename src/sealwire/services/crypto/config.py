"""Settings of the crypto service."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class CryptoConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Section `[crypto]`."""

    provider: Annotated[
        Literal["auto", "file", "pkcs11"],
        Meta(description="who holds the key-encryption key; auto: whoever does (at first a file)"),
    ] = "auto"
    kek_path: Annotated[
        str, Meta(description="file with the key-encryption key; empty: keys/kek in the data folder")
    ] = ""
    pkcs11_module: Annotated[str, Meta(description="PKCS#11 library of the token")] = ""
    pkcs11_token: Annotated[str, Meta(description="label of the token")] = ""
    pkcs11_key: Annotated[
        str, Meta(description="label of the key-encryption key in the token; made there when absent", min_length=1)
    ] = "sealwire-kek"
    pkcs11_pin: Annotated[
        str,
        Meta(
            description="where the token's PIN is: file:PATH (mode 0600) or env:NAME; never the PIN itself",
            pattern=r"^$|^(file|env):.+$",
        ),
    ] = ""
    pkcs11_timeout_s: Annotated[
        float, Meta(description="seconds without an answer after which the token counts as out", ge=0.1, le=120)
    ] = 5.0
    max_keys_per_tenant: Annotated[int, Meta(description="keys a tenant may have that aren't destroyed", ge=1)] = 1_000
    cache_age_s: Annotated[
        float, Meta(description="seconds after which an unwrapped key is wiped from memory", ge=1, le=86_400)
    ] = 300.0
    cache_keys: Annotated[int, Meta(description="unwrapped keys held in memory at most", ge=16)] = 10_000
    reserve_uses: Annotated[
        int, Meta(description="nonce uses made durable at once, before they are used", ge=16, le=1 << 24)
    ] = 4_096
    journal_window_ms: Annotated[
        int, Meta(description="milliseconds a record of a key's use may wait before it is durable", ge=1, le=1_000)
    ] = 100
    journal_individually: Annotated[
        int,
        Meta(description="uses of one kind per window with a record each; further ones share one that counts", ge=0),
    ] = 10
    journal_limit: Annotated[
        int, Meta(description="use records waiting for the disk at which further use is refused", ge=100)
    ] = 50_000
    destroy_check_s: Annotated[
        float, Meta(description="seconds between looks for keys whose time of destruction has come", ge=0.05)
    ] = 60.0
