"""A problem as columns: what the compiled loops read.

A *row* is something of which there is so much in each slot: the GPUs of a pool, or those that a
queue limit allows. A *class* is a set of rows that one mode takes from together, its pool's first.
Modes stand job by job, cheapest first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Columns(NamedTuple):
    """The question. Shapes: R rows, T slots, K classes, J jobs, M modes, Q (class, length) pairs."""

    capacity: Ints  # (R, T) GPUs
    rows: Ints  # (K, most rows of a class), -1: none
    of_job: Longs  # (J + 1) where each job's modes begin
    unplaced_usd: Floats  # (J)
    due: Ints  # (J) slot past which lateness is paid; T where nothing is due
    late_usd: Floats  # (J) for each slot past it
    job: Ints  # (M)
    cls: Ints  # (M)
    gpus: Ints  # (M)
    length: Ints  # (M) slots
    usd: Floats  # (M) money of the whole run
    first: Ints  # (M) earliest start
    last: Ints  # (M) latest start
    pair: Ints  # (M) index of (class, length)
    pair_cls: Ints  # (Q)
    pair_length: Ints  # (Q)

    @property
    def slots(self) -> int:
        return int(self.capacity.shape[1])

    @property
    def jobs(self) -> int:
        return int(self.unplaced_usd.size)


def prefix(columns: Columns, prices: Floats) -> Floats:
    """(K, T + 1): what a GPU of each class costs from slot 0 to each slot at ``prices`` (R, T)."""
    padded = np.vstack([prices, np.zeros((1, prices.shape[1]))])  # row -1 costs nothing
    each = padded[columns.rows].sum(axis=1)
    total = np.zeros((each.shape[0], each.shape[1] + 1))
    np.cumsum(each, axis=1, out=total[:, 1:])
    return total
