"""What others would do with the same jobs: policies to compare a plan with."""

from __future__ import annotations

from dataclasses import replace

from planner import cost, placement
from planner.booking import Booking
from planner.occupancy import Occupancy
from planner.plan import Bound, Plan, Reason, Status, Unplaced
from planner.problem import Problem
from planner.table import Option, Table, build, order_by_dependency

MOST_TRIES = 2_000_000  # jobs x nodes: some seconds; beyond, it takes longer than the plan


def in_reach(problem: Problem) -> bool:
    """Whether `first_come_first_served`, which looks at every node for every job, ends soon."""
    return len(problem.jobs) * len(problem.nodes) <= MOST_TRIES


def first_come_first_served(problem: Problem) -> Plan:
    """First come, first served, on the cheapest GPU that fits.

    Jobs in order of release (as listed where that is equal), each behind what it depends on. Each
    takes the pool whose GPUs cost least an hour among those it fits and whose queue still lets it
    end by its deadline, in the least GPUs it can run on, and starts there as early as it can.
    Priorities play no part, and no job waits for a better place: that is the policy.
    """
    table = build(problem)
    occupancy = Occupancy(table)
    placed: dict[int, Booking] = {}
    for j in _order(table):
        befores = table.after[j]
        if any(b not in placed for b in befores):
            continue
        ready = max((placed[b].end(table) for b in befores), default=0)
        options = sorted((table.options[i] for i in table.of_job[j]), key=lambda o: _rank(table, o))
        for option in options:
            booking = placement.earliest(occupancy, option, first=ready)
            if booking is not None:
                occupancy.take(booking)
                placed[j] = booking
                break
    return _plan(table, placed)


def _order(table: Table) -> list[int]:
    arrival = {j: (table.problem.jobs[j].release, j) for j in range(len(table.of_job))}
    latest = dict(arrival)
    for j in order_by_dependency(table.after):
        latest[j] = max([arrival[j], *(latest[b] for b in table.after[j])])
    depth = {j: i for i, j in enumerate(order_by_dependency(table.after))}
    return sorted(arrival, key=lambda j: (latest[j], depth[j]))


def _rank(table: Table, option: Option) -> tuple[float, int, int]:
    mode = table.problem.jobs[option.job].modes[option.mode]
    per_gpu_hour = mode.usd_per_replica_hour / max(1, mode.amounts.gpus)
    return per_gpu_hour, mode.gpus, option.index


def _plan(table: Table, placed: dict[int, Booking]) -> Plan:
    problem = table.problem
    segments = placement.segments(table, placed.values())
    out = [j for i, j in enumerate(problem.jobs) if i not in placed]
    costs = cost.costs(problem, segments, [j.name for j in out])
    plan = Plan(
        status=Status.FEASIBLE,
        segments=segments,
        unplaced=tuple(
            Unplaced(job=j.name, reason=Reason.NOT_FOUND, message="no room when its turn came")
            for j in sorted(out, key=lambda j: j.name)
        ),
        costs=costs,
        full_cost_usd=costs.money + costs.moving + cost.sunk_usd(problem),
        useful_flops=sum(cost.segment_flops(problem, s) for s in segments),
        bound=Bound(usd=0.0),
        method="first come, first served",
    )
    missing = any(j.required for j in out)
    return replace(plan, status=Status.INFEASIBLE) if missing else plan
