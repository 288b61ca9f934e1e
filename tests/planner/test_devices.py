"""Parts of GPUs: by hand, taken and given back over time, and plans of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from planner import placement
from planner.booking import Booking
from planner.check import violations
from planner.devices import Unit, distinct_geometries, unit_of
from planner.inventory import WHOLE
from planner.occupancy import Occupancy
from planner.plan import Plan, Status
from planner.problem import Amounts, Demand, Problem, Queue
from planner.solve.pick import solve
from planner.table import Table, build
from tests.planner.worlds import GEOMETRIES, GIB, job, mode, pool, problem, random_problem

SLICED = pool("a", gpus=2, mig=GEOMETRIES)  # [3g, 3g] or [3g, 2g, 1g]
SHARED = pool("a", gpus=2, gpu_gib=8)


def devices(plan: Plan) -> dict[str, list[tuple[int, ...]]]:
    """The GPUs of each job's segments on its only node, in order of start."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for s in plan.segments:
        (place,) = s.placement
        found.setdefault(s.job, []).append(place.devices)
    return found


def proved(asked: Problem) -> Plan:
    plan = solve(asked)
    assert violations(asked, plan) == ()
    assert plan.status is Status.OPTIMAL
    return plan


# -- what a device holds -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "geometry", "units"),
    [
        (Amounts(gpu_milli=2000), WHOLE, 1),
        (Amounts(gpu_milli=300), WHOLE, 3),  # 900 of 1000 thousandths
        (Amounts(gpu_milli=300, gpu_memory_bytes=3 * GIB), WHOLE, 2),  # 6 of 8 GiB
        (Amounts(gpu_milli=300, gpu_memory_bytes=9 * GIB), WHOLE, 0),
        (Amounts(gpu_milli=300), 0, 0),
        (Amounts(mig=(("3g.40gb", 1),)), 0, 2),
        (Amounts(mig=(("3g.40gb", 1),)), 1, 1),
        (Amounts(mig=(("2g.20gb", 1),)), 0, 0),
        (Amounts(mig=(("2g.20gb", 1),)), WHOLE, 0),
    ],
)
def test_units_that_an_empty_device_holds(amounts: Amounts, geometry: int, units: int) -> None:
    unit = unit_of(amounts)
    assert unit is not None
    assert unit.fits(replace(SLICED, capacity=SHARED.capacity), geometry) == units


def test_what_takes_no_gpu_has_no_unit() -> None:
    assert unit_of(Amounts(cpu_milli=1000)) is None
    assert unit_of(Amounts(gpu_milli=3000)) == Unit(count=3, milli=1000)


def test_geometries_that_say_the_same_are_one() -> None:
    listed = (("1g.10gb", "3g.40gb"), ("3g.40gb",), ("3g.40gb", "1g.10gb"))
    assert distinct_geometries(replace(SLICED, mig_geometries=listed)) == (0, 1)


# -- over time -----------------------------------------------------------------------------------


def parted(seed: int) -> Table:
    return build(random_problem(seed))


parts = st.integers(0, 10**6).map(parted).filter(lambda t: any(t.apart))
picks = st.lists(st.integers(0, 99), max_size=12)


def taken(occupancy: Occupancy, chosen: Sequence[int]) -> list[Booking]:
    """Takes, for each pick, an option where it fits."""
    found = []
    for pick in chosen:
        options = occupancy.table.options
        booking = placement.earliest(occupancy, options[pick % len(options)])
        if booking is not None:
            occupancy.take(booking)
            found.append(booking)
    return found


def state(occupancy: Occupancy) -> list[object]:
    """What is free of each device in each slot."""
    slots = occupancy.table.problem.grid.slots
    found: list[object] = []
    for p, kept in occupancy.devices.items():
        at = occupancy.edges[p].searchsorted(np.arange(slots), side="right") - 1
        columns = (kept.milli, kept.memory, kept.geometry, kept.instances)
        found.append([column[..., at].tolist() for column in columns])
    return found


@settings(max_examples=50, deadline=None)
@given(parts, picks, st.randoms(use_true_random=False))
def test_taken_and_released_in_any_order_every_device_is_free_again(
    table: Table, chosen: list[int], rng: Random
) -> None:
    occupancy = Occupancy(table)
    before = state(occupancy)
    bookings = taken(occupancy, chosen)
    rng.shuffle(bookings)
    for booking in bookings:
        occupancy.release(booking)
    assert state(occupancy) == before


@settings(max_examples=50, deadline=None)
@given(parts, picks)
def test_placing_alone_holds_nothing_and_what_is_taken_breaks_no_rule_of_devices(
    table: Table, chosen: list[int]
) -> None:
    occupancy = Occupancy(table)
    bookings = taken(occupancy, chosen)
    before = state(occupancy)
    for option in table.options:
        placement.earliest(occupancy, option)
    assert state(occupancy) == before
    one_each = {table.options[b.option].job: b for b in reversed(bookings)}.values()
    plan = Plan(status=Status.FEASIBLE, segments=placement.segments(table, one_each))
    told = ("GPU", "MIG", "overbook")
    assert [v for v in violations(table.problem, plan) if any(word in v for word in told)] == []


# -- plans ---------------------------------------------------------------------------------------


def test_shares_fill_a_device_and_a_whole_gpu_keeps_the_other() -> None:
    # Four shares of a quarter on one GPU, so that the job of a whole one runs beside them.
    shares = job("shares", mode(SHARED, replicas=4, milli=250))
    whole = job("whole", mode(SHARED), due=1, lateness_usd_per_hour=1.0)
    plan = proved(problem((SHARED,), (shares, whole)))
    found = devices(plan)
    (on,) = set(found["shares"][0])
    assert found == {"shares": [(on,) * 4], "whole": [(1 - on,)]}
    assert {s.start for s in plan.segments} == {0}


def test_shares_that_leave_no_whole_gpu_push_the_job_that_needs_one_back() -> None:
    # Two shares of 0.6 need a GPU each: the whole one waits for its hour.
    shares = job("shares", mode(SHARED, replicas=2, milli=600), deadline=1)
    whole = job("whole", mode(SHARED), due=1, lateness_usd_per_hour=1.0)
    plan = proved(problem((SHARED,), (shares, whole)))
    assert {s.job: s.start for s in plan.segments} == {"shares": 0, "whole": 1}
    assert sorted(devices(plan)["shares"][0]) == [0, 1]


def test_device_memory_is_summed_on_each_device() -> None:
    # Three shares of 0.25 with 5 of 8 GiB: two GPUs hold two of them, the third waits.
    jobs = tuple(
        job(f"j{i}", mode(SHARED, milli=250, gpu_gib=5), due=1, lateness_usd_per_hour=1.0)
        for i in range(3)
    )
    plan = proved(problem((SHARED,), jobs))
    assert sorted(s.start for s in plan.segments) == [0, 0, 1]


def test_an_instance_holds_its_device_in_its_geometry_and_an_empty_one_is_repartitioned() -> None:
    # One GPU. In hour 0 [3g, 2g, 1g] for the 2g; the two 3g need [3g, 3g], from hour 1 on.
    one = pool("a", gpus=1, mig=GEOMETRIES)
    small = job("small", mode(one, profile="2g.20gb"), deadline=1)
    pair = job("pair", mode(one, replicas=2, profile="3g.40gb"), due=0, lateness_usd_per_hour=1.0)
    plan = proved(problem((one,), (small, pair)))
    named = {s.job: (s.start, s.placement[0].geometries) for s in plan.segments}
    assert named == {"small": (0, (1,)), "pair": (1, (0, 0))}
    instances = {s.job: s.placement[0].instances for s in plan.segments}
    assert instances == {"small": (1,), "pair": (0, 1)}


def test_jobs_whose_instances_are_in_one_geometry_share_a_device_at_once() -> None:
    one = pool("a", gpus=1, mig=GEOMETRIES)
    jobs = tuple(
        job(name, mode(one, profile=profile), deadline=1)
        for name, profile in (("a", "3g.40gb"), ("b", "2g.20gb"), ("c", "1g.10gb"))
    )
    plan = proved(problem((one,), jobs))
    assert {s.placement[0].geometries for s in plan.segments} == {(1,)}
    assert sorted(s.placement[0].instances for s in plan.segments) == [(0,), (1,), (2,)]


def test_a_service_of_shares_grows_and_shrinks_without_moving_a_replica() -> None:
    need = Demand(per_slot=(1.0, 3.0, 3.0, 2.0, 1.0, 1.0))
    service = job("chat", mode(SHARED, milli=400, serves=1.0), need=need)
    plan = proved(problem((SHARED,), (service,)))
    runs = devices(plan)["chat"]
    assert [len(r) for r in runs] == [1, 3, 2, 1]
    for few, many in ((runs[0], runs[1]), (runs[2], runs[1]), (runs[3], runs[2])):
        assert all(few.count(d) <= many.count(d) for d in few)


def test_a_service_on_instances_keeps_those_it_has() -> None:
    need = Demand(per_slot=(1.0, 2.0, 2.0, 1.0, 1.0, 1.0))
    one = pool("a", gpus=1, mig=GEOMETRIES)
    service = job("chat", mode(one, profile="3g.40gb", serves=1.0), need=need)
    plan = proved(problem((one,), (service,)))
    held = [s.placement[0].instances for s in plan.segments]
    assert [len(h) for h in held] == [1, 2, 1]
    assert set(held[0]) <= set(held[1])
    assert set(held[2]) <= set(held[1])


def test_an_unhealthy_gpu_takes_no_share() -> None:
    shares = job("shares", mode(SHARED, replicas=2, milli=400))
    asked = problem((SHARED,), (shares,), unhealthy=frozenset([("a-0", 0)]))
    assert devices(proved(asked)) == {"shares": [(1, 1)]}


def test_a_queue_limit_counts_shares_by_thousandths() -> None:
    # Three shares of 0.4 under a limit of one GPU: two at once, the third behind them.
    jobs = tuple(
        job(f"j{i}", mode(SHARED, milli=400), queue="q", due=1, lateness_usd_per_hour=1.0)
        for i in range(3)
    )
    plan = proved(problem((SHARED,), jobs, queues=(Queue(name="q", limit=(("a", 1),)),)))
    assert sorted(s.start for s in plan.segments) == [0, 0, 1]
