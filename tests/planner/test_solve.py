"""Plans solved by hand: small questions, the arithmetic beside them."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from flopwise.interrupt import interruptible
from planner import cost
from planner.booking import Booking
from planner.check import violations
from planner.plan import Plan, Reason, Status, gap_of
from planner.problem import Amounts, Billing, Demand, Job, Pool, Problem, Queue, Window
from planner.solve import build, exact, pick, search
from planner.solve.build import HARDEST, Bookings
from planner.solve.clock import Clock, Limits, Step, Stop
from planner.solve.pick import WrongPlan, solve
from planner.table import Unsupported
from planner.table import build as tabulate
from tests.planner.worlds import (
    GIB,
    HOSTNAME,
    MONTH_END,
    job,
    mode,
    pool,
    problem,
    random_problem,
)

Run = tuple[int, int, tuple[str, ...]]  # start, end, nodes


def runs(plan: Plan) -> dict[str, list[Run]]:
    """Where and when each job runs."""
    found: dict[str, list[Run]] = {}
    for s in plan.segments:
        found.setdefault(s.job, []).append((s.start, s.end, tuple(p.node for p in s.placement)))
    return found


def pools_of(asked: Problem, plan: Plan) -> dict[str, str]:
    return {s.job: cost.mode_of(asked, s).pool for s in plan.segments}


def out(plan: Plan) -> dict[str, Reason]:
    return {u.job: u.reason for u in plan.unplaced}


# -- where ---------------------------------------------------------------------------------------


def test_a_slow_cheap_gpu_loses_to_a_fast_dear_one_per_flop() -> None:
    # A100: 10 h x 8 x $2.0 = $160.  H100: 4 h x 8 x $3.5 = $112.
    a100 = pool("a100", gpus=8, usd=2.0, slots=12)
    h100 = pool("h100", gpus=8, usd=3.5, slots=12)
    modes = (mode(a100, hours=10, gpus=8), mode(h100, hours=4, gpus=8))
    asked = problem((a100, h100), (job("sft", *modes, slots=12),), slots=12)
    plan = solve(asked)
    assert pools_of(asked, plan) == {"sft": "h100"}
    assert plan.costs.money == pytest.approx(112.0)
    assert (plan.status, plan.gap_fraction) == (Status.OPTIMAL, 0.0)
    # One unit of 1e15 FLOPs: $112 per PFLOP.
    assert plan.usd_per_pflop == pytest.approx(112.0)


def test_a_deadline_that_the_cheap_gpu_cannot_meet_buys_the_dear_one() -> None:
    # Cheap: 4 h x $1 = $4; dear: 2 h x $3 = $6, and it must end by 3.
    cheap, dear = pool("cheap"), pool("dear", usd=3.0)
    wanted = job("j", mode(cheap, hours=4), mode(dear, hours=2))
    for deadline, where, usd in ((4, "cheap", 4.0), (3, "dear", 6.0)):
        asked = problem((cheap, dear), (replace(wanted, deadline=deadline),))
        plan = solve(asked)
        assert pools_of(asked, plan) == {"j": where}
        assert plan.costs.money == pytest.approx(usd)


def test_owned_hardware_is_used_for_its_energy_and_shown_with_what_is_sunk() -> None:
    # Owned: 3 h x $0.10 of energy = $0.30, and 6 h x $5 sunk whatever runs; rented 3 h x $1 = $3.
    owned = pool("owned", usd=5.0, billing=Billing.SUNK)
    rented = pool("rented")
    wanted = job("j", mode(rented, hours=3), mode(owned, hours=3, usd=0.1))
    asked = problem((rented, owned), (wanted,))
    plan = solve(asked)
    assert pools_of(asked, plan) == {"j": "owned"}
    assert plan.costs.money == pytest.approx(0.3)
    assert plan.full_cost_usd == pytest.approx(30.3)


def test_a_gang_fills_a_node_before_it_takes_another() -> None:
    # Billed by node at $2 an hour: on one node 1 h x $2, on two twice that.
    pair = pool("pair", nodes=2, gpus=2, billing=Billing.NODE)
    plan = solve(problem((pair,), (job("gang", mode(pair, replicas=2)),)))
    assert len(runs(plan)["gang"][0][2]) == 1
    assert plan.costs.money == pytest.approx(2.0)


def test_replicas_that_are_to_be_apart_take_a_node_each() -> None:
    pair = pool("pair", nodes=2, gpus=2)
    plan = solve(problem((pair,), (job("gang", mode(pair, replicas=2, spread=HOSTNAME)),)))
    assert [p.replicas for p in plan.segments[0].placement] == [1, 1]


def test_a_gang_that_must_be_together_waits_for_a_whole_node() -> None:
    # One GPU of each node is held until slot 2: apart, the gang could start at once.
    pair = pool("pair", nodes=2, gpus=2)
    held = job("held", mode(pair, hours=2, replicas=2, spread=HOSTNAME), deadline=2)
    gang = job("gang", mode(pair, replicas=2, together=HOSTNAME), due=0, lateness_usd_per_hour=1.0)
    plan = solve(problem((pair,), (held, gang)))
    ((start, end, nodes),) = runs(plan)["gang"]
    assert (start, end, len(nodes)) == (2, 3, 1)
    assert plan.costs.lateness == pytest.approx(3.0)


# -- when ----------------------------------------------------------------------------------------


def test_a_job_goes_around_a_maintenance_window() -> None:
    # 2 h of work from slot 1; the node is away in slots 2 and 3: it starts at 4.
    cut = pool("a", windows=((0, 2, 1), (2, 4, 0), (4, 6, 1)))
    plan = solve(problem((cut,), (job("j", mode(cut, hours=2), release=1),)))
    assert runs(plan) == {"j": [(4, 6, ("a-0",))]}


def test_a_gang_waits_until_all_its_nodes_are_free() -> None:
    # One of two nodes is held for [0, 2): the gang of two starts at 2, not with one replica at 0.
    two = pool("a", nodes=2)
    held = job("held", mode(two, hours=2), deadline=2)
    gang = job("gang", mode(two, hours=3, replicas=2), due=3, lateness_usd_per_hour=1.0)
    plan = solve(problem((two,), (held, gang)))
    assert runs(plan)["gang"] == [(2, 5, ("a-0", "a-1"))]
    assert plan.costs.lateness == pytest.approx(2.0)


def test_what_is_due_first_goes_first_and_lateness_has_its_price() -> None:
    # One GPU, two jobs of 2 h due at 2: the one at $5 an hour goes first, the other is 2 h late.
    one = pool("a")
    jobs = tuple(
        job(name, mode(one, hours=2), due=2, lateness_usd_per_hour=usd)
        for name, usd in (("cheap", 1.0), ("dear", 5.0))
    )
    plan = solve(problem((one,), jobs))
    assert runs(plan) == {"dear": [(0, 2, ("a-0",))], "cheap": [(2, 4, ("a-0",))]}
    assert plan.costs.lateness == pytest.approx(2.0)


def test_a_job_starts_when_what_it_waits_for_has_ended() -> None:
    two = pool("a", nodes=2)
    first = job("first", mode(two, hours=1.5), due=2, lateness_usd_per_hour=1.0)
    then = job("then", mode(two), after=("first",), due=3, lateness_usd_per_hour=1.0)
    plan = solve(problem((two,), (first, then)))
    # 1.5 h hold two slots of an hour.
    assert [run[:2] for name in ("first", "then") for run in runs(plan)[name]] == [(0, 2), (2, 3)]


# -- whole nodes ---------------------------------------------------------------------------------


def around_a_gap(startup_seconds: int, gap: int) -> tuple[Problem, Plan]:
    """Two jobs of an hour with ``gap`` hours between them, on two nodes at $10 an hour."""
    rented = pool(
        "a", nodes=2, usd=10.0, billing=Billing.NODE, startup_seconds=startup_seconds, slots=8
    )
    early = job("early", mode(rented), release=2, deadline=3)
    late = job("late", mode(rented), release=3 + gap, deadline=4 + gap)
    asked = problem((rented,), (early, late), slots=8)
    return asked, solve(asked)


def test_a_rented_node_is_kept_across_a_gap_shorter_than_a_start() -> None:
    # Kept: 2 h of start-up + 1 + 1 + 1 = 5 h: $50. Started twice: 2 x (2 + 1) = 6 h: $60.
    asked, plan = around_a_gap(startup_seconds=7200, gap=1)
    (bill,) = cost.rentals(asked, plan.segments)
    assert (bill.launch_seconds, bill.end_seconds, bill.usd) == (0, 5 * 3600, 50.0)
    assert plan.costs.money == pytest.approx(50.0)


def test_a_rented_node_is_given_back_over_a_gap_longer_than_a_start() -> None:
    # Started twice: 2 x (1 + 1) = 4 h: $40. Kept over 3 h: 1 + 1 + 3 + 1 = 6 h.
    asked, plan = around_a_gap(startup_seconds=3600, gap=3)
    assert [bill.usd for bill in cost.rentals(asked, plan.segments)] == [20.0, 20.0]
    assert plan.costs.money == pytest.approx(40.0)


def test_of_two_idle_nodes_the_one_with_the_shorter_gap_is_kept() -> None:
    # The short job frees its node at 3, the long one at 4; the last begins at 5. Kept for one hour:
    # 2 x 2 h of start-up + 1 + 2 + 1 + 1 = 9 h. Kept for two on the other node: 10 h.
    rented = pool("a", nodes=2, billing=Billing.NODE, startup_seconds=7200, slots=8)
    short = job("short", mode(rented), release=2, deadline=3)
    long = job("long", mode(rented, hours=2), release=2, deadline=4)
    last = job("last", mode(rented), release=5, deadline=6)
    plan = solve(problem((rented,), (short, long, last), slots=8))
    assert plan.status is Status.OPTIMAL
    assert plan.costs.money == pytest.approx(9.0)


def test_a_small_job_rides_on_a_node_that_another_keeps() -> None:
    # The node costs $4 for its hour with one job or two; alone, the second would not be worth $3.
    node = pool("a", gpus=2, usd=2.0, billing=Billing.NODE)
    large, small = job("large", mode(node)), job("small", mode(node), unplaced_usd=1.5)
    plan = solve(problem((node,), (large, small)))
    assert set(runs(plan)) == {"large", "small"}
    assert plan.costs.money == pytest.approx(4.0)
    assert out(solve(problem((node,), (small,)))) == {"small": Reason.NOT_WORTH}


def test_jobs_share_the_hours_of_a_node_rather_than_take_two() -> None:
    # Two jobs of one GPU each: side by side on one node of two GPUs, 2 h x $2 = $4.
    rented = pool("a", nodes=2, gpus=2, billing=Billing.NODE)
    plan = solve(
        problem((rented,), (job("x", mode(rented, hours=2)), job("y", mode(rented, hours=2))))
    )
    assert plan.costs.money == pytest.approx(4.0)
    assert runs(plan)["x"] == runs(plan)["y"]


# -- who -----------------------------------------------------------------------------------------


def test_of_equals_the_one_that_costs_more_to_leave_out_runs() -> None:
    one = pool("a", slots=1)
    jobs = (
        job("less", mode(one), slots=1, unplaced_usd=10.0),
        job("more", mode(one), slots=1, unplaced_usd=20.0),
    )
    plan = solve(problem((one,), jobs, slots=1))
    assert out(plan) == {"less": Reason.CAPACITY}
    assert plan.costs.objective == pytest.approx(1.0 + 10.0)


def test_a_higher_tier_wins_over_a_dearer_lower_one() -> None:
    # By cost alone the low one ($1,000 to leave out) would run; priority says otherwise.
    one = pool("a", slots=1)
    low = job("low", mode(one), slots=1, unplaced_usd=1000.0)
    high = job("high", mode(one), slots=1, unplaced_usd=10.0, tier=1)
    plan = solve(problem((one,), (low, high), slots=1))
    assert set(runs(plan)) == {"high"}
    assert plan.costs.objective == pytest.approx(1.0 + 1000.0)
    assert (plan.status, plan.gap_fraction) == (Status.OPTIMAL, 0.0)


@pytest.mark.parametrize(("held", "sure"), [(("high", "low"), True), (("low",), False)])
def test_the_method_for_large_problems_is_sure_only_where_nobody_above_is_out(
    held: tuple[str, ...], sure: bool
) -> None:
    one = pool("a")
    asked = problem((one,), (job("high", mode(one), tier=1), job("low", mode(one))))
    state = search.Search(tabulate(asked), Clock(Limits()))
    option = {"high": Booking(option=0, start=0, counts=((1,),))}
    option["low"] = Booking(option=1, start=1, counts=((1,),))
    state.best = {b.option: b for name, b in option.items() if name in held}
    assert state.nobody_above_is_out() is sure


def test_a_higher_tier_that_is_not_worth_running_takes_nothing_from_a_lower_one() -> None:
    # $1 to run, $0.50 to leave out: it is left out for that, whatever its tier.
    one = pool("a", slots=1)
    low = job("low", mode(one), slots=1)
    high = job("high", mode(one), slots=1, unplaced_usd=0.5, tier=1)
    plan = solve(problem((one,), (low, high), slots=1))
    assert out(plan) == {"high": Reason.NOT_WORTH}


def test_a_required_job_runs_whatever_it_costs() -> None:
    # $1 to run, nothing to leave out, and it takes the place of a job worth $1,000.
    one = pool("a", slots=1)
    must = job("must", mode(one), slots=1, unplaced_usd=0.0, required=True)
    other = job("other", mode(one), slots=1, tier=5)
    plan = solve(problem((one,), (other, must), slots=1))
    assert (plan.status, set(runs(plan))) == (Status.OPTIMAL, {"must"})


def test_a_required_job_that_cannot_run_makes_the_plan_infeasible_and_says_why() -> None:
    one = pool("a")
    must = job("must", mode(one, hours=4), deadline=3, required=True)
    plan = solve(problem((one,), (must, job("other", mode(one)))))
    assert plan.status is Status.INFEASIBLE
    assert set(runs(plan)) == {"other"}
    assert out(plan) == {"must": Reason.WINDOW}


def test_two_required_jobs_of_which_one_fits_make_the_plan_infeasible() -> None:
    one = pool("a")
    both = tuple(job(name, mode(one, hours=4), required=True) for name in ("x", "y"))
    plan = solve(problem((one,), both))
    assert plan.status is Status.INFEASIBLE
    assert list(out(plan).values()) == [Reason.CAPACITY]


# -- money and queues ----------------------------------------------------------------------------


def test_a_budget_goes_to_the_jobs_that_cost_most_to_leave_out() -> None:
    # Three jobs of $2 and $5 to spend: two run, and the one at $10 stays out.
    many = pool("a", nodes=3)
    team = Queue(name="team", budget_usd_per_month=5.0)
    jobs = tuple(
        job(name, mode(many, hours=2), queue="team", unplaced_usd=usd)
        for name, usd in (("x", 10.0), ("y", 30.0), ("z", 20.0))
    )
    plan = solve(problem((many,), jobs, queues=(team,)))
    assert out(plan) == {"x": Reason.BUDGET}
    assert plan.costs.objective == pytest.approx(4.0 + 10.0)


def test_a_budget_is_not_lost_to_rounding_over_many_short_slots() -> None:
    # Two hours before December: 60 of 100 slots of two minutes at $0.0101 each are $0.606 if it
    # starts at once and $0.5959 if it starts a slot later, of $0.61.
    one = pool("a", usd=0.0101 * 30, slots=120)
    team = Queue(name="team", budget_usd_per_month=0.61)
    long = job("long", mode(one, hours=100 / 30), slots=120, deadline=101, queue="team")
    asked = problem((one,), (long,), slots=120, slot_seconds=120, start=MONTH_END, queues=(team,))
    plan = solve(asked)
    assert out(plan) == {}
    assert plan.costs.money == pytest.approx(1.01)


def test_a_jobs_own_budget_rules_out_the_ways_above_it() -> None:
    # Fast: 1 h x $4; slow: 3 h x $1 = $3, and it may cost $3.50. Late it is 1 h at $0.10.
    slow, fast = pool("slow"), pool("fast", usd=4.0)
    wanted = job(
        "j",
        mode(slow, hours=3),
        mode(fast),
        max_cost_usd=3.5,
        due=2,
        lateness_usd_per_hour=10.0,
    )
    asked = problem((slow, fast), (wanted,))
    assert pools_of(asked, solve(asked)) == {"j": "slow"}
    free = problem((slow, fast), (replace(wanted, max_cost_usd=None),))
    assert pools_of(free, solve(free)) == {"j": "fast"}


def test_a_queues_limit_makes_its_jobs_take_turns() -> None:
    # Three GPUs, and a limit of two in the parent: of three jobs of 2 h due at 2, one is 2 h late.
    three = pool("a", nodes=3)
    queues = (Queue(name="org", limit=(("a", 2),)), Queue(name="team", parent="org"))
    jobs = tuple(
        job(n, mode(three, hours=2), queue="team", due=2, lateness_usd_per_hour=1.0) for n in "xyz"
    )
    plan = solve(problem((three,), jobs, queues=queues))
    assert sorted(run[0] for (run,) in runs(plan).values()) == [0, 0, 2]
    assert plan.costs.lateness == pytest.approx(2.0)


# -- services ------------------------------------------------------------------------------------


def day_and_night() -> tuple[Pool, Job]:
    """A service that needs both GPUs in slots 0 to 2 and one in slots 3 to 5."""
    two = pool("a", nodes=2)
    need = Demand(per_slot=(2.0, 2.0, 2.0, 1.0, 1.0, 1.0))
    return two, job("chat", mode(two, serves=1.0, replicas=2), need=need, tier=1)


def test_a_service_lends_at_night_the_gpus_that_it_needs_by_day() -> None:
    two, chat = day_and_night()
    plan = solve(problem((two,), (chat, job("train", mode(two, hours=3)))))
    by_day, by_night = runs(plan)["chat"]
    assert (by_day[:2], by_night[:2]) == ((0, 3), (3, 6))
    ((start, end, nodes),) = runs(plan)["train"]
    assert (start, end) == (3, 6)
    assert set(nodes) | set(by_night[2]) == {"a-0", "a-1"}
    # 3 h x 2 + 3 h x 1 for the service, 3 h for the job, at $1.
    assert plan.costs.money == pytest.approx(12.0)


def test_a_job_too_long_for_the_night_stays_out() -> None:
    two, chat = day_and_night()
    plan = solve(problem((two,), (chat, job("train", mode(two, hours=4)))))
    assert out(plan) == {"train": Reason.CAPACITY}


def test_a_service_picks_the_gpu_that_serves_its_curve_cheapest() -> None:
    # Small GPUs serve 1 at $1: 3 x 3 + 3 x 1 = $12. A large one serves 3 at $1.90: 6 h = $11.40.
    small, large = pool("small", nodes=3), pool("large", usd=1.9)
    need = Demand(per_slot=(3.0, 3.0, 3.0, 1.0, 1.0, 1.0))
    chat = job("chat", mode(small, serves=1.0, replicas=3), mode(large, serves=3.0), need=need)
    asked = problem((small, large), (chat,))
    plan = solve(asked)
    assert pools_of(asked, plan) == {"chat": "large"}
    assert plan.costs.money == pytest.approx(11.4)


def test_a_service_that_nobody_asks_for_may_have_no_replica() -> None:
    one = pool("a")
    need = Demand(per_slot=(1.0, 0.0, 0.0, 0.0, 0.0, 1.0), min_replicas=0)
    team = Queue(name="team", budget_usd_per_month=2.0)
    chat = job("chat", mode(one, serves=1.0), need=need, queue="team")
    idle = replace(chat, name="idle", need=replace(need, per_slot=(0.0,) * 6))
    plan = solve(problem((one,), (chat, idle, job("j", mode(one, hours=4))), queues=(team,)))
    assert out(plan) == {}
    assert plan.costs.money == pytest.approx(2.0 + 4.0)


# -- what is proved ------------------------------------------------------------------------------


def test_the_gap_is_a_fraction_of_what_running_costs() -> None:
    # $110, of which $10 for not running: (110 - 105) / 100.
    assert gap_of(110.0, 105.0, 10.0) == pytest.approx(0.05)
    assert gap_of(110.0, 110.0, 10.0) == 0.0
    assert gap_of(110.0, 110.0 - 1e-9, 10.0) == 0.0  # float noise
    assert gap_of(10.0, 5.0, 10.0) == math.inf  # nothing runs, and something might
    assert gap_of(10.0, 10.0, 10.0) == 0.0
    assert gap_of(0.0, 0.0, 0.0) == 0.0
    assert gap_of(math.inf, 5.0, 0.0) == math.inf  # no plan yet


def contended() -> Problem:
    """Three jobs of 2 h, $2 each, due at 3 on one GPU: they end at 2, 4 and 6, at 1 + 3 = 4 h late.

    The relaxation lets each end as early as if it were alone: $6.
    """
    one = pool("a")
    jobs = tuple(job(n, mode(one, hours=2), due=3, lateness_usd_per_hour=1.0) for n in "xyz")
    return problem((one,), jobs)


@pytest.fixture
def large_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems go the way of large ones, and hurry."""
    monkeypatch.setattr(exact, "small", lambda _: False)
    monkeypatch.setattr(search, "SHORT_RUIN", 0.02)


@pytest.mark.usefixtures("large_method")
def test_a_plan_within_the_gap_asked_for_is_feasible_and_its_bound_is_below() -> None:
    # (10 - 6) / 10 = 40 %, all of the objective being money and lateness.
    plan = solve(contended(), Limits(seconds=5, gap=0.5))
    assert plan.status is Status.FEASIBLE
    assert plan.bound.usd == pytest.approx(6.0)
    assert plan.gap_fraction == pytest.approx(0.4)
    assert plan.bound.relaxes


@pytest.mark.usefixtures("large_method")
def test_progress_is_told_from_no_plan_to_a_proved_one_with_a_gap_that_only_falls() -> None:
    steps: list[Step] = []
    plan = solve(contended(), Limits(seconds=5), steps.append)
    assert plan.status is Status.OPTIMAL
    assert plan.costs.objective == pytest.approx(10.0)
    assert (steps[0].doing, steps[0].best_usd, steps[0].gap_fraction) == (
        "bounding",
        math.inf,
        math.inf,
    )
    for before, after in pairwise(steps):
        assert after.seconds >= before.seconds
        assert after.bound_usd >= before.bound_usd
        assert after.best_usd <= before.best_usd
        assert after.gap_fraction <= before.gap_fraction
    assert steps[-1].gap_fraction == plan.gap_fraction == 0.0


@pytest.mark.usefixtures("large_method")
@pytest.mark.parametrize(("seconds", "orders"), [(0.0, 1), (30.0, len(HARDEST))])
def test_once_its_time_is_up_jobs_are_put_in_in_no_other_order(
    seconds: float, orders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    construct = build.construct

    def heard(*given: Any, hardest: str, **named: Any) -> Bookings:
        tried.append(hardest)
        return construct(*given, hardest=hardest, **named)

    monkeypatch.setattr(build, "construct", heard)
    plan = solve(contended(), Limits(seconds=seconds, gap=1.0))
    assert plan.segments
    assert tried == list(HARDEST)[:orders]


def test_the_same_question_has_the_same_answer() -> None:
    for seed in range(25):
        first, second = (replace(solve(random_problem(seed)), solve_seconds=0) for _ in range(2))
        assert first == second


def test_a_plan_that_breaks_its_own_problem_is_never_handed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pick, "violations", lambda *_: ("a-0: gpu_milli overbooked at slot 0",))
    with pytest.raises(WrongPlan, match="overbooked at slot 0"):
        solve(contended())


# -- what is not planned -------------------------------------------------------------------------


def test_all_that_is_not_planned_yet_is_named_at_once() -> None:
    one = pool("a", gpus=2)
    first, last = (
        Window(start=a, end=b, nodes=1, usd_per_node_hour=usd, marginal_usd_per_node_hour=0.0)
        for a, b, usd in ((0, 3, 0.0), (3, 6, 2.0))
    )
    dear = replace(pool("b"), windows=(first, last))
    part = replace(mode(one), amounts=Amounts(gpu_milli=1500))
    sliced = replace(mode(one), amounts=Amounts(mig=(("1g.10gb", 1), ("2g.20gb", 1))))
    jobs = (
        job("part", part),
        job("slice", sliced),
        job("late", mode(one, serves=1.0), need=Demand(per_slot=(1.0,) * 6), due=3),
        job("rich", mode(one), unplaced_usd=2e15),
    )
    made = problem((one, dear), jobs, queues=(Queue(name="q", budget_usd_per_month=2e15),))
    small = replace(made.nodes[0], capacity=Amounts(gpu_milli=1000))
    asked = replace(made, nodes=(small, *made.nodes[1:]))
    with pytest.raises(Unsupported) as raised:
        solve(asked)
    assert str(raised.value).splitlines() == [
        f"not planned yet: {what}"
        for what in (
            "pool b: a price that is nothing in the first window and something later",
            "node a-0: another capacity than the other nodes of a",
            "queue q: a budget above $1,000,000,000,000,000",
            "job part: GPUs and a part of one beside them",
            "job slice: MIG instances of two kinds, or beside a GPU",
            "job late: a service with a due time or with dependencies",
            "job rich: sums above $1,000,000,000,000,000",
        )
    ]


UNUSABLE: Mapping[str, Pool] = {
    "too few CPUs": pool("a", cpus=1),
    "too little memory": pool("a", cpus=2, gib=1),
}


@pytest.mark.parametrize("lacks", UNUSABLE)
def test_a_replica_that_no_node_holds_is_not_placed(lacks: str) -> None:
    place = UNUSABLE[lacks]
    wanted = job("j", mode(place, cpus=2, gib=2))
    assert out(solve(problem((place,), (wanted,)))) == {"j": Reason.NO_OPTION}
    enough = replace(place.capacity, cpu_milli=2000, memory_bytes=2 * GIB)
    roomy = replace(place, capacity=enough)
    asked = problem((roomy,), (wanted,))
    plan = solve(asked)
    assert out(plan) == {}
    assert violations(asked, plan) == ()


# -- stopping --------------------------------------------------------------------------------------


def crowded_problem() -> Problem:
    """Jobs of different lengths, of which two GPUs have room for about half."""
    gpus = pool("a", nodes=2, slots=140)
    jobs = tuple(
        job(
            f"j{i}",
            mode(gpus, hours=3 + i * 37 % 11),
            slots=140,
            release=i * 7 % 60,
            unplaced_usd=20.0 + i * 53 % 41,
        )
        for i in range(80)
    )
    return problem((gpus,), jobs, slots=140)


def test_a_solve_that_is_asked_to_stop_ends_with_its_best_plan_and_a_true_bound() -> None:
    # Jobs of odd lengths on two GPUs with too few slots: without the stop it would search for ten
    # minutes, twice what a test may take.
    asked, stop = crowded_problem(), Stop()
    threading.Timer(0.5, stop.set).start()
    plan = solve(asked, Limits(seconds=600), None, stop)
    assert violations(asked, plan) == ()
    assert plan.bound.usd <= plan.costs.objective + 1e-6
    assert (plan.status, plan.stopped) == (Status.FEASIBLE, True)


def test_a_stop_before_the_start_is_still_answered() -> None:
    asked, stop = crowded_problem(), Stop()
    stop.set()
    plan = solve(asked, Limits(seconds=600), None, stop)
    assert violations(asked, plan) == ()


def test_a_stop_reaches_a_search_that_is_under_way_and_forgets_one_that_has_ended() -> None:
    stop, heard = Stop(), list[str]()
    with stop.reaches(lambda: heard.append("ended")):
        pass
    with stop.reaches(lambda: heard.append("first")):
        stop.set()
        with stop.reaches(lambda: heard.append("late")):  # begun after the first Ctrl-C
            pass
    assert heard == ["first", "late"]


def test_work_that_ends_just_as_it_was_not_waited_for_any_more_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine has a wait time out and the work end before anybody looks.
    result = Future.result

    def too_late(answer: Future[int], timeout: float | None = None) -> int:
        if timeout is None:
            return result(answer)
        result(answer)
        raise TimeoutError

    monkeypatch.setattr(Future, "result", too_late)
    assert Stop().unless(lambda: 7) == 7
    assert interruptible(lambda: 7, stop=lambda: None) == 7


def test_work_that_cannot_be_stopped_is_left_behind_and_its_errors_are_not_lost() -> None:
    stop, never = Stop(), threading.Event()
    with pytest.raises(ZeroDivisionError):
        stop.unless(lambda: 1 // 0)
    assert stop.unless(lambda: 7) == 7
    threading.Timer(0.01, stop.set).start()
    assert stop.unless(never.wait) is None
    never.set()
