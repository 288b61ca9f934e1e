"""From prices to a plan: a start from samples of the ascent, then annealing on two threads.

Each epoch is a fixed number of moves for each thread, so that a seed and a number of moves give one
plan whatever the machine. Of a large fleet each thread takes half of the jobs and, row by row, the
free capacity of one half or the other, dealt anew each epoch; of a small one it takes everything,
and every so often the better of the two plans goes on twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from planner.plan import gap_of
from planner.solve.clock import GAIN, Clock
from planner.solve.fleet.anneal import anneal, readmit, scratch
from planner.solve.fleet.columns import Columns, Floats, Ints, Priced
from planner.solve.fleet.reading import TIER_WEIGHT
from planner.solve.fleet.replan import as_before
from planner.solve.fleet.state import (
    State,
    best_spot,
    empty,
    enlist,
    insert,
    insert_wanted,
    money_of,
    penalised,
    put,
    restore,
    seeded,
)
from planner.table import order_by_dependency

THREADS = 2
HALVES = 4000  # jobs from which each thread takes half of them
EPOCH, LONG_EPOCH = (
    10_000,
    40_000,
)  # moves of a thread in an epoch: of a small fleet, of a large one
READMIT_TRIES = 30  # for each job left out, in each epoch
WARM_EPOCHS = 2  # from the last plan
MEETING = 10  # epochs after which two whole plans are compared
HOT, COLD = (
    300.0,
    0.003,
)  # temperature over a job's mean cost: HOT / jobs at first, COLD of it at last
HOTTEST, COOLEST = 1.0, 0.03
QUICK = 0.12  # of the search: a first cooling, for a good plan early
PATIENCE_SECONDS, JOB_SECONDS = 5.0, 1e-3  # a search that may stop by itself: so long, and by job


@dataclass(frozen=True, slots=True)
class Chosen:
    """A mode (-1: left out) and a start for each job."""

    mode: Ints
    start: Ints
    usd: float
    not_running_usd: float


def chosen(c: Columns, mode: Ints, start: Ints) -> Chosen:
    """What jobs cost where they are, added up anew."""
    out = mode < 0
    not_running = float(c.jobs["unplaced_usd"][out].sum())
    j = np.flatnonzero(~out)
    m = c.modes[mode[j]]
    late = np.maximum(0, start[j] + m["length"] - c.jobs["due"][j]) * c.jobs["late_usd"][j]
    money = np.zeros(c.job_count)
    money_of(c, mode, start, money)
    usd = float(money.sum() + late.sum()) + not_running
    return Chosen(mode.copy(), start.copy(), usd, not_running)


@dataclass(slots=True)
class Improver:
    """The best plan so far, at fixed prices."""

    columns: Columns
    priced: Priced
    value: Floats
    bound_usd: float
    clock: Clock
    best: Chosen | None = None
    key: float = np.inf  # of the best: its cost with penalties
    crowded_out: bool = False  # who is left out of the best may be so for lower tiers
    gained: float = 0.0
    mark: float = np.inf
    moves: int = 0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.clock.limits.seed)

    @property
    def gap(self) -> float:
        if self.best is None:
            return np.inf
        return gap_of(self.best.usd, self.bound_usd, self.best.not_running_usd)

    def offer(self, mode: Ints, start: Ints, key: float, doing: str) -> None:
        """Keep a plan whose cost with penalties is ``key`` if it is better."""
        if key >= self.key - 1e-9:
            return
        self.key, self.best = key, chosen(self.columns, mode, start)
        self.crowded_out = self._crowded_out(mode)
        if self.best.usd < self.mark * (1 - GAIN):
            self.gained, self.mark = self.clock.seconds, self.best.usd
        self.say(doing)

    def say(self, doing: str) -> None:
        if self.best is not None:
            self.clock.say(
                doing,
                bound=self.bound_usd,
                best=self.best.usd,
                not_running=self.best.not_running_usd,
            )

    # -- start -------------------------------------------------------------------------------------

    def begin(self, samples: list[tuple[Ints, Ints]], after: tuple[tuple[int, ...], ...]) -> None:
        """Plans by insertion, in two orders: as a sampled pass has a job, else where it fits."""
        modes, starts = (np.array(each) for each in zip(*samples, strict=True))
        for order in self._orders():
            state = empty(self.columns, self.clock.limits.seed)
            self._fix(state, after)
            for tier in self._tiers(order):  # nobody of a lower one is there before
                insert_wanted(self.columns, state, modes, starts, tier)
                insert(self.columns, state, self.priced, tier)
            self.offer(state.mode, state.start, penalised(self.columns, state), "packing")
            if self.clock.left <= 0:
                return

    def _orders(self) -> Iterator[Ints]:
        """Tiers first; then who can move least, alone or beside its length; then the largest."""
        c = self.columns
        movable = empty(c, 0).ours
        m = c.modes[c.jobs["first"][movable]]  # the cheapest mode stands for the job
        slack, area = m["last"] - m["first"], m["takes"].astype(float) * m["length"]
        weight = self._weight(movable)
        for key in (slack, (slack + 1) / m["length"]):
            yield movable[np.lexsort((-area, key, -weight))]

    def _weight(self, jobs: Ints) -> Floats:
        """What a dollar of not running them weighs, by job."""
        c = self.columns
        each = np.maximum(1e-9, c.jobs["unplaced_usd"][jobs])
        found: Floats = np.round(c.jobs["penalty_usd"][jobs] / each)
        return found

    def _tiers(self, order: Ints) -> list[Ints]:
        """The jobs of an order, which has upper tiers first, by tier."""
        return np.split(order, np.flatnonzero(np.diff(self._weight(order))) + 1)

    def _crowded_out(self, mode: Ints) -> bool:
        """Whether a job of an upper tier that could run is left out: perhaps for lower ones."""
        jobs = self.columns.jobs[mode < 0]
        upper = jobs["penalty_usd"] > jobs["unplaced_usd"]
        return bool((upper & (jobs["first"] < jobs["end"])).any())

    def _fix(self, state: State, after: tuple[tuple[int, ...], ...]) -> None:
        """Place the jobs that wait for others, and those they wait for: they stay."""
        c = self.columns
        for j in in_order(c, after):
            ends = [
                state.start[b] + c.modes["length"][state.mode[b]] if state.mode[b] >= 0 else c.slots
                for b in after[j]
            ]
            i, s = best_spot(c, state, self.priced, j, max(ends, default=0), np.inf)
            if i >= 0:
                put(c, state, j, i, s)

    def resume(self) -> None:
        """The last plan, whoever is new or lost their place put in, and moves that pay at once."""
        c, state = self.columns, as_before(self.columns, self.clock.limits.seed)
        insert(c, state, self.priced, self._missing(state))
        self.offer(state.mode, state.start, penalised(c, state), "packing")
        with ThreadPoolExecutor(THREADS) as pool:
            cold = 1e-9 * max(1.0, abs(self.bound_usd))
            whole = state
            key = self.key
            for _ in range(WARM_EPOCHS):
                parts = divide(c, whole, self.rng)
                key += sum(pool.map(self._run(EPOCH, cold), parts))
                whole.free[:] = sum(part.free for part in parts)
                self.offer(whole.mode, whole.start, key, "improving")

    def _missing(self, state: State) -> Ints:
        """Movable jobs without a place: upper tiers, then the largest."""
        c = self.columns
        out = state.ours[state.mode[state.ours] < 0]
        m = c.modes[c.jobs["first"][out]]
        area = m["takes"].astype(float) * m["length"]
        return out[np.lexsort((-area, -c.jobs["penalty_usd"][out] // TIER_WEIGHT))]

    def uphold_tiers(self) -> None:
        """Put in whom only lower tiers keep out, and those behind, where there is room for them.

        A search that ran out of time may have left such a job out.
        """
        c, best = self.columns, self.best
        if best is None or not self._crowded_out(best.mode):
            return
        movable = next(iter(self._orders()))
        mode, start = best.mode, best.start
        for tier in self._tiers(movable)[:-1]:
            out = tier[mode[tier] < 0]
            lower = movable[self._weight(movable) < self._weight(tier)[0]]
            above = mode.copy()
            above[lower] = -1
            state = restore(c, above, start, self.clock.limits.seed)
            insert(c, state, self.priced, out)
            if (state.mode[out] >= 0).any():
                insert_wanted(c, state, mode[None], start[None], lower)
                insert(c, state, self.priced, lower)
                mode, start = state.mode.copy(), state.start.copy()
        self.best = chosen(c, mode, start)

    # -- annealing ---------------------------------------------------------------------------------

    def improve(self) -> None:
        """Anneal until the gap, the time or the work is used up."""
        if self.best is None or self._done() or not empty(self.columns, 0).ours.size:
            return
        with ThreadPoolExecutor(THREADS) as pool:
            run = self._whole if self._small() else self._halves
            run(pool)

    def _small(self) -> bool:
        return self.columns.job_count < HALVES or self.columns.budgets.size > 0

    def _schedule(self) -> Iterator[float]:
        """The temperature of each epoch, until enough is done: a quick cooling, then a slow one."""
        mean = abs(self.bound_usd) / max(1, self.columns.job_count)
        hot = mean * min(HOTTEST, max(COOLEST, HOT / self.columns.job_count))
        used = self._progress()
        for begin, end in ((0.0, QUICK), (QUICK, 1.0)):
            while (now := used()) < end and not self._done():
                yield hot * COLD ** max(0.0, (now - begin) / (end - begin))

    def _progress(self) -> Callable[[], float]:
        """The part that is used: of the moves, where they are limited, or of the time."""
        limits, begun, moves = self.clock.limits, self.clock.seconds, self.moves
        seconds = self.clock.left
        if limits.gap is None:
            seconds = min(seconds, PATIENCE_SECONDS + JOB_SECONDS * self.columns.job_count)

        def used() -> float:
            if limits.moves:  # by these alone: the same heat whatever the machine
                return (self.moves - moves) / limits.moves
            return (self.clock.seconds - begun) / seconds if seconds > 0 else 1.0

        return used

    def _done(self) -> bool:
        limit = self.clock.limits.gap
        near = self.gap <= (1e-5 if limit is None else max(limit, 1e-5))
        return self.clock.left <= 0 or (near and not self.crowded_out)

    def _halves(self, pool: ThreadPoolExecutor) -> None:
        assert self.best is not None
        c, whole = self.columns, restore(self.columns, self.best.mode, self.best.start, 1)
        key = self.key
        for heat in self._schedule():
            parts = divide(c, whole, self.rng)
            key += sum(pool.map(self._run(LONG_EPOCH, heat), parts))
            whole.free[:] = sum(part.free for part in parts)
            self.offer(whole.mode, whole.start, key, "improving")

    def _whole(self, pool: ThreadPoolExecutor) -> None:
        assert self.best is not None
        c = self.columns
        seeds = [int(self.rng.integers(2**31)) for _ in range(THREADS)]
        states = [restore(c, self.best.mode, self.best.start, seed) for seed in seeds]
        keys = [self.key] * THREADS
        for epoch, heat in enumerate(self._schedule()):
            changes = list(pool.map(self._run(EPOCH, heat), states))
            keys = [key + change for key, change in zip(keys, changes, strict=True)]
            for state, key in zip(states, keys, strict=True):
                self.offer(state.mode, state.start, key, "improving")
            if epoch % MEETING == MEETING - 1:
                good = int(np.argmin(keys))
                seed = int(self.rng.integers(2**31))
                states[1 - good] = restore(c, states[good].mode, states[good].start, seed)
                keys[1 - good] = keys[good]

    def _run(self, moves: int, heat: float) -> Callable[[State], float]:
        self.moves += THREADS * moves

        def work(state: State) -> float:
            if not state.ours.size:
                return 0.0
            c, p, value, move = self.columns, self.priced, self.value, scratch()
            change = readmit(c, state, p, value, move, READMIT_TRIES, heat)
            return change + anneal(c, state, p, value, move, moves, heat)

        return work


def in_order(c: Columns, after: tuple[tuple[int, ...], ...]) -> list[int]:
    """Jobs that are fixed, each behind what it waits for."""
    return [j for j in order_by_dependency(after) if c.jobs["fixed"][j] and c.jobs["end"][j]]


def divide(c: Columns, whole: State, rng: np.random.Generator) -> list[State]:
    """The plan in two: half of the movable jobs each, and of each row what one or both may take."""
    dealt: npt.NDArray[np.int32] = rng.permutation(whole.ours)
    halves = np.array_split(dealt, 2)
    owner = rng.integers(0, 3, size=(whole.free.shape[0], 1))
    first = np.where(owner == 0, whole.free, np.where(owner == 1, 0, whole.free // 2))
    parts = []
    for ours, free in zip(halves, (first, whole.free - first), strict=True):
        part = whole._replace(
            free=free.astype(np.int32),
            ours=ours,
            member=np.zeros((whole.free.shape[0], ours.size), dtype=np.int32),
            members=np.zeros_like(whole.members),
            random=seeded(int(rng.integers(2**31))),
        )
        enlist(c, part)
        parts.append(part)
    return parts
