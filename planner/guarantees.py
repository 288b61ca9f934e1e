"""Which jobs the guarantees of their queues cover: a right against being left out for others' work.

Kueue has this rule for what runs now: who stays within what is guaranteed takes it back from those
who borrow it. A plan decides over a horizon, so the question is which jobs could run on the
guaranteed GPUs alone. Queue by queue, those deeper in the tree first, each job under it in turn, by
priority and then as they are listed, is put where it ends first on what is left of the GPUs
guaranteed to the queue, and to those above it, in each slot. Who finds room is *covered*, and takes
it; who does not is asked for again by the next queue above that has a guarantee.

That is a count of GPUs by accelerator, not a plan: nodes are not named, a job that may stop runs in
one piece, a service in one mode, and a gang that no pool holds, a mode that costs more than leaving
the job out, and a limit that forbids it, count. What a job waits for has to be covered too, goes
before it, and is as urgent as the job. GPUs that are away take the guarantee with them.

Covered jobs rank above all that are not (`planner.problem.Job.rank`), whatever their priorities;
priority decides among the covered, and then among the rest. So nobody who borrows can push them
out, and the solvers, for which ranks are strict, need to know nothing more. A queue that does not
reclaim (``preemption.reclaim`` other than ``Any``) covers none: what it keeps back
(`planner.quotas`) is its own all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from planner.problem import (
    GPU_MILLI,
    Billing,
    Demand,
    Job,
    Mode,
    Problem,
    Queue,
    Work,
    egress_usd,
    hours_for,
    replicas_for,
    work_left,
)
from planner.quotas import Millis, usable
from planner.table import Places, order_by_dependency, quota, ready_slot, spendable_usd

Key = tuple[str, str]  # queue, accelerator


def with_guarantees(problem: Problem) -> Problem:
    """``problem`` with each job's ``guarantee``: what it said before is forgotten."""
    found = covered(problem)
    if all(job.guarantee == found.get(job.name, "") for job in problem.jobs):
        return problem
    jobs = (replace(job, guarantee=found.get(job.name, "")) for job in problem.jobs)
    return replace(problem, jobs=tuple(jobs))


def covered(problem: Problem) -> dict[str, str]:
    """The queue whose guarantee covers it, of each job that one does, by name."""
    queues = [q for q in problem.queues if q.guaranteed and q.reclaims]
    if not queues:
        return {}
    ledger = _Ledger(problem, queues)
    by_depth = sorted(queues, key=lambda q: -len(problem.queue_path(q.name)))
    order = _order(problem)
    for queue in by_depth:
        for job in order:
            if job.name not in ledger.queue_of and queue.name in ledger.paths[job.queue]:
                ledger.cover(job, queue)
    return ledger.queue_of


def in_words(problem: Problem, job: Job) -> str:
    """``within the guarantee of research: 64 h100-sxm5-80gb``; empty where it is not."""
    if not job.guarantee:
        return ""
    of = problem.queue_by_name[job.guarantee].guaranteed
    gpus = ", ".join(f"{count} {accelerator}" for accelerator, count in of if count)
    return f"within the guarantee of {job.guarantee}: {gpus}"


def _order(problem: Problem) -> list[Job]:
    """Jobs by priority, then as they are listed, each behind what it waits for."""
    jobs = problem.jobs
    number = {job.name: j for j, job in enumerate(jobs)}
    after = tuple(tuple(number[name] for name in job.after) for job in jobs)
    behind = order_by_dependency(after)
    urgent = [job.tier for job in jobs]
    for j in reversed(behind):
        for before in after[j]:
            urgent[before] = max(urgent[before], urgent[j])
    depth = [0] * len(jobs)
    for j in behind:
        depth[j] = max((depth[b] + 1 for b in after[j]), default=0)
    return [jobs[j] for j in sorted(range(len(jobs)), key=lambda j: (-urgent[j], depth[j], j))]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spot:
    """A mode and a start; ``needs`` is what it takes of its accelerator (slots from the start)."""

    accelerator: str
    start: int
    end: int
    needs: Millis

    @property
    def key(self) -> tuple[int, int]:
        """The first to end, and of those the smallest."""
        return self.end, int(self.needs.sum())


@dataclass(slots=True)
class _Ledger:
    """What is left of the guarantees, in thousandths of a GPU by slot."""

    problem: Problem
    queues: Sequence[Queue]
    queue_of: dict[str, str] = field(default_factory=dict)  # by job, the queue that covers it
    ends: dict[str, int] = field(default_factory=dict)  # of covered jobs
    free: dict[Key, Millis] = field(default_factory=dict)
    paths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    places: dict[str, Places] = field(default_factory=dict)
    room: dict[tuple[object, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problem, have = self.problem, usable(self.problem)
        for queue in self.queues:
            for accelerator, gpus in queue.guaranteed:
                if accelerator in have:
                    free = np.minimum(have[accelerator], gpus * GPU_MILLI)
                    self.free[queue.name, accelerator] = free
        self.paths = {job.queue: problem.queue_path(job.queue) for job in problem.jobs}
        for pool in problem.pools:
            nodes = [n for n in problem.nodes_of(pool.name) if not n.cordoned]
            self.places[pool.name] = Places(pool, nodes)

    def cover(self, job: Job, queue: Queue) -> None:
        """Put ``job`` on what is left to ``queue``, if there is room."""
        if any(name not in self.queue_of for name in job.after):
            return
        spots = [spot for mode in job.modes for spot in self._spots(job, mode, queue)]
        if not spots:
            return
        spot = min(spots, key=lambda s: s.key)
        self.queue_of[job.name], self.ends[job.name] = queue.name, spot.end
        for key in self._keys(queue, spot.accelerator):
            self.free[key][spot.start : spot.end] -= spot.needs

    def _keys(self, queue: Queue, accelerator: str) -> list[Key]:
        """What the queue and those above it are guaranteed of an accelerator."""
        path = self.problem.queue_path(queue.name)
        return [(name, accelerator) for name in path if (name, accelerator) in self.free]

    def _spots(self, job: Job, mode: Mode, queue: Queue) -> Iterator[_Spot]:
        """Where the mode ends first, if it may run and has room."""
        accelerator = self.problem.pool_by_name[mode.pool].accelerator
        if (queue.name, accelerator) not in self.free or mode.work_per_replica_hour <= 0:
            return
        first, needs, replicas, hours = self._asked(job, mode)
        last = min(job.deadline, self.problem.grid.slots) - needs.size
        if not needs.size or last < first or not self._may(job, mode, replicas, needs, hours):
            return
        keys = self._keys(queue, accelerator)
        free = np.min([self.free[key] for key in keys], axis=0)
        start = first if isinstance(job.need, Demand) else _first_start(free, needs, first, last)
        if start <= last and bool(np.all(free[start : start + needs.size] >= needs)):
            end = start + needs.size
            yield _Spot(accelerator=accelerator, start=start, end=end, needs=needs)

    def _asked(self, job: Job, mode: Mode) -> tuple[int, Millis, int, float]:
        """(first slot, thousandths of GPUs by slot, most replicas, replica-hours)."""
        problem = self.problem
        grid, pool = problem.grid, problem.pool_by_name[mode.pool]
        each = pool.counted_milli(mode.amounts)
        if isinstance(job.need, Demand):
            span = range(job.release, min(job.deadline, grid.slots))
            replicas = np.array([replicas_for(job.need, mode, t) for t in span], dtype=np.int64)
            hours = float(replicas.sum()) * grid.slot_hours
            return job.release, replicas * each, int(max(replicas, default=0)), hours
        runs = job.name in problem.running_by_job
        hours = hours_for(work_left(problem, job, kept=True), mode)
        slots = grid.slots_for(min(hours, grid.slots * grid.slot_hours * 2))
        first = max([job.release, ready_slot(problem, pool), *(self.ends[b] for b in job.after)])
        needs = np.full(slots, mode.replicas * each, dtype=np.int64)
        return 0 if runs else first, needs, mode.replicas, hours * mode.replicas

    def _may(self, job: Job, mode: Mode, replicas: int, needs: Millis, hours: float) -> bool:
        """Whether the gang fits its empty pool and its limits, and pays."""
        problem, pool = self.problem, self.problem.pool_by_name[mode.pool]
        by_node = pool.billing is Billing.NODE  # on a node that others keep it may cost nothing
        usd = 0.0 if by_node and isinstance(job.need, Work) else hours * mode.usd_per_replica_hour
        usd += egress_usd(problem, job, mode)
        pays = usd <= spendable_usd(problem, job) + 1e-6 and (
            job.required or usd < job.unplaced_usd
        )
        within = int(needs.max()) <= GPU_MILLI * quota(problem, job, pool)
        inside = mode.together if mode.together_required else ""
        key = (mode.pool, mode.amounts, mode.spread, inside, job.preemptible)
        if key not in self.room:
            on_node, in_pool = self.places[mode.pool].room(job, mode)
            self.room[key] = in_pool if on_node else -1
        return pays and within and self.room[key] >= replicas


def _first_start(free: Millis, needs: Millis, first: int, last: int) -> int:
    """The first of the starts from which there is as much as ``needs``; last + 1: there is none."""
    blocked = np.flatnonzero(free[first : last + needs.size] < needs[0]) + first
    edges = np.concatenate([[first - 1], blocked, [last + needs.size]])
    gaps = np.flatnonzero(np.diff(edges) > needs.size)  # slots between two that are blocked
    return int(edges[gaps[0]]) + 1 if gaps.size else last + 1
