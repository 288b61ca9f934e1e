"""Manifests to a problem: for each job and pool, the modes in which it can run, or why it cannot.

What the cost models know is asked here and nowhere else in the planner: throughput, layout, memory,
power and price become the numbers of a `Mode`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

from cost_models import energy, inference, training
from cost_models.accelerators import Accelerator, resolve_accelerator
from cost_models.architectures import resolve_architecture
from cost_models.prices import Purchase, find_offering, owned_usd_per_node_hour
from planner.manifests.errors import Fault, ManifestErrors
from planner.manifests.read import Manifests
from planner.manifests.schema import GpuJob, GpuPool, GpuPoolSpec, GpuQueue, Manifest
from planner.problem import (
    GPU_MILLI,
    Amounts,
    Billing,
    Demand,
    Excluded,
    Grid,
    Interruption,
    Job,
    JobKind,
    Mode,
    Node,
    Pool,
    Problem,
    Queue,
    Run,
    Site,
    Window,
    Work,
)
from planner.spot import expected_hours

GIB = 2**30
TEAM = "flopwise.dev/team"
PROJECT = "flopwise.dev/project"
SLOT_CHOICES = (3600, 1800, 900, 600, 300, 120, 60)
ROUNDING = 0.001  # of the work that rounding up to slots may add, at most
MOST_SLOTS = 20_000
EU = frozenset(  # member states, ISO 3166-1 (a pool in one of them is in the EU)
    "AT BE BG HR CY CZ DK EE FI FR DE GR HU IE IT LV LT LU MT NL PL PT RO SK SI ES SE".split()
)


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


def build(manifests: Manifests, horizon: Horizon, now: datetime) -> Built:
    """The problem that ``manifests`` state. Raises `ManifestErrors` for what cannot be planned."""
    faults = [*_faults(manifests), *_price_faults(manifests)]
    if faults:
        raise ManifestErrors(faults)
    start = horizon.start or _default_start(manifests, now)
    seconds = int(horizon.length.total_seconds())
    hourly = Grid(start=start, slot_seconds=3600, slots=max(1, math.ceil(seconds / 3600)))
    pools = tuple(_pool(p, hourly) for p in manifests.pools)
    names = _names(manifests.jobs)
    drafts = tuple(
        _job(job, names, list(zip(manifests.pools, pools, strict=True))) for job in manifests.jobs
    )
    slot = int(horizon.slot.total_seconds()) if horizon.slot else _slot_seconds(drafts, seconds)
    grid = Grid(start=start, slot_seconds=slot, slots=max(1, seconds // slot))
    pools = tuple(_pool(p, grid) for p in manifests.pools)
    jobs = tuple(_timed(d, job, grid) for d, job in zip(drafts, manifests.jobs, strict=True))
    problem = Problem(
        grid=grid,
        pools=pools,
        nodes=tuple(n for p in pools for n in _nodes(p)),
        jobs=jobs,
        queues=tuple(_queue(q) for q in manifests.queues),
    )
    return Built(problem=problem, notes=tuple(_notes(manifests)))


# -- what cannot be planned, what is not used ------------------------------------------------------


def _faults(manifests: Manifests) -> Iterator[Fault]:
    if not manifests.pools:
        yield Fault(place="manifests", message="found no GpuPool, allowed: one or more")
    if not manifests.jobs:
        yield Fault(place="manifests", message="found no GpuJob, allowed: one or more")
    for job in manifests.jobs:
        spec = job.spec
        for path, wanted in (
            ("spec.placement.maxLatencyMs", spec.placement.max_latency_ms > 0),
            ("spec.placement.dataGib", spec.placement.data_gib > 0),
            ("spec.task.gpuFraction", spec.task is not None and spec.task.gpu_fraction > 0),
            ("spec.task.migProfile", spec.task is not None and bool(spec.task.mig_profile)),
            ("spec.due", spec.inference is not None and spec.due is not None),
            ("spec.dependsOn", spec.inference is not None and bool(spec.depends_on)),
            (
                "spec.placement.together.level",
                spec.placement.together is not None
                and spec.placement.together.required
                and spec.placement.together.level != HOSTNAME,
            ),
            (
                "spec.placement.spread.level",
                spec.placement.spread is not None and spec.placement.spread.level != HOSTNAME,
            ),
        ):
            if wanted:
                yield _fault(manifests, job, path, "not planned yet (see the README's limits)")


HOSTNAME = "kubernetes.io/hostname"


def _price_faults(manifests: Manifests) -> Iterator[Fault]:
    for pool in manifests.pools:
        if _usd_per_gpu_hour(pool.spec) is None:
            where = " ".join(
                filter(None, (pool.spec.site.provider, pool.spec.site.region, _purchase(pool.spec)))
            )
            yield _fault(
                manifests,
                pool,
                "spec.price",
                f"found none, and the catalog has no offer of {pool.spec.accelerator} ({where}); "
                "allowed: usdPerGpuHour",
            )


def _fault(manifests: Manifests, manifest: Manifest, path: str, message: str) -> Fault:
    return Fault(place=str(manifests.origin(manifest)), path=path, message=message)


def _notes(manifests: Manifests) -> Iterator[str]:
    for queue in manifests.queues:
        spec = queue.spec
        used = [
            name
            for name, stated in (
                ("guaranteed", spec.guaranteed),
                ("lendable", spec.lendable),
            )
            if stated
        ]
        if used:
            yield (
                f"GpuQueue {queue.metadata.name}: {' and '.join(used)} not planned yet: "
                "limits, budgets and priorities hold, shares do not"
            )


# -- time ------------------------------------------------------------------------------------------


def _default_start(manifests: Manifests, now: datetime) -> datetime:
    named = [j.spec.earliest_start for j in manifests.jobs if j.spec.earliest_start]
    return min(named, default=now.astimezone(UTC).replace(minute=0, second=0, microsecond=0))


def _slot_seconds(drafts: Sequence[Job], seconds: int) -> int:
    """The coarsest slot that lengthens batch work by `ROUNDING` at most, all modes counted."""
    hours = [
        (m.gpus, d.need.amount / (m.replicas * m.work_per_replica_hour))
        for d in drafts
        if isinstance(d.need, Work)
        for m in d.modes
    ]
    hours = [(gpus, h) for gpus, h in hours if h <= seconds / 3600]
    total = math.fsum(gpus * h for gpus, h in hours)
    for slot in SLOT_CHOICES:
        if slot > seconds:
            continue
        rounded = math.fsum(gpus * math.ceil(h * 3600 / slot - 1e-6) * slot / 3600 for gpus, h in hours)
        if rounded - total <= ROUNDING * total:
            return slot
        if seconds / slot * 2 > MOST_SLOTS:
            return slot
    return SLOT_CHOICES[-1]


# -- pools -----------------------------------------------------------------------------------------


def _purchase(spec: GpuPoolSpec) -> Purchase:
    if spec.price is not None:
        return spec.price.purchase
    return Purchase.OWNED if spec.owned is not None else Purchase.ON_DEMAND


def _billing(spec: GpuPoolSpec) -> Billing:
    if _purchase(spec) in (Purchase.OWNED, Purchase.RESERVED):
        return Billing.SUNK
    return Billing(spec.price.billing.value) if spec.price is not None else Billing.NODE


def _usd_per_gpu_hour(spec: GpuPoolSpec) -> float | None:
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
        purchase=_purchase(spec),
    )
    return offer.usd_per_gpu_hour if offer is not None else None


def _pool(manifest: GpuPool, grid: Grid) -> Pool:
    spec = manifest.spec
    accelerator = resolve_accelerator(spec.accelerator)
    usd = (_usd_per_gpu_hour(spec) or 0.0) * spec.gpus_per_node
    windows = tuple(
        Window(
            start=a, end=b, nodes=n, usd_per_node_hour=usd, marginal_usd_per_node_hour=0.0
        )
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
        purchase=_purchase(spec).value,
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
    for a, b in zip(inside, inside[1:], strict=False):
        begin, end = grid.time(a), grid.time(b)
        here = [w for w in spec.availability if w.from_ < end and begin < w.to]
        covered = sum(
            (min(w.to, end) - max(w.from_, begin)).total_seconds() for w in here
        ) >= (end - begin).total_seconds() - 1e-6
        nodes = min([w.nodes for w in here] + ([] if covered else [base]))
        if found and found[-1][2] == nodes:
            found[-1] = (found[-1][0], b, nodes)
        else:
            found.append((a, b, nodes))
    return found


def _nodes(pool: Pool) -> Iterator[Node]:
    for i in range(max((w.nodes for w in pool.windows), default=0)):
        yield Node(name=f"{pool.name}-{i}", pool=pool.name, index=i, capacity=pool.capacity)


def _queue(manifest: GpuQueue) -> Queue:
    spec = manifest.spec
    return Queue(
        name=manifest.metadata.name,
        parent=spec.parent,
        weight=spec.weight,
        guaranteed=tuple(sorted(spec.guaranteed.items())),
        lendable=tuple(sorted(spec.lendable.items())) if spec.lendable else None,
        limit=tuple(sorted(spec.limit.items())),
        budget_usd_per_month=spec.budget_usd_per_month,
    )


# -- jobs ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rate:
    """What one replica does on a pool: the estimate in the planner's terms."""

    gpus: int  # of the whole gang; of one replica of a service
    work_per_gpu_hour: float
    flops_per_work: float
    watts_per_gpu: float
    layout: str
    measured: bool = False  # its hours are stated: savings of state are in them


def _names(jobs: Sequence[GpuJob]) -> dict[tuple[str, str], str]:
    """A name for each (namespace, name), with the namespace where it tells twins apart."""
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.metadata.name] = counts.get(job.metadata.name, 0) + 1
    return {
        (m.namespace, m.name): m.name if counts[m.name] == 1 else f"{m.namespace}/{m.name}"
        for m in (job.metadata for job in jobs)
    }


def _job(
    manifest: GpuJob, names: dict[tuple[str, str], str], pools: Sequence[tuple[GpuPool, Pool]]
) -> Job:
    """The job without its times, which need the grid."""
    spec, metadata = manifest.spec, manifest.metadata
    modes: list[Mode] = []
    excluded: list[Excluded] = []
    for pool_manifest, pool in pools:
        for found in _modes(manifest, pool_manifest, pool):
            if isinstance(found, Excluded):
                excluded.append(found)
            else:
                modes.append(found)
    need: Work | Demand
    if spec.inference is not None:
        need, kind = Demand(per_slot=(), min_replicas=spec.inference.min_replicas), JobKind.INFERENCE
    elif spec.training is not None:
        unit = "tokens" if spec.training.tokens else "flops"
        need = Work(amount=spec.training.tokens or spec.training.flops or 0.0, unit=unit)
        kind = JobKind.TRAINING
    else:
        need, kind = Work(amount=1.0, unit="runs"), JobKind.TASK
    return Job(
        name=names[metadata.namespace, metadata.name],
        namespace=metadata.namespace,
        need=need,
        modes=tuple(modes),
        queue=spec.queue,
        team=metadata.labels.get(TEAM, spec.queue),
        project=metadata.labels.get(PROJECT, ""),
        kind=kind,
        tier=spec.priority,
        deadline=0,
        lateness_usd_per_hour=spec.lateness_usd_per_hour,
        required=spec.required,
        preemptible=spec.preemptible,
        interruption=Interruption(
            checkpoint_seconds=spec.checkpoint.interval_seconds,
            save_seconds=spec.checkpoint.save_seconds,
            restart_seconds=spec.checkpoint.restart_seconds,
        ),
        max_cost_usd=spec.max_cost_usd,
        after=tuple(names[metadata.namespace, name] for name in spec.depends_on),
        excluded=tuple(excluded),
        run=Run(
            image=spec.run.image,
            entrypoint=spec.run.entrypoint,
            runtime_env_json=json.dumps(spec.run.runtime_env, sort_keys=True),
            pod_template_json=json.dumps(spec.run.pod_template, sort_keys=True),
        ),
    )


def _modes(manifest: GpuJob, pool_manifest: GpuPool, pool: Pool) -> Iterator[Mode | Excluded]:
    if (barred := _barred(manifest, pool)) is not None:
        yield barred
        return
    for rate in _rates(manifest, pool):
        if isinstance(rate, Excluded):
            yield rate
        else:
            yield _mode(manifest, pool_manifest, pool, rate)


def _barred(manifest: GpuJob, pool: Pool) -> Excluded | None:
    """Why the job may not use the pool, whatever it could do there."""
    wanted = manifest.spec.placement
    where = pool.site.jurisdiction
    there = {where, "EU"} if where in EU else {where}
    if wanted.jurisdictions and not there & set(wanted.jurisdictions):
        said = where or "not stated"
        allowed = ", ".join(wanted.jurisdictions)
        return _no(pool, "jurisdiction", f"its jurisdiction is {said}, allowed: {allowed}")
    if wanted.accelerators and pool.accelerator not in wanted.accelerators:
        return _no(pool, "accelerator", f"{pool.accelerator} is not among those it names")
    if wanted.pools and pool.name not in wanted.pools:
        return _no(pool, "pool", "not among the pools it names")
    if not manifest.spec.preemptible and pool.interruptions_per_hour > 0:
        return _no(pool, "preemptible", "its nodes can be taken away, and the job may not be stopped")
    if manifest.spec.task is not None:
        task = manifest.spec.task
        if pool.accelerator not in task.hours:
            return _no(pool, "accelerator", f"no hours are stated for {pool.accelerator}")
        if task.gpu_memory_gib * GIB > pool.capacity.gpu_memory_bytes:
            has = pool.capacity.gpu_memory_bytes / GIB
            return _no(pool, "memory", f"needs {task.gpu_memory_gib:g} GiB a GPU, has {has:.1f}")
    return None


def _no(pool: Pool, reason: str, message: str) -> Excluded:
    return Excluded(pool=pool.name, reason=reason, message=message)


def _rates(manifest: GpuJob, pool: Pool) -> Iterator[_Rate | Excluded]:
    spec = manifest.spec
    accelerator = resolve_accelerator(pool.accelerator)
    if spec.task is not None:
        gpus = spec.task.replicas * spec.task.gpus
        yield _Rate(
            gpus=gpus,
            work_per_gpu_hour=1 / (spec.task.hours[pool.accelerator] * gpus),
            flops_per_work=0.0,
            watts_per_gpu=energy.watts_at_load(accelerator, TASK_UTILISATION),
            layout="",
            measured=True,
        )
    elif spec.training is not None:
        most = max(spec.training.max_gpus, spec.training.gpus)
        for gpus in _counts(spec.training.gpus, most):
            yield _training_rate(manifest, pool, accelerator, gpus)
    else:
        yield _serving_rate(manifest, pool, accelerator)


TASK_UTILISATION = 0.7  # of the power range, where nothing is known of the work


def _counts(least: int, most: int) -> list[int]:
    """GPU counts of an elastic job: doublings of the least, and the most."""
    counts = [least]
    while counts[-1] * 2 < most:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == most else [*counts, most]


_estimate_training: Callable[..., training.TrainingEstimate | training.DoesNotFit] = cache(
    training.estimate_training
)
_estimate_inference: Callable[..., inference.InferenceEstimate | training.DoesNotFit] = cache(
    inference.estimate_inference
)


def _training_rate(
    manifest: GpuJob, pool: Pool, accelerator: Accelerator, gpus: int
) -> _Rate | Excluded:
    spec = manifest.spec.training
    assert spec is not None
    if gpus > pool.gpus_per_node and gpus % pool.gpus_per_node:
        return _no(pool, "layout", f"{gpus} GPUs are no whole nodes of {pool.gpus_per_node}")
    if spec.model is None:
        flops = training.sustained_flops_per_second_per_gpu(accelerator, spec.precision)
        if not flops:
            return _no(pool, "precision", f"{pool.accelerator} does not compute in {spec.precision}")
        watts = energy.watts_at_load(accelerator, training.TRAINING_UTILISATION)
        return _Rate(
            gpus=gpus, work_per_gpu_hour=flops * 3600, flops_per_work=1.0, watts_per_gpu=watts, layout=""
        )
    architecture = resolve_architecture(spec.model)
    made = _estimate_training(
        architecture,
        accelerator,
        method=spec.method,
        sequence_length=spec.sequence_length,
        precision=spec.precision,
        gpus=gpus,
        gpus_per_node=pool.gpus_per_node,
    )
    measured = spec.throughput.get(pool.accelerator)
    if isinstance(made, training.DoesNotFit):
        if measured is None:
            return _no(pool, "memory", made.message)
        watts = energy.watts_at_load(accelerator, training.TRAINING_UTILISATION)
        layout = ""
    else:
        watts, layout = made.watts_per_gpu, made.layout
        measured = measured or made.tokens_per_second_per_gpu
    return _Rate(
        gpus=gpus,
        work_per_gpu_hour=measured * 3600,
        flops_per_work=architecture.training_flops_per_token(spec.sequence_length, spec.method),
        watts_per_gpu=watts,
        layout=layout,
    )


def _serving_rate(manifest: GpuJob, pool: Pool, accelerator: Accelerator) -> _Rate | Excluded:
    spec = manifest.spec.inference
    assert spec is not None
    made = _estimate_inference(
        resolve_architecture(spec.model),
        accelerator,
        precision=spec.precision,
        prompt_tokens=spec.prompt_tokens,
        output_tokens=spec.output_tokens,
        ttft_ms=spec.objective.ttft_ms,
        tpot_ms=spec.objective.tpot_ms,
        percentile=spec.objective.percentile,
        gpus_per_node=pool.gpus_per_node,
    )
    if isinstance(made, training.DoesNotFit):
        return _no(pool, "memory" if made.needed_gib else "objective", made.message)
    return _Rate(
        gpus=made.gpus_per_replica,
        work_per_gpu_hour=made.requests_per_second_per_replica / made.gpus_per_replica * 3600,
        flops_per_work=made.flops_per_request,
        watts_per_gpu=made.watts_per_gpu,
        layout=made.layout,
    )


def _mode(manifest: GpuJob, pool_manifest: GpuPool, pool: Pool, rate: _Rate) -> Mode:
    spec = manifest.spec
    replicas, amounts = _gang(manifest, pool, rate)
    gpus = amounts.gpu_milli / GPU_MILLI
    power = pool_manifest.spec.power
    watts = rate.watts_per_gpu * gpus * (power.pue if power else 1.0)
    list_usd = pool.windows[0].usd_per_node_hour / pool.gpus_per_node * gpus
    energy_usd = energy.usd_per_hour(watts, power.usd_per_kwh) if power else 0.0
    sunk = pool.billing is Billing.SUNK
    owned = pool.purchase == Purchase.OWNED
    money = (energy_usd if owned else 0.0) if sunk else list_usd
    full = list_usd + (energy_usd if owned else 0.0)
    together, spread = spec.placement.together, spec.placement.spread
    return Mode(
        pool=pool.name,
        replicas=replicas,
        amounts=amounts,
        work_per_replica_hour=_slowed(manifest, pool, rate, replicas, gpus),
        usd_per_replica_hour=money,
        full_usd_per_replica_hour=full,
        watts_per_replica=watts,
        flops_per_work=rate.flops_per_work,
        layout=rate.layout,
        together=together.level if together else "",
        together_required=together.required if together else False,
        spread=spread.level if spread else "",
    )


def _gang(manifest: GpuJob, pool: Pool, rate: _Rate) -> tuple[int, Amounts]:
    """Replicas, and what each takes of a node."""
    task = manifest.spec.task
    memory = round(task.gpu_memory_gib * GIB) if task else 0
    if task is not None:
        milli = round(task.gpu_fraction * GPU_MILLI) if task.gpu_fraction else task.gpus * GPU_MILLI
        return task.replicas, Amounts(
            gpu_milli=0 if task.mig_profile else milli,
            cpu_milli=round(task.cpus * 1000) if pool.capacity.cpu_milli else 0,
            memory_bytes=round(task.memory_gib * GIB) if pool.capacity.memory_bytes else 0,
            gpu_memory_bytes=memory,
            mig=((task.mig_profile, 1),) if task.mig_profile else (),
        )
    each = min(rate.gpus, pool.gpus_per_node)
    return rate.gpus // each, Amounts(
        gpu_milli=each * GPU_MILLI,
        cpu_milli=pool.capacity.cpu_milli * each // pool.gpus_per_node,  # its share of the node
        memory_bytes=pool.capacity.memory_bytes * each // pool.gpus_per_node,
    )


def _slowed(manifest: GpuJob, pool: Pool, rate: _Rate, replicas: int, gpus: float) -> float:
    """Work of one replica in an hour, with what saving state and interruptions take."""
    spec = manifest.spec
    plain = rate.work_per_gpu_hour * gpus
    if spec.inference is not None:
        lost = pool.interruptions_per_hour * (
            pool.startup_seconds + spec.checkpoint.restart_seconds
        )
        return plain * max(0.01, 1 - lost / 3600)
    amount = 1.0 if spec.task else float(
        (spec.training.tokens or spec.training.flops or 0.0) if spec.training else 0.0
    )
    hours = amount / (plain * replicas)
    longer = expected_hours(
        hours,
        interruptions_per_hour=pool.interruptions_per_hour * replicas,
        checkpoint_seconds=spec.checkpoint.interval_seconds,
        save_seconds=0.0 if rate.measured else spec.checkpoint.save_seconds,
        restart_seconds=pool.startup_seconds + spec.checkpoint.restart_seconds,
    )
    return plain * hours / longer


def _timed(draft: Job, manifest: GpuJob, grid: Grid) -> Job:
    """The job on the grid: times in slots, demand by slot, and the default price of leaving it out."""
    spec = manifest.spec
    release = max(0, grid.ceil(spec.earliest_start)) if spec.earliest_start else 0
    deadline = min(grid.slots, grid.floor(spec.deadline)) if spec.deadline else grid.slots
    need, modes = draft.need, draft.modes
    if isinstance(need, Demand):
        need = replace(need, per_slot=_demand(manifest, grid))
        span = need.per_slot[release : max(release, deadline)]
        peak = max(span, default=0.0)
        modes = tuple(
            replace(
                m,
                replicas=max(need.min_replicas, math.ceil(peak / m.work_per_replica_hour - 1e-9), 1),
            )
            for m in modes
        )
    job = replace(
        draft,
        need=need,
        modes=modes,
        release=release,
        deadline=max(0, deadline),
        due=max(0, grid.floor(spec.due)) if spec.due else None,
    )
    unplaced = spec.unplaced_usd
    return replace(job, unplaced_usd=_dearest(job, grid) if unplaced is None else unplaced)


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


def _dearest(job: Job, grid: Grid) -> float:
    """A price of leaving the job out that is above running it in its dearest mode, as late as may be."""
    def run_usd(mode: Mode) -> float:
        if isinstance(job.need, Demand):
            hours = (job.deadline - job.release) * grid.slot_hours
        else:
            hours = job.need.amount / (mode.replicas * mode.work_per_replica_hour)
        return hours * mode.replicas * mode.full_usd_per_replica_hour

    late = 0.0
    if job.due is not None:
        late = max(0, job.deadline - job.due) * grid.slot_hours * job.lateness_usd_per_hour
    return 1.25 * (max(map(run_usd, job.modes), default=0.0) + late) + 1.0
