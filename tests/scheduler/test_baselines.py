"""First come, first served: what it does, step by step, and that it never beats the planner."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.check import violations
from planner.plan import Plan, Reason, Status
from planner.problem import Billing, Problem, Queue
from planner.solve.pick import solve
from scheduler import baselines
from scheduler.baselines import first_come_first_served, in_reach
from tests.planner.worlds import job, mode, pool, problem, random_problem

ONE = pool("a")  # one GPU at $1 an hour, six slots


def starts(plan: Plan) -> dict[str, int]:
    return {s.job: s.start for s in plan.segments}


def nodes(plan: Plan) -> dict[str, list[str]]:
    return {s.job: [p.node for p in s.placement] for s in plan.segments}


def test_jobs_go_in_order_of_release_and_as_listed_where_that_is_equal() -> None:
    # The last listed may start first: it takes slot 0; then the other two, of which the last no
    # longer ends in time.
    jobs = (
        job("late", mode(ONE, hours=2), release=1),
        job("last", mode(ONE, hours=4), release=1),
        job("early", mode(ONE)),
    )
    plan = first_come_first_served(problem((ONE,), jobs))
    assert starts(plan) == {"early": 0, "late": 1}
    assert [(u.job, u.reason) for u in plan.unplaced] == [("last", Reason.NOT_FOUND)]
    # 1 h + 2 h at $1, and $1,000 for the one left out.
    assert (plan.costs.money, plan.costs.not_running) == (3.0, 1000.0)
    assert (plan.status, plan.bound.usd) == (Status.FEASIBLE, 0.0)


def test_each_takes_the_gpu_that_is_cheapest_an_hour_though_another_costs_less() -> None:
    # Cheap: 5 h x $1 = $5. Dear: 1 h x $3.
    dear = pool("b", usd=3.0)
    asked = problem((dear, ONE), (job("j", mode(dear), mode(ONE, hours=5)),))
    assert nodes(first_come_first_served(asked)) == {"j": ["a-0"]}
    assert nodes(solve(asked)) == {"j": ["b-0"]}


def test_a_cheap_gpu_that_cannot_end_it_in_time_is_passed_over() -> None:
    dear = pool("b", usd=3.0)
    asked = problem((ONE, dear), (job("j", mode(ONE, hours=5), mode(dear), deadline=4),))
    assert nodes(first_come_first_served(asked)) == {"j": ["b-0"]}


def test_of_equal_prices_the_fewest_gpus_are_taken() -> None:
    wide = pool("a", gpus=4)
    asked = problem((wide,), (job("j", mode(wide, hours=1, gpus=4), mode(wide, hours=3, gpus=1)),))
    (segment,) = first_come_first_served(asked).segments
    assert (segment.mode, segment.end) == (1, 3)


def test_each_starts_as_early_as_it_can_though_waiting_would_be_cheaper() -> None:
    # Billed by node at $1 with two hours of start-up: a start for each of two jobs, 2 x (2 + 1) h.
    # Were the first to wait until just before the second: 2 + 2 h.
    rented = pool("r", billing=Billing.NODE, startup_seconds=7200, slots=8)
    jobs = (
        job("x", mode(rented), slots=8, release=2),
        job("y", mode(rented), slots=8, release=6, due=7, lateness_usd_per_hour=1.0),
    )
    asked = problem((rented,), jobs, slots=8)
    fcfs, best = first_come_first_served(asked), solve(asked)
    assert starts(fcfs) == {"x": 2, "y": 6}
    assert fcfs.costs.money == pytest.approx(6.0)
    assert best.costs.money == pytest.approx(4.0)


def test_priority_plays_no_part() -> None:
    one = pool("a", slots=1)
    low, high = job("low", mode(one), slots=1), job("high", mode(one), slots=1, tier=9)
    plan = first_come_first_served(problem((one,), (low, high), slots=1))
    assert starts(plan) == {"low": 0}


def test_a_job_waits_for_what_it_depends_on_and_is_left_out_with_it() -> None:
    first = job("first", mode(ONE, hours=2), release=1)
    then = job("then", mode(ONE), after=("first",))
    last = job("last", mode(ONE), after=("then",))
    asked = problem((ONE,), (last, then, first))
    assert starts(first_come_first_served(asked)) == {"first": 1, "then": 3, "last": 4}
    stuck = replace(first, deadline=2)
    plan = first_come_first_served(problem((ONE,), (last, then, stuck)))
    assert [u.job for u in plan.unplaced] == ["first", "last", "then"]


def test_a_queue_lets_in_no_more_than_its_limit_and_budget() -> None:
    # Limit: one of two GPUs, so they take turns. Budget: $4, so the third 2 h job is left out.
    two = pool("a", nodes=2)
    team = Queue(name="team", limit=(("a", 1),), budget_usd_per_month=4.0)
    jobs = tuple(job(n, mode(two, hours=2), queue="team") for n in "xyz")
    plan = first_come_first_served(problem((two,), jobs, queues=(team,)))
    assert starts(plan) == {"x": 0, "y": 2}


def test_a_required_job_left_out_makes_it_infeasible() -> None:
    one = pool("a", slots=1)
    jobs = (job("x", mode(one), slots=1), job("must", mode(one), slots=1, required=True))
    plan = first_come_first_served(problem((one,), jobs, slots=1))
    assert plan.status is Status.INFEASIBLE


def without_tiers(seed: int) -> Problem:
    asked = random_problem(seed)
    return replace(asked, jobs=tuple(replace(j, tier=0) for j in asked.jobs))


def test_it_breaks_no_rule_and_is_never_cheaper_than_the_optimum() -> None:
    dearer = 0
    for seed in range(200):
        asked = without_tiers(seed)
        fcfs, best = first_come_first_served(asked), solve(asked)
        assert violations(asked, fcfs) == ()
        if fcfs.status is not Status.INFEASIBLE:
            assert best.status is Status.OPTIMAL, seed
            assert best.costs.objective <= fcfs.costs.objective + 1e-6, seed
            dearer += best.costs.objective < fcfs.costs.objective - 1e-6
    assert dearer >= 20  # and often enough dearer for this to compare something


def test_it_is_in_reach_up_to_so_many_jobs_on_so_many_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "MOST_TRIES", 6)
    three = pool("a", nodes=3)
    jobs = tuple(job(name, mode(three)) for name in ("x", "y", "z"))
    assert in_reach(problem((three,), jobs[:2]))  # 2 x 3
    assert not in_reach(problem((three,), jobs))  # 3 x 3
