"""THE placement function: on which nodes an option runs, and which GPUs it gets there.

Nodes are filled tightest first, so that whole nodes stay whole for the gangs that need them; among
equals the one used last before is taken, so that a rented node goes on being used instead of
another being started.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from planner import cost
from planner.occupancy import Booking, Counts, Occupancy
from planner.plan import Placement, Segment
from planner.problem import GPU_MILLI, Billing, Demand, Problem
from planner.table import Option, Table


def place(occupancy: Occupancy, option: Option, start: int) -> Booking | None:
    """Nodes for ``option`` from ``start``, or None where it does not fit. Books nothing."""
    if not occupancy.within_limits(option, start):
        return None
    if len(option.runs) > 1:
        return _place_service(occupancy, option, start)
    room = occupancy.room(option, start, start + option.length)
    counts = _choose(occupancy, option, room, option.runs[0].replicas, start)
    if counts is None:
        return None
    return Booking(option=option.index, start=start, counts=(counts,))


def earliest(
    occupancy: Occupancy, option: Option, first: int | None = None, last: int | None = None
) -> Booking | None:
    """The earliest start at which ``option`` fits, tried where something is freed."""
    begin = option.first if first is None else max(first, option.first)
    end = option.last if last is None else min(last, option.last)
    if begin > end:
        return None
    if begin == end or len(option.runs) > 1:
        return place(occupancy, option, begin)
    starts = _candidates(occupancy, option, begin, end)
    room = occupancy.room_from(option, starts)
    if occupancy.table.problem.jobs[option.job].modes[option.mode].together_required:
        enough = room.max(axis=0, initial=0) >= option.peak
    else:
        enough = room.sum(axis=0) >= option.peak
    for at in starts[enough]:
        if (booking := place(occupancy, option, int(at))) is not None:
            return booking
    return None


def _candidates(
    occupancy: Occupancy, option: Option, begin: int, end: int
) -> npt.NDArray[np.int64]:
    """Slots from ``begin`` to ``end`` at which something that the option needs is freed."""
    changes = occupancy.changes[option.pool]
    found = {begin, *changes[bisect_right(changes, begin) : bisect_right(changes, end)]}
    for i in occupancy.limits_of[option.index]:
        looser = np.flatnonzero(np.diff(occupancy.quota[i][begin : end + 1]) > 0)
        found.update(int(t) + begin + 1 for t in looser)
    if occupancy.budgets_of[option.index]:
        months = (t for i in occupancy.budgets_of[option.index] for t in occupancy.budgets[i].left)
        found.update(first for first, _ in months if begin < first <= end)
    return np.array(sorted(found), dtype=np.int64)


def _choose(
    occupancy: Occupancy, option: Option, room: npt.NDArray[np.int64], replicas: int, start: int
) -> Counts | None:
    mode = occupancy.table.problem.jobs[option.job].modes[option.mode]
    if mode.together_required:
        room = np.where(room >= replicas, replicas, 0)
    if int(room.sum()) < replicas:
        return None
    if occupancy.table.problem.pools[option.pool].billing is Billing.NODE:
        just_used = occupancy.idle_before(option.pool, start)  # a short gap costs the least
    else:
        just_used = occupancy.free_at(option.pool, max(0, start - 1))
    order = np.lexsort((just_used, room))
    if (
        mode.together
        and not mode.together_required
        and (whole := np.flatnonzero(room >= replicas)).size
    ):
        order = np.array([min(whole, key=lambda n: (room[n], n))])
    counts = [0] * room.size
    left = replicas
    for n in order:
        here = min(int(room[n]), left)
        counts[n] = here
        left -= here
        if not left:
            break
    return tuple(counts)


def _place_service(occupancy: Occupancy, option: Option, start: int) -> Booking | None:
    """Layer by layer: a replica added last is stopped first, and none ever moves."""
    if occupancy.table.problem.jobs[option.job].modes[option.mode].together_required:
        return _place_together(occupancy, option, start)
    nodes = len(occupancy.table.nodes[option.pool])
    counts = np.zeros((len(option.runs), nodes), dtype=np.int64)
    for first, end, number in _layers(option):
        booked = counts[first:end]
        room = _room_beside(occupancy, option, start, first, end, booked)
        chosen = _choose(occupancy, option, room, number, start + option.runs[first].start)
        if chosen is None:
            return None
        counts[first:end] += np.array(chosen)
    return Booking(
        option=option.index, start=start, counts=tuple(tuple(int(c) for c in row) for row in counts)
    )


def _place_together(occupancy: Occupancy, option: Option, start: int) -> Booking | None:
    """The whole service on one node, the tightest that holds it throughout."""
    room = np.array([occupancy.room(option, start + r.start, start + r.end) for r in option.runs])
    wanted = np.array([[r.replicas] for r in option.runs])
    spare = np.min(room - wanted, axis=0)
    fits = np.flatnonzero(spare >= 0)
    if not fits.size:
        return None
    counts = np.where(np.arange(spare.size) == min(fits, key=lambda n: (spare[n], n)), wanted, 0)
    return Booking(option=option.index, start=start, counts=tuple(map(tuple, counts.tolist())))


def _layers(option: Option) -> list[tuple[int, int, int]]:
    """Replicas that come and go together: (first run, end run, how many), widest first."""
    found: list[tuple[int, int, int]] = []
    open_: list[tuple[int, int]] = []  # (first run, how many), a stack
    level = 0
    for i, run in enumerate((*option.runs, None)):
        now = run.replicas if run is not None else 0
        while now < level:
            first, number = open_.pop()
            gone = min(number, level - now)
            found.append((first, i, gone))
            level -= gone
            if gone < number:
                open_.append((first, number - gone))
        if now > level:
            open_.append((i, now - level))
            level = now
    return sorted(found, key=lambda layer: (layer[0] - layer[1], layer))


def _room_beside(
    occupancy: Occupancy,
    option: Option,
    start: int,
    first: int,
    end: int,
    booked: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Replicas that fit on each node over runs ``first`` to ``end``, beside those booked there."""
    rows = [
        np.maximum(occupancy.room(option, start + run.start, start + run.end) - booked[k], 0)
        for k, run in enumerate(option.runs[first:end])
    ]
    least: npt.NDArray[np.int64] = np.min(rows, axis=0)
    return least


def segments(table: Table, bookings: Iterable[Booking]) -> tuple[Segment, ...]:
    """The plan's segments, in order of start, with GPUs named on each node."""
    return name_devices(table, unnamed_segments(table, bookings))


def unnamed_segments(table: Table, bookings: Iterable[Booking]) -> list[Segment]:
    """The same without GPUs: enough to know what a plan costs."""
    made: list[Segment] = []
    for booking in bookings:
        option = table.options[booking.option]
        job = table.problem.jobs[option.job]
        names = [n.name for n in table.nodes[option.pool]]
        for run, counts in zip(option.runs, booking.counts, strict=True):
            at, until = booking.start + run.start, booking.start + run.end
            made.append(
                Segment(
                    job=job.name,
                    mode=option.mode,
                    replicas=run.replicas,
                    start=at,
                    end=until,
                    work=cost.served(table.problem, job, at, until),
                    placement=tuple(
                        Placement(node=names[n], replicas=c) for n, c in enumerate(counts) if c
                    ),
                )
            )
    return made


def name_devices(table: Table, made: Iterable[Segment]) -> tuple[Segment, ...]:
    """Give each segment the lowest free GPUs of its nodes; a service keeps those it has.

    Whole GPUs over time are an interval graph: taking them in order of start never runs out.
    """
    problem = table.problem
    busy: dict[str, dict[int, int]] = defaultdict(dict)  # node -> device -> busy until
    had: dict[tuple[str, str, int], tuple[int, ...]] = {}  # (job, node, until when) -> devices
    named: list[Segment] = []
    for _, group in groupby(sorted(made, key=lambda s: (s.start, s.job)), key=lambda s: s.start):
        together = list(group)
        kept = {
            (s.job, p.node): _keep(problem, s, p, had.get((s.job, p.node, s.start), ()))
            for s in together
            for p in s.placement
        }
        for (job, node), devices in kept.items():
            end = next(s.end for s in together if s.job == job)
            busy[node].update(dict.fromkeys(devices, end))
        for s in together:
            places = tuple(
                _name(problem, s, p, kept[s.job, p.node], busy[p.node]) for p in s.placement
            )
            had.update({(s.job, p.node, s.end): p.devices for p in places})
            named.append(replace(s, placement=places))
    return tuple(named)


def _keep(problem: Problem, s: Segment, p: Placement, had: tuple[int, ...]) -> tuple[int, ...]:
    """Of the GPUs that a service has on a node, those it goes on using."""
    job = problem.job_by_name[s.job]
    if not isinstance(job.need, Demand):
        return ()
    return had[: p.replicas * job.modes[s.mode].amounts.gpus]


def _name(
    problem: Problem, s: Segment, p: Placement, kept: tuple[int, ...], until: dict[int, int]
) -> Placement:
    count = problem.node_by_name[p.node].capacity.gpu_milli // GPU_MILLI
    wanted = p.replicas * problem.job_by_name[s.job].modes[s.mode].amounts.gpus - len(kept)
    free = [d for d in range(count) if until.get(d, 0) <= s.start]
    until.update(dict.fromkeys(free[:wanted], s.end))
    return replace(p, devices=tuple(sorted((*kept, *free[:wanted]))))
