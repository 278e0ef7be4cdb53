"""What compliance promises of evidence: the audit log and its proofs, consents, retention policies, holds.

Each noun has a contract of its own; rights of persons, retention runs and witnesses are put together with them in
`accountability`.
"""

from __future__ import annotations

from typing import Protocol

from sealwire.contracts import audit_log, consents, holds, retention_policies
from sealwire.kit.operation import table

OPERATIONS = table(
    *audit_log.OPERATIONS.values(),
    *consents.OPERATIONS.values(),
    *retention_policies.OPERATIONS.values(),
    *holds.OPERATIONS.values(),
)


class Compliance(
    audit_log.AuditLog,
    consents.ConsentDesk,
    retention_policies.PolicyDesk,
    holds.HoldRegistry,
    Protocol,
):
    """Compliance, in this process or another."""
