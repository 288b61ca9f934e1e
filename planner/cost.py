"""What a set of segments costs: the one place where a plan is turned into dollars.

A job on a pool billed by node carries its *share* of the node's price (its GPUs over the node's).
The bill for such a pool is not the sum of shares but of whole nodes from launch to termination
(`rentals`); the difference is idle time and start-up, which belongs to the pool and to no job.

What a job pays to restore, to save, and to do lost work again is *moving*. On a pool billed by node
it is none: the bill, which is money, holds that time. Bringing the job's data to a pool is moving
everywhere: no bill for GPUs holds it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from planner.plan import Costs, Rental, Segment
from planner.problem import Billing, Demand, Job, Mode, Pool, Problem, Work


def mode_of(problem: Problem, segment: Segment) -> Mode:
    """The mode that a segment runs in."""
    return problem.job_by_name[segment.job].modes[segment.mode]


def segment_hours(problem: Problem, segment: Segment) -> float:
    """Hours of wall clock that do work: for batch work less than the slots held, rounded up."""
    job = problem.job_by_name[segment.job]
    return _hours(problem, job, job.modes[segment.mode], segment)


def _hours(problem: Problem, job: Job, mode: Mode, segment: Segment) -> float:
    if isinstance(job.need, Demand):
        return (segment.end - segment.start) * problem.grid.slot_hours
    rate = segment.replicas * mode.work_per_replica_hour
    return segment.work / rate if rate else 0.0


def moving_hours(segment: Segment) -> float:
    """Hours of wall clock that restore a checkpoint or save one."""
    return (segment.restart_seconds + segment.save_seconds) / 3600


def priced_slots(pool: Pool, begin: float, end: float) -> float:
    """Slots from ``begin`` to ``end``, each times its price over that of the first window."""
    if pool.one_price:
        return max(0.0, end - begin)
    return math.fsum(
        max(0.0, min(end, w.end) - max(begin, w.start)) * pool.price_ratio(w) for w in pool.windows
    )


def segment_usd(problem: Problem, segment: Segment) -> float:
    """The segment's share of the money: its work, but for what it does again."""
    first_time = segment.work - segment.redone_work
    part = first_time / segment.work if segment.redone_work else 1.0
    return part * _worked_usd(problem, segment, mode_of(problem, segment).usd_per_replica_hour)


def segment_moving_usd(problem: Problem, segment: Segment) -> float:
    """What stops add to the segment: restoring, saving, and doing lost work again."""
    if not (segment.restart_seconds or segment.save_seconds or segment.redone_work):
        return 0.0
    mode = mode_of(problem, segment)
    begin, behind = segment.start, _work_end(problem, segment)
    seconds = problem.grid.slot_seconds
    slots = _priced(problem, segment, begin, begin + segment.restart_seconds / seconds)
    slots += _priced(problem, segment, behind, behind + segment.save_seconds / seconds)
    usd = slots * problem.grid.slot_hours * segment.replicas * mode.usd_per_replica_hour
    again = segment.redone_work / segment.work if segment.redone_work else 0.0
    return usd + again * _worked_usd(problem, segment, mode.usd_per_replica_hour)


def spent_usd(problem: Problem, segment: Segment, first: int, last: int) -> float:
    """The segment's share of money and moving between two slots; its data are paid at its start."""
    mode = mode_of(problem, segment)
    end = _work_end(problem, segment) + segment.save_seconds / problem.grid.slot_seconds
    slots = _priced(problem, segment, max(segment.start, first), min(end, last))
    brought = segment.egress_usd if first <= segment.start < last else 0.0
    usd = slots * problem.grid.slot_hours * segment.replicas * mode.usd_per_replica_hour
    return usd + brought


def segment_full_usd(problem: Problem, segment: Segment) -> float:
    """The segment's share of the money and of what is sunk; moving apart."""
    return _worked_usd(problem, segment, mode_of(problem, segment).full_usd_per_replica_hour)


def _worked_usd(problem: Problem, segment: Segment, usd_per_replica_hour: float) -> float:
    job, hours = problem.job_by_name[segment.job], problem.grid.slot_hours
    mode = job.modes[segment.mode]
    begin = segment.start + segment.restart_seconds / problem.grid.slot_seconds
    end = begin + _hours(problem, job, mode, segment) / hours
    slots = priced_slots(problem.pool_by_name[mode.pool], begin, end)
    return slots * hours * segment.replicas * usd_per_replica_hour


def _work_end(problem: Problem, segment: Segment) -> float:
    """When the segment's work is done (slots)."""
    begin = segment.start + segment.restart_seconds / problem.grid.slot_seconds
    return begin + segment_hours(problem, segment) / problem.grid.slot_hours


def _priced(problem: Problem, segment: Segment, begin: float, end: float) -> float:
    return priced_slots(problem.pool_by_name[mode_of(problem, segment).pool], begin, end)


def segment_joules(problem: Problem, segment: Segment) -> float:
    """Energy at the meter, of work and of moving."""
    mode = mode_of(problem, segment)
    hours = segment_hours(problem, segment) + moving_hours(segment)
    return hours * 3600 * segment.replicas * mode.watts_per_replica


def segment_flops(problem: Problem, segment: Segment) -> float:
    """Useful (model) floating-point operations done; what is done again counts once."""
    return (segment.work - segment.redone_work) * mode_of(problem, segment).flops_per_work


def node_usd(pool: Pool, start_seconds: float, end_seconds: float, slot_seconds: int) -> float:
    """List price of one node over a stretch; outside the windows the nearest one counts."""
    total = 0.0
    for i, window in enumerate(pool.windows):
        begin = -math.inf if i == 0 else window.start * slot_seconds
        end = math.inf if i == len(pool.windows) - 1 else window.end * slot_seconds
        overlap = min(end, end_seconds) - max(begin, start_seconds)
        total += max(0.0, overlap) / 3600 * window.usd_per_node_hour
    return total


def rentals(problem: Problem, segments: Iterable[Segment]) -> tuple[Rental, ...]:
    """The whole-node bills, cheapest for these segments.

    Between two stretches of use a node is kept when that costs no more than a new start-up, as long
    as it is there to be kept. A node that a job runs on at the grid's start is up then.
    """
    busy: dict[str, list[tuple[int, int]]] = {}
    by_node = {p.name for p in problem.pools if p.billing is Billing.NODE}
    for segment in segments if by_node else ():
        if mode_of(problem, segment).pool not in by_node:
            continue
        for place in segment.placement:
            busy.setdefault(place.node, []).append((segment.start, segment.end))
    up = nodes_up(problem)
    found: list[Rental] = []
    for node, stretches in sorted(busy.items()):
        pool = problem.pool_by_name[problem.node_by_name[node].pool]
        if pool.billing is Billing.NODE:
            found += _rentals_of(problem, pool, node, sorted(stretches), node in up)
    return tuple(found)


def nodes_up(problem: Problem) -> frozenset[str]:
    """Nodes that are up at the grid's start, because a job runs there."""
    return frozenset(name for running in problem.running for name in running.nodes)


def _rentals_of(
    problem: Problem, pool: Pool, node: str, stretches: Sequence[tuple[int, int]], up: bool
) -> list[Rental]:
    seconds = problem.grid.slot_seconds
    index = problem.node_by_name[node].index
    runs: list[list[int]] = [[0, 0]] if up else []
    for start, end in stretches:
        if runs and (
            start <= runs[-1][1]
            or (
                _keeping_is_cheaper(pool, runs[-1][1], start, seconds)
                and _present(pool, index, runs[-1][1], start)
            )
        ):
            runs[-1][1] = max(runs[-1][1], end)
        else:
            runs.append([start, end])
    bills = []
    for start, end in runs:
        if end == 0:  # up at the start, and not used before it is cheaper to launch it anew
            continue
        launch = 0 if up and start == 0 else start * seconds - pool.startup_seconds
        usd = node_usd(pool, launch, end * seconds, seconds)
        bills.append(
            Rental(
                pool=pool.name, node=node, launch_seconds=launch, end_seconds=end * seconds, usd=usd
            )
        )
    return bills


def _keeping_is_cheaper(pool: Pool, end: int, start: int, slot_seconds: int) -> bool:
    """Whether a node that is idle from ``end`` to ``start`` costs no more than its next launch."""
    begin, until = end * slot_seconds, start * slot_seconds
    launch = until - pool.startup_seconds
    if pool.one_price:
        return launch <= begin
    keeping = node_usd(pool, begin, until, slot_seconds)
    return keeping <= node_usd(pool, launch, until, slot_seconds)


def _present(pool: Pool, index: int, start: int, end: int) -> bool:
    return all(index < w.nodes for w in pool.windows if w.start < end and start < w.end)


def lateness_usd(problem: Problem, job: Job, end: int) -> float:
    """The price of ending at slot ``end``."""
    if job.due is None:
        return 0.0
    return max(0, end - job.due) * problem.grid.slot_hours * job.lateness_usd_per_hour


def costs(problem: Problem, segments: Sequence[Segment], unplaced: Iterable[str]) -> Costs:
    """The objective by its parts."""
    by_node = {p.name for p in problem.pools if p.billing is Billing.NODE}
    shared = segments
    if by_node:
        shared = [s for s in segments if mode_of(problem, s).pool not in by_node]
    shares = [segment_usd(problem, s) for s in shared]
    bills = [r.usd for r in rentals(problem, segments)]
    ends: dict[str, int] = {}
    for segment in segments:
        ends[segment.job] = max(segment.end, ends.get(segment.job, 0))
    late = [lateness_usd(problem, problem.job_by_name[name], end) for name, end in ends.items()]
    return Costs(
        money=math.fsum(shares + bills),
        moving=math.fsum(
            [*(segment_moving_usd(problem, s) for s in shared), *(s.egress_usd for s in segments)]
        ),
        lateness=math.fsum(late),
        not_running=math.fsum(problem.job_by_name[name].unplaced_usd for name in unplaced),
    )


def sunk_usd(problem: Problem) -> float:
    """What owned and reserved hardware costs over the grid whether it works or not."""
    return math.fsum(
        w.nodes * (w.end - w.start) * problem.grid.slot_hours * w.usd_per_node_hour
        for pool in problem.pools
        if pool.billing is Billing.SUNK
        for w in pool.windows
    )


def served(problem: Problem, job: Job, start: int, end: int) -> float:
    """Work that a service does from ``start`` to ``end``: its demand. Of other work, all of it."""
    if isinstance(job.need, Work):
        return job.need.amount
    return math.fsum(job.need.per_slot[start:end]) * problem.grid.slot_hours


def runs(values: Sequence[int]) -> list[tuple[int, int, int]]:
    """Runs of equal values: (first index, end index, value)."""
    edges = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
    return [(a, b, values[a]) for a, b in pairwise(edges) if a < b]
