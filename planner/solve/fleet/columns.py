"""A problem as columns: what the compiled loops read.

A *row* is something of which there is so much in each slot: the GPUs of a pool, or those that a
queue limit allows. A *class* is a set of rows that one mode takes from together, its pool's first.
Modes stand job by job, cheapest first, each at its cheapest start; those that could be in no best
plan are left out. One whose ``first`` is behind its ``last`` counts for what a job may be split
into, and never as a whole.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

Records = npt.NDArray[Any]

WHOLE, PAUSES, SWITCHES = 0, 1, 2  # in one piece; may stop and go on; may go on in another mode

JOB = np.dtype(
    [
        ("unplaced_usd", np.float64),
        ("penalty_usd", np.float64),  # the same as the search sees it: upper tiers weigh more
        ("late_usd", np.float64),  # for each slot past ``due``
        ("due", np.int32),  # T where nothing is due
        ("pieces", np.int32),  # WHOLE, PAUSES or SWITCHES
        ("first", np.int32),  # its modes are ``first`` to ``end``
        ("end", np.int32),
        ("fixed", np.int32),  # 1: waits for others, or others for it: once placed it stays
        ("kept_mode", np.int32),  # where the last plan has it, -1: nowhere
        ("kept_start", np.int32),
        ("move_usd", np.float64),  # the price of being anywhere else
    ]
)
MODE = np.dtype(
    [
        ("usd", np.float64),  # money of the whole run, bringing its data included
        ("egress_usd", np.float64),  # of it, what bringing its data costs, at the start
        ("work", np.float64),  # slots, before rounding up
        ("length", np.int32),  # slots
        ("first", np.int32),  # earliest start
        ("last", np.int32),  # latest start
        ("takes", np.int32),  # of each row of its class; of a service, at most
        ("cls", np.int32),
        ("pair", np.int32),  # index of (class, length)
        ("profile", np.int32),  # of what it takes by slot; -1: the same throughout
        ("number", np.int32),  # index in `Job.modes`
        ("extra", np.int32),  # row of ``extras``; -1: what stands above is all
    ]
)
EXTRA = np.dtype(
    [
        ("slot_usd", np.float64),  # money of a slot of work, at the price of the first window
        ("most_usd", np.float64),  # of the whole run: no start costs more
        ("least_work", np.float64),  # slots that all of it takes at least, however it is split
        ("ratio", np.int32),  # row of ``ratios``; -1: one price
        ("until", np.int32),  # no piece of it ends later
        ("held", np.int32),  # 1: goes on where it runs
    ]
)
PAIR = np.dtype([("cls", np.int32), ("length", np.int32)])
BUDGET = np.dtype([("usd", np.float64), ("first", np.int32), ("end", np.int32)])  # of a month


class Columns(NamedTuple):
    """The question.

    Shapes: R rows, T slots, K classes, J jobs, M modes, Q (class, length) pairs, P profiles,
    B budgets, X extras, N pools whose price changes. Amounts are GPU thousandths, prices USD for
    one of them over one slot.
    """

    capacity: Ints  # (R, T)
    rows: Ints  # (K, most rows of a class), -1: none
    jobs: Records  # (J) of JOB
    modes: Records  # (M) of MODE, job by job, cheapest first
    pairs: Records  # (Q) of PAIR
    profiles: Ints  # (P, T) what is taken
    replicas: Ints  # (P, T) by how many
    profile_cls: Ints  # (P)
    spends: Ints  # (J, most budgets of a job), -1: none
    budgets: Records  # (B) of BUDGET
    extras: Records  # (X) of EXTRA: modes of running jobs, and where prices change
    ratios: Floats  # (N, T + 1) slots from 0 on, each by its price over that of the first window

    @property
    def slots(self) -> int:
        return int(self.capacity.shape[1])

    @property
    def job_count(self) -> int:
        """Jobs."""
        return int(self.jobs.size)


class Priced(NamedTuple):
    """What the prices of one moment mean, ready for lookups."""

    total: Floats  # (K, T + 1) of a GPU thousandth from slot 0 to each slot, by class
    best: Floats  # (Q, T + 1) the least from any start at or after a slot
    at: Ints  # (Q, T + 1) and where that is
    profile_usd: Floats  # (P)


def totals(columns: Columns, prices: Floats) -> Floats:
    """(K, T + 1): what each class costs from slot 0 to each slot at ``prices`` (R, T)."""
    padded = np.vstack([prices, np.zeros((1, prices.shape[1]))])  # row -1 costs nothing
    each = padded[columns.rows].sum(axis=1)
    found = np.zeros((each.shape[0], each.shape[1] + 1))
    np.cumsum(each, axis=1, out=found[:, 1:])
    return found
