"""What a job has done, what stopping it costs, and the grid that moves on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from planner.plan import Placement, Segment
from planner.problem import Demand, Interruption, Work
from scheduler.controller.state import (
    Phase,
    State,
    Tracked,
    asked,
    end_of,
    notice_seconds,
    rolled,
    stop_usd,
    work_at_risk,
    work_done,
)
from tests.planner.worlds import START, grid, job, mode, nodes_of, pool

POOL = pool("h100", nodes=2, gpus=8, usd=2.0, slots=24)
GRID = grid(slots=24)


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def running(*, interval_hours: float = 1.0, attempt: int = 1, **fields: Any) -> Tracked:
    """Ten hours of work on 8 GPUs at $2, since `START`; saves take 6 minutes, restarts 12."""
    asked_for = job(
        "train",
        mode(POOL, hours=10, gpus=8),
        slots=24,
        interruption=Interruption(
            checkpoint_seconds=3600 * interval_hours, save_seconds=360, restart_seconds=720
        ),
    )
    place = Placement(node="h100-0", replicas=1, devices=tuple(range(8)))
    held = Segment(job="train", mode=0, replicas=1, start=0, end=10, work=1.0, placement=(place,))
    made = Tracked(
        job=asked_for,
        arrived=START,
        phase=Phase.RUNNING,
        segments=(held,),
        started=START,
        attempt=attempt,
    )
    return replace(made, **fields)


def world(*jobs: Tracked) -> State:
    return State(
        now=START,
        grid=GRID,
        pools=(POOL,),
        nodes=nodes_of((POOL,)),
        jobs={one.name: one for one in jobs},
    )


def test_what_is_at_risk_is_the_work_since_the_last_checkpoint() -> None:
    # 3.5 h of 10 are done, the last of three checkpoints was half an hour ago.
    one = running()
    assert work_done(one, START + hours(3.5)) == pytest.approx(0.35)
    assert work_at_risk(one, START + hours(3.5)) == pytest.approx(0.05)


def test_a_checkpoint_that_was_seen_counts_more_than_the_interval() -> None:
    one = running(checkpointed=START + hours(3.4))
    assert work_at_risk(one, START + hours(3.5)) == pytest.approx(0.01)


def test_a_job_that_never_saves_has_all_of_its_work_at_risk() -> None:
    one = running(interval_hours=0.0)
    assert work_at_risk(one, START + hours(3.5)) == pytest.approx(0.35)


def test_a_job_works_only_when_its_checkpoint_is_restored() -> None:
    # 720 s of restart: after 1.2 h of a second run it has worked one hour more.
    one = running(attempt=2, work_done=0.3)
    assert work_done(one, START + hours(1.2)) == pytest.approx(0.4)
    assert end_of(one) == START + hours(7.2)


def test_the_price_of_a_stop_is_lost_work_a_save_and_a_restart_at_the_price_of_the_gang() -> None:
    # Half an hour, 6 and 12 minutes: 0.8 h of 8 GPUs at $2.
    assert stop_usd(running(), START + hours(3.5)) == pytest.approx(0.8 * 16)


def test_notice_is_as_long_as_a_save_takes() -> None:
    assert notice_seconds(running(), world().settings) == 360
    quick = running(job=job("quick", mode(POOL), slots=24))
    assert notice_seconds(quick, world().settings) == 30


def test_the_grid_moves_on_and_all_that_stands_on_it_stays_at_its_time() -> None:
    stated = replace(running(), has_deadline=True)
    stated = replace(stated, job=replace(stated.job, release=1, deadline=20, due=6))
    later = rolled(world(stated), 4)
    one = later.jobs["train"]
    assert later.grid.start == START + hours(4)
    assert (one.job.release, one.job.deadline, one.job.due) == (0, 16, 2)
    assert (one.segments[0].start, one.segments[0].end) == (-4, 6)
    assert [(w.start, w.end) for w in later.pools[0].windows] == [(0, 24)]


def test_a_deadline_that_nobody_stated_stays_the_end_of_the_grid() -> None:
    assert rolled(world(running()), 4).jobs["train"].job.deadline == 24


def test_windows_that_have_passed_are_left_behind() -> None:
    changing = pool("h100", gpus=8, windows=((0, 4, 2), (4, 8, 1), (8, 24, 2)))
    later = rolled(replace(world(), pools=(changing,)), 6)
    assert [(w.start, w.end, w.nodes) for w in later.pools[0].windows] == [(0, 2, 1), (2, 24, 2)]


def test_a_service_asks_for_the_hours_of_the_day_before_where_none_are_stated() -> None:
    daily = tuple(float(t) for t in range(24))
    chat = Tracked(
        job=job("chat", mode(POOL), slots=24, need=Demand(per_slot=daily)), arrived=START
    )
    need = rolled(world(chat), 2).jobs["chat"].job.need
    assert isinstance(need, Demand)
    assert need.per_slot == (*daily[2:], 0.0, 1.0)


def test_work_that_outlasts_half_of_the_grid_is_asked_for_as_half_of_it() -> None:
    # 240 h on a grid of 24: it counts as 12 h, a twentieth, and is worth a twentieth.
    long = Tracked(job=job("long", mode(POOL, hours=240), slots=24), arrived=START)
    found = asked(long, GRID, 0)
    assert isinstance(found.need, Work)
    assert found.need.amount == pytest.approx(0.05)
    assert found.unplaced_usd == pytest.approx(50.0)
    pressed = replace(long, has_deadline=True)
    assert asked(pressed, GRID, 0).need == Work(amount=1.0)


def test_the_plan_of_the_whole_queue_is_asked_for_what_is_left_of_the_grid_and_of_the_work() -> (
    None
):
    resting = running(phase=Phase.SUSPENDED, segments=(), started=None, work_done=0.4)
    resting = replace(resting, job=replace(resting.job, name="rest"))
    ended = running(phase=Phase.DONE, segments=())
    ended = replace(ended, job=replace(ended.job, name="ended"))
    state = replace(world(running(), resting, ended), now=START + hours(3.5))
    found = state.problem()
    assert found.grid.start == START + hours(3)
    assert set(found.job_by_name) == {"train", "rest"}
    rest = found.job_by_name["rest"].need
    assert isinstance(rest, Work)
    assert rest.amount == pytest.approx(0.6)
    (held,) = found.running
    assert held.nodes == ("h100-0",)
    assert held.work_done == pytest.approx(0.35)
    assert held.work_since_checkpoint == pytest.approx(0.05)
