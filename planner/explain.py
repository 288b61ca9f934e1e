"""Why a job is where it is: its other ways, what each would cost, and what binds it.

A *way* is a job in one of its modes from one start. What it costs the whole is its reduced cost

    money + lateness + capacity,   capacity = sum over its slots of what it takes x shadow price

where the prices are those of the plan (`planner.plan.Price`, `QueuePrice`): what others would pay
for the room in the pool, under the limits of the job's queues and in their budgets.
For each mode the start of least total is looked at, and, where that does not fit beside the others
as the plan has them, the first that does. Whether it fits is asked of the placement function.
``change_usd`` is exact: the objective of the plan with the job there and nobody else moved, less
the objective now. What does not fit names whom it would displace: jobs of which none can be spared,
largest first, not proved fewest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from planner import cost, placement
from planner.booking import Booking
from planner.guarantees import in_words
from planner.occupancy import Occupancy
from planner.plan import Plan, Reason, Segment
from planner.problem import Demand, Excluded, Job, Mode, Problem, hours_of
from planner.reasons import of_cap, queue_in_the_way
from planner.table import Option, build
from planner.worth import Worth

MOST_DISPLACED = 64  # jobs tried, before it is said that many stand in the way
CENT = 0.005


class UnknownJob(LookupError):
    """The problem holds no job of that name."""


class Bind(StrEnum):
    """What keeps a job from a better way."""

    CAPACITY = "capacity"
    QUEUE_LIMIT = "queue-limit"
    KEPT_BACK = "kept-back"
    BUDGET = "budget"
    DEADLINE = "deadline"
    RELEASE = "release"
    STARTUP = "start-up"
    DEPENDENCY = "dependency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One thing that binds a job."""

    what: Bind
    name: str  # the pool, queue or job
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A job in a mode from a start (slots), and what that costs (USD)."""

    mode: int
    pool: str
    gpus: int  # most at once
    layout: str
    start: int
    end: int
    money_usd: float  # its share, where whole nodes are billed
    lateness_usd: float
    capacity_usd: float  # what it takes, at the shadow prices
    fits: bool
    egress_usd: float = 0.0  # of bringing its data there
    change_usd: float | None = None  # of the plan's objective; None where it does not fit
    displaces: tuple[str, ...] = ()
    binds: tuple[Binding, ...] = ()  # why it does not fit

    @property
    def own_usd(self) -> float:
        """What it costs by itself."""
        return self.money_usd + self.egress_usd + self.lateness_usd

    @property
    def total_usd(self) -> float:
        """What it costs the whole: its reduced cost."""
        return self.own_usd + self.capacity_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """When a job that is left out would fit first in the plan as it is."""

    start: int | None  # slot; None: not within the horizon
    pool: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a job is where it is."""

    job: str
    now: Way | None  # as the plan has it; None: left out
    why: str
    ways: tuple[Way, ...]  # the other ones: those that fit by total, then those that do not
    binds: tuple[Binding, ...]
    closed: tuple[Excluded, ...]  # pools on which it cannot run at all
    expected: Expected | None = None  # of a job that is left out


def explain(problem: Problem, plan: Plan, name: str) -> Explanation:
    """Why the job is where ``plan`` has it.

    Raises `UnknownJob`, and `planner.table.Unsupported` for what cannot be planned yet.
    """
    if name not in problem.job_by_name:
        raise UnknownJob(name)
    case = _Case(problem, plan, name)
    now = case.now()
    ways = sorted(case.ways(now), key=lambda w: (not w.fits, w.total_usd, w.start, w.mode))
    return Explanation(
        job=name,
        now=now,
        why=_why(now, ways) + _right(problem, name) if now else _why_out(plan, name),
        ways=tuple(ways),
        binds=_distinct((*case.times(now), *_of_better(now, ways))),
        closed=case.closed(),
        expected=None if now else case.expected(),
    )


class _Case:
    """A job, with everything else held as the plan has it."""

    def __init__(self, problem: Problem, plan: Plan, name: str) -> None:
        self.problem, self.plan = problem, plan
        self.job = problem.job_by_name[name]
        self.table = build(problem)
        self.number = problem.jobs.index(self.job)
        self.mine = [s for s in plan.segments if s.job == name]
        self.others = [s for s in plan.segments if s.job != name]
        self.occupancy = Occupancy(self.table)
        for segment in self.others:
            self.occupancy.hold(segment)
        self.worth = Worth(problem, plan)
        self.ready = max((self._end(b) for b in self.job.after), default=0)
        waiting = {j.name for j in problem.jobs if name in j.after}
        starts = (s.start for s in self.others if s.job in waiting)
        self.until = min(starts, default=problem.grid.slots)  # others wait for its end

    def _end(self, before: str) -> int:
        """When a job it waits for ends; the end of the grid where that is left out."""
        ends = [s.end for s in self.others if s.job == before]
        return max(ends, default=self.problem.grid.slots)

    def now(self) -> Way | None:
        """The way that the plan has it in."""
        if not self.mine:
            return None
        numbers = {s.mode for s in self.mine}
        mixes = (m.base for m in self.job.mixes if {m.base, m.rest} == numbers)
        first = next(mixes, self.mine[0].mode)
        modes = [self.job.modes[m] for m in sorted(numbers, key=lambda m: m != first)]
        end = max(s.end for s in self.mine)
        return Way(
            mode=first,
            pool=_pools(modes),
            gpus=_most_gpus(self.problem, self.mine),
            layout=modes[0].layout,
            start=min(s.start for s in self.mine),
            end=end,
            money_usd=sum(cost.segment_usd(self.problem, s) for s in self.mine),
            lateness_usd=cost.lateness_usd(self.problem, self.job, end),
            capacity_usd=sum(map(self.worth.of_segment, self.mine)),
            egress_usd=sum(s.egress_usd for s in self.mine),
            fits=True,
            change_usd=0.0,
        )

    def ways(self, now: Way | None) -> Iterator[Way]:
        """All modes, each at its start of least total and at the first that fits."""
        for i in self.table.of_job[self.number]:
            option = self.table.options[i]
            first, last = (
                max(option.first, self.ready),
                min(option.last, self.until - option.length),
            )
            if last < first:
                continue
            best = self._way(option, self._cheapest_start(option, first, last))
            found = [best]
            if not best.fits and (room := placement.earliest(self.occupancy, option, first, last)):
                found.append(self._way(option, room.start))
            for way in found:
                if now is None or _same(way) != _same(now):
                    yield way

    def _cheapest_start(self, option: Option, first: int, last: int) -> int:
        starts = np.arange(first, last + 1)
        late = np.array([self.table.late_usd(self.number, int(t) + option.length) for t in starts])
        return int(starts[np.argmin(np.round(late + self._capacity_usd(option, starts), 6))])

    def _capacity_usd(
        self, option: Option, starts: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        total = np.zeros(starts.size)
        for part in self.table.parts(option):
            runs = [(r.start, r.end, r.replicas) for r in part.runs]
            mode = self.job.modes[part.mode]
            total += self.worth.of_all(mode, starts, runs)
            total += self.worth.of_queues(self.job, mode, part.replica_slots, part.usd)
        return total

    def _way(self, option: Option, start: int) -> Way:
        parts, end = self.table.parts(option), start + option.length
        modes = [self.job.modes[part.mode] for part in parts]
        booking = placement.place(self.occupancy, option, start)
        way = Way(
            mode=option.mode,
            pool=_pools(modes),
            gpus=sum(o.peak * m.amounts.gpus for o, m in zip(parts, modes, strict=True)),
            layout=modes[0].layout,
            start=start,
            end=end,
            money_usd=sum(part.usd - part.egress_usd for part in parts),
            egress_usd=sum(part.egress_usd for part in parts),
            lateness_usd=self.table.late_usd(self.number, end),
            capacity_usd=float(self._capacity_usd(option, np.array([start]))[0]),
            fits=booking is not None,
            change_usd=None if booking is None else self._change_usd(booking),
        )
        return way if way.fits else self._blocked(way, option)

    def _change_usd(self, booking: Booking) -> float:
        """What the plan would cost more with the job there and all others where they are."""
        there = placement.unnamed_segments(self.table, [booking])
        out = [u.job for u in self.plan.unplaced if u.job != self.job.name]
        moved = cost.costs(self.problem, [*self.others, *there], out)
        return moved.objective - self.plan.costs.objective

    def _blocked(self, way: Way, option: Option) -> Way:
        """The same with what it does not fit beside."""
        if not self.occupancy.within_limits(option, way.start):
            at = replace(option, first=way.start, last=way.start)
            found = queue_in_the_way(self.occupancy, [at], way.start)
            if found is None:  # what is full beside it is in its way too
                over = self.occupancy.caps_over(option, way.start)
                found = next((of_cap(self.table.caps[i]) for i in over), None)
            if found is None:  # the job's own limit
                message = f"the limit of queue {self.job.queue} leaves no room for it"
                return replace(way, binds=(_binding(Bind.QUEUE_LIMIT, self.job.queue, message),))
            kept = found.reason is Reason.KEPT_BACK
            message = found.what if kept else f"{found.what} leaves no room for it"
            binds = (_binding(Bind(found.reason.value), name, message) for name in found.names)
            return replace(way, binds=tuple(binds))
        displaced = self._displaced(option, way.start)
        grid = self.problem.grid
        hours = f"from {grid.time(way.start):%d %b %H:%M} to {grid.time(way.end):%d %b %H:%M}"
        held = f": {_named(displaced)}" if displaced else ""
        message = f"{way.pool} has no room {hours}{held}"
        return replace(
            way, displaces=displaced, binds=(_binding(Bind.CAPACITY, way.pool, message),)
        )

    def _displaced(self, option: Option, start: int) -> tuple[str, ...]:
        """Jobs without which it would fit; empty where a few are not enough."""
        end = start + option.length
        there: dict[str, list[Segment]] = {}
        pools = {self.job.modes[part.mode].pool for part in self.table.parts(option)}
        for s in self.others:
            if cost.mode_of(self.problem, s).pool in pools and s.start < end and start < s.end:
                there.setdefault(s.job, []).append(s)
        gone: list[str] = []
        for name in sorted(there, key=lambda n: (-_gpus(self.problem, there[n]), n)):
            if len(gone) == MOST_DISPLACED or self._fits(option, start):
                break
            self._hold(there[name], 1)
            gone.append(name)
        enough = self._fits(option, start)
        for name in tuple(gone):  # who can stay after all, stays
            self._hold(there[name], -1)
            if enough and self._fits(option, start):
                gone.remove(name)
            elif enough:
                self._hold(there[name], 1)
        for name in gone if enough else ():
            self._hold(there[name], -1)
        return tuple(sorted(gone)) if enough else ()

    def _fits(self, option: Option, start: int) -> bool:
        return placement.place(self.occupancy, option, start) is not None

    def _hold(self, segments: Iterable[Segment], sign: int) -> None:
        for segment in segments:
            self.occupancy.hold(segment, sign)

    def times(self, now: Way | None) -> Iterator[Binding]:
        """What keeps it from starting earlier, and its modes from being in time."""
        grid, job = self.problem.grid, self.job
        if now and now.start == self.ready > job.release:
            last = max(job.after, key=self._end)
            message = f"it waits for {last}, which ends {grid.time(self.ready):%d %b %H:%M}"
            yield _binding(Bind.DEPENDENCY, last, message)
        elif now and now.start == job.release > 0:
            message = f"it may not start before {grid.time(job.release):%d %b %H:%M}"
            yield _binding(Bind.RELEASE, job.name, message)
        elif now and now.start == self._first(now) > 0:
            message = f"a node of {now.pool} is not ready before"
            yield _binding(Bind.STARTUP, now.pool, message)
        for m, reason in self._dropped():
            mode = job.modes[m]
            if reason is Reason.WINDOW and (now is None or self._usd(mode) < now.own_usd - CENT):
                end = grid.time(min(job.deadline, grid.slots))
                message = f"on {mode.pool} it could not end by {end:%d %b %H:%M}"
                yield _binding(Bind.DEADLINE, mode.pool, message)

    def _usd(self, mode: Mode) -> float:
        """Money of the whole job in a mode that is no option for want of time."""
        if isinstance(self.job.need, Demand):
            return math.inf
        usd = hours_of(self.job, mode) * mode.replicas * mode.usd_per_replica_hour
        return usd + mode.egress_usd

    def _first(self, now: Way) -> int:
        ours = (self.table.options[i] for i in self.table.of_job[self.number])
        return max((o.first for o in ours if o.mode == now.mode), default=-1)

    def _dropped(self) -> list[tuple[int, Reason]]:
        return sorted((m, r) for (j, m), r in self.table.dropped.items() if j == self.number)

    def closed(self) -> tuple[Excluded, ...]:
        """Pools and modes that are no way at all."""
        dropped = (
            Excluded(
                pool=self.job.modes[m].pool,
                reason=reason.value,
                message=_closed(self.job, self.job.modes[m], reason),
            )
            for m, reason in self._dropped()
        )
        return tuple(dict.fromkeys((*self.job.excluded, *dropped)))

    def expected(self) -> Expected:
        """When it would fit first if neither its deadline nor its price were in the way."""
        grid = self.problem.grid
        if missing := [b for b in self.job.after if self._end(b) >= grid.slots]:
            return Expected(start=None, pool="", message=f"not before {missing[0]} is planned")
        lenient = replace(self.job, deadline=grid.slots, required=True, max_cost_usd=None)
        jobs = tuple(lenient if j is self.job else j for j in self.problem.jobs)
        table = build(replace(self.problem, jobs=jobs))
        occupancy = Occupancy(table)
        for segment in self.others:
            occupancy.hold(segment)
        options = [table.options[i] for i in table.of_job[self.number]]
        found = [placement.earliest(occupancy, o, first=self.ready) for o in options]
        bookings = [b for b in found if b is not None]
        if not bookings:
            return Expected(start=None, pool="", message="not within the plan's horizon")
        first = min(bookings, key=lambda b: (b.start, b.end(table), b.option))
        parts = table.parts(table.options[first.option])
        return self._said(first.start, first.end(table), [self.job.modes[o.mode] for o in parts])

    def _said(self, start: int, end: int, modes: Sequence[Mode]) -> Expected:
        grid, pool = self.problem.grid, _pools(modes)
        if end > self.job.deadline:
            late = grid.time(end) - grid.time(self.job.deadline)
            message = f"it would end {late.total_seconds() / 3600:.4g} h after its deadline"
        elif start > max(self.job.release, self.ready):
            message = "before that others hold what it needs"
        else:
            message = "there is room, but running it costs more than not running it"
        return Expected(start=start, pool=pool, message=message)


def _pools(modes: Sequence[Mode]) -> str:
    """Where a job is: of a mix or after a change of mode, in several pools."""
    return " + ".join(dict.fromkeys(mode.pool for mode in modes))


def _same(way: Way) -> tuple[int, str, int, int]:
    """What tells two ways of a job apart."""
    return way.mode, way.pool, way.gpus, way.start


def _most_gpus(problem: Problem, segments: Sequence[Segment]) -> int:
    """GPUs at once, at most."""
    return max(_gpus_at(problem, segments, s.start) for s in segments)


def _gpus_at(problem: Problem, segments: Sequence[Segment], slot: int) -> int:
    now = (s for s in segments if s.start <= slot < s.end)
    return sum(s.replicas * cost.mode_of(problem, s).amounts.gpus for s in now)


def _gpus(problem: Problem, segments: Sequence[Segment]) -> int:
    return max(s.replicas * cost.mode_of(problem, s).amounts.gpus for s in segments)


def _binding(what: Bind, name: str, message: str) -> Binding:
    return Binding(what=what, name=name, message=message)


def _distinct(found: Iterable[Binding]) -> tuple[Binding, ...]:
    return tuple(dict.fromkeys(found))


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _of_better(now: Way | None, ways: Sequence[Way]) -> Iterator[Binding]:
    """What keeps it from ways that would cost it less by themselves."""
    for way in ways:
        if now is None or way.own_usd < now.own_usd - CENT:
            yield from way.binds


def _closed(job: Job, mode: Mode, reason: Reason) -> str:
    gpus = mode.gpus
    return {
        Reason.WINDOW: f"{gpus} GPUs there could not end it in time",
        Reason.NOT_WORTH: f"{gpus} GPUs there cost more than the ${job.unplaced_usd:,.2f} of not "
        "running it",
        Reason.BUDGET: f"{gpus} GPUs there cost more than it may spend",
        Reason.QUEUE_LIMIT: f"{gpus} GPUs at once are more than queue {job.queue} may have",
    }.get(reason, f"its gang of {gpus} GPUs does not fit the pool's nodes")


def _why(now: Way, ways: Sequence[Way]) -> str:
    """One sentence: how its way compares with the others."""
    cheaper = min(ways, key=lambda w: w.own_usd, default=now)
    better = min(ways, key=lambda w: w.total_usd, default=now)
    if now.own_usd <= cheaper.own_usd + CENT:
        return "No other way that it has costs it less."
    less = f"{cheaper.pool} would cost it ${now.own_usd - cheaper.own_usd:,.2f} less"
    if now.total_usd <= better.total_usd + CENT:
        worth = cheaper.capacity_usd - now.capacity_usd
        return f"{less}, but would take capacity that is worth ${worth:,.2f} more to others."
    if not cheaper.fits:
        return f"{less}, but has no room for it then beside the others."
    if (cheaper.change_usd or 0.0) > CENT:
        return f"{less}, but the plan would cost ${cheaper.change_usd:,.2f} more with it there."
    return f"{less}: the search did not find that (the plan is not proved optimal)."


def _right(problem: Problem, name: str) -> str:
    """What is said of its guarantee, where one covers it."""
    words = in_words(problem, problem.job_by_name[name])
    return f" It is {words}." if words else ""


def _why_out(plan: Plan, name: str) -> str:
    found: Mapping[str, str] = {u.job: u.message for u in plan.unplaced}
    return f"It is left out: {found.get(name, 'the plan does not say why')}."
