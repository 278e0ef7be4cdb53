"""A real Chromium without a window, driven over its DevTools protocol: pages, scripts, virtual authenticators."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
BINARIES = ("chromium", "chromium-browser", "google-chrome")


class ChromiumMissing(Exception):
    """There is no Chromium here. Tests that need it are skipped, visibly."""


class PageFailed(Exception):
    """A script in the page threw; the text is what it threw."""


def chromium_path() -> str:
    """Return the program. Raises: ChromiumMissing."""
    for name in BINARIES:
        if (found := shutil.which(name)) is not None:
            return found
    raise ChromiumMissing(f"none of {', '.join(BINARIES)} is installed")


class Chromium:
    """One browser with a profile of its own in `folder`; `async with` starts it, and ends it by its process group."""

    def __init__(self, folder: Path) -> None:
        """Raises: ChromiumMissing."""
        self._program = chromium_path()
        self._folder = folder
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.logged: list[tuple[str, str]] = []
        """What consoles said: the tab's session, the text."""

    async def __aenter__(self) -> Chromium:
        log = (self._folder / "chromium.log").open("wb")
        arguments = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
            f"--user-data-dir={self._folder / 'profile'}", "about:blank",
        ]  # fmt: skip
        self._process = await asyncio.create_subprocess_exec(
            self._program, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, env={**os.environ, "HOME": str(self._folder)},
        )  # fmt: skip
        log.close()
        try:
            port, path = await self._address()
            self._connection: ClientConnection = await connect(
                f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None
            )
        except BaseException:
            await self._end()
            raise
        self._reader = asyncio.create_task(self._read(), name="chromium")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()
        await self._reader
        await self._end()

    async def _address(self) -> tuple[str, str]:
        """Return port and path that it listens on, from the file it writes. Raises: RuntimeError, TimeoutError."""
        file = self._folder / "profile" / "DevToolsActivePort"
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                if self._process.returncode is not None:
                    raise RuntimeError(f"chromium ended: {(self._folder / 'chromium.log').read_text()[-2000:]}")
                lines = file.read_text().splitlines() if file.exists() else []
                if len(lines) == 2:
                    return lines[0], lines[1]
                await asyncio.sleep(0.05)

    async def _end(self) -> None:
        """End the browser and what it started, and nothing else."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, how)
            except ProcessLookupError:
                break
            try:
                await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                continue
        await self._process.wait()

    async def _read(self) -> None:
        async for text in self._connection:
            message = json.loads(text)
            if message.get("method") == "Log.entryAdded":
                self.logged.append((message.get("sessionId", ""), message["params"]["entry"]["text"]))
            waiting = self._waiting.pop(message.get("id", 0), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        for waiting in self._waiting.values():
            waiting.cancel()

    async def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Call a method of the protocol. Raises: RuntimeError with what the browser says, TimeoutError."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        await self._connection.send(json.dumps(message))
        said = await asyncio.wait_for(answer, CALL_TIMEOUT_S)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return dict(said["result"])

    async def page(self, url: str) -> Page:
        """Open a page in a tab of its own and wait until it is there."""
        target = await self.call("Target.createTarget", url=url)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"])
        deadline = asyncio.get_running_loop().time() + CALL_TIMEOUT_S
        while await page.run("document.readyState + location.href") != "complete" + url:
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"{url} is not there after {CALL_TIMEOUT_S:g} s")
            await asyncio.sleep(0.05)
        return page


class Page:
    """A tab."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    async def run(self, script: str) -> Any:
        """Run an expression in the page, wait for its promise, return its value. Raises: PageFailed."""
        said = await self._browser.call(
            "Runtime.evaluate", self._session, expression=script, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        if "exceptionDetails" in said:
            thrown = said["exceptionDetails"].get("exception", {})
            raise PageFailed(thrown.get("description") or str(thrown.get("value")))
        return said["result"].get("value")

    async def go(self, url: str) -> None:
        """Go somewhere in the same tab."""
        await self.run(f"location.href = {json.dumps(url)}; true")

    async def until(self, expression: str) -> Any:
        """Wait until an expression is true in whatever page is shown by then; return its value.

        Raises: TimeoutError.
        """
        async with asyncio.timeout(CALL_TIMEOUT_S):
            while True:
                try:
                    if value := await self.run(expression):
                        return value
                except PageFailed:  # between two pages there is none
                    pass
                await asyncio.sleep(0.05)

    async def until_told(self, text: str) -> None:
        """Wait until the browser complains of something in the console (see `listen`). Raises: TimeoutError."""
        async with asyncio.timeout(CALL_TIMEOUT_S):
            while not any(text in said for said in self.console):  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.05)

    async def listen(self) -> None:
        """Take what the console says from now on, and what it said before."""
        await self._browser.call("Log.enable", self._session)

    @property
    def console(self) -> list[str]:
        """What the browser complained of in this tab, since `listen`."""
        return [text for session, text in self._browser.logged if session == self._session]

    async def add_authenticator(self, *, verifies: bool = True) -> str:
        """Plug a virtual authenticator in that keeps passkeys; return its id. `verifies`: it knows its owner."""
        await self._browser.call("WebAuthn.enable", self._session, enableUI=False)
        options = {
            "protocol": "ctap2",
            "ctap2Version": "ctap2_1",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": True,
            "isUserVerified": verifies,
            "automaticPresenceSimulation": True,
        }
        added = await self._browser.call("WebAuthn.addVirtualAuthenticator", self._session, options=options)
        return str(added["authenticatorId"])

    async def authenticator(self, method: str, authenticator_id: str, **params: Any) -> dict[str, Any]:
        """Call a method of the domain `WebAuthn` about an authenticator."""
        return await self._browser.call(f"WebAuthn.{method}", self._session, authenticatorId=authenticator_id, **params)
