"""Dollars and loads over time in a model of whole numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a sum: dollars for each unit of ``expr``, ``most`` units at most."""

    expr: cp_model.LinearExprT
    usd: float
    most: int = 1


COARSE, FINE = 6, 9  # decimals of a dollar at most: fine where it is paid by the second


def scale_of(terms: Sequence[Term], decimals: int = COARSE) -> float:
    """Whole parts of a dollar, as fine as keeps the sum below 1e13."""
    total = math.fsum(abs(t.usd) * t.most for t in terms) or 1.0
    return float(10 ** max(2, min(decimals, 13 - math.ceil(math.log10(total)))))


def keep_within(cp: cp_model.CpModel, terms: Sequence[Term], usd: float) -> None:
    """The sum of ``terms`` is at most ``usd``; each is rounded up, a thousand times as finely."""
    scale = 1000 * scale_of(terms, FINE)
    room = math.floor((usd + 5e-7) * scale)
    cp.add(sum(t.expr * math.ceil(t.usd * scale - 1e-6) for t in terms) <= room)


def define_load(
    cp: cp_model.CpModel,
    intervals: Sequence[cp_model.IntervalVar],
    demands: Sequence[cp_model.LinearExpr | int],
    have: int,
) -> None:
    """At every slot, what the intervals take is at most ``have``.

    Counted by halves, with one to spare: where something takes all of a capacity, the presolve of
    OR-Tools 9.15 forgets that what overlaps it may take nothing, and calls the model infeasible.
    """
    cp.add_cumulative(intervals, [2 * demand for demand in demands], 2 * have + 1)
