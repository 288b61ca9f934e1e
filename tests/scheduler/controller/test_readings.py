"""What a Prometheus tells of the GPUs, and what was measured, as the operator takes them in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cost_models.calibration import Calibration, Measurement, Subject, write
from planner.manifests.schema import IdleAction
from scheduler.controller.readings import (
    EVERY_SECONDS,
    Measured,
    Windows,
    bad_nodes,
    read,
    windows_of,
)
from telemetry.samples import GpuSample, Health
from telemetry.scrape import ScrapeError
from telemetry.uses import Owner, Use
from tests.scheduler.controller.play import queue

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def sample(at: datetime, uuid: str = "GPU-a", busy: float = 0.0, **more: object) -> GpuSample:
    made = GpuSample(time=at, node="n0", uuid=uuid, name="H100", utilisation_fraction=busy)
    return replace(made, **more)  # type: ignore[arg-type]  # fields of the sample


class Kept:
    """What a Prometheus has kept: one GPU of each of two pods, the second busy until then."""

    def __init__(self, busy_until: datetime) -> None:
        self.busy_until = busy_until
        self.asked: tuple[datetime, timedelta] | None = None

    def between(
        self, since: datetime, until: datetime, step: timedelta
    ) -> Iterator[tuple[Use, ...]]:
        self.asked = since, step
        at = since
        while at <= until:
            busy = 0.9 if at <= self.busy_until else 0.0
            yield (
                Use(sample=sample(at), owner=Owner(namespace="ml", pod="a-0")),
                Use(
                    sample=sample(at, "GPU-b", busy), owner=Owner(namespace="ml", job="b", pod="x")
                ),
            )
            at += step


class Silent:
    def between(
        self, since: datetime, until: datetime, step: timedelta
    ) -> Iterator[tuple[Use, ...]]:
        raise ScrapeError("http://prometheus: found status 503, allowed: 200")


def test_whose_gpus_did_nothing_for_the_window_is_told_with_since_when() -> None:
    # Half an hour is asked for: one look a minute, two before the window.
    kept = Kept(busy_until=NOW - 10 * MINUTE)
    found = read(kept, Windows(), NOW)
    assert kept.asked == (NOW - 32 * MINUTE, MINUTE)
    assert [(w.owner.pod, w.since) for w in found.idle] == [("a-0", NOW - 32 * MINUTE)]


def test_a_source_that_says_nothing_makes_nobody_idle_and_is_said() -> None:
    found = read(Silent(), Windows(), NOW)
    assert (found.idle, found.bad) == ((), {})
    assert "status 503" in found.error


def test_a_gpu_that_fell_off_the_bus_costs_its_node_new_work_a_program_s_fault_does_not() -> None:
    # Xid 79 is the driver's; 31 is a page fault of the program's own.
    fell = sample(NOW, "GPU-b", last_xid=79)
    assert "GPU-b: Xid 79" in bad_nodes([sample(NOW), fell])["n0"]
    assert bad_nodes([sample(NOW, last_xid=31)]) == {}
    assert bad_nodes([sample(NOW, health=Health.CORDON)])["n0"] == (
        "its GPU GPU-a: its collector says cordon"
    )
    well = sample(NOW + MINUTE, "GPU-b")
    assert bad_nodes([fell, well]) == {}  # it was reset


def test_queues_say_how_far_back_is_looked() -> None:
    asked = [
        queue("a", idle_seconds=600.0),
        queue("b", idle_seconds=7200.0),
        queue("c", idle_seconds=1.0, idle_action=IdleAction.NEVER),
    ]
    assert windows_of(asked) == Windows(
        shortest=timedelta(minutes=10), longest=timedelta(minutes=120)
    )
    assert windows_of(()) == Windows()


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_file_of_measurements_is_read_when_it_changes_and_told_once_when_it_is_none(
    tmp_path: Path,
) -> None:
    clock, path = Clock(), tmp_path / "calibration.json"
    subject = Subject(model="", accelerator="h100", precision="bf16", method="Full")
    one = Measurement(
        subject=subject,
        job="a",
        time=NOW,
        gpus=8,
        unit="flops",
        promised_per_gpu_second=2.0,
        measured_per_gpu_second=1.0,
    )
    measured = Measured(path, clock)

    def look() -> Calibration | str | None:
        clock.seconds += EVERY_SECONDS
        return measured.changed()

    assert "No such file" in str(look())
    assert look() is None
    write(path, Calibration((one,)))
    assert look() == Calibration((one,))
    assert measured.changed() is None  # not a minute later
    assert look() is None
    path.write_text("{}")
    assert "allowed: 'Calibration'" in str(look())
    assert look() is None
