"""What is expected to stay unused, and placing many at once by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.inventory import Inventory, Request
from planner.outlook import FIRST, Outlook, Seen
from planner.place import Refused, place
from planner.problem import Amounts, Billing, Node, Pool
from planner.settle import settle


def fleet(*shapes: tuple[int, int]) -> Inventory:
    """A node of each (GPUs, CPUs), each a pool of its own."""
    pools = [
        Pool(
            name=f"p{i}",
            accelerator=f"a{i}",
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


def asks(milli: int, cpus: int = 0, **more: Any) -> Request:
    amounts = Amounts(gpu_milli=milli, cpu_milli=cpus * 1000)
    return Request(amounts=amounts, **more)


def run(inventory: Inventory, requests: list[Request], outlook: Outlook | None) -> int:
    """GPU thousandths left when the requests have come one at a time."""
    for request in requests:
        spots = place(inventory, request, outlook)
        if not isinstance(spots, Refused):
            inventory.take(request, spots)
    return int(inventory.gpu_milli.sum())


@pytest.mark.parametrize(("free", "device"), [(650, 0), (700, 1)])
def test_a_share_goes_where_what_is_left_is_of_use_to_what_comes(free: int, device: int) -> None:
    # 300 thousandths are asked, and 700 are what comes. 650 free are lost already: 300 of them are
    # lost no more. 700 free are of use: 300 of the whole device are what no 700 would take.
    inventory = fleet((2, 10))
    inventory.gpu_milli[0] = [free, 1000]
    best = Outlook.of_mix(inventory, {asks(700): 1.0}).best(inventory, asks(300))
    assert best is not None
    assert best.device == device


def test_cpus_are_taken_where_gpus_do_not_need_them() -> None:
    # Each GPU that comes needs 10 CPUs. Node 0 has 10 a GPU, node 1 has 40: a pod without GPUs
    # would strand two of node 0's, and none of node 1's.
    inventory = fleet((4, 40), (4, 160))
    outlook = Outlook.of_mix(inventory, {asks(1000, 10): 1.0, asks(0, 20): 1.0})
    (spot,) = placed(inventory, asks(0, 20), outlook)
    assert inventory.names[spot] == "p1"


def placed(inventory: Inventory, request: Request, outlook: Outlook | None) -> list[int]:
    spots = place(inventory, request, outlook)
    assert not isinstance(spots, Refused)
    return [spot.row for spot in spots]


def test_a_model_that_few_ask_for_by_name_is_left_to_them() -> None:
    # Half of what comes runs only on a0: what runs anywhere goes to a1.
    inventory = fleet((1, 10), (1, 10))
    only = asks(1000, accelerators=("a0",))
    outlook = Outlook.of_mix(inventory, {asks(1000): 1.0, only: 1.0})
    assert placed(inventory, asks(1000), outlook) == [1]
    assert placed(inventory, only, outlook) == [0]


def test_what_is_learnt_leaves_less_than_the_tightest_fit() -> None:
    # Whole GPUs with 11 CPUs, pods of CPUs alone, and shares with 4 CPUs: those alone use the
    # nodes of 8 CPUs a GPU.
    mix = {asks(1000, 11): 4.0, asks(0, 24): 2.0, asks(600, 4): 2.0, asks(400, 4): 2.0}
    drawn = draw(mix, 300)
    nodes = [(8, 96)] * 16 + [(1, 8)] * 16
    tightest = run(fleet(*nodes), drawn, None)
    outlook = Outlook.learnt(fleet(*nodes), mix, rounds=3, samples=1)
    ours = run(fleet(*nodes), drawn, outlook)
    assert ours < tightest


def draw(mix: Mapping[Request, float], count: int) -> list[Request]:
    weights = np.array(list(mix.values()))
    kinds = list(mix)
    random = np.random.default_rng(1)
    return [kinds[i] for i in random.choice(len(kinds), size=count, p=weights / weights.sum())]


def test_what_is_learnt_is_the_same_each_time() -> None:
    mix = {asks(1000, 11): 3.0, asks(300, 2): 1.0}
    one, other = (Outlook.learnt(fleet((4, 48)), mix, rounds=2, samples=1) for _ in range(2))
    assert one.loss.table.tolist() == other.loss.table.tolist()


def test_a_request_that_is_not_in_the_mix_is_placed_too() -> None:
    inventory = fleet((2, 10))
    outlook = Outlook.of_mix(inventory, {asks(500): 1.0})
    for milli in (1000, 500, 200):
        request = asks(milli)
        assert placed(inventory, request, outlook) == [0]
    assert isinstance(place(inventory, asks(3000), outlook), Refused)


def test_a_mix_without_gpus_places_by_the_rest() -> None:
    inventory = fleet((1, 10), (0, 10))
    outlook = Outlook.learnt(inventory, {asks(0, 4): 1.0}, rounds=1, samples=1)
    assert placed(inventory, asks(0, 4), outlook) == [1]  # the node without a GPU is the fuller


def test_a_mix_of_nothing_that_is_judged_places_all_the_same() -> None:
    inventory = fleet((2, 10))
    outlook = Outlook.learnt(inventory, {Request(amounts=Amounts(mig=(("1g.5gb", 1),))): 1.0})
    assert placed(inventory, asks(700), outlook) == [0]


def test_what_is_learnt_of_a_fleet_in_use_is_that_of_the_same_fleet_free() -> None:
    mix = {asks(1000, 11): 3.0, asks(300, 2): 1.0}
    used = fleet((4, 48))
    for _ in range(3):
        placed(used, asks(300, 2), None)
    one, other = (Outlook.learnt(f, mix, rounds=2, samples=1) for f in (used, fleet((4, 48))))
    assert one.loss.table.tolist() == other.loss.table.tolist()


def test_the_memory_of_earlier_scores_changes_no_decision() -> None:
    mix = {asks(1000, 9): 3.0, asks(300, 2): 2.0, asks(700, 3): 2.0, asks(0, 5): 1.0}
    inventory = fleet((4, 40), (2, 40), (8, 96))
    kept = Outlook.of_mix(inventory, mix)
    for request in draw(mix, 60):
        fresh = Outlook.of_mix(inventory, mix)
        spots = place(inventory, request, kept)
        assert spots == place(inventory, request, fresh)
        if not isinstance(spots, Refused):
            inventory.take(request, spots)


def test_the_mix_is_learnt_from_what_has_been_seen() -> None:
    seen = Seen(fleet=fleet((4, 40)))
    answers = [seen.see(asks(500, replicas=2, spread="rack")) for _ in range(FIRST // 2)]
    assert answers[:-1] == [None] * (FIRST // 2 - 1)
    assert isinstance(answers[-1], Outlook)
    assert seen.counts == Counter({asks(500): FIRST})  # a gang counts as its replicas


# -- many at once --------------------------------------------------------------------------------

KINDS = [asks(1000, 4), asks(2000, 9), asks(300, 1), asks(700, 2), asks(500), asks(0, 3)]


@given(st.lists(st.sampled_from(KINDS), max_size=30))
def test_without_a_limit_nothing_that_fits_is_left_waiting(waiting: list[Request]) -> None:
    inventory = fleet((4, 20), (2, 30))
    outlook = Outlook.of_mix(inventory, dict.fromkeys(KINDS, 1.0))
    spots = settle(inventory, waiting, outlook)
    again = fleet((4, 20), (2, 30))
    for number, spot in spots.items():
        again.take(waiting[number], (spot,))
    for column in ("gpu_milli", "cpu_milli"):
        assert (getattr(again, column) == getattr(inventory, column)).all()
        assert (getattr(again, column) >= 0).all()
    left = [waiting[i] for i in range(len(waiting)) if i not in spots]
    assert all(isinstance(place(inventory, request), Refused) for request in left)


def test_a_request_that_wastes_more_than_it_uses_waits_until_nothing_better_comes() -> None:
    # Two devices; what comes is whole. A share of 100 would lose the other 900 of one.
    inventory = fleet((2, 10))
    outlook = Outlook.of_mix(inventory, {asks(1000): 1.0})
    waiting = [asks(100), asks(1000)]
    assert list(settle(inventory, waiting, outlook, limit=0.0)) == [1]
    assert list(settle(inventory, [asks(100)], outlook, limit=0.0)) == []
    assert list(settle(inventory, [asks(100)], outlook)) == [0]


def test_a_request_that_costs_nothing_does_not_wait() -> None:
    inventory = fleet((2, 90))
    outlook = Outlook.of_mix(inventory, {asks(1000, 4): 1.0})
    assert list(settle(inventory, [asks(0, 4)], outlook, limit=0.0)) == [0]


def test_all_known_fills_the_fleet_that_one_at_a_time_does_not() -> None:
    # 4 devices. In order, 600 + 600 + 600 + 600 leave 400 on each; known, four whole ones fit.
    order = [asks(600)] * 4 + [asks(1000)] * 4
    mix = Counter(order)
    inventory = fleet((4, 10))
    assert run(inventory, order, Outlook.of_mix(inventory, mix)) == 1600
    inventory = fleet((4, 10))
    settle(inventory, order, Outlook.of_mix(inventory, mix))
    assert inventory.gpu_milli.sum() == 0


def test_equal_requests_are_placed_in_the_order_of_the_list() -> None:
    inventory = fleet((1, 10))
    outlook = Outlook.of_mix(inventory, {asks(1000): 1.0})
    assert list(settle(inventory, [asks(1000)] * 3, outlook)) == [0]


@pytest.mark.parametrize("more", [{"replicas": 2}, {"spread": "rack"}])
def test_gangs_are_not_settled(more: dict[str, Any]) -> None:
    inventory = fleet((1, 10))
    outlook = Outlook.of_mix(inventory, {asks(1000): 1.0})
    with pytest.raises(ValueError, match="single replicas"):
        settle(inventory, [replace(asks(1000), **more)], outlook)
