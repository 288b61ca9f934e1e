"""What the operator would have done, and saved, where it only looks on.

Where it may change nothing, two worlds are kept: the one that is, in which jobs run where others
put them, and the one that would be, in which the operator's decisions are carried out (`obeyed`).
Jobs arrive in both. What each costs is compared by the same prices, job by job.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from planner.problem import Work, hours_for
from scheduler.controller.decide import Decider
from scheduler.controller.state import (
    Event,
    JobFinished,
    JobStarted,
    JobStopped,
    Phase,
    State,
    Tick,
    Tracked,
    end_of,
    notice_seconds,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A job in both worlds. None: it has no place there yet."""

    job: str
    usd: float | None  # money of all its work, in the way that it runs
    would_usd: float | None
    start: datetime | None
    would_start: datetime | None

    @property
    def saved_usd(self) -> float:
        """What would have been saved; 0 as long as it has a place in one world only."""
        if self.usd is None or self.would_usd is None:
            return 0.0
        return self.usd - self.would_usd

    @property
    def sooner(self) -> timedelta:
        """How much sooner it would have started; 0 as long as that is not known."""
        if self.start is None or self.would_start is None:
            return timedelta(0)
        return self.start - self.would_start


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """What there is to report of two worlds."""

    jobs: tuple[Compared, ...]

    @property
    def saved_usd(self) -> float:
        """Over all jobs that have a place in both worlds."""
        return sum(job.saved_usd for job in self.jobs)

    @property
    def compared(self) -> int:
        """Jobs that have a place in both."""
        return sum(job.usd is not None and job.would_usd is not None for job in self.jobs)


def compare(actual: State, would_be: State, before: Shadow | None = None) -> Shadow:
    """The jobs of both worlds, by name.

    A job that has ended has no place any more: what was seen of it ``before`` stands.
    """
    known = {job.job: job for job in before.jobs} if before is not None else {}
    both = actual.jobs.keys() & would_be.jobs.keys()
    now = {name: _compared(name, actual, would_be, known.get(name)) for name in both}
    return Shadow(jobs=tuple(job for _, job in sorted({**known, **now}.items())))


def _compared(name: str, actual: State, would_be: State, before: Compared | None) -> Compared:
    old = before or Compared(job=name, usd=None, would_usd=None, start=None, would_start=None)
    usd, would_usd = usd_of(actual.jobs[name]), usd_of(would_be.jobs[name])
    return Compared(
        job=name,
        usd=old.usd if usd is None else usd,
        would_usd=old.would_usd if would_usd is None else would_usd,
        start=actual.expected_start(name) or old.start,
        would_start=would_be.expected_start(name) or old.would_start,
    )


def usd_of(one: Tracked) -> float | None:
    """Money of all of a job's work in the way that it runs, or is to; None where it has none."""
    mode = one.mode
    if mode is None or not isinstance(one.job.need, Work):
        return None
    return hours_for(one.job.need.amount, mode) * mode.replicas * mode.usd_per_replica_hour


def obeyed(decider: Decider, state: State, now: datetime) -> State:
    """The world that would be, at ``now``: all that was decided is done when it was to be.

    What is launched works at once; what was given notice is gone when that is over, with its work
    saved; what works ends when its work is done.
    """
    for _ in range(2 * len(state.jobs) + 8):
        events = _due(state, now)
        if not events:
            return decider.run(Tick(at=now), state) if state.now < now else state
        state = decider.run_all(events, state)
    return state


def _due(state: State, now: datetime) -> list[Event]:
    """The first things that would have happened by ``now``, all of one moment."""
    found = [event for one in state.jobs.values() if (event := _next(one, state)) is not None]
    first = min((event.at for event in found), default=now)
    return [event for event in found if event.at == first and event.at <= now]


def _next(one: Tracked, state: State) -> Event | None:
    if one.foreign:
        return None
    if one.phase is Phase.LAUNCHING:
        return JobStarted(at=state.now, name=one.name)
    if one.phase is Phase.STOPPING:
        told = one.since or state.now
        gone = told + timedelta(seconds=notice_seconds(one, state.settings))
        return JobStopped(at=max(gone, state.now), name=one.name, saved=True)
    end = end_of(one) if one.phase is Phase.RUNNING else None
    return None if end is None else JobFinished(at=max(end, state.now), name=one.name)
