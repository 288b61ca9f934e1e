"""Metrics for Prometheus, and whether the operator is alive and ready: the door to its client.

Money is in USD, time in seconds, as the names say.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from telemetry.served import Served, health

WAITS = (1, 2, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
DECISIONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)


class Metrics:
    """All that is measured, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of = self.registry
        self.jobs = Gauge("flopwise_jobs", "Jobs, by phase.", ["phase"], registry=of)
        self.waiting = Gauge(
            "flopwise_queue_length", "Jobs that wait, by queue.", ["queue"], registry=of
        )
        self.wait = Histogram(
            "flopwise_wait_seconds",
            "From a job's arrival to its launch.",
            buckets=WAITS,
            registry=of,
        )
        self.decision = Histogram(
            "flopwise_decision_seconds",
            "One decision on all that came.",
            buckets=DECISIONS,
            registry=of,
        )
        self.gap = Gauge(
            "flopwise_plan_gap_ratio", "Of the last plan of the whole queue, proved.", registry=of
        )
        self.solve = Gauge(
            "flopwise_plan_seconds", "That the last plan of the whole queue took.", registry=of
        )
        self.committed = Gauge(
            "flopwise_committed_usd_per_hour", "Money an hour of what runs.", registry=of
        )
        self.usd_per_pflop = Gauge(
            "flopwise_usd_per_pflop", "Money per useful PFLOP of what runs.", registry=of
        )
        self.gpus = Gauge("flopwise_gpus", "GPUs of a pool.", ["pool", "state"], registry=of)
        self.writes = Counter(
            "flopwise_writes", "Requests that write, by kind.", ["what"], registry=of
        )
        self.errors = Counter(
            "flopwise_errors", "Requests that failed, by kind.", ["what"], registry=of
        )
        self.pending = Gauge(
            "flopwise_pending_writes", "Actions that wait for a writer.", registry=of
        )
        self.restarts = Counter(
            "flopwise_planner_restarts", "Of the process that plans the whole queue.", registry=of
        )
        self.leading = Gauge("flopwise_leader", "1: this operator acts.", registry=of)
        self.readings = Gauge(
            "flopwise_readings_up", "1: what the GPUs do was told at the last look.", registry=of
        )
        self.would_launch = Gauge(
            "flopwise_would_launch", "Only observing: launches that would have been.", registry=of
        )
        self.would_save = Gauge(
            "flopwise_would_save_usd",
            "Only observing: over jobs that began since and have ended well in both worlds.",
            ["queue"],
            registry=of,
        )
        self.observed_jobs = self._observed("jobs", "Jobs that hold GPUs")
        self.observed_gpus = self._observed("gpus", "GPUs that jobs hold")
        self.observed_rate = self._observed("usd_per_hour", "Money an hour of what jobs hold")
        self.observed_usd = self._observed("usd", "Money since it is observed")
        self.observed_ended = self._observed("ended_jobs", "Jobs that ended well since then")

    def _observed(self, what: str, says: str) -> Gauge:
        """Of a queue, as the cluster runs it and as it would be run."""
        return Gauge(
            f"flopwise_observed_{what}",
            f"Only observing: {says}.",
            ["queue", "world"],
            registry=self.registry,
        )

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


def serve_metrics(metrics: Metrics, port: int) -> Served:
    """``/metrics`` at that port; 0: any that is free."""
    return Served(port, {"/metrics": lambda: (200, CONTENT_TYPE_LATEST, metrics.text())})


def serve_health(alive: Callable[[], str], ready: Callable[[], str], port: int) -> Served:
    """``/healthz`` and ``/readyz``; the functions say what is wrong, or nothing."""
    return Served(port, {"/healthz": health(alive), "/readyz": health(ready)})
