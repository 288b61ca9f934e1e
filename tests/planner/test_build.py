"""Insertion: what a plan keeps to, whatever the search had time for."""

from __future__ import annotations

import random

import pytest

from planner.booking import Booking
from planner.check import violations
from planner.plan import Status
from planner.problem import Billing, Job, Problem
from planner.solve import build
from planner.solve.build import Bookings
from planner.solve.clock import Limits
from planner.solve.pick import solve
from planner.table import Table
from planner.table import build as tabulate
from tests.planner.worlds import job, mode, pool, problem

ONE = pool("a")


def held(*starts: int) -> Bookings:
    """The jobs of one option each on the one node of a pool, at these starts; -1 leaves one out."""
    return {
        j: Booking(option=j, start=at, counts=((1,),)) for j, at in enumerate(starts) if at >= 0
    }


def starts(table: Table, bookings: Bookings) -> dict[str, int]:
    return {table.problem.jobs[j].name: b.start for j, b in bookings.items()}


def asked(*jobs: Job) -> Table:
    return tabulate(problem((ONE,), jobs))


def test_who_fits_once_a_lower_tier_is_dropped_goes_in_and_the_lower_one_behind() -> None:
    table = asked(job("high", mode(ONE, hours=4), tier=1), job("low", mode(ONE, hours=2)))
    assert starts(table, build.uphold_tiers(table, held(-1, 1))) == {"high": 0, "low": 4}


def test_what_a_kept_job_waits_for_is_not_dropped() -> None:
    table = asked(
        job("first", mode(ONE, hours=3)),
        job("then", mode(ONE, hours=1), tier=1, after=("first",)),
        job("long", mode(ONE, hours=5), tier=1),
    )
    bookings = held(0, 3, -1)
    assert build.uphold_tiers(table, bookings) == bookings


def test_a_plan_that_keeps_its_tiers_stays_as_it_is() -> None:
    table = asked(
        job("high", mode(ONE, hours=4), tier=1),
        job("other", mode(ONE, hours=4), tier=1),
        job("low", mode(ONE, hours=2)),
    )
    bookings = held(2, -1, 0)
    assert build.uphold_tiers(table, bookings) == bookings


def crowded(seed: int) -> Problem:
    """About 40 jobs of three tiers for a day of one or two pools: too many."""
    rng = random.Random(seed)
    pools = tuple(
        pool(
            name,
            nodes=rng.randint(1, 4),
            gpus=rng.choice([1, 2, 4]),
            usd=round(rng.uniform(0.5, 6), 2),
            billing=rng.choice([Billing.GPU, Billing.NODE]),
            slots=24,
        )
        for name in ("a", "b")[: rng.randint(1, 2)]
    )
    jobs = tuple(
        job(
            f"j{i}",
            *(
                mode(p, hours=rng.choice([1, 2, 3, 5, 8]), replicas=rng.choice([1, 1, 2, 3]))
                for p in pools
            ),
            slots=24,
            tier=rng.randrange(3),
            unplaced_usd=round(rng.uniform(20, 400), 2),
            after=(f"j{rng.randrange(i)}",) if i and rng.random() < 0.15 else (),
        )
        for i in range(40)
    )
    return problem(pools, jobs, slots=24)


@pytest.mark.parametrize("seed", range(6))
def test_a_plan_keeps_its_tiers_however_little_time_there_was(seed: int) -> None:
    question = crowded(seed)
    plan = solve(question, Limits(seconds=0.1))
    assert plan.status in (Status.OPTIMAL, Status.FEASIBLE)
    assert violations(question, plan) == ()
