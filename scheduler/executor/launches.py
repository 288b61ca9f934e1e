"""From a plan to what is started: which command, on which GPUs of which nodes, when, after what.

A job is a list of segments, and a launch is one Ray job. A job that finishes an amount of work
has one launch a segment, each after the one before it: a preempted job starts again from its
checkpoint. A service is cut the other way, into *bands*: replicas that come and go together. When
demand rises from 2 replicas to 5 and falls back, the first 2 run through as one launch and the
other 3 are a second one; cutting it by time would stop and start the whole service at each step
of its curve.

The resources of a launch are one Ray custom resource a node, in GPU thousandths (Ray takes only
whole numbers above one, and a share of a GPU is a whole number of thousandths). They are one
request: a gang over several nodes starts whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from planner.codec import encode
from planner.plan import Plan, Segment
from planner.problem import GPU_MILLI, Demand, Job, Problem
from scheduler.executor import stand_in

NODE_RESOURCE = "flopwise-node-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One Ray job: a segment of a job, or a band of a service's replicas."""

    name: str  # the job's, or <job>_<k> where it has several (no job name holds an underscore)
    job: str
    namespace: str = "default"
    entrypoint: str
    runtime_env_json: str = "{}"
    pool: str = ""
    team: str = ""
    project: str = ""
    queue: str = ""
    replicas: int = 1  # the gang
    gpu_milli: tuple[tuple[str, int], ...] = ()  # (node, GPU thousandths), all at once
    start: datetime  # planned
    end: datetime
    work: float = 0.0  # planned, in ``unit``
    unit: str = "hours"
    after: tuple[str, ...] = ()  # launches that must have ended well
    stops_at_end: bool = False  # stopped at ``end``; otherwise it ends by itself
    attempt_limit: int = 3  # it may crash one time less
    loss_limit: int = 5  # Ray may die under it one time less: after that it is no chance

    @property
    def resources(self) -> dict[str, float]:
        """Ray's name of each node, and the GPU thousandths held there."""
        return {NODE_RESOURCE + node: milli for node, milli in self.gpu_milli}

    @property
    def gpus(self) -> float:
        """GPUs held on all nodes together."""
        return sum(milli for _, milli in self.gpu_milli) / GPU_MILLI

    @property
    def hours(self) -> float:
        """Planned length."""
        return (self.end - self.start).total_seconds() / 3600


def launches(problem: Problem, plan: Plan, retries: int = 2) -> tuple[Launch, ...]:
    """What carrying out ``plan`` starts, sorted by start and name.

    ``retries`` is how often a launch that crashed is started again.
    """
    by_job: dict[str, list[Segment]] = defaultdict(list)
    for segment in sorted(plan.segments, key=lambda s: (s.start, s.end, s.mode)):
        by_job[segment.job].append(segment)
    parts = {name: tuple(_parts(problem, name, by_job[name])) for name in by_job}
    made = (
        replace(part, after=(*part.after, *_waits_for(problem.job_by_name[name], parts)))
        for name in parts
        for part in parts[name]
    )
    limited = (replace(part, attempt_limit=1 + retries) for part in made)
    return tuple(sorted(limited, key=lambda part: (part.start, part.name)))


def _waits_for(job: Job, parts: Mapping[str, tuple[Launch, ...]]) -> Iterator[str]:
    return (part.name for name in sorted(job.after) for part in parts.get(name, ()))


def _parts(problem: Problem, name: str, segments: list[Segment]) -> Iterator[Launch]:
    job = problem.job_by_name[name]
    service = isinstance(job.need, Demand)
    bands = list(_bands(segments)) if service else [_whole(s) for s in segments]
    names = [name] if len(bands) == 1 else [f"{name}_{k + 1}" for k in range(len(bands))]
    for k, band in enumerate(bands):
        yield replace(
            _launch(problem, job, names[k], band),
            after=() if service or k == 0 else (names[k - 1],),
            stops_at_end=service or k < len(bands) - 1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Band:
    """Replicas of one mode on named nodes over one stretch of slots."""

    mode: int
    start: int
    end: int
    replicas: tuple[tuple[str, int], ...]  # (node, replicas)
    work: float


def _whole(segment: Segment) -> _Band:
    nodes: Counter[str] = Counter()
    for placed in segment.placement:
        nodes[placed.node] += placed.replicas
    return _Band(
        mode=segment.mode,
        start=segment.start,
        end=segment.end,
        replicas=tuple(sorted(nodes.items())),
        work=segment.work,
    )


def _bands(segments: list[Segment]) -> Iterator[_Band]:
    """A service's segments as replicas that come and go together, in order of start."""
    stretches: dict[tuple[int, int, int], Counter[str]] = defaultdict(Counter)
    for mode in sorted({s.mode for s in segments}):
        own = [_whole(s) for s in segments if s.mode == mode]
        for node in sorted({node for band in own for node, _ in band.replicas}):
            for start, end in _levels((b.start, b.end, dict(b.replicas).get(node, 0)) for b in own):
                stretches[start, end, mode][node] += 1
    for (start, end, mode), nodes in sorted(stretches.items()):
        yield _Band(
            mode=mode,
            start=start,
            end=end,
            replicas=tuple(sorted(nodes.items())),
            work=_share(segments, mode, start, end, nodes.total()),
        )


def _levels(steps: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """The stretch of each replica under a step curve of (start, end, count): last in, first out."""
    changes: Counter[int] = Counter()
    for start, end, count in steps:
        changes[start] += count
        changes[end] -= count
    up: list[int] = []
    for at in sorted(changes):
        up.extend([at] * changes[at])
        for _ in range(-changes[at]):
            yield up.pop(), at


def _share(segments: list[Segment], mode: int, start: int, end: int, replicas: int) -> float:
    """Work that ``replicas`` of a service's mode do over [start, end)."""
    return sum(
        s.work * replicas / s.replicas * (min(end, s.end) - max(start, s.start)) / (s.end - s.start)
        for s in segments
        if s.mode == mode and s.start < end and start < s.end
    )


def _launch(problem: Problem, job: Job, name: str, band: _Band) -> Launch:
    mode = job.modes[band.mode]
    milli = problem.pool_by_name[mode.pool].counted_milli(mode.amounts)
    return Launch(
        name=name,
        job=job.name,
        namespace=job.namespace,
        entrypoint=job.run.entrypoint,
        runtime_env_json=job.run.runtime_env_json,
        pool=mode.pool,
        team=job.team,
        project=job.project,
        queue=job.queue,
        replicas=sum(count for _, count in band.replicas),
        gpu_milli=tuple((node, n * milli) for node, n in band.replicas),
        start=problem.grid.time(band.start),
        end=problem.grid.time(band.end),
        work=band.work,
        unit=job.need.unit,
    )


def node_gpu_milli(problem: Problem, made: Iterable[Launch]) -> dict[str, int]:
    """GPU thousandths that each node under ``made`` has: what a local Ray stands in for."""
    used = sorted({node for launch in made for node, _ in launch.gpu_milli})
    return {node: problem.node_by_name[node].capacity.gpu_milli for node in used}


def with_stand_ins(made: Iterable[Launch], speed: float) -> tuple[Launch, ...]:
    """The same launches, each running a small program of ours for its hours over ``speed``."""
    return tuple(
        replace(
            launch,
            entrypoint=stand_in.command(
                job=launch.name,
                work=launch.work,
                unit=launch.unit,
                seconds=launch.hours * 3600 / speed,
            ),
            runtime_env_json="{}",
            stops_at_end=False,
        )
        for launch in made
    )


def run_id(made: Iterable[Launch], speed: float) -> str:
    """The same for the same launches at the same speed: applied twice is applied once."""
    text = json.dumps([speed, [encode(launch) for launch in made]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
