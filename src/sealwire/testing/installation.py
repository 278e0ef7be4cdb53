"""A real installation in a process of its own: started, killed, started again on the same data."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from sealwire.testing.free_ports import free_port_base

START_TIMEOUT_S = 90.0
PATIENCE_S = 60.0
PASSWORD = "seven tidy lighthouses"  # noqa: S105 - of people that exist in tests only


class Installation:
    """`sealwire up` on a data folder. `kill()` is SIGKILL; `stop()` asks."""

    def __init__(self, data: Path, *, expose: bool = False, env: dict[str, str] | None = None, name: str = "") -> None:
        """`name`: what people call this machine, as the public address says; else it follows from where it listens."""
        self.data = data
        self.base = free_port_base()
        self._expose = expose
        self._env = env or {}
        if name:
            self._env = {**self._env, "SEALWIRE_SERVER__PUBLIC_URL": f"http://{name}:{self.base}"}
        self._process: subprocess.Popen[bytes] | None = None
        self.log = data.parent / f"{data.name}.log"

    @property
    def url(self) -> str:
        """The gateway."""
        return f"http://127.0.0.1:{self.base}"

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Installation:
        """Start and wait until `/ready` answers 200. Raises: RuntimeError with the log's end."""
        command = [sys.executable, "-m", "sealwire.cli.main", "up", "--data", str(self.data), "--port-base",
                   str(self.base), "--json"]  # fmt: skip
        if self._expose:
            command.append("--expose-services")
        env = {**os.environ, "SEALWIRE_GATEWAY__RATE_LIMITS": "off", **self._env}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command, env=env, cwd=self.data.parent, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                if httpx.get(self.url + "/ready", timeout=5).status_code == 200:
                    return self
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"did not become ready:\n{self.log.read_text()[-4000:]}")

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self, timeout_s: float = PATIENCE_S) -> int:
        """SIGTERM, and wait. Returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout_s)
        self._process = None
        return code


class Person:
    """Somebody registered and logged in, with a client that carries the token."""

    def __init__(self, url: str, name: str, tenant: str | None = None) -> None:
        self.email = f"{name}-{secrets.token_hex(4)}@example.org"
        self.tenant = {"tenant": tenant} if tenant else {}
        self.http = httpx.Client(base_url=url + "/api/v1", timeout=PATIENCE_S)
        who = {"email": self.email, "password": PASSWORD, **self.tenant}
        made = self._ask("/auth/register", {**who, "display_name": name})
        assert made.status_code == 201, made.text
        self.user: dict[str, Any] = made.json()["user"]
        self.user_id: str = self.user["user_id"]
        self.log_in()

    def log_in(self) -> dict[str, Any]:
        """Open another session and use it from now on."""
        answer = self._ask("/auth/login", {"email": self.email, "password": PASSWORD, **self.tenant})
        assert answer.status_code == 200, answer.text
        self.grant = dict(answer.json())
        self.token: str = self.grant["access_token"]
        self.http.headers["authorization"] = f"Bearer {self.token}"
        return self.grant

    def _ask(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Ask without a token; come back when told to, as one is on a busy machine."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self.http.post(path, json=body, headers={"authorization": ""})
            if answer.status_code != 503 or time.monotonic() > deadline:
                return answer
            time.sleep(float(answer.headers.get("retry-after", 1)))

    def converse(self, *others: Person, kind: str = "group") -> str:
        """Start a conversation. Returns its id."""
        answer = self.http.post("/conversations", json={"kind": kind, "member_ids": [o.user_id for o in others]})
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["conversation_id"])

    def send(self, conversation_id: str, body: str, key: str | None = None, **members: Any) -> dict[str, Any]:
        """Send a message. Returns it."""
        answer = self.http.post(
            f"/conversations/{conversation_id}/messages",
            json={"body": body, "client_message_id": key or secrets.token_hex(8), **members},
        )
        assert answer.status_code in (200, 201), answer.text
        return dict(answer.json())
