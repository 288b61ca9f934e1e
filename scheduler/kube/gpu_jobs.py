"""GpuJobs as their owners see them: a row of each, what each was billed, and whose log is its own.

Pure: from the raw objects of an API server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from planner.manifests.status import JobCondition
from scheduler.kube.api import Raw
from scheduler.kube.names import JOB, JOBS, PROJECT, RAY_JOBS, TEAM, label_value

WAITING = "Waiting"
_ENDED = (JobCondition.SUCCEEDED, JobCondition.FAILED)
_OF_JOB = "batch.kubernetes.io/job-name"
_MAIN = ("main", "ray-job-submitter", "ray-head")  # containers that write what a user looks for


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A stretch in which a job held GPUs, and its bill."""

    namespace: str
    job: str
    team: str
    project: str
    queue: str
    attempt: int
    pool: str
    nodes: tuple[str, ...]
    gpus: float
    start: datetime
    end: datetime
    usd_per_hour: float
    full_usd_per_hour: float

    @property
    def hours(self) -> float:
        """From its start to its end."""
        return (self.end - self.start).total_seconds() / 3600

    @property
    def usd(self) -> float:
        """Money: rent, and the energy of owned hardware."""
        return self.hours * self.usd_per_hour

    @property
    def full_usd(self) -> float:
        """The same with what is paid already."""
        return self.hours * self.full_usd_per_hour


def state_of(raw: Raw) -> str:
    """The first of its conditions that holds, as ``kubectl get`` shows it; else that it waits."""
    found = (raw.get("status") or {}).get("conditions") or ()
    return next((each["type"] for each in found if each["status"] == "True"), WAITING)


def has_ended(raw: Raw) -> bool:
    """Whether nothing more will come of it."""
    return state_of(raw) in _ENDED


def held(raw: Raw, now: datetime) -> tuple[Held, ...]:
    """What it held so far; what it still holds ends now."""
    metadata, spec = raw["metadata"], raw["spec"]
    labels = metadata.get("labels") or {}
    queue = spec.get("queue", "")
    return tuple(
        Held(
            namespace=metadata["namespace"],
            job=metadata["name"],
            team=labels.get(TEAM, queue),
            project=labels.get(PROJECT, ""),
            queue=queue,
            attempt=each["attempt"],
            pool=each["pool"],
            nodes=tuple(each.get("nodes") or ()),
            gpus=each["gpus"],
            start=(start := datetime.fromisoformat(each["start"])),
            end=max(start, datetime.fromisoformat(each["end"]) if each.get("end") else now),
            usd_per_hour=each["usdPerHour"],
            full_usd_per_hour=each.get("fullUsdPerHour", 0.0),
        )
        for each in (raw.get("status") or {}).get("runs") or ()
    )


def row(raw: Raw, now: datetime) -> dict[str, Any]:
    """A job as a line of a table: where it is, since when, and what it has cost so far."""
    metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    plan, launched = status.get("plan") or {}, status.get("launched") or {}
    bill = held(raw, now)
    last: Mapping[str, Any] = (status.get("runs") or [{}])[-1]
    planned = _condition(raw, JobCondition.PLANNED)
    ended = _condition(raw, JobCondition(state_of(raw))) if has_ended(raw) else planned
    expected = (plan.get("expectedStart") or {}).get("at") or plan.get("start")
    return {
        "name": metadata["name"],
        "state": state_of(raw),
        "queue": spec.get("queue", ""),
        "pool": plan.get("pool") or last.get("pool"),
        "gpus": plan.get("gpus") or last.get("gpus"),
        "start": bill[0].start.isoformat() if bill else expected,
        "end": last.get("end") if has_ended(raw) else plan.get("end"),
        "costUsd": round(sum(each.usd for each in bill), 6),
        "reason": ended.get("reason", ""),
        "namespace": metadata["namespace"],
        "team": (metadata.get("labels") or {}).get(TEAM, spec.get("queue", "")),
        "priority": spec.get("priority", 0),
        "attempts": last.get("attempt", 0),
        "nodes": ",".join(plan.get("nodes") or last.get("nodes") or ()),
        "leftUsd": plan.get("costUsd"),
        "workload": f"{launched['kind']}/{launched['name']}" if launched else None,
        "message": ended.get("message", ""),
    }


def _condition(raw: Raw, kind: JobCondition) -> Mapping[str, Any]:
    found = (raw.get("status") or {}).get("conditions") or ()
    return next((each for each in found if each["type"] == kind), {})


def log_selector(raw: Raw) -> str:
    """The labels of the pods whose log is the job's; empty where nothing carries it.

    Of a RayJob that is the pod that follows its program; of what has no program, Ray's head.
    """
    launched = (raw.get("status") or {}).get("launched") or {}
    kind, name = launched.get("kind"), launched.get("name", "")
    if kind in (RAY_JOBS.kind, JOBS.kind):
        return f"{_OF_JOB}={name}"
    return f"{JOB}={label_value(raw['metadata']['name'])},ray.io/node-type=head" if kind else ""


def in_order(pods: Iterable[Raw]) -> tuple[Raw, ...]:
    """The oldest first."""
    return tuple(
        sorted(
            pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"])
        )
    )


def has_log(pod: Raw) -> bool:
    """Whether a container of it has started."""
    found = (pod.get("status") or {}).get("containerStatuses") or ()
    return any("waiting" not in (each.get("state") or {"waiting": {}}) for each in found)


def log_container(pod: Raw) -> str:
    """The container that writes what a user looks for."""
    names = [each["name"] for each in pod["spec"]["containers"]]
    return next((name for name in _MAIN if name in names), names[0])
