"""A service identity is bound to its key, its audience, its operation and a minute; it carries who really asks."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from sealwire.adapters.embedded.service_keys import ServiceKeys
from sealwire.clients.identity import ServiceIdentity, ServiceVerifier
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.jose import Algorithm, Key, KeySet, TokenRefused, sign
from sealwire.kit.permission import Role
from sealwire.testing.clock import ManualClock

ANNA = Caller(
    principal=Principal(kind="user", tenant_id="t", subject="anna", role=Role.MEMBER, session_id="s"),
    confirmed=False,
    ip="192.0.2.1",
    user_agent="curl/8",
)


class Pair:
    """The gateway asks messaging; both on one clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.keys = {
            name: Key.generate(Algorithm.EDDSA, kid=f"{name}.1") for name in ("gateway", "messaging", "search")
        }
        self.identity = self.speaker("gateway")
        self.verifier = ServiceVerifier(
            audience="messaging",
            keys={name: KeySet([Key.from_public_jwk(key.public_jwk())]) for name, key in self.keys.items()},
            clock=self.clock,
            rng=Random(1),
        )

    def speaker(self, name: str) -> ServiceIdentity:
        return ServiceIdentity(service=name, key=self.keys[name], clock=self.clock, rng=Random(1))

    def claims(self, **changes: Any) -> dict[str, Any]:
        now_s = self.clock.now_us() // 1_000_000
        principal = {"kind": "user", "tenant_id": "t", "subject": "anna", "role": "member"}
        claims: dict[str, Any] = {
            "iss": "gateway",
            "sub": "gateway",
            "aud": "messaging",
            "op": "send",
            "iat": now_s,
            "exp": now_s + 60,
            "jti": "1",
            "caller": {"principal": principal},
        }
        return claims | changes


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_the_callee_learns_who_asks_and_for_whom(pair: Pair) -> None:
    found = pair.verifier.identify(pair.identity.token(ANNA, audience="messaging", operation="send"), operation="send")
    assert found.service == "gateway"
    assert found.carried.principal == ANNA.principal
    assert (found.carried.confirmed, found.carried.ip, found.carried.user_agent) == (False, "192.0.2.1", "curl/8")


def test_a_statement_is_for_one_operation_and_one_audience(pair: Pair) -> None:
    token = pair.identity.token(ANNA, audience="messaging", operation="send")
    with pytest.raises(TokenRefused):
        pair.verifier.identify(token, operation="delete")
    with pytest.raises(TokenRefused):
        pair.verifier.identify(pair.identity.token(ANNA, audience="search", operation="send"), operation="send")


def test_a_statement_ends_within_a_minute_cached_or_not(pair: Pair) -> None:
    token = pair.identity.token(ANNA, audience="messaging", operation="send")
    pair.verifier.identify(token, operation="send")
    pair.clock.advance(66)
    with pytest.raises(TokenRefused):
        pair.verifier.identify(token, operation="send")


def test_issued_statements_are_reused_and_renewed_in_time(pair: Pair) -> None:
    token = pair.identity.token(ANNA, audience="messaging", operation="send")
    assert pair.identity.token(ANNA, audience="messaging", operation="send") is token
    pair.clock.advance(31)
    renewed = pair.identity.token(ANNA, audience="messaging", operation="send")
    assert renewed != token
    pair.verifier.identify(renewed, operation="send")


@pytest.mark.parametrize(
    "change",
    [
        {"sub": "search"},
        {"iss": "search", "sub": "search"},
        {"exp": 4_000_000_000},
        {"caller": {"principal": {"kind": "service", "tenant_id": "t", "subject": "auth", "role": "service"}}},
        {"caller": {"principal": {"kind": "root", "tenant_id": "t", "subject": "x", "role": "owner"}}},
        {"caller": None},
        {"op": ""},
        {"op": ["send"]},
    ],
)
def test_statements_that_contradict_themselves_are_refused(pair: Pair, change: dict[str, Any]) -> None:
    pair.verifier.identify(sign(pair.claims(), pair.keys["gateway"], "svc+jwt"), operation="send")
    with pytest.raises(TokenRefused):
        pair.verifier.identify(sign(pair.claims(**change), pair.keys["gateway"], "svc+jwt"), operation="send")


def test_tokens_of_another_type_or_key_are_refused(pair: Pair) -> None:
    with pytest.raises(TokenRefused):
        pair.verifier.identify(sign(pair.claims(), pair.keys["gateway"], "at+jwt"), operation="send")
    stranger = Key.generate(Algorithm.EDDSA, kid="gateway.1")
    with pytest.raises(TokenRefused):
        pair.verifier.identify(sign(pair.claims(), stranger, "svc+jwt"), operation="send")


def test_a_service_speaks_on_its_own_behalf_only_as_itself(pair: Pair) -> None:
    token = pair.speaker("search").token(service_caller("search", "t"), audience="messaging", operation="readable")
    assert pair.verifier.identify(token, operation="readable").carried.principal.subject == "search"
    forged = pair.speaker("search").token(service_caller("auth", "t"), audience="messaging", operation="readable")
    with pytest.raises(TokenRefused):
        pair.verifier.identify(forged, operation="readable")


def test_keys_are_made_once_and_published(tmp_path: Path) -> None:
    keys = ServiceKeys(tmp_path / "keys")
    made = keys.private("gateway")
    assert keys.private("gateway").public_jwk() == made.public_jwk()
    keys.private("search")
    published = keys.published()
    assert sorted(published) == ["gateway", "search"]
    assert published["gateway"].find(made.kid) is not None
    assert (tmp_path / "keys" / "gateway.pem").stat().st_mode & 0o077 == 0
