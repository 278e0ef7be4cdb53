"""Work on a data folder by who holds it: what an errand asks is done by auth, in the running process or without one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from sealwire.contracts.identity import OPERATIONS
from sealwire.contracts.legacy import LEGACY_REPORT
from sealwire.contracts.recovery import CARRIER, RESCUE
from sealwire.contracts.tokens import ROTATE_SIGNING, SigningRotation
from sealwire.kit.caller import SYSTEM_TENANT, service_caller
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Problem
from sealwire.runtime import errands
from sealwire.runtime.assembly import Assembly
from sealwire.runtime.errands import Call, Errand, Report
from sealwire.runtime.settings import Settings, is_in_use

MACHINE: Final = service_caller(CARRIER, SYSTEM_TENANT)
ALLOWED: Final = {
    name: operation
    for name, operation in OPERATIONS.items()
    if (operation.needs is Permission.MANAGE_TENANTS and operation is not ROTATE_SIGNING)
    or operation in (LEGACY_REPORT, RESCUE)
}
"""What a command on the machine may ask of auth: what operators may, and to let in whom nobody outranks."""
ANSWER_TIMEOUT_S: Final = 15.0
_STEPS: Final = ("data folder", "key-encryption key", "service crypto", "service auth")


async def see_to(auth: Any, errand: Errand) -> Report:
    """Do what is asked. Raises: Problem; ValueError for what no errand may ask."""
    if errand.kind == "rotate-signing":
        jwks = await auth.rotate_signing(MACHINE, SigningRotation(compromised=errand.compromised))
        return Report(errand_id=errand.errand_id, key_ids=[key["kid"] for key in jwks.keys])
    given = [msgspec.Raw(msgspec.json.encode(await _carry_out(auth, call))) for call in errand.calls]
    return Report(errand_id=errand.errand_id, given=given)


async def _carry_out(auth: Any, call: Call) -> Any:
    operation = ALLOWED.get(call.operation)
    if operation is None:
        raise ValueError(f"no errand asks for {call.operation}")
    takes = () if operation.takes is None else (msgspec.json.decode(bytes(call.takes) or b"{}", type=operation.takes),)
    return await getattr(auth, operation.name)(MACHINE, *call.params, *takes)


def ask(settings: Settings, calls: Sequence[Call]) -> Report:
    """Have operations carried out on a data folder: by the process that owns it, or by auth alone in this one.

    Auth alone is auth with crypto: no port is opened; its audit records, and letters not gone yet, follow with the next
    start.
    Raises: OSError, SettingError, StartFailed as a start; TimeoutError when the owner does not answer.
    """
    if is_in_use(settings.data):
        report = errands.call(settings.data, calls, timeout_s=ANSWER_TIMEOUT_S)
        if report is None:
            raise TimeoutError("the installation runs and does not answer")
        return report
    return asyncio.run(_alone(settings, calls))


async def _alone(settings: Settings, calls: Sequence[Call]) -> Report:
    assembly = Assembly(settings=settings)
    steps = {name: run for name, run, _ in assembly.steps()}
    try:
        for name in _STEPS:
            await steps[name]()
        return await see_to(assembly.contract("auth"), Errand(errand_id="alone", kind="call", calls=tuple(calls)))
    except Problem as problem:
        return Report(errand_id="alone", error=problem.detail or problem.title)
    finally:
        await assembly.stop()
