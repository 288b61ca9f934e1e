"""The plan under change: jobs put in and taken out over arrays, and an annealed search of ejections.

A move forces one job into a mode and start that its prices like, takes out who is in the way, puts
these back where they cost least in the room that is left, and is kept or undone by its true cost
(simulated annealing: S. Kirkpatrick, C. D. Gelatt and M. P. Vecchi, Science 220, 1983).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from planner.compiled import compiled
from planner.solve.fleet.columns import Columns, Floats, Ints, Longs

MOST_OUT = 7


class State(NamedTuple):
    """A plan: shapes as in `Columns`."""

    free: Ints  # (R, T)
    mode: Ints  # (J) -1: left out
    start: Ints  # (J)
    member: Ints  # (R, J) the jobs of each row, in no order
    members: Ints  # (R)
    place: Ints  # (J, most rows of a class) where a job stands in its rows' lists
    random: npt.NDArray[np.uint64]  # (1)


def empty(c: Columns, seed: int) -> State:
    rows, jobs = c.capacity.shape[0], c.unplaced_usd.size
    return State(
        free=c.capacity.copy(),
        mode=np.full(jobs, -1, dtype=np.int32),
        start=np.zeros(jobs, dtype=np.int32),
        member=np.zeros((rows, jobs), dtype=np.int32),
        members=np.zeros(rows, dtype=np.int32),
        place=np.zeros((jobs, c.rows.shape[1]), dtype=np.int32),
        random=np.array([seed * 2654435761 + 88172645463325252], dtype=np.uint64),
    )


@compiled
def draw(random, below: int) -> int:
    """A number from 0 to ``below`` - 1 (xorshift: G. Marsaglia, J. Statistical Software 8, 2003)."""
    x = random[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    random[0] = x
    return np.int64((x >> np.uint64(11)) % np.uint64(below))


@compiled
def fraction(random) -> float:
    return draw(random, 1 << 30) / float(1 << 30)


@compiled
def put(c, st, j, i, s):
    """Book job ``j`` in mode ``i`` from slot ``s``; room is not looked at."""
    g, d = c.takes[i], c.length[i]
    for k in range(c.rows.shape[1]):
        r = c.rows[c.cls[i], k]
        if r >= 0:
            for t in range(s, s + d):
                st.free[r, t] -= g
            st.place[j, k] = st.members[r]
            st.member[r, st.members[r]] = j
            st.members[r] += 1
    st.mode[j], st.start[j] = i, s


@compiled
def take_out(c, st, j):
    i, s = st.mode[j], st.start[j]
    g, d = c.takes[i], c.length[i]
    for k in range(c.rows.shape[1]):
        r = c.rows[c.cls[i], k]
        if r >= 0:
            for t in range(s, s + d):
                st.free[r, t] += g
            at, end = st.place[j, k], st.members[r] - 1
            other = st.member[r, end]
            st.member[r, at] = other
            st.members[r] = end
            # the list of row r may be another column of the other job
            for kk in range(c.rows.shape[1]):
                if c.rows[c.cls[st.mode[other]], kk] == r:
                    st.place[other, kk] = at
    st.mode[j] = -1


@compiled
def usd_at(c, j, i, s):
    """True cost of job ``j`` in mode ``i`` (-1: left out) from ``s``."""
    if i < 0:
        return c.unplaced_usd[j]
    usd = c.usd[i]
    over = s + c.length[i] - c.due[j]
    if over > 0:
        usd += over * c.late_usd[j]
    return usd


@compiled
def best_spot(c, st, total, best, j, most, noise):
    """Where job ``j`` fits at the least cost and price below ``most``: (mode or -1, start, cost)."""
    least, which, when = most, -1, 0
    slots = st.free.shape[1]
    for i in range(c.of_job[j], c.of_job[j + 1]):
        usd = c.usd[i]
        if usd >= least:
            break
        g, d, first, last = c.takes[i], c.length[i], c.first[i], c.last[i]
        cls = c.cls[i]
        if usd + noise * g * best[c.pair[i], first] >= least:
            continue
        row = total[cls]
        pool = c.rows[cls, 0]
        run = 0
        end = last + d
        t = first
        while t < end:
            ok = st.free[pool, t] >= g
            if ok:
                for k in range(1, c.rows.shape[1]):
                    r = c.rows[cls, k]
                    if r >= 0 and st.free[r, t] < g:
                        ok = False
                        break
            if ok:
                run += 1
                if run >= d:
                    s = t - d + 1
                    cost = usd + noise * g * (row[t + 1] - row[s])
                    over = t + 1 - c.due[j]
                    if over > 0:
                        cost += over * c.late_usd[j]
                    if cost < least:
                        least, which, when = cost, i, s
            else:
                run = 0
                if t + d >= end:
                    break
            t += 1
    return which, when, least


@compiled
def insert_all(c, st, total, best, order, weight):
    """Insert the jobs of ``order`` one by one where they cost least; those that fit nowhere stay out."""
    for n in range(order.size):
        j = order[n]
        if st.mode[j] >= 0:
            continue
        i, s, _ = best_spot(c, st, total, best, j, np.inf, weight)
        if i >= 0 and usd_at(c, j, i, s) < c.unplaced_usd[j]:
            put(c, st, j, i, s)


@compiled
def fits(c, st, i, s):
    g = c.takes[i]
    for k in range(c.rows.shape[1]):
        r = c.rows[c.cls[i], k]
        if r >= 0:
            for t in range(s, s + c.length[i]):
                if st.free[r, t] < g:
                    return False
    return True


@compiled
def short(c, st, i, s):
    """The row and slot of what is most overbooked while mode ``i`` runs from ``s``; (-1, 0): nothing."""
    row, slot, most = -1, 0, 0
    for k in range(c.rows.shape[1]):
        r = c.rows[c.cls[i], k]
        if r >= 0:
            for t in range(s, s + c.length[i]):
                if st.free[r, t] < most:
                    row, slot, most = r, t, st.free[r, t]
    return row, slot


@compiled
def someone(c, st, r, t, need, forced, tries):
    """A job of row ``r`` that holds it at slot ``t``; of those drawn, the one whose size suits best."""
    found, score = -1, 1e18
    n = st.members[r]
    hits = 0
    for _ in range(tries):
        j = st.member[r, draw(st.random, n)]
        i, s = st.mode[j], st.start[j]
        if j != forced and s <= t and t < s + c.length[i]:
            g = c.takes[i]
            area = float(g * c.length[i])
            if g < need:
                area *= float(need) / g
            area *= 0.5 + fraction(st.random)
            if area < score:
                found, score = j, area
            hits += 1
            if hits >= 3:
                break
    return found


@compiled
def anneal(c, st, total, best, value, moves, hot, cold, weight):
    """``moves`` moves, the temperature falling from ``hot`` to ``cold`` (USD); what was gained."""
    jobs = c.unplaced_usd.size
    out = np.empty(MOST_OUT + 1, dtype=np.int32)
    old_mode = np.empty(MOST_OUT + 1, dtype=np.int32)
    old_start = np.empty(MOST_OUT + 1, dtype=np.int32)
    change_total, best_total = 0.0, 0.0
    accepted = 0
    best_mode, best_start = st.mode.copy(), st.start.copy()
    stale = True
    for n in range(moves):
        heat = hot * (cold / hot) ** (n / moves)
        # 1. who: of some drawn, the one that is furthest from what it would do at these prices
        j, worst = -1, 0.0
        for _ in range(4):
            one = draw(st.random, jobs)
            if c.of_job[one] == c.of_job[one + 1]:
                continue
            i = st.mode[one]
            if i < 0:
                regret = c.unplaced_usd[one] - value[one]
            else:
                s = st.start[one]
                row = total[c.cls[i]]
                regret = usd_at(c, one, i, s) + c.takes[i] * (row[s + c.length[i]] - row[s]) - value[one]
            if regret >= worst:
                j, worst = one, regret
        if j < 0:
            continue
        # 2. where to
        bar = value[j] + worst * fraction(st.random) + 1e-9
        which, when, low = -1, 0, np.inf
        for i in range(c.of_job[j], c.of_job[j + 1]):
            if c.usd[i] >= bar + heat:
                break
            floor = c.usd[i] + c.takes[i] * best[c.pair[i], c.first[i]]
            if floor > bar + heat:
                continue
            row = total[c.cls[i]]
            for _ in range(3):
                s = c.first[i] + draw(st.random, c.last[i] - c.first[i] + 1)
                cost = usd_at(c, j, i, s) + c.takes[i] * (row[s + c.length[i]] - row[s])
                cost += heat * fraction(st.random)
                if cost < low and not (i == st.mode[j] and s == st.start[j]):
                    which, when, low = i, s, cost
        if which < 0:
            continue
        # 3. out with who is in the way
        count = 1
        out[0], old_mode[0], old_start[0] = j, st.mode[j], st.start[j]
        if st.mode[j] >= 0:
            take_out(c, st, j)
        put(c, st, j, which, when)
        failed = False
        while True:
            r, t = short(c, st, which, when)
            if r < 0:
                break
            victim = -1
            if count <= MOST_OUT:
                victim = someone(c, st, r, t, -st.free[r, t], j, 40)
            if victim < 0:
                failed = True
                break
            out[count], old_mode[count], old_start[count] = victim, st.mode[victim], st.start[victim]
            take_out(c, st, victim)
            count += 1
        # 4. back in, the largest first
        change = 0.0
        if not failed:
            change = usd_at(c, j, which, when) - usd_at(c, j, old_mode[0], old_start[0])
            for a in range(1, count):
                change -= usd_at(c, out[a], old_mode[a], old_start[a])
            bound = -heat * np.log(max(1e-300, fraction(st.random)))
            for a in range(1, count):
                pick, size = a, -1.0
                for b in range(a, count):
                    g = float(c.takes[old_mode[b]]) * c.length[old_mode[b]]
                    if g > size:
                        pick, size = b, g
                out[a], out[pick] = out[pick], out[a]
                old_mode[a], old_mode[pick] = old_mode[pick], old_mode[a]
                old_start[a], old_start[pick] = old_start[pick], old_start[a]
                v = out[a]
                i, s, _ = best_spot(c, st, total, best, v, np.inf, weight)
                if i >= 0 and usd_at(c, v, i, s) < c.unplaced_usd[v]:
                    put(c, st, v, i, s)
                    change += usd_at(c, v, i, s)
                else:
                    change += c.unplaced_usd[v]
                if change > bound + 1e-9 and change - bound > 0:
                    pass
            failed = change > bound + 1e-9
        if failed:
            for a in range(count):
                if st.mode[out[a]] >= 0:
                    take_out(c, st, out[a])
            for a in range(count):
                if old_mode[a] >= 0:
                    put(c, st, out[a], old_mode[a], old_start[a])
                else:
                    st.start[out[a]] = old_start[a]
            continue
        accepted += 1
        change_total += change
        if change_total < best_total - 1e-9:
            best_total = change_total
    return change_total, accepted


@compiled
def insert_wanted(c, st, modes, starts, order):
    """Put each job of ``order`` where one of the samples (S, J) has it, if it fits there."""
    samples = modes.shape[0]
    for n in range(order.size):
        j = order[n]
        if st.mode[j] >= 0:
            continue
        first = draw(st.random, samples)
        for a in range(samples):
            k = (first + a) % samples
            i = modes[k, j]
            if i >= 0 and fits(c, st, i, starts[k, j]):
                put(c, st, j, i, starts[k, j])
                break
