"""Decisions over frozen worlds: each a few records, what Ray says, and a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scheduler.executor.clock import PlanClock
from scheduler.executor.decide import Action, Observed, RayJob, Stop, Submit, decide
from scheduler.executor.launches import Launch
from scheduler.executor.records import (
    ENDED_WELL,
    Attempt,
    CancelRequested,
    Ended,
    Ending,
    Outcome,
    Record,
    RunStatus,
    Settled,
    StopReason,
    advance,
)

T0 = datetime(2026, 12, 1, tzinfo=UTC)
CLOCK = PlanClock(real=T0, plan=T0)
CAPACITY = {"n0": 8000, "n1": 8000}


def launch(name: str, start: int = 0, end: int = 10, gpus: int = 8, **other: Any) -> Launch:
    """Hours from T0, whole GPUs of node n0."""
    made = Launch(
        name=name,
        job=name.partition("_")[0],
        entrypoint="run",
        gpu_milli=(("n0", gpus * 1000),),
        start=T0 + timedelta(hours=start),
        end=T0 + timedelta(hours=end),
    )
    return replace(made, **other)


def attempt(name: str, number: int = 1, **other: Any) -> Attempt:
    made = Attempt(number=number, submission_id=f"r-{name}-{number}", head="ray1", submitted=True)
    return replace(made, **other)


def ended(name: str, number: int, status: RunStatus, hour: float = 0) -> Attempt:
    ending = Ending(status=status, end=T0 + timedelta(hours=hour), exit_code=1)
    return attempt(name, number, ending=ending)


def at(hour: float) -> datetime:
    return T0 + timedelta(hours=hour)


def act(
    hour: float, *records: Record, jobs: Mapping[str, RunStatus] | None = None, head: str = "ray1"
) -> tuple[Action, ...]:
    observed = Observed(
        run="r",
        records={record.launch.name: record for record in records},
        jobs={name: RayJob(status=status) for name, status in (jobs or {}).items()},
        head=head,
        clock=CLOCK,
        node_gpu_milli=CAPACITY,
    )
    return decide(observed, tuple(record.launch for record in records), at(hour))


def submit(of: Launch, number: int = 1) -> Submit:
    return Submit(launch=of, attempt=number, submission_id=f"r-{of.name}-{number}")


def settled(name: str, outcome: Outcome, message: str = "") -> Settled:
    return Settled(run="r", launch=name, outcome=outcome, message=message)


def test_a_launch_starts_at_its_planned_time_and_not_before() -> None:
    a = launch("a", start=2)
    assert act(1.9, Record(launch=a)) == ()
    assert act(2.0, Record(launch=a)) == (submit(a),)


def test_it_waits_until_what_it_depends_on_has_succeeded() -> None:
    a, b = launch("a"), launch("b", start=1, after=("a",), gpu_milli=(("n1", 1000),))
    running = Record(launch=a, attempts=(attempt("a"),))
    assert act(5, running, Record(launch=b), jobs={"r-a-1": RunStatus.RUNNING}) == ()
    actions = act(5, running, Record(launch=b), jobs={"r-a-1": RunStatus.SUCCEEDED})
    assert [type(x) for x in actions] == [Ended, Settled, Submit]
    assert actions[-1] == submit(b)


def test_gpus_that_are_still_held_are_not_given_twice() -> None:
    a, b = launch("a", gpus=8), launch("b", start=1, gpus=1)
    running = Record(launch=a, attempts=(attempt("a"),))
    assert act(5, running, Record(launch=b), jobs={"r-a-1": RunStatus.PENDING}) == ()


def test_what_starts_in_one_pass_shares_the_node() -> None:
    # 8 GPUs: a takes 4 and b takes 3; c wants 2 of the last one and waits.
    a, b, c = launch("a", gpus=4), launch("b", gpus=3), launch("c", gpus=2)
    assert act(0, *(Record(launch=x) for x in (a, b, c))) == (submit(a), submit(b))


def test_a_late_gang_keeps_its_claim_so_that_small_ones_behind_do_not_starve_it() -> None:
    a, gang, small = launch("a", gpus=2), launch("g", start=1), launch("s", start=2, gpus=1)
    running = Record(launch=a, attempts=(attempt("a"),))
    world = (running, Record(launch=gang), Record(launch=small))
    assert act(3, *world, jobs={"r-a-1": RunStatus.RUNNING}) == ()


def test_a_crash_is_tried_again_after_a_back_off_that_doubles() -> None:
    a = launch("a")
    once = Record(launch=a, attempts=(ended("a", 1, RunStatus.FAILED),))
    assert act(1.9 / 3600, once) == ()
    assert act(2.0 / 3600, once) == (submit(a, 2),)
    twice = replace(once, attempts=(*once.attempts, ended("a", 2, RunStatus.FAILED)))
    assert act(3.9 / 3600, twice) == ()
    assert act(4.0 / 3600, twice) == (submit(a, 3),)


def test_the_last_crash_settles_it_and_what_waits_for_it_is_not_started() -> None:
    a, b, c = launch("a"), launch("b", start=1, after=("a",)), launch("c", start=2, after=("b",))
    crashed = tuple(ended("a", n, RunStatus.FAILED) for n in (1, 2, 3))
    assert act(9, Record(launch=a, attempts=crashed), Record(launch=b), Record(launch=c)) == (
        settled("a", Outcome.FAILED, "exit status 1"),
        settled("b", Outcome.NOT_STARTED, "waits for a, which is failed"),
        settled("c", Outcome.NOT_STARTED, "waits for b, which is not-started"),
    )


def test_after_ray_died_an_unfinished_job_is_a_new_attempt_and_no_crash() -> None:
    a = launch("a")
    record = Record(launch=a, attempts=(attempt("a"),))
    lost, again = act(1, record, head="ray2")
    assert isinstance(lost, Ended)
    assert lost.ending.status is RunStatus.LOST
    assert again == submit(a, 2)


def test_a_job_that_left_a_report_before_ray_died_is_not_run_again() -> None:
    record = Record(launch=launch("a"), attempts=(attempt("a"),))
    actions = act(1, record, jobs={"r-a-1": RunStatus.SUCCEEDED}, head="ray2")
    assert [type(x) for x in actions] == [Ended, Settled]
    assert actions[-1] == settled("a", Outcome.SUCCEEDED)


def test_a_job_under_which_ray_keeps_dying_is_given_up() -> None:
    lost = tuple(ended("a", n, RunStatus.LOST) for n in range(1, 6))
    [action] = act(1, Record(launch=launch("a"), attempts=lost))
    assert action == settled("a", Outcome.FAILED, "Ray died under it, 5 of 5 times")


def test_a_hand_over_of_unknown_fate_is_repeated_under_the_same_name() -> None:
    a = launch("a")
    intended = Record(launch=a, attempts=(attempt("a", submitted=False),))
    assert act(1, intended) == (submit(a, 1),)
    assert act(1, intended, jobs={"r-a-1": RunStatus.PENDING}) == ()


def test_a_cancelled_launch_is_stopped_once_and_then_settled() -> None:
    a = launch("a")
    record = Record(launch=a, attempts=(attempt("a"),), cancel_requested=True)
    running = {"r-a-1": RunStatus.RUNNING}
    assert act(1, record, jobs=running) == (
        Stop(launch="a", attempt=1, submission_id="r-a-1", reason=StopReason.CANCELLED),
    )
    sent = attempt("a", stop=StopReason.CANCELLED, stop_sent=True)
    assert act(1, replace(record, attempts=(sent,)), jobs=running) == ()
    actions = act(1, replace(record, attempts=(sent,)), jobs={"r-a-1": RunStatus.STOPPED})
    assert actions[-1] == settled("a", Outcome.CANCELLED, "cancelled")


def test_a_stop_that_may_not_have_been_sent_is_sent_again() -> None:
    intended = attempt("a", stop=StopReason.CANCELLED)
    record = Record(launch=launch("a"), attempts=(intended,), cancel_requested=True)
    [action] = act(1, record, jobs={"r-a-1": RunStatus.RUNNING})
    assert isinstance(action, Stop)


def test_cancelled_before_its_time_it_never_starts() -> None:
    record = Record(launch=launch("a", start=5), cancel_requested=True)
    assert act(1, record) == (settled("a", Outcome.CANCELLED, "cancelled"),)


def test_a_service_is_stopped_at_its_planned_end_and_that_is_success() -> None:
    record = Record(launch=launch("a", end=4, stops_at_end=True), attempts=(attempt("a"),))
    running = {"r-a-1": RunStatus.RUNNING}
    assert act(3.9, record, jobs=running) == ()
    [stop] = act(4, record, jobs=running)
    assert isinstance(stop, Stop)
    assert stop.reason is StopReason.PLANNED_END
    sent = attempt("a", stop=StopReason.PLANNED_END, stop_sent=True)
    actions = act(4, replace(record, attempts=(sent,)), jobs={"r-a-1": RunStatus.STOPPED})
    assert actions[-1] == settled("a", Outcome.SUCCEEDED, "stopped at its planned end")


def test_a_service_band_whose_hours_have_passed_is_missed_and_not_started() -> None:
    [action] = act(5, Record(launch=launch("a", end=4, stops_at_end=True)))
    assert action == settled("a", Outcome.MISSED, "its stretch had passed before it could start")


def test_what_someone_else_stopped_is_cancelled_and_not_tried_again() -> None:
    record = Record(launch=launch("a"), attempts=(attempt("a"),))
    actions = act(1, record, jobs={"r-a-1": RunStatus.STOPPED})
    assert actions[-1] == settled("a", Outcome.CANCELLED, "stopped from outside")


def test_compressed_time_starts_a_launch_at_its_share_of_an_hour() -> None:
    # 3600 plan seconds a second: hour 2 of the plan is second 2 of the run.
    a = launch("a", start=2)
    fast = PlanClock(real=T0, plan=T0, speed=3600)
    world = Observed(
        run="r",
        records={"a": Record(launch=a)},
        jobs={},
        head="ray1",
        clock=fast,
        node_gpu_milli=CAPACITY,
    )
    assert decide(world, (a,), T0 + timedelta(seconds=1.9)) == ()
    assert decide(world, (a,), T0 + timedelta(seconds=2)) == (submit(a),)


class FakeRay:
    """Runs each job for its planned time, and fails the attempts it is told to."""

    def __init__(self, crashes: Mapping[str, int]) -> None:
        self.crashes = crashes
        self.ends: dict[str, tuple[datetime, RunStatus]] = {}
        self.held: dict[str, int] = {}

    def start(self, action: Submit, now: datetime) -> None:
        crashes = action.attempt <= self.crashes.get(action.launch.name, 0)
        status = RunStatus.FAILED if crashes else RunStatus.SUCCEEDED
        self.ends[action.submission_id] = (now + timedelta(hours=1), status)
        self.held[action.submission_id] = action.launch.gpu_milli[0][1]

    def jobs(self, now: datetime) -> dict[str, RayJob]:
        return {
            name: RayJob(status=status, end=end) if end <= now else RayJob(status=RunStatus.RUNNING)
            for name, (end, status) in self.ends.items()
        }


LAUNCH_LISTS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(1, 8), st.booleans()), min_size=1, max_size=6
)


@given(LAUNCH_LISTS, st.dictionaries(st.integers(0, 5), st.integers(1, 4), max_size=3))
def test_every_plan_comes_to_an_end_with_no_gpu_held_twice(
    specs: list[tuple[int, int, bool]], crash_counts: dict[int, int]
) -> None:
    order = sorted(specs)
    plan = tuple(
        launch(f"l{i}", start, start + 1, gpus, after=(f"l{i - 1}",) if waits and i else ())
        for i, (start, gpus, waits) in enumerate(order)
    )
    records = {x.name: Record(launch=x) for x in plan}
    ray = FakeRay({f"l{i}": n for i, n in crash_counts.items()})
    for tick in range(400):
        now = at(tick / 4)
        observed = Observed(
            run="r",
            records=records,
            jobs=ray.jobs(now),
            head="ray1",
            clock=CLOCK,
            node_gpu_milli=CAPACITY,
        )
        for action in decide(observed, plan, now):
            _apply(action, records, ray, now)
        running = [k for k, v in ray.jobs(now).items() if v.status is RunStatus.RUNNING]
        assert sum(ray.held[name] for name in running) <= 8000
    failed = {x for x, n in ray.crashes.items() if n >= 3}
    for record in records.values():
        assert record.outcome is not None
        assert (record.outcome in ENDED_WELL) == (not _doomed(record.launch, records, failed))


def _doomed(of: Launch, records: dict[str, Record], failed: set[str]) -> bool:
    return of.name in failed or any(_doomed(records[a].launch, records, failed) for a in of.after)


def _apply(action: Action, records: dict[str, Record], ray: FakeRay, now: datetime) -> None:
    if isinstance(action, Submit):
        ray.start(action, now)
        name = action.launch.name
        made = attempt(name, action.attempt)
        records[name] = replace(records[name], attempts=(*records[name].attempts, made))
    elif isinstance(action, (Ended, Settled)):
        records[action.launch] = advance(records[action.launch], action)


def test_a_cancel_after_the_end_changes_nothing() -> None:
    done = Record(
        launch=launch("a"),
        attempts=(ended("a", 1, RunStatus.SUCCEEDED),),
        outcome=Outcome.SUCCEEDED,
    )
    late = advance(done, CancelRequested(run="r", launch="a", at=at(1)))
    assert act(2, late) == ()
    assert late.outcome is Outcome.SUCCEEDED
