"""The exact problem for CP-SAT: modes, starts and named nodes at once.

Sets: jobs j, options o of a job, nodes n of a pool, runs r of an option.

Variables
    x[o]          option o is chosen; of a mix, the same literal for both of its options
    u[j]          job j is left out
    s[j]          start of batch job j (slots)
    k[o, r, n]    replicas of option o on node n during run r
    on[n, t]      node n of a pool billed by node is paid for in slot t (small problems; in larger
                  ones a bill is no less than its jobs' shares and one start of the nodes they need)

Model
    choose   sum of x[o] over j's options + u[j] = 1;  u[j] = 0 where j is required
    gang     sum of k[o, r, n] over n = replicas[o, r] * x[o]
    stay     k[o, r+1, n] >= k[o, r, n] for all n where a service grows, <= where it shrinks
    node     at every slot, the k of what runs on n fit n, by resource (cumulative)
    device   where GPUs are told apart, the k of node n are on its devices (`planner.solve.parts`)
    level    of a gang held together one domain of its level has all k, of one spread each has one
    wait     s[j] >= end of what j depends on, which is chosen whenever j is
    limit    at every slot, GPUs of an accelerator under a queue <= its limit, and GPUs of those who
             are not under queues <= what these do not keep back (`planner.quotas`; cumulatives)
    budget   money under a queue in a month <= its budget
    tier     not-running cost of each higher tier <= what was proved least for it

A job that may stop is held in one piece, as others are, or, ``in_pieces``, in any: then it has the
variables of `planner.solve.stops` instead, and takes its place in all rows by the slot.

Where every option of a pool takes whole nodes and no node is ever away, its nodes are one
cumulative by count: named nodes then exist, because intervals of whole nodes can be coloured.

Money is in whole parts of a dollar, as fine as keeps the sum below 1e13; the bound returned is
lowered by the rounding it may hold.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from ortools.sat.python import cp_model

from planner import cost
from planner.booking import Booking, chain, kept_if_same, spent_by
from planner.problem import Billing
from planner.solve import gangs, parts, stops
from planner.solve.clock import Stop
from planner.solve.master import bill_floors, least_launch_usd
from planner.solve.parts import Parts
from planner.solve.stops import Pieces
from planner.solve.terms import COARSE, FINE, Term, define_load, keep_within, scale_of
from planner.table import RESOURCES, Option, Table, spent_usd

TIME_LITERALS = 6_000  # most start and node literals for which whole-node bills are exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What CP-SAT said: bookings of a plan, or none, and the bound it proved."""

    bookings: tuple[Booking, ...] | None
    bound_usd: float
    optimal: bool
    infeasible: bool


@dataclass(slots=True)
class Model:
    """A CP-SAT model under construction."""

    table: Table
    cp: cp_model.CpModel = field(default_factory=cp_model.CpModel)
    chosen: dict[int, cp_model.IntVar] = field(default_factory=dict)
    left_out: dict[int, cp_model.IntVar] = field(default_factory=dict)
    starts: dict[int, cp_model.IntVar] = field(default_factory=dict)
    intervals: dict[tuple[int, int], cp_model.IntervalVar] = field(default_factory=dict)
    counts: dict[tuple[int, int, int], cp_model.IntVar] = field(default_factory=dict)
    parts: Parts = field(default_factory=dict)
    terms: list[Term] = field(default_factory=list)
    pieces: dict[int, Pieces] = field(default_factory=dict)  # by job
    at: dict[int, dict[int, cp_model.IntVar]] = field(default_factory=dict)  # option, start
    exact_bills: bool = True


def define(
    table: Table,
    *,
    allowed: Mapping[int, Sequence[int]],
    fixed: Sequence[Booking] = (),
    caps: Sequence[tuple[frozenset[int], float]] = (),
    may_leave_out: bool = True,
    in_pieces: bool = False,
) -> Model:
    """The model over ``allowed`` options by job, around ``fixed`` bookings.

    ``caps`` are tiers: (jobs, most not-running USD). With ``may_leave_out`` false every job runs.
    """
    m = Model(table)
    _define_choice(m, allowed, may_leave_out, in_pieces)
    m.exact_bills = (
        not any(p.billing is Billing.NODE for p in table.problem.pools)
        or _literals(m) <= TIME_LITERALS
    )
    pieces = [piece for b in fixed for piece in b.pieces()]
    for p in range(len(table.problem.pools)):
        ours = [o for o in table.of_pool[p] if o in m.chosen]
        if not ours and not any(o.pool == p for ps in m.pieces.values() for o in ps.modes.values()):
            continue
        booked = [b for b in pieces if table.options[b.option].pool == p]
        if counts_suffice(table, p):
            _define_count(m, p, ours, booked)
        else:
            _define_nodes(m, p, ours, booked)
        _define_bills(m, p, ours, booked)
    _define_waits(m, fixed)
    _define_limits(m, fixed)
    _define_budgets(m, fixed)
    for jobs, most in caps:
        _define_cap(m, jobs, most)
    return m


def counts_suffice(table: Table, pool: int) -> bool:
    """Whether the pool's nodes can be taken by number: alike, always there, none of them shared.

    Where jobs run already, it matters who gets which.
    """
    alike = not (
        any(table.away[pool]) or any(table.broken[pool]) or table.up[pool] or table.apart[pool]
    )
    return alike and all(
        o.per_node == 1
        and 2 * o.takes[0] > table.capacity[pool][0]
        and len(o.runs) == 1
        and not table.tied(o)
        for o in (table.options[i] for i in table.of_pool[pool])
    )


def _literals(m: Model) -> int:
    """Start literals and node-slot literals that exact whole-node bills would take."""
    total = 0
    for p, pool in enumerate(m.table.problem.pools):
        if pool.billing is Billing.NODE:
            nodes = len(m.table.nodes[p])
            total += nodes * m.table.problem.grid.slots
            for i in m.table.of_pool[p]:
                o = m.table.options[i]
                if i in m.chosen:
                    total += (o.last - o.first + 1) * (1 + nodes * len(o.runs))
    return total


def _define_choice(
    m: Model, allowed: Mapping[int, Sequence[int]], may_leave_out: bool, in_pieces: bool
) -> None:
    jobs = m.table.problem.jobs
    by_count = {p for p in range(len(m.table.problem.pools)) if counts_suffice(m.table, p)}
    for j, options in sorted(allowed.items()):
        job = jobs[j]
        rows = [m.table.options[i] for i in options]
        leave = m.cp.new_bool_var(f"u[{job.name}]")
        m.left_out[j] = leave
        if job.required or not may_leave_out:
            m.cp.add(leave == 0)
        m.terms.append(Term(leave, job.unplaced_usd))
        if in_pieces and rows and job.may_stop:
            m.pieces[j] = stops.define(m.table, m.cp, j, rows, leave, by_count)
            m.terms += stops.lateness(m.pieces[j])
            continue
        rows = [o for o in rows if o.first <= o.last]
        for o in rows:
            m.chosen[o.index] = m.cp.new_bool_var(f"x[{job.name},{o.mode}]")
        m.cp.add_exactly_one([*(m.chosen[o.index] for o in rows), leave])
        if not rows:
            continue
        start = m.cp.new_int_var(
            min(o.first for o in rows), max(o.last for o in rows), f"s[{job.name}]"
        )
        m.starts[j] = start
        for o in rows:
            m.cp.add_linear_constraint(start, o.first, o.last).only_enforce_if(m.chosen[o.index])
            _define_affordable(m, o)
            for part in m.table.parts(o):
                m.chosen[part.index] = m.chosen[o.index]
                _define_intervals(m, part, start)
        _define_lateness(m, j, rows)


def _define_intervals(m: Model, o: Option, start: cp_model.IntVar) -> None:
    for r, run in enumerate(o.runs):
        m.intervals[o.index, r] = m.cp.new_optional_fixed_size_interval_var(
            start + run.start,
            run.end - run.start,
            m.chosen[o.index],
            f"i[{m.table.problem.jobs[o.job].name},{o.mode},{r}]",
        )


def _define_affordable(m: Model, o: Option) -> None:
    """Where prices change, only the starts that the job's own limit allows."""
    most = m.table.problem.jobs[o.job].max_cost_usd
    if most is None or not o.prices:
        return
    starts = [t for t in range(o.first, o.last + 1) if o.usd_from(t) <= most + 1e-6]
    within = cp_model.Domain.from_values(starts)
    m.cp.add_linear_expression_in_domain(m.starts[o.job], within).only_enforce_if(m.chosen[o.index])


def _define_lateness(m: Model, j: int, rows: Sequence[Option]) -> None:
    job = m.table.problem.jobs[j]
    worst = max(o.last + o.length for o in rows)
    if job.due is None or worst <= job.due or not job.lateness_usd_per_hour:
        return
    late = m.cp.new_int_var(0, worst - job.due, f"late[{job.name}]")
    for o in rows:
        m.cp.add(late >= m.starts[j] + o.length - job.due).only_enforce_if(m.chosen[o.index])
    rate = m.table.problem.grid.slot_hours * job.lateness_usd_per_hour
    m.terms.append(Term(late, rate, worst - job.due))


def _define_count(m: Model, p: int, ours: Iterable[int], booked: Sequence[Booking]) -> None:
    load: list[Load] = [
        (m.intervals[i, r], run.replicas)
        for i in ours
        for r, run in enumerate(m.table.options[i].runs)
    ]
    load += [
        (_fixed(m, b.start + run.start, b.start + run.end), run.replicas)
        for b in booked
        for run in b.runs(m.table)
    ]
    load += [(_fixed(m, t, t + 1), option.peak * x) for option, t, x in _slots_held(m, p)]
    _define_load(m, load, len(m.table.nodes[p]))


def _slots_held(m: Model, p: int) -> Iterator[tuple[Option, int, cp_model.IntVar]]:
    """What jobs in pieces hold of a pool: (option, slot, literal)."""
    for pieces in m.pieces.values():
        for (mode, t), x in pieces.x.items():
            if pieces.modes[mode].pool == p:
                yield pieces.modes[mode], t, x


def _fixed(m: Model, start: int, end: int) -> cp_model.IntervalVar:
    return m.cp.new_fixed_size_interval_var(start, end - start, f"fixed[{start},{end}]")


def _define_nodes(m: Model, p: int, ours: Sequence[int], booked: Sequence[Booking]) -> None:
    table, nodes = m.table, range(len(m.table.nodes[p]))
    for i in ours:
        _define_gang(m, table.options[i], len(nodes))
    for k in range(len(RESOURCES)):
        takes = [table.options[i].takes[k] for i in table.of_pool[p] if table.options[i].takes[k]]
        if not takes:
            continue
        unit = math.gcd(*takes)  # the floor of the capacity is exact: all demands are multiples
        for n in nodes:
            have = table.have(p, n, k) // unit
            load = [
                *_free_load(m, ours, k, n, unit),
                *_booked_load(m, booked, k, n, unit),
                *_pieces_load(m, p, k, n, unit),
                *((_fixed(m, start, end), have) for start, end in table.away[p][n]),
            ]
            _define_load(m, load, have)
    if table.apart[p]:
        parts.define(m, p, ours, booked)


Load = tuple[cp_model.IntervalVar, cp_model.LinearExpr | int]


def _define_load(m: Model, load: Sequence[Load], have: int) -> None:
    define_load(m.cp, [i for i, _ in load], [d for _, d in load], have)


def _free_load(m: Model, ours: Sequence[int], k: int, n: int, unit: int) -> Iterator[Load]:
    """What options still to be placed take of resource ``k`` of node ``n``."""
    for i in ours:
        takes = m.table.options[i].takes[k]
        if takes:
            for r in range(len(m.table.options[i].runs)):
                yield m.intervals[i, r], m.counts[i, r, n] * (takes // unit)


def _booked_load(m: Model, booked: Sequence[Booking], k: int, n: int, unit: int) -> Iterator[Load]:
    for b in booked:
        o = m.table.options[b.option]
        for run, counts in zip(b.runs(m.table), b.counts, strict=True):
            if counts[n] and o.takes[k]:
                interval = _fixed(m, b.start + run.start, b.start + run.end)
                yield interval, counts[n] * (o.takes[k] // unit)


def _pieces_load(m: Model, p: int, k: int, n: int, unit: int) -> Iterator[Load]:
    for pieces in m.pieces.values():
        for (mode, at, t), count in pieces.counts.items():
            takes = pieces.modes[mode].takes[k]
            if at == n and takes and pieces.modes[mode].pool == p:
                yield _fixed(m, t, t + 1), count * (takes // unit)


def _define_gang(m: Model, o: Option, nodes: int) -> None:
    job = m.table.problem.jobs[o.job]
    mode = job.modes[o.mode]
    x = m.chosen[o.index]
    for r, run in enumerate(o.runs):
        row = []
        for n in range(nodes):
            most = min(o.per_node, run.replicas)
            k = m.cp.new_int_var(0, most, f"k[{job.name},{o.mode},{r},{n}]")
            m.counts[o.index, r, n] = k
            row.append(k)
            m.cp.add(k <= most * x)
            if o.held:
                m.cp.add(k == o.held[n] * x)
        m.cp.add(sum(row) == run.replicas * x)
        if mode.together_required:
            gangs.define_together(m.cp, m.table, o, row)
        if mode.spread:
            gangs.define_spread(m.cp, m.table, o, row)
        if r and nodes:
            before = [m.counts[o.index, r - 1, n] for n in range(nodes)]
            for a, b in zip(before, row, strict=True):
                if run.replicas >= o.runs[r - 1].replicas:
                    m.cp.add(b >= a)
                else:
                    m.cp.add(b <= a)


# -- money ---------------------------------------------------------------------------------------


def _define_bills(m: Model, p: int, ours: Sequence[int], booked: Sequence[Booking]) -> None:
    pool = m.table.problem.pools[p]
    for pieces in m.pieces.values():
        m.terms += stops.egress(pieces, 0, m.table.problem.grid.slots, {p})
    if pool.billing is Billing.NODE:
        brought = ((i, m.table.options[i].egress_usd) for i in ours)
        m.terms += [Term(m.chosen[i], usd) for i, usd in brought if usd]
    if pool.billing is not Billing.NODE:
        for i in ours:
            m.terms += _share(m, m.table.options[i])
        for pieces in m.pieces.values():
            here = [mode for mode, o in pieces.modes.items() if o.pool == p]
            m.terms += stops.money(pieces, 0, m.table.problem.grid.slots, here)
    elif not m.exact_bills:
        _define_least_bills(m, p, ours)
    else:
        _define_exact_bills(m, p, ours, booked)


def _share(m: Model, o: Option) -> list[Term]:
    if not o.prices:
        return [Term(m.chosen[o.index], o.usd)]
    return [Term(literal, o.usd_from(t)) for t, literal in _start_literals(m, o).items()]


def _define_least_bills(m: Model, p: int, ours: Sequence[int]) -> None:
    """Less than any bill: each option's share, and one start of the nodes that the widest needs."""
    pool = m.table.problem.pools[p]
    nodes = len(m.table.nodes[p])
    floors = bill_floors(m.table, p)
    most = sum(math.ceil(100 * usd) for usd in floors[0].values()) + sum(
        math.ceil(100 * usd) for floor in floors[1:] for usd in floor.values()
    )
    cents = m.cp.new_int_var(0, most, f"bill[{pool.name}]")
    for floor in floors:
        m.cp.add(sum(math.floor(100 * floor[i]) * m.chosen[i] for i in ours if i in floor) <= cents)
    started = m.cp.new_int_var(0, nodes, f"started[{pool.name}]")
    for i in ours:
        needed = m.table.options[i].nodes - len(m.table.up[p])
        m.cp.add(started >= needed).only_enforce_if(m.chosen[i])
    m.terms += [Term(cents, 0.01, most), Term(started, least_launch_usd(m.table, p), nodes)]


def _define_exact_bills(m: Model, p: int, ours: Sequence[int], booked: Sequence[Booking]) -> None:
    """Pay a node's slots while it is on, and a start-up each time it comes on."""
    table, pool, grid = m.table, m.table.problem.pools[p], m.table.problem.grid
    at = {i: _start_literals(m, table.options[i]) for i in ours}
    by_count = counts_suffice(table, p)
    rows = range(1 if by_count else len(table.nodes[p]))
    for n in rows:
        most = len(table.nodes[p]) if by_count else 1
        on = [m.cp.new_int_var(0, most, f"on[{pool.name},{n},{t}]") for t in range(grid.slots)]
        previous: cp_model.LinearExpr | int = int(n in table.up[p])
        for t in range(grid.slots):
            launch = m.cp.new_int_var(0, most, f"launch[{pool.name},{n},{t}]")
            m.cp.add(launch >= on[t] - previous)
            previous = on[t]
            begin, seconds = t * grid.slot_seconds, grid.slot_seconds
            slot_usd = cost.node_usd(pool, begin, begin + seconds, seconds)
            startup_usd = cost.node_usd(pool, begin - pool.startup_seconds, begin, seconds)
            m.terms += [Term(on[t], slot_usd, most), Term(launch, startup_usd, most)]
        for start, end in table.away[p][n] if not by_count else ():
            for t in range(start, end):
                m.cp.add(on[t] == 0)
        if by_count:
            _pay_by_count(m, p, on, ours, booked, at)
        else:
            _pay_by_node(m, n, on, ours, booked, at)
            _pay_for_pieces(m, p, n, on)


def _pay_by_count(
    m: Model,
    p: int,
    on: Sequence[cp_model.IntVar],
    ours: Sequence[int],
    booked: Sequence[Booking],
    at: Mapping[int, Mapping[int, cp_model.IntVar]],
) -> None:
    used: dict[int, list[cp_model.LinearExprT]] = defaultdict(list)
    for i in ours:
        for run in m.table.options[i].runs:
            for begin, literal in at[i].items():
                for t in range(begin + run.start, begin + run.end):
                    used[t].append(run.replicas * literal)
    for b in booked:
        for run in b.runs(m.table):
            for t in range(b.start + run.start, b.start + run.end):
                used[t].append(run.replicas)
    for option, t, x in _slots_held(m, p):
        used[t].append(option.peak * x)
    for t, terms in used.items():
        m.cp.add(on[t] >= sum(terms))


def _pay_by_node(
    m: Model,
    n: int,
    on: Sequence[cp_model.IntVar],
    ours: Sequence[int],
    booked: Sequence[Booking],
    at: Mapping[int, Mapping[int, cp_model.IntVar]],
) -> None:
    for i in ours:
        for r, run in enumerate(m.table.options[i].runs):
            k = m.counts[i, r, n]
            here = m.cp.new_bool_var(f"uses[{i},{r},{n}]")
            m.cp.add(k <= run.replicas * here)
            for begin, literal in at[i].items():
                for t in range(begin + run.start, begin + run.end):
                    m.cp.add(on[t] >= here + literal - 1)
    for b in booked:
        for run, counts in zip(b.runs(m.table), b.counts, strict=True):
            if counts[n]:
                for t in range(b.start + run.start, b.start + run.end):
                    m.cp.add(on[t] == 1)


def _pay_for_pieces(m: Model, p: int, n: int, on: Sequence[cp_model.IntVar]) -> None:
    for pieces in m.pieces.values():
        for (mode, at, t), count in pieces.counts.items():
            if at == n and pieces.modes[mode].pool == p:
                m.cp.add(count <= pieces.modes[mode].peak * on[t])


def _start_literals(m: Model, o: Option) -> dict[int, cp_model.IntVar]:
    """A literal for each start of ``o``, one of them true exactly when it is chosen."""
    x, start = m.chosen[o.index], m.starts[o.job]
    if o.first == o.last:
        return {o.first: x}
    if o.index in m.at:
        return m.at[o.index]
    found: dict[int, cp_model.IntVar] = m.at.setdefault(o.index, {})
    for t in range(o.first, o.last + 1):
        literal = m.cp.new_bool_var(f"at[{o.index},{t}]")
        m.cp.add(start == t).only_enforce_if(literal)
        found[t] = literal
    m.cp.add(sum(found.values()) == x)
    return found


# -- queues --------------------------------------------------------------------------------------


def _define_waits(m: Model, fixed: Sequence[Booking]) -> None:
    booked = {m.table.options[b.option].job: b for b in fixed}
    for j, befores in enumerate(m.table.after):
        for before in befores:
            if j in booked:
                _end_by(m, before, booked[j].start)
            elif j in m.left_out:
                _start_behind(m, j, before, booked.get(before))


def _ends(m: Model, j: int) -> Iterator[tuple[cp_model.LinearExprT, cp_model.LiteralT]]:
    """When job ``j`` ends, by the literals on which that is so."""
    if j in m.pieces:
        yield m.pieces[j].end, m.left_out[j].negated()
    for i in m.table.of_job[j] if j in m.starts else ():
        if i in m.chosen:
            yield m.starts[j] + m.table.options[i].length, m.chosen[i]


def _start(m: Model, j: int) -> cp_model.LinearExprT | None:
    return m.pieces[j].start if j in m.pieces else m.starts.get(j)


def _end_by(m: Model, before: int, start: int) -> None:
    """``before``, where it is free to move, runs and ends before slot ``start``."""
    if before not in m.left_out:
        return
    m.cp.add(m.left_out[before] == 0)
    for end, where in _ends(m, before):
        m.cp.add(end <= start).only_enforce_if(where)


def _start_behind(m: Model, j: int, before: int, booked: Booking | None) -> None:
    """``j`` runs only if ``before`` does, and starts when that has ended."""
    runs, start = m.left_out[j].negated(), _start(m, j)
    if booked is not None and start is not None:
        m.cp.add(start >= booked.end(m.table)).only_enforce_if(runs)
    elif before in m.left_out:
        m.cp.add_implication(m.left_out[before], m.left_out[j])
        if start is not None:
            for end, where in _ends(m, before):
                m.cp.add(start >= end).only_enforce_if(where, runs)
    elif booked is None:
        m.cp.add(m.left_out[j] == 1)


def _under(m: Model, queue: str) -> set[int]:
    problem = m.table.problem
    return {i for i, j in enumerate(problem.jobs) if queue in problem.queue_path(j.queue)}


def _define_limits(m: Model, fixed: Sequence[Booking]) -> None:
    problem = m.table.problem
    for cap in m.table.caps:
        jobs = {i for i, job in enumerate(problem.jobs) if cap.binds(problem.queue_path(job.queue))}
        pools = {p for p, pool in enumerate(problem.pools) if pool.accelerator == cap.accelerator}
        load = [*_gpus_chosen(m, jobs, pools), *_gpus_booked(m, jobs, pools, fixed)]
        if load:
            most = int(np.max(cap.milli))
            _define_load(m, [*load, *_missing(m, most - cap.milli)], most)


def _missing(m: Model, milli: npt.NDArray[np.int64]) -> Iterator[Load]:
    """A load that is there anyway, by slot: intervals, one for each stretch of one amount."""
    edges = [0, *(np.flatnonzero(np.diff(milli)) + 1).tolist(), milli.size]
    for start, end in pairwise(edges):
        if milli[start]:
            yield _fixed(m, start, end), int(milli[start])


def _gpus_chosen(m: Model, jobs: set[int], pools: set[int]) -> Iterator[Load]:
    """Thousandths of GPUs of ``pools`` that ``jobs`` still to be placed hold."""
    for i in m.chosen:
        o = m.table.options[i]
        if o.job in jobs and o.pool in pools:
            for r, run in enumerate(o.runs):
                yield m.intervals[i, r], run.replicas * o.takes[0]
    for o, t, x in (held for p in sorted(pools) for held in _slots_held(m, p)):
        if o.job in jobs:
            yield _fixed(m, t, t + 1), o.peak * o.takes[0] * x


def _gpus_booked(
    m: Model, jobs: set[int], pools: set[int], fixed: Sequence[Booking]
) -> Iterator[Load]:
    for b in (piece for whole in fixed for piece in whole.pieces()):
        o = m.table.options[b.option]
        if o.job in jobs and o.pool in pools:
            for run in b.runs(m.table):
                interval = _fixed(m, b.start + run.start, b.start + run.end)
                yield interval, run.replicas * o.takes[0]


def _define_budgets(m: Model, fixed: Sequence[Booking]) -> None:
    problem = m.table.problem
    for queue in problem.queues:
        if queue.budget_usd_per_month is None:
            continue
        jobs = _under(m, queue.name)
        for _, first, last in problem.grid.months():
            terms = [
                term
                for i in m.chosen
                if m.table.options[i].job in jobs
                for term in _spent(m, m.table.options[i], first, last)
            ]
            for j in jobs & m.pieces.keys():
                terms += stops.spent(m.pieces[j], first, last)
            spent = math.fsum(
                spent_by(m.table, b, first, last)
                for b in fixed
                if m.table.options[b.option].job in jobs
            )
            keep_within(m.cp, terms, queue.budget_usd_per_month - spent)


def _spent(m: Model, o: Option, first: int, last: int) -> list[Term]:
    """Money of ``o`` between two slots."""
    x, pool = m.chosen[o.index], m.table.problem.pools[o.pool]
    inside = o.first >= first and o.last + o.length <= last
    if (inside and not o.prices) or len(o.runs) > 1 or o.first == o.last:
        return [Term(x, spent_usd(pool, o, o.first, first, last))]
    if o.last + o.length <= first or o.first >= last:
        return []
    if o.prices:
        at = _start_literals(m, o).items()
        return [Term(literal, spent_usd(pool, o, t, first, last)) for t, literal in at]
    slots = m.cp.new_int_var(0, o.length, f"inside[{o.index},{first}]")
    start = m.starts[o.job]
    end = m.cp.new_int_var(0, last, f"until[{o.index},{first}]")
    begin = m.cp.new_int_var(first, m.table.problem.grid.slots, f"from[{o.index},{first}]")
    m.cp.add_min_equality(end, [start + o.length, last])
    m.cp.add_max_equality(begin, [start, first])
    m.cp.add(slots >= end - begin).only_enforce_if(x)
    ends = m.cp.new_bool_var(f"ends[{o.index},{first}]")  # inside, so what it leaves idle is too
    m.cp.add_implication(ends, x)
    m.cp.add_linear_constraint(start + o.length, first + 1, last).only_enforce_if(ends)
    usd = o.peak * o.usd_per_replica_slot
    terms = [Term(slots, usd, o.length), Term(ends, usd * (o.paid_slots - o.length))]
    return [*terms, *_brought(m, o, first, last)]


def _brought(m: Model, o: Option, first: int, last: int) -> list[Term]:
    """What bringing its data costs where ``o`` starts between two slots."""
    if not o.egress_usd or o.last < first or o.first >= last:
        return []
    begins = m.cp.new_bool_var(f"begins[{o.index},{first}]")
    before = m.cp.new_bool_var(f"before[{o.index},{first}]")
    behind = m.cp.new_bool_var(f"behind[{o.index},{first}]")
    m.cp.add(before + begins + behind == 1).only_enforce_if(m.chosen[o.index])
    start = m.starts[o.job]
    m.cp.add(start <= first - 1).only_enforce_if(before)
    m.cp.add_linear_constraint(start, first, last - 1).only_enforce_if(begins)
    m.cp.add(start >= last).only_enforce_if(behind)
    return [Term(begins, o.egress_usd)]


def _define_cap(m: Model, jobs: frozenset[int], most: float) -> None:
    terms = [(u, m.table.problem.jobs[j].unplaced_usd) for j, u in m.left_out.items() if j in jobs]
    m.cp.add(
        sum(u * round(usd * 1000) for u, usd in terms)
        <= math.floor(most * 1000 + 0.5 * len(terms) + 0.5)
    )


def only_leaving_out(m: Model, jobs: frozenset[int]) -> None:
    """Make the not-running cost of ``jobs`` the whole objective."""
    m.terms = [
        Term(u, m.table.problem.jobs[j].unplaced_usd) for j, u in m.left_out.items() if j in jobs
    ]


# -- solving -------------------------------------------------------------------------------------


def solve(
    m: Model,
    *,
    seconds: float,
    seed: int,
    hint: Sequence[Booking] = (),
    gap: float = 0.0,
    workers: int = 2,
    stop: Stop | None = None,
) -> Answer:
    """Minimise. ``hint`` is a plan to start from; ``gap`` a relative gap at which to stop."""
    scale = scale_of(m.terms, FINE if m.pieces else COARSE)
    m.cp.minimize(sum(t.expr * round(t.usd * scale) for t in m.terms))
    _hint(m, hint)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(0.05, seconds)
    solver.parameters.random_seed = seed
    solver.parameters.num_workers = workers
    solver.parameters.relative_gap_limit = gap
    if m.pieces:  # rows of work and of budgets, multiplied, overflow in OR-Tools 9.15
        solver.parameters.presolve_inclusion_work_limit = 0
    solver.parameters.catch_sigint_signal = False  # whoever runs us says what Ctrl-C means
    with (stop or Stop()).reaches(solver.stop_search):
        status = solver.solve(m.cp)
    slack = sum(abs(round(t.usd * scale) - t.usd * scale) * t.most for t in m.terms) / scale
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return Answer(
        bookings=_read(m, solver) if found else None,
        bound_usd=max(0.0, solver.best_objective_bound / scale - slack)
        if status != cp_model.INFEASIBLE
        else math.inf,
        optimal=status == cp_model.OPTIMAL and gap == 0.0,
        infeasible=status == cp_model.INFEASIBLE,
    )


def _hint(m: Model, hint: Sequence[Booking]) -> None:
    placed = {m.table.options[b.option].job: b for b in hint}
    pieces = {piece.option: piece for b in hint for piece in b.pieces()}
    m.cp.clear_hints()  # type: ignore[no-untyped-call]  # OR-Tools leaves it untyped
    for j, u in m.left_out.items():
        m.cp.add_hint(u, j not in placed)
    for j, start in m.starts.items():
        if j in placed:
            m.cp.add_hint(start, placed[j].start)
    for i, x in m.chosen.items():
        o = m.table.options[i]
        if i in m.table.of_job[o.job]:
            m.cp.add_hint(x, o.job in placed and placed[o.job].option == i)
    parts.hint(m, pieces)
    for (i, r, n), k in m.counts.items():
        m.cp.add_hint(k, pieces[i].counts[r][n] if i in pieces else 0)


def _read(m: Model, solver: cp_model.CpSolver) -> tuple[Booking, ...]:
    """Bookings of the solution; those of pools taken by count get no nodes yet."""
    found = []
    for ours in m.table.of_job:
        for i in ours:
            if i in m.chosen and solver.boolean_value(m.chosen[i]):
                both = m.table.parts(m.table.options[i])
                found.append(chain([_booked(m, solver, o) for o in both]))
    found += filter(None, (stops.read(pieces, solver) for pieces in m.pieces.values()))
    found = [kept_if_same(m.table, b) for b in found]
    return tuple(sorted(found, key=lambda b: (b.start, b.option)))


def _booked(m: Model, solver: cp_model.CpSolver, o: Option) -> Booking:
    nodes = range(len(m.table.nodes[o.pool]))
    counts = tuple(
        tuple(
            solver.value(m.counts[o.index, r, n]) if (o.index, r, n) in m.counts else 0
            for n in nodes
        )
        for r in range(len(o.runs))
    )
    return Booking(
        option=o.index,
        start=solver.value(m.starts[o.job]),
        counts=counts,
        spots=parts.read(m, o, counts, solver),
    )
