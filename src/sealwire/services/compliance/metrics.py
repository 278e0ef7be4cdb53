"""Prometheus metrics of the audit log: logs that are damaged, and what waits beside them."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sealwire.services.compliance.service import ComplianceService


class AuditCollector(Collector):
    """Reads the counts when they are asked for. No tenant is named: `/metrics` says nothing of who is here."""

    def __init__(self, service: ComplianceService) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        """Nothing to read before the service starts."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Give both counts."""
        logs, records = self._service.damaged()
        yield GaugeMetricFamily("sealwire_audit_damaged_logs", "Audit logs that can't be continued", value=logs)
        yield GaugeMetricFamily("sealwire_audit_parked_records", "Records that wait beside them", value=records)
