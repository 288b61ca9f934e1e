"""Job x pool: the modes in which a job can run there, or why it cannot.

What the cost models know is asked here and nowhere else in the planner: throughput, layout, memory
and power become the numbers of a `Mode`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache

from cost_models import energy, inference, training
from cost_models.accelerators import Accelerator, resolve_accelerator
from cost_models.architectures import resolve_architecture
from cost_models.calibration import NONE, Calibration, Subject
from cost_models.prices import Purchase
from planner.fleet import GIB
from planner.manifests.schema import (
    Checkpoint,
    GpuJob,
    GpuPool,
    InferenceSpec,
    PlacementSpec,
    Power,
    RunSpec,
    TaskSpec,
    TrainingSpec,
)
from planner.near import Link, Near
from planner.problem import (
    GPU_MILLI,
    Amounts,
    Billing,
    Demand,
    Excluded,
    Interruption,
    Job,
    JobKind,
    Mode,
    Pool,
    Run,
    Work,
    mig_memory_bytes,
)
from planner.spot import expected_hours
from planner.topology import HOSTNAME

TEAM = "flopwise.dev/team"
PROJECT = "flopwise.dev/project"
SERVE = "Serve"  # the method of a service, where training has its own
TASK_UTILISATION = 0.7  # of the power range, where nothing is known of the work
LEAST_HOURS = 1e-9  # shorter than anything that can happen to it
MOST_HOURS = 1e6  # longer than this, interruptions never let it end
_MEMBERS = "AT BE BG HR CY CZ DK EE FI FR DE GR HU IE IT LV LT LU MT NL PL PT RO SK SI ES SE"
EU = frozenset(_MEMBERS.split())  # ISO 3166-1: a pool in one of them is in the EU


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rate:
    """What one replica does on a pool: the estimate in the planner's terms."""

    gpus: int  # of the whole gang; of one replica of a service
    work_per_gpu_hour: float
    flops_per_work: float
    watts_per_gpu: float
    layout: str
    measured: bool = False  # its hours are stated: savings of state are in them


@dataclass(frozen=True, slots=True)
class Place:
    """A pool as jobs find it: what is the same for all of them is worked out once."""

    pool: Pool
    power: Power | None
    accelerator: Accelerator
    task_watts: float  # of a GPU at opaque work
    calibration: Calibration = NONE  # what corrects the modelled throughput
    _known: dict[tuple[float, float], tuple[float, float, float]] = field(default_factory=dict)

    def hourly(self, watts_per_gpu: float, gpus: float) -> tuple[float, float, float]:
        """Watts at the meter, and the money and the full cost of an hour, of ``gpus`` GPUs."""
        key = watts_per_gpu, gpus
        if key not in self._known:
            self._known[key] = _hourly(self.pool, self.power, watts_per_gpu, gpus)
        return self._known[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """How fast the model says a job runs on a pool, before any calibration."""

    subject: Subject
    unit: str  # of work: tokens, flops, requests
    work_per_gpu_second: float
    flops_per_work: float


def promise(manifest: GpuJob, pool: Pool, gpus: int) -> Promise | None:
    """What is promised of a training job on ``gpus``, or of a service; None of anything else.

    Hours and throughput that a manifest states are no promise of ours.
    """
    spec, accelerator = manifest.spec, resolve_accelerator(pool.accelerator)
    if spec.training is not None:
        modelled = spec.training.model_copy(update={"throughput": {}})
        rate = _training_rate(modelled, pool, accelerator, gpus)
        subject, unit = _training_subject(modelled, pool), "tokens" if modelled.tokens else "flops"
    elif spec.inference is not None:
        rate = _serving_rate(spec.inference, pool, accelerator)
        subject, unit = _serving_subject(spec.inference, pool), "requests"
    else:
        return None
    if isinstance(rate, Excluded):
        return None
    return Promise(
        subject=subject,
        unit=unit,
        work_per_gpu_second=rate.work_per_gpu_hour / 3600,
        flops_per_work=rate.flops_per_work,
    )


def place_of(manifest: GpuPool, pool: Pool, calibration: Calibration = NONE) -> Place:
    """What `draft` is to know of a pool."""
    accelerator = resolve_accelerator(pool.accelerator)
    watts = energy.watts_at_load(accelerator, TASK_UTILISATION)
    return Place(pool, manifest.spec.power, accelerator, watts, calibration)


def draft(
    manifest: GpuJob,
    names: Mapping[tuple[str, str], str],
    places: Sequence[Place],
    near: Near,
) -> Job:
    """The job without its times, which need the grid. Raises `UnknownPlace`."""
    spec, metadata = manifest.spec, manifest.metadata
    links = near.links(spec.placement.near) if spec.placement.near else {}
    modes: list[Mode] = []
    excluded: list[Excluded] = []
    for place in places:
        for found in _modes(manifest, place, links.get(place.pool.name)):
            if isinstance(found, Excluded):
                excluded.append(found)
            else:
                modes.append(found)
    need: Work | Demand
    if spec.inference is not None:
        need, kind = (
            Demand(per_slot=(), min_replicas=spec.inference.min_replicas),
            JobKind.INFERENCE,
        )
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
        interruption=_interruption(spec.checkpoint),
        switches=spec.checkpoint.switches,
        max_cost_usd=spec.max_cost_usd,
        after=tuple(names[metadata.namespace, name] for name in spec.depends_on),
        excluded=tuple(excluded),
        run=_run(spec.run) if spec.run.model_fields_set else _NO_RUN,
    )


_NO_RUN = Run()


def _run(spec: RunSpec) -> Run:
    return Run(
        image=spec.image,
        entrypoint=spec.entrypoint,
        runtime_env_json=json.dumps(spec.runtime_env, sort_keys=True),
        pod_template_json=json.dumps(spec.pod_template, sort_keys=True),
    )


@lru_cache(maxsize=10_000)
def _interruption(checkpoint: Checkpoint) -> Interruption:
    return Interruption(
        checkpoint_seconds=checkpoint.interval_seconds,
        save_seconds=checkpoint.save_seconds,
        restart_seconds=checkpoint.restart_seconds,
    )


def _modes(manifest: GpuJob, place: Place, link: Link | None) -> Iterator[Mode | Excluded]:
    barred = _barred(manifest, place.pool) or _too_far(manifest.spec.placement, place.pool, link)
    if barred is not None:
        yield barred
        return
    data_gib, usd_per_gib = manifest.spec.placement.data_gib, link.usd_per_gib if link else None
    brought_usd = data_gib * (usd_per_gib or 0.0)
    for rate in _rates(manifest, place):
        if isinstance(rate, Excluded):
            yield rate
            continue
        mode = _mode(manifest, place, rate, brought_usd)
        if mode.work_per_replica_hour > 0:
            yield mode
        else:
            yield _no(place.pool, "interruptions", "it would be interrupted too often ever to end")


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
        return _no(
            pool, "preemptible", "its nodes can be taken away, and the job may not be stopped"
        )
    if level := _unknown_level(wanted, pool):
        return _no(pool, "topology", f"where its nodes are at level {level} is not stated")
    return _task_barred(manifest.spec.task, pool) if manifest.spec.task is not None else None


def _too_far(wanted: PlacementSpec, pool: Pool, link: Link | None) -> Excluded | None:
    """Why the pool is none for the job's users."""
    if link is None or not wanted.max_latency_ms:
        return None
    if link.round_trip_ms is None:
        return _no(pool, "latency", f"how far it is from {link.of} is not known: {link.missing}")
    if link.round_trip_ms > wanted.max_latency_ms:
        far, most = f"{link.round_trip_ms:.0f} ms", f"{wanted.max_latency_ms:g} ms"
        return _no(pool, "latency", f"about {far} from {link.of} and back, allowed: {most}")
    return None


def _task_barred(task: TaskSpec, pool: Pool) -> Excluded | None:
    """Why the pool's GPUs are none for the task."""
    if pool.accelerator not in task.hours:
        return _no(pool, "accelerator", f"no hours are stated for {pool.accelerator}")
    has = pool.capacity.gpu_memory_bytes
    if task.mig_profile:
        if not any(task.mig_profile in g for g in pool.mig_geometries):
            return _no(pool, "mig", f"no geometry of it has an instance of {task.mig_profile}")
        has = mig_memory_bytes(task.mig_profile)
    if task.gpu_memory_gib * GIB > has:
        where = "an instance" if task.mig_profile else "a GPU"
        message = f"needs {task.gpu_memory_gib:g} GiB {where}, has {has / GIB:.1f}"
        return _no(pool, "memory", message)
    return None


def _unknown_level(wanted: PlacementSpec, pool: Pool) -> str:
    """A topology level that the job must have and the pool has not, or empty."""
    if not (wanted.together or wanted.spread):
        return ""
    known = {HOSTNAME, *pool.topology_levels}
    if wanted.together and wanted.together.required and wanted.together.level not in known:
        return wanted.together.level
    return wanted.spread.level if wanted.spread and wanted.spread.level not in known else ""


def _no(pool: Pool, reason: str, message: str) -> Excluded:
    return _excluded(pool=pool.name, reason=reason, message=message)


_excluded = lru_cache(maxsize=10_000)(Excluded)  # equal ones are one, as thousands of jobs have it


def _rates(manifest: GpuJob, place: Place) -> Iterable[_Rate | Excluded]:
    spec, pool, accelerator = manifest.spec, place.pool, place.accelerator
    if spec.task is not None:
        return _task_rates(spec.task, place)
    if spec.training is not None:
        training_spec = spec.training
        most = max(training_spec.max_gpus, training_spec.gpus)
        counts = _counts(training_spec.gpus, most)
        rates = (_training_rate(training_spec, pool, accelerator, gpus) for gpus in counts)
        if pool.accelerator in training_spec.throughput:
            return rates
        subject = _training_subject(training_spec, pool)
        return (_calibrated(rate, place.calibration, subject) for rate in rates)
    assert spec.inference is not None
    rate = _serving_rate(spec.inference, pool, accelerator)
    return (_calibrated(rate, place.calibration, _serving_subject(spec.inference, pool)),)


def _calibrated(
    rate: _Rate | Excluded, calibration: Calibration, subject: Subject
) -> _Rate | Excluded:
    """The rate as far as measurements correct it."""
    if isinstance(rate, Excluded) or not calibration.measurements:
        return rate
    factor = calibration.factor(subject).value
    return replace(rate, work_per_gpu_hour=rate.work_per_gpu_hour * factor)


def _training_subject(spec: TrainingSpec, pool: Pool) -> Subject:
    return Subject(
        model=spec.model or "",
        accelerator=pool.accelerator,
        precision=spec.precision,
        method=spec.method,
    )


def _serving_subject(spec: InferenceSpec, pool: Pool) -> Subject:
    return Subject(
        model=spec.model, accelerator=pool.accelerator, precision=spec.precision, method=SERVE
    )


def _task_rates(task: TaskSpec, place: Place) -> Iterator[_Rate]:
    """Its hours as they are stated, and for r times the replicas those hours / r / e^log2 r.

    They are those of what it takes, be that less than a GPU.
    """
    each = place.pool.gpu_share(_task_amounts(task, place.pool))
    hours = max(LEAST_HOURS, task.hours[place.pool.accelerator])
    for replicas in _counts(task.replicas, max(task.replicas, task.max_replicas)):
        kept = task.doubling_efficiency ** math.log2(replicas / task.replicas)
        yield _Rate(
            gpus=replicas * task.gpus,
            work_per_gpu_hour=kept / (hours * task.replicas * each),
            flops_per_work=0.0,
            watts_per_gpu=place.task_watts,
            layout="",
            measured=True,
        )


def _counts(least: int, most: int) -> list[int]:
    """Sizes of an elastic job: doublings of the least, and the most."""
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
    spec: TrainingSpec, pool: Pool, accelerator: Accelerator, gpus: int
) -> _Rate | Excluded:
    if gpus > pool.gpus_per_node and gpus % pool.gpus_per_node:
        return _no(pool, "layout", f"{gpus} GPUs are no whole nodes of {pool.gpus_per_node}")
    if spec.model is None:
        flops = training.sustained_flops_per_second_per_gpu(accelerator, spec.precision)
        if not flops:
            return _no(
                pool, "precision", f"{pool.accelerator} does not compute in {spec.precision}"
            )
        watts = energy.watts_at_load(accelerator, training.TRAINING_UTILISATION)
        return _Rate(
            gpus=gpus,
            work_per_gpu_hour=flops * 3600,
            flops_per_work=1.0,
            watts_per_gpu=watts,
            layout="",
        )
    architecture = resolve_architecture(spec.model)
    made = _modelled(spec, pool, accelerator, gpus)
    measured = spec.throughput.get(pool.accelerator)
    if isinstance(made, training.DoesNotFit):
        if measured is None:
            return _no(pool, "memory", made.message)
        watts = energy.watts_at_load(accelerator, training.TRAINING_UTILISATION)
        tokens_per_second, layout = measured, ""
    else:
        watts, layout = made.watts_per_gpu, made.layout
        tokens_per_second = made.tokens_per_second_per_gpu
        if measured is not None:
            least = _modelled(spec, pool, accelerator, spec.gpus)
            tokens_per_second = measured * _scaling(made, least)
    return _Rate(
        gpus=gpus,
        work_per_gpu_hour=tokens_per_second * 3600,
        flops_per_work=architecture.training_flops_per_token(spec.sequence_length, spec.method),
        watts_per_gpu=watts,
        layout=layout,
    )


def _modelled(
    spec: TrainingSpec, pool: Pool, accelerator: Accelerator, gpus: int
) -> training.TrainingEstimate | training.DoesNotFit:
    assert spec.model is not None
    return _estimate_training(
        resolve_architecture(spec.model),
        accelerator,
        method=spec.method,
        sequence_length=spec.sequence_length,
        precision=spec.precision,
        gpus=gpus,
        gpus_per_node=pool.gpus_per_node,
    )


def _scaling(
    made: training.TrainingEstimate, least: training.TrainingEstimate | training.DoesNotFit
) -> float:
    """What the model says of a GPU among more, over what it says where it was measured."""
    if isinstance(least, training.DoesNotFit):
        return 1.0
    return made.tokens_per_second_per_gpu / least.tokens_per_second_per_gpu


def _serving_rate(spec: InferenceSpec, pool: Pool, accelerator: Accelerator) -> _Rate | Excluded:
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


def _hourly(
    pool: Pool, power: Power | None, watts_per_gpu: float, gpus: float
) -> tuple[float, float, float]:
    """`Place.hourly`: the price of the GPUs, or where they are owned their energy."""
    watts = watts_per_gpu * gpus * (power.pue if power else 1.0)
    list_usd = pool.windows[0].usd_per_node_hour / pool.gpus_per_node * gpus
    energy_usd = energy.usd_per_hour(watts, power.usd_per_kwh) if power else 0.0
    sunk = pool.billing is Billing.SUNK
    owned = pool.purchase == Purchase.OWNED
    money = (energy_usd if owned else 0.0) if sunk else list_usd
    return watts, money, list_usd + (energy_usd if owned else 0.0)


def _mode(manifest: GpuJob, place: Place, rate: _Rate, egress_usd: float) -> Mode:
    spec, pool = manifest.spec, place.pool
    replicas, amounts = _gang(manifest, pool, rate)
    gpus = pool.gpu_share(amounts)
    watts, money, full = place.hourly(rate.watts_per_gpu, gpus)
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
        egress_usd=egress_usd,
    )


def _gang(manifest: GpuJob, pool: Pool, rate: _Rate) -> tuple[int, Amounts]:
    """Replicas, and what each takes of a node."""
    task = manifest.spec.task
    if task is not None:
        return rate.gpus // task.gpus, _task_amounts(task, pool)
    each = min(rate.gpus, pool.gpus_per_node)
    return rate.gpus // each, _amounts(
        gpu_milli=each * GPU_MILLI,
        cpu_milli=pool.capacity.cpu_milli * each // pool.gpus_per_node,  # its share of the node
        memory_bytes=pool.capacity.memory_bytes * each // pool.gpus_per_node,
    )


def _task_amounts(task: TaskSpec, pool: Pool) -> Amounts:
    """What a replica of a task takes; a share of nothing is a thousandth."""
    share = max(1, round(task.gpu_fraction * GPU_MILLI))
    milli = share if task.gpu_fraction else task.gpus * GPU_MILLI
    return _amounts(
        gpu_milli=0 if task.mig_profile else milli,
        cpu_milli=round(task.cpus * 1000) if pool.capacity.cpu_milli else 0,
        memory_bytes=round(task.memory_gib * GIB) if pool.capacity.memory_bytes else 0,
        gpu_memory_bytes=0 if task.mig_profile else round(task.gpu_memory_gib * GIB),
        mig=((task.mig_profile, 1),) if task.mig_profile else (),
    )


_amounts = lru_cache(maxsize=10_000)(Amounts)  # equal ones are one


def _slowed(manifest: GpuJob, pool: Pool, rate: _Rate, replicas: int, gpus: float) -> float:
    """Work of one replica in an hour, with what saving state and interruptions take."""
    spec = manifest.spec
    plain = rate.work_per_gpu_hour * gpus
    if rate.measured and not pool.interruptions_per_hour:
        return plain
    if spec.inference is not None:
        lost = pool.interruptions_per_hour * (
            pool.startup_seconds + spec.checkpoint.restart_seconds
        )
        return plain * max(0.01, 1 - lost / 3600)
    amount = (
        1.0
        if spec.task
        else float((spec.training.tokens or spec.training.flops or 0.0) if spec.training else 0.0)
    )
    hours = max(LEAST_HOURS, amount / (plain * replicas))
    longer = expected_hours(
        hours,
        interruptions_per_hour=pool.interruptions_per_hour * replicas,
        checkpoint_seconds=spec.checkpoint.interval_seconds,
        save_seconds=0.0 if rate.measured else spec.checkpoint.save_seconds,
        restart_seconds=pool.startup_seconds + spec.checkpoint.restart_seconds,
    )
    endless = pool.interruptions_per_hour > 0 and longer > MOST_HOURS
    return 0.0 if endless else plain * hours / longer
