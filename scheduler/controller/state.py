"""What the operator knows at one moment, and what may happen to it: frozen values.

A `State` is a whole world: fleet, queues, and each job with its phase and what it holds. An event
is one thing that was observed. `scheduler.controller.decide.run(event, state)` gives the next
state; `scheduler.controller.actions.diff` says what has to be done in a cluster to get there.

Phases of a job, and what it holds (``segments``, on the state's grid):

    WAITING    nothing; ``why`` says what binds it
    RESERVED   nothing yet: nodes and a start in the future are promised
    LAUNCHING  its nodes: it is to run, and was not seen to work yet
    RUNNING    its nodes
    STOPPING   its nodes until it was seen to have stopped: notice was given
    SUSPENDED  nothing: it was stopped and waits to go on from its checkpoint
    DONE       nothing: it did its work
    FAILED     nothing: it did not, and is not tried again

Time is the planner's grid, whose first slots pass: `rolled` moves it on. Bookings hold whole slots,
so what starts inside a slot holds that slot, and ends in the slot that its work ends in.

A state's pools are those of the planner with the nodes that are there: they are up, so no pool has
a start-up time, and what others use of a node is not in its capacity.

A service that scales has a segment for each number of replicas, the current one first, to the end
of the grid (`scheduler.controller.curve`). One whose workload cannot holds what its peak needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from planner.guarantees import with_guarantees
from planner.manifests.schema import IdleAction, Preempts
from planner.plan import Placement, Plan, Price, QueuePrice, Segment
from planner.problem import (
    GPU_MILLI,
    Demand,
    Grid,
    Job,
    Mode,
    Node,
    Pool,
    Problem,
    Queue,
    Running,
    Work,
    hours_for,
)


class Phase(StrEnum):
    """Where a job stands."""

    WAITING = "Waiting"
    RESERVED = "Reserved"
    LAUNCHING = "Launching"
    RUNNING = "Running"
    STOPPING = "Stopping"
    SUSPENDED = "Suspended"
    DONE = "Done"
    FAILED = "Failed"


HOLDING = (Phase.LAUNCHING, Phase.RUNNING, Phase.STOPPING)  # nodes are in use, or about to be
PENDING = (Phase.WAITING, Phase.RESERVED, Phase.SUSPENDED)  # it is to run, and does not
ENDED = (Phase.DONE, Phase.FAILED)


class Cause(StrEnum):
    """Why a job is in its phase, beside the reasons of `planner.plan.Reason`."""

    ARRIVED = "arrived"
    PLACED = "placed"
    BACK_OFF = "back-off"  # it failed, and is tried again later
    PREEMPTED = "preempted"  # for one of higher priority
    RECLAIMED = "reclaimed"  # what it ran on was lent, and is wanted back
    MOVED = "moved"  # it pays to run it elsewhere
    NODE_LOST = "node-lost"
    UNHEARD = "unheard"  # its Ray was started with a token that is lost
    IDLE = "idle"  # it left its GPUs idle for as long as its queue allows
    DELETED = "deleted"
    FAILED = "failed"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """What to tell of a job: one word, a sentence, and who or what stands in its way."""

    reason: str  # a `planner.plan.Reason` or a `Cause`
    message: str = ""
    binds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """A job as the operator follows it.

    ``job`` is the planner's, its times on the state's grid; ``job.name`` is its key. Work is in the
    unit of the job's need.
    """

    job: Job
    arrived: datetime
    phase: Phase = Phase.WAITING
    segments: tuple[Segment, ...] = ()
    then: tuple[Segment, ...] = ()  # what it is promised once it has stopped, where it is moved
    why: Why = Why(reason=Cause.ARRIVED)
    since: datetime | None = None  # in this phase; None: since it arrived
    started: datetime | None = None  # of this run: None until it is seen to work
    checkpointed: datetime | None = None  # seen in this run; None: by its interval
    work_done: float = 0.0  # safe when this run began
    attempt: int = 0  # launches so far: the name of each is its own
    failures: int = 0
    not_before: datetime | None = None  # it failed, and is not tried before
    evicted_by: tuple[str, ...] = ()  # in whose favour it was stopped, since it last started
    has_deadline: bool = False  # stated; else the end of the grid stands in for one
    pinned: tuple[str, ...] = ()  # nodes that its owner allows; empty: any
    foreign: bool = False  # started by somebody else: it is counted, never touched
    scales: bool = False  # a service whose workload takes more or fewer replicas as it runs
    spots: tuple[Placement, ...] = ()  # of one that scales: the places of its peak, in their order
    deleted: bool = False  # its owner wants it gone
    idle_since: datetime | None = None  # all its GPUs do nothing since then
    unheard: str = ""  # why its Ray does not tell us how it does
    uid: str = ""  # of the object it stands for; another uid is another job
    generation: int = 0  # of the object, as it was read

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def holds(self) -> bool:
        """Whether it is on its nodes."""
        return self.phase in HOLDING

    @property
    def mode(self) -> Mode | None:
        """How it runs, or is to."""
        return self.job.modes[self.segments[0].mode] if self.segments else None

    @property
    def nodes(self) -> tuple[str, ...]:
        """Where it runs, or is to; a service that scales: now."""
        segments = self.segments[:1] if self.scales else self.segments
        return tuple(sorted({p.node for s in segments for p in s.placement}))

    @property
    def replicas(self) -> int:
        """How many it holds, or is to; a service that scales: now."""
        return self.segments[0].replicas if self.segments else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRules:
    """A queue, and whom its jobs may push aside."""

    queue: Queue
    within_queue: Preempts = Preempts.LOWER_PRIORITY
    reclaim: Preempts = Preempts.ANY
    idle_seconds: float = 1800.0  # a job whose GPUs are idle for so long is warned or suspended
    idle_action: IdleAction = IdleAction.WARN

    @property
    def planned(self) -> Queue:
        """The queue as the plan of the whole queue has it."""
        return replace(self.queue, reclaims=self.reclaim is Preempts.ANY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the operator behaves."""

    notice_seconds: float = 30.0  # before a stop, at least; more where saving takes longer
    attempts: int = 3  # of a job that fails; a lost node does not count
    back_off_seconds: float = 10.0  # after the first failure; doubled after each further one
    back_off_most_seconds: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A world. ``jobs`` is by name, and never changed in place."""

    now: datetime
    grid: Grid
    pools: tuple[Pool, ...]
    nodes: tuple[Node, ...]
    queues: tuple[QueueRules, ...] = ()
    jobs: Mapping[str, Tracked] = field(default_factory=dict)
    prices: tuple[Price, ...] = ()  # of the last plan of the whole queue
    queue_prices: tuple[QueuePrice, ...] = ()
    prices_grid: Grid | None = None  # on which these were made; None: there was none yet
    settings: Settings = Settings()
    refused: str = ""  # why the last change of the queues was not taken
    slot_seen: datetime | None = None  # the slot that began then was looked at for what is due
    decision: int = 0  # counts up: the id of what was decided last

    @property
    def slot(self) -> int:
        """The slot that holds ``now``."""
        return max(0, self.grid.floor(self.now))

    def problem(self) -> Problem:
        """The question that the plan of the whole queue answers, from the current slot's start."""
        return _problem(self)

    def expected_start(self, name: str) -> datetime | None:
        """When a job is to start, or did; None where nothing is promised."""
        one = self.jobs[name]
        if one.started is not None:
            return one.started
        return self.grid.time(one.segments[0].start) if one.segments else None


# -- what may happen -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed; every event says until when."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobArrived(Tick):
    """A job is new, or was found running by an operator that has just started.

    Such an operator decides on all that it found together, or it would launch onto what is in use.
    """

    job: Tracked


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChanged(Tick):
    """Its owner has changed what a job asks for. What runs goes on as it was started.

    ``wakes``: or has seen to it that it left its GPUs idle.
    """

    job: Job
    generation: int = 0
    wakes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDeleted(Tick):
    """Its owner wants a job gone."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted(Tick):
    """A launched job works."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCheckpointed(Tick):
    """A running job has saved what it did."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobIdle(Tick):
    """All GPUs of a running job do nothing since then; None: it works, as far as is known."""

    name: str
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUnheard(Tick):
    """The Ray of a job does not tell us how it does, and why; empty: it does (again).

    ``mends``: it would if it were started again.
    """

    name: str
    why: str
    mends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStopped(Tick):
    """A job that was given notice holds nothing any more; ``saved``: nothing was lost."""

    name: str
    saved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished(Tick):
    """A job has done its work."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed(Tick):
    """A job ended without its work done, and holds nothing any more."""

    name: str
    message: str = ""
    final: bool = False  # it is of no use to try again


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetChanged(Tick):
    """All pools and nodes, as they are now, on the state's grid. Cordoned nodes are among them."""

    pools: tuple[Pool, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChanged(Tick):
    """One node is another than it was: cordoned or not, with more or less that is free for us."""

    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLost(Tick):
    """A node is gone, with all that ran on it."""

    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuesChanged(Tick):
    """All queues, as they are now."""

    queues: tuple[QueueRules, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanArrived(Tick):
    """The plan of the whole queue, of some moments ago, on the grid of its problem."""

    plan: Plan
    grid: Grid


Event = Tick


# -- work ------------------------------------------------------------------------------------------


def run_hours(one: Tracked, now: datetime) -> float:
    """How long this run has worked: none before it was seen to start or restored its checkpoint."""
    if one.started is None:
        return 0.0
    restoring = one.job.interruption.restart_seconds if one.attempt > 1 else 0.0
    return max(0.0, (now - one.started).total_seconds() - restoring) / 3600


def work_done(one: Tracked, now: datetime) -> float:
    """What a job has done in all by ``now``, never all of it: that is for it to say."""
    mode = one.mode
    if mode is None or not isinstance(one.job.need, Work):
        return one.work_done
    done = one.work_done + run_hours(one, now) * mode.replicas * mode.work_per_replica_hour
    return min(done, one.job.need.amount * (1 - 1e-6))


def work_at_risk(one: Tracked, now: datetime) -> float:
    """What of it would be lost if the job were stopped without notice: since its checkpoint."""
    mode, interval = one.mode, one.job.interruption.checkpoint_seconds
    if mode is None or not isinstance(one.job.need, Work):
        return 0.0
    if interval <= 0:
        return work_done(one, now)  # it never saves: what it did before was lost too
    hours = run_hours(one, now)
    lost = math.fmod(hours, interval / 3600)
    if one.checkpointed is not None:
        lost = min(hours, max(0.0, (now - one.checkpointed).total_seconds() / 3600))
    rate = mode.replicas * mode.work_per_replica_hour
    return min(lost * rate, work_done(one, now) - one.work_done)


def work_left(one: Tracked) -> float:
    """What a job has still to do when it is started (again)."""
    assert isinstance(one.job.need, Work)
    return max(0.0, one.job.need.amount - one.work_done)


def asked(one: Tracked, grid: Grid, slot: int, done: float | None = None) -> Job:
    """The job as the planner is asked for it in ``slot``: what it has left to do, from then on.

    ``done``: what a running job has done, which then counts as part of its work. Work that would
    outlast half of the grid from ``slot`` on counts as half of it, and its money in proportion,
    unless its deadline comes first: it is to run although the grid does not see its end.
    """
    job = one.job
    release = max(slot, job.release)
    if isinstance(job.need, Demand):
        return replace(job, release=release)
    left = work_left(one) if done is None else job.need.amount - done
    fastest = min((hours_for(left, m) for m in job.modes), default=0.0)
    most = max(1, grid.slots - slot) * grid.slot_hours / 2
    share = 1.0
    if fastest > most and (not one.has_deadline or job.deadline > grid.slots):
        share = most / fastest
    return replace(
        job,
        need=replace(job.need, amount=(done or 0.0) + share * left),
        release=release,
        unplaced_usd=share * job.unplaced_usd,
        max_cost_usd=None if job.max_cost_usd is None else share * job.max_cost_usd,
    )


def end_of(one: Tracked) -> datetime | None:
    """When a running job is expected to end; None for a service, or where it was not seen yet."""
    mode = one.mode
    if mode is None or one.started is None or not isinstance(one.job.need, Work):
        return None
    restoring = one.job.interruption.restart_seconds if one.attempt > 1 else 0.0
    hours = hours_for(work_left(one), mode)
    return one.started + timedelta(hours=min(hours, 1e6), seconds=restoring)


def notice_seconds(one: Tracked, settings: Settings) -> float:
    """How long before its stop a job is told."""
    return max(settings.notice_seconds, one.job.interruption.save_seconds)


def stop_usd(one: Tracked, now: datetime) -> float:
    """The price of stopping a running job: what it did since its checkpoint, a save and a restart.

    At the full price of its gang by the hour: an hour of owned hardware that is lost is paid for.
    """
    mode = one.mode
    if mode is None:
        return 0.0
    lost_hours = hours_for(work_at_risk(one, now), mode)
    saving = one.job.interruption
    hours = lost_hours + (saving.save_seconds + saving.restart_seconds) / 3600
    return hours * one.replicas * mode.full_usd_per_replica_hour


def counted_milli(mode: Mode, pool: Pool) -> int:
    """GPU thousandths that a gang counts for in the quotas of its queue."""
    return mode.replicas * pool.counted_milli(mode.amounts)


# -- the moving grid -------------------------------------------------------------------------------


def rolled(state: State, slots: int) -> State:
    """The same world on a grid that begins ``slots`` later and is as long."""
    if slots <= 0:
        return state
    grid = replace(state.grid, start=state.grid.time(slots))
    return replace(
        state,
        grid=grid,
        pools=tuple(_later_pool(p, slots, grid) for p in state.pools),
        jobs={name: _later_job(one, slots, grid) for name, one in state.jobs.items()},
        prices_grid=state.prices_grid or state.grid,
    )


def _later_pool(pool: Pool, slots: int, grid: Grid) -> Pool:
    """Windows that have passed are left out; the last one goes on to the new end."""
    last = pool.windows[-1] if pool.windows else None
    kept = tuple(
        replace(
            w,
            start=max(0, w.start - slots),
            end=grid.slots if w is last else w.end - slots,
        )
        for w in pool.windows
        if w.end > slots or w is last
    )
    return replace(pool, windows=kept)


def _later_job(one: Tracked, slots: int, grid: Grid) -> Tracked:
    job = one.job
    need = job.need
    if isinstance(need, Demand):
        need = replace(need, per_slot=_later_demand(need.per_slot, slots, grid))
    deadline = job.deadline - slots if one.has_deadline else grid.slots
    return replace(
        one,
        job=replace(
            job,
            need=need,
            release=max(0, job.release - slots),
            deadline=deadline,
            due=None if job.due is None else job.due - slots,
        ),
        segments=_later(one.segments, slots),
        then=_later(one.then, slots),
    )


def _later(segments: tuple[Segment, ...], slots: int) -> tuple[Segment, ...]:
    return tuple(replace(s, start=s.start - slots, end=s.end - slots) for s in segments)


def _later_demand(per_slot: tuple[float, ...], slots: int, grid: Grid) -> tuple[float, ...]:
    """What was stated, and behind it the same hours of the day before."""
    found = list(per_slot)
    day = max(1, round(86_400 / grid.slot_seconds))
    while len(found) < grid.slots + slots:
        found.append(found[-day] if len(found) >= day else per_slot[-1])
    return tuple(found[slots : slots + grid.slots])


# -- the question for the plan of the whole queue --------------------------------------------------


def _problem(state: State) -> Problem:
    """All that is to run or runs, from the current slot on."""
    now = rolled(state, state.slot)
    pools = {p.name for p in now.pools}
    jobs: list[Job] = []
    running: list[Running] = []
    known = {one.name for one in now.jobs.values() if _open(one) and one.job.modes}
    for one in now.jobs.values():
        if one.name not in known or any(m.pool not in pools for m in one.job.modes):
            continue
        held = _running(one, state)
        done = None if held is None else held.work_done
        after = tuple(name for name in one.job.after if name in known)
        jobs.append(replace(asked(one, now.grid, 0, done), after=after))
        if held is not None:
            running.append(held)
    problem = Problem(
        grid=now.grid,
        pools=now.pools,
        nodes=now.nodes,
        jobs=tuple(jobs),
        queues=tuple(rules.planned for rules in now.queues),
        running=tuple(running),
    )
    return with_guarantees(problem)


def _open(one: Tracked) -> bool:
    return one.phase not in ENDED and not one.deleted and not is_idle(one)


def is_idle(one: Tracked) -> bool:
    """Whether it was stopped for leaving its GPUs idle, and waits for its owner to change it."""
    return one.phase is Phase.SUSPENDED and one.why.reason == Cause.IDLE


def _running(one: Tracked, state: State) -> Running | None:
    """Where a job runs; one that waits to go on is to do what it has left."""
    if not one.segments or one.phase not in (Phase.LAUNCHING, Phase.RUNNING):
        return None
    done = work_done(one, state.now)
    risk = min(done, work_at_risk(one, state.now))
    nodes = tuple(p.node for p in one.segments[0].placement for _ in range(p.replicas))
    return Running(
        job=one.name,
        mode=one.segments[0].mode,
        nodes=nodes,
        work_done=done,
        work_since_checkpoint=risk,
    )


def gpus_of(one: Tracked) -> float:
    """GPUs that a job holds, or is to."""
    mode = one.mode
    return 0.0 if mode is None else one.replicas * mode.amounts.gpu_milli / GPU_MILLI
