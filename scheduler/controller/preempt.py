"""In place of others: who may be stopped for whom, and the cheapest of these that are enough.

A job may have the place of another

* of its own queue, by the queue's `withinQueue`: of one of lower priority, or (``Any``) of one of
  the same priority too that came later;
* of another queue, by its own queue's `reclaim`, where it is covered by a guarantee on what the
  other runs on, and the other is not: what that one has was lent;

never of one that may not be stopped, nor of one in whose favour it was itself stopped, directly or
through others, since it last ran. `scheduler.controller.quotas` says why no two ever stop each
other in turn.

Those that are stopped are given notice. The job is promised what they hold from the end of the
notice on, and starts as soon as they were seen to have gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from planner.fast import Case, Placed
from planner.manifests.schema import Preempts
from planner.plan import Reason, Unplaced
from scheduler.controller.passes import Pass, class_of
from scheduler.controller.state import (
    Cause,
    Phase,
    Tracked,
    Why,
    gpus_of,
    notice_seconds,
    stop_usd,
)
from scheduler.controller.victims import Candidate, cheapest

Covered = Mapping[str, frozenset[str]]
NO_QUEUE = Preempts.LOWER_PRIORITY  # among jobs that name no queue


@dataclass(slots=True, eq=False)
class _Bench:
    """Candidates that are off the desk for the moment."""

    found: Pass
    case: Case
    slot: int
    off: set[str] = field(default_factory=set)

    def without(self, names: frozenset[str]) -> Placed | None:
        """How the job could start in the slot with just these gone."""
        desk = self.found.desk
        for name in sorted(names - self.off):
            desk.drop(name)
        for name in sorted(self.off - names):
            desk.book(self.found.jobs[name])
        self.off = set(names)
        return desk.start_at(self.case, self.slot)


def attempt(
    found: Pass, one: Tracked, case: Case, answer: Placed | Unplaced, covered: Covered
) -> bool:
    """Stop others for a job that would have to wait, and promise it their place; whether it did."""
    rules = found.desk.rules.get(one.job.queue)
    is_any = rules is not None and rules.within_queue is Preempts.ANY
    if not is_any and class_of(one, covered) >= found.last_class(covered):
        return False  # nobody is behind it
    on = {way.left.pool.accelerator for way in case.ways}  # a limit is on all pools of one
    others = [
        v
        for v in found.running()
        if v.mode is not None
        and v.mode.pool in found.desk.pools
        and found.desk.pools[v.mode.pool].accelerator in on
        and _may_stop(found, one, v, covered.get(one.name, frozenset()), covered)
    ]
    if not others or _is_awaited(found, one):
        return False  # or they are on their way out already
    longest = max(notice_seconds(v, found.state.settings) for v in others)
    slot = found.first_slot_after(longest)
    if isinstance(answer, Placed) and found.slot < answer.start <= slot:
        return False  # to wait is as soon
    bench = _Bench(found, case, slot)
    candidates = [_candidate(found, v) for v in others]
    chosen = cheapest(candidates, lambda names: bench.without(names) is not None)
    placed = bench.without(frozenset(chosen.jobs if chosen else ()))
    if chosen is None or placed is None:
        return False
    for name in chosen.jobs:
        victim = found.jobs[name]
        found.desk.drop(name)
        found.stop(victim, _why(one, victim), by=one.name)
    _promise(found, one, placed, chosen.jobs)
    return True


def _promise(found: Pass, one: Tracked, placed: Placed, victims: tuple[str, ...]) -> None:
    named = ", ".join(victims[:3]) + (" and others" if len(victims) > 3 else "")
    found.put(
        replace(
            one,
            phase=Phase.RESERVED,
            segments=placed.segments,
            since=found.state.now,
            why=Why(reason=Reason.CAPACITY, message=f"{named} is stopped for it", binds=victims),
        )
    )


def _candidate(found: Pass, victim: Tracked) -> Candidate:
    return Candidate(
        job=victim.name,
        usd=stop_usd(victim, found.state.now),
        gpu_milli=round(1000 * gpus_of(victim)),
        nodes=victim.nodes,
        rank=(victim.job.tier, -victim.arrived.timestamp()),
    )


def _is_awaited(found: Pass, one: Tracked) -> bool:
    """Whether somebody was stopped for the job who is not gone yet."""
    return any(v.phase is Phase.STOPPING and one.name in v.evicted_by for v in found.jobs.values())


def _why(one: Tracked, victim: Tracked) -> Why:
    if one.job.queue == victim.job.queue:
        message = f"stopped for {one.name}, of priority {one.job.tier}"
        return Why(reason=Cause.PREEMPTED, message=message, binds=(one.name,))
    message = f"queue {one.job.queue} takes back for {one.name} what it is guaranteed"
    return Why(reason=Cause.RECLAIMED, message=message, binds=(one.name, one.job.queue))


def _may_stop(
    found: Pass, one: Tracked, victim: Tracked, mine: frozenset[str], covered: Covered
) -> bool:
    """Whether ``victim`` may be stopped for ``one``."""
    if victim.foreign or victim.deleted or not victim.job.preemptible:
        return False
    if not _by_the_rules(found, one, victim, mine, covered):
        return False
    return victim.name not in _stopped_for(found, one)


def _by_the_rules(
    found: Pass, one: Tracked, victim: Tracked, mine: frozenset[str], covered: Covered
) -> bool:
    rules = found.desk.rules.get(one.job.queue)
    if one.job.queue == victim.job.queue:
        policy = rules.within_queue if rules else NO_QUEUE
        return _allows_within(policy, one, victim)
    if rules is None or rules.reclaim is Preempts.NEVER or victim.mode is None:
        return False
    accelerator = found.desk.pools[victim.mode.pool].accelerator
    if accelerator not in mine or accelerator in covered.get(victim.name, ()):
        return False
    return rules.reclaim is Preempts.ANY or victim.job.tier < one.job.tier


def _allows_within(policy: Preempts, one: Tracked, victim: Tracked) -> bool:
    lower = victim.job.tier < one.job.tier
    if policy is not Preempts.ANY:
        return lower and policy is Preempts.LOWER_PRIORITY
    later = (victim.arrived, victim.name) > (one.arrived, one.name)
    return lower or (victim.job.tier == one.job.tier and later)


def _stopped_for(found: Pass, one: Tracked) -> set[str]:
    """In whose favour a job was stopped since it last ran, and these, and so on."""
    seen: set[str] = set()
    todo = list(one.evicted_by)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += found.jobs[name].evicted_by if name in found.jobs else ()
    return seen
