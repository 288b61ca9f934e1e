"""Others' placement policies, by answers worked out by hand."""

from __future__ import annotations

import pytest

from planner.inventory import Inventory, Request
from planner.problem import Amounts, Billing, Node, Pool
from scheduler.packing import Policy, replay, typical


def fleet(*shapes: tuple[int, int]) -> Inventory:
    """A node of each (GPUs, CPUs)."""
    pools = [
        Pool(
            name=f"p{i}",
            accelerator="a",
            gpus_per_node=gpus,
            capacity=Amounts(gpu_milli=gpus * 1000, cpu_milli=cpus * 1000),
            windows=(),
            billing=Billing.SUNK,
            purchase="owned",
        )
        for i, (gpus, cpus) in enumerate(shapes)
    ]
    nodes = [Node(name=p.name, pool=p.name, index=0, capacity=p.capacity) for p in pools]
    return Inventory.of(nodes, pools)


def asks(milli: int, cpus: int = 0, memory_bytes: int = 0) -> Request:
    return Request(
        amounts=Amounts(gpu_milli=milli, cpu_milli=cpus * 1000, memory_bytes=memory_bytes)
    )


def rows(inventory: Inventory, policy: Policy, *pods: Request, seed: int = 0) -> list[int | None]:
    spots = replay(inventory, pods, policy, mix=pods, seed=seed)
    return [None if spot is None else spot.row for spot in spots]


def test_best_fit_leaves_the_least_of_cpu_and_gpu() -> None:
    # Left after 1 GPU and 4 CPUs: node 0: 60 / 128 and 7 / 8, 0.67 in the mean; node 1: 28 / 128
    # and 7 / 8, 0.55; node 2: 60 / 128 and 1 / 8, 0.30.
    assert rows(fleet((8, 64), (8, 32), (2, 64)), Policy.BEST_FIT, asks(1000, 4)) == [2]


def test_best_fit_puts_a_share_on_the_fullest_device() -> None:
    inventory = fleet((3, 8))
    inventory.gpu_milli[0] = [1000, 500, 400]
    (spot,) = replay(inventory, [asks(500)], Policy.BEST_FIT, mix=[asks(500)], seed=0)
    assert spot is not None
    assert spot.devices == (1,)


def test_fgd_uses_what_the_typical_pod_cannot() -> None:
    # Typical pods are whole. Node 0 has one whole device, node 1 a half that no typical pod can
    # use: a share of 500 costs 500 of use on node 0 (the other half), and frees 500 on node 1.
    inventory = fleet((1, 8), (1, 8))
    inventory.gpu_milli[1] = 500
    pods = [asks(500)]
    (spot,) = replay(inventory, pods, Policy.FGD, mix=[asks(1000)] * 99, seed=0)
    assert spot is not None
    assert spot.row == 1


def test_random_uses_every_node_and_depends_on_the_seed_alone() -> None:
    pods = [asks(1000)] * 12
    runs = [rows(fleet(*[(4, 8)] * 4), Policy.RANDOM, *pods, seed=s) for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert set(runs[0]) == {0, 1, 2, 3}


@pytest.mark.parametrize("policy", Policy)
def test_what_fits_is_placed_and_what_does_not_is_dropped(policy: Policy) -> None:
    inventory = fleet((2, 8))
    pods = [asks(2000, 4), asks(1000), asks(0, 5), asks(0, 4)]
    assert rows(inventory, policy, *pods) == [0, None, None, 0]
    assert not inventory.gpu_milli.any()
    assert not inventory.cpu_milli.any()


def test_typical_are_the_most_frequent_shapes_whatever_their_memory() -> None:
    # 96 of 100 are of one shape in GPU and CPU: the rest is not needed for 95 %.
    pods = [asks(1000, 1, memory_bytes=i % 2) for i in range(96)] + [asks(500, i) for i in range(4)]
    assert typical(pods) == {asks(1000, 1): 96}
