"""How wide the shadow prices are: the relaxation with a node, a limit or a budget more and less.

A dual of a degenerate LP is one of many: it may say $0 where one GPU less costs $5. The least cost
V(b) is convex in what there is, b, so for a step d > 0

    (V(b) - V(b + d)) / d  <=  every dual  <=  (V(b - d) - V(b)) / d

The left is what d more saves (``low``), the right what d less costs (``high``), each by unit. Both
are optima of the same rows with other right-hand sides, from the last basis. For a price of a pool
d is one node for the hours of the price, less where there is less; for a limit one GPU over the
grid; for a budget a hundredth of it. A pool whose dual is nothing is asked what a node less costs
over the whole grid. The dearest prices come first, as many as count and time allow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from ortools.math_opt.python import mathopt

from planner.plan import Price, QueuePrice
from planner.problem import Problem
from planner.solve.master import BUDGET, LEAST_PRICE, Lp, Master, Relaxed, family, of_one_gpu
from planner.table import Table

MOST = 24  # prices that are looked at, of pools and of queues
BUDGET_STEP = 0.01
NOT_LOOKED_AT = (None, None)

Rows = list[tuple[mathopt.LinearConstraint, float]]  # how much of each a step is


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A change of right-hand sides, and how many units of the price it is."""

    rows: Rows
    units: float


def ranged(master: Master, relaxed: Relaxed, *, seconds: float) -> Relaxed:
    """``relaxed`` with a range at its dearest prices, and with those that are 0 by chance."""
    table, made = master.table, master.lp()
    ask = _Ask(made, until=time.monotonic() + seconds)
    if ask.now is None:
        return relaxed
    prices = (*relaxed.prices, *_unpriced(table, relaxed))
    worth: dict[Price | QueuePrice, float] = {
        p: p.usd_per_gpu_hour * _node_hours(table.problem, p) for p in prices
    }
    worth |= {q: q.usd for q in relaxed.queue_prices}
    dearest = sorted(worth, key=lambda p: -worth[p])[:MOST]
    ranges = {p: _range(table, made, ask, p) for p in dearest}
    priced = (_priced(p, *ranges.get(p, NOT_LOOKED_AT)) for p in prices)
    return replace(
        relaxed,
        prices=tuple(
            p
            for p in priced
            if p.usd_per_gpu_hour or (p.high_usd_per_gpu_hour or 0.0) > LEAST_PRICE
        ),
        queue_prices=tuple(
            _queue_priced(q, *ranges.get(q, NOT_LOOKED_AT)) for q in relaxed.queue_prices
        ),
    )


def _unpriced(table: Table, relaxed: Relaxed) -> Iterator[Price]:
    priced = {p.pool for p in relaxed.prices}
    for pool, options in zip(table.problem.pools, table.of_pool, strict=True):
        if options and pool.name not in priced:
            yield Price(pool=pool.name, start=0, end=table.problem.grid.slots, usd_per_gpu_hour=0.0)


def _priced(price: Price, low: float | None, high: float | None) -> Price:
    return replace(
        price,
        low_usd_per_gpu_hour=None if low is None else min(low, price.usd_per_gpu_hour),
        high_usd_per_gpu_hour=None if high is None else max(high, price.usd_per_gpu_hour),
    )


def _queue_priced(price: QueuePrice, low: float | None, high: float | None) -> QueuePrice:
    return replace(
        price,
        low_usd=None if low is None else min(low, price.usd),
        high_usd=None if high is None else max(high, price.usd),
    )


class _Ask:
    """The relaxation's least cost under other right-hand sides, each from the last basis."""

    def __init__(self, made: Lp, *, until: float) -> None:
        self.until = until
        self.solver = mathopt.IncrementalSolver(made.model, mathopt.SolverType.GLOP)
        self.now = self._solved()

    def moved(self, rows: Rows, sign: int) -> float | None:
        """The least cost with ``rows`` moved; None where time ran out or nothing is feasible."""
        was = [(row, row.upper_bound) for row, _ in rows]
        for row, step in rows:
            row.upper_bound += sign * step
        try:
            return self._solved()
        finally:
            for row, bound in was:
                row.upper_bound = bound

    def _solved(self) -> float | None:
        left = self.until - time.monotonic()
        if left <= 0:
            return None
        parameters = mathopt.SolveParameters(time_limit=timedelta(seconds=left), threads=1)
        result = self.solver.solve(params=parameters)
        optimal = result.termination.reason == mathopt.TerminationReason.OPTIMAL
        return float(result.objective_value()) if optimal else None


def _range(
    table: Table, made: Lp, ask: _Ask, price: Price | QueuePrice
) -> tuple[float | None, float | None]:
    step = _step(table, made, price)
    if ask.now is None or not step.units:
        return NOT_LOOKED_AT
    more, less = ask.moved(step.rows, 1), ask.moved(step.rows, -1)
    low = None if more is None else max(0.0, ask.now - more) / step.units
    high = None if less is None else max(0.0, less - ask.now) / step.units
    return low, high


def _step(table: Table, made: Lp, price: Price | QueuePrice) -> Step:
    if isinstance(price, Price):
        return _node(table, made, price)
    grid = table.problem.grid
    if price.what == BUDGET:
        budget = table.problem.queue_by_name[price.queue].budget_usd_per_month or 0.0
        rows = [(row, BUDGET_STEP * budget) for queue, row in made.budgets if queue == price.queue]
        return Step(rows=rows, units=BUDGET_STEP * budget)
    rows = [
        (row, float(grid.slots))
        for cap, row in made.quotas
        if (cap.queue, cap.accelerator, cap.keepers) == (price.queue, price.what, price.keepers)
    ]
    return Step(rows=rows, units=grid.slots * grid.slot_hours)


def _node(table: Table, made: Lp, price: Price) -> Step:
    """One node of the pool for the hours of the price, by the areas of its resource."""
    gpus = max(1, table.problem.pool_by_name[price.pool].gpus_per_node)
    rows = []
    for w, row in made.areas:
        pool = table.problem.pools[w.measure.pool].name
        slots = min(price.end, w.end) - max(price.start, w.start)
        if pool == price.pool and family(w.measure) == price.resource and slots > 0:
            rows.append((row, slots * gpus * of_one_gpu(table, w.measure)))
    share = min((row.upper_bound / step for row, step in rows if step), default=0.0)
    share = min(1.0, share)  # there is less than a node for as long
    return Step(
        rows=[(row, share * step) for row, step in rows],
        units=share * _node_hours(table.problem, price),
    )


def _node_hours(problem: Problem, price: Price) -> float:
    """GPU-hours of one node over the price's stretch."""
    hours = (price.end - price.start) * problem.grid.slot_hours
    return hours * max(1, problem.pool_by_name[price.pool].gpus_per_node)
