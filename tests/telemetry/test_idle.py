"""Idle by hand: a GPU a minute, what is known of it, and since when it does nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from telemetry.idle import Idle, Rule, idle
from telemetry.samples import GpuSample
from telemetry.uses import NOBODY, Owner, Use

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
SFT = Owner(namespace="nlp", pod="sft-0", job="sft", team="nlp")
RULE = Rule(window=timedelta(minutes=10))
GIB = 2**30


def at(
    minute: float,
    owner: Owner = SFT,
    *,
    uuid: str = "GPU-1",
    busy: float | None = 0.0,
    watts: float | None = 70.0,
    memory_gib: float = 10.0,
    parent: str | None = None,
    pids: tuple[int, ...] | None = None,
    share: float = 1.0,
) -> Use:
    sample = GpuSample(
        time=NOON + timedelta(minutes=minute),
        node="node-1",
        uuid=uuid,
        name="NVIDIA H100 80GB HBM3",
        utilisation_fraction=busy,
        power_watts=watts,
        power_limit_watts=700.0,
        memory_used_bytes=int(memory_gib * GIB),
        parent_uuid=parent,
        pids=pids,
    )
    return Use(sample=sample, owner=owner, share_fraction=share)


def seen(*uses: Use, now: datetime | None = None) -> Idle:
    return idle(
        uses, rule=RULE, idle_watts=lambda name: 70.0, usd_per_gpu_hour=lambda name: 3.0, now=now
    )


def test_who_does_nothing_for_a_window_is_listed_with_owner_and_cost() -> None:
    # Idle from 12:05 to 12:20: a quarter of an hour at $3.
    found = seen(*(at(m, busy=0.9 if m < 5 else 0.0) for m in range(21)))
    (gpu,) = found.gpus
    assert (gpu.owner, gpu.since) == (SFT, NOON + timedelta(minutes=5))
    assert (gpu.usd_per_hour, gpu.hours, gpu.usd) == (3.0, 0.25, 0.75)
    (workload,) = found.workloads
    assert (workload.owner, workload.idle_seconds, workload.usd_per_hour) == (SFT, 900.0, 3.0)


def test_less_than_the_window_is_a_pause() -> None:
    assert seen(*(at(m) for m in range(10))).gpus == ()
    assert len(seen(*(at(m) for m in range(11))).gpus) == 1


@pytest.mark.parametrize(
    ("works", "why"),
    [
        ({"busy": 0.5}, "a kernel ran"),
        # At rest is up to 70 + 0.25 x (700 - 70) = 227.5 W.
        ({"watts": 228.0}, "it draws power that rest does not explain"),
        ({"memory_gib": 10.1}, "it loads something: 0.1 GiB is above 64 MiB"),
    ],
)
def test_any_sign_of_work_begins_anew(works: dict[str, Any], why: str) -> None:
    signs = [at(m, **(works if m == 8 else {})) for m in range(16)]
    assert seen(*signs).gpus == (), why


@pytest.mark.parametrize("rest", [{"watts": 227.0}, {"memory_gib": 10.05}, {"busy": 0.01}])
def test_what_rest_explains_is_no_work(rest: dict[str, Any]) -> None:
    signs = [at(m, **(rest if m == 8 else {})) for m in range(16)]
    assert len(seen(*signs).gpus) == 1


def test_memory_that_grows_slowly_is_work_too() -> None:
    # 10 MiB a minute: after 7 minutes it is 70 MiB above where it began, and again every 7.
    assert seen(*(at(m, memory_gib=10 + m * 10 / 1024) for m in range(30))).gpus == ()


def test_power_alone_can_say_it_and_nothing_known_says_nothing() -> None:
    assert len(seen(*(at(m, busy=None) for m in range(11))).gpus) == 1
    assert seen(*(at(m, busy=None, watts=None) for m in range(11))).gpus == ()


def test_a_gap_breaks_it() -> None:
    minutes = [*range(8), *range(15, 22)]  # twice 7 minutes
    assert seen(*map(at, minutes)).gpus == ()


def test_a_gpu_that_nobody_has_is_free_and_not_idle() -> None:
    assert seen(*(at(m, NOBODY) for m in range(30))) == Idle(gpus=(), workloads=())
    (gpu,) = seen(*(at(m, NOBODY, pids=(41,)) for m in range(30))).gpus  # a process has it open
    assert gpu.owner == NOBODY


def test_who_has_left_or_is_no_longer_sampled_is_not_listed() -> None:
    stayed = [at(m) for m in range(20)]
    assert seen(*stayed, at(20, NOBODY)).gpus == ()
    assert seen(*stayed, now=NOON + timedelta(minutes=23)).gpus == ()
    assert len(seen(*stayed, now=NOON + timedelta(minutes=22)).gpus) == 1


def test_a_job_is_idle_only_with_all_its_gpus() -> None:
    two = [at(m, uuid=f"GPU-{n}", busy=0.8 * (n == 2)) for m in range(20) for n in (1, 2)]
    found = seen(*two)
    assert [gpu.uuid for gpu in found.gpus] == ["GPU-1"]
    assert found.workloads == ()


def test_half_a_gpu_costs_half_and_a_partitioned_one_is_its_instances() -> None:
    half = seen(*(at(m, share=0.5) for m in range(20)))
    assert half.gpus[0].usd_per_hour == 1.5
    instances = [
        use
        for m in range(20)
        for use in (
            at(m, NOBODY, busy=None, pids=(7,)),
            at(m, uuid="MIG-1", busy=0.0, watts=None, parent="GPU-1"),
        )
    ]
    assert [gpu.uuid for gpu in seen(*instances).gpus] == ["MIG-1"]


def test_no_samples_are_nothing_idle() -> None:
    assert seen() == Idle(gpus=(), workloads=())
