"""Usage by hand: a few samples, and the hours, utilisation and energy that follow from them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.samples import GpuSample
from telemetry.usage import GpuUsage, usage

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def at(
    minute: float,
    *,
    utilisation_fraction: float | None = None,
    energy_joules: float | None = None,
    power_watts: float | None = None,
) -> GpuSample:
    return GpuSample(
        time=NOON + timedelta(minutes=minute),
        node="node-1",
        uuid="GPU-1",
        name="NVIDIA L4",
        utilisation_fraction=utilisation_fraction,
        energy_joules=energy_joules,
        power_watts=power_watts,
    )


def used(*samples: GpuSample, longest_gap: timedelta | None = None) -> GpuUsage:
    (one,) = usage(samples, longest_gap)
    return one


def test_three_samples_are_two_intervals_each_told_by_its_end() -> None:
    # 30 min at 50 %, 30 min at 0 %: 1 h watched, 0.5 h at work, on average 25 %.
    # The counter rose from 1,000 J to 8,200 J.
    found = used(
        at(0, utilisation_fraction=1.0, energy_joules=1000),
        at(30, utilisation_fraction=0.5, energy_joules=7200),
        at(60, utilisation_fraction=0.0, energy_joules=8200),
    )
    assert found == GpuUsage(
        node="node-1",
        uuid="GPU-1",
        name="NVIDIA L4",
        first=NOON,
        last=NOON + timedelta(hours=1),
        observed_gpu_hours=1.0,
        active_gpu_hours=0.5,
        mean_utilisation_fraction=0.25,
        energy_joules=7200.0,
        gap_hours=0.0,
    )


def test_one_sample_is_no_time_at_all() -> None:
    found = used(at(0, utilisation_fraction=0.5, energy_joules=1000))
    assert (found.observed_gpu_hours, found.gap_hours) == (0, 0)
    assert found.mean_utilisation_fraction is None
    assert found.energy_joules is None


def test_no_samples_are_no_usage() -> None:
    assert usage([]) == ()


def test_nothing_is_assumed_about_a_gap() -> None:
    # Usual interval 1 min, so longer than 3 min is a gap: minutes 2 to 62 count for nothing, and
    # neither do the 600,000 J in them. Left: 3 minutes at 60 % and 100 J each.
    found = used(
        at(0, utilisation_fraction=0.6, energy_joules=0),
        at(1, utilisation_fraction=0.6, energy_joules=100),
        at(2, utilisation_fraction=0.6, energy_joules=200),
        at(62, utilisation_fraction=1.0, energy_joules=600_200),
        at(63, utilisation_fraction=0.6, energy_joules=600_300),
    )
    assert found.observed_gpu_hours == pytest.approx(3 / 60)
    assert found.active_gpu_hours == pytest.approx(3 / 60)
    assert found.mean_utilisation_fraction == pytest.approx(0.6)
    assert found.energy_joules == 300
    assert found.gap_hours == 1.0


def test_the_longest_gap_can_be_said() -> None:
    samples = [at(0), at(1), at(2), at(62)]
    assert used(*samples, longest_gap=timedelta(hours=1)).gap_hours == 0
    assert used(*samples, longest_gap=timedelta(seconds=59)).observed_gpu_hours == 0


def test_a_counter_that_fell_has_restarted_from_zero() -> None:
    # 500 -> 900: 400 J.  900 -> 50 after a restart: 50 J.  50 -> 150: 100 J.
    counter = [500, 900, 50, 150]
    samples = [at(minute, energy_joules=joules) for minute, joules in enumerate(counter)]
    assert used(*samples).energy_joules == 550


def test_without_a_counter_energy_is_mean_power_times_time() -> None:
    # 60 s between 100 W and 200 W: 150 W x 60 s = 9,000 J.  Then 60 s at 200 W: 12,000 J.
    samples = [at(0, power_watts=100), at(1, power_watts=200), at(2, power_watts=200)]
    assert used(*samples).energy_joules == 21_000


def test_unknown_utilisation_counts_as_watched_and_not_as_idle() -> None:
    found = used(at(0), at(30), at(60, utilisation_fraction=0.8))
    assert found.observed_gpu_hours == 1
    assert found.mean_utilisation_fraction == 0.8


def test_gpus_are_told_apart_by_uuid_and_come_in_order() -> None:
    second = [replace(at(minute), uuid="GPU-2") for minute in (0, 1)]
    found = usage([*second, at(0), at(1), at(2)])
    assert [(one.uuid, round(one.observed_gpu_hours * 60)) for one in found] == [
        ("GPU-1", 2),
        ("GPU-2", 1),
    ]


def test_a_sample_written_twice_counts_once() -> None:
    samples = [at(0, energy_joules=0), at(1, energy_joules=60), at(2, energy_joules=120)]
    assert used(*samples, *samples) == used(*samples)


minutes = st.lists(st.integers(min_value=0, max_value=10_000), min_size=1, unique=True)


@given(minutes, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_watched_and_gap_hours_are_the_whole(
    times: list[int], random: Random
) -> None:
    samples = [at(minute, utilisation_fraction=0.5, energy_joules=minute) for minute in times]
    shuffled = samples.copy()
    random.shuffle(shuffled)
    found = used(*samples)
    assert used(*shuffled) == found
    whole = (max(times) - min(times)) / 60
    assert found.observed_gpu_hours + found.gap_hours == pytest.approx(whole)
    assert (found.energy_joules or 0) == pytest.approx(found.observed_gpu_hours * 60)
