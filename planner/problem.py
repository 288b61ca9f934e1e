"""The question a plan answers: which fleet, which jobs, over which time.

Time inside the planner is a whole number of slots from ``Grid.start``; an interval is half open,
``[start, end)``. Amounts are whole numbers. Every value here is frozen: what outside text says is
checked and converted once, where it is read, and nothing below converts a unit again.

Money is what the decision changes. On a pool billed by GPU it is the price of the GPUs for the
hours of work; on one billed by node it is the price of whole nodes from launch to termination; on
owned and reserved hardware (``Billing.SUNK``) it is the energy, and the rest is shown beside it as
the *full* cost. Prices may differ by window: a mode states its price in the pool's first window,
and a moment of work costs as many times that as its window's price is of the first one's
(`Pool.price_ratio`).

A batch job holds its nodes for whole slots and works from the first instant on. One that may stop
(`Job.may_stop`) may do so at the end of any slot and go on later, on other nodes, and in another
mode as often as ``switches`` allows. It then saves a checkpoint in its last ``save_seconds`` before
the stop, and begins again with ``restart_seconds`` of restoring it: no work is lost, but both take
time on its GPUs and are paid for (`Costs.moving`; on a pool billed by node the bill holds them).
Between the two it works without pause: only the last stretch may hold time that it does not use.

A job that runs already (`Running`) goes on where it is for nothing. Put anywhere else, or later, it
begins with a restart and does again what it did since its checkpoint: that work is *moving* too.

So is bringing its data to where it runs (`Mode.egress_usd`): that is paid for once in each pool
that it uses, when it first starts there, whoever owns the nodes. Where it runs already they are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

GPU_MILLI = 1000  # one whole GPU
ABOVE_ALL = 2**40  # tiers: what a guarantee covers is above all that none does


class Billing(StrEnum):
    """How a pool is paid for."""

    NODE = "node"  # whole nodes, launch to termination
    GPU = "gpu"  # GPUs, while work runs on them
    SUNK = "sunk"  # paid already: the decision changes only the energy


class JobKind(StrEnum):
    """Which of the three kinds of work a job states."""

    TRAINING = "training"
    INFERENCE = "inference"
    TASK = "task"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The planner's clock: ``slots`` slots of ``slot_seconds`` from ``start`` (aware)."""

    start: datetime
    slot_seconds: int
    slots: int

    def __post_init__(self) -> None:
        if self.start.tzinfo is None:
            raise ValueError("Grid.start must carry a time zone")
        if self.slot_seconds <= 0 or self.slots <= 0:
            raise ValueError("Grid needs at least one slot of at least one second")
        try:
            self.time(self.slots)
        except OverflowError:
            raise ValueError("Grid ends after the year 9999") from None

    @property
    def slot_hours(self) -> float:
        return self.slot_seconds / 3600

    def time(self, slot: int) -> datetime:
        """The instant at which ``slot`` begins."""
        return self.start + timedelta(seconds=slot * self.slot_seconds)

    def floor(self, when: datetime) -> int:
        """The slot that holds ``when``; below 0 before the start, unbounded above."""
        return math.floor((when - self.start).total_seconds() / self.slot_seconds)

    def ceil(self, when: datetime) -> int:
        """The first slot that begins at or after ``when``."""
        return math.ceil((when - self.start).total_seconds() / self.slot_seconds)

    def slots_for(self, hours: float) -> int:
        """Slots that ``hours`` of work occupy, rounded up; never less than one.

        A part of a millionth of a slot is float noise, not a slot.
        """
        return max(1, math.ceil(hours / self.slot_hours - 1e-6))

    def months(self) -> tuple[tuple[str, int, int], ...]:
        """Calendar months (UTC) that the grid touches: (``2026-12``, first slot, end slot)."""
        found: list[tuple[str, int, int]] = []
        begin = 0
        while begin < self.slots:
            at = self.time(begin).astimezone(UTC)
            after = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
            end = min(self.slots, max(begin + 1, self.ceil(after)))
            found.append((f"{at.year}-{at.month:02d}", begin, end))
            begin = end
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """Whole numbers by resource: what a node has, or what one replica takes of one node."""

    gpu_milli: int = 0  # thousandths of a GPU; a share of one GPU stays on one device
    cpu_milli: int = 0
    memory_bytes: int = 0  # host memory
    gpu_memory_bytes: int = 0  # of each device touched
    mig: tuple[tuple[str, int], ...] = ()  # (profile, instances), sorted by profile

    def times(self, count: int) -> Amounts:
        """The same resources ``count`` times over (device memory is per device: unchanged)."""
        return Amounts(
            gpu_milli=self.gpu_milli * count,
            cpu_milli=self.cpu_milli * count,
            memory_bytes=self.memory_bytes * count,
            gpu_memory_bytes=self.gpu_memory_bytes,
            mig=tuple((profile, n * count) for profile, n in self.mig),
        )

    @property
    def gpus(self) -> int:
        """GPUs touched at most: a share of one, or a MIG instance, is on one."""
        return -(-self.gpu_milli // GPU_MILLI) + sum(count for _, count in self.mig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a pool stands."""

    kind: str = "cloud"  # cloud | onprem | edge
    provider: str = ""
    region: str = ""
    jurisdiction: str = ""  # ISO country, or EU


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of a pool's life: how many nodes there are, and what one costs an hour.

    The nodes present are the first ``nodes`` of the pool's list.
    """

    start: int
    end: int
    nodes: int
    usd_per_node_hour: float  # list price, or the annuity of owned hardware without energy
    marginal_usd_per_node_hour: float  # what an hour of work adds: energy where it is ours to pay


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Identical nodes, in one place, at one price."""

    name: str
    accelerator: str  # id in the accelerator catalog
    gpus_per_node: int
    capacity: Amounts  # of one node
    windows: tuple[Window, ...]  # disjoint, in order, together covering the grid
    billing: Billing
    purchase: str  # owned | reserved | on_demand | spot
    site: Site = Site()
    startup_seconds: int = 0  # a rented node from launch to ready
    interruptions_per_hour: float = 0.0  # per node
    grams_co2_per_kwh: float = 0.0
    topology_levels: tuple[str, ...] = ()  # near to far
    mig_geometries: tuple[tuple[str, ...], ...] = ()

    def nodes_at(self, slot: int) -> int:
        """Nodes present during ``slot``."""
        return next((w.nodes for w in self.windows if w.start <= slot < w.end), 0)

    def price_ratio(self, window: Window) -> float:
        """What an hour of work costs in ``window``, over what it costs in the first one."""
        now, first = (
            w.marginal_usd_per_node_hour if self.billing is Billing.SUNK else w.usd_per_node_hour
            for w in (window, self.windows[0])
        )
        if now == first:
            return 1.0
        return now / first if first else math.inf

    @property
    def one_price(self) -> bool:
        """Whether an hour of work costs the same in every window."""
        return len(self.windows) == 1 or all(self.price_ratio(w) == 1.0 for w in self.windows)

    def gpu_share(self, amounts: Amounts) -> float:
        """GPUs that a replica of ``amounts`` counts for: in money, queue limits and areas.

        A MIG instance counts by its compute slices (the number before its ``g``) over the most that
        any geometry of the pool has, so that no device ever counts for more than one.

        >>> halves = (("3g.40gb", "3g.40gb"), ("2g.20gb", "1g.10gb"))
        >>> pool = Pool(name="a", accelerator="", gpus_per_node=1, capacity=Amounts(), windows=(),
        ...             billing=Billing.GPU, purchase="", mig_geometries=halves)
        >>> pool.gpu_share(Amounts(mig=(("3g.40gb", 1),)))
        0.5
        """
        if not amounts.mig:
            return amounts.gpu_milli / GPU_MILLI
        most = max((sum(map(_slices, g)) for g in self.mig_geometries), default=1)
        return sum(_slices(profile) * count for profile, count in amounts.mig) / most

    def counted_milli(self, amounts: Amounts) -> int:
        """The same in whole thousandths of a GPU, rounded down."""
        return math.floor(self.gpu_share(amounts) * GPU_MILLI + 1e-9)


def _slices(profile: str) -> int:
    """Compute slices of a MIG profile: 3 of ``3g.40gb``."""
    return int(profile.split("g.")[0])


def mig_memory_bytes(profile: str) -> int:
    """Memory of an instance as its name has it: 40e9 of ``3g.40gb``."""
    return int(profile.split("g.")[1].split("gb")[0]) * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU of a node."""

    uuid: str
    mig_geometry: tuple[str, ...] = ()  # empty: not partitioned
    unhealthy: str = ""  # why, or empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A real place: what a plan names."""

    name: str
    pool: str
    index: int  # in the pool's order; present in a window when below its node count
    capacity: Amounts
    devices: tuple[Device, ...] = ()  # empty: not known yet, numbered from 0
    topology: tuple[str, ...] = ()  # path, leaf to root, as Pool.topology_levels
    cordoned: str = ""  # why, or empty

    def healthy_gpus(self) -> tuple[int, ...]:
        """Numbers of the GPUs that work."""
        count = self.capacity.gpu_milli // GPU_MILLI
        if not self.devices:
            return tuple(range(count))
        broken = {d for d, device in enumerate(self.devices) if device.unhealthy}
        return tuple(d for d in range(count) if d not in broken)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way to run a job: GPU type, count and layout are one choice.

    ``work_per_replica_hour`` is in the unit of the job's need: units of `Work` done, or the demand
    that one replica serves (both per hour).
    """

    pool: str
    replicas: int  # the gang: all at once or none; for a service, the most it may need
    amounts: Amounts  # of one replica, on one node
    work_per_replica_hour: float
    usd_per_replica_hour: float  # its share of the money: GPU price, or energy on owned hardware
    full_usd_per_replica_hour: float  # the same with what is sunk
    watts_per_replica: float = 0.0  # at the meter, PUE included
    flops_per_work: float = 0.0  # useful (model) FLOPs in one unit of work
    layout: str = ""  # e.g. "fsdp8" or "tp4 pp2 dp8"
    together: str = ""  # topology level that holds the gang, or empty
    together_required: bool = False
    spread: str = ""  # topology level that no two replicas share, or empty
    egress_usd: float = 0.0  # of bringing the job's data to the pool, once: all modes there say it

    @property
    def gpus(self) -> int:
        """GPUs of the whole gang."""
        return self.replicas * self.amounts.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Finish this much."""

    amount: float
    unit: str = "hours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Serve this much in each slot of the grid (units per hour)."""

    per_slot: tuple[float, ...]
    min_replicas: int = 1
    unit: str = "requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Two modes of a service at once: some replicas of one throughout, the other for the rest."""

    base: int  # index into the job's modes
    replicas: int  # of the base, in every slot
    rest: int  # the mode, in another pool, whose replicas carry what demand the base leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """What stopping and starting again costs a job."""

    checkpoint_seconds: float = 0.0  # interval; 0: it never saves
    save_seconds: float = 0.0
    restart_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """A pool that a job cannot use, and why."""

    pool: str
    reason: str  # one word: memory, jurisdiction, accelerator, budget, …
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to start, carried unread from the manifest to the executor."""

    image: str = ""
    entrypoint: str = ""
    runtime_env_json: str = "{}"
    pod_template_json: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Something to run: batch (`Work`) and services (`Demand`) are the same thing here."""

    name: str
    need: Work | Demand
    modes: tuple[Mode, ...]
    mixes: tuple[Mix, ...] = ()  # of a service: what it may run in beside a mode by itself
    namespace: str = "default"
    queue: str = ""
    team: str = ""
    project: str = ""
    kind: JobKind = JobKind.TASK
    tier: int = 0  # higher is placed first
    guarantee: str = ""  # the queue whose guarantee covers it (`planner.guarantees`), or empty
    release: int = 0
    deadline: int  # hard: every segment ends by then
    due: int | None = None  # soft
    lateness_usd_per_hour: float = 0.0
    unplaced_usd: float = 0.0
    required: bool = False
    preemptible: bool = True
    interruption: Interruption = Interruption()
    switches: int = 0  # mode changes allowed at a checkpoint
    max_cost_usd: float | None = None
    after: tuple[str, ...] = ()
    excluded: tuple[Excluded, ...] = ()
    run: Run = Run()

    @property
    def rank(self) -> int:
        """Who is placed first where not both can be: what a guarantee covers, then by tier."""
        return self.tier + (ABOVE_ALL if self.guarantee else 0)

    @property
    def may_stop(self) -> bool:
        """Whether a plan may stop it and go on with it later: batch work that saves checkpoints."""
        saves = self.preemptible and self.interruption.checkpoint_seconds > 0
        return saves and isinstance(self.need, Work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Who may use how much; queues form a tree by ``parent``."""

    name: str
    parent: str = ""
    weight: float = 1.0
    guaranteed: tuple[tuple[str, int], ...] = ()  # (accelerator, GPUs)
    lendable: tuple[tuple[str, int], ...] | None = None  # of these, at most; not named: all
    reclaims: bool = True  # what its guarantee covers goes before others' work of any priority
    limit: tuple[tuple[str, int], ...] = ()
    budget_usd_per_month: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Where a job stands at the grid's start: what moving it would throw away.

    A plan may end it early by leaving it out, for its ``unplaced_usd``, unless it is ``required``;
    one that may not be interrupted is otherwise left where it is, as long as its nodes are there.
    """

    job: str
    mode: int
    nodes: tuple[str, ...]  # of each replica: a node that holds several stands as often
    work_done: float
    work_since_checkpoint: float  # part of ``work_done``: done again if the job is moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Everything a plan depends on."""

    grid: Grid
    pools: tuple[Pool, ...]
    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]
    queues: tuple[Queue, ...] = ()
    running: tuple[Running, ...] = ()
    pool_by_name: dict[str, Pool] = field(init=False, repr=False, compare=False)
    job_by_name: dict[str, Job] = field(init=False, repr=False, compare=False)
    node_by_name: dict[str, Node] = field(init=False, repr=False, compare=False)
    queue_by_name: dict[str, Queue] = field(init=False, repr=False, compare=False)
    nodes_by_pool: dict[str, tuple[Node, ...]] = field(init=False, repr=False, compare=False)
    running_by_job: dict[str, Running] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, values in (
            ("pool", self.pools),
            ("job", self.jobs),
            ("node", self.nodes),
            ("queue", self.queues),
        ):
            table = {v.name: v for v in values}
            if len(table) != len(values):
                raise ValueError(f"two of the problem's {name}s have the same name")
            object.__setattr__(self, f"{name}_by_name", table)
        object.__setattr__(self, "nodes_by_pool", _by_pool(self.nodes))
        object.__setattr__(self, "running_by_job", {r.job: r for r in self.running})
        for place, name, known in self._references():
            if name not in known:
                raise ValueError(f"{place} names {name!r}, which the problem does not hold")
        for job in self.jobs:
            self._check_job(job)
        if len(self.running_by_job) != len(self.running):
            raise ValueError("a job of the problem runs twice")
        for running in self.running:
            self._check_running(running)

    def _check_job(self, job: Job) -> None:
        if isinstance(job.need, Demand) and len(job.need.per_slot) != self.grid.slots:
            raise ValueError(
                f"job {job.name} states {len(job.need.per_slot)} slots of demand, "
                f"the grid has {self.grid.slots}"
            )
        if not all(_sound(job, mix) for mix in job.mixes):
            raise ValueError(f"job {job.name} has a mix that is none of two pools")
        brought = {mode.pool: mode.egress_usd for mode in job.modes}
        if any(mode.egress_usd != brought[mode.pool] for mode in job.modes):
            raise ValueError(f"job {job.name} brings its data to a pool at two prices")

    def _check_running(self, running: Running) -> None:
        job = self.job_by_name[running.job]
        if not 0 <= running.mode < len(job.modes):
            raise ValueError(
                f"running {job.name} is in mode {running.mode}, which it does not have"
            )
        amount = job.need.amount if isinstance(job.need, Work) else math.inf
        if not 0 <= running.work_since_checkpoint <= running.work_done < amount:
            raise ValueError(f"running {job.name} has done more than it is to do, or lost more")

    def _references(self) -> Iterator[tuple[str, str, Collection[str]]]:
        """What names something else: (place, the name, where it must stand)."""
        for node in self.nodes:
            yield f"node {node.name}", node.pool, self.pool_by_name
        for job in self.jobs:
            yield from ((f"a mode of job {job.name}", m.pool, self.pool_by_name) for m in job.modes)
            yield from ((f"job {job.name}", name, self.job_by_name) for name in job.after)
            if job.guarantee:
                yield f"job {job.name}", job.guarantee, self.queue_by_name
        yield from (("running", r.job, self.job_by_name) for r in self.running)

    def nodes_of(self, pool: str) -> tuple[Node, ...]:
        """The pool's nodes in their order."""
        return self.nodes_by_pool.get(pool, ())

    def queue_path(self, queue: str) -> tuple[str, ...]:
        """The queue and its ancestors, leaf to root; empty for no queue."""
        path: list[str] = []
        while queue and queue not in path:
            path.append(queue)
            queue = self.queue_by_name[queue].parent if queue in self.queue_by_name else ""
        return tuple(path)


def _by_pool(nodes: Iterable[Node]) -> dict[str, tuple[Node, ...]]:
    """Each pool's nodes in their order."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        found.setdefault(node.pool, []).append(node)
    return {pool: tuple(sorted(ours, key=lambda n: n.index)) for pool, ours in found.items()}


def hours_of(job: Job, mode: Mode) -> float:
    """Hours the whole of a `Work` job takes in ``mode``; inf where the mode does no work."""
    if not isinstance(job.need, Work):
        raise TypeError(f"{job.name} is a service: it has no length of its own")
    return hours_for(job.need.amount, mode)


def hours_for(work: float, mode: Mode) -> float:
    """Hours that the gang takes for ``work``; inf where the mode does none."""
    rate = mode.replicas * mode.work_per_replica_hour
    return work / rate if rate > 0 else math.inf


def egress_usd(problem: Problem, job: Job, mode: Mode) -> float:
    """What bringing the job's data to the pool of ``mode`` costs: nothing where it runs already."""
    running = problem.running_by_job.get(job.name)
    if running is not None and job.modes[running.mode].pool == mode.pool:
        return 0.0
    return mode.egress_usd


def work_left(problem: Problem, job: Job, *, kept: bool) -> float:
    """What a `Work` job has still to do: ``kept`` where it runs, or begun again elsewhere."""
    assert isinstance(job.need, Work)
    running = problem.running_by_job.get(job.name)
    if running is None:
        return job.need.amount
    lost = 0.0 if kept else running.work_since_checkpoint
    return job.need.amount - running.work_done + lost


def replicas_for(demand: Demand, mode: Mode, slot: int) -> int:
    """Replicas of ``mode`` that serve the demand of ``slot``."""
    needed = math.ceil(demand.per_slot[slot] / mode.work_per_replica_hour - 1e-9)
    return max(needed, demand.min_replicas)


def halves(job: Job, mix: Mix) -> tuple[Job, Job]:
    """The service as two services, of which the mix's base and its rest carry one each."""
    need = job.need
    assert isinstance(need, Demand)
    served = mix.replicas * job.modes[mix.base].work_per_replica_hour
    left = tuple(max(0.0, asked - served) for asked in need.per_slot)
    always = replace(need, per_slot=(0.0,) * len(left), min_replicas=mix.replicas)
    rest = replace(need, per_slot=left, min_replicas=max(0, need.min_replicas - mix.replicas))
    return replace(job, need=always), replace(job, need=rest)


def _sound(job: Job, mix: Mix) -> bool:
    """Whether a mix is of a service, and of modes that it has in two pools."""
    known = range(len(job.modes))
    if not isinstance(job.need, Demand) or mix.base not in known or mix.rest not in known:
        return False
    return mix.replicas > 0 and job.modes[mix.base].pool != job.modes[mix.rest].pool
