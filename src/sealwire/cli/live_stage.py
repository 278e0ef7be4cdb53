"""A drill on an installation that runs already, with its cache behind `sealwire drill proxy`.

Its people are of a throwaway tenant, which is removed afterwards; the faults reach the cache only by way of the proxy.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp

from sealwire.cli.drill_proxy import RemoteProxy
from sealwire.cli.stage import PREFIX, Session, Stage

ASK_EVERY_S: Final = 0.1
"""Rate limits are on in an installation at work."""


class LiveCache:
    """The cache of somebody's installation: nothing is started, stopped or paused here."""

    def __init__(self, url: str) -> None:
        self.url = url

    def start(self) -> None:
        """It runs."""

    def resume(self) -> None:
        """It was never paused."""

    def kill(self) -> None:
        """Raises: RuntimeError, always: it is not ours to kill."""
        raise RuntimeError("the cache of a running installation is not killed: choose a fault of the proxy")

    pause = kill


@contextlib.asynccontextmanager
async def open_live_stage(url: str, control: Path, cache_url: str, prefix: str) -> AsyncIterator[tuple[Stage, Session]]:
    """Give the stage and its owner. Raises: RuntimeError, OSError when the installation or proxy is not as needed."""
    proxy = RemoteProxy(control)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as http:
            stage = Stage(
                url=url.rstrip("/"), server=LiveCache(cache_url or f"redis://{proxy.target}/0"), proxy=proxy, http=http,
                tenant=f"selftest-{secrets.token_hex(6)}", ask_every_s=ASK_EVERY_S, prefix=prefix,
            )  # fmt: skip
            owner = await stage.register("owner")
            try:
                yield stage, owner
            finally:
                proxy.close()
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    await stage.call("DELETE", f"{PREFIX}/auth/tenants/{owner.tenant_id}", owner)
    finally:
        proxy.close()
