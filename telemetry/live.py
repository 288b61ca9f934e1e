"""What the GPUs do now: the newest sample of each, by GPU, node and workload, with what it costs.

A GPU whose last sample is older than a gap is *stale*: it is shown, and its figures are not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import fsum

from telemetry.idle import BY_NAME, IdleGpu, Rule, idle
from telemetry.samples import GpuSample, Health
from telemetry.usage import activity_fraction, is_allocated
from telemetry.uses import Owner, Use

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNow:
    """One owner's GPU, MIG instance, or share of one. A measure is None where it is not known."""

    node: str
    uuid: str
    name: str
    owner: Owner
    allocated: bool
    share_fraction: float
    age: timedelta  # of the sample
    stale: bool
    active_fraction: float | None
    tensor_fraction: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    watts: float | None
    celsius: float | None
    health: Health | None
    usd_per_hour: float | None  # of the share
    idle_for: timedelta | None  # None: it works, or not for the window yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The GPUs of one node, or of one workload, together."""

    name: str
    team: str  # of a workload
    gpus: float  # shares add up
    allocated_gpus: float
    idle_gpus: float
    active_fraction: float | None  # mean over those that are known
    tensor_fraction: float | None
    watts: float | None
    usd_per_hour: float | None
    idle_usd_per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """Everything at one instant."""

    time: datetime
    gpus: tuple[GpuNow, ...]
    nodes: tuple[Group, ...]
    workloads: tuple[Group, ...]
    total: Group


def now_of(
    uses: Iterable[Use],
    *,
    idle_watts: BY_NAME,
    usd_per_gpu_hour: BY_NAME,
    rule: Rule | None = None,
    now: datetime | None = None,
) -> Now:
    """The view of uses that come in order of time and reach back at least as long as the window.

    ``now`` is by default the newest sample's time.
    """
    rule = rule or Rule()
    seen = tuple(uses)
    now = now or max((use.sample.time for use in seen), default=EPOCH)
    found = idle(seen, idle_watts=idle_watts, usd_per_gpu_hour=usd_per_gpu_hour, rule=rule, now=now)
    lazy = {(one.node, one.uuid, one.owner): one for one in found.gpus}
    gpus = tuple(
        _gpu(use, now, rule, usd_per_gpu_hour, lazy.get(_key(use))) for use in _newest(seen)
    )
    return Now(
        time=now,
        gpus=gpus,
        nodes=_groups(gpus, lambda gpu: (gpu.node, "")),
        workloads=_groups([gpu for gpu in gpus if gpu.allocated], _workload),
        total=_group("", "", gpus),
    )


def _key(use: Use) -> tuple[str, str, Owner]:
    return use.sample.node, use.sample.uuid, use.owner


def _newest(uses: Sequence[Use]) -> list[Use]:
    """Of each GPU, the uses of its newest instant; a GPU that is partitioned is its instances."""
    ticks: dict[tuple[str, str], dict[Owner, Use]] = {}
    for use in uses:
        gpu = use.sample.node, use.sample.uuid
        tick = ticks.setdefault(gpu, {})
        last = next(iter(tick.values()), use).sample.time
        if use.sample.time > last:
            tick.clear()
        if use.sample.time >= last:
            tick[use.owner] = use
    shown = [use for _, tick in sorted(ticks.items()) for use in tick.values()]
    whole = {(use.sample.node, use.sample.parent_uuid) for use in shown if use.sample.parent_uuid}
    return [use for use in shown if (use.sample.node, use.sample.uuid) not in whole]


def _gpu(
    use: Use, now: datetime, rule: Rule, usd_per_gpu_hour: BY_NAME, idle_gpu: IdleGpu | None
) -> GpuNow:
    sample, age = use.sample, now - use.sample.time
    stale = age > rule.longest_gap
    price = usd_per_gpu_hour(sample.name)
    shown = sample if not stale else _bare(sample)
    return GpuNow(
        node=sample.node,
        uuid=sample.uuid,
        name=sample.name,
        owner=use.owner,
        allocated=is_allocated(use),
        share_fraction=use.share_fraction,
        age=age,
        stale=stale,
        active_fraction=activity_fraction(shown),
        tensor_fraction=shown.tensor_active_fraction,
        memory_used_bytes=shown.memory_used_bytes,
        memory_total_bytes=shown.memory_total_bytes,
        watts=None if shown.power_watts is None else shown.power_watts * use.share_fraction,
        celsius=shown.temperature_celsius,
        health=shown.health,
        usd_per_hour=None if price is None else price * use.share_fraction,
        idle_for=None if idle_gpu is None else idle_gpu.until - idle_gpu.since,
    )


def _bare(sample: GpuSample) -> GpuSample:
    return GpuSample(time=sample.time, node=sample.node, uuid=sample.uuid, name=sample.name)


def _workload(gpu: GpuNow) -> tuple[str, str]:
    owner = gpu.owner
    name = owner.job or owner.pod or owner.team or owner.project or "(a process)"
    return (f"{owner.namespace}/{name}" if owner.namespace else name), owner.team


def _groups(
    gpus: Iterable[GpuNow], name_of: Callable[[GpuNow], tuple[str, str]]
) -> tuple[Group, ...]:
    members: dict[tuple[str, str], list[GpuNow]] = defaultdict(list)
    for gpu in gpus:
        members[name_of(gpu)].append(gpu)
    return tuple(_group(*name, found) for name, found in sorted(members.items()))


def _group(name: str, team: str, gpus: Sequence[GpuNow]) -> Group:
    idle_ones = [gpu for gpu in gpus if gpu.idle_for is not None]
    return Group(
        name=name,
        team=team,
        gpus=fsum(gpu.share_fraction for gpu in gpus),
        allocated_gpus=fsum(gpu.share_fraction for gpu in gpus if gpu.allocated),
        idle_gpus=fsum(gpu.share_fraction for gpu in idle_ones),
        active_fraction=_mean((gpu.active_fraction, gpu.share_fraction) for gpu in gpus),
        tensor_fraction=_mean((gpu.tensor_fraction, gpu.share_fraction) for gpu in gpus),
        watts=_sum(gpu.watts for gpu in gpus),
        usd_per_hour=_sum(gpu.usd_per_hour for gpu in gpus),
        idle_usd_per_hour=fsum(gpu.usd_per_hour or 0.0 for gpu in idle_ones),
    )


def _mean(weighted: Iterable[tuple[float | None, float]]) -> float | None:
    known = [(value, weight) for value, weight in weighted if value is not None and weight]
    if not known:
        return None
    return fsum(value * weight for value, weight in known) / fsum(weight for _, weight in known)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fsum(known) if known else None
