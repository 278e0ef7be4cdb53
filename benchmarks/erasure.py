"""How long erasing a person takes who wrote 100,000 messages, and what those who go on writing notice of it."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from statistics import quantiles
from typing import Any

import uvloop

from benchmarks.harness import results
from sealwire.adapters.embedded.blobs import FileBlobStore
from sealwire.adapters.embedded.compliance import SqliteCompliance
from sealwire.clients.key_ring import KeyRing
from sealwire.contracts.conversations import Conversation
from sealwire.contracts.custody import MessagePolicy
from sealwire.contracts.gdpr import NewErasure
from sealwire.contracts.messages import Draft
from sealwire.kit.caller import Caller
from sealwire.kit.files import count_in_files
from sealwire.services.compliance.config import ComplianceConfig
from sealwire.services.compliance.rights import Surroundings
from sealwire.services.compliance.service import ComplianceService
from sealwire.testing.messaging_room import MessagingRoom

MESSAGES = 100_000
GROUPS = 20
SENDERS = 64
BODY = "a message as people write them, two hundred bytes or so; " * 3
PAUSE_S = 0.002


class Town:
    """Messaging, auth, crypto and compliance on a folder."""

    def __init__(self, folder: Path) -> None:
        self.room = MessagingRoom(folder)
        self.folder = folder

    async def open(self) -> None:
        await self.room.open()
        people = self.room.people
        self.storage = SqliteCompliance.open(self.folder / "compliance.db")
        self.compliance = ComplianceService(
            stores=self.storage.stores,
            crypto=people.crypto,
            keys=KeyRing(crypto=people.crypto, service="compliance", clock=self.room.clock),
            around=Surroundings(
                custodians=lambda: {
                    "auth": people.auth, "messaging": self.room.messaging, "compliance": self.compliance,
                    "crypto": people.crypto,
                },
                blobs=FileBlobStore(self.folder / "exports"),
                count_in_data=lambda texts: asyncio.to_thread(count_in_files, [self.folder], texts),
                rng=Random(1),
            ),
            clock=self.room.clock,
            config=ComplianceConfig(),
        )  # fmt: skip
        await self.compliance.start()

    async def close(self) -> None:
        await self.compliance.stop()
        await self.storage.close()
        await self.room.close()


async def write(town: Town, who: Caller, groups: list[Conversation], count: int) -> None:
    """Send messages, many at a time."""
    numbers = iter(range(count))

    async def sender() -> None:
        for number in numbers:
            draft = Draft(body=f"{number} {BODY}", client_message_id=f"m{number}")
            await town.room.messaging.send(who, groups[number % len(groups)].conversation_id, draft)

    await asyncio.gather(*(sender() for _ in range(SENDERS)))


async def go_on(town: Town, who: Caller, group: Conversation, stop: asyncio.Event, took_ms: list[float]) -> None:
    """Send one message after another as a person beside it does; keep how long each took."""
    number = 0
    while not stop.is_set():
        began = time.perf_counter()
        number += 1
        draft = Draft(body=BODY, client_message_id=f"{id(took_ms)}-{number}")
        await town.room.messaging.send(who, group.conversation_id, draft)
        took_ms.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(PAUSE_S)


async def erase(folder: Path, messages: int, policy: MessagePolicy) -> dict[str, float]:
    """Return how long it took, and the latencies of somebody else before and meanwhile."""
    town = Town(folder)
    await town.open()
    try:
        owner, agnes = await town.room.enter("bertil"), await town.room.enter("agnes")
        groups = [await town.room.group(owner, agnes) for _ in range(GROUPS)]
        await write(town, agnes, groups, messages)
        quiet: list[float] = []
        stop = asyncio.Event()
        writing = asyncio.create_task(go_on(town, owner, groups[0], stop, quiet))
        await asyncio.sleep(1.0)
        stop.set()
        await writing
        busy: list[float] = []
        stop = asyncio.Event()
        writing = asyncio.create_task(go_on(town, owner, groups[0], stop, busy))
        began, cpu = time.perf_counter(), time.process_time()
        job = await town.compliance.request_erasure(agnes, NewErasure(messages=policy))
        await town.compliance.rights.runner.settled(job.job_id)
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        stop.set()
        await writing
        done = await town.compliance.erasure_job(owner, job.job_id)
        if done.status != "done":
            raise RuntimeError(f"the erasure is {done.status}: {done.problem}")
    finally:
        await town.close()
    return {
        "per_s": messages / seconds,
        "seconds": seconds,
        "cpu_us_per_op": cpu_s / messages * 1e6,
        "send_p99_ms_before": quantiles(quiet, n=100)[98],
        "send_p99_ms_meanwhile": quantiles(busy, n=100)[98],
        "send_max_ms_meanwhile": max(busy),
    }


def measure(quick: bool) -> dict[str, Any]:
    """Return every figure."""
    messages = 5_000 if quick else MESSAGES
    policies: tuple[MessagePolicy, ...] = ("tombstone", "anonymise")
    figures: dict[str, dict[str, float]] = {}
    for policy in policies:
        with tempfile.TemporaryDirectory(dir=".") as name:
            figures[f"erase {messages:,} messages, {policy}"] = uvloop.run(erase(Path(name), messages, policy))
    first = next(iter(figures.values()))
    return {
        "figures": figures,
        "comparisons": [
            results.comparison(
                "p99 of others' sends meanwhile, against twice that before (ms)",
                first["send_p99_ms_meanwhile"], 2 * first["send_p99_ms_before"], 1.0, less_is_better=True,
            )
        ],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(results.run(measure))
