"""``flopwise telemetry import --prometheus``, from a real Prometheus into a history."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from telemetry import store
from telemetry.exporter import Exporter, Snapshot, serve
from telemetry.owners import Basis, Share
from telemetry.samples import GpuSample
from telemetry.uses import Owner
from tests.telemetry.prometheus import prometheus

ROOT = Path(__file__).parent.parent.parent
GPU = GpuSample(
    time=datetime(2026, 12, 1, tzinfo=UTC),
    node="node-1",
    uuid="GPU-a",
    name="NVIDIA L4",
    utilisation_fraction=0.5,
)
SHARES = tuple(
    Share(
        uuid="GPU-a",
        owner=Owner(namespace="ml", pod=f"{team}-0", team=team),
        share_fraction=fraction,
        basis=Basis.SM,
    )
    for team, fraction in (("nlp", 0.75), ("vision", 0.25))
)


def run(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flopwise", "telemetry", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_a_prometheus_has_kept_becomes_a_history_by_team(tmp_path: Path) -> None:
    exporter = Exporter(interval_seconds=3600)
    exporter.take(Snapshot(time=datetime.now(UTC), samples=(GPU,), shares=SHARES))
    served = serve(exporter, 0, "127.0.0.1")
    try:
        with prometheus(tmp_path, served.port) as found:
            found.wait("flopwise_gpu_up")
            time.sleep(4)  # there must be some time to tell of
            done = run(
                *("import", "--prometheus", found.url, "--step", "1s", "--store", "kept.db"),
                *("--history", tmp_path / "history"),
                folder=tmp_path,
            )
    finally:
        served.close()
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"{found.url}: ")
    kept = {(use.owner.team, use.share_fraction) for use in store.read(tmp_path / "kept.db")}
    assert kept == {("nlp", 0.75), ("vision", 0.25)}
    shown = run(
        *("usage", "--history", tmp_path / "history", "--by", "team", "-o", "json"),
        folder=tmp_path,
    )
    assert shown.returncode == 0, shown.stderr
    hours = {one["team"]: one["observedGpuHours"] for one in json.loads(shown.stdout)["usage"]}
    # 3/4 and 1/4 of the same time.
    assert hours["nlp"] == pytest.approx(3 * hours["vision"])
    assert hours["vision"] > 0


def test_a_prometheus_that_is_not_there_is_named(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9"
    done = run("import", "--prometheus", url, "--store", "kept.db", folder=tmp_path)
    assert done.returncode == 1
    assert f"{url}/api/v1/" in done.stderr
    assert "Connection refused" in done.stderr


def test_import_of_nothing_is_no_import(tmp_path: Path) -> None:
    done = run("import", "--history", "h", folder=tmp_path)
    assert done.returncode == 2
    assert "allowed: files, or --prometheus URL" in " ".join(done.stderr.split())
