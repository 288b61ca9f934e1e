"""The time-indexed LP: the best bound that prices can prove, and what an optimum cannot hold.

Sets: jobs j, columns n of a job (a mode from a start), rows r, slots t.

Variables
    x[n]      share of its job that runs so
    u[j]      share of job j that is left out
    h[r, t]   what row r holds in slot t, between 0 and capacity

Model
    choose    sum of x[n] over j's columns + u[j] = 1                                     (pi[j])
    hold      h[r, t] - h[r, t-1] = what begins to be taken of r at t, less what ends      (z[r, t])

Capacity is written by its change from slot to slot, so that a column has two entries a row however
long it runs. Its duals are prices y[r, t] = z[r, t+1] - z[r, t], and its value is the most that
`ascent`'s L(y) can be: columns join where L's own pricing finds them, until it does.

`fix`: at prices y every plan costs at least L(y) plus the *regret* of each column it holds, which
is what the column costs at y more than the cheapest of its job. A column whose regret exceeds
best - L(y) is in no plan better than the best known, so leaving it out loses none of those.

`sharpen`: of a row, take the modes that use multiples of g. They use at most g floor(capacity / g):
a row of its own, with those modes only (J. E. Chvatal's rounding with multiplier 1 / g). 72 GPUs
hold no more than 64 in gangs of 16 and above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from ortools.math_opt.python import mathopt

from planner.problem import GPU_MILLI
from planner.solve.fleet.ascent import lagrangian
from planner.solve.fleet.columns import PAIR, Columns, Flags, Floats, Ints
from planner.solve.fleet.pricing import Pricer

EACH = 30  # columns of a job that join in one round, at most
ROUNDS = 60
CLOSE = 1e-7  # of the bound: what L may still rise by
LEVELS = 4  # rows that `sharpen` adds to one, at most
SPLIT_PASSES = 20  # of the pricing of jobs that may be split


class Starts(NamedTuple):
    """Every column (N): a mode from a start, and what it costs with its lateness."""

    mode: Ints
    start: Ints
    job: Ints
    usd: Floats


def starts_of(c: Columns) -> Starts:
    """The columns of ``c``, job by job."""
    count = c.modes["last"] - c.modes["first"] + 1
    mode = np.repeat(np.arange(c.modes.size, dtype=np.int32), count)
    begin = np.repeat(np.cumsum(count) - count, count)
    start = (np.arange(mode.size) - begin + c.modes["first"][mode]).astype(np.int32)
    of_mode = np.repeat(np.arange(c.job_count, dtype=np.int32), c.jobs["end"] - c.jobs["first"])
    job = of_mode[mode]
    late = np.maximum(0, start + c.modes["length"][mode] - c.jobs["due"][job])
    usd = c.modes["usd"][mode] + late * c.jobs["late_usd"][job]
    return Starts(mode, start, job, usd)


@dataclass(frozen=True, slots=True)
class Linear:
    """What the LP proves. ``value`` (J) is each job's least cost at ``prices`` (R, T)."""

    prices: Floats
    bound_usd: float
    value: Floats
    regret: Floats  # (N) of each column of `starts_of`


def at_prices(pricer: Pricer, starts: Starts, prices: Floats) -> Linear:
    """Bound, values and regrets at any prices >= 0."""
    c = pricer.columns
    priced = pricer.priced(prices)
    m = c.modes[starts.mode]
    held = priced.total[m["cls"], starts.start + m["length"]]
    usd = starts.usd + m["takes"] * (held - priced.total[m["cls"], starts.start])
    serves = m["profile"] >= 0
    usd[serves] = starts.usd[serves] + priced.profile_usd[m["profile"][serves]]
    value = c.jobs["unplaced_usd"].copy()
    np.minimum.at(value, starts.job, usd)
    lowered = pricer.relax(priced, value, SPLIT_PASSES)
    return Linear(prices, lagrangian(c, prices, lowered), value, usd - lowered[starts.job])


def fix(linear: Linear, best_usd: float) -> Flags:
    """(N) the columns that a plan cheaper than ``best_usd`` may hold."""
    slack = 1e-9 * abs(best_usd) + 1e-6
    return np.asarray(linear.regret <= best_usd - linear.bound_usd + slack)


def relax(c: Columns, prices: Floats, stop: Callable[[float], bool]) -> Linear:
    """The LP's bound, from ``prices``; what is proved by then where ``stop(bound)`` says so."""
    starts, pricer = starts_of(c), Pricer(c)
    best = now = at_prices(pricer, starts, prices)
    master = _Master(c, starts)
    dual = now.value
    for _ in range(ROUNDS):
        joining = _cheapest(starts, now.regret + (now.value - dual)[starts.job], ~master.inside)
        if stop(best.bound_usd) or not joining.size:
            break
        master.join(joining)
        solved = master.solve()
        if solved is None:
            break
        usd, dual, prices = solved
        now = at_prices(pricer, starts, prices)
        best = max(best, now, key=lambda linear: linear.bound_usd)
        if usd - best.bound_usd <= CLOSE * abs(usd):
            break
    return best


def _cheapest(starts: Starts, reduced: Floats, outside: Flags) -> npt.NDArray[np.int64]:
    """Columns outside that could lower the LP's value, the best of each job."""
    can = np.flatnonzero(outside & (reduced < 1e-7))
    order = can[np.lexsort((reduced[can], starts.job[can]))]
    jobs = starts.job[order]
    rank = np.arange(order.size) - np.searchsorted(jobs, jobs)
    return order[rank < EACH]


@dataclass(slots=True)
class _Master:
    """The LP over the columns that joined."""

    c: Columns
    starts: Starts
    model: mathopt.Model = field(default_factory=mathopt.Model)
    choose: list[mathopt.LinearConstraint] = field(init=False)
    hold: list[list[mathopt.LinearConstraint]] = field(init=False)  # by row and slot
    inside: Flags = field(init=False)
    solver: mathopt.IncrementalSolver = field(init=False)

    def __post_init__(self) -> None:
        c, model = self.c, self.model
        self.inside = np.zeros(self.starts.mode.size, dtype=np.bool_)
        model.minimize(0.0)
        self.choose = [model.add_linear_constraint(lb=1.0, ub=1.0) for _ in range(c.job_count)]
        self.hold = [
            [model.add_linear_constraint(lb=0.0, ub=0.0) for _ in range(c.slots)]
            for _ in range(c.capacity.shape[0])
        ]
        for j, row in enumerate(self.choose):
            out = model.add_variable(lb=0.0)
            row.set_coefficient(out, 1.0)
            model.objective.set_linear_coefficient(out, float(c.jobs["unplaced_usd"][j]))
        for capacity, rows in zip(c.capacity / GPU_MILLI, self.hold, strict=True):
            for most, now, after in zip(capacity, rows, [*rows[1:], None], strict=True):
                held = model.add_variable(lb=0.0, ub=float(most))
                now.set_coefficient(held, -1.0)
                if after is not None:
                    after.set_coefficient(held, 1.0)
        self.solver = mathopt.IncrementalSolver(model, mathopt.SolverType.GLOP)

    def join(self, columns: npt.NDArray[np.int64]) -> None:
        """Let these in."""
        self.inside[columns] = True
        for n in map(int, columns):
            share = self.model.add_variable(lb=0.0)
            self.choose[self.starts.job[n]].set_coefficient(share, 1.0)
            self.model.objective.set_linear_coefficient(share, float(self.starts.usd[n]))
            changes = list(self._changes(n))
            for r in self.c.rows[self.c.modes["cls"][self.starts.mode[n]]]:
                for t, change in changes if r >= 0 else ():
                    self.hold[r][t].set_coefficient(share, change)

    def _changes(self, n: int) -> Iterator[tuple[int, float]]:
        """(slot, how much more is taken from it on) of column ``n``."""
        m, start = self.c.modes[self.starts.mode[n]], int(self.starts.start[n])
        end = start + int(m["length"])
        if m["profile"] < 0:
            takes = [(start, float(m["takes"])), (end, -float(m["takes"]))]
        else:
            each = [0.0, *map(float, self.c.profiles[m["profile"], start:end]), 0.0]
            takes = [(start + k, b - a) for k, (a, b) in enumerate(pairwise(each)) if a != b]
        return ((t, change / GPU_MILLI) for t, change in takes if t < self.c.slots)

    def solve(self) -> tuple[float, Floats, Floats] | None:
        """(value, pi, y); None where the solver gives no duals."""
        result = self.solver.solve()
        if result.termination.reason is not mathopt.TerminationReason.OPTIMAL:
            return None
        pi = np.array(result.dual_values(self.choose))
        z = np.array([[*result.dual_values(row), 0.0] for row in self.hold])
        return result.objective_value(), pi, np.maximum(0.0, np.diff(z, axis=1)) / GPU_MILLI


# -- rounding ------------------------------------------------------------------------------------


def sharpen(c: Columns) -> Columns:
    """``c`` with the rows that rounding gives; its own come first, and hold the same plans."""
    m, capacity = c.modes, list(c.capacity)
    levels: list[tuple[int, int, int]] = []  # (row, multiples of, new row)
    for r in range(c.capacity.shape[0]):
        sizes = m["takes"][np.any(c.rows[m["cls"]] == r, axis=1) & (m["profile"] < 0)]
        for size in _levels(c.capacity[r], sizes):
            levels.append((r, size, len(capacity)))
            capacity.append((c.capacity[r] // size * size).astype(np.int32))
    classes = {tuple(int(r) for r in rows if r >= 0): k for k, rows in enumerate(c.rows)}
    cls = m["cls"].copy()
    for i in np.flatnonzero(m["profile"] < 0):
        own = tuple(int(r) for r in c.rows[m["cls"][i]] if r >= 0)
        more = (new for r, size, new in levels if r in own and m["takes"][i] % size == 0)
        cls[i] = classes.setdefault((*own, *more), len(classes))
    rows = np.full((len(classes), max(map(len, classes))), -1, dtype=np.int32)
    for key, k in classes.items():
        rows[k, : len(key)] = key
    modes = m.copy()
    modes["cls"] = cls
    keys = cls.astype(np.int64) * (c.slots + 1) + m["length"]
    unique, modes["pair"] = np.unique(keys, return_inverse=True)
    pairs = np.zeros(unique.size, dtype=PAIR)
    pairs["cls"], pairs["length"] = np.divmod(unique, c.slots + 1)
    return c._replace(capacity=np.array(capacity), rows=rows, modes=modes, pairs=pairs)


def _levels(capacity: Ints, sizes: Ints) -> list[int]:
    """The sizes whose multiples lose most of a row, none of them what another of them says."""
    found: dict[int, Ints] = {1: capacity}
    for size in map(int, np.unique(sizes)):
        rounded = (capacity // size * size).astype(np.int32)
        if all((rounded < other).any() for s, other in found.items() if size % s == 0):
            found[size] = rounded
    del found[1]
    return sorted(found, key=lambda size: (int(found[size].sum()), size))[:LEVELS]
