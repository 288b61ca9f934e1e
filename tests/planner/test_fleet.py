"""The method for fleets on worlds small enough to try everything, and on drawn fleets."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from planner import churn, cost
from planner.check import violations
from planner.plan import Plan, Status
from planner.problem import Interruption, Job, Problem
from planner.solve.clock import Clock, Limits
from planner.solve.fleet import engine
from planner.solve.fleet.ascent import lagrangian
from planner.solve.fleet.columns import WHOLE, Columns
from planner.solve.fleet.pricing import Pricer
from planner.solve.fleet.reading import Before, read
from tests.planner.brute_force import optimum
from tests.planner.worlds import grid, job, mode, pool, problem, random_problem

SEEDS, CHUNK = 200, 50
MOVES = 2000  # each


def fleet_plan(world: Problem, *, seed: int = 0, moves: int = MOVES) -> Plan:
    return engine.solve(world, Clock(Limits(seconds=60.0, seed=seed, moves=moves)))


@cache
def fleet(seed: int, jobs: int = 60) -> Problem:
    """Gangs of one-GPU workers on two pools, half of them with a deadline."""
    rng = random.Random(seed)
    slots = 24

    fast = pool("fast", nodes=2, gpus=8, slots=slots, usd=3.0)
    slow = pool("slow", nodes=2, gpus=8, slots=slots, usd=1.0)

    def one(n: int) -> Job:
        gpus, hours = rng.choice((1, 2, 4, 8)), rng.randint(1, 8)
        release = rng.randint(0, 10)
        deadline = min(slots, release + rng.randint(8, 14)) if rng.random() < 0.5 else slots
        return job(
            f"j{n:02}",
            mode(fast, replicas=gpus, hours=hours),
            mode(slow, replicas=gpus, hours=2 * hours + rng.random()),
            slots=slots,
            release=release,
            deadline=deadline,
            due=rng.choice((None, 12)),
            lateness_usd_per_hour=0.5,
            unplaced_usd=200.0,
            preemptible=False,
        )

    return problem((fast, slow), tuple(one(n) for n in range(jobs)), slots=slots)


def without_mixes(world: Problem) -> Problem:
    """What is solved as a fleet has none."""
    return replace(world, jobs=tuple(replace(j, mixes=()) for j in world.jobs))


def test_a_problem_with_mixes_is_no_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MODES", 0)
    mixed = next(w for w in map(random_problem, range(99)) if any(j.mixes for j in w.jobs))
    assert not engine.is_fleet(mixed)
    assert engine.is_fleet(without_mixes(mixed))


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_bound_is_never_above_what_trying_everything_finds_and_plans_are_true(
    first: int,
) -> None:
    for seed in range(first, first + CHUNK):
        world = without_mixes(random_problem(seed))
        plan, best = fleet_plan(world), optimum(world)
        assert violations(world, plan) == (), seed
        if best is None:
            assert plan.status is Status.TIMEOUT, seed
        else:
            assert plan.bound.usd <= best.objective_usd + 1e-6, seed


def test_a_seed_and_a_number_of_moves_give_one_plan() -> None:
    plans = [fleet_plan(fleet(1), seed=7, moves=60_000) for _ in range(2)]
    assert plans[0].segments == plans[1].segments
    assert plans[0].bound == plans[1].bound


def test_the_gap_of_a_small_fleet_is_small() -> None:
    plan = fleet_plan(fleet(2, jobs=12), moves=100_000)
    assert plan.unplaced == ()
    assert plan.gap_fraction < 0.05


def test_a_plan_costs_what_its_segments_cost() -> None:
    world = fleet(3)
    plan = fleet_plan(world)
    out = [u.job for u in plan.unplaced]
    assert plan.costs == cost.costs(world, plan.segments, out)


def test_more_nodes_never_raise_the_bound_and_a_job_less_never_does() -> None:
    world = fleet(4)
    wider = replace(
        world,
        pools=(pool("fast", nodes=3, gpus=8, slots=24, usd=3.0), world.pools[1]),
        nodes=(*world.nodes, replace(world.nodes[1], name="fast-2", index=2)),
    )
    fewer = replace(world, jobs=world.jobs[:-1])
    bound = fleet_plan(world).bound.usd
    slack = 0.002 * bound  # the ascent ends near the best prices, not at them
    assert fleet_plan(wider).bound.usd <= bound + slack
    assert fleet_plan(fewer).bound.usd <= bound + slack


def test_any_prices_prove_a_bound() -> None:
    world = fleet(5, jobs=12)
    c = read(world)
    best = fleet_plan(world, moves=100_000).costs.objective
    rng = np.random.default_rng(0)
    for _ in range(20):
        prices = rng.random(c.capacity.shape) * 1e-3
        value, _, _ = Pricer(c).values(Pricer(c).priced(prices))
        assert lagrangian(c, prices, value) <= best + 1e-6


def test_a_job_is_priced_as_trying_each_mode_and_start_does() -> None:
    world = fleet(6)
    c = read(world)
    prices = np.random.default_rng(1).random(c.capacity.shape) * 1e-3
    value, _, _ = Pricer(c).values(Pricer(c).priced(prices))
    assert value == pytest.approx([least(c, prices, j) for j in range(c.job_count)])


def least(c: Columns, prices: np.ndarray, j: int) -> float:
    """The least cost of job ``j``, each mode and start tried."""
    one = c.jobs[j]
    found = [float(one["unplaced_usd"])]
    for m in c.modes[one["first"] : one["end"]]:
        for s in range(m["first"], m["last"] + 1):
            end = s + m["length"]
            taken = m["takes"] * prices[c.rows[m["cls"], 0], s:end].sum()
            found.append(m["usd"] + taken + max(0, end - one["due"]) * one["late_usd"])
    return min(found)


def test_a_job_that_may_be_split_is_valued_no_higher_than_its_cheapest_hours() -> None:
    # Two hours of work on one GPU at $1 an hour; prices 0, 5, 0: in one piece $2 + 5, split $2.
    a = pool("a", slots=3)
    saves = Interruption(checkpoint_seconds=600)
    one = job("j", mode(a, hours=2.0), slots=3, unplaced_usd=50.0, interruption=saves)
    world = problem((a,), (one,), slots=3)
    c = read(world)
    assert c.jobs["pieces"][0] != WHOLE
    pricer = Pricer(c)
    priced = pricer.priced(np.array([[0.0, 5e-3, 0.0]]))
    value, _, _ = pricer.values(priced)
    assert value[0] == pytest.approx(7.0)
    assert pricer.relax(priced, value, passes=60)[0] == pytest.approx(2.0, rel=0.01)


def test_a_pool_that_shrinks_holds_no_gang_across_the_hour_when_its_nodes_leave() -> None:
    # Two nodes, one of them away from slot 3: two jobs of 4 h on one GPU each cannot both cross it.
    a = pool("a", nodes=2, windows=((0, 3, 2), (3, 6, 1)))
    jobs = (job(f"j{n}", mode(a, hours=4.0), unplaced_usd=50.0) for n in range(2))
    world = problem((a,), tuple(jobs))
    plan = fleet_plan(world)
    assert violations(world, plan) == ()
    assert len(plan.segments) == 1
    assert len(plan.unplaced) == 1


def test_whole_nodes_and_single_gpus_share_a_pool() -> None:
    # Two nodes of 8: a gang of one whole node for 4 h, and eight single GPUs for 2 h.
    a = pool("a", nodes=2, gpus=8)
    wide = job("wide", mode(a, gpus=8, hours=4.0), unplaced_usd=500.0)
    single = (job(f"s{n}", mode(a, hours=2.0), unplaced_usd=50.0) for n in range(8))
    world = problem((a,), (wide, *single))
    plan = fleet_plan(world)
    assert violations(world, plan) == ()
    assert plan.unplaced == ()
    assert plan.status is Status.FEASIBLE
    assert plan.costs.objective == pytest.approx(4 * 8 + 8 * 2)


def test_the_grid_may_be_longer_than_any_job_needs() -> None:
    a = pool("a", slots=48)
    world = problem((a,), (job("j", mode(a), slots=48),), slots=48)
    assert world.grid == grid(48)
    assert [s.end - s.start for s in fleet_plan(world).segments] == [1]


# -- from the last plan ----------------------------------------------------------------------------


def replanned(first: Problem, second: Problem) -> tuple[Plan, Plan]:
    """Plans of both, the second from what the first left."""
    limits = Limits(seconds=60.0, moves=100_000)
    old, memory = engine.plan(first, Clock(limits))
    new, _ = engine.plan(second, Clock(limits), memory)
    return old, new


def places(plan: Plan) -> dict[str, tuple[int, int]]:
    return {s.job: (s.mode, s.start) for s in plan.segments}


def test_after_an_arrival_the_others_stay_but_for_moves_that_pay() -> None:
    second = fleet(8, jobs=24)
    old, new = replanned(replace(second, jobs=second.jobs[:-1]), second)
    assert violations(second, new) == ()
    was, now = places(old), places(new)
    moved = [name for name in was if now.get(name) != was[name]]
    assert len(moved) <= 4
    assert second.jobs[-1].name in now


def test_who_keeps_mode_and_start_keeps_its_nodes_but_for_a_handful() -> None:
    # 16 jobs of 24 fill two pools of 16 GPUs well: those that a new one displaces are few.
    second = fleet(8, jobs=24)
    old, new = replanned(replace(second, jobs=second.jobs[:-1]), second)
    was, now = places(old), places(new)
    elsewhere = {move.job for move in churn.moved(old, new, second)}
    moved = {name for name in was if name in now and now[name] != was[name]}
    assert moved <= elsewhere
    assert len(elsewhere - moved) <= 2


def test_after_a_departure_nobody_costs_more() -> None:
    first = fleet(9, jobs=24)
    second = replace(first, jobs=first.jobs[1:])
    old, new = replanned(first, second)
    assert violations(second, new) == ()
    gone = cost.costs(first, [s for s in old.segments if s.job == first.jobs[0].name], [])
    assert new.costs.objective <= old.costs.objective - gone.objective + 1e-6


def test_whom_a_lost_node_held_is_put_elsewhere_and_nothing_overbooks_what_is_left() -> None:
    first = fleet(10, jobs=24)
    lost = first.nodes[0].name
    nodes = tuple(replace(n, cordoned="lost" if n.name == lost else "") for n in first.nodes)
    second = replace(first, nodes=nodes)
    _, new = replanned(first, second)
    assert violations(second, new) == ()
    assert lost not in {p.node for s in new.segments for p in s.placement}


def test_columns_copied_from_the_last_problem_are_those_read_anew() -> None:
    first = fleet(11)
    changed = replace(first.jobs[3], deadline=first.jobs[3].deadline - 1)
    second = replace(first, jobs=(*first.jobs[:3], changed, *first.jobs[5:]))
    copied, anew = read(second, Before(first, read(first))), read(second)
    for one, other in zip(copied, anew, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("seed", range(4))
def test_no_job_is_left_out_for_lower_priorities_however_short_the_search(seed: int) -> None:
    # Four times what fits in a day, and the urgent are cheap to leave out.
    rng = random.Random(seed)
    crowded = fleet(seed, 250)
    tiers = [rng.choice((0, 0, 1, 2)) for _ in crowded.jobs]
    jobs = (
        replace(j, tier=tier, unplaced_usd=(5000.0, 200.0, 150.0)[tier])
        for j, tier in zip(crowded.jobs, tiers, strict=True)
    )
    asked = replace(crowded, jobs=tuple(jobs))
    plan = fleet_plan(asked, moves=1)
    assert any(u.job for u in plan.unplaced if asked.job_by_name[u.job].tier)
    assert violations(asked, plan) == ()
