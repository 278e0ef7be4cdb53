"""What does the token guard add to the signature check of a cold access token? Beside a bare Ed25519 verify."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealwire.kit.ids import new_id
from sealwire.kit.jose import Algorithm, Key, KeySet, Rules, sign, verify

CALLS = 300
WINDOWS = 15
ISSUER, AUDIENCE = "https://sealwire.local", "sealwire"


def claims(now_s: int) -> dict[str, object]:
    """Return what an access token of ours says."""
    return {
        "iss": ISSUER, "aud": AUDIENCE, "sub": new_id(), "client_id": "sealwire", "email": "someone@example.org",
        "role": "member", "tid": new_id(), "sid": new_id(), "jti": new_id(), "iat": now_s, "exp": now_s + 600,
        "auth_time": now_s, "amr": ["pwd"], "epoch": 1,
    }  # fmt: skip


def measure() -> dict[str, float]:
    """Return the median cost of one call in µs, the kinds of call interleaved."""
    now_s = int(time.time())
    rules = Rules(
        typ=frozenset({"at+jwt"}), issuer=ISSUER, audience=AUDIENCE, required=frozenset({"sub", "sid", "tid"})
    )
    kinds: dict[str, Callable[[], object]] = {}
    for alg in (Algorithm.EDDSA, Algorithm.ES256, Algorithm.RS256):
        key = Key.generate(alg)
        token, keys = sign(claims(now_s), key, "at+jwt"), KeySet([key])
        kinds[f"verify_{alg.value}"] = lambda t=token, k=keys: verify(t, k, rules, now_us=now_s * 1_000_000)  # type: ignore[misc] # bound now
        if alg is Algorithm.EDDSA:
            public, text = key.jwk.public_key, token.rpartition(".")[0].encode()
            assert isinstance(public, Ed25519PublicKey)
            signature = key.jwk.private_key.sign(text)  # type: ignore[union-attr,call-arg] # Ed25519 here
            kinds["bare_Ed25519"] = lambda p=public, s=signature, m=text: p.verify(s, m)  # type: ignore[misc] # bound now
            kinds["sign_EdDSA"] = lambda k=key: sign(claims(now_s), k, "at+jwt")  # type: ignore[misc] # bound now
    seen: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(WINDOWS):
        for name, call in kinds.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            seen[name].append(time.perf_counter() - start)
    return {name: median(times) / CALLS * 1e6 for name, times in seen.items()}


def main() -> int:
    """Print the figures; with `--json` as one JSON document."""
    us = measure()
    figures = {f"{name}_us": round(value, 1) for name, value in us.items()}
    figures["guard_adds_us"] = round(us["verify_EdDSA"] - us["bare_Ed25519"], 1)
    if "--json" in sys.argv:
        print(json.dumps({"benchmark": "token_verify", "figures": figures}))
    else:
        print("one token, µs (median of windows)")
        for name, value in figures.items():
            print(f"  {name:<24}{value:>9.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
