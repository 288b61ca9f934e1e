"""Which nodes, and which GPUs of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import placement
from planner.booking import Booking
from planner.check import violations
from planner.occupancy import Occupancy
from planner.plan import Segment
from planner.problem import Billing, Demand, Job, Pool, Problem
from planner.table import Table, build
from scheduler.baselines import first_come_first_served
from tests.planner.worlds import HOSTNAME, job, mode, pool, problem, random_problem

ROW = pool("a", nodes=3, gpus=4)


def world(*jobs: Job, of: Pool = ROW) -> tuple[Table, Occupancy]:
    table = build(problem((of,), jobs))
    return table, Occupancy(table)


def booking(option: int, start: int, *counts: int) -> Booking:
    return Booking(option=option, start=start, counts=(counts,))


def placed(occupancy: Occupancy, option: int, start: int = 0) -> tuple[tuple[int, ...], ...] | None:
    found = placement.place(occupancy, occupancy.table.options[option], start)
    return None if found is None else found.counts


# -- nodes ---------------------------------------------------------------------------------------


def test_the_tightest_node_is_filled_first() -> None:
    # One GPU free on node 1, two on node 2, four on node 0.
    _, occupancy = world(job("j", mode(ROW)), job("k", mode(ROW, gpus=2)))
    occupancy.take(booking(0, 0, 0, 3, 2))
    assert placed(occupancy, 0) == ((0, 1, 0),)
    assert placed(occupancy, 1) == ((0, 0, 1),)


def test_a_gang_takes_what_is_left_of_the_tight_nodes_and_then_the_next() -> None:
    _, occupancy = world(job("j", mode(ROW)), job("gang", mode(ROW, replicas=4)))
    occupancy.take(booking(0, 0, 0, 3, 2))
    assert placed(occupancy, 1) == ((1, 1, 2),)


def test_among_equals_the_node_that_was_used_last_is_used_on() -> None:
    _, occupancy = world(job("j", mode(ROW)))
    occupancy.take(booking(0, 2, 0, 0, 1))
    assert placed(occupancy, 0, start=3) == ((0, 0, 1),)
    assert placed(occupancy, 0, start=4) == ((1, 0, 0),)


def test_of_rented_nodes_the_one_idle_for_the_shortest_time_is_used_on() -> None:
    # Node 0 ends at 1, node 2 at 2, node 1 never ran: at slot 4 they are idle for 3, 2, 4 and more.
    rented = replace(ROW, billing=Billing.NODE)
    _, occupancy = world(job("j", mode(rented)), of=rented)
    occupancy.take(booking(0, 0, 1, 0, 0))
    occupancy.take(booking(0, 1, 0, 0, 1))
    assert list(occupancy.idle_before(0, 4)) == [3, 5, 2]
    assert placed(occupancy, 0, start=4) == ((0, 0, 1),)


def test_a_gang_that_must_be_together_takes_the_tightest_node_that_holds_it() -> None:
    _, occupancy = world(job("j", mode(ROW)), job("gang", mode(ROW, replicas=3, together=HOSTNAME)))
    occupancy.take(booking(0, 0, 0, 2, 1))
    assert placed(occupancy, 1) == ((0, 0, 3),)
    occupancy.take(booking(0, 0, 2, 0, 1))
    assert placed(occupancy, 1) is None


def test_a_gang_that_would_rather_be_together_is_where_it_can_and_apart_where_not() -> None:
    wish = replace(mode(ROW, replicas=3), together=HOSTNAME)
    _, occupancy = world(job("j", mode(ROW)), job("gang", wish))
    occupancy.take(booking(0, 0, 0, 2, 3))
    assert placed(occupancy, 1) == ((3, 0, 0),)
    occupancy.take(booking(0, 0, 3, 0, 0))
    assert placed(occupancy, 1) == ((1, 2, 0),)  # one, two and one are free: two nodes will do


def test_replicas_that_are_to_be_apart_take_a_node_each() -> None:
    _, occupancy = world(job("gang", mode(ROW, replicas=3, spread=HOSTNAME)))
    assert placed(occupancy, 0) == ((1, 1, 1),)


def test_what_does_not_fit_is_not_placed_and_nothing_is_booked() -> None:
    _, occupancy = world(job("j", mode(ROW)), job("gang", mode(ROW, replicas=12)))
    assert placed(occupancy, 1) == ((4, 4, 4),)
    assert placed(occupancy, 1) == ((4, 4, 4),)  # the first asked, and took nothing
    occupancy.take(booking(0, 0, 1, 0, 0))
    assert placed(occupancy, 1) is None


# -- times ---------------------------------------------------------------------------------------


def test_the_earliest_start_is_where_enough_is_free_for_the_whole_length() -> None:
    one = pool("a")
    _, occupancy = world(job("j", mode(one)), job("k", mode(one, hours=2)), of=one)
    for start in (1, 4):
        occupancy.take(booking(0, start, 1))
    options = occupancy.table.options
    found = [placement.earliest(occupancy, options[i]) for i in (0, 1)]
    assert [b.start for b in found if b is not None] == [0, 2]


@pytest.mark.parametrize(
    ("first", "last", "start"), [(1, None, 1), (4, 5, 4), (0, 0, 0), (6, 9, None)]
)
def test_the_earliest_start_keeps_to_the_range_that_is_asked(
    first: int, last: int | None, start: int | None
) -> None:
    _, occupancy = world(job("j", mode(ROW)))
    found = placement.earliest(occupancy, occupancy.table.options[0], first=first, last=last)
    assert (None if found is None else found.start) == start


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 99), max_size=8))
def test_no_start_before_the_earliest_fits(seed: int, picks: list[int]) -> None:
    table = build(random_problem(seed))
    occupancy = Occupancy(table)
    for pick in picks if table.options else []:
        option = table.options[pick % len(table.options)]
        found = placement.earliest(occupancy, option)
        before = range(option.first, option.last + 1 if found is None else found.start)
        assert all(placement.place(occupancy, option, t) is None for t in before)
        if found is not None:
            occupancy.take(found)


# -- services ------------------------------------------------------------------------------------


def serving(*per_slot: float) -> Job:
    return job("chat", mode(ROW, serves=1.0), need=Demand(per_slot=per_slot))


def test_a_service_stops_first_what_it_started_last_and_moves_nothing() -> None:
    # Node 0 is full but for one GPU until slot 4: growth goes elsewhere and shrinks there again.
    _, occupancy = world(serving(1, 2, 6, 2, 1, 1), job("j", mode(ROW, hours=4)))
    occupancy.take(booking(1, 0, 3, 3, 0))
    counts = placed(occupancy, 0)
    assert counts is not None
    assert [sum(c) for c in counts] == [1, 2, 6, 2, 1]
    for before, after in pairwise(counts):
        change = [b - a for a, b in zip(before, after, strict=True)]
        assert not min(change) < 0 < max(change)
    assert counts[0] == counts[4]
    assert counts[1] == counts[3]


def test_a_service_that_does_not_fit_at_its_peak_is_not_placed() -> None:
    _, occupancy = world(serving(1, 1, 6, 1, 1, 1), job("j", mode(ROW)))
    occupancy.take(booking(1, 2, 3, 3, 1))
    assert placed(occupancy, 0) is None


def test_a_service_that_must_be_together_grows_on_the_node_that_holds_its_peak() -> None:
    # Node 0 has two GPUs free, which is tighter at first, but the peak of three fits only node 1.
    chat = serving(1, 2, 3, 1, 3, 1)
    together = replace(chat.modes[0], together=HOSTNAME, together_required=True)
    full = job("j", mode(ROW, hours=6))
    _, occupancy = world(replace(chat, modes=(together,)), full)
    occupancy.take(booking(1, 0, 2, 1, 0))
    counts = placed(occupancy, 0)
    assert counts == tuple((0, n, 0) for n in (1, 2, 3, 1, 3, 1))
    occupancy.take(booking(1, 0, 0, 1, 2))
    assert placed(occupancy, 0) is None


# -- GPUs ----------------------------------------------------------------------------------------


def devices(found: tuple[Segment, ...]) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(s.job, s.start, p.devices) for s in found for p in s.placement]


def test_gpus_are_named_lowest_first_and_again_once_they_are_free() -> None:
    table, _ = world(job("x", mode(ROW, gpus=2, hours=2)), job("y", mode(ROW)), job("z", mode(ROW)))
    held = (booking(0, 0, 1, 0, 0), booking(1, 1, 1, 0, 0), booking(2, 2, 1, 0, 0))
    assert devices(placement.segments(table, held)) == [
        ("x", 0, (0, 1)),
        ("y", 1, (2,)),
        ("z", 2, (0,)),
    ]


def test_a_service_keeps_its_gpus_while_others_come_and_go() -> None:
    table, _ = world(serving(2, 2, 1, 1, 3, 3), job("a", mode(ROW, hours=3)))
    chat = Booking(option=0, start=0, counts=((2, 0, 0), (1, 0, 0), (3, 0, 0)))
    assert devices(placement.segments(table, (chat, booking(1, 2, 1, 0, 0)))) == [
        ("chat", 0, (0, 1)),
        ("a", 2, (1,)),
        ("chat", 2, (0,)),
        ("chat", 4, (0, 2, 3)),
    ]


def test_segments_come_by_start_and_name_with_their_work() -> None:
    table, _ = world(job("y", mode(ROW, hours=0.5)), job("x", mode(ROW)), serving(2, 2, 2, 1, 1, 1))
    chat = Booking(option=2, start=0, counts=((2, 0, 0), (1, 0, 0)))
    found = placement.segments(table, (booking(0, 1, 1, 0, 0), booking(1, 1, 1, 0, 0), chat))
    assert [(s.job, s.start, s.end, s.replicas, s.work) for s in found] == [
        ("chat", 0, 3, 2, 6.0),
        ("x", 1, 2, 1, 1.0),
        ("y", 1, 2, 1, 1.0),
        ("chat", 3, 6, 1, 3.0),
    ]


@settings(max_examples=80)
@given(st.integers(0, 10**6))
def test_whatever_is_inserted_one_by_one_is_on_gpus_of_its_own(seed: int) -> None:
    asked: Problem = random_problem(seed)
    asked = replace(asked, jobs=tuple(replace(j, tier=0, guarantee="") for j in asked.jobs))
    assert violations(asked, first_come_first_served(asked)) == ()
