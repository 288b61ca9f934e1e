"""A problem as the solvers see it: one flat list of options, all whole numbers of slots and nodes.

An *option* is a job in one of its modes, with the range of starts that its release, deadline and
pool leave it. A service is an option too: its start is fixed and its replicas change from run to
run. Options that could be in no best plan are left out here, with the reason kept for the answer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

from planner import cost
from planner.plan import Reason
from planner.problem import (
    GPU_MILLI,
    Billing,
    Demand,
    Job,
    Mode,
    Node,
    Pool,
    Problem,
    Work,
    hours_of,
    replicas_for,
)

HOSTNAME = "kubernetes.io/hostname"
RESOURCES = ("gpu_milli", "cpu_milli", "memory_bytes")
MOST_USD = 1e15  # of one job: above, the solvers' numbers hold no more cents


class Unsupported(ValueError):
    """The problem asks for what this planner does not do yet; each line names one thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A stretch of an option with one number of replicas, relative to its start."""

    start: int
    end: int
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A job in a mode."""

    index: int
    job: int
    mode: int
    pool: int
    length: int  # slots
    first: int  # earliest start
    last: int  # latest start
    runs: tuple[Run, ...]
    takes: tuple[int, ...]  # of one replica, by RESOURCES
    per_node: int  # replicas that fit an empty node
    usd: float  # its share of the money
    startup_usd: float  # of the nodes it needs, if all had to be started for it

    @property
    def peak(self) -> int:
        """Most replicas at once."""
        return max(r.replicas for r in self.runs)

    @property
    def nodes(self) -> int:
        """Nodes it needs at least."""
        return -(-self.peak // self.per_node)

    def inside(self, at: int, start: int, end: int) -> int:
        """Replica-slots that fall in [start, end) when it starts at ``at``."""
        return sum(
            max(0, min(at + r.end, end) - max(at + r.start, start)) * r.replicas for r in self.runs
        )

    def least_inside(self, start: int, end: int) -> int:
        """The same for the start, of all it may have, that makes it least.

        As the start moves, the overlap rises and then falls: its least is at one end of the range.
        """
        return min(self.inside(self.first, start, end), self.inside(self.last, start, end))

    @property
    def replica_slots(self) -> int:
        return sum((r.end - r.start) * r.replicas for r in self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All options of a problem."""

    problem: Problem
    options: tuple[Option, ...]
    of_job: tuple[tuple[int, ...], ...]  # option indices by job, cheapest first
    of_pool: tuple[tuple[int, ...], ...]
    nodes: tuple[tuple[Node, ...], ...]  # usable nodes by pool, in their order
    capacity: tuple[tuple[int, ...], ...]  # of one node, by pool and RESOURCES
    away: tuple[tuple[tuple[tuple[int, int], ...], ...], ...]  # absences by pool and node
    after: tuple[tuple[int, ...], ...]  # jobs that must end first, by job
    dropped: dict[tuple[int, int], Reason] = field(repr=False)  # (job, mode) -> why it is no option

    def late_usd(self, job: int, end: int) -> float:
        """The price of ending at slot ``end``."""
        return cost.lateness_usd(self.problem, self.problem.jobs[job], end)

    def floor_usd(self, option: Option) -> float:
        """The least that an option can cost: its share, and the lateness of its earliest end."""
        return option.usd + self.late_usd(option.job, option.first + option.length)

    def paying(self) -> dict[int, list[int]]:
        """Options by job that, by their own share, cost less than leaving the job out.

        All of them where it must run, or where others wait for it.
        """
        kept = {before for befores in self.after for before in befores}
        kept |= {j for j, job in enumerate(self.problem.jobs) if job.required}
        most = [
            math.inf if j in kept else job.unplaced_usd for j, job in enumerate(self.problem.jobs)
        ]
        return {
            j: [i for i in ours if self.floor_usd(self.options[i]) < most[j]]
            for j, ours in enumerate(self.of_job)
        }


def build(problem: Problem) -> Table:
    """The options of ``problem``. Raises `Unsupported` naming all that cannot be planned yet."""
    _refuse(problem)
    nodes = tuple(
        tuple(n for n in problem.nodes_of(p.name) if not n.cordoned and not _unhealthy(n))
        for p in problem.pools
    )
    capacity = tuple(tuple(getattr(p.capacity, what) for what in RESOURCES) for p in problem.pools)
    number = {j.name: i for i, j in enumerate(problem.jobs)}
    after = tuple(tuple(number[a] for a in j.after) for j in problem.jobs)
    earliest = _earliest(problem, after)
    awaited = {before for deps in after for before in deps}
    pool_number = {p.name: i for i, p in enumerate(problem.pools)}
    options: list[Option] = []
    dropped: dict[tuple[int, int], Reason] = {}
    for j, job in enumerate(problem.jobs):
        for m, mode in enumerate(job.modes):
            p = pool_number[mode.pool]
            made = _option(problem, job, mode, len(nodes[p]), earliest[j], j in awaited)
            if isinstance(made, Reason):
                dropped[j, m] = made
                continue
            length, first, last, runs, per_node, usd, startup = made
            options.append(
                Option(
                    index=len(options),
                    job=j,
                    mode=m,
                    pool=p,
                    length=length,
                    first=first,
                    last=last,
                    runs=runs,
                    takes=tuple(getattr(mode.amounts, what) for what in RESOURCES),
                    per_node=per_node,
                    usd=usd,
                    startup_usd=startup,
                )
            )
    of_job: list[list[int]] = [[] for _ in problem.jobs]
    of_pool: list[list[int]] = [[] for _ in problem.pools]
    for o in options:
        of_job[o.job].append(o.index)
        of_pool[o.pool].append(o.index)
    table = Table(
        problem=problem,
        options=tuple(options),
        of_job=(),
        of_pool=tuple(map(tuple, of_pool)),
        nodes=nodes,
        capacity=capacity,
        away=tuple(tuple(_away(p, n) for n in nodes[i]) for i, p in enumerate(problem.pools)),
        after=after,
        dropped=dropped,
    )
    ranked = tuple(
        tuple(sorted(ours, key=lambda i: (table.floor_usd(options[i]) + options[i].startup_usd, i)))
        for ours in of_job
    )
    object.__setattr__(table, "of_job", ranked)
    return table


def _option(
    problem: Problem, job: Job, mode: Mode, nodes: int, earliest: int, awaited: bool
) -> Reason | tuple[int, int, int, tuple[Run, ...], int, float, float]:
    pool = problem.pool_by_name[mode.pool]
    per_node = _per_node(pool, job, mode)
    if isinstance(job.need, Work):
        hours = hours_of(job, mode)
        length = problem.grid.slots_for(hours) if hours < 1e9 else problem.grid.slots + 1
        first = max(earliest, _ready(problem, pool))
        last = min(job.deadline, problem.grid.slots) - length
        runs: tuple[Run, ...] = (Run(start=0, end=length, replicas=mode.replicas),)
        usd = hours * mode.replicas * mode.usd_per_replica_hour
    else:
        end = min(job.deadline, problem.grid.slots)
        first = last = earliest
        length = end - first
        if length <= 0 or earliest > job.release:
            return Reason.WINDOW
        wanted = [replicas_for(job.need, mode, t) for t in range(first, end)]
        runs = tuple(Run(start=a, end=b, replicas=r) for a, b, r in cost.runs(wanted))
        usd = (
            sum((r.end - r.start) * r.replicas for r in runs)
            * problem.grid.slot_hours
            * mode.usd_per_replica_hour
        )
    most = per_node * nodes
    if mode.together_required:
        most = min(most, per_node)
    if not per_node or max(r.replicas for r in runs) > most:
        return Reason.NO_OPTION
    if last < first:
        return Reason.WINDOW
    if max(r.replicas for r in runs) * mode.amounts.gpus > _quota(problem, job, pool):
        return Reason.QUEUE_LIMIT
    if usd > spendable_usd(problem, job) + 1e-6:
        return Reason.BUDGET
    # On a node that others keep running it costs nothing more, whatever its share.
    least = 0.0 if pool.billing is Billing.NODE else usd
    least += cost.lateness_usd(problem, job, first + length)
    if not (job.required or awaited) and least >= job.unplaced_usd:
        return Reason.NOT_WORTH
    startup = 0.0
    if pool.billing is Billing.NODE:
        count = -(-max(r.replicas for r in runs) // per_node)
        startup = count * cost.node_usd(
            pool,
            first * problem.grid.slot_seconds - pool.startup_seconds,
            first * problem.grid.slot_seconds,
            problem.grid.slot_seconds,
        )
    return length, first, last, runs, per_node, usd, startup


def spendable_usd(problem: Problem, job: Job) -> float:
    """The most that the job may cost: by its own limit, and by its queues' budgets undivided."""
    months = len(problem.grid.months())
    budgets = (
        problem.queue_by_name[name].budget_usd_per_month
        for name in problem.queue_path(job.queue)
        if name in problem.queue_by_name
    )
    most = min((usd * months for usd in budgets if usd is not None), default=math.inf)
    return most if job.max_cost_usd is None else min(most, job.max_cost_usd)


def _quota(problem: Problem, job: Job, pool: Pool) -> float:
    """GPUs of the pool's accelerator that the job's queues let it have at once."""
    return min(
        (
            most
            for name in problem.queue_path(job.queue)
            if name in problem.queue_by_name
            for accelerator, most in problem.queue_by_name[name].limit
            if accelerator == pool.accelerator
        ),
        default=math.inf,
    )


def _per_node(pool: Pool, job: Job, mode: Mode) -> int:
    """Replicas of ``mode`` that an empty node holds; 0 where the job may not run on it."""
    interrupted = pool.interruptions_per_hour > 0 and not job.preemptible
    if interrupted or mode.amounts.gpu_memory_bytes > pool.capacity.gpu_memory_bytes:
        return 0
    fits = [
        getattr(pool.capacity, what) // getattr(mode.amounts, what)
        for what in RESOURCES
        if getattr(mode.amounts, what)
    ]
    most = min(fits, default=mode.replicas)
    return min(most, 1) if mode.spread else most


def _ready(problem: Problem, pool: Pool) -> int:
    """The first slot at which a node launched at the grid's start can do batch work.

    (The nodes of a service are launched ahead: it is to be up from its first slot.)
    """
    if pool.billing is Billing.SUNK:
        return 0
    return -(-pool.startup_seconds // problem.grid.slot_seconds)


def _earliest(problem: Problem, after: tuple[tuple[int, ...], ...]) -> list[int]:
    """Release of each job, no earlier than what it depends on can end at the earliest."""
    earliest = [j.release for j in problem.jobs]
    for j in order_by_dependency(after):
        for before in after[j]:
            job = problem.jobs[before]
            if isinstance(job.need, Demand):
                shortest = min(job.deadline, problem.grid.slots) - job.release
            else:
                hours = min((hours_of(job, m) for m in job.modes), default=0.0)
                shortest = problem.grid.slots_for(min(hours, 1e9))
            earliest[j] = max(earliest[j], earliest[before] + shortest)
    return earliest


def order_by_dependency(after: tuple[tuple[int, ...], ...]) -> list[int]:
    """Job indices, each behind what it waits for."""
    done: dict[int, None] = {}

    def visit(j: int) -> None:
        stack = [(j, iter(after[j]))]
        while stack:
            at, rest = stack[-1]
            step = next((b for b in rest if b not in done), None)
            if step is None:
                done[at] = None
                stack.pop()
            else:
                stack.append((step, iter(after[step])))

    for j in range(len(after)):
        if j not in done:
            visit(j)
    return list(done)


def _away(pool: Pool, node: Node) -> tuple[tuple[int, int], ...]:
    """Stretches of the grid for which the node is not there."""
    gaps: list[tuple[int, int]] = []
    for window in pool.windows:
        if node.index < window.nodes:
            continue
        if gaps and gaps[-1][1] == window.start:
            gaps[-1] = (gaps[-1][0], window.end)
        else:
            gaps.append((window.start, window.end))
    return tuple(gaps)


def _unhealthy(node: Node) -> bool:
    return any(d.unhealthy for d in node.devices)


def _refuse(problem: Problem) -> None:
    lines: list[str] = []
    if problem.running:
        lines.append("running jobs: plans start from an empty fleet")
    for pool in problem.pools:
        prices = {(w.usd_per_node_hour, w.marginal_usd_per_node_hour) for w in pool.windows}
        if len(prices) > 1:
            lines.append(f"pool {pool.name}: a price that changes within the horizon")
    lines += [
        f"node {node.name}: another capacity than the other nodes of {node.pool}"
        for node in problem.nodes
        if node.capacity != problem.pool_by_name[node.pool].capacity
    ]
    lines += [
        f"queue {queue.name}: a budget above ${MOST_USD:,.0f}"
        for queue in problem.queues
        if (queue.budget_usd_per_month or 0.0) > MOST_USD
    ]
    for job in problem.jobs:
        lines += _refuse_job(job)
    if lines:
        raise Unsupported("\n".join(f"not planned yet: {line}" for line in lines))


def _refuse_job(job: Job) -> list[str]:
    found: dict[str, None] = defaultdict()
    if job.switches:
        found[f"job {job.name}: changing mode at a checkpoint"] = None
    rates = (m.replicas * m.usd_per_replica_hour for m in job.modes)
    if max(job.unplaced_usd, job.lateness_usd_per_hour, *rates) > MOST_USD:
        found[f"job {job.name}: sums above ${MOST_USD:,.0f}"] = None
    if isinstance(job.need, Demand) and (job.due is not None or job.after):
        found[f"job {job.name}: a service with a due time or with dependencies"] = None
    for mode in job.modes:
        if mode.amounts.mig:
            found[f"job {job.name}: MIG instances"] = None
        elif mode.amounts.gpu_milli % GPU_MILLI:
            found[f"job {job.name}: a fraction of a GPU"] = None
        if mode.together_required and mode.together != HOSTNAME:
            found[f"job {job.name}: a gang required together inside one {mode.together}"] = None
        if mode.spread and mode.spread != HOSTNAME:
            found[f"job {job.name}: replicas spread over {mode.spread}"] = None
    return list(found)
