"""A job that changes its mode once, at a checkpoint: in which two, where it is cut, and when.

Data of a job
    h[m]     seconds that all of it takes in mode m
    v, r     seconds of the save before the change, and of the restart behind it
    S        seconds of a slot;  E the slot by which it has to end

In mode a from slot s for k slots, then in b from t >= s + k on, it ends at

    t + ceil((r + h[b] (1 - (k S - v) / h[a])) / S)  <=  E

and pays for its seconds in each. So the cheaper of the two does as much of the work as time and
room allow. At t = s + k the left side rises with k where b is the faster, and k is at most what
keeps it; where a is the faster it falls, and k is at least that. Where that cut has no room, some
on the way to the other end are tried. A mode in which the whole would end too late may be of use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import numpy.typing as npt

from planner import placement
from planner.booking import Booking, done_by, usd_of
from planner.occupancy import Occupancy
from planner.problem import hours_of
from planner.table import Option, Table

WORTH = 4.0  # times what saving and restoring take: a shorter piece does too little
MOST_STARTS = 6  # of the first piece that are tried, in each pair of modes
CUTS = (0.0, 0.25, 0.5, 0.75)  # of the way from the best cut to the other end, tried in turn


def best(
    table: Table,
    occupancy: Occupancy,
    j: int,
    ready: int,
    opportunity: npt.NDArray[np.float64],
    below_usd: float,
) -> Booking | None:
    """Job ``j`` from slot ``ready`` on, in two modes; None where that costs ``below_usd`` or more.

    ``opportunity`` is as `build.construct` has it. Jobs that run already, and pools whose GPUs are
    told apart, are let be.
    """
    job = table.problem.jobs[j]
    if not (job.may_stop and job.switches) or job.name in table.problem.running_by_job:
        return None
    found: Booking | None = None
    options = [o for i in table.of_job[j] if (o := table.options[i]).pool not in occupancy.devices]
    for a, b in permutations(options, 2):
        pair = _Pair(table, occupancy, a, b, *(float(opportunity[o.index]) for o in (a, b)))
        for at in pair.starts(ready, below_usd):
            whole = pair.cheapest_from(at, below_usd)
            if whole is not None and (usd := pair.usd_of(whole)) < below_usd - 1e-9:
                found, below_usd = whole, usd
    return found


def as_shared(
    table: Table, occupancy: Occupancy, j: int, ready: int, parts: Mapping[int, float]
) -> Booking | None:
    """Job ``j`` with about the ``parts`` of its work in options as said, in the two largest."""
    job = table.problem.jobs[j]
    if job.name in table.problem.running_by_job:
        return None
    most = sorted(parts, key=lambda i: (-parts[i], i))[:2]
    options = [o for i in most if (o := table.options[i]).pool not in occupancy.devices]
    for a, b in permutations(options, 2):
        pair = _Pair(table, occupancy, a, b, 0.0, 0.0)
        part = parts[a.index] / (parts[a.index] + parts[b.index])
        for at in pair.starts(ready, math.inf):
            whole = pair.cut_at(at, part)
            if whole is not None:
                return whole
    return None


@dataclass(frozen=True, slots=True)
class _Pair:
    """First ``a``, then ``b``; and what all of the job in either is worth to others (USD)."""

    table: Table
    occupancy: Occupancy
    a: Option
    b: Option
    a_worth: float
    b_worth: float

    @property
    def a_usd(self) -> float:
        """What all of the work costs in ``a``, at least."""
        return self.a.least_usd + self.a_worth

    @property
    def b_usd(self) -> float:
        """The same in ``b``."""
        return self.b.least_usd + self.b_worth

    def starts(self, ready: int, below_usd: float) -> list[int]:
        """Of the first piece: the earliest few with room, where it can cost below ``below_usd``."""
        if min(self.a_usd, self.b_usd) >= below_usd - 1e-9:
            return []
        first, last = max(self.a.anew, ready), self.a.until - 1 - self._least()
        found = placement.openings(self.occupancy, self.a, self._least(), first, last)
        return [int(at) for at in found[:MOST_STARTS]]

    def cut_at(self, at: int, part: float) -> Booking | None:
        """The cut nearest to ``part`` of the work in the first piece, from slot ``at``."""
        slots = part * self._seconds()[0] / self.table.problem.grid.slot_seconds
        piece = placement.longest(self.occupancy, self.a, at)
        within = self._range(at, piece.slots) if piece is not None else ()
        if piece is None or not within or slots > piece.slots + 1:
            return None
        low, high = within
        return self._whole(piece, min(high, max(low, round(slots))))

    def cheapest_from(self, at: int, below_usd: float) -> Booking | None:
        """The best cut that has room."""
        if min(map(self._usd, self._range(at, self.a.until - at)), default=0.0) >= below_usd:
            return None
        piece = placement.longest(self.occupancy, self.a, at)
        for slots in self._cuts(at, piece.slots) if piece is not None else ():
            if piece is None or self._usd(slots) >= below_usd - 1e-9:
                return None
            if (whole := self._whole(piece, slots)) is not None:
                return whole
        return None

    def _whole(self, piece: Booking, slots: int) -> Booking | None:
        """So many slots of the first piece, and the second behind it."""
        behind = self._behind(piece.start + slots, slots)
        if behind is None:
            return None
        whole = done_by(self.table, self.a.job, [replace(piece, slots=slots), behind])
        if whole is None or whole.rest is None or not self.occupancy.affordable(whole):
            return None
        return whole

    def usd_of(self, whole: Booking) -> float:
        """What ``whole`` costs, with what its capacity is worth to others."""
        part = self._done(whole.slots)
        return usd_of(self.table, whole) + part * self.a_worth + (1 - part) * self.b_worth

    def _usd(self, slots: int) -> float:
        """No cut of so many slots of the first piece costs less."""
        part = self._done(slots)
        return part * self.a_usd + (1 - part) * self.b_usd

    def _least(self) -> int:
        """Slots of the shortest first piece that is worth its price."""
        stop = self.table.problem.jobs[self.a.job].interruption
        seconds = WORTH * (stop.save_seconds + stop.restart_seconds)
        return 1 + int(seconds / self.table.problem.grid.slot_seconds)

    def _cuts(self, at: int, most: int) -> Iterator[int]:
        """Slots of the first piece, the cheapest first."""
        low, high = self._range(at, most) or (1, 0)
        if low > high:
            return
        for way in CUTS:
            step = math.floor(way * (high - low))
            yield high - step if self.a_usd <= self.b_usd else low + step

    def _range(self, at: int, most: int) -> tuple[()] | tuple[int, int]:
        """The least and the most slots of the first piece, of ``most``, that leave time enough."""
        slot, a, b = self.table.problem.grid.slot_seconds, *self._seconds()
        stop = self.table.problem.jobs[self.a.job].interruption
        low, high = self._least(), min(most, math.ceil(a / slot) - 1)
        # k S (1 - h[b] / h[a])  <=  (E - s) S - r - h[b] (1 + v / h[a])
        left = (self.b.until - at) * slot - stop.restart_seconds
        left -= b * (1 + stop.save_seconds / a)
        slope = slot * (1 - b / a)
        if slope > 0:
            high = min(high, math.floor(left / slope + 1e-9))
        elif slope < 0:
            low = max(low, math.ceil(left / slope - 1e-9))
        return (low, high) if low <= high and (slope or left >= 0) else ()

    def _seconds(self) -> tuple[float, float]:
        """What all of the job takes in ``a`` and in ``b``."""
        job = self.table.problem.jobs[self.a.job]
        a, b = (hours_of(job, job.modes[o.mode]) * 3600 for o in (self.a, self.b))
        return a, b

    def _done(self, slots: int) -> float:
        """The part of the job that a first piece of so many slots does."""
        stop = self.table.problem.jobs[self.a.job].interruption
        works = slots * self.table.problem.grid.slot_seconds - stop.save_seconds
        return works / self._seconds()[0]

    def _behind(self, ready: int, slots: int) -> Booking | None:
        """The second piece, as early as it has room, behind so many slots of the first."""
        stop, slot = self.table.problem.jobs[self.a.job].interruption, self.table.problem.grid
        seconds = stop.restart_seconds + (1 - self._done(slots)) * self._seconds()[1]
        needs = slot.slots_for(seconds / 3600)
        first, last = max(ready, self.b.anew), self.b.until - needs
        return placement.earliest_piece(self.occupancy, self.b, needs, first, last)
