"""The bound: Lagrangian ascent by the volume algorithm.

Prices y[r, t] >= 0 on the rows' slots take the place of capacity:

    L(y) = sum over jobs of min(unplaced, min over modes and starts of usd + late + takes sum of y)
           - sum over r, t of capacity[r, t] y[r, t]

is, for every y >= 0, a lower bound on every plan (weak duality: a plan that keeps capacity pays at
most sum of capacity y for what it takes), and concave. It is raised by the volume algorithm of
F. Barahona and R. Anbil, *The volume algorithm: producing primal solutions with a subgradient
method*, Mathematical Programming 87 (2000): steps from the best prices so far along a running
average of usage less capacity, each row's by the inverse of its capacity. The first steps move
whole rows: one price for all slots is most of the answer.

What it relaxes: that whole gangs fit (capacity holds on average over the choices of each job),
nodes (capacity is counted by pool), dependencies but for the earliest starts that they leave,
budgets, whole-node bills, and stops of jobs that may be split.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from planner.solve.fleet.columns import Columns, Floats, Ints, Priced
from planner.solve.fleet.pricing import Pricer, add_usage

FLAT_PASSES = 60  # with one price a row
PASSES = 800
WARM_PASSES = 40  # from prices of another plan
TARGET = 0.02  # of the bound: how far above it the steps aim at first
SHRINK = 0.66  # of the step, after so many without a gain:
PATIENCE_FLAT, PATIENCE = 5, 8
ALPHA, LEAST_ALPHA, FINE = 0.1, 0.01, 0.02  # weight of the newest usage; less below a step of FINE
SAMPLES = 24


@dataclass(slots=True)
class Ascent:
    """The best prices so far, and what leads on from them."""

    pricer: Pricer
    prices: Floats  # (R, T)
    step: float = 1.0  # of the first pass
    bound_usd: float = -np.inf
    usage: Floats = field(init=False)  # running average (R, T)
    samples: deque[tuple[Ints, Ints]] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    def __post_init__(self) -> None:
        self.usage = self._evaluate(self.prices)[1]
        self.bound_usd = self._evaluate(self.prices)[0]

    def rise(self, passes: int, *, flat: bool, stop: Callable[[float], bool]) -> None:
        """So many steps, or until ``stop(bound)``; ``flat`` ones keep one price a row."""
        capacity = self.pricer.columns.capacity
        scale = 1.0 / np.maximum(1, capacity)
        step, alpha, idle = self.step, ALPHA, 0
        for _ in range(passes):
            over = self.usage - capacity
            if flat:
                over = np.repeat(over.mean(axis=1, keepdims=True), over.shape[1], axis=1)
            way = np.where((self.prices <= 0) & (over < 0), 0.0, over * scale)
            slope = float((way * over).sum())
            if slope <= 0 or stop(self.bound_usd):
                return
            size = step * TARGET * abs(self.bound_usd) / slope
            prices = np.maximum(0.0, self.prices + size * way)
            bound, usage = self._evaluate(prices)
            self.usage = alpha * usage + (1 - alpha) * self.usage
            if bound > self.bound_usd:
                self.prices, self.bound_usd, idle = prices, bound, 0
                if float(((usage - capacity) * way).sum()) > 0:
                    step = min(2.0, step * 1.1)
                continue
            idle += 1
            if idle >= (PATIENCE_FLAT if flat else PATIENCE):
                step, idle = step * SHRINK, 0
                alpha = max(LEAST_ALPHA, alpha * 0.7) if step < FINE else alpha

    def _evaluate(self, prices: Floats) -> tuple[float, Floats]:
        """L(prices), and the usage of what attains it, which is kept as a sample."""
        c = self.pricer.columns
        priced = self.pricer.priced(prices)
        value, mode, start = self.pricer.values(priced)
        self.samples.append((mode, start))
        value = self.pricer.relax(priced, value)
        return lagrangian(c, prices, value), usage_of(c, mode, start)


def lagrangian(c: Columns, prices: Floats, value: Floats) -> float:
    """The bound that job values prove."""
    return float(value.sum() - (c.capacity * prices).sum())


def usage_of(c: Columns, mode: Ints, start: Ints) -> Floats:
    """(R, T): what is taken."""
    change = np.zeros((c.capacity.shape[0], c.slots + 1))
    add_usage(c, mode, start, change)
    return np.cumsum(change[:, :-1], axis=1)


def ascend(
    pricer: Pricer, prices: Floats | None, stop: Callable[[float], bool]
) -> tuple[Ascent, Priced]:
    """Prices that prove much, from ``prices`` or from nothing, and their lookups."""
    c = pricer.columns
    start = np.zeros(c.capacity.shape) if prices is None else prices
    ascent = Ascent(pricer, start, step=1.0 if prices is None else FINE)
    if prices is None:
        ascent.rise(FLAT_PASSES, flat=True, stop=stop)
    ascent.rise(PASSES if prices is None else WARM_PASSES, flat=False, stop=stop)
    return ascent, pricer.priced(ascent.prices)
