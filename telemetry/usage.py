"""Samples to usage: how long each GPU was watched, how long it worked, what energy it took.

Between two samples of a GPU lies an interval; the later sample tells what went on in it, because
NVML's utilisation looks back. An interval longer than ``longest_gap`` is a gap: nothing is assumed
about it, so neither its hours, nor its work, nor its energy count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from math import fsum
from statistics import median_low

from telemetry.samples import GpuSample

USUAL_INTERVALS = 3  # by default, a gap is an interval longer than this many usual ones


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
