"""After the search: jobs that change their mode once, where that saves in the room that is left.

A mode row a of a job from slot s for k slots, then row b at once, with h the slots that all of the
job takes in each, v those of the save and r of the restart (parts of slots), E where it has to end:

    end = s + k + ceil(r + h[b] (1 - (k - v) / h[a]))  <=  E
    usd = k usd[a] / h[a] + (r + h[b] (1 - (k - v) / h[a])) usd[b] / h[b] + lateness + bringing data

Both rows need their room in every slot that they hold. As in `planner.solve.divide`, the cheaper
one takes as much as time and room allow, or that less some quarters of what is between the ends.

The search and its bound go on without these cuts: the bound holds for them as it lets go of stops
and changes of mode (`pricing`), and a cut is only made where the plan costs less by more than what
a move is worth (`planner.churn`), so that the next plan, which starts from whole jobs, makes it
again. Jobs that run already, that wait for others, or that budgets bind are let be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from planner.churn import promise_usd
from planner.problem import Billing, Job, Problem, Work, hours_of
from planner.solve.fleet.ascent import usage_of
from planner.solve.fleet.columns import SWITCHES, Columns, Ints, Longs

QUARTERS = (0.0, 0.25, 0.5, 0.75)
MOST_MODES = 6  # of a job that are tried with one another: those that cost least


class Cut(NamedTuple):
    """Rows ``a`` and ``b`` of `Columns.modes`: the first from ``start`` to ``change``."""

    a: int
    b: int
    start: int
    change: int
    end: int


def part(
    problem: Problem, c: Columns, mode: Ints, start: Ints, enough: Callable[[], bool]
) -> dict[int, Cut]:
    """Cuts by job, the dearest jobs first, until ``enough()``: all fit beside all others."""
    candidates = [] if c.budgets.size else _candidates(problem, c, mode, start)
    if not candidates:
        return {}
    free = c.capacity.astype(np.int64) - np.rint(usage_of(c, mode, start)).astype(np.int64)
    room = _Room(problem, c, free)
    found: dict[int, Cut] = {}
    for j, usd in candidates:
        if enough():
            break
        i = int(mode[j])
        if i >= 0:
            room.hold(i, int(start[j]), int(start[j] + c.modes["length"][i]), -1)
        cut = room.cheapest(j, usd - promise_usd(usd))
        if cut is not None:
            room.hold(cut.a, cut.start, cut.change, 1)
            room.hold(cut.b, cut.change, cut.end, 1)
            found[j] = cut
        elif i >= 0:
            room.hold(i, int(start[j]), int(start[j] + c.modes["length"][i]), 1)
    return found


def _candidates(problem: Problem, c: Columns, mode: Ints, start: Ints) -> list[tuple[int, float]]:
    """Jobs that may change their mode and cost more than the least they could; and what."""
    found = []
    jobs = c.jobs
    for j in np.flatnonzero((jobs["pieces"] == SWITCHES) & (jobs["fixed"] == 0)).tolist():
        job, i = problem.jobs[j], int(mode[j])
        if job.name in problem.running_by_job or job.max_cost_usd is not None:
            continue
        usd = float(jobs["unplaced_usd"][j])
        if i >= 0:
            if c.modes["extra"][i] >= 0:
                continue
            end = int(start[j] + c.modes["length"][i])
            usd = float(c.modes["usd"][i]) + _late_usd(c, j, end)
        rows = c.modes[jobs["first"][j] : jobs["end"][j]]
        if rows.size > 1 and usd - float(rows["usd"].min()) > promise_usd(usd):
            found.append((usd - float(rows["usd"].min()), j, usd))
    return [(j, usd) for _, j, usd in sorted(found, key=lambda each: (-each[0], each[1]))]


def _late_usd(c: Columns, j: int, end: int) -> float:
    return float(max(0, end - c.jobs["due"][j]) * c.jobs["late_usd"][j])


class _Room:
    """What is free while cuts are made."""

    def __init__(self, problem: Problem, c: Columns, free: Longs) -> None:
        self.problem, self.columns, self.free = problem, c, free

    def hold(self, i: int, first: int, end: int, sign: int) -> None:
        """Take (1) or give back (-1) what row ``i`` takes from one slot to another."""
        m = self.columns.modes[i]
        for r in self.columns.rows[m["cls"]]:
            if r >= 0:
                self.free[r, first:end] -= sign * int(m["takes"])

    def cheapest(self, j: int, below_usd: float) -> Cut | None:
        """The best cut of job ``j`` that costs less than ``below_usd``."""
        best: Cut | None = None
        rows = list(self._rows(j))[:MOST_MODES]
        runs = {i: self._run(i) for i in rows}
        for a, b in permutations(rows, 2):
            found = self._of(j, a, b, runs[a], runs[b], below_usd)
            if found is not None:
                best, below_usd = found
        return best

    def _rows(self, j: int) -> Iterator[int]:
        """The rows that pay by the hour, each at one price."""
        c, job = self.columns, self.problem.jobs[j]
        for i in range(int(c.jobs["first"][j]), int(c.jobs["end"][j])):
            extra = int(c.modes["extra"][i])
            one_price = extra < 0 or int(c.extras["ratio"][extra]) < 0
            pool = self.problem.pool_by_name[job.modes[int(c.modes["number"][i])].pool]
            if one_price and pool.billing is not Billing.NODE:
                yield i

    def _run(self, i: int) -> Longs:
        """(T + 1): for how many slots from each on row ``i`` has room."""
        m, slots = self.columns.modes[i], self.free.shape[1]
        fits = np.ones(slots, dtype=bool)
        for r in self.columns.rows[m["cls"]]:
            if r >= 0:
                fits &= self.free[r] >= int(m["takes"])
        at = np.arange(slots + 1)
        stop = np.append(np.where(fits, slots, at[:-1]), slots)
        return np.minimum.accumulate(stop[::-1])[::-1] - at

    def _of(
        self, j: int, a: int, b: int, run_a: Longs, run_b: Longs, below_usd: float
    ) -> tuple[Cut, float] | None:
        """The best cut of rows ``a`` and ``b``, and what it costs; None for none below."""
        c, job = self.columns, self.problem.jobs[j]
        long_a, long_b = (_slots(self.problem, job, c, i) for i in (a, b))
        brought = _brought_usd(job, c, a, b)
        usd_a, usd_b = (float(c.modes["usd"][i] - c.modes["egress_usd"][i]) for i in (a, b))
        first = int(c.modes["first"][a])
        until = min(job.deadline, self.free.shape[1])
        if min(usd_a, usd_b) + brought >= below_usd or first >= until - 1:
            return None
        save, restart = _stop_slots(self.problem, job)
        s = np.arange(first, until - 1)
        low, high = _ends(s, until, long_a, long_b, save, restart)
        high = np.minimum(high, run_a[s])
        best: tuple[Cut, float] | None = None
        for way in QUARTERS:
            step = np.floor(way * (high - low)).astype(np.int64)
            k = np.where(usd_a <= usd_b, high - step, low + step)
            sound = (low <= high) & (k >= 1) & (s + k < until)
            k = np.where(sound, k, 1)
            second = restart + long_b * (1 - (k - save) / long_a)
            change, needs = s + k, np.maximum(1, np.ceil(second - 1e-6)).astype(np.int64)
            end = change + needs
            sound &= (end <= until) & (run_b[np.minimum(change, until)] >= needs)
            sound &= change >= int(c.modes["first"][b])
            late = np.maximum(0, end - c.jobs["due"][j]) * c.jobs["late_usd"][j]
            usd = np.where(sound, k * usd_a / long_a + second * usd_b / long_b + late, np.inf)
            n = int(np.argmin(usd))
            if usd[n] + brought < below_usd:
                below_usd = float(usd[n]) + brought
                best = Cut(a, b, int(s[n]), int(change[n]), int(end[n])), below_usd
        return best


def _slots(problem: Problem, job: Job, c: Columns, i: int) -> float:
    """What all of the job takes in row ``i``, in slots."""
    return hours_of(job, job.modes[int(c.modes["number"][i])]) / problem.grid.slot_hours


def _stop_slots(problem: Problem, job: Job) -> tuple[float, float]:
    """What a save and a restart take, in slots."""
    stop, seconds = job.interruption, problem.grid.slot_seconds
    return stop.save_seconds / seconds, stop.restart_seconds / seconds


def _brought_usd(job: Job, c: Columns, a: int, b: int) -> float:
    """What bringing the job's data to the pools of two rows costs, once in each."""
    number, egress = c.modes["number"], c.modes["egress_usd"]
    same = job.modes[int(number[a])].pool == job.modes[int(number[b])].pool
    return float(egress[a] + (0.0 if same else egress[b]))


def _ends(
    s: npt.NDArray[np.int64], until: int, long_a: float, long_b: float, save: float, restart: float
) -> tuple[Longs, Longs]:
    """The least and the most slots of a first piece from each of ``s`` that leave time enough."""
    least = 1 + int(4 * (save + restart))  # a shorter one does too little beside its stop
    low = np.full(s.size, least, dtype=np.int64)
    high = np.full(s.size, int(np.ceil(long_a)) - 1, dtype=np.int64)
    left = until - s - restart - long_b * (1 + save / long_a)
    slope = 1 - long_b / long_a  # k slope <= left
    if slope > 0:
        high = np.minimum(high, np.floor(left / slope + 1e-9).astype(np.int64))
    elif slope < 0:
        low = np.maximum(low, np.ceil(left / slope - 1e-9).astype(np.int64))
    return low, high


def works(problem: Problem, c: Columns, j: int, cut: Cut) -> tuple[float, float]:
    """What each piece of job ``j`` does, in the unit of its need."""
    job = problem.jobs[j]
    assert isinstance(job.need, Work)
    save, _ = _stop_slots(problem, job)
    first = (cut.change - cut.start - save) / _slots(problem, job, c, cut.a) * job.need.amount
    return first, job.need.amount - first
