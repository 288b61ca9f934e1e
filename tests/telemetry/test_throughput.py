"""What a job's log and pushed numbers say of its speed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from telemetry.throughput import (
    Labels,
    Throughput,
    ThroughputError,
    compiled,
    from_log,
    of_metric,
    push,
    read,
    risen,
)

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def said(text: str, pattern: str = "") -> Throughput | None:
    if pattern:
        return from_log(text, job="sft", time=NOON, pattern=compiled(pattern))
    return from_log(text, job="sft", time=NOON)


def lines(*speeds: object, end: str = "tokens/s") -> str:
    return "\n".join(f"(pid=7) flopwise: throughput={speed} {end}" for speed in speeds)


def test_the_median_of_the_later_half_counts() -> None:
    # Later half of six: 90, 100, 800. The first ones are compiling, one is a hiccup.
    found = said(lines(1, 2, 3, 90, 800, 100))
    assert found == Throughput(time=NOON, job="sft", per_second=100.0, unit="tokens")


def test_of_each_gpu_or_of_all_together() -> None:
    together, each = said(lines("80,000.5")), said(lines("1.2e3", end="requests/s/gpu"))
    assert together is not None
    assert each is not None
    assert together.of_each(8) == pytest.approx(10_000.0625)
    assert (each.unit, each.of_each(8)) == ("requests", 1200.0)


def test_a_log_that_says_nothing_or_nothing_sensible_is_none() -> None:
    assert said("step 1 loss 2.3\nthroughput=5") is None
    assert said(lines(0, "0.0")) is None


def test_a_pattern_of_ones_own() -> None:
    found = said("step 10 tok/s=9000\nstep 20 tok/s=9500", r"tok/s=(?P<value>\d+)")
    assert found is not None
    assert (found.per_second, found.unit) == (9500.0, "tokens")  # the later half of two


@pytest.mark.parametrize("pattern", ["(", "tok/s=([0-9]+)"])
def test_a_pattern_that_finds_no_number_is_refused(pattern: str) -> None:
    with pytest.raises(ThroughputError, match="allowed"):
        compiled(pattern)


def test_pushed_numbers_read_back_and_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    assert list(read(path)) == []
    made = [
        Throughput(time=NOON, job="sft", per_second=80_000.0, unit="tokens"),
        Throughput(time=NOON, job="rag", per_second=3.5, unit="requests", per_gpu=True),
    ]
    for one in made:
        push(path, one)
    with path.open("a") as file:
        file.write('{"time": "2026')
    assert list(read(path)) == made


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"time": "2026-12-01T00:00:00Z", "job": "a", "per_second": 1}', "unit: found nothing"),
        (
            '{"time": "2026-12-01T00:00:00Z", "job": "a", "per_second": -1, "unit": "tokens"}',
            "per_second: found -1.0, allowed: a number above 0",
        ),
        (
            '{"time": "2026-12-01T00:00:00", "job": "a", "per_second": 1, "unit": "tokens"}',
            "time: found one without a zone",
        ),
    ],
)
def test_a_wrong_line_names_file_line_and_field(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ThroughputError) as error:
        list(read(path))
    assert str(error.value).startswith(f"{path}: line 1: ")
    assert why in str(error.value)


def series(job: str, rank: int) -> Labels:
    return (("job", job), ("rank", str(rank)))


def test_workers_of_a_job_add_up_and_those_of_one_gpu_each_are_averaged() -> None:
    values = {series("sft", 0): 100.0, series("sft", 1): 300.0, series("rag", 0): 7.0}
    together = of_metric(values, time=NOON)
    assert [(one.job, one.per_second) for one in together] == [("rag", 7.0), ("sft", 400.0)]
    each = of_metric(values, time=NOON, per_gpu=True)
    assert [(one.per_second, one.per_gpu) for one in each] == [(7.0, True), (200.0, True)]


def test_a_metric_without_a_label_is_of_the_job_that_is_named() -> None:
    values: dict[Labels, float] = {(): 5.0}
    assert of_metric(values, time=NOON) == ()
    (one,) = of_metric(values, time=NOON, job="sft", unit="requests")
    assert (one.job, one.per_second, one.unit) == ("sft", 5.0, "requests")


def test_what_is_no_speed_says_nothing_of_its_job() -> None:
    values = dict(enumerate((0.0, -1.0, float("nan"), float("inf"))))
    assert of_metric({series("sft", n): v for n, v in values.items()}, time=NOON) == ()


def test_a_counter_rises_by_the_second_and_one_that_fell_counts_from_zero() -> None:
    before = {series("sft", 0): 1000.0, series("sft", 1): 5000.0}
    after = {series("sft", 0): 1600.0, series("sft", 1): 50.0, series("sft", 2): 9e9}
    # 600 and 50 in ten seconds; of who has only come it is not known since when.
    assert risen(before, after, 10.0) == {series("sft", 0): 60.0, series("sft", 1): 5.0}
