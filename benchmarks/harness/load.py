"""Load: what every connection says and how often, as a plan that the generator carries out."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmarks.harness import processes
from benchmarks.harness.cores import LOAD_CORE
from benchmarks.harness.window import Figures, Window

HTTP, WEBSOCKET, SOCKETIO = 0, 1, 2
STAMP = "~T" + "0" * 19 + "~"
KEY = "K" * 16
RPC_ID = "9" * 10
TEMPLATES = 64
TEXT_BYTES = 200
_WORDS = [f"w{number:04d}" for number in range(2000)]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A frame to send in the handshake (nothing when empty) and what its answer holds (not waited for when empty)."""

    send: bytes = b""
    expect: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """One connection. With `templates` it sends: each template is a whole HTTP request, or the text of a frame.

    In a template STAMP is replaced by the time of sending, KEY by a number never used before, RPC_ID by the call's
    number. All templates of one connection have one length and hold those at the same places.
    """

    protocol: int
    upgrade: bytes = b""
    steps: Sequence[Step] = ()
    templates: Sequence[bytes] = ()
    in_flight: int = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All connections of one window, to one port of this machine."""

    port: int
    connections: Sequence[Connection] = field(default_factory=list)

    def pack(self) -> bytes:
        """Return the plan as the generator reads it: 32-bit little-endian numbers, and blobs as length and bytes."""
        parts = [struct.pack("<I", len(self.connections))]
        for c in self.connections:
            parts += [struct.pack("<II", c.protocol, c.in_flight), _blob(c.upgrade), struct.pack("<I", len(c.steps))]
            for step in c.steps:
                parts += [_blob(step.send), _blob(step.expect)]
            first = c.templates[0] if c.templates else b""
            places = (first.find(STAMP[2:-1].encode()), first.find(KEY.encode()), first.find(RPC_ID.encode()))
            parts += [struct.pack("<iii", *places), struct.pack("<I", len(c.templates))]
            parts += [_blob(template) for template in c.templates]
        return b"".join(parts)


def _blob(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def texts(count: int = TEMPLATES, size: int = TEXT_BYTES) -> list[str]:
    """Return message texts of one length: a stamp, then words of a vocabulary of 2,000 (the same in every run)."""
    rng = random.Random(7)
    return [(STAMP + " " + " ".join(rng.choices(_WORDS, k=size // 5)))[:size] for _ in range(count)]


def http_request(port: int, path: str, document: str, *, token: str = "", method: str = "POST") -> bytes:
    """Return a whole keep-alive request with a JSON body."""
    body = document.encode()
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def upgrade_request(port: int, path: str) -> bytes:
    """Return the opening handshake of a WebSocket (RFC 6455 section 4.1)."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


@cache
def generator() -> str:
    """Compile the C generator once per run into a folder that goes with the process; empty without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return ""
    global _folder
    _folder = tempfile.TemporaryDirectory(prefix="sealwire-bench-")
    binary = str(Path(_folder.name) / "generator")
    source = str(Path(__file__).with_name("generator.c"))
    done = subprocess.run([compiler, "-O2", "-o", binary, source], capture_output=True, text=True, check=False)
    return binary if done.returncode == 0 else ""


_folder: tempfile.TemporaryDirectory[str] | None = None


def run(
    plan: Plan,
    *,
    server_pids: Sequence[int],
    window_s: float,
    warm_s: float = 1.0,
    rate_per_s: float = 0.0,
    drain_s: float = 5.0,
) -> Figures:
    """Carry out a plan: warm up, measure a window, let what is under way arrive. Raises: RuntimeError.

    Returns what was counted in the window: sends acknowledged and deliveries per second, times in ms, CPU per send.
    """
    binary = generator()
    if not binary:
        raise RuntimeError("the load generator needs a C compiler (cc)")
    with tempfile.NamedTemporaryFile(prefix="sealwire-plan-") as file, tempfile.TemporaryFile() as errors:
        file.write(plan.pack())
        file.flush()
        arguments = [file.name, *map(str, (plan.port, warm_s, window_s, rate_per_s, drain_s))]
        process = subprocess.Popen(
            [binary, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=lambda: processes.pin(LOAD_CORE),
        )
        window, seen, counted = Window(server_pids, [process.pid]), {}, {}
        assert process.stdout is not None
        for line in process.stdout:
            word = line.strip()
            if word == "begin":
                window.begin()
            elif word == "end":
                seen = window.end()
            elif word.startswith("{"):
                counted = json.loads(word)
        process.wait()
        errors.seek(0)
        complaint = errors.read().decode(errors="replace").strip()
    if not counted:
        raise RuntimeError(f"the load failed: {complaint or 'no result'}")
    return _figures(counted, seen, complaint)


def _figures(counted: Figures, seen: Figures, complaint: str) -> Figures:
    """Put what the generator counted and what the window saw into one record."""
    wall_s, acked, deliveries = counted["wall_s"], counted["acked"], counted["deliveries"]
    figures: Figures = {"per_s": round(acked / wall_s, 1)}
    if counted["receivers"]:
        figures["deliveries_per_s"] = round(deliveries / wall_s, 1)
        expected = counted["acked_in_all"] * counted["receivers"]
        figures["complete"] = round(counted["deliveries_in_all"] / expected, 4) if expected else 0.0
        figures["delivery_ms"] = counted.get("delivery_ms", {})
        figures["cpu_us_per_delivery"] = round(seen["server_cpu_s"] / deliveries * 1e6, 2) if deliveries else 0.0
    figures["ack_ms"] = counted.get("ack_ms", {})
    figures["cpu_us_per_op"] = round(seen["server_cpu_s"] / acked * 1e6, 1) if acked else 0.0
    if counted["refused"]:
        figures["refused"] = counted["refused_by_status"]
        figures["first_refusal"] = complaint[:300]
    return {**figures, **seen, "load_cores": round(counted["generator_cpu_s"] / wall_s, 3)}
