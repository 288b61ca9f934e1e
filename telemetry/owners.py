"""Whose each GPU is: devices, processes, pods and labels become shares of every GPU.

A GPU that one pod holds is that pod's, whatever runs on it. One that several hold (time-slicing,
MPS) is split by what each one's processes were measured to do: by their SM time; where that says
nothing, by the memory they keep; and only where nothing at all is measured, into equal parts, which
are marked so. What processes use that belong to nobody known is nobody's. A GPU that no pod holds
belongs to whoever's processes are on it, in the same way.

Pure: what the kubelet, the kernel and the API server said are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from telemetry.cgroups import Origin
from telemetry.podresources import ClaimedDevice, PodDevices
from telemetry.samples import GpuProcess, GpuSample
from telemetry.uses import NOBODY, Owner, Use

TEAM = "flopwise.dev/team"
PROJECT = "flopwise.dev/project"
MODEL = "flopwise.dev/model"
# The first label that a pod has names its job.
JOBS = (
    "flopwise.dev/job",
    "ray.io/originated-from-cr-name",
    "jobset.sigs.k8s.io/jobset-name",
    "batch.kubernetes.io/job-name",
    "job-name",
    "ray.io/cluster",
)
_REPLICA = re.compile(r"::\d+$")  # of the device plugin: one of several parts in time
_GKE_REPLICA = re.compile(r"/vgpu\d+$")


class Basis(StrEnum):
    """What a share was reckoned by."""

    WHOLE = "whole"  # nobody else has it
    SM = "sm"  # measured SM time
    MEMORY = "memory"  # measured memory
    EQUAL = "equal"  # nothing was measured: a guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod as the API server knows it."""

    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict)
    has_ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that tells whose the GPUs of a node are, at one moment."""

    held: Sequence[PodDevices] = ()
    pods: Sequence[Pod] = ()
    origins: Mapping[int, Origin] = field(default_factory=dict)  # by pid
    claimed: Mapping[tuple[str, str], str] = field(default_factory=dict)  # (pool, device): UUID
    devices: Mapping[str, str] = field(default_factory=dict)  # nvidia0, nvidia0/gi3: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One owner's part of one GPU or MIG instance, with its own figures."""

    uuid: str
    owner: Owner
    share_fraction: float
    basis: Basis
    utilisation_fraction: float | None = None  # of the GPU's SM time, by this owner's processes
    memory_used_bytes: int | None = None  # by this owner's processes


def shares(samples: Sequence[GpuSample], known: Known) -> tuple[Share, ...]:
    """Whose each GPU is, by UUID and owner; none of a GPU that nobody has.

    A GPU that is divided into MIG instances has none of its own: they have.
    """
    divided = {sample.parent_uuid for sample in samples}
    look = _Look(known)
    return tuple(
        share for sample in samples if sample.uuid not in divided for share in look.shares(sample)
    )


def uses(samples: Sequence[GpuSample], found: Iterable[Share]) -> tuple[Use, ...]:
    """The samples, a row for each owner; a GPU without any is one row of nobody's.

    A GPU that is divided into MIG instances is nobody's with a share of 0: its instances count.
    """
    by_gpu: dict[str, list[Share]] = {}
    for share in found:
        by_gpu.setdefault(share.uuid, []).append(share)
    divided = {sample.parent_uuid for sample in samples}
    return tuple(
        use
        for sample in samples
        for use in _uses(sample, by_gpu.get(sample.uuid, []), sample.uuid in divided)
    )


def _uses(sample: GpuSample, found: Sequence[Share], is_divided: bool) -> Iterator[Use]:
    if is_divided:
        yield Use(sample=sample, share_fraction=0.0)
    elif not found:
        yield Use(sample=sample)
    for share in found:
        yield Use(sample=sample, owner=share.owner, share_fraction=share.share_fraction)


def device_uuid(device: str, devices: Mapping[str, str]) -> str | None:
    """The UUID that a device id of the kubelet's stands for; None where it can't be known.

    Whole ones, parts of shared ones, and GKE's, which count devices and MIG instances
    (``devices`` then says what they are):

    >>> device_uuid("GPU-6f0c::3", {})
    'GPU-6f0c'
    >>> device_uuid("nvidia0/gi3/vgpu1", {"nvidia0/gi3": "MIG-77"})
    'MIG-77'
    """
    plain = _GKE_REPLICA.sub("", _REPLICA.sub("", device))
    if plain.startswith(("GPU-", "MIG-")):
        return plain
    return devices.get(plain)


def owner_of(pod: Pod, ray_job: str = "") -> Owner:
    """Who a pod works for, by its labels; its job is the Ray job where no label names one."""
    named = next((pod.labels[label] for label in JOBS if pod.labels.get(label)), "")
    # A cluster of Ray's may run one job after another: the one that a process names says more.
    is_cluster_only = named == pod.labels.get("ray.io/cluster")
    return Owner(
        namespace=pod.namespace,
        pod=pod.name,
        job=ray_job if ray_job and (is_cluster_only or not named) else named,
        team=pod.labels.get(TEAM, ""),
        project=pod.labels.get(PROJECT, ""),
        model=pod.labels.get(MODEL, ""),
    )


@dataclass(slots=True)
class _Part:
    """What one owner's processes on a GPU do, together."""

    utilisation_fraction: float | None = None
    memory_bytes: int | None = None
    hides_memory: bool = False  # one of them does not tell

    def add(self, process: GpuProcess) -> None:
        if process.utilisation_fraction is not None:
            self.utilisation_fraction = (
                self.utilisation_fraction or 0.0
            ) + process.utilisation_fraction
        if process.memory_bytes is not None:
            self.memory_bytes = (self.memory_bytes or 0) + process.memory_bytes
        else:
            self.hides_memory = True


class _Look:
    """What is known, the way it is looked up."""

    def __init__(self, known: Known) -> None:
        self._by_name = {(pod.namespace, pod.name): pod for pod in known.pods}
        self._by_uid = {pod.uid: pod for pod in known.pods}
        self._origins = known.origins
        self._holders: dict[str, dict[tuple[str, str], Pod]] = {}
        for pod in known.held:
            for uuid in _held_by(pod, known):
                self._hold(uuid, pod)

    def _hold(self, uuid: str, held: PodDevices) -> None:
        """The kubelet lists pods that have ended for a while: they hold nothing any more."""
        key = held.namespace, held.name
        pod = self._by_name.get(key) or Pod(namespace=held.namespace, name=held.name, uid="")
        if not pod.has_ended:
            self._holders.setdefault(uuid, {})[key] = pod

    def shares(self, sample: GpuSample) -> Iterator[Share]:
        holders = self._holders.get(sample.uuid, {})
        parts = self._parts(sample, holders)
        if not holders and set(parts) <= {NOBODY}:
            return
        fractions, basis = _split(parts)
        for owner in sorted(parts, key=_order):
            yield Share(
                uuid=sample.uuid,
                owner=owner,
                share_fraction=fractions[owner],
                basis=basis,
                utilisation_fraction=_capped(parts[owner].utilisation_fraction),
                memory_used_bytes=parts[owner].memory_bytes,
            )

    def _parts(
        self, sample: GpuSample, holders: Mapping[tuple[str, str], Pod]
    ) -> dict[Owner, _Part]:
        """What each owner's processes do; a holder without processes has its part too."""
        parts: dict[Owner, _Part] = {}
        present: set[tuple[str, str] | None] = set()
        for process in _processes(sample):
            holder, owner = self._whose(process, holders)
            present.add(holder)
            parts.setdefault(owner, _Part()).add(process)
        for key, pod in holders.items():
            if key not in present:
                parts.setdefault(owner_of(pod), _Part())
        return parts

    def _whose(
        self, process: GpuProcess, holders: Mapping[tuple[str, str], Pod]
    ) -> tuple[tuple[str, str] | None, Owner]:
        origin = self._origins.get(process.pid, Origin())
        pod = self._by_uid.get(origin.cgroup.pod_uid) if origin.cgroup.pod_uid else None
        key = (pod.namespace, pod.name) if pod else None
        if len(holders) == 1 and key not in holders:
            # The only holder answers for its GPU, and for processes that hide from us.
            ((key, pod),) = holders.items()
        if pod is not None and (not holders or key in holders):
            return key, owner_of(pod, origin.ray_job)
        if not holders and not origin.cgroup.pod_uid:
            return None, Owner(job=origin.ray_job)
        return None, NOBODY


def _held_by(pod: PodDevices, known: Known) -> set[str]:
    found: set[str | None] = set()
    for container in pod.containers:
        found.update(device_uuid(device, known.devices) for _, device in container.devices)
        found.update(_claimed_uuid(device, known) for device in container.claimed)
    return {uuid for uuid in found if uuid is not None}


def _claimed_uuid(device: ClaimedDevice, known: Known) -> str | None:
    return known.claimed.get((device.pool, device.device))


def _processes(sample: GpuSample) -> tuple[GpuProcess, ...]:
    if sample.processes is not None:
        return sample.processes
    return tuple(GpuProcess(pid=pid) for pid in sample.pids or ())


def _split(parts: Mapping[Owner, _Part]) -> tuple[dict[Owner, float], Basis]:
    if len(parts) == 1:
        return dict.fromkeys(parts, 1.0), Basis.WHOLE
    # The driver leaves processes that did nothing out: without a figure, SM time is 0.
    work = {owner: part.utilisation_fraction or 0.0 for owner, part in parts.items()}
    if (total := sum(work.values())) > 0:
        return {owner: amount / total for owner, amount in work.items()}, Basis.SM
    memory = {owner: part.memory_bytes or 0 for owner, part in parts.items()}
    if (held := sum(memory.values())) > 0 and not any(p.hides_memory for p in parts.values()):
        return {owner: amount / held for owner, amount in memory.items()}, Basis.MEMORY
    # Whoever is unknown and unmeasured takes nothing from those who hold the GPU.
    named = [owner for owner in parts if owner != NOBODY]
    return {owner: 1 / len(named) if owner in named else 0.0 for owner in parts}, Basis.EQUAL


def _capped(fraction: float | None) -> float | None:
    """Each process's figure is of a moment of its own: together they may pass the whole."""
    return None if fraction is None else min(fraction, 1.0)


def _order(owner: Owner) -> tuple[str, ...]:
    return (owner.namespace, owner.pod, owner.job, owner.team)
