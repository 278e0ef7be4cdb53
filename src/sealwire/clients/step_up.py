"""How a caller can prove again who they are: asked of auth wherever a recent proof is wanted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sealwire.contracts.passkeys import FactorsQuery, PasskeyRing
from sealwire.kit.caller import Caller, Proofs, service_caller


def proofs_by(auth: PasskeyRing, *, service: str) -> Callable[[Caller], Awaitable[Proofs]]:
    """Return what an `Edge` asks before it takes a proof; it may raise Unavailable, which is the answer then."""

    async def proofs(caller: Caller) -> Proofs:
        asks = service_caller(service, caller.tenant_id)
        known = await auth.factors(asks, FactorsQuery(user_id=caller.user_id))
        return Proofs(known.methods, known.second_factor)

    return proofs
