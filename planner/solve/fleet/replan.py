"""The next plan from the last: after an arrival, a departure, a node more or less.

What is kept: the prices (they prove a bound for the new question at once, and a few passes mend
them), the columns of every job that is the same value as before, and each job's mode and start,
which it leaves only where that saves more than the price of moving it (`planner.churn`). Whom a
smaller fleet no longer holds is taken out, least price of moving first, and put back where it costs
least. Nodes are kept too: whoever stays is on those it had, unless they are gone or a gang that is
new has no room beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.churn import promise_usd
from planner.collector import paused
from planner.problem import Pool, Problem
from planner.solve.fleet.columns import Columns, Floats, Ints
from planner.solve.fleet.naming import Known
from planner.solve.fleet.reading import Before, read, runs_alike
from planner.solve.fleet.state import State, empty, put_all, take_out


@dataclass(frozen=True, slots=True)
class Memory:
    """What one plan leaves for the next."""

    problem: Problem
    columns: Columns
    prices: Floats  # (R, T)
    mode: Ints  # (J) -1: left out
    start: Ints  # (J)
    known: Known  # and its nodes


@paused()
def remembered(memory: Memory, problem: Problem) -> Columns:
    """The columns of ``problem``, with where the last plan has the jobs that are as they were."""
    old = memory.problem
    c = read(problem, Before(old, memory.columns) if alike(memory, problem) else None)
    number = {job.name: j for j, job in enumerate(old.jobs)}
    before = np.array([number.get(job.name, -1) for job in problem.jobs], dtype=np.int64)
    same = [
        o >= 0 and old.jobs[o] is job and runs_alike(old, problem, job.name)
        for o, job in zip(before, problem.jobs, strict=True)
    ]
    stays = np.flatnonzero(np.array(same, dtype=bool) & (memory.mode[before] >= 0))
    was = before[stays]
    if c.budgets.size or not alike(memory, problem):
        return c
    place = memory.mode[was] - memory.columns.jobs["first"][was]
    c.jobs["kept_mode"][stays] = c.jobs["first"][stays] + place
    c.jobs["kept_start"][stays] = memory.start[was]
    usd = c.modes["usd"][c.jobs["kept_mode"][stays]]
    c.jobs["move_usd"][stays] = [promise_usd(each) for each in usd.tolist()]
    return c


def alike(memory: Memory, problem: Problem) -> bool:
    """Whether columns of one can be read into the other: the same grid, pools and queues."""
    old = memory.problem
    names = [pool.name for pool in problem.pools]
    return (
        problem.grid == old.grid
        and problem.queues == old.queues
        and names == [pool.name for pool in old.pools]
        and _priced(problem) == _priced(old)
    )


def _priced(problem: Problem) -> list[Pool]:
    return [pool for pool in problem.pools if not pool.one_price]


def as_before(c: Columns, seed: int) -> State:
    """Everybody where the last plan has them, but for those whom the fleet no longer holds."""
    state = empty(c, seed)
    mode, start = c.jobs["kept_mode"].astype(np.int32), c.jobs["kept_start"].astype(np.int32)
    put_all(c, state, mode, start)
    for r in np.flatnonzero((state.free < 0).any(axis=1)):
        _relieve(c, state, int(r))
    return state


def _relieve(c: Columns, state: State, r: int) -> None:
    """Take out jobs until row ``r`` is not overbooked: cheaply, and few.

    The next is the one with the least (its price of moving + the mean one) for what it relieves, in
    GPU thousandths and slots.
    """
    modes = c.modes[state.mode]
    holds = (state.mode >= 0) & (c.jobs["fixed"] == 0) & (c.rows[modes["cls"]] == r).any(axis=1)
    there = np.flatnonzero(holds)
    m, slots = modes[there], np.arange(c.slots)
    begin = state.start[there, None]
    runs = (begin <= slots) & (slots < begin + m["length"][:, None])
    takes = np.where(runs, m["takes"][:, None], 0)
    usd = c.jobs["move_usd"][there]
    usd = usd + usd.mean() if there.size else usd
    while (over := np.maximum(0, -state.free[r])).any():
        relief = np.minimum(takes, over).sum(axis=1)
        if not relief.any():
            return
        n = int(np.argmin(np.where(relief > 0, usd / np.maximum(1, relief), np.inf)))
        take_out(c, state, int(there[n]))
        takes[n] = 0
