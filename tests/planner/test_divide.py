"""A job in two modes, one after the other: where it is cut, and what that saves."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.booking import Booking, usd_of
from planner.check import violations
from planner.occupancy import Occupancy
from planner.problem import Interruption, Job, Problem
from planner.solve import build, divide, exact, search
from planner.solve.clock import Limits
from planner.solve.pick import solve
from planner.table import Table
from planner.table import build as tabulate
from tests.planner.worlds import job, mode, pool, problem

SLOW, FAST = pool("slow", usd=1.0), pool("fast", usd=5.0)
FREE = Interruption(checkpoint_seconds=600)
Piece = tuple[str, int, int]  # pool, first slot, end


def asked(*others: Job, saves: Interruption = FREE, **fields: Any) -> Table:
    """A job of 8 h at $1 or 2 h at $5, by slot 6, that may change once; and others."""
    one = job("j", mode(SLOW, hours=8.0), mode(FAST, hours=2.0), interruption=saves, switches=1)
    return tabulate(problem((SLOW, FAST), (replace(one, **fields), *others)))


def holding(table: Table, *held: tuple[int, int]) -> Occupancy:
    """(option, start) of jobs that are there already, each on the one node of its pool."""
    occupancy = Occupancy(table)
    for option, start in held:
        occupancy.take(Booking(option=option, start=start, counts=((1,),)))
    return occupancy


def pieces(table: Table, booking: Booking | None) -> list[Piece] | None:
    if booking is None:
        return None
    name = [p.name for p in table.problem.pools]
    return [(name[table.options[p.option].pool], p.start, p.until(table)) for p in booking.pieces()]


def divided(
    table: Table, occupancy: Occupancy | None = None, below: float = math.inf
) -> Booking | None:
    nothing = np.zeros(len(table.options))
    return divide.best(table, occupancy or Occupancy(table), 0, 0, nothing, below)


def test_the_cheap_mode_does_what_there_is_time_for_and_the_fast_one_the_rest() -> None:
    # 5 h of 8 at $1, then 3/8 of 2 h at $5: $5 + $3.75; all of it in ``fast`` is $10.
    table = asked()
    made = divided(table)
    assert made is not None
    assert pieces(table, made) == [("slow", 0, 5), ("fast", 5, 6)]
    assert usd_of(table, made) == pytest.approx(8.75)
    assert divided(table, below=8.75) is None
    assert solve(table.problem).costs.objective == pytest.approx(8.75)  # by CP-SAT


def test_the_fast_mode_goes_first_where_the_other_is_taken_then() -> None:
    # ``slow`` is free from 1 on, ``fast`` to 3: an hour of it is half of the work, the other 4 h
    # of ``slow`` fit behind.
    table = asked(
        job("noon", mode(SLOW, hours=1.0), deadline=1),
        job("night", mode(FAST, hours=3.0), release=3),
    )
    made = divided(table, holding(table, (2, 0), (3, 3)))
    assert pieces(table, made) == [("fast", 0, 1), ("slow", 1, 5)]


def test_it_waits_between_its_pieces_where_the_second_pool_is_taken() -> None:
    # ``fast`` is free in 0 and from 3 on, ``slow`` from 2 on. $5 + 4 in this order; the other way
    # round 2 h of ``slow`` and 1.5 h of ``fast``: $9.50.
    table = asked(
        job("noon", mode(FAST, hours=2.0), deadline=3, release=1),
        job("night", mode(SLOW, hours=2.0), deadline=2),
    )
    made = divided(table, holding(table, (2, 1), (3, 0)))
    assert pieces(table, made) == [("fast", 0, 1), ("slow", 2, 6)]


def test_saving_and_restoring_take_time_of_both_pieces() -> None:
    # With 0.1 h each: 5 slots of ``slow`` do 4.9 of 8 h. What is left is 2 x 3.1 / 8 + 0.1 h =
    # 0.875 h of ``fast``: $5 + $4.375.
    saves = replace(FREE, save_seconds=360.0, restart_seconds=360.0)
    table = asked(saves=saves)
    made = divided(table)
    assert made is not None
    assert pieces(table, made) == [("slow", 0, 5), ("fast", 5, 6)]
    assert usd_of(table, made) == pytest.approx(9.375)


def test_who_may_not_stop_or_not_change_its_mode_is_not_divided() -> None:
    for fields in ({"preemptible": False}, {"switches": 0}):
        table = asked(**fields)
        assert divided(table) is None
    assert divided(asked(saves=Interruption())) is None


def test_a_share_of_the_work_in_each_mode_is_a_cut() -> None:
    # Half of 8 h at $1 and half of 2 h: four slots and one.
    table = asked()
    made = divide.as_shared(table, Occupancy(table), 0, 0, {0: 0.5, 1: 0.5})
    assert pieces(table, made) == [("slow", 0, 4), ("fast", 4, 5)]


@pytest.mark.parametrize("seed", range(60))
def test_on_free_nodes_no_other_cut_is_cheaper(seed: int) -> None:
    rng = random.Random(seed)
    pools = tuple(pool(f"p{n}", usd=rng.uniform(0.5, 4.0), slots=12) for n in range(3))
    saves = Interruption(
        checkpoint_seconds=600,
        save_seconds=rng.choice((0, 300)),
        restart_seconds=rng.choice((0, 600)),
    )
    one = job(
        "j",
        *(mode(each, hours=rng.uniform(1.0, 20.0)) for each in pools),
        slots=rng.randint(4, 12),
        interruption=saves,
        switches=1,
    )
    table = tabulate(problem(pools, (one,), slots=12))
    made, least = divided(table), cheapest_cut(table.problem)
    if made is None:
        assert least == math.inf
    else:
        assert usd_of(table, made) == pytest.approx(least)


def cheapest_cut(world: Problem) -> float:
    """The least cost of the world's job from slot 0 in two modes, each cut in whole hours tried.

    A first piece of four times what the change takes, or more, as `divide.WORTH` has it, and less
    than all of the work.
    """
    one = world.jobs[0]
    save, restart = (
        x / 3600 for x in (one.interruption.save_seconds, one.interruption.restart_seconds)
    )
    found = math.inf
    for a in one.modes:
        for b in one.modes:
            long_a, long_b = 1 / a.work_per_replica_hour, 1 / b.work_per_replica_hour
            for k in range(1 + int(4 * (save + restart)), one.deadline):
                left = 1 - (k - save) / long_a
                hours = restart + left * long_b
                if a is not b and k < long_a and k + math.ceil(hours - 1e-6) <= one.deadline:
                    usd = k * a.usd_per_replica_hour + hours * b.usd_per_replica_hour
                    found = min(found, usd)
    return found


def test_a_job_is_put_in_divided_where_that_is_the_least() -> None:
    table = asked()
    made = build.construct(table, {}, opportunity=np.zeros(len(table.options)))
    assert pieces(table, made[0]) == [("slow", 0, 5), ("fast", 5, 6)]


def test_the_method_for_large_problems_divides_as_the_relaxation_shares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each of the two takes 8 h at $1 or 2 h at $5, by slot 6; of each pool there are two nodes.
    # Nobody can do better than 5 h and 0.75 h: $8.75 each. The LP shares hours exactly: 16 h of
    # work over 6 h: (8 - 6) / (8 - 2) = 1/3 in ``fast``, 2/3 in ``slow``: $8.67 each.
    monkeypatch.setattr(exact, "small", lambda _: False)
    monkeypatch.setattr(search, "SHORT_RUIN", 0.02)
    monkeypatch.setattr(search, "FEW", 0)
    slow, dear = pool("slow", usd=1.0, nodes=2), pool("fast", usd=5.0, nodes=2)
    jobs = tuple(
        job(name, mode(slow, hours=8.0), mode(dear, hours=2.0), interruption=FREE, switches=1)
        for name in "ab"
    )
    world = problem((slow, dear), jobs)
    plan = solve(world, Limits(seconds=2.0))
    assert violations(world, plan) == ()
    assert plan.costs.objective == pytest.approx(17.5)
    assert plan.bound.usd == pytest.approx(2 * (2 / 3 * 8 + 1 / 3 * 10))
