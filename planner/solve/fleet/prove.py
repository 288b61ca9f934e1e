"""A plan of hundreds of jobs made better, and more proved of it, than prices and annealing can.

1. `linear.relax`   the time-indexed LP over rounded capacity: the best bound by prices.
2. `linear.fix`     columns that no better plan holds go, and with them modes and ends of windows.

Where a plan's cost is decided by its modes (`benders.suits`), two threads go on from there, and
each uses what the other finds:

3. `benders`        whole modes for all jobs, and parts that say no: a better bound, and plans.
4. `contest`        CP-SAT over the parts whose capacity has a price: better plans.

Otherwise:

3. `polish`         CP-SAT over what is left, from the best plan known.
4. `packing.bound`  what large gangs cannot fill, pool by pool, over what is left: a better bound.

2 and 3 take turns until their time is used or the plan is proved: a better plan leaves less to 3.

Model of `polish`, over jobs j, modes m, rows r
    x[m]      mode m is chosen;  sum of x[m] over j's modes + out[j] = 1
    s[j]      start, within m's window where x[m]
    hold      in every slot, what the chosen modes take of r fits its capacity (cumulative)
    cost      sum of usd x[m] + lateness + penalty out[j]

Jobs that wait for others stay where they are. Budgets are not modelled: with them, or with jobs
that may be split, only the bound is looked at.
"""

from __future__ import annotations

import math
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from ortools.sat.python import cp_model

from planner.solve.clock import Clock
from planner.solve.fleet import benders, linear, packing
from planner.solve.fleet.ascent import usage_of
from planner.solve.fleet.benders import Benders
from planner.solve.fleet.columns import WHOLE, Columns, Flags, Floats
from planner.solve.fleet.contest import compete
from planner.solve.fleet.cumulative import Taken, hold
from planner.solve.fleet.improve import Chosen, chosen
from planner.solve.fleet.linear import Linear, Starts

WORKERS = 2
LP_SHARE, POLISH_SHARE = 0.4, 0.5  # of the time that is left, at most
BRIEF_SHARE = 0.25  # the same of the LP where `benders` goes on: its bound is soon above the LP's
TURN_SECONDS = 20.0  # of CP-SAT, before what a better plan rules out is dropped again
MOST_COLUMNS = 400_000  # above, the LP takes longer than it is worth
DONE = 1e-5  # of the cost: a gap that counts as none
MOST_UNITS = 1e13  # of the objective in whole parts of a dollar


@dataclass(frozen=True, slots=True)
class Proof:
    """The best plan, a bound on every plan, and the prices (R, T) that prove it."""

    best: Chosen
    bound_usd: float
    prices: Floats

    @property
    def optimal(self) -> bool:
        """Whether no plan is cheaper."""
        return self.bound_usd >= self.best.usd * (1 - DONE)


def within_reach(c: Columns) -> bool:
    """Whether the problem is small enough for `prove`."""
    return int((c.modes["last"] - c.modes["first"] + 1).sum()) <= MOST_COLUMNS


def prove(
    c: Columns, prices: Floats, best: Chosen, clock: Clock, work: float | None = None
) -> Proof:
    """The best that is found and proved within the clock's limits.

    ``prices`` (R, T) are any prices >= 0, the nearer the LP's the sooner it is solved; ``best`` is
    a plan that keeps capacity. ``work`` is CP-SAT's own measure of it: where it is given, the LP is
    solved to its end, CP-SAT's turns stop at it, and the answer is the same on every machine. Each
    gain is told to the clock's listener. The bound lies on every plan of ``c``; the plan's cost is
    added up anew from its modes and starts. With ``work`` the packing bound is left out: SCIP stops
    by the clock.
    """
    sharp = linear.sharpen(c)
    padded = np.zeros(sharp.capacity.shape)
    padded[: prices.shape[0]] = prices
    decomposed = work is None and benders.suits(c)
    until = clock.seconds + (BRIEF_SHARE if decomposed else LP_SHARE) * clock.left
    proved = linear.relax(
        sharp, padded, lambda _: clock.stop.asked or (work is None and clock.seconds > until)
    )
    proof = Proof(best, min(proved.bound_usd, best.usd), proved.prices[: prices.shape[0]])
    if decomposed:
        return _decomposed(c, sharp, proved, proof, clock)
    whole = bool((c.jobs["pieces"] == WHOLE).all())
    if whole and not c.budgets.size:
        proof = _polished(c, sharp, proved, proof, clock, work)
    if whole and work is None and not proof.optimal and clock.left > 0:
        starts = linear.starts_of(sharp)
        usd = packing.bound(sharp, starts, proved, linear.fix(proved, proof.best.usd), clock)
        proof = replace(proof, bound_usd=max(proof.bound_usd, min(usd, proof.best.usd)))
        _tell(proof, "bounding", clock)
    return proof


def _decomposed(c: Columns, sharp: Columns, proved: Linear, proof: Proof, clock: Clock) -> Proof:
    """Bound and plan at once, until the clock's time is used or they meet."""
    shared = Benders(c, sharp, proved, proof.best, clock)
    until = clock.seconds + clock.left
    with ThreadPoolExecutor(2) as pool:
        for each in (pool.submit(shared.run, until), pool.submit(compete, shared, until)):
            each.result()
    best = shared.best if feasible(c, shared.best) else proof.best
    usd = max(proof.bound_usd, min(shared.bound_usd, best.usd))
    proof = replace(proof, best=best, bound_usd=usd)
    _tell(proof, "proving", clock)
    return proof


def _tell(proof: Proof, doing: str, clock: Clock) -> None:
    best = proof.best
    clock.say(doing, bound=proof.bound_usd, best=best.usd, not_running=best.not_running_usd)


def feasible(c: Columns, plan: Chosen) -> bool:
    """Whether the plan keeps windows and capacity, looked at anew."""
    mode, start = plan.mode, plan.start
    j = np.flatnonzero(mode >= 0)
    m = c.modes[mode[j]]
    ours = (mode[j] >= c.jobs["first"][j]) & (mode[j] < c.jobs["end"][j])
    inside = (start[j] >= m["first"]) & (start[j] <= m["last"])
    return bool(ours.all() and inside.all() and (usage_of(c, mode, start) <= c.capacity).all())


def _polished(
    c: Columns, sharp: Columns, proved: Linear, proof: Proof, clock: Clock, work: float | None
) -> Proof:
    """CP-SAT in turns, each over what the plan so far leaves."""
    starts = linear.starts_of(sharp)
    until = clock.seconds + (1.0 if work is not None else POLISH_SHARE) * clock.left
    while not proof.optimal and not clock.stop.asked and clock.seconds < until:
        kept = _kept(c, proved, proof.best)
        seconds = until - clock.seconds
        seconds = seconds if work is not None else min(TURN_SECONDS, seconds)
        before, proof = proof, _Polish(c, starts, kept, proof, clock).run(seconds, work)
        if work is not None and proof.best.usd >= before.best.usd:
            break
    return proof


def _kept(c: Columns, proved: Linear, best: Chosen) -> Flags:
    """(N) what a better plan may hold; all, where tiers may make a dearer plan the better one."""
    if best.not_running_usd > 0 and (c.jobs["penalty_usd"] != c.jobs["unplaced_usd"]).any():
        return np.ones(proved.regret.size, dtype=np.bool_)
    return linear.fix(proved, best.usd)


@dataclass(slots=True)
class _Polish:
    """CP-SAT's model of one turn."""

    c: Columns
    starts: Starts
    kept: Flags
    proof: Proof
    clock: Clock
    cp: cp_model.CpModel = field(default_factory=cp_model.CpModel)
    on: dict[int, cp_model.IntVar] = field(default_factory=dict)  # by mode
    at: dict[int, cp_model.IntVar] = field(default_factory=dict)  # by job
    held: defaultdict[int, Taken] = field(default_factory=lambda: defaultdict(list))
    usd: list[tuple[cp_model.IntVar, float, int]] = field(default_factory=list)  # each, most

    def run(self, seconds: float, work: float | None) -> Proof:
        """The proof after so many seconds, or so much ``work``."""
        windows = self._windows()
        for j in range(self.c.job_count):
            self._define_job(j, windows)
        for r, taken in sorted(self.held.items()):
            hold(self.cp, self.c.capacity[r], taken)
        units = self._units()
        self.cp.minimize(sum(var * round(usd * units) for var, usd, _ in self.usd))
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = seconds
        solver.parameters.num_workers = WORKERS
        solver.parameters.random_seed = self.clock.limits.seed
        if work is not None:
            solver.parameters.interleave_search = True
            solver.parameters.max_deterministic_time = work
        with self.clock.stop.reaches(solver.stop_search):
            status = solver.solve(self.cp)
        return self._read(solver, status, units)

    def _windows(self) -> dict[int, tuple[int, int]]:
        """(first, last) start of each mode that may still be used."""
        mode, start = self.starts.mode[self.kept], self.starts.start[self.kept]
        used, begin = np.unique(mode, return_index=True)  # starts of a mode stand in order
        end = np.append(begin[1:], mode.size) - 1
        return {
            int(i): (int(start[a]), int(start[b])) for i, a, b in zip(used, begin, end, strict=True)
        }

    def _define_job(self, j: int, windows: dict[int, tuple[int, int]]) -> None:
        job, best = self.c.jobs[j], self.proof.best
        now, begins = int(best.mode[j]), int(best.start[j])
        if job["fixed"]:
            windows = {now: (begins, begins)} if now >= 0 else {}
        ours = [i for i in range(job["first"], job["end"]) if i in windows]
        out = self.cp.new_bool_var(f"out[{j}]")
        self.usd.append((out, float(job["penalty_usd"]), 1))
        self.cp.add_hint(out, now < 0)
        self.cp.add_exactly_one([out, *(self._define_mode(i) for i in ours)])
        if not ours:
            return
        at = self.at[j] = self.cp.new_int_var(
            min(windows[i][0] for i in ours), max(windows[i][1] for i in ours), f"s[{j}]"
        )
        if now >= 0:
            self.cp.add_hint(at, begins)
        for i in ours:
            self.cp.add_hint(self.on[i], i == now)
            self.cp.add_linear_constraint(at, *windows[i]).only_enforce_if(self.on[i])
            self._take(i, at)
        self._define_lateness(j, ours, windows)

    def _define_mode(self, i: int) -> cp_model.IntVar:
        on = self.on[i] = self.cp.new_bool_var(f"x[{i}]")
        self.usd.append((on, float(self.c.modes["usd"][i]), 1))
        return on

    def _define_lateness(
        self, j: int, ours: list[int], windows: dict[int, tuple[int, int]]
    ) -> None:
        job, length = self.c.jobs[j], self.c.modes["length"]
        most = max(windows[i][1] + int(length[i]) for i in ours) - int(job["due"])
        if most <= 0 or not job["late_usd"]:
            return
        late = self.cp.new_int_var(0, most, f"late[{j}]")
        for i in ours:
            end = self.at[j] + int(length[i])
            self.cp.add(late >= end - int(job["due"])).only_enforce_if(self.on[i])
        self.usd.append((late, float(job["late_usd"]), most))

    def _take(self, i: int, at: cp_model.IntVar) -> None:
        """Book what mode ``i`` takes from ``at`` on, in pieces where that changes."""
        c, m = self.c, self.c.modes[i]
        length, each = int(m["length"]), np.full(int(m["length"]), m["takes"])
        if m["profile"] >= 0:
            each = c.profiles[m["profile"], m["first"] : m["first"] + length]
        edges = [0, *(np.flatnonzero(np.diff(each)) + 1).tolist(), length]
        for a, b in pairwise(edges):
            piece = self.cp.new_optional_fixed_size_interval_var(
                at + a, b - a, self.on[i], f"i[{i},{a}]"
            )
            for r in c.rows[m["cls"]]:
                if r >= 0:
                    self.held[int(r)].append((piece, int(each[a])))

    def _units(self) -> float:
        """Parts of a dollar in which the objective is whole."""
        return min(1e5, MOST_UNITS / max(1.0, math.fsum(usd * most for _, usd, most in self.usd)))

    def _read(
        self, solver: cp_model.CpSolver, status: cp_model.CpSolverStatus, units: float
    ) -> Proof:
        proof = self.proof
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            found = self._chosen(solver)
            best = found if found.usd < proof.best.usd and feasible(self.c, found) else proof.best
            usd = min(self._bound_usd(solver, units), best.usd)
            proof = replace(proof, best=best, bound_usd=max(proof.bound_usd, usd))
        _tell(proof, "polishing", self.clock)
        return proof

    def _chosen(self, solver: cp_model.CpSolver) -> Chosen:
        mode, start = np.full_like(self.proof.best.mode, -1), self.proof.best.start.copy()
        for j, at in self.at.items():
            job = self.c.jobs[j]
            for i in range(job["first"], job["end"]):
                if i in self.on and solver.boolean_value(self.on[i]):
                    mode[j], start[j] = i, solver.value(at)
        return chosen(self.c, mode, start)

    def _bound_usd(self, solver: cp_model.CpSolver, units: float) -> float:
        """What CP-SAT proved, less what rounding to units may hide; nothing where tiers weigh."""
        if (self.c.jobs["penalty_usd"] != self.c.jobs["unplaced_usd"]).any():
            return -np.inf
        once = math.fsum(most for _, _, most in self.usd) - len(self.on)  # a job: one mode, or out
        rounding = 0.5 * once / units
        return float(solver.best_objective_bound / units - rounding)
