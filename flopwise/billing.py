"""A plan as a bill: ledger lines that sum to the invoice, and what the cost report says.

Work is billed to its job at its own price. What is left of a whole-node bill is the pool's: the
start-up of its nodes, and the hours in which GPUs of a rented node do nothing. The nodes of owned
and reserved pools cost their annuity all the time: work carries its share, idleness the rest.

Bringing a job's data to a pool is *moving* to the plan. It is money all the same: it has lines of
its own, so the bill is the plan's money and that, and the report's *moving* is what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

from cost_models.ledger import Key, Ledger, Line, LineKind, Totals, apportion, micros
from cost_models.report import (
    Assumption,
    Capacity,
    GpuWork,
    LeftOut,
    Measured,
    Outcome,
    Proof,
    Report,
)
from planner import cost
from planner.plan import Plan, Rental, Segment
from planner.problem import Billing, Pool, Problem
from scheduler.executor.launches import launches
from telemetry.usage import Usage

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A ledger line before its money is rounded together with the others'."""

    line: Line
    usd: float
    sunk_usd: float = 0.0  # beside the money: paid already


def ledger(problem: Problem, plan: Plan) -> Ledger:
    """The plan's bill: ``plan.costs.money`` and what bringing data costs; in full with the sunk.

    Raises ValueError where the plan's stated money is not what its segments cost.
    """
    entries = [e for pool in problem.pools for e in _pool_entries(problem, plan, pool)]
    billed = math.fsum(e.usd for e in entries)
    if not math.isclose(billed, plan.costs.money, rel_tol=1e-6, abs_tol=0.005):
        raise ValueError(f"the plan says ${plan.costs.money:,.2f}, its parts ${billed:,.2f}")
    entries += [_egress(problem, s) for s in plan.segments if s.egress_usd]
    money = apportion(micros(plan.costs.money + _egress_usd(plan)), [e.usd for e in entries])
    sunk = apportion(micros(math.fsum(e.sunk_usd for e in entries)), [e.sunk_usd for e in entries])
    lines = (
        replace(entry.line, usd_micros=usd, full_usd_micros=usd + beside)
        for entry, usd, beside in zip(entries, money, sunk, strict=True)
    )
    grid = problem.grid
    return Ledger(
        start=grid.start,
        end=grid.time(grid.slots),
        lines=tuple(sorted(lines, key=lambda x: (x.start, x.pool, x.kind, x.job, x.end, x.nodes))),
    )


def _pool_entries(problem: Problem, plan: Plan, pool: Pool) -> list[Entry]:
    segments = [s for s in plan.segments if cost.mode_of(problem, s).pool == pool.name]
    work = [_work(problem, pool, s) for s in segments]
    if pool.billing is Billing.NODE:
        bills = cost.rentals(problem, segments)
        started = [_startup(problem, pool, bill) for bill in bills if pool.startup_seconds]
        idle = _idle(problem, pool, [_ready(pool, b) for b in bills], work)
        return _scaled([*work, *started, *idle], math.fsum(bill.usd for bill in bills))
    if pool.billing is Billing.SUNK:
        idle = [_as_sunk(e) for e in _idle(problem, pool, _windows(problem, pool), work)]
        alone = replace(problem, pools=(pool,), nodes=(), jobs=())
        return _sunk_scaled([*work, *idle], cost.sunk_usd(alone))
    return work


def _scaled(entries: list[Entry], whole: float) -> list[Entry]:
    """The entries at their list prices, in proportion to what the nodes are billed.

    At one price all the time the two are equal; a price that changes inside a window is averaged.
    """
    listed = math.fsum(e.usd for e in entries)
    return [replace(e, usd=e.usd * (whole / listed)) for e in entries] if listed else entries


def _sunk_scaled(entries: list[Entry], whole: float) -> list[Entry]:
    listed = math.fsum(e.sunk_usd for e in entries)
    if not listed:
        return entries
    return [replace(e, sunk_usd=e.sunk_usd * (whole / listed)) for e in entries]


def _as_sunk(entry: Entry) -> Entry:
    return replace(entry, usd=0.0, sunk_usd=entry.usd)


def _line(problem: Problem, pool: Pool, kind: LineKind, start: float, end: float) -> Line:
    """A line of nobody, from ``start`` to ``end`` seconds after the grid's start."""
    site = pool.site
    return Line(
        start=_time(problem, start),
        end=_time(problem, end),
        kind=kind,
        pool=pool.name,
        accelerator=pool.accelerator,
        purchase=pool.purchase,
        site=" ".join(part for part in (site.provider, site.region) if part) or site.kind,
        gpus=0.0,
        gpu_hours=0.0,
        usd_micros=0,
        full_usd_micros=0,
    )


def _time(problem: Problem, seconds: float) -> datetime:
    return problem.grid.start + timedelta(seconds=seconds)


def _work(problem: Problem, pool: Pool, segment: Segment) -> Entry:
    job, mode = problem.job_by_name[segment.job], cost.mode_of(problem, segment)
    hours = cost.segment_hours(problem, segment)
    gpus = segment.replicas * pool.gpu_share(mode.amounts)
    joules = cost.segment_joules(problem, segment)
    start = segment.start * problem.grid.slot_seconds
    usd = cost.segment_usd(problem, segment)
    return Entry(
        line=replace(
            _line(problem, pool, LineKind.WORK, start, start + hours * 3600),
            team=job.team,
            project=job.project,
            queue=job.queue,
            job=job.name,
            nodes=tuple(place.node for place in segment.placement),
            gpus=gpus,
            gpu_hours=gpus * hours,
            joules=joules,
            grams_co2=joules / JOULES_PER_KWH * pool.grams_co2_per_kwh,
            useful_flops=cost.segment_flops(problem, segment),
        ),
        usd=usd,
        sunk_usd=max(0.0, cost.segment_full_usd(problem, segment) - usd),
    )


def _egress(problem: Problem, segment: Segment) -> Entry:
    """The job's data brought to the segment's pool, paid at its start."""
    job, pool = problem.job_by_name[segment.job], cost.mode_of(problem, segment).pool
    at = segment.start * problem.grid.slot_seconds
    line = _line(problem, problem.pool_by_name[pool], LineKind.EGRESS, at, at)
    whose = replace(line, team=job.team, project=job.project, queue=job.queue, job=job.name)
    return Entry(line=whose, usd=segment.egress_usd)


def _egress_usd(plan: Plan) -> float:
    return math.fsum(s.egress_usd for s in plan.segments)


def _startup(problem: Problem, pool: Pool, bill: Rental) -> Entry:
    start, end = bill.launch_seconds, bill.launch_seconds + pool.startup_seconds
    line = _line(problem, pool, LineKind.STARTUP, start, end)
    hours = pool.startup_seconds / 3600
    return Entry(
        line=replace(
            line, nodes=(bill.node,), gpus=pool.gpus_per_node, gpu_hours=pool.gpus_per_node * hours
        ),
        usd=cost.node_usd(pool, start, end, problem.grid.slot_seconds),
    )


Held = tuple[float, float, float]  # from, to (seconds after the grid's start), GPUs


def _ready(pool: Pool, bill: Rental) -> Held:
    return bill.launch_seconds + pool.startup_seconds, bill.end_seconds, pool.gpus_per_node


def _windows(problem: Problem, pool: Pool) -> list[Held]:
    seconds = problem.grid.slot_seconds
    return [
        (w.start * seconds, w.end * seconds, w.nodes * pool.gpus_per_node) for w in pool.windows
    ]


def _idle(problem: Problem, pool: Pool, held: Sequence[Held], work: Iterable[Entry]) -> list[Entry]:
    """What is left of the GPUs held when the work is taken out, at the node's list price."""
    origin = problem.grid.start
    busy = [
        (
            (e.line.start - origin).total_seconds(),
            (e.line.end - origin).total_seconds(),
            -e.line.gpus,
        )
        for e in work
    ]
    found = []
    for start, end, gpus in spare([*held, *busy]):
        hours = (end - start) / 3600
        usd = cost.node_usd(pool, start, end, problem.grid.slot_seconds) * gpus / pool.gpus_per_node
        line = _line(problem, pool, LineKind.IDLE, start, end)
        found.append(Entry(line=replace(line, gpus=gpus, gpu_hours=gpus * hours), usd=usd))
    return found


def spare(held: Iterable[Held]) -> list[Held]:
    """Stretches over which the sum of ``held`` is constant and above nothing, in order.

    >>> spare([(0, 10, 8), (2, 5, -8), (5, 10, -2)])
    [(0, 2, 8), (5, 10, 6)]
    """
    changes: dict[float, float] = {}
    for start, end, gpus in held:
        changes[start] = changes.get(start, 0) + gpus
        changes[end] = changes.get(end, 0) - gpus
    found: list[Held] = []
    level: float = 0
    for start, end in pairwise(sorted(changes)):
        level += changes[start]
        gpus = round(level, 6)  # GPUs are counted in thousandths: less is the noise of the sum
        if gpus <= 0:
            continue
        if found and found[-1][1:] == (start, gpus):
            found[-1] = (found[-1][0], end, gpus)
        else:
            found.append((start, end, gpus))
    return found


def outcome(problem: Problem, plan: Plan) -> Outcome:
    """What a plan does with the jobs, and its bill."""
    return Outcome(
        ledger=ledger(problem, plan),
        jobs=len({s.job for s in plan.segments}),
        moving_usd=max(0.0, plan.costs.moving - _egress_usd(plan)),
        lateness_usd=plan.costs.lateness,
        left_out=tuple(
            LeftOut(
                job=left.job,
                team=problem.job_by_name[left.job].team,
                reason=left.reason.value,
                message=left.message,
                not_running_usd=problem.job_by_name[left.job].unplaced_usd,
            )
            for left in plan.unplaced
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One launch of the plan as it happened, in the plan's time."""

    launch: str
    status: str
    start: datetime
    end: datetime


def measured(problem: Problem, plan: Plan, runs: Iterable[Ran]) -> tuple[Measured, ...]:
    """Each run beside the launch that it carried out; runs of nothing in the plan are left out."""
    planned = {launch.name: launch for launch in launches(problem, plan)}
    pairs = ((planned[run.launch], run) for run in runs if run.launch in planned)
    return tuple(
        Measured(
            job=launch.name,
            pool=launch.pool,
            status=run.status,
            planned_start=launch.start,
            planned_end=launch.end,
            start=run.start,
            end=run.end,
        )
        for launch, run in pairs
    )


def gpu_work(ledger: Ledger, by_job: Iterable[Usage]) -> tuple[GpuWork, ...]:
    """Usage by job beside what the ledger plans of it; what is free is left out.

    A GPU of nobody counts where nobody's job is known at all: then it is all that was measured.
    """
    planned = ledger.only(lambda line: line.kind is LineKind.WORK).by(Key.JOB)
    found = list(by_job)
    owned = [usage for usage in found if usage.of != ("",)]
    return tuple(_gpu_work(planned.get(usage.of[0], Totals()), usage) for usage in owned or found)


def _gpu_work(planned: Totals, usage: Usage) -> GpuWork:
    known = usage.of[0] != ""
    return GpuWork(
        job=usage.of[0],
        planned_gpu_hours=planned.gpu_hours,
        planned_joules=planned.joules,
        planned_flops=planned.useful_flops,
        gpu_hours=usage.allocated_gpu_hours if known else usage.observed_gpu_hours,
        active_gpu_hours=usage.active_gpu_hours if known else None,
        utilised_gpu_hours=usage.utilised_gpu_hours,
        joules=usage.energy_joules,
        flops=usage.achieved_flops,
    )


def report(
    problem: Problem,
    plan: Plan,
    baseline: Plan | None = None,
    *,
    title: str = "GPU cost report",
    runs: Iterable[Ran] = (),
    stand_ins: str = "",
    usage: Iterable[Usage] = (),
    gpu_source: str = "",
) -> Report:
    """The cost report of a plan, beside that of first-come-first-served where it is given."""
    planned = outcome(problem, plan)
    return Report(
        title=title,
        plan=planned,
        baseline=outcome(problem, baseline) if baseline else None,
        proof=Proof(
            status=plan.status.value,
            bound_usd=plan.bound.usd,
            gap_fraction=plan.gap_fraction,
            method=plan.method,
            relaxes=plan.bound.relaxes,
            solve_seconds=plan.solve_seconds,
        ),
        capacity=tuple(c for pool in problem.pools for c in _capacity(problem, pool)),
        measured=measured(problem, plan, runs),
        stand_ins=stand_ins,
        gpu_work=gpu_work(planned.ledger, usage),
        gpu_source=gpu_source,
        assumptions=tuple(_price(pool) for pool in problem.pools),
    )


def _capacity(problem: Problem, pool: Pool) -> Iterable[Capacity]:
    return (
        Capacity(
            pool=pool.name,
            start=problem.grid.time(w.start),
            end=problem.grid.time(w.end),
            gpus=w.nodes * pool.gpus_per_node,
        )
        for w in pool.windows
    )


BILLED = {
    Billing.NODE: "rented, whole nodes from launch to termination",
    Billing.GPU: "rented by GPU",
    Billing.SUNK: "paid already: work adds its energy",
}


def _price(pool: Pool) -> Assumption:
    """The pool's price as the plan counts it."""
    rates = [w.usd_per_node_hour / pool.gpus_per_node for w in pool.windows]
    low, high = min(rates), max(rates)
    price = f"${low:,.2f}" if high - low < 0.005 else f"${low:,.2f} to ${high:,.2f}"
    facts = [f"{price} per GPU-hour", pool.purchase.replace("_", "-"), BILLED[pool.billing]]
    if pool.startup_seconds:
        facts.append(f"{pool.startup_seconds} s to start")
    if pool.grams_co2_per_kwh:
        facts.append(f"{pool.grams_co2_per_kwh:g} g CO₂ per kWh")
    return Assumption(
        what=f"{pool.name}: {pool.accelerator}", value=", ".join(facts), source="its GpuPool"
    )
