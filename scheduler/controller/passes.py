"""A pass: a copy of a state while it is decided on, with its desk, and what is still to be done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from planner.plan import Segment
from scheduler.controller import curve
from scheduler.controller.desk import Desk, afterwards, order_of, phase_without
from scheduler.controller.state import (
    ENDED,
    HOLDING,
    PENDING,
    Cause,
    Phase,
    State,
    Tracked,
    Why,
    end_of,
    notice_seconds,
    rolled,
)

ROLL_PART = 8  # the grid moves on when an eighth of it has passed


@dataclass(slots=True, eq=False)
class Pass:
    """Changes by `put` and its like, which keep jobs and desk in step."""

    state: State  # fleet, queues, grid and time are right; its jobs are those from before
    desk: Desk
    jobs: dict[str, Tracked]
    fresh: set[str] = field(default_factory=set)  # to be decided on
    freed: set[str] = field(default_factory=set)  # nodes on which something was given back
    ended: set[str] = field(default_factory=set)  # jobs that others may have waited for
    rises: dict[str, dict[int, str]] | None = None  # of services, while they stay as they are
    _last_class: tuple[bool, int] | None = None
    _slot: tuple[State, int] | None = None  # of which state, so that it is counted once

    @classmethod
    def of(cls, state: State, desk: Desk | None) -> Pass:
        """A pass over ``state``; without the desk that was kept in step, it makes one."""
        made = cls(state=state, desk=desk or Desk(state), jobs=dict(state.jobs))
        made.desk.now = state.now
        if desk is None:
            made.book_all()
        return made

    @property
    def slot(self) -> int:
        """The slot that it is now."""
        if self._slot is None or self._slot[0] is not self.state:
            self._slot = self.state, self.state.slot
        return self._slot[1]

    @property
    def is_new_slot(self) -> bool:
        """Whether a slot has begun since it was last looked for what is due."""
        return self.state.slot_seen != self.state.grid.time(self.slot)

    def see_slot(self) -> None:
        """What is due in the slot that it is now has been looked for."""
        if self.is_new_slot:
            self.state = replace(self.state, slot_seen=self.state.grid.time(self.slot))

    def put(self, one: Tracked) -> None:
        """The job is as it is said to be now."""
        old = self.jobs.get(one.name)
        if old is not None and old.segments:
            self.desk.drop(one.name)
            if old.holds and not one.holds:
                self.freed.update(old.nodes)
        if one.segments:
            self.desk.book(one)
        if one.then:
            self.desk.book(afterwards(one))
        if one.not_before is not None:
            self.desk.resting.add(one.name)
        if one.scales:
            self.rises = None
            (self.desk.services.add if one.holds else self.desk.services.discard)(one.name)
        self.jobs[one.name] = one

    def forget(self, name: str) -> None:
        """The job is no more."""
        self.put(replace(self.jobs[name], phase=Phase.DONE, segments=(), then=()))
        del self.jobs[name]
        self.fresh.discard(name)

    def unreserve(self, one: Tracked) -> None:
        """What the job was promised does not stand any more: it is decided on again."""
        self.put(replace(one, phase=phase_without(one), segments=()))
        self.fresh.add(one.name)

    def stop(self, one: Tracked, why: Why, by: str = "", then: tuple[Segment, ...] = ()) -> None:
        """Give a job that is on its nodes notice; it has them until then, as far as is known.

        ``then``: what it is promised from that slot on.
        """
        seconds = notice_seconds(one, self.state.settings)
        end = self.first_slot_after(seconds)
        held = [s for s in one.segments if s.end > self.slot or s is one.segments[-1]][:1]
        self.put(
            replace(
                one,
                phase=Phase.STOPPING,
                why=why,
                since=self.state.now,
                evicted_by=(*one.evicted_by, by) if by else one.evicted_by,
                segments=tuple(replace(s, end=max(end, s.start + 1)) for s in held),
                then=then,
            )
        )

    def first_slot_after(self, seconds: float) -> int:
        """The first slot that begins when ``seconds`` have passed."""
        return max(self.slot + 1, self.state.grid.ceil(self.state.now + timedelta(seconds=seconds)))

    # -- a fleet or a time that changes ------------------------------------------------------------

    def rebuild(self, state: State) -> None:
        """Fleet, queues or grid are others now: a new desk; what does not hold is decided anew."""
        self.state = state
        self.desk = Desk(state)
        self.book_all()

    def book_all(self) -> None:
        """What is on its nodes is, wherever they are; promises are kept where there is room."""
        there = {n.name for n in self.state.nodes}
        takes = {n.name for n in self.state.nodes if not n.cordoned}  # something new
        self.desk.now, self.rises = self.state.now, None
        self.desk.services = {n for n, one in self.jobs.items() if one.scales and one.holds}
        self.desk.resting.update(n for n, one in self.jobs.items() if one.not_before is not None)
        for one in self.ranked(one for one in self.jobs.values() if one.holds):
            numbered = self.desk.renumbered(curve.without(one, takes) if one.scales else one)
            self.jobs[one.name] = numbered
            self.desk.book(numbered)
            gone = tuple(node for node in numbered.nodes if node not in there)
            if gone and one.phase is not Phase.STOPPING:
                self._lost(numbered, gone)
        for one in self.ranked(one for one in self.jobs.values() if one.then):
            if self.desk.has_room(afterwards(one)):
                self.desk.book(afterwards(one))
            else:
                self.jobs[one.name] = replace(one, then=())
        for one in self.ranked(one for one in self.jobs.values() if one.phase is Phase.RESERVED):
            if self.desk.has_room(one):
                self.desk.book(one)
            else:
                self.unreserve(one)

    def _lost(self, one: Tracked, gone: tuple[str, ...]) -> None:
        message = f"it ran on {', '.join(gone[:3])}, which is gone"
        self.stop(one, Why(reason=Cause.NODE_LOST, message=message, binds=gone))

    def roll(self) -> None:
        """Move the grid on when an eighth of it has passed; what runs may reach to its new end."""
        if self.slot < max(1, self.state.grid.slots // ROLL_PART):
            return
        state = rolled(replace(self.state, jobs=self.jobs), self.slot)
        self.jobs = {name: self._reaching(one, state) for name, one in state.jobs.items()}
        self.rebuild(state)

    def _reaching(self, one: Tracked, state: State) -> Tracked:
        """What runs longer than the old grid saw holds its nodes to its end, or the new grid's."""
        if one.phase not in (Phase.LAUNCHING, Phase.RUNNING) or not one.segments:
            return one
        old_end = self.state.grid.slots - self.slot
        if one.scales:
            return curve.reaching(one, state.grid, old_end)
        s = one.segments[-1]
        if s.end < old_end:
            return one
        when = end_of(one)
        end = state.grid.slots if when is None else max(s.end, state.grid.ceil(when))
        end = min(end, state.grid.slots, max(s.end, one.job.deadline))
        return replace(one, segments=(*one.segments[:-1], replace(s, end=end)))

    def overruns(self) -> None:
        """What is on its nodes longer than it was to be keeps them; promises give way to it."""
        if not self.is_new_slot:
            return
        slot = self.slot
        late = [o for o in self.jobs.values() if o.holds and o.segments[-1].end <= slot]
        for one in self.ranked(late):
            self.extend(one, slot + 1)

    def extend(self, one: Tracked, end: int) -> None:
        """A job holds its nodes until slot ``end`` at least."""
        last = one.segments[-1]
        end = min(max(end, last.end), self.state.grid.slots)
        if end <= last.end:
            return
        one = self._put_off(one, end)
        longer = replace(one, segments=(*one.segments[:-1], replace(last, end=end)))
        self.hold(longer, (max(last.end, self.slot), end))

    def _put_off(self, one: Tracked, end: int) -> Tracked:
        """What a job is promised once it has stopped begins no sooner than in slot ``end``; what is
        promised to others, who were not stopped for it, gives way."""
        later = max((end - s.start for s in one.then), default=0)
        if later <= 0:
            return one
        moved = tuple(replace(s, start=s.start + later, end=s.end + later) for s in one.then)
        put_off = afterwards(replace(one, then=moved))
        nodes, over = set(put_off.nodes), (one.then[0].start, moved[-1].end)
        self.put(replace(one, then=()))
        for other in self._promised(over):
            if not nodes.isdisjoint(other.nodes):
                self.unreserve(other)
        return replace(one, then=moved if self.desk.has_room(put_off) else ())

    def hold(self, one: Tracked, over: tuple[int, int]) -> None:
        """A job is on its nodes in the slots ``over`` too: what is promised gives way to it."""
        nodes = {*one.nodes, *(spot.node for spot in one.spots)}
        for other in self._promised(over):
            if not nodes.isdisjoint(other.nodes):
                self.unreserve(other)
        for other in [other for other in self.jobs.values() if other.then]:
            there = afterwards(other)
            if not nodes.isdisjoint(there.nodes) and _is_in(there, over):
                self.put(replace(other, then=()))
        self.put(self.desk.renumbered(one) if one.name not in self.jobs else one)
        if not self.desk.is_over_cap(one, over):
            return  # as mostly: nobody is looked for
        for other in reversed(self.ranked(self._promised(over))):
            if not self.desk.is_over_cap(one, over):
                return
            if self.desk.shares_cap(one, other):
                self.unreserve(other)

    def free_dependents(self) -> None:
        """Whoever waited for a job that has ended is decided on: looked for once in a pass."""
        if self.ended:
            self.fresh.update(
                o.name for o in self.pending() if not self.ended.isdisjoint(o.job.after)
            )
            self.ended.clear()

    def _promised(self, over: tuple[int, int]) -> list[Tracked]:
        """Jobs with a promise in some of the slots ``over``."""
        return [
            one for one in self.jobs.values() if one.phase is Phase.RESERVED and _is_in(one, over)
        ]

    # -- order -------------------------------------------------------------------------------------

    def ranked(self, jobs: Iterable[Tracked]) -> list[Tracked]:
        """Higher priority first, then who came first."""
        return sorted(jobs, key=order_of)

    def last_class(self, covered: Mapping[str, frozenset[str]]) -> tuple[bool, int]:
        """The class of those behind all others, of what is known in this pass."""
        if self._last_class is None:
            open_jobs = (one for one in self.jobs.values() if one.phase not in ENDED)
            classes = (class_of(one, covered) for one in open_jobs)
            self._last_class = max(classes, default=(False, 0))
        return self._last_class

    def pending(self) -> Iterator[Tracked]:
        """Jobs that are to run and do not."""
        return (one for one in self.jobs.values() if one.phase in PENDING and not one.deleted)

    def running(self) -> Iterator[Tracked]:
        """Jobs on their nodes that were not told to stop."""
        return (
            one
            for one in self.jobs.values()
            if one.phase in HOLDING and one.phase is not Phase.STOPPING
        )


def _is_in(one: Tracked, over: tuple[int, int]) -> bool:
    """Whether a job has something in some of the slots ``over``."""
    return any(s.start < over[1] and over[0] < s.end for s in one.segments)


def class_of(one: Tracked, covered: Mapping[str, frozenset[str]]) -> tuple[bool, int]:
    """What puts one job ahead of another whoever came first; the lower goes first."""
    return one.name not in covered, -one.job.tier
