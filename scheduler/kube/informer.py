"""What an API server has of some kinds, kept up to date: lists, then watches, each in a thread.

Changes go to one `Inbox` by key, the newest only: whoever reads it is level-triggered, and however
slow it is, what waits there never exceeds what there is. A watch goes on from where it ended; where
the server has forgotten that place (410), or every `RESYNC_SECONDS`, all is listed anew. A kind
that the server does not serve has no objects, and is asked for again a minute later.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.kube import errors, names
from scheduler.kube.api import Api, Raw, Watching
from scheduler.kube.names import Resource

RESYNC_SECONDS = 900.0
UNSERVED_SECONDS = 60.0
FIRST_BACK_OFF_SECONDS = 0.5
MOST_BACK_OFF_SECONDS = 15.0
RAY_PODS = f"{names.JOB},ray.io/cluster"
_HEARTBEATS = ("lastHeartbeatTime", "lastTransitionTime")
_POD_SPEC = ("nodeName", "containers", "initContainers", "overhead", "resources")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Objects of a kind: in a namespace (empty: all), with labels; and what to keep of each."""

    resource: Resource
    namespace: str = ""
    labels: str = ""
    keep: Callable[[Raw], Raw] = lambda raw: raw


class Inbox:
    """Values by key, the newest only. Any thread puts; one takes."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}
        self._filled = threading.Condition()

    def __len__(self) -> int:
        return len(self._values)

    def put(self, key: Hashable, value: Any) -> None:
        """The newest value of ``key`` is this one."""
        with self._filled:
            self._values[key] = value
            self._filled.notify()

    def take(self, within_seconds: float, gather_seconds: float = 0.0) -> dict[Hashable, Any]:
        """All that came, or nothing after ``within_seconds``; of a burst, more at once."""
        with self._filled:
            if not self._values:
                self._filled.wait(within_seconds)
            if not self._values:
                return {}
        if gather_seconds:
            time.sleep(gather_seconds)
        with self._filled:
            taken, self._values = self._values, {}
        return taken


def _quiet(resource: Resource, why: str) -> None:
    del resource, why


class Informer:
    """One kind, listed and watched until `stop`."""

    def __init__(
        self,
        api: Api,
        wanted: Wanted,
        inbox: Inbox,
        trouble: Callable[[Resource, str], None] = _quiet,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wanted = wanted
        self.synced = threading.Event()
        self._api, self._inbox, self._trouble, self._clock = api, inbox, trouble, clock
        self._known: set[str] = set()
        self._stopped = threading.Event()
        self._watching: Watching | None = None
        name = f"watch-{wanted.resource.plural}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End it; its thread goes on for a moment."""
        self._stopped.set()
        if self._watching is not None:
            self._watching.stop()

    def _run(self) -> None:
        failures = 0
        version = ""
        listed_at = 0.0
        while not self._stopped.is_set():
            try:
                if not version or self._clock() - listed_at > RESYNC_SECONDS:
                    version, listed_at = self._list(), self._clock()
                version = self._watch(version)
                failures = 0
            except errors.Gone:
                version = ""
            except errors.NotFound:
                version = ""
                self._replace(())
                self.synced.set()
                self._stopped.wait(UNSERVED_SECONDS)
            except errors.KubeError as error:
                failures += 1
                if failures & (failures - 1) == 0:  # the first, second, fourth, eighth, …
                    self._trouble(self.wanted.resource, f"{type(error).__name__}: {error}")
                self._stopped.wait(back_off_seconds(failures))

    def _list(self) -> str:
        wanted = self.wanted
        found = self._api.list(wanted.resource, wanted.namespace, labels=wanted.labels)
        self._replace(found.items)
        self.synced.set()
        return found.resource_version

    def _replace(self, items: tuple[Raw, ...]) -> None:
        there = {key_of(raw) for raw in items}
        for key in self._known - there:
            self._tell(key, None)
        self._known = there
        for raw in items:
            self._tell(key_of(raw), _typed(raw, self.wanted.resource))

    def _watch(self, version: str) -> str:
        """Tells of changes until the server ends the watch; from where to go on."""
        wanted = self.wanted
        watching = self._api.watch(wanted.resource, version, wanted.namespace, labels=wanted.labels)
        with watching as changes:
            self._watching = changes
            for change in changes:
                version = change.resource_version
                if change.type != "BOOKMARK":
                    self._take(change.type, change.object)
                if self._stopped.is_set():
                    break
            self._watching = None
        return version

    def _take(self, kind: str, raw: Raw) -> None:
        key = key_of(raw)
        if kind == "DELETED":
            self._known.discard(key)
            self._tell(key, None)
        else:
            self._known.add(key)
            self._tell(key, raw)

    def _tell(self, key: str, raw: Raw | None) -> None:
        kept = None if raw is None else self.wanted.keep(raw)
        self._inbox.put((self.wanted.resource.plural, key), kept)


def key_of(raw: Raw) -> str:
    """``namespace/name``; of what is in no namespace, ``/name``."""
    metadata = raw["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def back_off_seconds(failures: int) -> float:
    """How long to wait after so many failures in a row, with a part of chance."""
    most = min(MOST_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2.0 ** min(failures - 1, 10))
    return most * random.uniform(0.7, 1.0)  # noqa: S311  # so that not all come back at once


def _typed(raw: Raw, resource: Resource) -> Raw:
    """Items of a list of built-in kinds do not say what they are."""
    return {"apiVersion": resource.api_version, "kind": resource.kind, **raw}


# -- what is kept ----------------------------------------------------------------------------------


def slim_node(raw: Raw) -> Raw:
    """A node without its images and heartbeats, so that only what counts is a change."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    ready = [
        {k: v for k, v in each.items() if k not in _HEARTBEATS}
        for each in status.get("conditions") or ()
        if each["type"] == "Ready"
    ]
    kept = _metadata(metadata, "labels", "deletionTimestamp")
    spec = {k: v for k, v in (raw.get("spec") or {}).items() if k in _NODE_SPEC}
    has = status.get("allocatable") or {}
    return {
        "metadata": kept,
        "spec": spec,
        "status": {"allocatable": has, "conditions": ready},
    }


_NODE_SPEC = ("taints", "unschedulable", "providerID")


def slim_pod(raw: Raw) -> Raw:
    """A pod's requests, where it is and since when, and whose it is."""
    spec = raw.get("spec") or {}
    kept = {k: v for k, v in spec.items() if k in _POD_SPEC}
    for part in ("containers", "initContainers"):
        if part in kept:
            kept[part] = [
                {k: v for k, v in each.items() if k in ("name", "resources", "restartPolicy")}
                for each in kept[part]
            ]
    metadata = _metadata(raw["metadata"], "labels", "ownerReferences")
    status = raw.get("status") or {}
    began = {"startTime": status["startTime"]} if "startTime" in status else {}
    return {
        "metadata": metadata,
        "spec": kept,
        "status": {"phase": status.get("phase", ""), **began},
    }


def slim_workload(raw: Raw) -> Raw:
    """A workload without what KubeRay and others annotate it with at length."""
    notes = raw["metadata"].get("annotations")
    if notes and _LAST_APPLIED in notes:
        raw["metadata"]["annotations"] = {k: v for k, v in notes.items() if k != _LAST_APPLIED}
    return raw


_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def _metadata(metadata: Mapping[str, Any], *fields: str) -> Raw:
    kept = ("name", "namespace", "uid", *fields)
    return {k: metadata[k] for k in kept if k in metadata}


def watched(namespaces: tuple[str, ...] = ()) -> tuple[Wanted, ...]:
    """All that the operator looks at; workloads and jobs in these namespaces only, or in all.

    Pods that are ours are left out by the server: what our jobs hold is known from the jobs. Only a
    Ray has stopped when its pods are gone, which no status says.
    """
    spaces = namespaces or ("",)
    cluster = (
        Wanted(resource=names.NODES, keep=slim_node),
        Wanted(resource=names.RESOURCE_SLICES),
        Wanted(resource=names.PRIORITY_CLASSES),
        Wanted(resource=names.GPU_POOLS),
        Wanted(resource=names.GPU_QUEUES),
        Wanted(resource=names.PODS, labels=f"!{names.JOB}", keep=slim_pod),
    )
    theirs = names.QUEUE
    ours = f"!{names.QUEUE},app.kubernetes.io/managed-by={names.FIELD_MANAGER}"
    kinds = (names.RAY_JOBS, names.RAY_SERVICES, names.RAY_CLUSTERS, names.JOBS, names.JOB_SETS)
    return (
        *cluster,
        *(Wanted(resource=names.GPU_JOBS, namespace=space) for space in spaces),
        *(
            Wanted(resource=names.PODS, namespace=space, labels=RAY_PODS, keep=slim_pod)
            for space in spaces
        ),
        *(
            Wanted(resource=kind, namespace=space, labels=labels, keep=slim_workload)
            for space in spaces
            for kind in kinds
            for labels in (theirs, ours)
        ),
    )
