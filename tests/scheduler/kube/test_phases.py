"""What a workload's status means."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.kube.phases import Phase, Seen, drain_notice, job_info, job_info_request, phase_of

AT = datetime(2026, 12, 1, 8, tzinfo=UTC)


def raw(kind: str, spec: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": "a"}, "spec": spec or {}, "status": status}


def condition(kind: str, status: str = "True", **more: str) -> dict[str, str]:
    stated = {"type": kind, "status": status, "lastTransitionTime": "2026-12-01T08:00:00Z"}
    return stated | more


@pytest.mark.parametrize(
    ("suspend", "stage", "word", "phase"),
    [
        (True, "", "", Phase.SUSPENDED),
        (True, "Suspended", "", Phase.SUSPENDED),
        (True, "Running", "RUNNING", Phase.STOPPING),
        (True, "Suspending", "RUNNING", Phase.STOPPING),
        (False, "", "", Phase.LAUNCHING),
        (False, "Suspended", "", Phase.LAUNCHING),  # released a moment ago
        (False, "Initializing", "", Phase.LAUNCHING),
        (False, "Running", "", Phase.LAUNCHING),
        (False, "Running", "PENDING", Phase.LAUNCHING),
        (False, "Running", "RUNNING", Phase.RUNNING),
        (False, "Running", "FAILED", Phase.LAUNCHING),  # KubeRay may try again: not its last word
        (False, "Retrying", "FAILED", Phase.LAUNCHING),
        (False, "Complete", "SUCCEEDED", Phase.SUCCEEDED),
        (False, "Complete", "STOPPED", Phase.FAILED),
        (False, "Failed", "FAILED", Phase.FAILED),
        (False, "Failed", "", Phase.FAILED),
        (False, "ValidationFailed", "", Phase.FAILED),
        # The submitter failed, and the program did not: its own word counts.
        (False, "Failed", "SUCCEEDED", Phase.SUCCEEDED),
        (True, "Running", "SUCCEEDED", Phase.SUCCEEDED),  # it ended before it was stopped
    ],
)
def test_a_ray_job_is_where_ray_says_that_it_is(
    suspend: bool, stage: str, word: str, phase: Phase
) -> None:
    seen = phase_of(raw("RayJob", {"suspend": suspend}, jobDeploymentStatus=stage, jobStatus=word))
    assert seen.phase is phase


def test_a_job_whose_pods_are_still_there_has_not_stopped_yet() -> None:
    stopped = raw("RayJob", {"suspend": True}, jobDeploymentStatus="Suspended")
    assert phase_of(stopped, pods=2).phase is Phase.STOPPING
    assert phase_of(stopped, pods=0).phase is Phase.SUSPENDED
    running = raw("RayJob", jobDeploymentStatus="Running", jobStatus="RUNNING")
    assert phase_of(running, pods=2).phase is Phase.RUNNING


def test_a_ray_job_s_end_has_its_reason_and_its_times() -> None:
    seen = phase_of(
        raw(
            "RayJob",
            jobDeploymentStatus="Failed",
            jobStatus="FAILED",
            reason="AppFailed",
            message="exit 3",
            startTime="2026-12-01T08:00:00Z",
            endTime="2026-12-01T09:00:00Z",
        )
    )
    assert seen == Seen(
        phase=Phase.FAILED,
        reason="AppFailed",
        message="exit 3",
        started=AT,
        ended=AT.replace(hour=9),
    )


def test_where_kuberay_cannot_ask_ray_we_do() -> None:
    running = raw(
        "RayJob", jobDeploymentStatus="Running", jobId="train-x", rayClusterName="train-abcde"
    )
    assert job_info_request(running) == (
        "train-abcde-head-svc",
        "dashboard",
        "/api/jobs/train-x",
    )
    assert job_info({"status": "RUNNING"}) == "RUNNING"
    assert job_info({"detail": "no"}) == ""
    assert phase_of(running, "RUNNING").phase is Phase.RUNNING
    assert phase_of(running, "SUCCEEDED").phase is Phase.SUCCEEDED
    assert job_info_request(raw("RayJob", jobDeploymentStatus="Initializing")) is None


def test_a_service_runs_when_it_is_ready_and_says_what_is_not_well() -> None:
    ready = raw("RayService", conditions=[condition("Ready", reason="NonZeroServeEndpoints")])
    assert phase_of(ready) == Seen(phase=Phase.RUNNING, reason="NonZeroServeEndpoints", started=AT)
    ill = raw(
        "RayService",
        conditions=[condition("Ready", "False", reason="Initializing", message="wait")],
        pendingServiceStatus={
            "applicationStatuses": {"llm": {"status": "DEPLOY_FAILED", "message": "no such model"}}
        },
    )
    assert phase_of(ill) == Seen(
        phase=Phase.LAUNCHING, reason="Initializing", message="llm: DEPLOY_FAILED: no such model"
    )
    suspended = raw("RayService", {"rayClusterConfig": {"suspend": True}})
    assert phase_of(suspended).phase is Phase.SUSPENDED


@pytest.mark.parametrize(
    ("spec", "status", "phase"),
    [
        ({"suspend": True}, {}, Phase.SUSPENDED),
        ({"suspend": True}, {"state": "ready"}, Phase.STOPPING),
        (
            {"suspend": True},
            {"state": "suspended", "conditions": [condition("RayClusterSuspended")]},
            Phase.SUSPENDED,
        ),
        ({}, {"state": "ready"}, Phase.RUNNING),
        ({}, {"conditions": [condition("HeadPodReady", "False")]}, Phase.LAUNCHING),
    ],
)
def test_a_ray_cluster_runs_when_all_of_it_is_ready(
    spec: dict[str, Any], status: dict[str, Any], phase: Phase
) -> None:
    assert phase_of(raw("RayCluster", spec, **status)).phase is phase


@pytest.mark.parametrize(
    ("spec", "status", "phase"),
    [
        ({"suspend": True}, {}, Phase.SUSPENDED),
        ({"suspend": True}, {"active": 1}, Phase.STOPPING),
        ({"suspend": True}, {"terminating": 1}, Phase.STOPPING),
        ({}, {"active": 1}, Phase.LAUNCHING),
        ({}, {"active": 1, "ready": 1}, Phase.RUNNING),
        ({"parallelism": 2, "completions": 2}, {"active": 2, "ready": 1}, Phase.LAUNCHING),
        ({"parallelism": 2, "completions": 2}, {"ready": 1, "succeeded": 1}, Phase.RUNNING),
        ({"suspend": True}, {"conditions": [condition("Complete")]}, Phase.SUCCEEDED),
        ({}, {"conditions": [condition("Failed", reason="DeadlineExceeded")]}, Phase.FAILED),
        ({}, {"conditions": [condition("Failed", "False")]}, Phase.LAUNCHING),
    ],
)
def test_a_job_runs_when_all_of_its_gang_does(
    spec: dict[str, Any], status: dict[str, Any], phase: Phase
) -> None:
    assert phase_of(raw("Job", spec, **status)).phase is phase


def test_a_job_set_is_as_far_as_the_least_of_its_jobs() -> None:
    spec = {"replicatedJobs": [{"name": "a", "replicas": 1}, {"name": "b", "replicas": 1}]}
    parts = [{"name": "a", "ready": 1}, {"name": "b", "ready": 0}]
    assert phase_of(raw("JobSet", spec, replicatedJobsStatus=parts)).phase is Phase.LAUNCHING
    parts[1]["ready"] = 1
    assert phase_of(raw("JobSet", spec, replicatedJobsStatus=parts)).phase is Phase.RUNNING
    done = raw("JobSet", spec, conditions=[condition("Completed")])
    assert phase_of(done) == Seen(phase=Phase.SUCCEEDED, ended=AT)
    held = raw("JobSet", spec | {"suspend": True}, replicatedJobsStatus=[{"active": 1}])
    assert phase_of(held).phase is Phase.STOPPING


def test_an_object_without_a_status_is_only_beginning() -> None:
    for kind in ("RayJob", "RayService", "RayCluster", "Job", "JobSet"):
        assert phase_of({"kind": kind, "spec": {}, "metadata": {}}).phase is Phase.LAUNCHING


def test_the_drain_notice_says_until_when() -> None:
    assert drain_notice(AT) == {
        "metadata": {"annotations": {"flopwise.dev/drain": "2026-12-01T08:00:00Z"}}
    }
