"""A plain HTTP client for setting things up: registering, logging in, making conversations. Never measured."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any


class Refused(Exception):
    """The server did not answer with success."""


class Client:
    """One keep-alive connection to a port of this machine."""

    def __init__(self, port: int, timeout_s: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def call(self, method: str, path: str, document: Any = None, *, token: str = "") -> Any:
        """Send one request; return the JSON of its answer. Raises: Refused, OSError."""
        headers = {"content-type": "application/json"} if document is not None else {}
        if token:
            headers["authorization"] = f"Bearer {token}"
        body = None if document is None else json.dumps(document, separators=(",", ":"))
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise Refused(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text) if text else None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def wait_for(port: int, path: str, *, timeout_s: float, alive: Any) -> None:
    """Wait until `path` answers 200, looking every 5 ms. Raises: TimeoutError, RuntimeError when `alive()` says no."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not alive():
            raise RuntimeError("the server ended while it was started")
        try:
            client = Client(port, timeout_s=5)
            try:
                client.call("GET", path)
            finally:
                client.close()
            return
        except (Refused, OSError, ValueError, http.client.HTTPException):
            time.sleep(0.005)
    raise TimeoutError(f"port {port} did not answer {path} within {timeout_s:g} s")
