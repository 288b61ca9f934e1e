"""A problem as columns: what the compiled loops read.

A *row* is something of which there is so much in each slot: the GPUs of a pool, or those that a
queue limit allows. A *class* is a set of rows that one mode takes from together, its pool's first.
Modes stand job by job, cheapest first; those that could be in no best plan are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from planner.problem import Job, Node, Pool, Problem, Work

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Columns(NamedTuple):
    """The question. Shapes: R rows, T slots, K classes, J jobs, M modes, Q (class, length) pairs.

    Amounts are GPU thousandths, prices USD for one of them over one slot.
    """

    capacity: Ints  # (R, T)
    rows: Ints  # (K, most rows of a class), -1: none
    of_job: Longs  # (J + 1) where each job's modes begin
    unplaced_usd: Floats  # (J)
    due: Ints  # (J) slot past which lateness is paid; T where nothing is due
    late_usd: Floats  # (J) for each slot past it
    number: Ints  # (M) index in `Job.modes`
    cls: Ints  # (M)
    takes: Ints  # (M) of each row of its class
    length: Ints  # (M) slots
    usd: Floats  # (M) money of the whole run
    first: Ints  # (M) earliest start
    last: Ints  # (M) latest start
    pair: Ints  # (M) index of (class, length)
    pair_cls: Ints  # (Q)
    pair_length: Ints  # (Q)

    @property
    def slots(self) -> int:
        return int(self.capacity.shape[1])

    @property
    def jobs(self) -> int:
        return int(self.unplaced_usd.size)


def prefix(columns: Columns, prices: Floats) -> Floats:
    """(K, T + 1): what each class costs from slot 0 to each slot at ``prices`` (R, T)."""
    padded = np.vstack([prices, np.zeros((1, prices.shape[1]))])  # row -1 costs nothing
    each = padded[columns.rows].sum(axis=1)
    total = np.zeros((each.shape[0], each.shape[1] + 1))
    np.cumsum(each, axis=1, out=total[:, 1:])
    return total


def columns(problem: Problem) -> Columns:
    """The columns of ``problem``."""
    return _Reader(problem).read()


@dataclass(slots=True)
class _Reader:
    """The rows and classes met so far, and the modes read."""

    problem: Problem
    pools: dict[str, int] = field(init=False)
    limits: dict[str, list[tuple[str, int]]] = field(init=False)  # queue -> (accelerator, row)
    classes: dict[tuple[int, ...], int] = field(default_factory=dict)
    of_queue: dict[tuple[str, str], int] = field(default_factory=dict)  # (pool, queue) -> class
    capacity: list[Ints] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pools = {pool.name: p for p, pool in enumerate(self.problem.pools)}
        usable: dict[str, list[Node]] = defaultdict(list)
        for node in self.problem.nodes:
            if not node.cordoned and not any(d.unhealthy for d in node.devices):
                usable[node.pool].append(node)
        for pool in self.problem.pools:
            self.capacity.append(_capacity(pool, usable[pool.name], self.problem.grid.slots))
        self.limits = defaultdict(list)
        for queue in self.problem.queues:
            for accelerator, gpus in queue.limit:
                self.limits[queue.name].append((accelerator, len(self.capacity)))
                most = np.full(self.problem.grid.slots, min(gpus * 1000, 2**31 - 1), dtype=np.int32)
                self.capacity.append(most)

    def read(self) -> Columns:
        jobs = self.problem.jobs
        modes: list[tuple[int, int, int, int, float, int, int]] = []
        of_job = np.zeros(len(jobs) + 1, dtype=np.int64)
        for j, job in enumerate(jobs):
            modes += sorted(self._modes(job), key=lambda mode: (mode[4], mode))
            of_job[j + 1] = len(modes)
        table = list(zip(*modes, strict=True)) or [()] * 7
        number, cls, takes, length = (np.array(column, dtype=np.int32) for column in table[:4])
        first, last = (np.array(column, dtype=np.int32) for column in table[5:])
        slots = self.problem.grid.slots
        pairs, pair = np.unique(cls.astype(np.int64) * (slots + 1) + length, return_inverse=True)
        widest = max(map(len, self.classes), default=1)
        rows = np.full((max(1, len(self.classes)), widest), -1, dtype=np.int32)
        for key, k in self.classes.items():
            rows[k, : len(key)] = key
        return Columns(
            capacity=np.array(self.capacity, dtype=np.int32).reshape(-1, slots),
            rows=rows,
            of_job=of_job,
            unplaced_usd=np.array([job.unplaced_usd for job in jobs], dtype=np.float64),
            due=np.array([slots if job.due is None else job.due for job in jobs], dtype=np.int32),
            late_usd=np.array(
                [job.lateness_usd_per_hour * self.problem.grid.slot_hours for job in jobs],
                dtype=np.float64,
            ),
            number=number,
            cls=cls,
            takes=takes,
            length=length,
            usd=np.array(table[4], dtype=np.float64),
            first=first,
            last=last,
            pair=pair.astype(np.int32),
            pair_cls=(pairs // (slots + 1)).astype(np.int32),
            pair_length=(pairs % (slots + 1)).astype(np.int32),
        )

    def _modes(self, job: Job) -> Iterator[tuple[int, int, int, int, float, int, int]]:
        """(number, class, takes, length, usd, first, last) of the modes that could be of use."""
        assert isinstance(job.need, Work)
        grid, amount = self.problem.grid, job.need.amount
        end = min(job.deadline, grid.slots)
        for m, mode in enumerate(job.modes):
            rate = mode.replicas * mode.work_per_replica_hour
            hours = amount / rate if rate > 0 else 1e9
            if hours >= 1e9:
                continue
            length = grid.slots_for(hours)
            usd = hours * mode.replicas * mode.usd_per_replica_hour
            if job.release + length <= end and (usd < job.unplaced_usd or job.required):
                cls = self._class(mode.pool, job.queue)
                takes = mode.replicas * mode.amounts.gpu_milli
                if takes <= self.capacity[self.pools[mode.pool]].max():
                    yield m, cls, takes, length, usd, job.release, end - length

    def _class(self, pool: str, queue: str) -> int:
        found = self.of_queue.get((pool, queue))
        if found is None:
            accelerator = self.problem.pool_by_name[pool].accelerator
            limits = (
                row
                for name in self.problem.queue_path(queue)
                for kind, row in self.limits.get(name, ())
                if kind == accelerator
            )
            key = (self.pools[pool], *limits)
            found = self.classes.setdefault(key, len(self.classes))
            self.of_queue[pool, queue] = found
        return found


def _capacity(pool: Pool, nodes: list[Node], slots: int) -> Ints:
    """GPU thousandths of the pool's usable nodes in each slot."""
    index = np.array([node.index for node in nodes], dtype=np.int64)
    found = np.zeros(slots, dtype=np.int64)
    for window in pool.windows:
        found[window.start : window.end] = np.count_nonzero(index < window.nodes)
    return (found * pool.capacity.gpu_milli).astype(np.int32)
