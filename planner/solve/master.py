"""The bound: who runs where, with time relaxed to areas, by GLOP and SCIP.

Sets: jobs j, options o of a job, pools p, stretches w = [a, b) of the grid.

Variables
    x[o] in [0, 1]   option o is chosen (binary in the integer form); one variable for both of a mix
    u[j] in [0, 1]   job j is left out
    n[p] >= 0        nodes of a whole-node pool that are started at least once

    bill[p] >= 0     of a whole-node pool, start-ups apart

Model: least  sum of own_usd[o] x[o] + unplaced_usd[j] u[j] + bill[p] + startup_usd[p] n[p]
    choose   sum of x[o] over j's options + u[j] = 1;  u[j] = 0 where j is required
    area     sum of energy[o, w] x[o] <= capacity[p, w]   for stretches w of pool p (cut as needed)
    nodes    sum of nodes[o, w] x[o] <= node-slots[p, w]  over options that leave no room on a node
             for a replica of option q, and q itself by the nodes it touches
    quota    the same by limit, and by what queues keep back, over the whole grid
    clash    x[o] + x[q] <= 1  where o and q together are too large for their pool at any order
    start    n[p] >= nodes[o] x[o]
    bill     bill[p] >= sum of share_usd[o] x[o];  >= price of the nodes that options take alone
    wait     u[j] >= u[before]
    budget   sum of usd_in_month[o] x[o] <= budget
    pack     sum of x[o] over a set that is proved not to fit <= its size - 1

``energy[o, w]`` is the least that o can use of w wherever it starts (Baptiste, Le Pape and Nuijten,
*Constraint-Based Scheduling*, 2001, sec. 3.3: energetic reasoning), so every feasible plan
satisfies the model and its least value is a lower bound. The duals of the areas, quotas and budgets
are the shadow prices (`planner.solve.ranging` says how wide they are).

Of an option that may be cut into pieces, ``energy[o, w]`` is what its work needs beyond the time
that it has outside w: however it is cut, it holds no less. A job that may change its mode does a
share x[o] of its work in each option, so x[o] is no binary there; its shares may all lie outside w
where there is time outside w, so only areas that hold all of its time count it, and its time counts
once more:
    time     sum of least_slots[o] x[o] over j's options <= slots that j has
Neither takes part in ``clash`` or ``pack``.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from ortools.math_opt.python import mathopt

from planner import cost
from planner.plan import Price, QueuePrice
from planner.problem import GPU_MILLI, Billing
from planner.quotas import Cap
from planner.solve.clock import Stop
from planner.table import RESOURCES, Option, Table, spent_usd

MOST_PARTIAL = 6  # options of a pool whose touched nodes are counted
MOST_POINTS = 48  # ends of stretches tried a pool and round
ROUNDS = 12
LEAST_PRICE = 1e-6  # USD: below, it is float noise
BUDGET = "budget"

NODES = len(RESOURCES)  # beside the resources: whole nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What an area counts: units of a resource, or nodes that options take for themselves.

    With ``beside``, an option that needs only a part of its nodes counts by the nodes it touches,
    and the others are those whose replicas share a node neither with its nor with one another's.
    """

    pool: int
    resource: int
    beside: int = -1

    def loads(self, table: Table, o: Option) -> tuple[tuple[int, int, int], ...]:
        """(start, end, amount) of the runs of ``o``, relative to its start."""
        if self.resource < NODES:
            each = o.takes[self.resource]
            return tuple((r.start, r.end, r.replicas * each) for r in o.runs) if each else ()
        if o.index == self.beside:
            return tuple((r.start, r.end, -(-r.replicas // o.per_node)) for r in o.runs)
        have = table.capacity[self.pool][0]
        with_other = table.options[self.beside].takes[0] if self.beside >= 0 else have
        if 2 * o.takes[0] > have and o.takes[0] + with_other > have:
            return tuple((r.start, r.end, r.replicas) for r in o.runs)
        return ()

    def rate(self, table: Table, o: Option) -> int:
        """What a batch option takes in each slot that it is held."""
        return sum(amount for _, _, amount in self.loads(table, o))

    def capacity(self, table: Table, start: int, end: int) -> float:
        """What the pool has over [start, end), in the measure's unit times slots."""
        total = 0
        for n, gaps in enumerate(table.away[self.pool]):
            slots = end - start - sum(max(0, min(end, b) - max(start, a)) for a, b in gaps)
            each = 1 if self.resource == NODES else table.have(self.pool, n, self.resource)
            total += slots * each
        return float(total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """An area constraint: what options take, by a measure, over [start, end)."""

    measure: Measure
    start: int
    end: int
    capacity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxed:
    """An optimum of the relaxation: ``share[o]`` of option o, and what is proved."""

    usd: float  # proved lower bound
    share: npt.NDArray[np.float64]
    prices: tuple[Price, ...] = ()
    queue_prices: tuple[QueuePrice, ...] = ()
    duals: tuple[tuple[Stretch, float], ...] = ()  # USD per unit of the measure and slot
    feasible: bool = True  # False: proved impossible; without a solution in time nothing is shared


@dataclass(frozen=True, slots=True)
class Lp:
    """The relaxation as rows: what is read back from it, and what may be moved to ask of it."""

    model: mathopt.Model
    x: list[mathopt.Variable]  # by option
    areas: list[tuple[Stretch, mathopt.LinearConstraint]]
    quotas: list[tuple[Cap, mathopt.LinearConstraint]]  # in GPU-slots
    budgets: list[tuple[str, mathopt.LinearConstraint]]  # queue, one a month


@dataclass(slots=True)
class Master:
    """The relaxation under construction; stretches and packs only get more."""

    table: Table
    stop: Stop = field(default_factory=Stop)
    stretches: dict[tuple[Measure, int, int], Stretch] = field(default_factory=dict)
    packs: list[tuple[int, ...]] = field(default_factory=list)  # options proved not to fit together
    squeeze: dict[int, float] = field(default_factory=dict)  # fraction of a pool left to the primal
    clashes: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        slots = self.table.problem.grid.slots
        for measure in self._measures():
            self._add(measure, 0, slots)

        self.clashes = [
            pair for p in range(len(self.table.of_pool)) for pair in _clashes(self.table, p)
        ]

    def _measures(self) -> list[Measure]:
        found = []
        for p in range(len(self.table.problem.pools)):
            found += [Measure(pool=p, resource=r) for r in _resources(self.table, p)]
            found += [Measure(pool=p, resource=NODES, beside=i) for i in _partial(self.table, p)]
        return found

    def _add(self, measure: Measure, start: int, end: int) -> None:
        self.stretches[measure, start, end] = Stretch(
            measure=measure,
            start=start,
            end=end,
            capacity=measure.capacity(self.table, start, end),
        )

    def relax(self, *, seconds: float) -> Relaxed:
        """The LP optimum, with the stretches that it breaks added until it breaks none."""
        until = time.monotonic() + seconds
        relaxed = self._solve(integer=False, seconds=seconds)
        for _ in range(ROUNDS):
            left = until - time.monotonic()
            if not relaxed.feasible or left <= 0 or not self._cut(relaxed.share):
                break
            tighter = self._solve(integer=False, seconds=left)
            if tighter.usd < relaxed.usd:  # more rows never lower an optimum: it ran out of time
                break
            relaxed = tighter
        return relaxed

    def choose(self, *, seconds: float, gap: float, primal: bool = False) -> Relaxed:
        """The integer optimum; with ``primal`` under squeezed capacity, which proves nothing."""
        return self._solve(integer=True, seconds=seconds, gap=gap, primal=primal)

    def assign(self, *, seconds: float) -> Relaxed:
        """The LP optimum under squeezed capacity: few options are split, and it proves nothing."""
        return self._solve(integer=False, seconds=seconds, primal=True)

    def _cut(self, share: npt.NDArray[np.float64]) -> bool:
        added = False
        for measure in {w.measure: None for w in self.stretches.values()}:
            for start, end in _broken(self.table, measure, share):
                if (measure, start, end) not in self.stretches:
                    self._add(measure, start, end)
                    added = True
        return added

    def lp(self, *, integer: bool = False, primal: bool = False) -> Lp:
        """The relaxation with the rows that it has by now."""
        table = self.table
        model = mathopt.Model(name="master")
        x = [
            model.add_variable(lb=0, ub=1, is_integer=integer and not o.shares)
            for o in table.options
        ]
        for o in table.options:
            if o.rest >= 0:
                x[o.rest] = x[o.index]
        u = [
            model.add_variable(lb=0, ub=0 if j.required else 1, is_integer=integer)
            for j in table.problem.jobs
        ]
        for j, ours in enumerate(table.of_job):
            model.add_linear_constraint(mathopt.fast_sum([x[i] for i in ours]) + u[j] == 1)
            for before in table.after[j]:
                model.add_linear_constraint(u[j] >= u[before])
        made = Lp(
            model=model,
            x=x,
            areas=self._define_areas(model, x, primal),
            quotas=self._define_quotas(model, x),
            budgets=self._define_budgets(model, x),
        )
        self._define_time(model, x)
        for a, b in self.clashes:
            model.add_linear_constraint(x[a] + x[b] <= 1)
        for options in self.packs:
            model.add_linear_constraint(
                mathopt.fast_sum([x[i] for i in options]) <= len(options) - 1
            )
        objective = [self._own_usd(o) * x[o.index] for o in table.options]
        objective += [j.unplaced_usd * u[i] for i, j in enumerate(table.problem.jobs)]
        objective += self._define_bills(model, x)
        model.minimize(mathopt.fast_sum(objective))
        return made

    def _solve(
        self, *, integer: bool, seconds: float, gap: float = 0.0, primal: bool = False
    ) -> Relaxed:
        made = self.lp(integer=integer, primal=primal)
        parameters = mathopt.SolveParameters(
            time_limit=timedelta(seconds=max(0.1, seconds)),
            relative_gap_tolerance=gap if integer else None,
            threads=1,
        )
        kind = mathopt.SolverType.GSCIP if integer else mathopt.SolverType.GLOP
        result = self.stop.unless(lambda: mathopt.solve(made.model, kind, params=parameters))
        if result is None:
            return Relaxed(usd=0.0, share=np.zeros(len(made.x)))
        return self._read(result, made)

    def _read(self, result: mathopt.SolveResult, made: Lp) -> Relaxed:
        if not result.has_primal_feasible_solution():
            impossible = result.termination.reason == mathopt.TerminationReason.INFEASIBLE
            return Relaxed(
                usd=math.inf if impossible else 0.0,
                share=np.zeros(len(made.x)),
                feasible=not impossible,
            )
        values = result.variable_values()
        share = np.array([values[v] for v in made.x])
        bound = result.termination.objective_bounds.dual_bound
        if not result.has_dual_feasible_solution():
            return Relaxed(usd=max(0.0, bound), share=share)
        dual = result.dual_values()
        duals = tuple((w, -dual[row]) for w, row in made.areas if dual[row] < -1e-9)
        return Relaxed(
            usd=max(0.0, min(bound, result.objective_value())),
            share=share,
            duals=duals,
            prices=_prices(self.table, duals),
            queue_prices=_queue_prices(self.table, made, dual),
        )

    def _define_areas(
        self, model: mathopt.Model, x: Sequence[mathopt.Variable], primal: bool
    ) -> list[tuple[Stretch, mathopt.LinearConstraint]]:
        rows = []
        for w in self.stretches.values():
            terms = [
                energy * x[i]
                for i in self.table.of_pool[w.measure.pool]
                if (energy := _energy(self.table, w.measure, self.table.options[i], w.start, w.end))
            ]
            left = self.squeeze.get(w.measure.pool, 1.0) if primal else 1.0
            row = model.add_linear_constraint(mathopt.fast_sum(terms) <= w.capacity * left)
            rows.append((w, row))
        return rows

    def _define_quotas(
        self, model: mathopt.Model, x: Sequence[mathopt.Variable]
    ) -> list[tuple[Cap, mathopt.LinearConstraint]]:
        problem, rows = self.table.problem, []
        for cap in self.table.caps:
            terms = [
                _replica_slots(o) * o.takes[0] / GPU_MILLI * x[o.index]
                for o in self.table.options
                if problem.pools[o.pool].accelerator == cap.accelerator
                and cap.binds(problem.queue_path(problem.jobs[o.job].queue))
            ]
            row = model.add_linear_constraint(
                mathopt.fast_sum(terms) <= float(cap.milli.sum()) / GPU_MILLI
            )
            rows.append((cap, row))
        return rows

    def _define_time(self, model: mathopt.Model, x: Sequence[mathopt.Variable]) -> None:
        """A job is in one mode at a time."""
        for ours in self.table.of_job:
            options = [self.table.options[i] for i in ours]
            if options and options[0].shares:
                time = max(o.until for o in options) - min(o.first for o in options)
                needed = mathopt.fast_sum([o.least_slots * x[o.index] for o in options])
                model.add_linear_constraint(needed <= time)

    def _define_budgets(
        self, model: mathopt.Model, x: Sequence[mathopt.Variable]
    ) -> list[tuple[str, mathopt.LinearConstraint]]:
        problem, rows = self.table.problem, []
        for queue in problem.queues:
            if queue.budget_usd_per_month is None:
                continue
            ours = [
                o
                for o in self.table.options
                if queue.name in problem.queue_path(problem.jobs[o.job].queue)
            ]
            for _, first, last in problem.grid.months():
                terms = [_least_spent(self.table, o, first, last) * x[o.index] for o in ours]
                row = model.add_linear_constraint(
                    mathopt.fast_sum(terms) <= queue.budget_usd_per_month
                )
                rows.append((queue.name, row))
        return rows

    def _own_usd(self, o: Option) -> float:
        """The least that an option costs beside a whole-node bill."""
        by_node = self.table.problem.pools[o.pool].billing is Billing.NODE
        shares = sum(part.least_usd for part in self.table.parts(o))
        late = self.table.floor_usd(o) - shares  # of a service none
        return late + (o.egress_usd if by_node else o.least_usd)

    def _define_bills(
        self, model: mathopt.Model, x: Sequence[mathopt.Variable]
    ) -> list[mathopt.LinearExpression]:
        terms: list[mathopt.LinearExpression] = []
        for p, pool in enumerate(self.table.problem.pools):
            if pool.billing is not Billing.NODE or not self.table.of_pool[p]:
                continue
            bill, started = model.add_variable(lb=0), model.add_variable(lb=0)
            for floor in bill_floors(self.table, p):
                model.add_linear_constraint(
                    mathopt.fast_sum([usd * x[i] for i, usd in floor.items()]) <= bill
                )
            for i in self.table.of_pool[p]:
                needed = self.table.options[i].nodes - len(self.table.up[p])
                model.add_linear_constraint(started >= needed * x[i])
            terms += [bill, least_launch_usd(self.table, p) * started]
        return terms


def least_launch_usd(table: Table, p: int) -> float:
    """No node of the pool is started for less."""
    pool, seconds = table.problem.pools[p], table.problem.grid.slot_seconds
    begins = {0, *(w.start for w in pool.windows), *(w.end - 1 for w in pool.windows)}
    if not pool.one_price:
        begins |= set(range(table.problem.grid.slots))
    return min(
        cost.node_usd(pool, t * seconds - pool.startup_seconds, t * seconds, seconds)
        for t in begins
    )


def bill_floors(table: Table, p: int) -> list[dict[int, float]]:
    """What a whole-node bill without start-ups is no less than, each by option (USD).

    The options' shares; and nodes for as long as they are taken, by each measure of whole nodes.
    """
    pool, grid = table.problem.pools[p], table.problem.grid
    slot_usd = min(w.usd_per_node_hour for w in pool.windows) * grid.slot_hours
    options = [table.options[i] for i in table.of_pool[p]]
    floors = [{o.index: o.least_usd - o.egress_usd for o in options}]
    for beside in {*_longest_parts(table, p), -1}:
        measure = Measure(pool=p, resource=NODES, beside=beside)
        taken = {
            o.index: measure.rate(table, o) * o.least_slots
            if o.stops
            else sum((b - a) * n for a, b, n in measure.loads(table, o))
            for o in options
        }
        floors.append({i: slot_usd * slots for i, slots in taken.items() if slots})
    return [floor for floor in floors if floor]


def _replica_slots(o: Option) -> float:
    return o.least_slots * o.peak if o.stops else o.replica_slots


def _least_spent(table: Table, o: Option, first: int, last: int) -> float:
    """The least that ``o`` spends between two slots, wherever it is."""
    pool = table.problem.pools[o.pool]
    if o.stops:
        brought = o.egress_usd if first <= o.first and o.until <= last else 0.0
        slots = max(0.0, _least_held(o, first, last))
        return (o.least_usd - o.egress_usd) * slots / o.least_slots + brought
    starts = {o.first, o.last} if pool.one_price else range(o.first, o.last + 1)
    return min(spent_usd(pool, o, at, first, last) for at in starts)


def _least_held(o: Option, start: int, end: int) -> float:
    """Slots of [start, end) that the pieces of ``o`` hold at least, however it is cut."""
    outside = max(0, min(start, o.until) - o.first) + max(0, o.until - max(end, o.first))
    if o.shares and outside:
        return 0.0
    return max(0.0, o.least_slots - outside)


def _clashes(table: Table, p: int) -> list[tuple[int, int]]:
    """Pairs of wide options of a pool of which only one can be chosen."""
    have = len(table.nodes[p]) * table.capacity[p][0]
    options = [table.options[i] for i in table.of_pool[p]]
    wide = [
        (min(r.replicas for r in o.runs) * o.takes[0], o)
        for o in options
        if o.first + o.length > o.last and not o.stops
    ]
    wide.sort(key=lambda each: (-each[0], each[1].index))
    found = []
    for n, (most, a) in enumerate(wide):
        for k in range(n + 1, len(wide)):
            less, b = wide[k]
            if most + less <= have:  # nor is any behind it large enough
                break
            no_order = a.first + a.length > b.last and b.first + b.length > a.last
            if a.job != b.job and no_order:
                found.append((a.index, b.index))
    return found


def _resources(table: Table, p: int) -> list[int]:
    """Resources that some option of the pool takes, less those that can never bind first."""
    options = [table.options[i] for i in table.of_pool[p]]
    have = table.capacity[p]
    if not options:
        return []
    lead = 0 if all(o.takes[0] for o in options) else None
    return [
        r
        for r in range(len(RESOURCES))
        if any(o.takes[r] for o in options)
        and (
            lead is None
            or r == lead
            or any(o.takes[r] * have[lead] > o.takes[lead] * have[r] for o in options)
        )
    ]


def _partial(table: Table, p: int) -> list[int]:
    """The options of a pool, at most `MOST_PARTIAL`, that hold parts of nodes the longest."""
    have = table.capacity[p][0]
    if not any(2 * table.options[i].takes[0] > have for i in table.of_pool[p]):
        return []
    return _longest_parts(table, p) or [-1]


def _longest_parts(table: Table, p: int) -> list[int]:
    have = table.capacity[p][0]
    parts = [o for o in (table.options[i] for i in table.of_pool[p]) if 2 * o.takes[0] <= have]
    parts.sort(key=lambda o: (-o.length, o.index))
    return [o.index for o in parts[:MOST_PARTIAL]]


def _energy(table: Table, measure: Measure, o: Option, start: int, end: int) -> float:
    """The least that ``o`` takes of [start, end), wherever it starts."""
    if o.stops:
        return measure.rate(table, o) * _least_held(o, start, end)
    loads = measure.loads(table, o)
    return float(
        min(
            sum(max(0, min(at + b, end) - max(at + a, start)) * n for a, b, n in loads)
            for at in (o.first, o.last)
        )
    )


def _broken(
    table: Table, measure: Measure, share: npt.NDArray[np.float64]
) -> list[tuple[int, int]]:
    """Stretches whose area ``share`` overfills, the worst few."""
    used = [
        o
        for o in map(table.options.__getitem__, table.of_pool[measure.pool])
        if share[o.index] > 1e-6 and measure.loads(table, o)
    ]
    if not used:
        return []
    starts = _points([o.first for o in used] + [o.last for o in used if o.last > o.first])
    ends = _points(
        [min(o.last, o.until - 1) + o.length for o in used]
        + [o.first + o.length for o in used]
        + [o.until for o in used if o.stops]
    )
    over = np.zeros((len(starts), len(ends)))
    a, b = np.array(starts)[:, None], np.array(ends)[None, :]
    for o in used:
        if o.stops:
            held = measure.rate(table, o) * _held_at_least(o, a, b)
        else:
            loads = measure.loads(table, o)
            held = np.minimum(_taken(loads, o.first, a, b), _taken(loads, o.last, a, b))
        over += share[o.index] * held
    have = np.array(
        [[measure.capacity(table, s, e) if e > s else np.inf for e in ends] for s in starts]
    )
    real = np.isfinite(have)
    excess = np.where(real, (over - have) / np.where(real, np.maximum(have, 1.0), 1.0), -1.0)
    worst = np.argsort(-excess, axis=None)[:8]
    return [
        (starts[i // len(ends)], ends[i % len(ends)])
        for i in map(int, worst)
        if excess.flat[i] > 1e-6
    ]


def _held_at_least(
    o: Option, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """`_least_held` of each [a, b)."""
    outside = np.maximum(np.minimum(a, o.until) - o.first, 0) + np.maximum(
        o.until - np.maximum(b, o.first), 0
    )
    held = np.maximum(o.least_slots - outside, 0.0)
    return np.where(outside > 0, 0.0, held) if o.shares else held


def _taken(
    loads: Sequence[tuple[int, int, int]],
    at: int,
    a: npt.NDArray[np.int64],
    b: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """What runs from ``at`` on take of each [a, b)."""
    total = np.zeros((a.size, b.size))
    for begin, end, amount in loads:
        inside = np.minimum(at + end, b) - np.maximum(at + begin, a)
        total += np.maximum(inside, 0) * amount
    return total


def _points(values: Sequence[int]) -> list[int]:
    """The distinct values, thinned evenly to what one round can look at."""
    distinct = sorted(set(values))
    if len(distinct) <= MOST_POINTS:
        return distinct
    picks = np.linspace(0, len(distinct) - 1, MOST_POINTS).round().astype(int)
    return [distinct[i] for i in sorted(set(map(int, picks)))]


def family(measure: Measure) -> str:
    """The resource whose price an area's dual is part of."""
    return ("gpu", "cpu", "memory", "gpu")[measure.resource]


def of_one_gpu(table: Table, measure: Measure) -> float:
    """Units of the measure that go with one GPU of a node."""
    have = 1 if measure.resource == NODES else table.capacity[measure.pool][measure.resource]
    return have / max(1, table.problem.pools[measure.pool].gpus_per_node)


def _prices(table: Table, duals: Sequence[tuple[Stretch, float]]) -> tuple[Price, ...]:
    """USD per GPU-hour by pool, resource and stretch of time: the sum of the duals over it."""
    ours: dict[tuple[int, str], list[tuple[Stretch, float]]] = defaultdict(list)
    for w, dual in duals:
        usd = dual * of_one_gpu(table, w.measure) / table.problem.grid.slot_hours
        ours[w.measure.pool, family(w.measure)].append((w, usd))
    found = []
    for (p, resource), rows in sorted(ours.items()):
        edges = sorted({w.start for w, _ in rows} | {w.end for w, _ in rows})
        levels = [
            sum(usd for w, usd in rows if w.start <= a and b <= w.end) for a, b in pairwise(edges)
        ]
        found += [
            Price(
                pool=table.problem.pools[p].name,
                start=start,
                end=end,
                usd_per_gpu_hour=usd,
                resource=resource,
            )
            for start, end, usd in _joined(edges, levels)
            if usd > LEAST_PRICE
        ]
    return tuple(found)


def _queue_prices(
    table: Table, made: Lp, dual: Mapping[mathopt.LinearConstraint, float]
) -> tuple[QueuePrice, ...]:
    """Of limits and what is kept back by GPU-hour; of budgets by USD that each month has more."""
    usd: dict[tuple[str, str, tuple[str, ...]], float] = defaultdict(float)
    for cap, row in made.quotas:
        usd[cap.queue, cap.accelerator, cap.keepers] = -dual[row] / table.problem.grid.slot_hours
    for queue, row in made.budgets:
        usd[queue, BUDGET, ()] -= dual[row]
    return tuple(
        QueuePrice(queue=queue, what=what, usd=worth, keepers=keepers)
        for (queue, what, keepers), worth in usd.items()
        if worth > LEAST_PRICE
    )


def _joined(edges: Sequence[int], levels: Sequence[float]) -> list[tuple[int, int, float]]:
    found: list[tuple[int, int, float]] = []
    for start, end, level in zip(edges, edges[1:], levels, strict=False):
        if found and math.isclose(found[-1][2], level, abs_tol=1e-9):
            found[-1] = (found[-1][0], end, level)
        else:
            found.append((start, end, level))
    return found


def opportunity(table: Table, relaxed: Relaxed) -> npt.NDArray[np.float64]:
    """What the capacity that each option takes is worth to others (USD)."""
    worth = np.zeros(len(table.options))
    for w, dual in relaxed.duals:
        for i in table.of_pool[w.measure.pool]:
            worth[i] += dual * _energy(table, w.measure, table.options[i], w.start, w.end)
    return worth
