"""A plan as a person reads it: what it costs, how good it is, where everything runs, what is left."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from planner import cost
from planner.plan import Plan, Segment, Status
from planner.planfile import PlanFile
from planner.problem import Problem

MOST_JOBS = 100  # of a plain table; -o wide has all
TIMELINE = 28  # characters that a pool's hours are drawn in
LEVELS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A job in the plan: its segments together."""

    job: str
    team: str
    pool: str
    gpus: int
    nodes: tuple[str, ...]
    start: datetime
    end: datetime
    hours: float
    usd: float
    layout: str
    late_usd: float


def as_text(made: PlanFile, *, wide: bool) -> str:
    """The plan as text, in sections."""
    sections = [_headline(made), _pools(made), _jobs(made, wide), _left_out(made.plan)]
    return "\n".join(s for s in sections if s)


def as_csv(made: PlanFile) -> str:
    """A line a job."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["job", "team", "pool", "gpus", "nodes", "start", "end", "hours", "cost_usd", "layout"])
    for r in rows(made):
        writer.writerow(
            [r.job, r.team, r.pool, r.gpus, " ".join(r.nodes), r.start.isoformat(), r.end.isoformat(),
             f"{r.hours:.4f}", f"{r.usd:.4f}", r.layout]
        )
    return out.getvalue()


def rows(made: PlanFile) -> list[Row]:
    """Jobs by start."""
    problem = made.problem
    by_job: dict[str, list[Segment]] = {}
    for s in made.plan.segments:
        by_job.setdefault(s.job, []).append(s)
    found = [_row(problem, name, segments) for name, segments in by_job.items()]
    return sorted(found, key=lambda r: (r.start, r.job))


def _row(problem: Problem, name: str, segments: Sequence[Segment]) -> Row:
    job = problem.job_by_name[name]
    mode = cost.mode_of(problem, segments[0])
    nodes = dict.fromkeys(p.node for s in segments for p in s.placement)
    end = max(s.end for s in segments)
    return Row(
        job=name,
        team=job.team,
        pool=mode.pool,
        gpus=max(s.replicas for s in segments) * mode.amounts.gpus,
        nodes=tuple(nodes),
        start=problem.grid.time(min(s.start for s in segments)),
        end=problem.grid.time(end),
        hours=sum(cost.segment_hours(problem, s) for s in segments),
        usd=sum(cost.segment_usd(problem, s) for s in segments),
        layout=mode.layout,
        late_usd=cost.lateness_usd(problem, job, end),
    )


def _headline(made: PlanFile) -> str:
    plan, grid = made.plan, made.problem.grid
    placed = len({s.job for s in plan.segments})
    span = f"{_when(grid.start)} to {_when(grid.time(grid.slots))} UTC"
    lines = [
        f"{placed} of {len(made.problem.jobs)} jobs on {len(made.problem.pools)} pools, {span}",
        "",
        f"{_usd(plan.costs.money)}  money that this plan decides" + _per_pflop(plan),
        f"{_usd(plan.full_cost_usd)}  with owned and reserved hardware, busy or idle",
    ]
    if plan.costs.lateness:
        lines.append(f"{_usd(plan.costs.lateness)}  lateness, past what is due")
    if plan.costs.not_running:
        lines.append(f"{_usd(plan.costs.not_running)}  not running what is left out")
    lines.append(f"{_usd(plan.bound.usd)}  {_proof(plan)}")
    if made.baseline is not None:
        lines.append(f"{_usd(made.baseline.costs.money)}  {_against(plan, made.baseline)}")
    return "\n".join(lines) + "\n"


def _per_pflop(plan: Plan) -> str:
    return f": ${plan.usd_per_pflop:.3g} per useful PFLOP" if plan.useful_flops else ""


def _proof(plan: Plan) -> str:
    """What is proved of the objective."""
    took = f"({plan.solve_seconds:.1f} s)"
    if plan.status is Status.OPTIMAL:
        return f"is the least that any plan costs, all parts counted: proved optimal {took}"
    gap = f"{100 * plan.gap_fraction:.2f} %" if plan.gap_fraction < float("inf") else "unknown"
    return f"is less than any plan costs, all parts counted: gap {gap} {took}"


def _against(plan: Plan, other: Plan) -> str:
    """First come, first served beside the plan, all parts of the objective counted."""
    ours, theirs = plan.costs, other.costs
    extra = [
        f"{_plain(usd)} {what}"
        for usd, what in ((theirs.lateness, "lateness"), (theirs.not_running, "not running"))
        if usd
    ]
    left = f", {len(other.unplaced)} jobs left out" if other.unplaced else ""
    parts = f" (and {' and '.join(extra)}{left})" if extra else left
    saved = theirs.objective - ours.objective
    share = f" ({100 * saved / theirs.objective:.1f} %)" if theirs.objective else ""
    return f"by first come, first served on the cheapest GPU that fits{parts}: saved {_plain(saved)}{share}"


def _pools(made: PlanFile) -> str:
    problem, plan = made.problem, made.plan
    lines = [["POOL", "ACCELERATOR", "GPUS", "BUSY", "JOBS", "MONEY", "GPUS IN USE OVER TIME", "WORTH OF ONE MORE"]]
    for pool in problem.pools:
        ours = [s for s in plan.segments if cost.mode_of(problem, s).pool == pool.name]
        have = [pool.nodes_at(t) * pool.gpus_per_node for t in range(problem.grid.slots)]
        used = [0] * problem.grid.slots
        for s in ours:
            for t in range(s.start, s.end):
                used[t] += s.replicas * cost.mode_of(problem, s).amounts.gpus
        bills = [r.usd for r in cost.rentals(problem, ours)]
        shares = [cost.segment_usd(problem, s) for s in ours]
        usd = sum(bills) if bills else sum(shares)
        busy = f"{100 * sum(used) / sum(have):.0f} %" if sum(have) else "-"
        worth = [p.usd_per_gpu_hour for p in plan.prices if p.pool == pool.name]
        lines.append(
            [pool.name, pool.accelerator, str(max(have)), busy, str(len({s.job for s in ours})),
             _plain(usd), _timeline(used, have),
             f"up to ${max(worth):.2f} a GPU-hour" if worth else "-"]
        )
    return _table(lines, right={2, 3, 4, 5})


def _timeline(used: Sequence[int], have: Sequence[int]) -> str:
    cells = []
    width = min(TIMELINE, len(used))
    for i in range(width):
        a, b = i * len(used) // width, (i + 1) * len(used) // width
        full = sum(have[a:b])
        share = sum(used[a:b]) / full if full else 0.0
        cells.append(LEVELS[min(8, max(1 if share > 0 else 0, round(share * 8)))])
    return "".join(cells)


def _jobs(made: PlanFile, wide: bool) -> str:
    found = rows(made)
    head = ["JOB", "TEAM", "POOL", "GPUS", "START", "END", "HOURS", "COST"]
    lines = [head + (["LAYOUT", "NODES"] if wide else [])]
    shown = found if wide else found[:MOST_JOBS]
    for r in shown:
        late = " late" if r.late_usd else ""
        line = [r.job, r.team or "-", r.pool, str(r.gpus), _when(r.start), _when(r.end) + late,
                f"{r.hours:.1f}", _plain(r.usd)]
        lines.append(line + ([r.layout or "-", _node_list(r.nodes)] if wide else []))
    more = f"… and {len(found) - len(shown)} more (-o wide has all)\n" if len(shown) < len(found) else ""
    return (_table(lines, right={3, 6, 7}) + more) if found else ""


def _node_list(nodes: Sequence[str]) -> str:
    return ",".join(nodes) if len(nodes) <= 4 else f"{','.join(nodes[:3])},… ({len(nodes)})"


def _left_out(plan: Plan) -> str:
    lines = [["NOT PLANNED", "REASON", "WHY"]]
    lines += [[u.job, u.reason.value, u.message] for u in plan.unplaced]
    return _table(lines, right=set()) if plan.unplaced else ""


def _table(lines: Sequence[Sequence[str]], right: set[int]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    out = []
    for line in lines:
        cells = [
            c.rjust(w) if i in right else c.ljust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out) + "\n"


def _when(when: datetime) -> str:
    return when.strftime("%a %d %b %H:%M")


def _usd(usd: float) -> str:
    return f"{_plain(usd):>14}"


def _plain(usd: float) -> str:
    return f"${usd:,.2f}" if abs(usd) < 1000 else f"${usd:,.0f}"
