"""The token adapter: both formats, decided by the verified issuer; whatever could be read two ways is refused."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from sealwire.boundary.jwt_token_adapter import JwtTokenAdapter, LegacyRule
from sealwire.boundary.model import Health
from sealwire.contracts.admission import CredentialExpired
from sealwire.kit.jose import Algorithm, Key, KeySet, KeyState, fingerprint, sign
from sealwire.kit.permission import Role
from sealwire.kit.problem import Unauthenticated, Unavailable
from sealwire.testing.authority import AUDIENCE, ISSUER, MemoryAuthority
from sealwire.testing.clock import ManualClock

OLD_KEY = Key.generate(Algorithm.ES256, kid="old.1")
NAMED_KEY = Key.generate(Algorithm.RS256, kid="named.1")


class Room:
    """An adapter that knows auth, a legacy issuer by `kid` and one by `iss`."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.authority = MemoryAuthority(clock=self.clock)
        self.authority.add_user("anna")
        self.session = self.authority.log_in("anna")
        self.adapter = JwtTokenAdapter(
            issuer=ISSUER,
            audience=AUDIENCE,
            keys=lambda: self.authority.jwks(None),  # type: ignore[arg-type]  # it does not look at who asks
            legacy=[
                LegacyRule(key=OLD_KEY, tenant_id="t", kid="old.1", max_age_s=3600),
                LegacyRule(key=NAMED_KEY, tenant_id="t2", iss="https://old.example", sunset_us=self.in_s(7200)),
            ],
            clock=self.clock,
            rng=Random(1),
        )

    def in_s(self, seconds: int) -> int:
        return self.clock.now_us() + seconds * 1_000_000

    def now_s(self) -> int:
        return self.clock.now_us() // 1_000_000

    def token(self, **changes: Any) -> str:
        return self.authority.token(self.session, **changes)

    def legacy(self, key: Key = OLD_KEY, typ: str = "JWT", **changes: Any) -> str:
        claims: dict[str, Any] = {
            "sub": "anna@example.org",
            "id": "anna",
            "role": "member",
            "iat": self.now_s(),
            "exp": self.now_s() + 1800,
        }
        claims = {name: value for name, value in (claims | changes).items() if value is not None}
        return sign(claims, key, typ)


@pytest.fixture
def room() -> Room:
    return Room()


async def test_an_enhanced_token_is_read(room: Room) -> None:
    token = await room.adapter.adapt(room.token())
    assert (token.subject, token.tenant_id, token.session_id) == ("anna", "t", room.session.session_id)
    assert (token.role, token.epoch, token.legacy, token.amr) == (Role.MEMBER, 1, False, ("pwd",))


async def test_a_legacy_token_is_read_by_its_issuers_key(room: Room) -> None:
    text = room.legacy()
    token = await room.adapter.adapt(text)
    assert (token.subject, token.email, token.tenant_id) == ("anna", "anna@example.org", "t")
    assert (token.legacy, token.session_id) == (True, fingerprint(text))
    named = await room.adapter.adapt(room.legacy(NAMED_KEY, iss="https://old.example"))
    assert (named.tenant_id, named.legacy) == ("t2", True)
    assert room.adapter.legacy_seen == {"t": 1, "t2": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "anna"},
        {"sub": "anna@example.org"},
        {"aud": "other"},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"tid": None},
        {"sid": None},
        {"jti": None},
        {"client_id": None},
        {"role": "service"},
        {"role": "root"},
        {"role": None},
        {"epoch": -1},
        {"epoch": "1"},
        {"auth_time": 9_999_999_999},
        {"auth_time": None},
        {"amr": "pwd"},
        {"iat": None},
        {"exp": None},
        {"sub": 7},
        {"sub": ""},
    ],
)
async def test_enhanced_tokens_that_lack_or_contradict_are_refused(room: Room, changes: dict[str, Any]) -> None:
    await room.adapter.adapt(room.token())
    with pytest.raises(Unauthenticated):
        await room.adapter.adapt(room.token(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"tid": "t"},
        {"sid": "x"},
        {"client_id": "c"},
        {"epoch": 3},
        {"auth_time": 1},
        {"sub": "anna"},
        {"id": "anna@example.org"},
        {"id": None},
        {"id": ""},
        {"id": 7},
        {"role": "service"},
        {"role": None},
        {"email": "otto@example.org"},
        {"iat": None},
        {"exp": None},
        {"iss": ISSUER},
        {"iss": "https://old.example"},
        {"aud": AUDIENCE},
    ],
)
async def test_legacy_tokens_that_read_as_enhanced_or_contradict_are_refused(
    room: Room, changes: dict[str, Any]
) -> None:
    await room.adapter.adapt(room.legacy())
    with pytest.raises(Unauthenticated):
        await room.adapter.adapt(room.legacy(**changes))


async def test_neither_format_passes_under_the_others_key(room: Room) -> None:
    enhanced_by_old = {"iss": ISSUER, "aud": AUDIENCE, "sid": "s", "tid": "t", "jti": "j", "client_id": "c"}
    for token in (
        room.legacy(**enhanced_by_old),
        room.legacy(typ="at+jwt"),
        room.legacy(key=Key.generate(Algorithm.ES256, kid="old.1")),
        room.legacy(key=Key.generate(Algorithm.EDDSA, kid="old.1")),
        room.legacy(key=room.authority.keys[0]),
        room.legacy(NAMED_KEY),
        room.legacy(NAMED_KEY, iss="https://older.example"),
    ):
        with pytest.raises(Unauthenticated):
            await room.adapter.adapt(token)
    legacy_by_auth = {"sub": "anna@example.org", "id": "anna", "role": "member"}
    for typ in ("JWT", "at+jwt"):
        claims = legacy_by_auth | {"iss": ISSUER, "iat": room.now_s(), "exp": room.now_s() + 60}
        with pytest.raises(Unauthenticated):
            await room.adapter.adapt(sign(claims, room.authority.keys[0], typ))


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "é.b.c", "e30.e30.e30", "x" * 9000, "a.b.c.d", "\0.\0.\0"])
async def test_what_is_no_token_is_refused(room: Room, text: str) -> None:
    with pytest.raises(Unauthenticated):
        await room.adapter.adapt(text)


async def test_an_expired_token_is_told_apart_and_never_given_out_of_the_cache(room: Room) -> None:
    text = room.token()
    await room.adapter.adapt(text)
    room.clock.advance(604)
    assert room.adapter.remembered(text) is not None, "within the leeway"
    room.clock.advance(1.5)
    assert room.adapter.remembered(text) is None
    with pytest.raises(CredentialExpired):
        await room.adapter.adapt(text)


async def test_a_wall_clock_stepped_back_does_not_prolong_a_remembered_token(room: Room) -> None:
    text = room.token()
    await room.adapter.adapt(text)
    room.clock.advance(300)
    room.clock.step_wall(-86_400)
    room.clock.advance(306)
    assert room.adapter.remembered(text) is None


async def test_old_legacy_tokens_and_those_past_the_sunset_are_refused(room: Room) -> None:
    text = room.legacy(exp=room.now_s() + 86_400)
    assert (await room.adapter.adapt(text)).expires_at_s == room.now_s() + 3600, "the setting bounds the token's wish"
    room.clock.advance(3606)
    with pytest.raises(CredentialExpired):
        await room.adapter.adapt(text)
    room.clock.advance(3600)
    with pytest.raises(Unauthenticated):
        await room.adapter.adapt(room.legacy(NAMED_KEY, iss="https://old.example"))


async def test_rotation_overlaps_and_a_withdrawn_key_ends_its_tokens(room: Room) -> None:
    before = room.token()
    await room.adapter.adapt(before)
    old, new = room.authority.keys[0], Key.generate(Algorithm.EDDSA, kid="auth.2")
    room.authority.keys = [old.in_state(KeyState.RETIRING), new]
    after = room.token()
    room.clock.advance(3)
    assert (await room.adapter.adapt(after)).kid == "auth.2", "an unknown key makes it ask auth"
    assert (await room.adapter.adapt(before)).kid == "auth.1"
    room.authority.keys = [new]
    await room.adapter.refresh_keys()
    with pytest.raises(Unauthenticated):
        await room.adapter.adapt(before)


async def test_made_up_key_ids_do_not_make_it_ask_for_each(room: Room) -> None:
    stranger = Key.generate(Algorithm.EDDSA, kid="nobody")
    for _ in range(20):
        text = sign({"iss": ISSUER, "iat": room.now_s(), "exp": room.now_s() + 60}, stranger, "at+jwt")
        with pytest.raises(Unauthenticated):
            await room.adapter.adapt(text)
    assert room.authority.asked.count("jwks") <= 1


async def test_without_keys_it_is_an_outage_and_with_old_ones_it_goes_on(room: Room) -> None:
    room.authority.outage = Unavailable()
    text = room.token()
    assert room.adapter.health().status is Health.UNHEALTHY
    with pytest.raises(Unavailable):
        await room.adapter.adapt(text)
    room.authority.outage = None
    room.clock.advance(3)
    await room.adapter.adapt(text)
    assert room.adapter.health().status is Health.HEALTHY
    room.authority.outage = Unavailable()
    room.clock.advance(400)
    await room.adapter.adapt(room.token())
    room.clock.advance(1500)
    assert room.adapter.health().status is Health.DEGRADED


async def test_a_key_it_could_not_ask_for_is_an_outage_and_no_fault_of_the_token(room: Room) -> None:
    """A 401 makes clients throw their session away: no outage may answer it."""
    await room.adapter.adapt(room.token())
    room.authority.keys = [Key.generate(Algorithm.EDDSA), room.authority.keys[0].in_state(KeyState.RETIRING)]
    text = room.token()
    room.authority.outage = Unavailable()
    room.clock.advance(400)
    for _ in range(2):  # asking again has to wait a moment: that says nothing of the token either
        with pytest.raises(Unavailable):
            await room.adapter.adapt(text)
    room.authority.outage = None
    room.clock.advance(3)
    await room.adapter.adapt(text)
    made_up = sign(
        {"iss": ISSUER, "iat": room.now_s(), "exp": room.now_s() + 60}, Key.generate(Algorithm.EDDSA), "at+jwt"
    )
    with pytest.raises(Unauthenticated):
        await room.adapter.adapt(made_up)


def test_settings_of_a_legacy_issuer_are_checked() -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"
    with pytest.raises(ValueError):
        LegacyRule.read(key=pem, alg="RS256", tenant_id="t", kid="k", max_age_s=60)
    with pytest.raises(ValueError):
        LegacyRule.read(key="short", alg="HS256", tenant_id="t", kid="k", max_age_s=60)
    with pytest.raises(ValueError):
        LegacyRule(key=OLD_KEY, tenant_id="t", kid="old.1", iss="both")
    rule = LegacyRule.read(
        key="0123456789abcdef" * 2, alg="HS256", tenant_id="t", iss="i", max_age_s=60, sunset="2027-01-01T00:00:00Z"
    )
    assert rule.sunset_us > 0
    assert KeySet([rule.key]).find("legacy") is not None
