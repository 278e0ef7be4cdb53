"""A real installation and a real Chromium; without the latter the tests are skipped, and say so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import pytest_asyncio

from sealwire.testing.chromium import Chromium, ChromiumMissing
from sealwire.testing.installation import Installation


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    data: Path = tmp_path_factory.mktemp("installation") / "data"
    running = Installation(data).start()
    yield running
    running.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chromium]:
    try:
        browser = Chromium(tmp_path_factory.mktemp("chromium"))
    except ChromiumMissing as missing:
        pytest.skip(str(missing))
    async with browser:
        yield browser


class _Callback(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>the app</title>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def app_url() -> Iterator[str]:
    """An app on another origin. A browser says nothing on some connections; none holds up others."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Callback)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/callback"
    server.shutdown()
    server.server_close()
    thread.join()
