"""The optimum by trying everything: no OR-Tools, nothing of the solver's tables.

Every way to run each job is listed (modes, starts, stops, nodes slot by slot), then a depth-first
search tries every combination, keeping the least (left-out cost of each tier above the lowest,
objective).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from fractions import Fraction
from operator import itemgetter

from planner.problem import (
    Amounts,
    Billing,
    Demand,
    Grid,
    Job,
    Mix,
    Mode,
    Node,
    Pool,
    Problem,
    Running,
    Work,
)

WHAT = ("gpu_milli", "cpu_milli", "memory_bytes")


@dataclass(frozen=True)
class Hold:
    """Nodes of a pool held from slot to slot: replicas on each, each taking ``amounts``."""

    mode: int
    pool: str
    amounts: Amounts
    start: int
    end: int
    counts: tuple[int, ...]

    def taken(self) -> Iterator[tuple[int, int, str, int]]:
        """(slot, node, which of `WHAT`, how much)."""
        for n, count in enumerate(self.counts):
            for what in WHAT if count else ():
                amount = count * getattr(self.amounts, what)
                yield from ((t, n, what, amount) for t in range(self.start, self.end))


Place = tuple[str, int, int, str]  # pool, slot, node, which of `WHAT`
Runs = tuple[tuple[int, int, int], ...]  # (start, end, replicas on a node)
Piece = tuple[str, Amounts, Runs]  # what stays where it is; first what it is sorted by


@dataclass(frozen=True)
class Way:
    """One way to run a job."""

    holds: tuple[Hold, ...]
    # (pool, slot, USD): its share of money and moving; what is nobody's bill is of no pool
    spent: tuple[tuple[str, int, float], ...]
    late_usd: float
    lasts: bool = False  # what it holds by each mode is one service: no piece may move to the next

    @property
    def start(self) -> int:
        return self.holds[0].start

    @property
    def end(self) -> int:
        return self.holds[-1].end

    @property
    def usd(self) -> float:
        return math.fsum(usd for _, _, usd in self.spent)

    def spent_in(self, slots: Container[int]) -> float:
        return math.fsum(usd for _, t, usd in self.spent if t in slots)

    @functools.cached_property
    def held(self) -> Counter[Place]:
        found = Counter[Place]()
        for h in self.holds:
            for t, n, what, amount in h.taken():
                found[h.pool, t, n, what] += amount
        return found

    @functools.cached_property
    def pieces(self) -> dict[tuple[str, int], list[Piece]]:
        """What it holds of (pool, node) from when to when, without moving; a service is one."""
        found = defaultdict[tuple[str, int], list[Piece]](list)
        modes = sorted({h.mode for h in self.holds})
        lasting = [[h for h in self.holds if h.mode == m] for m in modes]  # two of a mix
        for piece in lasting if self.lasts else [[h] for h in self.holds]:
            for n in range(len(piece[0].counts)):
                runs = tuple((h.start, h.end, h.counts[n]) for h in piece)
                if any(count for _, _, count in runs):
                    order = repr((piece[0].amounts, runs))
                    found[piece[0].pool, n].append((order, piece[0].amounts, runs))
        return found

    @functools.cached_property
    def in_parts(self) -> set[str]:
        """Pools of which it takes less than whole GPUs."""
        milli = {(h.pool, h.amounts.gpu_milli) for h in self.holds}
        return {pool for pool, taken in milli if not taken or taken % 1000}


@dataclass(frozen=True)
class Optimum:
    """The best plan."""

    objective_usd: float
    ways: dict[str, Way]


Tier = tuple[bool, int]  # whether a guarantee covers it, and its priority
Caps = list[tuple[Tier, float]]  # (tier, most USD of paying jobs of it that may be left out)


def _tier(job: Job) -> Tier:
    return bool(job.guarantee), job.tier


def optimum(problem: Problem) -> Optimum | None:
    """The best plan, or None if nothing is feasible.

    Tier by tier, highest first, the least that has to be left out is found and held; of two ways
    that cost more than leaving a job out, neither counts there as a way to run it.
    """
    everything = {j.name: _ways(problem, j) for j in problem.jobs}
    paying = {j.name: _paying_ways(problem, j, everything[j.name]) for j in problem.jobs}
    caps: Caps = []
    for tier in sorted({_tier(j) for j in problem.jobs}, reverse=True)[:-1]:
        least = _search(problem, paying, caps, tier)
        if least is None:
            return None
        caps.append((tier, least.objective_usd))
    return _search(problem, everything, caps)


def _search(
    problem: Problem, ways: dict[str, list[Way]], caps: Caps, tier: Tier | None = None
) -> Optimum | None:
    """The cheapest plan within ``caps``; with ``tier``, what leaves least of that tier out.

    What costs as much already as the best, with the least that the jobs to come can cost, is left.
    """
    order, rules = _dependency_order(problem), _Rules(problem)
    counted = {j.name for j in problem.jobs if _paying(problem, j)}
    lost = {j.name: j.unplaced_usd if j.name in counted else 0.0 for j in order}
    sure, left_out = _sure(problem, ways), {j.name: j.unplaced_usd for j in order}
    if tier is not None:
        sure = {name: [(0.0, way) for way in listed] for name, listed in ways.items()}
        left_out = {j.name: lost[j.name] * (_tier(j) == tier) for j in order}
    least = [
        min([usd for usd, _ in sure[j.name]] + [left_out[j.name]] * (not j.required), default=0.0)
        for j in order
    ]
    best: list[Optimum | None] = [None]

    def betters(at: int, usd: float) -> bool:
        return best[0] is None or usd + math.fsum(least[at:]) < best[0].objective_usd - 1e-9

    def descend(at: int, chosen: dict[str, Way], usd: float, out: dict[Tier, float]) -> None:
        if any(out.get(t, 0.0) > most + 1e-6 for t, most in caps):
            return
        if at == len(order):
            found = usd + (_node_bills(rules, chosen) if tier is None else 0.0)
            if best[0] is None or found < best[0].objective_usd:
                best[0] = Optimum(found, chosen)
            return
        job = order[at]
        for more, way in sure[job.name]:
            if betters(at + 1, usd + more) and _fits(rules, job, way, chosen):
                descend(at + 1, {**chosen, job.name: way}, usd + more, out)
        if not job.required and betters(at + 1, usd + left_out[job.name]):
            too = out.get(_tier(job), 0.0) + lost[job.name]
            descend(at + 1, chosen, usd + left_out[job.name], {**out, _tier(job): too})

    descend(0, {}, 0.0, {})
    return best[0]


def _sure(problem: Problem, ways: dict[str, list[Way]]) -> dict[str, list[tuple[float, Way]]]:
    return {n: [(_sure_usd(problem, way), way) for way in listed] for n, listed in ways.items()}


def _sure_usd(problem: Problem, way: Way) -> float:
    """What a way costs whatever the others do."""
    by_node = {p.name for p in problem.pools if p.billing is Billing.NODE}
    return way.late_usd + math.fsum(usd for pool, _, usd in way.spent if pool not in by_node)


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


Begin = tuple[int, bool]  # a mode to begin in, and whether it is kept where it runs already


def _begins(problem: Problem, job: Job) -> set[Begin]:
    """All that the job may begin with."""
    running = _running(problem, job)
    if running is None or isinstance(job.need, Demand):
        return {(m, False) for m in range(len(job.modes) + len(job.mixes))}
    kept = {(running.mode, True)} if _can_stay(problem, job) else set()
    if kept and not job.preemptible:
        return kept
    free = job.switches or running.work_since_checkpoint >= running.work_done
    return kept | {(m, False) for m in range(len(job.modes)) if free or m == running.mode}


def _running(problem: Problem, job: Job) -> Running | None:
    return next((r for r in problem.running if r.job == job.name), None)


def _can_stay(problem: Problem, job: Job) -> bool:
    """Whether its nodes stay there: until it ends, or, where it may stop, for a first slot."""
    running = _running(problem, job)
    assert running is not None
    end = _length(problem.grid, _hours(_left(problem, job, kept=True), job.modes[running.mode]))
    until = 1 if _may_stop(job) else end
    stays = any(True for _ in _holds(problem, job, running.mode, 0, until, kept=True))
    return stays and end <= min(job.deadline, problem.grid.slots)


def _ways(problem: Problem, job: Job) -> list[Way]:
    """Every way to run the job."""
    return _listed(problem, job, _begins(problem, job))


def _listed(problem: Problem, job: Job, begins: set[Begin]) -> list[Way]:
    begins = {
        (m, kept)
        for m, kept in begins
        if all(
            _replicas_of(mode, pool, pool.capacity)
            for mode in _modes_of(job, m)
            for pool in [_pool(problem, mode.pool)]
        )
    }
    listed = _service_ways if isinstance(job.need, Demand) else _batch_ways
    found = [
        way
        for bare in listed(problem, job, begins)
        for way in [_with_its_data(problem, job, bare)]
        if job.max_cost_usd is None or way.usd <= job.max_cost_usd + 1e-6
    ]
    found.sort(key=lambda way: _sure_usd(problem, way))
    parts = {p.name for p in problem.pools if _has_parts(problem, p.name)}
    return _undominated(found, parts, _months(problem.grid)) if _may_stop(job) else found


def _with_its_data(problem: Problem, job: Job, way: Way) -> Way:
    """The way with what it pays in the first slot that it is in each pool, but where it runs."""
    running = _running(problem, job)
    at_home = job.modes[running.mode].pool if running else ""
    first: dict[str, tuple[int, float]] = {}
    for hold in sorted(way.holds, key=lambda h: h.start):
        first.setdefault(hold.pool, (hold.start, job.modes[hold.mode].egress_usd))
    paid = ((slot, usd) for pool, (slot, usd) in first.items() if pool != at_home and usd)
    return replace(way, spent=(*way.spent, *(("", slot, usd) for slot, usd in paid)))


def _modes_of(job: Job, number: int) -> tuple[Mode, ...]:
    """The modes of a way to begin: one, or behind all of these a mix."""
    if number < len(job.modes):
        return (job.modes[number],)
    mix = job.mixes[number - len(job.modes)]
    return (job.modes[mix.base], job.modes[mix.rest])


def _has_parts(problem: Problem, pool: str) -> bool:
    """Whether some job takes less than a GPU there."""
    modes = (m for j in problem.jobs for m in j.modes if m.pool == pool)
    return any(m.amounts.mig or m.amounts.gpu_milli % 1000 for m in modes)


def _undominated(ways: list[Way], parts: set[str], months: list[list[int]]) -> list[Way]:
    """Without those that hold, cost and last all that another does, and more.

    They cost it in each month, as budgets have it. In pools with ``parts`` of GPUs a piece is
    another than two that may be on two GPUs.
    """
    kept: list[tuple[frozenset[object], Way]] = []
    for way in ways:
        held = frozenset(
            (h.pool, h.amounts, t, h.counts, h.start if h.pool in parts else 0)
            for h in way.holds
            for t in range(h.start, h.end)
        )
        if not any(
            less <= held
            and other.start >= way.start
            and other.end <= way.end
            and all(other.spent_in(m) <= way.spent_in(m) + 1e-9 for m in months)
            for less, other in kept
        ):
            kept.append((held, way))
    return [way for _, way in kept]


def _paying_ways(problem: Problem, job: Job, everything: list[Way]) -> list[Way]:
    begins = _begins(problem, job)
    paying = _paying(problem, job) & begins
    return everything if paying == begins else _listed(problem, job, paying)


def _paying(problem: Problem, job: Job) -> set[Begin]:
    """What is worth beginning with, by its share, at the earliest end that there may be.

    All, of one that must run or that others wait for. Of a job that may stop, a mode pays or not.
    """
    begins = _begins(problem, job)
    if job.required or any(job.name in j.after for j in problem.jobs):
        return begins
    found = {b for b in begins if _least_usd(problem, job, *b) < job.unplaced_usd}
    if _may_stop(job):
        return {b for b in begins if b[0] in {m for m, _ in found}}
    return found


def _least_usd(problem: Problem, job: Job, number: int, kept: bool) -> float:
    """The share of a way to begin with a mode, at its cheapest, and the lateness of the first."""
    if isinstance(job.need, Demand):
        ways = _service_ways(problem, job, {(number, kept)})
        return min((_with_its_data(problem, job, w).usd for w in ways), default=math.inf)
    mode, grid = job.modes[number], problem.grid
    running = _running(problem, job)
    at_home = running is not None and job.modes[running.mode].pool == mode.pool
    brought = 0.0 if at_home else mode.egress_usd
    pool = _pool(problem, mode.pool)
    if _may_stop(job):
        first, seconds = _first(problem, job, pool, kept), _seconds(problem, job, mode, kept)
        if job.switches:
            seconds = 3600 * _hours(_left(problem, job, kept=True), mode)
        ratio = min(
            (_ratio(pool, t) for t in range(first, min(job.deadline, grid.slots))), default=1.0
        )
        usd = seconds / 3600 * mode.replicas * mode.usd_per_replica_hour * ratio
        end = first + _length(grid, seconds / 3600)
        if job.switches:
            end = _earliest_end(problem, job)
        return usd + brought + _late(grid, job, end)
    seconds = _seconds(problem, job, mode, kept)
    first, length = _first(problem, job, pool, kept), _length(grid, seconds / 3600)
    last = first if kept else min(job.deadline, grid.slots) - length
    by_start = [
        math.fsum(usd for _, _, usd in _spending(problem, mode, start, seconds))
        for start in range(first, last + 1)
    ]
    return min(by_start, default=math.inf) + brought + _late(grid, job, first + length)


def _may_stop(job: Job) -> bool:
    saves = job.preemptible and job.interruption.checkpoint_seconds > 0
    return saves and isinstance(job.need, Work)


def _left(problem: Problem, job: Job, *, kept: bool) -> float:
    assert isinstance(job.need, Work)
    running = _running(problem, job)
    if running is None:
        return job.need.amount
    done = running.work_done - (0.0 if kept else running.work_since_checkpoint)
    return job.need.amount - done


def _hours(work: float, mode: Mode) -> float:
    return work / (mode.replicas * mode.work_per_replica_hour)


def _seconds(problem: Problem, job: Job, mode: Mode, kept: bool) -> float:
    """What all of it takes in one piece."""
    restarts = _running(problem, job) is not None and not kept
    hours = _hours(_left(problem, job, kept=kept), mode)
    return 3600 * hours + job.interruption.restart_seconds * restarts


def _first(problem: Problem, job: Job, pool: Pool, kept: bool) -> int:
    return 0 if kept else max(_earliest(problem, job), _ready(problem, pool))


def _ratio(pool: Pool, slot: int) -> float:
    """The price of work in a slot over that in the first."""

    def price(t: int) -> float:
        window = next(w for w in pool.windows if w.start <= t < w.end)
        if pool.billing is Billing.SUNK:
            return window.marginal_usd_per_node_hour
        return window.usd_per_node_hour

    return price(slot) / price(0) if price(0) else 1.0


def _earliest(problem: Problem, job: Job) -> int:
    """Release, or the earliest end of what it waits for on an empty fleet."""
    befores = [j for j in problem.jobs if j.name in job.after]
    return max([job.release, *(_earliest_end(problem, b) for b in befores)])


def _earliest_end(problem: Problem, job: Job) -> int:
    hours = [_hours(_left(problem, job, kept=True), m) for m in job.modes]
    start = 0 if _running(problem, job) else _earliest(problem, job)
    return start + _length(problem.grid, min(hours, default=0.0))


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


@functools.cache
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


def _batch_ways(problem: Problem, job: Job, begins: set[Begin]) -> Iterator[Way]:
    if _may_stop(job):
        yield from _Pieces(problem, job, begins).ways()
        return
    for mode, kept in begins:
        yield from _one_piece(problem, job, mode, kept)


def _one_piece(problem: Problem, job: Job, number: int, kept: bool) -> Iterator[Way]:
    mode = job.modes[number]
    seconds = _seconds(problem, job, mode, kept)
    length = _length(problem.grid, seconds / 3600)
    first = _first(problem, job, _pool(problem, mode.pool), kept)
    last = min(job.deadline, problem.grid.slots) - length
    for start in range(first, min(last, first if kept else last) + 1):
        for hold in _holds(problem, job, number, start, start + length, kept):
            spent = _spending(problem, mode, start, seconds)
            yield Way((hold,), spent, _late(problem.grid, job, hold.end))


def _holds(
    problem: Problem, job: Job, number: int, start: int, end: int, kept: bool
) -> Iterator[Hold]:
    """All ways to hold a mode's gang from slot to slot; ``kept`` where it runs already."""
    mode = job.modes[number]
    running = _running(problem, job)
    names = [n.name for n in _nodes(problem, _pool(problem, mode.pool))]
    for counts in _spreads(problem, mode, mode.replicas, start, end):
        if not kept or (running and counts == tuple(running.nodes.count(n) for n in names)):
            yield Hold(number, mode.pool, mode.amounts, start, end, counts)


def _spending(
    problem: Problem, mode: Mode, start: int, seconds: float
) -> tuple[tuple[str, int, float], ...]:
    """What a gang pays that works, saves and restores for ``seconds`` from slot ``start`` on."""
    pool, slot = _pool(problem, mode.pool), problem.grid.slot_seconds
    usd_per_second = mode.replicas * mode.usd_per_replica_hour / 3600
    return tuple(
        (pool.name, t, min(slot, seconds - (t - start) * slot) * usd_per_second * _ratio(pool, t))
        for t in range(start, start + _length(problem.grid, seconds / 3600))
    )


@dataclass(frozen=True)
class _Pieces:
    """Piece after piece: one that is not the last works all of its time and then saves."""

    problem: Problem
    job: Job
    begins: set[Begin]

    def ways(self) -> Iterator[Way]:
        running, stop = _running(self.problem, self.job), self.job.interruption
        for number, kept in self.begins:
            bound = running is not None and running.work_since_checkpoint < running.work_done
            changes = int(bound and running is not None and number != running.mode)
            restart = 0.0 if kept or running is None else stop.restart_seconds
            left = _left(self.problem, self.job, kept=kept)
            for hold in self._holds(number, 0, kept) if changes <= self.job.switches else ():
                yield from self._add(Way((), (), 0.0), hold, left, changes, restart)

    def _holds(self, number: int, first: int, kept: bool = False) -> Iterator[Hold]:
        pool = _pool(self.problem, self.job.modes[number].pool)
        first = max(first, _first(self.problem, self.job, pool, kept))
        end = min(self.job.deadline, self.problem.grid.slots)
        for start in range(first, first + 1 if kept else end):
            for until in range(start + 1, end + 1):
                yield from _holds(self.problem, self.job, number, start, until, kept)

    def _add(
        self, way: Way, hold: Hold, left: float, changes: int, restart: float
    ) -> Iterator[Way]:
        mode, slot = self.job.modes[hold.mode], self.problem.grid.slot_seconds
        has, needed = (hold.end - hold.start) * slot, 3600 * _hours(left, mode) + restart
        if needed <= has + 1e-6 * slot:
            if needed > has - slot + 1e-6 * slot or has == slot:  # else a shorter one does
                spent = _spending(self.problem, mode, hold.start, needed)
                late = _late(self.problem.grid, self.job, hold.end)
                yield Way((*way.holds, hold), (*way.spent, *spent), late)
            return
        works = has - restart - self.job.interruption.save_seconds
        if works > 0:
            spent = _spending(self.problem, mode, hold.start, has)
            longer = Way((*way.holds, hold), (*way.spent, *spent), 0.0)
            yield from self._grow(longer, left - works / 3600 / _hours(1.0, mode), changes)

    def _grow(self, way: Way, left: float, changes: int) -> Iterator[Way]:
        before, restart = way.holds[-1], self.job.interruption.restart_seconds
        for number in {m for m, _ in self.begins}:
            changed = changes + (number != before.mode)
            for hold in self._holds(number, before.end) if changed <= self.job.switches else ():
                goes_on = (before.mode, before.counts, before.end)
                other_gpus = _has_parts(self.problem, hold.pool)
                if other_gpus or (number, hold.counts, hold.start) != goes_on:
                    yield from self._add(way, hold, left, changed, restart)


def _service_ways(problem: Problem, job: Job, begins: set[Begin]) -> Iterator[Way]:
    for number, _ in begins:
        if number < len(job.modes):
            yield from _service_ways_in(problem, job, number)
        else:
            yield from _mixed_ways(problem, job, job.mixes[number - len(job.modes)])


def _mixed_ways(problem: Problem, job: Job, mix: Mix) -> Iterator[Way]:
    """So many replicas of the base in every slot, and of the rest what they do not carry."""
    need = job.need
    assert isinstance(need, Demand)
    carried = mix.replicas * job.modes[mix.base].work_per_replica_hour
    base = Demand(per_slot=(0.0,) * len(need.per_slot), min_replicas=mix.replicas)
    rest = Demand(
        per_slot=tuple(max(0.0, asked - carried) for asked in need.per_slot),
        min_replicas=max(0, need.min_replicas - mix.replicas),
    )
    others = list(_service_ways_in(problem, replace(job, need=rest), mix.rest))
    for one in _service_ways_in(problem, replace(job, need=base), mix.base):
        for other in others:
            if any(sum(h.counts) for h in other.holds):
                spent = (*one.spent, *other.spent)
                yield Way((*one.holds, *other.holds), spent, 0.0, lasts=True)


def _service_ways_in(problem: Problem, job: Job, number: int) -> Iterator[Way]:
    need, mode = job.need, job.modes[number]
    assert isinstance(need, Demand)
    end = min(job.deadline, problem.grid.slots)
    wanted = {
        t: max(need.min_replicas, math.ceil(need.per_slot[t] / mode.work_per_replica_hour - 1e-9))
        for t in range(job.release, end)
    }
    rate, pool = _slot_hours(problem.grid) * mode.usd_per_replica_hour, _pool(problem, mode.pool)
    spent = tuple((pool.name, t, n * rate * _ratio(pool, t)) for t, n in wanted.items())

    def grow(t: int, holds: tuple[Hold, ...]) -> Iterator[Way]:
        if t == end:
            yield Way(holds, spent, 0.0, lasts=True)
            return
        for counts in _spreads(problem, mode, wanted[t], t, t + 1):
            if holds:
                change = [b - a for a, b in zip(holds[-1].counts, counts, strict=True)]
                if min(change) < 0 < max(change):
                    continue  # a replica would move
            yield from grow(
                t + 1, (*holds, Hold(number, pool.name, mode.amounts, t, t + 1, counts))
            )

    if job.release < end:
        yield from grow(job.release, ())


class _Rules:
    """What all plans must keep, in the form that it is asked in."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.nodes = {p.name: _nodes(problem, p) for p in problem.pools}
        self.has = {name: [_working(n) for n in nodes] for name, nodes in self.nodes.items()}
        self.accelerators = {p.name: p.accelerator for p in problem.pools}
        self.months = _months(problem.grid)
        self.under: dict[str, set[str]] = {q.name: set() for q in problem.queues}
        for job in problem.jobs:
            for name in _ancestors(problem, job.queue):
                self.under[name].add(job.name)
        self.kept_back = {
            a: _Tree(problem, a)
            for a in set(self.accelerators.values())
            if any(_own(problem, q.name, a) for q in problem.queues)
        }
        self._bills: dict[tuple[str, frozenset[int]], float] = {}
        self._milli: dict[int, tuple[Way, Counter[tuple[str, int]]]] = {}

    def node_bill(self, pool: Pool, node: Node, used: frozenset[int]) -> float:
        """What a rented node costs that is used in those slots."""
        if (node.name, used) not in self._bills:
            self._bills[node.name, used] = _node_bill(self.problem, pool, node, used)
        return self._bills[node.name, used]

    def milli(self, way: Way) -> Counter[tuple[str, int]]:
        """Thousandths of GPUs that count, by accelerator and slot."""
        if id(way) not in self._milli:
            found = Counter[tuple[str, int]]()
            for h in way.holds:
                counting = sum(h.counts) * _milli(_pool(self.problem, h.pool), h.amounts)
                for t in range(h.start, h.end):
                    found[self.accelerators[h.pool], t] += counting
            self._milli[id(way)] = way, found  # with the way, whose number is its own so long
        return self._milli[id(way)][1]


def _fits(rules: _Rules, job: Job, way: Way, chosen: dict[str, Way]) -> bool:
    if any(b not in chosen or chosen[b].end > way.start for b in job.after):
        return False
    everyone = [*chosen.items(), (job.name, way)]
    return (
        _nodes_hold(rules, way, [w for _, w in everyone])
        and _limits_hold(rules, everyone)
        and _lent_only(rules, everyone)
        and _budgets_hold(rules, everyone)
    )


def _nodes_hold(rules: _Rules, way: Way, everyone: list[Way]) -> bool:
    for at in way.held:
        pool, _, n, what = at
        if sum(w.held[at] for w in everyone) > getattr(rules.has[pool][n], what):
            return False
    pools = {h.pool for h in way.holds}
    return all(_pool_holds(rules, p, everyone) for p in rules.problem.pools if p.name in pools)


def _pool_holds(rules: _Rules, pool: Pool, everyone: list[Way]) -> bool:
    if not any(pool.name in w.in_parts for w in everyone):
        return True  # GPUs need not be told apart
    for n, node in enumerate(rules.nodes[pool.name]):
        pieces = [piece for w in everyone for piece in w.pieces.get((pool.name, n), ())]
        pieces.sort(key=itemgetter(0))
        if not _devices_hold(pool, node, tuple((amounts, runs) for _, amounts, runs in pieces)):
            return False
    return True


Config = tuple[tuple[int, int, int], ...]  # (device, geometry or -1, units), where there are any


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


def _limits_hold(rules: _Rules, everyone: list[tuple[str, Way]]) -> bool:
    for queue in rules.problem.queues:
        ours = [rules.milli(w) for name, w in everyone if name in rules.under[queue.name]]
        for accelerator, most in queue.limit:
            for t in range(rules.problem.grid.slots):
                if sum(milli[accelerator, t] for milli in ours) > 1000 * most:
                    return False
    return True


def _lent_only(rules: _Rules, everyone: list[tuple[str, Way]]) -> bool:
    """Whether nobody is on GPUs that another queue keeps back, by walking the tree slot by slot."""
    return all(
        tree.claims([(name, rules.milli(w)[accelerator, t]) for name, w in everyone], t)
        <= 1000 * tree.there[t]
        for accelerator, tree in rules.kept_back.items()
        for t in range(rules.problem.grid.slots)
    )


class _Tree:
    """The queues, and what each keeps back of an accelerator."""

    def __init__(self, problem: Problem, accelerator: str) -> None:
        names = ["", *(q.name for q in problem.queues)]
        self.queue_of = {j.name: j.queue for j in problem.jobs}
        self.children = {
            name: [q.name for q in problem.queues if q.parent == name] for name in names
        }
        self.own = {name: 1000 * _own(problem, name, accelerator) for name in names}
        self.there = [_there(problem, accelerator, t) for t in range(problem.grid.slots)]

        def need(queue: str) -> int:
            return max(self.own[queue], sum(map(need, self.children[queue])))

        self.wanted = need("")

    def claims(self, uses: list[tuple[str, int]], slot: int) -> int:
        """Thousandths that all together use or keep back."""
        used = Counter[str]()
        for job, milli in uses:
            used[self.queue_of[job]] += milli
        part = min(Fraction(1), Fraction(1000 * self.there[slot], self.wanted))

        def claim(queue: str) -> int:
            below = used[queue] + sum(map(claim, self.children[queue]))
            return max(math.floor(self.own[queue] * part), below)

        return claim("")


def _own(problem: Problem, queue: str, accelerator: str) -> int:
    """GPUs that a queue is guaranteed and does not lend."""
    for q in problem.queues:
        if q.name == queue:
            guaranteed = dict(q.guaranteed).get(accelerator, 0)
            return max(0, guaranteed - dict(q.lendable or ()).get(accelerator, guaranteed))
    return 0


def _there(problem: Problem, accelerator: str, slot: int) -> int:
    """GPUs that work, of nodes that are there."""
    return sum(
        len(node.healthy_gpus())
        for pool in problem.pools
        if pool.accelerator == accelerator
        for node in problem.nodes
        if node.pool == pool.name and node.index < pool.nodes_at(slot) and not node.cordoned
    )


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


def _budgets_hold(rules: _Rules, everyone: list[tuple[str, Way]]) -> bool:
    return all(
        math.fsum(w.spent_in(slots) for name, w in everyone if name in rules.under[q.name])
        <= q.budget_usd_per_month + 1e-6
        for q in rules.problem.queues
        if q.budget_usd_per_month is not None
        for slots in rules.months
    )


def _node_bills(rules: _Rules, chosen: dict[str, Way]) -> float:
    """Cheapest on/off pattern of each rented node, by dynamic programming over slots."""
    used = defaultdict[tuple[str, int], set[int]](set)
    for way in chosen.values():
        for pool, t, n, _ in way.held:
            used[pool, n].add(t)
    return math.fsum(
        rules.node_bill(pool, node, frozenset(used[pool.name, node.index]))
        for pool in rules.problem.pools
        if pool.billing is Billing.NODE
        for node in rules.nodes[pool.name]
    )


def _node_bill(problem: Problem, pool: Pool, node: Node, used: frozenset[int]) -> float:
    up = any(node.name in r.nodes for r in problem.running)
    off, on = (math.inf, 0.0) if up else (0.0, math.inf)
    off = min(off, on)
    for t in range(problem.grid.slots):
        there = node.index < pool.nodes_at(t)
        rate = _rate(pool, t) * _slot_hours(problem.grid)
        stay_on = min(on, off + _launch_usd(problem, pool, t)) + rate if there else math.inf
        off, on = (math.inf if t in used else min(off, on)), stay_on
    return min(off, on)


def _rate(pool: Pool, slot: int) -> float:
    """USD per node-hour; before the grid, that of its first window."""
    return next(w.usd_per_node_hour for w in pool.windows if max(0, slot) < w.end)


def _launch_usd(problem: Problem, pool: Pool, slot: int) -> float:
    """The start-up ends as ``slot`` begins, and pays the prices of its time."""
    usd, left, t = 0.0, pool.startup_seconds, slot - 1
    while left > 0:
        seconds = min(left, problem.grid.slot_seconds)
        usd += seconds / 3600 * _rate(pool, t)
        left, t = left - seconds, t - 1
    return usd
