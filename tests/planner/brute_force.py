"""The optimum by trying everything: no OR-Tools, nothing of the solver's tables.

Every way to run each job is listed (mode, start, nodes run by run), then a depth-first search tries
every combination, keeping the least (left-out cost of each tier above the lowest, objective).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from planner.problem import Amounts, Billing, Demand, Job, Mode, Pool, Problem, Work

WHAT = ("gpu_milli", "cpu_milli", "memory_bytes")


@dataclass(frozen=True)
class Way:
    """One way to run a job: for each run, (start, end, replicas on each node of the pool)."""

    pool: str
    runs: tuple[tuple[int, int, tuple[int, ...]], ...]
    amounts: Amounts
    usd: float  # share of the money
    late_usd: float

    @property
    def start(self) -> int:
        return self.runs[0][0]

    @property
    def end(self) -> int:
        return self.runs[-1][1]


def optimum(problem: Problem) -> tuple[tuple[float, ...], dict[str, Way]] | None:
    """((left-out cost by upper tier..., objective), ways by job), or None if nothing is feasible."""
    ways = {j.name: list(_ways(problem, j)) for j in problem.jobs}
    tiers = sorted({j.tier for j in problem.jobs}, reverse=True)[:-1]
    order = _dependency_order(problem)
    best: list[tuple[tuple[float, ...], dict[str, Way]] | None] = [None]

    def descend(at: int, chosen: dict[str, Way], sure: float, out: tuple[float, ...]) -> None:
        if best[0] is not None and (*out, sure) >= best[0][0]:
            return
        if at == len(order):
            key = (*out, sure + _node_bills(problem, chosen))
            if best[0] is None or key < best[0][0]:
                best[0] = (key, dict(chosen))
            return
        job = order[at]
        for way in ways[job.name]:
            if _fits(problem, job, way, chosen):
                chosen[job.name] = way
                billed = 0.0 if _pool(problem, way).billing is Billing.NODE else way.usd
                descend(at + 1, chosen, sure + billed + way.late_usd, out)
                del chosen[job.name]
        if not job.required:
            more = tuple(o + (job.unplaced_usd if t == job.tier else 0) for o, t in zip(out, tiers, strict=True))
            descend(at + 1, chosen, sure + job.unplaced_usd, more)

    descend(0, {}, 0.0, (0.0,) * len(tiers))
    return best[0]


def _dependency_order(problem: Problem) -> list[Job]:
    order: list[Job] = []
    while len(order) < len(problem.jobs):
        done = {j.name for j in order}
        order += [j for j in problem.jobs if j.name not in done and done.issuperset(j.after)]
    return order


def _pool(problem: Problem, way: Way) -> Pool:
    return next(p for p in problem.pools if p.name == way.pool)


def _ways(problem: Problem, job: Job) -> Iterator[Way]:
    awaited = any(job.name in j.after for j in problem.jobs)
    for mode in job.modes:
        listed = list(
            _service_ways(problem, job, mode) if isinstance(job.need, Demand) else _batch_ways(problem, job, mode)
        )
        least = min((w.usd + w.late_usd for w in listed), default=0.0)
        floor = _least_usd(problem, job, mode, least)
        if not job.required and not awaited and floor >= job.unplaced_usd:
            continue  # never worth it, whatever the others do
        for way in listed:
            if job.max_cost_usd is None or way.usd <= job.max_cost_usd:
                yield way


def _least_usd(problem: Problem, job: Job, mode: Mode, least: float) -> float:
    """What the mode costs on an empty, always present fleet: the first start that it may have."""
    if isinstance(job.need, Demand):
        return least
    hours = job.need.amount / (mode.replicas * mode.work_per_replica_hour)
    usd = hours * mode.replicas * mode.usd_per_replica_hour
    first = max(_earliest(problem, job), _ready(problem, mode))
    return usd + _late(job, first + _length(hours))


def _earliest(problem: Problem, job: Job) -> int:
    """Release, or the earliest end of what it waits for on an empty fleet."""
    at = job.release
    for name in job.after:
        before = next(j for j in problem.jobs if j.name == name)
        assert isinstance(before.need, Work)
        lengths = [
            _length(before.need.amount / (m.replicas * m.work_per_replica_hour)) for m in before.modes
        ]
        at = max(at, _earliest(problem, before) + min(lengths, default=1))
    return at


def _length(hours: float) -> int:
    return max(1, math.ceil(hours - 1e-6))  # slots of an hour


def _late(job: Job, end: int) -> float:
    return 0.0 if job.due is None else max(0, end - job.due) * job.lateness_usd_per_hour


def _ready(problem: Problem, mode: Mode) -> int:
    pool = next(p for p in problem.pools if p.name == mode.pool)
    return 0 if pool.billing is Billing.SUNK else math.ceil(pool.startup_seconds / 3600)


def _spreads(problem: Problem, mode: Mode, replicas: int, start: int, end: int) -> list[tuple[int, ...]]:
    """All ways to put ``replicas`` on the pool's nodes that are there for all of [start, end)."""
    pool = next(p for p in problem.pools if p.name == mode.pool)
    most = []
    for node in (n for n in problem.nodes if n.pool == pool.name):
        there = all(node.index < pool.nodes_at(t) for t in range(start, end))
        fits = [
            getattr(node.capacity, w) // getattr(mode.amounts, w)
            for w in WHAT
            if getattr(mode.amounts, w)
        ]
        each = min(fits) if there else 0
        most.append(min(each, 1) if mode.spread else each)
    found = [c for c in itertools.product(*(range(m + 1) for m in most)) if sum(c) == replicas]
    return [c for c in found if not mode.together_required or sum(1 for n in c if n) == 1]


def _batch_ways(problem: Problem, job: Job, mode: Mode) -> Iterator[Way]:
    assert isinstance(job.need, Work)
    hours = job.need.amount / (mode.replicas * mode.work_per_replica_hour)
    length = _length(hours)
    usd = hours * mode.replicas * mode.usd_per_replica_hour
    last = min(job.deadline, problem.grid.slots) - length
    for start in range(max(job.release, _ready(problem, mode)), last + 1):
        for counts in _spreads(problem, mode, mode.replicas, start, start + length):
            yield Way(mode.pool, ((start, start + length, counts),), mode.amounts, usd, _late(job, start + length))


def _service_ways(problem: Problem, job: Job, mode: Mode) -> Iterator[Way]:
    assert isinstance(job.need, Demand)
    end = min(job.deadline, problem.grid.slots)
    wanted = [
        max(job.need.min_replicas, math.ceil(job.need.per_slot[t] / mode.work_per_replica_hour - 1e-9))
        for t in range(job.release, end)
    ]
    usd = sum(wanted) * mode.usd_per_replica_hour

    def grow(t: int, runs: tuple[tuple[int, int, tuple[int, ...]], ...]) -> Iterator[Way]:
        if t == end:
            yield Way(mode.pool, runs, mode.amounts, usd, 0.0)
            return
        for counts in _spreads(problem, mode, wanted[t - job.release], t, t + 1):
            if runs:
                change = [b - a for a, b in zip(runs[-1][2], counts, strict=True)]
                if min(change) < 0 < max(change):
                    continue  # a replica would move
            yield from grow(t + 1, (*runs, (t, t + 1, counts)))

    yield from grow(job.release, ())


def _fits(problem: Problem, job: Job, way: Way, chosen: dict[str, Way]) -> bool:
    if any(b not in chosen or chosen[b].end > way.start for b in job.after):
        return False
    everyone = [*chosen.items(), (job.name, way)]
    return (
        _nodes_hold(problem, way, [w for _, w in everyone if w.pool == way.pool])
        and _limits_hold(problem, everyone)
        and _budgets_hold(problem, everyone)
    )


def _nodes_hold(problem: Problem, way: Way, here: list[Way]) -> bool:
    capacity = _pool(problem, way).capacity
    for t in range(way.start, way.end):
        held: dict[tuple[int, str], int] = defaultdict(int)
        for w in here:
            for start, end, counts in w.runs:
                if start <= t < end:
                    for n, count in enumerate(counts):
                        for what in WHAT:
                            held[n, what] += count * getattr(w.amounts, what)
        if any(used > getattr(capacity, what) for (_, what), used in held.items()):
            return False
    return True


def _ancestors(problem: Problem, name: str) -> set[str]:
    queues = {q.name: q for q in problem.queues}
    found: set[str] = set()
    while name:
        found.add(name)
        name = queues[name].parent
    return found


def _limits_hold(problem: Problem, everyone: list[tuple[str, Way]]) -> bool:
    queue_of = {j.name: _ancestors(problem, j.queue) for j in problem.jobs}
    for queue in problem.queues:
        for accelerator, most in queue.limit:
            used: dict[int, int] = defaultdict(int)
            for name, w in everyone:
                if queue.name in queue_of[name] and _pool(problem, w).accelerator == accelerator:
                    for start, end, counts in w.runs:
                        for t in range(start, end):
                            used[t] += sum(counts) * w.amounts.gpu_milli // 1000
            if any(u > most for u in used.values()):
                return False
    return True


def _budgets_hold(problem: Problem, everyone: list[tuple[str, Way]]) -> bool:
    queue_of = {j.name: _ancestors(problem, j.queue) for j in problem.jobs}
    return all(
        q.budget_usd_per_month is None
        or math.fsum(w.usd for name, w in everyone if q.name in queue_of[name])
        <= q.budget_usd_per_month + 1e-6
        for q in problem.queues
    )  # worlds lie inside one month


def _node_bills(problem: Problem, chosen: dict[str, Way]) -> float:
    """Cheapest on/off pattern of each rented node, by dynamic programming over slots."""
    total = 0.0
    for pool in problem.pools:
        if pool.billing is not Billing.NODE:
            continue
        rate = pool.windows[0].usd_per_node_hour
        startup = rate * pool.startup_seconds / 3600
        for node in (n for n in problem.nodes if n.pool == pool.name):
            used = {
                t
                for w in chosen.values()
                if w.pool == pool.name
                for start, end, counts in w.runs
                if counts[node.index]
                for t in range(start, end)
            }
            off, on = 0.0, math.inf
            for t in range(problem.grid.slots):
                there = node.index < pool.nodes_at(t)
                stay_on = min(on, off + startup) + rate if there else math.inf
                off, on = (math.inf if t in used else min(off, on)), stay_on
            total += min(off, on)
    return total
