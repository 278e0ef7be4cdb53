"""How a caller can prove again who they are: asked of auth when a request is refused for the want of a recent proof."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sealwire.contracts.passkeys import FactorsQuery, PasskeyRing
from sealwire.kit.caller import Caller, service_caller


def proofs_by(auth: PasskeyRing, *, service: str = "gateway") -> Callable[[Caller], Awaitable[list[str]]]:
    """Return what an `Edge` asks for the `methods` of a step-up; it may raise Unavailable, which is the answer then."""

    async def proofs(caller: Caller) -> list[str]:
        asks = service_caller(service, caller.tenant_id)
        return (await auth.factors(asks, FactorsQuery(user_id=caller.user_id))).methods

    return proofs
