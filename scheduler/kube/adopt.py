"""Workloads that people wrote for others, planned as they are: suspended Jobs, JobSets, RayJobs and
RayServices with the label ``flopwise.dev/queue``.

A workload becomes a GpuJob of the kind *task*: a replica a pod that asks for GPUs. What its
manifest cannot say, annotations do: ``flopwise.dev/`` and the path of a GpuJob's field
(`ANNOTATIONS`); lists are separated by commas. ``flopwise.dev/hours.<accelerator>`` is how long it
runs there, ``flopwise.dev/hours`` the same everywhere; where neither stands, its deadline counts,
else `Assumed.hours`.

What its owner pinned holds: nodes that its node selector, its node affinity and its tolerations do
not admit are not offered to it. A workload with a queue of Kueue's, and one that was never
suspended, are left alone.

To run, it is pinned and released by one patch, which fails where somebody has changed it since it
was read. What it said before stands in the annotation ``flopwise.dev/pinned``, so that it can be
pinned anew after it was suspended. JobSets take no node affinity once they exist: on one node they
are pinned by node selector; on several their pods come gated, and each is pinned as it comes
(`pin_pod`). Of a RayService the clusters that it has are `outdated` then, and have to be deleted.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cost_models.names import nearest
from planner.manifests.errors import Fault, found
from planner.manifests.read import of_object
from planner.manifests.schema import API_VERSION, GpuJob
from scheduler.kube import quantities
from scheduler.kube.affinity import Taint, admits, pinned, tolerates, with_tolerations
from scheduler.kube.api import Raw
from scheduler.kube.names import (
    ATTEMPT,
    DRAIN,
    GPU,
    GPU_SHARED,
    GROUP,
    HOSTNAME,
    IDLE,
    JOB,
    JOB_SETS,
    JOBS,
    KUEUE_QUEUE,
    LABEL_CHARACTERS,
    MIG_PREFIX,
    PINNED,
    PROJECT,
    QUEUE,
    RAY_JOBS,
    RAY_SERVICES,
    RECORD,
    RESOURCES,
    TEAM,
    Resource,
    label_value,
)
from scheduler.kube.observe import Fleet, Machine, profile_of

GIB = 2**30
KINDS = (JOBS, JOB_SETS, RAY_JOBS, RAY_SERVICES)
_ENDINGS = frozenset(each.kind.lower() for each in KINDS)
GATE = "flopwise.dev/placement"
_OURS = (ATTEMPT, DRAIN, IDLE, PINNED, RECORD)
_GPU_TAINT_KEY = GPU  # tolerated for them, as GPU clusters do by admission


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _truth(text: str) -> object:
    return {"true": True, "false": False}.get(text.strip().lower(), text)


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _count(text: str) -> object:
    try:
        return int(text)
    except ValueError:
        return text


ANNOTATIONS: Mapping[str, Callable[[str], object]] = {
    "priority": _count,
    "required": _truth,
    "earliestStart": str,
    "deadline": str,
    "due": str,
    "latenessUsdPerHour": _number,
    "unplacedUsd": _number,
    "maxCostUsd": _number,
    "preemptible": _truth,
    "checkpoint.intervalSeconds": _count,
    "checkpoint.saveSeconds": _number,
    "checkpoint.restartSeconds": _number,
    "checkpoint.switches": _count,
    "placement.jurisdictions": _list,
    "placement.accelerators": _list,
    "placement.pools": _list,
    "placement.near": str,
    "placement.maxLatencyMs": _number,
    "placement.dataGib": _number,
    "placement.together.level": str,
    "placement.together.required": _truth,
    "placement.spread.level": str,
    "task.gpuMemoryGib": _number,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What is taken for granted where a workload does not say it."""

    hours: float = 1.0
    service_hours: float = 8760.0  # a RayService has no end of its own
    priorities: Mapping[str, int] | None = None  # by PriorityClass


NOTHING_SAID = Assumed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A workload as a job."""

    job: GpuJob  # called <workload>.<kind>
    resource: Resource
    name: str
    uid: str
    nodes: tuple[str, ...]  # of its pools, that it may run on; empty: all of them
    hours_assumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """A workload with our label that is left alone, and why."""

    place: str  # Job ml/train
    reason: str  # Kueue | NotSuspended | NoGpus | Uneven | NoNodes | Invalid
    message: str
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A pod template of a workload, and how many pods are made of it."""

    count: int
    template: Raw  # the workload's own, not a copy

    @property
    def spec(self) -> Raw:
        spec: Raw = self.template.setdefault("spec", {})
        return spec


class Places:
    """The nodes of a fleet, as workloads are let onto them. Thousands of workloads say the same, so
    that what was asked once is kept."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._known: dict[str, Mapping[str, tuple[str, ...]]] = {}

    def allowed(self, specs: Sequence[Raw]) -> Mapping[str, tuple[str, ...]]:
        """By pool, the nodes that all these pods may go to; pools without any are left out."""
        fields = ("affinity", "nodeName", "nodeSelector", "tolerations")
        key = json.dumps([[spec.get(field) for field in fields] for spec in specs], sort_keys=True)
        if key not in self._known:
            found = {
                pool: tuple(m.name for m in machines if all(_may(spec, m) for spec in specs))
                for pool, machines in sorted(self.fleet.machines.items())
            }
            self._known[key] = {pool: nodes for pool, nodes in found.items() if nodes}
        return self._known[key]


def adopt(
    raw: Raw, places: Places, assumed: Assumed = NOTHING_SAID, *, looks_on: bool = False
) -> Adopted | Declined | None:
    """The workload as a job; why it is left alone; or None where it is nothing to us.

    ``looks_on``: nothing is done to it, so that whoever runs it may, Kueue too.
    """
    metadata = raw["metadata"]
    labels = metadata.get("labels") or {}
    if QUEUE not in labels:
        return None
    place = f"{raw['kind']} {metadata.get('namespace', 'default')}/{metadata['name']}"
    if not looks_on and (declined := _not_ours(raw, place)) is not None:
        return declined
    written = _unpinned(raw) if PINNED in (metadata.get("annotations") or {}) else raw
    parts = [part for part in _parts(written) if _gpus(part)]
    shape = _shape(parts, places.fleet)
    if isinstance(shape, str):
        reason = "Uneven" if parts else "NoGpus"
        return Declined(place=place, reason=reason, message=shape)
    return _as_job(raw, place, parts, shape, places, assumed)


def _not_ours(raw: Raw, place: str) -> Declined | None:
    """Why it could not be carried out, whatever it asks for."""
    metadata = raw["metadata"]
    notes = metadata.get("annotations") or {}
    if KUEUE_QUEUE in (metadata.get("labels") or {}) or KUEUE_QUEUE in notes:
        return Declined(place=place, reason="Kueue", message="it is in a queue of Kueue's")
    if not is_suspended(raw) and PINNED not in notes:
        message = "it was never suspended, and runs already; allowed: created with suspend: true"
        return Declined(place=place, reason="NotSuspended", message=message)
    if raw["kind"] == RAY_JOBS.kind and not raw["spec"].get("shutdownAfterJobFinishes"):
        message = (
            "spec.shutdownAfterJobFinishes: found false, allowed: true (KubeRay suspends no other)"
        )
        return Declined(place=place, reason="Invalid", message=message)
    return None


def is_suspended(raw: Raw) -> bool:
    """Whether its controller keeps the workload from running."""
    if raw["kind"] == RAY_SERVICES.kind:
        return bool((raw["spec"].get("rayClusterConfig") or {}).get("suspend"))
    return bool(raw["spec"].get("suspend"))


# -- reading ---------------------------------------------------------------------------------------


def _parts(raw: Raw) -> list[_Part]:
    """The pod templates of a workload."""
    spec = raw["spec"]
    if raw["kind"] == JOBS.kind:
        return [_Part(count=_parallelism(spec), template=spec["template"])]
    if raw["kind"] == JOB_SETS.kind:
        return [
            _Part(
                count=int(each.get("replicas", 1)) * _parallelism(each["template"]["spec"]),
                template=each["template"]["spec"]["template"],
            )
            for each in spec["replicatedJobs"]
        ]
    cluster = spec.get("rayClusterSpec" if raw["kind"] == RAY_JOBS.kind else "rayClusterConfig")
    if not cluster:
        return []
    return [
        _Part(count=1, template=cluster["headGroupSpec"]["template"]),
        *(
            _Part(
                count=int(each.get("replicas", 0)) * int(each.get("numOfHosts", 1)),
                template=each["template"],
            )
            for each in cluster.get("workerGroupSpecs") or ()
        ),
    ]


def _parallelism(spec: Raw) -> int:
    """Pods of a Job at once."""
    parallelism = int(spec.get("parallelism", 1))
    return min(parallelism, int(spec.get("completions") or parallelism))


def _gpus(part: _Part) -> Counter[str]:
    """What a pod asks for of GPUs, by resource."""
    asked = quantities.requests(part.spec)
    ours = (name for name in asked if name in (GPU, GPU_SHARED) or name.startswith(MIG_PREFIX))
    return Counter({name: asked[name] for name in ours if asked[name]})


def _shape(parts: Sequence[_Part], fleet: Fleet) -> dict[str, object] | str:
    """The fields of the task that the pods are, or why they are none."""
    asked = {tuple(sorted(_gpus(part).items())) for part in parts}
    if not asked:
        return "no pod of it asks for a GPU"
    kinds = [f"{count} {name}" for each in sorted(asked) for name, count in each]
    if len(asked) > 1 or len(kinds) > 1:
        return f"found pods of {' and '.join(kinds)}, allowed: one kind, the same number each"
    ((resource, count),) = asked.pop()
    size = _size(resource, count, fleet)
    if isinstance(size, str):
        return size
    needs = [quantities.requests(part.spec) for part in parts]
    return {
        "replicas": sum(part.count for part in parts),
        **size,
        "cpus": max(each["cpu"] for each in needs) / 1000,
        "memoryGib": max(each["memory"] for each in needs) / GIB,
    }


def _size(resource: str, count: int, fleet: Fleet) -> dict[str, object] | str:
    """GPUs of a replica: whole ones, a share of one, or an instance."""
    if resource.startswith(MIG_PREFIX):
        if count > 1:
            return f"found {count} {resource} a pod, allowed: 1"
        return {"migProfile": profile_of(resource)}
    if resource == GPU_SHARED:
        shares = [m.shares for found in fleet.machines.values() for m in found if m.shares > 1]
        part = count / min(shares, default=1)
        return {"gpuFraction": part} if part < 1 else {"gpus": round(part)}
    return {"gpus": count}


def _as_job(
    raw: Raw,
    place: str,
    parts: Sequence[_Part],
    shape: dict[str, object],
    places: Places,
    assumed: Assumed,
) -> Adopted | Declined:
    metadata, fleet = raw["metadata"], places.fleet
    faults: list[Fault] = []
    spec = _annotated(metadata.get("annotations") or {}, place, faults)
    hours, hours_assumed = _hours(raw, fleet, assumed, place, faults)
    task = {**(spec.pop("task", None) or {}), **shape, "hours": hours}
    spec = {"queue": metadata["labels"][QUEUE], **spec, "task": task}
    spec.setdefault("priority", _priority(parts, assumed))
    allowed = places.allowed([part.spec for part in parts])
    placement = spec.setdefault("placement", {})
    wanted = placement.get("pools") or sorted(fleet.machines)
    if not (pools := [pool for pool in wanted if pool in allowed]):
        message = (
            f"no node of {', '.join(wanted) or 'any pool'} admits its pods: "
            "their node selector, node affinity, or a taint that they do not tolerate"
        )
        return Declined(place=place, reason="NoNodes", message=message)
    placement["pools"] = pools
    job = of_object(_object(raw, spec))
    if faults or not isinstance(job, GpuJob):
        broken = job if isinstance(job, tuple) else ()
        all_of_them = (
            *faults,
            *(Fault(place=place, path=f.path, message=f.message) for f in broken),
        )
        message = "; ".join(f"{f.path}: {f.message}" for f in all_of_them)
        return Declined(place=place, reason="Invalid", message=message, faults=all_of_them)
    return Adopted(
        job=job,
        resource=RESOURCES[raw["apiVersion"], raw["kind"]],
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        nodes=_restricted(pools, allowed, fleet),
        hours_assumed=hours_assumed,
    )


def _restricted(
    pools: Sequence[str], allowed: Mapping[str, tuple[str, ...]], fleet: Fleet
) -> tuple[str, ...]:
    """The nodes, where they are not all that the pools have."""
    if all(len(allowed[pool]) == len(fleet.machines[pool]) for pool in pools):
        return ()
    return tuple(sorted(node for pool in pools for node in allowed[pool]))


def _object(raw: Raw, spec: Raw) -> Raw:
    metadata = raw["metadata"]
    labels = metadata.get("labels") or {}
    return {
        "apiVersion": API_VERSION,
        "kind": "GpuJob",
        "metadata": {
            "name": adopted_name(raw),
            "namespace": metadata.get("namespace", "default"),
            "labels": {key: labels[key] for key in (QUEUE, TEAM, PROJECT) if key in labels},
        },
        "spec": spec,
    }


def adopted_name(raw: Raw) -> str:
    """What the job is called: ``train.rayjob``, so that no two kinds are in one another's way."""
    return _joined(raw, ".")


def adopted_label(raw: Raw) -> str:
    """The same as its pods' label has it: ``train_rayjob``, which no GpuJob can be called."""
    return _joined(raw, "_")


def adopted_key(raw: Raw) -> str:
    """The same where GpuJobs are beside it: ``ml/train:rayjob``."""
    return f"{raw['metadata'].get('namespace', '')}/{_joined(raw, ':')}"


def key_of_name(namespace: str, name: str) -> str:
    """The key of the adopted job of that name; empty where none can be called so.

    >>> key_of_name("ml", "train.rayjob"), key_of_name("ml", "train.v2")
    ('ml/train:rayjob', '')
    """
    stem, _, kind = name.rpartition(".")
    return f"{namespace}/{stem}:{kind}" if stem and kind in _ENDINGS else ""


def _joined(raw: Raw, by: str) -> str:
    kind = raw["kind"].lower()
    room = LABEL_CHARACTERS - len(kind) - 1
    return f"{label_value(raw['metadata']['name'], room)}{by}{kind}"


def _annotated(annotations: Mapping[str, str], place: str, faults: list[Fault]) -> Raw:
    """The spec that the annotations say; what is none of ours is a fault."""
    spec: Raw = {}
    for key, text in sorted(annotations.items()):
        group, _, path = key.partition("/")
        if group != GROUP or key in _OURS or path == "hours" or path.startswith("hours."):
            continue
        if path not in ANNOTATIONS:
            near = nearest(path, ANNOTATIONS) or tuple(ANNOTATIONS)
            message = f"unknown annotation, nearest: {', '.join(near)}"
            faults.append(Fault(place=place, path=f"metadata.annotations[{key}]", message=message))
            continue
        *parents, leaf = path.split(".")
        at = spec
        for step in parents:
            at = at.setdefault(step, {})
        at[leaf] = ANNOTATIONS[path](text)
    return spec


def _hours(
    raw: Raw, fleet: Fleet, assumed: Assumed, place: str, faults: list[Fault]
) -> tuple[dict[str, float], bool]:
    """Hours by accelerator, and whether nobody said them."""
    annotations = raw["metadata"].get("annotations") or {}
    prefix = f"{GROUP}/hours."
    stated = {key: text for key, text in annotations.items() if key.startswith(prefix)}
    everywhere = annotations.get(f"{GROUP}/hours")
    hours: dict[str, float] = {}
    if everywhere is not None or not stated:
        key = f"{GROUP}/hours"
        each = _positive(everywhere, key, place, faults) if everywhere is not None else None
        each = each or _assumed_hours(raw, assumed)
        hours = {pool.spec.accelerator: each for pool in fleet.pools}
    for key, text in sorted(stated.items()):
        value = _positive(text, key, place, faults)
        if value is not None:
            hours[key.removeprefix(prefix)] = value
    return hours, everywhere is None and not stated


def _positive(text: str, key: str, place: str, faults: list[Fault]) -> float | None:
    value = _number(text)
    if isinstance(value, float) and 0 < value < float("inf"):
        return value
    message = f"found {found(text)}, allowed: a number above 0"
    faults.append(Fault(place=place, path=f"metadata.annotations[{key}]", message=message))
    return None


def _assumed_hours(raw: Raw, assumed: Assumed) -> float:
    if raw["kind"] == RAY_SERVICES.kind:
        return assumed.service_hours
    deadline = raw["spec"].get("activeDeadlineSeconds")
    return int(deadline) / 3600 if deadline else assumed.hours


def _priority(parts: Sequence[_Part], assumed: Assumed) -> int:
    """Of the pods' PriorityClass; 0 where it is not known."""
    known = assumed.priorities or {}
    return max(known.get(part.spec.get("priorityClassName", ""), 0) for part in parts)


def _may(pod_spec: Raw, machine: Machine) -> bool:
    """Whether its owner lets a pod onto the machine."""
    barred = (taint for taint in machine.taints if taint.key != _GPU_TAINT_KEY)
    return admits(pod_spec, machine.name, machine.labels) and all(
        tolerates(pod_spec, taint) for taint in barred
    )


# -- pinning, releasing, suspending ----------------------------------------------------------------


def release(
    raw: Raw, hostnames: Sequence[str], taints: Sequence[Taint] = (), *, job: str = ""
) -> Raw:
    """The merge patch that pins a suspended workload to nodes and lets it run, in one.

    ``hostnames``: by their label ``kubernetes.io/hostname``; ``taints``: of these nodes; ``job``:
    what its pods are to be labelled as.
    """
    patch = pin(raw, hostnames, taints, job=job)
    _deep(patch["spec"], _suspended(raw, value=False))
    return patch


def pin(raw: Raw, hostnames: Sequence[str], taints: Sequence[Taint] = (), *, job: str = "") -> Raw:
    """The merge patch that pins a suspended workload to nodes, and leaves it suspended."""
    plain = _unpinned(raw)
    before = [_scheduling(part.template) for part in _parts(plain)]
    for part in _parts(plain):
        labels = part.template.setdefault("metadata", {}).setdefault("labels", {})
        labels[JOB] = label_value(job) if job else adopted_label(raw)
        if _gpus(part):
            _pin_template(part.spec, raw["kind"], hostnames, taints)
    return {
        "metadata": {
            "resourceVersion": raw["metadata"].get("resourceVersion", ""),
            "annotations": {PINNED: json.dumps(before, sort_keys=True)},
        },
        "spec": _changed(raw, plain),
    }


def suspend(raw: Raw) -> Raw:
    """The merge patch that stops a workload; where it was pinned stays until it is pinned anew."""
    return {"spec": _suspended(raw, value=True)}


def outdated(raw: Raw, clusters: Sequence[Raw]) -> tuple[str, ...]:
    """RayClusters of a RayService to delete once it was released or suspended.

    KubeRay makes a service's cluster as the service says, and does not change whether one that is
    there is suspended; deleted, it makes it anew.
    """
    wanted = is_suspended(raw)
    return tuple(
        sorted(
            each["metadata"]["name"]
            for each in clusters
            if any(
                owner.get("uid") == raw["metadata"].get("uid")
                for owner in each["metadata"].get("ownerReferences") or ()
            )
            and bool(each["spec"].get("suspend")) != wanted
        )
    )


def forget_start() -> Raw:
    """The merge patch of the status of a Job that was suspended: the API server lets it be pinned
    anew only as if it had never run."""
    return {"status": {"startTime": None}}


def pin_pod(pod: Raw, hostname: str) -> Raw:
    """The merge patch that sends a gated pod to a node, and opens its gate."""
    gates = [g for g in pod["spec"].get("schedulingGates") or () if g["name"] != GATE]
    return {"spec": {"nodeSelector": {HOSTNAME: hostname}, "schedulingGates": gates or None}}


def gated(pods: Sequence[Raw]) -> tuple[Raw, ...]:
    """Those that wait for `pin_pod`, by name."""
    waiting = (
        pod
        for pod in pods
        if any(gate["name"] == GATE for gate in pod["spec"].get("schedulingGates") or ())
    )
    return tuple(sorted(waiting, key=lambda pod: str(pod["metadata"]["name"])))


def _suspended(raw: Raw, *, value: bool) -> Raw:
    if raw["kind"] == RAY_SERVICES.kind:
        return {"rayClusterConfig": {"suspend": value}}
    return {"suspend": value}


def _pin_template(spec: Raw, kind: str, hostnames: Sequence[str], taints: Sequence[Taint]) -> None:
    needed = (Taint(key=GPU), *taints)
    spec["tolerations"] = with_tolerations(spec.get("tolerations"), needed)
    if kind != JOB_SETS.kind:
        spec["affinity"] = pinned(spec.get("affinity"), hostnames)
    elif len(set(hostnames)) == 1:
        spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), HOSTNAME: hostnames[0]}
    else:
        spec["schedulingGates"] = [*(spec.get("schedulingGates") or ()), {"name": GATE}]


def _scheduling(template: Raw) -> Raw:
    """What pinning changes of a template's spec."""
    spec = template.get("spec") or {}
    fields = ("affinity", "nodeSelector", "schedulingGates", "tolerations")
    return {field: spec[field] for field in fields if field in spec}


def _unpinned(raw: Raw) -> Raw:
    """A copy of the workload as its owner wrote it."""
    made = copy.deepcopy(raw)
    before = (raw["metadata"].get("annotations") or {}).get(PINNED)
    if before is None:
        return made
    for part, stated in zip(_parts(made), json.loads(before), strict=False):
        for field in ("affinity", "nodeSelector", "schedulingGates", "tolerations"):
            part.spec.pop(field, None)
        part.spec.update(stated)
    return made


def _changed(raw: Raw, made: Raw) -> Raw:
    """The part of ``made``'s spec that pinning may change, as a merge patch over ``raw``."""
    if raw["kind"] == JOBS.kind:
        old, new = raw["spec"]["template"], made["spec"]["template"]
        spec = _difference(_scheduling(old), _scheduling(new))
        labels = new["metadata"]["labels"]
        return {"template": {"metadata": {"labels": {JOB: labels[JOB]}}, "spec": spec}}
    if raw["kind"] == JOB_SETS.kind:
        return {"replicatedJobs": made["spec"]["replicatedJobs"]}
    field = "rayClusterSpec" if raw["kind"] == RAY_JOBS.kind else "rayClusterConfig"
    cluster = made["spec"][field]
    head = _difference(
        _scheduling(raw["spec"][field]["headGroupSpec"]["template"]),
        _scheduling(cluster["headGroupSpec"]["template"]),
    )
    labels = cluster["headGroupSpec"]["template"]["metadata"]["labels"]
    template = {"metadata": {"labels": {JOB: labels[JOB]}}, "spec": head}
    changed: Raw = {"headGroupSpec": {"template": template}}
    if cluster.get("workerGroupSpecs"):
        changed["workerGroupSpecs"] = cluster["workerGroupSpecs"]
    return {field: changed}


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Raw:
    """A merge patch from ``old`` to ``new``: what is not there any more is null."""
    made: Raw = {key: None for key in old if key not in new}
    for key, value in new.items():
        known = old.get(key)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            if inner := _difference(known, value):
                made[key] = inner
        elif value != known:
            made[key] = value
    return made


def _deep(base: Raw, top: Mapping[str, Any]) -> None:
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _deep(base[key], value)
        else:
            base[key] = value
