"""Plans in which jobs stop, go on, change their mode or run already; and prices that change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner import cost
from planner.plan import Plan, Status
from planner.problem import Billing, Interruption, Problem, Running
from planner.solve.clock import Limits
from planner.solve.pick import solve
from tests.planner.worlds import job, mode, pool, problem

ONE = pool("a")  # one GPU at $1 an hour, 6 slots of 1 h
SAVES = Interruption(checkpoint_seconds=600, save_seconds=360, restart_seconds=720)
FIXED = job("fixed", mode(ONE), release=2, deadline=3)
Piece = tuple[int, int, int]  # mode, start, end


def pieces(plan: Plan, name: str) -> list[Piece]:
    return [(s.mode, s.start, s.end) for s in plan.segments if s.job == name]


def optimum(asked: Problem) -> Plan:
    plan = solve(asked, Limits(seconds=20))
    assert plan.status is Status.OPTIMAL
    return plan


# -- stopping ------------------------------------------------------------------------------------


def test_a_job_that_saves_steps_aside_for_one_whose_time_is_fixed() -> None:
    # 1.9 h before the other and 1.1 h behind it; 0.3 h at $1 to save and restore.
    long = job("long", mode(ONE, hours=3), interruption=SAVES, deadline=5)
    plan = optimum(problem((ONE,), (long, FIXED)))
    assert pieces(plan, "long") == [(0, 0, 2), (0, 3, 5)]
    assert (plan.costs.money, plan.costs.moving) == pytest.approx((4.0, 0.3))


def test_a_job_that_never_saves_waits_or_is_left_out() -> None:
    never = job("long", mode(ONE, hours=3), deadline=5)
    assert [u.job for u in optimum(problem((ONE,), (never, FIXED))).unplaced] == ["long"]
    later = replace(never, deadline=6)
    assert pieces(optimum(problem((ONE,), (later, FIXED))), "long") == [(0, 3, 6)]


def test_a_job_does_not_stop_where_that_costs_more_than_it_saves() -> None:
    # In one piece it is an hour late; in two it would pay $0.30 and be on time.
    long = job("long", mode(ONE, hours=3), interruption=SAVES, due=5, lateness_usd_per_hour=0.2)
    plan = optimum(problem((ONE,), (long, FIXED)))
    assert pieces(plan, "long") == [(0, 3, 6)]
    dear = replace(long, lateness_usd_per_hour=0.4)
    assert pieces(optimum(problem((ONE,), (dear, FIXED))), "long") == [(0, 0, 2), (0, 3, 5)]


def test_a_piece_shorter_than_its_save_and_restart_is_none() -> None:
    # The hours between the others hold neither 40 min to restore nor 30 to save as well.
    slow = Interruption(checkpoint_seconds=600, save_seconds=1800, restart_seconds=2400)
    long = job("long", mode(ONE, hours=2), interruption=slow, unplaced_usd=50.0)
    others = tuple(job(f"fixed{t}", mode(ONE), release=t, deadline=t + 1) for t in (1, 3, 5))
    assert [u.job for u in optimum(problem((ONE,), (long, *others))).unplaced] == ["long"]


def test_a_job_pauses_while_its_nodes_are_away() -> None:
    away = pool("a", windows=((0, 2, 1), (2, 3, 0), (3, 6, 1)))
    long = job("long", mode(away, hours=3), interruption=SAVES, due=5, lateness_usd_per_hour=9.0)
    assert pieces(optimum(problem((away,), (long,))), "long") == [(0, 0, 2), (0, 3, 5)]


# -- changing the mode ---------------------------------------------------------------------------


def test_a_job_takes_the_dear_mode_only_for_as_long_as_its_deadline_asks() -> None:
    # 3 of the 6 h that it takes on the cheap GPU, $3, leave half an hour of the dear one, $6.
    fast, quick = pool("fast", usd=12.0), Interruption(checkpoint_seconds=600)
    both = (mode(ONE, hours=6), mode(fast, hours=1))
    may = job("may", *both, deadline=4, interruption=quick, switches=1)
    plan = optimum(problem((ONE, fast), (may,)))
    assert pieces(plan, "may") == [(0, 0, 3), (1, 3, 4)]
    assert plan.costs.money == pytest.approx(9.0)
    never = optimum(problem((ONE, fast), (replace(may, switches=0),)))
    assert never.costs.money == pytest.approx(12.0)


# -- prices that change --------------------------------------------------------------------------


def test_a_job_starts_when_its_price_has_fallen() -> None:
    falls = pool("a", windows=((0, 3, 1), (3, 6, 1)), times=(1.0, 0.5))
    plan = optimum(problem((falls,), (job("j", mode(falls, hours=2)),)))
    assert (pieces(plan, "j"), plan.costs.money) == ([(0, 3, 5)], 1.0)


def test_a_job_pauses_while_its_price_is_high() -> None:
    # 4 h in 6: through the dear hours it would pay at least $10 twice; so it pays $4 and $0.30.
    peak = pool("a", windows=((0, 2, 1), (2, 4, 1), (4, 6, 1)), times=(1.0, 10.0, 1.0))
    long = job("long", mode(peak, hours=3.7), interruption=SAVES)
    plan = optimum(problem((peak,), (long,)))
    assert pieces(plan, "long") == [(0, 0, 2), (0, 4, 6)]
    assert (plan.costs.money, plan.costs.moving) == pytest.approx((3.7, 0.3))


def test_a_rented_node_is_launched_again_where_waiting_is_dearer() -> None:
    # An hour at $9 between two uses, against half an hour of start-up in it: $4.50.
    peak = pool(
        "a",
        windows=((0, 2, 1), (2, 3, 1), (3, 6, 1)),
        times=(1.0, 9.0, 1.0),
        billing=Billing.NODE,
        startup_seconds=1800,
    )
    early = job("early", mode(peak), deadline=2)
    late = job("late", mode(peak), release=3, deadline=4)
    plan = optimum(problem((peak,), (early, late)))
    # $0.50 and $1, then $4.50 and $1.
    assert plan.costs.money == pytest.approx(7.0)


# -- jobs that run already -----------------------------------------------------------------------


def running(name: str, node: str, *, done: float = 0.5, lost: float = 0.25) -> Running:
    return Running(job=name, mode=0, nodes=(node,), work_done=done, work_since_checkpoint=lost)


def test_a_job_goes_on_where_it_runs() -> None:
    # Half of 4 h is left; anywhere else it would restore for 0.2 h and do 1 h again.
    two = pool("a", nodes=2)
    long = job("long", mode(two, hours=4), interruption=SAVES)
    asked = replace(problem((two,), (long,)), running=(running("long", "a-1"),))
    plan = optimum(asked)
    (segment,) = plan.segments
    assert (segment.start, segment.end, segment.placement[0].node) == (0, 2, "a-1")
    assert (plan.costs.money, plan.costs.moving) == pytest.approx((2.0, 0.0))


@pytest.mark.parametrize(
    ("elsewhere_usd", "held", "usd"),
    [
        (1.0, [(1, 0, 4)], 3.2),  # at once: 0.2 h to restore, an hour that is lost, 2 h of work
        (2.0, [(0, 0, 1), (1, 1, 3)], 5.6),  # saved first: $3, then 0.2 h and 1.1 h of work
        (2.9, [(0, 0, 2)], 6.0),  # saved first, it would be $6.77
    ],
    ids=["at once", "at a checkpoint", "not at all"],
)
def test_a_job_is_moved_only_if_that_saves_more_than_it_costs(
    elsewhere_usd: float, held: list[Piece], usd: float
) -> None:
    dear, other = pool("a", usd=3.0), pool("b", usd=elsewhere_usd)
    both = (mode(dear, hours=4), mode(other, hours=4))
    long = job("long", *both, interruption=SAVES, switches=1)
    plan = optimum(replace(problem((dear, other), (long,)), running=(running("long", "a-0"),)))
    assert pieces(plan, "long") == held
    assert plan.costs.objective == pytest.approx(usd)


def test_a_job_that_may_not_be_interrupted_is_left_where_it_runs() -> None:
    one = pool("a", windows=((0, 6, 1),))
    rigid = job("rigid", mode(one, hours=4), preemptible=False, interruption=SAVES)
    urgent = job("urgent", mode(one), due=1, lateness_usd_per_hour=50.0)
    asked = replace(problem((one,), (rigid, urgent)), running=(running("rigid", "a-0"),))
    plan = optimum(asked)
    assert (pieces(plan, "rigid"), pieces(plan, "urgent")) == ([(0, 0, 2)], [(0, 2, 3)])


def test_a_node_that_is_up_is_not_paid_for_its_start_again() -> None:
    # 2 h at $1, and no start-up for the job that runs; another node would take one hour to start.
    two = pool("a", nodes=2, billing=Billing.NODE, startup_seconds=3600)
    long = job("long", mode(two, hours=4), interruption=SAVES)
    other = job("other", mode(two))
    asked = replace(problem((two,), (long, other)), running=(running("long", "a-1"),))
    plan = optimum(asked)
    assert plan.costs.money == pytest.approx(3.0)
    assert {r.node for r in cost.rentals(asked, plan.segments)} == {"a-1"}
