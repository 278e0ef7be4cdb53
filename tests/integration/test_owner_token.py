"""Off loopback the first owner shows a token that only the terminal told: it works once, and for nobody after."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sealwire.contracts.users import Registration, RegistrationClosed
from sealwire.kit.caller import ANONYMOUS, Caller
from sealwire.kit.permission import Role
from sealwire.runtime import settings
from sealwire.runtime.assembly import Assembly

STRANGER = Caller(principal=ANONYMOUS, ip="192.0.2.7")


def registration(name: str, token: str | None) -> Registration:
    return Registration(
        email=f"{name}@example.org", password="seven tidy lighthouses", display_name=name, owner_token=token
    )


async def without_ports(data: Path) -> Assembly:
    """Bring an installation up that would listen to the outside, up to where it would."""
    flags = {"server": {"data": str(data), "host": "192.0.2.1"}}
    loaded, _ = settings.load(flags=flags, env={}, file=data.parent / "none.toml")
    assert (loaded.loopback, loaded.auth.registration) == (False, "invite")
    assembly = Assembly(settings=loaded)
    for name, run, _ in assembly.steps():
        if name == "ports":
            break
        await run()
    return assembly


def told(assembly: Assembly) -> str:
    (note,) = assembly.notes
    return note.split('"owner_token": "')[1].split('"')[0]


async def test_the_first_owner_needs_what_the_terminal_told(tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings.mark_production(data, tmp_path / "kek")
    assembly = await without_ports(data)
    try:
        first = told(assembly)
        assert len(first) >= 32
        auth = assembly.contract("auth")
        for wrong in (None, "", first[:-1], first + "x"):
            with pytest.raises(RegistrationClosed):
                await auth.register(STRANGER, registration("eve", wrong))
    finally:
        await assembly.stop()
    assembly = await without_ports(data)
    try:
        token = told(assembly)
        assert token != first, "each start tells another one, until there is an owner"
        auth = assembly.contract("auth")
        with pytest.raises(RegistrationClosed):
            await auth.register(STRANGER, registration("eve", first))
        elsewhere = msgspec.structs.replace(registration("eve", token), tenant="system")
        with pytest.raises(Exception, match="no such tenant"):
            await auth.register(STRANGER, elsewhere)
        made = await auth.register(STRANGER, registration("anna", token))
        assert made.user.role is Role.OWNER
        with pytest.raises(RegistrationClosed):
            await auth.register(STRANGER, registration("eve", token))
    finally:
        await assembly.stop()
    assembly = await without_ports(data)
    try:
        assert assembly.notes == []
    finally:
        await assembly.stop()
