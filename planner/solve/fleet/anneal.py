"""The search: annealed moves that put one job where prices want it, and move who is in its way.

A move draws a job, the likelier the further it is from what it would do at the prices; puts it into
a mode and start that the prices like; takes out, one by one, jobs that overbook what it takes; puts
these back, the largest first, where they cost least in the room that is left; and stands, or is
undone, by the change in true cost (simulated annealing: S. Kirkpatrick, C. D. Gelatt and
M. P. Vecchi, *Optimization by simulated annealing*, Science 220, 1983; ejection chains: F. Glover,
Discrete Applied Mathematics 65, 1996).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.compiled import lean
from planner.solve.fleet.columns import Columns, Floats, Ints, Priced
from planner.solve.fleet.state import (
    State,
    best_spot,
    draw,
    fraction,
    paid,
    put,
    take_out,
    usd_at,
)

DRAWN = 4  # jobs, of which the one furthest from its best goes
STARTS = 3  # drawn for each mode
CROWD = 400  # jobs from which any start is as good as one beside another job
MOST_OUT = 7  # jobs that one move takes out
TRIES, HITS = 40, 3  # draws for someone in the way, and who of them are looked at


class Move(NamedTuple):
    """Who has been touched, and where they were: the forced job first."""

    job: Ints
    mode: Ints
    start: Ints


def scratch() -> Move:
    """Room for what one move touches."""
    return Move(*(np.zeros(MOST_OUT + 1, dtype=np.int32) for _ in range(3)))


@lean
def anneal(
    c: Columns,
    st: State,
    p: Priced,
    value: Floats,
    move: Move,
    moves: int,
    heat: float,
) -> float:
    """``moves`` moves at temperature ``heat`` (USD): the change in cost. ``move`` is scratch."""
    change = 0.0
    for _ in range(moves):
        j, regret = _draw_job(c, st, p, value)
        if j < 0:
            continue
        which, when = _draw_spot(c, st, p, j, value[j] + regret * fraction(st.random), heat)
        if which >= 0:
            change += _step(c, st, p, move, j, which, when, -heat * np.log(fraction(st.random)))
    return change


@lean
def readmit(
    c: Columns, st: State, p: Priced, value: Floats, move: Move, tries: int, heat: float
) -> float:
    """Moves for jobs that are left out, which draws among all would hardly find."""
    change = 0.0
    for j in st.ours:
        for _ in range(tries):
            if st.mode[j] >= 0 or c.jobs[j]["first"] == c.jobs[j]["end"]:
                break
            most = value[j] + (c.jobs[j]["penalty_usd"] - value[j]) * fraction(st.random)
            which, when = _draw_spot(c, st, p, j, most, heat)
            if which >= 0:
                change += _step(c, st, p, move, j, which, when, 0.0)
    return change


@lean
def _draw_job(c: Columns, st: State, p: Priced, value: Floats) -> tuple[int, float]:
    """Of some jobs drawn, the one that costs most above its value, and by how much."""
    which, most = -1, 0.0
    for _ in range(DRAWN):
        j = st.ours[draw(st.random, st.ours.size)]
        i = st.mode[j]
        regret = usd_at(c, j, i, st.start[j]) - value[j]
        if i >= 0:
            regret += paid(c, p, i, st.start[j])
        if regret >= most:
            which, most = j, regret
    return which, most


@lean
def _draw_spot(
    c: Columns, st: State, p: Priced, j: int, most: float, heat: float
) -> tuple[int, int]:
    """Of starts drawn in each mode that may cost below ``most``, the best, give or take heat."""
    which, when, least = -1, 0, np.inf
    for i in range(c.jobs[j]["first"], c.jobs[j]["end"]):
        m = c.modes[i]
        if m["usd"] >= most + heat:
            break
        if m["first"] > m["last"]:
            continue
        if m["profile"] < 0 and m["usd"] + m["takes"] * p.best[m["pair"], m["first"]] > most + heat:
            continue
        for _ in range(STARTS):
            s = _draw_start(c, st, i)
            cost = usd_at(c, j, i, s) + paid(c, p, i, s) + heat * fraction(st.random)
            if cost < least and not (i == st.mode[j] and s == st.start[j]):
                which, when, least = i, s, cost
    return which, when


@lean
def _draw_start(c: Columns, st: State, i: int) -> int:
    """A start of mode ``i``: any, or in a small fleet one that leaves no gap beside another job.

    Few jobs have to stand flush to fill a pool, and of all starts few are.
    """
    m = c.modes[i]
    first, last, r = m["first"], m["last"], c.rows[m["cls"], 0]
    if c.jobs.size >= CROWD or st.members[r] == 0 or draw(st.random, 2) == 0:
        return int(first + draw(st.random, last - first + 1))
    other = st.member[r, draw(st.random, st.members[r])]
    begin, length = st.start[other], c.modes[st.mode[other]]["length"]
    way = draw(st.random, 8)
    if way < 4:
        s = begin + length  # behind it
    elif way < 6:
        s = begin - m["length"]  # before it
    elif way < 7:
        s = begin  # beside it, from its start
    else:
        s = begin + length - m["length"]  # beside it, until its end
    if first <= s <= last:
        return int(s)
    return int(first) if draw(st.random, 2) == 0 else int(last)


@lean
def _step(
    c: Columns, st: State, p: Priced, move: Move, j: int, which: int, when: int, most: float
) -> float:
    """Make a move that costs ``most`` at most, or none: the change in cost."""
    move.job[0], move.mode[0], move.start[0] = j, st.mode[j], st.start[j]
    if st.mode[j] >= 0:
        take_out(c, st, j)
    put(c, st, j, which, when)
    count, clear = _clear_the_way(c, st, move, j)
    change = 0.0
    if clear:
        for n in range(count):
            change -= usd_at(c, move.job[n], move.mode[n], move.start[n])
        change += usd_at(c, j, which, when) + _put_back(c, st, p, move, count)
        if change <= most + 1e-9:
            return change
    for n in range(count):
        if st.mode[move.job[n]] >= 0:
            take_out(c, st, move.job[n])
    for n in range(count):
        st.start[move.job[n]] = move.start[n]
        if move.mode[n] >= 0:
            put(c, st, move.job[n], move.mode[n], move.start[n])
    return 0.0


@lean
def _clear_the_way(c: Columns, st: State, move: Move, j: int) -> tuple[int, bool]:
    """Take out who overbooks what ``j`` takes: jobs touched so far, and whether that was enough."""
    count = 1
    while True:
        r, t = _worst(c, st, st.mode[j], st.start[j])
        if r < 0:
            return count, _in_budget(c, st, j)
        victim = _someone(c, st, r, t, j) if count <= MOST_OUT else -1
        if victim < 0:
            return count, False
        move.job[count], move.mode[count] = victim, st.mode[victim]
        move.start[count] = st.start[victim]
        take_out(c, st, victim)
        count += 1


@lean
def _in_budget(c: Columns, st: State, j: int) -> bool:
    """Whether no budget of ``j`` is overspent."""
    for k in range(c.spends.shape[1]):
        b = c.spends[j, k]
        if b >= 0 and st.left_usd[b] < -1e-6:
            return False
    return True


@lean
def _worst(c: Columns, st: State, i: int, s: int) -> tuple[int, int]:
    """The row and slot that is most overbooked while mode ``i`` runs from ``s``; -1: none."""
    m = c.modes[i]
    row, slot, least = -1, 0, 0
    for k in range(c.rows.shape[1]):
        r = c.rows[m["cls"], k]
        if r >= 0:
            for t in range(s, s + m["length"]):
                if st.free[r, t] < least:
                    row, slot, least = r, t, st.free[r, t]
    return row, slot


@lean
def _someone(c: Columns, st: State, r: int, t: int, forced: int) -> int:
    """A job that holds row ``r`` at slot ``t``: of some drawn, the smallest large enough."""
    found, least, hits = -1, np.inf, 0
    short = -st.free[r, t]
    if st.members[r] == 0:
        return -1
    for _ in range(TRIES):
        j = st.member[r, draw(st.random, st.members[r])]
        i, s = st.mode[j], st.start[j]
        m = c.modes[i]
        if j == forced or s > t or t >= s + m["length"]:
            continue
        area = (0.5 + fraction(st.random)) * m["length"] * max(m["takes"], short)
        if area < least:
            found, least = j, area
        hits += 1
        if hits >= HITS:
            break
    return found


@lean
def _put_back(c: Columns, st: State, p: Priced, move: Move, count: int) -> float:
    """Put who was taken out where they cost least, the largest first: what they then cost."""
    usd = 0.0
    for a in range(1, count):
        pick, most = a, -1.0
        for b in range(a, count):
            area = float(c.modes[move.mode[b]]["takes"]) * c.modes[move.mode[b]]["length"]
            if area > most:
                pick, most = b, area
        move.job[a], move.job[pick] = move.job[pick], move.job[a]
        move.mode[a], move.mode[pick] = move.mode[pick], move.mode[a]
        move.start[a], move.start[pick] = move.start[pick], move.start[a]
        j = move.job[a]
        i, s = best_spot(c, st, p, j, 0, np.inf)
        if i >= 0 and usd_at(c, j, i, s) < c.jobs[j]["penalty_usd"]:
            put(c, st, j, i, s)
        usd += usd_at(c, j, st.mode[j], st.start[j])
    return usd
