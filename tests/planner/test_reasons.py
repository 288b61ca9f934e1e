"""Why a job is not in a plan: each reason, with what binds."""

from __future__ import annotations

from dataclasses import replace

from planner.booking import Booking
from planner.plan import Plan, Reason, Unplaced
from planner.problem import Billing, Excluded, Job, Pool, Problem, Queue
from planner.reasons import why_not
from planner.solve.pick import solve
from planner.table import build
from tests.planner.worlds import job, mode, pool, problem

POOL = pool("a")  # one GPU at $1 an hour, 6 slots of an hour


def left_out(asked: Problem, name: str) -> Unplaced:
    """What the best plan says of a job that it leaves out."""
    return of(solve(asked), name)


def of(plan: Plan, name: str) -> Unplaced:
    return next(u for u in plan.unplaced if u.job == name)


def only(*jobs: Job, of: tuple[Pool, ...] = (POOL,), queues: tuple[Queue, ...] = ()) -> Problem:
    return problem(of, jobs, queues=queues)


def test_a_job_without_a_mode_says_what_most_pools_refused_it_for() -> None:
    excluded = (
        Excluded(pool="a", reason="jurisdiction", message="its jurisdiction is US, allowed: EU"),
        Excluded(pool="b", reason="memory", message="needs 80 GiB a GPU, has 24.0"),
        Excluded(pool="c", reason="memory", message="needs 80 GiB a GPU, has 16.0"),
    )
    assert left_out(only(job("j", excluded=excluded)), "j") == Unplaced(
        job="j",
        reason=Reason.NO_OPTION,
        message="b: needs 80 GiB a GPU, has 24.0 (3 pools looked at)",
        binds=("a", "b", "c"),
    )


def test_a_job_that_no_pool_was_looked_at_for_says_so() -> None:
    said = left_out(only(job("j")), "j")
    assert (said.reason, said.message) == (Reason.NO_OPTION, "no pool to run on")


def test_a_gang_that_no_pool_can_hold_has_no_option() -> None:
    assert left_out(only(job("j", mode(POOL, replicas=2))), "j") == Unplaced(
        job="j",
        reason=Reason.NO_OPTION,
        message="its gang fits none of the pools that it may use",
        binds=("a",),
    )


def test_a_job_that_may_not_be_interrupted_has_no_option_where_it_can_be() -> None:
    spot = pool("spot", interruptions_per_hour=0.1)
    said = left_out(only(job("j", mode(spot), preemptible=False), of=(spot,)), "j")
    assert (said.reason, said.binds) == (Reason.NO_OPTION, ("spot",))


def test_a_job_longer_than_its_time_says_how_much_it_has() -> None:
    said = left_out(only(job("j", mode(POOL, hours=3), release=2, deadline=4)), "j")
    assert said.reason is Reason.WINDOW
    assert said.message == "no way to run it fits the 2 h from its start to its deadline"


def test_a_job_that_starts_after_its_deadline_has_no_time_and_not_less() -> None:
    said = left_out(only(job("j", mode(POOL), release=5, deadline=2)), "j")
    assert said.message == "no way to run it fits the 0 h from its start to its deadline"


def test_a_job_that_maintenance_cuts_wherever_it_starts_says_so() -> None:
    # The node is there for 2 h, away for 2 h, there for 2 h; the job takes 3 h.
    cut = pool("a", windows=((0, 2, 1), (2, 4, 0), (4, 6, 1)))
    said = left_out(only(job("j", mode(cut, hours=3)), of=(cut,)), "j")
    assert said == Unplaced(
        job="j",
        reason=Reason.WINDOW,
        message="a: too few nodes at any time when it could run",
        binds=("a",),
    )


def test_a_job_dearer_than_leaving_it_out_is_not_worth_it() -> None:
    # 3 h x $1 = $3 against $2.50.
    said = left_out(only(job("j", mode(POOL, hours=3), unplaced_usd=2.5)), "j")
    assert said.reason is Reason.NOT_WORTH
    assert said.message == "it costs more than the $2.50 of not running it"


def test_a_whole_node_for_a_small_job_is_not_worth_it_and_says_the_bill() -> None:
    # Its share is one of 8 GPUs at $1 for an hour: $1. The node costs $8, and $8 to start.
    rented = pool("rent", gpus=8, billing=Billing.NODE, startup_seconds=3600)
    said = left_out(only(job("j", mode(rented), unplaced_usd=9.0), of=(rented,)), "j")
    assert said.reason is Reason.NOT_WORTH
    assert said.message == "the room left costs $16.00, not running it $9.00"


def test_a_job_whose_own_budget_no_way_meets_says_so() -> None:
    said = left_out(only(job("j", mode(POOL, hours=3), max_cost_usd=2.0)), "j")
    assert said.reason is Reason.BUDGET
    assert said.message == "every way to run it costs more than $2.00, all it may spend"


def test_a_gang_above_its_queues_limit_says_so() -> None:
    two = pool("a", nodes=2)
    team = Queue(name="team", limit=(("a", 1),))
    said = left_out(
        only(job("j", mode(two, replicas=2), queue="team"), of=(two,), queues=(team,)), "j"
    )
    assert said.reason is Reason.QUEUE_LIMIT
    assert said.message == "it needs more GPUs at once than queue team may have"


def test_a_queues_limit_that_others_use_up_is_named_and_not_the_pool() -> None:
    # Two GPUs, but one for the team, and the dearer job to leave out takes it for all six slots.
    # The root's limit of two binds nobody, and is not blamed.
    two = pool("a", nodes=2)
    queues = (
        Queue(name="root", limit=(("a", 2),)),
        Queue(name="team", parent="root", limit=(("a", 1),)),
    )
    long = job("long", mode(two, hours=6), queue="team", unplaced_usd=50.0)
    short = job("short", mode(two, hours=1), queue="team", unplaced_usd=40.0)
    said = left_out(only(long, short, of=(two,), queues=queues), "short")
    assert said == Unplaced(
        job="short",
        reason=Reason.QUEUE_LIMIT,
        message="the limit of queue team is used up",
        binds=("team",),
    )


def test_a_queues_budget_that_others_use_up_is_named() -> None:
    # $3 a month: the job of 3 h ($3) or the one of 1 h ($1), and the first is dearer to leave out.
    two = pool("a", nodes=2)
    team = Queue(name="team", budget_usd_per_month=3.0)
    long = job("long", mode(two, hours=3), queue="team", unplaced_usd=50.0)
    short = job("short", mode(two, hours=1), queue="team", unplaced_usd=40.0)
    said = left_out(only(long, short, of=(two,), queues=(team,)), "short")
    assert said == Unplaced(
        job="short",
        reason=Reason.BUDGET,
        message="the budget of queue team is used up",
        binds=("team",),
    )


def test_two_queues_that_bind_together_are_told_by_the_first() -> None:
    # Neither limit alone lets it in: the job holds root's GPU and the team's at once.
    two = pool("a", nodes=2)
    queues = (
        Queue(name="root", limit=(("a", 1),)),
        Queue(name="team", parent="root", limit=(("a", 1),)),
    )
    long = job("long", mode(two, hours=6), queue="team", unplaced_usd=50.0)
    short = job("short", mode(two, hours=1), queue="team", unplaced_usd=40.0)
    said = left_out(only(long, short, of=(two,), queues=queues), "short")
    assert (said.reason, said.binds) == (Reason.QUEUE_LIMIT, ("root",))


def test_a_job_whose_forerunner_is_left_out_waits_for_it() -> None:
    # The first can nowhere end in time, so the second cannot begin.
    first = job("first", mode(POOL, hours=3), deadline=2)
    then = job("then", mode(POOL), after=("first",))
    assert left_out(only(first, then), "then") == Unplaced(
        job="then",
        reason=Reason.DEPENDENCY,
        message="waits for first, which is not in the plan",
        binds=("first",),
    )


def crowded() -> Problem:
    """A GPU for which a long and a short job contend: the long one is dearer to leave out."""
    long = job("long", mode(POOL, hours=6), unplaced_usd=50.0)
    return only(long, job("short", mode(POOL), unplaced_usd=40.0))


def test_a_job_crowded_out_names_the_pool_and_who_holds_it() -> None:
    assert left_out(crowded(), "short") == Unplaced(
        job="short",
        reason=Reason.CAPACITY,
        message="a is full when it could run: long",
        binds=("a", "long"),
    )


def test_a_plan_that_is_not_proved_says_that_its_reason_is_only_what_was_found() -> None:
    asked = crowded()
    table = build(asked)
    plan = solve(asked)
    long = next(s for s in plan.segments if s.job == "long")
    booked = {0: Booking(option=table.of_job[0][0], start=long.start, counts=((1,),))}
    (said,) = why_not(table, booked, proved=False)
    assert said.message == "a is full when it could run: long (as far as the search found)"


def test_a_job_for_which_there_is_room_was_only_not_found() -> None:
    table = build(crowded())
    assert {(u.job, u.reason) for u in why_not(table, {}, proved=False)} == {
        ("long", Reason.NOT_FOUND),
        ("short", Reason.NOT_FOUND),
    }


def test_reasons_come_by_name() -> None:
    names = ("c", "a", "b")
    asked = only(*(replace(job(name), unplaced_usd=1.0) for name in names))
    assert [u.job for u in solve(asked).unplaced] == ["a", "b", "c"]
