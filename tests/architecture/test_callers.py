"""What each service may call is what its code calls, and nothing beside: a stolen service key is good for no more."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

import pytest

from sealwire.contracts.recovery import RESCUE
from sealwire.kit.caller import Caller, Principal, service_caller
from sealwire.kit.carrying import check_service
from sealwire.kit.operation import GATEWAY, Operation, Policy
from sealwire.kit.permission import Permission, Role
from sealwire.kit.problem import Forbidden
from sealwire.testing.wirings import SERVICES, WIRINGS, open_wiring

SOURCE: Final = Path(__file__).resolve().parents[2] / "src" / "sealwire"
CONTRACTS: Final = ("identity", "messaging", "media", "search", "accountability", "crypto")
OPERATIONS: Final = [o for name in CONTRACTS for o in import_module(f"sealwire.contracts.{name}").OPERATIONS.values()]
BOUNDARY: Final = frozenset({"gateway", "socket"})
NAMES: Final = {"auth": "auth", "messaging": "messaging", "media": "media", "crypto": "crypto", "search": "search",
                "compliance": "compliance", "contract": "auth"}  # fmt: skip
CUSTODIANS: Final = frozenset({"custodian", "owner", "there[name]"})
"""What another service is called in the code that calls it; of these every one that holds data."""
OWN: Final = re.compile(r"service_caller\(|self\._caller(\((?!connection)|$)")
"""How a service's own caller is made or kept; of a socket, `self._caller(connection)` is the person there."""
Use = tuple[str, str, str, bool]


def parents_in(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    """What each node stands in."""
    return {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}


def made_here(tree: ast.AST) -> set[tuple[str, str]]:
    """Names that hold a service's own caller, with the function (or module) in which they do."""
    found = set()
    for holder in ast.walk(tree):
        if isinstance(holder, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(holder):
                if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and OWN.search(ast.unparse(node.value)):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
                    found |= {(getattr(holder, "name", ""), name.id) for name in names}
    return found


def calls(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Each call of another service in a file: which service, which operation, on the own behalf or for somebody."""
    tree = ast.parse(path.read_text())
    parents, own = parents_in(tree), made_here(tree)
    known: dict[str, set[str]] = defaultdict(set)
    for operation in OPERATIONS:
        known[operation.name].add(operation.service)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        receiver = re.sub(r"\(.*\)$", "", ast.unparse(node.func.value)).rpartition(".")[2].lstrip("_")
        services = known[node.func.attr]
        found = services if receiver in CUSTODIANS else {NAMES.get(receiver, "")} & services
        within = {""}
        at: ast.AST = node
        while at in parents:
            at = parents[at]
            within.add(getattr(at, "name", ""))
        text = ast.unparse(node.args[0])
        itself = OWN.search(text) is not None or any((name, text) in own for name in within)
        for service in found:
            yield service, node.func.attr, itself


def users_of(function: str) -> frozenset[str]:
    """The services for which the rooms make something: `_ring(assembly, "auth")`."""
    text = (SOURCE / "runtime" / "rooms.py").read_text()
    return frozenset(re.findall(rf"\b{function}\(assembly, \"(\w+)\"", text))


def destroyers() -> frozenset[str]:
    """The services that have data keys destroyed by their key ring."""
    found = {
        path.relative_to(SOURCE).parts[1]
        for path in (SOURCE / "services").rglob("*.py")
        if re.search(r"self\._(keys|sealer)\.destroy(_free)?\(", path.read_text())
    }
    return frozenset(found)


def rooms_of(path: Path) -> dict[str, frozenset[str]]:
    """The services that run the code of a file, by operation ("" for all of its calls)."""
    parts = path.relative_to(SOURCE).parts
    if parts[0] == "services":
        return {"": frozenset({parts[1]})}
    proving = frozenset({GATEWAY} | {operation.service for operation in OPERATIONS if operation.step_up})
    return {
        "boundary": {"": BOUNDARY},
        "runtime": {"": frozenset({GATEWAY})},
        "clients/auth.py": dict.fromkeys(("introspect", "session", "profiles"), BOUNDARY),
        "clients/key_ring.py": {"": users_of("_ring"), "destroy_data_keys": destroyers()},
        "clients/quotas.py": {"": users_of("_quotas")},
        "clients/compliance.py": {"append": users_of("_relay") | {GATEWAY}},
        "clients/step_up.py": {"": proving},
    }.get(parts[0] if parts[0] != "clients" else "/".join(parts), {})


@pytest.fixture(scope="module")
def used() -> dict[tuple[str, str, bool], frozenset[str]]:
    """By service, operation and on whose behalf: who calls it."""
    found: dict[tuple[str, str, bool], frozenset[str]] = defaultdict(frozenset)
    for path in sorted(SOURCE.rglob("*.py")):
        rooms = rooms_of(path)
        for service, name, itself in calls(path) if rooms else ():
            callers = rooms.get(name, rooms.get("", frozenset()))
            found[service, name, itself] |= callers
    found[RESCUE.service, RESCUE.name, True] |= {GATEWAY}  # commands on the machine ask it by name
    return found


def test_every_internal_operation_names_exactly_those_that_call_it(
    used: dict[tuple[str, str, bool], frozenset[str]],
) -> None:
    wrong = {}
    for operation in OPERATIONS:
        key = (operation.service, operation.name)
        said = (sorted(operation.callers), sorted(operation.carriers))
        # What is open to people is open to the gateway, whatever it calls for itself.
        own = used.get((*key, True), frozenset()) - (frozenset() if operation.policy is Policy.SERVICE else {GATEWAY})
        found = (sorted(own), sorted(used.get((*key, False), ())))
        if said != found:
            wrong[key] = {"says": said, "code": found}
    assert not wrong


def test_nobody_is_named_who_is_no_service() -> None:
    for operation in OPERATIONS:
        assert operation.callers <= set(SERVICES)
        assert operation.carriers <= set(SERVICES) - {GATEWAY}
        assert (GATEWAY in operation.carried_by) is (operation.policy is not Policy.SERVICE)


def person(service: str) -> Caller:
    principal = Principal(kind="user", tenant_id="t", subject="anna", role=Role.OWNER, session_id="s")
    return Caller(principal=principal, service=service)


class Safe:
    """Opens."""

    def __init__(self) -> None:
        self.opened = 0

    async def open(self, caller: Caller) -> None:
        self.opened += 1


@pytest.mark.parametrize("wiring", WIRINGS)
async def test_a_service_is_held_to_it_wherever_the_callee_is(wiring: str) -> None:
    operation = Operation(
        name="open", service="safe", verb="POST", path="/safe", summary="", status=204, policy=Policy.SERVICE,
        callers=frozenset({"media"}), carriers=frozenset({"search"}),
    )  # fmt: skip
    served = Safe()
    safe = open_wiring(wiring, served, {"open": operation}, lambda safe, edge: [edge.bind(operation, safe.open)])
    for allowed in (service_caller("media", "t"), person("search"), person("")):
        await safe.open(allowed)
    for refused in (service_caller("search", "t"), person("media"), person("gateway"), service_caller("auth", "t")):
        with pytest.raises(Forbidden):
            await safe.open(refused)
    assert served.opened == 3


@pytest.mark.parametrize("service", sorted(set(SERVICES) - {GATEWAY}))
def test_no_service_but_the_gateway_can_act_as_an_administrator(service: str) -> None:
    """Whoever signs with its key may claim any principal: what counts is where they can bring it."""
    harmless = {Permission.READ, Permission.POST, None}
    for operation in OPERATIONS:
        try:
            check_service(operation, person(service))
        except Forbidden:
            continue
        assert operation.needs in harmless, operation.name
        assert operation.service == "messaging" or (operation.service, service) == ("media", "search")
    with pytest.raises(Forbidden):
        check_service(None, person(service))
