"""What an owner is told of a job, and what is read back of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from planner.manifests.status import GpuJobStatus
from planner.plan import Reason
from scheduler.controller.actions import Record, Status
from scheduler.controller.state import Cause, Phase, Why
from scheduler.controller.told import (
    conditions,
    placed_text,
    read_placed,
    read_record,
    read_status,
    record_text,
    runs,
    status_patch,
)

NOW = datetime(2026, 12, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
RECORD = Record(attempt=2, failures=1, work_done=0.5, nodes=(("n0", 1),), start=NOW, end=LATER)


def status(phase: Phase, why: Why, **fields: Any) -> Status:
    return Status(job="ml/train", phase=phase, why=why, generation=3, **fields)


def said(found: Status, old: tuple[dict[str, object], ...] = ()) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition."""
    return {c["type"]: (c["status"], c["reason"]) for c in conditions(found, old, NOW)}


def test_what_is_told_is_a_status_of_the_schema_and_reads_back_as_it_was() -> None:
    running = status(
        Phase.RUNNING,
        Why(reason=Cause.PLACED),
        pool="h100",
        nodes=("n0",),
        gpus=8.0,
        end=LATER,
        cost_usd=16.0,
        record=RECORD,
    )
    patch = status_patch(running, {}, NOW, decision="x-1", launched=("RayJob", "train"))
    made = GpuJobStatus.model_validate(patch["status"])
    assert made.plan is not None
    assert (made.plan.cost_usd, made.plan.nodes) == (16.0, ("n0",))
    assert made.launched is not None
    assert made.launched.attempt == 2
    assert read_status(patch) == running
    assert read_record(record_text(RECORD)) == RECORD


def test_a_status_that_is_not_of_this_form_is_none() -> None:
    assert read_status({"status": {"record": '{"job": 3}'}}) is None
    assert read_status({}) is None
    assert read_record("nonsense") == Record()


def test_a_job_that_waits_is_told_what_binds_it() -> None:
    why = Why(reason=Reason.QUEUE_LIMIT, message="no room", binds=("research",))
    found = status(Phase.WAITING, why)
    assert said(found) == {
        "Running": ("False", "Waiting"),
        "Launched": ("False", "Waiting"),
        "Planned": ("False", "QueueLimit"),
    }
    (planned,) = (c for c in conditions(found, (), NOW) if c["type"] == "Planned")
    assert planned["message"] == "no room; by research; no start is expected yet"


def test_a_job_that_was_stopped_for_another_is_preempted_until_it_runs_again() -> None:
    evicted = status(Phase.SUSPENDED, Why(reason=Cause.PREEMPTED, message="for high"))
    assert said(evicted)["Preempted"] == ("True", "Preempted")
    old = tuple(conditions(evicted, (), NOW))
    again = status(Phase.RUNNING, Why(reason=Cause.PLACED))
    assert said(again, old)["Preempted"] == ("False", "GoesOn")


def test_a_condition_keeps_the_time_at_which_it_changed() -> None:
    waiting = status(Phase.WAITING, Why(reason=Reason.CAPACITY, message="full"))
    first = conditions(waiting, (), NOW)
    second = conditions(waiting, first, LATER)
    assert second == first
    running = conditions(status(Phase.RUNNING, Why(reason=Cause.PLACED)), first, LATER)
    times = {c["type"]: c["lastTransitionTime"] for c in running}
    assert times["Running"] == "2026-12-01T01:00:00Z"


def holding(phase: Phase, attempt: int, **fields: Any) -> Status:
    held: dict[str, object] = {
        "pool": "h100",
        "nodes": ("n0",),
        "gpus": 8.0,
        "usd_per_hour": 16.0,
        "full_usd_per_hour": 20.0,
    }
    record = Record(attempt=attempt, start=NOW, end=LATER)
    return status(phase, Why(reason=Cause.PLACED), record=record, **(held | fields))


def test_what_a_job_held_is_told_from_its_nodes_being_given_to_their_being_free() -> None:
    first = runs(holding(Phase.LAUNCHING, 1), (), NOW)
    begun = {
        "attempt": 1,
        "pool": "h100",
        "nodes": ["n0"],
        "gpus": 8.0,
        "start": "2026-12-01T00:00:00Z",
        "usdPerHour": 16.0,
        "fullUsdPerHour": 20.0,
    }
    assert first == [begun]
    assert runs(holding(Phase.RUNNING, 1), first, LATER) == first
    assert runs(holding(Phase.STOPPING, 1), first, LATER) == first
    stopped = status(Phase.SUSPENDED, Why(reason=Cause.PREEMPTED), record=Record(attempt=1))
    ended = runs(stopped, first, LATER)
    assert ended == [begun | {"end": "2026-12-01T01:00:00Z"}]
    assert runs(stopped, ended, LATER + timedelta(hours=1)) == ended


def test_a_stretch_ends_where_the_next_attempt_is_all_that_was_told() -> None:
    first = runs(holding(Phase.RUNNING, 1), (), NOW)
    second = runs(holding(Phase.LAUNCHING, 2, pool="b200"), first, LATER)
    assert [(each["pool"], each["start"], each.get("end")) for each in second] == [
        ("h100", "2026-12-01T00:00:00Z", "2026-12-01T01:00:00Z"),
        ("b200", "2026-12-01T01:00:00Z", None),
    ]


def test_who_only_observes_bills_nothing() -> None:
    assert runs(holding(Phase.RUNNING, 1), (), NOW, observe_only=True) == []


def test_what_was_held_is_of_the_schema() -> None:
    running = holding(Phase.RUNNING, 1)
    made = GpuJobStatus.model_validate(status_patch(running, {}, NOW)["status"])
    (one,) = made.runs
    assert (one.pool, one.gpus, one.start, one.end) == ("h100", 8.0, NOW, None)
    assert (one.usd_per_hour, one.full_usd_per_hour) == (16.0, 20.0)


def test_a_job_that_leaves_its_gpus_idle_is_told_since_when_and_what_they_cost() -> None:
    idle = status(
        Phase.RUNNING, Why(reason=Cause.PLACED), gpus=8.0, full_usd_per_hour=16.0, idle_since=NOW
    )
    (found,) = [c for c in conditions(idle, (), NOW) if c["type"] == "IdleWorkload"]
    assert (found["status"], found["message"]) == (
        "True",
        "its 8 GPUs do nothing since 2026-12-01T00:00:00Z, at $16.00 an hour",
    )
    works = status(Phase.RUNNING, Why(reason=Cause.PLACED))
    assert "IdleWorkload" not in said(works)
    assert said(works, (found,))["IdleWorkload"] == ("False", "Works")


# -- services --------------------------------------------------------------------------------------


def test_a_service_s_bill_has_a_stretch_for_each_number_of_replicas() -> None:
    # Eight GPUs for an hour at eight dollars, then 32 at 32.
    record = Record(attempt=1, nodes=(("n0", 1), ("n1", 3)), replicas=1, start=NOW, end=LATER)
    shared: dict[str, Any] = {"pool": "h100", "end": LATER, "record": record}
    shared |= {"phase": Phase.RUNNING, "why": Why(reason=Cause.PLACED)}
    night = status(gpus=8.0, nodes=("n0",), replicas=1, usd_per_hour=8.0, **shared)
    day = status(gpus=32.0, nodes=("n0", "n1"), replicas=4, usd_per_hour=32.0, **shared)
    first = runs(night, (), NOW)
    both = runs(day, first, LATER)
    assert [(r["gpus"], r["usdPerHour"], r["start"], r.get("end")) for r in both] == [
        (8.0, 8.0, "2026-12-01T00:00:00Z", "2026-12-01T01:00:00Z"),
        (32.0, 32.0, "2026-12-01T01:00:00Z", None),
    ]
    assert runs(day, both, LATER + timedelta(hours=1)) == both  # told twice, it is the same


def test_a_service_is_told_how_many_replicas_it_is_to_have_and_how_many_are_ready() -> None:
    record = Record(attempt=1, nodes=(("n0", 4),), replicas=4, start=NOW, end=LATER)
    found = status(
        Phase.RUNNING,
        Why(reason=Cause.PLACED),
        pool="h100",
        replicas=4,
        ready=3,
        end=LATER,
        record=record,
    )
    patch = status_patch(found, {}, NOW)
    made = GpuJobStatus.model_validate(patch["status"])
    assert made.plan is not None
    assert (made.plan.replicas, made.plan.ready_replicas) == (4, 3)
    assert read_status(patch) == found


def test_where_replicas_are_to_be_reads_back_as_it_was() -> None:
    places = (("n0", 1), ("n1", 3))
    assert read_placed(placed_text(places)) == places
    assert [read_placed(text) for text in (None, "", "3", '[["n0"]]', "nonsense")] == [None] * 5
