"""Prometheus metrics of the session boundary and of every breaker of the process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sealwire.boundary.boundary import Boundary
from sealwire.kit.clock import US_PER_S
from sealwire.resilience.breaker import State
from sealwire.resilience.registry import Registry

_MS_PER_S: Final = 1_000.0


class BoundaryCollector(Collector):
    """Reads what the components count when it is asked: `registry.register(BoundaryCollector(boundary, breakers))`."""

    def __init__(self, boundary: Boundary, breakers: Registry) -> None:
        self._boundary = boundary
        self._breakers = breakers

    def describe(self) -> Iterable[Metric]:
        """Nothing to read before the boundary starts."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Give every family."""
        yield from self._validations()
        yield from self._changes()
        yield from self._sockets()
        yield from self._breaker_states()

    def _validations(self) -> Iterable[Metric]:
        adapter, normalizer = self._boundary.adapter, self._boundary.normalizer
        tokens = CounterMetricFamily("sealwire_tokens", "Tokens read, by what came of it", labels=["outcome"])
        for kind, count in adapter.accepted.items():
            tokens.add_metric([kind], count)
        for reason, count in adapter.refused.items():
            tokens.add_metric([f"refused_{reason}"], count)
        yield tokens
        answers = CounterMetricFamily(
            "sealwire_session_validations", "Answers about sessions, by status and by who said so",
            labels=["status", "source"],
        )  # fmt: skip
        for (status, source), count in normalizer.answers.items():
            answers.add_metric([status.value, source.value], count)
        yield answers
        yield GaugeMetricFamily(
            "sealwire_session_degraded", "1 while sessions are validated without the cache or the feed",
            value=float(normalizer.degraded),
        )  # fmt: skip
        fallback = self._boundary.fallback
        yield GaugeMetricFamily("sealwire_fallback_sessions", "Sessions kept for an outage", value=len(fallback))
        yield GaugeMetricFamily("sealwire_revocations_known", "Revocations in force here", value=len(fallback.book))
        yield CounterMetricFamily(
            "sealwire_cache_reconciled", "Entries written to a cache that had missed them", value=fallback.reconciled
        )

    def _changes(self) -> Iterable[Metric]:
        coordinator = self._boundary.coordinator
        yield GaugeMetricFamily(
            "sealwire_revocation_feed_age_seconds", "How old what is known of the feed is", value=coordinator.age_s
        )
        yield CounterMetricFamily("sealwire_changes", "Authentication changes applied here", value=coordinator.changes)
        took = GaugeMetricFamily(
            "sealwire_change_seconds", "How long the last changes took to come into force, by boundary",
            labels=["boundary", "quantile"],
        )  # fmt: skip
        for where, spread in coordinator.receipts.spread().items():
            for quantile, ms in (("0.5", spread.p50_ms), ("0.99", spread.p99_ms), ("1", spread.max_ms)):
                took.add_metric([where, quantile], ms / _MS_PER_S)
        yield took
        last = self._boundary.health.last_self_test
        if last is not None:
            yield GaugeMetricFamily("sealwire_self_test_ok", "1 when the newest self-test passed", value=float(last.ok))
            yield GaugeMetricFamily(
                "sealwire_self_test_time_seconds", "When it began, since the epoch", value=last.at_us / US_PER_S
            )

    def _sockets(self) -> Iterable[Metric]:
        sockets = self._boundary.sockets
        doors = CounterMetricFamily("sealwire_socket_admissions", "What became of sockets at the door", labels=["what"])
        for what, count in (("admitted", sockets.admitted), ("refused", sockets.refused)):
            doors.add_metric([what], count)
        for limit, count in sockets.turnstile.refused.items():
            doors.add_metric([f"over_{limit}"], count)
        doors.add_metric(["ended_by_a_change"], sockets.ended_by_us)
        yield doors

    def _breaker_states(self) -> Iterable[Metric]:
        state = GaugeMetricFamily("sealwire_breaker", "1 for the state a breaker is in", labels=["name", "state"])
        calls = CounterMetricFamily("sealwire_breaker_calls", "Calls, by what came of them", labels=["name", "outcome"])
        for breaker in self._breakers:
            for each in State:
                state.add_metric([breaker.name, each.value], float(breaker.state is each))
            counts = breaker.counts()
            for outcome, count in (
                ("answered", counts.all_calls - counts.all_failures),
                ("failed", counts.all_failures),
                ("slow", counts.all_slow),
                ("rejected", counts.rejected),
            ):
                calls.add_metric([breaker.name, outcome], count)
        yield state
        yield calls
