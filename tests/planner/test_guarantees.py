"""Whom the guarantee of a queue covers, and that nobody who borrows pushes them out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planner.changes import apply, parse
from planner.check import violations
from planner.explain import explain
from planner.guarantees import covered, with_guarantees
from planner.plan import Reason
from planner.problem import Demand, Job, Problem, Queue
from planner.solve.clock import Clock, Limits
from planner.solve.fleet import engine
from planner.solve.pick import solve
from tests.planner.worlds import job, mode, pool, problem

TWO = pool("a", nodes=2, gpus=2)
OTHER = pool("b", nodes=2)


def team(gpus: int = 1, name: str = "team", parent: str = "") -> Queue:
    return Queue(name=name, parent=parent, guaranteed=(("a", gpus),))


def asked(*jobs: Job, queues: tuple[Queue, ...] = (team(),)) -> Problem:
    return with_guarantees(problem((TWO, OTHER), jobs, queues=queues))


def work(name: str, hours: float, **fields: Any) -> Job:
    made = job(name, mode(TWO, hours=hours), queue="team")
    return replace(made, **fields)


def of(made: Problem) -> str:
    """Covered jobs, in the order of the problem."""
    return " ".join(job.name for job in made.jobs if job.guarantee)


# -- who is covered --------------------------------------------------------------------------------


def test_jobs_are_covered_by_priority_and_order_until_the_horizon_is_full() -> None:
    # One GPU for six slots: u (3 h, urgent), then x (2 h); y (2 h) has 1 h left; z (1 h) fits.
    made = asked(work("x", 2), work("y", 2), work("z", 1), work("u", 3, tier=5))
    assert of(made) == "x z u"
    assert [j.tier for j in made.jobs] == [0, 0, 0, 5]  # the user's priority stays what it is


def test_a_job_that_needs_more_than_is_guaranteed_is_not_covered() -> None:
    gang = job("gang", mode(TWO, replicas=2), queue="team")
    assert of(asked(gang, work("x", 6))) == "x"
    assert of(asked(gang, work("x", 6), queues=(team(2),))) == "gang"  # 1 h with 2, then 5 h left


def test_a_job_is_covered_on_accelerators_that_are_guaranteed() -> None:
    elsewhere = job("elsewhere", mode(OTHER), queue="team")
    either = job("either", mode(OTHER), mode(TWO, hours=6), queue="team")
    assert of(asked(elsewhere, either)) == "either"


def test_time_counts_release_deadline_and_what_a_job_waits_for() -> None:
    late = work("late", 3, release=4)  # would end in slot 7
    first, then = work("first", 3), work("then", 3, after=("first",))
    assert of(asked(late, first, then)) == "first then"
    assert of(asked(first, replace(then, deadline=5))) == "first"
    # What an urgent job waits for goes before others; one that waits for what is not covered isn't.
    urgent = replace(then, tier=1)
    assert of(asked(work("x", 3), first, urgent)) == "first then"
    assert of(asked(replace(first, queue=""), then)) == ""


def test_a_service_is_covered_where_its_peak_is() -> None:
    def chat(peak: float) -> Job:
        need = Demand(per_slot=(1.0, 1.0, peak, peak, 1.0, 1.0))
        return job("chat", mode(TWO, replicas=2, serves=1.0), need=need, queue="team")

    assert of(asked(chat(2.0))) == ""
    assert of(asked(chat(1.0), work("x", 1))) == "chat"  # all of the GPU, all of the time
    assert of(asked(chat(2.0), work("x", 2), queues=(team(2),))) == "chat x"  # slots 0 and 1


def test_what_could_not_run_or_does_not_pay_takes_nothing_of_the_guarantee() -> None:
    wide = job("wide", mode(TWO, gpus=3), queue="team")  # no node has 3
    dear = work("dear", 3, unplaced_usd=2.0)  # $3 to run
    assert of(asked(wide, dear, work("x", 6), queues=(team(3),))) == "x"


def test_gpus_that_are_away_take_their_guarantee_with_them() -> None:
    gone = pool("a", nodes=2, gpus=1, windows=((0, 3, 2), (3, 6, 1)))
    jobs = tuple(job(n, mode(gone, hours=4), queue="team") for n in "xy")
    assert covered(problem((gone,), jobs, queues=(team(2),))) == {"x": "team"}


def test_the_guarantee_above_covers_what_those_below_leave() -> None:
    # Org is guaranteed 2, of which team 1. Team's own covers x; y takes what is left to org, and
    # the other team's z finds none.
    queues = (team(2, "org"), team(1, "team", "org"), Queue(name="other", parent="org"))
    made = asked(work("x", 6), work("y", 6), work("z", 6, queue="other"), queues=queues)
    assert [j.guarantee for j in made.jobs] == ["team", "org", ""]
    # What team leaves of its own, its sister has.
    made = asked(work("x", 6, queue="other"), work("z", 6, queue="other"), queues=queues)
    assert [j.guarantee for j in made.jobs] == ["org", "org"]


def test_a_queue_that_does_not_reclaim_covers_nobody() -> None:
    assert of(asked(work("x", 1), queues=(replace(team(), reclaims=False),))) == ""


def test_whom_a_guarantee_covers_is_decided_anew_for_a_change() -> None:
    made = with_guarantees(problem((TWO,), (work("x", 4), work("y", 4)), queues=(team(),)))
    assert of(made) == "x"
    shorter = apply(made, parse("job/x.demand*=0.5"))
    assert of(shorter) == "x y"  # 2 h and 4 h
    assert with_guarantees(made) is made


# -- plans -----------------------------------------------------------------------------------------


def rivals() -> Problem:
    """One GPU for six slots, and two jobs that want all of it: covered, or urgent and dear."""
    one = pool("a")
    mine = job("mine", mode(one, hours=6), queue="team", unplaced_usd=7.0)
    guest = job("guest", mode(one, hours=6), tier=9, unplaced_usd=1000.0)
    return problem((one,), (mine, guest), queues=(team(),))


def test_nobody_who_borrows_pushes_out_what_a_guarantee_covers() -> None:
    assert [u.job for u in solve(rivals()).unplaced] == ["mine"]
    made = with_guarantees(rivals())
    plan = solve(made)
    assert violations(made, plan) == ()
    (left,) = plan.unplaced
    assert (left.job, left.reason) == ("guest", Reason.CAPACITY)
    assert left.message == (
        "a is full when it could run: mine; mine is within the guarantee of team: 1 a"
    )
    assert explain(made, plan, "mine").why == (
        "No other way that it has costs it less. It is within the guarantee of team: 1 a."
    )


def test_a_covered_job_that_has_no_room_all_the_same_is_said_to_be_covered() -> None:
    made = with_guarantees(rivals())
    required = replace(made.job_by_name["guest"], required=True)
    (left,) = solve(replace(made, jobs=(made.jobs[0], required))).unplaced
    assert left.message == (
        "a is full when it could run: guest, though it is within the guarantee of team: 1 a"
    )


def test_the_check_finds_a_covered_job_that_was_left_out_for_an_urgent_one() -> None:
    plan = solve(rivals())
    assert violations(rivals(), plan) == ()
    (said,) = violations(with_guarantees(rivals()), plan)
    assert said == "mine: left out, though it fits a once lower priorities are dropped"


@pytest.mark.parametrize("guests", [0, 2])
def test_a_fleet_leaves_out_borrowers_first(guests: int) -> None:
    # Four GPUs, two guaranteed: two of the team's four jobs are covered; the guests' are urgent.
    own = [work(f"t{n}", 6, unplaced_usd=20.0) for n in range(4)]
    others = [job(f"g{n}", mode(TWO, hours=6), tier=n, unplaced_usd=500.0) for n in range(guests)]
    made = asked(*own, *others, queues=(team(2),))
    plan = engine.solve(made, Clock(Limits(seconds=60.0, moves=2000)))
    assert violations(made, plan) == ()
    left = {"t2", "t3"} if guests else set()
    assert {u.job for u in plan.unplaced} == left
    crowd = [job(f"g{n}", mode(TWO, hours=6), tier=9, unplaced_usd=500.0) for n in range(6)]
    made = asked(*own, *crowd, queues=(team(2),))
    plan = engine.solve(made, Clock(Limits(seconds=60.0, moves=2000)))
    assert {"t0", "t1"}.isdisjoint(u.job for u in plan.unplaced)
    assert len(plan.unplaced) == 6
