"""What the gateway's gate costs a request: its limits and counts, the audit record, and the spool behind it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from prometheus_client import CollectorRegistry

from sealwire.contracts.audit_log import AuditEntry
from sealwire.kit.caller import Caller, Principal
from sealwire.kit.clock import SystemClock
from sealwire.kit.envelopes import SealingKey
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import Route
from sealwire.kit.operation import Policy, RateClass
from sealwire.kit.permission import Role
from sealwire.runtime.supervisor import settle_collector
from sealwire.services.gateway.config import GatewayConfig
from sealwire.services.gateway.gate import GatewayGate, Lag, RecordSink, record_of
from sealwire.services.gateway.limiter import Limiter
from sealwire.services.gateway.minute_counts import MinuteCounts
from sealwire.services.gateway.spool import RecordSpool, SpoolConfig

URL = "/api/v1/conversations/0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee/messages"
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"
TEMPLATE = "/api/v1/conversations/{conversation_id}/messages"
PEOPLE = 500
REQUESTS_A_TURN = 20
PHASES = 9
DRAIN_LOOK_S = 0.005


class Nowhere:
    """Takes records and forgets them."""

    def put(self, entry: AuditEntry) -> None:
        """Do nothing."""


async def middleware(folder: Path, window_s: float) -> dict[str, dict[str, float]]:
    """Return what each part costs, in µs of processor time of the whole process, the spool's thread included.

    Requests come one after another, some in each turn of the loop, as when it is busy; pauses would make a processor
    slow and cold, and hide what is measured. What the turns cost without a request is taken off. Phases with and
    without alternate, and each lasts until the spool has delivered what it put; the median counts.
    """

    async def deliver(entries: Any) -> None:
        pass

    spool = RecordSpool(
        folder=folder / "spool",
        key=SealingKey(key_id=b"k" * 16, key=os.urandom(32)),
        deliver=deliver,
        clock=SystemClock(),
        rng=Random(1),
        config=SpoolConfig(sync_every_s=GatewayConfig().spool_window_ms / 1000),
    )
    await spool.start()
    requests = [_request(number) for number in range(PEOPLE)]
    whole, bare = _gate(spool), _gate(Nowhere())

    def record(exchange: Exchange) -> None:
        spool.put(record_of(exchange, TEMPLATE, 0.001234))

    def nothing(exchange: Exchange) -> None:
        pass

    settle_collector()  # as a server does once it has started
    seen: dict[str, list[float]] = {"record": [], "gate": []}
    phase_s = window_s / PHASES
    for _ in range(PHASES):
        idle_us = await _busy(nothing, requests, phase_s, spool)
        seen["record"].append(await _busy(record, requests, phase_s, spool) - idle_us)
        seen["gate"].append(await _busy(lambda e: _pass(whole, e), requests, phase_s, spool) - idle_us)
    await spool.stop()
    made_us = _tight(lambda e: record_of(e, TEMPLATE, 0.001234), requests)
    gate_us = _tight(lambda e: _pass(bare, e), requests)
    return {
        "middleware, making the record": {"us_per_op": round(made_us, 2)},
        "middleware, limits, counts and making the record": {"us_per_op": round(gate_us, 2)},
        "middleware, record and spool": {"us_per_op": round(median(seen["record"]), 2)},
        "middleware, all of it": {"us_per_op": round(median(seen["gate"]), 2)},
    }


def _gate(records: RecordSink) -> GatewayGate:
    """Return a gate with limits that nobody meets here."""
    config = GatewayConfig(per_ip_per_minute=10_000_000)
    counts = MinuteCounts(clock=SystemClock())
    return GatewayGate(
        config=config,
        limiter=Limiter(config=config, counts=counts),
        records=records,
        registry=CollectorRegistry(),
        lag=Lag(),
        full=lambda: False,
    )


def _request(number: int) -> Exchange:
    """Return a request of one of many people, answered."""

    async def nowhere(*_: Any) -> Any:
        return {}

    headers = [(b"user-agent", AGENT.encode()), (b"authorization", b"Bearer x")]
    client = (f"192.0.2.{number % 250}", 1)
    scope = {"type": "http", "method": "POST", "path": URL, "query_string": b"", "client": client, "headers": headers}
    exchange = Exchange(scope, nowhere, nowhere)
    exchange.status, exchange.trace_id = 201, f"{number:032x}"
    subject = f"0190aaaa-bbbb-7ccc-8ddd-{number:012d}"
    person = Principal(kind="user", tenant_id="t0", subject=subject, role=Role.MEMBER)
    exchange.caller = Caller(principal=person, ip=client[0])
    exchange.route = Route(verb="POST", path=TEMPLATE, policy=Policy.CALLER, run=nowhere, rate=RateClass.WRITE)
    return exchange


def _pass(gate: GatewayGate, exchange: Exchange) -> None:
    """Do what the app has the gate do for a request."""
    gate.enter(exchange)
    gate.admit(exchange, exchange.caller)
    gate.leave(exchange)
    exchange.extra_headers = []


def _tight(call: Callable[[Exchange], object], requests: list[Exchange]) -> float:
    """Return what a call costs one after another, in µs: the median of some goes."""
    took = []
    for _ in range(15):
        began = time.process_time()
        for exchange in requests:
            call(exchange)
        took.append((time.process_time() - began) / len(requests) * 1e6)
    return median(took)


async def _busy(
    call: Callable[[Exchange], object], requests: list[Exchange], window_s: float, spool: RecordSpool
) -> float:
    """Call as often as can be, and wait for what is in the spool; return the process's time per call in µs."""
    count, end, cpu = 0, time.perf_counter() + window_s, time.process_time()
    while time.perf_counter() < end:
        at = count % PEOPLE
        for exchange in requests[at : at + REQUESTS_A_TURN]:
            call(exchange)
        count += REQUESTS_A_TURN
        await asyncio.sleep(0)
    while spool.waiting:
        await asyncio.sleep(DRAIN_LOOK_S)
    return (time.process_time() - cpu) / count * 1e6
