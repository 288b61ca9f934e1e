"""Ruin and recreate: take some jobs out, put them back where they cost least, keep what is better.

The large neighbourhood search of G. Schrimpf, J. Schneider, H. Stamm-Wilbrandt and G. Dueck,
*Record Breaking Optimization Results Using the Ruin and Recreate Principle*, Journal of
Computational Physics 159 (2000), with G. Dueck's record-to-record travel: a step may lose as long
as the plan stays within a shrinking distance of the best one.

Jobs that wait for one another are taken out together and put back in their order: a plan could
otherwise never make room for one of them. Chains of more than `MOST_OUT` jobs stay where they are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from planner.booking import Booking, own_usd, usd_of
from planner.occupancy import Occupancy
from planner.solve import build
from planner.solve.build import Bookings
from planner.table import Table, order_by_dependency

MOST_OUT = 16  # jobs taken out at once
CHAINS_OUT, CHAINS_IN = 0.5, 0.1  # of the steps take chains too: one has a job left out, or none
DIVIDED = 0.05  # of the times that a job is put back, it may change its mode where it may
DEVIATION = 0.001  # of the plan's cost: how far above the best one the first steps may go


@dataclass(slots=True)
class Ruin:
    """A plan under change."""

    table: Table
    placed: Bookings
    rng: random.Random
    occupancy: Occupancy = field(init=False)
    group: list[tuple[int, ...]] = field(init=False)  # by job: who goes out with it, in their order
    movable: list[int] = field(init=False)
    alone: list[int] = field(init=False)  # those of them that neither wait nor are waited for
    nothing: npt.NDArray[np.float64] = field(init=False)  # zeros, one an option

    def __post_init__(self) -> None:
        self.occupancy = Occupancy(self.table)
        for booking in self.placed.values():
            self.occupancy.take(booking)
        of_job = self.table.of_job
        self.group = [tuple(k for k in each if of_job[k]) for each in groups(self.table.after)]
        self.movable = [
            j for j, ours in enumerate(of_job) if ours and len(self.group[j]) <= MOST_OUT
        ]
        self.alone = [j for j in self.movable if len(self.group[j]) == 1]
        self.nothing = np.zeros(len(self.table.options))

    def step(self, threshold: float) -> float:
        """One ruin and recreation; the change of cost, 0 where it was taken back."""
        out = self._choose()
        old = {j: self.placed[j] for j in out if j in self.placed}
        pools = {
            part.pool
            for j in out
            for i in self.table.of_job[j]
            for part in self.table.parts(self.table.options[i])
        }
        before = self._usd(out, pools)
        for booking in old.values():
            self.occupancy.release(booking)
        for j in old:
            del self.placed[j]
        self._recreate(out)
        change = self._usd(out, pools) - before
        if change <= max(threshold, -1e-9):
            return change
        for j in out:
            if j in self.placed:
                self.occupancy.release(self.placed.pop(j))
        for j, booking in old.items():
            self.occupancy.take(booking)
            self.placed[j] = booking
        return 0.0

    def _choose(self) -> list[int]:
        """A job that could cost less, and others in its way."""
        movable = self._in_play()
        sample = self.rng.choices(movable, k=self.rng.choice((1, 4, 12)))
        seed = max(sample, key=lambda j: build.regret(self.table, self.placed, j))
        pools = {self.table.options[i].pool for i in self.table.of_job[seed]}
        size = self.rng.randint(2, MOST_OUT)
        near = [
            j
            for j in self.rng.choices(movable, k=4 * size)
            if j not in self.placed or self.table.options[self.placed[j].option].pool in pools
        ]
        out: dict[int, None] = {}
        for j in (seed, *near[:size]):
            if len(out) + len(self.group[j]) <= MOST_OUT + 1:
                out |= dict.fromkeys(self.group[j])
        return list(out)

    def _in_play(self) -> list[int]:
        """Who may go out: mostly those alone, for a chain is seldom put back as it stood."""
        out = any(j not in self.placed for j in self.movable if len(self.group[j]) > 1)
        if not self.alone or self.rng.random() < (CHAINS_OUT if out else CHAINS_IN):
            return self.movable
        return self.alone

    def _recreate(self, out: list[int]) -> None:
        orders: list[Callable[[int], float]] = [
            lambda j: -self._size(j),
            lambda j: -self.table.options[self.table.of_job[j][0]].length,
            lambda j: -self._spread(j),
            lambda _: 0.0,
        ]
        key = self.rng.choice(orders)
        jobs = self.table.problem.jobs
        ranked = sorted(out, key=lambda j: (-jobs[j].rank, key(j) * self.rng.uniform(0.7, 1.0)))
        for j in self._in_order(ranked):
            booking = self._put(j)
            if booking is not None:
                self.occupancy.take(booking)
                self.placed[j] = booking

    def _put(self, j: int) -> Booking | None:
        """Where job ``j`` costs least; in pieces where it fits no other way, or others wait for it.

        Then now and again: a piece less of its time stopped may be the room that they need.
        """
        switches = self.table.problem.jobs[j].switches > 0
        divided = switches and self.rng.random() < DIVIDED
        whole = build.best_booking(
            self.table, self.occupancy, self.placed, j, None, self.nothing, divided
        )
        if not self.table.problem.jobs[j].may_stop:
            return whole
        if whole is not None and (len(self.group[j]) == 1 or self.rng.random() < 0.5):
            return whole
        pieces = build.best_in_pieces(self.table, self.occupancy, self.placed, j)
        if pieces is None or (whole and whole.end(self.table) <= pieces.end(self.table)):
            return whole
        return pieces

    def _in_order(self, ranked: list[int]) -> list[int]:
        """The same with each job behind what it waits for, which comes as early as it does."""
        if all(len(self.group[j]) == 1 for j in ranked):
            return ranked
        found: dict[int, None] = {}
        for j in ranked:
            need = {j}
            for k in reversed(self.group[j]):
                need |= set(self.table.after[k]) if k in need else set()
            found |= dict.fromkeys(k for k in self.group[j] if k in need)
        return list(found)

    def _size(self, j: int) -> float:
        o = self.table.options[self.table.of_job[j][0]]
        return float(o.replica_slots * o.takes[0])

    def _spread(self, j: int) -> float:
        """What the second-best option costs more than the best: what is lost by waiting."""
        ours = [self.table.floor_usd(self.table.options[i]) for i in self.table.of_job[j]]
        return (ours[1] if len(ours) > 1 else self.table.problem.jobs[j].unplaced_usd) - ours[0]

    def _usd(self, jobs: list[int], pools: set[int]) -> float:
        """What ``jobs`` cost, and the whole-node bills of ``pools``."""
        problem = self.table.problem
        total = 0.0
        for j in jobs:
            if j not in self.placed:
                total += problem.jobs[j].unplaced_usd
                continue
            booking = self.placed[j]
            total += self.table.late_usd(j, booking.end(self.table)) + own_usd(self.table, booking)
        return total + build.bills_usd(self.table, self.placed.values(), pools)


def groups(after: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """By job: all that are joined with it by waiting for one another, each behind what it awaits.

    >>> groups(((), (0,), ()))
    [(0, 1), (0, 1), (2,)]
    """
    if not any(after):
        return [(j,) for j in range(len(after))]
    members = [[j] for j in range(len(after))]
    for j, befores in enumerate(after):
        for b in befores:
            if members[b] is not members[j]:
                members[j] += members[b]
                for k in members[b]:
                    members[k] = members[j]
    rank = {j: n for n, j in enumerate(order_by_dependency(after))}
    return [tuple(sorted(each, key=rank.__getitem__)) for each in members]


def improve(
    table: Table,
    start: Mapping[int, Booking],
    *,
    share: Callable[[], float],
    seed: int,
    offer: Callable[[Bookings], bool],
) -> None:
    """Ruin and recreate until ``share()``, the part of the time that is used, reaches 1.

    ``offer`` takes each new best plan, and says True to stop.
    """
    ruin = Ruin(table, dict(start), random.Random(seed))
    if not ruin.movable:
        return
    total = math.fsum(usd_of(table, b) for b in start.values())
    usd = best = 0.0
    while (used := share()) < 1.0:
        usd += ruin.step(best + DEVIATION * total * max(0.0, 1 - used) ** 2 - usd)
        if usd < best - 1e-9:
            best = usd
            if offer(dict(ruin.placed)):
                return
