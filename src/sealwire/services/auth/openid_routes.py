"""The provider's HTTP edge: pages for browsers, the token and userinfo endpoints for apps. The gateway mounts them."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from sealwire.contracts import tokens
from sealwire.contracts.openid import (
    APPS_PATH,
    AUTHORIZE_PATH,
    END_SESSION_PATH,
    PASSKEY_SCRIPT_PATH,
    TOKEN_PATH,
    USERINFO_PATH,
    PageRefused,
)
from sealwire.kit.caller import Caller
from sealwire.kit.codec import encode
from sealwire.kit.exchange import JSON, Exchange, Headers, read_form
from sealwire.kit.http import Authenticate, Edge, Route
from sealwire.kit.operation import Degraded, Policy, RateClass
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Invalid, Malformed, Problem, Unauthenticated
from sealwire.services.auth import openid_pages as pages
from sealwire.services.auth.cookies import read_cookie, side_cookie
from sealwire.services.auth.openid import OpenIdProvider
from sealwire.services.auth.openid_errors import OAuthRefused
from sealwire.services.auth.openid_script import SCRIPT
from sealwire.services.auth.openid_signin import Browser, Outcome, Sent

SESSION_COOKIE: Final = "sso"
BROWSER_COOKIE: Final = "browser"
BODY_LIMIT_BYTES: Final = 64 * 1024
NO_STORE: Final = ((b"cache-control", b"no-store"), (b"pragma", b"no-cache"))
_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_JAVASCRIPT: Final = ((b"content-type", b"text/javascript; charset=utf-8"), (b"cache-control", b"no-cache"))
_PASSKEYS_HERE: Final = (b"permissions-policy", b"publickey-credentials-get=(self)")
Answered = Callable[[Caller, Mapping[str, str], Browser], Awaitable[Outcome]]


def openid_routes(openid: OpenIdProvider, edge: Edge) -> list[Route]:
    """Return the routes for browsers and apps."""
    desk = _Desk(openid)
    open_: dict[str, Any] = {"policy": Policy.PUBLIC, "degraded": Degraded.ALLOW}
    sign_in, log_out = openid.sign_in, openid.log_out

    def asked(path: str, answered: Answered, summary: str) -> list[Route]:
        return [
            edge.stream(verb, path, desk.page(answered, by_form=verb == "POST"), summary=summary, **open_)
            for verb in ("GET", "POST")
        ]

    def answered(path: str, by: Answered, summary: str) -> Route:
        handler = desk.page(by, by_form=True, ours=True)
        return edge.stream("POST", path, handler, summary=summary, rate=RateClass.AUTH, **open_)

    return [
        *asked(AUTHORIZE_PATH, sign_in.begin, "Sign in for an app (OpenID Connect)"),
        answered(AUTHORIZE_PATH + "/login", sign_in.login, "The page's login form"),
        answered(AUTHORIZE_PATH + "/code", sign_in.code, "The page's form for a second factor"),
        answered(AUTHORIZE_PATH + "/confirm", sign_in.confirm, "The page's form for a fresh proof"),
        answered(AUTHORIZE_PATH + "/consent", sign_in.decide, "The page's form for consent"),
        edge.stream(
            "GET",
            PASSKEY_SCRIPT_PATH,
            _script,
            summary="The script of pages that offer a passkey",
            rate=RateClass.NONE,
            audited=False,
            **open_,
        ),
        *asked(END_SESSION_PATH, log_out.ask, "Sign out for an app (RP-initiated logout)"),
        answered(END_SESSION_PATH + "/confirm", log_out.confirm, "The page's form for signing out"),
        _apps_page(desk, openid, edge.stream("GET", APPS_PATH, _nothing, summary="One's apps: a page", **open_)),
        answered(APPS_PATH + "/withdraw", openid.apps.withdraw, "The page's form to take a consent back"),
        edge.stream("POST", TOKEN_PATH, desk.token, summary="Codes and refresh tokens for tokens", **open_),
        edge.stream("GET", USERINFO_PATH, desk.userinfo, summary="Who an app's token is about", **open_),
        edge.stream("POST", USERINFO_PATH, desk.userinfo, summary="Who an app's token is about", **open_),
    ]


def with_apps(routes: Iterable[Route], openid: OpenIdProvider) -> list[Route]:
    """Let apps use revocation and introspection too, by their own credentials; everybody else as before."""
    desk = _Desk(openid)
    by_apps = {tokens.REVOKE: desk.revoke, tokens.INTROSPECT: desk.introspect}
    return [route if route.operation not in by_apps else _for_both(route, by_apps[route.operation]) for route in routes]


AppRun = Callable[[Exchange, Caller, Mapping[str, str]], Awaitable[None]]


def _for_both(route: Route, by_app: AppRun) -> Route:
    async def run(exchange: Exchange, caller: Caller) -> None:
        header = exchange.header(b"authorization")
        if header is not None and header[:6].lower() == b"basic ":
            await by_app(exchange, caller, await _form(exchange))
            return
        if header is None and exchange.header(b"cookie") is None:
            form = await _form(exchange)
            if "client_id" not in form:
                raise Unauthenticated("Authenticate as a person or as an app.")
            await by_app(exchange, caller, form)
            return
        if caller.is_anonymous:
            assert route.authenticate is not None  # a route of HTTP has one
            found = route.authenticate(exchange, Policy.CALLER)
            exchange.caller = caller = found if isinstance(found, Caller) else await found
        route.check(caller)
        assert route.run is not None  # as above
        await route.run(exchange, caller)

    return msgspec.structs.replace(route, policy=Policy.PUBLIC, needs=None, degraded=Degraded.ALLOW, run=run)


def _apps_page(desk: _Desk, openid: OpenIdProvider, route: Route) -> Route:
    """Let the page of one's apps know every session: those of these pages, and those that the API takes."""
    assert route.authenticate is not None  # a route of HTTP has one
    return msgspec.structs.replace(route, run=desk.page(openid.apps.show, by_form=False, api=route.authenticate))


async def _nothing(exchange: Exchange, caller: Caller) -> None:
    """Stand in for a handler until its route is there."""


async def _session_of_the_api(exchange: Exchange, authenticate: Authenticate) -> str:
    """Return the session whose cookie, or token, came along; empty without one that may see its owner's profile."""
    try:
        found = authenticate(exchange, Policy.CALLER)
        caller = found if isinstance(found, Caller) else await found
    except Problem as problem:
        if problem.status >= 500:
            raise
        return ""
    principal = caller.principal
    is_person = principal.kind == "user" and not principal.legacy and caller.may(Permission.OWN_PROFILE)
    return principal.session_id if is_person else ""


class _Desk:
    """Turns exchanges into calls, and what comes of them into answers."""

    def __init__(self, openid: OpenIdProvider) -> None:
        self._openid = openid

    def page(
        self, answered: Answered, *, by_form: bool, ours: bool = False, api: Authenticate | None = None
    ) -> Callable[[Exchange, Caller], Awaitable[None]]:
        """Return the handler of a page. `ours`: a form of ours, which no other site may send.

        `api`: also a session of the API counts, as this finds it.
        """

        async def run(exchange: Exchange, caller: Caller) -> None:
            known = read_cookie(exchange, BROWSER_COOKIE)
            browser = Browser(session=read_cookie(exchange, SESSION_COOKIE), browser=known or _new_browser())
            try:
                if api is not None:
                    account = await _session_of_the_api(exchange, api)
                    browser = msgspec.structs.replace(browser, account=account)
                if ours and exchange.header(b"sec-fetch-site") not in (None, b"same-origin"):
                    raise PageRefused("This form was sent by another site.")
                params = await _form(exchange) if by_form else exchange.query
                outcome = await answered(caller, params, browser)
            except Problem as problem:
                if not wants_page(exchange):
                    raise
                await tell(exchange, problem)
            else:
                if not known:
                    exchange.extra_headers.append(side_cookie(exchange, BROWSER_COOKIE, browser.browser))
                await _answer(exchange, outcome)

        return run

    async def token(self, exchange: Exchange, caller: Caller) -> None:
        """Answer the token endpoint."""

        async def give() -> bytes:
            try:
                form = await _form(exchange)
            except (Malformed, Invalid) as bad:
                raise OAuthRefused("invalid_request", bad.detail) from None
            return encode(await self._openid.token(caller, exchange.header(b"authorization"), form))

        await _to_app(exchange, give)

    async def introspect(self, exchange: Exchange, caller: Caller, form: Mapping[str, str]) -> None:
        """Answer RFC 7662 to an app."""

        async def give() -> bytes:
            return encode(await self._openid.introspect(exchange.header(b"authorization"), form))

        await _to_app(exchange, give)

    async def revoke(self, exchange: Exchange, caller: Caller, form: Mapping[str, str]) -> None:
        """Answer RFC 7009 to an app."""

        async def give() -> bytes:
            await self._openid.revoke(caller, exchange.header(b"authorization"), form)
            return b"{}"

        await _to_app(exchange, give)

    async def userinfo(self, exchange: Exchange, caller: Caller) -> None:
        """Answer who an access token is about. Only by header (RFC 6750 section 2.1)."""
        scheme, _, token = exchange.text_header(b"authorization", 16_384).partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("Send the access token as `Authorization: Bearer <token>`.")
        await exchange.answer(200, encode(await self._openid.grants.userinfo(token.strip())), (JSON, *NO_STORE))


async def _to_app(exchange: Exchange, give: Callable[[], Awaitable[bytes]]) -> None:
    """Answer what is given, or the refusal as OAuth words it (RFC 6749 section 5.2)."""
    try:
        body, status = await give(), 200
    except OAuthRefused as refused:
        body = encode({"error": refused.error, "error_description": refused.description})
        status = refused.status
        if status == 401:
            exchange.extra_headers.append((b"www-authenticate", b'Basic realm="sealwire"'))
    await exchange.answer(status, body, (JSON, *NO_STORE))


async def _form(exchange: Exchange) -> dict[str, str]:
    """Read a form. Raises: Malformed, Invalid, TooLarge."""
    media_type = exchange.text_header(b"content-type").partition(";")[0].strip().lower()
    body = await exchange.body(BODY_LIMIT_BYTES)
    if body and media_type != "application/x-www-form-urlencoded":
        raise Malformed("Send a form: application/x-www-form-urlencoded.")
    return read_form(body) if body else {}


async def _answer(exchange: Exchange, outcome: Outcome) -> None:
    if outcome.cookie is not None:
        exchange.extra_headers.append(side_cookie(exchange, SESSION_COOKIE, outcome.cookie))
    if isinstance(outcome, Sent):
        # 303: a browser must not send the password on to the app (RFC 9700 section 4.12).
        await exchange.answer(303, b"", ((b"location", outcome.url.encode("ascii")), *NO_STORE))
        return
    await _show(exchange, outcome.html, outcome.status, outcome.target, scripted=outcome.scripted)


def wants_page(exchange: Exchange) -> bool:
    """Whether a browser asks: anything else is better told by a problem document."""
    return b"text/html" in (exchange.header(b"accept") or b"")


async def tell(exchange: Exchange, problem: Problem) -> None:
    """Show a problem as a page."""
    if problem.retry_after_s is not None:
        exchange.extra_headers.append((b"retry-after", b"%d" % max(1, round(problem.retry_after_s))))
    title = "Not now" if problem.status >= 500 else "This did not work"
    text = "Please try again in a moment." if problem.status >= 500 else problem.detail
    await _show(exchange, pages.message(title, text), problem.status)


async def _script(exchange: Exchange, caller: Caller) -> None:
    await exchange.answer(200, SCRIPT, _JAVASCRIPT)


async def _show(exchange: Exchange, html: bytes, status: int, target: str = "", *, scripted: bool = False) -> None:
    policy = pages.security_policy(*([target] if target else []), scripted=scripted)
    headers: Headers = [_HTML, *NO_STORE, (b"content-security-policy", policy)]
    if scripted:
        headers.append(_PASSKEYS_HERE)
    await exchange.answer(status, html, headers)


def _new_browser() -> str:
    return urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode("ascii")
