"""Who runs in which mode, decided for the whole fleet; when, pool by pool.

Where a start costs nothing by itself, what a plan costs is decided by its modes alone: times only
have to exist. Logic-based Benders decomposition (J. N. Hooker, *Planning and scheduling by
logic-based Benders decomposition*, Operations Research 55, 2007) takes turns between a master and
parts (`packing`: a pool, or pools under one limit).

Master, over modes m of jobs j
    x[m], out[j]   in {0, 1}
    least          sum of usd[m] x[m] + sum of unplaced[j] out[j]
    choose         sum of x[m] over j's modes + out[j] = 1
    area           for a part and prices y >= 0 on its rows and slots:
                   sum over the part's modes of a[m] x[m] <= sum of capacity y,
                   a[m] = takes[m] min over m's starts of the sum of y over what it then runs
    cover          for modes S of one part that no schedule holds together:
                   sum of x[m] over S and what is harder to place <= |S| - 1

Each part is asked whether the modes chosen for it fit: CP-SAT over their starts. If all do, that is
a plan, and as every plan keeps every row, none costs less. If not, a row follows that rules the
choice out: the stretch of slots whose least use is above what is there (y = 1 in it), or else the
modes that are left when none more can be dropped and they still do not fit.

*Area* is valid because a plan that runs m from s takes takes[m] (Y[s + d] - Y[s]) >= a[m] of what
y weighs. At the LP's own prices (`linear`) these rows alone give the master the LP's bound, with
shares of modes; so it begins there, with whole ones. *Cover*: a mode is harder to place than m if
it takes no fewer GPUs for no fewer slots in no wider window of the same rows. Such modes of m's own
job may stand in its place; one of another job counts if it is harder than all of S. Then any |S|
modes of the row, one a job, are no easier than S.

Windows are those of `linear.fix`: rows hold for every plan cheaper than the best known, and so does
the master's bound. A choice that CP-SAT does not decide in its time gives no row: a second master,
with less of that part, looks for plans only, and its bound is not used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

import numpy as np
from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt
from ortools.sat.python import cp_model

from planner.problem import GPU_MILLI
from planner.solve.clock import Clock
from planner.solve.fleet import linear
from planner.solve.fleet.columns import WHOLE, Columns, Flags, Floats, Ints, totals
from planner.solve.fleet.cumulative import Taken, hold
from planner.solve.fleet.improve import Chosen, chosen
from planner.solve.fleet.linear import Linear, Starts
from planner.solve.fleet.packing import Wide, labels_of
from planner.solve.fleet.pricing import Pricer
from planner.solve.fleet.state import insert, restore

DONE = 1e-5  # of the cost: a gap that counts as none
MARGIN = 1e-6  # of the bound: what SCIP's tolerances may hide
MASTER_SECONDS = 4.0
MASTER_GAP, LEAST_GAP = 0.05, 5e-6  # to which the master is solved: of the gap that is left; least
FIT_SECONDS, CORE_SECONDS, DROP_SECONDS = 2.0, 1.0, 0.3
MORE = 2.0  # times as long for what was not decided, once nothing else is left to do
PRICED = 1e-4  # of the bound: what a part's capacity is worth at least, if jobs want it
SPARED = 0.002  # of a part's capacity, below what was not decided
WORKERS = 2


class Row(NamedTuple):
    """sum of weight x[m] over ``modes`` <= most."""

    part: int
    modes: Wide
    weight: Floats
    most: float


class Live(NamedTuple):
    """What a plan better than the best known may hold: modes, and the windows of all (M)."""

    modes: Wide
    first: Wide
    last: Wide  # before ``first`` where a mode is out
    kept: Flags  # (N) of the columns


class Stretch(NamedTuple):
    """Slots of a row whose least use is above what is there, by so many GPU-slots."""

    row: int
    first: int
    end: int
    over: float


def suits(c: Columns) -> bool:
    """Whether what a plan costs is decided by its modes, and nothing but capacity binds it."""
    jobs = c.jobs
    late = (jobs["late_usd"] > 0) & (jobs["due"] < c.slots)
    plain = not late.any() and not c.budgets.size and not c.extras.size
    alike = (jobs["penalty_usd"] == jobs["unplaced_usd"]).all() and (jobs["kept_mode"] < 0).all()
    free = (jobs["pieces"] == WHOLE).all() and not jobs["fixed"].any()
    return bool(plain and alike and free and (c.modes["profile"] < 0).all())


@dataclass(slots=True)
class Benders:
    """Rows so far, the best plan and the bound. ``sharp`` is ``c`` with `linear.sharpen`'s rows."""

    c: Columns
    sharp: Columns
    linear: Linear
    best: Chosen
    clock: Clock
    bound_usd: float = field(init=False)
    live: Live = field(init=False)
    areas: list[tuple[int, Floats]] = field(default_factory=list)  # part, y (R, T)
    rows: list[Row] = field(default_factory=list)  # of the areas
    covers: list[Row] = field(default_factory=list)
    undecided: dict[int, float] = field(default_factory=dict)  # the least area that was, by part
    fit_seconds: float = FIT_SECONDS
    starts: Starts = field(init=False)
    label: Ints = field(init=False)
    job: Wide = field(init=False)  # (M)
    part: Wide = field(init=False)  # (M)
    area: Floats = field(init=False)  # (M) GPU-slots
    _fixed_at: float = np.inf

    def __post_init__(self) -> None:
        s = self.sharp
        self.bound_usd = self.linear.bound_usd
        self.starts = linear.starts_of(s)
        self.label = labels_of(s)
        self.job = np.repeat(np.arange(s.job_count), s.jobs["end"] - s.jobs["first"])
        self.part = self.label[s.rows[s.modes["cls"], 0]].astype(np.int64)
        self.area = s.modes["takes"].astype(float) * s.modes["length"] / GPU_MILLI
        for k in np.unique(self.label).tolist():
            rows = np.flatnonzero(self.label == k)
            prices = np.zeros(s.capacity.shape)
            prices[rows] = self.linear.prices[rows]
            if prices.any():
                self.areas.append((k, prices / prices.max()))
            for r in rows:
                flat = np.zeros(s.capacity.shape)
                flat[r] = 1.0
                self.areas.append((k, flat))
        self.fix()

    def done(self) -> bool:
        """Whether no plan is cheaper than the best by more than counts."""
        return self.bound_usd >= self.best.usd * (1 - DONE)

    @property
    def contended(self) -> Flags:
        """(M) modes of the parts whose capacity has a price that counts."""
        usd = (self.sharp.capacity * self.linear.prices).sum(axis=1)
        worth = np.bincount(self.label, weights=usd)
        return np.isin(self.part, np.flatnonzero(worth > PRICED * abs(self.bound_usd)))

    def run(self, until: float) -> None:
        """Turns until the clock's second ``until``, or until no plan is better than the best."""
        solved = -1
        while not self.done() and self.clock.left > 0 and self.clock.seconds < until:
            self.fix()
            known, moved = len(self.areas) + len(self.covers), False
            if known != solved:
                solved, moved = known, True
                bound, modes = self._master(until, {})
                self.bound_usd = max(self.bound_usd, min(bound, self.best.usd))
                if self.done() or modes is None:
                    return
                self._attend(modes, until)
            if self.undecided:
                _, modes = self._master(until, self.undecided)
                moved |= modes is not None and not self._attend(modes, until)
            if not moved and len(self.areas) + len(self.covers) == solved:
                self.undecided.clear()
                self.fit_seconds *= MORE
                solved = -1

    def offer(self, mode: Ints, start: Ints) -> None:
        """Put in who is out where there is room, and keep the plan if it is the best."""
        c = self.c
        state = restore(c, mode, start, self.clock.limits.seed)
        out = np.flatnonzero((mode < 0) & (c.jobs["end"] > c.jobs["first"])).astype(np.int32)
        order = out[np.argsort(-self.area[c.jobs["first"][out]], kind="stable")]
        priced = Pricer(c).priced(self.linear.prices[: c.capacity.shape[0]])
        insert(c, state, priced, order)
        found = chosen(c, state.mode, state.start)
        if found.usd < self.best.usd:
            self.best = found
            self.clock.say(
                "proving",
                bound=self.bound_usd,
                best=found.usd,
                not_running=found.not_running_usd,
            )

    def fix(self) -> None:
        """Drop what no better plan holds, and weigh the areas by what is left."""
        if self.best.usd >= self._fixed_at:
            return
        self._fixed_at = self.best.usd
        kept = linear.fix(self.linear, self.best.usd)
        mode, start = self.starts.mode[kept], self.starts.start[kept]
        modes, begin = np.unique(mode, return_index=True)  # starts of a mode stand in order
        first, last = (np.full(self.job.size, n, dtype=np.int64) for n in (1, 0))
        first[modes] = start[begin]
        last[modes] = start[np.append(begin[1:], mode.size) - 1]
        self.live = Live(modes.astype(np.int64), first, last, kept)
        self.rows = [self._area(k, y) for k, y in self.areas]

    # -- rows --------------------------------------------------------------------------------------

    def _area(self, k: int, y: Floats) -> Row:
        """The row of prices ``y`` (R, T) over part ``k``."""
        s = self.sharp
        n = np.flatnonzero(self.live.kept & (self.part[self.starts.mode] == k))
        mode, start = self.starts.mode[n], self.starts.start[n]
        m, total = s.modes[mode], totals(s, y)
        held = total[m["cls"], start + m["length"]] - total[m["cls"], start]
        modes, begin = np.unique(mode, return_index=True)
        taken = held * m["takes"] / GPU_MILLI
        weight = np.minimum.reduceat(taken, begin) if begin.size else taken
        some = weight > 0
        most = float((s.capacity * y).sum()) / GPU_MILLI
        return Row(k, modes[some].astype(np.int64), weight[some], most)

    def _add_stretch(self, k: int, found: Stretch) -> None:
        y = np.zeros(self.sharp.capacity.shape)
        y[found.row, found.first : found.end] = 1.0
        self.areas.append((k, y))
        self.rows.append(self._area(k, y))

    def _add_cover(self, modes: Wide) -> None:
        """``modes`` do not fit together, nor does what is harder to place."""
        live, found = self.live.modes, set(modes.tolist())
        others = ~np.isin(self.job[live], self.job[modes])
        for m in modes:
            harder = self._harder(live, int(m))
            found.update(live[harder & (self.job[live] == self.job[m])].tolist())
            others &= harder
        found.update(live[others].tolist())
        every = np.array(sorted(found), dtype=np.int64)
        k = int(self.part[modes[0]])
        self.covers.append(Row(k, every, np.ones(every.size), modes.size - 1.0))

    def _harder(self, modes: Wide, than: int) -> Flags:
        """Which of ``modes`` could not be placed where ``than`` could not."""
        m, first, last = self.sharp.modes, self.live.first, self.live.last
        found: Flags = self.c.modes["cls"][modes] == self.c.modes["cls"][than]
        found &= m["takes"][modes] >= m["takes"][than]
        found &= m["length"][modes] >= m["length"][than]
        found &= (first[modes] >= first[than]) & (last[modes] <= last[than])
        return found

    # -- master ------------------------------------------------------------------------------------

    def _master(self, until: float, spared: dict[int, float]) -> tuple[float, Wide | None]:
        """What it proves, and the modes it chooses. ``spared``: areas to stay below, by part."""
        gap = max(LEAST_GAP, MASTER_GAP * (1 - self.bound_usd / self.best.usd))
        seconds = min(MASTER_SECONDS, max(0.0, until - self.clock.seconds), self.clock.left)
        parameters = mathopt.SolveParameters(
            time_limit=timedelta(seconds=seconds),
            relative_gap_tolerance=gap,
            threads=1,
            random_seed=self.clock.limits.seed,
        )
        made = mathopt.Model.from_model_proto(self._model(spared))
        result = self.clock.stop.unless(
            lambda: mathopt.solve(made, mathopt.SolverType.GSCIP, params=parameters)
        )
        if result is None:
            return -np.inf, None
        bound = result.termination.objective_bounds.dual_bound
        bound -= MARGIN * abs(bound)
        if not result.has_primal_feasible_solution():
            return bound, None
        values = result.variable_values()
        on = [values[v] > 0.5 for v in list(made.variables())[: self.live.modes.size]]
        return bound, self.live.modes[np.array(on, dtype=np.bool_)]

    def _model(self, spared: dict[int, float]) -> model_pb2.ModelProto:
        s, live = self.sharp, self.live.modes
        jobs, count = s.job_count, live.size + s.job_count
        column = np.full(self.job.size, -1, dtype=np.int64)
        column[live] = np.arange(live.size)
        rows = [*self.rows, *self.covers]
        for k, area in spared.items():
            ours = live[self.part[live] == k]
            rows.append(Row(k, ours, self.area[ours], area - SPARED * self._most(k)))
        model = model_pb2.ModelProto()
        model.variables.ids.extend(range(count))
        model.variables.lower_bounds.extend([0.0] * count)
        model.variables.upper_bounds.extend([1.0] * count)
        model.variables.integers.extend([True] * count)
        usd = np.concatenate([s.modes["usd"][live], s.jobs["unplaced_usd"]])
        model.objective.linear_coefficients.ids.extend(range(count))
        model.objective.linear_coefficients.values.extend(usd.tolist())
        model.linear_constraints.ids.extend(range(jobs + len(rows)))
        model.linear_constraints.lower_bounds.extend([1.0] * jobs + [-np.inf] * len(rows))
        model.linear_constraints.upper_bounds.extend([1.0] * jobs + [row.most for row in rows])
        at, columns, values = (
            [self.job[live], np.arange(jobs)],
            [np.arange(count)],
            [np.ones(count)],
        )
        for n, row in enumerate(rows, start=jobs):
            here = column[row.modes] >= 0
            at.append(np.full(int(here.sum()), n))
            columns.append(column[row.modes[here]])
            values.append(row.weight[here])
        i, j, v = np.concatenate(at), np.concatenate(columns), np.concatenate(values)
        order = np.lexsort((j, i))
        matrix = model.linear_constraint_matrix
        matrix.row_ids.extend(i[order].tolist())
        matrix.column_ids.extend(j[order].tolist())
        matrix.coefficients.extend(v[order].tolist())
        return model

    def _most(self, k: int) -> float:
        """GPU-slots of part ``k``'s first row."""
        return float(self.sharp.capacity[k].sum()) / GPU_MILLI

    # -- parts -------------------------------------------------------------------------------------

    def _attend(self, modes: Wide, until: float) -> bool:
        """Ask each part, learn rows, and offer what was placed. Whether all of it was."""
        mode = np.full(self.c.job_count, -1, dtype=np.int32)
        start = np.zeros(self.c.job_count, dtype=np.int32)
        for k in np.unique(self.part[modes]).tolist():
            if self.clock.seconds >= until or self.clock.left <= 0:
                break
            ours = modes[self.part[modes] == k]
            placed, at = self._placed(k, ours)
            mode[self.job[placed]], start[self.job[placed]] = placed, at
        whole = int((mode >= 0).sum()) == modes.size
        self.offer(mode, start)
        return whole

    def _placed(self, k: int, modes: Wide) -> tuple[Wide, Wide]:
        """Those of part ``k``'s modes that are found to fit, and their starts.

        Those that do not fit lose the one that is worth least here, until they do.
        """
        while modes.size:
            if found := self._stretch(modes):
                self._add_stretch(k, found)
                modes = self._without_least(modes, modes)
                continue
            area = float(self.area[modes].sum())
            if area >= self.undecided.get(k, np.inf):
                break
            fits, starts = self._fit(modes, self.fit_seconds)
            if fits:
                return modes, starts
            if fits is None:
                self.undecided[k] = area
                break
            core = self._core(modes)
            self._add_cover(core)
            modes = self._without_least(modes, core)
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)

    def _without_least(self, modes: Wide, core: Wide) -> Wide:
        """``modes`` less the one of ``core`` whose job loses least elsewhere."""
        other = self.sharp.jobs["unplaced_usd"].copy()
        free = self.live.modes[~self.contended[self.live.modes]]
        np.minimum.at(other, self.job[free], self.sharp.modes["usd"][free])
        loss = other[self.job[core]] - self.sharp.modes["usd"][core]
        rest: Wide = modes[modes != core[int(np.argmin(loss))]]
        return rest

    def _stretch(self, modes: Wide) -> Stretch | None:
        """The most overfilled stretch of any row by the least that ``modes`` take in it."""
        s, worst = self.sharp, None
        slots = np.arange(s.slots + 1)
        a, b = slots[:, None], slots[None, :]
        classes = s.rows[s.modes["cls"][modes]]
        for r in np.unique(classes[classes >= 0]).tolist():
            there = np.concatenate([[0.0], np.cumsum(s.capacity[r])]) / GPU_MILLI
            over = there[:, None] - there[None, :]
            for i in modes[(classes == r).any(axis=1)].tolist():
                length = int(s.modes["length"][i])
                inside = np.minimum(self.live.first[i] + length - a, b - self.live.last[i])
                inside = np.clip(np.minimum(inside, np.minimum(length, b - a)), 0, None)
                over = over + s.modes["takes"][i] / GPU_MILLI * inside
            over[a >= b] = 0.0
            at = divmod(int(np.argmax(over)), slots.size)
            if over[at] > max(1e-6, worst.over if worst else 0.0):
                worst = Stretch(r, *at, float(over[at]))
        return worst

    def _fit(self, modes: Sequence[int] | Wide, seconds: float) -> tuple[bool | None, Wide]:
        """Whether a schedule holds all of ``modes`` (None: not decided), and its starts."""
        c, cp = self.c, cp_model.CpModel()
        held: defaultdict[int, Taken] = defaultdict(list)
        at = []
        for i in map(int, modes):
            at.append(cp.new_int_var(int(self.live.first[i]), int(self.live.last[i]), f"s[{i}]"))
            run = cp.new_fixed_size_interval_var(at[-1], int(c.modes["length"][i]), f"i[{i}]")
            for r in c.rows[c.modes["cls"][i]]:
                if r >= 0:
                    held[int(r)].append((run, int(c.modes["takes"][i])))
        for r, taken in held.items():
            hold(cp, c.capacity[r], taken)
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = min(seconds, self.clock.left)
        solver.parameters.num_workers = WORKERS
        solver.parameters.random_seed = self.clock.limits.seed
        with self.clock.stop.reaches(solver.stop_search):
            status = solver.solve(cp)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return True, np.array([solver.value(s) for s in at], dtype=np.int64)
        none = np.zeros(0, dtype=np.int64)
        return (False if status == cp_model.INFEASIBLE else None), none

    def _core(self, modes: Wide) -> Wide:
        """Of ``modes``, which do not fit, few that do not fit either: the smallest go first."""
        kept = modes[np.argsort(-self.area[modes], kind="stable")].tolist()
        until, size = self.clock.seconds + CORE_SECONDS, (len(kept) + 1) // 2
        while size and self.clock.seconds < until:
            for end in range(len(kept), 0, -size):
                fewer = kept[: max(0, end - size)] + kept[end:]
                if (
                    self.clock.seconds < until
                    and fewer
                    and self._fit(fewer, DROP_SECONDS)[0] is False
                ):
                    kept = fewer
            size = size // 2 if size > 1 else 0
        return np.array(kept, dtype=np.int64)
