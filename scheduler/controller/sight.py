"""What the API server tells, as values: the fleet, the queues, the jobs, and the workloads of jobs.

Raw objects come in one by one (`Sight.take`); what follows of them for a state comes out as events.
A job is a GpuJob, or a workload of somebody else's that carries our queue label
(`scheduler.kube.adopt`); its key is ``namespace/name``, or ``namespace/name:kind``, as no name has
a colon. The workload of a GpuJob is the object that it owns. Nothing here asks or writes anything.

A node that has not been ready for `Settings.node_lost_seconds` is taken to be gone, with all on it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from cost_models.calibration import NONE, Calibration
from planner.fleet import queue_of, usd_per_gpu_hour
from planner.manifests.errors import Fault
from planner.manifests.read import of_object
from planner.manifests.schema import GpuJob, GpuPool, GpuQueue
from planner.near import Near, UnknownPlace
from planner.options import Place, place_of
from planner.problem import Demand, Grid, Job
from planner.question import job_on
from scheduler.controller.actions import (
    OVER,
    Being,
    Places,
    Record,
    Status,
    Workload,
    recalled,
)
from scheduler.controller.onlook import Onlook
from scheduler.controller.quotas import misplaced
from scheduler.controller.state import (
    Event,
    FleetChanged,
    JobArrived,
    JobChanged,
    JobDeleted,
    Phase,
    QueueRules,
    QueuesChanged,
    State,
    Tracked,
)
from scheduler.controller.told import read_placed, read_record, read_status
from scheduler.kube import adopt, names, phases, workloads
from scheduler.kube.adopt import Adopted, Declined
from scheduler.kube.adopt import Places as Adopting
from scheduler.kube.holders import Holders
from scheduler.kube.names import (
    ATTEMPT,
    DRAIN,
    GPU_JOBS,
    GROUP,
    IDLE,
    QUEUE,
    RECORD,
    Resource,
    label_value,
)
from scheduler.kube.observe import Fleet, Machine, fleet, is_ours, machines
from scheduler.kube.quantities import ENDED

Raw = dict[str, Any]
Handle = tuple[str, str]  # plural, key

BEINGS = {
    phases.Phase.SUSPENDED: Being.HELD,
    phases.Phase.LAUNCHING: Being.RELEASED,
    phases.Phase.RUNNING: Being.WORKING,
    phases.Phase.STOPPING: Being.LEAVING,
    phases.Phase.SUCCEEDED: Being.SUCCEEDED,
    phases.Phase.FAILED: Being.FAILED,
}
WORKLOADS: Mapping[str, Resource] = {
    each.plural: each
    for each in (
        *(names.RAY_JOBS, names.RAY_SERVICES, names.RAY_CLUSTERS),
        *(names.JOBS, names.JOB_SETS),
    )
}
_FLEET = (
    names.NODES.plural,
    names.PODS.plural,
    names.RESOURCE_SLICES.plural,
    names.GPU_POOLS.plural,
)
FLEET_SECONDS = 0.25  # the fleet is worked out anew this often at most
NO_FLEET = Fleet(pools=(), machines={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How what is seen is read."""

    node_lost_seconds: float = 60.0  # not ready for so long, a node is gone
    notice_seconds: float = 30.0  # `scheduler.controller.state.Settings` has the same
    looks_on: bool = False  # nothing is done to workloads: whoever runs them does


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A job as its object says it is."""

    key: str
    manifest: GpuJob
    resource: Resource  # of the object that states it
    name: str
    uid: str
    generation: int
    arrived: datetime
    label: str  # of its pods, in their namespace its own
    pinned: tuple[str, ...] = ()
    adopted: bool = False

    @property
    def labelled(self) -> str:
        """The label, with the namespace."""
        return f"{self.manifest.metadata.namespace}/{self.label}"


class _Keys(dict[tuple[str, str], str]):
    """(namespace, name) to a job's key, as one job's manifest means it, whether it is there or not.

    A name that ends in a kind is that of the GpuJob called so where there is one, else that of a
    workload: ``doubtful`` is told of each.
    """

    def __init__(
        self, of: Known, gpu_jobs: Container[str], doubtful: Callable[[str], None]
    ) -> None:
        metadata = of.manifest.metadata
        super().__init__({(metadata.namespace, metadata.name): of.key})
        self._gpu_jobs, self._doubtful = gpu_jobs, doubtful

    def __missing__(self, key: tuple[str, str]) -> str:
        plain = f"{key[0]}/{key[1]}"
        adopted = adopt.key_of_name(*key)
        if adopted:
            self._doubtful(plain)
        return adopted if adopted and plain not in self._gpu_jobs else plain


class Sight:
    """All that was seen. One thread uses it."""

    def __init__(
        self, settings: Settings | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings or Settings()
        self.raw: defaultdict[str, dict[str, Raw]] = defaultdict(dict)
        self.known: dict[str, Known] = {}
        self._departed: dict[str, Known] = {}  # whose object is gone, and its workload is not yet
        self.workloads: dict[str, Workload] = {}
        self.carriers: dict[str, Handle] = {}  # the object of each job's workload
        self._job_of: dict[Handle, str] = {}  # and back
        self.fleet = NO_FLEET
        self.lost: frozenset[str] = frozenset()
        self.faults: dict[Handle, str] = {}  # objects that are left alone, and why
        self.remarks: dict[str, str] = {}  # on pools that are used all the same: "GpuPool a"
        self.changed: set[str] = set()  # jobs whose workload is another than it was
        self._clock = clock
        self._fleet_at = -1e9
        self._fleet_changed = False
        self._queues_changed = False
        self._classes_changed = False
        self._assumed = adopt.NOTHING_SAID
        self._objects: dict[Handle, None] = {}  # jobs and workloads to look at, in order
        self._owned: dict[str, set[Handle]] = defaultdict(set)  # by uid of the GpuJob
        self._pods: dict[str, set[str]] = defaultdict(set)  # of Rays of ours, by their label
        self._labelled: dict[str, str] = {}  # a job's label to the job
        self._doubtful: dict[str, set[str]] = defaultdict(set)  # of GpuJobs: who may wait for them
        self._words: dict[str, str] = {}  # Ray's own, of a job, where KubeRay has none
        self._away: dict[str, float] = {}  # since when a node is not ready
        self.onlook = Onlook() if self.settings.looks_on else None
        self._signature: object = None
        self._places: tuple[Place, ...] = ()
        self._near = Near(())
        self._calibration = NONE
        self._bad: Mapping[str, str] = {}  # nodes that get nothing new, and why
        self._adopting = Adopting(NO_FLEET)

    # -- taking in ---------------------------------------------------------------------------------

    def take(self, plural: str, key: str, raw: Raw | None) -> None:
        """An object is now so, or is no more."""
        objects = self.raw[plural]
        old = objects.get(key)
        if raw is None:
            if objects.pop(key, None) is None:
                return
        elif old == raw or (old is not None and _version(raw) < _version(old)):
            return
        else:
            objects[key] = raw
        if plural == names.PODS.plural and is_ours(raw or old or {"metadata": {}}):
            self._pod(key, raw, old)
        elif plural in _FLEET:
            self._fleet_changed = True
        elif plural == names.GPU_QUEUES.plural:
            self._queues_changed = True
        elif plural == names.PRIORITY_CLASSES.plural:
            self._classes_changed = True
        else:
            self._index(plural, key, raw if raw is not None else old, there=raw is not None)
            self._fleet_changed |= self.settings.looks_on  # whose pods are whose may be another

    def _pod(self, key: str, raw: Raw | None, old: Raw | None) -> None:
        """A pod of ours comes, ends or goes: that may be the last of a Ray that was stopped."""
        metadata = (raw or old or {})["metadata"]
        label = f"{metadata.get('namespace', '')}/{metadata['labels'][names.JOB]}"
        ended = raw is None or raw["status"]["phase"] in ENDED
        ended = ended or (raw or {})["spec"].get("nodeName") in self.lost
        (self._pods[label].discard if ended else self._pods[label].add)(key)
        if not self._pods[label]:
            del self._pods[label]
        if (handle := self.carriers.get(self._labelled.get(label, ""))) is not None:
            self._objects[handle] = None

    def hear(self, name: str, word: str) -> None:
        """How Ray says that a job does; what has ended stays so."""
        if word and self._words.get(name) != word and name in self.carriers:
            self._words[name] = word
            self._objects[self.carriers[name]] = None

    def _index(self, plural: str, key: str, raw: Raw | None, *, there: bool) -> None:
        self._objects[plural, key] = None
        uid = "" if raw is None else _owner_uid(raw)
        if uid:
            owned = self._owned[uid]
            (owned.add if there else owned.discard)((plural, key))
            if not owned:
                del self._owned[uid]

    def calibrate(self, calibration: Calibration) -> None:
        """From now on, what jobs are promised is corrected by what was measured."""
        if calibration != self._calibration:
            self._calibration, self._signature, self._fleet_changed = calibration, None, True

    def distrust(self, bad: Mapping[str, str]) -> None:
        """These nodes have GPUs out of order, and why: what runs there goes on, nothing begins."""
        if bad != self._bad:
            self._bad, self._fleet_changed = dict(bad), True

    def job_of_pod(self, namespace: str, job: str, pod: str) -> str:
        """The job that a pod is of, by its label of that name or by its name; or empty."""
        if found := self._labelled.get(f"{namespace}/{job}"):
            return found
        whose = [
            (len(key), name)
            for (_, key), name in self._job_of.items()
            if f"{namespace}/{pod}".startswith(f"{key}-")
        ]
        return max(whose, default=(0, ""))[1]

    @property
    def is_due(self) -> bool:
        """Whether there is something that a state has not been told of."""
        changed = self._objects or self._queues_changed or self._classes_changed
        return bool(changed or self._fleet_is_due())

    def _fleet_is_due(self) -> bool:
        now = self._clock()
        lost = any(
            now - since >= self.settings.node_lost_seconds and node not in self.lost
            for node, since in self._away.items()
        )
        return (self._fleet_changed or lost) and now - self._fleet_at >= FLEET_SECONDS

    # -- giving out --------------------------------------------------------------------------------

    def events(self, state: State, now: datetime) -> Iterator[Event]:
        """What a state is to be told, in order: fleet, queues, jobs."""
        if self._fleet_is_due():
            yield from self._fleet_events(state, now)
        if self._queues_changed:
            self._queues_changed = False
            yield QueuesChanged(at=now, queues=self._queues())
        if self._classes_changed:
            self._read_classes()
        due, self._objects = self._objects, {}
        ordered = sorted(due, key=lambda handle: handle[0] != GPU_JOBS.plural)
        for plural, key in ordered:
            raw = self.raw[plural].get(key)
            if plural == GPU_JOBS.plural:
                yield from self._of_job(key, raw, state, now)
            else:
                yield from self._of_workload(plural, key, raw, state, now)

    # -- the fleet ---------------------------------------------------------------------------------

    def _fleet_events(self, state: State, now: datetime) -> Iterator[Event]:
        self._fleet_changed, self._fleet_at = False, self._clock()
        pods = self.raw[names.PODS.plural].values()
        holders = Holders.of(self._looked_at())
        found = machines(
            self.raw[names.NODES.plural].values(),
            pods,
            self.raw[names.RESOURCE_SLICES.plural].values(),
            ours=lambda pod: is_ours(pod) or bool(holders.job_of(pod)),
        )
        if self.onlook is not None:
            self.onlook.see(pods, holders, found, now)
        self._lose(found)
        sound = [
            replace(each, away=each.away or self._bad.get(each.name, ""))
            for each in found
            if each.name not in self.lost
        ]
        self.fleet = fleet(sound, self._pools())
        self.remarks = {each.place: f"{each.path}: {each.message}" for each in self.fleet.faults}
        pools, nodes = self.fleet.on(state.grid)
        signature = (
            tuple(replace(pool, windows=()) for pool in pools),
            tuple(pool.windows[0].usd_per_node_hour if pool.windows else 0.0 for pool in pools),
            frozenset((m.name, m.taints, frozenset(m.labels.items())) for m in sound),
        )
        self._places = tuple(
            place_of(manifest, pool, self._calibration)
            for manifest, pool in zip(self.fleet.pools, pools, strict=True)
        )
        self._near = Near(self.fleet.pools)
        self._adopting = Adopting(self.fleet)
        if signature != self._signature:  # jobs have other ways to run now
            self._signature = signature
            self._look_again()
        if (pools, nodes) != (state.pools, state.nodes):
            yield FleetChanged(at=now, pools=pools, nodes=nodes)

    def _lose(self, found: tuple[Machine, ...]) -> None:
        now = self._clock()
        away = {m.name for m in found if m.away.startswith("not ready")}
        self._away = {name: self._away.get(name, now) for name in away}
        seconds = self.settings.node_lost_seconds
        self.lost = frozenset(n for n, since in self._away.items() if now - since >= seconds)

    def _pools(self) -> list[GpuPool]:
        pools = []
        for key, raw in self.raw[names.GPU_POOLS.plural].items():
            handle = names.GPU_POOLS.plural, key
            made = of_object(raw)
            if not isinstance(made, GpuPool):
                self.faults[handle] = _text(made)
            elif usd_per_gpu_hour(made.spec) is None:
                self.faults[handle] = (
                    "spec.price: found none, and the catalog has no offer; allowed: usdPerGpuHour"
                )
            else:
                self.faults.pop(handle, None)
                pools.append(made)
        return pools

    def _look_again(self) -> None:
        """At each job: it is drafted, or adopted, anew."""
        self.known = {key: replace(one, generation=-1) for key, one in self.known.items()}
        for plural in (GPU_JOBS.plural, *WORKLOADS):
            self._objects.update(dict.fromkeys((plural, key) for key in self.raw[plural]))

    def _queues(self) -> tuple[QueueRules, ...]:
        found = self._read_queues()
        wrong = misplaced({rules.queue.name: rules.queue.parent for rules in found})
        for name, why in wrong.items():
            self.faults[names.GPU_QUEUES.plural, f"/{name}"] = why
        return tuple(
            replace(rules, queue=replace(rules.queue, parent=""))
            if rules.queue.name in wrong
            else rules
            for rules in found
        )

    def _read_queues(self) -> list[QueueRules]:
        found = []
        for key, raw in sorted(self.raw[names.GPU_QUEUES.plural].items()):
            handle = names.GPU_QUEUES.plural, key
            made = of_object(raw)
            if not isinstance(made, GpuQueue):
                self.faults[handle] = _text(made)
                continue
            self.faults.pop(handle, None)
            rules = made.spec.preemption
            found.append(
                QueueRules(
                    queue=queue_of(made),
                    within_queue=rules.within_queue,
                    reclaim=rules.reclaim,
                    idle_seconds=made.spec.idle.after_seconds,
                    idle_action=made.spec.idle.action,
                )
            )
        return found

    def _read_classes(self) -> None:
        """What PriorityClasses are worth; where that has changed, workloads are adopted anew."""
        self._classes_changed = False
        found = {
            raw["metadata"]["name"]: int(raw.get("value") or 0)
            for raw in self.raw[names.PRIORITY_CLASSES.plural].values()
        }
        if found == self._assumed.priorities:
            return
        self._assumed = replace(self._assumed, priorities=found)
        for key, known in self.known.items():
            if known.adopted:
                self.known[key] = replace(known, generation=-1)
                self._objects[known.resource.plural, f"{key.partition('/')[0]}/{known.name}"] = None

    def _looked_at(self) -> Iterator[tuple[str, Raw]]:
        """Workloads of others that are looked at only, by their jobs."""
        if self.onlook is None:
            return
        for plural in WORKLOADS.keys() - {names.RAY_CLUSTERS.plural}:
            for key, raw in self.raw[plural].items():
                if QUEUE in _labels(raw) and (plural, key) not in self.faults:
                    yield adopt.adopted_key(raw), raw

    # -- jobs --------------------------------------------------------------------------------------

    def _of_job(self, key: str, raw: Raw | None, state: State, now: datetime) -> Iterator[Event]:
        handle = GPU_JOBS.plural, key
        if raw is None or key not in self.known:
            self._read_anew(self._doubtful.pop(key, ()))
        if raw is None:
            self.faults.pop(handle, None)
            yield from self._gone(key, now)
            return
        metadata = raw["metadata"]
        if not metadata.get("deletionTimestamp"):
            yield from self._stated(key, raw, state, now)
            return
        # Whoever holds it: what it has is to stop, also where it is seen for the first time.
        if key not in self.known and self._owned.get(metadata["uid"]):
            yield from self._stated(key, raw, state, now)
        self.faults.pop(handle, None)
        yield from self._gone(key, now)

    def _stated(self, key: str, raw: Raw, state: State, now: datetime) -> Iterator[Event]:
        handle, metadata = (GPU_JOBS.plural, key), raw["metadata"]
        known = self.known.get(key)
        if known and (known.uid, known.generation) == (metadata["uid"], metadata["generation"]):
            return
        made = of_object(raw)
        if not isinstance(made, GpuJob):
            self.faults[handle] = _text(made)
            return
        if known is None or known.uid != metadata["uid"]:
            self._detach(key, metadata["uid"])
        self.known[key] = Known(
            key=key,
            manifest=made,
            resource=GPU_JOBS,
            name=metadata["name"],
            uid=metadata["uid"],
            generation=metadata["generation"],
            arrived=datetime.fromisoformat(metadata["creationTimestamp"]),
            label=label_value(metadata["name"]),
        )
        for owned in sorted(self._owned.get(metadata["uid"], ())):
            self._see(key, owned, self.raw[owned[0]].get(owned[1]))
        yield from self._told(self.known[key], read_status(raw), state, now, handle)

    def _told(
        self, known: Known, status: Status | None, state: State, now: datetime, handle: Handle
    ) -> Iterator[Event]:
        """The event that says of a job what it is now."""
        try:
            job = self._drafted(known, state.grid)
        except UnknownPlace as error:
            self.faults[handle] = f"spec.placement.near: {error}"
            return
        self.faults.pop(handle, None)
        there = state.jobs.get(known.key)
        if there is not None and there.uid == known.uid:
            yield JobChanged(at=now, job=job, generation=known.generation)
            return
        one = Tracked(
            job=job,
            arrived=known.arrived,
            has_deadline=known.manifest.spec.deadline is not None,
            pinned=known.pinned,
            uid=known.uid,
            generation=known.generation,
            scales=not known.adopted and workloads.scales(known.manifest),
        )
        if known.adopted and self.onlook is not None:
            one = self.onlook.in_place(one, self.fleet, state.grid)
        else:
            one = self._recalled(one, status, state.grid)
        yield JobArrived(at=now, job=one)

    def _read_anew(self, jobs: Iterable[str]) -> None:
        """These GpuJobs mean another job now than they did."""
        for key in jobs:
            if (known := self.known.get(key)) is not None:
                self.known[key] = replace(known, generation=-1)
                self._objects[GPU_JOBS.plural, key] = None

    def _drafted(self, known: Known, grid: Grid) -> Job:
        manifest = known.manifest
        keys = _Keys(
            known,
            self.raw[GPU_JOBS.plural].keys(),
            lambda plain: self._doubtful[plain].add(known.key),
        )
        job = job_on(manifest, grid, keys, self._places, self._near)
        deadline = manifest.spec.deadline
        if deadline is None:
            return job
        return replace(job, deadline=max(0, grid.floor(deadline)))  # not cut at the grid's end

    def _recalled(self, one: Tracked, status: Status | None, grid: Grid) -> Tracked:
        """The job as it was left, in the mode that its nodes say."""
        workload = self.workloads.get(one.name)
        pool_of = {m.name: pool for pool, found in self.fleet.machines.items() for m in found}
        if workload is not None:
            record = _in_mode(workload.record, one.job, pool_of)
            workload = replace(workload, record=record)
        if status is not None:
            status = replace(status, record=_in_mode(status.record, one.job, pool_of))
        found = recalled(one, status, workload, grid)
        if found.holds and not found.segments:  # it is nowhere that we know: it is stopped
            return replace(found, phase=Phase.SUSPENDED)
        return found

    def who(self, key: str) -> Known | None:
        """A job as its object says it is, or said while there was one."""
        return self.known.get(key) or self._departed.get(key)

    def _detach(self, key: str, uid: str) -> None:
        """The workload of a job is not that of the one with ``uid``, which is called as it was."""
        if self._departed.pop(key, None) is None and key not in self.known:
            return
        handle = self.carriers.get(key)
        raw = None if handle is None else self.raw[handle[0]].get(handle[1])
        if handle is not None and (raw is None or _owner_uid(raw) != uid):
            self._see(key, handle, None)

    def _gone(self, key: str, now: datetime) -> Iterator[Event]:
        known = self.known.pop(key, None)
        if known is not None:
            if key in self.carriers:
                self._departed[key] = known
            else:
                self._labelled.pop(known.labelled, None)
            if self.onlook is None or not self.onlook.has_ended(key):
                yield JobDeleted(at=now, name=key)

    # -- workloads ---------------------------------------------------------------------------------

    def _of_workload(
        self, plural: str, key: str, raw: Raw | None, state: State, now: datetime
    ) -> Iterator[Event]:
        handle = plural, key
        owner = _owner(raw) if raw is not None else ""
        if raw is None or owner:
            name = owner or self._job_of.get(handle, "")
            if name:
                self._see(name, handle, raw)
                if raw is None and name in self.known and self.known[name].adopted:
                    yield from self._gone(name, now)
            self.faults.pop(handle, None)
            return
        if plural != names.RAY_CLUSTERS.plural:
            yield from self._adopted(handle, raw, state, now)
        else:
            self._see_service_of(raw)

    def _see_service_of(self, cluster: Raw) -> None:
        """A RayCluster is another than it was: so may be the service that it was made of."""
        metadata = cluster["metadata"]
        label = f"{metadata.get('namespace', '')}/{_labels(cluster).get(names.JOB, '')}"
        name = self._labelled.get(label, "")
        plural, key = self.carriers.get(name, ("", ""))
        raw = self.raw[plural].get(key) if plural == names.RAY_SERVICES.plural else None
        if raw is not None and is_of(cluster, raw):
            self._see(name, (plural, key), raw)

    def _adopted(self, handle: Handle, raw: Raw, state: State, now: datetime) -> Iterator[Event]:
        metadata = raw["metadata"]
        name = adopt.adopted_key(raw)
        known = self.known.get(name)
        if metadata.get("deletionTimestamp"):  # whoever holds it: nothing is begun any more
            yield from self._leaving(name, handle, raw, now)
            return
        launched = ATTEMPT in (metadata.get("annotations") or {})
        generation = int(metadata.get("generation") or 0)
        same = known is not None and known.uid == metadata["uid"]
        if (
            same
            and known
            and (launched or known.generation == generation)
            and QUEUE in _labels(raw)
        ):
            self._see(name, handle, raw)
            return
        if self.onlook is not None and not same:
            if phases.phase_of(raw).phase in (phases.Phase.SUCCEEDED, phases.Phase.FAILED):
                return  # it ended before we looked on
            self.onlook.begin(name)
        looks_on = self.settings.looks_on
        found = adopt.adopt(raw, self._adopting, self._assumed, looks_on=looks_on)
        if isinstance(found, Adopted) and not looks_on:
            found = _one_pod(found)
        if not isinstance(found, Adopted):
            if isinstance(found, Declined) and found.reason != "Kueue":
                self.faults[handle] = found.message
                self._fleet_changed |= self.settings.looks_on  # its pods are others'
            self._see(name, handle, None)
            yield from self._gone(name, now)
            return
        self.known[name] = Known(
            key=name,
            manifest=found.job,
            resource=found.resource,
            name=found.name,
            uid=found.uid,
            generation=generation,
            arrived=datetime.fromisoformat(metadata["creationTimestamp"]),
            label=adopt.adopted_label(raw),
            pinned=found.nodes,
            adopted=True,
        )
        self._see(name, handle, raw)
        yield from self._told(self.known[name], None, state, now, handle)

    def _leaving(self, name: str, handle: Handle, raw: Raw, now: datetime) -> Iterator[Event]:
        """Somebody else's workload is being deleted."""
        self._see(name, handle, raw)
        yield from self._gone(name, now)

    def _see(self, name: str, handle: Handle, raw: Raw | None) -> None:
        """The workload of a job is now so, or is no more."""
        if raw is None:
            if self.carriers.get(name) == handle:
                del self.carriers[name]
                self._job_of.pop(handle, None)
                self._words.pop(name, None)
                self.workloads.pop(name, None)
                self.changed.add(name)
                if (departed := self._departed.pop(name, None)) is not None:
                    self._labelled.pop(departed.labelled, None)
            return
        known = self.who(name)
        if known is None or (not known.adopted and _owner_uid(raw) != known.uid):
            return
        made = self._workload(known, raw)
        self.carriers[name], self._job_of[handle] = handle, name
        self._labelled[known.labelled] = name
        if self.workloads.get(name) != made:
            self.workloads[name] = made
            self.changed.add(name)
        if self.onlook is not None:
            self.onlook.follow(name, made.being)

    def _workload(self, known: Known, raw: Raw) -> Workload:
        pods = self._pods.get(known.labelled, ())
        seen = phases.phase_of(raw, self._words.get(known.key, ""), pods=len(pods))
        notes = raw["metadata"].get("annotations") or {}
        attempt = int(notes[ATTEMPT]) if notes.get(ATTEMPT, "").isdecimal() else 0
        record = read_record(notes.get(RECORD))
        being = BEINGS[seen.phase]
        if raw["metadata"].get("deletionTimestamp"):
            being = Being.LEFT if _is_empty(raw, len(pods)) else Being.LEAVING
        elif being is Being.LEAVING and self._only_lost_pods(raw, record):
            being = Being.HELD
        told = _told_at(notes.get(DRAIN, ""), known, self.settings)
        started = being is Being.WORKING or (being is Being.SUCCEEDED and seen.started is not None)
        return Workload(
            job=known.key,
            being=being,
            attempt=attempt,
            record=record,
            adopted=known.adopted,
            told=told,
            started=(seen.started or known.arrived) if started else None,
            ended=seen.ended,
            idle=notes.get(IDLE, "") if known.adopted else "",
            saved=told is not None and known.manifest.spec.checkpoint.interval_seconds > 0,
            message=": ".join(filter(None, (seen.reason, seen.message)))
            if being is Being.FAILED
            else "",
            final=known.adopted and being is Being.FAILED,
            placed=self._placed(raw),
            ready=sum(_ready(each) for each in self._clusters(raw)),
            lingers=being in OVER and not known.adopted and bool(pods) and _is_unheard(raw),
        )

    def _clusters(self, raw: Raw) -> list[Raw]:
        """The RayClusters that KubeRay has made of a service."""
        if raw["kind"] != names.RAY_SERVICES.kind:
            return []
        return [each for each in self.raw[names.RAY_CLUSTERS.plural].values() if is_of(each, raw)]

    def _placed(self, raw: Raw) -> Places | None:
        """Where a service's replicas are to be, if it and its Rays say the same."""
        said = {_note_placed(each) for each in (raw, *self._clusters(raw))}
        return read_placed(said.pop()) if len(said) == 1 else None

    def _only_lost_pods(self, raw: Raw, record: Record) -> bool:
        """Whether all that is left of a stopped Job are pods on nodes that nobody will end."""
        status = raw.get("status") or {}
        on_lost = any(node in self.lost for node, _ in record.nodes)
        return raw["kind"] == names.JOBS.kind and on_lost and not status.get("active")


def is_of(cluster: Raw, service: Raw) -> bool:
    """Whether a RayCluster was made of a RayService, and is not on its way out."""
    metadata, uid = cluster["metadata"], service["metadata"].get("uid")
    owned = any(each.get("uid") == uid for each in metadata.get("ownerReferences") or ())
    return owned and not metadata.get("deletionTimestamp")


# -- small things ----------------------------------------------------------------------------------


def _version(raw: Raw) -> int:
    """Numbers grow with each change, and only there where an object keeps it."""
    text = str(raw["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0


def _is_empty(raw: Raw, pods: int) -> bool:
    """Whether nothing of a workload runs. ``pods``: those of its Ray; nobody counts a JobSet's."""
    status = raw.get("status") or {}
    if raw["kind"] == names.JOBS.kind:
        return not (status.get("active") or status.get("terminating"))
    return raw["kind"] != names.JOB_SETS.kind and not pods


def _is_unheard(raw: Raw) -> bool:
    """Whether KubeRay has not heard that a Ray job has ended: without a token it never does."""
    status = raw.get("status") or {}
    over = ("Complete", "Failed", "Suspended")
    return raw["kind"] == names.RAY_JOBS.kind and status.get("jobDeploymentStatus") not in over


def _note_placed(raw: Raw) -> str | None:
    note: str | None = (raw["metadata"].get("annotations") or {}).get(names.PLACED)
    return note


def _ready(cluster: Raw) -> int:
    return int((cluster.get("status") or {}).get("readyWorkerReplicas") or 0)


def _labels(raw: Raw) -> Mapping[str, str]:
    labels: Mapping[str, str] = raw["metadata"].get("labels") or {}
    return labels


def _owner_ref(raw: Raw) -> Mapping[str, Any]:
    for each in raw["metadata"].get("ownerReferences") or ():
        if each.get("kind") == GPU_JOBS.kind and each.get("apiVersion", "").startswith(GROUP):
            found: Mapping[str, Any] = each
            return found
    return {}


def _owner_uid(raw: Raw) -> str:
    return str(_owner_ref(raw).get("uid", ""))


def _owner(raw: Raw) -> str:
    """The key of the GpuJob that owns an object, or nothing."""
    name = _owner_ref(raw).get("name")
    return f"{raw['metadata'].get('namespace', '')}/{name}" if name else ""


def _one_pod(found: Adopted) -> Adopted | Declined:
    """A JobSet's pods could only be sent to several nodes one by one, as they come."""
    task = found.job.spec.task
    if found.resource is not names.JOB_SETS or task is None or task.replicas == 1:
        return found
    message = f"found {task.replicas} pods with GPUs, allowed: 1 in a JobSet"
    return Declined(place=f"JobSet {found.name}", reason="Uneven", message=message)


def _text(faults: object) -> str:
    if isinstance(faults, tuple):
        return "; ".join(f"{f.path}: {f.message}" for f in faults if isinstance(f, Fault))
    return f"found {faults!r}"


def _told_at(until: str, known: Known, settings: Settings) -> datetime | None:
    """When a workload was given notice: its annotation says until when it has time."""
    if not until:
        return None
    seconds = max(settings.notice_seconds, known.manifest.spec.checkpoint.save_seconds)
    return datetime.fromisoformat(until) - timedelta(seconds=seconds)


def _in_mode(record: Record, job: Job, pool_of: Mapping[str, str]) -> Record:
    """The record with the number that its mode has now: pools come and go. Without any, no nodes.

    It is known by the pool of its nodes and the size of its gang.
    """
    if not record.nodes:
        return record
    pools = {pool_of.get(node) for node, _ in record.nodes}
    replicas = sum(count for _, count in record.nodes)
    is_service = isinstance(job.need, Demand)  # it may be there with fewer than its peak takes
    fitting = [
        i
        for i, m in enumerate(job.modes)
        if pools <= {m.pool, None} and (is_service or m.replicas == replicas)
    ]
    if record.mode in fitting:
        return record
    if fitting:
        return replace(record, mode=fitting[0])
    return replace(record, nodes=(), start=None, end=None)
