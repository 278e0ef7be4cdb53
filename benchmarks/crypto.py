"""How many encryptions a second: in process, in batches, over HTTP, by key ring? Beside bare AES-GCM and OpenBao."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.harness import load
from benchmarks.harness.fastify import Unavailable
from benchmarks.harness.openbao import OpenBao
from benchmarks.harness.results import comparison, run
from benchmarks.harness.sealwire import API, Sealwire
from benchmarks.harness.setup_client import Client
from benchmarks.harness.window import interleave
from sealwire.adapters.embedded.crypto import MIGRATIONS, SqliteKeyStore
from sealwire.adapters.embedded.drivers.sqlite import Database
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.ciphers import Ciphertext, CiphertextBatch, Plaintext, PlaintextBatch
from sealwire.contracts.keys import NewKey
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.clock import SystemClock
from sealwire.kit.codec import decode_body, encode
from sealwire.kit.permission import Role
from sealwire.services.crypto.config import CryptoConfig
from sealwire.services.crypto.providers import FileKeyProvider
from sealwire.services.crypto.service import CryptoService

TEXT_BYTES = 200
BATCH = 100
AAD = b"context of sixty bytes"
RECORDED_PER_S = 3_205
"""OpenBao's Transit on such a machine, as recorded with the peers: for where it can't be had."""
CONTEXT = {"tenant": "t1", "record": "0198c0de-0000-7000-8000-000000000000"}
ADMIN = Caller(principal=Principal(kind="user", tenant_id="t1", subject="anna", role=Role.ADMIN))
Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Return items/s of 200 bytes each, all with an encryption context, uses counted and recorded durably.

    `bare AES-GCM` is one AESGCM.encrypt with a fresh random nonce and nothing else: the bound for an item. A committing
    envelope needs a SHA-256 besides: `bare, committed` is both and nothing else. In full about two minutes at most.
    """
    rounds, calls = (3, 500) if quick else (11, 2_000)
    with tempfile.TemporaryDirectory() as folder:
        figures = uvloop.run(in_process(Path(folder), rounds, calls))
        http, skipped = over_http(Path(folder), 1 if quick else 3, 1.5 if quick else 2.0)
    bare, committed = figures["bare AES-GCM"]["per_s"], figures["bare, committed"]["per_s"]
    ring_us = 1e6 / figures["key ring, seal"]["per_s"]
    comparisons = [
        comparison("items/s, batches of 100", figures["batches of 100"]["per_s"], 200_000, 1.0),
        comparison("key ring seal of 200 B, µs", round(ring_us, 2), 4.0, 1.0, less_is_better=True),
        comparison("key ring seal beside bare, committed", figures["key ring, seal"]["per_s"], committed, 0.5),
        comparison("batches of 100 beside bare", figures["batches of 100"]["per_s"], bare, 0.5),
    ]
    for count in (1, 8):
        ours = http[f"encrypt over HTTP, {count}"]["per_s"]
        theirs = http.get(f"OpenBao, {count}", {}).get("per_s", RECORDED_PER_S if count == 8 else None)
        if theirs is not None:
            comparisons.append(comparison(f"encrypts/s over HTTP, {count} connections", ours, theirs, 1.0))
    return {"figures": {**figures, **http}, "comparisons": comparisons, "skipped": skipped}


async def in_process(folder: Path, rounds: int, calls: int) -> Figures:
    """Measure the service called directly, the kinds interleaved; the median of the rounds is kept."""
    db = Database.open(folder / "crypto.db", MIGRATIONS)
    clock = SystemClock()
    service = CryptoService(
        store=SqliteKeyStore(db),
        provider=FileKeyProvider.open(folder / "kek"),
        clock=clock,
        config=CryptoConfig(journal_limit=10_000_000),
    )
    await service.start()
    key = await service.generate_key(ADMIN, NewKey())
    text = os.urandom(TEXT_BYTES)
    item = Plaintext(plaintext=text, context=CONTEXT)
    batch = PlaintextBatch(items=[item] * BATCH)
    sealed = await service.encrypt_batch(ADMIN, key.key_id, batch)
    opened = CiphertextBatch(
        items=[
            Ciphertext(ciphertext=s.ciphertext, iv=s.iv, auth_tag=s.auth_tag, version=s.version, context=CONTEXT)
            for s in sealed.items
        ]
    )
    ring = KeyRing(crypto=service, service="messaging", clock=clock)
    await ring.sealing_key("t1", "c1", "u1")
    envelope = await ring.seal("t1", "c1", "u1", text, AAD)
    written = encode(batch)
    kinds: dict[str, tuple[Callable[[int], Awaitable[None]], int]] = {
        "bare AES-GCM": (partial(_bare, AESGCM(os.urandom(32)), text), 1),
        "bare, committed": (partial(_committed, AESGCM(os.urandom(32)), text), 1),
        "one at a time": (partial(_repeat, service.encrypt, ADMIN, key.key_id, item), 1),
        "batches of 100": (partial(_repeat, service.encrypt_batch, ADMIN, key.key_id, batch), BATCH),
        "batches of 100, read and written as JSON": (partial(_as_json, service, key.key_id, written), BATCH),
        "decrypt, batches of 100": (partial(_repeat, service.decrypt_batch, ADMIN, key.key_id, opened), BATCH),
        "key ring, seal": (partial(_seal, ring, text), 1),
        "key ring, open": (partial(_open, ring, envelope), 1),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    cpu_us: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (work, items) in kinds.items():
            count = calls if items == 1 else 10 * calls // items
            start, busy = time.perf_counter(), time.process_time()
            await work(count)
            cpu_us[name].append((time.process_time() - busy) * 1e6 / (count * items))
            rates[name].append(count * items / (time.perf_counter() - start))
            await asyncio.sleep(0.02)  # let the journal write what was noted, outside of the measured time
    await service.stop()
    await db.close()
    return {
        name: {
            "per_s": round(median(found)),
            "cpu_us_per_op": round(median(cpu_us[name]), 2),
            "windows": [round(r) for r in found],
        }
        for name, found in rates.items()
    }


async def _bare(cipher: AESGCM, text: bytes, count: int) -> None:
    for _ in range(count):
        cipher.encrypt(os.urandom(12), text, AAD)


async def _committed(cipher: AESGCM, text: bytes, count: int) -> None:
    prefix = os.urandom(48)
    for _ in range(count):
        nonce = os.urandom(12)
        sha256(prefix + nonce + AAD).digest() + cipher.encrypt(nonce, text, AAD)


async def _repeat(call: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
    *taken, count = arguments
    for _ in range(count):
        await call(*taken)


async def _as_json(service: CryptoService, key_id: str, written: bytes, count: int) -> None:
    """Do all that is done for a request but HTTP: parsing, base64 both ways and the answer's text included."""
    decoder = msgspec.json.Decoder(PlaintextBatch)
    for _ in range(count):
        encode(await service.encrypt_batch(ADMIN, key_id, decode_body(decoder, written)))


async def _seal(ring: KeyRing, text: bytes, count: int) -> None:
    for _ in range(count):
        key = ring.ready("t1", "c1", "u1") or await ring.sealing_key("t1", "c1", "u1")
        key.seal(text, AAD)


async def _open(ring: KeyRing, envelope: bytes, count: int) -> None:
    for _ in range(count):
        key = ring.ready_for("t1", envelope) or await ring.opening_key("t1", "c1", "u1", envelope)
        key.open(envelope, AAD)


def over_http(folder: Path, rounds: int, window_s: float) -> tuple[Figures, list[str]]:
    """Measure a whole installation, and OpenBao in turns with it; keep-alive, one request in flight per connection.

    Ours: session checked, sealed with a context, nonce counted, use and request recorded durably. OpenBao: token
    checked, sealed, written to its audit log (not flushed), storage in memory.
    """
    server = Sealwire(folder / "data")
    bao, skipped = None, []
    try:
        bao = OpenBao(folder / "bao")
    except Unavailable as why:
        skipped.append(f"OpenBao: {why}; with the peers stand {RECORDED_PER_S:,}/s a core at 8 connections")
    try:
        token = server.register("admin").token
        client = Client(server.port)
        path = f"{API}/crypto/keys/{client.call('POST', f'{API}/crypto/keys', {}, token=token)['key_id']}"
        text = b64encode(os.urandom(TEXT_BYTES)).decode()
        item = {"plaintext": text, "context": {"record": "7"}}
        sealed = client.call("POST", f"{path}/encrypt", item, token=token)
        opened = {name: sealed[name] for name in ("ciphertext", "iv", "auth_tag", "version")}
        opened["context"] = item["context"]

        def asks(call: str, document: Any) -> bytes:
            return load.http_request(server.port, f"{path}/{call}", json.dumps(document), token=token)

        kinds = {
            "encrypt over HTTP, 1": (server, asks("encrypt", item), 1),
            "encrypt over HTTP, 8": (server, asks("encrypt", item), 8),
            "decrypt over HTTP, 1": (server, asks("decrypt", opened), 1),
            "decrypt over HTTP, 8": (server, asks("decrypt", opened), 8),
            "batches of 100 over HTTP, 8": (server, asks("encrypt-batch", {"items": [item] * BATCH}), 8),
        }
        if bao is not None:
            theirs = load.http_request(bao.port, bao.path, json.dumps({"plaintext": text}), token=bao.token)
            kinds |= {"OpenBao, 1": (bao, theirs, 1), "OpenBao, 8": (bao, theirs, 8)}
        found = interleave(
            {name: partial(_window, whose, request, n, window_s) for name, (whose, request, n) in kinds.items()},
            rounds=rounds,
            rate="per_s",
            retries=0 if rounds == 1 else 1,
        )
        batches = found["batches of 100 over HTTP, 8"]
        batches["items_per_s"] = round(batches["per_s"] * BATCH)
        return found, skipped
    finally:
        server.stop()
        if bao is not None:
            bao.stop()


def _window(server: Sealwire | OpenBao, request: bytes, count: int, window_s: float) -> Figures:
    connections = [load.Connection(protocol=load.HTTP, templates=[request]) for _ in range(count)]
    plan = load.Plan(port=server.port, connections=connections)
    return load.run(plan, server_pids=server.pids, window_s=window_s, warm_s=0.5)


if __name__ == "__main__":
    sys.exit(run(main))
