"""A problem as the solvers see it: one flat list of options, all whole numbers of slots and nodes.

An *option* is a job in one of its modes, with the range of starts that its release, deadline and
pool leave it. A service is an option too: its start is fixed and its replicas change from run to
run. Options that could be in no best plan are left out here, with the reason kept for the answer.

An option says what the job takes in one piece. Of a job that may stop, any part of it may be held
in any piece (`Booking` chains pieces), and ``least_slots`` and ``least_usd`` say what all pieces
hold and cost together, however it is cut: what a proof may count on. A job that may also change its
mode does a share of its work in each of its options, and its share of both.

A mix of a service is two options, one a pool: its base, which the job has, and with it ``rest``.

All options of a job in one pool pay the same for its data there (``egress_usd``), and are paid for
it once together. So a share of an option, which pays that share of it, never pays too much.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from planner import cost
from planner.devices import unit_of
from planner.plan import Reason
from planner.problem import (
    GPU_MILLI,
    Billing,
    Demand,
    Job,
    Mix,
    Mode,
    Node,
    Pool,
    Problem,
    Running,
    Work,
    egress_usd,
    halves,
    hours_for,
    replicas_for,
    work_left,
)
from planner.quotas import Cap, caps, too_many_keepers
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
    usd: float  # its share of money and moving, at its cheapest start
    startup_usd: float  # of the nodes it needs, if all had to be started for it
    paid_slots: float  # of its length, what it pays for: the rest of the last slot is idle
    usd_per_replica_slot: float  # at the price of the pool's first window
    anew: int  # no piece of it begins earlier, but for one that goes on where the job runs
    until: int  # the slot by which it has to end
    least_slots: float
    least_usd: float
    stops: bool = False  # may be held in pieces
    shares: bool = False  # may do a part of the job, beside its other options
    held: tuple[int, ...] = ()  # replicas by node where the job runs already, and goes on
    prices: tuple[float, ...] = ()  # its money by start from ``first`` on; empty: always ``usd``
    rest: int = -1  # of a mix's base: the option that is chosen with it, which no job has by itself
    egress_usd: float = 0.0  # of its money, what its first start in the pool costs at once

    def usd_from(self, start: int) -> float:
        """Its share of money and moving when it starts at ``start``."""
        return self.prices[start - self.first] if self.prices else self.usd

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
    up: tuple[frozenset[int], ...]  # nodes that are up at the grid's start, by pool
    after: tuple[tuple[int, ...], ...]  # jobs that must end first, by job
    soonest: tuple[int, ...]  # no end of a job is earlier, by job
    dropped: dict[tuple[int, int], Reason] = field(repr=False)  # (job, mode) -> why it is no option
    caps: tuple[Cap, ...] = field(repr=False, compare=False)  # on what queues hold at once
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

    def parts(self, option: Option) -> tuple[Option, ...]:
        """All that is chosen with an option of a job: itself, and of a mix the rest."""
        return (option,) if option.rest < 0 else (option, self.options[option.rest])

    def startup_usd(self, option: Option) -> float:
        """Of all the nodes that the job would need, if none was up."""
        return sum(part.startup_usd for part in self.parts(option))

    def late_usd(self, job: int, end: int) -> float:
        """The price of ending at slot ``end``."""
        return cost.lateness_usd(self.problem, self.problem.jobs[job], end)

    def floor_usd(self, option: Option) -> float:
        """The least that an option can cost: its share, and the lateness of its earliest end."""
        end = self.soonest[option.job] if option.shares else option.first + option.length
        usd = sum(part.least_usd for part in self.parts(option))
        return usd + self.late_usd(option.job, end)

    def paying(self) -> dict[int, list[int]]:
        """Options by job that, by their own share, cost less than leaving the job out.

        All of them where it must run, or where others wait for it. Of a job that may stop, what its
        pieces cost in a mode is what the cheapest way to begin it costs.
        """
        kept = {before for befores in self.after for before in befores}
        kept |= {j for j, job in enumerate(self.problem.jobs) if job.required}
        found: dict[int, list[int]] = {}
        for j, ours in enumerate(self.of_job):
            most = math.inf if j in kept else self.problem.jobs[j].unplaced_usd
            options = [self.options[i] for i in ours]
            pays = {_begin(o) for o in options if self.floor_usd(o) < most}
            found[j] = [o.index for o in options if _begin(o) in pays]
        return found


def _begin(option: Option) -> tuple[int, bool, int]:
    return option.mode, bool(option.held) and not option.stops, option.rest


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
    lowest = min((j.rank for j in problem.jobs), default=0)
    up = cost.nodes_up(problem)
    pool_number = {p.name: i for i, p in enumerate(problem.pools)}
    options: list[Option] = []
    dropped: dict[tuple[int, int], Reason] = {}
    for j, job in enumerate(problem.jobs):
        made_of, pairs = _options_of(
            problem, job, places, earliest[j], j in kept, job.rank > lowest
        )
        for m, made in enumerate(made_of):
            p = pool_number[job.modes[m].pool]
            found = [o for o in made if isinstance(o, Option)]
            options += [
                replace(o, index=len(options) + k, job=j, mode=m, pool=p)
                for k, o in enumerate(found)
            ]
            if not found:
                reasons = (o for o in made if isinstance(o, Reason))
                dropped[j, m] = next(reasons, Reason.NO_OPTION)
        for mix, (base, rest) in pairs:
            pools = (pool_number[job.modes[m].pool] for m in (mix.base, mix.rest))
            at, (first, second) = len(options), pools
            options += [
                replace(base, index=at, job=j, mode=mix.base, pool=first, rest=at + 1),
                replace(rest, index=at + 1, job=j, mode=mix.rest, pool=second),
            ]
    of_job: list[list[int]] = [[] for _ in problem.jobs]
    of_pool: list[list[int]] = [[] for _ in problem.pools]
    rests = {o.rest for o in options}
    for o in options:
        if o.index not in rests:
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
        up=tuple(frozenset(k for k, n in enumerate(ours) if n.name in up) for ours in nodes),
        after=after,
        soonest=tuple(
            _soonest(problem, j, at) for j, at in zip(problem.jobs, earliest, strict=True)
        ),
        dropped=dropped,
        caps=caps(problem),
    )

    def rank(i: int) -> tuple[float, int]:
        return table.floor_usd(options[i]) + table.startup_usd(options[i]), i

    object.__setattr__(table, "of_job", tuple(tuple(sorted(ours, key=rank)) for ours in of_job))
    return table


@dataclass(frozen=True, slots=True)
class _Ask:
    """A job in a mode, and what is known of both before there are options."""

    problem: Problem
    job: Job
    mode: Mode
    places: Mapping[str, Places]  # by pool
    earliest: int
    kept: bool  # an option though it costs more than leaving the job out

    @property
    def place(self) -> Places:
        return self.places[self.mode.pool]

    @property
    def pool(self) -> Pool:
        return self.problem.pool_by_name[self.mode.pool]

    @property
    def end(self) -> int:
        return min(self.job.deadline, self.problem.grid.slots)


_Made: TypeAlias = tuple[list[list[Option | Reason]], list[tuple[Mix, tuple[Option, Option]]]]


def _options_of(
    problem: Problem,
    job: Job,
    places: Mapping[str, Places],
    earliest: int,
    kept: bool,
    upper: bool,
) -> _Made:
    """Options for each mode of a job, or why there are none; and those of its mixes.

    A job of an ``upper`` tier that some mode pays for may also make room in one that does not.
    """

    def made(*, kept: bool) -> _Made:
        asks = [_Ask(problem, job, mode, places, earliest, kept) for mode in job.modes]
        modes = [[_option(ask, held) for held in _stays(ask, m)] for m, ask in enumerate(asks)]
        pairs = ((mix, _mixed(mix, asks[mix.base], asks[mix.rest])) for mix in job.mixes)
        return modes, [(mix, pair) for mix, pair in pairs if pair is not None]

    found, mixed = made(kept=kept)
    paying = mixed or any(isinstance(each, Option) for of_mode in found for each in of_mode)
    return made(kept=True) if upper and paying else (found, mixed)


def _stays(ask: _Ask, mode: int) -> list[tuple[int, ...]]:
    """How a job can be in a mode: held where it runs (replicas by node), and begun anew: ()."""
    running = ask.problem.running_by_job.get(ask.job.name)
    if running is None or not isinstance(ask.job.need, Work):
        return [()]
    held = _held(replace(ask, mode=ask.job.modes[running.mode]), running)
    stays = [held] if held and mode == running.mode else []
    if held and not ask.job.preemptible:
        return stays
    fresh = running.work_since_checkpoint >= running.work_done  # nothing binds it to its mode
    return [*stays, ()] if mode == running.mode or fresh or ask.job.switches else stays


def _held(ask: _Ask, running: Running) -> tuple[int, ...]:
    """Replicas by node where the job runs, if it can go on there; else ()."""
    held = tuple(running.nodes.count(node.name) for node in ask.place.nodes)
    if sum(held) < len(running.nodes) or not ask.place.hold(ask.mode, dict(enumerate(held))):
        return ()
    return () if _option(ask, held) is Reason.WINDOW else held


def _leave(ask: _Ask, held: tuple[int, ...], end: int) -> bool:
    """Whether a node of ``held`` is away before slot ``end``."""
    indices = [n.index for n, count in zip(ask.place.nodes, held, strict=True) if count]
    return any(i >= w.nodes for w in ask.pool.windows if w.start < end for i in indices)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """When an option can run, and for how long."""

    runs: tuple[Run, ...]
    first: int
    last: int
    paid_slots: float
    least_slots: float

    @property
    def length(self) -> int:
        return self.runs[-1].end

    @property
    def peak(self) -> int:
        return max(r.replicas for r in self.runs)


def _option(ask: _Ask, held: tuple[int, ...] = ()) -> Option | Reason:
    """The option, not numbered yet, or why it is none."""
    stretch = _stretch(ask, held)
    if isinstance(stretch, Reason):
        return stretch
    job, mode, pool = ask.job, ask.mode, ask.pool
    per_node, most = ask.place.room(job, mode)
    shares = job.may_stop and job.switches > 0
    if not per_node or stretch.peak > most:
        return Reason.NO_OPTION
    if stretch.last < stretch.first and (not shares or stretch.first >= ask.end):
        return Reason.WINDOW
    if held and _leave(ask, held, 1 if job.may_stop else stretch.length):
        return Reason.WINDOW
    milli = stretch.peak * pool.counted_milli(mode.amounts)
    if milli > GPU_MILLI * quota(ask.problem, job, pool):
        return Reason.QUEUE_LIMIT
    option = _priced(ask, stretch, held, per_node)
    if shares:  # a part of it may pay where the whole does not
        return option
    if option.least_usd > spendable_usd(ask.problem, job) + 1e-6:
        return Reason.BUDGET
    # On a node that others keep running it costs nothing more, whatever its share.
    least = option.egress_usd if pool.billing is Billing.NODE else option.least_usd
    least += cost.lateness_usd(ask.problem, job, stretch.first + stretch.length)
    if not ask.kept and least >= job.unplaced_usd:
        return Reason.NOT_WORTH
    return option


def _mixed(mix: Mix, first: _Ask, second: _Ask) -> tuple[Option, Option] | None:
    """The two options of a mix, not numbered yet; None where it could be in no best plan."""
    halved = zip((first, second), halves(first.job, mix), strict=True)
    base, rest = (_option(replace(ask, job=half)) for ask, half in halved)
    if isinstance(base, Reason) or isinstance(rest, Reason) or not rest.peak:
        return None  # a base that carries all is a mode by itself
    sure = math.fsum(
        o.egress_usd if ask.pool.billing is Billing.NODE else o.least_usd
        for ask, o in ((first, base), (second, rest))
    )
    spends = base.least_usd + rest.least_usd
    too_dear = spends > spendable_usd(first.problem, first.job) + 1e-6
    worth = first.kept or sure < first.job.unplaced_usd
    return (base, rest) if worth and not too_dear else None


def _stretch(ask: _Ask, held: tuple[int, ...]) -> _Stretch | Reason:
    problem, job, mode, grid = ask.problem, ask.job, ask.mode, ask.problem.grid
    if isinstance(job.need, Work):
        hours = hours_for(work_left(problem, job, kept=bool(held)), mode)
        if hours >= 1e9:
            return Reason.WINDOW
        if job.name in problem.running_by_job and not held:
            hours += job.interruption.restart_seconds / 3600
        least = hours
        if job.switches:  # what is done elsewhere may have been kept
            least = hours_for(work_left(problem, job, kept=True), mode)
        length = grid.slots_for(hours)
        last = 0 if held else ask.end - length
        return _Stretch(
            runs=(Run(start=0, end=length, replicas=mode.replicas),),
            first=0 if held else max(ask.earliest, ready_slot(problem, ask.pool)),
            last=last if length <= ask.end else -1,
            paid_slots=hours / grid.slot_hours,
            least_slots=least / grid.slot_hours,
        )
    length = ask.end - ask.earliest
    if length <= 0 or ask.earliest > job.release:
        return Reason.WINDOW
    wanted = [replicas_for(job.need, mode, t) for t in range(ask.earliest, ask.end)]
    return _Stretch(
        runs=tuple(Run(start=a, end=b, replicas=r) for a, b, r in cost.runs(wanted)),
        first=ask.earliest,
        last=ask.earliest,
        paid_slots=float(length),
        least_slots=float(length),
    )


def _priced(ask: _Ask, stretch: _Stretch, held: tuple[int, ...], per_node: int) -> Option:
    pool, grid = ask.pool, ask.problem.grid
    option = Option(
        index=-1,
        job=-1,
        mode=-1,
        pool=-1,
        length=stretch.length,
        first=stretch.first,
        last=stretch.last,
        runs=stretch.runs,
        takes=takes_of(pool, ask.mode),
        per_node=per_node,
        usd=0.0,
        startup_usd=_startup_usd(ask, stretch, per_node) if not held else 0.0,
        paid_slots=stretch.paid_slots,
        usd_per_replica_slot=ask.mode.usd_per_replica_hour * grid.slot_hours,
        anew=max(ask.earliest, ready_slot(ask.problem, pool)),
        until=ask.end,
        least_slots=stretch.least_slots,
        least_usd=0.0,
        stops=ask.job.may_stop,
        shares=ask.job.may_stop and ask.job.switches > 0,
        held=held,
        egress_usd=egress_usd(ask.problem, ask.job, ask.mode),
    )
    starts = range(option.first, max(option.first, option.last) + 1)
    if pool.one_price:
        prices = [option.paid_slots * option.peak * option.usd_per_replica_slot + option.egress_usd]
        if len(option.runs) > 1:
            prices = [spent_usd(pool, option, option.first, 0, grid.slots)]
    else:
        prices = [spent_usd(pool, option, at, 0, grid.slots) for at in starts]
    return replace(
        option,
        usd=min(prices),
        least_usd=_least_usd(pool, option) if option.stops else min(prices),
        prices=() if pool.one_price else tuple(prices),
    )


def _least_usd(pool: Pool, option: Option) -> float:
    """What all pieces cost at least: all work at the least price of the time that it has."""
    ratio = min(
        (
            pool.price_ratio(w)
            for w in pool.windows
            if w.start < option.until and option.first < w.end
        ),
        default=1.0,
    )
    usd = option.least_slots * option.peak * option.usd_per_replica_slot * ratio
    return usd + option.egress_usd


def _startup_usd(ask: _Ask, stretch: _Stretch, per_node: int) -> float:
    pool, seconds = ask.pool, ask.problem.grid.slot_seconds
    if pool.billing is not Billing.NODE:
        return 0.0
    begin = stretch.first * seconds
    count = -(-stretch.peak // per_node)
    return count * cost.node_usd(pool, begin - pool.startup_seconds, begin, seconds)


def spent_usd(pool: Pool, option: Option, start: int, first: int, last: int) -> float:
    """Money and moving of ``option`` between two slots, if it starts at ``start``."""
    brought = option.egress_usd if first <= start < last else 0.0
    total = 0.0
    for run in option.runs:
        begin = max(start + run.start, first)
        end = min(start + min(run.end, option.paid_slots), last)
        if begin < end:
            total += run.replicas * cost.priced_slots(pool, begin, end)
    return total * option.usd_per_replica_slot + brought


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

    def hold(self, mode: Mode, counts: Mapping[int, int]) -> bool:
        """Whether nodes hold so many replicas each, as the topology of ``mode`` has it."""
        used = [n for n, count in counts.items() for _ in range(count)]
        inside = self._domains(mode.together if mode.together_required else "", used)
        apart = self._domains(mode.spread, used)
        fits = all(counts[n] <= self._on(mode, self.broken[n]) for n in used)
        known = NOWHERE not in (*inside, *apart)
        return fits and known and len({*inside}) <= 1 and len({*apart}) == len(apart)

    def _domains(self, level: str, used: Sequence[int]) -> list[int]:
        found = domains(self.pool, self.nodes, level) if level else ()
        return [found[n] for n in used] if level else []

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
            end = _soonest(problem, problem.jobs[before], earliest[before])
            earliest[j] = max(earliest[j], end)
    return earliest


def _soonest(problem: Problem, job: Job, earliest: int) -> int:
    """No end of the job is earlier: all it has to do in its fastest mode, at once."""
    if isinstance(job.need, Demand):
        return max(earliest, min(job.deadline, problem.grid.slots))
    left = work_left(problem, job, kept=True)
    hours = min((hours_for(left, m) for m in job.modes), default=0.0)
    start = 0 if job.name in problem.running_by_job else earliest
    return start + problem.grid.slots_for(min(hours, 1e9))


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
    lines += [
        f"pool {pool.name}: a price that is nothing in the first window and something later"
        for pool in problem.pools
        if any(math.isinf(pool.price_ratio(w)) for w in pool.windows)
    ]
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
    lines += filter(None, [too_many_keepers(problem.queues)])
    for job in problem.jobs:
        lines += _refuse_job(job)
    if lines:
        raise Unsupported("\n".join(f"not planned yet: {line}" for line in lines))


def _refuse_job(job: Job) -> list[str]:
    found: dict[str, None] = defaultdict()
    sums = (max(m.replicas * m.usd_per_replica_hour, m.egress_usd) for m in job.modes)
    if max(job.unplaced_usd, job.lateness_usd_per_hour, *sums) > MOST_USD:
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
