"""A service's demand by the slot, as replicas at its places. Pure.

A service that scales has *places* for its peak (`Tracked.spots`), and holds in each slot as many of
them as its demand takes: always the first ones, so that a fall gives back the last, and a rise
takes the same again. Its segments are that, on the grid, from now to its end: what it does not hold
is free for others until then, and booked for it from then on.

Sets     t, slots; runs of slots with one number of replicas
Data     need[t], the replicas that serve the demand of slot t, one at least
         load[t], the demand of slot t over what one replica serves
         lead, the slots that a new replica takes until it serves (``restartSeconds``)
Rise     held[t] is at least need[s] of each s in [t, t + lead]: up before the demand rises
Fall     at once, when the demand has fallen, but for a *dip* (a run between two higher ones) that
         is no longer than twice the lead: what is given back would be asked for again before it is
         of use to anybody; or that is less than a replica deep by load and shorter than
         `SETTLED_SECONDS`: a curve that wiggles about a whole number asks for no change
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise

from planner.cost import runs
from planner.plan import Placement, Segment
from planner.problem import Demand, Grid, Job, Mode, replicas_for
from scheduler.controller.state import Tracked

SETTLED_SECONDS = 4 * 3600.0  # a night is longer; what happens from hour to hour is not


def held(job: Job, mode: Mode, grid: Grid, before: int = 0) -> tuple[int, ...]:
    """Replicas to hold in each slot of the grid; ``before``: those that are held already."""
    need = job.need
    assert isinstance(need, Demand)
    slots = range(len(need.per_slot))
    lead = math.ceil(job.interruption.restart_seconds / grid.slot_seconds)
    counts = [max(1, replicas_for(need, mode, t)) for t in slots]
    loads = [asked / mode.work_per_replica_hour for asked in need.per_slot]
    ahead = [max(counts[t : t + lead + 1]) for t in slots]
    loaded = [max(loads[t : t + lead + 1]) for t in slots]
    return _filled(ahead, loaded, before, (2 * lead, SETTLED_SECONDS / grid.slot_seconds))


def _filled(
    counts: list[int], loads: Sequence[float], before: int, slots: tuple[int, float]
) -> tuple[int, ...]:
    """Without the dips that are too short, or too shallow for how short they are."""
    while (found := _dip(counts, loads, before, slots)) is not None:
        start, end, level = found
        counts[start:end] = [level] * (end - start)
    return tuple(counts)


def _dip(
    counts: Sequence[int], loads: Sequence[float], before: int, slots: tuple[int, float]
) -> tuple[int, int, int] | None:
    """The first dip to fill: (first slot, end slot, replicas)."""
    found = runs(counts)
    left, left_load = before, float(before)
    for (a, b, count), (c, d, right) in pairwise(found):
        level, here = min(left, right), loads[a:b]
        if count < level:
            deep = min(left_load, max(loads[c:d]), level) - min(here)
            if b - a <= slots[0] or (deep < 1 and b - a < slots[1]):
                return a, b, level
        left, left_load = count, max(here)
    return None


# -- segments --------------------------------------------------------------------------------------


def first(spots: Sequence[Placement], replicas: int) -> tuple[Placement, ...]:
    """The first ``replicas`` places."""
    found: list[Placement] = []
    for spot in spots:
        here = min(spot.replicas, replicas)
        if here:
            each = len(spot.devices) // spot.replicas
            found.append(replace(spot, replicas=here, devices=spot.devices[: here * each]))
        replicas -= here
    return tuple(found)


def places(one: Tracked) -> int:
    """How many replicas a service has places for."""
    return sum(spot.replicas for spot in one.spots)


def peak(segments: Sequence[Segment]) -> tuple[Placement, ...]:
    """Where a service is when most of it is there."""
    return max(segments, key=lambda s: s.replicas).placement


def laid(one: Tracked, grid: Grid, start: int, before: int = 0) -> Tracked:
    """The service at its places from slot ``start`` to its end, as its demand takes them."""
    mode = one.job.modes[one.segments[0].mode]
    return _laid(one, grid, start, held(one.job, mode, grid, before))


def reaching(one: Tracked, grid: Grid, known: int) -> Tracked:
    """A service whose segments end at slot ``known``, where the grid ended, to the new end.

    What it holds soon is as it was: to look at a dip from inside would end it.
    """
    mode = one.job.modes[one.segments[0].mode]
    counts = list(held(one.job, mode, grid, one.segments[0].replicas))
    for s in one.segments:
        for t in range(max(0, s.start), min(s.end, known, len(counts) // 2)):
            counts[t] = s.replicas
    return _laid(one, grid, max(0, one.segments[0].start), counts)


def _laid(one: Tracked, grid: Grid, start: int, counts: Sequence[int]) -> Tracked:
    need, mode = one.job.need, one.segments[0].mode
    assert isinstance(need, Demand)
    most, end = places(one), max(start + 1, min(one.job.deadline, grid.slots))
    return replace(
        one,
        segments=tuple(
            Segment(
                job=one.name,
                mode=mode,
                replicas=count,
                start=start + a,
                end=start + b,
                work=math.fsum(need.per_slot[start + a : start + b]) * grid.slot_hours,
                placement=first(one.spots, count),
            )
            for a, b, count in runs([min(count, most) for count in counts[start:end]])
        ),
    )


def moved(one: Tracked, spots: tuple[Placement, ...]) -> Tracked:
    """The service at other places, as many of them in each slot as before, or all there are."""
    most = sum(spot.replicas for spot in spots)
    segments = (
        replace(s, replicas=min(s.replicas, most), placement=first(spots, s.replicas))
        for s in one.segments
    )
    return replace(one, spots=spots, segments=tuple(segments))


def without(one: Tracked, nodes: Collection[str]) -> Tracked:
    """The service without those of its places that it does not hold now and that are not there."""
    kept = tuple(p for p in one.spots if p.node in nodes or p.node in one.nodes)
    return one if kept == one.spots else moved(one, kept)


def joined(spots: Sequence[Placement], more: Sequence[Placement]) -> tuple[Placement, ...]:
    """Places with others behind them; those on a node that is known are joined to its own."""
    found = {spot.node: spot for spot in spots}
    for spot in more:
        known = found.get(spot.node)
        found[spot.node] = (
            spot
            if known is None
            else replace(
                known,
                replicas=known.replicas + spot.replicas,
                devices=(*known.devices, *spot.devices),
            )
        )
    return tuple(found.values())


def rises(one: Tracked) -> dict[str, list[int]]:
    """By node, the slots at which the service takes more of it than in the slot before."""
    found: dict[str, list[int]] = {}
    for old, new in pairwise(one.segments):
        had = {p.node: p.replicas for p in old.placement}
        for p in new.placement:
            if p.replicas > had.get(p.node, 0):
                found.setdefault(p.node, []).append(new.start)
    return found
