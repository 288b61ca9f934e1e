"""A service's demand as replicas: up before it rises, down after it has fallen, no flapping."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from planner.plan import Placement, Segment
from planner.problem import Demand, Interruption, Job
from scheduler.controller import curve
from scheduler.controller.state import Tracked
from tests.planner.worlds import START, grid, job, mode, pool

POOL = pool("row", nodes=8, gpus=1, slots=12)
SERVES = mode(POOL, replicas=8, serves=10.0)  # ten requests an hour a replica


def service(*per_slot: float, load_seconds: float = 0.0, least: int = 1) -> Job:
    """A service with this demand in replicas, slot by slot: 1.5 is 15 requests an hour."""
    need = Demand(per_slot=tuple(10 * asked for asked in per_slot), min_replicas=least)
    made = job("chat", SERVES, slots=len(per_slot), need=need)
    return replace(made, interruption=Interruption(restart_seconds=load_seconds))


def held(*per_slot: float, before: int = 0, load_seconds: float = 0.0) -> tuple[int, ...]:
    made = service(*per_slot, load_seconds=load_seconds)
    return curve.held(made, SERVES, grid(len(per_slot)), before)


def test_each_slot_has_what_its_demand_takes_and_one_replica_at_least() -> None:
    # 0 asks for none, and somebody has to answer; 2.1 takes three; 3.0 just three.
    assert held(0, 1, 2.1, 3.0, 3.5) == (1, 1, 3, 3, 4)


def test_it_rises_by_the_time_that_a_replica_loads_before_its_demand() -> None:
    # Half an hour of loading is a slot of an hour; an hour and a bit is two.
    night = (1, 1, 1, 1, 4, 4)
    assert held(*night, load_seconds=1800) == (1, 1, 1, 4, 4, 4)
    assert held(*night, load_seconds=3700) == (1, 1, 4, 4, 4, 4)


def test_it_falls_when_the_demand_has_fallen_and_not_before() -> None:
    assert held(4, 4, 1, 1, 1, load_seconds=1800) == (4, 4, 1, 1, 1)


def test_a_curve_that_wiggles_by_less_than_a_replica_asks_for_no_change() -> None:
    # Between 1.9 and 2.1 the whole numbers are 2 and 3; what it has risen to once it keeps.
    assert held(1.9, 2.1, 1.9, 2.1, 1.9, 2.1) == (2, 3, 3, 3, 3, 3)
    assert held(2.1, 1.9, 1.9, 2.1) == (3, 3, 3, 3)


def test_a_dip_of_a_whole_replica_is_given_back() -> None:
    # From 3.0 to 1.9 and back: 1.1 replicas less.
    assert held(3.0, 1.9, 3.0) == (3, 2, 3)


def test_a_shallow_dip_that_lasts_as_long_as_a_night_is_given_back() -> None:
    # 1.2 by day, 0.4 by night: less than one, for four hours; for three it is kept.
    assert held(1.2, 0.4, 0.4, 0.4, 0.4, 1.2) == (2, 1, 1, 1, 1, 2)
    assert held(1.2, 0.4, 0.4, 0.4, 1.2) == (2, 2, 2, 2, 2)


def test_what_would_be_asked_for_again_before_it_is_of_use_is_kept() -> None:
    # Loading takes a slot: the demand is low for three, less one to load, and two are not enough.
    assert held(4, 1, 1, 1, 4, load_seconds=3600) == (4, 4, 4, 4, 4)
    assert held(4, 1, 1, 1, 1, 4, load_seconds=3600) == (4, 1, 1, 1, 4, 4)


def test_what_is_held_already_counts_as_the_slot_before() -> None:
    # In the middle of a shallow dip: whoever looks anew keeps what it has, if it is known.
    assert held(1.9, 2.1, 2.1) == (2, 3, 3)
    assert held(1.9, 2.1, 2.1, before=3) == (3, 3, 3)


# -- at its places ---------------------------------------------------------------------------------

SPOTS = (
    Placement(node="row-0", replicas=2, devices=(0, 1)),
    Placement(node="row-1", replicas=1, devices=(0,)),
)


def test_the_first_places_are_held_and_the_last_ones_given_back() -> None:
    assert curve.first(SPOTS, 3) == SPOTS
    assert curve.first(SPOTS, 1) == (Placement(node="row-0", replicas=1, devices=(0,)),)


def test_places_beside_known_ones_are_joined_node_by_node() -> None:
    more = (Placement(node="row-1", replicas=1, devices=(4,)), Placement(node="row-2", replicas=1))
    joined = curve.joined(SPOTS, more)
    assert [(p.node, p.replicas, p.devices) for p in joined] == [
        ("row-0", 2, (0, 1)),
        ("row-1", 2, (0, 4)),
        ("row-2", 1, ()),
    ]


def running(made: Job, slots: int) -> Tracked:
    whole = Segment(job="chat", mode=0, replicas=3, start=0, end=slots, work=0.0, placement=SPOTS)
    one = Tracked(job=made, arrived=START, scales=True, spots=SPOTS, segments=(whole,))
    return curve.laid(one, grid(slots), 0)


def test_a_service_has_a_segment_for_each_number_of_replicas() -> None:
    # 1, 1, 3, 3, 1: three segments; their work is the requests in them.
    found = running(service(1, 1, 3, 3, 1), 5).segments
    assert [(s.start, s.end, s.replicas, s.work) for s in found] == [
        (0, 2, 1, 20.0),
        (2, 4, 3, 60.0),
        (4, 5, 1, 10.0),
    ]
    assert [tuple(p.node for p in s.placement) for s in found] == [
        ("row-0",),
        ("row-0", "row-1"),
        ("row-0",),
    ]


def test_more_than_it_has_places_for_is_not_held() -> None:
    assert [s.replicas for s in running(service(1, 5), 2).segments] == [1, 3]


def test_by_node_it_is_known_when_a_service_rises_there() -> None:
    # From one to three: row-0 gets a second, row-1 its first. Falls are none.
    assert curve.rises(running(service(1, 1, 3, 3, 1), 5)) == {"row-0": [2], "row-1": [2]}


@pytest.mark.parametrize("gone", ["row-0", "row-1"])
def test_a_place_that_is_gone_and_not_held_now_is_left_out(gone: str) -> None:
    one = running(service(1, 3), 2)
    kept = curve.without(one, {"row-0", "row-1"} - {gone})
    # row-0 is held now: what becomes of that is decided elsewhere.
    assert [p.node for p in kept.spots] == (["row-0", "row-1"] if gone == "row-0" else ["row-0"])
    assert [s.replicas for s in kept.segments] == ([1, 3] if gone == "row-0" else [1, 2])


def test_on_a_grid_that_moved_on_it_reaches_to_the_new_end() -> None:
    # Four slots of a day of four; after one slot the demand of the day before follows.
    one = running(service(1, 1, 3, 3), 4)
    later = grid(4, start=START + timedelta(hours=1))
    passed = tuple(replace(s, start=s.start - 1, end=s.end - 1) for s in one.segments)
    moved = replace(one, job=service(1, 3, 3, 1), segments=passed)
    found = curve.reaching(moved, later, 3).segments
    assert [(s.start, s.end, s.replicas) for s in found] == [(0, 1, 1), (1, 3, 3), (3, 4, 1)]
