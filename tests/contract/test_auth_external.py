"""Sign-in through a provider, as auth judges it: what a login says it proved, and who gets in where nobody may."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pyotp
import pytest

from sealwire.contracts.external import ExternalRefused
from sealwire.contracts.logins import LoginResult, MfaAnswer, TotpCode
from sealwire.contracts.tenancy import TenantChange
from sealwire.kit.caller import service_caller
from sealwire.kit.clock import US_PER_S
from sealwire.kit.codec import Page
from sealwire.kit.jose import Algorithm, Key, sign
from sealwire.services.auth.config import ExternalProvider
from sealwire.services.auth.external_logins import PROOF_LIFE_S
from sealwire.services.auth.openid_ports import Answer
from sealwire.testing.auth_room import CHEAP, AuthRoom, somebody
from sealwire.testing.clock import ManualClock

ISSUER = "https://id.example"
SYSTEM = service_caller("gateway", "system")


class OpenDoor:
    """A provider that vouches for `subject`."""

    def __init__(self) -> None:
        self.key = Key.generate(Algorithm.EDDSA)
        self.room: AuthRoom
        self.subject = self.nonce = ""

    async def get(self, url: str, bearer: str = "") -> Answer:
        keys: dict[str, Any] = {"keys": [self.key.public_jwk()]}
        endpoints = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "jwks_uri": "/keys"}
        metadata = {"issuer": ISSUER, **{name: ISSUER + path for name, path in endpoints.items()}}
        return self._answer(keys if url.endswith("/keys") else metadata)

    async def post(self, url: str, form: Mapping[str, str], basic: tuple[str, str] | None = None) -> Answer:
        now_s = self.room.clock.now_us() // US_PER_S
        claims = {
            "iss": ISSUER, "aud": "app", "sub": self.subject, "nonce": self.nonce, "iat": now_s, "exp": now_s + 300,
            "email": self.subject + "@example.org", "email_verified": True,
        }  # fmt: skip
        return self._answer({"access_token": "a", "id_token": sign(claims, self.key, "JWT")})

    def _answer(self, document: Any) -> Answer:
        return Answer(status=200, body=msgspec.json.encode(document), content_type="application/json")

    async def log_in(self, subject: str) -> LoginResult:
        """Go the whole way."""
        external, self.subject = self.room.service.external, subject
        url, cookie = await external.start("id", "")
        asked = dict(parse_qsl(urlsplit(url).query))
        self.nonce = asked["nonce"]
        _, cookie = await external.answered("id", {"state": asked["state"], "code": "c"}, cookie)
        return await external.login(somebody(), cookie)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[OpenDoor]:
    made = OpenDoor()
    provider = ExternalProvider(name="id", issuer=ISSUER, client_id="app", client_secret="s", sign_up=True)
    config = msgspec.structs.replace(CHEAP, providers=(provider,))
    made.room = AuthRoom(tmp_path, config=config, outward=made)
    await made.room.open()
    yield made
    await made.room.close()


async def test_a_login_by_a_provider_and_a_second_factor_says_nothing_of_a_password(door: OpenDoor) -> None:
    room = door.room
    caller = room.caller(await door.log_in("vera"))
    assert caller.principal.amr == ("fed",)
    phone = pyotp.TOTP((await room.auth.totp_enroll(caller)).secret)
    at_s = room.clock.now_us() // US_PER_S
    codes = (await room.auth.totp_confirm(caller, TotpCode(code=phone.at(at_s)))).recovery_codes
    waits = await door.log_in("vera")
    assert (waits.mfa_required, waits.access_token) == (True, "")
    answer = MfaAnswer(mfa_token=waits.mfa_token, method="recovery", code=codes[0])
    granted = await room.auth.mfa_verify(somebody(), answer)
    assert room.caller(granted).principal.amr == ("fed", "mfa")
    told = [login.session_id for login in await room.opened()]
    assert told == [caller.principal.session_id, granted.session_id], "each way in is told of, once somebody is in"


async def test_a_proof_is_used_once_also_when_the_clock_is_put_back(door: OpenDoor) -> None:
    room, external = door.room, door.room.service.external
    assert isinstance(room.clock, ManualClock)
    url, cookie = await external.start("id", "")
    asked = dict(parse_qsl(urlsplit(url).query))
    door.subject, door.nonce = "vera", asked["nonce"]
    _, cookie = await external.answered("id", {"state": asked["state"], "code": "c"}, cookie)
    assert (await external.login(somebody(), cookie)).access_token
    room.advance(PROOF_LIFE_S + 1)
    await room.service.upkeep.sweep()
    room.clock.step_wall(-60)
    with pytest.raises(ExternalRefused):
        await external.login(somebody(), cookie)


async def test_a_suspended_tenant_takes_nobody_in(door: OpenDoor) -> None:
    room = door.room
    await door.log_in("vera")
    in_default = service_caller("gateway", "default")
    await room.auth.change_tenant(SYSTEM, "default", TenantChange(status="suspended"))
    for subject in ("vera", "new"):
        with pytest.raises(ExternalRefused):
            await door.log_in(subject)
    assert len((await room.auth.users(in_default, Page())).items) == 1, "nobody was signed up meanwhile"
    await room.auth.change_tenant(SYSTEM, "default", TenantChange(status="active"))
    assert (await door.log_in("new")).access_token


def test_nobody_signs_up_among_the_operators() -> None:
    with pytest.raises(ValueError, match="operators"):
        ExternalProvider(name="id", issuer=ISSUER, client_id="app", sign_up=True, tenant="system")
    ExternalProvider(name="id", issuer=ISSUER, client_id="app", tenant="system")
