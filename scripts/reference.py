"""Write docs/reference from the code; with --check, fail when a page there says something else."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from unittest.mock import MagicMock

import sealwire
from sealwire.boundary.integration_health import IntegrationHealth
from sealwire.kit.caller import Caller
from sealwire.kit.exchange import Exchange
from sealwire.kit.http import Edge, Route
from sealwire.kit.openapi import problem_codes
from sealwire.kit.operation import PARAMETER, Operation, Policy
from sealwire.kit.pages import Pages
from sealwire.kit.problem import Unauthenticated
from sealwire.runtime import settings
from sealwire.services.socket.asyncapi import as_yaml, document

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
CONTRACTS = ("identity", "messaging", "media", "search", "accountability", "crypto")
RAW = (
    ("auth.openid_routes", "openid_routes"),
    ("auth.external_routes", "external_routes"),
    ("media.routes", "routes"),
    ("compliance.routes", "routes"),
)
COMPONENTS = ("jwt_token_adapter", "session_validation_normalizer", "fallback_session_provider",
              "websocket_auth_gateway", "service_boundary_coordinator")  # fmt: skip
NOTE = "<!-- Written by `make reference`; change the code, not this page. -->\n"


def operations_page() -> str:
    """Every operation with who may call it and what an unconfirmed session may do."""
    lines = [
        NOTE,
        "# Operations",
        "",
        "Public paths stand under `/api/v1` at the gateway, but for `/.well-known/…`; `service` ones are internal.",
        "`degraded` is what a session that can't be confirmed for the moment may do with it, and a legacy token:",
        "`allow` goes on, `deny` is refused (503 `session_unconfirmed`), `read_only` goes on for `GET` and `HEAD`, for",
        "no other verb. What each takes and gives is in `/documentation`.",
        "",
        "`by services` are the only ones that may call it on their own behalf, `carried by` those that may for",
        "somebody else; what another service's key signs is refused (403 `forbidden`). What is for a `caller` the",
        "gateway asks for itself in its own process only: on a port it speaks for somebody who has a live session.",
        "",
    ]
    for name in CONTRACTS:
        operations: Iterable[Operation] = import_module(f"sealwire.contracts.{name}").OPERATIONS.values()
        lines += [f"## {name}", "",
                  "| call | what | who | permission | degraded | repeat | step-up | by services | carried by |",
                  "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for o in operations:
            path = PARAMETER.sub(r"{\1}", o.path)
            needs = o.needs.value if o.needs else "–"
            step_up = "yes" if o.step_up else "–"
            lines.append(
                f"| `{o.verb} {path}` | {o.summary} | {o.policy.value} | {needs} | {o.degraded.value} "
                f"| {o.repeat.value} | {step_up} | {', '.join(sorted(o.called_by)) or '–'} "
                f"| {', '.join(sorted(o.carried_by)) or '–'} |"
            )
        lines.append("")
    return "\n".join([*lines, *_raw_routes()])


def _raw_routes() -> list[str]:
    """Routes whose handlers read and answer by themselves: they stand in no contract."""
    edge = Edge(authenticate=_nobody)
    head = ["| call | what | who | permission | degraded | step-up |", "|---|---|---|---|---|---|"]
    lines = ["## Downloads, uploads, streams, pages", "", *head]
    for module, function in RAW:
        # Nothing of the service is called: routes only bind its methods.
        routes: list[Route] = getattr(import_module(f"sealwire.services.{module}"), function)(MagicMock(), edge)
        lines += _rows(routes)
    return [*lines, "", *_health(edge)]


def _health(edge: Edge) -> list[str]:
    """The pages of every service, and the health of the boundary."""
    pages = Pages(edge=edge, service="", version="", checks=MagicMock(), registry=MagicMock())
    needed = dict.fromkeys(("normalizer", "breakers", "self_test", "authenticator", "receipt_of"), MagicMock())
    health = IntegrationHealth(components=dict.fromkeys(COMPONENTS, MagicMock()), **needed)
    lines = ["## Health", "", "At the root, not under `/api/v1`; the first five on every service's own port too.",
             "States are for everybody; details and the self-test for owners, admins, operators and services.", "",
             "| call | what | who |", "|---|---|---|"]  # fmt: skip
    routes = (*pages.routes(), *health.routes(edge))
    lines += [f"| `{route.verb} {_path(route)}` | {route.summary} | {route.policy.value} |" for route in routes]
    return [*lines, ""]


def _path(route: Route) -> str:
    return PARAMETER.sub(r"{\1}", route.path)


def _rows(routes: Iterable[Route]) -> list[str]:
    rows = []
    for route in routes:
        if route.operation is None and route.verb != "OPTIONS":
            needs = route.needs.value if route.needs else "–"
            step_up = "yes" if route.step_up else "–"
            rows.append(
                f"| `{route.verb} {_path(route)}` | {route.summary} | {route.policy.value} | {needs} "
                f"| {route.degraded.value} | {step_up} |"
            )
    return rows


def _nobody(exchange: Exchange, policy: Policy) -> Caller:
    raise Unauthenticated


def problems_page() -> str:
    """Every problem's code, status, and whether a retry helps."""
    for module in pkgutil.walk_packages(sealwire.__path__, "sealwire."):
        if not module.name.startswith("sealwire.testing"):
            import_module(module.name)
    lines = [NOTE, "# Problems", "", "Errors are `application/problem+json` (RFC 9457) with a stable `code`.", "",
             "| code | status | retry | title |", "|---|---|---|---|"]  # fmt: skip
    for code, cls in sorted(problem_codes().items()):
        lines.append(f"| `{code}` | {cls.status} | {cls.retry.value} | {cls.title} |")
    return "\n".join([*lines, ""])


def settings_page() -> str:
    """Every setting with meaning, range and default."""
    _, found = settings.load(flags={}, env={}, file=Path("/nonexistent"))
    lines = [NOTE, "# Settings", "", "From `sealwire.toml`, then `SEALWIRE_<SECTION>__<NAME>`, then flags.", "",
             "| setting | meaning | allowed | default |", "|---|---|---|---|"]  # fmt: skip
    for s in found:
        allowed = s.allowed.replace("|", "\\|")
        lines.append(f"| `{s.name}` | {s.meaning} | {allowed} | `{s.default!r}` |")
    return "\n".join([*lines, ""])


def asyncapi_page() -> str:
    """The WebSocket: commands, calls, publications, codes."""
    return f"# Written by `make reference`; change the code, not this page.\n{as_yaml(document())}\n"


PAGES = {
    "asyncapi.yaml": asyncapi_page,
    "operations.md": operations_page,
    "problems.md": problems_page,
    "settings.md": settings_page,
}


def main() -> int:
    """Write the pages, or compare them. Returns the number of pages that differ."""
    check = "--check" in sys.argv
    stale = 0
    for name, page in PAGES.items():
        path, text = FOLDER / name, page()
        if check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                print(f"docs/reference/{name} is not what the code says; run `make reference`", file=sys.stderr)
                stale += 1
        else:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
