"""Moves that let others fit or nodes empty, and never cost more than they save."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import defrag
from planner.defrag import (
    Fleet,
    Move,
    Proposal,
    Resident,
    Spots,
    Stuck,
    Waiting,
    applied,
    defragment,
    in_order,
)
from planner.inventory import Inventory, Request, Spot
from planner.problem import Amounts
from tests.planner.worlds import nodes_of, pool

Held = tuple[str, int, int, float]  # job, node, GPUs, price of moving it


def fleet(
    nodes: int,
    gpus: int,
    held: Sequence[Held],
    waiting: Mapping[str, tuple[int, float]],
    *,
    empty: Mapping[int, float] | None = None,
    fixed: Sequence[str] = (),
) -> Fleet:
    """Nodes ``n-0``, … with whole-GPU jobs on their lowest free GPUs; waiting: (GPUs, value)."""
    of = pool("n", nodes=nodes, gpus=gpus)
    inventory = Inventory.of(nodes_of((of,)), (of,))
    residents = []
    for name, node, count, usd in held:
        request = Request(amounts=Amounts(gpu_milli=1000 * count))
        free = [d for d in range(gpus) if inventory.gpu_milli[node, d] == 1000]
        spots = (Spot(row=node, replicas=1, devices=tuple(free[:count])),)
        inventory.take(request, spots)
        residents.append(
            Resident(
                job=name, request=request, spots=spots, move_usd=usd, movable=name not in fixed
            )
        )
    return Fleet(
        inventory=inventory,
        residents=tuple(residents),
        waiting=tuple(
            Waiting(job=name, request=Request(amounts=Amounts(gpu_milli=1000 * g)), value_usd=usd)
            for name, (g, usd) in waiting.items()
        ),
        empty_usd={f"n-{node}": usd for node, usd in (empty or {}).items()},
    )


def moves(proposal: Proposal) -> list[tuple[str, int]]:
    return [(move.job, move.now[0].row) for move in proposal.moves]


# -- by hand ---------------------------------------------------------------------------------------


def test_the_cheapest_node_is_cleared_for_a_job_that_fits_nowhere() -> None:
    # Of 4 GPUs each, nodes hold 1, 1 and 3. Either single can go elsewhere: $5 or $3.
    of = fleet(3, 4, [("a", 0, 1, 5.0), ("b", 1, 1, 3.0), ("c", 2, 3, 99.0)], {"w": (4, 10.0)})
    found = defragment(of)
    assert [job for job, _ in moves(found)] == ["b"]
    assert found.placed == (("w", (Spot(row=1, replicas=1, devices=(0, 1, 2, 3)),)),)
    assert (found.saving_usd, found.price_usd, found.gain_usd) == (10.0, 3.0, 7.0)
    assert found.exact


@pytest.mark.parametrize("value", [2.0, 3.0])
def test_nothing_moves_where_it_saves_no_more_than_it_costs(value: float) -> None:
    of = fleet(3, 4, [("a", 0, 1, 5.0), ("b", 1, 1, 3.0), ("c", 2, 3, 99.0)], {"w": (4, value)})
    assert defragment(of) == Proposal(exact=True)


def test_a_job_that_forbids_it_stays() -> None:
    held = [("a", 0, 1, 5.0), ("b", 1, 1, 3.0), ("c", 2, 3, 99.0)]
    found = defragment(fleet(3, 4, held, {"w": (4, 10.0)}, fixed=["b"]))
    assert [job for job, _ in moves(found)] == ["a"]
    assert defragment(fleet(3, 4, held, {"w": (4, 10.0)}, fixed=["a", "b"])).moves == ()


def test_a_job_that_fits_as_it_is_saves_nothing_by_moving() -> None:
    of = fleet(2, 4, [("a", 0, 1, 0.5)], {"w": (4, 10.0)})
    assert defragment(of).moves == ()


def test_a_node_is_emptied_where_it_is_worth_more_than_the_moves() -> None:
    # Emptying node 0 saves $8 for $5; node 2, which is empty, is no target for that.
    held = [("a", 0, 1, 5.0), ("b", 1, 3, 9.0)]
    found = defragment(fleet(3, 4, held, {}, empty={0: 8.0, 1: 8.0, 2: 8.0}))
    assert moves(found) == [("a", 1)]
    assert (found.emptied, found.gain_usd) == (("n-0",), 3.0)


def test_a_target_may_be_what_an_earlier_move_has_freed() -> None:
    # `two` has room on node 1 only once `one` has gone to node 2: then node 0 is free.
    held = [("two", 0, 2, 1.0), ("one", 1, 1, 1.0), ("half", 2, 1, 100.0)]
    found = defragment(fleet(3, 2, held, {"w": (2, 10.0)}))
    assert found.gain_usd == 9.0  # `one` goes to node 2 and `w` takes node 1: one move will do
    assert moves(found) == [("one", 2)]


def test_sharing_a_gpu_is_priced_by_what_each_keeps_of_its_speed() -> None:
    # Node 2 is wanted whole. Beside `noisy` both keep half of their speed: each loses
    # (1/0.5 - 1) x 10 h x $1 = $10, $20 together; beside `quiet` nobody loses anything.
    share = Request(amounts=Amounts(gpu_milli=500))
    of = pool("n", nodes=3, gpus=1)
    inventory = Inventory.of(nodes_of((of,)), (of,))

    def tenant(name: str, row: int, kind: str, movable: bool = False) -> Resident:
        spots = (Spot(row=row, replicas=1, devices=(0,)),)
        inventory.take(share, spots)
        return Resident(
            job=name,
            request=share,
            spots=spots,
            move_usd=1.0,
            movable=movable,
            kind=kind,
            usd_per_hour=1.0,
            hours_left=10.0,
        )

    residents = (
        tenant("noisy", 0, "n"),
        tenant("quiet", 1, "q"),
        tenant("m", 2, "m", movable=True),
    )
    whole = Waiting(job="w", request=Request(amounts=Amounts(gpu_milli=1000)), value_usd=15.0)
    keeps = {("n", "m"): 0.5, ("m", "n"): 0.5}
    world = Fleet(inventory=inventory, residents=residents, waiting=(whole,), keeps=keeps)
    assert moves(defragment(world)) == [("m", 1)]
    assert moves(clearing(world)) == [("m", 1)]
    loud = replace(world, keeps=keeps | {("q", "m"): 0.5, ("m", "q"): 0.5})
    assert defragment(loud).moves == ()  # $15 for $1 and $20
    assert clearing(loud).moves == ()
    together = replace(world, residents=residents[:1], waiting=())
    assert defragment(together).moves == ()


def clearing(world: Fleet) -> Proposal:
    """The method for many, on few."""
    most, defrag.MOST_STATES = defrag.MOST_STATES, 0
    try:
        return defragment(world)
    finally:
        defrag.MOST_STATES = most


# -- order -----------------------------------------------------------------------------------------


def swap(world: Fleet, *pairs: tuple[str, int]) -> tuple[Move, ...]:
    """Moves of whole-node jobs to other nodes."""
    by_name = {r.job: r for r in world.residents}
    return tuple(
        Move(
            job=name,
            was=by_name[name].spots,
            now=(replace(by_name[name].spots[0], row=row),),
            price_usd=by_name[name].move_usd,
        )
        for name, row in pairs
    )


def test_moves_are_put_in_an_order_in_which_each_target_is_free() -> None:
    world = fleet(3, 2, [("a", 0, 2, 1.0), ("b", 1, 2, 1.0)], {})
    ordered = in_order(world, swap(world, ("a", 1), ("b", 2)))
    assert isinstance(ordered, tuple)
    assert [(m.job, m.now[0].row) for m in ordered] == [("b", 2), ("a", 1)]


def test_a_circle_is_said_to_be_stuck_unless_a_spare_takes_one_of_it() -> None:
    world = fleet(3, 2, [("a", 0, 2, 1.0), ("b", 1, 2, 1.0)], {})
    circle = swap(world, ("a", 1), ("b", 0))
    assert in_order(world, circle) == Stuck(jobs=("a", "b"))
    assert in_order(world, circle, spare="n-9") == Stuck(jobs=("a", "b"))
    ordered = in_order(world, circle, spare="n-2")
    assert isinstance(ordered, tuple)
    assert [(m.job, m.was[0].row, m.now[0].row) for m in ordered] == [
        ("a", 0, 2),
        ("b", 1, 0),
        ("a", 2, 1),
    ]


# -- against trying everything ---------------------------------------------------------------------


@dataclass(frozen=True)
class Small:
    """A world in plain numbers; by job: node, GPUs, price, movable."""

    nodes: int
    gpus: int
    held: tuple[tuple[int, int, float, bool], ...]
    waiting: tuple[tuple[int, float], ...]
    empty: tuple[float, ...]


def small(seed: int) -> Small:
    rng = random.Random(seed)
    nodes, gpus = rng.randint(2, 4), rng.randint(2, 4)
    free = [gpus] * nodes
    held = []
    for _ in range(rng.randint(2, 6)):
        node, count = rng.randrange(nodes), rng.randint(1, 2)
        if free[node] >= count:
            free[node] -= count
            held.append((node, count, float(rng.randint(1, 4)), rng.random() < 0.8))
    waiting = [(rng.randint(2, gpus), float(rng.randint(3, 15))) for _ in range(rng.randint(1, 2))]
    empty = [float(rng.choice([0, 0, 0, 4, 9])) for _ in range(nodes)]
    return Small(nodes, gpus, tuple(held), tuple(waiting), tuple(empty))


def as_fleet(world: Small) -> Fleet:
    return fleet(
        world.nodes,
        world.gpus,
        [(f"j{i}", node, count, usd) for i, (node, count, usd, _) in enumerate(world.held)],
        {f"w{i}": waiting for i, waiting in enumerate(world.waiting)},
        empty={node: usd for node, usd in enumerate(world.empty) if usd},
        fixed=[f"j{i}" for i, (*_, movable) in enumerate(world.held) if not movable],
    )


def best_gain(world: Small) -> float:
    """The most that moves gain over none, by trying every sequence and every way to fill."""
    start = tuple(node for node, *_ in world.held)
    return best_from(world, start, frozenset(), 0.0) - filled(world, start)


def best_from(world: Small, where: tuple[int, ...], moved: frozenset[int], paid: float) -> float:
    best = filled(world, where) - paid
    for i, (_, count, usd, movable) in enumerate(world.held):
        free = free_gpus(world, where)
        for node in range(world.nodes) if movable and i not in moved else ():
            if node != where[i] and free[node] >= count:
                after = (*where[:i], node, *where[i + 1 :])
                best = max(best, best_from(world, after, moved | {i}, paid + usd))
    return best


def free_gpus(world: Small, where: tuple[int, ...]) -> list[int]:
    free = [world.gpus] * world.nodes
    for (_, count, _, _), node in zip(world.held, where, strict=True):
        free[node] -= count
    return free


def filled(world: Small, where: tuple[int, ...]) -> float:
    return fill(world, free_gpus(world, where), 0)


def fill(world: Small, free: list[int], at: int) -> float:
    """The most that waiting jobs from ``at`` on, and nodes left empty, are worth."""
    if at == len(world.waiting):
        return sum(usd for f, usd in zip(free, world.empty, strict=True) if f == world.gpus)
    count, value = world.waiting[at]
    best = fill(world, free, at + 1)
    for node in range(world.nodes):
        if free[node] >= count:
            left = [f - count * (n == node) for n, f in enumerate(free)]
            best = max(best, value + fill(world, left, at + 1))
    return best


def faults(of: Fleet, proposal: Proposal) -> list[str]:
    """What is not so in a proposal, by plain counting of GPUs held."""
    held = {r.job: gpus_of(r.spots) for r in of.residents}
    wrong = list(move_faults(of, proposal, held))
    for job, spots in proposal.placed:
        if any(gpus_of(spots) & other for other in held.values()):
            wrong.append(f"{job}: not free")
        held[job] = gpus_of(spots)
    busy = {row for spots in held.values() for row, _ in spots}
    if {of.inventory.row_of[name] for name in proposal.emptied} & busy:
        wrong.append("a node said to be empty is not")
    if proposal.moves and proposal.gain_usd <= 0:
        wrong.append("nothing is gained")
    return wrong


def gpus_of(spots: Spots) -> set[tuple[int, int]]:
    return {(spot.row, device) for spot in spots for device in spot.devices}


def move_faults(
    of: Fleet, proposal: Proposal, held: dict[str, set[tuple[int, int]]]
) -> Iterator[str]:
    """Of the moves one after the other; ``held`` is what is held when all are done."""
    residents = {r.job: r for r in of.residents}
    if len({m.job for m in proposal.moves}) != len(proposal.moves):
        yield "a job moves twice"
    for move in proposal.moves:
        target = gpus_of(move.now)
        if not residents[move.job].movable:
            yield f"{move.job} may not move"
        if any(target & other for job, other in held.items() if job != move.job):
            yield f"{move.job}: its target is not free"
        if len(target) != len(held[move.job]):
            yield f"{move.job}: another number of GPUs"
        held[move.job] = target
    price = sum(residents[m.job].move_usd for m in proposal.moves)
    if abs(price - proposal.price_usd) > 1e-9:
        yield "the price is another"


@pytest.mark.parametrize("first", range(0, 120, 40))
def test_few_jobs_gain_what_trying_everything_gains(first: int) -> None:
    proposed = 0
    for seed in range(first, first + 40):
        world = small(seed)
        found = defragment(as_fleet(world))
        assert found.exact
        assert found.gain_usd == pytest.approx(best_gain(world)), seed
        assert faults(as_fleet(world), found) == []
        proposed += bool(found.moves)
    assert proposed >= 5


def test_clearing_gains_no_more_than_is_true_and_most_of_it() -> None:
    most = gained = 0.0
    for seed in range(80):
        world = small(seed)
        found = clearing(as_fleet(world))
        assert faults(as_fleet(world), found) == []
        best = best_gain(world)
        assert found.gain_usd <= best + 1e-9
        most, gained = most + best, gained + found.gain_usd
    assert gained >= 0.8 * most


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_once_done_nothing_more_is_proposed(seed: int) -> None:
    of = as_fleet(small(seed))
    for method in (defragment, clearing):
        after = applied(of, method(of))
        assert method(after).moves == ()


def large(seed: int, nodes: int = 40) -> Fleet:
    """Nodes of 8 GPUs, none of them empty, and jobs of whole nodes that wait."""
    rng = random.Random(seed)
    held: list[Held] = []
    for node in range(nodes):
        for _ in range(rng.randint(1, 3)):
            count = rng.choice([1, 1, 2])
            held.append((f"j{len(held)}", node, count, float(rng.randint(1, 20))))
    waiting = {f"w{i}": (8, float(rng.randint(10, 60))) for i in range(nodes // 4)}
    return fleet(nodes, 8, held, waiting, fixed=[name for name, *_ in held if rng.random() < 0.1])


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_many_jobs_are_cleared_without_a_fault_and_once(seed: int) -> None:
    of = large(seed)
    found = defragment(of)
    assert faults(of, found) == []
    assert defragment(applied(of, found)).moves == ()


def test_a_gang_gets_as_many_nodes_as_it_needs_or_none() -> None:
    # Two whole nodes for $30: clearing 0 and 1 costs $2 + $3, and both jobs go to node 2.
    of = fleet(3, 4, [("a", 0, 1, 2.0), ("b", 1, 1, 3.0), ("c", 2, 2, 99.0)], {})
    gang = Request(amounts=Amounts(gpu_milli=4000), replicas=2)
    wanted = replace(of, waiting=(Waiting(job="w", request=gang, value_usd=30.0),))
    found = defragment(wanted)
    assert moves(found) == [("a", 2), ("b", 2)]
    assert (found.gain_usd, found.exact) == (25.0, False)
    poor = replace(of, waiting=(Waiting(job="w", request=gang, value_usd=5.0),))
    assert defragment(poor).moves == ()
