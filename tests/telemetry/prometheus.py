"""A real Prometheus that scrapes one address: Debian's package, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE_SECONDS = 60.0
# Where ./test unpacks it.
CACHE = Path(os.environ.get("FLOPWISE_TEST_CACHE") or Path.home() / ".cache" / "flopwise-test")
UNPACKED = CACHE / "prometheus" / "usr" / "bin"


def program(name: str) -> str:
    """The program; skips where the machine lacks it, which with ``CI=true`` is an error."""
    found = shutil.which(name) or shutil.which(name, path=UNPACKED)
    if found is None:
        why = f"no {name}: on Debian, as root: apt-get install prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return found


class Prometheus:
    """One that runs."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: object) -> Any:
        """The data of an answer of its API."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    def own(self, name: str) -> float:
        """A figure of Prometheus' own, as its ``/metrics`` has it."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[1]) for line in lines if line.split()[0] == name)

    def value(self, query: str) -> dict[str, float]:
        """What PromQL answers now: the value by its labels, as JSON without the scrape's own."""
        found = self.get("/api/v1/query", query=query)["result"]
        return {_labels(one["metric"]): float(one["value"][1]) for one in found}

    def wait(self, query: str) -> dict[str, float]:
        """As ``value``, as soon as it is not empty."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            try:
                if found := self.value(query):
                    return found
            except (urllib.error.URLError, ConnectionError):
                pass  # it starts
            time.sleep(0.1)
        raise AssertionError(f"{query}: nothing after {PATIENCE_SECONDS:.0f} s")


def _labels(metric: dict[str, str]) -> str:
    ours = {k: v for k, v in sorted(metric.items()) if k not in ("__name__", "instance", "job")}
    return " ".join(f"{name}={value}" for name, value in ours.items())


@contextmanager
def prometheus(folder: Path, target: int, *, honor_labels: bool = False) -> Iterator[Prometheus]:
    """Prometheus, which scrapes ``127.0.0.1:target`` each second, until the block ends."""
    scrape = (
        f"- {{job_name: flopwise, honor_labels: {str(honor_labels).lower()}, "
        f"static_configs: [{{targets: ['127.0.0.1:{target}'], "
        "labels: {pod: flopwise-telemetry-x7k, container: exporter}}]}\n"
    )
    with _running(folder, scrape) as running:
        yield running


@contextmanager
def kept(folder: Path) -> Iterator[Prometheus]:
    """Prometheus with what ``folder / "data"`` holds; it scrapes nothing."""
    with _running(folder, "") as running:
        running.wait("vector(1)")
        yield running


@contextmanager
def _running(folder: Path, scrape: str) -> Iterator[Prometheus]:
    binary = program("prometheus")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        + (f"scrape_configs:\n{scrape}" if scrape else "")
    )
    command = [
        binary,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            yield Prometheus(port)
        finally:
            process.kill()
