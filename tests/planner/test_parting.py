"""Fleets: jobs that change their mode once, where that saves in the room that is left."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from planner.check import violations
from planner.plan import Plan
from planner.problem import Interruption, Job, Problem
from planner.solve.clock import Clock, Limits
from planner.solve.fleet import engine
from tests.planner.worlds import job, mode, pool, problem

SLOW, FAST = pool("slow", usd=1.0), pool("fast", usd=5.0)
FREE = Interruption(checkpoint_seconds=600)


def fleet_plan(world: Problem, moves: int = 2000) -> Plan:
    return engine.solve(world, Clock(Limits(seconds=60.0, moves=moves)))


def asked(*others: Job, saves: Interruption = FREE, **fields: object) -> Problem:
    """A job of 8 h at $1 or 2 h at $5, by slot 6, that may change once; and others."""
    one = job("j", mode(SLOW, hours=8.0), mode(FAST, hours=2.0), interruption=saves, switches=1)
    return problem((SLOW, FAST), (replace(one, **fields), *others))  # type: ignore[arg-type]


def pieces(plan: Plan) -> list[tuple[int, int, int]]:
    """(mode, first slot, end) of what the job does."""
    return [(s.mode, s.start, s.end) for s in plan.segments if s.job == "j"]


def test_the_cheap_mode_does_what_there_is_time_for_and_the_fast_one_the_rest() -> None:
    # 5 h of 8 at $1, then 3/8 of 2 h at $5; all of it in ``fast`` is $10. No fewer hours of
    # ``fast`` do it, and the bound shares them exactly: 1/3 of them at $10, 2/3 at $8.
    world = asked()
    plan = fleet_plan(world)
    assert violations(world, plan) == ()
    assert pieces(plan) == [(0, 0, 5), (1, 5, 6)]
    assert plan.costs.objective == pytest.approx(8.75)
    assert plan.bound.usd <= 1 / 3 * 10 + 2 / 3 * 8 + 1e-6


def test_the_fast_mode_goes_first_where_the_other_is_taken_then() -> None:
    # ``slow`` is free from 1 on, ``fast`` to 3: an hour of it, and 4 h of ``slow`` behind.
    noon = job("noon", mode(SLOW, hours=1.0), deadline=1)
    night = job("night", mode(FAST, hours=3.0), release=3)
    world = asked(noon, night)
    plan = fleet_plan(world)
    assert violations(world, plan) == ()
    assert pieces(plan) == [(1, 0, 1), (0, 1, 5)]


def test_saving_and_restoring_take_time_of_both_pieces() -> None:
    # With 0.1 h each: 5 slots of ``slow`` do 4.9 of 8 h. What is left is 2 x 3.1 / 8 + 0.1 h of
    # ``fast``: $5 + $4.375.
    world = asked(saves=replace(FREE, save_seconds=360.0, restart_seconds=360.0))
    plan = fleet_plan(world)
    assert violations(world, plan) == ()
    assert plan.costs.objective == pytest.approx(9.375)


def test_who_would_be_left_out_in_one_piece_runs_in_two() -> None:
    # ``fast`` is free for an hour, too little for all of it; ``slow`` takes longer than there is.
    night = job("night", mode(FAST, hours=5.0), release=1, unplaced_usd=9000.0)
    world = asked(night)
    plan = fleet_plan(world)
    assert violations(world, plan) == ()
    assert pieces(plan) == [(1, 0, 1), (0, 1, 5)]
    assert plan.unplaced == ()


def test_nothing_is_cut_where_that_saves_nothing_or_may_not_be() -> None:
    assert len(pieces(fleet_plan(asked(preemptible=False)))) == 1
    assert len(pieces(fleet_plan(asked(switches=0)))) == 1
    long = asked(saves=replace(FREE, save_seconds=1800.0, restart_seconds=1800.0))
    assert pieces(fleet_plan(long)) == [(1, 0, 2)]


def drawn(seed: int) -> Problem:
    """Twenty-five jobs, each for six slots of twelve, that may change between two pools."""
    rng = random.Random(seed)
    slow = pool("slow", nodes=8, usd=1.0, slots=12)
    fast = pool("fast", nodes=8, usd=4.0, slots=12)

    def one(n: int) -> Job:
        hours, begin = rng.uniform(1.0, 3.0), rng.randint(0, 6)
        return job(
            f"j{n}",
            mode(slow, replicas=rng.choice((1, 2)), hours=3.5 * hours),
            mode(fast, hours=hours),
            release=begin,
            deadline=begin + 6,
            interruption=replace(FREE, save_seconds=rng.choice((0.0, 60.0))),
            switches=1,
            unplaced_usd=100.0,
        )

    return problem((slow, fast), tuple(one(n) for n in range(25)), slots=12)


@pytest.mark.parametrize("seed", range(10))
def test_cuts_are_true_and_only_make_a_plan_cheaper(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = drawn(seed)
    plan = fleet_plan(world)
    assert violations(world, plan) == ()
    monkeypatch.setattr(engine, "part", lambda *_: {})
    whole = fleet_plan(world)
    assert plan.costs.objective < whole.costs.objective
    assert plan.bound.usd == whole.bound.usd
    assert plan.bound.usd <= plan.costs.objective
