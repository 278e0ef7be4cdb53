"""The stage of a drill: a throwaway installation, the session cache it uses, and the fault proxy between the two."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import msgspec

from sealwire.testing.engines import RedisServer
from sealwire.testing.faults import Fault, FaultProxy
from sealwire.testing.free_ports import free_port_base

PREFIX: Final = "/api/v1"
START_TIMEOUT_S: Final = 60.0
_PASSWORD: Final = secrets.token_urlsafe(24)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway answered."""

    status: int
    body: Any
    ms: float


class Session:
    """Somebody's session in the drill."""

    def __init__(self, grant: dict[str, Any], email: str) -> None:
        self.email = email
        self.token: str = grant["access_token"]
        self.refresh_token: str = grant["refresh_token"]
        self.session_id: str = grant["session_id"]
        self.user_id: str = grant["user"]["user_id"]
        self.tenant_id: str = grant["user"]["tenant_id"]


class Socket:
    """A live WebSocket of a session, listening to one conversation."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.heard: list[str] = []
        self.closed = asyncio.Event()
        self._task = asyncio.create_task(self._listen())

    @property
    def close_code(self) -> int | None:
        """The code it was closed with; None while it is open."""
        return self._socket.close_code if self.closed.is_set() else None

    async def leave(self) -> None:
        """Close it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._socket.close()

    async def _listen(self) -> None:
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            for line in message.data.splitlines():
                if line == "{}":
                    await self._socket.send_str("{}")
                elif "message.created" in line:
                    self.heard.append(line)
        self.closed.set()


class Cache(Protocol):
    """The session cache's server, as far as a drill handles it."""

    @property
    def url(self) -> str:
        """Its own address, past the proxy."""

    def start(self) -> object: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Proxy(Protocol):
    """What stands before it."""

    def set(self, fault: Fault, *, latency_s: float = 0.0) -> None: ...


class Stage:
    """A running installation that keeps its sessions in an engine behind the proxy."""

    def __init__(
        self,
        *,
        url: str,
        server: Cache,
        proxy: Proxy,
        http: aiohttp.ClientSession,
        tenant: str = "",
        ask_every_s: float = 0.02,
        prefix: str = "sealwire",
    ) -> None:
        """`tenant` is where people register (empty: the default one), `prefix` begins the cache's keys."""
        self.url = url
        self.server = server
        self.proxy = proxy
        self.ask_every_s = ask_every_s
        self.prefix = prefix
        self._http = http
        self._tenant = {"tenant": tenant} if tenant else {}

    async def call(self, verb: str, path: str, session: Session | None = None, json: Any = None) -> Answer:
        """Ask the gateway."""
        headers = {} if session is None else {"authorization": f"Bearer {session.token}"}
        started = time.perf_counter()
        async with self._http.request(verb, self.url + path, headers=headers, json=json) as answer:
            text = await answer.read()
        body = msgspec.json.decode(text) if text and "json" in answer.content_type else None
        return Answer(status=answer.status, body=body, ms=(time.perf_counter() - started) * 1000)

    async def register(self, name: str) -> Session:
        """Make a person and open a session."""
        email = f"{name}-{secrets.token_hex(4)}@drill.invalid"
        who = {"email": email, "password": _PASSWORD, "display_name": name, **self._tenant}
        made = await self.call("POST", f"{PREFIX}/auth/register", json=who)
        if made.status != 201:
            raise RuntimeError(f"registration answered {made.status}: {made.body}")
        return await self.log_in(email)

    async def log_in(self, email: str) -> Session:
        """Open a session. Raises: RuntimeError."""
        answer = await self.call(
            "POST", f"{PREFIX}/auth/login", json={"email": email, "password": _PASSWORD, **self._tenant}
        )
        if answer.status != 200:
            raise RuntimeError(f"login answered {answer.status}: {answer.body}")
        return Session(answer.body, email)

    async def listen(self, session: Session, conversation_id: str) -> Socket:
        """Open a socket and listen to a conversation. Raises: RuntimeError."""
        socket = await self._http.ws_connect(self.url + "/ws")
        for frame in (
            {"id": 1, "connect": {"token": session.token}},
            {"id": 2, "subscribe": {"channel": f"conversation:{conversation_id}"}},
        ):
            await socket.send_json(frame)
            reply = await socket.receive(timeout=10)
            if reply.type is not aiohttp.WSMsgType.TEXT or '"error"' in reply.data:
                raise RuntimeError(f"the socket answered {reply.data!r}")
        return Socket(socket)


class OwnStage(Stage):
    """One that was started for the drill, with its server. Made by `open_stage`."""

    def __init__(self, *, folder: Path, server: RedisServer, proxy: FaultProxy, http: aiohttp.ClientSession) -> None:
        self._base = free_port_base()
        super().__init__(url=f"http://127.0.0.1:{self._base}", server=server, proxy=proxy, http=http)
        self._cache_port = proxy.port
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start `sealwire up` and wait until it is ready. Raises: RuntimeError with the end of its log."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("SEALWIRE_")}
        env["SEALWIRE_CACHE__URL"] = f"redis://127.0.0.1:{self._cache_port}/0"
        env["SEALWIRE_GATEWAY__RATE_LIMITS"] = "off"
        log_path = self._folder / "up.log"
        with log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "sealwire.cli.main", "up", "--data", str(self._folder / "data"),
                "--port-base", str(self._base), "--json",
                env=env, cwd=self._folder, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.returncode is None:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                if (await self.call("GET", "/ready")).status == 200:
                    return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"the installation did not start:\n{log_path.read_text(errors='replace')[-2000:]}")

    async def kill(self) -> None:
        """SIGKILL the installation. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def open_stage(flavour: str) -> AsyncIterator[OwnStage]:
    """Give a running stage and remove it afterwards. Raises: FileNotFoundError when there is no such engine."""
    limits = aiohttp.ClientTimeout(total=15)
    with tempfile.TemporaryDirectory(prefix="sealwire-drill-") as name:
        folder = Path(name)
        with RedisServer(folder / "engine", flavour=flavour, keep=True) as server, FaultProxy(server.port) as proxy:
            async with aiohttp.ClientSession(timeout=limits) as http:
                stage = OwnStage(folder=folder, server=server, proxy=proxy, http=http)
                try:
                    await stage.start()
                    yield stage
                finally:
                    await stage.kill()
