"""GpuJobs as their owners see them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.kube.gpu_jobs import (
    has_ended,
    has_log,
    held,
    in_order,
    log_container,
    log_selector,
    row,
    state_of,
)

NOW = datetime(2026, 12, 1, 3, tzinfo=UTC)
RUNS = [
    {
        "attempt": 1,
        "pool": "h100",
        "nodes": ["n0"],
        "gpus": 8,
        "start": "2026-12-01T00:00:00Z",
        "end": "2026-12-01T00:30:00Z",
        "usdPerHour": 16.0,
        "fullUsdPerHour": 20.0,
    },
    {
        "attempt": 2,
        "pool": "b200",
        "nodes": ["m0"],
        "gpus": 4,
        "start": "2026-12-01T02:00:00Z",
        "usdPerHour": 10.0,
    },
]


def gpu_job(**status: Any) -> dict[str, Any]:
    metadata = {"name": "train", "namespace": "ml", "labels": {"flopwise.dev/team": "nlp"}}
    return {"metadata": metadata, "spec": {"queue": "research"}, "status": status}


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def test_a_job_is_as_the_first_of_its_conditions_that_holds() -> None:
    launched, planned = condition("Launched", "True"), condition("Planned", "True")
    assert state_of(gpu_job(conditions=[condition("Running", "False"), launched])) == "Launched"
    assert state_of(gpu_job()) == "Waiting"
    assert not has_ended(gpu_job(conditions=[planned]))
    assert has_ended(gpu_job(conditions=[condition("Succeeded", "True"), planned]))


def test_what_is_held_still_is_billed_until_now() -> None:
    first, second = held(gpu_job(runs=RUNS), NOW)
    # Half an hour at $16, in full $20; then one hour so far at $10.
    assert (first.usd, first.full_usd, first.team) == (8.0, 10.0, "nlp")
    assert (second.hours, second.usd, second.end) == (1.0, 10.0, NOW)


def test_a_clock_behind_that_of_the_cluster_bills_nothing_below_nothing() -> None:
    (_, second) = held(gpu_job(runs=RUNS), datetime(2026, 12, 1, 1, tzinfo=UTC))
    assert second.usd == 0.0


def test_the_row_of_a_job_that_runs_says_where_and_what_it_cost() -> None:
    plan = {"pool": "b200", "nodes": ["m0"], "gpus": 4, "start": "2026-12-01T02:00:00Z"}
    found = row(
        gpu_job(
            conditions=[condition("Running", "True"), condition("Planned", "True", "Placed")],
            plan=plan | {"end": "2026-12-01T05:00:00Z", "costUsd": 20.0},
            launched={"kind": "RayJob", "name": "train", "attempt": 2},
            runs=RUNS,
        ),
        NOW,
    )
    assert found == {
        "name": "train",
        "state": "Running",
        "queue": "research",
        "pool": "b200",
        "gpus": 4,
        "start": "2026-12-01T00:00:00+00:00",
        "end": "2026-12-01T05:00:00Z",
        "costUsd": 18.0,
        "reason": "Placed",
        "namespace": "ml",
        "team": "nlp",
        "priority": 0,
        "attempts": 2,
        "nodes": "m0",
        "leftUsd": 20.0,
        "workload": "RayJob/train",
        "message": "",
    }


def test_a_job_that_has_ended_is_where_it_was_last_and_says_how_it_ended() -> None:
    ended = condition("Failed", "True", "Program", "exit code 3")
    found = row(gpu_job(conditions=[ended, condition("Planned", "False")], runs=RUNS[:1]), NOW)
    assert (found["pool"], found["end"], found["costUsd"]) == ("h100", "2026-12-01T00:30:00Z", 8.0)
    assert (found["state"], found["reason"], found["message"]) == (
        "Failed",
        "Program",
        "exit code 3",
    )


def test_a_job_that_waits_says_when_it_is_expected() -> None:
    plan = {"pool": "h100", "gpus": 8, "expectedStart": {"at": "2026-12-02T00:00:00Z"}}
    found = row(gpu_job(plan=plan), NOW)
    assert (found["start"], found["costUsd"]) == ("2026-12-02T00:00:00Z", 0)
    assert (found["attempts"], found["workload"]) == (0, None)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("RayJob", "batch.kubernetes.io/job-name=train-1"),
        ("Job", "batch.kubernetes.io/job-name=train-1"),
        ("RayService", "flopwise.dev/job=train,ray.io/node-type=head"),
        ("RayCluster", "flopwise.dev/job=train,ray.io/node-type=head"),
    ],
)
def test_the_log_of_a_job_is_that_of_its_program(kind: str, labels: str) -> None:
    assert log_selector(gpu_job(launched={"kind": kind, "name": "train-1"})) == labels


def test_a_job_that_nothing_carries_has_no_log() -> None:
    assert log_selector(gpu_job()) == ""


def pod(name: str, created: str, *containers: str, state: str = "running") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"containers": [{"name": each} for each in containers]},
        "status": {"containerStatuses": [{"state": {state: {}}}]},
    }


def test_of_a_pods_containers_the_programs_own_is_read() -> None:
    assert log_container(pod("a", "1", "mesh", "main")) == "main"
    assert log_container(pod("a", "1", "mine", "other")) == "mine"


def test_pods_come_oldest_first_and_have_a_log_once_they_have_started() -> None:
    young, old = pod("a", "2026-12-01T01:00:00Z", "main"), pod("b", "2026-12-01T00:00:00Z", "main")
    assert in_order([young, old]) == (old, young)
    assert has_log(pod("a", "1", "main", state="terminated"))
    assert not has_log(pod("a", "1", "main", state="waiting"))
    assert not has_log({"status": {}})
