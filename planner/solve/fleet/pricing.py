"""What each job would do at given prices, exactly: its cheapest mode and start.

For each (class, length) a suffix minimum over starts answers a mode that may end with the horizon
in O(1); a mode with a deadline scans its own window, and only where it could still win.
"""

from __future__ import annotations

import numpy as np

from planner.compiled import compiled
from planner.solve.fleet.columns import Columns, Floats, Ints


@compiled
def cheapest_starts(
    total: Floats, pair_cls: Ints, pair_length: Ints, best: Floats, at: Ints
) -> None:
    """Fill ``best`` (Q, T + 1) and ``at``: the least price of a GPU from any start >= s, and where."""
    slots = total.shape[1] - 1
    for q in range(pair_cls.size):
        row, length = total[pair_cls[q]], pair_length[q]
        best[q, :] = np.inf
        least, where = np.inf, 0
        for s in range(slots - length, -1, -1):
            price = row[s + length] - row[s]
            if price <= least:
                least, where = price, s
            best[q, s] = least
            at[q, s] = where


@compiled
def price_jobs(
    c: Columns,
    begin: int,
    end: int,
    total: Floats,
    best: Floats,
    at: Ints,
    value: Floats,
    mode: Ints,
    start: Ints,
) -> None:
    """For jobs ``begin`` to ``end``: the least cost, and the mode (-1: left out) and start of it."""
    slots = total.shape[1] - 1
    for j in range(begin, end):
        least, which, when = c.unplaced_usd[j], -1, 0
        for i in range(c.of_job[j], c.of_job[j + 1]):
            if c.usd[i] >= least:
                break  # modes stand in order of cost, and prices are never below 0
            first, last, length, gpus = c.first[i], c.last[i], c.length[i], c.takes[i]
            floor = c.usd[i] + gpus * best[c.pair[i], first]
            if floor >= least:
                continue
            free_end = last >= slots - length
            if free_end and (c.late_usd[j] == 0.0 or at[c.pair[i], first] + length <= c.due[j]):
                least, which, when = floor, i, at[c.pair[i], first]
                continue
            row = total[c.cls[i]]
            for s in range(first, last + 1):
                usd = c.usd[i] + gpus * (row[s + length] - row[s])
                if s + length > c.due[j]:
                    usd += c.late_usd[j] * (s + length - c.due[j])
                if usd < least:
                    least, which, when = usd, i, s
        value[j], mode[j], start[j] = least, which, when


@compiled
def add_usage(
    c: Columns, begin: int, end: int, mode: Ints, start: Ints, weight: float, change: Floats
) -> None:
    """Add ``weight`` times what jobs take to ``change`` (R, T + 1), by its rise from slot to slot."""
    for j in range(begin, end):
        i = mode[j]
        if i >= 0:
            for k in range(c.rows.shape[1]):
                r = c.rows[c.cls[i], k]
                if r >= 0:
                    change[r, start[j]] += weight * c.takes[i]
                    change[r, start[j] + c.length[i]] -= weight * c.takes[i]
