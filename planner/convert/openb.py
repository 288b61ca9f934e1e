"""Alibaba's openb trace of 2023: nodes and pods, as manifests and as requests to place.

Q. Weng et al., Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation
Gradient Descent, USENIX ATC 2023. A node has CPUs, host memory and GPUs of one model. A pod asks
for CPUs, memory, and whole GPUs or thousandths of one, and may name the models it runs on, joined
by ``|``. Two models of the trace are not disclosed: manifests give them a stand-in of the catalog.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from planner.convert import CONVERTED_FROM
from planner.inventory import Inventory, Request
from planner.manifests.errors import Fault, ManifestErrors, found
from planner.manifests.schema import (
    ClusterMetadata,
    GpuJob,
    GpuJobSpec,
    GpuPool,
    GpuPoolSpec,
    Metadata,
    Price,
    RentBilling,
    TaskSpec,
)
from planner.problem import GPU_MILLI, Amounts, Billing, Node, Pool

MIB = 2**20
MODELS = "flopwise.dev/openb-models"  # annotation: the models a pod names
ACCELERATORS = {
    "A10": "a10g",
    "G2": "a100-sxm4-40gb",  # not disclosed: a stand-in
    "G3": "a100-sxm4-80gb",  # not disclosed: a stand-in
    "P100": "p100-pcie-16gb",
    "T4": "t4",
    "V100M16": "v100-sxm2-16gb",
    "V100M32": "v100-sxm2-32gb",
}

_COUNT = (r"\d{1,9}", "a whole number from 0")
_NAME = (r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "lower-case letters, digits and '-', at most 63")
_NODE = {
    "sn": _NAME,
    "cpu_milli": _COUNT,
    "memory_mib": _COUNT,
    "gpu": (r"[1-9]\d{0,2}", "a whole number from 1 to 999"),
    "model": (r"\w+", "a GPU model"),
}
_POD = {
    "name": _NAME,
    "cpu_milli": _COUNT,
    "memory_mib": _COUNT,
    "num_gpu": (r"\d{1,3}", "a whole number from 0 to 999"),
    "gpu_milli": (r"1000|\d{1,3}", "a whole number from 0 to 1000"),
}
_POD_MORE = {
    "gpu_spec": (r"(\w+(\|\w+)*)?", "GPU models joined by '|', or nothing"),
    "creation_time": (r"\d{1,10}", "seconds from the start of the trace"),
    "deletion_time": (r"\d{1,10}", "seconds from the start of the trace"),
}

Checks = Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenbNode:
    """A row of the list of nodes."""

    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int
    model: str

    @property
    def kind(self) -> str:
        """What it has in common with the other nodes of its pool."""
        return f"{self.model.lower()}-{self.gpus}x-{self.cpu_milli}m-{self.memory_mib}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A row of a list of pods."""

    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int
    gpu_milli: int  # of each GPU; 1000 where there are several
    models: tuple[str, ...]  # sorted; empty: any
    arrives_seconds: int
    runs_seconds: int  # 0: not stated


def read_nodes(path: Path) -> tuple[OpenbNode, ...]:
    """The nodes in their order. Raises `ManifestErrors` naming file, line and column."""
    return tuple(
        OpenbNode(
            name=row["sn"],
            cpu_milli=int(row["cpu_milli"]),
            memory_mib=int(row["memory_mib"]),
            gpus=int(row["gpu"]),
            model=row["model"],
        )
        for row in _read(path, "sn", _NODE, {})
    )


def read_pods(path: Path) -> tuple[Pod, ...]:
    """The pods in their order. Raises `ManifestErrors` naming file, line and column."""
    return tuple(_pod(row) for row in _read(path, "name", _POD, _POD_MORE))


def _pod(row: Mapping[str, str]) -> Pod:
    gpus = int(row["num_gpu"])
    arrives = int(row.get("creation_time", 0))
    return Pod(
        name=row["name"],
        cpu_milli=int(row["cpu_milli"]),
        memory_mib=int(row["memory_mib"]),
        gpus=gpus,
        gpu_milli=int(row["gpu_milli"]) if gpus else 0,
        models=tuple(sorted(set(filter(None, row.get("gpu_spec", "").split("|"))))),
        arrives_seconds=arrives,
        runs_seconds=max(0, int(row.get("deletion_time", arrives)) - arrives),
    )


# -- to be placed --------------------------------------------------------------------------------


def inventory(nodes: Sequence[OpenbNode]) -> Inventory:
    """The nodes, all free; the accelerator of a node is its model."""
    pools = {n.kind: _plain_pool(n) for n in nodes}
    return Inventory.of(
        [
            Node(name=n.name, pool=n.kind, index=i, capacity=pools[n.kind].capacity)
            for i, n in enumerate(nodes)
        ],
        list(pools.values()),
    )


def request(pod: Pod) -> Request:
    """What the pod asks for."""
    amounts = Amounts(
        gpu_milli=pod.gpus * pod.gpu_milli,
        cpu_milli=pod.cpu_milli,
        memory_bytes=pod.memory_mib * MIB,
    )
    return Request(amounts=amounts, accelerators=pod.models)


def _plain_pool(node: OpenbNode) -> Pool:
    return Pool(
        name=node.kind,
        accelerator=node.model,
        gpus_per_node=node.gpus,
        capacity=Amounts(
            gpu_milli=node.gpus * GPU_MILLI,
            cpu_milli=node.cpu_milli,
            memory_bytes=node.memory_mib * MIB,
        ),
        windows=(),
        billing=Billing.SUNK,
        purchase="owned",
    )


# -- manifests -----------------------------------------------------------------------------------


def pools(nodes: Sequence[OpenbNode]) -> tuple[GpuPool, ...]:
    """A pool of each kind of node, at a dollar a GPU-hour: the trace has no prices.

    Raises:
        ManifestErrors: a node has a model that the trace does not.
    """
    unknown = sorted({n.model for n in nodes} - set(ACCELERATORS))
    if unknown:
        raise ManifestErrors(_no_model("nodes", "model", model) for model in unknown)
    kinds: dict[str, list[OpenbNode]] = {}
    for node in nodes:
        kinds.setdefault(node.kind, []).append(node)
    return tuple(_pool(kind, of[0], len(of)) for kind, of in kinds.items())


def _pool(kind: str, node: OpenbNode, count: int) -> GpuPool:
    spec = GpuPoolSpec(
        accelerator=ACCELERATORS[node.model],
        gpus_per_node=node.gpus,
        nodes=count,
        cpus_per_node=node.cpu_milli / 1000,
        memory_gib_per_node=node.memory_mib / 1024,
        price=Price(usd_per_gpu_hour=1.0, billing=RentBilling.GPU),
    )
    return GpuPool(metadata=ClusterMetadata(name=kind), spec=spec)


def jobs(pods: Sequence[Pod], *, start: datetime) -> tuple[GpuJob, ...]:
    """Pods that ask for a GPU, as tasks; one that states no times arrives at once, for an hour.

    The trace says how long a pod ran, not how fast its GPU was: the hours are the same on each.

    Raises:
        ManifestErrors: a pod names a model that the trace does not have.
    """
    faults = [
        _no_model(pod.name, "gpu_spec", model)
        for pod in pods
        for model in pod.models
        if model not in ACCELERATORS
    ]
    if faults:
        raise ManifestErrors(faults)
    return tuple(_job(pod, start) for pod in pods if pod.gpus)


def _job(pod: Pod, start: datetime) -> GpuJob:
    hours = pod.runs_seconds / 3600 or 1.0
    models = pod.models or tuple(ACCELERATORS)
    share = pod.gpu_milli < GPU_MILLI
    spec = GpuJobSpec(
        earliest_start=start + timedelta(seconds=pod.arrives_seconds),
        task=TaskSpec(
            gpus=pod.gpus,
            gpu_fraction=pod.gpu_milli / GPU_MILLI if share else 0.0,
            cpus=pod.cpu_milli / 1000,
            memory_gib=pod.memory_mib / 1024,
            hours={ACCELERATORS[model]: hours for model in models},
        ),
    )
    told = {CONVERTED_FROM: "openb"} | ({MODELS: "|".join(pod.models)} if pod.models else {})
    return GpuJob(metadata=Metadata(name=pod.name, annotations=told), spec=spec)


def _no_model(place: str, path: str, model: str) -> Fault:
    message = f"found {found(model)}, allowed: {', '.join(ACCELERATORS)}"
    return Fault(place=place, path=path, message=message)


# -- reading -------------------------------------------------------------------------------------


def _read(path: Path, name: str, checks: Checks, more: Checks) -> list[Mapping[str, str]]:
    """Rows whose fields are all in order; ``more`` are columns that may be missing."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        message = error.strerror or "cannot be read"
        raise ManifestErrors([Fault(place=str(path), message=message)]) from error
    except UnicodeDecodeError as error:
        message = f"not UTF-8 text at byte {error.start}"
        raise ManifestErrors([Fault(place=str(path), message=message)]) from error
    header = lines[0].split(",") if lines else []
    if missing := [column for column in checks if column not in header]:
        message = (
            f"found no column {', '.join(missing)}, allowed: a table headed {','.join(checks)}"
        )
        raise ManifestErrors([Fault(place=f"{path}: line 1", message=message)])
    rows = list(enumerate(csv.DictReader(lines), start=2))
    wanted = {**checks, **{column: check for column, check in more.items() if column in header}}
    faults = [fault for line, row in rows for fault in _wrong(f"{path}: line {line}", row, wanted)]
    faults = faults or list(_twice(path, name, [row for _, row in rows]))
    if faults:
        raise ManifestErrors(faults)
    return [row for _, row in rows]


def _wrong(place: str, row: Mapping[str, str | None], checks: Checks) -> Iterator[Fault]:
    for column, (pattern, allowed) in checks.items():
        value = row[column]
        if value is None or not re.fullmatch(pattern, value):
            message = f"found {found(value)}, allowed: {allowed}"
            yield Fault(place=place, path=column, message=message)
            return
    gpus, milli = int(row.get("num_gpu") or 0), int(row.get("gpu_milli") or 0)
    if gpus and (milli == 0 or (gpus > 1 and milli != GPU_MILLI)):
        allowed = "1 to 1000" if gpus == 1 else f"1000, whole GPUs, as num_gpu is {gpus}"
        yield Fault(place=place, path="gpu_milli", message=f"found {milli}, allowed: {allowed}")


def _twice(path: Path, name: str, rows: Sequence[Mapping[str, str]]) -> Iterator[Fault]:
    first: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        before = first.setdefault(row[name], line)
        if before != line:
            message = f"found {found(row[name])}, which is taken by line {before}"
            yield Fault(place=f"{path}: line {line}", path=name, message=message)
