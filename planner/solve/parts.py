"""Where jobs take less than a GPU: which device every replica is on, and how that is partitioned.

Sets: devices d of a node n, in health; states g of a device, whole or one of the pool's geometries.

Variables
    q[o, r, n, d, g]  units of option o on device d of node n in state g during run r: whole GPUs,
                      shares of one, or instances of a MIG profile (`planner.devices.Unit`)
    use[o, r, n, d, g]  there are some
    apart[a, b]       runs a and b of two jobs do not overlap in time

Model
    units    sum of q[o, r, n, d, g] over d, g = units of a replica * k[o, r, n]
    stay     q[o, r+1, ...] >= q[o, r, ...] where a service grows, <= where it shrinks
    share    at every slot, the thousandths on a device <= 1000, and their memory <= its own
    instance at every slot, the instances of a profile on d in g <= those that g has
    state    use[a, ..., d, g] + use[b, ..., d, h] <= 1 + apart[a, b]  for two states g != h;
             sum of use[o, r, n, d, g] over g <= 1

So a device is repartitioned over time, wherever nothing runs on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

from ortools.sat.python import cp_model

from planner.booking import Booking, Counts
from planner.devices import Unit, distinct_geometries, unit_of
from planner.inventory import WHOLE, Spot
from planner.problem import GPU_MILLI, Pool
from planner.solve.terms import define_load
from planner.table import Option, Table

if TYPE_CHECKING:
    from planner.solve.model import Model
    from planner.solve.stops import Pieces

Literal: TypeAlias = cp_model.BoolVarT | bool

# Units by (option, run, node, device, state).
Parts: TypeAlias = dict[tuple[int, int, int, int, int], cp_model.IntVar]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """Units of a run on one device in one state."""

    job: int
    first: int  # earliest start of the run
    last: int  # its latest
    length: int
    begin: cp_model.LinearExpr | int
    interval: cp_model.IntervalVar
    unit: Unit
    state: int
    units: cp_model.IntVar | int
    used: Literal


Loads: TypeAlias = dict[tuple[int, int], list[_Load]]  # by node and device


def define(m: Model, p: int, ours: Sequence[int], booked: Sequence[Booking]) -> None:
    """The devices of pool ``p`` for options ``ours``, around ``booked`` ones."""
    loads: Loads = defaultdict(list)
    for i in ours:
        o = m.table.options[i]
        if unit := unit_of(m.table.mode(o).amounts):
            _define_units(m, o, unit, loads)
    for b in booked:
        _add_booked(m, b, loads)
    for pieces in m.pieces.values():
        for (mode, t), x in pieces.x.items():
            if pieces.modes[mode].pool == p:
                _define_slot(m, pieces, mode, t, x, loads)
    pool = m.table.problem.pools[p]
    apart: dict[tuple[int, int], Literal] = {}
    for here in loads.values():
        _define_shares(m, pool, here)
        _define_instances(m, pool, here)
        _define_states(m, here, apart)


def literals(table: Table, o: Option) -> int:
    """Unit variables that an option takes."""
    unit = unit_of(table.mode(o).amounts)
    if unit is None or not table.apart[o.pool]:
        return 0
    pool = table.problem.pools[o.pool]
    states = sum(1 for _ in _states(pool, unit))
    return len(o.runs) * len(table.nodes[o.pool]) * pool.gpus_per_node * states


def _states(pool: Pool, unit: Unit) -> Iterator[tuple[int, int]]:
    """States in which a device holds ``unit``, and how many of it."""
    for state, geometry in ((WHOLE, WHOLE), *enumerate(distinct_geometries(pool))):
        if most := unit.fits(pool, geometry):
            yield state, most


def _define_units(m: Model, o: Option, unit: Unit, loads: Loads) -> None:
    pool, nodes = m.table.problem.pools[o.pool], m.table.nodes[o.pool]
    for r, run in enumerate(o.runs):
        for n, node in enumerate(nodes):
            row = []
            for d in node.healthy_gpus():
                states = []
                for state, fits in _states(pool, unit):
                    most = min(fits, unit.count * run.replicas)
                    q = m.cp.new_int_var(0, most, f"q[{o.index},{r},{n},{d},{state}]")
                    used = m.cp.new_bool_var(f"use[{o.index},{r},{n},{d},{state}]")
                    m.cp.add(q <= most * used)
                    m.parts[o.index, r, n, d, state] = q
                    row.append(q)
                    states.append(used)
                    loads[n, d].append(
                        _Load(
                            job=o.job,
                            first=o.first + run.start,
                            last=o.last + run.start,
                            length=run.end - run.start,
                            begin=m.starts[o.job] + run.start,
                            interval=m.intervals[o.index, r],
                            unit=unit,
                            state=state,
                            units=q,
                            used=used,
                        )
                    )
                    if r:
                        _define_stay(m, o, r, m.parts[o.index, r - 1, n, d, state], q)
                m.cp.add_at_most_one(states)
            m.cp.add(sum(row) == unit.count * m.counts[o.index, r, n])


def _define_slot(
    m: Model, pieces: Pieces, mode: int, t: int, x: cp_model.IntVar, loads: Loads
) -> None:
    """The same in a slot of a job that may stop: who is on another device begins a piece."""
    o = pieces.modes[mode]
    unit = unit_of(m.table.mode(o).amounts)
    if unit is None:
        return
    interval = m.cp.new_fixed_size_interval_var(t, 1, f"slot[{o.index},{t}]")
    for n, node in enumerate(m.table.nodes[o.pool]):
        row: list[cp_model.IntVar] = []
        for d in node.healthy_gpus():
            states = []
            for state, fits in _states(m.table.problem.pools[o.pool], unit):
                most = min(fits, unit.count * o.peak)
                q = m.cp.new_int_var(0, most, f"q[{o.index},{t},{n},{d},{state}]")
                used = m.cp.new_bool_var(f"use[{o.index},{t},{n},{d},{state}]")
                m.cp.add(q <= most * used)
                m.cp.add_implication(used, x)
                before = pieces.units.get((mode, t - 1, n, d, state), 0)
                m.cp.add(q - before <= most * pieces.go[mode, t])
                pieces.units[mode, t, n, d, state] = q
                row.append(q)
                states.append(used)
                loads[n, d].append(
                    _Load(
                        job=o.job,
                        first=t,
                        last=t,
                        length=1,
                        begin=t,
                        interval=interval,
                        unit=unit,
                        state=state,
                        units=q,
                        used=used,
                    )
                )
            m.cp.add_at_most_one(states)
        m.cp.add(sum(row) == unit.count * pieces.counts[mode, n, t])


def _define_stay(
    m: Model, o: Option, r: int, before: cp_model.IntVar, now: cp_model.IntVar
) -> None:
    grows = o.runs[r].replicas >= o.runs[r - 1].replicas
    m.cp.add(now >= before if grows else now <= before)


def _add_booked(m: Model, b: Booking, loads: Loads) -> None:
    o = m.table.options[b.option]
    unit = unit_of(m.table.mode(o).amounts)
    if unit is None:
        return
    for run, spots in zip(o.runs, b.spots, strict=True):
        at, length = b.start + run.start, run.end - run.start
        interval = m.cp.new_fixed_size_interval_var(at, length, f"held[{b.option},{at}]")
        for (n, d, state), count in _units_of(spots).items():
            loads[n, d].append(
                _Load(
                    job=o.job,
                    first=at,
                    last=at,
                    length=length,
                    begin=at,
                    interval=interval,
                    unit=unit,
                    state=state,
                    units=count,
                    used=True,
                )
            )


def _units_of(spots: Sequence[Spot]) -> dict[tuple[int, int, int], int]:
    """Units by node, device and state."""
    found: dict[tuple[int, int, int], int] = defaultdict(int)
    for spot in spots:
        states = spot.geometries or (WHOLE,) * len(spot.devices)
        for device, state in zip(spot.devices, states, strict=True):
            found[spot.row, device, state] += 1
    return found


def _define_shares(m: Model, pool: Pool, here: Sequence[_Load]) -> None:
    """Thousandths and memory of a device."""
    whole = [load for load in here if load.state == WHOLE]
    for have, takes in (
        (GPU_MILLI, [load.unit.milli for load in whole]),
        (pool.capacity.gpu_memory_bytes, [load.unit.memory_bytes for load in whole]),
    ):
        if any(takes):
            demands = [load.units * each for load, each in zip(whole, takes, strict=True)]
            define_load(m.cp, [load.interval for load in whole], demands, have)


def _define_instances(m: Model, pool: Pool, here: Sequence[_Load]) -> None:
    """Instances of a profile of a device in a geometry."""
    by_kind: dict[tuple[int, str], list[_Load]] = defaultdict(list)
    for load in here:
        if load.state != WHOLE:
            by_kind[load.state, load.unit.profile].append(load)
    stated = distinct_geometries(pool)
    for (state, profile), kind in by_kind.items():
        have = pool.mig_geometries[stated[state]].count(profile)
        define_load(m.cp, [load.interval for load in kind], [load.units for load in kind], have)


def _define_states(m: Model, here: Sequence[_Load], known: dict[tuple[int, int], Literal]) -> None:
    """Of two runs that hold a device in two states, one ends before the other begins."""
    for a, b in combinations(here, 2):
        if a.state != b.state and a.job != b.job:
            m.cp.add_bool_or(_not(a.used), _not(b.used), _apart(m, a, b, known))


def _not(literal: Literal) -> Literal:
    return not literal if isinstance(literal, bool) else ~literal


def _apart(m: Model, a: _Load, b: _Load, known: dict[tuple[int, int], Literal]) -> Literal:
    """A literal that is true only where two runs do not overlap."""
    key = (a.interval.index, b.interval.index)
    if key not in known:
        apart = m.cp.new_bool_var(f"apart[{key}]")
        m.cp.add_bool_or(_before(m, a, b), _before(m, b, a), ~apart)
        known[key] = apart
    return known[key]


def _before(m: Model, a: _Load, b: _Load) -> Literal:
    """A literal that is true only where ``a`` ends before ``b`` begins."""
    if a.last + a.length <= b.first:
        return True
    if a.first + a.length > b.last:
        return False
    literal = m.cp.new_bool_var("before")
    m.cp.add(a.begin + a.length <= b.begin).only_enforce_if(literal)
    return literal


def hint(m: Model, placed: Mapping[int, Booking]) -> None:
    """Start from the devices of ``placed`` bookings, by job."""
    held = {
        (b.option, r, *key): count
        for b in placed.values()
        for r, spots in enumerate(b.spots)
        for key, count in _units_of(spots).items()
    }
    for at, q in m.parts.items():
        m.cp.add_hint(q, held.get(at, 0))


def read(
    m: Model, o: Option, counts: Sequence[Counts], solver: cp_model.CpSolver
) -> tuple[tuple[Spot, ...], ...]:
    """The devices of a chosen option by run; none where GPUs are counted."""
    if not m.table.apart[o.pool]:
        return ()
    units: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for (i, r, n, d, state), q in m.parts.items():
        if i == o.index:
            units[r, n] += [(d, state)] * solver.value(q)
    return tuple(
        tuple(spot(n, count, units[r, n]) for n, count in enumerate(row) if count)
        for r, row in enumerate(counts)
    )


def spot(n: int, replicas: int, units: Sequence[tuple[int, int]]) -> Spot:
    """Replicas on a node, by their units' (device, state)."""
    return Spot(
        row=n,
        replicas=replicas,
        devices=tuple(d for d, _ in units),
        geometries=tuple(state for _, state in units if state != WHOLE),
    )
