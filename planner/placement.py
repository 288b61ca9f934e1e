"""THE placement function: on which nodes an option runs, and which GPUs it gets there.

Nodes are filled tightest first, so that whole nodes stay whole for the gangs that need them; among
equals the one used last before is taken, so that a rented node goes on being used instead of
another being started.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from planner import cost
from planner.booking import Booking, Counts, Part, kept_if_same, parts
from planner.devices import distinct_geometries
from planner.instances import name_instances
from planner.inventory import Request, Spot
from planner.occupancy import Occupancy
from planner.place import fill, rooms, share_out
from planner.plan import Placement, Segment
from planner.problem import Billing, Demand, Job, Mode, Problem
from planner.table import Option, Run, Table
from planner.topology import HOSTNAME, NOWHERE


def place(occupancy: Occupancy, option: Option, start: int) -> Booking | None:
    """Nodes for ``option`` from ``start``, or None where it does not fit. Books nothing."""
    if option.rest >= 0:
        return _place_mix(occupancy, option, start)
    if not occupancy.within_limits(option, start):
        return None
    if option.pool in occupancy.devices or len(option.runs) > 1:
        made = _place_service(occupancy, option, start)
        if made is None or (option.held and made.counts[0] != option.held):
            return None
        return kept_if_same(occupancy.table, made)
    counts = nodes(occupancy, option, start, start + option.length)
    if counts is None:
        return None
    found = Booking(option=option.index, start=start, counts=(counts,))
    return kept_if_same(occupancy.table, found)


def nodes(occupancy: Occupancy, option: Option, start: int, end: int) -> Counts | None:
    """Replicas by node for a gang from ``start`` to ``end``, or None where it does not fit."""
    room = occupancy.room(option, start, end)
    if option.held:  # it runs there already
        return option.held if bool(np.all(room >= option.held)) else None
    return _choose(occupancy, option, room, option.peak, start)


def piece(occupancy: Occupancy, option: Option, at: int, slots: int) -> Booking | None:
    """A piece of ``option``, of so many slots from ``at``, or None where it does not fit."""
    if not occupancy.within_limits(option, at, slots):
        return None
    if option.pool in occupancy.devices:
        run = Run(start=0, end=slots, replicas=option.peak)
        made = _place_service(occupancy, replace(option, length=slots, runs=(run,)), at)
        if made is None or (option.held and made.counts[0] != option.held):
            return None
        return replace(made, slots=slots)
    counts = nodes(occupancy, option, at, at + slots)
    if counts is None:
        return None
    return Booking(option=option.index, start=at, counts=(counts,), slots=slots)


def _place_mix(occupancy: Occupancy, option: Option, start: int) -> Booking | None:
    """The base, and the rest beside it."""
    base = place(occupancy, replace(option, rest=-1), start)
    if base is None:
        return None
    occupancy.take(base)
    rest = place(occupancy, occupancy.table.options[option.rest], start)
    occupancy.release(base)
    return None if rest is None else replace(base, rest=rest)


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
    for at in starts[_gang_room(occupancy.table, option, room) >= option.peak]:
        if (booking := place(occupancy, option, int(at))) is not None:
            return booking
    return None


def longest(occupancy: Occupancy, option: Option, at: int) -> Booking | None:
    """The longest piece of ``option`` from ``at`` on nodes that have room throughout."""
    edges = occupancy.edges[option.pool]
    ends = [int(t) for t in edges[edges.searchsorted(at, side="right") :] if t < option.until]
    found: Booking | None = None
    ends.append(option.until)
    low, high = 0, len(ends)
    while low < high:  # room from ``at`` to an end is room to any end before it
        middle = low if found is None else (low + high) // 2
        slots = ends[middle] - at
        counts = nodes(occupancy, option, at, ends[middle]) if slots > 0 else None
        if counts is not None and occupancy.within_limits(option, at, slots):
            found = Booking(option=option.index, start=at, counts=(counts,), slots=slots)
            low = middle + 1
        else:
            high = middle
    return found


def openings(
    occupancy: Occupancy, option: Option, slots: int, first: int, last: int
) -> npt.NDArray[np.int64]:
    """Starts at which ``option`` has room for so many slots, tried where something is freed."""
    if first > last:
        return np.empty(0, dtype=np.int64)
    piece = replace(option, length=slots, runs=(Run(start=0, end=slots, replicas=option.peak),))
    starts = _candidates(occupancy, piece, first, last)
    room = occupancy.room_from(piece, starts)
    return starts[_gang_room(occupancy.table, piece, room) >= option.peak]


def earliest_piece(
    occupancy: Occupancy, option: Option, slots: int, first: int, last: int
) -> Booking | None:
    """A piece of ``option``, of so many slots, from as early as it has room."""
    starts = map(int, openings(occupancy, option, slots, first, last))
    made = (piece(occupancy, option, at, slots) for at in starts)
    return next((booking for booking in made if booking is not None), None)


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


def _gang_room(table: Table, option: Option, room: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The largest gang that fits, by the level that holds it and the level that spreads it.

    ``room`` is by node and start: (nodes, starts) to (starts,).
    """
    mode = table.mode(option)
    inside = _domains(table, option, mode.together if mode.together_required else "")
    if mode.spread:
        separate = _domains(table, option, mode.spread)
        _, first, number = np.unique(separate, return_index=True, return_inverse=True)
        least = np.zeros((first.size, room.shape[1]), dtype=np.int64)
        np.maximum.at(least, number, np.where(separate[:, None] == NOWHERE, 0, room))
        room, inside = least, inside[first]
    if not mode.together_required:
        return np.asarray(room.sum(axis=0))
    known = inside != NOWHERE
    held = np.zeros((int(np.max(inside, initial=0)) + 1, room.shape[1]), dtype=np.int64)
    np.add.at(held, inside[known], room[known])
    return np.asarray(held.max(axis=0))


def _domains(table: Table, option: Option, level: str) -> npt.NDArray[np.int64]:
    """The domain of each node at ``level``; without one, each by itself."""
    return np.array(table.domains(option.pool, level or HOSTNAME), dtype=np.int64)


def _levels(table: Table, option: Option, level: str) -> npt.NDArray[np.int64]:
    """(levels, nodes): the domains at ``level`` and at those farther out."""
    levels = table.problem.pools[option.pool].topology_levels
    farther = levels[levels.index(level) + 1 :] if level in levels else ()
    return np.array([_domains(table, option, name) for name in (level, *farther)])


def _choose(
    occupancy: Occupancy, option: Option, room: npt.NDArray[np.int64], replicas: int, start: int
) -> Counts | None:
    """Replicas by node within ``room``, by the placement function; tightest nodes first."""
    table = occupancy.table
    mode = table.mode(option)
    rank = _rank(occupancy, option, room, start)
    chosen = share_out(
        room,
        replicas,
        rank,
        together=_levels(table, option, mode.together) if mode.together else None,
        required=mode.together_required,
        apart=_domains(table, option, mode.spread) if mode.spread else None,
    )
    return None if chosen is None else tuple(chosen.tolist())


def _rank(
    occupancy: Occupancy, option: Option, room: npt.NDArray[np.int64], start: int
) -> npt.NDArray[np.int64]:
    """The order in which nodes are used: the tightest first, of equals the one used last before."""
    if occupancy.table.problem.pools[option.pool].billing is Billing.NODE:
        just_used = occupancy.idle_before(option.pool, start)  # a short gap costs the least
    else:
        just_used = occupancy.free_at(option.pool, max(0, start - 1))
    rank = np.empty(room.size, dtype=np.int64)
    rank[np.lexsort((just_used, room))] = np.arange(room.size)
    return rank


def _place_service(occupancy: Occupancy, option: Option, start: int) -> Booking | None:
    """Layer by layer: a replica added last is stopped first, and none ever moves."""
    table = occupancy.table
    everywhere = np.ones(len(table.nodes[option.pool]), dtype=bool)
    if option.held:
        everywhere = np.array(option.held) > 0
    if not table.mode(option).together_required:
        return _place_layers(occupancy, option, start, everywhere)
    domains = _domains(table, option, table.mode(option).together)
    made = (
        _place_layers(occupancy, option, start, domains == domain)
        for domain in _roomy(occupancy, option, start, domains)
    )
    return next((booking for booking in made if booking is not None), None)


def _roomy(
    occupancy: Occupancy, option: Option, start: int, domains: npt.NDArray[np.int64]
) -> list[int]:
    """Domains with room for every run of a service, the tightest first."""
    known = domains != NOWHERE
    rooms = (occupancy.room(option, start + r.start, start + r.end)[known] for r in option.runs)
    spare = [
        np.bincount(domains[known], weights=room, minlength=1) - r.replicas
        for room, r in zip(rooms, option.runs, strict=True)
    ]
    least = np.min(spare, axis=0)
    return [int(d) for d in np.argsort(least, kind="stable") if least[d] >= 0]


def _place_layers(
    occupancy: Occupancy, option: Option, start: int, allowed: npt.NDArray[np.bool_]
) -> Booking | None:
    """A service, or what takes parts of GPUs, on the ``allowed`` nodes."""
    if option.pool in occupancy.devices:
        return _place_on_devices(occupancy, option, start, allowed)
    counts = np.zeros((len(option.runs), allowed.size), dtype=np.int64)
    for first, end, number in _layers(option):
        room = _room_beside(occupancy, option, start, first, end, counts[first:end])
        room = np.where(allowed, room, 0)
        chosen = _choose(occupancy, option, room, number, start + option.runs[first].start)
        if chosen is None:
            return None
        counts[first:end] += np.array(chosen)
    return Booking(option=option.index, start=start, counts=_rows(counts))


def _rows(counts: npt.NDArray[np.int64]) -> tuple[Counts, ...]:
    return tuple(map(tuple, counts.tolist()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """Replicas that come and go together, where GPUs are told apart."""

    first: int  # run
    end: int
    start: int  # slot
    until: int
    counts: Counts
    spots: tuple[Spot, ...]


def _place_on_devices(
    occupancy: Occupancy, option: Option, start: int, allowed: npt.NDArray[np.bool_]
) -> Booking | None:
    """The same where GPUs are told apart: each layer is held while the next is placed beside it."""
    layers: list[_Layer] = []
    wanted = _layers(option)
    for first, end, number in wanted:
        layer = _layer(occupancy, option, start, first, end, number, allowed, layers)
        if layer is None:
            break
        layers.append(layer)
        if len(wanted) > 1:
            occupancy.reserve(option, layer.start, layer.until, layer.counts, layer.spots, -1)
    for layer in layers if len(wanted) > 1 else ():
        occupancy.reserve(option, layer.start, layer.until, layer.counts, layer.spots, 1)
    if len(layers) < len(wanted):
        return None
    of_run = [[x for x in layers if x.first <= r < x.end] for r in range(len(option.runs))]
    none = (0,) * allowed.size
    return Booking(
        option=option.index,
        start=start,
        counts=tuple(
            tuple(map(sum, zip(none, *(x.counts for x in run), strict=True))) for run in of_run
        ),
        spots=tuple(tuple(spot for x in run for spot in x.spots) for run in of_run),
    )


def _layer(
    occupancy: Occupancy,
    option: Option,
    start: int,
    first: int,
    end: int,
    number: int,
    allowed: npt.NDArray[np.bool_],
    beside: Sequence[_Layer],
) -> _Layer | None:
    at, until = start + option.runs[first].start, start + option.runs[end - 1].end
    held = [layer.counts for layer in beside if layer.first < end and first < layer.end]
    booked = np.array([(0,) * allowed.size, *held], dtype=np.int64)
    usable = allowed & ~_taken_domains(occupancy, option, booked)
    least = occupancy.least(option, at, until, usable)
    request = _request(occupancy.table.mode(option), number)
    room = rooms(least, request)
    spots = fill(least, request, room, _rank(occupancy, option, room, at))
    if spots is None:
        return None
    counts = np.zeros(allowed.size, dtype=np.int64)
    counts[[s.row for s in spots]] = [s.replicas for s in spots]
    return _Layer(
        first=first, end=end, start=at, until=until, counts=tuple(counts.tolist()), spots=spots
    )


def _request(mode: Mode, replicas: int) -> Request:
    return Request(
        amounts=mode.amounts,
        replicas=replicas,
        together=mode.together,
        together_required=mode.together_required,
        spread=mode.spread,
    )


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
    return np.where(_taken_domains(occupancy, option, booked), 0, least)


def _taken_domains(
    occupancy: Occupancy, option: Option, booked: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Nodes in domains that hold a replica already, of an option that is to be spread."""
    level = occupancy.table.mode(option).spread
    if not level:
        return np.zeros(booked.shape[1], dtype=bool)
    domains = _domains(occupancy.table, option, level)
    return np.isin(domains, domains[np.any(booked, axis=0)])


def segments(table: Table, bookings: Iterable[Booking]) -> tuple[Segment, ...]:
    """The plan's segments, in order of start, with GPUs named on each node."""
    apart = {pool.name for p, pool in enumerate(table.problem.pools) if table.apart[p]}
    made = unnamed_segments(table, bookings)
    told = [s for s in made if cost.mode_of(table.problem, s).pool in apart]
    counted = [s for s in made if cost.mode_of(table.problem, s).pool not in apart]
    named = (*name_devices(table, counted), *name_instances(table.problem, told))
    return tuple(sorted(named, key=lambda s: (s.start, s.job)))


def unnamed_segments(table: Table, bookings: Iterable[Booking]) -> list[Segment]:
    """The same with no GPU named but where GPUs are told apart: what a plan costs is known."""
    made: list[Segment] = []
    for booking in bookings:
        job = table.problem.jobs[table.options[booking.option].job]
        if isinstance(job.need, Demand):
            made += _service_segments(table, job, job.need, booking)
        else:
            made += (_batch_segment(table, job, part) for part in parts(table, booking))
    return made


def _service_segments(table: Table, job: Job, need: Demand, booking: Booking) -> Iterator[Segment]:
    pieces = [(piece, table.options[piece.option]) for piece in booking.pieces()]
    carries = [_carries(job, option, piece.start) for piece, option in pieces]
    able = {t: sum(each[t] for each in carries) for t in carries[0]}
    for (piece, option), mine in zip(pieces, carries, strict=True):
        spots = piece.spots or ((),) * len(option.runs)
        for r, (run, counts, held) in enumerate(zip(option.runs, piece.counts, spots, strict=True)):
            at, until = piece.start + run.start, piece.start + run.end
            served = (need.per_slot[t] * (mine[t] / (able[t] or 1.0)) for t in range(at, until))
            yield Segment(
                job=job.name,
                mode=option.mode,
                replicas=run.replicas,
                start=at,
                end=until,
                work=math.fsum(served) * table.problem.grid.slot_hours,
                placement=_placed(table, option.pool, counts, held),
                egress_usd=0.0 if r else option.egress_usd,
            )


def _carries(job: Job, option: Option, start: int) -> dict[int, float]:
    """What an option of a service can serve in each slot: it serves in proportion to it."""
    rate = job.modes[option.mode].work_per_replica_hour
    return {
        start + t: run.replicas * rate for run in option.runs for t in range(run.start, run.end)
    }


def _batch_segment(table: Table, job: Job, part: Part) -> Segment:
    piece = part.piece
    (spots,) = piece.spots or ((),)
    option = table.options[piece.option]
    return Segment(
        job=job.name,
        mode=option.mode,
        replicas=option.peak,
        start=piece.start,
        end=piece.until(table),
        work=part.work,
        placement=_placed(table, option.pool, piece.counts[0], spots),
        restart_seconds=part.restart_seconds,
        save_seconds=part.save_seconds,
        redone_work=part.redone_work,
        egress_usd=part.egress_usd,
    )


def _placed(
    table: Table, pool: int, counts: Counts, spots: Iterable[Spot]
) -> tuple[Placement, ...]:
    """Replicas by node, with their devices where ``spots`` say which."""
    stated = distinct_geometries(table.problem.pools[pool])
    devices: dict[int, list[int]] = defaultdict(list)
    geometries: dict[int, list[int]] = defaultdict(list)
    for spot in spots:
        devices[spot.row] += spot.devices
        geometries[spot.row] += (stated[g] for g in spot.geometries)
    return tuple(
        Placement(
            node=table.nodes[pool][n].name,
            replicas=count,
            devices=tuple(sorted(devices[n])),
            geometries=tuple(g for _, g in sorted(zip(devices[n], geometries[n], strict=False))),
        )
        for n, count in enumerate(counts)
        if count
    )


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
    wanted = p.replicas * problem.job_by_name[s.job].modes[s.mode].amounts.gpus - len(kept)
    healthy = problem.node_by_name[p.node].healthy_gpus()
    free = [d for d in healthy if until.get(d, 0) <= s.start]
    until.update(dict.fromkeys(free[:wanted], s.end))
    return replace(p, devices=tuple(sorted((*kept, *free[:wanted]))))
