"""Authorization requests: read strictly, pure; what an app may ask for and what it gets when it asks for more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sealwire.contracts.openid import SCOPES, PageRefused
from sealwire.services.auth.openid_errors import OAuthRefused
from sealwire.services.auth.openid_records import ClientRecord
from sealwire.services.auth.records import Record

MAX_STATE_CHARS: Final = 1_024
MAX_NONCE_CHARS: Final = 256
MAX_AGE_S: Final = 31_536_000
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_STATE: Final = re.compile(r"[\x20-\x7e]*")
_PROMPTS: Final = frozenset({"none", "login", "consent", "select_account"})


class AuthorizationRequest(Record):
    """A request whose app and redirect URI are the registered ones. `max_age_s` -1: any age does."""

    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    challenge: str
    state: str = ""
    nonce: str = ""
    prompt: tuple[str, ...] = ()
    max_age_s: int = -1
    login_hint: str = ""
    id_token_hint: str = ""


def check_redirect(client: ClientRecord | None, params: Mapping[str, str]) -> str:
    """Return the redirect URI, compared as text with those registered. Raises: PageRefused."""
    if client is None:
        raise PageRefused("The app that sent you here is not known, or is not allowed to sign people in any more.")
    uri = params.get("redirect_uri", "")
    if uri not in client.redirect_uris:  # also where one is registered and none given (RFC 9700 section 4.1.3)
        raise PageRefused("The app that sent you here asks for an answer at an address that is not registered for it.")
    return uri


def state_of(params: Mapping[str, str]) -> str:
    """Return `state`, or nothing where it could not be passed through."""
    state = params.get("state", "")
    return state if len(state) <= MAX_STATE_CHARS and _STATE.fullmatch(state) else ""


def read_request(client: ClientRecord, redirect_uri: str, params: Mapping[str, str]) -> AuthorizationRequest:
    """Read what the app asks for; unknown parameters are ignored (RFC 6749 section 3.1). Raises: OAuthRefused."""
    _check_form(params)
    if params.get("code_challenge_method", "plain") != "S256" or not _CHALLENGE.fullmatch(
        params.get("code_challenge", "")
    ):
        raise OAuthRefused("invalid_request", "PKCE is needed: code_challenge with code_challenge_method=S256.")
    if state_of(params) != params.get("state", ""):
        raise OAuthRefused("invalid_request", f"state has at most {MAX_STATE_CHARS} printable ASCII characters.")
    nonce = params.get("nonce", "")
    if len(nonce) > MAX_NONCE_CHARS or not _STATE.fullmatch(nonce):
        raise OAuthRefused("invalid_request", f"nonce has at most {MAX_NONCE_CHARS} printable ASCII characters.")
    asked = params.get("scope", "").split(" ")
    if "openid" not in asked:
        raise OAuthRefused("invalid_scope", "scope has to hold openid.")
    scopes = tuple(scope for scope in SCOPES if scope in asked and scope in client.scopes)
    prompt = tuple(sorted(set(params.get("prompt", "").split())))
    if not _PROMPTS.issuperset(prompt) or ("none" in prompt and len(prompt) > 1):
        raise OAuthRefused("invalid_request", "prompt is none, or some of login, consent, select_account.")
    return AuthorizationRequest(
        client_id=client.client_id,
        redirect_uri=redirect_uri,
        scopes=scopes,
        challenge=params["code_challenge"],
        state=params.get("state", ""),
        nonce=nonce,
        prompt=prompt,
        max_age_s=_max_age(params.get("max_age")),
        login_hint=params.get("login_hint", "")[:254],
        id_token_hint=params.get("id_token_hint", ""),
    )


def _check_form(params: Mapping[str, str]) -> None:
    if params.get("request"):
        raise OAuthRefused("request_not_supported", "Request objects are not read.")
    if params.get("request_uri"):
        raise OAuthRefused("request_uri_not_supported", "Request objects are not read.")
    if params.get("registration"):
        raise OAuthRefused("registration_not_supported", "Apps are registered by an administrator.")
    if params.get("response_type", "") != "code":
        raise OAuthRefused("unsupported_response_type", "response_type is code.")
    if params.get("response_mode", "query") != "query":
        raise OAuthRefused("invalid_request", "response_mode is query.")


def _max_age(text: str | None) -> int:
    if text is None or text == "":
        return -1
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise OAuthRefused("invalid_request", "max_age is a number of seconds.")
    return min(int(text), MAX_AGE_S)
