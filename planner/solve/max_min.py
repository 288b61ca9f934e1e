"""Weighted max-min fairness over throughput, exact, by column generation over all pairs of jobs.

Sets       groups g of claims alike (a claim each, unless rows are merged), types t
Data       gain_g[t], gain_gh[t]: level, for a weight of 1, that a whole time alone or beside an h
           gives a g; count_g claims of weight_g, each on gpus_g GPUs; gpus_t of the fleet;
           need_g = count_g weight_g
Variables  x[g, t] >= 0      time that claims of g spend alone on t, summed over them
           x[g, h, t] >= 0   the same of a g beside an h
           z                 the least level
Model      greatest z
    fair_g   sum of gain x over g's columns >= need_g z       (of a level settled before: its value)
    time_g   sum of x over g's columns (twice x[g, g, t]) <= count_g
    gpus_t   sum of gpus_g x over t's columns <= gpus_t

Claims alike may share one row: an average of allocations over their permutations is an allocation
of the same levels. A master LP (GLOP) holds some columns. With its duals w, u, v >= 0 a pair is
worth w_g gain_gh + w_h gain_hg - u_g - u_h - gpus_g v_t; for kinds a and b of job, that is greatest
where each of the two terms, of g and of h, is. So all pairs are priced in the time of jobs x kinds
x types, and no other pair is worth more. ``bound`` raises each v_t by what the worst pair still is
worth, which makes w, u, v feasible for the dual of the whole problem: weak duality proves it,
whatever the LP's tolerances. The level is computed anew from the portions.

The first columns of a large master are guessed: those that an LP over fewer and coarser groups may
use. Pricing completes the guess; without it the same optimum takes some five times as long.

`fill` goes on: a group with w_g > 0 has its level in every optimum, so it is settled there and the
least of the others is raised, until all are settled (levels are then lexicographically greatest).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import numpy.typing as npt
from ortools.glop import parameters_pb2
from ortools.math_opt.python import mathopt

from planner.fairness import (
    NOBODY,
    Contest,
    Floats,
    Portion,
    Shares,
    levels,
    runnable,
    violations,
)

Ints = npt.NDArray[np.int64]
Pair = tuple[int, int]
Key = tuple[int, int, int]  # group, group or `NOBODY`, type

WORTH = 1e-9  # of a column, from which it is one: the duals of levels are about 1
SETTLED = 1e-7  # a level's dual, from which it is the same in every optimum
COARSE = 256  # groups of the master that guesses the first columns of a larger one
CELLS = 12  # kinds, two and two, whose best pairs become columns in one round
LEAST_TIME = 1e-12
TOLERANCES = parameters_pb2.GlopParameters(
    primal_feasibility_tolerance=1e-10, dual_feasibility_tolerance=1e-10
)


class WrongShares(AssertionError):
    """The solver's shares broke their own contest: a bug, never a user's fault."""


def max_min(contest: Contest, *, merge: bool = True, seconds: float = 60.0) -> Shares:
    """The allocation whose least level is the greatest, and a bound that proves it.

    After ``seconds`` it is the best found, with the bound proved by then.

    ``merge``: one row for all claims of one kind and weight; else each has its own, as it must
    where no two are alike. Claims that run on no type are left aside (a level of NaN).

    Raises ValueError where no claim runs on any type.
    """
    alike = _alike(contest)
    groups = _groups(contest, alike if merge else [[j] for same in alike for j in same])
    master = _solved(contest, groups, time.monotonic() + seconds)
    return _shares(contest, master, master.bound)


def fill(contest: Contest, *, seconds: float = 60.0) -> Shares:
    """The allocation that is fair to the last: the least level, then the next above it, and so on.

    ``bound`` is that of the least level. After ``seconds`` the levels not settled yet stay as they
    are: none is below those settled. Raises as `max_min`.
    """
    groups = _groups(contest, _alike(contest))
    master = _solved(contest, groups, time.monotonic() + seconds)
    bound = master.bound
    while master.seconds_left and master.settle():
        master.solve()
    return _shares(contest, master, bound)


def _solved(contest: Contest, groups: Groups, until: float) -> Master:
    """The master over ``groups`` at its optimum, or where it is when the clock says ``until``."""
    fleet = np.array(contest.gpus, dtype=np.float64)
    master = Master(groups=groups, fleet=fleet, until=until)
    master.add(_first(contest, groups, until))
    master.solve()
    return master


# -- rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Claims alike, sorted by kind. The kinds present are numbered anew."""

    members: tuple[tuple[int, ...], ...]
    kind: Ints
    weight: Floats
    count: Ints
    starts: Ints  # the first group of each kind
    gpus: Floats  # by kind
    alone: Floats  # gain by kind and type
    beside: Floats | None  # gain by type, kind, kind

    @property
    def need(self) -> Floats:
        """Level, for a weight of 1, that the whole group takes for each its level of 1."""
        found: Floats = self.count * self.weight
        return found

    def of_kind(self, kind: int) -> Ints:
        """The kind's groups, lightest first."""
        ends = (*self.starts[1:], self.kind.size)
        return np.arange(self.starts[kind], ends[kind])


def _alike(contest: Contest) -> list[list[int]]:
    """Claims that run, by kind and then weight."""
    found: dict[tuple[int, float], list[int]] = defaultdict(list)
    for j in np.flatnonzero(runnable(contest)).tolist():
        found[contest.claims[j].kind, contest.claims[j].weight].append(j)
    return [found[key] for key in sorted(found)]


def _coarse(groups: Groups) -> list[Ints]:
    """Neighbours of ``groups`` by kind and weight, cut into some `COARSE` sets in all."""
    cuts = max(1, COARSE // groups.starts.size)
    found = []
    for kind in range(groups.starts.size):
        ours = groups.of_kind(kind)
        weights = np.unique(groups.weight[ours])
        edges = weights[np.arange(1, cuts) * weights.size // cuts]
        sets = np.searchsorted(edges, groups.weight[ours], side="right")
        found += [ours[sets == k] for k in np.unique(sets)]
    return found


def _groups(contest: Contest, members: Sequence[Sequence[int]]) -> Groups:
    if not members:
        raise ValueError("no claim runs on any type")
    weights = [[contest.claims[j].weight for j in same] for same in members]
    kinds, kind = np.unique([contest.claims[m[0]].kind for m in members], return_inverse=True)
    alone, beside = contest.gains()
    return Groups(
        members=tuple(map(tuple, members)),
        kind=kind,
        weight=np.array([math.fsum(same) / len(same) for same in weights]),
        count=np.array([len(same) for same in members]),
        starts=np.searchsorted(kind, np.arange(kinds.size)),
        gpus=np.array(contest.rates.gpus, dtype=np.float64)[kinds],
        alone=alone[kinds],
        beside=None if beside is None else beside[:, kinds[:, None], kinds],
    )


# -- columns -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Duals:
    """Prices of the rows: of a group's level, of its time, of a type's GPUs."""

    fair: Floats
    time: Floats
    gpus: Floats


def worth_alone(groups: Groups, duals: Duals) -> Floats:
    """What a whole time alone is worth, by group and type."""
    gain = groups.alone[groups.kind] * duals.fair[:, None]
    held = groups.gpus[groups.kind][:, None] * duals.gpus
    found: Floats = gain - duals.time[:, None] - held
    return found


def worth_beside(groups: Groups, duals: Duals) -> Floats:
    """What the best pair of two kinds is worth: by type, kind, kind. It prices all pairs."""
    if groups.beside is None:
        return np.full((groups.alone.shape[1], 1, 1), -math.inf)
    score = groups.beside[:, groups.kind, :] * duals.fair[:, None] - duals.time[:, None]
    best = np.maximum.reduceat(score, groups.starts, axis=1)
    pair = best + best.transpose(0, 2, 1)
    for a in range(groups.starts.size):  # of one kind, two groups or two of a group
        ours = groups.of_kind(a)
        twice = np.repeat(score[:, ours, a], np.minimum(groups.count[ours], 2), axis=1)
        top = np.sort(twice, axis=1)[:, -2:]
        pair[:, a, a] = top.sum(axis=1) if top.shape[1] == 2 else -math.inf
    found: Floats = pair - groups.gpus[:, None] * duals.gpus[:, None, None]
    return found


def worth(groups: Groups, duals: Duals, key: Key) -> float:
    """What one column is worth."""
    g, h, t = key
    a = groups.kind[g]
    total = -groups.gpus[a] * duals.gpus[t]
    if h == NOBODY or groups.beside is None:
        return float(total + duals.fair[g] * groups.alone[a, t] - duals.time[g])
    b = groups.kind[h]
    total += duals.fair[g] * groups.beside[t, a, b] - duals.time[g]
    return float(total + duals.fair[h] * groups.beside[t, b, a] - duals.time[h])


def staircase(left: Ints, right: Ints) -> tuple[Ints, Ints, Floats]:
    """How two rows of widths lie on each other, both stretched to one: (left, right, overlap).

    >>> [x.tolist() for x in staircase(np.array([1, 1]), np.array([3, 1]))]
    [[0, 1, 1], [0, 0, 1], [0.5, 0.25, 0.25]]
    """
    ours, theirs = np.cumsum(left) * right.sum(), np.cumsum(right) * left.sum()
    edges = np.union1d(ours, theirs)
    overlap = np.diff(edges, prepend=0) / edges[-1]
    return np.searchsorted(ours, edges), np.searchsorted(theirs, edges), overlap


def _pairs(groups: Groups, left: Ints, right: Ints) -> list[Pair]:
    """Pairs that use up the time of both sides, first with first; two of one kind in a ring."""
    if not np.array_equal(np.sort(left), np.sort(right)):
        i, k, _ = staircase(groups.count[left], groups.count[right])
        return list(zip(left[i].tolist(), right[k].tolist(), strict=True))
    ring = zip(left.tolist(), np.roll(left, -1).tolist(), strict=True)
    selves = left[groups.count[left] > 1].tolist()
    return [*((g, h) for g, h in ring if g != h), *((g, g) for g in selves)]


def _first(contest: Contest, groups: Groups, until: float) -> Iterator[Key]:
    """Columns to begin with: everybody alone, or what a coarser master finds worth having."""
    types, count = groups.alone.shape[1], len(groups.members)
    sets = _coarse(groups)
    if groups.beside is None or len(sets) > count / 2:
        yield from ((g, NOBODY, t) for g in range(count) for t in range(types))
        return
    coarse = _groups(contest, [[j for g in each for j in groups.members[g]] for each in sets])
    for g, h, t in _solved(contest, coarse, until).tight():
        if h == NOBODY:
            yield from ((each, NOBODY, t) for each in sets[g].tolist())
        else:
            yield from ((i, k, t) for i, k in _pairs(groups, sets[g], sets[h]))


def worthy(groups: Groups, duals: Duals) -> Iterator[Key]:
    """Columns that the duals find worth having; of every two kinds with any, the best first."""
    for g, t in np.argwhere(worth_alone(groups, duals) > WORTH).tolist():
        yield g, NOBODY, t
    cells = np.triu(worth_beside(groups, duals))
    order = np.argsort(-cells, axis=None)[:CELLS]
    for cell in order[cells.ravel()[order] > WORTH].tolist():
        t, a, b = (int(n) for n in np.unravel_index(cell, cells.shape))
        yield from ((g, h, t) for g, h in _worthy_pairs(groups, duals, t, a, b))


def _worthy_pairs(groups: Groups, duals: Duals, t: int, a: int, b: int) -> Iterator[Pair]:
    assert groups.beside is not None
    left, right = groups.of_kind(a), groups.of_kind(b)
    ours = duals.fair[left] * groups.beside[t, a, b] - duals.time[left]
    theirs = duals.fair[right] * groups.beside[t, b, a] - duals.time[right]
    left = left[np.argsort(-ours, kind="stable")]
    right = right[np.argsort(-theirs, kind="stable")]
    for g, h in _pairs(groups, left, right):
        if worth(groups, duals, (g, h, t)) > WORTH:
            yield g, h


# -- the master ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Master:
    """The LP under construction: columns only get more."""

    groups: Groups
    fleet: Floats  # GPUs of each type
    until: float  # by `time.monotonic`
    columns: dict[Key, mathopt.Variable] = field(default_factory=dict)
    settled: dict[int, float] = field(default_factory=dict)  # level by group
    used: Floats = field(default_factory=lambda: np.zeros(0))  # by column
    level: float = 0.0  # the least of those not settled
    bound: float = math.inf  # on it
    duals: Duals = field(init=False)
    model: mathopt.Model = field(default_factory=mathopt.Model)
    rows: tuple[list[mathopt.LinearConstraint], ...] = ()  # fair, time, gpus
    least: mathopt.Variable = field(init=False)
    solver: mathopt.IncrementalSolver = field(init=False)

    def __post_init__(self) -> None:
        add = self.model.add_linear_constraint
        self.least = self.model.add_variable(lb=0.0, name="z")
        self.rows = (
            [add(lb=0.0) for _ in self.groups.members],
            [add(ub=float(n)) for n in self.groups.count],
            [add(ub=float(n)) for n in self.fleet],
        )
        for row, need in zip(self.rows[0], self.groups.need, strict=True):
            row.set_coefficient(self.least, -float(need))
        self.model.maximize(float(self.groups.need.sum()) * self.least)
        self.solver = mathopt.IncrementalSolver(self.model, mathopt.SolverType.GLOP)
        sizes = (len(rows) for rows in self.rows)
        self.duals = Duals(*map(np.zeros, sizes))

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.until - time.monotonic())

    def add(self, keys: Iterable[Key]) -> int:
        """Columns for those of ``keys`` that have none; how many."""
        before = len(self.columns)
        for g, h, t in keys:
            key = (min(g, h), max(g, h), t) if h != NOBODY else (g, h, t)
            if key not in self.columns:
                self.columns[key] = self._column(*key)
        return len(self.columns) - before

    def _column(self, g: int, h: int, t: int) -> mathopt.Variable:
        fair, spent, gpus = self.rows
        kind = self.groups.kind
        x = self.model.add_variable(lb=0.0)
        gpus[t].set_coefficient(x, float(self.groups.gpus[kind[g]]))
        if h == NOBODY:
            fair[g].set_coefficient(x, float(self.groups.alone[kind[g], t]))
            spent[g].set_coefficient(x, 1.0)
            return x
        assert self.groups.beside is not None
        both = 2.0 if g == h else 1.0
        for one, other in ((g, h), (h, g)):
            gain = float(self.groups.beside[t, kind[one], kind[other]])
            fair[one].set_coefficient(x, both * gain)
            spent[one].set_coefficient(x, both)
        return x

    def solve(self) -> None:
        """The optimum over all columns, those not in the master too, and its bound.

        A solver that stops short leaves what it had, with the bound that its last duals prove.
        """
        self.bound = math.inf
        while True:
            limit = timedelta(seconds=self.seconds_left)
            params = mathopt.SolveParameters(time_limit=limit, glop=TOLERANCES)
            result = self.solver.solve(params=params)
            if result.termination.reason is not mathopt.TerminationReason.OPTIMAL:
                return
            self.level = result.variable_values(self.least)
            self.used = np.array(result.variable_values(list(self.columns.values())))
            fair, spent, gpus = (np.array(result.dual_values(rows)) for rows in self.rows)
            self.duals = Duals(fair=-fair.clip(max=0), time=spent.clip(0), gpus=gpus.clip(0))
            self.bound = min(self.bound, self._proved())
            if not self.add(worthy(self.groups, self.duals)):
                return

    def tight(self) -> list[Key]:
        """The columns that an optimum may use, by their duals."""
        return [key for key in self.columns if worth(self.groups, self.duals, key) > -WORTH]

    def _proved(self) -> float:
        """A bound from the duals: GPUs priced up until no column of all is worth anything."""
        alone = worth_alone(self.groups, self.duals) / self.groups.gpus[self.groups.kind][:, None]
        beside = worth_beside(self.groups, self.duals) / self.groups.gpus[:, None]
        over = np.maximum(alone.max(axis=0), beside.max(axis=(1, 2), initial=0.0)).clip(0)
        priced = self.fleet @ (self.duals.gpus + over) + self.groups.count @ self.duals.time
        owed = self.duals.fair * self.groups.need
        done = math.fsum(owed[g] * level for g, level in self.settled.items())
        open_ = math.fsum(owed) - math.fsum(owed[g] for g in self.settled)
        return float(priced - done) / open_ if open_ > 0 else math.inf

    def settle(self) -> bool:
        """Settle who cannot get more than the least; whether that has made room for others."""
        fair, need = self.rows[0], self.groups.need
        held = np.flatnonzero(self.duals.fair > SETTLED).tolist()
        new = [g for g in held if g not in self.settled]
        for g in new:
            self.settled[g] = self.level
            fair[g].set_coefficient(self.least, 0.0)
            fair[g].lower_bound = float(need[g]) * self.level * (1 - 1e-11)
        scale = math.fsum(need) - math.fsum(need[g] for g in self.settled)
        self.model.maximize(scale * self.least)
        return bool(new) and len(self.settled) < need.size


# -- the answer ----------------------------------------------------------------------------------


def _shares(contest: Contest, master: Master, bound: float) -> Shares:
    portions = tuple(_portions(master))
    found = levels(contest, portions)
    level = float(np.nanmin(found))
    shares = Shares(
        level=level, bound=max(bound, level), levels=tuple(found.tolist()), portions=portions
    )
    if wrong := violations(contest, shares):
        raise WrongShares("; ".join(wrong[:5]))
    return shares


def _portions(master: Master) -> Iterator[Portion]:
    """Each group's time, divided evenly among its claims."""
    groups = master.groups
    used = master.used.clip(0) / _overuse(master)
    for (g, h, t), x in zip(master.columns, used.tolist(), strict=False):  # the last are not used
        if x <= LEAST_TIME:
            continue
        ours = groups.members[g]
        if h == NOBODY:
            pairs = [(j, NOBODY, 1 / len(ours)) for j in ours]
        elif g == h:
            pairs = [(j, k, 1 / len(ours)) for j, k in zip(ours, (*ours[1:], ours[0]), strict=True)]
        else:
            theirs = groups.members[h]
            ones = (np.ones(len(side), dtype=np.int64) for side in (ours, theirs))
            i, k, part = (row.tolist() for row in staircase(*ones))
            pairs = [(ours[a], theirs[b], p) for a, b, p in zip(i, k, part, strict=True)]
        yield from (Portion(claim=j, beside=k, type=t, fraction=x * p) for j, k, p in pairs)


def _overuse(master: Master) -> float:
    """By how much the LP's tolerances let its rows be broken, at least 1."""
    groups = master.groups
    spent, gpus = np.zeros(groups.kind.size), np.zeros(master.fleet.size)
    for (g, h, t), x in zip(master.columns, master.used.clip(0).tolist(), strict=False):
        spent[g] += x
        gpus[t] += x * groups.gpus[groups.kind[g]]
        if h != NOBODY:
            spent[h] += x
    parts = [*(spent / groups.count), *(gpus / master.fleet.clip(1))]  # of no GPU none is used
    return max(1.0, *map(float, parts))
