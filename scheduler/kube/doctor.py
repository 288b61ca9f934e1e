"""Whether a cluster is ready for Flopwise: facts that are asked of it, and checks of these facts.

`look` asks; it never fails, since what cannot be asked is itself a finding. `checks` is pure. A
check that did not pass says what to mend, in words that can be acted on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from scheduler.kube import errors, names
from scheduler.kube.api import Raw
from scheduler.kube.client import Kube
from scheduler.kube.launch import Capabilities, capabilities
from scheduler.kube.names import DRA_DRIVER, GPU, GPU_PRODUCT, MIG_PREFIX, Resource
from scheduler.kube.observe import Machine, machines, manifests

T = TypeVar("T")

SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 2.0, 10.0  # a lease is held for 15
OLDEST_KUBERNETES = (1, 29)
OLDEST_KUBERAY = (1, 4, 0)
TOKEN_KUBERAY = (1, 5, 1)
_MOST_NAMED = 5


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"  # it works, with less
    FAIL = "FAIL"
    SKIP = "skip"  # it could not be looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    verdict: Verdict
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """What the operator does, and so has to be allowed."""

    verb: str
    resource: Resource
    subresource: str = ""

    def __str__(self) -> str:
        below = f"/{self.subresource}" if self.subresource else ""
        group = f".{self.resource.group}" if self.resource.group else ""
        return f"{self.verb} {self.resource.plural}{group}{below}"


def _rights() -> Iterator[Right]:
    ours = (names.GPU_POOLS, names.GPU_QUEUES, names.GPU_JOBS)
    runs = (names.RAY_JOBS, names.RAY_SERVICES, names.RAY_CLUSTERS, names.JOBS)
    for resource in (names.NODES, names.PODS, names.PRIORITY_CLASSES, *ours, *runs):
        yield from (Right(verb=verb, resource=resource) for verb in ("list", "watch"))
    for resource in ours:
        yield Right(verb="patch", resource=resource, subresource="status")
    yield Right(verb="patch", resource=names.PODS)  # the notice before a stop
    yield Right(verb="patch", resource=names.JOBS, subresource="status")
    yield Right(verb="get", resource=names.SERVICES, subresource="proxy")
    for resource in runs:
        yield from (Right(verb=verb, resource=resource) for verb in ("create", "patch", "delete"))
    for resource in (names.SECRETS, names.SERVICES, names.NETWORK_POLICIES, names.EVENTS):
        yield Right(verb="create", resource=resource)


RIGHTS = tuple(_rights())


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was asked of a cluster; None where it could not be."""

    url: str
    version: Raw | None = None
    skew_seconds: float | None = None  # the server's clock less ours
    refused: tuple[Right, ...] | None = None
    nodes: tuple[Raw, ...] | None = None
    machines: tuple[Machine, ...] = ()
    objects: tuple[Raw, ...] | None = None  # GpuPools, GpuQueues and GpuJobs
    crds: tuple[Raw, ...] | None = None
    kuberay: tuple[Raw, ...] | None = None  # pods of its operator
    prometheus: tuple[str, ...] | None = None  # services that look like one: namespace/name
    errors: Mapping[str, str] = field(default_factory=dict)  # by what was asked


# -- asking ----------------------------------------------------------------------------------------


def look(kube: Kube, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Facts:
    """Ask a cluster for all that the checks need."""
    told: dict[str, str] = {}

    def ask(what: str, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except errors.KubeError as error:
            told[what] = str(error)
            return None

    version = ask("version", kube.version)
    if version is None:
        return Facts(url=kube.url, errors=told)
    nodes = ask("nodes", lambda: kube.list(names.NODES).items)
    pods = ask("pods", lambda: kube.list(names.PODS).items)
    slices = ask("slices", lambda: _if_served(kube, names.RESOURCE_SLICES))
    crds = ask("crds", lambda: kube.list(names.CRDS).items)
    return Facts(
        url=kube.url,
        version=version,
        skew_seconds=ask("clock", lambda: _skew_seconds(kube, now)),
        refused=ask("rights", lambda: _refused(kube)),
        nodes=nodes,
        machines=machines(nodes or (), pods or (), slices or ()),
        objects=ask("objects", lambda: _objects(kube)),
        crds=crds,
        kuberay=None if pods is None else tuple(p for p in pods if _is(p, "kuberay-operator")),
        prometheus=ask("services", lambda: _prometheus(kube)),
        errors=told,
    )


def _skew_seconds(kube: Kube, now: Callable[[], datetime]) -> float:
    return (kube.server_time() - now()).total_seconds()


def _if_served(kube: Kube, resource: Resource) -> tuple[Raw, ...]:
    return kube.list(resource).items if kube.serves(resource) else ()


def _objects(kube: Kube) -> tuple[Raw, ...]:
    kinds = (names.GPU_POOLS, names.GPU_QUEUES, names.GPU_JOBS)
    return tuple(each for kind in kinds for each in _if_served(kube, kind))


def _refused(kube: Kube) -> tuple[Right, ...]:
    return tuple(
        right
        for right in RIGHTS
        if not kube.allowed(right.verb, right.resource, subresource=right.subresource)
    )


def _is(found: Raw, app: str) -> bool:
    labels = found["metadata"].get("labels") or {}
    return app in (labels.get("app.kubernetes.io/name"), labels.get("app"))


def _prometheus(kube: Kube) -> tuple[str, ...]:
    apps = ("prometheus", "kube-prometheus-stack-prometheus", "thanos-query")
    return tuple(
        f"{each['metadata']['namespace']}/{each['metadata']['name']}"
        for each in kube.list(names.SERVICES).items
        if any(_is(each, app) for app in apps)
    )


# -- judging ---------------------------------------------------------------------------------------


def checks(facts: Facts) -> tuple[Check, ...]:
    """The findings, in the order in which to mend them."""
    if facts.version is None:
        why = facts.errors.get("version", "")
        mend = "check the context (kubectl config get-contexts), the network and the credentials"
        return (Check(name="API server", verdict=Verdict.FAIL, found=why, mend=mend),)
    judged = (
        _server(facts),
        _clock(facts),
        _permissions(facts),
        _definitions(facts),
        _objects_sound(facts),
        *_gpus(facts),
        _kuberay(facts),
        _token(facts),
        _metrics(facts),
    )
    return tuple(each for each in judged if each is not None)


def _server(facts: Facts) -> Check:
    assert facts.version is not None
    known = str(facts.version.get("gitVersion", ""))
    oldest = ".".join(map(str, OLDEST_KUBERNETES))
    fits = _version(known)[:2] >= OLDEST_KUBERNETES
    return Check(
        name="API server",
        verdict=Verdict.OK if fits else Verdict.FAIL,
        found=f"{facts.url}, Kubernetes {known}",
        mend="" if fits else f"upgrade the cluster to Kubernetes {oldest} or later",
    )


def _clock(facts: Facts) -> Check:
    if facts.skew_seconds is None:
        return _unasked("clock", facts, "clock")
    off = abs(facts.skew_seconds)
    verdict = Verdict.OK if off <= SKEW_WARN_SECONDS else Verdict.WARN
    verdict = Verdict.FAIL if off > SKEW_FAIL_SECONDS else verdict
    side = "ahead of" if facts.skew_seconds > 0 else "behind"
    about_none = off < 1.0  # the server tells the second
    return Check(
        name="clock",
        verdict=verdict,
        found="the server's and ours agree"
        if about_none
        else f"the server is {off:.0f} s {side} us",
        mend="" if verdict is Verdict.OK else "synchronise both clocks (chrony, systemd-timesyncd)",
    )


def _permissions(facts: Facts) -> Check:
    if facts.refused is None:
        return _unasked("permissions", facts, "rights")
    if not facts.refused:
        found = f"all {len(RIGHTS)} that the operator needs"
        return Check(name="permissions", verdict=Verdict.OK, found=found)
    return Check(
        name="permissions",
        verdict=Verdict.WARN,
        found=f"this user may not {_named(map(str, facts.refused), 'more')}",
        mend="nothing if it is a plain user; the operator's rights come with the chart",
    )


def _definitions(facts: Facts) -> Check:
    if facts.crds is None:
        return _unasked("custom resources", facts, "crds")
    known = {each["metadata"]["name"] for each in facts.crds}
    wanted = (names.GPU_POOLS, names.GPU_QUEUES, names.GPU_JOBS)
    missing = [r.kind for r in wanted if f"{r.plural}.{r.group}" not in known]
    return Check(
        name="custom resources",
        verdict=Verdict.FAIL if missing else Verdict.OK,
        found=f"missing: {', '.join(missing)}" if missing else "GpuPool, GpuQueue, GpuJob",
        mend="kubectl apply --server-side -f charts/flopwise/crds" if missing else "",
    )


def _objects_sound(facts: Facts) -> Check | None:
    if not facts.objects:
        return None
    read = manifests(facts.objects)
    counts = f"{len(read.pools)} pools, {len(read.queues)} queues, {len(read.jobs)} jobs"
    return Check(
        name="objects",
        verdict=Verdict.FAIL if read.faults else Verdict.OK,
        found=_named(map(str, read.faults), "more faults") if read.faults else counts,
        mend="correct these fields; such an object is not planned" if read.faults else "",
    )


def _gpus(facts: Facts) -> Iterator[Check]:
    if facts.nodes is None:
        yield _unasked("GPUs", facts, "nodes")
        return
    yield _device_plugin(facts.nodes, facts.machines)
    if facts.machines:
        yield _labels(facts.machines)
        yield _ready(facts.machines)


def _device_plugin(nodes: Sequence[Raw], found: Sequence[Machine]) -> Check:
    """GPUs that a node is labelled for and that its kubelet does not advertise."""
    has = {machine.name for machine in found}
    silent = [
        str(node["metadata"]["name"])
        for node in nodes
        if GPU_PRODUCT in (node["metadata"].get("labels") or {})
        and node["metadata"]["name"] not in has
    ]
    if silent:
        return Check(
            name="device plugin",
            verdict=Verdict.FAIL,
            found=f"labelled for GPUs, and advertising none: {_named(silent, 'more nodes')}",
            mend="install NVIDIA's device plugin or GPU Operator, or see its pods' logs there",
        )
    if not found:
        return Check(
            name="device plugin",
            verdict=Verdict.FAIL,
            found=f"no node advertises {GPU}, {MIG_PREFIX}*, or devices of {DRA_DRIVER}",
            mend="install NVIDIA's device plugin or GPU Operator on the nodes with GPUs",
        )
    gpus = sum(machine.gpus for machine in found)
    by_slices = sum(machine.from_slices for machine in found)
    how = f", {by_slices} of them by DRA" if by_slices else ""
    found_text = f"{gpus} GPUs on {len(found)} nodes{how}"
    return Check(name="device plugin", verdict=Verdict.OK, found=found_text)


def _labels(found: Sequence[Machine]) -> Check:
    bare = [m.name for m in found if not m.product]
    strange = sorted({m.product for m in found if m.product and not m.accelerator})
    if bare:
        return Check(
            name="GPU labels",
            verdict=Verdict.FAIL,
            found=f"no {GPU_PRODUCT} on {_named(bare, 'more nodes')}",
            mend="install GPU Feature Discovery (part of the GPU Operator), or label the nodes",
        )
    if strange:
        return Check(
            name="GPU labels",
            verdict=Verdict.WARN,
            found=f"not in the catalog: {_named(strange, 'more')}",
            mend="add a row with that gfd_product (flopwise catalog), or use nodeSelector",
        )
    kinds = sorted({m.accelerator for m in found})
    return Check(name="GPU labels", verdict=Verdict.OK, found=", ".join(kinds))


def _ready(found: Sequence[Machine]) -> Check:
    away = [f"{m.name} ({m.away})" for m in found if m.away]
    return Check(
        name="GPU nodes",
        verdict=Verdict.WARN if away else Verdict.OK,
        found=f"get nothing new: {_named(away, 'more nodes')}" if away else "all ready",
        mend="kubectl uncordon, or see the kubelet's log there" if away else "",
    )


def _kuberay(facts: Facts) -> Check:
    if facts.crds is None:
        return _unasked("KubeRay", facts, "crds")
    if not capabilities(facts.crds).ray:
        return Check(
            name="KubeRay",
            verdict=Verdict.WARN,
            found="its custom resources are missing: only jobs with a podTemplate can run",
            mend=f"install the KubeRay operator, {_dotted(OLDEST_KUBERAY)} or later",
        )
    running = [
        pod for pod in facts.kuberay or () if (pod.get("status") or {}).get("phase") == "Running"
    ]
    if not running:
        return Check(
            name="KubeRay",
            verdict=Verdict.WARN,
            found="its custom resources are there, and no pod labelled kuberay-operator runs",
            mend="start the operator, unless it runs outside the cluster",
        )
    version = _kuberay_version(running)
    old = version and version < OLDEST_KUBERAY
    return Check(
        name="KubeRay",
        verdict=Verdict.WARN if old else Verdict.OK,
        found=f"{len(running)} running, version {_dotted(version) if version else 'not known'}",
        mend=f"upgrade to {_dotted(OLDEST_KUBERAY)} or later" if old else "",
    )


def _token(facts: Facts) -> Check | None:
    can = capabilities(facts.crds) if facts.crds is not None else Capabilities(ray=False)
    if not can.ray:
        return None
    since = _dotted(TOKEN_KUBERAY)
    return Check(
        name="Ray's token",
        verdict=Verdict.OK if can.auth_options else Verdict.WARN,
        found="by KubeRay (authOptions)"
        if can.auth_options
        else "KubeRay has no authOptions: of jobs we set it ourselves, services go without",
        mend="" if can.auth_options else f"upgrade KubeRay and its definitions to {since} or later",
    )


def _metrics(facts: Facts) -> Check:
    if facts.prometheus is None:
        return _unasked("Prometheus", facts, "services")
    if facts.prometheus:
        found = _named(facts.prometheus, "more")
        return Check(name="Prometheus", verdict=Verdict.OK, found=found)
    return Check(
        name="Prometheus",
        verdict=Verdict.WARN,
        found="no service of it found: metrics are served, and nobody keeps them",
        mend="install Prometheus, and switch on metrics.serviceMonitor in the chart",
    )


def _unasked(name: str, facts: Facts, what: str) -> Check:
    return Check(
        name=name,
        verdict=Verdict.SKIP,
        found=facts.errors.get(what, "could not be asked"),
        mend="ask again as a user who may read it",
    )


def _kuberay_version(pods: Iterable[Raw]) -> tuple[int, ...]:
    """The oldest version that the images of its operator say."""
    images = (c.get("image", "") for pod in pods for c in pod["spec"]["containers"])
    return min(filter(None, map(_version, images)), default=())


def _version(text: str) -> tuple[int, ...]:
    """The first version number in ``text``; empty where there is none.

    >>> _version("v1.36.3-gke.1"), _version("quay.io/kuberay/operator:v1.5.1"), _version("latest")
    ((1, 36, 3), (1, 5, 1), ())
    """
    found = re.search(r"(?:^|[:v])(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part) if found else ()


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))


def _named(found: Iterable[str], more: str) -> str:
    """The first few, and how many more there are."""
    every = list(found)
    shown = ", ".join(every[:_MOST_NAMED])
    return shown if len(every) <= _MOST_NAMED else f"{shown}, and {len(every) - _MOST_NAMED} {more}"
