"""What is to be started, as plain values: a job, its gangs on named nodes, and our settings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from planner.manifests.schema import GpuJob
from planner.plan import Segment
from planner.problem import GPU_MILLI, Amounts, Job
from scheduler.kube.affinity import Taint
from scheduler.kube.api import Raw
from scheduler.kube.names import (
    GPU,
    GPU_SHARED,
    RAY_JOBS,
    RAY_SERVICES,
    Resource,
    child_name,
)
from scheduler.kube.observe import Fleet, Machine, mig_resource

Declares: TypeAlias = Callable[[Resource, str], bool]  # whether a kind's schema has a field
SHARE_OF_NODE = (
    0.9  # of the CPUs and memory that go with a GPU: the head and later daemons need some
)


class Unsupported(ValueError):
    """A job that cannot be started as it is; the message names the field and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """Replicas of a job on the nodes of one pool."""

    pool: str
    accelerator: str
    replicas: tuple[tuple[str, int], ...]  # (host name, replicas there), sorted
    amounts: Amounts  # of one replica
    resource: str = GPU  # that the pool's GPUs are advertised by
    shares: int = 1  # pods that a GPU of it is advertised for
    mig_as_gpu: bool = False  # its MIG instances are advertised as GPUs
    taints: tuple[Taint, ...] = ()  # of its nodes
    layout: str = ""  # tensor, pipeline and data parallel, as the planner has it

    @property
    def count(self) -> int:
        """Replicas in all."""
        return sum(count for _, count in self.replicas)

    @property
    def hostnames(self) -> tuple[str, ...]:
        """The nodes, by their label ``kubernetes.io/hostname``."""
        return tuple(host for host, _ in self.replicas)

    def gpu_request(self) -> tuple[str, int]:
        """The resource that a pod of one replica asks for, and how much of it.

        Raises `Unsupported` for a share of a GPU on nodes that do not share theirs.
        """
        if self.amounts.mig:
            ((profile, count),) = self.amounts.mig
            return (GPU if self.mig_as_gpu else mig_resource(profile)), count
        part = self.amounts.gpu_milli % GPU_MILLI
        if part and self.shares == 1:
            raise Unsupported(
                f"spec.task.gpuFraction: found {self.amounts.gpu_milli / GPU_MILLI:g} on pool "
                f"{self.pool}, whose nodes do not share their GPUs; allowed: whole GPUs, or nodes "
                f"with time-slicing or MPS ({GPU_SHARED})"
            )
        return self.resource, math.ceil(self.amounts.gpu_milli * self.shares / GPU_MILLI)

    @property
    def ray_gpus(self) -> int:
        """GPUs that a replica's Ray node has: a share or a MIG instance is one to it."""
        return self.amounts.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A job on the nodes that the plan chose."""

    job: GpuJob
    uid: str  # of the object that owns what is made; empty: nobody does
    gangs: tuple[Gang, ...]  # one a pool
    start: datetime
    attempt: int = 1  # how often it was launched, this time included
    token_mark: str = ""  # of the token of its Ray, in the name of its Secret
    round: int = 1  # how often it was begun anew after it had failed: what failed is not resumed

    @property
    def name(self) -> str:
        """Of the objects that carry it out."""
        name = self.job.metadata.name
        return child_name(name if self.round == 1 else f"{name}.{self.round}")

    @property
    def namespace(self) -> str:
        return self.job.metadata.namespace

    @property
    def replicas(self) -> int:
        return sum(gang.count for gang in self.gangs)

    @property
    def taints(self) -> tuple[Taint, ...]:
        """Of all its nodes, each once."""
        return tuple(dict.fromkeys(taint for gang in self.gangs for taint in gang.taints))

    @property
    def deadline_seconds(self) -> int | None:
        """From its start to its deadline."""
        deadline = self.job.spec.deadline
        return None if deadline is None else max(1, int((deadline - self.start).total_seconds()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an operator starts things."""

    image: str = "rayproject/ray:2.60.0-gpu"  # where a job names none
    serve_image: str = "rayproject/ray-llm:2.60.0-py311-cu128"
    ray_version: str = "2.60.0"  # of images whose tag does not say it
    checkpoint_root: str = ""  # a folder or URL; below it <namespace>/<job>; empty: none given
    ttl_seconds: int = 3600  # that a finished batch Job is kept
    back_off_limit: int = 0  # failures that KubeRay and the Job controller mend: we count our own
    pre_running_seconds: int = 900  # that a gang has to come up before it is given up
    head_cpu: str = "1"
    head_memory: str = "4Gi"
    stop_seconds: int = 30  # that Ray or a program has to end, beyond the time to save
    token_auth: bool = True
    operator_namespace: str = ""  # of Flopwise: its pods may ask dashboards; empty: any namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the cluster's own definitions have."""

    ray: bool = True
    auth_options: bool = False  # KubeRay 1.5.1 and later
    pre_running_deadline: bool = False  # KubeRay 1.6 and later


def capabilities(crds: Iterable[Raw]) -> Capabilities:
    """What the custom resource definitions say that can be used."""
    by_name = {each["metadata"]["name"]: each for each in crds}
    ray_job = by_name.get(f"{RAY_JOBS.plural}.{RAY_JOBS.group}")
    ray_service = f"{RAY_SERVICES.plural}.{RAY_SERVICES.group}"
    return Capabilities(
        ray=ray_job is not None and ray_service in by_name,
        auth_options=_has(ray_job, "spec", "rayClusterSpec", "authOptions"),
        pre_running_deadline=_has(ray_job, "spec", "preRunningDeadlineSeconds"),
    )


def discovered(serves: Callable[[Resource], bool], declares: Declares) -> Capabilities:
    """The same, by what the API server says to everybody of the kinds that it serves."""
    ray = serves(RAY_JOBS) and serves(RAY_SERVICES)
    return Capabilities(
        ray=ray,
        auth_options=ray and declares(RAY_JOBS, "authOptions"),
        pre_running_deadline=ray and declares(RAY_JOBS, "preRunningDeadlineSeconds"),
    )


def _has(crd: Raw | None, *path: str) -> bool:
    """Whether the served version v1 of a definition has the field."""
    for version in (crd or {"spec": {"versions": ()}})["spec"]["versions"]:
        if version["name"] != "v1":
            continue
        schema = version["schema"]["openAPIV3Schema"]
        for step in path:
            schema = (schema.get("properties") or {}).get(step)
            if schema is None:
                return False
        return True
    return False


def gangs(job: Job, segments: Iterable[Segment], fleet: Fleet) -> tuple[Gang, ...]:
    """The gangs of what a job runs at once: a segment, or of a service one of each of its modes."""
    by_pool: dict[str, tuple[int, Counter[str]]] = {}
    for segment in segments:
        mode = job.modes[segment.mode]
        known = by_pool.setdefault(mode.pool, (segment.mode, Counter()))
        for place in segment.placement:
            known[1][place.node] += place.replicas
    return tuple(
        _gang(job, mode, nodes, {m.name: m for m in fleet.machines[pool]})
        for pool, (mode, nodes) in sorted(by_pool.items())
    )


def _gang(job: Job, mode: int, nodes: Counter[str], machines: Mapping[str, Machine]) -> Gang:
    used = [machines[name] for name in nodes]
    chosen = job.modes[mode]
    return Gang(
        pool=chosen.pool,
        accelerator=used[0].accelerator,
        replicas=tuple(sorted((machines[name].hostname, n) for name, n in nodes.items())),
        amounts=chosen.amounts,
        resource=used[0].resource,
        shares=min(machine.shares for machine in used),
        mig_as_gpu=any(machine.single_profile for machine in used),
        taints=tuple(dict.fromkeys(taint for machine in used for taint in machine.taints)),
        layout=chosen.layout,
    )
