"""The optimum by trying everything: no OR-Tools, nothing of the solver's tables.

Every way to run each job is listed (mode, start, nodes slot by slot), then a depth-first search
tries every combination, keeping the least (left-out cost of each tier above the lowest, objective).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, timedelta

from planner.problem import Amounts, Billing, Demand, Grid, Job, Mode, Node, Pool, Problem, Work

WHAT = ("gpu_milli", "cpu_milli", "memory_bytes")


@dataclass(frozen=True)
class Way:
    """One way to run a job: for each run, (start, end, replicas on each node of the pool)."""

    pool: str
    runs: tuple[tuple[int, int, tuple[int, ...]], ...]
    amounts: Amounts
    usd: float  # share of the money
    late_usd: float

    @property
    def start(self) -> int:
        return self.runs[0][0]

    @property
    def end(self) -> int:
        return self.runs[-1][1]

    def replicas_at(self, slot: int) -> int:
        return sum(sum(counts) for start, end, counts in self.runs if start <= slot < end)


@dataclass(frozen=True)
class Optimum:
    """The best plan."""

    objective_usd: float
    ways: dict[str, Way]


Caps = list[tuple[int, float]]  # (tier, most USD of paying jobs of it that may be left out)


def optimum(problem: Problem) -> Optimum | None:
    """The best plan, or None if nothing is feasible.

    Tier by tier, highest first, the least that has to be left out is found and held; of two ways
    that cost more than leaving a job out, neither counts there as a way to run it.
    """
    paying = {j.name: list(_paying_ways(problem, j)) for j in problem.jobs}
    everything = {j.name: list(_ways(problem, j)) for j in problem.jobs}
    caps: Caps = []
    for tier in sorted({j.tier for j in problem.jobs}, reverse=True)[:-1]:
        least = _search(problem, paying, caps, tier)
        if least is None:
            return None
        caps.append((tier, least.objective_usd))
    return _search(problem, everything, caps)


def _search(
    problem: Problem, ways: dict[str, list[Way]], caps: Caps, tier: int | None = None
) -> Optimum | None:
    """The cheapest plan within ``caps``; with ``tier``, what leaves least of that tier out."""
    order = _dependency_order(problem)
    counted = {j.name for j in problem.jobs if any(m for m in j.modes if _pays(problem, j, m))}
    best: list[Optimum | None] = [None]

    def descend(at: int, chosen: dict[str, Way], usd: float, out: dict[int, float]) -> None:
        if best[0] is not None and usd >= best[0].objective_usd - 1e-9:
            return
        if any(out.get(t, 0.0) > most + 1e-6 for t, most in caps):
            return
        if at == len(order):
            found = usd + (_node_bills(problem, chosen) if tier is None else 0.0)
            if best[0] is None or found < best[0].objective_usd:
                best[0] = Optimum(found, chosen)
            return
        job = order[at]
        for way in ways[job.name]:
            if _fits(problem, job, way, chosen):
                more = _sure_usd(problem, way) if tier is None else 0.0
                descend(at + 1, {**chosen, job.name: way}, usd + more, out)
        if not job.required:
            lost = job.unplaced_usd if job.name in counted else 0.0
            more = job.unplaced_usd if tier is None else lost * (job.tier == tier)
            descend(at + 1, chosen, usd + more, {**out, job.tier: out.get(job.tier, 0.0) + lost})

    descend(0, {}, 0.0, {})
    return best[0]


def _sure_usd(problem: Problem, way: Way) -> float:
    """What a way costs whatever the others do."""
    billed_by_node = _pool(problem, way.pool).billing is Billing.NODE
    return way.late_usd + (0.0 if billed_by_node else way.usd)


def _dependency_order(problem: Problem) -> list[Job]:
    order: list[Job] = []
    while len(order) < len(problem.jobs):
        done = {j.name for j in order}
        order += [j for j in problem.jobs if j.name not in done and done.issuperset(j.after)]
    return order


def _pool(problem: Problem, name: str) -> Pool:
    return next(p for p in problem.pools if p.name == name)


def _slot_hours(grid: Grid) -> float:
    return grid.slot_seconds / 3600


def _ways(problem: Problem, job: Job) -> Iterator[Way]:
    pools = {m.pool: _pool(problem, m.pool) for m in job.modes}
    for mode in (m for m in job.modes if _replicas_of(m, pools[m.pool], pools[m.pool].capacity)):
        listed = _service_ways if isinstance(job.need, Demand) else _batch_ways
        for way in listed(problem, job, mode):
            if job.max_cost_usd is None or way.usd <= job.max_cost_usd:
                yield way


def _paying_ways(problem: Problem, job: Job) -> Iterator[Way]:
    modes = tuple(m for m in job.modes if _pays(problem, job, m))
    return _ways(problem, replace(job, modes=modes))


def _pays(problem: Problem, job: Job, mode: Mode) -> bool:
    """Whether it is worth running, by its own share, at the earliest start that it may have.

    One that must run, or that others wait for, is.
    """
    if job.required or any(job.name in j.after for j in problem.jobs):
        return True
    way = next(_ways(problem, replace(job, modes=(mode,))), None)
    if way is None:
        return False
    first = max(_earliest(problem, job), _ready(problem, _pool(problem, mode.pool)))
    late = _late(problem.grid, job, first + way.end - way.start)
    return way.usd + late < job.unplaced_usd


def _earliest(problem: Problem, job: Job) -> int:
    """Release, or the earliest end of what it waits for on an empty fleet."""
    befores = [j for j in problem.jobs if j.name in job.after]
    return max([job.release, *(_earliest_end(problem, b) for b in befores)])


def _earliest_end(problem: Problem, job: Job) -> int:
    assert isinstance(job.need, Work)
    hours = [job.need.amount / (m.replicas * m.work_per_replica_hour) for m in job.modes]
    return _earliest(problem, job) + _length(problem.grid, min(hours, default=0.0))


def _length(grid: Grid, hours: float) -> int:
    return max(1, math.ceil(hours / _slot_hours(grid) - 1e-6))


def _late(grid: Grid, job: Job, end: int) -> float:
    if job.due is None:
        return 0.0
    return max(0, end - job.due) * _slot_hours(grid) * job.lateness_usd_per_hour


def _ready(problem: Problem, pool: Pool) -> int:
    return 0 if pool.billing is Billing.SUNK else _slots_of(problem.grid, pool.startup_seconds)


def _slots_of(grid: Grid, seconds: int) -> int:
    return math.ceil(seconds / grid.slot_seconds)


def _nodes(problem: Problem, pool: Pool) -> list[Node]:
    return [n for n in problem.nodes if n.pool == pool.name]


def _replicas_of(mode: Mode, pool: Pool, node: Amounts) -> int:
    """Replicas that an empty node holds."""
    fits = [
        int(getattr(node, what)) // int(getattr(mode.amounts, what))
        for what in WHAT[1:]
        if getattr(mode.amounts, what)
    ]
    devices = node.gpu_milli // 1000
    if mode.amounts.mig:
        ((profile, _),) = mode.amounts.mig
        fits.append(devices * max((g.count(profile) for g in pool.mig_geometries), default=0))
    elif mode.amounts.gpu_milli < 1000:
        each = 1000 // mode.amounts.gpu_milli
        if mode.amounts.gpu_memory_bytes:
            each = min(each, node.gpu_memory_bytes // mode.amounts.gpu_memory_bytes)
        fits.append(devices * each)
    else:
        fits.append(node.gpu_milli // mode.amounts.gpu_milli)
    return min(fits)


def _working(node: Node) -> Amounts:
    """What the node has, its unhealthy GPUs apart."""
    lost = sum(1000 for d in node.devices if d.unhealthy)
    return replace(node.capacity, gpu_milli=node.capacity.gpu_milli - lost)


def _domain(pool: Pool, node: Node, level: str) -> str | None:
    if level == "kubernetes.io/hostname":
        return node.name
    return dict(zip(pool.topology_levels, node.topology, strict=False)).get(level)


def _topology_holds(pool: Pool, nodes: list[Node], mode: Mode, counts: tuple[int, ...]) -> bool:
    """A gang held together is in one known domain, a spread one in as many as replicas."""
    used = [n for n, count in zip(nodes, counts, strict=True) for _ in range(count)]
    held = [_domain(pool, n, mode.together) for n in used] if mode.together_required else []
    apart = [_domain(pool, n, mode.spread) for n in used] if mode.spread else []
    return None not in held + apart and len(set(held)) <= 1 and len(set(apart)) == len(apart)


def _spreads(
    problem: Problem, mode: Mode, replicas: int, start: int, end: int
) -> list[tuple[int, ...]]:
    """All ways to put ``replicas`` on the pool's nodes that are there for all of [start, end)."""
    pool = _pool(problem, mode.pool)
    nodes = _nodes(problem, pool)
    most = []
    for node in nodes:
        there = all(node.index < pool.nodes_at(t) for t in range(start, end))
        most.append(_replicas_of(mode, pool, _working(node)) if there and not node.cordoned else 0)
    found = [c for c in itertools.product(*(range(m + 1) for m in most)) if sum(c) == replicas]
    return [c for c in found if _topology_holds(pool, nodes, mode, c)]


def _batch_ways(problem: Problem, job: Job, mode: Mode) -> Iterator[Way]:
    assert isinstance(job.need, Work)
    hours = job.need.amount / (mode.replicas * mode.work_per_replica_hour)
    length = _length(problem.grid, hours)
    usd = hours * mode.replicas * mode.usd_per_replica_hour
    last = min(job.deadline, problem.grid.slots) - length
    for start in range(max(job.release, _ready(problem, _pool(problem, mode.pool))), last + 1):
        end = start + length
        for counts in _spreads(problem, mode, mode.replicas, start, end):
            late = _late(problem.grid, job, end)
            yield Way(mode.pool, ((start, end, counts),), mode.amounts, usd, late)


def _service_ways(problem: Problem, job: Job, mode: Mode) -> Iterator[Way]:
    need = job.need
    assert isinstance(need, Demand)
    end = min(job.deadline, problem.grid.slots)
    wanted = {
        t: max(need.min_replicas, math.ceil(need.per_slot[t] / mode.work_per_replica_hour - 1e-9))
        for t in range(job.release, end)
    }
    usd = sum(wanted.values()) * _slot_hours(problem.grid) * mode.usd_per_replica_hour

    def grow(t: int, runs: tuple[tuple[int, int, tuple[int, ...]], ...]) -> Iterator[Way]:
        if t == end:
            yield Way(mode.pool, runs, mode.amounts, usd, 0.0)
            return
        for counts in _spreads(problem, mode, wanted[t], t, t + 1):
            if runs:
                change = [b - a for a, b in zip(runs[-1][2], counts, strict=True)]
                if min(change) < 0 < max(change):
                    continue  # a replica would move
            yield from grow(t + 1, (*runs, (t, t + 1, counts)))

    if job.release < end:
        yield from grow(job.release, ())


def _fits(problem: Problem, job: Job, way: Way, chosen: dict[str, Way]) -> bool:
    if any(b not in chosen or chosen[b].end > way.start for b in job.after):
        return False
    everyone = [*chosen.items(), (job.name, way)]
    return (
        _nodes_hold(problem, way, [w for _, w in everyone if w.pool == way.pool])
        and _limits_hold(problem, everyone)
        and _budgets_hold(problem, everyone)
    )


def _nodes_hold(problem: Problem, way: Way, here: list[Way]) -> bool:
    pool = _pool(problem, way.pool)
    nodes = _nodes(problem, pool)
    for t in range(way.start, way.end):
        held: dict[tuple[int, str], int] = defaultdict(int)
        for w in here:
            for start, end, counts in w.runs:
                if start <= t < end:
                    for n, count in enumerate(counts):
                        for what in WHAT:
                            held[n, what] += count * getattr(w.amounts, what)
        if any(used > getattr(_working(nodes[n]), what) for (n, what), used in held.items()):
            return False
    if all(w.amounts.gpu_milli and w.amounts.gpu_milli % 1000 == 0 for w in here):
        return True
    return all(
        _devices_hold(pool, node, tuple(sorted(_on_node(here, n), key=repr)))
        for n, node in enumerate(nodes)
    )


Config = tuple[tuple[int, int, int], ...]  # (device, geometry or -1, units), where there are any
Runs = tuple[tuple[int, int, int], ...]  # (start, end, replicas on the node)


def _on_node(here: list[Way], n: int) -> Iterator[tuple[Amounts, Runs]]:
    for w in here:
        runs = tuple((start, end, counts[n]) for start, end, counts in w.runs)
        if any(count for _, _, count in runs):
            yield w.amounts, runs


@functools.cache
def _devices_hold(pool: Pool, node: Node, jobs: tuple[tuple[Amounts, Runs], ...]) -> bool:
    """Whether the replicas on a node can be put on its GPUs, each staying where it is."""
    devices = [
        d for d in range(pool.gpus_per_node) if not (node.devices and node.devices[d].unhealthy)
    ]
    steps = [(i, r) for i, (_, runs) in enumerate(jobs) for r in range(len(runs))]

    def assign(k: int, chosen: dict[tuple[int, int], Config]) -> bool:
        if k == len(steps):
            return True
        i, r = steps[k]
        amounts, runs = jobs[i]
        for config in _configs(pool, devices, amounts, runs[r][2]):
            moved = r > 0 and _moves(chosen[i, r - 1], config)
            if moved or not _room_on_devices(pool, jobs, chosen, i, r, config):
                continue
            if assign(k + 1, {**chosen, (i, r): config}):
                return True
        return False

    return assign(0, {})


def _configs(pool: Pool, devices: list[int], amounts: Amounts, replicas: int) -> Iterator[Config]:
    """Every way to put replicas on devices: whole GPUs, shares of them, or instances."""
    if amounts.mig:
        profile = amounts.mig[0][0]
        places = [
            (d, g, geometry.count(profile))
            for d in devices
            for g, geometry in enumerate(pool.mig_geometries)
            if profile in geometry
        ]
        units = replicas
    elif amounts.gpu_milli < 1000:
        places, units = [(d, -1, 1000 // amounts.gpu_milli) for d in devices], replicas
    else:
        places, units = [(d, -1, 1) for d in devices], replicas * amounts.gpu_milli // 1000
    for counts in itertools.product(*(range(min(most, units) + 1) for _, _, most in places)):
        if sum(counts) == units:
            yield tuple(
                (d, g, count) for (d, g, _), count in zip(places, counts, strict=True) if count
            )


def _moves(before: Config, now: Config) -> bool:
    was, are = ({(d, g): n for d, g, n in config} for config in (before, now))
    change = [are.get(at, 0) - was.get(at, 0) for at in was.keys() | are.keys()]
    return min(change, default=0) < 0 < max(change, default=0)


def _room_on_devices(
    pool: Pool,
    jobs: tuple[tuple[Amounts, Runs], ...],
    chosen: dict[tuple[int, int], Config],
    i: int,
    r: int,
    config: Config,
) -> bool:
    for t in range(*jobs[i][1][r][:2]):
        held: dict[int, list[tuple[int, Amounts, int]]] = defaultdict(list)
        for (other, k), theirs in [*chosen.items(), ((i, r), config)]:
            if jobs[other][1][k][0] <= t < jobs[other][1][k][1]:
                for d, g, units in theirs:
                    held[d].append((g, jobs[other][0], units))
        if not all(_device_holds(pool, on) for on in held.values()):
            return False
    return True


def _device_holds(pool: Pool, on: list[tuple[int, Amounts, int]]) -> bool:
    (geometry, *others) = {g for g, _, _ in on}
    if others:
        return False
    if geometry >= 0:
        taken = Counter[str]()
        for _, amounts, units in on:
            taken[amounts.mig[0][0]] += units
        return all(n <= pool.mig_geometries[geometry].count(p) for p, n in taken.items())
    milli = sum(min(1000, a.gpu_milli) * units for _, a, units in on)
    memory = sum(a.gpu_memory_bytes * units for _, a, units in on)
    return milli <= 1000 and memory <= pool.capacity.gpu_memory_bytes


def _ancestors(problem: Problem, name: str) -> set[str]:
    queues = {q.name: q for q in problem.queues}
    found: set[str] = set()
    while name:
        found.add(name)
        name = queues[name].parent
    return found


def _limits_hold(problem: Problem, everyone: list[tuple[str, Way]]) -> bool:
    queue_of = {j.name: _ancestors(problem, j.queue) for j in problem.jobs}
    for queue in problem.queues:
        for accelerator, most in queue.limit:
            ours = [
                w
                for name, w in everyone
                if queue.name in queue_of[name]
                and _pool(problem, w.pool).accelerator == accelerator
            ]
            for t in range(problem.grid.slots):
                held = sum(
                    w.replicas_at(t) * _milli(_pool(problem, w.pool), w.amounts) for w in ours
                )
                if held > 1000 * most:
                    return False
    return True


def _milli(pool: Pool, amounts: Amounts) -> int:
    """Thousandths of a GPU that count: of an instance, its slices over the most of a geometry."""
    if not amounts.mig:
        return amounts.gpu_milli
    most = max(sum(int(p.split("g")[0]) for p in g) for g in pool.mig_geometries)
    return 1000 * int(amounts.mig[0][0].split("g")[0]) // most


def _months(grid: Grid) -> list[list[int]]:
    """Slots by the calendar month (UTC) in which they begin."""
    begins = [
        (grid.start + timedelta(seconds=t * grid.slot_seconds)).astimezone(UTC)
        for t in range(grid.slots)
    ]
    by_month = itertools.groupby(range(grid.slots), lambda t: (begins[t].year, begins[t].month))
    return [list(slots) for _, slots in by_month]


def _spent(way: Way, slots: list[int]) -> float:
    """Of the way's money, what falls in ``slots``: in proportion to the replicas that run."""
    total = sum(way.replicas_at(t) for t in range(way.start, way.end))
    return way.usd * sum(way.replicas_at(t) for t in slots) / total if total else 0.0


def _budgets_hold(problem: Problem, everyone: list[tuple[str, Way]]) -> bool:
    queue_of = {j.name: _ancestors(problem, j.queue) for j in problem.jobs}
    return all(
        math.fsum(_spent(w, slots) for name, w in everyone if q.name in queue_of[name])
        <= q.budget_usd_per_month + 1e-6
        for q in problem.queues
        if q.budget_usd_per_month is not None
        for slots in _months(problem.grid)
    )


def _node_bills(problem: Problem, chosen: dict[str, Way]) -> float:
    """Cheapest on/off pattern of each rented node, by dynamic programming over slots."""
    return math.fsum(
        _node_bill(problem, pool, node, [w for w in chosen.values() if w.pool == pool.name])
        for pool in problem.pools
        if pool.billing is Billing.NODE
        for node in _nodes(problem, pool)
    )


def _node_bill(problem: Problem, pool: Pool, node: Node, ways: list[Way]) -> float:
    usd_per_hour = pool.windows[0].usd_per_node_hour
    rate = usd_per_hour * _slot_hours(problem.grid)
    startup = usd_per_hour * pool.startup_seconds / 3600
    used = {
        t
        for w in ways
        for start, end, counts in w.runs
        if counts[node.index]
        for t in range(start, end)
    }
    off, on = 0.0, math.inf
    for t in range(problem.grid.slots):
        there = node.index < pool.nodes_at(t)
        stay_on = min(on, off + startup) + rate if there else math.inf
        off, on = (math.inf if t in used else min(off, on)), stay_on
    return min(off, on)
