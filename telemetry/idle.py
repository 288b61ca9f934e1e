"""GPUs that someone holds and that do nothing: since when, whose they are, and what an hour costs.

A GPU is idle at an instant where everything that is known of it says so: nothing ran, the power is
near what it draws at rest, and its memory has not grown since it went idle (who loads a model
works). Of the first two at least one has to be known. What the CPUs do says nothing: a job that
prepares data for an hour holds the GPU all the same. A GPU with two owners is idle for both or for
none.

Idle for a *window* without a break is what is listed; a gap in the samples breaks it, because
nothing is known about a gap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import fsum

from telemetry.between import LONGEST_GAP
from telemetry.samples import GpuSample
from telemetry.usage import activity_fraction, is_allocated
from telemetry.uses import Owner, Use

BY_NAME = Callable[[str], float | None]  # of a GPU as NVML calls it


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What counts as idle."""

    window: timedelta = timedelta(minutes=30)
    longest_gap: timedelta = LONGEST_GAP
    activity_fraction: float = 0.01  # at most: monitors launch a kernel now and then
    power_fraction: float = 0.25  # at most, of the range from rest to the limit
    growth_bytes: int = 64 * 2**20  # of memory since it went idle


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleGpu:
    """One owner's GPU, or share of one, that has done nothing for at least the window."""

    node: str
    uuid: str
    name: str
    owner: Owner  # of empty fields where only its processes are known
    since: datetime
    until: datetime  # the last sample
    usd_per_hour: float | None  # of the owner's share; None where the GPU has no price

    @property
    def hours(self) -> float:
        return (self.until - self.since) / timedelta(hours=1)

    @property
    def usd(self) -> float | None:
        """What the idle time has cost so far."""
        return None if self.usd_per_hour is None else self.usd_per_hour * self.hours


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleWorkload:
    """An owner all of whose GPUs are idle: what a queue's ``idle`` acts upon."""

    owner: Owner
    since: datetime  # when the last of its GPUs went idle
    until: datetime
    gpus: tuple[IdleGpu, ...]

    @property
    def idle_seconds(self) -> float:
        return (self.until - self.since).total_seconds()

    @property
    def usd_per_hour(self) -> float | None:
        known = [gpu.usd_per_hour for gpu in self.gpus if gpu.usd_per_hour is not None]
        return fsum(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """What is idle at the last samples."""

    gpus: tuple[IdleGpu, ...]  # the dearest first
    workloads: tuple[IdleWorkload, ...]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A run of instants at which one owner's GPU was idle."""

    since: datetime
    last: Use
    least_memory_bytes: int | None


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Held = tuple[str, str, Owner]


def idle(
    uses: Iterable[Use],
    *,
    idle_watts: BY_NAME,
    usd_per_gpu_hour: BY_NAME,
    rule: Rule | None = None,
    now: datetime | None = None,
) -> Idle:
    """What is idle, by uses that come in order of time.

    ``idle_watts`` is what a GPU draws at rest, ``usd_per_gpu_hour`` its price; each None where it
    is not known. A GPU whose last sample is older than a gap at ``now`` (by default the newest
    sample) is not known to be idle.
    """
    rule = rule or Rule()
    stretches: dict[_Held, _Stretch] = {}
    latest: dict[tuple[str, str], datetime] = {}
    held: dict[_Held, datetime] = {}
    partitioned: set[tuple[str, str]] = set()  # their instances are what is held
    for use in uses:
        sample = use.sample
        key = sample.node, sample.uuid, use.owner
        if sample.time < latest.get(key[:2], sample.time):
            continue
        latest[key[:2]] = sample.time
        if sample.parent_uuid is not None:
            partitioned.add((sample.node, sample.parent_uuid))
        if is_allocated(use):
            held[key] = sample.time
        stretch = _followed(stretches.pop(key, None), use, rule, idle_watts)
        if stretch is not None:
            stretches[key] = stretch
    stale_before = (now or max(latest.values(), default=_EPOCH)) - rule.longest_gap
    present = {
        key
        for key, time in held.items()
        if time == latest[key[:2]] >= stale_before and key[:2] not in partitioned
    }
    found = [
        _gpu(stretch, usd_per_gpu_hour)
        for key, stretch in stretches.items()
        if key in present and stretch.last.sample.time - stretch.since >= rule.window
    ]
    ordered = sorted(found, key=lambda gpu: (-(gpu.usd_per_hour or 0.0), gpu.node, gpu.uuid))
    return Idle(gpus=tuple(ordered), workloads=tuple(_workloads(ordered, present)))


def is_idle(sample: GpuSample, rule: Rule, idle_watts: float | None) -> bool:
    """Whether what one sample knows says idle; memory's growth apart, which takes two."""
    active = activity_fraction(sample)
    near_rest = _near_rest(sample, rule, idle_watts)
    if active is None and near_rest is None:
        return False
    works = active is not None and active > rule.activity_fraction
    return not works and near_rest is not False


def _near_rest(sample: GpuSample, rule: Rule, idle_watts: float | None) -> bool | None:
    watts, limit = sample.power_watts, sample.power_limit_watts
    if watts is None or limit is None or idle_watts is None:
        return None
    return watts <= idle_watts + rule.power_fraction * max(0.0, limit - idle_watts)


def _followed(
    stretch: _Stretch | None, use: Use, rule: Rule, idle_watts: BY_NAME
) -> _Stretch | None:
    """The stretch with one more instant; a new one after a gap or growth; None where it works."""
    sample = use.sample
    if not is_allocated(use) or not is_idle(sample, rule, idle_watts(sample.name)):
        return None
    memory = sample.memory_used_bytes
    if stretch is None or sample.time - stretch.last.sample.time > rule.longest_gap:
        return _Stretch(sample.time, use, memory)
    least = stretch.least_memory_bytes
    if memory is None or least is None:
        return _Stretch(stretch.since, use, least if memory is None else memory)
    if memory > least + rule.growth_bytes:
        return _Stretch(sample.time, use, memory)
    return _Stretch(stretch.since, use, min(least, memory))


def _gpu(stretch: _Stretch, usd_per_gpu_hour: BY_NAME) -> IdleGpu:
    use = stretch.last
    price = usd_per_gpu_hour(use.sample.name)
    return IdleGpu(
        node=use.sample.node,
        uuid=use.sample.uuid,
        name=use.sample.name,
        owner=use.owner,
        since=stretch.since,
        until=use.sample.time,
        usd_per_hour=None if price is None else price * use.share_fraction,
    )


def _workloads(gpus: Iterable[IdleGpu], present: Iterable[_Held]) -> Iterable[IdleWorkload]:
    """Owners whose every GPU is idle; a job of several pods is one, as a whole."""
    by_owner: dict[tuple[str, str], list[IdleGpu]] = defaultdict(list)
    for gpu in gpus:
        by_owner[_workload(gpu.owner)].append(gpu)
    holds: dict[tuple[str, str], int] = defaultdict(int)
    for _, _, owner in present:
        holds[_workload(owner)] += 1
    for name, idle_ones in sorted(by_owner.items()):
        if any(name) and len(idle_ones) == holds[name]:
            yield IdleWorkload(
                owner=idle_ones[0].owner,
                since=max(gpu.since for gpu in idle_ones),
                until=min(gpu.until for gpu in idle_ones),
                gpus=tuple(idle_ones),
            )


def _workload(owner: Owner) -> tuple[str, str]:
    return owner.namespace, owner.job or owner.pod
