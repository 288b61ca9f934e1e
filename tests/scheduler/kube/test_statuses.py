"""What a job's object says: conditions with their times, what is read back, the least change."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.manifests.status import JobCondition, Launched
from planner.plan import Reason
from scheduler.controller.actions import Record, Status
from scheduler.controller.state import Cause, Phase, Why
from scheduler.controller.usage import PoolUse, QueueUse
from scheduler.kube.statuses import difference, pool_told, queue_told, raw, read_status, told

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
RAYJOB = Launched(kind="RayJob", name="train-1", attempt=1)
PLACED = Why(reason=Cause.PLACED, message="by the plan of the whole queue")
CROWDED = Why(reason=Reason.CAPACITY, message="others that matter more fill it", binds=("big",))
RECORD = Record(
    attempt=1,
    work_done=2.5,
    evicted_by=("nlp/chat",),
    mode=3,
    nodes=(("h100-0", 1), ("h100-1", 1)),
    start=NOW,
    end=NOW + timedelta(hours=6),
)
HOLDING = Status(
    job="nlp/train",
    phase=Phase.RUNNING,
    why=PLACED,
    generation=4,
    expected_start=NOW + timedelta(seconds=40),
    pool="h100",
    nodes=("h100-0", "h100-1"),
    gpus=16.0,
    end=NOW + timedelta(hours=6),
    cost_usd=211.2,
    usd_per_pflop=0.0031,
    started=NOW + timedelta(seconds=40),
    record=RECORD,
)
WAITING = Status(job="nlp/train", phase=Phase.WAITING, why=CROWDED, generation=1)


def status_in(phase: Phase) -> Status:
    """A job in that phase, with what it then has."""
    if phase in (Phase.LAUNCHING, Phase.RUNNING, Phase.STOPPING, Phase.RESERVED):
        return replace(HOLDING, phase=phase, started=None, expected_start=NOW)
    return replace(WAITING, phase=phase, record=Record(attempt=1, not_before=NOW))


def stored(status: Status, before: dict[str, Any] | None = None, now: datetime = NOW) -> Any:
    """The status as an API server gives it back."""
    return json.loads(json.dumps(raw(told(status, before or {}, launched=RAYJOB, now=now))))


def condition(of: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = (each for each in of["conditions"] if each["type"] == kind)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("status", [HOLDING, WAITING, *map(status_in, Phase)], ids=str)
def test_what_was_told_is_read_back_as_it_was(status: Status) -> None:
    assert read_status("nlp/train", stored(status)) == status


# Of all that holds, the first is what `kubectl get` shows as the state.
STATE = {
    Phase.WAITING: None,
    Phase.RESERVED: "Preempted",  # launched before, and promised a new place
    Phase.LAUNCHING: "Launched",
    Phase.RUNNING: "Running",
    Phase.STOPPING: "Preempted",
    Phase.SUSPENDED: "Preempted",
    Phase.DONE: "Succeeded",
    Phase.FAILED: "Failed",
}


@pytest.mark.parametrize("phase", Phase)
def test_the_first_condition_that_holds_is_the_jobs_state(phase: Phase) -> None:
    conditions = stored(status_in(phase))["conditions"]
    assert [each["type"] for each in conditions] == list(JobCondition)
    true = [each["type"] for each in conditions if each["status"] == "True"]
    assert (true[0] if true else None) == STATE[phase]


def test_a_job_that_was_never_launched_and_is_promised_a_place_is_planned() -> None:
    first = replace(HOLDING, phase=Phase.RESERVED, record=Record(start=NOW))
    true = [each["type"] for each in stored(first)["conditions"] if each["status"] == "True"]
    assert true == ["Planned"]


def test_a_job_that_waits_says_what_it_waits_for() -> None:
    planned = condition(stored(WAITING), "Planned")
    assert planned == {
        "type": "Planned",
        "status": "False",
        "reason": "Capacity",
        "message": "others that matter more fill it",
        "lastTransitionTime": "2026-12-01T12:00:00Z",
        "observedGeneration": 1,
    }


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    first = stored(WAITING)
    later = NOW + timedelta(minutes=5, microseconds=7)
    second = stored(HOLDING, first, later)
    assert condition(second, "Running")["lastTransitionTime"] == "2026-12-01T12:05:00Z"
    assert condition(second, "Failed")["lastTransitionTime"] == "2026-12-01T12:00:00Z"
    assert condition(second, "Failed")["observedGeneration"] == 4


def test_what_is_the_same_is_not_written_again() -> None:
    first = stored(HOLDING)
    again = stored(HOLDING, first, NOW + timedelta(hours=1))
    assert difference(first, again) == {}


def test_a_preempted_job_says_for_whom_while_others_keep_it_waiting() -> None:
    for_whom = Why(reason=Cause.PREEMPTED, message="for nlp/chat, of priority 1000")
    stopping = stored(replace(HOLDING, phase=Phase.STOPPING, why=for_whom))
    suspended = stored(replace(WAITING, phase=Phase.SUSPENDED), stopping)
    preempted = condition(suspended, "Preempted")
    assert (preempted["reason"], preempted["message"]) == (
        "Preempted",
        "for nlp/chat, of priority 1000",
    )
    assert condition(suspended, "Planned")["reason"] == "Capacity"


def test_what_a_job_no_longer_has_is_taken_away() -> None:
    patch = difference(stored(HOLDING), raw(told(WAITING, {}, launched=None, now=NOW)))
    assert patch["plan"] is None
    assert patch["launched"] is None
    assert patch["record"]["started"] is None


@pytest.mark.parametrize("status", [{}, {"record": {"phase": "Asleep"}}, {"conditions": "none"}])
def test_a_status_of_somebody_else_is_no_memory(status: dict[str, Any]) -> None:
    assert read_status("nlp/train", status) is None


def ready(of: Any) -> tuple[str, str, str]:
    (found,) = json.loads(json.dumps(raw(of)))["conditions"]
    assert found["type"] == "Ready"
    return found["status"], found["reason"], found["message"]


def test_a_pool_is_ready_when_it_has_nodes_and_its_object_can_be_used() -> None:
    use = PoolUse(nodes=2, gpus=15.5, free_gpus=7.5)
    told_of = partial(pool_told, before={}, generation=3, now=NOW)
    assert ready(told_of(use)) == ("True", "Counted", "2 nodes, 15.5 GPUs")
    assert ready(told_of(PoolUse())) == ("False", "NoNodes", "0 nodes, 0 GPUs")
    fault = 'spec.accelerator: found "h1000", which is no known accelerator, nearest: h100'
    assert ready(told_of(use, fault=fault)) == ("False", "Invalid", fault)
    whole = raw(told_of(use))
    assert (whole["nodes"], whole["gpus"], whole["freeGpus"]) == (2, 15.5, 7.5)
    assert whole["observedGeneration"] == 3


def test_a_queue_tells_who_waits_and_what_is_used() -> None:
    use = QueueUse(waiting_jobs=3, running_jobs=1, used={"h100-sxm5-80gb": 12.5})
    first = raw(queue_told(use, {}, generation=1, now=NOW))
    assert (first["waitingJobs"], first["used"]) == (3, {"h100-sxm5-80gb": 12.5})
    later = NOW + timedelta(hours=1)
    idle = raw(queue_told(QueueUse(), first, generation=1, now=later))
    patch = difference(first, idle)
    assert patch == {"waitingJobs": None, "runningJobs": None, "used": None}
    fault = "spec.parent: found the circle a -> b -> a, allowed: none"
    broken = queue_told(QueueUse(), first, generation=2, fault=fault, now=later)
    assert ready(broken) == ("False", "Invalid", fault)
    assert broken.conditions[0].last_transition_time == later


JSON = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=2) | st.lists(st.integers(0, 2), max_size=2),
    lambda inner: st.dictionaries(st.text("xyz", max_size=1), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text("xyz", max_size=1), JSON, max_size=3)


def merged(before: Any, patch: Any) -> Any:
    """RFC 7386, as it is written there."""
    if not isinstance(patch, dict):
        return patch
    result = dict(before) if isinstance(before, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(OBJECTS, OBJECTS)
def test_the_difference_makes_the_one_of_the_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    patch = difference(before, after)
    assert merged(before, patch) == after
    assert (patch == {}) == (before == after)
