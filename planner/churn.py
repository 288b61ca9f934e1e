"""What a new plan changes of an old one, what each move costs, and whether it pays.

A re-plan that moves jobs for nothing costs more than it shows: a job that runs loses its work since
the last checkpoint and restarts, one that does not is promised another time. So a plan is changed
only where that saves.

Price    of moving a running job: what it did since its checkpoint, done again at the new place, and
         its restart there, at what its new gang costs an hour; and where that is in another pool,
         bringing its data there (USD). Of one that has not started: a part of what it costs where
         it was promised to be (`promise_usd`).
Saving   the reduced cost of the old place less that of the new, both at the new plan's prices:
             money + lateness + sum over slots of GPUs x shadow price
             + of a job that has not started, bringing its data there
         Where the old place is no more (a node lost, a pool smaller), it is what leaving the job
         out would cost instead: the move is *forced*, and may save less than its price.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from planner import cost
from planner.plan import Plan, Price, Segment
from planner.problem import GPU_MILLI, Job, Mode, Problem, Running

Segments = tuple[Segment, ...]
PROMISE, LEAST_PROMISE_USD = 0.01, 0.01  # of its money: what a promised place is worth, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A job that the new plan has elsewhere, or at another time."""

    job: str
    was: Segments
    now: Segments
    price_usd: float
    saving_usd: float
    forced: bool = False  # its old place is no more

    @property
    def pays(self) -> bool:
        """Whether it saves more than it costs, or had to be."""
        return self.forced or self.saving_usd > self.price_usd


def kept(old: Plan, problem: Problem) -> Segments:
    """The segments of ``old`` that ``problem`` still allows, each job whole or not at all.

    The job is there with the same mode, and its nodes for as long as it holds them.
    """
    return tuple(
        s
        for name, segments in _by_job(old).items()
        if (job := problem.job_by_name.get(name)) is not None
        and all(_allowed(problem, job, s) for s in segments)
        for s in segments
    )


def moved(old: Plan, new: Plan, problem: Problem) -> tuple[Move, ...]:
    """Jobs of both plans that ``new`` has elsewhere, by name; ``problem`` is that of ``new``."""
    before, after = _by_job(old), _by_job(new)
    still = {s.job for s in kept(old, problem)}
    dear = _by_pool(new.prices)
    running = {r.job: r for r in problem.running}
    return tuple(
        _move(problem, dear, running.get(name), before[name], after[name], name not in still)
        for name in sorted(before.keys() & after.keys())
        if name in problem.job_by_name and _where(before[name]) != _where(after[name])
    )


def _move(
    problem: Problem,
    dear: Mapping[str, list[Price]],
    running: Running | None,
    was: Segments,
    now: Segments,
    forced: bool,
) -> Move:
    job = problem.job_by_name[now[0].job]
    to, at = reduced_usd(problem, dear, now), reduced_usd(problem, dear, was)
    if running is None:
        to += math.fsum(s.egress_usd for s in now)
        brought = math.fsum(s.egress_usd for s in was)
        at += brought
        price_usd = promise_usd(math.fsum(cost.segment_usd(problem, s) for s in was) + brought)
    else:
        price_usd = move_usd(job, job.modes[now[0].mode], running)
        price_usd += math.fsum(s.egress_usd for s in now[1:])  # of pools that it goes on to
    return Move(
        job=job.name,
        was=was,
        now=now,
        price_usd=price_usd,
        saving_usd=(job.unplaced_usd if forced else at) - to,
        forced=forced,
    )


def move_usd(job: Job, to: Mode, running: Running) -> float:
    """What moving a running job to mode ``to`` costs (USD): lost work, the restart, its data."""
    brought = 0.0 if to.pool == job.modes[running.mode].pool else to.egress_usd
    again_hours = running.work_since_checkpoint / (to.replicas * to.work_per_replica_hour)
    hours = again_hours + job.interruption.restart_seconds / 3600
    return hours * to.replicas * to.usd_per_replica_hour + brought


def promise_usd(usd: float) -> float:
    """What a job that has not started has to save to go elsewhere, if it costs ``usd`` there."""
    return max(LEAST_PROMISE_USD, PROMISE * usd)


def reduced_usd(problem: Problem, dear: Mapping[str, list[Price]], segments: Segments) -> float:
    """What a job costs where it is: its share of the money, lateness, and what it takes (USD)."""
    job = problem.job_by_name[segments[0].job]
    money = math.fsum(cost.segment_usd(problem, s) for s in segments)
    late = cost.lateness_usd(problem, job, max(s.end for s in segments))
    return money + late + math.fsum(_taken_usd(problem, dear, job, s) for s in segments)


def _taken_usd(problem: Problem, dear: Mapping[str, list[Price]], job: Job, s: Segment) -> float:
    mode = job.modes[s.mode]
    gpus = s.replicas * mode.amounts.gpu_milli / GPU_MILLI
    slot_usd = math.fsum(
        max(0, min(s.end, p.end) - max(s.start, p.start)) * p.usd_per_gpu_hour
        for p in dear.get(mode.pool, ())
    )
    return gpus * slot_usd * problem.grid.slot_hours


def _allowed(problem: Problem, job: Job, s: Segment) -> bool:
    if s.mode >= len(job.modes) or s.end > min(job.deadline, problem.grid.slots):
        return False
    mode = job.modes[s.mode]
    return all(_there(problem, mode, p.node, s) for p in s.placement)


def _there(problem: Problem, mode: Mode, name: str, s: Segment) -> bool:
    """Whether the node is the mode's, usable, and present while the segment runs."""
    node = problem.node_by_name.get(name)
    if node is None or node.pool != mode.pool or node.cordoned:
        return False
    windows = problem.pool_by_name[node.pool].windows
    return all(node.index < w.nodes for w in windows if w.start < s.end and s.start < w.end)


def _where(segments: Segments) -> list[tuple[int, int, int, frozenset[tuple[str, int]]]]:
    """What makes a place: mode, times, replicas by node; which GPUs of a node is all the same."""
    return [
        (s.mode, s.start, s.end, frozenset((p.node, p.replicas) for p in s.placement))
        for s in segments
    ]


def _by_job(plan: Plan) -> dict[str, Segments]:
    found: dict[str, list[Segment]] = {}
    for s in sorted(plan.segments, key=lambda s: s.start):
        found.setdefault(s.job, []).append(s)
    return {name: tuple(segments) for name, segments in found.items()}


def _by_pool(prices: Iterable[Price]) -> dict[str, list[Price]]:
    found: dict[str, list[Price]] = {}
    for p in prices:
        if p.resource == "gpu":
            found.setdefault(p.pool, []).append(p)
    return found
