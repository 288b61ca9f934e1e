"""What a cluster really does: the GPUs that pods hold, where, since when, and for which workload.

A pod is a workload's by its owner (a Job), or by the label that JobSet and KubeRay put on it. GPUs
that pods were given by DRA claims are not seen here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from scheduler.kube import quantities
from scheduler.kube.api import Raw
from scheduler.kube.names import GPU, GPU_SHARED, JOB_SETS, JOBS, MIG_PREFIX
from scheduler.kube.observe import Machine, profile_of

_OF_JOB_SET = "jobset.sigs.k8s.io/jobset-name"
_OF_RAY = "ray.io/cluster"
_GPU_SLICES = 7  # compute slices of a GPU that can be partitioned


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A pod on its node."""

    job: str  # whose workload's it is, or empty
    node: str
    gpus: float
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """Workloads by what their pods say of them."""

    jobs: Mapping[str, str]

    @classmethod
    def of(cls, workloads: Iterable[tuple[str, Raw]]) -> Holders:
        """Of pairs of a job's name and the object that carries it."""
        return cls(jobs={mark: job for job, raw in workloads for mark in _marks(raw)})

    def job_of(self, pod: Raw) -> str:
        """The job that a pod works for, or empty."""
        return next((self.jobs[mark] for mark in _said(pod) if mark in self.jobs), "")


def _marks(raw: Raw) -> Iterator[str]:
    """What a workload is known by to its pods."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    space = metadata.get("namespace", "")
    if raw["kind"] == JOBS.kind:
        yield str(metadata.get("uid", ""))
    elif raw["kind"] == JOB_SETS.kind:
        yield f"{_OF_JOB_SET}/{space}/{metadata['name']}"
    else:
        sides = (status.get("activeServiceStatus"), status.get("pendingServiceStatus"), status)
        for side in sides:
            if name := (side or {}).get("rayClusterName"):
                yield f"{_OF_RAY}/{space}/{name}"


def _said(pod: Raw) -> Iterator[str]:
    metadata = pod["metadata"]
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("uid"):
            yield str(owner["uid"])
    labels = metadata.get("labels") or {}
    for label in (_OF_JOB_SET, _OF_RAY):
        if label in labels:
            yield f"{label}/{metadata.get('namespace', '')}/{labels[label]}"


def holdings(
    pods: Iterable[Raw], holders: Holders, machines: Iterable[Machine]
) -> tuple[Holding, ...]:
    """Pods that hold GPUs of these machines now; those that have ended hold none."""
    by_name = {machine.name: machine for machine in machines}
    found = []
    for pod in pods:
        machine = by_name.get(pod["spec"].get("nodeName") or "")
        status = pod.get("status") or {}
        if machine is None or status.get("phase") in quantities.ENDED:
            continue
        if gpus := gpus_of(pod, machine):
            began = status.get("startTime")
            found.append(
                Holding(
                    job=holders.job_of(pod),
                    node=machine.name,
                    gpus=gpus,
                    since=datetime.fromisoformat(began) if began else None,
                )
            )
    return tuple(found)


def gpus_of(pod: Raw, machine: Machine) -> float:
    """GPUs that a pod holds of its node: shares and MIG instances as parts of one."""
    asked = quantities.requests(pod["spec"])
    each = machine.shares
    if machine.single_profile:
        each = max(1, machine.mig[0][1] // max(1, machine.gpus))
    whole = (asked[GPU] + asked[GPU_SHARED]) / each
    parts = sum(
        int(profile_of(name).split("g.")[0]) * count
        for name, count in asked.items()
        if name.startswith(MIG_PREFIX)
    )
    return whole + parts / _GPU_SLICES
