"""What is free: as a recount slot by slot says, and the same after everything is given back."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import placement
from planner.booking import Booking
from planner.occupancy import Occupancy
from planner.problem import Demand, Queue
from planner.table import RESOURCES, Table, build, spent_usd
from tests.planner.worlds import MONTH_END, job, mode, pool, problem, random_problem

Rooms = list[list[int]]


def rooms(occupancy: Occupancy) -> Rooms:
    """Replicas that fit on each node, for every option, start and end that it may have."""
    return [
        occupancy.room(o, start, start + o.length).tolist()
        for o in occupancy.table.options
        for start in range(o.first, o.last + 1)
    ]


def recounted(table: Table, bookings: Sequence[Booking]) -> Rooms:
    """The same by plain counting, slot by slot and node by node."""
    return [
        [
            min(_fit(table, bookings, o.index, n, t) for t in range(start, start + o.length))
            for n in range(len(table.nodes[o.pool]))
        ]
        for o in table.options
        for start in range(o.first, o.last + 1)
    ]


def _fit(table: Table, bookings: Sequence[Booking], i: int, node: int, slot: int) -> int:
    o = table.options[i]
    if any(a <= slot < b for a, b in table.away[o.pool][node]):
        return 0
    most = o.per_node
    for r in range(len(RESOURCES)):
        used = sum(
            counts[node] * other.takes[r]
            for b in bookings
            for other in [table.options[b.option]]
            if other.pool == o.pool
            for run, counts in zip(other.runs, b.counts, strict=True)
            if b.start + run.start <= slot < b.start + run.end
        )
        if o.takes[r]:
            has = table.capacity[o.pool][r]
            if r == 0:
                has -= 1000 * sum(bool(d.unhealthy) for d in table.nodes[o.pool][node].devices)
            most = min(most, (has - used) // o.takes[r])
    return most


def state(occupancy: Occupancy) -> tuple[object, ...]:
    quota = [q.tolist() for q in occupancy.quota]
    spent = [[round(left, 9) for left in b.left.values()] for b in occupancy.budgets]
    return rooms(occupancy), quota, spent, [list(c) for c in occupancy.changes]


def booked(occupancy: Occupancy, picks: Sequence[int]) -> list[Booking]:
    """Takes, for each pick, an option where it fits; as often as it fits."""
    taken = []
    for pick in picks:
        options = occupancy.table.options
        found = placement.earliest(occupancy, options[pick % len(options)])
        if found is not None:
            occupancy.take(found)
            taken.append(found)
    return taken


worlds = st.integers(0, 10**6).map(random_problem).map(build).filter(lambda t: bool(t.options))
picks = st.lists(st.integers(0, 99), max_size=12)


@settings(max_examples=60)
@given(worlds, picks)
def test_what_is_free_is_what_a_recount_says(table: Table, chosen: list[int]) -> None:
    occupancy = Occupancy(table)
    taken = booked(occupancy, chosen)
    assert rooms(occupancy) == recounted(table, taken)


@settings(max_examples=60)
@given(worlds, picks, st.randoms(use_true_random=False))
def test_taken_and_released_in_any_order_everything_is_free_again(
    table: Table, chosen: list[int], rng: Random
) -> None:
    occupancy = Occupancy(table)
    before = state(occupancy)
    taken = booked(occupancy, chosen)
    rng.shuffle(taken)
    for booking in taken:
        occupancy.release(booking)
    assert state(occupancy) == before


@settings(max_examples=60)
@given(worlds, picks, st.integers(0, 12))
def test_what_is_released_leaves_what_the_rest_alone_would(
    table: Table, chosen: list[int], kept: int
) -> None:
    occupancy = Occupancy(table)
    taken = booked(occupancy, chosen)
    for booking in taken[kept:]:
        occupancy.release(booking)
    alone = Occupancy(table)
    for booking in taken[:kept]:
        alone.take(booking)
    assert state(occupancy) == state(alone)


@settings(max_examples=40)
@given(worlds, picks)
def test_room_from_many_starts_is_the_room_of_each(table: Table, chosen: list[int]) -> None:
    occupancy = Occupancy(table)
    booked(occupancy, chosen)
    for o in (o for o in table.options if len(o.runs) == 1):
        starts = np.arange(o.first, o.last + 1, dtype=np.int64)
        each = [occupancy.room(o, int(t), int(t) + o.length) for t in starts]
        most = np.minimum(np.array(each).T, o.peak)
        assert occupancy.room_from(o, starts).tolist() == most.tolist()


def test_thousands_of_bookings_leave_no_more_edges_than_are_needed() -> None:
    slots = 1000
    one = pool("a", slots=slots)
    table = build(problem((one,), (job("j", mode(one), slots=slots),), slots=slots))
    occupancy = Occupancy(table)
    for start in range(slots):
        booking = Booking(option=0, start=start, counts=((1,),))
        occupancy.take(booking)
        occupancy.release(booking)
    assert occupancy.edges[0].size <= 64 + 4
    assert rooms(occupancy) == [[1]] * slots


def test_a_limit_counts_the_gpus_under_its_queue_and_of_its_accelerator() -> None:
    a, b = pool("a", nodes=2, gpus=2), pool("b", nodes=2)
    queues = (Queue(name="root", limit=(("a", 3),)), Queue(name="team", parent="root"))
    jobs = (
        job("two", mode(a, gpus=2, hours=3), queue="team"),
        job("pair", mode(a, replicas=2), queue="root"),
        job("other", mode(b), queue="team"),
        job("free", mode(a, gpus=2)),
    )
    table = build(problem((a, b), jobs, queues=queues))
    two, pair, other, free = table.options
    occupancy = Occupancy(table)
    occupancy.take(Booking(option=two.index, start=1, counts=((1, 0),)))
    # Slots 1 to 3 have 3 - 2 = 1 GPU left: a pair does not start at 1, and does at 0 and 4.
    assert [occupancy.within_limits(pair, t) for t in range(6)] == [True, *[False] * 3, True, True]
    assert occupancy.within_limits(other, 2)
    assert occupancy.within_limits(free, 2)


def test_a_budget_is_spent_in_the_month_in_which_the_work_is_done() -> None:
    # Two hours of November, then December. 3 h x $1 from slot 1: $1 in November, $2 in December.
    a = pool("a", nodes=2)
    team = Queue(name="team", budget_usd_per_month=2.5)
    asked = problem(
        (a,), (job("j", mode(a, hours=3), queue="team"),), start=MONTH_END, queues=(team,)
    )
    table = build(asked)
    (option,) = table.options
    assert [
        spent_usd(asked.pools[0], option, 1, *month) for month in ((0, 2), (2, 6))
    ] == pytest.approx([1, 2])
    occupancy = Occupancy(table)
    assert [occupancy.within_limits(option, t) for t in range(4)] == [True, True, False, False]
    occupancy.take(Booking(option=0, start=1, counts=((1, 0),)))
    assert list(occupancy.budgets[0].left.values()) == pytest.approx([1.5, 0.5])
    assert not occupancy.within_limits(option, 0)  # another $1 of December


def test_a_service_without_a_replica_spends_nothing() -> None:
    a = pool("a")
    idle = job("idle", mode(a, serves=1.0), need=Demand(per_slot=(0.0,) * 6, min_replicas=0))
    (option,) = build(problem((a,), (idle,))).options
    assert spent_usd(a, option, 0, 0, 6) == 0.0
