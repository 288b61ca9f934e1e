"""What a workload's status means: one closed phase, with a reason and a message.

Of a RayJob ``jobStatus`` counts, which is Ray's own word for how the program ended; the submitter,
a pod that follows it, may end well although the program failed, and fail although it goes on.
KubeRay before 1.5.1 cannot ask a Ray that wants a token: then we do, by the API server
(`job_info_request`), and hand the answer to `phase_of`.

KubeRay calls a job suspended once its cluster is deleted. Its pods are still there then, saving
what they did, and hold their GPUs: whoever knows of them says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from planner.manifests.schema import iso
from scheduler.kube.api import Raw
from scheduler.kube.names import DRAIN


class Phase(StrEnum):
    """Where a workload stands."""

    SUSPENDED = "Suspended"  # it holds nothing
    LAUNCHING = "Launching"  # it may run, and not all of it does yet
    RUNNING = "Running"
    STOPPING = "Stopping"  # it was suspended, and its pods are not gone yet
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A workload as it was last seen."""

    phase: Phase
    reason: str = ""  # CamelCase, the workload's own word
    message: str = ""
    started: datetime | None = None  # of this run, where it says so
    ended: datetime | None = None


def phase_of(raw: Raw, job_status: str = "", *, pods: int = 0) -> Seen:
    """Where an object of one of the kinds that carry out jobs stands.

    ``job_status``: Ray's word for a RayJob whose own status cannot have it (`job_info`); ``pods``:
    how many of its pods are there and have not ended.
    """
    status: Mapping[str, Any] = raw.get("status") or {}
    if raw["kind"] == "RayJob":
        seen = _ray_job(raw, {**status, **({"jobStatus": job_status} if job_status else {})})
    else:
        seen = _BY_KIND[raw["kind"]](raw, status)
    return replace(seen, phase=Phase.STOPPING) if pods and seen.phase is Phase.SUSPENDED else seen


# -- RayJob ----------------------------------------------------------------------------------------


def _ray_job(raw: Raw, status: Mapping[str, Any]) -> Seen:
    stage, word = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    return Seen(
        phase=_ray_job_phase(stage, word, suspended=bool(raw["spec"].get("suspend"))),
        reason=status.get("reason") or (word if word in ("FAILED", "STOPPED") else "") or stage,
        message=status.get("message") or "",
        started=_time(status.get("startTime")),
        ended=_time(status.get("endTime")),
    )


def _ray_job_phase(stage: str, word: str, *, suspended: bool) -> Phase:
    if word == "SUCCEEDED":
        return Phase.SUCCEEDED
    if stage in ("Failed", "ValidationFailed") or (stage == "Complete" and word):
        return Phase.FAILED
    if stage == "Complete":  # ended, and nobody has Ray's word for how
        return Phase.RUNNING
    if suspended:
        return Phase.SUSPENDED if stage in ("", "Suspended") else Phase.STOPPING
    if stage == "Running" and word == "RUNNING":
        return Phase.RUNNING
    return Phase.LAUNCHING


def job_info_request(raw: Raw) -> tuple[str, str, str] | None:
    """(service, port, path) at which Ray says how a job does; None where it is not running."""
    status = raw.get("status") or {}
    if status.get("jobDeploymentStatus") != "Running" or not status.get("jobId"):
        return None
    cluster = status.get("rayClusterName", "")
    return f"{cluster}-head-svc", "dashboard", f"/api/jobs/{status['jobId']}"


def job_info(said: Mapping[str, Any]) -> str:
    """Ray's word in its answer: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; else empty."""
    word = said.get("status")
    return word if word in ("PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED") else ""


# -- RayService, RayCluster ------------------------------------------------------------------------


def _ray_service(raw: Raw, status: Mapping[str, Any]) -> Seen:
    suspended = bool(raw["spec"].get("rayClusterConfig", {}).get("suspend"))
    ready = _condition(status, "Ready")
    if ready.get("status") == "True" or (not ready and status.get("serviceStatus") == "Running"):
        phase = Phase.STOPPING if suspended else Phase.RUNNING
    else:
        phase = Phase.SUSPENDED if suspended else Phase.LAUNCHING
    return Seen(
        phase=phase,
        reason=ready.get("reason") or "",
        message=_of_applications(status) or ready.get("message") or "",
        started=_time(ready.get("lastTransitionTime")) if phase is Phase.RUNNING else None,
    )


def _of_applications(status: Mapping[str, Any]) -> str:
    """What Serve says of applications that are not well."""
    known = [status.get(side) or {} for side in ("activeServiceStatus", "pendingServiceStatus")]
    return "; ".join(
        f"{name}: {app['status']}: {app.get('message') or ''}".rstrip(": ")
        for side in known
        for name, app in sorted((side.get("applicationStatuses") or {}).items())
        if app.get("status") in ("UNHEALTHY", "DEPLOY_FAILED")
    )


def _ray_cluster(raw: Raw, status: Mapping[str, Any]) -> Seen:
    provisioned = _condition(status, "RayClusterProvisioned")
    failure = _condition(status, "ReplicaFailure")
    up = status.get("state") == "ready"
    if raw["spec"].get("suspend"):
        gone = _condition(status, "RayClusterSuspended").get("status") == "True"
        phase = Phase.SUSPENDED if gone or not status else Phase.STOPPING
    else:
        phase = Phase.RUNNING if up else Phase.LAUNCHING
    worst = failure if failure.get("status") == "True" else provisioned
    return Seen(
        phase=phase,
        reason=worst.get("reason") or "",
        message=status.get("reason") or worst.get("message") or "",
        started=_time((status.get("stateTransitionTimes") or {}).get("ready")) if up else None,
    )


# -- Job, JobSet -----------------------------------------------------------------------------------


def _job(raw: Raw, status: Mapping[str, Any]) -> Seen:
    spec = raw["spec"]
    started = _time(status.get("startTime"))
    for kind, phase in (("Complete", Phase.SUCCEEDED), ("Failed", Phase.FAILED)):
        if (found := _condition(status, kind)).get("status") == "True":
            ended = _time(status.get("completionTime") or found.get("lastTransitionTime"))
            return _told(phase, found, started, ended)
    active = int(status.get("active") or 0) + int(status.get("terminating") or 0)
    if spec.get("suspend"):
        phase = Phase.STOPPING if active else Phase.SUSPENDED
        return _told(phase, _condition(status, "Suspended"), None, None)
    working = int(status.get("ready") or 0) + int(status.get("succeeded") or 0)
    wanted = min(int(spec.get("parallelism", 1)), int(spec.get("completions") or 1))
    phase = Phase.RUNNING if working >= max(1, wanted) else Phase.LAUNCHING
    return _told(phase, _condition(status, "FailureTarget"), started, None)


def _job_set(raw: Raw, status: Mapping[str, Any]) -> Seen:
    for kind, phase in (("Completed", Phase.SUCCEEDED), ("Failed", Phase.FAILED)):
        if (found := _condition(status, kind)).get("status") == "True":
            return _told(phase, found, None, _time(found.get("lastTransitionTime")))
    parts = status.get("replicatedJobsStatus") or ()
    if raw["spec"].get("suspend"):
        active = sum(int(each.get("active") or 0) for each in parts)
        phase = Phase.STOPPING if active else Phase.SUSPENDED
        return _told(phase, _condition(status, "Suspended"), None, None)
    wanted = sum(int(each.get("replicas", 1)) for each in raw["spec"].get("replicatedJobs") or ())
    working = sum(int(each.get("ready") or 0) + int(each.get("succeeded") or 0) for each in parts)
    phase = Phase.RUNNING if parts and working >= wanted else Phase.LAUNCHING
    return _told(phase, {}, None, None)


def _told(
    phase: Phase, condition: Mapping[str, Any], started: datetime | None, ended: datetime | None
) -> Seen:
    return Seen(
        phase=phase,
        reason=condition.get("reason") or "",
        message=condition.get("message") or "",
        started=started,
        ended=ended,
    )


_BY_KIND: Mapping[str, Callable[[Raw, Mapping[str, Any]], Seen]] = {
    "RayService": _ray_service,
    "RayCluster": _ray_cluster,
    "Job": _job,
    "JobSet": _job_set,
}


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), {})


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def drain_notice(until: datetime) -> Raw:
    """The merge patch that tells a workload until when it has time to save.

    On the workload it is for whoever watches; the program reads it where its pods have it, so that
    it goes to each of these too.
    """
    return {"metadata": {"annotations": {DRAIN: iso(until)}}}
