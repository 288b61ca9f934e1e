"""An action, as requests to the API server. Each may be cut off anywhere, and done again.

A workload is created, never applied over one that is there: what runs is not suspended by a launch
that is repeated. What lets it run, or stops it, says of which attempt: the API server refuses it
where the workload is another's by now. A batch Job cannot go on elsewhere, as its program's
environment may not change: it is deleted, and made anew by the launch that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from planner.problem import Job
from scheduler.controller.actions import (
    Action,
    Delete,
    Launch,
    Release,
    Report,
    Resume,
    Scale,
    Stop,
    placed_of,
)
from scheduler.controller.sight import Known, is_of
from scheduler.controller.state import Cause
from scheduler.controller.told import placed_text, record_text
from scheduler.kube import adopt, names, workloads
from scheduler.kube import launch as starting
from scheduler.kube.api import Api
from scheduler.kube.errors import AlreadyExists, Conflict, NotFound
from scheduler.kube.informer import key_of
from scheduler.kube.launch import Capabilities, Settings, gangs
from scheduler.kube.names import ATTEMPT, DRAIN, IDLE, PLACED, RECORD, RESOURCES, Resource
from scheduler.kube.observe import Fleet
from scheduler.kube.phases import drain_notice
from scheduler.kube.ray_status import marked, token_of

Raw = dict[str, Any]
Seen = tuple[str, str, Raw | None]  # plural, key, the object as it is now


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An action with all that it needs to be known."""

    action: Action
    known: Known | None  # the job's manifest; None: it is gone
    job: Job | None
    resource: Resource | None  # of its workload, where there is one
    raw: Raw | None
    fleet: Fleet
    lost: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """What writes."""

    api: Api
    settings: Settings
    can: Capabilities
    key: bytes  # that the tokens of new Rays are made from
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def carry(self, order: Order) -> tuple[Seen, ...]:
        """Do it; what is now known of the objects that it is about."""
        match order.action:
            case Stop():
                return tuple(self._stop(order, order.action))
            case Delete():
                return tuple(self._delete(order))
            case Launch():
                return tuple(self._launch(order, order.action))
            case Resume():
                return tuple(self._resume(order, order.action))
            case Release():
                return tuple(self._release(order, order.action))
            case Scale():
                return tuple(self._scale(order, order.action))
            case Report():
                return ()

    # -- ending ------------------------------------------------------------------------------------

    def _stop(self, order: Order, action: Stop) -> Iterator[Seen]:
        resource, raw = order.resource, order.raw
        if resource is None or raw is None:
            return
        if action.notice_seconds > 0:
            notice = drain_notice(self.now() + timedelta(seconds=action.notice_seconds))
            if order.known is not None and order.known.manifest.spec.checkpoint.interval_seconds:
                self._tell_pods(order.known, notice)
            notice["metadata"]["annotations"] |= _why_stopped(order.known, action)
            yield self._patched(resource, raw, notice)
        elif order.known is not None and order.known.adopted:
            noted = {"metadata": {"annotations": _why_stopped(order.known, action)}}
            made = self._patched(resource, raw, adopt.suspend(raw) | noted)
            yield made
            self._renew(resource, made[2])
        elif workloads.stops_by_deletion(resource) or self._is_on_lost(order):
            yield from self._delete(order)
        else:
            yield self._patched(resource, raw, _suspension(action.attempt, value=True))

    def _tell_pods(self, known: Known, notice: Raw) -> None:
        """The program reads the notice where its pods have it."""
        namespace, label = known.manifest.metadata.namespace, f"{names.JOB}={known.label}"
        for pod in self.api.list(names.PODS, namespace, labels=label).items:
            with suppress(NotFound):
                self.api.patch(names.PODS, pod["metadata"]["name"], notice, namespace)

    def _is_on_lost(self, order: Order) -> bool:
        """Whether its pods cannot end: a Job would wait for them for ever before it goes on."""
        return order.resource is names.JOBS and order.known is not None and bool(order.lost)

    def _delete(self, order: Order) -> Iterator[Seen]:
        resource, raw = order.resource, order.raw
        if resource is None or raw is None:
            return
        metadata = raw["metadata"]
        self.api.delete(resource, metadata["name"], metadata["namespace"], uid=metadata["uid"])
        if not metadata.get("finalizers"):
            yield resource.plural, key_of(raw), None

    # -- starting ----------------------------------------------------------------------------------

    def _launch(self, order: Order, action: Launch) -> Iterator[Seen]:
        launch = _launch_of(order, action)
        resource = workloads.resource_of(launch)
        launch = self._with_token(launch, resource)
        made = workloads.manifests(launch, self.settings, self.can)
        for each in made[:-1]:
            self.api.apply(RESOURCES[each["apiVersion"], each["kind"]], each)
        workload = made[-1]
        workload["metadata"]["annotations"] |= _notes(resource, action)
        # One that is there is of a launch that was cut off, or somebody else's: it will be seen.
        raw = self.api.create(resource, workload)
        yield resource.plural, key_of(raw), raw

    def _with_token(self, launch: starting.Launch, resource: Resource) -> starting.Launch:
        """The launch with the token of its Ray, whose Secret is there."""
        closed = workloads.auth_of(resource, self.can, self.settings)
        if resource is names.JOBS or closed is not workloads.Auth.ENVIRONMENT:
            return launch
        secret = token_of(self.key, launch)
        launch = marked(launch, secret)
        with suppress(AlreadyExists):
            self.api.create(names.SECRETS, workloads.token(launch, secret))
        return launch

    def _resume(self, order: Order, action: Resume) -> Iterator[Seen]:
        resource, raw = order.resource, order.raw
        if resource is None or raw is None or order.known is None:
            return
        if order.known.adopted:
            yield from self._released(order, action, resource, raw)
        elif resource is names.JOBS:
            yield from self._delete(order)
        else:
            launch = self._with_token(_launch_of(order, action), resource)
            workload = workloads.manifests(launch, self.settings, self.can)[-1]
            notes = {RECORD: record_text(action.record), DRAIN: ""}
            workload["metadata"]["annotations"] |= notes
            made = self.api.apply(resource, workload)
            yield resource.plural, key_of(made), made

    def _released(
        self, order: Order, action: Resume, resource: Resource, raw: Raw
    ) -> Iterator[Seen]:
        """A workload of somebody else's is pinned and let run in one."""
        assert order.job is not None
        found = gangs(order.job, action.segments, order.fleet)
        hosts = [host for gang in found for host in gang.hostnames]
        taints = tuple(dict.fromkeys(taint for gang in found for taint in gang.taints))
        metadata = raw["metadata"]
        if resource is names.JOBS and (raw.get("status") or {}).get("startTime"):
            forgotten = adopt.forget_start()
            raw = self.api.patch(
                resource, metadata["name"], forgotten, metadata["namespace"], subresource="status"
            )
        patch = adopt.release(raw, hosts, taints)
        patch["metadata"]["annotations"] |= {
            ATTEMPT: str(action.attempt),
            RECORD: record_text(action.record),
            DRAIN: None,
            IDLE: None,
        }
        seen = self._patched(resource, raw, patch)
        yield seen
        self._renew(resource, seen[2])

    def _renew(self, resource: Resource, raw: Raw | None) -> None:
        """KubeRay makes a service's Ray anew, once what it has of it is gone."""
        if resource is not names.RAY_SERVICES or raw is None:
            return
        namespace = raw["metadata"]["namespace"]
        clusters = self.api.list(names.RAY_CLUSTERS, namespace).items
        for name in adopt.outdated(raw, clusters):
            self.api.delete(names.RAY_CLUSTERS, name, namespace)

    def _release(self, order: Order, action: Release) -> Iterator[Seen]:
        if order.resource is not None and order.raw is not None:
            yield self._patched(order.resource, order.raw, _suspension(action.attempt, value=False))

    def _scale(self, order: Order, action: Scale) -> Iterator[Seen]:
        """First the Ray that is there, then the service: it says so only once both are done.

        A Ray that is made of the service between the two is seen by its notes, and scaled again.
        """
        resource, raw = order.resource, order.raw
        if resource is not names.RAY_SERVICES or raw is None:
            return
        service = workloads.manifests(_launch_of(order, action), self.settings, self.can)[-1]
        service["metadata"]["annotations"] |= _notes(resource, action)
        namespace, places = raw["metadata"]["namespace"], dict(placed_of(action.segments))
        for cluster in self.api.list(names.RAY_CLUSTERS, namespace).items:
            if not is_of(cluster, raw):
                continue
            label = f"{names.RAY_CLUSTER}={cluster['metadata']['name']}"
            pods = self.api.list(names.PODS, namespace, labels=label).items
            yield self._patched(
                names.RAY_CLUSTERS, cluster, workloads.scaled(cluster, service, pods, places)
            )
        made = self.api.apply(resource, service)
        yield resource.plural, key_of(made), made

    def _patched(self, resource: Resource, raw: Raw, patch: Raw | list[Raw]) -> Seen:
        metadata = raw["metadata"]
        made = self.api.patch(resource, metadata["name"], patch, metadata["namespace"])
        return resource.plural, key_of(made), made


def _why_stopped(known: Known | None, action: Stop) -> dict[str, str]:
    """What is to be found on a workload by whoever comes after us: it has no status of ours."""
    if known is None or not known.adopted or action.why.reason != Cause.IDLE:
        return {}
    return {IDLE: action.why.message}


def _suspension(attempt: int, *, value: bool) -> list[Raw]:
    """A patch that is refused where the workload is of another attempt by now."""
    pointer = ATTEMPT.replace("~", "~0").replace("/", "~1")
    return [
        {"op": "test", "path": f"/metadata/annotations/{pointer}", "value": str(attempt)},
        {"op": "add", "path": "/spec/suspend", "value": value},
    ]


def _notes(resource: Resource, action: Launch | Scale) -> dict[str, str]:
    """What a workload carries of its launch, and a service of where its replicas are to be."""
    notes = {RECORD: record_text(action.record)}
    if resource is names.RAY_SERVICES:
        notes[PLACED] = placed_text(placed_of(action.segments))
    return notes


def _launch_of(order: Order, action: Launch | Resume | Scale) -> starting.Launch:
    if order.known is None or order.job is None:
        raise Conflict(f"{action.job}: found no manifest of it any more")
    return starting.Launch(
        job=order.known.manifest,
        uid=order.known.uid,
        gangs=gangs(order.job, action.segments, order.fleet),
        start=action.record.start or datetime.now(UTC),
        attempt=action.attempt,
    )
