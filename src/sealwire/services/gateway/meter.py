"""Counts and times requests for `/metrics`: numbers in dicts, put into Prometheus's form when somebody asks.

The client library's own counters take a lock and several calls per request; here all happens on one loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
MAX_SERIES = 10_000


class RequestMeter(Collector):
    """Requests by method, route and status, and their times by route. Routes are templates: there are only so many."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}
        self._times: dict[str, tuple[list[int], list[float]]] = {}
        registry.register(self)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (method, route, status)
        known = self._counts.get(key)
        if known is None and len(self._counts) >= MAX_SERIES:
            return
        self._counts[key] = 1 if known is None else known + 1
        times = self._times.get(route)
        if times is None:
            times = self._times[route] = ([0] * (len(BUCKETS_S) + 1), [0.0])
        times[0][bisect_left(BUCKETS_S, seconds)] += 1
        times[1][0] += seconds

    def collect(self) -> Iterator[Metric]:
        """Tell Prometheus."""
        requests = CounterMetricFamily(
            "sealwire_http_requests", "Requests answered", labels=["method", "route", "status"]
        )
        for (method, route, status), count in self._counts.items():
            requests.add_metric([method, route, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily("sealwire_http_request_seconds", "Time to answer, in seconds", labels=["route"])
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        for route, (counts, total) in self._times.items():
            buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
            seconds.add_metric([route], buckets, total[0])
        yield seconds
