"""Accountability: all that compliance answers, its contracts put together (GDPR Art. 5(2))."""

from __future__ import annotations

from typing import Final, Protocol

from sealwire.contracts import compliance, custody, gdpr, retention, witness
from sealwire.contracts.compliance_terms import SERVICE
from sealwire.kit.operation import table

OPERATIONS: Final = table(
    *compliance.OPERATIONS.values(),
    *gdpr.OPERATIONS.values(),
    *retention.OPERATIONS.values(),
    *witness.OPERATIONS.values(),
    *custody.operations(SERVICE, custody.SUBJECT),
)


class Accountability(
    compliance.Compliance,
    gdpr.Rights,
    retention.RetentionRunning,
    witness.Witnessing,
    custody.SubjectCustody,
    Protocol,
):
    """Compliance with everything, in this process or another."""
