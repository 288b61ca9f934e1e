"""Events into a pass: what was observed changes what is known, and says what is to be decided on.

An event that was told already changes nothing: whoever tells them may tell them twice.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from planner.manifests.schema import IdleAction
from planner.problem import Queue
from planner.quotas import too_many_keepers
from scheduler.controller import planned, services
from scheduler.controller.desk import phase_without
from scheduler.controller.passes import Pass
from scheduler.controller.state import (
    ENDED,
    Cause,
    Event,
    FleetChanged,
    JobArrived,
    JobChanged,
    JobCheckpointed,
    JobDeleted,
    JobFailed,
    JobFinished,
    JobIdle,
    JobStarted,
    JobStopped,
    JobUnheard,
    NodeChanged,
    NodeLost,
    Phase,
    PlanArrived,
    QueueRules,
    QueuesChanged,
    Settings,
    Tick,
    Tracked,
    Why,
    end_of,
    work_at_risk,
    work_done,
)


def take_in(found: Pass, event: Event) -> None:
    """Change ``found`` by what ``event`` says."""
    found.state = replace(found.state, now=max(found.state.now, event.at))
    match event:
        case FleetChanged() | NodeChanged() | NodeLost() | QueuesChanged():
            _fleet(found, event)
        case PlanArrived():
            planned.adopt(found, event)
        case JobArrived():
            _arrived(found, event.job)
        case JobChanged():
            _changed(found, event)
        case JobDeleted() | JobStarted() | JobCheckpointed() | JobStopped():
            _moved(found, event)
        case JobIdle() | JobUnheard():
            _noticed(found, event)
        case JobFinished() | JobFailed():
            _ended(found, event)
        case Tick():
            pass


# -- jobs ------------------------------------------------------------------------------------------


def _arrived(found: Pass, job: Tracked) -> None:
    old = found.jobs.get(job.name)
    if old is not None:
        if old.uid == job.uid:
            return
        found.forget(job.name)
    if not job.holds or not job.segments:
        found.put(job)
        found.fresh.add(job.name)
        return
    if job.scales:
        _service_there(found, job)
        return
    last = job.segments[-1]  # it is there now, whatever clock said when it began, and however long
    end = min(max(last.end, found.slot + 1), found.state.grid.slots)
    last = replace(last, start=min(last.start, found.slot), end=end)
    found.hold(replace(job, segments=(*job.segments[:-1], last)), (found.slot, last.end))


def _service_there(found: Pass, job: Tracked) -> None:
    """A service that was found running: at its places, with as many replicas as it had."""
    there = services.from_now_on(found, job, found.slot, job.replicas)
    found.hold(there, (found.slot, there.segments[-1].end))


def _changed(found: Pass, event: JobChanged) -> None:
    one = found.jobs.get(event.job.name)
    if (
        one is None
        or one.phase in ENDED
        or ((one.job, one.generation) == (event.job, event.generation) and not event.wakes)
    ):
        return
    if one.why.reason == Cause.IDLE and (event.wakes or event.generation != one.generation):
        one = replace(one, why=Why(reason=Cause.ARRIVED))  # its owner has seen to it
    if not one.holds:
        found.unreserve(replace(one, job=event.job, generation=event.generation))
        return
    new = event.job
    started = replace(  # how it runs was settled when it started
        one.job,
        tier=new.tier,
        deadline=new.deadline,
        due=new.due,
        lateness_usd_per_hour=new.lateness_usd_per_hour,
        unplaced_usd=new.unplaced_usd,
        required=new.required,
        preemptible=new.preemptible,
    )
    found.put(replace(one, job=started, generation=event.generation))


def _moved(found: Pass, event: JobDeleted | JobStarted | JobCheckpointed | JobStopped) -> None:
    one = found.jobs.get(event.name)
    if one is None:
        return
    match event:
        case JobDeleted():
            _deleted(found, one)
        case JobStarted():
            _started(found, one, event.at)
        case JobCheckpointed():
            if one.holds:
                found.put(replace(one, checkpointed=event.at))
        case JobStopped():
            if one.holds:
                _stopped(found, one, event.at, saved=event.saved)


def _noticed(found: Pass, event: JobIdle | JobUnheard) -> None:
    """Something is odd about a job that runs."""
    one = found.jobs.get(event.name)
    if one is None or one.deleted:
        return
    if isinstance(event, JobUnheard):
        if one.phase in (Phase.LAUNCHING, Phase.RUNNING):
            _unheard(found, one, event)
    elif one.phase is Phase.RUNNING:
        _idle(found, one, event)


def _unheard(found: Pass, one: Tracked, event: JobUnheard) -> None:
    """Whose end nobody would hear of is begun again from its checkpoint, where that mends it."""
    if event.why and event.mends and one.job.may_stop:
        message = f"{event.why}; it goes on from its checkpoint with a new token"
        found.stop(replace(one, unheard=event.why), Why(reason=Cause.UNHEARD, message=message))
    elif one.unheard != event.why:
        found.put(replace(one, unheard=event.why))


def _idle(found: Pass, one: Tracked, event: JobIdle) -> None:
    """What its queue says of a job that leaves its GPUs idle; what may not be stopped is not."""
    rules = found.desk.rules.get(one.job.queue) or QueueRules(queue=Queue(name=""))
    since = event.since
    if since is not None and one.started is not None:
        since = max(since, one.started)
    idle_seconds = 0.0 if since is None else (event.at - since).total_seconds()
    if rules.idle_action is IdleAction.NEVER or idle_seconds < rules.idle_seconds:
        since = None
    if since is None or rules.idle_action is IdleAction.WARN or not one.job.preemptible:
        if one.idle_since != since:
            found.put(replace(one, idle_since=since))
        return
    message = (
        f"its GPUs did nothing for {idle_seconds / 60:.0f} minutes, queue {one.job.queue} allows "
        f"{rules.idle_seconds / 60:.0f}; it goes on once it was changed"
    )
    found.stop(replace(one, idle_since=since), Why(reason=Cause.IDLE, message=message))


def _deleted(found: Pass, one: Tracked) -> None:
    if not one.holds:
        found.forget(one.name)
    elif not one.deleted:
        found.stop(replace(one, deleted=True), Why(reason=Cause.DELETED, message="it was deleted"))


def _started(found: Pass, one: Tracked, at: datetime) -> None:
    if not one.holds or one.started is not None:
        return
    phase = Phase.RUNNING if one.phase is Phase.LAUNCHING else one.phase
    now = replace(one, phase=phase, started=at, since=at)
    found.put(now)
    if (end := end_of(now)) is not None and phase is Phase.RUNNING:
        until = services.until_a_rise(found, now, found.state.grid.ceil(end))
        found.extend(now, until)


def _stopped(found: Pass, one: Tracked, at: datetime, *, saved: bool) -> None:
    if one.deleted:
        found.forget(one.name)
        return
    resting = _resting(one, at, saved=saved)
    if one.then:  # it was moved, and what it was promised stands
        resting = replace(resting, phase=Phase.RESERVED, segments=one.then)
    found.put(resting)
    found.fresh.add(one.name)


def _resting(one: Tracked, at: datetime, *, saved: bool) -> Tracked:
    """The job off its nodes, with what it did that is safe."""
    safe = work_done(one, at) - (0.0 if saved else work_at_risk(one, at))
    return replace(
        one,
        phase=Phase.SUSPENDED,
        segments=(),
        then=(),
        since=at,
        started=None,
        checkpointed=None,
        idle_since=None,
        unheard="",
        work_done=max(0.0, safe),
    )


def _ended(found: Pass, event: JobFinished | JobFailed) -> None:
    one = found.jobs.get(event.name)
    if one is None or one.phase in ENDED:
        return
    if one.deleted:
        found.forget(one.name)
        return
    if isinstance(event, JobFinished):
        why = Why(reason=Cause.FINISHED)
        done = replace(one, phase=Phase.DONE, segments=(), then=(), since=event.at, why=why)
        done = replace(done, unheard="")
        found.put(done)
        found.ended.add(one.name)
    elif one.phase is Phase.STOPPING and not event.final:
        _stopped(found, one, event.at, saved=False)  # it was told to go
    else:
        _failed(found, one, event)


def _failed(found: Pass, one: Tracked, event: JobFailed) -> None:
    settings, failures = found.state.settings, one.failures + 1
    resting = replace(_resting(one, event.at, saved=False), failures=failures)
    if event.final or failures >= settings.attempts:
        message = event.message or "it failed"
        why = Why(reason=Cause.FAILED, message=f"{message} ({failures} of {settings.attempts})")
        found.put(replace(resting, phase=Phase.FAILED, why=why))
        found.ended.add(one.name)
        return
    seconds = back_off_seconds(failures, settings)
    why = Why(
        reason=Cause.BACK_OFF,
        message=f"failed {failures} of {settings.attempts} times, is tried again in {seconds:g} s",
    )
    again = event.at + timedelta(seconds=seconds)
    found.put(replace(resting, why=why, not_before=again, phase=phase_without(resting)))


def back_off_seconds(failures: int, settings: Settings) -> float:
    """How long a job that has failed so often waits until it is tried again."""
    return min(settings.back_off_most_seconds, settings.back_off_seconds * 2.0 ** (failures - 1))


# -- the fleet -------------------------------------------------------------------------------------


def _fleet(found: Pass, event: FleetChanged | NodeChanged | NodeLost | QueuesChanged) -> None:
    state = found.state
    if isinstance(event, FleetChanged):
        new = replace(state, pools=event.pools, nodes=event.nodes)
    elif isinstance(event, QueuesChanged):
        refused = too_many_keepers([rules.queue for rules in event.queues])
        queues = state.queues if refused else event.queues
        new = found.state = replace(state, queues=queues, refused=refused)
    elif isinstance(event, NodeLost):
        new = replace(state, nodes=tuple(n for n in state.nodes if n.name != event.node))
    else:
        others = tuple(n for n in state.nodes if n.name != event.node.name)
        new = replace(state, nodes=(*others, event.node))
    if (new.pools, new.nodes, new.queues) == (state.pools, state.nodes, state.queues):
        return
    before = {n.name: n for n in state.nodes}
    found.rebuild(new)
    found.fresh.update(o.name for o in found.pending() if o.phase is not Phase.RESERVED)
    if isinstance(event, QueuesChanged):
        found.freed.update(before)  # what a queue may hold has changed on all of them
    else:
        found.freed.update(n.name for n in new.nodes if before.get(n.name) != n)
