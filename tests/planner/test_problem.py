"""The question's own arithmetic: time in slots, calendar months, queues, lengths."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.problem import Amounts, Demand, Grid, Queue, hours_of, replicas_for
from tests.planner.worlds import START, grid, job, mode, pool, problem


def test_an_instant_lies_in_the_slot_that_holds_it() -> None:
    half_hours = grid(slots=4, slot_seconds=1800)
    for minutes, floor, ceil in ((0, 0, 0), (29, 0, 1), (30, 1, 1), (31, 1, 2), (-1, -1, 0)):
        at = START + timedelta(minutes=minutes)
        assert (half_hours.floor(at), half_hours.ceil(at)) == (floor, ceil)
    assert half_hours.time(3) == START + timedelta(minutes=90)


@given(st.integers(-10_000, 10_000), st.integers(1, 10**5))
def test_the_slot_of_a_slots_beginning_is_that_slot(slot: int, seconds: int) -> None:
    made = grid(slot_seconds=seconds)
    assert made.floor(made.time(slot)) == made.ceil(made.time(slot)) == slot


def test_work_holds_whole_slots_and_at_least_one() -> None:
    half_hours = grid(slot_seconds=1800)
    lengths = [half_hours.slots_for(h) for h in (0.0, 0.1, 0.5, 0.51, 1.0, 1.0 + 1e-9)]
    assert lengths == [1, 1, 1, 2, 2, 2]


def test_months_are_those_of_utc_and_a_slot_is_of_the_month_in_which_it_begins() -> None:
    # From 23:30 UTC on 30 November, slots of an hour: December begins within slot 0, so with 1.
    start = datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    assert Grid(start=start, slot_seconds=3600, slots=4).months() == (
        ("2026-11", 0, 1),
        ("2026-12", 1, 4),
    )


def test_a_year_of_days_has_twelve_months() -> None:
    year = Grid(start=datetime(2026, 1, 1, tzinfo=UTC), slot_seconds=86_400, slots=365).months()
    assert [end - begin for _, begin, end in year] == [
        *(31, 28, 31, 30, 31, 30),
        *(31, 31, 30, 31, 30, 31),
    ]
    assert (year[0][0], year[-1][0]) == ("2026-01", "2026-12")


def test_a_slot_longer_than_a_month_is_of_the_month_in_which_it_begins() -> None:
    months = Grid(
        start=datetime(2026, 1, 31, tzinfo=UTC), slot_seconds=40 * 86_400, slots=2
    ).months()
    assert months == (("2026-01", 0, 1), ("2026-03", 1, 2))


@pytest.mark.parametrize(
    ("seconds", "slots", "start"),
    [(0, 1, START), (1, 0, START), (1, 10**12, START), (1, 1, START.replace(tzinfo=None))],
)
def test_a_grid_without_time_or_zone_is_refused(seconds: int, slots: int, start: datetime) -> None:
    with pytest.raises(ValueError, match="Grid"):
        Grid(start=start, slot_seconds=seconds, slots=slots)


def test_resources_multiply_but_the_memory_of_a_gpu_is_each_ones() -> None:
    one = Amounts(gpu_milli=500, cpu_milli=3, memory_bytes=7, gpu_memory_bytes=9, mig=(("1g", 2),))
    assert one.times(3) == Amounts(
        gpu_milli=1500, cpu_milli=9, memory_bytes=21, gpu_memory_bytes=9, mig=(("1g", 6),)
    )
    assert [Amounts(gpu_milli=m).gpus for m in (0, 1, 1000, 1001)] == [0, 1, 1, 2]


def test_a_queues_path_leads_from_leaf_to_root_and_ends_where_queues_turn_in_a_circle() -> None:
    queues = (
        Queue(name="root"),
        Queue(name="org", parent="root"),
        Queue(name="team", parent="org"),
        Queue(name="a", parent="b"),
        Queue(name="b", parent="a"),
    )
    asked = problem((pool("p"),), (), queues=queues)
    assert asked.queue_path("team") == ("team", "org", "root")
    assert asked.queue_path("a") == ("a", "b")
    assert asked.queue_path("") == ()


def test_lengths_and_replicas_are_those_of_the_mode() -> None:
    p = pool("p")
    batch = job("j", mode(p, hours=3.0, replicas=2))
    assert hours_of(batch, batch.modes[0]) == pytest.approx(3.0)
    idle = mode(p, serves=0.0)
    assert hours_of(batch, idle) == math.inf
    need = Demand(per_slot=(0.0, 2.0, 2.1), min_replicas=1)
    assert [replicas_for(need, mode(p, serves=2.0), t) for t in range(3)] == [1, 1, 2]
    with pytest.raises(TypeError, match="chat is a service"):
        hours_of(job("chat", need=Demand(per_slot=(1.0,) * 6)), idle)


def test_nodes_of_a_pool_come_in_its_order_and_are_there_in_their_windows() -> None:
    p = pool("p", windows=((0, 2, 3), (2, 4, 1), (4, 6, 2)))
    asked = problem((p,), ())
    assert [n.name for n in asked.nodes_of("p")] == ["p-0", "p-1", "p-2"]
    assert [p.nodes_at(t) for t in range(7)] == [3, 3, 1, 1, 2, 2, 0]
