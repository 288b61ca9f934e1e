"""CP-SAT's view of a row: what is taken of it fits, in every slot."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from ortools.sat.python import cp_model

from planner.solve.fleet.columns import Ints

Taken = list[tuple[cp_model.IntervalVar, int]]  # from when to when, GPU thousandths


def hold(cp: cp_model.CpModel, capacity: Ints, taken: Taken) -> None:
    """``taken``, and what the row lacks of its most in ``capacity`` (T), fit together."""
    lacking = capacity.max() - capacity
    edges = [0, *(np.flatnonzero(np.diff(lacking)) + 1).tolist(), lacking.size]
    for a, b in pairwise(edges):
        if lacking[a]:
            away = cp.new_fixed_size_interval_var(a, b - a, f"away[{a}]")
            taken = [*taken, (away, int(lacking[a]))]
    unit = math.gcd(*(amount for _, amount in taken))
    most = int(capacity.max()) // unit  # exact: all that is taken are multiples
    pieces, amounts = zip(*taken, strict=True)
    cp.add_cumulative(pieces, [amount // unit for amount in amounts], most)
