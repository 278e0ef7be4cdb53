"""How many messages per second the messaging service stores, in process, beside what the disk and the cipher can do."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.group_commit import bare_fdatasync, percentiles
from sealwire.contracts.messages import Draft
from sealwire.contracts.messaging_stream import PublicationQuery
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import SystemClock
from sealwire.testing.messaging_room import MessagingRoom

SECONDS = 2.0
BODY = "hello there, this is a message as long as people write them. " * 3


def bare_seal() -> dict[str, float]:
    """Encrypt the same body with AES-256-GCM: the least that sealing can cost."""
    cipher, nonce, body, count = AESGCM(os.urandom(32)), os.urandom(12), BODY.encode(), 20_000
    began = time.perf_counter()
    for _ in range(count):
        cipher.encrypt(nonce, body, b"")
    return {"us_each": round((time.perf_counter() - began) / count * 1e6, 2)}


async def sends(senders: int, seconds: float, *, followed: bool) -> dict[str, Any]:
    """`senders` tasks in one conversation: each sends, waits until it is durable, and sends again."""
    folder = Path(tempfile.mkdtemp(dir="."))
    room = MessagingRoom(folder, clock=SystemClock())
    await room.open()
    people = [await room.enter(f"p{n}") for n in range(min(senders, 8))]
    group = await room.group(people[0], *people[1:])
    for who in people:
        await room.say(who, group, "keys are at hand now", "warm")
    times: list[float] = []
    end = time.perf_counter() + seconds
    send, id_ = room.messaging.send, group.conversation_id

    async def sender(number: int) -> None:
        who, n = people[number % len(people)], 0
        while (began := time.perf_counter()) < end:
            n += 1
            await send(who, id_, Draft(body=BODY, client_message_id=f"{number}-{n}"))
            times.append(time.perf_counter() - began)

    async def follow() -> None:
        after, socket = 0, service_caller("socket", "system")
        while time.perf_counter() < end:
            page = await room.messaging.publications(socket, PublicationQuery(after=after, wait_ms=50))
            after = page.items[-1].position if page.items else after

    cpu = time.process_time()
    await asyncio.gather(*[sender(n) for n in range(senders)], *[follow() for _ in range(3 if followed else 0)])
    cpu = time.process_time() - cpu
    stats = room.stores.db.stats
    await room.close()
    shutil.rmtree(folder)
    return {
        "per_s": round(len(times) / seconds),
        **percentiles(times),
        "cpu_us_each": round(cpu / len(times) * 1e6, 1),
        "per_commit": round(stats.rows / stats.groups, 1),
        "commit_mean_ms": round(stats.commit_s_sum / stats.groups * 1000, 3),
    }


def measure(seconds: float = SECONDS) -> dict[str, Any]:
    """Return every figure by name."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        figures: dict[str, Any] = {"bare fdatasync": bare_fdatasync(Path(name), seconds / 2)}
    figures["bare AES-256-GCM"] = bare_seal()
    for senders, followed in ((1, False), (8, False), (32, False), (32, True)):
        label = f"{senders} senders{', 3 followers' if followed else ''}"
        figures[label] = uvloop.run(sends(senders, seconds, followed=followed))
    return figures


def main() -> None:
    """Print the figures, as a table or with --json."""
    figures = measure(0.4 if "--quick" in sys.argv else SECONDS)
    if "--json" in sys.argv:
        print(json.dumps(figures))
        return
    for label, figure in figures.items():
        print(f"{label:26}", "  ".join(f"{k}={v}" for k, v in figure.items()))


if __name__ == "__main__":
    main()
