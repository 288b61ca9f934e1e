"""The GpuPools that describe a cluster as it is: a draft for a person to complete.

Nodes that are alike are a pool: the same GPUs, as many of them, shared or partitioned in the same
way, in the same region, rented in the same way. What no node can say, above all what owned hardware
cost, is a note.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cost_models.prices import Purchase, find_offering, offerings
from planner.manifests.read import of_object
from planner.manifests.schema import API_VERSION, GpuPool
from scheduler.kube.api import Raw
from scheduler.kube.names import GPU_COUNT, GPU_PRODUCT, child_name
from scheduler.kube.observe import PRODUCT_LABELS, Machine

REGION = "topology.kubernetes.io/region"
SPOT = {  # labels that say that a node can be taken away
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
LEVELS = (  # of topology, near to far
    "nvidia.com/gpu.clique",
    "accelerator.topograph.run/sub-domain",
    "accelerator.topograph.run/domain",
    *(f"fabric.topograph.run/tier-{tier}" for tier in range(4)),
    "cloud.google.com/gce-topology-subblock",
    "cloud.google.com/gce-topology-block",
    "topology.kubernetes.io/zone",
)
_POOL_NAME_CHARACTERS = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Pools, and what a person has to complete or to know."""

    pools: tuple[GpuPool, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class _Kind:
    """What machines of one pool have in common."""

    accelerator: str
    provider: str
    region: str
    spot: bool
    gpus: int
    product: str
    mig: tuple[tuple[str, int], ...]


def survey(found: Iterable[Machine]) -> Survey:
    """The pools of a cluster's machines; those whose GPUs nobody knows are notes."""
    by_kind: dict[_Kind, list[Machine]] = defaultdict(list)
    notes: list[str] = []
    for machine in found:
        if machine.accelerator:
            by_kind[_kind(machine)].append(machine)
        else:
            label = machine.product or f"no label {GPU_PRODUCT}"
            notes.append(
                f"node {machine.name}: {label} is no accelerator of the catalog: left out "
                "(flopwise catalog list accelerators)"
            )
    pools: list[GpuPool] = []
    for kind in sorted(by_kind):
        pool = of_object(_pool(kind, by_kind[kind], by_kind))
        if isinstance(pool, GpuPool):
            pools.append(pool)
            notes += _notes(pool, by_kind[kind])
        elif isinstance(pool, tuple):
            notes += map(str, pool)
    return Survey(pools=tuple(pools), notes=tuple(notes))


def _kind(machine: Machine) -> _Kind:
    return _Kind(
        accelerator=machine.accelerator,
        provider=machine.provider,
        region=machine.labels.get(REGION, ""),
        spot=_spot_label(machine) is not None,
        gpus=machine.gpus,
        product=machine.product,
        mig=machine.mig,
    )


def _spot_label(machine: Machine) -> tuple[str, str] | None:
    stated = ((key, value) for key, value in SPOT.items() if machine.labels.get(key) == value)
    return next(stated, None)


def _pool(kind: _Kind, found: Sequence[Machine], all_kinds: Iterable[_Kind]) -> Raw:
    alike = [other for other in all_kinds if other.accelerator == kind.accelerator]
    spec: Raw = {"accelerator": kind.accelerator, "gpusPerNode": kind.gpus}
    if len(alike) > 1:
        spec["nodeSelector"] = _selector(found, alike)
    spec["site"] = _site(kind)
    if kind.provider:
        spec["price"] = {"purchase": (Purchase.SPOT if kind.spot else Purchase.ON_DEMAND).value}
    if levels := [level for level in LEVELS if all(level in m.labels for m in found)]:
        spec["topologyLevels"] = levels
    if kind.mig:
        spec["migGeometries"] = _geometries(kind)
    name = child_name(_name(kind, alike), _POOL_NAME_CHARACTERS)
    return {"apiVersion": API_VERSION, "kind": "GpuPool", "metadata": {"name": name}, "spec": spec}


def _name(kind: _Kind, alike: Sequence[_Kind]) -> str:
    """The accelerator, and what tells the pool from others of it."""
    parts = [kind.accelerator]
    if len({other.region for other in alike}) > 1:
        parts.append(kind.region or "no-region")
    if len({other.provider for other in alike}) > 1:
        parts.append(kind.provider or "own")
    if len({other.spot for other in alike}) > 1 and kind.spot:
        parts.append("spot")
    if len({other.gpus for other in alike}) > 1:
        parts.append(f"{kind.gpus}x")
    if kind.mig and len({other.mig for other in alike}) > 1:
        parts += ["mig", *(profile.split("+")[0].replace(".", "-") for profile, _ in kind.mig)]
    if kind.product.endswith("-SHARED"):
        parts.append("shared")
    return "-".join(parts)


def _selector(found: Sequence[Machine], alike: Sequence[_Kind]) -> dict[str, str]:
    """Labels that all machines of the kind bear, and that tell them from others.

    Where only spot nodes have a label for it, that one more label gives them to the spot pool.
    """
    keys = [*PRODUCT_LABELS, *((REGION,) if _differ(alike, "region") else ())]
    if _differ(alike, "gpus") or _differ(alike, "mig"):
        keys.append(GPU_COUNT)
    spot = _spot_label(found[0])
    if _differ(alike, "spot") and spot:
        keys.append(spot[0])
    return {key: value for key in keys if (value := _common(key, found)) is not None}


def _differ(alike: Sequence[_Kind], field: str) -> bool:
    return len({getattr(kind, field) for kind in alike}) > 1


def _common(key: str, found: Sequence[Machine]) -> str | None:
    values = {machine.labels.get(key) for machine in found}
    return values.pop() if len(values) == 1 else None


def _site(kind: _Kind) -> Raw:
    if not kind.provider:
        return {"kind": "onprem", **({"region": kind.region} if kind.region else {})}
    law = next(
        (
            offer.jurisdiction
            for offer in offerings()
            if (offer.provider, offer.region) == (kind.provider, kind.region)
        ),
        "",
    )
    stated = {"provider": kind.provider, "region": kind.region, "jurisdiction": law}
    return {key: value for key, value in stated.items() if value}


def _geometries(kind: _Kind) -> list[list[str]]:
    """The geometry that all GPUs of a machine are in, where one adds up to what it advertises."""
    each = [(profile, count // kind.gpus) for profile, count in kind.mig]
    return [[profile for profile, count in each for _ in range(max(1, count))]]


def _notes(pool: GpuPool, found: Sequence[Machine]) -> Iterator[str]:
    place, spec = f"GpuPool {pool.metadata.name}", pool.spec
    counted = "1 node" if len(found) == 1 else f"{len(found)} nodes"
    yield f"{place}: {counted} of {spec.gpus_per_node} {spec.accelerator}"
    if spec.site.provider:
        purchase = spec.price.purchase if spec.price else Purchase.ON_DEMAND
        offer = find_offering(
            spec.accelerator,
            provider=spec.site.provider,
            region=spec.site.region,
            purchase=purchase,
        )
        if offer is None:
            yield f"{place}: the catalog has no {purchase} price: state price.usdPerGpuHour"
    else:
        yield f"{place}: state price and owned (what a node cost), or it is priced as if rented"
    if not spec.site.jurisdiction:
        yield f"{place}: state site.jurisdiction, if jobs ask for one"
    if _uneven(found):
        yield f"{place}: its GPUs are in several MIG geometries: state all of migGeometries"
    if not spec.topology_levels:
        yield f"{place}: no label says where its nodes lie: topologyLevels is left out"


def _uneven(found: Sequence[Machine]) -> bool:
    return any(count % machine.gpus for machine in found for _, count in machine.mig)
