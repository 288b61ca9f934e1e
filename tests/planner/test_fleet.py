"""The method for fleets on worlds small enough to try everything, and on drawn fleets."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from planner import churn, cost
from planner.check import violations
from planner.plan import Plan, Status
from planner.problem import Demand, Interruption, Job, Problem, Running
from planner.solve.clock import Clock, Limits
from planner.solve.fleet import engine
from planner.solve.fleet.ascent import lagrangian
from planner.solve.fleet.columns import WHOLE, Columns
from planner.solve.fleet.pricing import Pricer
from planner.solve.fleet.reading import Before, read
from tests.planner.brute_force import optimum
from tests.planner.worlds import grid, job, mode, pool, problem, random_problem, timed_problem

SEEDS, TIMED_SEEDS, CHUNK = 200, 100, 50
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


def test_few_jobs_on_very_many_nodes_are_a_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    few = fleet(1, jobs=2)
    modes = sum(len(j.modes) for j in few.jobs)
    monkeypatch.setattr(engine, "MODE_NODES", modes * len(few.nodes))
    assert not engine.is_fleet(few)
    monkeypatch.setattr(engine, "MODE_NODES", modes * len(few.nodes) - 1)
    assert engine.is_fleet(few)


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


@pytest.mark.parametrize("first", range(0, TIMED_SEEDS, CHUNK))
def test_the_same_where_jobs_run_already_or_stop_and_prices_change(first: int) -> None:
    for seed in range(first, first + CHUNK):
        world = without_mixes(timed_problem(seed))
        plan, best = fleet_plan(world, moves=200), optimum(world)
        assert violations(world, plan) == (), seed
        if best is not None:
            assert plan.bound.usd <= best.objective_usd + 1e-6, seed


def test_a_seed_and_a_number_of_moves_give_one_plan() -> None:
    plans = [fleet_plan(fleet(1), seed=7, moves=60_000) for _ in range(2)]
    assert plans[0].segments == plans[1].segments
    assert plans[0].bound == plans[1].bound


class Slow(Clock):
    """The clock of a machine on which each look at it is a second after the last."""

    looks = 0

    @property
    def seconds(self) -> float:
        self.looks += 1
        return float(self.looks)


def test_a_number_of_moves_gives_that_plan_however_slow_the_machine() -> None:
    # The ascent alone looks at the clock some 800 times: 40 % of the 1500 s would end it.
    limits = Limits(seconds=1500.0, seed=7, moves=1000)
    quick, slow = (engine.solve(fleet(1), made(limits)) for made in (Clock, Slow))
    assert (slow.bound, slow.segments) == (quick.bound, quick.segments)


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


# -- jobs that run already -------------------------------------------------------------------------

CHEAP, DEAR = pool("cheap", nodes=3, usd=1.0), pool("dear", nodes=3, usd=4.0)


def running_on(node: str, of: int, *, done: float, lost: float, **fields: Any) -> Problem:
    """A job of 4 h on either pool, ``done`` of it on ``node`` in mode ``of``, ``lost`` if moved."""
    one = job("j", mode(CHEAP, hours=4.0), mode(DEAR, hours=4.0), unplaced_usd=100.0)
    one = replace(one, switches=1, interruption=Interruption(restart_seconds=1800.0))
    world = problem((CHEAP, DEAR), (replace(one, **fields),))
    here = Running(job="j", mode=of, nodes=(node,), work_done=done, work_since_checkpoint=lost)
    return replace(world, running=(here,))


def test_a_job_that_runs_goes_on_on_its_node_and_pays_for_the_rest_alone() -> None:
    # A quarter of 4 h is done: 3 h at $1.
    world = running_on("cheap-1", 0, done=0.25, lost=0.0)
    plan = fleet_plan(world)
    (s,) = plan.segments
    assert violations(world, plan) == ()
    assert (s.start, s.end, s.work, s.placement[0].node) == (0, 3, 0.75, "cheap-1")
    assert (plan.costs.money, plan.costs.moving) == (3.0, 0.0)
    assert plan.bound.usd == pytest.approx(3.0)


def test_it_moves_where_that_costs_less_though_it_restarts_and_does_lost_work_again() -> None:
    # There: 3 h at $4 = $12. Here: 3 h + 1 h lost + half an hour of restart at $1 = $4.50.
    world = running_on("dear-0", 1, done=0.5, lost=0.25)
    plan = fleet_plan(world)
    (s,) = plan.segments
    assert violations(world, plan) == ()
    assert (s.mode, s.restart_seconds, s.redone_work) == (0, 1800.0, 0.25)
    assert (plan.costs.money, plan.costs.moving) == pytest.approx((2.0, 1.5))
    assert churn.move_usd(world.jobs[0], world.jobs[0].modes[0], world.running[0]) == 1.5


@pytest.mark.parametrize(
    "fields", [{"preemptible": False}, {"switches": 0}], ids=["no stop", "no switch"]
)
def test_who_may_not_stop_or_not_change_its_mode_stays_where_it_is(
    fields: dict[str, object],
) -> None:
    world = running_on("dear-2", 1, done=0.5, lost=0.25, **fields)
    plan = fleet_plan(world)
    assert violations(world, plan) == ()
    assert [(s.mode, s.placement[0].node) for s in plan.segments] == [(1, "dear-2")]
    assert plan.costs.objective == pytest.approx(8.0)


def test_whose_node_is_gone_begins_anew_though_it_may_not_be_stopped() -> None:
    world = running_on("dear-2", 1, done=0.5, lost=0.25, preemptible=False)
    gone = replace(
        world, nodes=tuple(replace(n, cordoned="lost" * (n.name == "dear-2")) for n in world.nodes)
    )
    plan = fleet_plan(gone)
    assert violations(gone, plan) == ()
    assert [(s.mode, s.redone_work) for s in plan.segments] == [(0, 0.25)]


def test_gangs_that_run_keep_their_nodes_among_others_and_in_the_next_plan() -> None:
    a = pool("a", gpus=4, nodes=4, slots=24)
    jobs = [
        job(f"j{n}", mode(a, replicas=4, hours=6.0), slots=24, unplaced_usd=99.0) for n in range(9)
    ]
    first = problem((a,), tuple(jobs), slots=24)
    where = {"j3": ("a-0", "a-0", "a-2", "a-3"), "j7": ("a-2", "a-2", "a-2", "a-3")}
    running = tuple(
        Running(job=name, mode=0, nodes=nodes, work_done=0.5, work_since_checkpoint=0.5)
        for name, nodes in where.items()
    )
    first = replace(first, running=running)
    second = replace(first, jobs=(*first.jobs, replace(jobs[0], name="new")))
    for world, plan in zip((first, second), replanned(first, second), strict=True):
        assert violations(world, plan) == ()
        nodes = {s.job: Counter({p.node: p.replicas for p in s.placement}) for s in plan.segments}
        assert {name: nodes[name] for name in where} == {
            name: Counter(held) for name, held in where.items()
        }


def test_a_share_of_a_gpu_that_runs_stays_on_its_node() -> None:
    a = pool("a", nodes=3)
    half = job("half", mode(a, milli=500, hours=2.0), unplaced_usd=50.0)
    world = problem((a,), (half, replace(half, name="other")))
    here = Running(job="half", mode=0, nodes=("a-1",), work_done=0.5, work_since_checkpoint=0.5)
    world = replace(world, running=(here,))
    plan = fleet_plan(world)
    assert violations(world, plan) == ()
    assert {s.job: (s.start, s.end) for s in plan.segments}["half"] == (0, 1)
    assert {p.node for s in plan.segments if s.job == "half" for p in s.placement} == {"a-1"}


# -- prices that change by window ------------------------------------------------------------------


def test_a_job_with_time_waits_for_the_cheaper_window_and_pays_each_hour_its_price() -> None:
    # $1 to slot 3, a quarter from then on. Two hours: from 3 on, $0.50. By slot 4: 2 to 4, $1.25.
    a = pool("a", windows=((0, 3, 1), (3, 6, 1)), times=(1.0, 0.25))
    free, hurried = (job("j", mode(a, hours=2.0), deadline=end, unplaced_usd=9.0) for end in (6, 4))
    for one, start, usd in ((free, 3, 0.5), (hurried, 2, 1.25)):
        world = problem((a,), (one,))
        plan = fleet_plan(world)
        assert violations(world, plan) == ()
        assert plan.segments[0].start >= start
        assert plan.costs.money == pytest.approx(usd)
        assert plan.bound.usd == pytest.approx(usd)


def test_a_job_does_not_begin_when_that_costs_more_than_it_may() -> None:
    # Two hours cost $2, $2, $1.25 or, from slot 3 on, $0.50; at most $1, by slot 4: never.
    a = pool("a", windows=((0, 3, 1), (3, 6, 1)), times=(1.0, 0.25))
    one = job("j", mode(a, hours=2.0), unplaced_usd=9.0, max_cost_usd=1.0, release=1)
    assert [s.start >= 3 for s in fleet_plan(problem((a,), (one,))).segments] == [True]
    assert fleet_plan(problem((a,), (replace(one, deadline=4),))).segments == ()


def test_a_service_pays_each_hour_its_price() -> None:
    # One replica for 6 h: three at $1, three at $2.
    a = pool("a", windows=((0, 3, 1), (3, 6, 1)), times=(1.0, 2.0))
    asked = Demand(per_slot=(5.0,) * 6)
    serves = job("s", mode(a, serves=10.0), need=asked, unplaced_usd=99.0)
    plan = fleet_plan(problem((a,), (serves,)))
    assert plan.costs.money == pytest.approx(9.0)
    assert plan.bound.usd == pytest.approx(9.0)


def test_a_price_that_changes_behind_all_deadlines_changes_nothing_and_scaled_ones_scale() -> None:
    world = fleet(12, jobs=24)
    jobs = tuple(replace(j, deadline=min(j.deadline, 18)) for j in world.jobs)

    def priced(times: tuple[float, ...]) -> Problem:
        windows = ((0, 6, 2), (6, 18, 2), (18, 24, 2))
        fast = pool("fast", gpus=8, slots=24, usd=3.0, windows=windows, times=times)
        return replace(world, pools=(fast, world.pools[1]), jobs=jobs)

    plain, behind, dearer = (
        fleet_plan(priced(times), moves=100_000)
        for times in ((1.0, 1.0, 1.0), (1.0, 1.0, 5.0), (1.0, 2.0, 2.0))
    )
    assert behind.bound.usd == pytest.approx(plain.bound.usd, rel=2e-3)
    assert behind.costs.objective == pytest.approx(plain.costs.objective, rel=0.03)
    assert dearer.bound.usd >= plain.bound.usd * (1 - 2e-3)


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
        assert np.array_equal(np.asarray(one), np.asarray(other))


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
