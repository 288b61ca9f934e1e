"""Metrics and health, over HTTP."""

from __future__ import annotations

import http.client

from scheduler.controller.metrics import Metrics, serve_health, serve_metrics
from telemetry.served import Served


def get(served: Served, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_what_was_measured_is_served() -> None:
    metrics = Metrics()
    metrics.committed.set(32.5)
    metrics.waiting.labels("research").set(3)
    served = serve_metrics(metrics, 0)
    try:
        status, text = get(served, "/metrics")
        assert get(served, "/")[0] == 404
    finally:
        served.close()
    assert status == 200
    assert "flopwise_committed_usd_per_hour 32.5" in text
    assert 'flopwise_queue_length{queue="research"} 3.0' in text


def test_what_is_wrong_is_said_and_not_ready() -> None:
    wrong = ["nodes are not listed yet"]
    served = serve_health(lambda: "", lambda: wrong[0], 0)
    try:
        assert get(served, "/healthz") == (200, "ok\n")
        assert get(served, "/readyz") == (503, "nodes are not listed yet\n")
        wrong[0] = ""
        assert get(served, "/readyz") == (200, "ok\n")
    finally:
        served.close()
