"""Samples to usage: how long each GPU was watched, how long it worked, what energy it took.

Between two samples of a GPU lies an interval; the later sample tells what went on in it, because
NVML's utilisation looks back. An interval longer than ``longest_gap`` is a gap: nothing is assumed
about it, so neither its hours, nor its work, nor its energy count.

``usage`` is of samples that nobody is known to own, GPU by GPU. ``usage_by`` is of uses: it goes
through them once, keeps two ticks of each GPU, and sums up by any of `By`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from math import fsum
from operator import attrgetter
from statistics import median_low

from telemetry.samples import GpuSample
from telemetry.uses import NOBODY, Owner, Use

USUAL_INTERVALS = 3  # by default, a gap is an interval longer than this many usual ones
LONGEST_GAP = timedelta(minutes=3)  # what most exporters' intervals are well below


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUsage:
    """What one GPU did from its first sample to its last, gaps left out."""

    node: str
    uuid: str
    name: str
    first: datetime
    last: datetime
    observed_gpu_hours: float
    active_gpu_hours: float  # in which it ran any kernel
    mean_utilisation_fraction: float | None  # over the hours in which it is known
    energy_joules: float | None  # None where neither counter nor power is known
    gap_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Interval:
    before: GpuSample
    after: GpuSample

    @property
    def length(self) -> timedelta:
        return self.after.time - self.before.time

    @property
    def hours(self) -> float:
        return self.length / timedelta(hours=1)

    def energy_joules(self) -> float | None:
        """By the counter; one that fell has restarted, and counts from there. Else by power."""
        began, ended = self.before.energy_joules, self.after.energy_joules
        if began is not None and ended is not None:
            return ended - began if ended >= began else ended
        if self.before.power_watts is not None and self.after.power_watts is not None:
            mean_watts = (self.before.power_watts + self.after.power_watts) / 2
            return mean_watts * self.length.total_seconds()
        return None


def usage(
    samples: Iterable[GpuSample], longest_gap: timedelta | None = None
) -> tuple[GpuUsage, ...]:
    """The usage of each GPU, by node and UUID.

    Samples may come in any order; of two with one time, the later in order counts.
    ``longest_gap``: by default three times the GPU's usual interval.
    """
    by_gpu: dict[tuple[str, str], dict[datetime, GpuSample]] = defaultdict(dict)
    for sample in samples:
        by_gpu[sample.node, sample.uuid][sample.time] = sample
    return tuple(
        _usage([at[time] for time in sorted(at)], longest_gap) for _, at in sorted(by_gpu.items())
    )


def _usage(samples: Sequence[GpuSample], longest_gap: timedelta | None) -> GpuUsage:
    intervals = [_Interval(before=one, after=other) for one, other in pairwise(samples)]
    limit = longest_gap if longest_gap is not None else _default_gap(intervals)
    watched = [interval for interval in intervals if interval.length <= limit]
    last = samples[-1]
    return GpuUsage(
        node=last.node,
        uuid=last.uuid,
        name=last.name,
        first=samples[0].time,
        last=last.time,
        observed_gpu_hours=fsum(interval.hours for interval in watched),
        active_gpu_hours=fsum(i.hours for i in watched if i.after.utilisation_fraction),
        mean_utilisation_fraction=_mean_utilisation(watched),
        energy_joules=_sum_known(interval.energy_joules() for interval in watched),
        gap_hours=fsum(interval.hours for interval in intervals if interval.length > limit),
    )


def _default_gap(intervals: Sequence[_Interval]) -> timedelta:
    if not intervals:
        return timedelta()
    return USUAL_INTERVALS * median_low(interval.length for interval in intervals)


def _mean_utilisation(intervals: Iterable[_Interval]) -> float | None:
    known = [
        (interval.hours, interval.after.utilisation_fraction)
        for interval in intervals
        if interval.after.utilisation_fraction is not None
    ]
    if not known:
        return None
    return fsum(h * fraction for h, fraction in known) / fsum(h for h, _ in known)


def _sum_known(amounts: Iterable[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return fsum(known) if known else None


class By(StrEnum):
    """What usage is summed up by."""

    NODE = "node"
    GPU = "gpu"  # the UUID of the whole GPU
    NAMESPACE = "namespace"
    POD = "pod"
    JOB = "job"
    TEAM = "team"
    MODEL = "model"
    PROJECT = "project"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What some GPUs did for someone. A share of a GPU counts as that share of its hours.

    Hours that are allocated are active or idle where it is known which; hours of GPUs that nobody
    has are observed only. A MIG instance is the part of its GPU that its memory is.
    """

    of: tuple[str, ...]  # what it was summed up by, empty text where that is not known
    observed_gpu_hours: float = 0.0
    allocated_gpu_hours: float = 0.0
    active_gpu_hours: float = 0.0  # allocated, and some kernel ran
    idle_gpu_hours: float = 0.0  # allocated, and none did
    utilised_gpu_hours: float = 0.0  # hours x utilisation
    tensor_gpu_hours: float | None = None  # hours x activity of the tensor pipes
    achieved_flops: float | None = None  # what the hardware did at most, not useful FLOPs
    energy_joules: float | None = None
    gap_gpu_hours: float = 0.0  # between samples too far apart to tell what went on
    samples: int = 0


@dataclass(frozen=True, slots=True)
class _Part:
    """Someone's part of one physical GPU at one tick."""

    use: Use
    fraction: float


Tick = Mapping[tuple[str, Owner], Use]  # one physical GPU at one instant, by UUID and owner


def usage_by(
    uses: Iterable[Use], by: Sequence[By], longest_gap: timedelta = LONGEST_GAP
) -> tuple[Usage, ...]:
    """Usage summed up by ``by``, in order of those.

    The uses of each GPU come in order of time; one that is earlier than what came before it is left
    out, so that a file read twice counts once. What lies in a gap is told to whoever had the GPU on
    both sides of it.
    """
    key = _key(by)
    sums: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for before, after in _intervals(uses):
        length = _time(after) - _time(before)
        hours = length / timedelta(hours=1)
        if length > longest_gap:
            for part in _kept(before, after):
                _add(sums[key(part.use)], {"gap_gpu_hours": hours * part.fraction})
            continue
        whole = _Interval(before=_whole(before), after=_whole(after))
        for part in _parts(after):
            _add(sums[key(part.use)], _amounts(part, hours, whole))
    return tuple(_usage_of(of, found) for of, found in sorted(sums.items()))


def is_allocated(use: Use) -> bool:
    """Whether someone has the GPU: a known owner, or a process that has it open."""
    return use.owner != NOBODY or bool(use.sample.pids) or bool(use.sample.processes)


def activity_fraction(sample: GpuSample) -> float | None:
    """Of the last moments in which something ran; of a MIG instance as far as profiling tells."""
    if sample.utilisation_fraction is not None:
        return sample.utilisation_fraction
    return sample.sm_active_fraction


def _intervals(uses: Iterable[Use]) -> Iterator[tuple[Tick, Tick]]:
    """Two ticks, one after the other, of one physical GPU."""
    before: dict[tuple[str, str], Tick] = {}
    now: dict[tuple[str, str], dict[tuple[str, Owner], Use]] = {}
    for use in uses:
        sample = use.sample
        gpu = sample.node, sample.parent_uuid or sample.uuid
        tick = now.get(gpu)
        if tick is None or sample.time > _time(tick):
            if tick is not None:
                if gpu in before:
                    yield before[gpu], tick
                before[gpu] = tick
            now[gpu] = {(sample.uuid, use.owner): use}
        elif sample.time == _time(tick):
            tick[sample.uuid, use.owner] = use
    for gpu, last in now.items():
        if gpu in before:
            yield before[gpu], last


def _time(tick: Tick) -> datetime:
    return next(iter(tick.values())).sample.time


def _whole(tick: Tick) -> GpuSample:
    """The sample that knows the power: of the GPU itself, if there is one."""
    found = (use.sample for use in tick.values() if use.sample.parent_uuid is None)
    return next(found, next(iter(tick.values())).sample)


def _parts(tick: Tick) -> list[_Part]:
    """Who had how much of a physical GPU; what is left is nobody's."""
    whole = _whole(tick)
    instances = [use for use in tick.values() if use.sample.parent_uuid is not None]
    slices = {use.sample.uuid for use in instances}
    if instances:
        parts = [
            _Part(use, use.share_fraction * _slice(use.sample, whole, len(slices)))
            for use in instances
        ]
    else:
        parts = [_Part(use, use.share_fraction) for use in tick.values()]
    left = 1.0 - fsum(part.fraction for part in parts)
    if left > 1e-9:
        free = GpuSample(time=whole.time, node=whole.node, uuid=whole.uuid, name=whole.name)
        parts.append(_Part(Use(sample=free), left))
    return parts


def _slice(instance: GpuSample, whole: GpuSample, instances: int) -> float:
    if not instance.memory_total_bytes or not whole.memory_total_bytes or whole is instance:
        return 1.0 / instances
    return min(1.0, instance.memory_total_bytes / whole.memory_total_bytes)


def _kept(before: Tick, after: Tick) -> Iterator[_Part]:
    """Who had the GPU before a gap and after it; the rest of the gap is nobody's."""
    then = {(part.use.sample.uuid, part.use.owner): part.fraction for part in _parts(before)}
    left, nobody = 1.0, None
    for part in _parts(after):
        if part.use.owner == NOBODY:
            nobody = part.use
            continue
        fraction = min(part.fraction, then.get((part.use.sample.uuid, part.use.owner), 0.0))
        left -= fraction
        if fraction:
            yield _Part(part.use, fraction)
    if left > 1e-9:
        yield _Part(nobody or Use(sample=_whole(after)), left)


def _amounts(part: _Part, hours: float, whole: _Interval) -> dict[str, float | None]:
    sample, held = part.use.sample, is_allocated(part.use)
    gpu_hours, active = hours * part.fraction, activity_fraction(sample)
    tensor, tflops = sample.tensor_active_fraction, sample.tensor_tflops
    joules = whole.energy_joules()
    return {
        "observed_gpu_hours": gpu_hours,
        "allocated_gpu_hours": gpu_hours if held else 0.0,
        "active_gpu_hours": gpu_hours if held and active else 0.0,
        "idle_gpu_hours": gpu_hours if held and active == 0 else 0.0,
        "utilised_gpu_hours": gpu_hours * (active or 0.0),
        "tensor_gpu_hours": None if tensor is None else gpu_hours * tensor,
        "achieved_flops": None if tflops is None else _flops(part, hours, tflops),
        "energy_joules": None if joules is None else joules * part.fraction,
        "samples": 1,
    }


def _flops(part: _Part, hours: float, tflops: float) -> float:
    """An instance's rate is its own already; of a whole GPU the owner's share counts."""
    share = part.use.share_fraction if part.use.sample.parent_uuid else part.fraction
    return tflops * 1e12 * hours * 3600 * share


def _add(to: dict[str, float], amounts: Mapping[str, float | None]) -> None:
    for name, amount in amounts.items():
        if amount is not None:
            to[name] = to.get(name, 0.0) + amount


def _usage_of(of: tuple[str, ...], found: Mapping[str, float]) -> Usage:
    return Usage(
        of=of,
        observed_gpu_hours=found.get("observed_gpu_hours", 0.0),
        allocated_gpu_hours=found.get("allocated_gpu_hours", 0.0),
        active_gpu_hours=found.get("active_gpu_hours", 0.0),
        idle_gpu_hours=found.get("idle_gpu_hours", 0.0),
        utilised_gpu_hours=found.get("utilised_gpu_hours", 0.0),
        tensor_gpu_hours=found.get("tensor_gpu_hours"),
        achieved_flops=found.get("achieved_flops"),
        energy_joules=found.get("energy_joules"),
        gap_gpu_hours=found.get("gap_gpu_hours", 0.0),
        samples=int(found.get("samples", 0)),
    )


def _key(by: Sequence[By]) -> Callable[[Use], tuple[str, ...]]:
    """The values that a use is summed up by."""
    values = [_VALUES[one] for one in by]
    return lambda use: tuple(value(use) for value in values)


_VALUES: Mapping[By, Callable[[Use], str]] = {
    By.NODE: attrgetter("sample.node"),
    By.GPU: lambda use: use.sample.parent_uuid or use.sample.uuid,
    **{one: attrgetter(f"owner.{one}") for one in By if one not in (By.NODE, By.GPU)},
}
