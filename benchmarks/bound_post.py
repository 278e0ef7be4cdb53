"""How many authenticated POSTs a second through a bound operation, without storage? Beside Fastify + fast-jwt."""

from __future__ import annotations

import base64
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.harness import load
from benchmarks.harness.fastify import NodeServer, Unavailable
from benchmarks.harness.results import comparison, run
from benchmarks.harness.servers import PythonServer
from benchmarks.harness.window import interleave

ISSUER, AUDIENCE, KID = "https://auth.bench.example.org", "bench", "k1"
CONNECTIONS = (1, 64)
SESSION = {
    "session_id": "0193bd35-77b2-7d5c-9bb4-6f3f1e1d9c14",
    "tenant_id": "0193bd35-77b2-7d5c-9bb4-6f3f1e1d9c13",
    "user_id": "0193bd35-77b2-7d5c-9bb4-6f3f1e1d9c12",
    "role": "member",
    "email": "somebody@bench.example.org",
    "epoch": 0,
    "active": True,
    "expires_at_s": int(time.time()) + 3600,
}
PATH = "/conversations/0193bd35-77b2-7d5c-9bb4-6f3f1e1d9c11/messages"
Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Return both sides' rates: one token, verified once and cached, the same input, checks and answer."""
    rounds, window_s = (1, 1.5) if quick else (5, 3.0)
    figures: Figures = {}
    comparisons: list[Figures] = []
    skipped: list[str] = []
    with tempfile.TemporaryDirectory(prefix="sealwire-bench-") as name:
        folder = Path(name)
        private = Ed25519PrivateKey.generate()
        public = folder / "public.pem"
        public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        token = signed(private)
        arguments = (str(public), ISSUER, AUDIENCE, KID, json.dumps(SESSION))
        with PythonServer("benchmarks.harness.bound_app", folder, *arguments) as ours:
            servers: dict[str, Any] = {"sealwire": ours}
            reference = None
            try:
                script = Path(__file__).parent / "references" / "fast_jwt_post.js"
                env = {"PUBLIC_KEY": str(public), "ISSUER": ISSUER, "AUDIENCE": AUDIENCE}
                servers["fastify + fast-jwt"] = reference = NodeServer(script, folder / "fastify", env)
            except Unavailable as error:
                skipped.append(f"fastify: {error}")
            try:
                for count in CONNECTIONS:
                    windows = interleave(
                        {side: partial(post, server, token, count, window_s) for side, server in servers.items()},
                        rounds=rounds,
                        rate="per_s",
                        retries=0 if quick else 1,
                    )
                    figures.update({f"{side}, {count} connections": it for side, it in windows.items()})
                    if count == 64 and reference is not None:
                        rates = [windows[side]["per_s"] for side in servers]
                        comparisons.append(comparison("authenticated POST/s, 64", *rates, 1.1))
            finally:
                if reference is not None:
                    reference.stop()
    return {"figures": figures, "comparisons": comparisons, "skipped": skipped}


def post(server: Any, token: str, count: int, window_s: float) -> Figures:
    """Measure one window of `count` connections."""
    documents = [f'{{"body":"{text}","client_message_id":"{load.KEY}"}}' for text in load.texts()]
    templates = [load.http_request(server.port, PATH, document, token=token) for document in documents]
    connections = [load.Connection(protocol=load.HTTP, templates=templates) for _ in range(count)]
    plan = load.Plan(port=server.port, connections=connections)
    return load.run(plan, server_pids=server.pids, window_s=window_s)


def signed(private: Ed25519PrivateKey) -> str:
    """Return an access token as auth would sign it, good for an hour."""
    now = int(time.time())
    header = {"alg": "EdDSA", "kid": KID, "typ": "at+jwt"}
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": SESSION["user_id"],
        "client_id": "sealwire",
        "email": SESSION["email"],
        "role": SESSION["role"],
        "tid": SESSION["tenant_id"],
        "sid": SESSION["session_id"],
        "jti": "0193bd35-77b2-7d5c-9bb4-6f3f1e1d9c15",
        "iat": now,
        "exp": now + 3600,
        "auth_time": now,
        "amr": ["pwd"],
        "epoch": 0,
    }
    text = ".".join(_b64(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    return f"{text}.{_b64(private.sign(text.encode()))}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


if __name__ == "__main__":
    sys.exit(run(main))
