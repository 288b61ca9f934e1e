"""Manifests to a problem: the fleet, the jobs with their modes, on one grid of time."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from cost_models.calibration import NONE, Calibration
from planner.collector import paused
from planner.fleet import nodes_of, pool_of, purchase_of, queue_of, usd_per_gpu_hour
from planner.guarantees import with_guarantees
from planner.manifests.errors import Fault, ManifestErrors
from planner.manifests.read import Manifests
from planner.manifests.schema import GpuJob, GpuPool, GpuQueue, Manifest, Preempts
from planner.mixes import FEW_NODES, MOST_JOBS, offered
from planner.near import Near, UnknownPlace, no_price
from planner.options import Place, draft, place_of
from planner.problem import Billing, Demand, Grid, Job, Mode, Pool, Problem, Work, hours_of
from planner.quotas import too_many_keepers

SLOT_CHOICES = (3600, 1800, 900, 600, 300, 120, 60)
ROUNDING = 0.001  # of the work that rounding up to slots may add, at most
MOST_SLOTS = 20_000
MOST_NODES = 1_000_000  # of all pools: each becomes a value of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """The time to plan over."""

    start: datetime | None = None  # None: the earliest start that a job names, else this hour
    length: timedelta = timedelta(hours=168)
    slot: timedelta | None = None  # None: the coarsest that rounds lengths up by 0.1 % at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A problem, and what its manifests state that planning does not use yet."""

    problem: Problem
    notes: tuple[str, ...] = ()


@paused()
def build(
    manifests: Manifests, horizon: Horizon, now: datetime, calibration: Calibration = NONE
) -> Built:
    """The problem that ``manifests`` state. Raises `ManifestErrors` for what cannot be planned.

    ``calibration`` corrects modelled throughput by what was measured.
    """
    near = Near(manifests.pools)
    faults = [*_faults(manifests), *_price_faults(manifests), *_size_faults(manifests)]
    faults += [*_quota_faults(manifests), *_place_faults(manifests, near)]
    if faults:
        raise ManifestErrors(faults)
    start = horizon.start or _default_start(manifests, now)
    seconds = max(1, int(horizon.length.total_seconds()))
    hourly = Grid(start=start, slot_seconds=3600, slots=max(1, math.ceil(seconds / 3600)))
    pools = tuple(pool_of(p, hourly) for p in manifests.pools)
    names = _names(manifests.jobs)
    places = tuple(
        place_of(manifest, pool, calibration)
        for manifest, pool in zip(manifests.pools, pools, strict=True)
    )
    jobs = [draft(job, names, places, near) for job in manifests.jobs]
    slot = int(horizon.slot.total_seconds()) if horizon.slot else _slot_seconds(jobs, seconds)
    grid = Grid(start=start, slot_seconds=slot, slots=max(1, seconds // slot))
    pools = tuple(pool_of(p, grid) for p in manifests.pools)
    by_name = {p.name: p for p in pools}
    for i, manifest in enumerate(manifests.jobs):
        jobs[i] = _timed(jobs[i], manifest, grid, by_name)
    nodes = tuple(n for m, p in zip(manifests.pools, pools, strict=True) for n in nodes_of(m, p))
    if len(jobs) <= MOST_JOBS and len(nodes) <= FEW_NODES:
        jobs = [replace(job, mixes=offered(job, by_name, grid.slot_hours)) for job in jobs]
    problem = Problem(
        grid=grid,
        pools=pools,
        nodes=nodes,
        jobs=tuple(jobs),
        queues=tuple(queue_of(q) for q in manifests.queues),
    )
    return Built(problem=with_guarantees(problem), notes=tuple(_notes(manifests)))


# -- what cannot be planned, what is not used ------------------------------------------------------


def _faults(manifests: Manifests) -> Iterator[Fault]:
    if not manifests.pools:
        yield Fault(place="manifests", message="found no GpuPool, allowed: one or more")
    if not manifests.jobs:
        yield Fault(place="manifests", message="found no GpuJob, allowed: one or more")
    for job in manifests.jobs:
        spec = job.spec
        for path, wanted in (
            ("spec.due", spec.inference is not None and spec.due is not None),
            ("spec.dependsOn", spec.inference is not None and bool(spec.depends_on)),
        ):
            if wanted:
                yield _fault(manifests, job, path, "not planned yet (see the README's limits)")


def _place_faults(manifests: Manifests, near: Near) -> Iterator[Fault]:
    """Places that are none, and places of data that have no price of egress."""
    for job in manifests.jobs:
        wanted = job.spec.placement
        if not wanted.near:
            continue
        try:
            links = near.links(wanted.near)
        except UnknownPlace as error:
            yield _fault(manifests, job, "spec.placement.near", str(error))
            continue
        if wanted.data_gib and any(link.usd_per_gib is None for link in links.values()):
            origin = next(link.of for link in links.values())
            yield _fault(manifests, job, "spec.placement.dataGib", no_price(origin))


def _price_faults(manifests: Manifests) -> Iterator[Fault]:
    for pool in manifests.pools:
        if usd_per_gpu_hour(pool.spec) is None:
            where = " ".join(
                filter(
                    None, (pool.spec.site.provider, pool.spec.site.region, purchase_of(pool.spec))
                )
            )
            yield _fault(
                manifests,
                pool,
                "spec.price",
                f"found none, and the catalog has no offer of {pool.spec.accelerator} ({where}); "
                "allowed: usdPerGpuHour",
            )


def _size_faults(manifests: Manifests) -> Iterator[Fault]:
    """The largest pool, where all of them together have more nodes than can be planned."""
    most = [_most_nodes(pool) for pool in manifests.pools]
    if sum(most) > MOST_NODES:
        nodes, pool = max(zip(most, manifests.pools, strict=True), key=lambda each: each[0])
        allowed = f"pools of {MOST_NODES:,} nodes together at most"
        yield _fault(manifests, pool, "spec.nodes", f"found {nodes:,}, allowed: {allowed}")


def _quota_faults(manifests: Manifests) -> Iterator[Fault]:
    """Guarantees that cannot be kept, and more lent than is guaranteed."""
    below: dict[str, list[GpuQueue]] = defaultdict(list)
    for queue in manifests.queues:
        below[queue.spec.parent].append(queue)
    for queue in manifests.queues:
        yield from _lent_faults(manifests, queue)
        for accelerator, gpus in queue.spec.guaranteed.items():
            under = below[queue.metadata.name]
            needed = sum(_guaranteed(below, child, accelerator) for child in under)
            if needed > gpus:
                names = ", ".join(child.metadata.name for child in under)
                allowed = f"the {needed} that queues under it ({names}) are guaranteed, or more"
                found = f"found {gpus} {accelerator}, allowed: {allowed}"
                yield _fault(manifests, queue, "spec.guaranteed", found)
    yield from _fleet_faults(manifests, below)
    if too_many := too_many_keepers([queue_of(queue) for queue in manifests.queues]):
        keeper = next(q for q in manifests.queues if q.spec.lendable)
        yield _fault(manifests, keeper, "spec.lendable", f"found {too_many}, allowed: fewer")


def _lent_faults(manifests: Manifests, queue: GpuQueue) -> Iterator[Fault]:
    for accelerator, lent in queue.spec.lendable.items():
        gpus = queue.spec.guaranteed.get(accelerator, 0)
        if lent > gpus:
            allowed = f"its guaranteed {gpus} at most"
            found = f"found {lent} {accelerator}, allowed: {allowed}"
            yield _fault(manifests, queue, "spec.lendable", found)


def _fleet_faults(manifests: Manifests, below: Mapping[str, Sequence[GpuQueue]]) -> Iterator[Fault]:
    """Where the roots are guaranteed more than there is, the root that is guaranteed the most."""
    roots = below.get("", ())
    for accelerator in sorted({a for q in manifests.queues for a in q.spec.guaranteed}):
        have = sum(
            _most_nodes(pool) * pool.spec.gpus_per_node
            for pool in manifests.pools
            if pool.spec.accelerator == accelerator
        )
        each = [_guaranteed(below, root, accelerator) for root in roots]
        if sum(each) > have:
            gpus, root = max(zip(each, roots, strict=True), key=lambda pair: pair[0])
            others = f", {sum(each)} with the other roots" if gpus < sum(each) else ""
            allowed = f"together the {have} of the fleet at most"
            found = f"found {gpus} {accelerator}{others}, allowed: {allowed}"
            yield _fault(manifests, root, "spec.guaranteed", found)


def _guaranteed(below: Mapping[str, Sequence[GpuQueue]], queue: GpuQueue, accelerator: str) -> int:
    """GPUs that the queue, or all under it together, are guaranteed."""
    under = below.get(queue.metadata.name, ())
    children = sum(_guaranteed(below, child, accelerator) for child in under)
    return queue.spec.guaranteed.get(accelerator, children)


def _most_nodes(pool: GpuPool) -> int:
    """Nodes of the pool at most, at any time."""
    return max([pool.spec.nodes or 0, *(w.nodes for w in pool.spec.availability)])


def _fault(manifests: Manifests, manifest: Manifest, path: str, message: str) -> Fault:
    place = f"{manifests.origin(manifest)} ({manifest.kind} {manifest.metadata.name})"
    return Fault(place=place, path=path, message=message)


def _notes(manifests: Manifests) -> Iterator[str]:
    for queue in manifests.queues:
        reclaim = queue.spec.preemption.reclaim
        if queue.spec.guaranteed and reclaim is not Preempts.ANY:
            yield (
                f"GpuQueue {queue.metadata.name}: preemption.reclaim is {reclaim.value}: its "
                "guarantee puts no job before those of other queues; priority decides"
            )


def job_on(
    manifest: GpuJob,
    grid: Grid,
    names: Mapping[tuple[str, str], str],
    places: Sequence[Place],
    near: Near,
) -> Job:
    """One job among pools that are on ``grid``, as `build` makes each; services stay in one mode.

    Raises `UnknownPlace` where ``placement.near`` is none.
    """
    pools = {place.pool.name: place.pool for place in places}
    return _timed(draft(manifest, names, places, near), manifest, grid, pools)


# -- time ------------------------------------------------------------------------------------------


def _default_start(manifests: Manifests, now: datetime) -> datetime:
    """The earliest start that a job names; this hour where none does or a deadline precedes it."""
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    first = min(
        (j.spec.earliest_start for j in manifests.jobs if j.spec.earliest_start), default=hour
    )
    deadlines = [j.spec.deadline for j in manifests.jobs if j.spec.deadline]
    return min(hour, first) if any(d <= first for d in deadlines) else first


def _slot_seconds(drafts: Sequence[Job], seconds: int) -> int:
    """The coarsest slot that lengthens batch work by `ROUNDING` at most, all modes counted."""
    batch = [(d, m) for d in drafts if isinstance(d.need, Work) for m in d.modes]
    hours = np.fromiter((hours_of(d, m) for d, m in batch), dtype=np.float64, count=len(batch))
    gpus = np.fromiter((m.gpus for _, m in batch), dtype=np.float64, count=len(batch))
    gpus[hours > seconds / 3600] = 0.0  # it can never end
    hours = np.minimum(hours, seconds / 3600)
    total = float(gpus @ hours)
    for slot in SLOT_CHOICES:
        if slot > seconds:
            continue
        rounded = float(gpus @ np.ceil(hours * 3600 / slot - 1e-6)) * slot / 3600
        if rounded - total <= ROUNDING * total:
            return slot
        if seconds / slot * 2 > MOST_SLOTS:
            return slot
    return min(SLOT_CHOICES[-1], seconds)


def _timed(job: Job, manifest: GpuJob, grid: Grid, pools: Mapping[str, Pool]) -> Job:
    """The job on the grid: times in slots, demand by slot, the price of leaving it out."""
    spec = manifest.spec
    release = max(0, grid.ceil(spec.earliest_start)) if spec.earliest_start else 0
    deadline = max(0, min(grid.slots, grid.floor(spec.deadline))) if spec.deadline else grid.slots
    need, modes = job.need, job.modes
    if isinstance(need, Demand):
        need = replace(need, per_slot=_demand(manifest, grid))
        span = need.per_slot[release : max(release, deadline)]
        peak = max(span, default=0.0)
        modes = tuple(
            replace(
                m,
                replicas=max(
                    need.min_replicas, math.ceil(peak / m.work_per_replica_hour - 1e-9), 1
                ),
            )
            for m in modes
        )
    due = grid.floor(spec.due) if spec.due else None
    unplaced = spec.unplaced_usd
    if unplaced is None:
        late = 0 if due is None else max(0, deadline - due)
        late_usd = late * grid.slot_hours * job.lateness_usd_per_hour
        dearest = _dearest(job, modes, (deadline - release) * grid.slot_hours, grid, pools)
        unplaced = 1.25 * (dearest + late_usd) + 1.0
    return replace(
        job,
        need=need,
        modes=modes,
        release=release,
        deadline=deadline,
        due=due,
        unplaced_usd=unplaced,
    )


def _demand(manifest: GpuJob, grid: Grid) -> tuple[float, ...]:
    """Requests an hour in each slot: of the hours that a slot touches, the busiest."""
    spec = manifest.spec.inference
    assert spec is not None
    trace, daily = spec.trace_requests_per_second, spec.hourly_requests_per_second
    if not trace and not daily:
        return (spec.requests_per_second * 3600,) * grid.slots
    first = grid.start.astimezone(UTC)

    def rate(hour: int) -> float:
        if trace:
            return trace[hour % len(trace)]
        return daily[hour % 24]

    offset = 0.0 if trace else first.hour + first.minute / 60 + first.second / 3600
    found = []
    for t in range(grid.slots):
        begin = offset + t * grid.slot_hours
        last = max(math.floor(begin), math.ceil(begin + grid.slot_hours - 1e-9) - 1)
        found.append(max(rate(h) for h in range(math.floor(begin + 1e-9), last + 1)) * 3600)
    return tuple(found)


def _dearest(
    job: Job, modes: Sequence[Mode], up_hours: float, grid: Grid, pools: Mapping[str, Pool]
) -> float:
    """What running the job in its dearest mode costs; a service is up for ``up_hours``.

    On a pool billed by node, each replica may have to pay for a node of its own, in whole slots.
    """

    def run_usd(mode: Mode) -> float:
        hours = up_hours if isinstance(job.need, Demand) else hours_of(job, mode)
        pool, alone = pools[mode.pool], 1.0
        if pool.billing is Billing.NODE:
            hours = grid.slots_for(hours) * grid.slot_hours + pool.startup_seconds / 3600
            alone = pool.gpus_per_node / (pool.gpu_share(mode.amounts) or 1.0)
        usd = hours * mode.replicas * mode.full_usd_per_replica_hour * alone
        return usd + mode.egress_usd

    return max(map(run_usd, modes), default=0.0)


def _names(jobs: Sequence[GpuJob]) -> dict[tuple[str, str], str]:
    """A name for each (namespace, name), with the namespace where it tells twins apart.

    Each is new: the text of a manifest, kept, would hold on to the memory all around it.
    """
    counts = Counter(job.metadata.name for job in jobs)
    return {
        (m.namespace, m.name): _copy(m.name) if counts[m.name] == 1 else f"{m.namespace}/{m.name}"
        for m in (job.metadata for job in jobs)
    }


def _copy(text: str) -> str:
    return text.encode().decode()
