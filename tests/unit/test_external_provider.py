"""What an identity provider's answers prove: every wrong ID token is refused, every fault is an outage."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from sealwire.contracts.external import ExternalRefused, ProviderUnavailable
from sealwire.kit.jose import Algorithm, Key, KeyState, sign
from sealwire.kit.problem import Unavailable
from sealwire.services.auth.config import ExternalProvider
from sealwire.services.auth.external_provider import IdentityProvider
from sealwire.services.auth.openid_ports import Answer, OutwardRefused
from sealwire.testing.clock import ManualClock

ISSUER, CLIENT, NONCE = "https://id.example", "app", "n1"
NOW_S = 1_800_000_000
ACCESS = "an-access-token"
Change = Callable[[dict[str, Any]], None]


def half(text: str, alg: Callable[[bytes], Any] = hashlib.sha512) -> str:
    digest = alg(text.encode()).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


class World:
    """A provider that answers what a test wants."""

    def __init__(self) -> None:
        self.key = Key.generate(Algorithm.EDDSA)
        self.metadata: dict[str, Any] = {
            "issuer": ISSUER,
            "authorization_endpoint": ISSUER + "/authorize",
            "token_endpoint": ISSUER + "/token",
            "userinfo_endpoint": ISSUER + "/userinfo",
            "jwks_uri": ISSUER + "/keys",
        }
        self.keys: Any = {"keys": [self.key.public_jwk()]}
        self.userinfo: dict[str, Any] = {"sub": "s1", "email": "vera@example.org", "email_verified": True}
        self.typ = "JWT"
        self.claims: dict[str, Any] = {
            "iss": ISSUER, "aud": CLIENT, "sub": "s1", "nonce": NONCE, "iat": NOW_S, "exp": NOW_S + 300,
            "at_hash": half(ACCESS),
        }  # fmt: skip
        self.status: dict[str, int] = {}
        self.fault: Exception | None = None
        self.asked: list[str] = []

    def _answer(self, url: str, document: Any) -> Answer:
        self.asked.append(url)
        if self.fault is not None:
            raise self.fault
        body = document if isinstance(document, bytes) else msgspec.json.encode(document)
        return Answer(status=self.status.get(url, 200), body=body, content_type="application/json")

    async def get(self, url: str, bearer: str = "") -> Answer:
        if url.endswith("/userinfo"):
            assert bearer == ACCESS
            return self._answer(url, self.userinfo)
        return self._answer(url, self.keys if url.endswith("/keys") else self.metadata)

    async def post(self, url: str, form: Mapping[str, str], basic: tuple[str, str] | None = None) -> Answer:
        assert basic == (CLIENT, "a+secret")
        assert form["code_verifier"] == "v"
        token = sign(self.claims, self.key, self.typ)
        return self._answer(url, {"access_token": ACCESS, "id_token": token, "token_type": "Bearer"})


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(now_us=NOW_S * 1_000_000)


@pytest.fixture
def provider(world: World, clock: ManualClock) -> IdentityProvider:
    settings = ExternalProvider(name="id", issuer=ISSUER, client_id=CLIENT, client_secret="a secret", sign_up=True)
    return IdentityProvider(
        settings=settings, redirect_uri="https://here.example/cb", outward=world, clock=clock, leeway_s=5
    )


async def test_a_good_answer_is_a_proof(provider: IdentityProvider, world: World) -> None:
    proof = await provider.prove("code", nonce=NONCE, verifier="v")
    assert (proof.issuer, proof.subject, proof.email, proof.email_verified) == (ISSUER, "s1", "vera@example.org", True)
    asked = len(world.asked)
    await provider.prove("code", nonce=NONCE, verifier="v")
    assert len(world.asked) == asked + 2, "metadata and keys are remembered"


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(nonce="n2"),
        lambda c: c.pop("nonce"),
        lambda c: c.update(iss="https://evil.example"),
        lambda c: c.update(aud="another"),
        lambda c: c.update(aud=[CLIENT, "another"]),
        lambda c: c.update(aud=[CLIENT, "another"], azp="another"),
        lambda c: c.update(azp="another"),
        lambda c: c.pop("aud"),
        lambda c: c.pop("sub"),
        lambda c: c.update(sub=""),
        lambda c: c.update(sub="s" * 256),
        lambda c: c.update(sub=7),
        lambda c: c.update(exp=NOW_S - 60),
        lambda c: c.pop("exp"),
        lambda c: c.pop("iat"),
        lambda c: c.update(iat=NOW_S - 3_600),
        lambda c: c.update(iat=NOW_S + 3_600, exp=NOW_S + 7_200),
        lambda c: c.update(nbf=NOW_S + 3_600),
        lambda c: c.update(at_hash=half("another")),
        lambda c: c.update(at_hash=None),
    ],
)
async def test_an_id_token_that_says_the_wrong_thing_proves_nothing(
    provider: IdentityProvider, world: World, change: Change
) -> None:
    change(world.claims)
    with pytest.raises(ExternalRefused):
        await provider.prove("code", nonce=NONCE, verifier="v")


async def test_several_audiences_are_good_when_we_are_the_authorized_one(
    provider: IdentityProvider, world: World
) -> None:
    world.claims.update(aud=[CLIENT, "another"], azp=CLIENT)
    assert (await provider.prove("code", nonce=NONCE, verifier="v")).subject == "s1"


@pytest.mark.parametrize("typ", ["at+jwt", "logout+jwt", "x"])
async def test_a_token_of_another_type_proves_nothing(provider: IdentityProvider, world: World, typ: str) -> None:
    world.typ = typ
    with pytest.raises(ExternalRefused):
        await provider.prove("code", nonce=NONCE, verifier="v")


async def test_a_key_that_is_not_published_proves_nothing_until_it_is(
    provider: IdentityProvider, world: World, clock: ManualClock
) -> None:
    assert await provider.prove("code", nonce=NONCE, verifier="v")
    world.key = Key.generate(Algorithm.EDDSA)
    with pytest.raises(ExternalRefused):
        await provider.prove("code", nonce=NONCE, verifier="v")
    world.keys = {"keys": [world.key.public_jwk()]}
    with pytest.raises(ExternalRefused):
        await provider.prove("code", nonce=NONCE, verifier="v")
    clock.advance(11)
    assert (await provider.prove("code", nonce=NONCE, verifier="v")).subject == "s1", "a rotated key is found"


async def test_a_key_without_alg_is_taken_by_its_kind_and_secrets_never(
    provider: IdentityProvider, world: World
) -> None:
    world.key = Key.generate(Algorithm.ES256, state=KeyState.SIGNING)
    jwk = {name: value for name, value in world.key.public_jwk().items() if name != "alg"}
    secret = {"kty": "oct", "k": "A" * 43, "kid": "s", "alg": "HS256"}
    world.keys = {"keys": [secret, {"kty": "EC"}, "x", jwk, {**jwk, "use": "enc"}]}
    world.claims["at_hash"] = half(ACCESS, hashlib.sha256)
    assert (await provider.prove("code", nonce=NONCE, verifier="v")).subject == "s1"


@pytest.mark.parametrize("kid", ["kq/3Zb+Qe8w/1xA=", "/" + "k" * 43, "https://idp.example/keys/1"])
async def test_a_key_id_may_hold_a_slash(provider: IdentityProvider, world: World, kid: str) -> None:
    world.key = Key.generate(Algorithm.ES256, kid=kid, state=KeyState.SIGNING)
    world.keys = {"keys": [world.key.public_jwk()]}
    world.claims["at_hash"] = half(ACCESS, hashlib.sha256)
    assert (await provider.prove("code", nonce=NONCE, verifier="v")).subject == "s1"


async def test_userinfo_is_about_the_same_person(provider: IdentityProvider, world: World) -> None:
    world.userinfo["sub"] = "s2"
    with pytest.raises(ExternalRefused):
        await provider.prove("code", nonce=NONCE, verifier="v")


async def test_a_refused_code_is_about_the_code_and_all_else_is_an_outage(
    provider: IdentityProvider, world: World
) -> None:
    world.status[ISSUER + "/token"] = 400
    with pytest.raises(ExternalRefused):
        await provider.prove("code", nonce=NONCE, verifier="v")
    for status in (302, 401, 404, 429, 500, 503):
        world.status[ISSUER + "/token"] = status
        with pytest.raises(Unavailable):
            await provider.prove("code", nonce=NONCE, verifier="v")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(issuer=ISSUER + "/"),
        lambda m: m.update(issuer="https://evil.example"),
        lambda m: m.pop("token_endpoint"),
        lambda m: m.update(authorization_endpoint="javascript:alert(1)"),
        lambda m: m.update(authorization_endpoint="http://id.example/authorize"),
        lambda m: m.update(authorization_endpoint="https://id.example/a\r\nset-cookie: x=y"),
        lambda m: m.update(jwks_uri=7),
    ],
)
async def test_metadata_that_can_not_be_used_is_an_outage(
    provider: IdentityProvider, world: World, change: Change
) -> None:
    change(world.metadata)
    with pytest.raises(ProviderUnavailable):
        await provider.authorization_url(state="s", nonce="n", verifier="v")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"keys": 1, "keys": 2}', b"[" * 100, b'{"keys": {}}', b"\xff"])
async def test_documents_are_read_strictly(provider: IdentityProvider, world: World, body: bytes) -> None:
    world.keys = body
    with pytest.raises(ProviderUnavailable):
        await provider.prove("code", nonce=NONCE, verifier="v")


@pytest.mark.parametrize("fault", [OSError("away"), TimeoutError(), OutwardRefused("inside")])
async def test_a_provider_that_is_out_is_left_alone(
    provider: IdentityProvider, world: World, clock: ManualClock, fault: Exception
) -> None:
    world.fault = fault
    for _ in range(20):
        with pytest.raises(Unavailable):
            await provider.authorization_url(state="s", nonce="n", verifier="v")
    assert len(world.asked) < 10, "the breaker is open"
    world.fault = None
    clock.advance(60)
    assert (await provider.authorization_url(state="s", nonce="n", verifier="v")).startswith(ISSUER + "/authorize?")


async def test_who_answers_has_to_be_the_one_asked(provider: IdentityProvider, world: World) -> None:
    await provider.check_answer({"code": "x"})
    await provider.check_answer({"code": "x", "iss": ISSUER})
    for wrong in ("https://evil.example", "", ISSUER + "/"):
        with pytest.raises(ExternalRefused):
            await provider.check_answer({"code": "x", "iss": wrong})
