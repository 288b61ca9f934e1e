"""A problem as the solvers see it: one flat list of options, all whole numbers of slots and nodes.

An *option* is a job in one of its modes, with the range of starts that its release, deadline and
pool leave it. A service is an option too: its start is fixed and its replicas change from run to
run. Options that could be in no best plan are left out here, with the reason kept for the answer.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from planner import cost
from planner.devices import unit_of
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
from planner.topology import HOSTNAME, NOWHERE, domains

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
    takes: tuple[int, ...]  # of one replica, by RESOURCES; a MIG instance by its share of a GPU
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
    broken: tuple[tuple[int, ...], ...]  # unhealthy GPUs by pool and node
    away: tuple[tuple[tuple[tuple[int, int], ...], ...], ...]  # absences by pool and node
    apart: tuple[bool, ...]  # pools whose GPUs are told apart: a job takes less than one
    after: tuple[tuple[int, ...], ...]  # jobs that must end first, by job
    dropped: dict[tuple[int, int], Reason] = field(repr=False)  # (job, mode) -> why it is no option
    _domains: dict[tuple[int, str], tuple[int, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def mode(self, option: Option) -> Mode:
        """The mode that ``option`` is."""
        return self.problem.jobs[option.job].modes[option.mode]

    def have(self, pool: int, node: int, resource: int) -> int:
        """What a node has of one of `RESOURCES`, less its unhealthy GPUs."""
        lost = GPU_MILLI * self.broken[pool][node] if resource == 0 else 0
        return self.capacity[pool][resource] - lost

    def domains(self, pool: int, level: str) -> tuple[int, ...]:
        """The domain of each usable node of a pool at a topology level, or `NOWHERE`."""
        if (pool, level) not in self._domains:
            numbered = domains(self.problem.pools[pool], self.nodes[pool], level)
            self._domains[pool, level] = numbered
        return self._domains[pool, level]

    def tied(self, option: Option) -> bool:
        """Whether which nodes it may have depends on more than what is free on each."""
        mode = self.mode(option)
        inside = mode.together if mode.together_required else ""
        return not {inside, mode.spread} <= {"", HOSTNAME}

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
    refuse(problem)
    nodes = tuple(
        tuple(n for n in problem.nodes_of(p.name) if not n.cordoned) for p in problem.pools
    )
    places = {p.name: Places(p, n) for p, n in zip(problem.pools, nodes, strict=True)}
    capacity = tuple(tuple(getattr(p.capacity, what) for what in RESOURCES) for p in problem.pools)
    number = {j.name: i for i, j in enumerate(problem.jobs)}
    after = tuple(tuple(number[a] for a in j.after) for j in problem.jobs)
    earliest = earliest_starts(problem, after)
    kept = {before for deps in after for before in deps}
    kept |= {i for i, j in enumerate(problem.jobs) if j.required}
    lowest = min((j.tier for j in problem.jobs), default=0)
    pool_number = {p.name: i for i, p in enumerate(problem.pools)}
    options: list[Option] = []
    dropped: dict[tuple[int, int], Reason] = {}
    for j, job in enumerate(problem.jobs):
        made_of = _options_of(problem, job, places, earliest[j], j in kept, job.tier > lowest)
        for m, made in enumerate(made_of):
            p = pool_number[job.modes[m].pool]
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
                    takes=takes_of(problem.pools[p], job.modes[m]),
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
        broken=tuple(place.broken for place in places.values()),
        away=tuple(tuple(_away(p, n) for n in nodes[i]) for i, p in enumerate(problem.pools)),
        apart=tuple(any(_is_part(problem, options[i]) for i in ours) for ours in of_pool),
        after=after,
        dropped=dropped,
    )
    ranked = tuple(
        tuple(sorted(ours, key=lambda i: (table.floor_usd(options[i]) + options[i].startup_usd, i)))
        for ours in of_job
    )
    object.__setattr__(table, "of_job", ranked)
    return table


# Length, first and last start, runs, replicas a node, share and start-up (USD); or why none.
_Made: TypeAlias = Reason | tuple[int, int, int, tuple[Run, ...], int, float, float]


def _options_of(
    problem: Problem,
    job: Job,
    places: Mapping[str, Places],
    earliest: int,
    kept: bool,
    upper: bool,
) -> list[_Made]:
    """An option for each mode of a job, or why it is none.

    A job of an ``upper`` tier that some mode pays for may also make room in one that does not.
    """

    def made(*, kept: bool) -> list[_Made]:
        return [_option(problem, job, m, places[m.pool], earliest, kept) for m in job.modes]

    found = made(kept=kept)
    paying = not all(isinstance(each, Reason) for each in found)
    return made(kept=True) if upper and paying else found


def _option(
    problem: Problem, job: Job, mode: Mode, places: Places, earliest: int, kept: bool
) -> _Made:
    pool = problem.pool_by_name[mode.pool]
    per_node, most = places.room(job, mode)
    if isinstance(job.need, Work):
        hours = hours_of(job, mode)
        length = problem.grid.slots_for(hours) if hours < 1e9 else problem.grid.slots + 1
        first = max(earliest, ready_slot(problem, pool))
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
    if not per_node or max(r.replicas for r in runs) > most:
        return Reason.NO_OPTION
    if last < first:
        return Reason.WINDOW
    milli = max(r.replicas for r in runs) * pool.counted_milli(mode.amounts)
    if milli > GPU_MILLI * quota(problem, job, pool):
        return Reason.QUEUE_LIMIT
    if usd > spendable_usd(problem, job) + 1e-6:
        return Reason.BUDGET
    # On a node that others keep running it costs nothing more, whatever its share.
    least = 0.0 if pool.billing is Billing.NODE else usd
    least += cost.lateness_usd(problem, job, first + length)
    if not kept and least >= job.unplaced_usd:
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


def quota(problem: Problem, job: Job, pool: Pool) -> float:
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


class Places:
    """The usable nodes of a pool when they are empty."""

    def __init__(self, pool: Pool, nodes: Sequence[Node]) -> None:
        self.pool, self.nodes = pool, nodes
        gpus = pool.capacity.gpu_milli // GPU_MILLI
        self.broken = tuple(gpus - len(n.healthy_gpus()) if n.devices else 0 for n in nodes)
        self._known: dict[tuple[str, str], Counter[tuple[int, int, int]]] = {}

    def room(self, job: Job, mode: Mode) -> tuple[int, int]:
        """Replicas of ``mode`` that an intact node holds, and that the pool holds for a gang."""
        if self.pool.interruptions_per_hour > 0 and not job.preemptible:
            return 0, 0
        apart = mode.spread not in ("", HOSTNAME)
        held: dict[tuple[int, int], int] = {}
        for (inside, domain, broken), count in self._kinds(mode).items():
            each = self._on(mode, broken)
            before = held.get((inside, domain), 0)
            held[inside, domain] = max(before, each) if apart else before + each * count
        gangs: Counter[int] = Counter()
        for (inside, _), replicas in held.items():
            gangs[inside] += replicas
        return self._on(mode, 0), max(gangs.values(), default=0)

    def _on(self, mode: Mode, broken: int) -> int:
        """Replicas that a node holds of whose GPUs ``broken`` are unhealthy."""
        most = _replicas_on(self.pool, mode, broken)
        return min(most, 1) if mode.spread else most

    def _kinds(self, mode: Mode) -> Counter[tuple[int, int, int]]:
        """Nodes by domain that holds a gang, domain that spreads it, and unhealthy GPUs."""
        inside = mode.together if mode.together_required else ""
        apart = mode.spread if mode.spread != HOSTNAME else ""
        if (inside, apart) not in self._known:
            columns = (
                domains(self.pool, self.nodes, level) if level else (0,) * len(self.nodes)
                for level in (inside, apart)
            )
            kinds = Counter(zip(*columns, self.broken, strict=True))
            known = {kind: n for kind, n in kinds.items() if NOWHERE not in kind[:2]}
            self._known[inside, apart] = Counter(known)
        return self._known[inside, apart]


def takes_of(pool: Pool, mode: Mode) -> tuple[int, ...]:
    """What a replica takes of a node, by `RESOURCES`."""
    of_node = (getattr(mode.amounts, what) for what in RESOURCES[1:])
    return (pool.counted_milli(mode.amounts), *of_node)


def _is_part(problem: Problem, option: Option) -> bool:
    """Whether a replica takes less than a whole GPU."""
    amounts = problem.jobs[option.job].modes[option.mode].amounts
    return bool(amounts.mig) or amounts.gpu_milli % GPU_MILLI > 0


def _replicas_on(pool: Pool, mode: Mode, broken: int) -> int:
    """Replicas of ``mode`` that an empty node holds of whose GPUs ``broken`` are unhealthy."""
    takes, has = mode.amounts, pool.capacity
    fits = [
        getattr(has, what) // getattr(takes, what) for what in RESOURCES[1:] if getattr(takes, what)
    ]
    if unit := unit_of(takes):
        fits.append(unit.replicas(pool, has.gpu_milli // GPU_MILLI - broken))
    return min(fits, default=mode.replicas)


def ready_slot(problem: Problem, pool: Pool) -> int:
    """The first slot at which a node launched at the grid's start can do batch work.

    (The nodes of a service are launched ahead: it is to be up from its first slot.)
    """
    if pool.billing is Billing.SUNK:
        return 0
    return -(-pool.startup_seconds // problem.grid.slot_seconds)


def earliest_starts(problem: Problem, after: tuple[tuple[int, ...], ...]) -> list[int]:
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


def refuse(problem: Problem) -> None:
    """Raise `Unsupported` naming all of the problem that cannot be planned yet."""
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
        takes = mode.amounts
        if takes.gpu_milli > GPU_MILLI and takes.gpu_milli % GPU_MILLI:
            found[f"job {job.name}: GPUs and a part of one beside them"] = None
        if len(takes.mig) > 1 or (takes.mig and takes.gpu_milli):
            found[f"job {job.name}: MIG instances of two kinds, or beside a GPU"] = None
    return list(found)
