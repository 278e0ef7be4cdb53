"""Forged tokens at every door of the real server: each is turned away, in the same words, and nothing else happens.

`tests/unit/test_jose_conformance.py` holds the boundary against whole classes in process. Here the bytes go over
connections: what an HTTP parser, a header reader or a handshake makes of them counts too. Tokens whose claims lie are
genuinely signed: by the key of a legacy issuer, which the installation accepts.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, OKPKey, RSAKey
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from sealwire.adapters.embedded.service_keys import ServiceKeys
from sealwire.contracts.auth_terms import COOKIE_LOOPBACK
from sealwire.kit.caller import Principal
from sealwire.kit.jose import sign
from sealwire.kit.permission import Role
from sealwire.testing.installation import Installation, Person
from sealwire.testing.patience import until_seen

OLD = ec.generate_private_key(ec.SECP256R1())
STRANGER = ed25519.Ed25519PrivateKey.generate()
TOML = """
[[auth.legacy]]
key = '''{pem}'''
alg = "ES256"
tenant = "default"
kid = "old.1"
"""
ME = "/api/v1/auth/me"
PATIENCE_S = 60.0


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("attacked")
    pem = OLD.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    (folder / "sealwire.toml").write_text(TOML.format(pem=pem))
    running = Installation(folder / "data", expose=True).start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def anna(place: Installation) -> Person:
    return Person(place.url, "anna")


# ---- what is sent


def legacy(person: Person, **changes: Any) -> dict[str, Any]:
    """Return what an honest token of the old issuer says; None leaves a claim out."""
    now_s = int(time.time())
    said = {"sub": person.email, "id": person.user_id, "role": "owner", "iat": now_s, "exp": now_s + 3_600, **changes}
    return {name: value for name, value in said.items() if value is not None}


def signed(body: bytes | dict[str, Any], **head: Any) -> str:
    """Sign as the old issuer does, whatever it is."""
    said = {"alg": "ES256", "kid": "old.1", "typ": "JWT", **head}
    header = as_json({name: value for name, value in said.items() if value is not None})
    return signed_raw(header, body if isinstance(body, bytes) else as_json(body))


def signed_raw(header: bytes, body: bytes) -> str:
    text = f"{b64(header)}.{b64(body)}"
    r, s = decode_dss_signature(OLD.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def forged_headers(person: Person, jwks: list[dict[str, Any]]) -> list[bytes]:
    """Our own token's claims under another head: no algorithm, a secret that is public, a key of the sender's."""
    head, body, signature = person.token.split(".")
    kid = json.loads(unb64(head))["kid"]
    made = []
    for alg in ("none", "None", "NONE", "nOnE", "", None, 0, ["none"]):
        text = f"{b64(as_json({'alg': alg, 'kid': kid, 'typ': 'at+jwt'}))}.{body}"
        made += [f"{text}.", text, f"{text}.{signature}", f"{text}.{b64(bytes(64))}"]
    for jwk in jwks:
        kinds: dict[str, Any] = {"OKP": OKPKey, "RSA": RSAKey, "EC": ECKey}
        key = kinds[jwk["kty"]].import_key(jwk).public_key
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for secret in (pem, pem.strip(), as_json(jwk), unb64(jwk.get("x", jwk.get("n", ""))), b""):
            text = f"{b64(as_json({'alg': 'HS256', 'kid': jwk['kid'], 'typ': 'at+jwt'}))}.{body}"
            made.append(f"{text}.{b64(hmac.digest(secret, text.encode(), hashlib.sha256))}")
    own = {"kty": "OKP", "crv": "Ed25519", "x": b64(STRANGER.public_key().public_bytes_raw()), "kid": kid}
    heads: list[dict[str, Any]] = [{}, {"jwk": own}, {"jku": "http://127.0.0.1:9/jwks"}, {"x5u": "http://127.0.0.1:9/"}]
    heads += [{"x5c": ["MIIB"]}, {"crit": ["exp"], "exp": 1}, {"b64": False, "crit": ["b64"]}, {"zip": "DEF"}]
    heads += [{"typ": typ} for typ in ("JWT", "id+jwt", "logout+jwt", "", 1)]
    heads += [{"kid": bad} for bad in ("../../../../dev/null", "x' UNION SELECT 'x", "|id", "\x00", "", 7, None, [kid])]
    heads += [{"enc": "A256GCM", "alg": "dir"}, {"alg": "RSA-OAEP", "enc": "A256GCM"}, {"cty": "JWT"}]
    for changes in heads:
        text = f"{b64(as_json({'alg': 'EdDSA', 'kid': kid, 'typ': 'at+jwt', **changes}))}.{body}"
        made.append(f"{text}.{b64(STRANGER.sign(text.encode()))}")
    twice = b64(b'{"alg":"none",' + unb64(head)[1:])
    made += [f"{twice}.{body}.{signature}", f"{twice}.{body}."]
    return [text.encode() for text in made]


def other_forms(person: Person) -> list[bytes]:
    """Our own honest token, written in another way."""
    head, body, signature = person.token.split(".")
    token = person.token.encode()
    last = signature[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    made = [f"{head}.{body}.{signature[:-1]}{alphabet[alphabet.index(last) ^ bit]}" for bit in (1, 2, 4, 8)]
    made += [f"{head}.{body}.", f"{head}.{body}", f"{head}..{signature}", f".{body}.{signature}", "..", "."]
    made += [f"{head}.{body}.{signature}=", f"{head}.{body}.{signature}==", f"{head}=.{body}.{signature}"]
    made += [f"{head}.{body}.{signature}.", f"{head}.{body}.{signature}.{signature}", f"{head}.{body}..{signature}"]
    made += [
        f"{head}.{body}.{body}.{body}.{signature}",
        f"{head}.{body}.{signature[:-2]}",
        f"{head}.{body}.AA{signature}",
    ]
    made += [f"{head}.{body}.{b64(bytes(n))}" for n in (1, 63, 64, 65, 256)]
    made += [json.dumps({"protected": head, "payload": body, "signature": signature}).replace(" ", "")]
    made += ["A" * 9_000, f"{head}.{'A' * 8_000}.{signature}", "." * 5_000, person.grant["refresh_token"]]
    made += [person.grant["session_id"], f"{head}+.{body}.{signature}", f"{head}/.{body}.{signature}"]
    return [text.encode() for text in made] + [
        token[:9] + b"\xff" + token[10:],
        b"\xef\xbb\xbf" + token,
        token + b"\xe9",
    ]


def lies(person: Person) -> list[bytes]:
    """Genuinely signed by a key that is accepted, and still nothing to believe."""
    honest, now_s = legacy(person), int(time.time())
    plain = as_json(honest)
    opened = plain[:-1]
    bodies: list[bytes | dict[str, Any]] = [
        opened + b',"role":"owner"}', opened + b',"x":{"a":1,"a":2}}', b'{"sub":"x",' + plain[1:],
        b"\xef\xbb\xbf" + plain, plain.decode().encode("utf-16"), plain.decode().encode("utf-16-le"),
        plain.decode().encode("utf-32"), opened + b',"x":"\xff"}', opened + b',"x":"\\ud800"}',
        opened + b',"x":"\\u0000"}',
        plain + b"\x00", plain + b"x", plain + plain, b"[" + plain + b"]", b"", b"null", b'"x"', b"[]",
        opened + b',"x":NaN}', opened + b',"x":-Infinity}', opened + b',"x":1e400}', opened + b',"exp":1e400}',
        opened + b',"x":' + b"[" * 900 + b"]" * 900 + b"}", opened + b',"x":' + b'{"a":' * 500 + b"1" + b"}" * 501,
        signed(honest).encode(),
    ]  # fmt: skip
    for name in ("exp", "iat", "nbf"):
        for value in (str(now_s + 60), float(now_s + 60), now_s + 60.5, True, [now_s], {"$gt": 0}, -1, 10**40, 2**53):
            bodies.append({**honest, name: value})
        bodies.append(plain[:-1] + b',"%b":null}' % name.encode())
    said: list[dict[str, Any]] = [
        {"nbf": now_s + 600}, {"iat": now_s + 600}, {"exp": None}, {"iat": None}, {"exp": 0}, {"iat": now_s - 10**6},
        {"exp": now_s - 60, "iat": now_s - 600}, {"exp": now_s, "iat": now_s + 1}, {"nbf": now_s + 7_200},
        {"iss": "http://localhost"}, {"aud": "sealwire"}, {"tid": "default"}, {"sid": person.grant["session_id"]},
        {"sub": "x@example.org"}, {"id": secrets.token_hex(8)}, {"id": ""}, {"id": [person.user_id]}, {"sub": None},
        {"role": "service"}, {"role": ["owner"]}, {"role": "god"}, {"amr": ["pwd", "otp"]}, {"epoch": 9},
    ]  # fmt: skip
    made = [signed(body) for body in bodies] + [signed(legacy(person, **changes)) for changes in said]
    made += [signed(honest, typ=typ) for typ in ("at+jwt", "id+jwt", "sw-svc+jwt", "x", 1)]
    made += [signed(honest, alg=alg) for alg in ("none", "HS256", "EdDSA", "RS256", "ES384", "es256", None)]
    made += [signed(honest, **{name: "x"}) for name in ("jku", "x5u", "crit", "b64", "zip", "cty", "enc", "nonce")]
    made += [signed(honest, kid=kid) for kid in ("old.2", "OLD.1", "old.1\x00", "./old.1", None)]
    header = as_json({"alg": "ES256", "kid": "old.1", "typ": "JWT"})
    made += [signed_raw(head, plain) for head in (
        header[:-1] + b',"alg":"none"}', header + b" x", b"\xef\xbb\xbf" + header, header.decode().encode("utf-16"),
        b"[" * 300, header[:-1] + b',"typ":"at+jwt"}', b"[]", b"null")]  # fmt: skip
    text, _, good = signed(honest).rpartition(".")
    raw = unb64(good)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    pairs = [(r, s) for r in (0, 1, order - 1, order) for s in (0, 1, order - 1, order)]
    marks = [r.to_bytes(32, "big") + s.to_bytes(32, "big") for r, s in pairs]
    marks += [raw[:32] + bytes(32), bytes(32) + raw[32:], raw[:-1], raw + b"\0", bytes(1), bytes(128)]
    marks.append(OLD.sign(text.encode(), ec.ECDSA(hashes.SHA256())))  # DER
    return [token.encode() for token in made + [f"{text}.{b64(mark)}" for mark in marks]]


FORGED: dict[str, Callable[[Installation, Person], list[bytes]]] = {
    "another head": lambda place, anna: forged_headers(
        anna, httpx.get(place.url + "/.well-known/jwks.json").json()["keys"]
    ),
    "another form": lambda _, anna: other_forms(anna),
    "signed lies": lambda _, anna: lies(anna),
}


# ---- where it is sent


class Line:
    """One kept connection; any bytes can be sent."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, verb: str, path: str, *headers: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request without a body. Returns status, headers and body."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE_S)
        head = b"\r\n".join([f"{verb} {path} HTTP/1.1".encode(), b"Host: a", b"Content-Length: 0", *headers])
        self._socket.sendall(head + b"\r\n\r\n")
        got = b""
        while b"\r\n\r\n" not in got:
            piece = self._socket.recv(65_536)
            assert piece, got
            got += piece
        lines, _, body = got.partition(b"\r\n\r\n")
        first, *rest = lines.decode("latin-1").split("\r\n")
        found = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)}
        while len(body) < int(found.get("content-length", 0)):
            body += self._socket.recv(65_536)
        if found.get("connection") == "close":
            self.close()
        return int(first.split(" ")[1]), found, body

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


Sender = Callable[[bytes], tuple[bytes, ...]]
BEARER: Sender = lambda token: (b"Authorization: Bearer " + token,)  # noqa: E731 - one of a table
COOKIE: Sender = lambda token: (f"Cookie: {COOKIE_LOOPBACK}=".encode() + token, b"X-Sealwire-CSRF: 1")  # noqa: E731 - one of a table
DOORS: dict[str, tuple[str, str, Sender]] = {
    "bearer": ("GET", ME, BEARER),
    "lower case": ("GET", ME, lambda token: (b"authorization: bEARER " + token,)),
    "cookie": ("GET", ME, COOKIE),
    "cookie, unsafe": ("POST", "/api/v1/auth/logout-all", COOKIE),
    "unsafe": ("POST", "/api/v1/auth/logout-all", BEARER),
    "stream": ("GET", "/api/v1/compliance/audit/stream", BEARER),
    "export": ("GET", "/api/v1/compliance/audit/export", BEARER),
    "upload": ("POST", "/api/v1/media/uploads", lambda t: (*BEARER(t), b"Tus-Resumable: 1.0.0", b"Upload-Length: 1")),
    "userinfo": ("GET", "/api/v1/auth/userinfo", BEARER),
}


def without_names(body: bytes) -> dict[str, Any]:
    document = dict(json.loads(body))
    del document["trace_id"]
    document.pop("instance", None)
    return document


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("door", DOORS)
def test_every_forged_token_is_refused_in_the_same_words(
    place: Installation, anna: Person, door: str, forged: str
) -> None:
    verb, path, sent = DOORS[door]
    line = Line(place.base)
    words: dict[str, bytes] = {}
    for token in FORGED[forged](place, anna):
        status, headers, body = line.ask(verb, path, *sent(token))
        assert status == 401, (token[:200], status, body[:300])
        assert headers["content-type"] == "application/problem+json"
        assert headers["www-authenticate"].startswith("Bearer"), headers
        words[json.dumps(without_names(body), sort_keys=True)] = token
    told = {json.loads(text)["code"] for text in words}
    # only who holds a key of an issuer is told that a token is over, or that nobody has it
    assert told <= (
        {"unauthenticated", "session_revoked", "token_expired"} if forged == "signed lies" else {"unauthenticated"}
    )
    assert len(words) == len(told), words
    assert httpx.get(place.url + ME, headers={"authorization": f"Bearer {anna.token}"}).status_code == 200
    line.close()


def test_honest_tokens_of_both_kinds_come_in(place: Installation, anna: Person) -> None:
    """Or the refusals above would show nothing."""
    line = Line(place.base)
    for door in ("bearer", "lower case", "cookie"):
        verb, path, sent = DOORS[door]
        for token in (anna.token, signed(legacy(anna))):
            assert line.ask(verb, path, *sent(token.encode()))[0] == 200, door
    line.close()


def test_introspection_knows_none_of_them(place: Installation, anna: Person) -> None:
    wanted = {"name": "app", "redirect_uris": ["https://app.example/cb"]}
    made = anna.http.post("/auth/clients", json=wanted)
    assert made.status_code == 200, made.text
    who = (made.json()["client"]["client_id"], made.json()["client_secret"])
    with httpx.Client(base_url=place.url, auth=who, timeout=PATIENCE_S) as app:
        for make in FORGED.values():
            for token in (one for one in make(place, anna) if len(one) < 8_000):
                for path in ("/api/v1/auth/introspect", "/api/v1/auth/revoke"):
                    answer = app.post(path, data={"token": token.decode("latin-1")})
                    allowed = {"/api/v1/auth/introspect": b'{"active":false}', "/api/v1/auth/revoke": b"{}"}
                    assert (answer.status_code, answer.content) == (200, allowed[path]), (path, token[:200])
    assert anna.http.get("/auth/me").status_code == 200, "and none of them revoked anything"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Authorization: Bearer {good}", "Authorization: Bearer x.y.z"], 401),
        (["Authorization: Bearer x.y.z", "Authorization: Bearer {good}"], 401),
        (["Authorization: Bearer {good}", "Authorization: Basic eDp5"], 401),
        (["Authorization: Bearer {good}", "Cookie: {cookie}=x.y.z"], 401),
        (["Authorization: Bearer x.y.z", "Cookie: {cookie}={good}"], 401),
        (["Authorization: Basic eDp5", "Cookie: {cookie}={good}"], 401),
        (["Authorization: ", "Cookie: {cookie}={good}"], 401),
        (["Authorization: Bearer", "Cookie: {cookie}={good}"], 401),
        (["Cookie: {cookie}={good}; {cookie}=x.y.z"], 401),
        (["Cookie: {cookie}=x.y.z", "Cookie: {cookie}={good}"], 401),
        (["Authorization: Bearer {good}, Bearer {good}"], 401),
        (["Authorization: Bearer {good} {good}"], 401),
        (["Authorization: Bearer\t{good}"], 401),
        (["Authorization: Bearer{good}"], 401),
        (["Authorization: {good}"], 401),
        (["Authorization: Token {good}"], 401),
        (["Authorization: DPoP {good}"], 401),
        (['Authorization: Bearer "{good}"'], 401),
        (["Authorization: Bearer token={good}"], 401),
        (["Proxy-Authorization: Bearer {good}"], 401),
        (["X-Access-Token: {good}"], 401),
        (["Sec-WebSocket-Protocol: sealwire.v1, bearer.{good}"], 401),
        (["Authorization: BEARER {good}"], 200),
        (["Authorization: Bearer {good}", "Cookie: other=x.y.z; x{cookie}=x.y.z"], 200),
        (["Cookie: {cookie}={good}"], 200),
    ],
)
def test_one_credential_in_one_place(place: Installation, anna: Person, headers: list[str], status: int) -> None:
    line = Line(place.base)
    sent = [text.format(good=anna.token, cookie=COOKIE_LOOPBACK).encode() for text in headers]
    found, answered, body = line.ask("GET", ME, *sent)
    assert found == status, body
    if status == 401:
        assert answered["content-type"] == "application/problem+json"
        assert without_names(body)["code"] == "unauthenticated"
    line.close()


@pytest.mark.parametrize("query", ["access_token={good}", "token={good}", "bearer_token={good}", "jwt={good}"])
def test_no_token_in_an_address(place: Installation, anna: Person, query: str) -> None:
    line = Line(place.base)
    assert line.ask("GET", f"/api/v1/auth/sessions?{query.format(good=anna.token)}")[0] == 401
    line.close()


# ---- sockets


def samples(place: Installation, anna: Person) -> list[str]:
    """Return some of every kind that a frame or a header can hold."""
    made = [token for make in FORGED.values() for token in make(place, anna)[::4]]
    return [token.decode() for token in made if token.isascii() and b"\n" not in token]


async def how_it_ends(url: str, token: str, way: str) -> int | None:
    """Open a socket with a token. Returns the close code, or the code of the error that came in band."""
    options: dict[str, Any] = {}
    if way == "header":
        options["additional_headers"] = {"authorization": f"Bearer {token}"}
    elif way == "cookie":
        options |= {"additional_headers": {"cookie": f"{COOKIE_LOOPBACK}={token}"}, "origin": url}
    elif way == "subprotocol":
        options["subprotocols"] = ["sealwire.v1", f"bearer.{token}"]
    try:
        async with connect(url.replace("http", "ws") + "/ws", **options) as ws:
            said = {"token": token} if way == "first frame" else {}
            await ws.send(json.dumps({"id": 1, "connect": said}))
            async with asyncio.timeout(PATIENCE_S):
                reply = await ws.recv()
                assert json.loads(reply)["error"]["code"] == 109, (way, reply)
                return 109  # expired: a client of the protocol may send a fresh one, for as long as any may wait
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


@pytest.mark.parametrize("way", ["first frame", "header", "cookie", "subprotocol"])
async def test_no_forged_token_opens_a_socket(place: Installation, anna: Person, way: str) -> None:
    for number, token in enumerate(await asyncio.to_thread(samples, place, anna)):
        if way != "first frame" and set(token) & set('",;{}:= \t'):
            continue  # no header can hold it as one token
        url = f"http://127.0.0.1:{place.base + (0, 2, 3)[number % 3]}"
        assert await how_it_ends(url, token, way) in (4501, 4502, 3500, 3501, 1009, 109), (way, token[:200])


# ---- the services' own ports

AUTH, USERS_PATH = 7, "/auth/users"
EPOCH = 1
"""Of who has been through nothing yet."""


GATEWAY_ITSELF = {"role": "service", "session_id": "", "epoch": 0, "auth_time_s": 0}


def statement(
    place: Installation, anna: Person, *, service: str = "gateway", typ: str = "svc+jwt", **said: Any
) -> bytes:
    """Sign what a service says to auth, with the key that it really has."""
    service = "gateway"
    key = ServiceKeys(place.data / "keys" / "services").private(service)
    now_s = int(time.time())
    person = Principal(
        kind="user", subject=anna.user_id, tenant_id="default", session_id=anna.grant["session_id"], role=Role.OWNER,
        epoch=EPOCH,
    )  # fmt: skip
    claims = {"iss": service, "sub": service, "aud": "auth", "op": "users", "iat": now_s, "exp": now_s + 60,
              "jti": secrets.token_hex(8), "caller": {"principal": msgspec.to_builtins(person)}, **said}  # fmt: skip
    return sign({name: value for name, value in claims.items() if value is not None}, key, typ).encode()


def test_a_services_port_hears_services_and_a_public_one_does_not(place: Installation, anna: Person) -> None:
    line, public = Line(place.base + AUTH), Line(place.base)
    assert line.ask("GET", USERS_PATH, *BEARER(statement(place, anna)))[0] == 200
    now_s = int(time.time())
    lies: list[dict[str, Any]] = [
        {"aud": "crypto"}, {"aud": None}, {"op": "add_user"}, {"op": None}, {"iss": "crypto"}, {"sub": "crypto"},
        {"iss": "crypto", "sub": "crypto"}, {"exp": now_s + 3_600}, {"exp": now_s - 60, "iat": now_s - 120},
        {"jti": None},
        {"iat": now_s + 600, "exp": now_s + 660}, {"caller": None}, {"caller": {}}, {"caller": "x"}, {"typ": "at+jwt"},
        {"typ": "JWT"}, {"nbf": now_s + 600},
    ]  # fmt: skip
    sent = [statement(place, anna, **lie) for lie in lies]
    sent += [statement(place, anna)[:-2], anna.token.encode(), *forged_headers(anna, []), *other_forms(anna)]
    words = set()
    for token in sent:
        status, headers, body = line.ask("GET", USERS_PATH, *BEARER(token))
        assert (status, headers["content-type"]) == (401, "application/problem+json"), (token[:300], body)
        words.add(json.dumps(without_names(body)))
    assert len(words) == 1, words
    honest = statement(place, anna)
    for path in (ME, "/api/v1/auth/users", "/api/v1/crypto/keys", "/api/v1/auth/userinfo"):
        assert public.ask("GET", path, *BEARER(honest))[0] == 401, path
        own_words = [f"{name}: gateway".encode() for name in ("X-Service", "X-Sealwire-Service", "X-Forwarded-User")]
        assert public.ask("GET", path, *own_words)[0] == 401, path
    assert line.ask("GET", USERS_PATH)[0] == 401
    for door in (line, public):
        door.close()


def test_who_has_a_services_key_speaks_for_nobody_without_a_session(place: Installation, anna: Person) -> None:
    """What a stolen key claims is held against the session it names: whose that is, with the role of the record."""
    line, ben = Line(place.base + AUTH), Person(place.url, "ben")
    assert ben.http.get("auth/me").json()["role"] == "member"
    there: dict[str, Any] = {
        "kind": "user", "subject": ben.user_id, "tenant_id": "default", "session_id": ben.grant["session_id"],
        "epoch": EPOCH,
    }  # fmt: skip

    def told(path: str, op: str, **said: Any) -> int:
        caller = {"principal": {"role": "owner", "auth_time_s": int(time.time()), **there, **said}}
        return line.ask("GET", path, *BEARER(statement(place, anna, op=op, caller=caller)))[0]

    assert told("/auth/me", "me") == 200
    assert told(USERS_PATH, "users") == 403, "a member, whatever is said of them"
    for lie in (
        {"session_id": ""},
        {"session_id": "nowhere"},
        {"subject": anna.user_id},
        {"tenant_id": "system"},
        {"kind": "api_key", "session_id": "nowhere"},
        {"legacy": True, "session_id": "f" * 64, "email": "nobody@example.org"},
    ):
        assert told("/auth/me", "me", **lie) == 401, lie
    itself = {"kind": "service", "subject": "gateway"}
    for nobody in ({"kind": "anonymous"}, itself, itself | {"role": "service"}, itself | GATEWAY_ITSELF):
        for path, op in (("/auth/me", "me"), (USERS_PATH, "users")):
            assert told(path, op, **nobody) in (401, 403), (nobody, op)
    assert ben.http.post("auth/logout").status_code == 204
    until_seen(lambda: told("/auth/me", "me") == 401)
    line.close()
