"""Free capacity by node and slot: the one mutable value of the planner."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner import cost
from planner.plan import Segment
from planner.problem import GPU_MILLI
from planner.table import RESOURCES, Option, Table

Counts = tuple[int, ...]  # replicas on each node of the pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """An option at a start, with its replicas by run and node: what `Occupancy` holds."""

    option: int
    start: int
    counts: tuple[Counts, ...]  # one a run

    def end(self, table: Table) -> int:
        return self.start + table.options[self.option].length


class Occupancy:
    """What is free of every node over time, of every queue limit, and of every budget.

    Time is kept by pool as the slots at which something changes (``edges``); ``free[pool]`` has
    shape (resources, nodes, edges). Only the resources of a pool that can bind are kept.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        grid = table.problem.grid
        self._job = {job.name: j for j, job in enumerate(table.problem.jobs)}
        self._pool = {pool.name: p for p, pool in enumerate(table.problem.pools)}
        self.kept: list[list[int]] = []
        self.free: list[npt.NDArray[np.int64]] = []
        self.edges: list[npt.NDArray[np.int64]] = []
        self.changes: list[list[int]] = []  # slots at which something is freed, by pool
        for p in range(len(table.problem.pools)):
            kept = _binding(table, p)
            gone = [gap for gaps in table.away[p] for gap in gaps]
            edges = np.array(sorted({0} | {t for gap in gone for t in gap if t < grid.slots}))
            free = np.empty((len(kept), len(table.nodes[p]), edges.size), dtype=np.int64)
            for k, r in enumerate(kept):
                free[k] = _have(table, p, r)[:, None]
            for n, gaps in enumerate(table.away[p]):
                for start, end in gaps:
                    free[:, n, (edges >= start) & (edges < end)] = 0
            self.kept.append(kept)
            self.free.append(free)
            self.edges.append(edges)
            self.changes.append(sorted({end for _, end in gone if end < grid.slots}))
        self.budgets = _budgets(table)
        self.budgets_of = [
            tuple(i for i, budget in enumerate(self.budgets) if o.job in budget.jobs)
            for o in table.options
        ]
        self.limits = _limits(table)
        self.quota = [np.full(grid.slots, most, dtype=np.int64) for _, _, most in self.limits]
        self.limits_of = [
            tuple(
                i
                for i, (jobs, pools, _) in enumerate(self.limits)
                if o.job in jobs and o.pool in pools
            )
            for o in table.options
        ]

    def room(self, option: Option, start: int, end: int) -> npt.NDArray[np.int64]:
        """Replicas of ``option`` that fit on each node over the whole of [start, end)."""
        p = option.pool
        a = int(self.edges[p].searchsorted(start, side="right")) - 1
        b = int(self.edges[p].searchsorted(end, side="left"))
        free = np.min(self.free[p][:, :, a:b], axis=2)
        room = np.full(free.shape[1], option.per_node, dtype=np.int64)
        for k, r in enumerate(self.kept[p]):
            if option.takes[r]:
                np.minimum(room, free[k] // option.takes[r], out=room)
        return room

    def room_from(self, option: Option, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Replicas that fit on each node for the whole length from each start: (nodes, starts).

        For each node and number of replicas, the next column that blocks it is one backward scan.
        """
        p = option.pool
        free, columns = self.free[p], self.edges[p].size
        ends = np.append(self.edges[p], np.iinfo(np.int64).max)
        at = self.edges[p].searchsorted(starts, side="right") - 1
        until = starts + option.length
        room = np.zeros((free.shape[1], starts.size), dtype=np.int64)
        for replicas in range(1, min(option.per_node, option.peak) + 1):
            blocked = np.zeros(free.shape[1:], dtype=bool)
            for k, r in enumerate(self.kept[p]):
                if option.takes[r]:
                    blocked |= free[k] < replicas * option.takes[r]
            column = np.where(blocked, np.arange(columns), columns)
            following = np.minimum.accumulate(column[:, ::-1], axis=1)[:, ::-1]
            room += ends[following[:, at]] >= until
        return room

    def free_at(self, pool: int, slot: int) -> npt.NDArray[np.int64]:
        """What is free of the leading resource on each node during ``slot``."""
        column = int(self.edges[pool].searchsorted(slot, side="right")) - 1
        found: npt.NDArray[np.int64] = self.free[pool][0, :, column]
        return found

    def idle_before(self, pool: int, slot: int) -> npt.NDArray[np.int64]:
        """Slots for which each node has been idle before ``slot``; never used counts longest."""
        columns = int(self.edges[pool].searchsorted(slot, side="left"))
        ends = np.append(self.edges[pool][1:], slot)[:columns].clip(max=slot)
        whole = _have(self.table, pool, self.kept[pool][0])[:, None]
        used = self.free[pool][0, :, :columns] < whole
        last: npt.NDArray[np.int64] = np.max(np.where(used, ends, -1), axis=1, initial=-1)
        return slot - last

    def within_limits(self, option: Option, start: int) -> bool:
        """Whether queue limits and budgets leave room for ``option`` from ``start``."""
        gpus = option.takes[0] // GPU_MILLI
        return all(
            int(np.min(self.quota[i][start + run.start : start + run.end])) >= gpus * run.replicas
            for i in self.limits_of[option.index]
            for run in option.runs
        ) and all(
            spent_usd(option, start, first, last) <= left + 1e-6
            for i in self.budgets_of[option.index]
            for (first, last), left in self.budgets[i].left.items()
        )

    def take(self, booking: Booking) -> None:
        """Book; the caller has seen that it fits."""
        self._add(booking, -1)
        option = self.table.options[booking.option]
        for run in option.runs:
            insort(self.changes[option.pool], booking.start + run.end)

    def release(self, booking: Booking) -> None:
        """Undo `take`."""
        self._add(booking, 1)
        option = self.table.options[booking.option]
        changes = self.changes[option.pool]
        for run in option.runs:
            del changes[bisect_left(changes, booking.start + run.end)]

    def hold(self, segment: Segment, sign: int = -1) -> None:
        """Book what a plan's segment holds, or give it back with a ``sign`` of 1."""
        problem = self.table.problem
        mode = cost.mode_of(problem, segment)
        j, p = self._job[segment.job], self._pool[mode.pool]
        takes = [getattr(mode.amounts, RESOURCES[r]) for r in self.kept[p]]
        numbers = {node.name: n for n, node in enumerate(self.table.nodes[p])}
        a, b = self._edge(p, segment.start), self._edge(p, segment.end)
        for place in segment.placement:
            for k, each in enumerate(takes):  # a node that may not be used has no row
                if (n := numbers.get(place.node)) is not None:
                    self.free[p][k, n, a:b] += sign * place.replicas * each
        for i, (jobs, pools, _) in enumerate(self.limits):
            if j in jobs and p in pools:
                gpus = segment.replicas * mode.amounts.gpus
                self.quota[i][segment.start : segment.end] += sign * gpus
        for budget in self.budgets:
            if j in budget.jobs:
                budget.spend(segment, -sign * cost.segment_usd(problem, segment))
        if sign < 0:
            insort(self.changes[p], segment.end)
        else:
            self.changes[p].remove(segment.end)

    def _add(self, booking: Booking, sign: int) -> None:
        option = self.table.options[booking.option]
        p, gpus = option.pool, option.takes[0] // GPU_MILLI
        for run, counts in zip(option.runs, booking.counts, strict=True):
            at, until = booking.start + run.start, booking.start + run.end
            a, b = self._edge(p, at), self._edge(p, until)
            held = np.array(counts, dtype=np.int64)[:, None] * sign
            for k, r in enumerate(self.kept[p]):
                if option.takes[r]:
                    self.free[p][k, :, a:b] += held * option.takes[r]
            for i in self.limits_of[option.index]:
                self.quota[i][at:until] += sign * run.replicas * gpus
        for i in self.budgets_of[booking.option]:
            left = self.budgets[i].left
            for first, last in left:
                left[first, last] += sign * spent_usd(option, booking.start, first, last)
        if self.edges[p].size > 4 * len(self.changes[p]) + 64:
            self._compact(p)

    def _edge(self, pool: int, slot: int) -> int:
        """The column that begins at ``slot``, split off where there is none."""
        edges = self.edges[pool]
        i = int(edges.searchsorted(slot))
        if i == edges.size or edges[i] != slot:
            self.edges[pool] = np.insert(edges, i, slot)
            free = self.free[pool]
            self.free[pool] = np.insert(free, i, free[:, :, i - 1], axis=2)
        return i

    def _compact(self, pool: int) -> None:
        """Join columns that say the same."""
        free = self.free[pool]
        differs = np.any(np.diff(free, axis=2) != 0, axis=(0, 1))
        keep = np.concatenate(([True], differs))
        self.edges[pool], self.free[pool] = self.edges[pool][keep], free[:, :, keep]


def _have(table: Table, pool: int, resource: int) -> npt.NDArray[np.int64]:
    """What each node of the pool has of a resource."""
    nodes = range(len(table.nodes[pool]))
    return np.array([table.have(pool, n, resource) for n in nodes], dtype=np.int64)


def spent_usd(option: Option, start: int, first: int, last: int) -> float:
    """Money of ``option`` between two slots, if it starts at ``start``."""
    if not option.usd:  # a service that nobody asks for has no replicas to divide by
        return 0.0
    return option.usd * option.inside(start, first, last) / option.replica_slots


@dataclass(slots=True)
class Budget:
    """What a queue's jobs may still spend, by calendar month (first slot, end slot)."""

    jobs: frozenset[int]
    left: dict[tuple[int, int], float]

    def spend(self, segment: Segment, usd: float) -> None:
        """Take ``usd`` from the months in which a segment runs, by its slots in each."""
        for first, last in self.left:
            inside = max(0, min(segment.end, last) - max(segment.start, first))
            self.left[first, last] -= usd * inside / (segment.end - segment.start)


def _budgets(table: Table) -> list[Budget]:
    problem = table.problem
    return [
        Budget(
            jobs=_jobs_under(table, queue.name),
            left={(a, b): queue.budget_usd_per_month for _, a, b in problem.grid.months()},
        )
        for queue in problem.queues
        if queue.budget_usd_per_month is not None
    ]


def _jobs_under(table: Table, queue: str) -> frozenset[int]:
    problem = table.problem
    return frozenset(i for i, j in enumerate(problem.jobs) if queue in problem.queue_path(j.queue))


def _binding(table: Table, pool: int) -> list[int]:
    """Resources of the pool that can run out before the first one does."""
    options = [table.options[i] for i in table.of_pool[pool]]
    lead = 0 if any(o.takes[0] for o in options) else 1
    kept = [lead]
    for r in range(len(RESOURCES)):
        if r == lead:
            continue
        have, lead_have = table.capacity[pool][r], table.capacity[pool][lead]
        if any(o.takes[r] * lead_have > o.takes[lead] * have for o in options):
            kept.append(r)
    return kept


def _limits(table: Table) -> list[tuple[frozenset[int], frozenset[int], int]]:
    """Queue limits as (jobs under it, pools it counts, GPUs)."""
    problem = table.problem
    found = []
    for queue in problem.queues:
        jobs = _jobs_under(table, queue.name) if queue.limit else frozenset()
        for accelerator, most in queue.limit:
            pools = frozenset(
                i for i, p in enumerate(problem.pools) if p.accelerator == accelerator
            )
            found.append((jobs, pools, most))
    return found
