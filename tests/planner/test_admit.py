"""Arrivals that find no room, and jobs not started yet that make some."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.admit import Answer, Desk
from planner.fast import Placed
from planner.live import Live
from planner.plan import Reason, Segment, Unplaced
from planner.problem import Job, Problem
from tests.planner.test_fast import assembled, untrue
from tests.planner.worlds import job, larger_problem, mode, pool, problem

ONE = pool("one")


def desk(*jobs: Job) -> Desk:
    return Desk(Live(problem((ONE,), jobs)))


def start(answer: Answer) -> int:
    assert isinstance(answer, Placed), answer
    return answer.start


def test_a_job_that_waits_is_put_off_for_one_that_cannot() -> None:
    # The GPU runs `first` until 2; `waits` is to follow. `pressed` must end by 3.
    at = desk()
    at.admit(job("first", mode(ONE, hours=2)), 0)
    assert start(at.admit(job("waits", mode(ONE, hours=2)), 0).answer) == 2
    admitted = at.admit(job("pressed", mode(ONE), deadline=3), 1)
    assert start(admitted.answer) == 2
    ((name, answer),) = admitted.moved
    assert (name, start(answer)) == ("waits", 3)


def test_a_job_that_runs_is_never_put_off() -> None:
    at = desk()
    at.admit(job("runs", mode(ONE, hours=5)), 0)
    admitted = at.admit(job("pressed", mode(ONE), deadline=3), 1)
    assert isinstance(admitted.answer, Unplaced)
    assert (admitted.answer.reason, admitted.moved) == (Reason.CAPACITY, ())


@pytest.mark.parametrize(("unplaced_usd", "starts"), [(50.0, None), (70.0, 2)])
def test_room_is_made_only_where_it_saves_more_than_it_costs(
    unplaced_usd: float, starts: int | None
) -> None:
    # `waits` would be two hours late at $30: that is worth it for $70, not for $50.
    at = desk()
    at.admit(job("first", mode(ONE, hours=2)), 0)
    at.admit(job("waits", mode(ONE, hours=2), due=4, lateness_usd_per_hour=30.0), 0)
    before = dict(at.live.booked)
    pressed = job("pressed", mode(ONE, hours=2), deadline=4, unplaced_usd=unplaced_usd)
    admitted = at.admit(pressed, 1)
    if starts is None:
        assert (isinstance(admitted.answer, Unplaced), admitted.moved) == (True, ())
        assert at.live.booked == before
    else:
        assert start(admitted.answer) == starts


def test_what_was_in_vain_is_not_tried_again_in_the_same_slot() -> None:
    at = desk()
    at.admit(job("runs", mode(ONE, hours=6)), 0)
    at.admit(job("a", mode(ONE)), 1)
    tried = at.decisions
    at.admit(job("b", mode(ONE)), 1)
    assert at.decisions == tried + 1
    at.admit(job("c", mode(ONE)), 2)
    assert at.decisions == tried + 1 + 1 + 3  # its own, and all three anew


def test_a_higher_tier_puts_a_lower_one_out_and_never_the_other_way() -> None:
    # The GPU is taken until 2: of four hours and three, one only ends by 6.
    low = job("low", mode(ONE, hours=3), unplaced_usd=900.0)
    high = job("high", mode(ONE, hours=4), unplaced_usd=10.0, tier=1)
    at = desk()
    at.admit(job("first", mode(ONE, hours=2)), 0)
    at.admit(low, 1)
    admitted = at.admit(high, 1)
    assert start(admitted.answer) == 2
    ((name, answer),) = admitted.moved
    assert (name, isinstance(answer, Unplaced)) == ("low", True)
    again = at.admit(replace(low, name="again"), 1)
    assert (isinstance(again.answer, Unplaced), again.moved) == (True, ())


def test_a_required_job_is_not_put_out() -> None:
    at = desk()
    at.admit(job("first", mode(ONE, hours=2)), 0)
    at.admit(job("must", mode(ONE, hours=3), required=True), 1)
    admitted = at.admit(job("high", mode(ONE, hours=4), tier=1), 1)
    assert (isinstance(admitted.answer, Unplaced), admitted.moved) == (True, ())


def test_who_was_left_out_is_placed_when_there_is_room_again() -> None:
    at = desk()
    at.admit(job("runs", mode(ONE, hours=6)), 0)
    assert isinstance(at.admit(job("out", mode(ONE)), 0).answer, Unplaced)
    at.live.release("runs", 2)
    admitted = at.admit(job("hurried", mode(ONE), deadline=2), 1)
    assert isinstance(admitted.answer, Unplaced)
    ((name, answer),) = admitted.moved
    assert (name, start(answer)) == ("out", 2)


def admitted_one_by_one(world: Problem) -> tuple[list[Segment], list[Unplaced]]:
    at = Desk(Live(replace(world, jobs=())))
    answers: dict[str, Answer] = {}
    for one in sorted(world.jobs, key=lambda one: (one.release, one.name)):
        found = at.admit(one, one.release)
        answers |= {one.name: found.answer, **dict(found.moved)}
    segments = [s for a in answers.values() if isinstance(a, Placed) for s in a.segments]
    assert {s.job for s in segments} == set(at.live.booked)
    return segments, [a for a in answers.values() if isinstance(a, Unplaced)]


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_no_job_is_lost_and_nothing_is_overbooked_however_often_places_change(first: int) -> None:
    for seed in range(first, first + 20):
        world = larger_problem(seed)
        world = replace(world, jobs=tuple(replace(one, after=()) for one in world.jobs))
        segments, left = admitted_one_by_one(world)
        assert {s.job for s in segments} | {u.job for u in left} == set(world.job_by_name)
        assert untrue(world, assembled(world, segments, left)) == []
