"""Samples to usage: how long each GPU was watched, how long it worked, what energy it took.

Between two samples of a GPU lies an interval; the later sample tells what went on in it, because
NVML's utilisation looks back, and whose it was. Of a gap (``between`` says what is one) nothing is
assumed, so neither its hours, nor its work, nor its energy count. The history sums up by the same
rules: the numbers are the same.

``usage`` is of samples that nobody is known to own, GPU by GPU. ``usage_by`` is of uses: it goes
through them once, keeps two ticks of each GPU and its day's long intervals, and sums up by any of
`By`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from math import fsum
from operator import attrgetter

from telemetry import between
from telemetry.samples import GpuSample
from telemetry.uses import NOBODY, Owner, Use


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
        """By the counter, else by power; None where neither is known."""
        before, after = self.before, self.after
        return between.joules(
            (before.energy_joules, after.energy_joules),
            (before.power_watts, after.power_watts),
            self.length.total_seconds(),
        )


def usage(
    samples: Iterable[GpuSample], longest_gap: timedelta | None = None
) -> tuple[GpuUsage, ...]:
    """The usage of each GPU, by node and UUID.

    Samples may come in any order; of two with one time, the later in order counts.
    ``longest_gap``: by default as `between` has it.
    """
    by_gpu: dict[tuple[str, str], dict[datetime, GpuSample]] = defaultdict(dict)
    for sample in samples:
        by_gpu[sample.node, sample.uuid][sample.time] = sample
    return tuple(
        _usage([at[time] for time in sorted(at)], longest_gap) for _, at in sorted(by_gpu.items())
    )


def _usage(samples: Sequence[GpuSample], longest_gap: timedelta | None) -> GpuUsage:
    pairs = (_Interval(before=one, after=other) for one, other in pairwise(samples))
    intervals = [one for one in pairs if not between.is_away(one.before.time, one.after.time)]
    longest = _longest_by_day(intervals)
    is_gap = [
        one.length
        > (longest[between.day_of(one.after.time)] if longest_gap is None else longest_gap)
        for one in intervals
    ]
    watched = [one for one, gap in zip(intervals, is_gap, strict=True) if not gap]
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
        gap_hours=fsum(one.hours for one, gap in zip(intervals, is_gap, strict=True) if gap),
    )


def _longest_by_day(intervals: Sequence[_Interval]) -> dict[date, timedelta]:
    lengths: dict[date, list[timedelta]] = defaultdict(list)
    for one in intervals:
        lengths[between.day_of(one.after.time)].append(one.length)
    return {day: between.longest(between.usual(of_day)) for day, of_day in lengths.items()}


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
    uses: Iterable[Use], by: Sequence[By], longest_gap: timedelta | None = None
) -> tuple[Usage, ...]:
    """Usage summed up by ``by``, in order of those.

    The uses of each GPU come in order of time; one that is earlier than what came before it is left
    out, so that a file read twice counts once. ``longest_gap``: by default as `between` has it.
    """
    key = _key(by)
    sums: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for before, after, is_gap in _judged(_intervals(uses), longest_gap):
        hours = (_time(after) - _time(before)) / timedelta(hours=1)
        joules = None if is_gap else _joules(before, after)
        for part in _parts(after):
            if is_gap:
                _add(sums[key(part.use)], {"gap_gpu_hours": hours * part.fraction})
            else:
                _add(sums[key(part.use)], _amounts(part, hours, joules))
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


_Judged = Iterator[tuple[Tick, Tick, bool]]  # whether it is a gap


def _judged(intervals: Iterable[tuple[Tick, Tick]], longest_gap: timedelta | None) -> _Judged:
    days: dict[tuple[str, str], _Day] = {}
    for before, after in intervals:
        if between.is_away(_time(before), _time(after)):
            continue
        if longest_gap is not None:
            yield before, after, _time(after) - _time(before) > longest_gap
            continue
        sample = next(iter(after.values())).sample
        gpu, date_ = (sample.node, sample.parent_uuid or sample.uuid), between.day_of(sample.time)
        day = days.get(gpu)
        if day is None or day.date != date_:
            yield from day.judged() if day is not None else ()
            day = days[gpu] = _Day(date_)
        if day.take(before, after):
            yield before, after, False
    for day in days.values():
        yield from day.judged()


_SHORT = between.LONGEST_GAP / between.USUAL_INTERVALS


@dataclass(slots=True)
class _Day:
    """Intervals of one GPU that end on one day; long ones wait for the day's usual interval."""

    date: date
    short: int = 0  # as many as are too short to make any limit longer
    lengths: list[timedelta] = field(default_factory=list)  # of the others
    open: list[tuple[Tick, Tick]] = field(default_factory=list)

    def take(self, before: Tick, after: Tick) -> bool:
        """Whether it is no gap whatever the day brings."""
        length = _time(after) - _time(before)
        if length <= _SHORT:
            self.short += 1
        else:
            self.lengths.append(length)
        if length > between.LONGEST_GAP:
            self.open.append((before, after))
        return length <= between.LONGEST_GAP

    def judged(self) -> _Judged:
        """Those that waited."""
        longest = between.longest(between.usual([_SHORT] * self.short + self.lengths))
        for before, after in self.open:
            yield before, after, _time(after) - _time(before) > longest


def _time(tick: Tick) -> datetime:
    return next(iter(tick.values())).sample.time


def _joules(before: Tick, after: Tick) -> float | None:
    """Of the physical GPU, by the sample that is of it, else by the first that tells of it."""
    ended = min(
        (use.sample for use in after.values()),
        key=lambda one: (one.parent_uuid is not None, one.uuid),
    )
    told = (use.sample for use in before.values() if use.sample.uuid == ended.uuid)
    began = next(told, None)
    return None if began is None else _Interval(before=began, after=ended).energy_joules()


def _parts(tick: Tick) -> list[_Part]:
    """Who had how much of a physical GPU; what is left is nobody's."""
    by_uuid: dict[str, list[Use]] = defaultdict(list)
    for use in tick.values():
        by_uuid[use.sample.uuid].append(use)
    instances = {
        uuid: uses for uuid, uses in by_uuid.items() if uses[0].sample.parent_uuid is not None
    }
    if not instances:
        return [part for uses in by_uuid.values() for part in _shared(uses, 1.0)]
    told = (uses[0].sample for uuid, uses in by_uuid.items() if uuid not in instances)
    whole = next(told, None)
    slices = _slices({uuid: uses[0].sample for uuid, uses in instances.items()}, whole)
    parts = [part for uuid, uses in instances.items() for part in _shared(uses, slices[uuid])]
    left = 1.0 - fsum(slices.values())
    if whole is not None and left > _NOTHING:
        # Its own figures are those of its instances, and told there.
        free = GpuSample(time=whole.time, node=whole.node, uuid=whole.uuid, name=whole.name)
        parts.append(_Part(Use(sample=free), left))
    return parts


_NOTHING = 1e-9


def _shared(uses: Sequence[Use], of: float) -> Iterator[_Part]:
    """The owners of one GPU or instance, which is ``of`` a physical one; the rest is nobody's."""
    told = fsum(use.share_fraction for use in uses)
    for use in uses:
        share = use.share_fraction / max(1.0, told)
        yield _Part(replace(use, share_fraction=share), share * of)
    if (rest := 1.0 - told) > _NOTHING:
        yield _Part(Use(sample=uses[0].sample, share_fraction=rest), rest * of)


def _slices(instances: Mapping[str, GpuSample], whole: GpuSample | None) -> dict[str, float]:
    """How much of its GPU each instance is: by memory, alike where that is not known."""
    size = whole.memory_total_bytes if whole is not None else None
    found = {
        uuid: min(1.0, one.memory_total_bytes / size)
        if one.memory_total_bytes and size
        else 1.0 / len(instances)
        for uuid, one in instances.items()
    }
    taken = max(1.0, fsum(found.values()))
    return {uuid: part / taken for uuid, part in found.items()}


def _amounts(part: _Part, hours: float, joules: float | None) -> dict[str, float | None]:
    sample, held = part.use.sample, is_allocated(part.use)
    gpu_hours, active = hours * part.fraction, activity_fraction(sample)
    tensor, tflops = sample.tensor_active_fraction, sample.tensor_tflops
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
    """The owner's share counts: an instance's rate is its own already."""
    return tflops * 1e12 * hours * 3600 * part.use.share_fraction


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
