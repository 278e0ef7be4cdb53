"""Which service may call what, and for whom: what a stolen service key is good for, held at the callee's edge."""

from __future__ import annotations

from typing import Final

from sealwire.kit.caller import Caller
from sealwire.kit.operation import GATEWAY, Operation
from sealwire.kit.problem import Forbidden

_FRONT: Final = frozenset({GATEWAY})


def check_service(operation: Operation | None, caller: Caller) -> None:
    """Refuse a service what is not its to call. `operation` is None for a route whose handler answers by itself: those
    are for whoever comes to the gateway.

    Nobody's service is named where the caller came in by this process's own gateway; a socket's is, wherever it runs.
    Raises: Forbidden.
    """
    if caller.is_service:
        if caller.user_id not in (operation.called_by if operation is not None else _FRONT):
            raise Forbidden(f"This is not for {caller.user_id} to call.")
    elif caller.service and caller.service not in (operation.carried_by if operation is not None else _FRONT):
        raise Forbidden(f"This is not for {caller.service} to call for somebody else.")
