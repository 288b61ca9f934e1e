"""What is now, by hand: the made-up cluster, and what its sums are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from telemetry.live import Now, now_of
from telemetry.samples import GpuSample, Health
from telemetry.uses import NOBODY, Owner, Use
from tests.telemetry import made_up

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
SFT = Owner(namespace="nlp", pod="sft-0", job="sft", team="nlp")
RAG = Owner(namespace="web", pod="rag-0", job="rag", team="web")


def now(*uses: Use, at: datetime | None = None) -> Now:
    return now_of(uses, idle_watts=lambda name: 70.0, usd_per_gpu_hour=lambda name: 2.0, now=at)


def use(minute: float, owner: Owner = SFT, share: float = 1.0, uuid: str = "GPU-1") -> Use:
    sample = GpuSample(
        time=NOON + timedelta(minutes=minute),
        node="node-1",
        uuid=uuid,
        name="NVIDIA L4",
        utilisation_fraction=0.6,
        power_watts=60.0,
    )
    return Use(sample=sample, owner=owner, share_fraction=share)


def test_a_cluster_in_sums() -> None:
    # 18 GPUs at $2, two of them free and two idle since 12:13.
    found = now(*(one for minute in range(61) for one in made_up.uses(minute)))
    assert (found.total.gpus, found.total.allocated_gpus, found.total.idle_gpus) == (18, 16, 2)
    assert (found.total.usd_per_hour, found.total.idle_usd_per_hour) == (36.0, 4.0)
    assert [(node.name, node.gpus, node.idle_gpus) for node in found.nodes] == [
        ("h100-a", 8, 0),
        ("h100-b", 8, 2),
        ("l4-edge", 2, 0),
    ]
    jobs = {job.name: job for job in found.workloads}
    assert jobs["research/notebook-ada"].idle_usd_per_hour == 4.0
    assert jobs["assistant/llama33-70b-sft"].team == "assistant"
    lazy = [gpu for gpu in found.gpus if gpu.idle_for is not None]
    assert [(gpu.node, gpu.idle_for) for gpu in lazy] == [
        ("h100-b", timedelta(minutes=47)),
        ("h100-b", timedelta(minutes=47)),
    ]


def test_owners_of_one_gpu_are_rows_with_their_shares_of_watts_and_dollars() -> None:
    found = now(use(0, SFT, 0.75), use(0, RAG, 0.25))
    rows = [(gpu.owner.job, gpu.watts, gpu.usd_per_hour) for gpu in found.gpus]
    assert rows == [("sft", 45.0, 1.5), ("rag", 15.0, 0.5)]
    assert (found.total.gpus, found.total.watts) == (1.0, 60.0)


def test_a_silent_gpu_is_shown_without_figures() -> None:
    found = now(use(0), use(0, uuid="GPU-2"), use(10, uuid="GPU-2"))
    silent, speaking = found.gpus
    assert (silent.stale, silent.active_fraction, silent.watts) == (True, None, None)
    assert silent.age == timedelta(minutes=10)
    assert (speaking.stale, speaking.active_fraction) == (False, 0.6)
    assert found.total.active_fraction == 0.6


def test_whoever_has_left_is_no_longer_there() -> None:
    found = now(use(0, SFT), use(1, NOBODY))
    assert [gpu.allocated for gpu in found.gpus] == [False]
    assert found.workloads == ()


def test_a_partitioned_gpu_is_its_instances() -> None:
    instance = replace(use(0).sample, uuid="MIG-1", parent_uuid="GPU-1", health=Health.CORDON)
    found = now(use(0, NOBODY), Use(sample=instance, owner=SFT))
    assert [(gpu.uuid, gpu.health) for gpu in found.gpus] == [("MIG-1", Health.CORDON)]


def test_nothing_seen_is_nothing() -> None:
    found = now()
    assert (found.gpus, found.nodes, found.total.gpus) == ((), (), 0)
    assert found.total.usd_per_hour is None


def test_prices_that_are_not_known_are_none_and_count_as_nothing() -> None:
    found = now_of([use(0)], idle_watts=lambda name: None, usd_per_gpu_hour=lambda name: None)
    assert found.gpus[0].usd_per_hour is None
    assert found.total.usd_per_hour is None
    assert found.total.idle_usd_per_hour == pytest.approx(0.0)
