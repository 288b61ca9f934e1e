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

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

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
    under: dict[str, list[Job]] = defaultdict(list)
    for job in _order(problem):
        for name in ledger.paths[job.queue]:
            under[name].append(job)
    for queue in by_depth:
        for job in under[queue.name]:
            if job.name not in ledger.queue_of:
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


class _Ask(NamedTuple):
    """A mode of a job, and what it asks of a guarantee; first those that could end first."""

    soonest: int  # slot by which it ends, if there is room at once
    area: int  # thousandths times slots
    number: int
    mode: Mode
    accelerator: str
    needs: Millis  # thousandths by slot from its start; of batch work the same in each
    replicas: int
    hours: float  # of all replicas

    @property
    def first(self) -> int:
        return self.soonest - self.needs.size


@dataclass(slots=True)
class _Ledger:
    """What is left of the guarantees, in thousandths of a GPU by slot."""

    problem: Problem
    queues: Sequence[Queue]
    queue_of: dict[str, str] = field(default_factory=dict)  # by job, the queue that covers it
    ends: dict[str, int] = field(default_factory=dict)  # of covered jobs
    free: dict[Key, Millis] = field(default_factory=dict)
    paths: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of each queue
    places: dict[str, Places] = field(default_factory=dict)
    room: dict[tuple[object, ...], int] = field(default_factory=dict)
    spendable: dict[str, float] = field(default_factory=dict)  # by job, USD

    def __post_init__(self) -> None:
        problem, have = self.problem, usable(self.problem)
        for queue in self.queues:
            for accelerator, gpus in queue.guaranteed:
                if accelerator in have:
                    free = np.minimum(have[accelerator], gpus * GPU_MILLI)
                    self.free[queue.name, accelerator] = free
        names = {job.queue for job in problem.jobs} | {queue.name for queue in problem.queues}
        self.paths = {name: problem.queue_path(name) for name in names}
        for pool in problem.pools:
            nodes = [n for n in problem.nodes_of(pool.name) if not n.cordoned]
            self.places[pool.name] = Places(pool, nodes)

    def cover(self, job: Job, queue: Queue) -> None:
        """Put ``job`` on what is left to ``queue`` where it ends first, if there is room."""
        if any(name not in self.queue_of for name in job.after):
            return
        best: tuple[int, int, _Ask] | None = None  # (end, area, ask)
        for ask in sorted(self._asks(job, queue), key=lambda a: a[:3]):
            if best is not None and ask.soonest > best[0]:
                break
            end = self._end(job, queue, ask)
            if end is not None and (best is None or (end, ask.area) < best[:2]):
                best = end, ask.area, ask
        if best is None:
            return
        end, _, ask = best
        self.queue_of[job.name], self.ends[job.name] = queue.name, end
        for free in self._free(queue, ask.accelerator):
            free[end - ask.needs.size : end] -= ask.needs

    def _free(self, queue: Queue, accelerator: str) -> list[Millis]:
        """What the queue and those above it are guaranteed of an accelerator yet."""
        path = self.paths[queue.name]
        return [self.free[name, accelerator] for name in path if (name, accelerator) in self.free]

    def _asks(self, job: Job, queue: Queue) -> Iterator[_Ask]:
        """The modes on accelerators that are guaranteed, with time enough."""
        end = min(job.deadline, self.problem.grid.slots)
        for number, mode in enumerate(job.modes):
            accelerator = self.problem.pool_by_name[mode.pool].accelerator
            if (queue.name, accelerator) not in self.free or mode.work_per_replica_hour <= 0:
                continue
            first, needs, replicas, hours = self._asked(job, mode)
            if needs.size and first + needs.size <= end:
                area, soonest = int(needs.sum()), first + needs.size
                yield _Ask(soonest, area, number, mode, accelerator, needs, replicas, hours)

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
        slots = min(grid.slots_for(min(hours, 1e9)), grid.slots + 1)  # one more never fits
        first = max([job.release, ready_slot(problem, pool), *(self.ends[b] for b in job.after)])
        needs = np.full(slots, mode.replicas * each, dtype=np.int64)
        return 0 if runs else first, needs, mode.replicas, hours * mode.replicas

    def _end(self, job: Job, queue: Queue, ask: _Ask) -> int | None:
        """When the job could end first on what is left to the queue; None: it may not, or never."""
        if not self._may(job, ask.mode, ask.replicas, ask.needs, ask.hours):
            return None
        frees = self._free(queue, ask.accelerator)
        free = frees[0] if len(frees) == 1 else np.min(frees, axis=0)
        if bool((free[ask.first : ask.soonest] >= ask.needs).all()):
            return ask.soonest
        if isinstance(job.need, Demand):
            return None
        last = min(job.deadline, self.problem.grid.slots) - ask.needs.size
        start = _first_start(free, ask.needs, ask.first, last)
        return start + ask.needs.size if start <= last else None

    def _may(self, job: Job, mode: Mode, replicas: int, needs: Millis, hours: float) -> bool:
        """Whether the gang fits its empty pool and its limits, and pays."""
        problem, pool = self.problem, self.problem.pool_by_name[mode.pool]
        by_node = pool.billing is Billing.NODE  # on a node that others keep it may cost nothing
        usd = 0.0 if by_node and isinstance(job.need, Work) else hours * mode.usd_per_replica_hour
        usd += egress_usd(problem, job, mode)
        pays = (job.required or usd < job.unplaced_usd) and usd <= self._spendable(job) + 1e-6
        within = int(needs.max()) <= GPU_MILLI * quota(problem, job, pool)
        inside = mode.together if mode.together_required else ""
        key = (mode.pool, mode.amounts, mode.spread, inside, job.preemptible)
        if key not in self.room:
            on_node, in_pool = self.places[mode.pool].room(job, mode)
            self.room[key] = in_pool if on_node else -1
        return pays and within and self.room[key] >= replicas

    def _spendable(self, job: Job) -> float:
        if job.name not in self.spendable:
            self.spendable[job.name] = spendable_usd(self.problem, job)
        return self.spendable[job.name]


def _first_start(free: Millis, needs: Millis, first: int, last: int) -> int:
    """The first of the starts from which there is as much as ``needs``; last + 1: there is none."""
    blocked = np.flatnonzero(free[first : last + needs.size] < needs[0]) + first
    edges = np.concatenate([[first - 1], blocked, [last + needs.size]])
    gaps = np.flatnonzero(np.diff(edges) > needs.size)  # slots between two that are blocked
    return int(edges[gaps[0]]) + 1 if gaps.size else last + 1
