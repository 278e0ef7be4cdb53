"""`sealwire legacy`: how far the move away from legacy tokens is."""

from __future__ import annotations

from typing import Annotated

import typer

from sealwire.cli.tenants import ask
from sealwire.cli.terminal import DEFAULT_DATA, Data, Json, say, say_json

legacy = typer.Typer(help="Tokens of the legacy format.", no_args_is_help=True)


@legacy.command("report")
def legacy_report(
    refuse_from: Annotated[
        str, typer.Option("--refuse-from", help="What would refusing them from then on mean? (2026-12-01T00:00:00Z)")
    ] = "",
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Show who still uses legacy tokens, by tenant, and what refusing them would mean. Nothing is changed."""
    (report,) = ask(data, ("legacy_report", (), {"refuse_from": refuse_from} if refuse_from else {}))
    if json:
        say_json(report)
        return
    if not report["items"]:
        say("no legacy issuer is named in the settings, and no legacy token was seen")
        return
    say(f"legacy tokens of the last {report['kept_days']} days, and whom refusing them would stop:")
    for found in report["items"]:
        say("")
        say(f"{found['tenant_id']}: {_count(found['issuers'], 'issuer')}, sunset {found['sunset_at'] or 'not set'}")
        seen = f"last seen {found['last_seen_at']}" if found["last_seen_at"] else "never seen"
        say(
            f"  {_count(found['sessions'], 'token')} of {_count(found['users'], 'user')}, "
            f"{found['live_sessions']} still good; {seen}"
        )
        stopped = f"{_count(found['would_refuse_sessions'], 'token')} of {_count(found['would_refuse_users'], 'user')}"
        say(f"  refusing from {report['refuse_from']} would stop {stopped}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
