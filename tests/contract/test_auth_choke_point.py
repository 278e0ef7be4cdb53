"""The choke point: whatever takes access away raises the epoch or reaches the revocation feed (docs/adr/0006).

Three looks at the same promise. The operations of auth are enumerated from the contracts, and each must say here what
it ends: a new one that says nothing fails. What each says is held against the code: the calls that lead from it to
`Revoker`. And each that ends something is carried out, and the feed, the epoch and the session are looked at.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import sealwire.contracts
import sealwire.services.auth
from sealwire.adapters import embedded
from sealwire.contracts.logins import LoginResult, PasswordChange
from sealwire.contracts.revocations import FeedQuery, Revocation
from sealwire.contracts.sessions import RefreshInvalid, RefreshRequest, RefreshReused, SessionNotFound, SessionQuery
from sealwire.contracts.tenants import NewTenant
from sealwire.contracts.tokens import SigningRotation, TokenQuery
from sealwire.contracts.users import NewUser, UserChange, UserQuery
from sealwire.kit.caller import Caller, service_caller
from sealwire.kit.operation import Operation
from sealwire.testing.auth_room import BOUNDARY, CHEAP, PASSWORD, AuthRoom
from sealwire.testing.clock import ManualClock

NOTHING: frozenset[str] = frozenset()
SESSION, SUBJECT, ROLE, TOKEN, TENANT = (
    frozenset({kind}) for kind in ("session", "subject", "role", "token", "tenant")
)

ENDS: dict[str, frozenset[str]] = {
    "register": NOTHING,
    "login": SESSION,  # past the limit of sessions the one unused for longest ends
    "mfa_verify": SESSION,  # the same
    "refresh": SESSION,  # an old token that comes back ends its family
    "step_up": NOTHING,
    "logout": SESSION,
    "logout_all": SUBJECT,
    "revoke": SESSION | TOKEN,
    "introspect": NOTHING,
    "me": NOTHING,
    "change_me": NOTHING,
    "sessions": NOTHING,
    "end_session": SESSION,
    "change_password": SUBJECT,
    "totp_enroll": NOTHING,
    "totp_confirm": NOTHING,  # adds a factor; `logout_all` is offered to end other sessions
    "totp_remove": NOTHING,
    "users": NOTHING,
    "add_user": NOTHING,
    "change_user": SUBJECT | ROLE,  # disabled: all sessions; role or enabled again: looked at anew
    "add_tenant": NOTHING,
    "remove_tenant": TENANT,
    "jwks": NOTHING,
    "session": NOTHING,
    "profiles": NOTHING,
    "revocations": NOTHING,
    "opened": NOTHING,
    "seen": NOTHING,
    "rotate_signing": TENANT,  # by compromise: every tenant's
    # contracts/credentials.py
    "reset_password": NOTHING,
    "confirm_reset": SUBJECT,
    "invite": NOTHING,
    "invitations": NOTHING,
    "withdraw_invitation": NOTHING,
    # contracts/openid.py: tokens of apps are good where grant and session are looked up, and nowhere else
    "openid_configuration": NOTHING,
    "clients": NOTHING,
    "add_client": NOTHING,
    "end_client": NOTHING,
    "consents": NOTHING,
    "end_consent": NOTHING,
    # contracts/external.py: an identity is a way in; what came in by it stays, as with a second factor
    "providers": NOTHING,
    "identities": NOTHING,
    "end_identity": NOTHING,
    # contracts/api_keys.py
    "api_keys": NOTHING,
    "add_api_key": NOTHING,
    "end_api_key": SESSION,
    "api_key": NOTHING,
    # contracts/passkeys.py
    "passkey_register_options": NOTHING,
    "passkey_register": NOTHING,  # adds a factor, as totp_confirm does
    "passkey_login_options": NOTHING,
    "passkey_login": SESSION,  # as login
    "passkey_step_up_options": NOTHING,
    "passkeys": NOTHING,
    "rename_passkey": NOTHING,
    "remove_passkey": NOTHING,
    "factors": NOTHING,
    # contracts/addresses.py
    "change_email": NOTHING,
    "change_email_of": NOTHING,
    "confirm_email": ROLE,  # the address is part of what caches hold of a session
    # contracts/recovery.py
    "new_recovery_codes": NOTHING,
    "reset_factors": SUBJECT,
    "send_reset": NOTHING,  # a letter; what it lets its reader do is `confirm_reset`
    "end_sessions_of": SUBJECT,
    "rescue": SUBJECT,
    # contracts/tenancy.py
    "tenants": NOTHING,
    "tenant": NOTHING,
    "change_tenant": TENANT,  # suspended: all of it; resumed: what was stays dead
    "invite_owner": NOTHING,
    "operators": NOTHING,
    "add_operator": NOTHING,
    "change_operator": SUBJECT | ROLE,  # as change_user
    "tenant_quotas": NOTHING,
    # contracts/legacy.py
    "legacy_report": NOTHING,
    "note_legacy": NOTHING,
    # contracts/custody.py
    "export_subject": NOTHING,
    "erase_subject": SUBJECT,
    "rectify_subject": ROLE,  # the address is part of what caches hold of a session
    "restrict_subject": SUBJECT | ROLE,  # lifted: looked at anew
    "probe_subject": NOTHING,
    "put_hold": NOTHING,
    "release_hold": NOTHING,
    "due": NOTHING,
    "dispose": NOTHING,  # sessions that are over already
    "reclaim": NOTHING,
}
"""What each operation of auth may put into the revocation feed. To add an operation is to add a line."""

SERVICE = Path(sealwire.services.auth.__file__).parent
ADAPTERS = Path(embedded.__file__).parent


def operations() -> dict[str, Operation]:
    """Return every operation of auth of every module of contracts."""
    found: dict[str, Operation] = {}
    for module in pkgutil.iter_modules(sealwire.contracts.__path__):
        table = getattr(importlib.import_module(f"sealwire.contracts.{module.name}"), "OPERATIONS", {})
        found |= {name: operation for name, operation in table.items() if operation.service == "auth"}
    return found


# ---- what the code says


class Code:
    """The classes of services/auth: which method calls which, and which kinds of revocation it words."""

    def __init__(self) -> None:
        self.methods: dict[tuple[str, str], ast.AsyncFunctionDef | ast.FunctionDef] = {}
        self.members: dict[str, dict[str, str]] = {}
        for path in SERVICE.glob("*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    self._read(node)

    def _read(self, node: ast.ClassDef) -> None:
        members = self.members[node.name] = {}
        for item in node.body:
            if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            self.methods[node.name, item.name] = item
            if item.name == "__init__":
                types = {arg.arg: ast.unparse(arg.annotation) for arg in item.args.kwonlyargs if arg.annotation}
                local: dict[str, str] = {}
                for step in ast.walk(item):
                    if isinstance(step, ast.Assign) and len(step.targets) == 1:
                        self._learn(step, types, members, local)

    @staticmethod
    def _learn(step: ast.Assign, types: dict[str, str], members: dict[str, str], local: dict[str, str]) -> None:
        target, value = step.targets[0], step.value
        made = ""
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
            made = value.func.id
        elif isinstance(value, ast.Name):
            made = types.get(value.id) or local.get(value.id, "")
        if isinstance(target, ast.Attribute):
            members[target.attr] = made
        elif isinstance(target, ast.Name):
            local[target.id] = made

    def words(self, owner: str, name: str) -> frozenset[str]:
        """Return the kinds of revocation that a method may word, itself or by whom it calls."""
        seen: set[tuple[str, str]] = set()
        kinds: set[str] = set()
        waiting = [(owner, name)]
        while waiting:
            at = waiting.pop()
            if at in seen or at not in self.methods:
                continue
            seen.add(at)
            for node in ast.walk(self.methods[at]):
                if not isinstance(node, ast.Attribute):
                    continue
                if isinstance(node.value, ast.Name) and node.value.id == "self":
                    waiting.append((at[0], node.attr))
                elif isinstance(node.value, ast.Attribute) and ast.unparse(node.value.value) == "self":
                    member = self.members[at[0]].get(node.value.attr, "")
                    if member == "Revoker":
                        kinds.add(node.attr)
                    waiting.append((member, node.attr))
        return frozenset(kinds)


@cache
def code() -> Code:
    return Code()


def serving(name: str) -> str:
    """Return the class that offers an operation; empty while no class does."""
    if ("AuthService", name) in code().methods:
        return "AuthService"
    return next((owner for owner, method in code().methods if method == name and owner.endswith("Service")), "")


def test_every_operation_says_what_it_ends() -> None:
    undeclared = operations().keys() - ENDS.keys()
    assert not undeclared, f"say in ENDS what these end: {sorted(undeclared)}"
    assert {"login", "change_user", "rotate_signing"} <= operations().keys(), "the enumeration works"


@pytest.mark.parametrize("name", sorted(operations()))
def test_what_an_operation_says_is_what_its_code_does(name: str) -> None:
    owner = serving(name)
    if not owner:
        assert name not in importlib.import_module("sealwire.contracts.auth").OPERATIONS
        return
    assert code().words(owner, name) == ENDS.get(name), "the calls that lead from it to Revoker"


def test_an_operation_that_reads_ends_nothing() -> None:
    for name, operation in operations().items():
        if operation.verb == "GET":
            assert ENDS[name] == NOTHING, name


DEACTIVATES = re.compile(
    r"UPDATE session SET ended_us|UPDATE user SET [^\"]*(role|status|password_hash|epoch)\b|DELETE FROM (user|tenant)\b"
    r"|UPDATE tenant SET [^\"]*status"
)
HARMLESS = {
    "rehash": "the same password under better parameters",
    "delete_removed": "what is left of a tenant whose revocation is in the feed",
    "cut_suspended": "the same of a suspended one: so that nothing comes back when the tenant does",
    "begin_erasing": "after `UserStore.cut` in the same transaction",
    "resume": "lets people log in again; what they had before was ended when the tenant was suspended",
}


def test_every_statement_that_takes_access_away_stands_beside_the_feed() -> None:
    """Statement and revocation are in one method: whoever writes the one must have written the other."""
    found = 0
    for path in ADAPTERS.glob("auth*.py"):
        module = ast.parse(path.read_text())
        owners: list[ast.Module | ast.ClassDef] = [module, *(n for n in module.body if isinstance(n, ast.ClassDef))]
        for owner in owners:
            for method in owner.body:
                if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) or method.name in HARMLESS:
                    continue
                texts = [node.value for node in ast.walk(method) if isinstance(node, ast.Constant)]
                if any(isinstance(text, str) and DEACTIVATES.search(text) for text in texts):
                    found += 1
                    calls = [ast.unparse(node.func) for node in ast.walk(method) if isinstance(node, ast.Call)]
                    assert "self._feed.add" in calls, f"{path.name}: {method.name}"
    assert found >= 5, "the statements are still recognised"


def test_operations_of_other_contracts_have_a_test_that_carries_them_out() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_auth*.py"))
    for name in operations().keys() - SCENARIOS.keys():
        if ENDS.get(name) and serving(name):
            assert re.search(rf"\.{name}\(", tests), f"nobody carries out {name}"


# ---- what happens


class Stage(AuthRoom):
    """Auth with an owner, and anna with two sessions."""

    owner: Caller
    anna: Caller
    here: LoginResult
    there: LoginResult

    async def people(self) -> None:
        """Let everybody in."""
        self.owner, _ = await self.enter("owner")
        self.anna_id = await self.add(self.owner, "anna")
        self.here, self.there = await self.log_in("anna"), await self.log_in("anna")
        self.anna = self.caller(self.here)
        self.number = (await self.feed(0))[-1].number if await self.feed(0) else 0

    async def feed(self, after: int) -> list[Revocation]:
        """Return the entries after a number."""
        return (await self.auth.revocations(BOUNDARY, FeedQuery(after=after))).items

    async def epoch(self) -> int:
        """Return anna's security epoch."""
        return (await self.auth.profiles(BOUNDARY, UserQuery(user_ids=[self.anna_id]))).items[0].epoch


Scenario = Callable[[Stage], Awaitable[Any]]
SYSTEM = service_caller("gateway", "system")


async def _past_the_limit(stage: Stage) -> None:
    assert isinstance(stage.clock, ManualClock)
    for _ in range(stage.config.sessions_per_user):
        stage.clock.advance(1)
        await stage.log_in("anna")


async def _old_token_again(stage: Stage) -> None:
    old = stage.there.refresh_token
    for _ in range(3):
        stage.there = await stage.auth.refresh(BOUNDARY, RefreshRequest(refresh_token=stage.there.refresh_token))
    assert isinstance(stage.clock, ManualClock)
    stage.clock.advance(120)
    with pytest.raises(RefreshReused):
        await stage.auth.refresh(BOUNDARY, RefreshRequest(refresh_token=old))


async def _throwaway_tenant(stage: Stage) -> None:
    owner, granted = await stage.enter("self", tenant="selftest-a1")
    await stage.auth.remove_tenant(owner, owner.tenant_id)
    with pytest.raises(SessionNotFound):
        await stage.auth.session(BOUNDARY, _query(granted))


async def test_a_crash_between_a_lost_key_and_the_end_of_all_sessions_is_made_good_at_the_start(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.open()
    await stage.people()
    await stage.storage.stores.keys.put_signing_keys([], [], ends_sessions=True)
    assert await stage.is_live(stage.here), "that far it came"
    await stage.close()
    await stage.open()
    assert not await stage.is_live(stage.here)
    assert not await stage.is_live(stage.there)
    assert {entry.reason for entry in await stage.feed(stage.number)} == {"signing_key_compromised"}
    number = (await stage.feed(0))[-1].number
    await stage.close()
    await stage.open()
    assert (await stage.feed(0))[-1].number == number, "once"
    await stage.close()


def _query(granted: LoginResult) -> SessionQuery:
    return SessionQuery(session_id=granted.session_id)


OWN = PasswordChange(current_password=PASSWORD, new_password="granite otter plinth 9")
# name → (what is done, kinds that must be in the feed, does anna's epoch rise, dies: here, there)
SCENARIOS: dict[str, list[tuple[Scenario, set[str], bool, tuple[bool, bool]]]] = {
    "login": [(_past_the_limit, {"session"}, False, (True, True))],
    "mfa_verify": [],  # opens a session by the same method as login, as the code says
    "refresh": [(_old_token_again, {"session"}, False, (False, True))],
    "logout": [(lambda s: s.auth.logout(s.anna), {"session"}, False, (True, False))],
    "logout_all": [(lambda s: s.auth.logout_all(s.anna), {"subject"}, True, (True, True))],
    "revoke": [
        (lambda s: s.auth.revoke(s.anna, TokenQuery(token=s.there.refresh_token)), {"session"}, False, (False, True)),
        (lambda s: s.auth.revoke(s.anna, TokenQuery(token=s.there.access_token)), {"token"}, False, (False, False)),
    ],
    "end_session": [(lambda s: s.auth.end_session(s.anna, s.there.session_id), {"session"}, False, (False, True))],
    "change_password": [(lambda s: s.auth.change_password(s.anna, OWN), {"subject"}, True, (False, True))],
    "change_user": [
        (lambda s: s.auth.change_user(s.owner, s.anna_id, UserChange(status="disabled")),
         {"subject"}, True, (True, True)),
        (lambda s: s.auth.change_user(s.owner, s.anna_id, UserChange(role="guest")), {"role"}, True, (False, False)),
    ],
    "remove_tenant": [(_throwaway_tenant, {"tenant"}, False, (False, False))],
    "rotate_signing": [
        (lambda s: s.auth.rotate_signing(SYSTEM, SigningRotation(compromised=True)), {"tenant"}, True, (True, True)),
    ],
}  # fmt: skip
HARMLESS_CALLS: dict[str, Scenario] = {
    "add_user": lambda s: s.auth.add_user(s.owner, NewUser(email="x@example.org", display_name="X", password=PASSWORD)),
    "add_tenant": lambda s: s.auth.add_tenant(SYSTEM, NewTenant(slug="acme", name="Acme")),
    "totp_enroll": lambda s: s.auth.totp_enroll(s.anna),
    "rotate_signing": lambda s: s.auth.rotate_signing(SYSTEM, SigningRotation()),
}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, config=CHEAP)
    await stage.open()
    await stage.people()
    yield stage
    await stage.close()


def test_every_operation_that_ends_something_is_carried_out_here() -> None:
    own = importlib.import_module("sealwire.contracts.auth").OPERATIONS
    assert {name for name in own if ENDS.get(name)} == SCENARIOS.keys()


@pytest.mark.parametrize(
    ("name", "number"), [(name, at) for name, scenarios in SCENARIOS.items() for at in range(len(scenarios))]
)
async def test_it_reaches_the_feed_and_the_sessions(stage: Stage, name: str, number: int) -> None:
    act, kinds, raises_epoch, dies = SCENARIOS[name][number]
    before = await stage.epoch()
    there = stage.there
    await act(stage)
    entries = await stage.feed(stage.number)
    assert {entry.kind for entry in entries} == kinds
    assert kinds <= ENDS[name]
    assert all(entry.reason and entry.change_id and entry.at_us for entry in entries)
    numbers = [entry.number for entry in entries]
    assert numbers == list(range(stage.number + 1, stage.number + 1 + len(numbers))), "numbered without a hole"
    assert (await stage.epoch() > before) is raises_epoch
    alive = [(await stage.auth.session(BOUNDARY, _query(granted))).active for granted in (stage.here, there)]
    assert alive == [not dead for dead in dies]
    if raises_epoch and kinds != {"tenant"}:
        assert entries[-1].epoch == await stage.epoch(), "the entry tells the epoch"


async def test_what_a_person_had_when_they_were_disabled_stays_dead_when_they_are_enabled(stage: Stage) -> None:
    """A status hides what lives on; an end is an end."""
    await stage.auth.change_user(stage.owner, stage.anna_id, UserChange(status="disabled"))
    await stage.auth.change_user(stage.owner, stage.anna_id, UserChange(status="active"))
    assert [await stage.is_live(granted) for granted in (stage.here, stage.there)] == [False, False]
    for granted in (stage.here, stage.there):
        with pytest.raises(RefreshInvalid):
            await stage.auth.refresh(BOUNDARY, RefreshRequest(refresh_token=granted.refresh_token))


@pytest.mark.parametrize("name", HARMLESS_CALLS)
async def test_what_ends_nothing_leaves_no_entry(stage: Stage, name: str) -> None:
    await HARMLESS_CALLS[name](stage)
    assert await stage.feed(stage.number) == []
    assert [(await stage.auth.session(BOUNDARY, _query(g))).active for g in (stage.here, stage.there)] == [True, True]


async def test_what_ends_survives_a_restart(stage: Stage) -> None:
    await stage.auth.change_user(stage.owner, stage.anna_id, UserChange(status="disabled"))
    epoch = await stage.epoch()
    await stage.close()
    await stage.open()
    assert await stage.epoch() == epoch
    assert [entry.kind for entry in await stage.feed(stage.number)] == ["subject"]
    assert not (await stage.auth.session(BOUNDARY, _query(stage.here))).active
