"""A metric that a job keeps by Ray's own means, read from the page of a real Ray."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from telemetry.scrape import ScrapeError, read_metric
from telemetry.throughput import of_metric, risen

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("ray")]

PATIENCE_SECONDS = 120.0
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
# Two workers of one job: each tells its speed, and counts what it has done.
JOB = """
import os, sys, time
import ray
from ray.util.metrics import Counter, Gauge

often = {"metrics_report_interval_ms": 500}
ray.init(num_cpus=2, include_dashboard=False, _metrics_export_port=int(sys.argv[1]),
         _temp_dir=sys.argv[2], log_to_driver=False, _system_config=often)

@ray.remote(num_cpus=0.5)
class Worker:
    def __init__(self, rank):
        tags = {"job": "sft", "rank": str(rank)}
        self.speed = Gauge("train_tokens_per_second", tag_keys=("job", "rank"))
        self.done = Counter("train_tokens", tag_keys=("job", "rank"))
        self.speed.set_default_tags(tags)
        self.done.set_default_tags(tags)

    def step(self, tokens, seconds):
        self.speed.set(tokens / seconds)
        self.done.inc(tokens)

workers = [Worker.remote(rank) for rank in range(2)]
while True:
    ray.get([worker.step.remote(1000 * (rank + 1), 0.25) for rank, worker in enumerate(workers)])
    time.sleep(0.25)
"""


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """Where a Ray with such a job shows its metrics."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        program, log = Path(folder) / "job.py", Path(folder) / "log"
        program.write_text(JOB)
        with log.open("wb") as out:
            job = subprocess.Popen(
                [sys.executable, program, str(port), folder],
                stdout=out,
                stderr=out,
                env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
            )
            try:
                url = f"http://127.0.0.1:{port}/metrics"
                _wait(url, job, log)
                yield url
            finally:
                job.terminate()
                job.wait(timeout=60)


def _wait(url: str, job: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until and job.poll() is None:
        try:
            if len(read_metric(url, "train_tokens_per_second")) == 2:
                return
        except ScrapeError:
            pass  # it starts
        time.sleep(0.5)
    raise AssertionError(f"no metric at {url}: {log.read_text(errors='replace')[-2000:]}")


def test_the_gauge_of_a_jobs_workers_is_the_jobs_speed(page: str) -> None:
    # 1,000 and 2,000 tokens in a quarter of a second: 4,000 and 8,000 a second.
    (one,) = of_metric(read_metric(page, "train_tokens_per_second"), time=NOON)
    assert (one.job, one.per_second, one.unit) == ("sft", 12_000.0, "tokens")
    (each,) = of_metric(read_metric(page, "train_tokens_per_second"), time=NOON, per_gpu=True)
    assert each.per_second == 6_000.0


def test_what_a_counter_rises_by_is_the_jobs_speed(page: str) -> None:
    before, began = read_metric(page, "train_tokens"), time.monotonic()
    until = began + PATIENCE_SECONDS
    while (after := read_metric(page, "train_tokens")) == before and time.monotonic() < until:
        time.sleep(0.2)
    (one,) = of_metric(risen(before, after, time.monotonic() - began), time=NOON)
    assert one.job == "sft"
    assert one.per_second > 0
    # Worker 1 does twice what worker 0 does, in each step.
    totals = {dict(labels)["rank"]: value for labels, value in after.items()}
    assert totals["1"] == 2 * totals["0"]
