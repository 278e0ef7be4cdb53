"""`sealwire tenant` and `sealwire operator`: for who holds the data folder, whether the installation runs or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sealwire.cli.terminal import DEFAULT_DATA, EXIT_USAGE, Data, Json, fail, require_yes, say, say_json, why

tenant = typer.Typer(help="Tenants of the installation.", no_args_is_help=True)
operator = typer.Typer(help="Those who run the installation.", no_args_is_help=True)

Tenant = Annotated[str, typer.Argument(help="The tenant's id or slug.")]
Email = Annotated[str, typer.Argument(help="The e-mail address.")]
OperatorId = Annotated[str, typer.Argument(help="The operator's id (see list).")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
PAGE = 200
MOST_DIGITS = 19
EXPECTED = {
    "slug": "at most 64 of a-z, 0-9 and hyphens, and no hyphen at the beginning",
    "email": "an address like ann@example.org",
    "refuse_from": "a time like 2026-12-01T00:00:00Z",
}
"""What a member has to look like, for people: contracts say it as regular expressions."""
OPTIONS = {"refuse_from": "--refuse-from", "name": "--name"}
"""By which option a member is given; the others are arguments."""


def check(operation: str, takes: dict[str, Any] | None) -> None:
    """Leave with wrong usage where an operation does not take this; nothing has been changed then."""
    import msgspec

    from sealwire.kit.codec import invalid
    from sealwire.runtime import offline

    kind = offline.ALLOWED[operation].takes
    if kind is None:
        return
    try:
        msgspec.convert(takes or {}, kind)
    except msgspec.ValidationError as error:
        problem = invalid(error, kind)
        member = problem.extra["path"].removeprefix("$.")
        fail(f"{OPTIONS.get(member, member)}: {EXPECTED.get(member, problem.detail)}", EXIT_USAGE)


def ask(data: Path, *calls: tuple[str, tuple[str, ...], dict[str, Any] | None], prepare: bool = False) -> list[Any]:
    """Have auth carry calls out (operation, path parameters, body or query) and return what it answered.

    `prepare`: also where nothing ever ran; then the data folder is made.
    """
    import msgspec

    from sealwire.kit.config import SettingError
    from sealwire.runtime import offline
    from sealwire.runtime import settings as runtime_settings
    from sealwire.runtime.errands import Call
    from sealwire.services.crypto.providers import KekUnusable

    for name, _, takes in calls:
        check(name, takes)
    if any(not text.isprintable() for _, params, takes in calls for text in _texts(params, takes)):
        fail("names and addresses are of characters that can be printed", EXIT_USAGE)
    if not prepare and not (data / "auth.db").exists():
        fail(f"{data} is not the data folder of an installation", EXIT_USAGE)
    asked = [
        Call(operation=name, params=params, takes=msgspec.Raw(msgspec.json.encode(takes or {})))
        for name, params, takes in calls
    ]
    try:
        settings, _ = runtime_settings.load(flags={"server": {"data": str(data)}})
        report = offline.ask(settings, asked)
    except (SettingError, KekUnusable, OSError, RuntimeError, msgspec.MsgspecError) as error:
        fail(why(error))
    if report.error:
        fail(report.error)
    return [msgspec.json.decode(given) for given in report.given]


def _texts(params: Sequence[str], takes: dict[str, Any] | None) -> list[str]:
    return [*params, *(value for value in (takes or {}).values() if isinstance(value, str))]


def page(data: Path, operation: str) -> list[dict[str, Any]]:
    """Read a list to its end."""
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        (answer,) = ask(data, (operation, (), {"limit": PAGE, **({"cursor": cursor} if cursor else {})}))
        items += answer["items"]
        cursor = answer["next_cursor"]
        if cursor is None:
            return items


def show(found: dict[str, Any], *, json: bool) -> None:
    """Print a tenant."""
    if json:
        say_json(found)
        return
    quotas = ", ".join(f"{name} {most}" for name, most in found["quotas"].items() if most is not None) or "none"
    owner = "owned" if found["owned"] else "no owner yet"
    users = f"{found['users']:>7} user{' ' if found['users'] == 1 else 's'}"
    say(f"{found['slug']:<24} {found['status']:<10} {users}   {owner:<13} quotas: {quotas}")
    say(f"  {found['tenant_id']}  {found['name']}")


def told(invited: dict[str, Any], role: str, *, json: bool) -> None:
    """Print how an invited person comes in."""
    if json:
        say_json(invited)
        return
    invitation = invited["invitation"]
    say(f"{invitation['email']} is invited as {role}, until {invitation['expires_at']}. A letter is on its way;")
    say(f'or register with "invitation": "{invited["token"]}" (it works once, for this address).')


@tenant.command("create")
def tenant_create(
    slug: Annotated[str, typer.Argument(help="Short name: a-z, 0-9 and hyphens. People give it when they log in.")],
    name: Annotated[str, typer.Option("--name", help="What it is called (default: the slug).")] = "",
    owner_email: Annotated[str, typer.Option("--owner-email", help="Who is invited to own it.")] = "",
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Make a tenant."""
    if owner_email:
        check("invite_owner", {"email": owner_email})
    ask(data, ("add_tenant", (), {"slug": slug, "name": name or slug}), prepare=True)
    (made,) = ask(data, ("tenant", (slug,), None))
    show(made, json=json)
    if owner_email:
        (invited,) = ask(data, ("invite_owner", (slug,), {"email": owner_email}))
        told(invited, "its owner", json=json)


@tenant.command("invite-owner")
def tenant_invite_owner(tenant_id: Tenant, email: Email, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Invite the first owner of a tenant that has none."""
    (invited,) = ask(data, ("invite_owner", (tenant_id,), {"email": email}))
    told(invited, "its owner", json=json)


@tenant.command("list")
def tenant_list(data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """List all tenants."""
    for found in page(data, "tenants"):
        show(found, json=json)


@tenant.command("show")
def tenant_show(tenant_id: Tenant, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Show a tenant: status, users, quotas."""
    (found,) = ask(data, ("tenant", (tenant_id,), None))
    show(found, json=json)


@tenant.command("suspend")
def tenant_suspend(
    tenant_id: Tenant,
    yes: Yes = False,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """End every session and API key of a tenant, and let nobody in it log in."""
    if not yes:
        require_yes(f"Cut everybody in {tenant_id} off, now?", otherwise="nothing was changed")
    (found,) = ask(data, ("change_tenant", (tenant_id,), {"status": "suspended"}))
    show(found, json=json)


@tenant.command("resume")
def tenant_resume(tenant_id: Tenant, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Let people of a suspended tenant log in again. API keys have to be made anew."""
    (found,) = ask(data, ("change_tenant", (tenant_id,), {"status": "active"}))
    show(found, json=json)


@tenant.command("quota")
def tenant_quota(
    tenant_id: Tenant,
    users: Annotated[str, typer.Option("--users", help="Most users; `none`: what the settings allow.")] = "",
    messages: Annotated[str, typer.Option("--messages", help="Most messages ever sent.")] = "",
    media_bytes: Annotated[str, typer.Option("--media-bytes", help="Most bytes of files.")] = "",
    keys: Annotated[str, typer.Option("--keys", help="Most keys that are not destroyed.")] = "",
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Set quotas of a tenant; what is not named stays."""
    given = {"users": users, "messages": messages, "media_bytes": media_bytes, "keys": keys}
    quotas: dict[str, int | None] = {}
    for name, text in given.items():
        if text and text != "none" and not (text.isdecimal() and len(text) < MOST_DIGITS):
            fail(f"--{name.replace('_', '-')} {text}: a number, or none", EXIT_USAGE)
        if text:
            quotas[name] = None if text == "none" else int(text)
    (found,) = ask(data, ("change_tenant", (tenant_id,), {"quotas": quotas}))
    show(found, json=json)


@operator.command("create")
def operator_create(email: Email, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Invite a person to run the installation; they choose their password when they register, in tenant `system`."""
    (invited,) = ask(data, ("add_operator", (), {"email": email}), prepare=True)
    told(invited, "operator", json=json)


@operator.command("list")
def operator_list(data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """List those who run the installation."""
    everybody = page(data, "operators")
    if not everybody and not json:
        typer.echo("nobody yet; `sealwire operator create EMAIL` invites a person")
    for found in everybody:
        if json:
            say_json(found)
        else:
            factor = "second factor" if found["mfa"] else "password only"
            say(f"{found['user_id']}  {found['status']:<9} {factor:<14} {found['email']}")


@operator.command("disable")
def operator_disable(user_id: OperatorId, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """End an operator's sessions and let them in no more."""
    change_operator(data, user_id, "disabled", json=json)


@operator.command("enable")
def operator_enable(user_id: OperatorId, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Let a disabled operator log in again. What they had before stays ended."""
    change_operator(data, user_id, "active", json=json)


@operator.command("reset-factors")
def operator_reset_factors(email: Email, yes: Yes = False, data: Data = DEFAULT_DATA) -> None:
    """Take every second factor of an operator who is locked out; their sessions end, the password stays."""
    reset_factors(data, "system", email, yes=yes)


@tenant.command("reset-factors")
def tenant_reset_factors(tenant_id: Tenant, email: Email, yes: Yes = False, data: Data = DEFAULT_DATA) -> None:
    """Take every second factor of somebody nobody outranks, such as an only owner; their sessions end."""
    reset_factors(data, tenant_id, email, yes=yes)


def change_operator(data: Path, user_id: str, status: str, *, json: bool) -> None:
    """Change an operator's status and print what came of it."""
    (found,) = ask(data, ("change_operator", (user_id,), {"status": status}))
    if json:
        say_json(found)
    else:
        say(f"{found['email']} is {found['status']}")


def reset_factors(data: Path, tenant_id: str, email: str, *, yes: bool) -> None:
    """Take second factors after asking; the person hears of it by mail, and it is audited."""
    if not yes:
        question = f"Take passkeys, authenticator app and recovery codes of {email}, now?"
        require_yes(question, otherwise="nothing was changed")
    ask(data, ("rescue", (), {"tenant": tenant_id, "email": email}))
    say(f"{email} logs in by the password alone, and may set up a factor again")
