"""How many deliveries a second does a bare fan-out reach to 200 sockets? Beside Node's `ws` doing the same work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import load, processes
from benchmarks.harness.cores import SERVER_CORE
from benchmarks.harness.fastify import Unavailable, free_port
from benchmarks.harness.results import comparison, run
from benchmarks.harness.setup_client import wait_for
from benchmarks.harness.window import interleave

RECEIVERS = 200
SENDERS = 4
HERE = Path(__file__).resolve().parent
Figures = dict[str, Any]


def main(quick: bool = False) -> Figures:
    """Return deliveries/s at full speed: four clients send as soon as they are answered, 200 others receive."""
    rounds, window_s = (1, 1.5) if quick else (5, 3.0)
    skipped: list[str] = []
    with servers(skipped) as ports:
        windows = interleave(
            {name: partial(deliver, port, pids, window_s) for name, (port, pids) in ports.items()},
            rounds=rounds,
            rate="deliveries_per_s",
            retries=0 if quick else 2,
        )
    comparisons = []
    if len(windows) == 2:
        rates = [windows[name]["deliveries_per_s"] for name in ("sealwire", "ws")]
        comparisons.append(comparison(f"fan-out to {RECEIVERS}, deliveries/s", rates[0], rates[1], 1.2))
    return {"figures": windows, "comparisons": comparisons, "skipped": skipped}


def deliver(port: int, pids: list[int], window_s: float) -> Figures:
    """Measure one window."""
    template = [
        json.dumps({"id": int(load.RPC_ID), "rpc": {"method": "tell", "data": {"body": text}}}).encode()
        for text in load.texts()
    ]
    listener = load.Connection(protocol=load.WEBSOCKET, upgrade=load.upgrade_request(port, "/listen"))
    sender = load.Connection(protocol=load.WEBSOCKET, upgrade=load.upgrade_request(port, "/say"), templates=template)
    connections = [*[listener] * RECEIVERS, *[sender] * SENDERS]
    return load.run(load.Plan(port=port, connections=connections), server_pids=pids, window_s=window_s)


@contextmanager
def servers(skipped: list[str]) -> Iterator[dict[str, tuple[int, list[int]]]]:
    """Start both servers on the server's core; stop them at the end."""
    starts = {"sealwire": ([sys.executable, "-m", "benchmarks.fanout_server"], {})}
    try:
        starts["ws"] = (["node", str(HERE / "references" / "fanout.js")], {"NODE_PATH": str(ws_modules())})
    except Unavailable as error:
        skipped.append(f"ws: {error}")
    found: dict[str, tuple[int, list[int]]] = {}
    with tempfile.TemporaryDirectory(prefix="sealwire-fanout-") as folder, ExitStack() as stack:
        for name, (command, env) in starts.items():
            port = free_port()
            process = processes.spawn(
                command, core=SERVER_CORE, log=Path(folder) / f"{name}.log", cwd=HERE.parent,
                env={**env, "PORT": str(port)},
            )  # fmt: skip
            stack.callback(processes.stop, process)
            wait_for(port, "/health", timeout_s=30, alive=lambda process=process: process.poll() is None)
            found[name] = (port, [process.pid])
        yield found


def ws_modules() -> Path:
    """Return a folder of node modules that holds `ws`. Raises: Unavailable."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sealwire-bench"
    for folder in (cache / "node", cache / "ws"):
        if (folder / "node_modules" / "ws").exists():
            return folder / "node_modules"
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Unavailable("node and npm are not installed")
    folder = cache / "ws"
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "ws@8.23.0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"npm could not install ws: {done.stderr.strip()[-200:]}")
    return folder / "node_modules"


if __name__ == "__main__":
    sys.exit(run(main))
