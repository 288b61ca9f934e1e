"""Pools, nodes and queues of a problem, from their manifests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from cost_models.accelerators import resolve_accelerator
from cost_models.prices import Purchase, find_offering, owned_usd_per_node_hour
from planner.manifests.schema import GpuPool, GpuPoolSpec, GpuQueue, Preempts
from planner.problem import GPU_MILLI, Amounts, Billing, Grid, Node, Pool, Queue, Site, Window

GIB = 2**30


def purchase_of(spec: GpuPoolSpec) -> Purchase:
    """How the pool's hardware is had."""
    if spec.price is not None:
        return spec.price.purchase
    return Purchase.OWNED if spec.owned is not None else Purchase.ON_DEMAND


def _billing(spec: GpuPoolSpec) -> Billing:
    if purchase_of(spec) in (Purchase.OWNED, Purchase.RESERVED):
        return Billing.SUNK
    return Billing(spec.price.billing.value) if spec.price is not None else Billing.NODE


def usd_per_gpu_hour(spec: GpuPoolSpec) -> float | None:
    """List price, or the annuity of owned hardware; energy apart."""
    if spec.price is not None and spec.price.usd_per_gpu_hour is not None:
        return spec.price.usd_per_gpu_hour
    if spec.owned is not None:
        owned = spec.owned
        usd = owned_usd_per_node_hour(
            owned.capex_usd_per_node, owned.life_years, owned.salvage_fraction
        )
        return usd / spec.gpus_per_node
    offer = find_offering(
        spec.accelerator,
        provider=spec.site.provider,
        region=spec.site.region,
        purchase=purchase_of(spec),
    )
    return offer.usd_per_gpu_hour if offer is not None else None


def pool_of(manifest: GpuPool, grid: Grid) -> Pool:
    """The pool on the grid, with the price that it states or the catalog has."""
    spec = manifest.spec
    accelerator = resolve_accelerator(spec.accelerator)
    usd = (usd_per_gpu_hour(spec) or 0.0) * spec.gpus_per_node
    windows = tuple(
        Window(start=a, end=b, nodes=n, usd_per_node_hour=usd, marginal_usd_per_node_hour=0.0)
        for a, b, n in _node_counts(spec, grid)
    )
    return Pool(
        name=manifest.metadata.name,
        accelerator=spec.accelerator,
        gpus_per_node=spec.gpus_per_node,
        capacity=Amounts(
            gpu_milli=spec.gpus_per_node * GPU_MILLI,
            cpu_milli=round(spec.cpus_per_node * 1000),
            memory_bytes=round(spec.memory_gib_per_node * GIB),
            gpu_memory_bytes=round(accelerator.memory_gib * GIB),
        ),
        windows=windows,
        billing=_billing(spec),
        purchase=purchase_of(spec).value,
        site=Site(
            kind=spec.site.kind.value,
            provider=spec.site.provider,
            region=spec.site.region,
            jurisdiction=spec.site.jurisdiction,
        ),
        startup_seconds=spec.startup_seconds,
        interruptions_per_hour=spec.interruptions_per_hour,
        grams_co2_per_kwh=spec.power.grams_co2_per_kwh if spec.power else 0.0,
        topology_levels=spec.topology_levels,
        mig_geometries=spec.mig_geometries,
    )


def _node_counts(spec: GpuPoolSpec, grid: Grid) -> list[tuple[int, int, int]]:
    """(first slot, end slot, nodes): in a slot that a change cuts, the fewer."""
    base = spec.nodes or 0
    edges = {0, grid.slots}
    for window in spec.availability:
        for at in (window.from_, window.to):
            edges |= {grid.floor(at), grid.ceil(at)}
    inside = sorted(e for e in edges if 0 <= e <= grid.slots)
    found: list[tuple[int, int, int]] = []
    for a, b in pairwise(inside):
        begin, end = grid.time(a), grid.time(b)
        here = [w for w in spec.availability if w.from_ < end and begin < w.to]
        covered = (
            sum((min(w.to, end) - max(w.from_, begin)).total_seconds() for w in here)
            >= (end - begin).total_seconds() - 1e-6
        )
        nodes = min([w.nodes for w in here] + ([] if covered else [base]))
        if found and found[-1][2] == nodes:
            found[-1] = (found[-1][0], b, nodes)
        else:
            found.append((a, b, nodes))
    return found


def nodes_of(manifest: GpuPool, pool: Pool) -> Iterator[Node]:
    """The pool's nodes, named by their number, in the domains that its manifest states."""
    sizes = manifest.spec.topology.nodes_per_domain
    levels = [level.rsplit("/")[-1] for level in pool.topology_levels]
    for i in range(max((w.nodes for w in pool.windows), default=0)):
        yield Node(
            name=f"{pool.name}-{i}",
            pool=pool.name,
            index=i,
            capacity=pool.capacity,
            topology=tuple(
                f"{pool.name}-{level}-{i // size if size else 0}"
                for level, size in zip(levels, sizes, strict=False)
            ),
        )


def queue_of(manifest: GpuQueue) -> Queue:
    """The queue."""
    spec = manifest.spec
    return Queue(
        name=manifest.metadata.name,
        parent=spec.parent,
        weight=spec.weight,
        guaranteed=tuple(sorted(spec.guaranteed.items())),
        lendable=tuple(sorted(spec.lendable.items())) if spec.lendable else None,
        reclaims=spec.preemption.reclaim is Preempts.ANY,
        limit=tuple(sorted(spec.limit.items())),
        budget_usd_per_month=spec.budget_usd_per_month,
    )
