"""The decision: an event and a state to the next state. Pure: no cluster, no clock, no chance.

What an event leaves open is decided on in order: who is covered by a guarantee first, then by
priority, then who came first.

1. *Where it costs least.* The planner's fast path (`planner.fast`) says where a job goes at the
   shadow prices of the last plan: at once, or later, which is then its reservation, nodes and a
   start. What runs is taken to end when its work does.
2. *Ahead of others.* Where it would have to wait, what those behind it by guarantee or priority
   were promised does not count; they get another promise behind it.
3. *In place of others.* Where it still would have to wait, those that cost least are stopped for it
   (`scheduler.controller.preempt`), and it is promised what they hold.
4. *Backfill.* What others give back is offered to those that wait, in the same order. Whoever can
   start on it does so at once, if it ends before what is promised to others begins, or is
   elsewhere: all of that is booked, so nobody's start is ever put off by it.
5. Who gets nothing is told what binds it.

So promises are moved only where what runs takes longer than it was to, a node goes, or somebody
ahead needs the room. What comes of a plan of the whole queue: `scheduler.controller.planned`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from planner.admit import reduced_usd
from planner.fast import Case, Placed
from planner.plan import Reason, Unplaced
from scheduler.controller import preempt, services
from scheduler.controller.desk import Desk, order_of, phase_without
from scheduler.controller.intake import take_in
from scheduler.controller.passes import Pass, class_of
from scheduler.controller.state import PENDING, Cause, Event, Phase, State, Tracked, Why, is_idle

Covered = dict[str, frozenset[str]]

RESTS = (Cause.BACK_OFF, Cause.IDLE)  # a new slot changes nothing for it
NO_ROOM = (Reason.CAPACITY, Reason.QUEUE_LIMIT, Reason.KEPT_BACK)  # not BUDGET: it is spent


class Decider:
    """Decides event by event, and keeps what is left of the fleet from one state to the next.

    It is a memory and nothing else: the answers are those of `run`.
    """

    def __init__(self) -> None:
        self._state: State | None = None
        self._desk: Desk | None = None

    def run(self, event: Event, state: State) -> State:
        """The state after ``event``."""
        return self.run_all((event,), state)

    def run_all(self, events: Iterable[Event], state: State) -> State:
        """The state after ``events``, decided on together."""
        found = Pass.of(state, self._desk if state is self._state else None)
        self._state = self._desk = None  # if this fails, what was kept is half changed
        for event in events:
            take_in(found, event)
        _settle(found)
        after = found.state
        if found.jobs != state.jobs:
            after = replace(after, jobs=found.jobs, decision=state.decision + 1)
        self._state, self._desk = after, found.desk
        return after


def run(event: Event, state: State) -> State:
    """The state after ``event``: what is to be, with what is known now."""
    return Decider().run(event, state)


def _settle(found: Pass) -> None:
    """Decide on all that is open, those ahead first; what gives way to them comes behind them."""
    found.roll()
    services.straighten(found)
    services.turn(found)
    found.overruns()
    services.take_back(found)
    found.free_dependents()
    covered = found.desk.covered(found.jobs.values())
    pools = {n.pool for n in found.state.nodes if n.name in found.freed} if found.freed else set()
    offer = Offer(free=found.desk.free(sorted(pools), found.slot))
    due = _due(found)
    found.see_slot()
    open_jobs = _open_jobs(found, due, offer)
    heap = [(one.name not in covered, order_of(one)) for one in open_jobs]
    heapq.heapify(heap)
    while heap:
        _, (_, _, name) = heapq.heappop(heap)
        one = found.jobs[name]
        if name in found.fresh or name in due:
            known = set(found.fresh)
            _decide(found, one, covered)
            for other in found.fresh - known:
                key = other not in covered, order_of(found.jobs[other])
                heapq.heappush(heap, key)
        elif one.phase in PENDING:
            _pull_forward(found, one, offer)
    found.fresh.clear()
    found.freed.clear()


def _open_jobs(found: Pass, due: set[str], offer: Offer) -> list[Tracked]:
    """What is fresh or due, and where room was made, those that might gain by it."""
    names = {name for name in found.fresh if found.jobs[name].phase in PENDING} | due
    if offer.free:
        gains, free, slot = found.desk.may_gain, offer.free, found.slot
        names.update(one.name for one in found.pending() if gains(one, free, slot))
    return [found.jobs[name] for name in names]


def _due(found: Pass) -> set[str]:
    """Jobs for which the time has come: of a new slot, or to try again."""
    now, names = found.state.now, set()
    if found.is_new_slot:
        names = {one.name for one in found.pending() if _is_due(one, found.slot)}
    for name in list(found.desk.resting):
        resting = found.jobs.get(name)
        if resting is None or resting.not_before is None or resting.phase not in PENDING:
            found.desk.resting.discard(name)
        elif resting.not_before <= now and resting.why.reason == Cause.BACK_OFF:
            names.add(name)
    return names


def _is_due(one: Tracked, slot: int) -> bool:
    """Whether a promised start has come; or another slot may have room for what had none."""
    if one.phase is Phase.RESERVED:
        return one.segments[0].start <= slot
    return one.why.reason not in (Reason.NO_OPTION, Reason.DEPENDENCY, *RESTS)


# -- one job ---------------------------------------------------------------------------------------


def _decide(found: Pass, one: Tracked, covered: Covered) -> None:
    found.fresh.discard(one.name)
    if _launches_as_promised(found, one):
        _launch(found, one)
        return
    case = _case(found, one)
    if isinstance(case, Why):
        _wait(found, one, case)
        return
    found.desk.drop(one.name)
    answer = found.desk.decide(case, found.slot)
    behind: list[Tracked] = []
    if _crowded(found, answer):
        behind = _make_way(found, one, case, covered)
        answer = found.desk.decide(case, found.slot) if behind else answer
    if not (_crowded(found, answer) and preempt.attempt(found, one, case, answer, covered)):
        _settle_for(found, one, case, answer)
    for other in found.ranked(behind):
        if found.desk.has_room(other):
            found.desk.book(other)
        else:
            found.unreserve(other)


def _launches_as_promised(found: Pass, one: Tracked) -> bool:
    """Whether a promised start has come, and all that it waits for has ended."""
    if one.phase is not Phase.RESERVED or one.segments[0].start != found.slot:
        return False
    if _open_after(found, one):
        return False
    found.desk.drop(one.name)
    return found.desk.has_room(one)


def _open_after(found: Pass, one: Tracked) -> tuple[str, ...]:
    """What a job waits for that has not ended well."""
    known = found.jobs
    return tuple(n for n in one.job.after if n not in known or known[n].phase is not Phase.DONE)


def _case(found: Pass, one: Tracked) -> Case | Why:
    """The ways to run a job now, or why there is none at all."""
    if one.job.queue and one.job.queue not in found.desk.rules:
        message = f"queue {one.job.queue} does not exist"
        return Why(reason=Reason.NO_OPTION, message=message, binds=(one.job.queue,))
    if is_idle(one) or (one.not_before is not None and one.not_before > found.state.now):
        return one.why
    after = _open_after(found, one)
    failed = [n for n in after if n in found.jobs and found.jobs[n].phase is Phase.FAILED]
    if failed:
        message = f"waits for {', '.join(failed)}, which failed"
        return Why(reason=Reason.DEPENDENCY, message=message, binds=tuple(failed))
    case = found.desk.case(one, after, found.state.now)
    return _why(case) if isinstance(case, Unplaced) else case


def _why(answer: Placed | Unplaced) -> Why:
    return Why(
        reason=answer.reason or Cause.PLACED, message=answer.message, binds=tuple(answer.binds)
    )


def _crowded(found: Pass, answer: Placed | Unplaced) -> bool:
    """Whether a job has to wait because of others."""
    if isinstance(answer, Unplaced):
        return answer.reason in NO_ROOM
    return answer.start > found.slot and answer.reason in NO_ROOM


def _make_way(found: Pass, one: Tracked, case: Case, covered: Covered) -> list[Tracked]:
    """Take what those behind the job were promised on its pools off the desk; who they are."""
    rank = class_of(one, covered)
    if rank >= found.last_class(covered):
        return []
    pools = {way.left.pool.name for way in case.ways}
    behind = [
        other
        for other in found.pending()
        if other.phase is Phase.RESERVED
        and other.mode is not None
        and other.mode.pool in pools
        and class_of(other, covered) > rank
    ]
    for other in behind:
        found.desk.drop(other.name)
    return behind


def _settle_for(found: Pass, one: Tracked, case: Case, answer: Placed | Unplaced) -> None:
    """Before it waits, a service begins on fewer places, and others borrow what services lend."""
    if _crowded(found, answer):
        if (smaller := services.fewer(found, one, case)) is not None:
            _launch(found, smaller)
            return
        before = answer.start if isinstance(answer, Placed) else found.state.grid.slots
        if (lent := services.borrow(found, one, case, before)) is not None:
            _launch(found, replace(one, segments=lent.segments))
            return
    _settle_on(found, one, case, answer)


def _settle_on(found: Pass, one: Tracked, case: Case, answer: Placed | Unplaced) -> None:
    """Launch, reserve or wait; a promise is given up only for an earlier one."""
    held = one.segments
    if isinstance(answer, Placed) and answer.start == found.slot:
        _launch(found, services.at_its_places(one, answer.segments))
    elif held and held[0].start > found.slot and _no_later(held[0].start, answer):
        if found.desk.has_room(one):
            found.desk.book(one)
        else:
            _settle_on(found, replace(one, segments=()), case, answer)
    elif isinstance(answer, Placed):
        _reserve(found, one, answer)
    else:
        _wait(found, one, _why(answer))


def _no_later(start: int, answer: Placed | Unplaced) -> bool:
    return isinstance(answer, Unplaced) or start <= answer.start


def _launch(found: Pass, one: Tracked) -> None:
    found.put(
        replace(
            services.from_now_on(found, one, found.slot),
            phase=Phase.LAUNCHING,
            why=Why(reason=Cause.PLACED),
            since=found.state.now,
            attempt=one.attempt + 1,
            not_before=None,
            evicted_by=(),
        )
    )


def _reserve(found: Pass, one: Tracked, answer: Placed) -> None:
    since = one.since if one.phase is Phase.RESERVED else found.state.now
    placed = services.at_its_places(one, answer.segments)
    placed = services.from_now_on(found, placed, answer.start)
    found.put(replace(placed, phase=Phase.RESERVED, why=_why(answer), since=since))


def _wait(found: Pass, one: Tracked, why: Why) -> None:
    found.put(replace(one, phase=phase_without(one), segments=(), why=why))


# -- backfill --------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Offer:
    """What was free by sums on pools where others gave back, and who found no room on them."""

    free: dict[str, tuple[int, int]]
    in_vain: dict[int, list[tuple[float, ...]]] = field(default_factory=dict)  # their lengths

    def is_vain(self, shape: int, hours: tuple[float, ...]) -> bool:
        """Whether a job of this shape that takes no longer found no room."""
        return any(all(map(float.__le__, h, hours)) for h in self.in_vain.get(shape, ()))


def _pull_forward(found: Pass, one: Tracked, offer: Offer) -> None:
    """Start a job that waits at once, if it now can, and if that costs no more than to wait.

    A job that is promised what was given back is tried though others of its shape found no room:
    its own promise may have been in their way.
    """
    desk, shape = found.desk, found.desk.shape(one)
    hours = tuple(1 / (m.work_per_replica_hour or 1e-9) for m in one.job.modes)
    mine = not found.freed.isdisjoint(one.nodes)
    if not mine and offer.is_vain(shape, hours):
        return
    if not desk.may_gain(one, offer.free, found.slot):
        return
    case = _case(found, one)
    if isinstance(case, Why) or _open_after(found, one):
        return
    was = _promised_usd(found, one, case)
    found.desk.drop(one.name)
    placed = found.desk.start_at(case, found.slot)
    lent = placed is None
    if lent:
        before = one.segments[0].start if one.segments else found.state.grid.slots
        placed = services.borrow(found, one, case, before)
    if placed is not None and (lent or was is None or placed.reduced_usd <= was + 1e-9):
        _launch(found, services.at_its_places(one, placed.segments))
        offer.free = desk.free(offer.free, found.slot)
        return
    if one.segments:
        found.desk.book(one)
    if placed is None and not mine:
        offer.in_vain.setdefault(shape, []).append(hours)


def _promised_usd(found: Pass, one: Tracked, case: Case) -> float | None:
    """What the job costs where it is promised a place, in a way that it still has."""
    if not one.segments or all(way.number != one.segments[0].mode for way in case.ways):
        return None
    return reduced_usd(found.desk.live, case, one.segments)
