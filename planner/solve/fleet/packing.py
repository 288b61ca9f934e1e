"""A better bound, pool by pool: what the gangs that are large cannot fill.

At the LP's values pi[j] (`linear`), every plan costs

    sum of pi[j] - sum over parts k of the profit of what it places in k,    profit = pi[j] - cost

where a *part* is a set of rows that no mode shares with another part's: a pool, or pools under one
limit. A job left out earns nothing, for pi is never above what that costs. With U[k] above the most
profit that a part can hold within its capacity,

    sum of pi[j] - sum of U[k]

is a lower bound on every plan (Lagrangian decomposition: M. Guignard and S. Kim, Mathematical
Programming 39, 1987; here what is relaxed is that a job runs in one part only). U[k] from the LP
gives the LP's own bound; U[k] with large gangs in one piece gives more, as GPUs that no gang fills
earn nothing. SCIP proves U[k] with jobs of at least a given area in one piece and the rest as
sand: they decide what cannot be filled, and the model is one that SCIP can raise. Only columns that
a better plan may hold (`linear.fix`) take part, so the bound is on plans cheaper than the best
known.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt
from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt

from planner.problem import GPU_MILLI
from planner.solve.clock import Clock
from planner.solve.fleet.columns import Columns, Flags, Floats, Ints, Records
from planner.solve.fleet.linear import Linear, Starts

Wide = npt.NDArray[np.int64]

THREADS = 2
AREA = 0.05  # of the largest row's capacity over all slots: in one piece from there on
MARGIN = 1e-6  # of U: what SCIP's tolerances may hide
MOST_ENTRIES = 4_000_000  # of one model's matrix


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that share modes with no others, and what the LP allows them to earn."""

    rows: Wide
    columns: Wide
    most_usd: float


def parts_of(c: Columns, starts: Starts, linear: Linear, kept: Flags) -> list[Part]:
    """The parts whose capacity has a price, the dearest first."""
    label = labels_of(c)
    part = label[c.rows[c.modes["cls"][starts.mode], 0]]
    earns = kept & (linear.value[starts.job] - starts.usd > 1e-9)
    found = []
    for k in np.unique(label):
        rows = np.flatnonzero(label == k)
        most = float((c.capacity[rows] * linear.prices[rows]).sum())
        if most > 1e-9 * abs(linear.bound_usd):
            found.append(Part(rows, np.flatnonzero(earns & (part == k)), most))
    return sorted(found, key=lambda each: -each.most_usd)


def labels_of(c: Columns) -> Ints:
    """(R) the lowest row that each is joined with."""
    label = np.arange(c.capacity.shape[0], dtype=np.int32)
    for _ in range(label.size):
        before = label.copy()
        for rows in c.rows:
            together = rows[rows >= 0]
            label[together] = label[together].min()
        if (before == label).all():
            break
    return label


def bound(
    c: Columns, starts: Starts, linear: Linear, kept: Flags, clock: Clock, area: float = AREA
) -> float:
    """The best bound on plans that hold ``kept`` columns alone, within the clock's time (USD).

    Jobs of at least ``area`` of a part are in one piece. No job of ``c`` may be split.
    """
    parts = parts_of(c, starts, linear, kept)
    each = clock.left / max(1.0, len(parts) / THREADS)

    def short_of(part: Part) -> float:
        if not part.columns.size:
            return part.most_usd
        seconds = min(each, clock.left)
        if not seconds:
            return 0.0
        most = _most_usd(_model(c, starts, linear, part, area), clock, seconds)
        return max(0.0, part.most_usd - most)

    with ThreadPoolExecutor(THREADS) as pool:
        return linear.bound_usd + sum(pool.map(short_of, parts))


def _most_usd(model: model_pb2.ModelProto | None, clock: Clock, seconds: float) -> float:
    """What SCIP proves to be above the profit of any answer; inf where it proves nothing."""
    if model is None:
        return np.inf
    parameters = mathopt.SolveParameters(
        time_limit=timedelta(seconds=seconds), threads=1, random_seed=clock.limits.seed
    )
    made = mathopt.Model.from_model_proto(model)
    result = clock.stop.unless(
        lambda: mathopt.solve(made, mathopt.SolverType.GSCIP, params=parameters)
    )
    most = np.inf if result is None else result.termination.objective_bounds.dual_bound
    return float(most + MARGIN * abs(most))


def _model(
    c: Columns, starts: Starts, linear: Linear, part: Part, area: float
) -> model_pb2.ModelProto | None:
    """Most profit: one column a job at most, capacity in every slot. None where it is too large."""
    n = part.columns
    m, job = c.modes[starts.mode[n]], starts.job[n]
    if int(m["length"].sum()) * c.rows.shape[1] > MOST_ENTRIES:
        return None
    model = model_pb2.ModelProto()
    takes = m["takes"].astype(float) * m["length"]
    whole = takes >= area * float(np.max(c.capacity[part.rows].sum(axis=1)))
    model.variables.ids.extend(range(n.size))
    model.variables.lower_bounds.extend([0.0] * n.size)
    model.variables.upper_bounds.extend([1.0] * n.size)
    model.variables.integers.extend(whole.tolist())
    model.objective.maximize = True
    model.objective.linear_coefficients.ids.extend(range(n.size))
    profit = linear.value[job] - starts.usd[n]
    model.objective.linear_coefficients.values.extend(profit.tolist())
    jobs, of_job = np.unique(job, return_inverse=True)
    most = [*[1.0] * jobs.size, *(c.capacity[part.rows].ravel() / GPU_MILLI).tolist()]
    model.linear_constraints.ids.extend(range(len(most)))
    model.linear_constraints.lower_bounds.extend([-np.inf] * len(most))
    model.linear_constraints.upper_bounds.extend(most)
    row, slot, column, gpus = _taken(c, m, starts.start[n])
    cell = jobs.size + np.searchsorted(part.rows, row) * c.slots + slot
    rows = np.concatenate([of_job, cell])
    columns = np.concatenate([np.arange(n.size), column])
    order = np.lexsort((columns, rows))
    matrix = model.linear_constraint_matrix
    matrix.row_ids.extend(rows[order].tolist())
    matrix.column_ids.extend(columns[order].tolist())
    matrix.coefficients.extend(np.concatenate([np.ones(n.size), gpus])[order].tolist())
    return model


def _taken(c: Columns, m: Records, start: Ints) -> tuple[Wide, Wide, Wide, Floats]:
    """(row, slot, column, GPUs) of all that columns in modes ``m`` from ``start`` take."""
    length = m["length"].astype(np.int64)
    column = np.repeat(np.arange(m.size), length)
    begin = np.repeat(np.cumsum(length) - length, length)
    slot = np.arange(column.size) - begin + start[column]
    gpus = m["takes"][column] / GPU_MILLI
    serves = m["profile"][column] >= 0
    gpus[serves] = c.profiles[m["profile"][column[serves]], slot[serves]] / GPU_MILLI
    rows = c.rows[m["cls"][column]].astype(np.int64)  # (entries, W)
    entry, _ = there = np.nonzero((rows >= 0) & (gpus > 0)[:, None])
    return rows[there], slot[entry], column[entry], gpus[entry]
