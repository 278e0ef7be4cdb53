"""The HTTP edge of sign-in through a provider: two redirects for browsers, and two calls that use what they brought."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sealwire.contracts.external import EXTERNAL_LINK_PATH, EXTERNAL_LOGIN_PATH, PROVIDERS_PATH, ExternalLogin
from sealwire.kit.caller import Caller
from sealwire.kit.codec import decode_body, encode
from sealwire.kit.exchange import JSON, Exchange, Headers
from sealwire.kit.http import Edge, Route
from sealwire.kit.operation import Degraded, Policy, RateClass
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Problem, UnsupportedMedia
from sealwire.services.auth import openid_pages as pages
from sealwire.services.auth.cookies import read_cookie, session_cookie, side_cookie
from sealwire.services.auth.external_logins import ExternalLogins
from sealwire.services.auth.openid_routes import tell, wants_page

FLOW_COOKIE: Final = "flow"
_NO_STORE: Final = (b"cache-control", b"no-store")
_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_BODY_LIMIT_BYTES: Final = 4_096
_decoder: Final = msgspec.json.Decoder(ExternalLogin)


def external_routes(external: ExternalLogins, edge: Edge) -> list[Route]:
    """Return the routes; only the gateway opens them."""
    desk = _Desk(external)
    open_: dict[str, Any] = {"policy": Policy.PUBLIC, "degraded": Degraded.ALLOW, "rate": RateClass.AUTH}
    path = PROVIDERS_PATH + "/{provider}"
    link = edge.stream(
        "POST", EXTERNAL_LINK_PATH, desk.link, policy=Policy.CALLER, needs=Permission.OWN_PROFILE, rate=RateClass.AUTH,
        summary="Link what the provider proved to the caller's account",
    )  # fmt: skip
    return [
        edge.stream("GET", path + "/start", desk.start, summary="Go to an identity provider", **open_),
        edge.stream("GET", path + "/callback", desk.callback, summary="Come back from an identity provider", **open_),
        edge.stream("POST", EXTERNAL_LOGIN_PATH, desk.login, summary="Log in by what the provider proved", **open_),
        msgspec.structs.replace(link, step_up=True),
    ]


class _Desk:
    """Turns exchanges into calls, and what comes of them into answers."""

    def __init__(self, external: ExternalLogins) -> None:
        self._external = external

    async def start(self, exchange: Exchange, caller: Caller) -> None:
        """Send the browser to the provider, with a cookie that what comes back is held against."""
        try:
            return_to = exchange.query.get("return_to", "")
            url, cookie = await self._external.start(exchange.params["provider"], return_to)
        except Problem as problem:
            if not wants_page(exchange):
                raise
            await tell(exchange, problem)
            return
        exchange.extra_headers.append(side_cookie(exchange, FLOW_COOKIE, cookie))
        await exchange.answer(303, b"", ((b"location", url.encode("ascii")), _NO_STORE))

    async def callback(self, exchange: Exchange, caller: Caller) -> None:
        """Take the provider's answer and go on to the page that asked."""
        try:
            cookie = read_cookie(exchange, FLOW_COOKIE)
            return_to, proved = await self._external.answered(exchange.params["provider"], exchange.query, cookie)
        except Problem as problem:
            if not wants_page(exchange):
                raise
            await tell(exchange, problem)
            return
        exchange.extra_headers.append(side_cookie(exchange, FLOW_COOKIE, proved))
        if return_to:
            await exchange.answer(303, b"", ((b"location", return_to.encode("ascii")), _NO_STORE))
            return
        await _show(exchange, pages.message("Almost there", "Go back to Sealwire to finish signing in."), 200)

    async def login(self, exchange: Exchange, caller: Caller) -> None:
        """Answer as `POST /auth/login` does. The proof is used up by it."""
        wanted = decode_body(_decoder, await _json(exchange) or b"{}")
        given = await self._external.login(caller, read_cookie(exchange, FLOW_COOKIE))
        headers: Headers = [_NO_STORE, side_cookie(exchange, FLOW_COOKIE, "")]
        if wanted.cookie and given.access_token:
            headers.append(session_cookie(exchange, given.access_token, given.expires_in))
        await exchange.answer(200, encode(given), (JSON, *headers))

    async def link(self, exchange: Exchange, caller: Caller) -> None:
        """Link what was proved to who asks."""
        await _json(exchange)
        given = await self._external.link(caller, read_cookie(exchange, FLOW_COOKIE))
        await exchange.answer(200, encode(given), (JSON, _NO_STORE, side_cookie(exchange, FLOW_COOKIE, "")))


async def _json(exchange: Exchange) -> bytes:
    """Read the body; it is announced as JSON, which no form of another site is. Raises: UnsupportedMedia."""
    body = await exchange.body(_BODY_LIMIT_BYTES)
    if exchange.text_header(b"content-type").partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMedia("Send the body with Content-Type: application/json.")
    return body


async def _show(exchange: Exchange, html: bytes, status: int) -> None:
    headers: Headers = [_HTML, _NO_STORE, (b"content-security-policy", pages.security_policy())]
    await exchange.answer(status, html, headers)
