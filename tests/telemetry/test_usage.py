"""Usage by hand: a few samples, and the hours, utilisation and energy that follow from them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.samples import GpuSample
from telemetry.usage import By, GpuUsage, usage, usage_by
from telemetry.uses import NOBODY, Owner, Use

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


SFT = Owner(namespace="nlp", pod="sft-0", job="sft", team="nlp", model="llama-3.1-8b")
RAG = Owner(namespace="web", pod="rag-0", job="rag", team="web")


def use(minute: float, owner: Owner = SFT, share: float = 1.0, **known: Any) -> Use:
    sample = replace(at(minute), **({"utilisation_fraction": 0.5} | known))
    return Use(sample=sample, owner=owner, share_fraction=share)


def test_hours_go_to_whoever_had_the_gpu_at_the_intervals_end() -> None:
    # Minutes 0-1 and 1-2 are SFT's, 2-3 nobody's: 2/60 h and 1/60 h.
    found = usage_by([use(0), use(1), use(2), use(3, NOBODY)], [By.TEAM, By.JOB])
    assert [one.of for one in found] == [("", ""), ("nlp", "sft")]
    nobody, sft = found
    assert sft.allocated_gpu_hours == pytest.approx(2 / 60)
    assert sft.samples == 2
    assert nobody.observed_gpu_hours == pytest.approx(1 / 60)
    assert nobody.allocated_gpu_hours == 0


def test_allocated_hours_are_active_idle_or_not_known() -> None:
    known = [0.0, 0.5, 0.0, None]  # of the minutes that end at 1, 2, 3, 4
    (sft,) = usage_by(
        [use(0), *(use(m, utilisation_fraction=u) for m, u in enumerate(known, 1))], [By.JOB]
    )
    minutes = [
        round(hours * 60, 9)
        for hours in (
            sft.allocated_gpu_hours,
            sft.active_gpu_hours,
            sft.idle_gpu_hours,
            sft.utilised_gpu_hours,
        )
    ]
    assert minutes == [4, 1, 2, 0.5]


def test_two_owners_of_one_gpu_get_their_shares_and_the_rest_is_nobodys() -> None:
    # 60 s at 200 W are 12,000 J: 6,000 J and 3,000 J by shares of 0.5 and 0.25, 3,000 J left.
    both = [
        one
        for minute in (0, 1)
        for one in (
            use(minute, SFT, 0.5, power_watts=200.0),
            use(minute, RAG, 0.25, power_watts=200.0),
        )
    ]
    found = {one.of[0]: one for one in usage_by(both, [By.JOB])}
    assert {job: one.energy_joules for job, one in found.items()} == {
        "": 3000.0,
        "rag": 3000.0,
        "sft": 6000.0,
    }
    assert found["sft"].utilised_gpu_hours == pytest.approx(0.5 * 0.5 / 60)
    assert sum(one.observed_gpu_hours for one in found.values()) == pytest.approx(1 / 60)


def test_mig_instances_are_parts_of_their_gpu_which_counts_once() -> None:
    # Instances of 40 and 20 of 80 GiB: a half and a quarter of the hour and of the 7,200 J.
    def tick(minute: float) -> list[Use]:
        whole = use(
            minute,
            NOBODY,
            memory_total_bytes=80,
            utilisation_fraction=None,
            energy_joules=120 * minute,
        )
        part: dict[str, Any] = {"parent_uuid": "GPU-1", "utilisation_fraction": None}
        return [
            whole,
            use(minute, SFT, uuid="MIG-1", memory_total_bytes=40, sm_active_fraction=0.8, **part),
            use(minute, RAG, uuid="MIG-2", memory_total_bytes=20, sm_active_fraction=0.0, **part),
        ]

    found = {
        one.of[0]: one
        for one in usage_by([*tick(0), *tick(60)], [By.JOB], longest_gap=timedelta(hours=1))
    }
    assert (found["sft"].allocated_gpu_hours, found["sft"].active_gpu_hours) == (0.5, 0.5)
    assert (found["rag"].allocated_gpu_hours, found["rag"].idle_gpu_hours) == (0.25, 0.25)
    joules = {job: one.energy_joules for job, one in found.items()}
    assert joules == {"sft": 3600.0, "rag": 1800.0, "": 1800.0}
    (gpu,) = usage_by([*tick(0), *tick(60)], [By.GPU], longest_gap=timedelta(hours=1))
    assert (gpu.of, gpu.observed_gpu_hours) == (("GPU-1",), 1.0)


def test_tensor_hours_and_flops_are_those_of_the_hardware() -> None:
    # A minute at 40 % of the tensor pipes and 400 TFLOP/s: 60 x 400e12 = 24e15.
    (sft,) = usage_by([use(0), use(1, tensor_active_fraction=0.4, tensor_tflops=400.0)], [By.MODEL])
    assert sft.of == ("llama-3.1-8b",)
    assert sft.tensor_gpu_hours == pytest.approx(0.4 / 60)
    assert sft.achieved_flops == pytest.approx(24e15)
    (plain,) = usage_by([use(0), use(1)], [By.MODEL])
    assert (plain.tensor_gpu_hours, plain.achieved_flops, plain.energy_joules) == (None,) * 3


def test_a_gap_is_told_to_whoever_has_the_gpu_at_its_end() -> None:
    # Minutes 1 to 3 and 33 to 35 are five intervals of one minute, and 30 minutes of nothing.
    told = usage_by([use(m, RAG) for m in (0, 1, 2, 3)] + [use(m) for m in (33, 34, 35)], [By.JOB])
    assert [(one.of, one.gap_gpu_hours, round(one.observed_gpu_hours * 60)) for one in told] == [
        (("rag",), 0.0, 3),
        (("sft",), 0.5, 2),
    ]


def test_a_source_that_tells_every_five_minutes_has_no_gaps_between_them() -> None:
    # The median is 5 minutes: 15 are no gap, 16 are one.
    (through,) = usage_by([use(m) for m in (0, 5, 10, 25)], [By.JOB])
    assert (round(through.observed_gpu_hours * 60), through.gap_gpu_hours) == (25, 0)
    (broken,) = usage_by([use(m) for m in (0, 5, 10, 26)], [By.JOB])
    assert (round(broken.observed_gpu_hours * 60), round(broken.gap_gpu_hours * 60)) == (10, 16)


def test_a_restart_of_a_minute_is_no_gap_of_a_source_that_tells_each_second() -> None:
    seconds = [*range(10), 70, 71]
    (sft,) = usage_by([use(second / 60) for second in seconds], [By.JOB])
    assert (round(sft.observed_gpu_hours * 3600), sft.gap_gpu_hours) == (71, 0)


def test_a_gpu_that_was_away_for_more_than_a_week_has_no_gap_of_it() -> None:
    day = 24 * 60
    (week,) = usage_by([use(m) for m in (0, 1, 2, 7 * day)], [By.JOB])
    assert round(week.gap_gpu_hours) == 7 * 24
    (more,) = usage_by([use(m) for m in (0, 1, 2, 8 * day)], [By.JOB])
    assert more.gap_gpu_hours == 0


def test_a_clock_that_was_set_back_makes_no_energy() -> None:
    # A counter near 1 GJ at 500 W; told a minute apart, and 3.6 MJ later at times in between.
    joules = {0.0: 1.0e9, 1.0: 1.0e9 + 3e4, 0.5: 1.0e9 + 3.6e6, 1.5: 1.0e9 + 3.63e6}
    told = [use(m, energy_joules=joules[m], power_watts=500.0) for m in sorted(joules)]
    (sft,) = usage_by(told, [By.JOB])
    assert sft.energy_joules == 90 * 500  # by power: no GPU draws 3.6 MJ in half a minute


def test_what_comes_late_or_twice_counts_once() -> None:
    once = [use(minute, power_watts=100.0) for minute in range(5)]
    assert usage_by([*once, *once], [By.NODE]) == usage_by(once, [By.NODE])


def test_a_counter_of_energy_that_restarts_is_not_negative() -> None:
    joules = [500.0, 900.0, 50.0, 150.0]  # 400 + 50 + 100
    (sft,) = usage_by([use(m, energy_joules=j) for m, j in enumerate(joules)], [By.POD])
    assert sft.energy_joules == 550


def test_a_process_without_a_known_owner_holds_its_gpu() -> None:
    (nobody,) = usage_by([use(0, NOBODY), use(1, NOBODY, pids=(12,))], [By.JOB])
    assert nobody.allocated_gpu_hours == pytest.approx(1 / 60)


@given(st.lists(st.tuples(st.integers(0, 300), st.sampled_from([SFT, RAG, NOBODY])), min_size=2))
def test_hours_of_all_owners_and_gaps_are_the_whole(ticks: list[tuple[int, Owner]]) -> None:
    by_time = sorted(dict(ticks).items())
    found = usage_by([use(minute, owner) for minute, owner in by_time], [By.TEAM])
    whole = (by_time[-1][0] - by_time[0][0]) / 60
    total = sum(one.observed_gpu_hours + one.gap_gpu_hours for one in found)
    assert total == pytest.approx(whole)
    for one in found:
        sides = one.active_gpu_hours + one.idle_gpu_hours
        assert sides == pytest.approx(one.allocated_gpu_hours)
