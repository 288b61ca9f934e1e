"""Free capacity by node and slot: the one mutable value of the planner."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner import cost
from planner.booking import Booking, Counts, spent_by
from planner.devices import Devices, spot_of
from planner.inventory import Flags, Inventory, Spot
from planner.plan import Segment
from planner.problem import Mode
from planner.table import RESOURCES, Option, Run, Table, spent_usd, takes_of


class Occupancy:
    """What is free of every node over time, what queues may hold yet, and of every budget.

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
        self.devices: dict[int, Devices] = {}  # of the pools whose GPUs are told apart
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
            if table.apart[p]:
                self.devices[p] = Devices(table.problem.pools[p], table.nodes[p], edges.size)
        self.most_usd = [
            math.inf if j.max_cost_usd is None else j.max_cost_usd for j in table.problem.jobs
        ]
        self.budgets = _budgets(table)
        self.budgets_of = [
            tuple(i for i, budget in enumerate(self.budgets) if o.job in budget.jobs)
            for o in table.options
        ]
        self.limits = _limits(table)
        self.quota = [cap.milli.copy() for cap in table.caps]
        self.limits_of = [
            tuple(
                i
                for i, (jobs, pools) in enumerate(self.limits)
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
        last[list(self.table.up[pool])] = last[list(self.table.up[pool])].clip(min=0)
        return slot - last

    def within_limits(self, option: Option, start: int, slots: int = 0) -> bool:
        """Whether queue limits and budgets leave room for ``option`` from ``start``.

        With ``slots`` for a piece of it: its money is judged with the other pieces (`affordable`).
        """
        runs = (Run(start=0, end=slots, replicas=option.peak),) if slots else option.runs
        fits = next(self._caps_over(option, start, runs), None) is None
        if not fits or slots:
            return fits
        pool = self.table.problem.pools[option.pool]
        return option.usd_from(start) <= self.most_usd[option.job] + 1e-6 and all(
            spent_usd(pool, option, start, first, last) <= left + 1e-6
            for i in self.budgets_of[option.index]
            for (first, last), left in self.budgets[i].left.items()
        )

    def caps_over(self, option: Option, start: int) -> tuple[int, ...]:
        """Which of the table's caps leave no room for ``option`` from ``start``."""
        return tuple(self._caps_over(option, start, option.runs))

    def _caps_over(self, option: Option, start: int, runs: Sequence[Run]) -> Iterator[int]:
        milli = option.takes[0]
        for i in self.limits_of[option.index]:
            left = self.quota[i][start:]
            if any(int(np.min(left[r.start : r.end])) < milli * r.replicas for r in runs):
                yield i

    def affordable(self, booking: Booking) -> bool:
        """Whether the job's own limit and the budgets of its queues allow all of its pieces."""
        option, slots = self.table.options[booking.option], self.table.problem.grid.slots
        return spent_by(self.table, booking, 0, slots) <= self.most_usd[option.job] + 1e-6 and all(
            spent_by(self.table, booking, first, last) <= left + 1e-6
            for i in self.budgets_of[option.index]
            for (first, last), left in self.budgets[i].left.items()
        )

    def take(self, booking: Booking) -> None:
        """Book; the caller has seen that it fits."""
        self._spend(booking, 1)
        for piece in booking.pieces():
            self.hold_piece(piece)

    def hold_piece(self, piece: Booking) -> None:
        """Book the nodes of one piece, and no money."""
        self._add(piece, -1)
        changes = self.changes[self.table.options[piece.option].pool]
        for run in piece.runs(self.table):
            insort(changes, piece.start + run.end)

    def release(self, booking: Booking) -> None:
        """Undo `take`."""
        self._spend(booking, -1)
        for piece in booking.pieces():
            self._add(piece, 1)
            changes = self.changes[self.table.options[piece.option].pool]
            for run in piece.runs(self.table):
                del changes[bisect_left(changes, piece.start + run.end)]

    def hold(self, segment: Segment, sign: int = -1) -> None:
        """Book what a plan's segment holds, or give it back with a ``sign`` of 1."""
        problem = self.table.problem
        mode = cost.mode_of(problem, segment)
        j, p = self._job[segment.job], self._pool[mode.pool]
        pool = problem.pools[p]
        numbers = {node.name: n for n, node in enumerate(self.table.nodes[p])}
        counts = [0] * len(numbers)
        spots = []
        for place in segment.placement:  # a node that may not be used has no row
            if (n := numbers.get(place.node)) is not None:
                counts[n] = place.replicas
                spots.append(spot_of(pool, n, place))
        takes = takes_of(pool, mode)
        self._reserve(p, mode, takes, segment.start, segment.end, counts, spots, sign)
        for i, (jobs, pools) in enumerate(self.limits):
            if j in jobs and p in pools:
                milli = segment.replicas * takes[0]
                self.quota[i][segment.start : segment.end] += sign * milli
        for budget in self.budgets:
            for first, last in budget.left if j in budget.jobs else ():
                usd = cost.spent_usd(problem, segment, first, last)
                budget.left[first, last] += sign * usd
        if sign < 0:
            insort(self.changes[p], segment.end)
        else:
            self.changes[p].remove(segment.end)

    def _spend(self, booking: Booking, sign: int) -> None:
        for i in self.budgets_of[booking.option]:
            left = self.budgets[i].left
            for first, last in left:
                left[first, last] -= sign * spent_by(self.table, booking, first, last)

    def _add(self, piece: Booking, sign: int) -> None:
        option = self.table.options[piece.option]
        runs = piece.runs(self.table)
        spots = piece.spots or ((),) * len(runs)
        for run, counts, held in zip(runs, piece.counts, spots, strict=True):
            at, until = piece.start + run.start, piece.start + run.end
            self.reserve(option, at, until, counts, held, sign)
            for i in self.limits_of[option.index]:
                self.quota[i][at:until] += sign * run.replicas * option.takes[0]
        if self.edges[option.pool].size > 4 * len(self.changes[option.pool]) + 64:
            self._compact(option.pool)

    def reserve(
        self, option: Option, at: int, until: int, counts: Counts, spots: Iterable[Spot], sign: int
    ) -> None:
        """Take (-1) or give back (1) nodes and GPUs over [at, until), limits and budgets apart."""
        mode = self.table.mode(option)
        self._reserve(option.pool, mode, option.takes, at, until, counts, spots, sign)

    def _reserve(
        self,
        p: int,
        mode: Mode,
        takes: Sequence[int],
        at: int,
        until: int,
        counts: Sequence[int],
        spots: Iterable[Spot],
        sign: int,
    ) -> None:
        a, b = self._edge(p, at), self._edge(p, until)
        held = np.array(counts, dtype=np.int64)[:, None] * sign
        for k, r in enumerate(self.kept[p]):
            if takes[r]:
                self.free[p][k, :, a:b] += held * takes[r]
        if p in self.devices:
            self.devices[p].add(mode.amounts, spots, a, b, sign)

    def least(self, option: Option, at: int, until: int, usable: Flags) -> Inventory:
        """The least that is free of ``usable`` nodes and their GPUs over the whole of [at, until).

        Of a pool whose GPUs are told apart.
        """
        p = option.pool
        a = int(self.edges[p].searchsorted(at, side="right")) - 1
        b = int(self.edges[p].searchsorted(until, side="left"))
        free = np.min(self.free[p][:, :, a:b], axis=2)
        of_node = [
            free[self.kept[p].index(r)]
            if r in self.kept[p]
            else np.full(free.shape[1], self.table.capacity[p][r], dtype=np.int64)
            for r in range(len(RESOURCES))
        ]
        there = usable & (self.room(option, at, until) > 0)
        return self.devices[p].least(a, b, there, of_node[1], of_node[2])

    def _edge(self, pool: int, slot: int) -> int:
        """The column that begins at ``slot``, split off where there is none."""
        edges = self.edges[pool]
        i = int(edges.searchsorted(slot))
        if i == edges.size or edges[i] != slot:
            self.edges[pool] = np.insert(edges, i, slot)
            free = self.free[pool]
            self.free[pool] = np.insert(free, i, free[:, :, i - 1], axis=2)
            if pool in self.devices:
                self.devices[pool].split(i)
        return i

    def _compact(self, pool: int) -> None:
        """Join columns that say the same."""
        free = self.free[pool]
        differs = np.any(np.diff(free, axis=2) != 0, axis=(0, 1))
        if pool in self.devices:
            differs |= self.devices[pool].differs()
        keep = np.concatenate(([True], differs))
        if pool in self.devices:
            self.devices[pool].keep(keep)
        self.edges[pool], self.free[pool] = self.edges[pool][keep], free[:, :, keep]


def _have(table: Table, pool: int, resource: int) -> npt.NDArray[np.int64]:
    """What each node of the pool has of a resource."""
    nodes = range(len(table.nodes[pool]))
    return np.array([table.have(pool, n, resource) for n in nodes], dtype=np.int64)


@dataclass(slots=True)
class Budget:
    """What a queue's jobs may still spend, by calendar month (first slot, end slot)."""

    jobs: frozenset[int]
    left: dict[tuple[int, int], float]


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


def _limits(table: Table) -> list[tuple[frozenset[int], frozenset[int]]]:
    """Of each of the table's caps the jobs that it counts, and the pools."""
    problem = table.problem
    paths = [set(problem.queue_path(job.queue)) for job in problem.jobs] if table.caps else []
    return [
        (
            frozenset(j for j, path in enumerate(paths) if cap.binds(path)),
            frozenset(
                p for p, pool in enumerate(problem.pools) if pool.accelerator == cap.accelerator
            ),
        )
        for cap in table.caps
    ]
