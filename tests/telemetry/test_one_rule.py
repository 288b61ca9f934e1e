"""The same world gives the same numbers: by its rows, by hourly sums, and out of a Prometheus."""

from __future__ import annotations

import subprocess
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.exporter import Exporter, Snapshot
from telemetry.owners import uses
from telemetry.scrape import Prometheus
from telemetry.store import Ring
from telemetry.usage import By, Usage, usage_by
from telemetry.uses import Use
from tests.telemetry.made_up_world import STEP, Tick, world
from tests.telemetry.prometheus import kept, program

pytest.importorskip("pyarrow", reason="the history needs flopwise[telemetry]")
pytest.importorskip("duckdb", reason="the history needs flopwise[telemetry]")

import itertools

from telemetry.history import compact, hourly  # once it is there
from telemetry.history.place import place

START = datetime(2026, 11, 30, 21, 7, tzinfo=UTC)
KEYS = ((By.JOB,), (By.TEAM, By.MODEL), (By.NODE,), (By.GPU,))
AMOUNTS = tuple(name for name in Usage.__slots__ if name not in ("of", "samples"))


def told(ticks: Iterable[Tick]) -> list[Use]:
    return [use for tick in ticks for use in uses(tick.samples, tick.shares)]


def by_rows(rows: Sequence[Use]) -> dict[tuple[str, ...], dict[str, float | None]]:
    return {
        (*by, *one.of): {name: getattr(one, name) for name in AMOUNTS}
        for by in KEYS
        for one in usage_by(rows, by)
    }


def by_hours(rows: Sequence[Use], folder: Path) -> dict[tuple[str, ...], dict[str, float | None]]:
    history, ring = place(f"memory://{uuid.uuid4()}"), folder / f"{uuid.uuid4()}.db"
    try:
        with Ring(ring, keep=timedelta(days=1000), keep_bytes=2**40) as file:
            file.append(rows)
        compact.compact(history, ring, START)
        return {
            (*by, *one.of): {name: getattr(one, name) for name in AMOUNTS}
            for by in KEYS
            for one in hourly.usage(history, by=by)
        }
    finally:
        history.files.store.clear()
        ring.unlink()


def assert_same(
    found: dict[tuple[str, ...], dict[str, float | None]],
    expected: dict[tuple[str, ...], dict[str, float | None]],
) -> None:
    # Who held a GPU at its first instant alone has a row of nothing in one, and none in the other.
    for key in found.keys() | expected.keys():
        one, other = (of.get(key, dict.fromkeys(AMOUNTS)) for of in (found, expected))
        for name in AMOUNTS:
            told, wanted = one[name] or 0.0, other[name] or 0.0
            assert told == pytest.approx(wanted, rel=1e-9, abs=1e-9), (key, name)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(min_value=0, max_value=10**6), hours=st.integers(min_value=1, max_value=30))
def test_rows_and_hourly_sums_of_the_same_world_are_the_same_numbers(
    seed: int, hours: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = told(world(Random(seed), START, timedelta(hours=hours)))
    assert_same(by_hours(rows, tmp_path_factory.mktemp("rule")), by_rows(rows))


def test_a_world_has_gaps_restarts_shares_and_instances() -> None:
    rows = told(world(Random(1), START, timedelta(hours=20)))
    found = by_rows(rows)
    assert found[By.JOB, "chat"]["gap_gpu_hours"]
    assert found[By.JOB, "chat"]["idle_gpu_hours"]
    assert found[By.JOB, "tune"]["achieved_flops"]
    joules: dict[str, list[float]] = defaultdict(list)
    for use in rows:
        joules[use.sample.uuid].append(use.sample.energy_joules or 0.0)
    assert any(0 < after < before for told in joules.values() for before, after in _pairs(told))
    assert {use.sample.parent_uuid for use in rows} > {None}


def _pairs(values: Sequence[float]) -> Iterator[tuple[float, float]]:
    return itertools.pairwise(values)


def test_what_a_real_prometheus_has_kept_of_it_gives_the_same_numbers(tmp_path: Path) -> None:
    begin = (datetime.now(UTC) - timedelta(days=3)).replace(minute=7, second=0, microsecond=0)
    length = timedelta(hours=20)
    ticks = world(Random(2), begin, length)
    pages = [
        (tick.samples[0].time, tick.samples[0].node, page)
        for tick in ticks
        for page in [_page(tick)]
    ]
    backfill(tmp_path, pages)
    with kept(tmp_path) as found:
        parts = Prometheus(url=found.url).between(begin, begin + length, STEP)
        rows = [use for part in parts for use in part]
    rows.sort(key=lambda use: use.sample.time)
    expected = by_rows(told(ticks))
    assert_same(by_rows(rows), expected)
    assert_same(by_hours(rows, tmp_path), expected)


def _page(tick: Tick) -> bytes:
    exporter = Exporter(interval_seconds=60)
    exporter.take(Snapshot(time=tick.samples[0].time, samples=tick.samples, shares=tick.shares))
    return exporter.text()


def backfill(folder: Path, pages: Sequence[tuple[datetime, str, bytes]]) -> None:
    """What would have been scraped of two nodes, as blocks of Prometheus'."""
    lines: dict[str, list[str]] = defaultdict(list)
    for time, node, page in pages:
        for line in page.decode().splitlines():
            if line.startswith("flopwise_gpu_") and "{" in line:
                name, _, rest = line.partition("{")
                lines[name].append(f'{name}{{instance="{node}:9402",{rest} {time.timestamp()}')
    text = "\n".join([line for name in sorted(lines) for line in lines[name]] + ["# EOF\n"])
    (folder / "metrics").write_text(text)
    subprocess.run(
        [
            *(program("promtool"), "tsdb", "create-blocks-from", "openmetrics"),
            *(folder / "metrics", folder / "data"),
        ],
        check=True,
        capture_output=True,
    )
