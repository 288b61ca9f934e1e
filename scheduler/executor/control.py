"""The jobs of a state directory, beside or after the executor: submit, look, cancel, read logs.

While an executor holds the state directory, the runs of its plan are its business: what is asked
here is written to the journal, and it acts on it at its next pass. What nobody holds is seen to
here.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from scheduler.executor import local_ray
from scheduler.executor.clock import PlanClock
from scheduler.executor.cluster import Cluster, NoRay, OwnRay, read_report
from scheduler.executor.decide import Action, RayJob, Stop, Submit
from scheduler.executor.errors import ExecutorError, NotFoundError, RayUnreachableError
from scheduler.executor.executor import (
    POLL_SECONDS,
    Options,
    World,
    given_ray,
    own_ray,
    step,
)
from scheduler.executor.journal import Journal, StateDirectory, held
from scheduler.executor.launches import Launch
from scheduler.executor.records import (
    CancelRequested,
    Ended,
    Record,
    Run,
    RunOpened,
    RunStatus,
    Settled,
)

CANCEL_SECONDS = 90.0  # until the last job must have stopped: longer than Ray lets it take
WAITING = "waiting"  # for its time, for others, for GPUs, or for the next attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One launch as a user sees it. Times are real, of the last attempt."""

    run: str
    launch: Launch
    status: str  # an `Outcome`, pending, running or waiting
    attempts: int
    submission_id: str = ""
    start: datetime | None = None
    end: datetime | None = None
    exit_code: int | None = None
    message: str = ""
    settled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedRun:
    """One attempt that ran: what the ledger prices."""

    run: str
    job: str
    launch: str
    attempt: int
    pool: str
    gpus: float
    nodes: tuple[str, ...]
    start: datetime  # real
    end: datetime
    plan_start: datetime  # the same instants in plan time
    plan_end: datetime
    status: RunStatus
    exit_code: int | None


def submit_job(launch: Launch, options: Options, world: World) -> str:
    """Start one job now, beside whatever runs; the name of its run.

    It holds no GPU of a plan, and is not started again after a crash.
    """
    cluster: Cluster
    if options.address:
        cluster = given_ray(options.address, options.environment)
    else:
        cluster = own_ray({}, world)
    cluster.jobs(())  # nothing is written down for a Ray that does not answer
    name = f"submit-{secrets.token_hex(3)}"
    now = world.now()
    clock = PlanClock(real=now, plan=now)
    world.journal.append(
        RunOpened(run=name, at=now, clock=clock, launches=(launch,), planned=False)
    )
    step(world.journal.refresh()[name], cluster, {}, world, only=(Submit, Ended, Settled))
    return name


def look(options: Options, world: World) -> tuple[JobView, ...]:
    """Every job of the state directory, oldest run first, after noting what has ended."""
    world.journal.refresh()
    jobs = _attend(world, options, only=(Ended, Settled))
    runs = world.journal.refresh()
    return tuple(view for run in runs.values() for view in views_of(run, jobs))


def views_of(run: Run, jobs: Mapping[str, RayJob] | None = None) -> tuple[JobView, ...]:
    """The launches of ``run`` in plan order; ``jobs``: what is known of those still open."""
    return tuple(_view(run, record, jobs or {}) for record in run.records.values())


def _attend(world: World, options: Options, only: tuple[type[Action], ...]) -> Mapping[str, RayJob]:
    """One pass over each unfinished run that no executor holds; what is known of the jobs."""
    jobs: dict[str, RayJob] = {}
    with held(world.state.lock) as free:
        for run in world.journal.runs.values():
            if run.finished:
                continue
            cluster = _cluster_of(run, options, world)
            try:
                jobs.update(cluster.jobs(run.open_ids))
                if free or not run.planned:
                    step(run, cluster, {}, world, only=only)
            except RayUnreachableError as error:
                world.say(str(error))
    return jobs


def _cluster_of(run: Run, options: Options, world: World) -> Cluster:
    if run.address:
        return given_ray(run.address, options.environment)
    head = local_ray.recorded(world.state)
    if head and local_ray.alive(head):
        return OwnRay(world.state, head, say=world.say)
    return NoRay(world.state)


def _view(run: Run, record: Record, jobs: Mapping[str, RayJob]) -> JobView:
    last = record.last
    seen = jobs.get(last.submission_id) if last else None
    ending = last.ending if last else None
    status: str = WAITING
    if record.outcome:
        status = record.outcome
    elif record.open:
        status = (seen.status if seen else RunStatus.PENDING).lower()
    return JobView(
        run=run.name,
        launch=record.launch,
        status=status,
        attempts=len(record.attempts),
        submission_id=last.submission_id if last else "",
        start=ending.start if ending else seen.start if seen else None,
        end=ending.end if ending else None,
        exit_code=ending.exit_code if ending else None,
        message=record.message or (ending.message if ending else ""),
        settled=record.outcome is not None,
    )


def find(views: Iterable[JobView], name: str) -> tuple[JobView, ...]:
    """The launches of job ``name``, or the one launch of that name, in the newest run that has it.

    Raises `NotFoundError`.
    """
    found = [view for view in views if name in (view.launch.job, view.launch.name)]
    if not found:
        raise NotFoundError(f"no job named {name}: `flopwise get` lists all")
    return tuple(view for view in found if view.run == found[-1].run)


def cancel(views: Iterable[JobView], options: Options, world: World) -> tuple[str, ...]:
    """Ask for ``views`` not to run, or to stop; the names of those that had not ended."""
    open_views = [view for view in views if not view.settled]
    now = world.now()
    world.journal.append(
        *(CancelRequested(run=v.run, launch=v.launch.name, at=now) for v in open_views)
    )
    world.journal.refresh()
    _attend(world, options, only=(Ended, Stop, Settled))
    return tuple(view.launch.name for view in open_views)


def cancel_all(options: Options, world: World) -> tuple[str, ...]:
    """Cancel everything, wait until it has stopped, and stop our Ray.

    Raises `ExecutorError` where something does not stop.
    """
    names = cancel(look(options, world), options, world)
    waits = int(CANCEL_SECONDS / POLL_SECONDS)
    while any(not run.finished for run in world.journal.refresh().values()):
        if (waits := waits - 1) < 0:
            raise ExecutorError(f"not everything has stopped within {CANCEL_SECONDS:g} s")
        # All are cancelled: the only hand-overs left are those whose fate is unknown.
        _attend(world, options, only=(Ended, Stop, Settled, Submit))
        world.sleep(POLL_SECONDS)
    with held(world.state.lock) as free:
        if free and (head := local_ray.recorded(world.state)):
            local_ray.stop(world.state, head)
    return names


def read_log(view: JobView, options: Options, world: World) -> str:
    """What the last attempt of a launch has written so far; empty before it starts."""
    if not view.submission_id:
        return ""
    kept = world.state.log(view.submission_id)
    if kept.exists():
        return kept.read_text(encoding="utf-8")
    return _cluster_of(world.journal.runs[view.run], options, world).log(view.submission_id)


def observed_runs(state_dir: Path) -> tuple[ObservedRun, ...]:
    """Every attempt that ran to an end, in order of run and plan: when, where, and how it ended."""
    state = StateDirectory(root=state_dir)
    runs = Journal(state.journal).refresh()
    return tuple(
        observed
        for run in runs.values()
        for record in run.records.values()
        for observed in _observed(state, run, record)
    )


def _observed(state: StateDirectory, run: Run, record: Record) -> Iterator[ObservedRun]:
    launch = record.launch
    for attempt in record.attempts:
        if (ending := attempt.ending) is None:
            continue
        report = read_report(state, attempt.submission_id)
        start = ending.start or (report.start if report else None)
        if start is None:
            continue  # it never ran
        yield ObservedRun(
            run=run.name,
            job=launch.job,
            launch=launch.name,
            attempt=attempt.number,
            pool=launch.pool,
            gpus=launch.gpus,
            nodes=tuple(node for node, _ in launch.gpu_milli),
            start=start,
            end=ending.end,
            plan_start=run.clock.plan_time(start),
            plan_end=run.clock.plan_time(ending.end),
            status=ending.status,
            exit_code=ending.exit_code,
        )
