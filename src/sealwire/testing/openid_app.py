"""An app that signs people in by OpenID Connect, made of authlib as it is, and the browser and ears that go with it."""

from __future__ import annotations

import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
from authlib.integrations.base_client import (  # type: ignore[import-untyped]  # it has no types
    BaseApp,
    FrameworkIntegration,
    OAuth2Mixin,
    OpenIDMixin,
)
from authlib.integrations.httpx_client import OAuth2Client  # type: ignore[import-untyped]  # it has no types


class NoFramework(FrameworkIntegration):  # type: ignore[misc]  # authlib has no types
    """authlib asks a web framework to keep tokens; here the test keeps them."""

    def update_token(self, token: Any, refresh_token: Any = None, access_token: Any = None) -> None:
        """Keep nothing."""


class App(OAuth2Mixin, OpenIDMixin, BaseApp):  # type: ignore[misc]  # authlib has no types
    """authlib's client of its frameworks' integrations, without a framework."""

    client_cls = OAuth2Client

    @classmethod
    def of(cls, issuer: str, client_id: str, client_secret: str | None = None, **client_kwargs: Any) -> App:
        """Return an app that knows its provider by discovery."""
        kwargs = {"scope": "openid profile email", "code_challenge_method": "S256", **client_kwargs}
        if client_secret is None:
            kwargs["token_endpoint_auth_method"] = "none"  # noqa: S105 - the name of a method
        return cls(
            NoFramework("app"),
            name="app",
            client_id=client_id,
            client_secret=client_secret,
            server_metadata_url=issuer + "/.well-known/openid-configuration",
            client_kwargs=kwargs,
        )

    def client(self, token: dict[str, Any] | None = None) -> OAuth2Client:
        """Return authlib's OAuth client, for what its integrations have no method for."""
        made = self._get_oauth_client(**self.load_server_metadata())
        made.token = token
        return made


class Form:
    """A form of a page: where it goes, what stands in it, and what it tells a script."""

    def __init__(self, action: str, data: dict[str, str] | None = None) -> None:
        self.action = action
        self.data = data or {}
        self.fields: dict[str, str] = {}


class Page(HTMLParser):
    """A page as a browser reads it: its forms and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.text = ""
        self.elements: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take forms and the inputs in them."""
        found = {name: value or "" for name, value in attrs}
        self.elements.add(tag)
        if tag == "form":
            data = {name.removeprefix("data-"): value for name, value in found.items() if name.startswith("data-")}
            self.forms.append(Form(found["action"], data))
        elif tag == "input" and self.forms:
            self.forms[-1].fields[found["name"]] = found.get("value", "")

    def handle_data(self, data: str) -> None:
        """Take text."""
        self.text += data

    def form(self, ending: str) -> Form:
        """Return the first form that goes to a path with this end. Raises: AssertionError when there is none."""
        for form in self.forms:
            if form.action.endswith(ending):
                return form
        raise AssertionError(f"no form for {ending}: {self.text}")

    def passkey(self, ending: str) -> Form | None:
        """Return the form that goes there and offers a passkey, if there is one."""
        return next((form for form in self.forms if form.action.endswith(ending) and "options" in form.data), None)


class PageBrowser:
    """A browser: keeps cookies, follows no redirect that leads to an app, sends the forms it was given."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, follow_redirects=False, timeout=15)
        self.answer: httpx.Response | None = None

    def open(self, url: str) -> httpx.Response:
        """Go to an address."""
        self.answer = self.http.get(url, headers={"accept": "text/html"})
        return self.answer

    def send(self, ending: str, **fields: str) -> httpx.Response:
        """Fill a form of the page in and send it."""
        assert self.answer is not None
        form = self.page.form(ending)
        self.answer = self.http.post(
            form.action,
            data={**form.fields, **fields},
            headers={"sec-fetch-site": "same-origin", "accept": "text/html"},
        )
        return self.answer

    @property
    def page(self) -> Page:
        """The page shown."""
        assert self.answer is not None
        return Page(self.answer.text)

    @property
    def sent_to(self) -> str:
        """Where the answer redirects to. Raises: AssertionError when it does not."""
        assert self.answer is not None
        assert self.answer.status_code == 303, (self.answer.status_code, self.page.text)
        return self.answer.headers["location"]

    @property
    def told(self) -> dict[str, str]:
        """What the redirect tells the app."""
        return dict(parse_qsl(urlsplit(self.sent_to).query))


class Ears:
    """A server of an app on this machine that hears of logouts. `status` is what it answers."""

    def __init__(self) -> None:
        ears = self
        self.heard: list[str] = []
        self.asked = 0
        self.status = 200

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0"))).decode()
                ears.asked += 1
                if ears.status == 200:
                    ears.heard += parse_qs(body).get("logout_token", [])
                self.send_response(ears.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/logout"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
