"""Which nodes gangs get: enough by count is enough, and whoever stays keeps what it has."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from planner.problem import Mode, Problem
from planner.solve.fleet.naming import Item, Named, name
from tests.planner.worlds import GEOMETRIES, HOSTNAME, mode, pool, problem

A = pool("a", nodes=2)


def gang(n: int, how: Mode, start: int, end: int, replicas: int = 1) -> Item:
    return Item(job=n, name=f"j{n}", mode=how, start=start, end=end, replicas=replicas)


def given(world: Problem, items: Sequence[Item]) -> Named:
    return name(world, items, {})[0]


def overlaps(items: Sequence[Item], named: Named) -> list[tuple[str, int, int]]:
    """GPUs that two hold at once: (node, device, slot)."""
    held: dict[tuple[str, int, int], int] = defaultdict(int)
    for item, places in zip(items, named, strict=True):
        for place in places or ():
            for device in place.devices:
                for t in range(item.start, item.end):
                    held[place.node, device, t] += 1
    return [where for where, count in held.items() if count > 1]


def tiled(rng: random.Random, gpus: int, leaving: int, away: tuple[int, int]) -> list[range]:
    """Stretches that fill so many GPUs over 24 slots, but for the ``leaving`` while they are away.

    Each GPU's time is cut at random, so that much crosses the moment when some leave.
    """
    found = []
    for gpu in range(gpus):
        fixed = {0, 24, *(away if gpu < leaving else ())}
        edges = sorted(fixed | {rng.randrange(1, 24) for _ in range(4)})
        for a, b in pairwise(edges):
            if gpu >= leaving or b <= away[0] or a >= away[1]:
                found.append(range(a, b))
    rng.shuffle(found)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_fleet_that_is_full_in_every_slot_is_named_though_nodes_leave_for_a_while(
    seed: int,
) -> None:
    # Four nodes of 4 GPUs, one away from slot 9 to 15: every GPU is used in every slot it is there.
    a = pool("a", gpus=4, nodes=4, windows=((0, 9, 4), (9, 15, 3), (15, 24, 4)))
    world = problem((a,), (), slots=24)
    stretches = tiled(random.Random(seed), 16, 4, (9, 15))
    items = [gang(n, mode(a), s.start, s.stop) for n, s in enumerate(stretches)]
    named = given(world, items)
    assert None not in named
    assert overlaps(items, named) == []
    for item, places in zip(items, named, strict=True):
        if item.start < 15 and item.end > 9:
            assert {p.node for p in places or ()} <= {"a-0", "a-1", "a-2"}


@pytest.mark.parametrize("seed", range(10))
def test_replicas_of_several_sizes_never_hold_a_gpu_twice(seed: int) -> None:
    rng = random.Random(seed)
    a = pool("a", gpus=8, nodes=3, windows=((0, 12, 3), (12, 24, 2)))
    world = problem((a,), (), slots=24)
    items = []
    for n in range(40):
        start = rng.randrange(20)
        how = mode(a, gpus=rng.choice((1, 2, 4)))
        items.append(gang(n, how, start, start + rng.randint(1, 4), rng.randint(1, 3)))
    named = given(world, items)
    assert overlaps(items, named) == []
    for item, places in zip(items, named, strict=True):
        assert places is None or sum(p.replicas for p in places) == item.replicas
        if places is not None and item.end > 12:
            assert "a-2" not in {p.node for p in places}


def test_whoever_is_asked_for_again_keeps_its_nodes_when_another_comes() -> None:
    # Alone, the last would be taken first: it is there from slot 0, the others from 1 and 2 on.
    world = problem((A,), (), slots=6)
    items = [gang(0, mode(A), 1, 3), gang(1, mode(A), 2, 4)]
    before, known = name(world, items, {})
    after, _ = name(world, [*items, gang(2, mode(A), 0, 1)], known)
    assert after[:2] == before
    assert after[2] is not None


@pytest.mark.parametrize("windows", [(), ((0, 4, 2), (4, 6, 1))])
def test_of_those_in_its_way_a_gang_moves_only_as_many_as_it_needs(
    windows: tuple[tuple[int, int, int], ...],
) -> None:
    # One node each, before and after slot 2: a third that runs throughout needs one of them moved.
    world = problem((pool("a", nodes=2, windows=windows),), (), slots=6)
    items = [gang(0, mode(A), 0, 2), gang(1, mode(A), 2, 4)]
    (placed,) = given(world, items[:1])
    assert placed is not None
    other = "a-1" if placed[0].node == "a-0" else "a-0"
    had = [(items[0], placed), (items[1], (replace(placed[0], node=other),))]
    items.append(gang(2, mode(A), 0, 4))
    named, _ = name(world, items, {"a": had})
    assert None not in named
    assert overlaps(items, named) == []
    assert sum(was != now for (_, was), now in zip(had, named, strict=False)) == 1


@pytest.mark.parametrize("seed", range(10))
def test_a_gang_finds_room_in_a_full_fleet_that_keeps_most_of_its_names(seed: int) -> None:
    # 32 GPUs full in every slot; one job leaves, and one of the same stretch and size comes: each
    # keeps its own, and the new one gets what the old one had. Then one that only fits by count.
    a = pool("a", gpus=4, nodes=8)
    world = problem((a,), (), slots=24)
    stretches = tiled(random.Random(seed), 32, 0, (0, 0))
    items = [gang(n, mode(a), s.start, s.stop) for n, s in enumerate(stretches)]
    before, known = name(world, items, {})
    new = gang(999, mode(a), items[0].start, items[0].end)
    after, _ = name(world, [*items[1:], new], known)
    assert after == [*before[1:], before[0]]
    left = [item for item in items if item.start >= 12 or item.end <= 12]  # 12 is free for all
    through = [gang(999 + n, mode(a), 11, 13) for n in range(32 - busiest(left, 11, 13))]
    before, known = name(world, left, {})
    after, _ = name(world, [*left, *through], known)
    assert None not in after
    assert overlaps([*left, *through], after) == []
    assert sum(was != now for was, now in zip(before, after, strict=False)) <= 2 * len(through)


def busiest(items: Sequence[Item], start: int, end: int) -> int:
    """Most items at once in a stretch."""
    return max(sum(i.start <= t < i.end for i in items) for t in range(start, end))


def test_whose_node_is_lost_moves_and_nobody_else_does() -> None:
    world = problem((pool("a", nodes=3),), (), slots=6)
    items = [gang(n, mode(world.pools[0]), 0, 6) for n in range(2)]
    before, known = name(world, items, {})
    assert before[0] is not None
    lost = before[0][0].node
    nodes = tuple(replace(n, cordoned="lost" if n.name == lost else "") for n in world.nodes)
    after, _ = name(replace(world, nodes=nodes), items, known)
    assert after[1] == before[1]
    assert after[0] is not None
    assert after[0][0].node not in (lost, *(p.node for p in before[1] or ()))


def test_spread_gangs_keep_their_nodes_too() -> None:
    a = pool("a", nodes=4)
    world = problem((a,), (), slots=6)
    how = mode(a, replicas=2, spread=HOSTNAME)
    items = [gang(n, how, 1, 3, replicas=2) for n in range(2)]
    before, known = name(world, items, {})
    earlier = gang(2, how, 0, 1, replicas=2)
    after, _ = name(world, [earlier, *items], known)
    assert after[1:] == before


def test_mig_instances_stay_beside_one_another_on_their_device() -> None:
    # Two halves of one GPU, then a third that begins later: it goes to the other node.
    a = pool("a", nodes=2, mig=GEOMETRIES)
    world = problem((a,), (), slots=6)
    half = mode(a, profile="3g.40gb")
    items = [gang(n, half, 1, 3) for n in range(2)]
    before, known = name(world, items, {})
    assert before[0] == before[1]
    after, _ = name(world, [gang(2, half, 2, 4), *items], known)
    assert after[1:] == before
    assert after[0] is not None
    assert after[0] != before[0]
