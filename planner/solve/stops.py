"""Jobs that may stop, for CP-SAT: slot by slot, so that every way to cut them is there.

Sets: slots t of the time that job j has, its modes m, nodes n of a mode's pool.

Variables
    x[m, t]       j is held in mode m during t
    k[m, n, t]    replicas of it on node n (pools taken by number have none)
    go[m, t]      a piece in m begins with t;  halt[m, t]: one ends with it
    begin[t]      the first piece begins with t;  last[t]: the last one ends with it
    kept          the first piece goes on where j runs already
    y[m, t]       m is the mode of the piece at t, or of the last one before
    re[m, t]      the piece that begins with t restores;  sv[m, t]: the one that ends with it saves
    z[m, t]       seconds of t, the last slot, that are left when all is done
    bring[p, t]   the first piece in pool p begins with t: the job's data are brought there

Model, with u the literal that leaves j out
    one      sum of x[m, t] over m <= 1;  sum of begin[t] + u = 1;  sum of last[t] + u = 1
    flow     x[m, t-1] + go[m, t] = x[m, t] + halt[m, t-1];  go[m, t], halt[m, t] <= x[m, t]
    whole    sum of k[m, n, t] over n = replicas[m] * x[m, t]
    stay     k[m, n, t] - k[m, n, t-1] <= per node * go[m, t]: who moves begins anew
    ends     begin[t] <= sum of go[m, t], x[m, t] <= sum of begin[s] for s <= t; last likewise
    mode     x[m, t] <= y[m, t];  the changes of y <= switches (none: y is one literal for all t)
    stops    re[m, t] >= go[m, t] - begin[t] (of a job that runs: - kept at t = 0);
             sv[m, t] >= halt[m, t] - last[t]; neither reaches beyond its piece
    work     z[m, t] <= slot * last[t];  w[m, t] = slot * x[m, t] - z[m, t]
             - what re and sv take of t >= 0;
             sum of w[m, t] / seconds that all of j takes in m >= what is to be done

    bring    x[m, t] <= sum of bring[p, s] for s <= t and m of p;  bring[p, t] <= sum of go[m, t];
             sum of bring[p, t] over t <= 1

A job pays for all the time that it holds but z, at the prices of its slots; and for ``bring``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ortools.sat.python import cp_model

from planner import cost
from planner.booking import Booking, Counts, done_by
from planner.inventory import Spot
from planner.problem import Job, Work, hours_of, work_left
from planner.solve import gangs, parts
from planner.solve.terms import Term, keep_within
from planner.table import Option, Table

PARTS = 10**7  # of a second's work: so fine that rounding stays below ``ENOUGH``
ENOUGH = 1e-6  # of a slot's work: less is float noise
Slot = tuple[int, int]  # (mode, slot)
Literals = dict[Slot, cp_model.IntVar]


@dataclass(slots=True)
class Pieces:
    """A job that may stop, in a model under construction."""

    table: Table
    cp: cp_model.CpModel
    job: int
    left_out: cp_model.IntVar
    modes: dict[int, Option]  # begun anew; or, where only that is there, held
    held: Option | None
    x: Literals = field(default_factory=dict)
    counts: dict[tuple[int, int, int], cp_model.IntVar] = field(default_factory=dict)
    go: Literals = field(default_factory=dict)
    halt: Literals = field(default_factory=dict)
    restores: Literals = field(default_factory=dict)
    saves: Literals = field(default_factory=dict)
    idle: Literals = field(default_factory=dict)
    # Units by (mode, slot, node, device, state), where GPUs are told apart (`planner.solve.parts`).
    units: dict[tuple[int, int, int, int, int], cp_model.IntVar] = field(default_factory=dict)
    bring: Literals = field(default_factory=dict)  # by pool
    begin: dict[int, cp_model.IntVar] = field(default_factory=dict)
    last: dict[int, cp_model.IntVar] = field(default_factory=dict)
    kept: cp_model.IntVar | None = None

    @property
    def its(self) -> Job:
        return self.table.problem.jobs[self.job]

    @property
    def start(self) -> cp_model.LinearExprT:
        """The slot of its first start; 0 where it is left out."""
        return sum(t * literal for t, literal in self.begin.items())

    @property
    def end(self) -> cp_model.LinearExprT:
        """The slot of its end; 0 where it is left out."""
        return sum((t + 1) * literal for t, literal in self.last.items())

    def slots(self, mode: int) -> range:
        """The slots in which it may be held in ``mode``."""
        stays = self.held is not None and self.held.mode == mode
        return range(0 if stays else self.modes[mode].anew, self.modes[mode].until)

    def bool(self, name: str) -> cp_model.IntVar:
        return self.cp.new_bool_var(f"{name}[{self.its.name}]")


def literals(table: Table, options: Sequence[Option]) -> int:
    """About as many variables as `define` makes for a job's ``options``."""
    return sum((o.until - o.first) * (8 + len(table.nodes[o.pool])) for o in options)


def define(
    table: Table,
    cp: cp_model.CpModel,
    j: int,
    options: Sequence[Option],
    left_out: cp_model.IntVar,
    by_count: set[int],
) -> Pieces:
    """All ways to hold job ``j`` in ``options``; pools ``by_count`` need no nodes."""
    held = next((o for o in options if o.held), None)
    modes = {o.mode: o for o in options} | {o.mode: o for o in options if not o.held}
    p = Pieces(table, cp, j, left_out, modes, held)
    _define_holding(p)
    for m, option in modes.items():
        if option.pool not in by_count:
            _define_nodes(p, m, option)
    if held is not None:
        _define_kept(p, held)
    _define_ends(p)
    _define_mode(p)
    _define_stops(p)
    _define_work(p)
    _define_bringing(p)
    if p.its.max_cost_usd is not None:
        keep_within(cp, spent(p, 0, table.problem.grid.slots), p.its.max_cost_usd)
    return p


def _define_holding(p: Pieces) -> None:
    for m in p.modes:
        for t in p.slots(m):
            p.x[m, t] = p.bool(f"x{m},{t}")
            p.go[m, t] = p.bool(f"go{m},{t}")
            p.halt[m, t] = p.bool(f"halt{m},{t}")
            p.cp.add_implication(p.go[m, t], p.x[m, t])
            p.cp.add_implication(p.halt[m, t], p.x[m, t])
            if 0 < t < p.modes[m].anew:  # before, only what is kept goes on
                p.cp.add(p.go[m, t] == 0)
        for t in p.slots(m):
            before, halted = p.x.get((m, t - 1), 0), p.halt.get((m, t - 1), 0)
            p.cp.add(before + p.go[m, t] == p.x[m, t] + halted)
            if t + 1 not in p.slots(m):
                p.cp.add(p.halt[m, t] == p.x[m, t])
    for t in {t for _, t in p.x}:
        p.cp.add_at_most_one(p.x[m, t] for m in p.modes if (m, t) in p.x)


def _define_nodes(p: Pieces, m: int, option: Option) -> None:
    mode = p.its.modes[m]
    nodes = range(len(p.table.nodes[option.pool]))
    most = min(option.per_node, option.peak)
    for t in p.slots(m):
        row = [p.cp.new_int_var(0, most, f"k[{p.its.name},{m},{n},{t}]") for n in nodes]
        p.counts |= {(m, n, t): k for n, k in zip(nodes, row, strict=True)}
        p.cp.add(sum(row) == option.peak * p.x[m, t])
        if mode.together_required:
            gangs.define_together(p.cp, p.table, option, row)
        if mode.spread:
            gangs.define_spread(p.cp, p.table, option, row)
        for n, k in zip(nodes, row, strict=True):
            if (before := p.counts.get((m, n, t - 1))) is not None:
                p.cp.add(k - before <= most * p.go[m, t])


def _define_kept(p: Pieces, held: Option) -> None:
    p.kept = p.bool("kept")
    p.cp.add_implication(p.kept, p.go[held.mode, 0])
    for n, count in enumerate(held.held):
        p.cp.add(p.counts[held.mode, n, 0] == count).only_enforce_if(p.kept)
    if held.anew > 0:  # nothing else may begin there so early
        p.cp.add_implication(p.go[held.mode, 0], p.kept)


def _define_ends(p: Pieces) -> None:
    slots = sorted({t for _, t in p.x})
    p.begin = {t: p.bool(f"begin{t}") for t in slots}
    p.last = {t: p.bool(f"last{t}") for t in slots}
    for chosen, edge in ((p.begin, p.go), (p.last, p.halt)):
        p.cp.add_exactly_one([*chosen.values(), p.left_out])
        for t in slots:
            p.cp.add(chosen[t] <= sum(edge[m, t] for m in p.modes if (m, t) in edge))
    for (_, t), x in p.x.items():
        p.cp.add(x <= sum(p.begin[s] for s in slots if s <= t))
        p.cp.add(x <= sum(p.last[s] for s in slots if s >= t))


def _define_mode(p: Pieces) -> None:
    """In one mode, or changing it no more often than it may."""
    running = p.table.problem.running_by_job.get(p.its.name)
    bound = running is not None and running.work_since_checkpoint < running.work_done
    before = {m: int(running.mode == m) for m in p.modes} if bound and running else {}
    slots = sorted(p.begin)
    y: dict[Slot, cp_model.IntVar] = {}
    if not p.its.switches:
        always = {m: p.bool(f"mode{m}") for m in p.modes}
        y = {(m, t): always[m] for m in p.modes for t in slots}
    else:
        y = {(m, t): p.bool(f"mode{m},{t}") for m in p.modes for t in slots}
    for t in slots if p.its.switches else slots[:1]:
        p.cp.add_exactly_one(y[m, t] for m in p.modes)
    for (m, t), x in p.x.items():
        p.cp.add_implication(x, y[m, t])
    changes: list[cp_model.IntVar] = []
    earlier: dict[int, cp_model.LinearExpr | int] = dict(before)
    for t in slots if p.its.switches else ():
        if earlier:
            changes.append(p.bool(f"change{t}"))
            for m in p.modes:
                p.cp.add(changes[-1] >= y[m, t] - earlier[m])
        earlier = {m: y[m, t] for m in p.modes}
    p.cp.add(sum(changes) <= p.its.switches)


def _reach(seconds: float, slot_seconds: int) -> list[float]:
    """What ``seconds`` take of each slot from the first on, as parts of a slot."""
    whole = seconds / slot_seconds
    return [min(1.0, whole - d) for d in range(math.ceil(whole - 1e-9))]


def _define_stops(p: Pieces) -> None:
    seconds, stop = p.table.problem.grid.slot_seconds, p.its.interruption
    restart, save = (len(_reach(s, seconds)) for s in (stop.restart_seconds, stop.save_seconds))
    for m, t in p.x:
        p.restores[m, t], p.saves[m, t] = p.bool(f"re{m},{t}"), p.bool(f"sv{m},{t}")
        p.cp.add(p.restores[m, t] >= p.go[m, t] - _free(p, m, t))
        p.cp.add(p.saves[m, t] >= p.halt[m, t] - p.last[t])
        for d in range(1, restart):  # restored before the piece may end
            p.cp.add(p.restores[m, t] + p.halt.get((m, t + d - 1), 1) <= 1)
        for d in range(1, save):  # saved since the piece began
            p.cp.add(p.saves[m, t] + p.go.get((m, t - d + 1), 1) <= 1)


def _free(p: Pieces, m: int, t: int) -> cp_model.LinearExpr | int:
    """Whether a piece that begins with ``t`` needs no restart."""
    if p.its.name not in p.table.problem.running_by_job:
        return p.begin[t]
    stays = p.held is not None and p.held.mode == m and t == 0
    return p.kept if stays and p.kept is not None else 0


def _moving(p: Pieces, m: int, t: int) -> Iterator[tuple[cp_model.IntVar, float]]:
    """What restoring and saving take of slot ``t``: (literal, part of the slot)."""
    seconds, stop = p.table.problem.grid.slot_seconds, p.its.interruption
    for d, part in enumerate(_reach(stop.restart_seconds, seconds)):
        if (m, t - d) in p.x:
            yield p.restores[m, t - d], part
    for d, part in enumerate(_reach(stop.save_seconds, seconds)):
        if (m, t + d) in p.x:
            yield p.saves[m, t + d], part


def _define_work(p: Pieces) -> None:
    problem, job, slot = p.table.problem, p.its, p.table.problem.grid.slot_seconds
    assert isinstance(job.need, Work)
    seconds = {m: hours_of(job, job.modes[m]) * 3600 for m in p.modes}
    unit = PARTS * min(seconds.values())  # of all the job's work, a part of a second in each mode
    done = []
    for m, t in p.x:
        z = p.idle[m, t] = p.cp.new_int_var(0, slot, f"z[{job.name},{m},{t}]")
        p.cp.add(z <= slot * p.last[t])
        stops = sum(math.ceil(part * slot - 1e-6) * moving for moving, part in _moving(p, m, t))
        works = slot * p.x[m, t] - stops - z
        p.cp.add(works >= 0)
        done.append(works * round(unit / seconds[m]))
    moved, kept = (work_left(problem, job, kept=k) / job.need.amount * unit for k in (False, True))
    lost = round(moved - kept) * p.kept if p.kept is not None else 0
    needed = math.floor(moved - ENOUGH * PARTS * slot)
    p.cp.add(sum(done) >= needed - lost).only_enforce_if(p.left_out.negated())


def _define_bringing(p: Pieces) -> None:
    for q in sorted({o.pool for o in p.modes.values() if o.egress_usd}):
        held = sorted((t, m) for m, t in p.x if p.modes[m].pool == q)
        for t in sorted({t for t, _ in held}):
            p.bring[q, t] = p.bool(f"bring{q},{t}")
            p.cp.add(p.bring[q, t] <= sum(p.go[m, s] for s, m in held if s == t))
        p.cp.add_at_most_one(b for (pool, _), b in p.bring.items() if pool == q)
        for t, m in held:
            before = [b for (pool, s), b in p.bring.items() if pool == q and s <= t]
            p.cp.add(p.x[m, t] <= sum(before))


def spent(p: Pieces, first: int, last: int) -> list[Term]:
    """All that the job spends by its share from slot ``first`` to ``last``."""
    pools = {o.pool for o in p.modes.values()}
    return [*money(p, first, last, [*p.modes]), *egress(p, first, last, pools)]


def egress(p: Pieces, first: int, last: int, pools: Container[int]) -> Iterator[Term]:
    """What bringing the job's data to ``pools`` costs from slot ``first`` to ``last``."""
    usd = {o.pool: o.egress_usd for o in p.modes.values()}
    for (q, t), literal in p.bring.items():
        if q in pools and first <= t < last:
            yield Term(literal, usd[q])


def money(p: Pieces, first: int, last: int, modes: Sequence[int]) -> Iterator[Term]:
    """Money and moving of the job's share in ``modes`` from slot ``first`` to ``last``."""
    slot = p.table.problem.grid.slot_seconds
    for m, t in p.x:
        if m in modes and first <= t < last:
            option = p.modes[m]
            pool = p.table.problem.pools[option.pool]
            usd = option.peak * option.usd_per_replica_slot * cost.priced_slots(pool, t, t + 1)
            yield Term(p.x[m, t], usd)
            yield Term(p.idle[m, t], -usd / slot, slot)


def lateness(p: Pieces) -> Iterator[Term]:
    """What its end costs."""
    for t, literal in p.last.items():
        if usd := p.table.late_usd(p.job, t + 1):
            yield Term(literal, usd)


def read(p: Pieces, solver: cp_model.CpSolver) -> Booking | None:
    """The job's pieces in a solution; None where it is left out."""
    found: list[Booking] = []
    for t, m in sorted((t, m) for (m, t), x in p.x.items() if solver.boolean_value(x)):
        option = p.modes[m]
        if not found and p.kept is not None and solver.boolean_value(p.kept):
            assert p.held is not None
            option = p.held
        counts = _counts(p, solver, m, t)
        spots = _spots(p, solver, m, t, counts) if p.table.apart[option.pool] else ()
        piece = Booking(option=option.index, start=t, counts=(counts,), spots=spots, slots=1)
        before = found[-1] if found else None
        goes_on = before is not None and before.start + before.slots == t
        if before is not None and goes_on and _same(p.table, before, piece):
            found[-1] = replace(before, slots=before.slots + 1)
        else:
            found.append(piece)
    return done_by(p.table, p.job, found) if found else None


def _same(table: Table, a: Booking, b: Booking) -> bool:
    modes = (table.options[piece.option].mode for piece in (a, b))
    return len({*modes}) == 1 and (a.counts, a.spots) == (b.counts, b.spots)


def _counts(p: Pieces, solver: cp_model.CpSolver, m: int, t: int) -> Counts:
    nodes = range(len(p.table.nodes[p.modes[m].pool]))
    found = (p.counts.get((m, n, t)) for n in nodes)
    return tuple(0 if k is None else solver.value(k) for k in found)


def _spots(
    p: Pieces, solver: cp_model.CpSolver, mode: int, slot: int, counts: Counts
) -> tuple[tuple[Spot, ...]]:
    units: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for (m, t, n, d, state), q in p.units.items():
        if (m, t) == (mode, slot):
            units[n] += [(d, state)] * solver.value(q)
    return (tuple(parts.spot(n, count, units[n]) for n, count in enumerate(counts) if count),)
