"""A plan under change: jobs put in and taken out over arrays.

Room is looked at by `best_spot` and `fits`; `put` books whatever it is given, and may overbook: a
move does so and then clears the way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from planner.compiled import lean
from planner.solve.fleet.columns import Columns, Floats, Ints, Priced


class State(NamedTuple):
    """Who is where. Shapes as in `Columns`; W is the most rows of a class.

    A state may hold a part of the jobs: ``ours``, and of each row what they may take.
    """

    free: Ints  # (R, T)
    left_usd: Floats  # (B)
    mode: Ints  # (J) -1: left out
    start: Ints  # (J)
    ours: Ints  # jobs that may be moved
    member: Ints  # (R, jobs) those of them that are in each row, in no order
    members: Ints  # (R)
    place: Ints  # (J, W) where a job stands in its rows' lists
    random: npt.NDArray[np.uint64]  # (1)


def empty(c: Columns, seed: int) -> State:
    """Nobody placed yet."""
    movable = (c.jobs["end"] > c.jobs["first"]) & (c.jobs["fixed"] == 0)
    ours = np.flatnonzero(movable).astype(np.int32)
    return State(
        free=c.capacity.copy(),
        left_usd=c.budgets["usd"].copy(),
        mode=np.full(c.job_count, -1, dtype=np.int32),
        start=np.zeros(c.job_count, dtype=np.int32),
        ours=ours,
        member=np.zeros((c.capacity.shape[0], c.job_count), dtype=np.int32),
        members=np.zeros(c.capacity.shape[0], dtype=np.int32),
        place=np.zeros((c.job_count, c.rows.shape[1]), dtype=np.int32),
        random=seeded(seed),
    )


def seeded(seed: int) -> npt.NDArray[np.uint64]:
    """A generator's state, never 0."""
    return np.random.default_rng(seed).integers(1, 2**63, size=1, dtype=np.uint64)


def restore(c: Columns, mode: Ints, start: Ints, seed: int) -> State:
    """The state in which jobs are where ``mode`` and ``start`` (J) say."""
    state = empty(c, seed)
    put_all(c, state, mode, start)
    return state


@lean
def draw(random: npt.NDArray[np.uint64], below: int) -> int:
    """From 0 to ``below`` - 1 (xorshift: G. Marsaglia, J. Statistical Software 8, 2003)."""
    x = random[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    random[0] = x
    return int(np.int64((x >> np.uint64(11)) % np.uint64(below)))


@lean
def fraction(random: npt.NDArray[np.uint64]) -> float:
    """A number from 0 to 1, 0 and 1 excluded."""
    return (draw(random, 1 << 30) + 0.5) / float(1 << 30)


@lean
def until(c: Columns, n: int, at: float) -> float:
    """Slots from 0 to ``at`` by row ``n`` of the ratios, a part of the last in proportion."""
    slots = c.ratios.shape[1] - 1
    whole = min(int(at), slots)
    total = c.ratios[n, whole]
    if whole < slots:
        total += (at - whole) * (c.ratios[n, whole + 1] - total)
    return float(total)


@lean
def money(c: Columns, i: int, s: int) -> float:
    """What mode ``i`` costs from slot ``s``, lateness apart; inf where that is more than it may."""
    m = c.modes[i]
    if m["extra"] < 0:
        return float(m["usd"])
    x, usd = c.extras[m["extra"]], m["usd"]
    if x["ratio"] >= 0 and m["profile"] < 0:
        slots = until(c, x["ratio"], s + m["work"]) - c.ratios[x["ratio"], s]
        usd = x["slot_usd"] * slots + m["egress_usd"]
    return float(usd) if usd <= x["most_usd"] else np.inf


@lean
def money_of(c: Columns, mode: Ints, start: Ints, usd: Floats) -> None:
    """Fill ``usd`` (J): what jobs cost where they are; 0 for those that are left out."""
    for j in range(mode.size):
        usd[j] = money(c, mode[j], start[j]) if mode[j] >= 0 else 0.0


@lean
def spent(c: Columns, i: int, s: int, b: int) -> float:
    """Money of mode ``i`` from ``s`` that falls into budget ``b``'s month."""
    m, first, end = c.modes[i], c.budgets[b]["first"], c.budgets[b]["end"]
    n = c.extras[m["extra"]]["ratio"] if m["extra"] >= 0 else -1
    brought = m["egress_usd"] if first <= s < end else 0.0
    hourly = m["usd"] - m["egress_usd"]
    if m["profile"] < 0 and n >= 0:
        begin, behind = max(s, first), min(s + m["work"], float(end))
        slots = until(c, n, behind) - c.ratios[n, begin] if behind > begin else 0.0
        return float(c.extras[m["extra"]]["slot_usd"] * slots + brought)
    if m["profile"] < 0:
        inside = max(0.0, min(s + m["work"], float(end)) - max(s, first))
        return float(hourly * inside / m["work"] + brought)
    within, all_of_it = 0.0, 0.0
    for t in range(s, s + m["length"]):
        takes = float(c.profiles[m["profile"], t])
        if n >= 0:
            takes *= c.ratios[n, t + 1] - c.ratios[n, t]
        all_of_it += takes
        within += takes if first <= t < end else 0.0
    return float((hourly * within / all_of_it if all_of_it > 0.0 else 0.0) + brought)


@lean
def book(c: Columns, st: State, j: int, i: int, s: int, sign: int) -> None:
    """Take (1) or give back (-1) what mode ``i`` of job ``j`` uses from slot ``s``."""
    m = c.modes[i]
    free, cls, length, profile = st.free, m["cls"], m["length"], m["profile"]
    for k in range(c.rows.shape[1]):
        r = c.rows[cls, k]
        if r < 0:
            continue
        if profile < 0:
            takes = sign * m["takes"]
            for t in range(s, s + length):
                free[r, t] -= takes
        else:
            for t in range(s, s + length):
                free[r, t] -= sign * c.profiles[profile, t]
    for k in range(c.spends.shape[1]):
        b = c.spends[j, k]
        if b >= 0:
            st.left_usd[b] -= sign * spent(c, i, s, b)


@lean
def put(c: Columns, st: State, j: int, i: int, s: int) -> None:
    """Book job ``j`` in mode ``i`` from slot ``s``."""
    m = c.modes[i]
    book(c, st, j, i, s, 1)
    if not c.jobs[j]["fixed"]:
        for k in range(c.rows.shape[1]):
            r = c.rows[m["cls"], k]
            if r >= 0:
                st.place[j, k] = st.members[r]
                st.member[r, st.members[r]] = j
                st.members[r] += 1
    st.mode[j], st.start[j] = i, s


@lean
def put_all(c: Columns, st: State, mode: Ints, start: Ints) -> None:
    """Book every job where ``mode`` and ``start`` have it."""
    for j in range(mode.size):
        if mode[j] >= 0:
            put(c, st, j, mode[j], start[j])


@lean
def enlist(c: Columns, st: State) -> None:
    """Put ``ours`` who are placed into their rows' lists."""
    for j in st.ours:
        if st.mode[j] >= 0:
            for k in range(c.rows.shape[1]):
                r = c.rows[c.modes[st.mode[j]]["cls"], k]
                if r >= 0:
                    st.place[j, k] = st.members[r]
                    st.member[r, st.members[r]] = j
                    st.members[r] += 1


@lean
def take_out(c: Columns, st: State, j: int) -> None:
    """Undo `put`."""
    i = st.mode[j]
    m = c.modes[i]
    book(c, st, j, i, st.start[j], -1)
    for k in range(c.rows.shape[1]):
        r = c.rows[m["cls"], k]
        if r < 0:
            continue
        end = st.members[r] - 1
        other = st.member[r, end]  # the last of the list takes the place that falls free
        st.member[r, st.place[j, k]] = other
        st.members[r] = end
        for w in range(c.rows.shape[1]):
            if c.rows[c.modes[st.mode[other]]["cls"], w] == r:
                st.place[other, w] = st.place[j, k]
    st.mode[j] = -1


@lean
def usd_at(c: Columns, j: int, i: int, s: int) -> float:
    """What job ``j`` costs in mode ``i`` from ``s``, moving included; left out (-1): a penalty."""
    job = c.jobs[j]
    if i < 0:
        return float(job["penalty_usd"])
    m = c.modes[i]
    usd = money(c, i, s) + max(0, s + m["length"] - job["due"]) * job["late_usd"]
    if job["kept_mode"] >= 0 and (i != job["kept_mode"] or s != job["kept_start"]):
        usd += job["move_usd"]
    return float(usd)


@lean
def paid(c: Columns, p: Priced, i: int, s: int) -> float:
    """What mode ``i`` from ``s`` pays for the capacity that it takes."""
    m = c.modes[i]
    if m["profile"] >= 0:
        return float(p.profile_usd[m["profile"]])
    price = p.total[m["cls"], s + m["length"]] - p.total[m["cls"], s]
    return float(m["takes"] * price)


@lean
def fits(c: Columns, st: State, j: int, i: int, s: int) -> bool:
    """Whether there is room, and money, for mode ``i`` of job ``j`` from ``s``."""
    m = c.modes[i]
    free, cls, profile, takes = st.free, m["cls"], m["profile"], m["takes"]
    for k in range(c.rows.shape[1]):
        r = c.rows[cls, k]
        if r >= 0:
            for t in range(s, s + m["length"]):
                need = takes if profile < 0 else c.profiles[profile, t]
                if free[r, t] < need:
                    return False
    return affordable(c, st, j, i, s)


@lean
def affordable(c: Columns, st: State, j: int, i: int, s: int) -> bool:
    """Whether the job, and the budgets of its queues, may pay for mode ``i`` from ``s``."""
    if c.modes[i]["extra"] >= 0 and money(c, i, s) == np.inf:
        return False
    for k in range(c.spends.shape[1]):
        b = c.spends[j, k]
        if b >= 0 and spent(c, i, s, b) > st.left_usd[b] + 1e-6:
            return False
    return True


@lean
def best_spot(
    c: Columns, st: State, p: Priced, j: int, ready: int, below: float
) -> tuple[int, int]:
    """The mode (-1: none) and start from ``ready`` on that fit, at the least cost and price."""
    which, when, least = _kept_spot(c, st, p, j, ready, below)
    for i in range(c.jobs[j]["first"], c.jobs[j]["end"]):
        m = c.modes[i]
        if m["usd"] >= least:
            break
        if m["profile"] >= 0:
            cost = m["usd"] + p.profile_usd[m["profile"]]
            if m["first"] >= ready and cost < least and fits(c, st, j, i, m["first"]):
                least, which, when = cost, i, m["first"]
            continue
        first = max(ready, m["first"])
        if first > m["last"] or m["usd"] + m["takes"] * p.best[m["pair"], first] >= least:
            continue
        s, cost = _best_start(c, st, p, j, i, first, least)
        if s >= 0:
            least, which, when = cost, i, s
    return which, when


@lean
def _kept_spot(
    c: Columns, st: State, p: Priced, j: int, ready: int, below: float
) -> tuple[int, int, float]:
    """Where the last plan has job ``j``, if it fits: cheaper by the price of moving."""
    i, s = c.jobs[j]["kept_mode"], c.jobs[j]["kept_start"]
    if i >= 0 and s >= ready and fits(c, st, j, i, s):
        usd = usd_at(c, j, i, s) + paid(c, p, i, s) - c.jobs[j]["move_usd"]
        if usd < below:
            return i, s, usd
    return -1, 0, below


@lean
def _best_start(
    c: Columns, st: State, p: Priced, j: int, i: int, first: int, least: float
) -> tuple[int, float]:
    """The start of mode ``i`` that fits and costs least, below ``least``; (-1, least) for none.

    One walk along the slots, counting those in a row that have room.
    """
    m = c.modes[i]
    free, rows, total, length, takes = st.free, c.rows[m["cls"]], p.total, m["length"], m["takes"]
    cls, due, late_usd, usd = m["cls"], c.jobs[j]["due"], c.jobs[j]["late_usd"], m["usd"]
    when, run = -1, 0
    for t in range(first, m["last"] + length):
        room = free[rows[0], t]
        for k in range(1, rows.size):
            if rows[k] >= 0:
                room = min(room, free[rows[k], t])
        run = run + 1 if room >= takes else 0
        if run >= length:
            s = t + 1 - length
            cost = (usd if m["extra"] < 0 else money(c, i, s)) + takes * (
                total[cls, t + 1] - total[cls, s]
            )
            cost += max(0, t + 1 - due) * late_usd
            if cost < least and affordable(c, st, j, i, s):
                least, when = cost, s
    return when, least


@lean
def penalised(c: Columns, st: State) -> float:
    """The cost of a plan to the search."""
    usd = 0.0
    for j in range(st.mode.size):
        usd += usd_at(c, j, st.mode[j], st.start[j])
    return usd


@lean
def insert(c: Columns, st: State, p: Priced, order: Ints) -> None:
    """Put the jobs of ``order`` one by one where they cost least; who fits nowhere stays out."""
    for j in order:
        if st.mode[j] < 0 and c.jobs[j]["first"] < c.jobs[j]["end"]:
            i, s = best_spot(c, st, p, j, 0, np.inf)
            if i >= 0 and usd_at(c, j, i, s) < c.jobs[j]["penalty_usd"]:
                put(c, st, j, i, s)


@lean
def insert_wanted(c: Columns, st: State, modes: Ints, starts: Ints, order: Ints) -> None:
    """Put each job of ``order`` where a sample (S, J), drawn at random, has it and it fits."""
    samples = modes.shape[0]
    for j in order:
        offset = draw(st.random, samples)
        for a in range(samples):
            n = (offset + a) % samples
            if modes[n, j] >= 0 and fits(c, st, j, modes[n, j], starts[n, j]):
                put(c, st, j, modes[n, j], starts[n, j])
                break
