"""What a cluster has: its nodes as machines, machines in pools, pools and nodes as the planner has
them, and the objects of ours.

Capacity of a machine is what the kubelet says is allocatable, less what pods that are not ours ask
for. GPUs are found in this order: the extended resources of the device plugin (whole, shared, MIG),
else the devices that a DRA driver publishes. The label ``nvidia.com/gpu.product``, which GPU
Feature Discovery sets, says which they are; it bears ``-SHARED`` under time-slicing and MPS, and
``-MIG-1g.10gb`` where all GPUs are partitioned alike.

The nodes of a pool are all alike to the planner: what is missing on one of them (a GPU that another
pod holds, CPUs that are gone, a device that its driver calls bad) is a GPU out of order, with the
reason in words. A node that is cordoned, or not ready, stays in the pool and gets nothing new.

Everything here is pure, and one bad object never stops the rest: what is wrong is a `Fault`.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

from cost_models.accelerators import resolve_accelerator
from cost_models.names import UnknownName
from planner.fleet import GIB, pool_of
from planner.manifests.errors import Fault
from planner.manifests.read import of_object
from planner.manifests.schema import GpuJob, GpuPool, GpuQueue
from planner.problem import Device, Grid, Node, Pool
from scheduler.kube import quantities
from scheduler.kube.affinity import Taint, taints
from scheduler.kube.api import Raw
from scheduler.kube.names import (
    DRA_DRIVER,
    GPU,
    GPU_COUNT,
    GPU_PRODUCT,
    GPU_REPLICAS,
    GPU_SHARED,
    HOSTNAME,
    JOB,
    MIG_PREFIX,
)

PRODUCT_LABELS = (GPU_PRODUCT, "cloud.google.com/gke-accelerator")
PROVIDERS = {  # scheme of a node's providerID to the provider of the price catalog
    "aws": "aws",
    "azure": "azure",
    "digitalocean": "digitalocean",
    "gce": "gcp",
    "nebius": "nebius",
    "oci": "oci",
}
_SUFFIX = re.compile(r"-SHARED$|-MIG-(?P<profile>[0-9]+g\.[0-9]+gb(?:\.me)?)(?:-SHARED)?$")
_GPU_SLICES = 7  # compute slices of a GPU that can be partitioned
_UNHEALTHY_EFFECTS = ("NoSchedule", "NoExecute")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One node with GPUs, as the API server tells of it."""

    name: str
    hostname: str
    labels: Mapping[str, str]
    accelerator: str  # id in the catalog; empty: not known
    product: str  # as its label has it
    gpus: int  # physical ones
    resource: str = GPU  # that pods ask for; of MIG by profile: the profile's own
    shares: int = 1  # pods that a GPU is advertised for
    mig: tuple[tuple[str, int], ...] = ()  # (profile, instances advertised)
    single_profile: str = ""  # all GPUs are partitioned into this one, asked for as whole GPUs
    from_slices: bool = False  # its GPUs are known from a DRA driver only
    cpu_milli: int  # allocatable, less what runs on every node
    memory_bytes: int
    taken: Counter[str] = field(default_factory=Counter)  # by pods of others, daemons apart
    broken: tuple[str, ...] = ()  # why, of each GPU that is out of order
    taints: tuple[Taint, ...] = ()
    away: str = ""  # why it gets nothing new, or empty
    provider: str = ""  # of the cloud that it is rented from, as the price catalog has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Objects of ours that are sound, and what is wrong with the others."""

    pools: tuple[GpuPool, ...] = ()
    queues: tuple[GpuQueue, ...] = ()
    jobs: tuple[GpuJob, ...] = ()
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The pools with what they have live."""

    pools: tuple[GpuPool, ...]  # nodes, CPUs and memory are those of now
    machines: Mapping[str, tuple[Machine, ...]]  # by pool, in the order of the planner's nodes
    outside: tuple[str, ...] = ()  # nodes with GPUs that are in no pool
    faults: tuple[Fault, ...] = ()

    def on(self, grid: Grid) -> tuple[tuple[Pool, ...], tuple[Node, ...]]:
        """The planner's pools and nodes. They are up: none has to be started first."""
        pools = tuple(replace(pool_of(each, grid), startup_seconds=0) for each in self.pools)
        nodes = (
            _node(machine, pool, index)
            for pool in pools
            for index, machine in enumerate(self.machines[pool.name])
        )
        return pools, tuple(nodes)


# -- objects of ours -------------------------------------------------------------------------------


def manifests(objects: Iterable[Raw]) -> Read:
    """GpuPools, GpuQueues and GpuJobs by the same types that read files."""
    found = [of_object(each) for each in objects]
    return Read(
        pools=tuple(each for each in found if isinstance(each, GpuPool)),
        queues=tuple(each for each in found if isinstance(each, GpuQueue)),
        jobs=tuple(each for each in found if isinstance(each, GpuJob)),
        faults=tuple(fault for each in found if isinstance(each, tuple) for fault in each),
    )


# -- machines --------------------------------------------------------------------------------------


def is_ours(pod: Raw) -> bool:
    """Whether a pod is of a workload that Flopwise started or released."""
    return JOB in (pod["metadata"].get("labels") or {})


def machines(
    nodes: Iterable[Raw],
    pods: Iterable[Raw],
    slices: Iterable[Raw] = (),
    claims: Iterable[Raw] = (),
    *,
    ours: Callable[[Raw], bool] = is_ours,
) -> tuple[Machine, ...]:
    """The nodes that have GPUs, by name. ``slices`` and ``claims``: ResourceSlices and -Claims."""
    daemons, taken = _use(pods, ours)
    devices = _devices(slices)
    held = _held(claims, ours)
    found = (
        _machine(node, daemons[name], taken[name], devices[name], held)
        for node in sorted(nodes, key=lambda each: str(each["metadata"]["name"]))
        for name in (node["metadata"]["name"],)
    )
    return tuple(each for each in found if each is not None)


def _use(
    pods: Iterable[Raw], ours: Callable[[Raw], bool]
) -> tuple[defaultdict[str, Counter[str]], defaultdict[str, Counter[str]]]:
    """What pods of others ask of each node: those that run on every node, and the rest."""
    daemons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    taken: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for pod in pods:
        node = pod["spec"].get("nodeName")
        ended = (pod.get("status") or {}).get("phase") in quantities.ENDED
        if not node or ended or ours(pod):
            continue
        owners = pod["metadata"].get("ownerReferences") or ()
        daemon = any(each.get("kind") in ("DaemonSet", "Node") for each in owners)
        (daemons if daemon else taken)[node].update(quantities.requests(pod["spec"]))
    return daemons, taken


def _machine(
    node: Raw,
    daemons: Counter[str],
    taken: Counter[str],
    devices: Sequence[Raw],
    held: frozenset[tuple[str, str]],
) -> Machine | None:
    """The node as a machine; None where it has no GPUs."""
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    has = quantities.amounts((node.get("status") or {}).get("allocatable"))
    whole, shared = has[GPU], has[GPU_SHARED]
    mig = tuple(sorted(_profiles(has)))
    if not (whole or shared or mig or devices):
        return None
    from_slices = not (whole or shared or mig)
    product = next((labels[key] for key in PRODUCT_LABELS if key in labels), "")
    if not product and devices:
        product = _text(devices[0], "productName")
    suffix = _SUFFIX.search(product)
    profile = suffix["profile"] or "" if suffix else ""
    shares = _shares(labels, product) if (whole or shared) and not profile else 1
    advertised = len(devices) if from_slices else whole or shared
    gpus = _gpus(labels, advertised, shares, profile, mixed=bool(mig))
    return Machine(
        name=node["metadata"]["name"],
        hostname=labels.get(HOSTNAME, node["metadata"]["name"]),
        labels=labels,
        accelerator=_accelerator(_SUFFIX.sub("", product)),
        product=product,
        gpus=gpus,
        resource=GPU_SHARED if shared and not whole else GPU,
        shares=shares,
        mig=((profile, whole),) if profile else mig,
        single_profile=profile,
        from_slices=from_slices,
        cpu_milli=max(0, has["cpu"] - daemons["cpu"]),
        memory_bytes=max(0, has["memory"] - daemons["memory"]),
        taken=taken,
        broken=tuple(_broken(devices, held)) if from_slices else (),
        taints=taints(node),
        away=_away(node),
        provider=PROVIDERS.get(str(node["spec"].get("providerID") or "").partition("://")[0], ""),
    )


def _profiles(has: Counter[str]) -> Iterator[tuple[str, int]]:
    for name, count in has.items():
        if name.startswith(MIG_PREFIX) and count:
            yield profile_of(name), count


def profile_of(resource: str) -> str:
    """The MIG profile that a resource is of, as the planner writes it.

    >>> profile_of("nvidia.com/mig-1g.10gb.me")
    '1g.10gb+me'
    """
    return resource.removeprefix(MIG_PREFIX).replace(".me", "+me").replace(".gfx", "+gfx")


def mig_resource(profile: str) -> str:
    """The resource that the device plugin advertises a MIG profile by.

    >>> mig_resource("1g.10gb+me")
    'nvidia.com/mig-1g.10gb.me'
    """
    return MIG_PREFIX + profile.replace("+", ".")


def _shares(labels: Mapping[str, str], product: str) -> int:
    """Pods that share a GPU: what its label says, where GPUs are shared."""
    strategy = labels.get("nvidia.com/gpu.sharing-strategy", "none")
    shared = product.endswith("-SHARED") or strategy not in ("none", "")
    stated = labels.get(GPU_REPLICAS, "")
    return int(stated) if shared and stated.isdecimal() and int(stated) else 1


def _gpus(
    labels: Mapping[str, str], advertised: int, shares: int, profile: str, *, mixed: bool
) -> int:
    """Physical GPUs: as advertised, or where that counts parts of them what they add up to.

    Of GPUs partitioned alike, GPU Feature Discovery's count is of the instances too.
    """
    if profile:
        return -(-advertised // max(1, _GPU_SLICES // int(profile.split("g.")[0])))
    stated = labels.get(GPU_COUNT, "")
    return int(stated) if mixed and stated.isdecimal() else advertised // shares


def _accelerator(product: str) -> str:
    try:
        return resolve_accelerator(product).id if product else ""
    except UnknownName:
        return ""


def _away(node: Raw) -> str:
    """Why a node gets nothing new."""
    conditions = {each["type"]: each for each in (node.get("status") or {}).get("conditions") or ()}
    ready = conditions.get("Ready")
    if ready is None or ready["status"] != "True":
        return f"not ready: {(ready or {}).get('message') or 'its kubelet has said nothing yet'}"
    if (node.get("spec") or {}).get("unschedulable"):
        return "cordoned"
    return "being deleted" if node["metadata"].get("deletionTimestamp") else ""


# -- DRA -------------------------------------------------------------------------------------------


def _devices(slices: Iterable[Raw]) -> defaultdict[str, list[Raw]]:
    """Whole GPUs by node, of the newest generation of each driver's pool."""
    newest: dict[tuple[str, str], int] = defaultdict(int)
    ours = [each["spec"] for each in slices if each["spec"].get("driver") == DRA_DRIVER]
    for spec in ours:
        key = (spec.get("nodeName") or "", spec["pool"]["name"])
        newest[key] = max(newest[key], int(spec["pool"].get("generation") or 0))
    found: defaultdict[str, list[Raw]] = defaultdict(list)
    for spec in ours:
        key = (spec.get("nodeName") or "", spec["pool"]["name"])
        if key[0] and int(spec["pool"].get("generation") or 0) == newest[key]:
            gpus = (d for d in spec.get("devices") or () if _text(d, "type") in ("gpu", ""))
            found[key[0]] += [{**each, "pool": spec["pool"]["name"]} for each in gpus]
    return found


def _text(device: Raw, attribute: str) -> str:
    """A text attribute; version v1beta1 has them one level down."""
    stated = device.get("attributes") or (device.get("basic") or {}).get("attributes") or {}
    return str((stated.get(attribute) or {}).get("string", ""))


def _held(claims: Iterable[Raw], ours: Callable[[Raw], bool]) -> frozenset[tuple[str, str]]:
    """(pool, device) that claims of others were given."""
    return frozenset(
        (result["pool"], result["device"])
        for claim in claims
        if not ours(claim)
        for result in ((claim.get("status") or {}).get("allocation") or {})
        .get("devices", {})
        .get("results", ())
        if result.get("driver") == DRA_DRIVER
    )


def _broken(devices: Iterable[Raw], held: frozenset[tuple[str, str]]) -> Iterator[str]:
    for device in devices:
        marks = device.get("taints") or (device.get("basic") or {}).get("taints") or ()
        bad = [each["key"] for each in marks if each.get("effect") in _UNHEALTHY_EFFECTS]
        if bad:
            yield f"its driver says {', '.join(sorted(bad))}"
        elif (device["pool"], device["name"]) in held:
            yield "held by a claim of others"


# -- pools -----------------------------------------------------------------------------------------


def fleet(found: Iterable[Machine], pools: Sequence[GpuPool]) -> Fleet:
    """The machines in the pools that select them; of several, the one that names the most labels.

    So a pool of all nodes of a kind may stand beside one of the spot nodes among them.
    """
    by_pool: dict[str, list[Machine]] = {pool.metadata.name: [] for pool in pools}
    outside: list[str] = []
    faults: list[Fault] = []
    ordered = sorted(pools, key=lambda pool: (-len(pool.spec.node_selector), pool.metadata.name))
    candidates = _Candidates(ordered)
    for machine in found:
        mine = [pool for pool in candidates.of(machine) if selects(pool, machine)]
        if not mine:
            outside.append(machine.name)
            continue
        by_pool[mine[0].metadata.name].append(machine)
        faults += _contested(machine, mine)
    ordered.sort(key=lambda pool: pool.metadata.name)
    for pool in ordered:
        faults += _unlike(pool, by_pool[pool.metadata.name])
    return Fleet(
        pools=tuple(_live(pool, by_pool[pool.metadata.name]) for pool in ordered),
        machines={
            pool.metadata.name: tuple(
                sorted(by_pool[pool.metadata.name], key=lambda m: (_topology(m, pool), m.name))
            )
            for pool in ordered
        },
        outside=tuple(outside),
        faults=tuple(faults),
    )


class _Candidates:
    """Pools by one of the labels that they ask for, the one that the fewest ask for; and those of
    all nodes of a kind. Nobody looks at each pool for each machine."""

    def __init__(self, pools: Sequence[GpuPool]) -> None:
        asked = Counter(pair for pool in pools for pair in pool.spec.node_selector.items())
        self._by_label: dict[tuple[str, str], list[tuple[int, GpuPool]]] = defaultdict(list)
        self._of_kind: dict[str, list[tuple[int, GpuPool]]] = defaultdict(list)
        for rank, pool in enumerate(pools):
            pairs = pool.spec.node_selector.items()
            if pairs:
                self._by_label[min(pairs, key=lambda pair: asked[pair])].append((rank, pool))
            else:
                self._of_kind[pool.spec.accelerator].append((rank, pool))

    def of(self, machine: Machine) -> list[GpuPool]:
        """Pools that may have selected it, in their order."""
        found = list(self._of_kind.get(machine.accelerator, ()))
        for pair in machine.labels.items():
            found += self._by_label.get(pair, ())
        return [pool for _, pool in sorted(found, key=itemgetter(0))]


def selects(pool: GpuPool, machine: Machine) -> bool:
    """Whether a machine is the pool's: by its labels, or by default by what its GPUs are."""
    spec = pool.spec
    if spec.node_selector:
        return all(machine.labels.get(k) == v for k, v in spec.node_selector.items())
    partitioned = bool(machine.mig)
    return machine.accelerator == spec.accelerator and partitioned == bool(spec.mig_geometries)


def _contested(machine: Machine, pools: Sequence[GpuPool]) -> Iterator[Fault]:
    first, *rest = pools
    if rest and len(rest[0].spec.node_selector) == len(first.spec.node_selector):
        yield Fault(
            place=f"GpuPool {rest[0].metadata.name}",
            path="spec.nodeSelector",
            message=f"found node {machine.name}, which GpuPool {first.metadata.name} has; "
            "allowed: selectors that do not overlap, or one with more labels than the other",
        )


def _unlike(pool: GpuPool, found: Sequence[Machine]) -> Iterator[Fault]:
    """What a pool states and its nodes do not bear out."""
    place, spec = f"GpuPool {pool.metadata.name}", pool.spec
    others = sorted({m.accelerator or m.product or "no label" for m in found} - {spec.accelerator})
    if others:
        allowed = f"nodes of {spec.accelerator}"
        yield Fault(
            place=place,
            path="spec.accelerator",
            message=f"found {', '.join(others)} on its nodes, allowed: {allowed}",
        )
    more = sorted({m.gpus for m in found if m.gpus > spec.gpus_per_node})
    if more:
        counts = " and ".join(map(str, more))
        yield Fault(
            place=place,
            path="spec.gpusPerNode",
            message=f"found nodes of {counts} GPUs, of which {spec.gpus_per_node} are used",
        )


def _live(pool: GpuPool, found: Sequence[Machine]) -> GpuPool:
    """The pool with the nodes, and of each the CPUs and the memory, that there are."""
    spec = pool.spec
    cpus = min((m.cpu_milli / 1000 for m in found), default=spec.cpus_per_node)
    memory = min((m.memory_bytes / GIB for m in found), default=spec.memory_gib_per_node)
    live = spec.model_copy(
        update={
            "nodes": len(found),
            "cpus_per_node": min(spec.cpus_per_node or math.inf, cpus),
            "memory_gib_per_node": min(spec.memory_gib_per_node or math.inf, memory),
        }
    )
    return pool.model_copy(update={"spec": live})


def _topology(machine: Machine, pool: GpuPool) -> tuple[str, ...]:
    """Its domains, near to far, up to the first level that its labels do not name."""
    path: list[str] = []
    for level in pool.spec.topology_levels:
        if level not in machine.labels:
            break
        path.append(machine.labels[level])
    return tuple(path)


# -- the planner's nodes ---------------------------------------------------------------------------


def _node(machine: Machine, pool: Pool, index: int) -> Node:
    return Node(
        name=machine.name,
        pool=pool.name,
        index=index,
        capacity=pool.capacity,
        devices=tuple(_node_devices(machine, pool)),
        topology=tuple(
            machine.labels[level]
            for level in pool.topology_levels[: _depth(machine, pool.topology_levels)]
        ),
        cordoned=machine.away,
    )


def _depth(machine: Machine, levels: Sequence[str]) -> int:
    return next((i for i, level in enumerate(levels) if level not in machine.labels), len(levels))


def _node_devices(machine: Machine, pool: Pool) -> Iterator[Device]:
    """As many devices as the pool's nodes have, the last ones out of order where some are missing.

    A part of a GPU that others hold takes the whole of it: what is left of it is not known.
    """
    reasons = _missing(machine, pool)
    layouts = _geometries(machine, pool)
    sound = pool.gpus_per_node - len(reasons)
    for number in range(pool.gpus_per_node):
        yield Device(
            uuid=f"{machine.name}/{number}",
            mig_geometry=layouts[number] if number < len(layouts) else (),
            unhealthy="" if number < sound else reasons[number - sound],
        )


def _missing(machine: Machine, pool: Pool) -> list[str]:
    """Why, of each GPU that the planner may not use."""
    there = min(machine.gpus, pool.gpus_per_node)
    gone = [f"the node has {machine.gpus} GPUs"] * (pool.gpus_per_node - there)
    broken = list(machine.broken)
    taken = math.ceil(_gpus_taken(machine) - 1e-9)
    held = ["held by pods of others"] * taken
    reasons = [*broken, *held][:there]
    short = _starved(machine, pool) - len(reasons) - len(gone)
    reasons += ["its CPUs or memory are held by pods of others"] * short
    return [*reasons, *gone][: pool.gpus_per_node]


def _gpus_taken(machine: Machine) -> float:
    """GPUs of which others hold at least a part."""
    if not machine.mig:
        return (machine.taken[GPU] + machine.taken[GPU_SHARED]) / machine.shares
    if machine.single_profile:
        each = max(1, machine.mig[0][1] // max(1, machine.gpus))
        return machine.taken[GPU] / each
    taken = sum(n for name, n in machine.taken.items() if name.startswith(MIG_PREFIX))
    return float(min(machine.gpus, taken))


def _starved(machine: Machine, pool: Pool) -> int:
    """GPUs of the pool's node for which the CPUs or the memory that go with one are gone."""
    most = 0
    for has, taken, needed in (
        (machine.cpu_milli, machine.taken["cpu"], pool.capacity.cpu_milli),
        (machine.memory_bytes, machine.taken["memory"], pool.capacity.memory_bytes),
    ):
        short = needed - (has - taken)
        if needed and short > 0:
            most = max(most, math.ceil(short * pool.gpus_per_node / needed))
    return min(most, pool.gpus_per_node)


def _geometries(machine: Machine, pool: Pool) -> list[tuple[str, ...]]:
    """A geometry of the pool's for each GPU, together what the node advertises; empty: none is."""
    if not machine.mig or not machine.gpus:
        return []
    return _layouts(Counter(dict(machine.mig)), pool.mig_geometries, machine.gpus) or []


def _layouts(
    left: Counter[str], geometries: Sequence[tuple[str, ...]], gpus: int
) -> list[tuple[str, ...]] | None:
    """``gpus`` of ``geometries`` that add up to ``left``, the first ones first; None: none do."""
    if not gpus:
        return [] if not +left else None
    for i, geometry in enumerate(geometries):
        rest = left.copy()
        rest.subtract(geometry)
        if min(rest.values(), default=0) >= 0:
            found = _layouts(rest, geometries[i:], gpus - 1)
            if found is not None:
                return [geometry, *found]
    return None
