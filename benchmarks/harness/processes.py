"""What processes use: CPU, memory, disk writes, read from /proc; and starting and stopping them by pid."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness.cores import pin

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def tree(pid: int) -> list[int]:
    """Return the process and all its descendants that live now."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    todo = [pid]
    while todo:
        one = todo.pop()
        if Path(f"/proc/{one}").exists():
            found.append(one)
        todo += children.get(one, [])
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the command's name; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def cpu_s(pids: Sequence[int]) -> float:
    """Return user and system time of the processes, their ended children included, in seconds."""
    return sum(sum(map(int, fields[11:15])) for pid in pids if (fields := _stat(pid))) / TICKS_PER_S


def memory_mib(pids: Sequence[int]) -> dict[str, float]:
    """Return resident and proportional set size in MiB (PSS counts a shared page once, split among its users)."""
    kib = {"Rss": 0, "Pss": 0}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, rest = line.partition(":")
            if name in kib:
                kib[name] += int(rest.split()[0])
    return {"rss_mib": round(kib["Rss"] / 1024, 1), "pss_mib": round(kib["Pss"] / 1024, 1)}


def written_bytes(pids: Sequence[int]) -> int:
    """Return what the processes made the disk write."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/io").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("write_bytes:"))
    return total


def busy_s() -> float:
    """Return the time all cores of the machine were busy, in seconds, what was stolen by its host left out."""
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return (sum(fields[:3]) + sum(fields[5:7])) / TICKS_PER_S


def spawn(
    command: Sequence[str],
    *,
    core: int | None,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process on a core, its output in `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            list(command),
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=partial(_begin, core),
            start_new_session=True,
        )


def _begin(core: int | None) -> None:
    """In the new process: take its core, and end with the benchmark, however that ends."""
    pin(core)
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(process: subprocess.Popen[bytes], *, grace_s: float = 10.0) -> None:
    """Ask the process to end; end it when it does not."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
