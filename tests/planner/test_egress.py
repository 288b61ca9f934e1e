"""Data that stand elsewhere: paid for once in each pool, whatever finds the plan."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from planner.check import violations
from planner.churn import move_usd, moved
from planner.explain import explain
from planner.fast import Placed, decide
from planner.live import Live
from planner.plan import Bound, Plan, Status
from planner.problem import (
    Billing,
    Demand,
    Interruption,
    Job,
    Mix,
    Mode,
    Problem,
    Queue,
    Running,
)
from planner.solve.clock import Clock, Limits
from planner.solve.fleet import engine
from planner.solve.pick import solve
from tests.planner.brute_force import optimum
from tests.planner.worlds import MONTH_END, job, mode, pool, problem, random_problem

NEAR, FAR = pool("near", usd=3.0), pool("far", usd=1.0)
SAVES = Interruption(checkpoint_seconds=600)


def away(of: Mode, usd: float) -> Mode:
    """The mode, where the job's data have to be brought for ``usd``."""
    return replace(of, egress_usd=usd)


def best(asked: Problem) -> Plan:
    plan = solve(asked, Limits(seconds=20))
    assert plan.status is Status.OPTIMAL
    truth = optimum(asked)
    assert truth is not None
    assert plan.costs.objective == pytest.approx(truth.objective_usd)
    return plan


def fleet(asked: Problem) -> Plan:
    plan = engine.solve(asked, Clock(Limits(seconds=60.0, moves=2000)))
    assert violations(asked, plan) == ()
    return plan


def pools(asked: Problem, plan: Plan, name: str) -> list[str]:
    modes = asked.job_by_name[name].modes
    return [modes[s.mode].pool for s in plan.segments if s.job == name]


def charged(plan: Plan) -> list[float]:
    return [s.egress_usd for s in plan.segments]


# -- where a job runs ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [best, fleet])
@pytest.mark.parametrize(("usd", "goes"), [(3.9, "far"), (4.1, "near")])
def test_a_cheap_pool_is_worth_it_as_long_as_bringing_the_data_costs_less_than_it_saves(
    method: type, usd: float, goes: str
) -> None:
    # 2 h at $3 near its data are $6; 2 h at $1 and the data $2 + usd.
    asked = problem((NEAR, FAR), (job("j", mode(NEAR, hours=2), away(mode(FAR, hours=2), usd)),))
    plan = method(asked)
    assert pools(asked, plan, "j") == [goes]
    money, moving = (2.0, usd) if goes == "far" else (6.0, 0.0)
    assert (plan.costs.money, plan.costs.moving) == pytest.approx((money, moving))
    assert plan.bound.usd <= money + moving + 1e-6


def test_a_whole_node_bill_does_not_hold_what_bringing_data_costs() -> None:
    # 2 h of a node at $1 and $1.5 of data, against 2 h of GPU at $3.
    rented = pool("far", usd=1.0, billing=Billing.NODE)
    one = job("j", mode(NEAR, hours=2), away(mode(rented, hours=2), 1.5))
    plan = best(problem((NEAR, rented), (one,)))
    assert (plan.costs.money, plan.costs.moving) == pytest.approx((2.0, 1.5))


def test_a_job_that_is_worth_less_than_bringing_its_data_is_left_out() -> None:
    one = job("j", away(mode(FAR, hours=2), 8.5), unplaced_usd=10.0)
    assert [u.job for u in best(problem((FAR,), (one,))).unplaced] == ["j"]
    assert best(problem((FAR,), (replace(one, unplaced_usd=11.0),))).unplaced == ()


def test_a_job_that_stops_and_goes_on_in_its_pool_pays_for_its_data_once() -> None:
    fixed = job("fixed", mode(FAR), release=2, deadline=3)
    long = job("long", away(mode(FAR, hours=3), 0.7), interruption=SAVES, deadline=5)
    plan = best(problem((FAR,), (long, fixed)))
    assert [(s.start, s.egress_usd) for s in plan.segments if s.job == "long"] == [
        (0, 0.7),
        (3, 0.0),
    ]
    assert plan.costs.moving == pytest.approx(0.7)


def test_a_job_that_goes_on_in_another_pool_brings_its_data_there_too() -> None:
    # far is there for 2 h of 4: 2 h at $1, then 2 h at $3, and the data to both: $8 + $1.5.
    # All of it near: 4 h at $3 and $0.5 are $12.5.
    brief = pool("far", usd=1.0, windows=((0, 2, 1), (2, 6, 0)))
    modes = (away(mode(NEAR, hours=4), 0.5), away(mode(brief, hours=4), 1.0))
    one = job("j", *modes, interruption=SAVES, switches=1)
    plan = best(problem((NEAR, brief), (one,)))
    assert charged(plan) == [1.0, 0.5]
    assert plan.costs.objective == pytest.approx(9.5)
    # At $5 more for the data the change saves nothing: $4 by the hour.
    dear = replace(one, modes=(modes[0], away(modes[1], 5.0)))
    assert best(problem((NEAR, brief), (dear,))).costs.objective == pytest.approx(12.5)


def test_a_job_that_runs_already_has_its_data_there() -> None:
    one = job("j", away(mode(NEAR, hours=2), 9.0), away(mode(FAR, hours=2), 1.9))
    here = Running(job="j", mode=0, nodes=("near-0",), work_done=0.5, work_since_checkpoint=0.5)
    # 1 h more at $3, or all of it again for $2 and $1.9 of data.
    plan = best(replace(problem((NEAR, FAR), (one,)), running=(here,)))
    assert (plan.costs.money, plan.costs.moving) == pytest.approx((3.0, 0.0))
    free = replace(one, modes=(one.modes[0], mode(FAR, hours=2)))
    plan = best(replace(problem((NEAR, FAR), (free,)), running=(here,)))
    assert plan.costs.objective == pytest.approx(2.0)


def test_a_mix_of_a_service_brings_its_data_to_both_pools() -> None:
    # Two replicas for 6 h: one of each pool, 6 x $3 + 6 x $1 and $2 + $1 of data.
    modes = (away(mode(NEAR, serves=1.0), 2.0), away(mode(FAR, serves=1.0), 1.0))
    need = Demand(per_slot=(2.0,) * 6)
    asked = job("s", *modes, need=need, mixes=(Mix(base=0, replicas=1, rest=1),))
    plan = best(problem((NEAR, FAR), (asked,)))
    assert (plan.costs.money, plan.costs.moving) == pytest.approx((24.0, 3.0))


# -- what it may cost ------------------------------------------------------------------------------


def test_what_a_job_may_cost_holds_its_data() -> None:
    one = job("j", away(mode(FAR, hours=2), 1.0), max_cost_usd=2.9)
    assert [u.job for u in best(problem((FAR,), (one,))).unplaced] == ["j"]
    assert best(problem((FAR,), (replace(one, max_cost_usd=3.0),))).unplaced == ()


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("method", [best, fleet])
def test_data_are_paid_in_the_month_in_which_the_job_first_starts(
    method: type, pieces: bool
) -> None:
    # Two hours before December: $2 of GPU hours, and the data. $2.5 a month are too little for both
    # in one month, but enough for an hour and the data in one, and an hour in the other.
    team = Queue(name="team", budget_usd_per_month=2.5)
    one = job(
        "j",
        away(mode(FAR, hours=2), 1.4),
        queue="team",
        interruption=SAVES if pieces else Interruption(),
    )
    plan = method(problem((FAR,), (one,), queues=(team,), start=MONTH_END))
    assert {s.start for s in plan.segments if s.egress_usd} == {1}
    assert plan.costs.objective == pytest.approx(3.4)


# -- the fast path, and what changes ---------------------------------------------------------------


def test_an_arrival_goes_where_its_hours_and_its_data_cost_least() -> None:
    live = Live(problem((NEAR, FAR), ()))
    one = job("j", mode(NEAR, hours=2), away(mode(FAR, hours=2), 3.9))
    answer = decide(live, one, 0)
    assert isinstance(answer, Placed)
    assert [(s.mode, s.egress_usd) for s in answer.segments] == [(1, 3.9)]
    assert answer.usd == pytest.approx(5.9)
    dear = decide(live, replace(one, modes=(one.modes[0], away(one.modes[1], 4.1))), 0)
    assert isinstance(dear, Placed)
    assert [(s.mode, s.egress_usd) for s in dear.segments] == [(0, 0.0)]


def test_an_arrival_spends_its_data_from_the_budget_of_the_month_in_which_it_starts() -> None:
    team = Queue(name="team", budget_usd_per_month=2.5)
    live = Live(problem((FAR,), (), queues=(team,), start=MONTH_END))
    one = job("j", away(mode(FAR, hours=2), 1.4), queue="team")
    answer = decide(live, one, 0)
    assert isinstance(answer, Placed)
    assert answer.start == 1
    live.book(one, answer.segments)
    assert sorted(live.purse_usd) == pytest.approx([0.1, 1.5])


def test_moving_a_running_job_to_another_pool_costs_its_data_as_well() -> None:
    # Half an hour again on the far GPU at $1, and $1.9 of data; on another near node no data.
    near = pool("near", nodes=2, usd=3.0)
    one = job("j", away(mode(near, hours=2), 9.0), away(mode(FAR, hours=2), 1.9))
    here = Running(job="j", mode=0, nodes=("near-0",), work_done=0.5, work_since_checkpoint=0.25)
    assert move_usd(one, one.modes[1], here) == pytest.approx(0.5 + 1.9)
    assert move_usd(one, one.modes[0], here) == pytest.approx(1.5)


def test_a_plan_that_has_a_waiting_job_elsewhere_saves_less_by_what_its_data_cost() -> None:
    one = job("j", mode(NEAR, hours=2), away(mode(FAR, hours=2), 1.9))
    asked = problem((NEAR, FAR), (one,))
    there = solve(asked)
    here = solve(replace(asked, jobs=(replace(one, modes=(one.modes[0],)),)))
    (move,) = moved(here, there, asked)
    # $6 here, of which a hundredth is the promise; $2 and $1.9 there.
    assert (move.price_usd, move.saving_usd) == pytest.approx((0.06, 2.1))
    (back,) = moved(there, here, asked)
    assert (back.price_usd, back.saving_usd) == pytest.approx((0.039, -2.1))


def test_explain_says_what_bringing_the_data_costs_on_each_way() -> None:
    asked = problem((NEAR, FAR), (job("j", mode(NEAR, hours=2), away(mode(FAR, hours=2), 4.5)),))
    found = explain(asked, best(asked), "j")
    assert found.now is not None
    assert (found.now.money_usd, found.now.egress_usd) == (6.0, 0.0)
    (other,) = [w for w in found.ways if w.pool == "far"]
    assert (other.money_usd, other.egress_usd, other.own_usd) == pytest.approx((2.0, 4.5, 6.5))
    assert other.change_usd == pytest.approx(0.5)


# -- what is no plan -------------------------------------------------------------------------------


def test_a_plan_that_forgets_the_data_or_pays_for_them_twice_is_not_true() -> None:
    asked = problem((FAR,), (job("j", away(mode(FAR, hours=2), 1.4)),))
    plan = replace(best(asked), bound=Bound(usd=0.0))
    (segment,) = plan.segments
    for usd in (0.0, 2.8):
        wrong = replace(plan, segments=(replace(segment, egress_usd=usd),))
        assert violations(asked, wrong) == (
            f"j: ${usd:.2f} for its data in far from slot 0, $1.40 due",
            f"moving: the plan says 1.400000, its segments add up to {usd:.6f}",
        )


def test_data_have_one_price_in_a_pool() -> None:
    modes = (away(mode(FAR, hours=2), 1.0), away(mode(FAR, hours=1, replicas=2), 2.0))
    with pytest.raises(ValueError, match="job j brings its data to a pool at two prices"):
        problem((FAR,), (job("j", *modes),))


# -- properties ------------------------------------------------------------------------------------


def with_data(world: Problem, seed: int, times: float) -> Problem:
    rng = random.Random(seed)
    usd = {p.name: rng.uniform(0.0, 4.0) * times for p in world.pools}

    def brought(one: Job) -> Job:
        return replace(one, modes=tuple(away(m, usd[m.pool]) for m in one.modes))

    return replace(world, jobs=tuple(map(brought, world.jobs)))


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_more_data_never_make_a_plan_cheaper(first: int) -> None:
    found = []
    for seed in range(first, first + 20):
        world = random_problem(seed)  # strict ranks may cost more than data do
        jobs = tuple(replace(j, tier=0, guarantee="") for j in world.jobs)
        world = replace(world, jobs=jobs)
        plans = [solve(with_data(world, seed, times)) for times in (0.0, 1.0, 3.0)]
        if any(plan.status is not Status.OPTIMAL for plan in plans):
            continue  # a job that must run may not be able to pay
        usd = [plan.costs.objective for plan in plans]
        assert usd == sorted(usd), seed
        found.append(usd[0] < usd[-1])
    assert sum(found) >= 4


def test_an_arrival_alone_costs_what_the_best_plan_does() -> None:
    found = []
    for seed in range(200):
        world = with_data(random_problem(seed), seed, 1.0)
        plain = {p.name for p in world.pools if p.billing is not Billing.NODE}
        one = replace(world.jobs[0], after=(), mixes=(), required=False, guarantee="")
        whole = (m for m in one.modes if m.pool in plain and m.amounts.gpu_milli % 1000 == 0)
        one = replace(one, modes=tuple(m for m in whole if not m.amounts.mig))
        alone = replace(world, jobs=(one,), running=())
        truth = optimum(alone)
        assert truth is not None
        answer = decide(Live(replace(alone, jobs=())), one, 0)
        usd = answer.usd if isinstance(answer, Placed) else one.unplaced_usd
        assert usd == pytest.approx(truth.objective_usd), seed
        found.append(isinstance(answer, Placed) and answer.segments[0].egress_usd > 0)
    assert sum(found) >= 5


@pytest.mark.parametrize("first", range(0, 100, 50))
def test_the_fleet_method_is_never_below_the_optimum_nor_its_bound_above(first: int) -> None:
    gaps = []
    for seed in range(first, first + 50):
        world = with_data(random_problem(seed), seed, 1.0)
        world = replace(world, jobs=tuple(replace(j, mixes=(), required=False) for j in world.jobs))
        truth = optimum(world)
        assert truth is not None
        plan = fleet(world)
        assert plan.bound.usd <= truth.objective_usd + 1e-6, seed
        assert plan.costs.objective >= truth.objective_usd - 1e-6, seed
        gaps.append(plan.costs.objective - truth.objective_usd)
    assert sum(gap < 1e-6 for gap in gaps) > 25
