"""Equal work: whatever is the matter with an account, finding out costs what it costs for anybody, on every way in.

Counted and not timed: password hashes, writes, events, what is sealed and opened. Each way is tried for nobody, for a
person with a wrong password, and for those who are disabled, locked, restricted, without a password, with a second
factor, a service account, of a tenant that is suspended, and of one that there is not.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sealwire.contracts.addresses import EmailChange
from sealwire.contracts.credentials import ResetRequest
from sealwire.contracts.custody import SubjectRestriction
from sealwire.contracts.logins import BadCredentials, Login
from sealwire.contracts.openid import NewClient
from sealwire.contracts.passkeys import PasskeyLoginStart
from sealwire.contracts.tenancy import TenantChange
from sealwire.contracts.users import UserChange
from sealwire.kit.caller import service_caller
from sealwire.services.auth.openid_signin import Browser, Outcome, Shown
from sealwire.testing.auth_room import CHEAP, AuthRoom, somebody
from sealwire.testing.openid_app import Page as HtmlPage

SYSTEM, COMPLIANCE = service_caller("gateway", "system"), service_caller("compliance", "default")
WRONG = "wrong wrong wrong"
REDIRECT = "https://app.example/cb"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(b"v" * 43).digest()).rstrip(b"=").decode()
HERE = ("nobody", "anna", "gone", "locked", "kept", "bare", "factored", "robot")
"""In the tenant `default`."""
ELSEWHERE = (("eve", "selftest-shut"), ("anna", "no-such-tenant"))
Counted = dict[str, int]


class Ledger(AuthRoom):
    """Auth that counts its work, and people of every kind."""

    async def people(self) -> None:
        """Let everybody in, and have something be the matter with them."""
        self.owner, _ = await self.enter("owner")
        ids = {name: await self.add(self.owner, name) for name in HERE if name != "nobody"}
        await self.auth.change_user(self.owner, ids["gone"], UserChange(status="disabled"))
        await self.auth.restrict_subject(COMPLIANCE, ids["kept"], SubjectRestriction(restricted=True))
        for _ in range(self.config.lockout_free):
            with pytest.raises(BadCredentials):
                await self.log_in("locked", password=WRONG)
        for name, statement in (
            ("bare", "UPDATE user SET password_hash = '!' WHERE user_id = ?"),
            ("factored", "UPDATE user SET mfa = 1 WHERE user_id = ?"),
            ("robot", "UPDATE user SET service = 1, password_hash = '!' WHERE user_id = ?"),
        ):
            await self.storage.db.write(lambda conn, sql=statement, of=ids[name]: conn.execute(sql, (of,)).fetchall())
        await self.enter("eve", tenant="selftest-shut")
        shut = await self.storage.stores.tenants.find("selftest-shut")
        assert shut is not None
        await self.auth.change_tenant(SYSTEM, shut.tenant_id, TenantChange(status="suspended"))
        made = await self.auth.add_client(self.owner, NewClient(name="App", redirect_uris=[REDIRECT]))
        self.client_id = made.client.client_id
        self.sealed = self.opened = 0
        seal, open_ = self.ring.seal, self.ring.open

        async def sealing(*given: Any) -> bytes:
            self.sealed += 1
            return await seal(*given)

        async def opening(*given: Any) -> bytes:
            self.opened += 1
            return await open_(*given)

        self.ring.seal, self.ring.open = sealing, opening  # type: ignore[method-assign]  # they do what they did
        # Whoever is looked at first opens keys that are in the ring for everybody after them.
        for name, tenant in (*((name, None) for name in HERE), *ELSEWHERE):
            with pytest.raises(BadCredentials):
                await self.log_in(name, tenant=tenant, password=WRONG)

    async def work_of(self, act: Callable[[], Awaitable[Any]]) -> tuple[Counted, Any]:
        """Return what something costs, and what it answers or raises."""
        before = await self._counts()
        try:
            answer = await act()
        except BadCredentials as refused:
            answer = refused.document()
        after = await self._counts()
        return {name: after[name] - before[name] for name in after}, answer

    async def _counts(self) -> Counted:
        return {
            "hashes": self.service.hasher.work_done,
            "writes": self.storage.db.stats.rows,
            "events": await self.service.events.newest(),
            "sealed": self.sealed,
            "opened": self.opened,
        }


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    room = Ledger(tmp_path, config=msgspec.structs.replace(CHEAP, resets_per_hour=20, lockout_free=6))
    await room.open()
    await room.hush()
    await room.people()
    yield room
    await room.close()


def everybody() -> list[tuple[str, str | None]]:
    return [*((name, None) for name in HERE), *ELSEWHERE]


async def test_a_login(ledger: Ledger) -> None:
    seen = []
    for name, tenant in everybody():
        login = Login(email=f"{name}@example.org", password=WRONG, tenant=tenant)
        seen.append(await ledger.work_of(lambda login=login: ledger.auth.login(somebody(), login)))
    assert seen[0][0] == {"hashes": 1, "writes": 1, "events": 1, "sealed": 1, "opened": 0}
    assert seen == [seen[0]] * len(seen)


async def test_the_right_password_where_it_opens_nothing(ledger: Ledger) -> None:
    seen = []
    for name, tenant in (("nobody", None), ("gone", None), ("kept", None), ("locked", None), ("eve", "selftest-shut")):
        seen.append(await ledger.work_of(lambda name=name, tenant=tenant: ledger.log_in(name, tenant=tenant)))
    assert seen == [seen[0]] * len(seen)
    assert seen[0][0]["hashes"] == 1


async def test_a_forgotten_password(ledger: Ledger) -> None:
    seen = []
    await ledger.auth.reset_password(somebody(), ResetRequest(email="first@example.org"))
    for name, tenant in everybody():
        request = ResetRequest(email=f"{name}@example.org", tenant=tenant)
        seen.append(await ledger.work_of(lambda request=request: ledger.auth.reset_password(somebody(), request)))
    assert seen[0][0] == {"hashes": 0, "writes": 1, "events": 1, "sealed": 2, "opened": 1}
    assert seen == [seen[0]] * len(seen)


async def test_the_options_of_a_passkey(ledger: Ledger) -> None:
    seen = []
    for name, tenant in everybody():
        start = PasskeyLoginStart(email=f"{name}@example.org", tenant=tenant)
        work, options = await ledger.work_of(lambda start=start: ledger.auth.passkey_login_options(somebody(), start))
        seen.append((work, {**msgspec.to_builtins(options), "challenge": len(options.challenge)}))
    assert set(seen[0][0].values()) == {0}
    assert seen == [seen[0]] * len(seen)


async def test_another_address_for_oneself(ledger: Ledger) -> None:
    """Whether somebody has it, and what is the matter with them, is not told."""
    seen = []
    for name in ("free", *(name for name in HERE if name != "nobody")):
        await ledger.add(ledger.owner, f"asks-{name}")
        asker = ledger.caller(await ledger.log_in(f"asks-{name}"))
        change = EmailChange(email=f"{name}@example.org")
        seen.append(await ledger.work_of(lambda asker=asker, change=change: ledger.auth.change_email(asker, change)))
    assert seen[0][0] == {"hashes": 0, "writes": 1, "events": 1, "sealed": 3, "opened": 1}
    assert seen == [seen[0]] * len(seen)


async def test_the_login_page_of_an_app(ledger: Ledger) -> None:
    browser = Browser(session="", browser="b1")
    sign_in = ledger.service.openid.sign_in
    wanted = {
        "client_id": ledger.client_id, "redirect_uri": REDIRECT, "response_type": "code", "scope": "openid",
        "code_challenge": CHALLENGE, "code_challenge_method": "S256",
    }  # fmt: skip
    seen = []
    for name in HERE:
        work, page = await ledger.work_of(lambda: sign_in.begin(somebody(), wanted, browser))
        assert work == {"hashes": 0, "writes": 0, "events": 0, "sealed": 1, "opened": 0}, "next to nothing"
        form = {**_shown(page).form("/login").fields, "email": f"{name}@example.org", "password": WRONG}
        work, answer = await ledger.work_of(lambda form=form: sign_in.login(somebody(), form, browser))
        seen.append((work, answer.status, len(answer.html) - len(name)))
    assert seen[0][0] == {"hashes": 1, "writes": 1, "events": 1, "sealed": 2, "opened": 1}
    assert seen == [seen[0]] * len(seen)


def _shown(outcome: Outcome) -> HtmlPage:
    assert isinstance(outcome, Shown)
    return HtmlPage(outcome.html.decode())
