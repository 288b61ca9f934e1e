"""What has to be done in a cluster for it to be as decided, and what its objects tell of the jobs.

`diff(observed, state)` compares the workloads that are there with the state and gives actions,
those that give room first. It is asked again and again: an action that was carried out is not asked
for any more, one that was cut off is. So each action has to be safe to do twice:

    Stop      tells a workload that it will be suspended, and suspends it when its time is up
    Delete    removes the workload of one attempt, if it is that attempt's still
    Launch    makes the workload of a job that has none, pinned to its nodes and suspended
    Resume    pins a suspended workload to the nodes of this or a later attempt; it stays suspended
    Release   lets the workload run, if it is still that attempt's
    Scale     gives a service that runs more or fewer replicas, on just these nodes
    Report    writes the job's status

A workload carries the number of its attempt and the `Record` of its launch, so whoever comes after
us knows what was launched where. It is made before it may run: a launch is never done twice,
however often we are killed.

`learned(observed, state)` gives the events that the workloads tell of, and `recalled` a job as it
was left by an operator that is no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from planner.plan import Placement, Segment
from planner.problem import GPU_MILLI, Grid, Work, hours_for
from scheduler.controller import curve
from scheduler.controller.state import (
    ENDED,
    Cause,
    Event,
    JobChanged,
    JobFailed,
    JobFinished,
    JobStarted,
    JobStopped,
    Phase,
    State,
    Tracked,
    Why,
    gpus_of,
    is_idle,
    notice_seconds,
    work_left,
)

Places = tuple[tuple[str, int], ...]


class Being(StrEnum):
    """How a workload is."""

    HELD = "Held"  # suspended, and nothing of it runs
    RELEASED = "Released"  # it may run, and was not seen to work yet
    WORKING = "Working"
    LEAVING = "Leaving"  # suspended or deleted, and something of it still runs
    LEFT = "Left"  # deleted, and nothing of it runs: its object stays for somebody's finalizer
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


AWAKE = (Being.RELEASED, Being.WORKING)
OVER = (Being.SUCCEEDED, Being.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What must outlive an operator: of a launch, and of the job before it."""

    attempt: int = 0
    failures: int = 0
    work_done: float = 0.0
    not_before: datetime | None = None
    evicted_by: tuple[str, ...] = ()
    mode: int = 0
    nodes: tuple[tuple[str, int], ...] = ()  # replicas on each node; of a service that scales: most
    replicas: int = 0  # of a service that scales: how many it holds of these, the first ones
    start: datetime | None = None  # of what the job holds
    end: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is told of a job to its owner."""

    job: str
    phase: Phase
    why: Why
    generation: int
    expected_start: datetime | None = None
    pool: str = ""
    nodes: tuple[str, ...] = ()
    gpus: float = 0.0
    replicas: int = 0  # of a service that scales
    ready: int = 0  # of these, as KubeRay counts them
    end: datetime | None = None
    cost_usd: float = 0.0  # money of what it has left to do, where it is to do it
    usd_per_pflop: float = 0.0
    usd_per_hour: float = 0.0  # money of what it holds
    full_usd_per_hour: float = 0.0  # with what is sunk
    started: datetime | None = None
    idle_since: datetime | None = None  # all its GPUs do nothing
    unheard: str = ""  # why its Ray does not tell us how it does
    record: Record = Record()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The object in the cluster that does a job's work."""

    job: str
    being: Being
    attempt: int = 0  # 0: not launched by us
    record: Record = Record()
    adopted: bool = False  # its owner made it: never made nor deleted by us
    told: datetime | None = None  # when it was given notice
    started: datetime | None = None
    ended: datetime | None = None  # when nothing of it ran any more
    saved: bool = False  # it saved a checkpoint as it stopped
    message: str = ""
    final: bool = False  # it failed for good
    idle: str = ""  # why it was stopped, where it left its GPUs idle and its owner lets that stand
    lingers: bool = False  # it has ended, and nobody but us will take its pods away
    placed: Places | None = None  # of a service: the replicas that it is to have on each node
    ready: int = 0  # of its replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is in the cluster of jobs that we know, by the name of the job."""

    workloads: Mapping[str, Workload] = field(default_factory=dict)
    statuses: Mapping[str, Status] = field(default_factory=dict)
    # Seconds since a job was given notice, by a clock that does not jump; else the state's counts.
    waited: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Suspend a workload in ``notice_seconds``; at 0, now. The first tells it, the second does."""

    job: str
    attempt: int
    notice_seconds: float
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Remove the workload of an attempt."""

    job: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Make the workload of a job, suspended."""

    job: str
    attempt: int
    record: Record
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Pin a suspended workload to other nodes, for another attempt."""

    job: str
    attempt: int
    record: Record
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Let a workload run."""

    job: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Give a service that runs the replicas of ``segments``, on their nodes."""

    job: str
    attempt: int
    record: Record
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Write a job's status."""

    job: str
    status: Status


Action = Stop | Delete | Scale | Launch | Resume | Release | Report
ORDER = (Stop, Delete, Scale, Launch, Resume, Release, Report)


def diff(observed: Observed, state: State) -> tuple[Action, ...]:
    """What is to be done, in order: what gives room first, then by name; the same each time.

    What a job has been through is written before the workload that tells of it is removed.
    """
    found: list[Action] = []
    for name, one in state.jobs.items():
        workload = observed.workloads.get(name)
        found += _workload_actions(workload, one, state, observed.waited.get(name))
        status = status_of(one, state)
        if one.scales and workload is not None and workload.attempt == one.attempt:
            status = replace(status, ready=workload.ready)
        if observed.statuses.get(name) != status:
            found.append(Report(job=name, status=status))
    for name, workload in observed.workloads.items():
        if name not in state.jobs and _is_left_over(workload):
            found.append(Delete(job=name, attempt=workload.attempt))
    removed = {action.job for action in found if isinstance(action, Delete)}
    return tuple(sorted(found, key=lambda action: _rank(action, removed)))


def _is_left_over(workload: Workload) -> bool:
    """Whether a workload whose job is no more is ours to delete, and was not."""
    goes = workload.being in (Being.LEAVING, Being.LEFT)
    return not workload.adopted and workload.attempt > 0 and not goes


def _rank(action: Action, removed: set[str]) -> tuple[int, str]:
    if isinstance(action, Report) and action.job in removed:
        return ORDER.index(Delete) * 2 - 1, action.job
    return ORDER.index(type(action)) * 2, action.job


def _workload_actions(
    workload: Workload | None, one: Tracked, state: State, waited: float | None
) -> Iterator[Action]:
    if one.foreign:
        return
    if workload is not None and workload.being is Being.LEFT:
        workload = None  # a launch is refused until its object is gone, and tried again
    if one.phase in (Phase.LAUNCHING, Phase.RUNNING):
        yield from _to_run(workload, one, state)
    elif workload is None:
        return
    elif one.phase is Phase.STOPPING:
        yield from _to_stop(workload, one, state, waited)
    elif workload.being in AWAKE and workload.attempt:
        yield Stop(job=one.name, attempt=workload.attempt, notice_seconds=0.0, why=one.why)
    elif workload.lingers and one.phase in ENDED:
        yield Delete(job=one.name, attempt=workload.attempt)  # its GPUs are another's by now
    elif workload.being is Being.FAILED and one.phase not in ENDED and not workload.adopted:
        yield Delete(job=one.name, attempt=workload.attempt)  # so that it can be tried again


def _to_run(workload: Workload | None, one: Tracked, state: State) -> Iterator[Action]:
    if workload is None:
        if one.phase is Phase.LAUNCHING:
            record = record_of(one, state.grid)
            yield Launch(job=one.name, attempt=one.attempt, record=record, segments=_now(one))
    elif workload.attempt < one.attempt:
        yield from _next_attempt(workload, one, state)
    elif workload.being is Being.HELD and one.phase is Phase.LAUNCHING:
        record = record_of(one, state.grid)
        if workload.record.nodes and workload.record.nodes != record.nodes:
            yield Resume(job=one.name, attempt=one.attempt, record=record, segments=one.segments)
        else:
            yield Release(job=one.name, attempt=one.attempt)
    elif one.scales and workload.being in AWAKE and workload.placed != placed_of(_now(one)):
        record = record_of(one, state.grid)
        yield Scale(job=one.name, attempt=one.attempt, record=record, segments=_now(one))


def _now(one: Tracked) -> tuple[Segment, ...]:
    """What a job holds at once: of a service that scales, now."""
    return one.segments[:1] if one.scales else one.segments


def placed_of(segments: tuple[Segment, ...]) -> Places:
    """The replicas on each node, of what is held at once."""
    return tuple(sorted((p.node, p.replicas) for s in segments for p in s.placement))


def _next_attempt(workload: Workload, one: Tracked, state: State) -> Iterator[Action]:
    """The workload is of an attempt before."""
    if workload.being is Being.HELD:
        record = record_of(one, state.grid)
        yield Resume(job=one.name, attempt=one.attempt, record=record, segments=one.segments)
    elif workload.being in OVER and not workload.adopted:
        yield Delete(job=one.name, attempt=workload.attempt)
    elif workload.being in AWAKE and workload.attempt:
        yield Stop(job=one.name, attempt=workload.attempt, notice_seconds=0.0, why=one.why)


def _to_stop(
    workload: Workload, one: Tracked, state: State, waited: float | None
) -> Iterator[Action]:
    if workload.being in AWAKE:
        seconds = notice_seconds(one, state.settings)
        if workload.told is None:
            yield Stop(job=one.name, attempt=one.attempt, notice_seconds=seconds, why=one.why)
            return
        if waited is None:
            waited = (state.now - workload.told).total_seconds()
        if waited >= seconds:
            yield Stop(job=one.name, attempt=one.attempt, notice_seconds=0.0, why=one.why)
    elif one.deleted and not workload.adopted and workload.being is not Being.LEAVING:
        yield Delete(job=one.name, attempt=workload.attempt)


# -- what is told and remembered -------------------------------------------------------------------


def status_of(one: Tracked, state: State) -> Status:
    """What to tell of a job."""
    mode = one.mode
    cost_usd = flops = 0.0
    if mode is not None and isinstance(one.job.need, Work):
        left = work_left(one)
        cost_usd = hours_for(left, mode) * mode.replicas * mode.usd_per_replica_hour
        flops = left * mode.flops_per_work
    return Status(
        job=one.name,
        phase=one.phase,
        why=one.why,
        generation=one.generation,
        expected_start=state.expected_start(one.name),
        pool="" if mode is None else mode.pool,
        nodes=one.nodes,
        gpus=gpus_of(one),
        replicas=one.replicas if one.scales else 0,
        end=state.grid.time(one.segments[-1].end) if one.segments else None,
        cost_usd=cost_usd,
        usd_per_pflop=cost_usd / (flops / 1e15) if flops else 0.0,
        usd_per_hour=0.0 if mode is None else one.replicas * mode.usd_per_replica_hour,
        full_usd_per_hour=(0.0 if mode is None else one.replicas * mode.full_usd_per_replica_hour),
        started=one.started,
        idle_since=one.idle_since,
        unheard=one.unheard,
        record=record_of(one, state.grid),
    )


def record_of(one: Tracked, grid: Grid) -> Record:
    """What is to be remembered of a job."""
    held = one.segments[0] if one.segments else None
    places = one.spots if one.scales else () if held is None else held.placement
    return Record(
        attempt=one.attempt,
        failures=one.failures,
        work_done=one.work_done,
        not_before=one.not_before,
        evicted_by=one.evicted_by,
        mode=0 if held is None else held.mode,
        nodes=() if held is None else tuple((p.node, p.replicas) for p in places),
        replicas=one.replicas if one.scales else 0,
        start=None if held is None else grid.time(held.start),
        end=None if held is None else grid.time(one.segments[-1].end),
    )


def recalled(one: Tracked, status: Status | None, workload: Workload | None, grid: Grid) -> Tracked:
    """The job of a manifest as it was left: by what was told of it, and by its workload.

    A workload of a later attempt than was told of was launched after that: it is believed. What it
    has done since is not looked at here, but by `learned`.
    """
    told = Record() if status is None else status.record
    if workload is not None and workload.attempt > told.attempt:
        return _launched_since(one, workload, grid)
    if status is None:
        return one
    phase = status.phase
    if phase is Phase.RESERVED:  # it is promised anew
        phase = Phase.SUSPENDED if told.attempt else Phase.WAITING
    found = _remembered(one, told, phase, grid)
    if status.why.reason == Cause.IDLE and status.generation != one.generation:
        return found  # its owner has seen to it meanwhile
    if not found.holds:
        return replace(found, why=status.why)
    return replace(found, why=status.why, started=status.started, unheard=status.unheard)


def _launched_since(one: Tracked, workload: Workload, grid: Grid) -> Tracked:
    """A job of which its workload alone tells."""
    if not workload.idle:
        return _remembered(one, workload.record, Phase.LAUNCHING, grid)
    phase = Phase.SUSPENDED if workload.being is Being.HELD else Phase.STOPPING
    found = _remembered(one, workload.record, phase, grid)
    return replace(found, why=Why(reason=Cause.IDLE, message=workload.idle))


def _remembered(one: Tracked, record: Record, phase: Phase, grid: Grid) -> Tracked:
    found = replace(
        one,
        phase=phase,
        attempt=record.attempt,
        failures=record.failures,
        work_done=record.work_done,
        not_before=record.not_before,
        evicted_by=record.evicted_by,
        segments=(),
    )
    if not found.holds or record.start is None or record.end is None:
        return found
    held = _held(one, record, grid)
    if not one.scales:
        return replace(found, segments=(held,))
    has = record.replicas or held.replicas
    now = replace(held, replicas=has, placement=curve.first(held.placement, has))
    return replace(found, segments=(now,), spots=held.placement)


def _held(one: Tracked, record: Record, grid: Grid) -> Segment:
    """What a job holds, on the first GPUs of its nodes: which ones is for the node to say."""
    assert record.start is not None
    assert record.end is not None
    amounts = one.job.modes[record.mode].amounts
    start = grid.floor(record.start)
    return Segment(
        job=one.name,
        mode=record.mode,
        replicas=sum(replicas for _, replicas in record.nodes),
        start=start,
        end=max(start + 1, grid.ceil(record.end)),
        work=one.job.need.amount if isinstance(one.job.need, Work) else 0.0,
        placement=tuple(
            Placement(node=node, replicas=replicas, devices=_devices(replicas, amounts.gpu_milli))
            for node, replicas in record.nodes
        ),
    )


def _devices(replicas: int, milli: int) -> tuple[int, ...]:
    """Numbers of as many GPUs as replicas take: as few as hold their shares, or whole ones."""
    if milli % GPU_MILLI:
        each = GPU_MILLI // milli
        return tuple(r // each for r in range(replicas))
    return tuple(range(replicas * milli // GPU_MILLI))


def learned(observed: Observed, state: State) -> tuple[Event, ...]:
    """What the workloads tell of jobs that the state does not know yet, by name."""
    found: list[Event] = []
    for name, one in sorted(state.jobs.items()):
        workload = observed.workloads.get(name)
        if workload is not None and workload.being is Being.LEFT:
            workload = None
        if not one.holds:
            if workload is not None and _is_woken(workload, one):
                woken = JobChanged(at=state.now, job=one.job, generation=one.generation, wakes=True)
                found.append(woken)
            continue
        if workload is None:
            if one.phase is not Phase.LAUNCHING:
                found.append(_gone(one, state.now))
        elif workload.attempt == one.attempt:
            found += _told(workload, one, state.now)
    return tuple(found)


def _is_woken(workload: Workload, one: Tracked) -> bool:
    """Whether the owner of a workload that was stopped for being idle has taken our word away."""
    held = workload.adopted and workload.being is Being.HELD
    return held and is_idle(one) and not workload.idle


def _gone(one: Tracked, now: datetime) -> Event:
    if one.phase is Phase.STOPPING:
        return JobStopped(at=now, name=one.name)
    return JobFailed(at=now, name=one.name, message="its workload is gone")


def _told(workload: Workload, one: Tracked, now: datetime) -> Iterator[Event]:
    """What a workload of the current attempt tells."""
    when = workload.ended or now
    if workload.started is not None and one.started is None:
        yield JobStarted(at=workload.started, name=one.name)
    if workload.being is Being.SUCCEEDED:
        yield JobFinished(at=when, name=one.name)
    elif workload.being is Being.FAILED:
        yield JobFailed(at=when, name=one.name, message=workload.message, final=workload.final)
    elif workload.being is Being.HELD and (one.phase is not Phase.LAUNCHING or workload.told):
        yield JobStopped(at=when, name=one.name, saved=workload.saved)
