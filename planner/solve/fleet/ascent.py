"""The bound: Lagrangian ascent by the volume algorithm.

Prices y[r, t] >= 0 on the rows' slots take the place of capacity:

    L(y) = sum over jobs of min(unplaced, min over modes and starts of usd + late + gpus sum y)
           - sum of capacity[r, t] y[r, t]

is a lower bound on every plan for every y >= 0 (weak duality), and concave. It is raised by the
volume algorithm of F. Barahona and R. Anbil, *The volume algorithm: producing primal solutions with
a subgradient method*, Mathematical Programming 87 (2000): steps from the best prices so far along a
running average of usage less capacity, scaled by a row's price over its capacity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from planner.solve.fleet.columns import Columns, Floats, Ints, prefix
from planner.solve.fleet.pricing import add_usage, cheapest_starts, price_jobs


@dataclass(slots=True)
class Priced:
    """All jobs at one vector of prices."""

    bound_usd: float
    value: Floats  # (J) least cost of each job at these prices
    mode: Ints  # (J)
    start: Ints  # (J)
    usage: Floats  # (R, T)


@dataclass(slots=True)
class Pricer:
    """Prices all jobs; holds the scratch that each pass needs."""

    columns: Columns
    best: Floats = field(init=False)
    at: Ints = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.columns.pair_cls.size, self.columns.slots + 1)
        self.best = np.empty(shape)
        self.at = np.zeros(shape, dtype=np.int32)

    def price(self, prices: Floats) -> Priced:
        c = self.columns
        total = prefix(c, prices)
        cheapest_starts(total, c.pair_cls, c.pair_length, self.best, self.at)
        value, mode = np.empty(c.jobs), np.empty(c.jobs, dtype=np.int32)
        start = np.empty(c.jobs, dtype=np.int32)
        change = np.zeros((c.capacity.shape[0], c.slots + 1))
        price_jobs(c, 0, c.jobs, total, self.best, self.at, value, mode, start)
        add_usage(c, 0, c.jobs, mode, start, 1.0, change)
        usage = np.cumsum(change[:, :-1], axis=1)
        bound = float(value.sum() - (c.capacity * prices).sum())
        return Priced(bound_usd=bound, value=value, mode=mode, start=start, usage=usage)


@dataclass(slots=True)
class Ascent:
    """The volume algorithm under way."""

    pricer: Pricer
    prices: Floats  # the best so far (R, T)
    best: Priced
    usage: Floats  # running average (R, T)
    step: float = 1.0
    red: int = 0
    greens: int = 0
    alpha: float = 0.1
    late: list[Priced] = field(default_factory=list)


def ascend(pricer: Pricer, prices: Floats, more: Callable[[int, float], bool]) -> Ascent:
    """Raise the bound from ``prices`` while ``more(iteration, bound)``."""
    c = pricer.columns
    first = pricer.price(prices)
    a = Ascent(pricer=pricer, prices=prices, best=first, usage=first.usage.copy())
    reference = float(np.sum(c.usd[c.of_job[:-1][np.diff(c.of_job) > 0]])) / max(1.0, float(c.capacity.sum()))
    scale = 1.0 / np.maximum(1.0, c.capacity)
    iteration = 0
    target = 0.02
    reds = 0
    f = 1.0
    while more(iteration, a.best.bound_usd):
        iteration += 1
        grad = a.usage - c.capacity
        direction = grad * scale
        direction = np.where((a.prices <= 0) & (direction < 0), 0.0, direction)
        norm = float((direction * grad).sum())
        if norm <= 0: break
        size = f * target * abs(a.best.bound_usd) / norm
        y = np.maximum(0.0, a.prices + size * direction)
        now = pricer.price(y)
        a.usage = a.alpha * now.usage + (1 - a.alpha) * a.usage
        if now.bound_usd > a.best.bound_usd:
            better = float(((now.usage - c.capacity) * direction).sum()) > 0
            a.prices, a.best = y, now
            if better: f = min(2.0, f * 1.1)
            reds = 0
        else:
            reds += 1
            if reds >= 15:
                f *= 0.66
                reds = 0
                if f<0.02: a.alpha=max(.01,a.alpha*.7)
        a.step = f
    return a
