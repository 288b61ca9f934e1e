"""Worlds to play: small states, and a cluster that does what it is told, with the checks on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from planner.problem import Job, Pool, Queue
from scheduler.controller.decide import Decider
from scheduler.controller.state import (
    Event,
    JobArrived,
    JobFinished,
    JobStarted,
    JobStopped,
    Phase,
    QueueRules,
    State,
    Tick,
    Tracked,
    end_of,
)
from tests.planner.worlds import START, grid, nodes_of
from tests.scheduler.controller.checker import broken, faults, faults_beside_what_runs

SLOTS = 24


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def at(count: float) -> datetime:
    """``count`` hours after the start."""
    return START + hours(count)


def queue(name: str, **fields: Any) -> QueueRules:
    """A queue; ``guaranteed``, ``lendable`` and ``limit`` as dicts; policies by their names."""
    rules = ("within_queue", "reclaim", "idle_seconds", "idle_action")
    of_rules = {k: fields.pop(k) for k in rules if k in fields}
    made: dict[str, Any] = {
        k: tuple(v.items()) if isinstance(v, Mapping) else v for k, v in fields.items()
    }
    return QueueRules(queue=Queue(name=name, **made), **of_rules)


def world(*pools: Pool, queues: Iterable[QueueRules] = (), slots: int = SLOTS) -> State:
    """An empty world, an hour a slot."""
    return State(
        now=START,
        grid=grid(slots),
        pools=pools,
        nodes=nodes_of(pools),
        queues=tuple(queues),
    )


def numberless(state: State) -> State:
    """Without the numbers of the GPUs on a node: where there are too few they are no promise."""

    def bare(one: Tracked) -> Tracked:
        segments = (
            replace(s, placement=tuple(replace(p, devices=()) for p in s.placement))
            for s in one.segments
        )
        spots = tuple(replace(p, devices=()) for p in one.spots)
        return replace(one, segments=tuple(segments), spots=spots)

    return replace(state, decision=0, jobs={n: bare(one) for n, one in state.jobs.items()})


class Player:
    """A state with a `Decider` beside it; each step is checked."""

    def __init__(self, state: State, *, others_take: bool = False) -> None:
        """``others_take``: nodes, queues and what others use change under what runs."""
        self.state = state
        self.others_take = others_take
        self.check = faults_beside_what_runs if others_take else faults
        self.decider = Decider()
        self.evictions: list[tuple[str, str]] = []  # (for whom, who), in order

    def tell(self, *events: Event) -> None:
        """The events are decided on together; a decider that starts anew decides the same."""
        before = self.state
        self.state = self.decider.run_all(events, before)
        wrong = broken(before, self.state) + self.check(self.state)
        assert not wrong, (events, wrong)
        anew = Decider().run_all(events, before)
        if self.others_take:
            anew, kept = numberless(anew), numberless(self.state)
        else:
            kept = self.state
        assert anew == kept, (events, [o for n, o in kept.jobs.items() if o != anew.jobs.get(n)])
        for name, one in self.state.jobs.items():
            known = before.jobs[name].evicted_by if name in before.jobs else ()
            self.evictions += [(by, name) for by in one.evicted_by[len(known) :]]

    def arrive(self, job: Job, when: float = 0.0, **fields: Any) -> Tracked:
        """The job, as it stands after its arrival."""
        made = replace(Tracked(job=job, arrived=at(when), uid=job.name), **fields)
        self.tell(JobArrived(at=at(when), job=made))
        return self.state.jobs[job.name]

    def start(self, name: str, when: float) -> None:
        self.tell(JobStarted(at=at(when), name=name))

    def run(self, job: Job, when: float = 0.0, **fields: Any) -> None:
        """The job arrives, and works at once."""
        assert self.arrive(job, when, **fields).phase is Phase.LAUNCHING
        self.start(job.name, when)

    def stop(self, name: str, when: float, *, saved: bool = False) -> None:
        self.tell(JobStopped(at=at(when), name=name, saved=saved))

    def finish(self, name: str, when: float) -> None:
        self.tell(JobFinished(at=at(when), name=name))

    def tick(self, when: float) -> None:
        self.tell(Tick(at=at(when)))

    def obey(self, when: float) -> None:
        """The cluster does at once what it is told: starts what is launched, stops what is told."""
        for _ in range(100):
            jobs = list(self.state.jobs.values())
            started = [o.name for o in jobs if o.phase is Phase.LAUNCHING]
            stopped = [o.name for o in jobs if o.phase is Phase.STOPPING]
            if not started and not stopped:
                return
            self.tell(
                *(JobStarted(at=at(when), name=name) for name in started),
                *(JobStopped(at=at(when), name=name) for name in stopped),
            )
        raise AssertionError("it never comes to rest")

    def pass_time(self, until: float, step: float = 0.5, when: float = 0.0) -> None:
        """Ticks; what is launched starts at once, what was stopped stops, what is done ends."""
        while when < until:
            when = min(until, when + step)
            self.tick(when)
            self.obey(when)
            for one in list(self.state.jobs.values()):
                end = end_of(one) if one.phase is Phase.RUNNING else None
                if end is not None and end <= at(when):
                    self.finish(one.name, when)
            self.obey(when)

    def phase(self, name: str) -> Phase:
        return self.state.jobs[name].phase

    def phases(self) -> dict[str, str]:
        return {name: str(one.phase) for name, one in self.state.jobs.items()}

    def starts(self, name: str) -> float:
        """Hours from the start to when the job is to start."""
        when = self.state.expected_start(name)
        assert when is not None
        return (when - START) / hours(1)
