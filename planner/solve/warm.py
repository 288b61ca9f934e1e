"""The plan that is known already, as far as it still holds, and everybody else put in around it.

A question that differs little from one that was answered has an answer near it. Jobs keep their
mode, start and nodes where the new question has room for them: the higher tiers and what is
hardest to place first, so that what no longer fits is small. Who lost their place, or had none,
goes where that costs least in the room that is left; who waits for one that lost it is placed anew
behind it. The search goes on from there, and never ends with a worse plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np

from planner import placement
from planner.booking import Booking
from planner.occupancy import Occupancy
from planner.plan import Plan, Segment
from planner.solve import build
from planner.solve.build import Bookings
from planner.solve.exact import left_out_usd, upper_tiers
from planner.table import Option, Table


def bookings(table: Table, plan: Plan) -> Bookings:
    """A plan of ``table`` near ``plan``, which may be of another problem with jobs of those names.

    A job that ``plan`` runs in more than one mode, or with a pause, is put in anew.
    """
    occupancy = Occupancy(table)
    placed: Bookings = {}
    was = _was(plan)
    wanted = {j: i for j in range(len(table.of_job)) if (i := _option(table, j, was)) is not None}
    order = build.order(table, wanted)
    for j in order:
        own = was.get(table.problem.jobs[j].name, [])
        if j in wanted and all(
            b in placed and placed[b].end(table) <= own[0].start for b in table.after[j]
        ):
            _take(occupancy, placed, j, _kept(occupancy, table.options[wanted[j]], own))
    kept, nothing = dict(placed), np.zeros(len(table.options))
    for j in order:
        if j not in placed:
            found = build.best_booking(table, occupancy, placed, j, None, nothing)
            _take(occupancy, placed, j, found)
    return min(placed, kept, key=lambda some: _key(table, some))  # whole-node bills may be too dear


def _key(table: Table, some: Bookings) -> tuple[float, ...]:
    """What is left out by tier, the highest first, then the cost of all."""
    out = [round(left_out_usd(table, some, jobs), 6) for jobs in upper_tiers(table)]
    return (*out, build.evaluate(table, some).objective)


def _was(plan: Plan) -> dict[str, list[Segment]]:
    """The segments of each job that runs in one mode without a pause, in order of time."""
    ranked = sorted(plan.segments, key=lambda s: (s.job, s.start, s.end))
    found = {job: list(own) for job, own in groupby(ranked, key=lambda s: s.job)}
    return {
        job: own
        for job, own in found.items()
        if len({s.mode for s in own}) == 1 and all(a.end == b.start for a, b in pairwise(own))
    }


def _option(table: Table, j: int, was: dict[str, list[Segment]]) -> int | None:
    """The option of job ``j`` that holds what it held, if it may still start then."""
    own = was.get(table.problem.jobs[j].name)
    for i in table.of_job[j] if own else ():
        option = table.options[i]
        if own and option.mode == own[0].mode and option.rest < 0 and not option.held:
            return i if option.first <= own[0].start <= option.last else None
    return None


def _kept(occupancy: Occupancy, option: Option, own: Sequence[Segment]) -> Booking | None:
    """``option`` where the segments had it, on the same nodes if these have room."""
    start, table = own[0].start, occupancy.table
    if option.pool not in occupancy.devices and len(option.runs) == len(own) == 1:
        there = {place.node: place.replicas for place in own[0].placement}
        counts = tuple(there.get(node.name, 0) for node in table.nodes[option.pool])
        room = occupancy.room(option, start, start + option.length)
        same = sum(counts) == option.peak and bool(np.all(room >= counts))
        if same and occupancy.within_limits(option, start):
            return Booking(option=option.index, start=start, counts=(counts,))
    return placement.place(occupancy, option, start)


def _take(occupancy: Occupancy, placed: Bookings, j: int, booking: Booking | None) -> None:
    if booking is not None:
        occupancy.take(booking)
        placed[j] = booking
