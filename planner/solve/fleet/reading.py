"""A problem into `Columns`: one pass over its jobs' modes, without an object for any of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from planner.problem import (
    GPU_MILLI,
    Demand,
    Job,
    Mode,
    Node,
    Pool,
    Problem,
    egress_usd,
    hours_for,
    replicas_for,
    work_left,
)
from planner.quotas import Cap, caps
from planner.solve.fleet.begun import Begun
from planner.solve.fleet.columns import (
    BUDGET,
    EXTRA,
    JOB,
    MODE,
    PAIR,
    PAUSES,
    SWITCHES,
    WHOLE,
    Columns,
    Floats,
    Ints,
    Longs,
    Records,
)
from planner.table import Places, earliest_starts, ready_slot, spendable_usd

MOST = 2**31 - 1
ROWS = 100_000  # modes that are objects at once: as columns they are a tenth of that
TIER_WEIGHT = 1e4  # what a tier weighs above all lower ones, to the search
COVERED_WEIGHT = 1e2  # the same among jobs that guarantees cover
REQUIRED_USD = 1e12


class Row(NamedTuple):
    """A mode, as `MODE` has it but for its pair; those of a job stand in this order."""

    usd: float
    egress_usd: float
    number: int
    cls: int
    takes: int
    length: int
    work: float
    first: int
    last: int
    profile: int
    extra: int = -1


class Extra(NamedTuple):
    """What `EXTRA` has of a mode."""

    slot_usd: float
    most_usd: float
    least_work: float
    ratio: int
    until: int
    held: int


class Before(NamedTuple):
    """A problem of the same grid, pools and queues, and its columns."""

    problem: Problem
    columns: Columns


def read(problem: Problem, before: Before | None = None) -> Columns:
    """The columns of ``problem``; those of jobs that stand in ``before`` too are copied."""
    return _Reader(problem, before).read()


@dataclass(slots=True)
class _Reader:
    """The rows, classes and profiles met so far."""

    problem: Problem
    before: Before | None = None
    awaited: frozenset[str] = field(init=False)
    pools: dict[str, int] = field(init=False)
    places: dict[str, Places] = field(init=False)
    ready: dict[str, int] = field(init=False)
    caps: list[tuple[Cap, int]] = field(init=False)  # on what queues hold, with their rows
    capacity: list[Ints] = field(default_factory=list)
    classes: dict[tuple[int, ...], int] = field(default_factory=dict)
    class_of: dict[tuple[str, str], int] = field(default_factory=dict)  # by pool and queue
    room: dict[tuple[object, ...], int] = field(default_factory=dict)
    profiles: list[Ints] = field(default_factory=list)
    replicas: list[Ints] = field(default_factory=list)
    profile_cls: list[int] = field(default_factory=list)
    extras: list[Extra] = field(default_factory=list)
    ratios: list[Floats] = field(default_factory=list)
    ratio_of: dict[str, int] = field(default_factory=dict)  # by pool whose price changes
    begun: Begun = field(init=False)

    def __post_init__(self) -> None:
        problem = self.problem
        self.awaited = frozenset(name for job in problem.jobs for name in job.after)
        self.pools = {pool.name: p for p, pool in enumerate(problem.pools)}
        self.ready = {pool.name: ready_slot(problem, pool) for pool in problem.pools}
        usable: dict[str, list[Node]] = defaultdict(list)
        for node in problem.nodes:
            if not node.cordoned:
                usable[node.pool].append(node)
        self.places = {pool.name: Places(pool, usable[pool.name]) for pool in problem.pools}
        self.begun = Begun.of(problem, self.places)
        for pool in problem.pools:
            if not pool.one_price:
                self.ratio_of[pool.name] = len(self.ratios)
                self.ratios.append(_ratios(pool, problem.grid.slots))
            self.capacity.append(_capacity(pool, usable[pool.name], problem.grid.slots))
        self.caps = [(cap, len(self.capacity) + n) for n, cap in enumerate(caps(problem))]
        self.capacity += [np.minimum(cap.milli, MOST).astype(np.int32) for cap, _ in self.caps]

    def read(self) -> Columns:
        jobs, grid = self.problem.jobs, self.problem.grid
        number = {job.name: j for j, job in enumerate(jobs)}
        after = tuple(tuple(number[name] for name in job.after) for job in jobs)
        earliest = earliest_starts(self.problem, after) if any(after) else None
        old, copied = self._copied() if earliest is None else (_table([]), {})
        tables = [old]
        rows: list[Row] = []
        spans: list[tuple[int, int]] = []  # of each job's modes, among old and new ones
        begin = old.size
        for j, job in enumerate(jobs):
            if job.name in copied:
                spans.append(copied[job.name])
                continue
            first = job.release if earliest is None else earliest[j]
            ours = sorted(self._modes(job, first))
            spans.append((begin, begin + len(ours)))
            begin += len(ours)
            rows += ours
            if len(rows) > ROWS:
                tables.append(_table(rows))
                rows.clear()
        span = np.array(spans, dtype=np.int64).reshape(-1, 2)
        ends = np.concatenate([[0], np.cumsum(span[:, 1] - span[:, 0])])
        shift = np.repeat(span[:, 0] - ends[:-1], np.diff(ends))
        found = np.concatenate([*tables, _table(rows)])[np.arange(ends[-1]) + shift]
        del tables, rows
        keys = found["cls"].astype(np.int64) * (grid.slots + 1) + found["length"]
        unique, found["pair"] = np.unique(keys, return_inverse=True)
        pairs = np.zeros(unique.size, dtype=PAIR)
        pairs["cls"], pairs["length"] = np.divmod(unique, grid.slots + 1)
        spends, budgets = self._budgets()
        return Columns(
            capacity=np.array(self.capacity, dtype=np.int32).reshape(-1, grid.slots),
            rows=_padded(list(self.classes)),
            jobs=self._jobs(ends, after),
            modes=found,
            pairs=pairs,
            profiles=np.array(self.profiles, dtype=np.int32).reshape(-1, grid.slots),
            replicas=np.array(self.replicas, dtype=np.int32).reshape(-1, grid.slots),
            profile_cls=np.array(self.profile_cls, dtype=np.int32),
            spends=spends,
            budgets=budgets,
            extras=np.array(self.extras, dtype=EXTRA),
            ratios=np.array(self.ratios, dtype=np.float64).reshape(-1, grid.slots + 1),
        )

    def _copied(self) -> tuple[Records, dict[str, tuple[int, int]]]:
        """The modes of before, and where those of jobs that are the same value stand, by name."""
        if self.before is None:
            return _table([]), {}
        problem, old = self.before
        cls = [self.classes.setdefault(_bare(row), len(self.classes)) for row in old.rows]
        modes = old.modes.copy()
        modes["cls"] = np.array(cls, dtype=np.int32)[modes["cls"]]
        self.profiles += list(old.profiles)
        self.replicas += list(old.replicas)
        self.profile_cls += [cls[k] for k in old.profile_cls]
        self.extras += [Extra(*extra) for extra in old.extras.tolist()]
        same = {id(job) for job in self.problem.jobs if runs_alike(problem, self.problem, job.name)}
        ranges = zip(old.jobs["first"].tolist(), old.jobs["end"].tolist(), strict=True)
        return modes, {
            job.name: span
            for job, span in zip(problem.jobs, ranges, strict=True)
            if id(job) in same
        }

    def _jobs(self, ends: Longs, after: tuple[tuple[int, ...], ...]) -> Records:
        jobs, grid = self.problem.jobs, self.problem.grid
        found = np.zeros(len(jobs), dtype=JOB)
        found["unplaced_usd"] = [job.unplaced_usd for job in jobs]
        found["penalty_usd"] = _penalties(jobs)
        found["late_usd"] = [job.lateness_usd_per_hour * grid.slot_hours for job in jobs]
        found["due"] = [grid.slots if job.due is None else job.due for job in jobs]
        found["pieces"] = [_pieces(job) for job in jobs]
        found["first"], found["end"] = ends[:-1], ends[1:]
        found["kept_mode"] = -1
        found["fixed"] = [bool(waits) for waits in after]
        found["fixed"][[before for waits in after for before in waits]] = 1
        return found

    def _modes(self, job: Job, first: int) -> Iterator[Row]:
        """The modes that could be of use."""
        kept = job.required or job.name in self.awaited
        least = np.inf if kept else job.unplaced_usd
        most = spendable_usd(self.problem, job) + 1e-6
        if isinstance(job.need, Demand):
            for m in range(len(job.modes)):
                row = self._service(job, job.need, m)
                if row is not None and row.usd < least and row.usd <= most:
                    yield row
            return
        shares = _pieces(job) == SWITCHES
        for m, held, could in self.begun.ways(job, range(len(job.modes))):
            row = self._batch(job, m, max(first, int(could)) if not held else 0, held, most)
            if row is not None and (shares or (row.usd < least and row.usd <= most)):
                yield row

    def _fits(self, job: Job, mode: Mode, replicas: int) -> bool:
        """Whether the pool, empty, holds so many replicas at once."""
        inside = mode.together if mode.together_required else ""
        key = (mode.pool, mode.amounts, mode.spread, inside, job.preemptible)
        if key not in self.room:
            each, most = self.places[mode.pool].room(job, mode)
            self.room[key] = most if each else -1
        return self.room[key] >= replicas

    def _batch(self, job: Job, m: int, first: int, held: bool, most_usd: float) -> Row | None:
        """A mode of batch work; ``held``: it goes on where it runs.

        Where the whole does not fit, or costs too much, a part of it may, of a job that is split.
        """
        mode, grid = job.modes[m], self.problem.grid
        running = self.problem.running_by_job.get(job.name)
        hours = hours_for(work_left(self.problem, job, kept=held), mode)
        if running is not None and not held:
            hours += job.interruption.restart_seconds / 3600
        shares, end = _pieces(job) == SWITCHES, min(job.deadline, grid.slots)
        if hours >= 1e9 or (hours > grid.slots * grid.slot_hours * (1 + 1e-6) and not shares):
            return None
        length = min(grid.slots_for(hours), grid.slots)
        fits = grid.slots_for(hours) <= end
        begin = 0 if held else max(first, self.ready[mode.pool])
        last = 0 if held else end - length
        if held and running is not None and self.begun.stay_until(job, running) < length:
            last, fits = -1, False
        whole = fits and last >= begin
        parted = shares or (held and _pieces(job) == PAUSES)
        if not (whole or (parted and begin < end)) or not self._fits(job, mode, mode.replicas):
            return None
        brought = egress_usd(self.problem, job, mode)
        row = Row(
            number=m,
            cls=self._class(mode.pool, job.queue),
            takes=mode.replicas * self.problem.pool_by_name[mode.pool].counted_milli(mode.amounts),
            length=length,
            work=hours / grid.slot_hours,
            usd=hours * mode.replicas * mode.usd_per_replica_hour + brought,
            egress_usd=brought,
            first=begin,
            last=last if whole else begin - 1,
            profile=-1,
        )
        n = self.ratio_of.get(mode.pool, -1)
        if whole and running is None and n < 0 and row.usd <= most_usd:
            return row
        least = hours_for(work_left(self.problem, job, kept=True), mode) if job.switches else hours
        extra = Extra(
            slot_usd=mode.replicas * mode.usd_per_replica_hour * grid.slot_hours,
            most_usd=most_usd,
            least_work=least / grid.slot_hours,
            ratio=n,
            until=end,
            held=int(held),
        )
        return self._with(row, extra)

    def _with(self, row: Row, extra: Extra) -> Row:
        """The mode with its extras, and what it costs at its cheapest start."""
        self.extras.append(extra)
        usd = row.usd
        if extra.ratio >= 0:
            total, slots = self.ratios[extra.ratio], self.problem.grid.slots
            starts = np.arange(row.first, max(row.first, row.last) + 1)
            ends = np.interp(starts + row.work, np.arange(slots + 1), total)
            usd = extra.slot_usd * float((ends - total[starts]).min())
            if row.first > row.last:
                usd = extra.slot_usd * row.work * float(np.diff(total).min())
            usd += row.egress_usd
        return row._replace(usd=usd, extra=len(self.extras) - 1)

    def _service(self, job: Job, need: Demand, m: int) -> Row | None:
        mode, grid = job.modes[m], self.problem.grid
        first, end = job.release, min(job.deadline, grid.slots)
        if first >= end or mode.work_per_replica_hour <= 0:
            return None
        replicas = np.zeros(grid.slots, dtype=np.int64)
        replicas[first:end] = [replicas_for(need, mode, t) for t in range(first, end)]
        if not self._fits(job, mode, int(np.max(replicas))):
            return None
        takes = replicas * self.problem.pool_by_name[mode.pool].counted_milli(mode.amounts)
        cls = self._class(mode.pool, job.queue)
        self.profiles.append(takes.astype(np.int32))
        self.replicas.append(replicas.astype(np.int32))
        self.profile_cls.append(cls)
        brought = egress_usd(self.problem, job, mode)
        row = Row(
            number=m,
            cls=cls,
            takes=int(np.max(takes)),
            length=end - first,
            work=float(end - first),
            usd=float(replicas.sum()) * grid.slot_hours * mode.usd_per_replica_hour + brought,
            egress_usd=brought,
            first=first,
            last=first,
            profile=len(self.profiles) - 1,
        )
        n = self.ratio_of.get(mode.pool, -1)
        if n < 0:
            return row
        slots = float((replicas * np.diff(self.ratios[n])).sum())
        self.extras.append(Extra(0.0, np.inf, row.work, n, end, held=0))
        usd = slots * grid.slot_hours * mode.usd_per_replica_hour + brought
        return row._replace(usd=usd, extra=len(self.extras) - 1)

    def _class(self, pool: str, queue: str) -> int:
        found = self.class_of.get((pool, queue))
        if found is None:
            accelerator = self.problem.pool_by_name[pool].accelerator
            path = self.problem.queue_path(queue)
            limits = (
                row for cap, row in self.caps if cap.accelerator == accelerator and cap.binds(path)
            )
            key = (self.pools[pool], *limits)
            found = self.classes.setdefault(key, len(self.classes))
            self.class_of[pool, queue] = found
        return found

    def _budgets(self) -> tuple[Ints, Records]:
        """Budgets of each job's queues by month, and what and when each is."""
        months = self.problem.grid.months()
        known: dict[str, range] = {}
        rows: list[tuple[float, int, int]] = []
        for queue in self.problem.queues:
            if queue.budget_usd_per_month is not None:
                known[queue.name] = range(len(rows), len(rows) + len(months))
                rows += [(queue.budget_usd_per_month, first, end) for _, first, end in months]
        path = {
            name: tuple(b for q in self.problem.queue_path(name) for b in known.get(q, ()))
            for name in {job.queue for job in self.problem.jobs}
        }
        spends = _padded([path[job.queue] for job in self.problem.jobs])
        return spends, np.array(rows, dtype=BUDGET)


def runs_alike(old: Problem, new: Problem, job: str) -> bool:
    """Whether the job stands where it stood: not running, or running the same."""
    return old.running_by_job.get(job) == new.running_by_job.get(job)


def _ratios(pool: Pool, slots: int) -> Floats:
    """(T + 1) slots from 0 on, each by its price over that of the first window."""
    found = np.zeros(slots + 1)
    for window in pool.windows:
        found[window.start + 1 : window.end + 1] = pool.price_ratio(window)
    return np.cumsum(found)


def _table(rows: list[Row]) -> Records:
    found = np.zeros(len(rows), dtype=MODE)
    found["extra"] = -1
    for name, column in zip(Row._fields, zip(*rows, strict=True), strict=False):
        found[name] = column
    return found


def _bare(row: Ints) -> tuple[int, ...]:
    """A class's rows without what fills them up."""
    return tuple(int(r) for r in row if r >= 0)


def _padded(rows: list[tuple[int, ...]]) -> Ints:
    """Rows of unequal length, filled up with -1."""
    found = np.full((max(1, len(rows)), max([1, *map(len, rows)])), -1, dtype=np.int32)
    for n, row in enumerate(rows):
        found[n, : len(row)] = row
    return found


def _capacity(pool: Pool, nodes: list[Node], slots: int) -> Ints:
    """GPU thousandths of the pool's usable nodes in each slot."""
    index = np.array([node.index for node in nodes], dtype=np.int64)
    gpus = [len(n.healthy_gpus()) if n.devices else pool.gpus_per_node for n in nodes]
    milli = np.array(gpus, dtype=np.int64) * GPU_MILLI
    found = np.zeros(slots, dtype=np.int64)
    for window in pool.windows:
        found[window.start : window.end] = milli[index < window.nodes].sum()
    return np.minimum(found, MOST).astype(np.int32)


def _penalties(jobs: tuple[Job, ...]) -> Floats:
    """What leaving each job out weighs: a tier more than all that lower ones could."""
    weight = _weights(jobs)
    weigh = [weight[job.rank] * job.unplaced_usd for job in jobs]
    required = [REQUIRED_USD if job.required else 0.0 for job in jobs]
    return np.maximum(np.array(weigh, dtype=np.float64), required)


def _weights(jobs: tuple[Job, ...]) -> dict[int, float]:
    """By rank. Where a float could not tell them apart beside dollars, the upper weigh the same."""
    plain = sorted({job.rank for job in jobs if not job.guarantee})
    covered = sorted({job.rank for job in jobs if job.guarantee})
    if not plain or not covered:
        return {rank: TIER_WEIGHT ** min(n, 2) for n, rank in enumerate([*plain, *covered])}
    weight = {rank: TIER_WEIGHT ** min(n, 1) for n, rank in enumerate(plain)}
    least = TIER_WEIGHT**2
    return weight | {rank: least * COVERED_WEIGHT ** min(n, 1) for n, rank in enumerate(covered)}


def _pieces(job: Job) -> int:
    if not job.may_stop:
        return WHOLE
    return SWITCHES if job.switches else PAUSES
