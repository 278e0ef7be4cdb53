"""Calls to other people's servers, over aiohttp: https, no redirects, bounded, and never into networks of our own."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from sealwire.services.auth.openid_ports import Answer, OutwardRefused

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import ResolveResult

TIMEOUT_S: Final = 5.0
CONNECT_S: Final = 3.0
MAX_ANSWER_BYTES: Final = 256 * 1024
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is given out for the internet. Outside lie forms that may lead inside and that Python calls global:
site-local (fec0::/10), IPv4-compatible (::/96), a local NAT64 (64:ff9b:1::/48, RFC 8215)."""


class HttpOutward:
    """`services.auth.openid_ports.Outward`. A connection for each call: they are few, and names change."""

    def __init__(self, *, networks: Iterable[str] = ()) -> None:
        """`networks` may be called beside public addresses; plain http only on this machine."""
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(text) for text in networks)

    async def get(self, url: str, bearer: str = "") -> Answer:
        """See `Outward.get`."""
        return await self._call("GET", url, bearer=bearer)

    async def post(self, url: str, form: Mapping[str, str], basic: tuple[str, str] | None = None) -> Answer:
        """See `Outward.post`."""
        return await self._call("POST", url, form, basic)

    def allows(self, text: str, *, plain: bool) -> bool:
        """Whether an address may be called; `plain`: by http."""
        try:
            address = _unwrapped(ipaddress.ip_address(text.partition("%")[0]))
        except ValueError:
            return False
        named = any(address in network for network in self._networks)
        if plain:
            return named and address.is_loopback
        if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
            return named
        return named or (address.is_global and not address.is_multicast)

    async def _call(
        self,
        verb: str,
        url: str,
        form: Mapping[str, str] | None = None,
        basic: tuple[str, str] | None = None,
        bearer: str = "",
    ) -> Answer:
        import aiohttp
        from yarl import URL

        parts = urlsplit(url)
        host, plain = parts.hostname or "", parts.scheme == "http"
        if parts.scheme not in ("https", "http") or not host or parts.username is not None:
            raise OutwardRefused("only https addresses are called")
        if _is_literal(host) and not self.allows(host, plain=plain):
            raise OutwardRefused(f"{host} is not an address that may be called")
        connector = aiohttp.TCPConnector(
            resolver=_guarded(lambda text: self.allows(text, plain=plain)), use_dns_cache=False, force_close=True
        )
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_S)
        headers = {"Accept": "application/json", **({"Authorization": f"Bearer {bearer}"} if bearer else {})}
        auth = None if basic is None else aiohttp.BasicAuth(*basic)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
                ) as session,
                session.request(
                    verb, URL(url, encoded=True), data=None if form is None else dict(form), auth=auth,
                    allow_redirects=False, headers=headers,
                ) as answer,
            ):  # fmt: skip
                return Answer(status=answer.status, body=await _read(answer), content_type=answer.content_type)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            # What it says may hold what we sent; only the kind of fault goes on.
            raise OSError(type(error).__name__) from None


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise OSError("the answer is too long")
        parts.append(part)
    return b"".join(parts)


def _guarded(allows: Any) -> Any:
    """Return a resolver that gives out only addresses that may be called; what it gives is what is connected to."""
    from aiohttp.resolver import ThreadedResolver

    class Guarded(ThreadedResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            found = await super().resolve(host, port, family)
            if not found or not all(allows(entry["host"]) for entry in found):
                raise OutwardRefused(f"{host} is not a name that may be called")
            return found

    return Guarded()


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for (mapped, 6to4, Teredo, NAT64), or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo is not None else address)
