"""The openb benchmark: its protocol, its check of an end, and its floors."""

from __future__ import annotations

import pytest

from planner.convert.openb import OpenbNode, Pod
from planner.inventory import Spot
from tests.benchmarks.openb import arrivals_of, checked
from tests.benchmarks.openb_floor import ceiling_milli, refusing_nothing_milli, ways_to_fill


def pod(milli: int, gpus: int = 1, cpus: int = 0, models: tuple[str, ...] = ()) -> Pod:
    return Pod(
        name="pod",
        cpu_milli=cpus * 1000,
        memory_mib=1,
        gpus=gpus,
        gpu_milli=milli,
        models=models,
        arrives_seconds=0,
        runs_seconds=0,
    )


def node(gpus: int = 2, cpus: int = 8, model: str = "T4") -> OpenbNode:
    return OpenbNode(name="n", cpu_milli=cpus * 1000, memory_mib=9, gpus=gpus, model=model)


def test_each_pod_arrives_once_before_any_arrives_again_up_to_130_percent() -> None:
    # 10 pods of half a GPU on 5 GPUs: 6.5 GPUs are 13 arrivals.
    arrivals = arrivals_of([pod(500)] * 10, 5000, seed=3)
    assert sorted(arrivals[:10]) == list(range(10))
    assert len(arrivals) == 13
    assert arrivals == arrivals_of([pod(500)] * 10, 5000, seed=3)
    assert arrivals != arrivals_of([pod(500)] * 10, 5000, seed=4)


def test_a_trace_that_asks_for_more_is_cut_where_it_passes_130_percent() -> None:
    assert len(arrivals_of([pod(1000)] * 10, 5000, seed=0)) == 7  # 6.5 GPUs: the seventh passes


def test_what_is_placed_is_recounted() -> None:
    pods = [pod(600), pod(400), pod(1000), pod(500)]
    on = [Spot(row=0, replicas=1, devices=(d,)) for d in (0, 0, 1)]
    assert checked([node()], pods, [*on, None]) == 2000


@pytest.mark.parametrize(
    ("pods", "devices", "said"),
    [
        ([pod(600), pod(500)], [(0,), (0,)], "GPU 0 overbooked"),
        ([pod(1000, gpus=2)], [(0, 0)], "its GPUs"),
        ([pod(1000)], [(2,)], "not there"),
        ([pod(1, cpus=5), pod(1, cpus=4)], [(0,), (1,)], "CPUs overbooked"),
        ([pod(1)] * 10, [(0,)] * 10, "memory overbooked"),
        ([pod(1, models=("A10",))], [(0,)], "on a T4"),
    ],
)
def test_an_end_that_cannot_be_is_found(
    pods: list[Pod], devices: list[tuple[int, ...]], said: str
) -> None:
    spots = [Spot(row=0, replicas=1, devices=d) for d in devices]
    with pytest.raises(AssertionError, match=said):
        checked([node()], pods, spots)


def test_the_ceiling_is_what_gpus_cpus_and_models_allow() -> None:
    nodes = [node(gpus=2, cpus=3), node(gpus=1, cpus=9, model="A10")]
    # 3 CPUs let one and a half pods of 2 CPUs onto the T4s; one more fills the A10.
    assert ceiling_milli(nodes, [pod(1000, cpus=2)] * 9) == pytest.approx(2500)
    assert ceiling_milli(nodes, [pod(1000, models=("A10",))] * 9) == pytest.approx(1000)


def test_every_way_to_fill_a_gpu_is_found_once() -> None:
    ways = [dict(way) for way in ways_to_fill([300, 600])]
    assert sorted(ways, key=str) == sorted(
        [{}, {300: 1}, {300: 2}, {300: 3}, {600: 1}, {600: 1, 300: 1}], key=str
    )


def test_who_refuses_nothing_keeps_the_waste_that_came_early() -> None:
    # On 2 GPUs: a share of 800 comes first, and leaves 200 that nothing asks for; a whole one fills
    # the other. Refusing the 800 would have filled both.
    pods = [pod(800), pod(1000), pod(1000)]
    assert refusing_nothing_milli(2, pods) == pytest.approx(1800)
    # With a share of 200 still to come both are filled.
    assert refusing_nothing_milli(2, [*pods, pod(200)]) == pytest.approx(2000)
