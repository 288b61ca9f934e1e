"""The ways to run a job, and the least of them: what the fast path searches.

A *way* is a mode on the grid. Its columns are read by two compiled loops: `fits` says in which
slots a way may start by the sums of what is left, `least` which way and start costs least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from planner.compiled import compiled
from planner.inventory import Request
from planner.live import Floats, Ints, Left, Live
from planner.problem import (
    GPU_MILLI,
    Billing,
    Demand,
    Grid,
    Job,
    Mode,
    Work,
    hours_of,
    replicas_for,
)
from planner.table import spendable_usd

Flags = npt.NDArray[np.bool_]

NO_BUDGET = np.zeros((0, 2), dtype=np.int64), np.zeros(0)


class Way(NamedTuple):
    """One way to run the job: a mode and what it comes to on the grid."""

    number: int  # of the mode
    mode: Mode
    left: Left
    replicas: int  # at its peak
    length: int  # slots
    last: int  # latest start
    paid_slots: float  # of its length, what it pays for: the rest of the last slot is idle
    usd: float  # money of the whole run, bringing its data included
    egress_usd: float  # of it, what bringing its data costs, at the start
    startup_usd: float  # of the nodes it needs, if all had to be started for it

    @property
    def gpus(self) -> float:
        return self.replicas * self.mode.amounts.gpu_milli / GPU_MILLI

    @property
    def request(self) -> Request:
        """The gang, as `planner.place` is asked for it."""
        return Request(
            amounts=self.mode.amounts,
            replicas=self.replicas,
            together=self.mode.together,
            together_required=self.mode.together_required,
            spread=self.mode.spread,
        )


class Columns(NamedTuple):
    """The ways; what way w takes is ``of[w]:of[w + 1]`` of row and need."""

    pool: Ints
    ready: Ints  # slots from the launch of a node to its use
    length: Ints
    last: Ints
    paid_slots: Floats
    usd: Floats
    egress_usd: Floats
    startup_usd: Floats
    toll_usd: Floats  # of queue limits and budgets, at their prices
    gpus: Floats
    of: Ints
    row: Ints  # of `Live.rows`
    need: Ints


def ways_of(live: Live, job: Job) -> list[Way]:
    """Modes that could run, each by itself, on an empty fleet; shapes are left to `place`."""
    spendable = spendable_usd(live.bare, job)
    worth = math.inf if job.required else job.unplaced_usd
    found: list[Way] = []
    for number, mode in enumerate(job.modes):
        left = live.left.get(mode.pool)
        if left is None or mode.amounts.mig:
            continue
        if left.pool.interruptions_per_hour > 0 and not job.preemptible:
            continue
        way = _way(live.grid, job, number, left)
        if way is None or way.usd > spendable + 1e-6:
            continue
        # On a node that others keep running it costs nothing more, whatever its share.
        least = way.egress_usd if left.pool.billing is Billing.NODE else way.usd
        if least < worth:
            found.append(way)
    return found


def _way(grid: Grid, job: Job, number: int, left: Left) -> Way | None:
    """The mode called ``number`` on the grid, or None where the time does not suffice."""
    mode = job.modes[number]
    end = min(job.deadline, grid.slots)
    if isinstance(job.need, Work):
        hours = hours_of(job, mode)
        length = grid.slots_for(hours) if hours < 1e9 else grid.slots + 1
        replicas, replica_hours, last = mode.replicas, hours * mode.replicas, end - length
    else:
        wanted = replicas_by_slot(job.need, mode, job.release, end)
        replicas, replica_hours = max([1, *wanted]), sum(wanted) * grid.slot_hours
        length, last = len(wanted), job.release
    if last < job.release or length < 1:
        return None
    nodes = -(-replicas * mode.amounts.gpus // max(1, left.pool.gpus_per_node))
    brought, startup_usd = mode.egress_usd, nodes * left.startup_usd
    usd = replica_hours * mode.usd_per_replica_hour + brought
    batch = isinstance(job.need, Work)
    paid = replica_hours / mode.replicas / grid.slot_hours if batch else float(length)
    return Way(number, mode, left, replicas, length, last, paid, usd, brought, startup_usd)


def replicas_by_slot(need: Demand, mode: Mode, start: int, end: int) -> list[int]:
    """Replicas of a service that serve each slot of [start, end)."""
    return [replicas_for(need, mode, t) for t in range(start, end)]


def columns_of(live: Live, job: Job, ways: Sequence[Way], *, capped: bool = True) -> Columns:
    """``ways`` of ``job`` for the compiled loops; or as if its queues had no caps."""
    takes = [takes_of(live, job, way, capped=capped) for way in ways]
    batch = isinstance(job.need, Work)  # the nodes of a service are launched ahead
    return Columns(
        pool=np.array([w.left.index for w in ways]),
        ready=np.array([w.left.ready_slots if batch else 0 for w in ways]),
        length=np.array([w.length for w in ways]),
        last=np.array([w.last for w in ways]),
        paid_slots=np.array([w.paid_slots for w in ways]),
        usd=np.array([w.usd for w in ways]),
        egress_usd=np.array([w.egress_usd for w in ways]),
        startup_usd=np.array([w.startup_usd for w in ways]),
        toll_usd=np.array([_toll_usd(live, job, w) for w in ways]),
        gpus=np.array([w.gpus for w in ways]),
        of=np.array([0, *accumulate(map(len, takes))]),
        row=np.array([row for each in takes for row, _ in each], dtype=np.int64),
        need=np.array([need for each in takes for _, need in each], dtype=np.int64),
    )


def takes_of(live: Live, job: Job, way: Way, *, capped: bool = True) -> list[tuple[int, int]]:
    """(row, how much of it) of its pool and of queues' caps that ``way`` takes in every slot."""
    amounts, row, replicas = way.mode.amounts, way.left.row, way.replicas
    shared = amounts.gpu_milli % GPU_MILLI != 0
    needs = [
        (row, 0 if shared else replicas * amounts.gpus),
        (row + 1, replicas * amounts.gpu_milli if shared else 0),
        (row + 2, replicas * amounts.cpu_milli),
        (row + 3, replicas * amounts.memory_bytes),
    ]
    capped = capped and bool(live.caps)
    caps = live.cap_rows(job.queue, way.left.pool.accelerator) if capped else []
    needs += [(cap, replicas * amounts.gpu_milli) for cap in caps]
    return [(at, need) for at, need in needs if need]


def _toll_usd(live: Live, job: Job, way: Way) -> float:
    """What the job's part of queue limits and budgets would save others."""
    if not live.queue_prices:
        return 0.0
    path = live.path(job.queue)
    gpu_hours = way.gpus * way.length * live.grid.slot_hours
    tolls = {"budget": way.usd, way.left.pool.accelerator: gpu_hours}
    return sum(p.usd * tolls.get(p.what, 0.0) for p in live.queue_prices if p.binds(path))


def budgets_of(live: Live, job: Job) -> tuple[Ints, Floats]:
    """The job's budgets: months as (first slot, end slot), and what is left of each (USD)."""
    mine = live.purses_of(job.queue) if live.purses else []
    months = np.array([live.purses[i][1:] for i in mine], dtype=np.int64).reshape(-1, 2)
    return months, live.purse_usd[mine]


@compiled
def fits(rows: Ints, months: Ints, purse_usd: Floats, now: int, begin: int, ways: Columns) -> Flags:
    """(ways, slots): whether a way may start in a slot, by the sums of what is left.

    No earlier than ``begin``, on nodes launched ``now`` or up already.
    """
    slots = rows.shape[1]
    found = np.zeros((ways.length.size, slots), dtype=np.bool_)
    for w in range(ways.length.size):
        length, last = ways.length[w], ways.last[w]
        blocked = slots  # the next slot that is too full
        for t in range(last + length - 1, max(begin, now + ways.ready[w]) - 1, -1):
            for i in range(ways.of[w], ways.of[w + 1]):
                if rows[ways.row[i], t] < ways.need[i]:
                    blocked = t
            found[w, t] = t <= last and blocked >= t + length
            for m in range(purse_usd.size):
                paid = ways.paid_slots[w]
                inside = min(t + paid, months[m, 1]) - max(t, months[m, 0])
                brought = ways.egress_usd[w]
                usd = max(inside, 0.0) * (ways.usd[w] - brought) / paid
                if months[m, 0] <= t < months[m, 1]:
                    usd += brought
                if usd > purse_usd[m] + 1e-6:
                    found[w, t] = False
    return found


@compiled
def least(
    may: Flags, dear: Floats, begin: int, due: int, late_usd: float, ways: Columns
) -> tuple[int, int, float, float]:
    """(way, start, own cost, reduced cost) of least reduced cost, then earliest; way -1: none.

    Of the starts that ``may`` be, from slot ``begin`` on.
    """
    best, at, own, reduced = -1, 0, 0.0, np.inf
    for w in range(ways.length.size):
        pool = ways.pool[w]
        for t in range(begin, ways.last[w] + 1):
            if may[w, t]:
                end = t + ways.length[w]
                mine = ways.usd[w] + ways.startup_usd[w] + max(0, end - due) * late_usd
                usd = mine + ways.toll_usd[w] + ways.gpus[w] * (dear[pool, end] - dear[pool, t])
                margin = 1e-9 * abs(reduced) if best >= 0 else 0.0
                if usd < reduced - margin or (t < at and usd <= reduced + margin):
                    best, at, own, reduced = w, t, mine, usd
    return best, at, own, reduced


@compiled
def next_start(
    gpu_milli: npt.NDArray[np.int16],
    cpu_milli: Ints,
    memory_bytes: Ints,
    starts: tuple[int, int],
    length: int,
    replicas: int,
    each: tuple[int, int, int, int, int],
) -> int:
    """The first of ``starts`` (first, last) from which devices hold all replicas for ``length``.

    ``each`` replica takes (devices, thousandths of each, CPU, memory) and shares a node with
    (most - 1) others. CPU and memory are those of the start alone; last + 1: there is none.
    """
    first, last = starts
    count, milli, cpu, memory, most = each
    nodes, devices = gpu_milli.shape[1:]
    since = np.full((nodes, devices), first)  # a device has been free from here ...
    until = np.full((nodes, devices), first)  # ... to here at least
    for t in range(first, last + 1):
        found = 0
        for n in range(nodes):
            units = 0
            for d in range(devices):
                while since[n, d] <= t and until[n, d] < t + length:
                    if gpu_milli[until[n, d], n, d] < milli:
                        since[n, d] = until[n, d] + 1
                    until[n, d] += 1
                if since[n, d] <= t:
                    units += gpu_milli[t, n, d] // milli if milli > 0 else 0
            room = min(units // count, most) if count > 0 else most
            if cpu > 0:
                room = min(room, cpu_milli[t, n] // cpu)
            if memory > 0:
                room = min(room, memory_bytes[t, n] // memory)
            found += max(room, 0)
        if found >= replicas:
            return t
    return last + 1
