"""What a queue would get if all batch jobs ran at once and fairly, and what a plan gives it.

The contest: the GPUs of each accelerator at the grid's start, and every batch job that has a mode,
as if all were there. A job claims as many GPUs as its smallest gang has, and does on an accelerator
what its best mode there does per GPU. A queue's weight is what it counts for beside its siblings,
shared out evenly among its own jobs and, by their weights, its child queues; jobs of the queue
itself are together one sibling of weight 1. Nobody shares a GPU.

A plan is held against it by *speed*: a job's work over the hours from its release to its end, as a
part of what an equal split of the accelerators would give it; 0 for a job left out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.fairness import Claim, Contest, Floats, Rates, Shares, runnable
from planner.plan import Plan
from planner.problem import Job, Problem, Work

DIGITS = 9  # of a rate, to which the jobs of a kind are alike


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueShare:
    """A queue's part of all GPUs times speed, under a fair split and in a plan."""

    queue: str
    jobs: int
    weight_fraction: float
    fair_fraction: float
    plan_fraction: float
    least_fair_speed: float
    least_plan_speed: float


def contest_of(problem: Problem) -> Contest | None:
    """The batch jobs of a problem as claims on its accelerators; None where none of them fits."""
    gpus: dict[str, int] = defaultdict(int)
    for pool in problem.pools:
        gpus[pool.accelerator] += pool.nodes_at(0) * pool.gpus_per_node
    jobs = [job for job in problem.jobs if isinstance(job.need, Work) and job.modes]
    if not jobs or not sum(gpus.values()):
        return None
    kind_of = [_kind(problem, job, list(gpus)) for job in jobs]
    kinds = sorted(set(kind_of))
    weights = _weights(problem, jobs)
    contest = Contest(
        types=tuple(gpus),
        gpus=tuple(gpus.values()),
        rates=Rates(
            kinds=tuple(str(k) for k in range(len(kinds))),
            gpus=tuple(held for held, _ in kinds),
            alone=np.array([rates for _, rates in kinds]),
        ),
        claims=tuple(
            Claim(job=job.name, kind=kinds.index(kind), weight=weight)
            for job, kind, weight in zip(jobs, kind_of, weights, strict=True)
        ),
    )
    return contest if runnable(contest).any() else None


def shares_by_queue(
    problem: Problem, plan: Plan, contest: Contest, shares: Shares
) -> tuple[QueueShare, ...]:
    """A row for each queue that has batch jobs, in the order of their names."""
    per_level = np.array([c.weight / contest.rates.gpus[c.kind] for c in contest.claims])
    fair = np.nan_to_num(np.array(shares.levels)) * per_level
    planned = _planned(problem, plan, contest)
    gpus = np.array([contest.rates.gpus[c.kind] for c in contest.claims])
    weight = np.array([c.weight for c in contest.claims])
    queues = np.array([problem.job_by_name[c.job].queue for c in contest.claims])
    rows = []
    for queue in sorted(set(queues.tolist())):
        ours = queues == queue
        parts = [_part(values, ours) for values in (weight, fair * gpus, planned * gpus)]
        rows.append(
            QueueShare(
                queue=queue,
                jobs=int(ours.sum()),
                weight_fraction=parts[0],
                fair_fraction=parts[1],
                plan_fraction=parts[2],
                least_fair_speed=float(fair[ours].min()),
                least_plan_speed=float(planned[ours].min()),
            )
        )
    return tuple(rows)


def _part(values: Floats, ours: npt.NDArray[np.bool_]) -> float:
    total = float(values.sum())
    return float(values[ours].sum()) / total if total else 0.0


def _planned(problem: Problem, plan: Plan, contest: Contest) -> Floats:
    """Speed in the plan, by claim."""
    ends: dict[str, int] = defaultdict(int)
    for segment in plan.segments:
        ends[segment.job] = max(ends[segment.job], segment.end)
    measure = contest.measure()
    types = contest.types
    found = []
    for claim in contest.claims:
        job = problem.job_by_name[claim.job]
        assert isinstance(job.need, Work)
        hours = (ends.get(job.name, 0) - job.release) * problem.grid.slot_hours
        best = max(_rates(problem, job, types))
        equal = float(measure[claim.kind]) * best  # the kind's rates are parts of the job's best
        ran = job.name in ends and equal > 0
        found.append(job.need.amount / hours / equal if ran else 0.0)
    return np.array(found)


def _kind(problem: Problem, job: Job, types: Sequence[str]) -> tuple[int, tuple[float, ...]]:
    """What makes two jobs alike: GPUs, and rates as parts of the best."""
    rates = _rates(problem, job, types)
    best = max(rates) or 1.0
    return _gang(job), tuple(round(rate / best, DIGITS) for rate in rates)


def _gang(job: Job) -> int:
    return max(1, min(mode.gpus for mode in job.modes))


def _rates(problem: Problem, job: Job, types: Sequence[str]) -> list[float]:
    """Work per hour of the smallest gang's GPUs on each accelerator."""
    best = dict.fromkeys(types, 0.0)
    for mode in job.modes:
        accelerator = problem.pool_by_name[mode.pool].accelerator
        rate = mode.replicas * mode.work_per_replica_hour * _gang(job) / max(1, mode.gpus)
        best[accelerator] = max(best[accelerator], rate)
    return list(best.values())


def _weights(problem: Problem, jobs: Sequence[Job]) -> list[float]:
    """What each job counts for; 1 on the mean."""
    paths = [problem.queue_path(job.queue)[::-1] for job in jobs]  # root to leaf
    children: dict[tuple[str, ...], set[str]] = defaultdict(set)
    own: dict[tuple[str, ...], int] = defaultdict(int)
    for path in paths:
        own[path] += 1
        for depth, queue in enumerate(path):
            children[path[:depth]].add(queue)

    def part(path: tuple[str, ...]) -> float:
        """Of all weight, what the queue at the end of a path has."""
        if not path:
            return 1.0
        above = path[:-1]
        return part(above) * _weight(problem, path[-1]) / siblings(above)

    def siblings(above: tuple[str, ...]) -> float:
        queues = math.fsum(_weight(problem, queue) for queue in children[above])
        return queues + (1.0 if own[above] else 0.0)

    return [len(jobs) * part(path) / siblings(path) / own[path] for path in paths]


def _weight(problem: Problem, queue: str) -> float:
    known = problem.queue_by_name.get(queue)
    return known.weight if known is not None else 1.0
