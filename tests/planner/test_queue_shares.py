"""What queues would get fairly and what a plan gives them, by hand."""

from __future__ import annotations

import pytest

from planner.plan import Plan, Segment, Status
from planner.problem import Mode, Problem, Queue
from planner.queue_shares import QueueShare, contest_of, shares_by_queue
from planner.solve.max_min import fill
from tests.planner.worlds import job, mode, pool, problem

FAST, SLOW = pool("fast"), pool("slow")  # one GPU each


def both(hours_fast: float = 1.0, hours_slow: float = 3.0) -> list[Mode]:
    return [mode(FAST, hours=hours_fast), mode(SLOW, hours=hours_slow)]


def two_queues(heavy: float) -> Problem:
    """A job in each of two queues, both 1 h on the fast GPU and 3 h on the slow one."""
    return problem(
        (FAST, SLOW),
        (job("a", *both(), queue="left"), job("b", *both(), queue="right")),
        queues=(Queue(name="left", weight=heavy), Queue(name="right")),
    )


def rows(asked: Problem, *segments: Segment) -> tuple[QueueShare, ...]:
    contest = contest_of(asked)
    assert contest is not None
    plan = Plan(status=Status.FEASIBLE, segments=segments)
    return shares_by_queue(asked, plan, contest, fill(contest))


def test_two_alike_queues_halve_the_fleet() -> None:
    # Together 1 + 1/3 jobs an hour; an equal split of the types gives 2/3 an hour: speed 1 each.
    # The plan runs a on fast in hour 1 (speed 1.5), b on slow in 3 hours (speed 0.5).
    left, right = rows(
        two_queues(1.0),
        Segment(job="a", mode=0, replicas=1, start=0, end=1, work=1.0),
        Segment(job="b", mode=1, replicas=1, start=0, end=3, work=1.0),
    )
    assert (left.queue, left.jobs, left.weight_fraction) == ("left", 1, 0.5)
    assert left.fair_fraction == pytest.approx(0.5)
    assert left.least_fair_speed == pytest.approx(1.0)
    assert left.least_plan_speed == pytest.approx(1.5)
    assert left.plan_fraction == pytest.approx(0.75)
    assert right.least_plan_speed == pytest.approx(0.5)


def test_a_heavier_queue_goes_faster_as_far_as_it_can() -> None:
    # Weights 3 and 1: a gets all of fast, 1 an hour, speed 1.5; b the slow one, speed 0.5: levels
    # 1.5 / 1.5 and 0.5 / 0.5, as the weights ask.
    left, right = rows(two_queues(3.0))
    assert left.weight_fraction == pytest.approx(0.75)
    assert (left.least_fair_speed, right.least_fair_speed) == pytest.approx((1.5, 0.5))
    assert (left.plan_fraction, left.least_plan_speed) == (0.0, 0.0)


def test_a_queue_s_weight_is_shared_by_its_jobs_and_children() -> None:
    # Of 1: x has 2/3 and y 1/3; in x its own job counts 1 beside the child's 3: 1/6 and 1/2, which
    # two jobs share. Times 4 jobs.
    queues = (
        Queue(name="x", weight=2),
        Queue(name="x-child", parent="x", weight=3),
        Queue(name="y", weight=1),
    )
    jobs = [("p", "x"), ("q", "x-child"), ("r", "x-child"), ("s", "y")]
    asked = problem(
        (FAST, SLOW), tuple(job(name, *both(), queue=q) for name, q in jobs), queues=queues
    )
    contest = contest_of(asked)
    assert contest is not None
    assert [c.weight for c in contest.claims] == pytest.approx([4 / 6, 1, 1, 4 / 3])
    assert len(contest.rates.kinds) == 1  # all four are alike


def test_gangs_and_types_are_those_of_the_problem() -> None:
    large = pool("large", gpus=4, nodes=2, accelerator="h100")
    small = pool("small", gpus=2, accelerator="h100")
    asked = problem(
        (large, small, SLOW),
        (job("a", mode(large, hours=1, gpus=4), mode(small, hours=3, gpus=2)),),
    )
    contest = contest_of(asked)
    assert contest is not None
    assert (contest.types, contest.gpus) == (("h100", "slow"), (10, 1))
    # Its smallest gang has 2 GPUs; the best per GPU on h100 is a quarter an hour: half for two.
    assert contest.rates.gpus == (2,)
    assert contest.rates.alone.tolist() == [[1.0, 0.0]]


def test_nothing_that_fits_is_nothing_to_share() -> None:
    assert contest_of(problem((FAST,), ())) is None
    wide = pool("wide", gpus=2)
    gone = pool("wide", gpus=2, windows=((0, 2, 0), (2, 6, 1)))
    asked = problem((gone,), (job("a", mode(wide, gpus=2)),))
    assert contest_of(asked) is None
