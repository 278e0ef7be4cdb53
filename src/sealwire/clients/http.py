"""A contract across HTTP: every call derived from its Operation, as the route at the other end is."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from sealwire.clients.identity import TIMEOUT_HEADER, ServiceIdentity
from sealwire.clients.problems import BadAnswer, read_problem
from sealwire.kit.caller import Caller
from sealwire.kit.clock import Clock
from sealwire.kit.codec import encode
from sealwire.kit.operation import Operation
from sealwire.kit.problem import Unavailable
from sealwire.resilience import deadline
from sealwire.resilience.breaker import BreakerSnapshot, State
from sealwire.resilience.failure import Unreachable
from sealwire.resilience.guard import Guard

if TYPE_CHECKING:  # loaded where a connection is made: a process that holds every service never needs it
    import aiohttp

CONNECT_TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
RETRY_AFTER_S = 0.1


class Transport:
    """Connections to one service, reused. No proxy, no redirect, no cookie: only this address is ever spoken to."""

    def __init__(
        self, *, service: str, base_url: str, identity: ServiceIdentity, clock: Clock, max_connections: int = 64
    ) -> None:
        self.service = service
        self._base_url = base_url.rstrip("/")
        self._identity = identity
        self._clock = clock
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, operation: Operation, caller: Caller, url: str, body: bytes | None, content_type: str
    ) -> tuple[int, bytes]:
        """Send one request and return status and body of a 2xx answer.

        Raises: Unreachable (nothing was sent), Unavailable (the connection broke), BadAnswer, DeadlineExceeded, and
        the problem the service answered with.
        """
        import aiohttp
        from yarl import URL

        headers = self._headers(operation, caller)
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            async with self._open().request(
                operation.verb,
                URL(self._base_url + url, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                content = await self._read(answer)
        except aiohttp.ClientConnectorError:
            raise Unreachable(f"{self.service} can't be reached.", retry_after_s=RETRY_AFTER_S) from None
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            raise Unavailable(f"The connection to {self.service} broke.", retry_after_s=RETRY_AFTER_S) from None
        if 200 <= answer.status < 300:
            return answer.status, content
        raise read_problem(answer.status, content, _seconds(answer.headers.get("Retry-After")))

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in answer.content.iter_any():
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise BadAnswer(f"{self.service} answered too much.")
            parts.append(part)
        return b"".join(parts)

    async def close(self) -> None:
        """Close the connections. Safe to call twice."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def clear_cache(self) -> None:
        """Forget issued identities."""
        self._identity.clear_cache()

    def _headers(self, operation: Operation, caller: Caller) -> dict[str, str]:
        token = self._identity.token(caller, audience=self.service, operation=operation.name)
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        if len(caller.trace_id) == 32:
            headers["traceparent"] = f"00-{caller.trace_id}-{os.urandom(8).hex()}-01"
        left_s = deadline.remaining_s(self._clock)
        if left_s is not None:
            headers[TIMEOUT_HEADER] = str(max(int(left_s * 1000), 0))
        return headers

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections, ttl_dns_cache=10),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),  # the guard bounds the rest
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


class Remote:
    """A contract whose every operation is a request through `transport`, behind `guard`."""

    def __init__(self, operations: Mapping[str, Operation], transport: Transport, guard: Guard) -> None:
        if guard.timeout_s is None:
            raise ValueError("a call that leaves the process needs a timeout")
        self._transport = transport
        self._guard = guard
        for name, operation in operations.items():
            setattr(self, name, _method(operation, transport, guard))

    def is_healthy(self) -> bool:
        """Whether calls go through at the moment."""
        return self._guard.breaker.state is not State.OPEN

    def get_circuit_breaker_state(self) -> BreakerSnapshot:
        """Return the breaker's state, counts and last transitions."""
        return self._guard.breaker.snapshot()

    def clear_cache(self) -> None:
        """Forget what is cached: the issued identities."""
        self._transport.clear_cache()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()


def remote(operations: Mapping[str, Operation], transport: Transport, guard: Guard) -> Any:
    """Return the contract these operations belong to, as spoken over `transport`. Assign it to its Protocol."""
    return Remote(operations, transport, guard)


def _method(operation: Operation, transport: Transport, guard: Guard) -> Callable[..., Awaitable[Any]]:
    """Build the method of one operation once; a call only runs it."""
    places = len(operation.parameters)
    takes, gives = operation.takes, operation.gives
    decode = msgspec.json.Decoder(gives).decode if gives is not None else None
    send, call, repeat = transport.send, guard.call, operation.repeat

    async def once(caller: Caller, *args: Any) -> Any:
        url = operation.url(*args[:places])
        body, content_type = None, "application/json"
        if takes is not None:
            if operation.takes_query:
                url += _query(args[places])
            elif operation.form:
                body, content_type = _query(args[places])[1:].encode(), "application/x-www-form-urlencoded"
            else:
                body = encode(args[places])
        _, answer = await send(operation, caller, url, body, content_type)
        if decode is None:
            return None
        try:
            return decode(answer)
        except (msgspec.MsgspecError, ValueError):
            raise BadAnswer(f"{transport.service} answered what {operation.name} does not give.") from None

    def method(caller: Caller, *args: Any) -> Awaitable[Any]:
        if len(args) != places + (takes is not None):
            raise TypeError(f"{operation.name} takes {places + (takes is not None)} arguments after the caller")
        return call(repeat, once, caller, *args)

    method.__name__ = method.__qualname__ = operation.name
    return method


def _query(struct: Any) -> str:
    """Write a struct as a query: what stands at its default is left out."""
    pairs: list[tuple[str, str]] = []
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if value is None or value is msgspec.UNSET or value == field.default:
            continue
        plain = msgspec.to_builtins(value, str_keys=True)
        if isinstance(plain, bool):
            plain = "true" if plain else "false"
        pairs.append((field.encode_name, str(plain)))
    return "?" + urlencode(pairs) if pairs else ""


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after is not None and retry_after.isdigit() else None
