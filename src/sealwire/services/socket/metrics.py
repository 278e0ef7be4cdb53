"""Prometheus metrics of the socket instances of a process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sealwire.services.socket.service import SocketService

_GAUGES = ("connections", "users", "sessions", "rooms", "subscriptions")
_COUNTERS = ("publications", "deliveries")


class SocketCollector(Collector):
    """Reads the counts when they are asked for: `registry.register(SocketCollector([socket1, socket2]))`."""

    def __init__(self, instances: Sequence[SocketService]) -> None:
        self._instances = tuple(instances)

    def describe(self) -> Iterable[Metric]:
        """Nothing to read before the instances start."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Give one family per count, one sample per instance."""
        for name in _GAUGES:
            gauge = GaugeMetricFamily(f"sealwire_socket_{name}", f"{name} of the instance", labels=["instance"])
            for instance in self._instances:
                gauge.add_metric([instance.instance], getattr(instance.stats, name))
            yield gauge
        for name in _COUNTERS:
            counter = CounterMetricFamily(f"sealwire_socket_{name}", f"{name} since the start", labels=["instance"])
            for instance in self._instances:
                counter.add_metric([instance.instance], getattr(instance.stats, name))
            yield counter
        closed = CounterMetricFamily(
            "sealwire_socket_closed", "Connections ended, by close code", labels=["instance", "code"]
        )
        for instance in self._instances:
            for code, count in instance.closed_by_code.items():
                closed.add_metric([instance.instance, str(code)], count)
        yield closed
