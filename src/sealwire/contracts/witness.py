"""What compliance promises of witnesses: cosignatures come in, and cosigned checkpoints are served (C2SP)."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import msgspec

from sealwire.contracts.audit_log import LogQuery
from sealwire.contracts.compliance_terms import SERVICE
from sealwire.kit.caller import Caller
from sealwire.kit.codec import Id, Input, Output
from sealwire.kit.operation import Operation, Repeat, table
from sealwire.kit.permission import Permission
from sealwire.kit.problem import Conflict, NotFound


class CheckpointUnknown(Conflict):
    """The note is no checkpoint that this log ever signed."""

    code, title = "checkpoint_unknown", "The log never signed this checkpoint"


class NotCosigned(NotFound):
    """No witness cosigned a checkpoint of this log yet."""

    code, title = "checkpoint_not_cosigned", "No checkpoint of this log is cosigned"


class Cosignatures(Input):
    """A checkpoint of the log with lines of witnesses under it (C2SP tlog-cosignature, `cosignature/v1`).

    Lines of keys that are not in `compliance.witnesses` are passed over.
    """

    note: Annotated[str, msgspec.Meta(min_length=1, max_length=65_536)]
    tenant_id: Id | None = None


class CosignedCheckpoint(Output):
    """A checkpoint with the lines of all witnesses that cosigned it; `witnesses`: when each did, in Unix seconds."""

    checkpoint: str
    tree_size: int
    root: str
    witnesses: dict[str, int]


_AUDIT: dict[str, Any] = {"service": SERVICE, "needs": Permission.READ_AUDIT}
COSIGN = Operation(
    name="cosign",
    verb="POST",
    path="/compliance/audit/checkpoint/cosignatures",
    takes=Cosignatures,
    gives=CosignedCheckpoint,
    repeat=Repeat.IDEMPOTENT,
    summary="Take in witnesses' cosignatures of a checkpoint",
    **_AUDIT,
)
COSIGNED = Operation(
    name="cosigned",
    verb="GET",
    path="/compliance/audit/checkpoint/cosigned",
    takes=LogQuery,
    gives=CosignedCheckpoint,
    repeat=Repeat.SAFE,
    summary="The newest checkpoint that a witness cosigned",
    **_AUDIT,
)
OPERATIONS = table(COSIGN, COSIGNED)


class Witnessing(Protocol):
    """What witnesses saw of the log."""

    async def cosign(self, caller: Caller, cosignatures: Cosignatures) -> CosignedCheckpoint:
        """Keep the cosignatures, durable on return. Raises: Invalid when no known witness signed, or one did wrongly;
        CheckpointUnknown."""

    async def cosigned(self, caller: Caller, query: LogQuery = ...) -> CosignedCheckpoint:
        """Raises: NotCosigned."""
