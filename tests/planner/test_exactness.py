"""The planner against brute force, on worlds small enough to try everything.

`SEEDS` worlds in chunks; what they hold, and what of it decides the optimum, is counted too, so
that a generator that loses a feature fails here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from planner.check import violations
from planner.plan import Plan, Status
from planner.problem import Billing, Demand, Job, Mode, Node, Pool, Problem, Queue, Work
from planner.solve import exact, search
from planner.solve.clock import Limits
from planner.solve.pick import solve
from tests.planner.brute_force import Optimum, optimum
from tests.planner.worlds import START, larger_problem, timed_problem

pytestmark = pytest.mark.slow

SEEDS, CHUNK = 2200, 110
LARGE_SEEDS, LARGE_CHUNK, LARGE_SECONDS = 250, 50, 0.3
LARGER_SEEDS, LARGER_SECONDS = 16, 0.4
ENOUGH_DECIDING = 3

world = cache(timed_problem)
truth = cache(lambda seed: optimum(world(seed)))


def usd(best: Optimum | None) -> float | None:
    """The optimum to the hundredth of a cent; None where nothing is feasible."""
    return None if best is None else round(best.objective_usd, 4)


def said(plan: Plan) -> float | None:
    """What the plan says of the optimum, in the same form."""
    assert plan.status in (Status.OPTIMAL, Status.INFEASIBLE)
    return None if plan.status is Status.INFEASIBLE else round(plan.costs.objective, 4)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_planner_finds_the_optimum_that_trying_everything_finds(first: int) -> None:
    seeds = range(first, first + CHUNK)
    plans = {seed: said(solve(world(seed))) for seed in seeds}
    assert plans == pytest.approx({seed: usd(truth(seed)) for seed in seeds}, abs=2e-4)


@pytest.fixture
def large_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems go the way of large ones, and hurry."""
    monkeypatch.setattr(exact, "small", lambda _: False)
    monkeypatch.setattr(search, "SHORT_RUIN", 0.02)  # in proportion to the time given here


@pytest.mark.parametrize(
    ("seed", "what"),
    [
        (6989, "a piece begun anew is moved up to the nodes of one that goes on: that is no stop"),
        (7126, "a piece is moved up to another device, on which MIG has an instance for it"),
        (5599, "a cheaper way in all costs more in the month whose budget is short"),
        (7231, "the replicas of a mix stay on their GPUs from slot to slot"),
    ],
)
def test_worlds_in_which_planner_or_brute_force_once_erred(seed: int, what: str) -> None:
    problem = timed_problem(seed)
    plan, best = solve(problem, Limits(seconds=30.0, seed=seed)), optimum(problem)
    assert best is not None, what
    assert violations(problem, plan) == (), what
    assert plan.costs.objective == pytest.approx(best.objective_usd, abs=2e-4), what


@pytest.mark.parametrize("first", range(0, LARGE_SEEDS, LARGE_CHUNK))
def test_the_method_for_large_problems_proves_no_more_than_is_true_and_mostly_finds_the_optimum(
    first: int, large_method: None
) -> None:
    missed = []
    for seed in range(first, first + LARGE_CHUNK):
        problem, best = world(seed), truth(seed)
        plan = solve(problem, Limits(seconds=LARGE_SECONDS))
        assert violations(problem, plan) == ()
        if best is None:
            assert plan.status is Status.INFEASIBLE, seed
            continue
        assert plan.status in (Status.OPTIMAL, Status.FEASIBLE), seed
        assert plan.bound.usd <= best.objective_usd + 1e-6, seed
        if abs(plan.costs.objective - best.objective_usd) > 1e-4:
            missed.append(seed)
            assert plan.status is Status.FEASIBLE, seed
    assert len(missed) <= 0.1 * LARGE_CHUNK, missed


def test_the_plans_of_larger_worlds_are_true_and_not_below_their_bound(
    large_method: None,
) -> None:
    for seed in range(LARGER_SEEDS):
        problem = larger_problem(seed, timed=True)
        plan = solve(problem, Limits(seconds=LARGER_SECONDS, seed=seed))
        assert violations(problem, plan) == ()
        assert plan.bound.usd <= plan.costs.objective + 1e-6, seed


# -- what the worlds hold ------------------------------------------------------------------------


def each_job(change: Callable[[Job, Problem], Job]) -> Callable[[Problem], Problem]:
    return lambda p: replace(p, jobs=tuple(change(j, p) for j in p.jobs))


def each_mode(change: Callable[[Mode], Mode]) -> Callable[[Problem], Problem]:
    return each_job(lambda j, _: replace(j, modes=tuple(map(change, j.modes))))


def each_pool(change: Callable[[Pool], Pool]) -> Callable[[Problem], Problem]:
    return lambda p: replace(p, pools=tuple(map(change, p.pools)))


def each_node(change: Callable[[Node], Node]) -> Callable[[Problem], Problem]:
    return lambda p: replace(p, nodes=tuple(map(change, p.nodes)))


def each_queue(change: Callable[[Queue], Queue]) -> Callable[[Problem], Problem]:
    return lambda p: replace(p, queues=tuple(map(change, p.queues)))


def always_there(pool: Pool) -> Pool:
    most = max(w.nodes for w in pool.windows)
    whole = replace(pool.windows[0], end=pool.windows[-1].end, nodes=most)
    return replace(pool, windows=(whole,))


def billed_by_gpu(pool: Pool) -> Pool:
    return replace(pool, billing=Billing.GPU) if pool.billing is Billing.NODE else pool


def at_one_price(pool: Pool) -> Pool:
    first = pool.windows[0]
    return replace(
        pool,
        windows=tuple(
            replace(
                w,
                usd_per_node_hour=first.usd_per_node_hour,
                marginal_usd_per_node_hour=first.marginal_usd_per_node_hour,
            )
            for w in pool.windows
        ),
    )


def never_stopping(job: Job) -> Job:
    return replace(job, interruption=replace(job.interruption, checkpoint_seconds=0))


def stopping_for_nothing(job: Job) -> Job:
    return replace(
        job, interruption=replace(job.interruption, save_seconds=0.0, restart_seconds=0.0)
    )


def at_its_peak(job: Job, problem: Problem) -> Job:
    if not isinstance(job.need, Demand):
        return job
    flat = (max(job.need.per_slot),) * problem.grid.slots
    return replace(job, need=replace(job.need, per_slot=flat))


def whole_gpus(mode: Mode) -> Mode:
    return replace(mode, amounts=replace(mode.amounts, gpu_milli=1000 * mode.amounts.gpus))


def unpartitioned(mode: Mode) -> Mode:
    if not mode.amounts.mig:
        return mode
    return replace(mode, amounts=replace(mode.amounts, gpu_milli=1000, mig=()))


WITHOUT: dict[str, Callable[[Problem], Problem]] = {
    "windows": each_pool(always_there),
    "whole-node billing": each_pool(billed_by_gpu),
    "start-up": each_pool(lambda p: replace(p, startup_seconds=0)),
    "cordoned nodes": each_node(lambda n: replace(n, cordoned="")),
    "prices that change": each_pool(at_one_price),
    "jobs that stop": each_job(lambda j, _: never_stopping(j)),
    "save and restart": each_job(lambda j, _: stopping_for_nothing(j)),
    "changes of mode": each_job(lambda j, _: replace(j, switches=0)),
    "jobs that run already": lambda p: replace(p, running=()),
    "lost work": lambda p: replace(
        p, running=tuple(replace(r, work_since_checkpoint=0.0) for r in p.running)
    ),
    "jobs that may not be interrupted": each_job(lambda j, _: replace(j, preemptible=True)),
    "release": each_job(lambda j, _: replace(j, release=0)),
    "deadlines": each_job(lambda j, p: replace(j, deadline=p.grid.slots)),
    "due times": each_job(lambda j, _: replace(j, due=None)),
    "tiers": each_job(lambda j, _: replace(j, tier=0)),
    "required jobs": each_job(lambda j, _: replace(j, required=False)),
    "dependencies": each_job(lambda j, _: replace(j, after=())),
    "budgets of jobs": each_job(lambda j, _: replace(j, max_cost_usd=None)),
    "services whose demand changes": each_job(at_its_peak),
    "mixes": each_job(lambda j, _: replace(j, mixes=())),
    "queue limits": each_queue(lambda q: replace(q, limit=())),
    "guarantees": each_job(lambda j, _: replace(j, guarantee="")),
    "GPUs that queues do not lend": each_queue(lambda q: replace(q, lendable=None)),
    "budgets of queues": each_queue(lambda q: replace(q, budget_usd_per_month=None)),
    "the end of a month": lambda p: replace(p, grid=replace(p.grid, start=START)),
    "CPUs": each_mode(lambda m: replace(m, amounts=replace(m.amounts, cpu_milli=0))),
    "memory": each_mode(lambda m: replace(m, amounts=replace(m.amounts, memory_bytes=0))),
    "gangs spread": each_mode(lambda m: replace(m, spread="")),
    "gangs together": each_mode(lambda m: replace(m, together="", together_required=False)),
    "shares of GPUs": each_mode(whole_gpus),
    "device memory": each_mode(
        lambda m: replace(m, amounts=replace(m.amounts, gpu_memory_bytes=0))
    ),
    "MIG": each_mode(unpartitioned),
    "several geometries": each_pool(lambda p: replace(p, mig_geometries=p.mig_geometries[:1])),
    "data elsewhere": each_mode(lambda m: replace(m, egress_usd=0.0)),
    "racks": each_pool(lambda p: replace(p, topology_levels=())),
    "unhealthy GPUs": each_node(lambda n: replace(n, devices=())),
}


@pytest.mark.parametrize("feature", WITHOUT)
def test_a_good_part_of_the_worlds_has_each_feature(feature: str) -> None:
    without = WITHOUT[feature]
    having = sum(without(world(seed)) != world(seed) for seed in range(SEEDS))
    assert having >= 0.02 * SEEDS, f"{having} of {SEEDS} worlds have {feature}"


@pytest.mark.parametrize("feature", WITHOUT)
def test_each_feature_decides_the_optimum_of_some_worlds(feature: str) -> None:
    deciding = 0
    for seed in range(SEEDS):
        changed = WITHOUT[feature](world(seed))
        deciding += changed != world(seed) and usd(optimum(changed)) != usd(truth(seed))
        if deciding == ENOUGH_DECIDING:
            return
    raise AssertionError(f"{deciding} of {SEEDS} optima change without {feature}")


def test_the_best_plans_hold_gangs_over_nodes_changing_services_and_jobs_left_out() -> None:
    found = {"gang over nodes": 0, "service that changes": 0, "left out": 0, "infeasible": 0}
    found |= {"stopped": 0, "changed": 0, "kept": 0}
    for seed in range(SEEDS):
        best = truth(seed)
        if best is None:
            found["infeasible"] += 1
            continue
        problem = world(seed)
        batch = {j.name for j in problem.jobs if isinstance(j.need, Work)}
        ways = best.ways.items()
        pieces = [w.holds for name, w in ways if name in batch]
        services = [w.holds for name, w in ways if name not in batch]
        found["gang over nodes"] += any(sum(map(bool, p[0].counts)) > 1 for p in pieces)
        found["service that changes"] += any(
            len({sum(h.counts) for h in held}) > 1 for held in services
        )
        found["stopped"] += any(len(p) > 1 for p in pieces)
        found["changed"] += any(len({h.mode for h in p}) > 1 for p in pieces)
        found["kept"] += bool({r.job for r in problem.running} & best.ways.keys())
        found["left out"] += len(best.ways) < len(problem.jobs)
    # A world of four slots has little to gain by a stop.
    rare = {"stopped": 0.005, "changed": 0.001, "kept": 0.02}
    missing = {what: n for what, n in found.items() if n < rare.get(what, 0.05) * SEEDS}
    assert not missing
