"""The cheapest that are enough, against trying every set."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from itertools import combinations

import pytest

from scheduler.controller.victims import MOST_TRIES, Candidate, cheapest


def candidate(job: str, usd: float, gpus: int, node: str = "n") -> Candidate:
    return Candidate(job=job, usd=usd, gpu_milli=1000 * gpus, nodes=(node,), rank=(0, 0.0))


def sums_to(candidates: list[Candidate], gpus: int) -> Callable[[Iterable[str]], bool]:
    size = {c.job: c.gpu_milli for c in candidates}
    return lambda names: sum(size[n] for n in names) >= 1000 * gpus


def test_the_cheapest_sum_wins_and_not_the_cheapest_one_by_one() -> None:
    # Four GPUs: a and b for $3 free 4, c alone frees 4 for $2.50, a is the cheapest alone.
    ours = [candidate("a", 1.0, 2), candidate("b", 2.0, 2), candidate("c", 2.5, 4)]
    found = cheapest(ours, sums_to(ours, 4))
    assert found is not None
    assert (found.jobs, found.usd, found.proved) == (("c",), 2.5, True)


def test_nobody_is_stopped_for_nothing_where_all_cost_nothing() -> None:
    ours = [candidate(str(i), 0.0, 1) for i in range(6)]
    found = cheapest(ours, sums_to(ours, 2))
    assert found is not None
    assert len(found.jobs) == 2


def test_where_not_even_all_are_enough_nobody_is_stopped() -> None:
    ours = [candidate("a", 1.0, 2)]
    assert cheapest(ours, sums_to(ours, 3)) is None
    assert cheapest([], lambda names: True) is None


@pytest.mark.parametrize("seed", range(30))
def test_of_few_the_cheapest_set_is_found(seed: int) -> None:
    rng = random.Random(seed)
    ours = [
        candidate(str(i), float(rng.randint(0, 9)), rng.randint(1, 4), f"n{rng.randint(0, 2)}")
        for i in range(7)
    ]
    need = rng.randint(1, 4)
    on = {c.job: (c.nodes[0], c.gpu_milli // 1000) for c in ours}

    def enough(names: frozenset[str]) -> bool:  # all of it on one node
        free: dict[str, int] = {}
        for name in names:
            node, gpus = on[name]
            free[node] = free.get(node, 0) + gpus
        return max(free.values(), default=0) >= need

    best = min(
        (
            math.fsum(c.usd for c in chosen)
            for size in range(1, 8)
            for chosen in combinations(ours, size)
            if enough(frozenset(c.job for c in chosen))
        ),
        default=None,
    )
    found = cheapest(ours, enough)
    assert (found and found.usd) == best


def test_of_many_nobody_is_stopped_who_could_be_left_running() -> None:
    # 40 of 300 nodes' worth is wanted: no set within the tries is enough.
    rng = random.Random(1)
    ours = [candidate(f"j{i:03}", rng.uniform(1, 9), rng.choice([1, 2, 8])) for i in range(300)]
    enough = sums_to(ours, 320)
    found = cheapest(ours, enough)
    assert found is not None
    assert not found.proved
    for one in found.jobs:
        assert not enough(frozenset(found.jobs) - {one})
    # The cheapest by the GPU that reach 320 cost no more than a hundredth less.
    by_gpu = sorted(ours, key=lambda c: c.usd / c.gpu_milli)
    usd, gpus = 0.0, 0
    for c in by_gpu:
        if gpus >= 320:
            break
        usd, gpus = usd + c.usd, gpus + c.gpu_milli // 1000
    assert found.usd <= usd
    assert MOST_TRIES < 2**20
