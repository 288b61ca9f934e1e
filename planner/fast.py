"""The fast path: one arriving job, placed where it costs least at the current shadow prices.

Sets     w, the ways to run the job: a mode with its pool, length and money; s, the starts of a way
Data     dear[p, t], the shadow price of one GPU of pool p in slot t (USD), of the last plan
Choice   least over (w, s) that fits of
             usd[w] + start-up[w] + lateness(s + length[w])
             + gpus[w] x sum of dear[p, t] over the slots t that it runs in
             + what it takes of queue limits and budgets, at their prices

That is the reduced cost of a column of the plan's linear programme: where prices are those of an
optimum, and jobs small beside the fleet, choosing by it one job at a time gives the optimum
back. Waiting for a cheaper hour, a slower GPU type or more GPUs are all columns like any other.

Pools and queue limits are looked at by their sums first (`planner.live`): a compiled loop finds the
least (way, start). `planner.place` then names nodes that are free all the while. Where the sums
allowed what no nodes do, the starts at which nodes do are found, and the next best is taken.
Nothing is raised for a job that cannot be placed: the answer is its `Unplaced`.

A service holds devices for its peak while it is looked at, and books what its demand takes: it may
be refused where another shape would fit. MIG instances, and the mixes of a service, are left to the
plan of the whole queue.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from planner import cost, reasons
from planner.inventory import Spot
from planner.live import POOL_ROWS, Live
from planner.place import Refused, place, rooms
from planner.plan import Placement, Reason, Segment, Unplaced
from planner.problem import GPU_MILLI, Demand, Job, Work
from planner.quotas import Cap
from planner.table import Unsupported, build
from planner.ways import (
    NO_BUDGET,
    Columns,
    Flags,
    Way,
    budgets_of,
    columns_of,
    fits,
    least,
    next_start,
    replicas_by_slot,
    takes_of,
    ways_of,
)

WHAT = ("free GPUs", "GPU thousandths", "CPU thousandths", "bytes of host memory")  # a pool's rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where a job runs, from when, and why not sooner."""

    segments: tuple[Segment, ...]
    usd: float  # money, start-up and lateness
    reduced_usd: float  # and what it takes, at shadow prices
    reason: Reason | None = None  # what makes it wait; None where it starts at once
    message: str = ""
    binds: tuple[str, ...] = ()

    @property
    def start(self) -> int:
        """The slot in which it is expected to start."""
        return self.segments[0].start


class Case(NamedTuple):
    """A job and the ways to run it, whatever else is booked."""

    job: Job
    ways: list[Way]
    columns: Columns
    latest: int  # start, of all ways


def decide(live: Live, job: Job, now: int) -> Placed | Unplaced:
    """Where ``job``, which arrives in slot ``now``, goes; books nothing."""
    case = case_of(live, job)
    return case if isinstance(case, Unplaced) else decide_case(live, case, now)


def case_of(live: Live, job: Job) -> Case | Unplaced:
    """The ways to run ``job``, or why there is none."""
    if isinstance(job.need, Demand) and len(job.need.per_slot) != live.grid.slots:
        stated, slots = len(job.need.per_slot), live.grid.slots
        message = f"it states {stated} slots of demand, the grid has {slots}"
        return Unplaced(job=job.name, reason=Reason.NO_OPTION, message=message)
    ways = ways_of(live, job)
    if not ways:
        return _impossible(live, job, job.release)
    return Case(job, ways, columns_of(live, job, ways), max(way.last for way in ways))


def decide_case(live: Live, case: Case, now: int) -> Placed | Unplaced:
    """The same as `decide`, of a job that has been looked at before."""
    job = case.job
    ends = {name: live.end(name) for name in job.after}
    if missing := tuple(name for name, end in ends.items() if end is None):
        message = f"waits for {', '.join(missing)}, which is not booked"
        return Unplaced(job=job.name, reason=Reason.DEPENDENCY, message=message, binds=missing)
    begin = max([now, job.release, *(end for end in ends.values() if end is not None)])
    if begin > case.latest:
        return _impossible(live, job, begin)
    may = fits(live.rows, *budgets_of(live, job), now, begin, case.columns)
    return _cheapest(live, case, now, begin, may)


def start_at(live: Live, case: Case, slot: int) -> Placed | Unplaced | None:
    """The cheapest way to start the job in just that slot, or None where none fits. Books nothing.

    `Unplaced` only where that is not worth it. Whether what the job waits for has ended by then is
    left to the caller.
    """
    if max(slot, case.job.release) > min(slot, case.latest):
        return None
    may = fits(live.rows, *budgets_of(live, case.job), slot, slot, case.columns)
    may[:, slot + 1 :] = False
    found = _least(live, case, slot, may)
    return found[1] if isinstance(found, tuple) else found


def _cheapest(live: Live, case: Case, now: int, begin: int, may: Flags) -> Placed | Unplaced:
    """The least (way, start) of what ``may`` be for which there are nodes."""
    found = _least(live, case, begin, may.copy())
    if found is None:
        return _crowded_out(live, case, now, begin)
    if isinstance(found, Unplaced):
        return found
    w, placed = found
    sooner = begin < placed.start
    return _waiting(live, case, w, placed, now, begin, may) if sooner else placed


def _least(
    live: Live, case: Case, begin: int, asked: Flags
) -> tuple[int, Placed] | Unplaced | None:
    """The way and its place; or that it is not worth it; or None. Uses up what was ``asked``."""
    job, ways, columns, _ = case
    due = live.grid.slots if job.due is None else job.due
    late_usd = job.lateness_usd_per_hour * live.grid.slot_hours
    while True:
        w, start, usd, reduced_usd = least(asked, live.dear, begin, due, late_usd, columns)
        if w < 0:
            return None
        if reduced_usd >= job.unplaced_usd and not job.required:
            return _not_worth(job, ways[w], reduced_usd)
        spots = _spots(live, ways[w], start)
        segments = _segments(live, job, ways[w], start, spots) if spots else ()
        if segments and live.over_budget(job, segments):
            asked[w, start] = False  # a service does not spend the same in every slot
        elif segments:
            return w, Placed(segments=segments, usd=usd, reduced_usd=reduced_usd)
        else:
            asked[w, start : _next_start(ways[w], start + 1)] = False


# -- nodes -----------------------------------------------------------------------------------------


def _spots(live: Live, way: Way, start: int) -> tuple[Spot, ...] | None:
    """Nodes that hold the gang from ``start`` to its end, or None where none do."""
    inventory, request = live.over(way.left, start, start + way.length), way.request
    if int(rooms(inventory, request).sum()) < way.replicas:
        return None  # known without the reasons that `place` would look for
    found = place(inventory, request)
    return None if isinstance(found, Refused) else found


def _next_start(way: Way, first: int) -> int:
    """The first start from ``first`` on for which single nodes hold the gang all the while."""
    amounts, left = way.mode.amounts, way.left
    most = 1 if way.mode.spread else way.replicas
    milli = min(amounts.gpu_milli, GPU_MILLI)
    return next_start(
        left.gpu_milli,
        left.cpu_milli,
        left.memory_bytes,
        (first, way.last),
        way.length,
        way.replicas,
        (amounts.gpus, milli, amounts.cpu_milli, amounts.memory_bytes, most),
    )


def _segments(
    live: Live, job: Job, way: Way, start: int, spots: Sequence[Spot]
) -> tuple[Segment, ...]:
    """One stretch, or of a service one for each number of replicas: the last to come go first."""
    if isinstance(job.need, Work):
        runs = [(0, way.length, way.replicas)]
    else:
        runs = cost.runs(replicas_by_slot(job.need, way.mode, start, start + way.length))
    return tuple(
        Segment(
            job=job.name,
            mode=way.number,
            replicas=replicas,
            start=start + begin,
            end=start + end,
            work=cost.served(live.bare, job, start + begin, start + end),
            placement=_placement(way, spots, replicas),
            egress_usd=0.0 if begin else way.egress_usd,
        )
        for begin, end, replicas in runs
    )


def _placement(way: Way, spots: Sequence[Spot], replicas: int) -> tuple[Placement, ...]:
    """The first ``replicas`` of ``spots`` by name."""
    found: list[Placement] = []
    for spot in sorted(spots, key=lambda spot: spot.row):
        here = min(spot.replicas, replicas)
        if here:
            devices = spot.devices[: here * (len(spot.devices) // spot.replicas)]
            name = way.left.nodes[spot.row].name
            found.append(Placement(node=name, replicas=here, devices=tuple(sorted(devices))))
        replicas -= here
    return tuple(found)


# -- reasons ---------------------------------------------------------------------------------------


def _waiting(
    live: Live, case: Case, w: int, placed: Placed, now: int, begin: int, may: Flags
) -> Placed:
    """``placed`` with what keeps it from starting in slot ``begin``."""
    way = case.ways[w]
    pool, ready = way.left.pool.name, now + int(case.columns.ready[w])
    if may[:, begin].any():
        message = "to start at once costs more, at the prices of now, than to wait"
        return replace(placed, reason=Reason.NOT_WORTH, message=message, binds=(pool,))
    if begin < ready:
        message = f"a node of {pool} launched now is ready in slot {ready}"
        return replace(placed, reason=Reason.WINDOW, message=message, binds=(pool,))
    reason, message, binds = _too_little(live, case.job, way, begin)
    return replace(placed, reason=reason, message=message, binds=binds)


def _too_little(live: Live, job: Job, way: Way, at: int) -> tuple[Reason, str, tuple[str, ...]]:
    """What there is too little of for ``way`` to start in slot ``at``; of several, the first."""
    pool, caps = way.left.pool.name, POOL_ROWS * len(live.left)
    for row, need in takes_of(live, job, way):
        left = int(np.min(live.rows[row, at : at + way.length]))
        if left >= need:
            continue
        if row >= caps:
            return _over_cap(live.caps[row - caps], left, need)
        message = f"{pool} has {left} of the {need} {WHAT[row - way.left.row]} left that it takes"
        return Reason.CAPACITY, message, (pool,)
    if queue := _spent(live, job, way, at):
        return Reason.BUDGET, f"the budget of queue {queue} is used up", (queue,)
    return Reason.CAPACITY, f"{pool} has room for it, but in no nodes that hold it", (pool,)


def _over_cap(cap: Cap, left: int, need: int) -> tuple[Reason, str, tuple[str, ...]]:
    gpus = f"{max(0, left) / GPU_MILLI:g} of the {need / GPU_MILLI:g} {cap.accelerator}"
    if cap.keepers:
        message = f"{gpus} that it takes are left beside what {reasons.keepers(cap)} back"
        return Reason.KEPT_BACK, message, cap.keepers
    message = f"queue {cap.queue} has {gpus} left that it takes"
    return Reason.QUEUE_LIMIT, message, (cap.queue,)


def _spent(live: Live, job: Job, way: Way, at: int) -> str:
    """The queue whose budget does not last for ``way`` from slot ``at``, or empty."""
    mine = live.purses_of(job.queue)
    for i in mine:
        queue, first, end = live.purses[i]
        inside = max(0, min(at + way.length, end) - max(at, first))
        usd = (way.usd - way.egress_usd) * inside / way.length
        usd += way.egress_usd if first <= at < end else 0.0
        if usd > live.purse_usd[i] + 1e-6:
            return queue
    return ""


def _not_worth(job: Job, way: Way, usd: float) -> Unplaced:
    """The least it costs, at shadow prices, is more than not running it."""
    message = f"running it costs ${usd:,.2f} at the prices of now, not running it "
    message += f"${job.unplaced_usd:,.2f}"
    binds = (way.left.pool.name,)
    return Unplaced(job=job.name, reason=Reason.NOT_WORTH, message=message, binds=binds)


def _crowded_out(live: Live, case: Case, now: int, begin: int) -> Unplaced:
    """The job fits an empty fleet, unless its shape does not; who is in its way."""
    job, ways, columns, _ = case
    if bool(np.all(np.maximum(begin, now + columns.ready) > columns.last)):
        return _impossible(live, job, begin)
    if shape := _no_shape(ways):
        return _impossible(live, job, begin, shape)
    unbound = columns_of(live, job, ways, capped=False)
    free = fits(live.rows, *NO_BUDGET, now, begin, unbound)
    if free.any():
        w, at = (int(i) for i in np.argwhere(free)[0])
        reason, message, binds = _too_little(live, job, ways[w], at)
        return Unplaced(job=job.name, reason=reason, message=message, binds=binds)
    pools = tuple(dict.fromkeys(way.left.pool.name for way in ways))
    holders = tuple(_holders(live, ways, begin))
    full = reasons.full(job, pools, holders, " (by what is booked)")
    there = [live.booked[name][0] for name in holders]
    more = reasons.guarantees_in_the_way(live.bare, job, there)
    return replace(full, message=full.message + more)


def _no_shape(ways: list[Way]) -> str:
    """Why an empty fleet has no nodes for any of ``ways``, or empty where it has."""
    message = ""
    for way in ways:
        found = place(way.left.whole, way.request)
        if not isinstance(found, Refused):
            return ""
        message = message or found.message
    return message


def _holders(live: Live, ways: list[Way], begin: int) -> list[str]:
    """The largest jobs on the pools of ``ways`` while these could run."""
    when = {way.left.pool.name: (begin, way.last + way.length) for way in ways}
    held: dict[str, int] = {}
    for name, (job, segments) in live.booked.items():
        for s in segments:
            first, end = when.get(job.modes[s.mode].pool, (0, 0))
            if (inside := min(s.end, end) - max(s.start, first)) > 0:
                taken = inside * s.replicas * job.modes[s.mode].amounts.gpu_milli
                held[name] = held.get(name, 0) + taken
    return heapq.nlargest(reasons.MOST_HOLDERS, held, key=lambda name: (held[name], name))


def _impossible(live: Live, job: Job, ready: int, shape: str = "") -> Unplaced:
    """Why the job could not run on an empty fleet, as the plan of the whole queue would say it."""
    known = tuple(mode for mode in job.modes if mode.pool in live.left)
    gone = tuple(sorted({mode.pool for mode in job.modes} - set(live.left)))
    if gone and not known:
        message = f"no pool of the fleet can run it; it could on {', '.join(gone)}"
        return Unplaced(job=job.name, reason=Reason.NO_OPTION, message=message, binds=gone)
    alone = replace(job, modes=known, mixes=(), after=(), release=ready)
    try:
        table = build(replace(live.bare, nodes=live.nodes, jobs=(alone,)))
    except Unsupported as error:
        return Unplaced(job=job.name, reason=Reason.NO_OPTION, message=str(error))
    if not table.of_job[0]:
        return reasons.impossible(table, 0)
    pools = tuple(dict.fromkeys(mode.pool for mode in known))
    reason = Reason.NO_OPTION if shape else Reason.WINDOW
    message = shape or "too little time is left for it"
    return Unplaced(job=job.name, reason=reason, message=message, binds=pools)
