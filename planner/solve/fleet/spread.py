"""Larger than one machine: the pricing of jobs, which is most of the ascent, split over a Ray.

Each worker holds some of the jobs with their modes, and prices them for the lookups that it is
sent; three numbers a job come back. A job's value depends on no other job, so bound and plan are
those of one machine, number by number. Where the workers are lost, the pricing goes on here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from planner.scenarios import Ray, ScenarioError
from planner.solve.fleet.columns import Columns, Floats, Ints, Priced
from planner.solve.fleet.pricing import Pricer, price_jobs
from planner.spread import Workers, shares, workers

PASS_SECONDS = 120.0  # the first one compiles

Values = tuple[Floats, Ints, Ints]
Share = tuple[Columns, int]  # some jobs, and the number of their first mode


class SpreadPricer(Pricer):
    """Prices all jobs on workers, pass after pass."""

    def __init__(self, columns: Columns, held: Workers[Share, Priced, Values]) -> None:
        super().__init__(columns)
        self.held: Workers[Share, Priced, Values] | None = held

    def values(self, priced: Priced) -> Values:
        """As `Pricer.values`."""
        if self.held is not None:
            try:
                value, mode, start = zip(*self.held.ask(priced, seconds=PASS_SECONDS), strict=True)
            except ScenarioError:
                self.held = None  # lost: they would be lost at each pass
            else:
                return np.concatenate(value), np.concatenate(mode), np.concatenate(start)
        return super().values(priced)


@contextmanager
def pricers(ray: Ray | None) -> Iterator[Callable[[Columns], Pricer]]:
    """What makes a pricer for columns: here, or on the workers of ``ray`` until this ends.

    Making one raises `ScenarioError` where they do not start.
    """
    with ExitStack() as stack:

        def spread(columns: Columns) -> Pricer:
            assert ray is not None
            held = stack.enter_context(
                workers(ray, values_of, lambda parts: list(split(columns, parts)))
            )
            return SpreadPricer(columns, held)

        yield Pricer if ray is None else spread


def split(c: Columns, parts: int) -> Iterator[Share]:
    """The jobs in at most ``parts`` stretches, each with its own modes alone."""
    for begin, end in shares(c.job_count, parts):
        jobs = c.jobs[begin:end].copy()
        first, last = int(jobs["first"][0]), int(jobs["end"][-1])
        jobs["first"] -= first
        jobs["end"] -= first
        yield (
            c._replace(jobs=jobs, modes=c.modes[first:last].copy(), spends=c.spends[begin:end]),
            first,
        )


def values_of(share: Share, priced: Priced) -> Values:
    """What `Pricer.values` says of the jobs of a share, by the numbers of all modes."""
    c, first = share
    value = np.empty(c.job_count)
    mode, start = np.empty(c.job_count, dtype=np.int32), np.empty(c.job_count, dtype=np.int32)
    price_jobs(c, 0, c.job_count, priced, value, mode, start)
    return value, np.where(mode < 0, mode, mode + np.int32(first)), start
