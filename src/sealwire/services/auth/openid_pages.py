"""The pages people see when they sign in for an app: plain HTML, everything shown escaped, a script for passkeys."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from typing import Final
from urllib.parse import urlsplit

import msgspec

from sealwire.contracts.openid import PASSKEY_SCRIPT_PATH, Consent

STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:0;background:#f4f5f7;color:#1b1f24}"
    "main{max-width:24rem;margin:8vh auto;padding:2rem;background:#fff;border-radius:8px;box-shadow:0 1px 4px #0003}"
    "h1{font-size:1.25rem;margin-top:0}label{display:block;margin:1rem 0 .25rem}"
    "input[type=text],input[type=email],input[type=password]{width:100%;box-sizing:border-box;padding:.5rem;font:inherit}"
    "button{margin:1.25rem .5rem 0 0;padding:.5rem 1.25rem;font:inherit}"
    ".fault{color:#a40000}.quiet{color:#57606a;font-size:.9rem}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode("ascii")
MEANING: Final = {
    "openid": "know that it is you, by an id that never changes",
    "profile": "see your name",
    "email": "see your e-mail address",
}


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A passkey is asked for: `options` is JSON for the browser; only a page at `origin` can use it."""

    options: str
    challenge: str
    origin: str


def security_policy(*targets: str, scripted: bool = False) -> bytes:
    """Return the Content-Security-Policy: nothing but our style, and forms that lead here or to `targets`.

    A browser holds the redirect that answers a form to `form-action` too, so the app's address has to be in it.
    `scripted`: a passkey is offered; then scripts of ours run, never one in the page, and reach nobody.
    """
    scripts = "script-src 'self'; connect-src 'none'; " if scripted else ""
    allowed = " ".join(dict.fromkeys(["'self'", *map(_source, targets)]))
    return (
        f"default-src 'none'; {scripts}style-src 'sha256-{_STYLE_HASH}'; form-action {allowed}; "
        "frame-ancestors 'none'; base-uri 'none'"
    ).encode("ascii")


def _source(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"


def page(title: str, *parts: str) -> bytes:
    """Return a whole page; `parts` are HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{''.join(parts)}</main></body></html>"
    ).encode()


def login(*, app: str, request: str, email: str, fault: str = "", passkey: Offer | None = None) -> bytes:
    """Ask for address and password, or a passkey alone."""
    return page(
        "Sign in",
        f'<p class="quiet">to go on to <strong>{escape(app)}</strong></p>',
        _fault(fault),
        _form(
            "authorize/login",
            request,
            '<label for="email">E-mail</label><input id="email" name="email" type="email" autocomplete="username" '
            f'maxlength="254" required value="{escape(email)}">'
            '<label for="password">Password</label><input id="password" name="password" type="password" '
            'autocomplete="current-password" maxlength="1024" required><button>Sign in</button>',
        ),
        _passkey("authorize/login", request, passkey),
        _cancel(request),
    )


def second_factor(*, app: str, request: str, mfa_token: str, fault: str = "", passkey: Offer | None = None) -> bytes:
    """Ask for the second factor of a login."""
    return page(
        "One more step",
        f'<p class="quiet">to go on to <strong>{escape(app)}</strong></p>',
        _fault(fault),
        _form("authorize/code", request, _hidden("mfa_token", mfa_token) + _CODE),
        _passkey("authorize/code", request, passkey, _hidden("mfa_token", mfa_token)),
        _cancel(request),
    )


def confirm(
    *, app: str, request: str, email: str, by_code: bool, fault: str = "", passkey: Offer | None = None
) -> bytes:
    """Ask somebody who is signed in to prove again that it is them."""
    form = (
        '<label for="password">Password</label><input id="password" name="password" type="password" '
        'autocomplete="current-password" maxlength="1024" required><button>Confirm</button>'
    )
    return page(
        "Confirm that it is you",
        f"<p>{escape(app)} asks you to sign in again as <strong>{escape(email)}</strong>.</p>",
        _fault(fault),
        _form("authorize/confirm", request, _CODE if by_code else form),
        _passkey("authorize/confirm", request, passkey),
        _form("authorize/login", request, _hidden("other", "1") + "<button>Use another account</button>"),
        _cancel(request),
    )


def consent(*, app: str, request: str, email: str, scopes: Sequence[str], target: str) -> bytes:
    """Ask whether the app may know what it asks for."""
    listed = "".join(f"<li>{escape(MEANING[scope])}</li>" for scope in scopes)
    return page(
        f"Sign in to {app}?",
        f"<p>You are signed in as <strong>{escape(email)}</strong>. <strong>{escape(app)}</strong> at "
        f"<strong>{escape(_source(target))}</strong> wants to:</p><ul>{listed}</ul>"
        '<p class="quiet">You can <a href="/api/v1/auth/apps">take this back</a> at any time. It gets no access '
        "to your messages.</p>",
        _form(
            "authorize/consent",
            request,
            '<button name="decision" value="allow">Allow</button><button name="decision" value="deny">Deny</button>',
        ),
    )


def log_out(*, request: str, email: str) -> bytes:
    """Ask whether to sign out: nobody is signed out by a link alone."""
    return page(
        "Sign out?",
        f"<p>You are signed in as <strong>{escape(email)}</strong>.</p>",
        _form("end-session/confirm", request, "<button>Sign out</button>"),
    )


def apps(*, request: str, email: str, consents: Sequence[Consent]) -> bytes:
    """Show which apps know what, each with a button to take it back."""
    listed = [
        f'<h2>{escape(each.name)}</h2><p class="quiet">since {escape(each.given_at[:10])}, may:</p>'
        f"<ul>{''.join(f'<li>{escape(MEANING[scope])}</li>' for scope in each.scopes if scope in MEANING)}</ul>"
        + _form("apps/withdraw", request, _hidden("client_id", each.client_id) + "<button>Take back</button>")
        for each in consents
    ]
    return page(
        "Your apps",
        f"<p>You are signed in as <strong>{escape(email)}</strong>.</p>",
        *(listed or ["<p>No app knows anything of you.</p>"]),
    )


def message(title: str, text: str) -> bytes:
    """Tell something."""
    return page(title, f"<p>{escape(text)}</p>")


def _fault(text: str) -> str:
    return f'<p class="fault" role="alert">{escape(text)}</p>' if text else ""


def _hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{name}" value="{escape(value)}">'


def _form(action: str, request: str, content: str) -> str:
    """Return a form. The address is in full, from the root: pages are answered at more than one path."""
    return f'<form method="post" action="/api/v1/auth/{action}">{_hidden("request", request)}{content}</form>'


def _passkey(action: str, request: str, offer: Offer | None, hidden: str = "") -> str:
    """Return a form of its own, whose button is hidden until the script has seen that it works here."""
    if offer is None:
        return ""
    return (
        f'<form method="post" action="/api/v1/auth/{action}" data-options="{escape(offer.options)}" '
        f'data-origin="{escape(offer.origin)}">{_hidden("request", request)}{hidden}{_hidden("assertion", "")}'
        '<button type="button" hidden>Use a passkey</button><p class="fault" role="alert" hidden>That did not work. '
        f'Try again, or go on another way.</p></form><script src="/api/v1{PASSKEY_SCRIPT_PATH}" defer></script>'
    )


def _cancel(request: str) -> str:
    return _form("authorize/consent", request, '<button name="decision" value="deny">Cancel</button>')


_CODE: Final = (
    '<label for="code">Code of your authenticator app, or a recovery code</label><input id="code" name="code" '
    'type="text" inputmode="text" autocomplete="one-time-code" maxlength="32" required><button>Go on</button>'
)
