"""A plan as a person reads it: what it costs, how good it is, where all runs, what is left out."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate

from flopwise.columns import NONE, counted, dated, dollars, table, timed, without_empty
from planner import cost
from planner.plan import Plan, Price, Segment, Status
from planner.planfile import PlanFile, document
from planner.problem import Demand, Pool, Problem

MOST_JOBS = 100  # of a plain table; -o wide has all
TIMELINE = 28  # most marks that a pool's hours are drawn in
LEVELS = " ▁▂▃▄▅▆▇█"
CENT = 0.01
CSV_FIELDS = (
    *("job", "team", "pool", "gpus", "replicas", "nodes", "start", "end", "hours", "costUsd"),
    *("flops", "layout", "reason", "message", "egressUsd"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A job in the plan: its segments together."""

    job: str
    team: str
    pool: str
    gpus: str  # fewest and most at once, where they differ
    nodes: tuple[str, ...]
    start: datetime
    end: datetime
    hours: float
    usd: float
    layout: str
    late_hours: float


def as_text(made: PlanFile, *, wide: bool) -> str:
    """The plan as text, in sections; nothing where there is no plan."""
    if made.plan.status is Status.TIMEOUT:
        return ""
    sections = [_headline(made), _totals(made), _pools(made), _queues(made)]
    sections += [_jobs(made, wide), _left_out(made)]
    return "\n".join(s for s in sections if s)


def as_csv(made: PlanFile) -> str:
    """A line for each segment, then one for each job left out, with the names of the JSON."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    plain = document(made)
    for row in (*plain["segments"], *plain["unplaced"]):
        team = made.problem.job_by_name[row["job"]].team
        writer.writerow({**row, "team": team, "nodes": " ".join(row.get("nodes", ()))})
    return out.getvalue()


def rows(made: PlanFile) -> list[Row]:
    """Jobs by start."""
    by_job: dict[str, list[Segment]] = {}
    for s in made.plan.segments:
        by_job.setdefault(s.job, []).append(s)
    found = [_row(made.problem, name, segments) for name, segments in by_job.items()]
    return sorted(found, key=lambda r: (r.start, r.job))


def _row(problem: Problem, name: str, segments: Sequence[Segment]) -> Row:
    job = problem.job_by_name[name]
    modes = [cost.mode_of(problem, s) for s in segments]
    start, end = min(s.start for s in segments), max(s.end for s in segments)
    late = max(0, end - job.due) if job.due is not None else 0
    hours = [cost.segment_hours(problem, s) for s in segments]
    if isinstance(job.need, Demand):  # of a mix, two at once
        hours = [(end - start) * problem.grid.slot_hours]
    return Row(
        job=name,
        team=job.team,
        pool=" + ".join(dict.fromkeys(mode.pool for mode in modes)),
        gpus=_span([_gpus_at(problem, segments, s.start) for s in segments]),
        nodes=tuple(dict.fromkeys(p.node for s in segments for p in s.placement)),
        start=problem.grid.time(start),
        end=problem.grid.time(end),
        hours=sum(hours),
        usd=sum(cost.segment_usd(problem, s) + s.egress_usd for s in segments),
        layout=modes[0].layout,
        late_hours=late * problem.grid.slot_hours,
    )


# -- what it costs ---------------------------------------------------------------------------------


def _headline(made: PlanFile) -> str:
    plan, grid = made.plan, made.problem.grid
    placed = len({s.job for s in plan.segments})
    span = f"{dated(grid.start)} to {dated(grid.time(grid.slots))} UTC"
    of = f"{placed} of {counted(len(made.problem.jobs), 'job')}"
    line = f"{of} on {counted(len(made.problem.pools), 'pool')}, {span}\n"
    if plan.status is Status.INFEASIBLE:
        return f"NO FEASIBLE PLAN: this is what could run if no job were required.\n{line}"
    return line


def _totals(made: PlanFile) -> str:
    """The plan, what is proved and what others would pay, by the parts of the objective."""
    plan, other = made.plan, made.baseline
    proved = plan.status in (Status.OPTIMAL, Status.FEASIBLE)
    lines = [["", "MONEY", "MOVING", "LATENESS", "NOT RUNNING", "TOTAL", ""]]
    lines.append(["this plan", *_parts(plan), _proof(plan)])
    if proved:
        lines.append(["proved minimum", *[NONE] * 4, dollars(plan.bound.usd), ""])
    if other is not None:
        lines.append(["first come, first served", *_parts(other), _missed(made.problem, other)])
    if all(p.costs.objective == p.costs.money for p in (plan, other) if p):
        lines = [[label, total, remark] for label, *_, total, remark in lines]
        lines[0][1] = "MONEY"
    return f"{table(without_empty(lines))}\n{_remarks(plan, other if proved else None)}"


def _parts(plan: Plan) -> list[str]:
    costs = plan.costs
    parts = (costs.moving, costs.lateness, costs.not_running)
    extra = [dollars(part) if part else NONE for part in parts]
    return [dollars(costs.money), *extra, dollars(costs.objective)]


def _missed(problem: Problem, plan: Plan) -> str:
    if not plan.unplaced:
        return ""
    required = sum(problem.job_by_name[u.job].required for u in plan.unplaced)
    must = f", {required} of them required" if required else ""
    return f"{counted(len(plan.unplaced), 'job')} left out{must}"


def _proof(plan: Plan) -> str:
    took = f"{plan.solve_seconds:.1f} s"
    if plan.status is Status.OPTIMAL:
        return f"proved optimal in {took}"
    if plan.status is Status.INFEASIBLE:
        return ""
    gap = f"{100 * plan.gap_fraction:.2f} %" if plan.gap_fraction < float("inf") else "unknown"
    return f"gap {gap} {'when stopped after' if plan.stopped else 'after'} {took}"


def _remarks(plan: Plan, other: Plan | None) -> str:
    lines = []
    if other is not None:
        lines.append(_saved(plan, other))
    if plan.useful_flops:
        lines.append(f"Costs ${plan.usd_per_pflop:.3g} per useful PFLOP.")
    if plan.full_cost_usd - plan.costs.money - plan.costs.moving > 0.005:
        full = dollars(plan.full_cost_usd)
        lines.append(f"Owned and reserved pools count their energy; with all they cost: {full}.")
    return "".join(f"{line}\n" for line in lines)


def _saved(plan: Plan, other: Plan) -> str:
    rival = "first come, first served on the cheapest GPU that fits"
    theirs = other.costs.objective
    saved = theirs - plan.costs.objective
    if abs(saved) < 0.005:
        return f"Costs as much as {rival}."
    share = f" ({100 * abs(saved) / theirs:.1f} %)" if theirs else ""
    if saved < 0:
        return f"Costs {dollars(-saved)}{share} more than {rival}."
    return f"Saves {dollars(saved)}{share} against {rival}."


# -- where it runs ---------------------------------------------------------------------------------


def _pools(made: PlanFile) -> str:
    problem, plan = made.problem, made.plan
    by_pool: dict[str, list[Segment]] = {pool.name: [] for pool in problem.pools}
    for s in plan.segments:
        by_pool[cost.mode_of(problem, s).pool].append(s)
    grid = problem.grid
    mark_hours = grid.slots * grid.slot_hours / min(TIMELINE, grid.slots)
    head = ["POOL", "ACCELERATOR", "PURCHASE", "GPUS", "BUSY", "JOBS", "MONEY"]
    lines = [[*head, f"IN USE, {mark_hours:.3g} H A MARK", "ONE MORE GPU SAVES"]]
    lines += [_pool_line(made, pool, by_pool[pool.name]) for pool in problem.pools]
    return table(without_empty(lines))


def _pool_line(made: PlanFile, pool: Pool, ours: Sequence[Segment]) -> list[str]:
    problem = made.problem
    have, used = _gpus_there(problem, pool), _gpus_used(problem, ours)
    bills = [r.usd for r in cost.rentals(problem, ours)]
    usd = sum(bills) if bills else sum(cost.segment_usd(problem, s) for s in ours)
    worth = [p for p in made.plan.prices if p.pool == pool.name]
    return [
        pool.name,
        pool.accelerator,
        pool.purchase,
        str(max(have)),
        f"{100 * sum(used) / sum(have):.0f} %" if sum(have) else NONE,
        str(len({s.job for s in ours})),
        dollars(usd),
        _timeline(used, have),
        _worth(max(worth, key=lambda p: p.usd_per_gpu_hour)) if worth else NONE,
    ]


def _worth(price: Price) -> str:
    """The price of a pool's dearest hours; a range where it is not unique."""
    low, high = price.low_usd_per_gpu_hour, price.high_usd_per_gpu_hour
    if low is None or high is None or high - low < CENT:
        return f"up to ${price.usd_per_gpu_hour:.2f}/h"
    return f"${low:.2f} to ${high:.2f}/h"


def _queues(made: PlanFile) -> str:
    """What a unit more of a limit or budget, or one kept back less, would save, where it binds."""
    lines = [["QUEUE", "WHAT BINDS", "ONE MORE SAVES"]]
    for q in made.plan.queue_prices:
        budget = q.what == "budget"
        low, high = q.low_usd, q.high_usd
        known = low is not None and high is not None and high - low >= CENT
        saves = f"${low:.2f} to ${high:.2f}" if known else f"${q.usd:.2f}"
        bound = "kept back of" if q.keepers else "limit of"
        what = "budget of a month" if budget else f"{bound} {q.what}"
        lines.append(
            [
                ", ".join(q.keepers) or q.queue,
                what,
                f"{saves} a {'dollar' if budget else 'GPU-hour'}",
            ]
        )
    return table(lines) if len(lines) > 1 else ""


def _gpus_there(problem: Problem, pool: Pool) -> list[int]:
    """By slot."""
    have = [0] * problem.grid.slots
    for w in pool.windows:
        have[w.start : w.end] = [w.nodes * pool.gpus_per_node] * (w.end - w.start)
    return have


def _gpus_used(problem: Problem, segments: Iterable[Segment]) -> list[float]:
    """By slot."""
    change = [0.0] * (problem.grid.slots + 1)
    for s in segments:
        mode = cost.mode_of(problem, s)
        gpus = s.replicas * problem.pool_by_name[mode.pool].gpu_share(mode.amounts)
        change[s.start] += gpus
        change[s.end] -= gpus
    return list(accumulate(change))[:-1]


def _timeline(used: Sequence[float], have: Sequence[int]) -> str:
    marks = []
    width = min(TIMELINE, len(used))
    for i in range(width):
        a, b = i * len(used) // width, (i + 1) * len(used) // width
        full = sum(have[a:b])
        share = sum(used[a:b]) / full if full else 0.0
        marks.append(LEVELS[min(8, max(1 if share > 0 else 0, round(share * 8)))])
    return "".join(marks)


def _jobs(made: PlanFile, wide: bool) -> str:
    found = rows(made)
    if not found:
        return ""
    head = ["JOB", "TEAM", "POOL", "GPUS", "START", "END", "LATE", "HOURS", "COST"]
    shown = found if wide else found[:MOST_JOBS]
    lines = [head + (["LAYOUT", "NODES"] if wide else [])]
    lines += [_job_line(row, wide) for row in shown]
    lines += [_no_job_line(*spent, len(lines[0])) for spent in _nobodys(made)]
    hidden = len(found) - len(shown)
    more = f"… and {counted(hidden, 'more job')} (-o wide has all)\n" if hidden else ""
    return table(without_empty(lines)) + more


def _job_line(row: Row, wide: bool) -> list[str]:
    line = [
        row.job,
        row.team or NONE,
        row.pool,
        row.gpus,
        timed(row.start),
        timed(row.end),
        f"{row.late_hours:.1f} h" if row.late_hours else NONE,
        f"{row.hours:.1f}",
        dollars(row.usd),
    ]
    return line + ([row.layout or NONE, host_list(row.nodes) or NONE] if wide else [])


def _nobodys(made: PlanFile) -> Iterator[tuple[str, float]]:
    """(pool, USD) of whole-node bills that is no job's: start-up, and GPUs that did nothing."""
    problem = made.problem
    bills: dict[str, float] = {}
    for rental in cost.rentals(problem, made.plan.segments):
        bills[rental.pool] = bills.get(rental.pool, 0.0) + rental.usd
    for s in made.plan.segments:
        pool = cost.mode_of(problem, s).pool
        if pool in bills:
            bills[pool] -= cost.segment_usd(problem, s)
    yield from ((pool, usd) for pool, usd in sorted(bills.items()) if usd >= CENT)


def _no_job_line(pool: str, usd: float, columns: int) -> list[str]:
    line = ["(idle and start-up)", NONE, pool, NONE, "", "", NONE, "", dollars(usd)]
    return line + [NONE] * (columns - len(line))


def _gpus_at(problem: Problem, segments: Iterable[Segment], slot: int) -> float:
    now = [s for s in segments if s.start <= slot < s.end]
    modes = [cost.mode_of(problem, s) for s in now]
    shares = (problem.pool_by_name[mode.pool].gpu_share(mode.amounts) for mode in modes)
    return sum(s.replicas * share for s, share in zip(now, shares, strict=True))


def _span(counts: Sequence[float]) -> str:
    least, most = min(counts), max(counts)
    return f"{most:.10g}" if least == most else f"{least:.10g}-{most:.10g}"


def host_list(names: Sequence[str]) -> str:
    """Node names as Slurm shortens them.

    >>> host_list(["h100-0", "h100-1", "h100-2", "h100-7", "edge"])
    'h100-[0-2,7],edge'
    """
    numbers: dict[str, list[int]] = {}
    for name in names:
        found = re.fullmatch(r"(.*\D)(0|[1-9]\d*)", name)
        numbers.setdefault(found[1] if found else name, []).extend([int(found[2])] if found else [])
    return ",".join(prefix + _ranges(sorted(found)) for prefix, found in numbers.items())


def _ranges(numbers: Sequence[int]) -> str:
    if len(numbers) < 2:
        return "".join(map(str, numbers))
    spans: list[list[int]] = []
    for n in numbers:
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return f"[{','.join(str(a) if a == b else f'{a}-{b}' for a, b in spans)}]"


def _left_out(made: PlanFile) -> str:
    if not made.plan.unplaced:
        return ""
    lines = [["LEFT OUT", "NOT RUNNING", "REASON", "WHY"]]
    for u in made.plan.unplaced:
        job = made.problem.job_by_name[u.job]
        price = "required" if job.required else dollars(job.unplaced_usd)
        lines.append([u.job, price, u.reason.value, u.message])
    return table(lines)
