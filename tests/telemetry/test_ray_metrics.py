"""A metric that a job keeps by Ray's own means, read from the page of a real Ray."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from telemetry.scrape import ScrapeError, read_metric
from telemetry.throughput import of_metric, risen

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("ray")]

PATIENCE_SECONDS = 120.0
Values = dict[tuple[tuple[str, str], ...], float]
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
done = 0
while True:
    if done < len(open(sys.argv[3]).read()):  # a letter for each step that is asked for
        ray.get([w.step.remote(1000 * (rank + 1), 0.25) for rank, w in enumerate(workers)])
        done += 1
    time.sleep(0.05)
"""


class Job(NamedTuple):
    """A job that runs, and does the steps that it is asked for."""

    url: str  # where its Ray shows its metrics
    asked: Path

    def step(self, times: int) -> None:
        with self.asked.open("a") as file:
            file.write("s" * times)


@pytest.fixture(scope="module")
def job() -> Iterator[Job]:
    """Such a job; it has done no step."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        program, log, asked = (Path(folder) / name for name in ("job.py", "log", "asked"))
        program.write_text(JOB)
        asked.write_text("")
        with log.open("wb") as out:
            runs = subprocess.Popen(
                [sys.executable, program, str(port), folder, asked],
                stdout=out,
                stderr=out,
                env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
            )
            try:
                yield Job(f"http://127.0.0.1:{port}/metrics", asked)
                assert runs.poll() is None, log.read_text(errors="replace")[-2000:]
            finally:
                runs.terminate()
                runs.wait(timeout=60)


def shown(job: Job, metric: str, value_by_rank: dict[str, float]) -> Values:
    """The metric as the page shows it, once it has these values: each worker tells in its time."""
    until = time.monotonic() + PATIENCE_SECONDS
    found: Values = {}
    while time.monotonic() < until:
        with suppress(ScrapeError):  # it starts
            found = read_metric(job.url, metric)
            if {dict(labels)["rank"]: value for labels, value in found.items()} == value_by_rank:
                return found
        time.sleep(0.2)
    raise AssertionError(f"not {value_by_rank} but {found}")


def test_the_gauge_of_a_jobs_workers_is_the_jobs_speed(job: Job) -> None:
    # 1,000 and 2,000 tokens in a quarter of a second: 4,000 and 8,000 a second.
    job.step(1)
    page = shown(job, "train_tokens_per_second", {"0": 4_000.0, "1": 8_000.0})
    (one,) = of_metric(page, time=NOON)
    assert (one.job, one.per_second, one.unit) == ("sft", 12_000.0, "tokens")
    (each,) = of_metric(page, time=NOON, per_gpu=True)
    assert each.per_second == 6_000.0


def test_what_a_counter_rises_by_is_the_jobs_speed(job: Job) -> None:
    # Worker 1 does twice what worker 0 does, in each step: after the first, and after three more.
    done = len(job.asked.read_text())
    job.step(1)
    before = shown(job, "train_tokens", {"0": 1000.0 * (done + 1), "1": 2000.0 * (done + 1)})
    job.step(3)
    after = shown(job, "train_tokens", {"0": 1000.0 * (done + 4), "1": 2000.0 * (done + 4)})
    # In 4 s, 3 steps of 3,000 tokens: 2,250 a second.
    (one,) = of_metric(risen(before, after, 4.0), time=NOON)
    assert (one.job, one.per_second, one.unit) == ("sft", 2_250.0, "tokens")
