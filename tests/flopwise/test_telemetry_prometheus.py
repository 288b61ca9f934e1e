"""``flopwise telemetry import --prometheus``, from a real Prometheus into a history."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from telemetry import store
from telemetry.exporter import Exporter, Snapshot, serve
from telemetry.owners import Basis, Share
from telemetry.samples import GpuSample
from telemetry.uses import Owner
from tests.flopwise.command import Command
from tests.telemetry.prometheus import prometheus

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


@pytest.fixture
def run(flopwise: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """``run("usage", "store")`` as a shell in the test's folder would."""
    monkeypatch.chdir(tmp_path)
    return partial(flopwise, "telemetry")


def test_what_a_prometheus_has_kept_becomes_a_history_by_team(run: Command, tmp_path: Path) -> None:
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
            )
    finally:
        served.close()
    assert done.code == 0, done.err
    assert done.err.startswith(f"{found.url}: ")
    kept = {(use.owner.team, use.share_fraction) for use in store.read(tmp_path / "kept.db")}
    assert kept == {("nlp", 0.75), ("vision", 0.25)}
    shown = run("usage", "--history", tmp_path / "history", "--by", "team", "-o", "json")
    assert shown.code == 0, shown.err
    hours = {one["team"]: one["observedGpuHours"] for one in json.loads(shown.out)["usage"]}
    # 3/4 and 1/4 of the same time.
    assert hours["nlp"] == pytest.approx(3 * hours["vision"])
    assert hours["vision"] > 0


def test_a_prometheus_that_is_not_there_is_named(run: Command) -> None:
    url = "http://127.0.0.1:9"
    done = run("import", "--prometheus", url, "--store", "kept.db")
    assert done.code == 1
    assert f"{url}/api/v1/" in done.err
    assert "Connection refused" in done.err


def test_import_of_nothing_is_no_import(run: Command) -> None:
    done = run("import", "--history", "h")
    assert done.code == 2
    assert "allowed: files, or --prometheus URL" in " ".join(done.err.split())
