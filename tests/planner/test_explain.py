"""Explanations of plans by hand, and what must hold of every one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner import placement
from planner.explain import Bind, Binding, Explanation, UnknownJob, Way, explain
from planner.occupancy import Occupancy
from planner.plan import Plan, Price, QueuePrice, Status
from planner.problem import Amounts, Billing, Excluded, Problem, Queue
from planner.solve import build as insertion
from planner.solve.clock import Limits
from planner.solve.pick import solve
from planner.table import Option, Table, build
from tests.planner.worlds import job, larger_problem, mode, pool, problem, random_problem

CHEAP = pool("a")  # one GPU at $1, six slots of an hour
DEAR = pool("b", usd=3.0)
BOTH = (mode(CHEAP, hours=4), mode(DEAR, hours=2))  # $4 or $6


def explained(asked: Problem, name: str) -> Explanation:
    return explain(asked, solve(asked), name)


def crowd() -> Problem:
    """Two jobs of 4 h on the cheap GPU or 2 h on the dear one: the six hours hold one of them."""
    return problem((CHEAP, DEAR), (job("x", *BOTH), job("y", *BOTH)))


def pushed(asked: Problem, plan: Plan, pool_name: str) -> str:
    """The job that the plan has on a pool."""
    (name,) = (
        s.job for s in plan.segments if asked.job_by_name[s.job].modes[s.mode].pool == pool_name
    )
    return name


# -- what other ways cost --------------------------------------------------------------------------


def test_a_job_with_the_pool_to_itself_has_its_cheapest_way() -> None:
    found = explained(problem((CHEAP, DEAR), (job("x", *BOTH),)), "x")
    assert found.why == "No other way that it has costs it less."
    assert found.now == Way(
        mode=0,
        pool="a",
        gpus=1,
        layout="",
        start=0,
        end=4,
        money_usd=4.0,
        lateness_usd=0.0,
        capacity_usd=0.0,
        fits=True,
        change_usd=0.0,
    )
    (other,) = found.ways
    # $6 there, $4 here.
    assert (other.pool, other.start, other.own_usd, other.fits) == ("b", 0, 6.0, True)
    assert other.change_usd == pytest.approx(2.0)
    assert found.binds == ()


def test_the_cheaper_way_that_another_job_holds_names_it() -> None:
    asked = crowd()
    plan = solve(asked)
    found, other = explain(asked, plan, pushed(asked, plan, "b")), pushed(asked, plan, "a")
    (way,) = found.ways
    assert (way.pool, way.fits, way.displaces, way.change_usd) == ("a", False, (other,), None)
    assert found.binds == (
        Binding(
            what=Bind.CAPACITY,
            name="a",
            message=f"a has no room from 01 Dec 00:00 to 01 Dec 04:00: {other}",
        ),
    )


def test_capacity_counts_at_the_shadow_prices() -> None:
    # At $1.25 for each of the cheap GPU's hours, its 4 h cost $4 + $5 and the dear one's 2 h $6.
    asked = crowd()
    plan = solve(asked)
    priced = replace(plan, prices=(Price(pool="a", start=0, end=6, usd_per_gpu_hour=1.25),))
    found = explain(asked, priced, pushed(asked, plan, "b"))
    (way,) = found.ways
    assert (way.own_usd, way.capacity_usd, way.total_usd) == pytest.approx((4.0, 5.0, 9.0))
    assert found.why == (
        "a would cost it $2.00 less, but would take capacity that is worth $5.00 more to others."
    )


def test_the_start_of_least_total_is_the_one_looked_at() -> None:
    # The first three hours are worth $2 each to others: the job's 3 h there cost $6 more.
    asked = problem((CHEAP, DEAR), (job("x", mode(CHEAP, hours=3), mode(DEAR, hours=1)),))
    plan = solve(asked)  # both ways cost $3
    priced = replace(plan, prices=(Price(pool="a", start=0, end=3, usd_per_gpu_hour=2.0),))
    ways = explain(asked, priced, "x").ways
    assert [(w.pool, w.start, w.capacity_usd) for w in ways if w.pool == "a"] == [("a", 3, 0.0)]


def test_scarce_cpus_are_priced_by_what_goes_with_a_gpu() -> None:
    # Two GPUs and four CPUs a node: three CPUs are one and a half GPUs' worth, 2 h at $2: $6.
    wide = pool("a", gpus=2, cpus=4)
    asked = problem((wide,), (job("x", mode(wide, hours=2, cpus=3, usd=1.0)),))
    price = Price(pool="a", start=0, end=6, usd_per_gpu_hour=2.0, resource="cpu")
    now = explain(asked, replace(solve(asked), prices=(price,)), "x").now
    assert now is not None
    assert now.capacity_usd == pytest.approx(6.0)


def test_a_part_of_a_gpu_is_priced_by_its_part() -> None:
    # A quarter of a GPU for 2 h at $2: $1.
    whole = mode(CHEAP, hours=2)
    part = replace(whole, amounts=Amounts(gpu_milli=250), usd_per_replica_hour=0.25)
    asked = problem((CHEAP,), (job("x", part),))
    price = Price(pool="a", start=0, end=6, usd_per_gpu_hour=2.0)
    now = explain(asked, replace(solve(asked), prices=(price,)), "x").now
    assert now is not None
    assert (now.money_usd, now.capacity_usd) == pytest.approx((0.5, 1.0))


def test_what_a_job_takes_of_its_queues_is_priced_too() -> None:
    # 2 h of a GPU at $1: $3 an hour under the limit of its queue, and half of its $2 in the budget
    # of the queue above.
    queues = (Queue(name="all"), Queue(name="team", parent="all"))
    asked = problem((CHEAP,), (job("x", mode(CHEAP, hours=2), queue="team"),), queues=queues)
    prices = (
        QueuePrice(queue="team", what="a", usd=3.0),
        QueuePrice(queue="all", what="budget", usd=0.5),
        QueuePrice(queue="other", what="a", usd=9.0),
    )
    now = explain(asked, replace(solve(asked), queue_prices=prices), "x").now
    assert now is not None
    assert now.capacity_usd == pytest.approx(7.0)


def test_a_node_that_runs_anyway_costs_the_plan_nothing_more() -> None:
    # A node of two GPUs at $1, billed whole: the second job's share is $4, the bill stays $8. On
    # the dear pool it costs $6.
    node = pool("a", gpus=2, billing=Billing.NODE)
    long = job("long", mode(node, hours=4, usd=1.0))
    asked = problem(
        (node, DEAR), (long, job("x", mode(node, hours=4, usd=1.0), mode(DEAR, hours=2)))
    )
    found = explained(asked, "x")
    assert found.now is not None
    assert (found.now.pool, found.now.money_usd) == ("a", 4.0)
    (other,) = (w for w in found.ways if w.pool == "b")
    assert other.change_usd == pytest.approx(6.0)


# -- what binds ------------------------------------------------------------------------------------


def test_a_start_is_bound_by_release_or_by_what_it_waits_for() -> None:
    first = job("first", mode(CHEAP, hours=2), release=1)
    then = job("then", mode(DEAR, hours=1), after=("first",))
    asked = problem((CHEAP, DEAR), (first, then))
    assert [b.what for b in explained(asked, "first").binds] == [Bind.RELEASE]
    (bound,) = explained(asked, "then").binds
    assert (bound.what, bound.name) == (Bind.DEPENDENCY, "first")
    assert bound.message == "it waits for first, which ends 01 Dec 03:00"


def test_a_node_that_must_start_first_binds() -> None:
    slow = pool("a", startup_seconds=3600, billing=Billing.NODE)
    (bound,) = explained(problem((slow,), (job("x", mode(slow, hours=1)),)), "x").binds
    assert (bound.what, bound.name) == (Bind.STARTUP, "a")


def test_a_cheap_pool_too_slow_for_the_deadline_binds_and_is_closed() -> None:
    found = explained(problem((CHEAP, DEAR), (job("x", *BOTH, deadline=3),)), "x")
    (bound,) = found.binds
    assert (bound.what, bound.name) == (Bind.DEADLINE, "a")
    assert found.closed == (
        Excluded(pool="a", reason="window", message="1 GPUs there could not end it in time"),
    )


def test_a_queues_limit_binds() -> None:
    # One GPU of "a" for the queue, though the pool has two: one of the two pays $6.
    two = pool("a", nodes=2)
    modes = (mode(two, hours=4), mode(DEAR, hours=2))
    jobs = tuple(job(n, *modes, queue="team") for n in ("x", "y"))
    asked = problem((two, DEAR), jobs, queues=(Queue(name="team", limit=(("a", 1),)),))
    plan = solve(asked)
    (bound,) = explain(asked, plan, pushed(asked, plan, "b")).binds
    assert (bound.what, bound.name) == (Bind.QUEUE_LIMIT, "team")


# -- left out --------------------------------------------------------------------------------------


def test_a_job_left_out_is_told_when_it_would_fit() -> None:
    # Two of 4 h before hour 5 on a GPU that holds one of them: the next fits from hour 4 on.
    jobs = tuple(job(n, mode(pool("a", slots=12), hours=4), deadline=5, slots=12) for n in "xy")
    asked = problem((pool("a", slots=12),), jobs, slots=12)
    plan = solve(asked)
    (out,) = (u.job for u in plan.unplaced)
    found = explain(asked, plan, out)
    assert found.now is None
    assert found.why.startswith("It is left out: a is full when it could run")
    assert found.expected is not None
    assert (found.expected.start, found.expected.pool) == (4, "a")
    assert found.expected.message == "it would end 3 h after its deadline"
    (way,) = found.ways
    assert {out, *way.displaces} == {"x", "y"}


def test_a_job_that_is_not_worth_its_price_has_room_and_says_so() -> None:
    found = explained(problem((CHEAP,), (job("x", mode(CHEAP, hours=4), unplaced_usd=3.0),)), "x")
    assert found.expected is not None
    assert found.expected.start == 0
    assert "costs more than not running it" in found.expected.message


def test_a_job_that_no_pool_holds_is_not_expected() -> None:
    found = explained(problem((CHEAP,), (job("x", mode(CHEAP, gpus=2)),)), "x")
    assert found.expected is not None
    assert (found.expected.start, found.ways) == (None, ())


def test_a_job_that_waits_for_one_left_out_is_not_expected_before_that() -> None:
    first = job("first", mode(CHEAP, hours=4), unplaced_usd=1.0)
    then = job("then", mode(CHEAP, hours=1), unplaced_usd=1.5, after=("first",))
    found = explained(problem((CHEAP,), (first, then)), "then")
    assert found.expected is not None
    assert found.expected.message == "not before first is planned"


def test_a_job_that_is_not_there_is_unknown() -> None:
    with pytest.raises(UnknownJob):
        explained(crowd(), "z")


# -- whatever the world ----------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, 120, 40))
def test_no_single_move_betters_a_plan_that_is_proved_optimal(first: int) -> None:
    better = {}
    for seed in range(first, first + 40):
        asked = random_problem(seed)
        plan = solve(asked)
        if plan.status is not Status.OPTIMAL or len({j.rank for j in asked.jobs}) > 1:
            continue
        for j in asked.jobs:
            for way in explain(asked, plan, j.name).ways:
                if way.change_usd is not None and way.change_usd < -1e-6:
                    better[seed] = j.name, way
    assert better == {}


def pools_of(table: Table, option: Option) -> str:
    """As a way names them."""
    return " + ".join(table.problem.pools[part.pool].name for part in table.parts(option))


def test_without_those_it_displaces_a_job_fits() -> None:
    looked_at = 0
    for seed in range(4):
        asked = larger_problem(seed)
        plan, table = solve(asked, Limits(seconds=0.5)), build(asked)
        for number, j in enumerate(asked.jobs):
            for way in explain(asked, plan, j.name).ways:
                if not way.displaces:
                    continue
                looked_at += 1
                stay = Occupancy(table)
                for s in plan.segments:
                    if s.job not in (j.name, *way.displaces):
                        stay.hold(s)
                options = [
                    table.options[i]
                    for i in table.of_job[number]
                    if table.options[i].mode == way.mode
                    and pools_of(table, table.options[i]) == way.pool
                ]
                assert any(placement.place(stay, option, way.start) for option in options)
    assert looked_at > 10


def test_what_a_plan_holds_is_what_its_bookings_hold() -> None:
    for seed in range(60):
        table = build(random_problem(seed))
        made = insertion.construct(table, {}, opportunity=np.zeros(len(table.options)))
        booked, held = Occupancy(table), Occupancy(table)
        for booking in made.values():
            booked.take(booking)
        segments = placement.unnamed_segments(table, made.values())
        for s in segments:
            held.hold(s)
        assert same(booked, held)
        for s in segments:
            held.hold(s, 1)
        assert same(held, Occupancy(table))


def same(one: Occupancy, other: Occupancy) -> bool:
    """Whether two indices say the same of every slot, limit and budget."""
    slots = range(one.table.problem.grid.slots)
    pools = range(len(one.table.problem.pools))
    return (
        all(np.array_equal(one.free_at(p, t), other.free_at(p, t)) for p in pools for t in slots)
        and all(map(np.array_equal, one.quota, other.quota))
        and all(
            a.left == pytest.approx(b.left) for a, b in zip(one.budgets, other.budgets, strict=True)
        )
        and one.changes == other.changes
    )
