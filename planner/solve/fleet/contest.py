"""A better plan of those who want the same pools: CP-SAT over the parts whose capacity has a price.

Sets: jobs j, their modes m in contended parts (`benders`), rows r of these.

Model
    x[m]      mode m is chosen;  sum of x[m] over j's modes + away[j] = 1
    s[m]      start, within m's window
    hold      in every slot, what the chosen modes take of r fits its capacity (cumulative)
    rows      what `benders` has learnt of x
    cost      sum of usd x[m] + the least that j costs anywhere else away[j]

Elsewhere capacity is let go of, since it has no price, so a mode that costs more than being away is
left out, and what CP-SAT proves is a bound on every plan better than the best known. Who is away is
put in where there is room; only a plan that then costs less is kept.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from ortools.sat.python import cp_model

from planner.solve.fleet.benders import Benders, Live, Row
from planner.solve.fleet.columns import Flags, Floats, Ints
from planner.solve.fleet.cumulative import Taken, hold
from planner.solve.fleet.improve import Chosen

TURN_SECONDS = 12.0
WORKERS = 2
UNITS = 100.0  # of the objective, in a dollar
PARTS = 1000.0  # of a weight of a row, in its largest


def compete(benders: Benders, until: float) -> None:
    """Turns until the clock's second ``until``; what is found goes to ``benders``."""
    clock, seed = benders.clock, benders.clock.limits.seed
    over = False
    while not (over or benders.done()) and clock.left > 0 and clock.seconds < until:
        turn = _Contest(benders, benders.live, benders.best)
        over = turn.run(min(TURN_SECONDS, until - clock.seconds), seed)
        seed += 1


@dataclass(slots=True)
class _Contest:
    benders: Benders
    live: Live
    best: Chosen
    cp: cp_model.CpModel = field(default_factory=cp_model.CpModel)
    on: dict[int, cp_model.IntVar] = field(default_factory=dict)  # by mode
    at: dict[int, cp_model.IntVar] = field(default_factory=dict)  # by mode
    held: defaultdict[int, Taken] = field(default_factory=lambda: defaultdict(list))
    usd: list[cp_model.LinearExprT] = field(default_factory=list)

    def run(self, seconds: float, seed: int) -> bool:
        """One turn; whether there is nothing more to find."""
        b, c = self.benders, self.benders.c
        inside = b.contended
        for j in range(c.job_count):
            self._define_job(j, inside)
        for r, taken in sorted(self.held.items()):
            hold(self.cp, c.capacity[r], taken)
        for row in [*b.rows, *b.covers]:
            self._define_known(row)
        self.cp.minimize(sum(self.usd))
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = seconds
        solver.parameters.num_workers = WORKERS
        solver.parameters.random_seed = seed
        with b.clock.stop.reaches(solver.stop_search):
            status = solver.solve(self.cp)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            b.offer(*self._chosen(solver))
            rounding = 0.5 * c.job_count / UNITS
            proved = solver.best_objective_bound / UNITS - rounding
            b.bound_usd = max(b.bound_usd, min(proved, b.best.usd))
        return bool(status == cp_model.OPTIMAL)

    def _define_job(self, j: int, inside: Flags) -> None:
        c, now = self.benders.c, int(self.best.mode[j])
        job, usd = c.jobs[j], c.modes["usd"]
        ours = [i for i in range(job["first"], job["end"]) if self._lives(i)]
        least = min([float(job["unplaced_usd"]), *(float(usd[i]) for i in ours if not inside[i])])
        ours = [i for i in ours if inside[i] and usd[i] < least]
        away = self.cp.new_bool_var(f"away[{j}]")
        self.cp.add_hint(away, now not in ours)
        self.usd.append(round(least * UNITS) * away)
        for i in ours:
            self._define_mode(i, i == now, int(self.best.start[j]))
        self.cp.add_exactly_one([away, *(self.on[i] for i in ours)])

    def _lives(self, i: int) -> bool:
        return bool(self.live.first[i] <= self.live.last[i])

    def _define_mode(self, i: int, now: bool, begins: int) -> None:
        c, m = self.benders.c, self.benders.c.modes[i]
        on = self.on[i] = self.cp.new_bool_var(f"x[{i}]")
        at = self.at[i] = self.cp.new_int_var(
            int(self.live.first[i]), int(self.live.last[i]), f"s[{i}]"
        )
        self.cp.add_hint(on, now)
        if now:
            self.cp.add_hint(at, begins)
        self.usd.append(round(float(m["usd"]) * UNITS) * on)
        run = self.cp.new_optional_fixed_size_interval_var(at, int(m["length"]), on, f"i[{i}]")
        for r in c.rows[m["cls"]]:
            if r >= 0:
                self.held[int(r)].append((run, int(m["takes"])))

    def _define_known(self, row: Row) -> None:
        """A row of the master, its weights rounded down to whole parts."""
        scale = PARTS / max(1.0, float(row.weight.max(initial=1.0)))
        weights: Floats = np.floor(row.weight * scale)
        terms = [
            int(w) * self.on[i]
            for i, w in zip(row.modes.tolist(), weights, strict=True)
            if i in self.on and w
        ]
        if terms:
            self.cp.add(sum(terms) <= int(np.ceil(row.most * scale)))

    def _chosen(self, solver: cp_model.CpSolver) -> tuple[Ints, Ints]:
        c = self.benders.c
        mode = np.full(c.job_count, -1, dtype=np.int32)
        start = np.zeros(c.job_count, dtype=np.int32)
        for i, on in self.on.items():
            if solver.boolean_value(on):
                mode[self.benders.job[i]], start[self.benders.job[i]] = i, solver.value(self.at[i])
        return mode, start
