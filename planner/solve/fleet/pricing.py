"""What each job would do at given prices, exactly: its cheapest mode and start.

For each (class, length) a suffix minimum over starts answers a mode that may end with the horizon
in O(1); a mode with a deadline scans its own window, and only where it could still win.

A job that may stop and go on, or go on in another mode, can do better than any run in one piece.
Its value is bounded from below by letting it use any slots of its modes' windows, each slot in any
mode: with w[m] = 1 / slots of work and a[m] = usd w[m], every multiplier mu >= 0 proves

    value >= mu + sum over slots t of min(0, min over m of a[m] + takes[m] price[m, t] - mu w[m])

(the Lagrangian of "all the work is done"; stops are free in it). ``mu`` is kept from pass to pass.
Of a job that runs already, w counts what is left to do at least, and where a pool's price changes,
a[m] is that of the slot.
"""

from __future__ import annotations

import numpy as np

from planner.compiled import compiled, lean
from planner.solve.fleet.columns import WHOLE, Columns, Floats, Ints, Priced, Records, totals
from planner.solve.fleet.state import money

MU_STEP = 0.1  # of mu, at first; halved whenever it overshoots


class Pricer:
    """Prices all jobs, pass after pass."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.split = np.flatnonzero(columns.jobs["pieces"] != WHOLE).astype(np.int32)
        self.mu = np.full(self.split.size, -1.0)
        self.step = np.full(self.split.size, MU_STEP)

    def priced(self, prices: Floats) -> Priced:
        """The lookups for ``prices`` (R, T)."""
        c = self.columns
        total = totals(c, prices)
        shape = (c.pairs.size, c.slots + 1)
        best, at = np.empty(shape), np.empty(shape, dtype=np.int32)
        cheapest_starts(total, c.pairs, best, at)
        each = np.diff(total, axis=1)[c.profile_cls]
        profile_usd: Floats = np.einsum("pt,pt->p", c.profiles, each)
        return Priced(total=total, best=best, at=at, profile_usd=profile_usd)

    def values(self, priced: Priced) -> tuple[Floats, Ints, Ints]:
        """Least cost, mode (-1: left out) and start of each job, in one piece."""
        c = self.columns
        value = np.empty(c.job_count)
        mode, start = np.empty(c.job_count, dtype=np.int32), np.empty(c.job_count, dtype=np.int32)
        price_jobs(c, 0, c.job_count, priced, value, mode, start)
        return value, mode, start

    def relax(self, priced: Priced, value: Floats, passes: int = 1) -> Floats:
        """``value`` with that of jobs that may be split lowered to what is proved of them."""
        if not self.split.size:
            return value
        new = self.mu < 0
        self.mu[new] = value[self.split[new]]
        proved = np.full(self.split.size, -np.inf)
        for _ in range(passes):
            split_values(self.columns, self.split, priced.total, self.mu, self.step, proved)
        lowered = value.copy()
        lowered[self.split] = np.minimum(proved, value[self.split])
        return lowered


@lean
def cheapest_starts(total: Floats, pairs: Records, best: Floats, at: Ints) -> None:
    """Fill ``best`` (Q, T + 1) and ``at``: the least price from any start >= s, and where."""
    slots = total.shape[1] - 1
    for q in range(pairs.size):
        cls, length = pairs[q]["cls"], pairs[q]["length"]
        best[q, :] = np.inf
        at[q, :] = 0
        least, where = np.inf, 0
        for s in range(slots - length, -1, -1):
            price = total[cls, s + length] - total[cls, s]
            if price <= least:
                least, where = price, s
            best[q, s] = least
            at[q, s] = where


@lean
def price_jobs(
    c: Columns, begin: int, end: int, p: Priced, value: Floats, mode: Ints, start: Ints
) -> None:
    """For jobs ``begin`` to ``end``: the least cost, and the mode (-1: left out) and start of it.

    Modes stand in order of cost and prices are never below 0: the first that costs too much by
    itself ends the search.
    """
    modes, total, best, at = c.modes, p.total, p.best, p.at
    for j in range(begin, end):
        job = c.jobs[j]
        least, which, when = job["unplaced_usd"], -1, 0
        for i in range(job["first"], job["end"]):
            m = modes[i]
            s, d, usd = m["first"], m["length"], m["usd"]
            if usd >= least:
                break
            if m["profile"] >= 0:
                floor = usd + p.profile_usd[m["profile"]]
            else:
                floor = usd + m["takes"] * best[m["pair"], s]
            if floor >= least:
                continue
            s = at[m["pair"], s] if m["profile"] < 0 else s
            changes = m["extra"] >= 0  # what it costs, by its start
            if not changes and s <= m["last"] and s + d <= job["due"]:
                least, which, when = floor, i, s
                continue
            for s in range(m["first"], m["last"] + 1):
                if m["profile"] >= 0:
                    price = p.profile_usd[m["profile"]]
                else:
                    price = m["takes"] * (total[m["cls"], s + d] - total[m["cls"], s])
                cost = money(c, i, s) if changes else usd
                cost += price + max(0, s + d - job["due"]) * job["late_usd"]
                if cost < least:
                    least, which, when = cost, i, s
        value[j], mode[j], start[j] = least, which, when


@lean
def add_usage(c: Columns, mode: Ints, start: Ints, change: Floats) -> None:
    """Add what jobs take to ``change`` (R, T + 1), by its rise from slot to slot."""
    for j in range(mode.size):
        if mode[j] < 0:
            continue
        m = c.modes[mode[j]]
        end = start[j] + m["length"]
        for k in range(c.rows.shape[1]):
            r = c.rows[m["cls"], k]
            if r >= 0 and m["profile"] < 0:
                change[r, start[j]] += m["takes"]
                change[r, end] -= m["takes"]
            elif r >= 0:
                before = 0
                for t in range(start[j], end):
                    now = c.profiles[m["profile"], t]
                    change[r, t] += now - before
                    before = now
                change[r, end] -= before


@lean
def split_extra(c: Columns, i: int, total: Floats, mu: float, gain: Floats, rate: Floats) -> None:
    """The same of a mode with extras: by its least work, at each slot's price."""
    m, x = c.modes[i], c.extras[c.modes[i]["extra"]]
    each, n = 1.0 / x["least_work"], x["ratio"]
    for t in range(m["first"], x["until"]):
        usd = x["slot_usd"]
        if n >= 0:
            usd *= c.ratios[n, t + 1] - c.ratios[n, t]
        net = (
            (mu - m["egress_usd"]) * each
            - usd
            - m["takes"] * (total[m["cls"], t + 1] - total[m["cls"], t])
        )
        if net > gain[t]:
            gain[t], rate[t] = net, each


@compiled
def split_values(
    c: Columns, split: Ints, total: Floats, mu: Floats, step: Floats, proved: Floats
) -> None:
    """What is proved of each job that may be split; ``mu`` moves towards proving more."""
    slots = total.shape[1] - 1
    gain, rate = np.empty(slots), np.empty(slots)
    for n in range(split.size):
        job = c.jobs[split[n]]
        gain[:] = 0.0
        rate[:] = 0.0
        for i in range(job["first"], job["end"]):
            m, x = c.modes[i], c.modes[i]["extra"]
            if x >= 0:
                split_extra(c, i, total, mu[n], gain, rate)
                continue
            each = 1.0 / m["work"]
            ahead = (mu[n] - m["usd"]) * each
            if ahead <= 0.0:
                continue
            for t in range(m["first"], m["last"] + m["length"]):
                net = ahead - m["takes"] * (total[m["cls"], t + 1] - total[m["cls"], t])
                if net > gain[t]:
                    gain[t], rate[t] = net, each
        proved[n] = max(proved[n], min(mu[n] - gain.sum(), job["unplaced_usd"]))
        rising = rate.sum() < 1.0
        mu[n] *= 1.0 + step[n] if rising else 1.0 / (1.0 + step[n])
        step[n] = min(MU_STEP, step[n] * 1.2) if rising else step[n] * 0.5
