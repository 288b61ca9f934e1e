"""What is left of a fleet, slot by slot, as jobs come and go: the index the fast path decides on.

Two views of the same bookings are kept in step. By device and node it says where a gang fits; by
*row* (the sum over a pool, or what queues may hold yet) it says in which slots a gang may fit at
all, which is what a search over modes and starts reads. A live index lasts from one plan of the
whole queue to the next: `Live(problem, plan)` books the plan, jobs are booked and released one by
one, and the next plan starts a new one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from planner import cost
from planner.compiled import compiled
from planner.inventory import Inventory
from planner.plan import Plan, Price, QueuePrice, Segment
from planner.problem import GPU_MILLI, Amounts, Billing, Grid, Job, Node, Pool, Problem
from planner.quotas import Cap, kept_rows, limits

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

POOL_ROWS = 4  # of each pool: wholly free GPUs, free GPU thousandths, CPU thousandths, memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a pool's nodes have left. Shapes: T slots, N nodes, D devices of a node."""

    index: int
    pool: Pool
    nodes: tuple[Node, ...]
    number: dict[str, int]  # of each node by its name
    whole: Inventory  # with nothing booked
    there: npt.NDArray[np.bool_]  # (T, N)
    gpu_milli: npt.NDArray[np.int16]  # (T, N, D)
    gpu_memory_bytes: Ints  # (T, N, D)
    cpu_milli: Ints  # (T, N)
    memory_bytes: Ints  # (T, N)
    ready_slots: int  # from the launch of a node to the first slot that it can work in
    startup_usd: float  # of one node

    @property
    def row(self) -> int:
        """The first of the pool's rows."""
        return POOL_ROWS * self.index


class Live:
    """What is left of the pools, queues' caps and budgets of ``problem`` beside ``plan``.

    ``rows`` has shape (4 pools + caps, slots), caps in GPU thousandths (`planner.quotas`);
    ``dear[pool, t]`` is the price of one GPU from slot 0 to slot t (USD).
    """

    def __init__(self, problem: Problem, plan: Plan | None = None) -> None:
        self.grid = problem.grid
        self.bare = replace(problem, nodes=(), jobs=(), running=())
        self.left = {p.name: _empty(problem, i, p) for i, p in enumerate(problem.pools)}
        self.nodes = problem.nodes
        self.caps = self._caps()
        self.rows = _rows(list(self.left.values()), self.caps, self.grid.slots)
        self.purses = [
            (q.name, a, b)
            for q in problem.queues
            if q.budget_usd_per_month is not None
            for _, a, b in problem.grid.months()
        ]
        budgets = [problem.queue_by_name[name].budget_usd_per_month for name, _, _ in self.purses]
        self.purse_usd = np.array(budgets, dtype=np.float64)
        self.dear = np.zeros((len(self.left), self.grid.slots + 1))
        self.queue_prices: tuple[QueuePrice, ...] = ()
        self.booked: dict[str, tuple[Job, tuple[Segment, ...]]] = {}
        self._paths: dict[str, tuple[str, ...]] = {}
        if plan is not None:
            self.reprice(plan.prices, queue_prices=plan.queue_prices)
            for name, segments in _by_job(plan.segments).items():
                self.book(problem.job_by_name[name], segments)

    def path(self, queue: str) -> tuple[str, ...]:
        """The queue and its ancestors, leaf to root."""
        if queue not in self._paths:
            self._paths[queue] = self.bare.queue_path(queue)
        return self._paths[queue]

    def over(self, left: Left, start: int, end: int) -> Inventory:
        """What the pool's nodes have free throughout [start, end)."""
        return replace(
            left.whole,
            cpu_milli=left.cpu_milli[start:end].min(axis=0),
            memory_bytes=left.memory_bytes[start:end].min(axis=0),
            gpu_milli=left.gpu_milli[start:end].min(axis=0).astype(np.int64),
            gpu_memory_bytes=left.gpu_memory_bytes[start:end].min(axis=0),
            open=np.asarray(left.there[start:end].all(axis=0)),
        )

    def cap_rows(self, queue: str, accelerator: str) -> list[int]:
        """Rows of the caps that GPUs of ``accelerator`` under ``queue`` count against."""
        path = self.path(queue)
        first = POOL_ROWS * len(self.left)
        return [
            first + i
            for i, cap in enumerate(self.caps)
            if cap.accelerator == accelerator and cap.binds(path)
        ]

    def _caps(self) -> tuple[Cap, ...]:
        """Limits, and what queues keep back of the GPUs that there are now."""
        have = {left.pool.accelerator: np.zeros(self.grid.slots, np.int64) for left in self.pools}
        for left in self.pools:
            have[left.pool.accelerator] += left.there @ left.whole.gpu_milli.sum(axis=1)
        return (*limits(self.bare), *kept_rows(self.bare.queues, have))

    @property
    def pools(self) -> tuple[Left, ...]:
        return tuple(self.left.values())

    def purses_of(self, queue: str) -> list[int]:
        """Numbers of the budgets that a job of ``queue`` spends from."""
        path = self.path(queue)
        return [i for i, (name, _, _) in enumerate(self.purses) if name in path]

    def reprice(
        self,
        prices: Iterable[Price],
        *,
        since: Grid | None = None,
        queue_prices: tuple[QueuePrice, ...] = (),
    ) -> None:
        """Use the shadow prices of a plan made on the grid ``since`` (none: on this one).

        Past that grid, a pool has the mean of its price over it. Prices of
        pools that are not here, and of other resources than GPUs, are passed over.
        """
        level = np.zeros((len(self.left), self.grid.slots))
        found: dict[str, list[Price]] = {}
        for price in prices:
            if price.pool in self.left and price.resource == "gpu":
                found.setdefault(price.pool, []).append(price)
        for name, ours in found.items():
            level[self.left[name].index] = _level(ours, since or self.grid, self.grid)
        np.cumsum(level * self.grid.slot_hours, axis=1, out=self.dear[:, 1:])
        self.queue_prices = queue_prices

    def book(self, job: Job, segments: tuple[Segment, ...]) -> None:
        """Take what ``segments`` of ``job`` hold; the caller has seen that it fits."""
        self.booked[job.name] = (job, segments)
        for s in segments:
            self._change(job, s, s.start, 1)

    def release(self, name: str, at: int = 0) -> None:
        """Give back what the job called ``name`` holds from slot ``at`` on."""
        job, segments = self.booked.pop(name)
        for s in segments:
            if at < s.end:
                self._change(job, s, max(at, s.start), -1)
        if past := tuple(_until(s, at) for s in segments if s.start < at):
            self.booked[name] = (job, past)

    def lose(self, node: str, at: int) -> tuple[str, ...]:
        """Take ``node`` away from slot ``at`` on; the jobs that were on it, stopped there."""
        hit = tuple(
            name
            for name, (_, segments) in self.booked.items()
            if any(s.end > at and any(p.node == node for p in s.placement) for s in segments)
        )
        for name in hit:
            self.release(name, at)
        had = self.caps
        for left in self.left.values():
            if (n := left.number.get(node)) is not None:
                left.gpu_milli[at:, n] = 0
                left.cpu_milli[at:, n] = 0
                left.memory_bytes[at:, n] = 0
                left.there[at:, n] = False
                self.rows[left.row : left.row + POOL_ROWS] = _pool_rows(left)
        self.caps = self._caps()
        for i, (was, now) in enumerate(zip(had, self.caps, strict=True)):
            self.rows[POOL_ROWS * len(self.left) + i] += now.milli - was.milli
        return hit

    def end(self, name: str) -> int | None:
        """The slot by which the job called ``name`` has ended, or None where it is not booked."""
        held = self.booked.get(name)
        return None if held is None else max(s.end for s in held[1])

    def _change(self, job: Job, s: Segment, start: int, sign: int) -> None:
        amounts = job.modes[s.mode].amounts
        left = self.left[job.modes[s.mode].pool]
        rows = self.rows[left.row : left.row + POOL_ROWS]
        _take(
            left.gpu_milli,
            left.gpu_memory_bytes,
            left.cpu_milli,
            left.memory_bytes,
            rows,
            (start, s.end),
            _places(left, s),
            _takes(amounts),
            sign,
        )
        for row in self.cap_rows(job.queue, left.pool.accelerator):
            self.rows[row, start : s.end] -= sign * s.replicas * left.pool.counted_milli(amounts)
        self._spend(job, s, start, sign)

    def over_budget(self, job: Job, segments: tuple[Segment, ...]) -> str:
        """The queue whose budget does not last for ``segments``, or empty."""
        for i in self.purses_of(job.queue):
            if (
                math.fsum(self._spent(job, s, s.start, i) for s in segments)
                > self.purse_usd[i] + 1e-6
            ):
                return self.purses[i][0]
        return ""

    def _spend(self, job: Job, s: Segment, start: int, sign: int) -> None:
        for i in self.purses_of(job.queue):
            self.purse_usd[i] -= sign * self._spent(job, s, start, i)

    def _spent(self, job: Job, s: Segment, start: int, purse: int) -> float:
        """What a segment costs from slot ``start`` on, in the month of a budget (USD)."""
        _, first, end = self.purses[purse]
        alone = replace(self.bare, jobs=(replace(job, after=()),))
        return cost.spent_usd(alone, s, max(start, first), end)


def _until(s: Segment, at: int) -> Segment:
    """The part of a segment before slot ``at``."""
    end = min(s.end, at)
    return replace(s, end=end, work=s.work * (end - s.start) / (s.end - s.start))


def _takes(amounts: Amounts) -> tuple[int, int, int, int]:
    """Thousandths and memory of each device, CPU and memory of each replica."""
    milli = min(amounts.gpu_milli, GPU_MILLI)
    return milli, amounts.gpu_memory_bytes, amounts.cpu_milli, amounts.memory_bytes


def _places(left: Left, s: Segment) -> tuple[Ints, Ints, Ints, Ints]:
    """Columns over the nodes of a placement: row, replicas, devices of each; and the devices."""
    return (
        np.array([left.number[p.node] for p in s.placement], dtype=np.int64),
        np.array([p.replicas for p in s.placement], dtype=np.int64),
        np.array([len(p.devices) for p in s.placement], dtype=np.int64),
        np.array([d for p in s.placement for d in p.devices], dtype=np.int64),
    )


def _by_job(segments: Iterable[Segment]) -> dict[str, tuple[Segment, ...]]:
    found: dict[str, tuple[Segment, ...]] = {}
    for s in segments:
        found[s.job] = (*found.get(s.job, ()), s)
    return found


def _empty(problem: Problem, index: int, pool: Pool) -> Left:
    """The pool with nothing booked: what is away, cordoned or unhealthy has nothing left."""
    grid, nodes = problem.grid, problem.nodes_of(pool.name)
    there = np.zeros((grid.slots, len(nodes)), dtype=bool)
    for window in pool.windows:
        there[window.start : window.end] = [
            not n.cordoned and n.index < window.nodes for n in nodes
        ]
    whole = Inventory.of(nodes, (pool,))
    present = there[:, :, None]
    return Left(
        index=index,
        pool=pool,
        nodes=nodes,
        number={n.name: i for i, n in enumerate(nodes)},
        whole=whole,
        there=there,
        gpu_milli=(present * whole.gpu_milli).astype(np.int16),
        gpu_memory_bytes=present * whole.gpu_memory_bytes,
        cpu_milli=there * whole.cpu_milli,
        memory_bytes=there * whole.memory_bytes,
        ready_slots=0
        if pool.billing is Billing.SUNK
        else -(-pool.startup_seconds // grid.slot_seconds),
        startup_usd=cost.node_usd(pool, -pool.startup_seconds, 0, grid.slot_seconds)
        if pool.billing is Billing.NODE
        else 0.0,
    )


def _pool_rows(left: Left) -> Ints:
    """(4, T)"""
    return np.array(
        [
            (left.gpu_milli == GPU_MILLI).sum(axis=(1, 2)),
            left.gpu_milli.sum(axis=(1, 2), dtype=np.int64),
            left.cpu_milli.sum(axis=1),
            left.memory_bytes.sum(axis=1),
        ],
        dtype=np.int64,
    )


def _rows(pools: list[Left], caps: tuple[Cap, ...], slots: int) -> Ints:
    quota = np.array([cap.milli for cap in caps], dtype=np.int64).reshape(-1, slots)
    return np.concatenate([*map(_pool_rows, pools), quota], dtype=np.int64)


def _level(prices: list[Price], since: Grid, grid: Grid) -> Floats:
    """USD per GPU-hour in each slot of ``grid``, of prices stated on the grid ``since``."""
    stated = np.zeros(since.slots)
    for p in prices:
        stated[p.start : p.end] = p.usd_per_gpu_hour
    begins = np.array([since.floor(grid.time(t)) for t in range(grid.slots)])
    known = (begins >= 0) & (begins < since.slots)
    found: Floats = np.where(known, stated[begins.clip(0, since.slots - 1)], stated.mean())
    return found


@compiled
def _take(
    gpu_milli: npt.NDArray[np.int16],
    gpu_memory_bytes: Ints,
    cpu_milli: Ints,
    memory_bytes: Ints,
    rows: Ints,
    stretch: tuple[int, int],
    places: tuple[Ints, Ints, Ints, Ints],
    take: tuple[int, int, int, int],
    sign: int,
) -> None:
    """Subtract, or with sign -1 add, what replicas take at ``places``."""
    nodes, replicas, count, devices = places
    milli, gpu_memory, cpu, memory = take
    for t in range(stretch[0], stretch[1]):
        at = 0
        for i in range(nodes.size):
            n, here = nodes[i], sign * replicas[i]
            for d in devices[at : at + count[i]]:
                before = gpu_milli[t, n, d]
                after = before - sign * milli
                gpu_milli[t, n, d] = after
                gpu_memory_bytes[t, n, d] -= sign * gpu_memory
                rows[0, t] += int(after == GPU_MILLI) - int(before == GPU_MILLI)
                rows[1, t] -= sign * milli
            at += count[i]
            cpu_milli[t, n] -= here * cpu
            memory_bytes[t, n] -= here * memory
            rows[2, t] -= here * cpu
            rows[3, t] -= here * memory
