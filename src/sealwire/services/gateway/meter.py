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


class _Times:
    """How long the requests of a route took."""

    __slots__ = ("buckets", "total_s")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0


class _Series:
    """How many requests of a route ended alike, and their route's times."""

    __slots__ = ("count", "times")

    def __init__(self, times: _Times) -> None:
        self.count = 0
        self.times = times


class RequestMeter(Collector):
    """Requests by method, route and status, and their times by route. Routes are templates: there are only so many."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counts: dict[tuple[str, str, int], _Series] = {}
        self._times: dict[str, _Times] = {}
        registry.register(self)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        series = self._counts.get((method, route, status))
        if series is None:
            if len(self._counts) >= MAX_SERIES:
                return
            series = self._counts[method, route, status] = _Series(self._times.setdefault(route, _Times()))
        series.count += 1
        times = series.times
        times.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        times.total_s += seconds

    def collect(self) -> Iterator[Metric]:
        """Tell Prometheus."""
        requests = CounterMetricFamily(
            "sealwire_http_requests", "Requests answered", labels=["method", "route", "status"]
        )
        for (method, route, status), series in self._counts.items():
            requests.add_metric([method, route, str(status)], series.count)
        yield requests
        seconds = HistogramMetricFamily("sealwire_http_request_seconds", "Time to answer, in seconds", labels=["route"])
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        for route, times in self._times.items():
            buckets = list(zip(bounds, map(float, accumulate(times.buckets)), strict=True))
            seconds.add_metric([route], buckets, times.total_s)
        yield seconds
