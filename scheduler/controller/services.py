"""Services that follow their demand: what they give back is lent, and taken back before it rises.

What a service needs later is booked for it (`scheduler.controller.curve`), so nothing is launched
onto it that would end later. Who saves checkpoints and would have to wait may use it until then:
such a job *borrows*. It is given notice so that it is gone when the service rises, and goes on
where it next fits. Whoever runs longer than it was to is stopped for a service in the same way;
what may not be stopped stays, and the service has fewer replicas than it asks for meanwhile.

A service that has too few places, because a node went or never was free, gets more as soon as there
are some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

from planner.fast import Case, Placed
from planner.plan import Segment
from planner.problem import Demand, Work
from scheduler.controller import curve
from scheduler.controller.passes import Pass
from scheduler.controller.state import Cause, Phase, Tracked, Why, end_of, notice_seconds

SOON = timedelta(hours=1)  # before a rise it is looked at whom it meets
AHEAD_SECONDS = 5.0  # notice is given so much sooner: a pass may come late
WORTH = 2.0  # a job borrows for this many times what its restart and its notice take, at least


def at_its_places(one: Tracked, segments: Sequence[Segment]) -> Tracked:
    """The job with these segments; of a service that scales they say where its peak has room."""
    placed = replace(one, segments=tuple(segments))
    return replace(placed, spots=curve.peak(segments)) if one.scales else placed


def from_now_on(found: Pass, one: Tracked, start: int, before: int = 0) -> Tracked:
    """A service that scales, as its demand takes it from slot ``start`` on; others as they are."""
    if not one.scales:
        return one
    return curve.laid(one, found.state.grid, start, before)


def fewer(found: Pass, one: Tracked, case: Case) -> Tracked | None:
    """A service on fewer places than its peak takes, enough for now; None where these are none."""
    if not one.scales:
        return None
    slot, grid, bare = found.slot, found.state.grid, replace(one, segments=())
    best: tuple[float, Tracked] | None = None
    for way in case.ways:
        spots = found.desk.places(bare, way.mode, way.replicas, way.left)
        room = sum(spot.replicas for spot in spots)
        if not room or curve.held(one.job, way.mode, grid)[slot] > room:
            continue
        whole = Segment(
            job=one.name,
            mode=way.number,
            replicas=room,
            start=slot,
            end=slot + 1,
            work=0.0,
            placement=spots,
        )
        made = from_now_on(found, at_its_places(one, (whole,)), slot)
        spent = found.desk.live.over_budget(one.job, made.segments)
        if not spent and (best is None or way.usd < best[0]):
            best = way.usd, made
    return None if best is None else best[1]


def straighten(found: Pass) -> None:
    """Where somebody is on what a service takes back, all is booked anew: who has which GPU of a
    node is not for us to say, and what is left of it is the same then whoever looks."""
    if any(found.desk.is_strained(found.jobs[name]) for name in found.desk.services):
        found.rebuild(found.state)


# -- a new slot ------------------------------------------------------------------------------------


def turn(found: Pass) -> None:
    """In a new slot services hold what it takes, and what they give back is offered."""
    if not found.is_new_slot or not found.desk.services:
        return
    takes = {n.name for n in found.state.nodes if not n.cordoned}  # something new
    for one in found.ranked(_held(found)):
        left = tuple(s for s in one.segments if s.end > found.slot)
        if not left:
            continue
        now = _with_more(found, curve.without(replace(one, segments=left), takes))
        if now != one:
            before = {p.node: p.replicas for p in one.segments[0].placement}
            after = {p.node: p.replicas for p in now.segments[0].placement}
            found.put(now)
            found.freed.update(node for node, n in before.items() if after.get(node, 0) < n)


def _with_more(found: Pass, one: Tracked) -> Tracked:
    """A service that has too few places with those that there are for it now."""
    mode = one.job.modes[one.segments[0].mode]
    left = found.desk.live.left.get(mode.pool)
    missing = mode.replicas - curve.places(one)
    if missing <= 0 or left is None:
        return one
    more = found.desk.places(one, mode, missing, left)
    if not more:
        return one
    wider = replace(one, spots=curve.joined(one.spots, more))
    return from_now_on(found, wider, found.slot, one.replicas)


def _held(found: Pass) -> Iterator[Tracked]:
    for name in found.desk.services:
        one = found.jobs[name]
        if one.phase in (Phase.LAUNCHING, Phase.RUNNING) and one.segments:
            yield one


# -- what is lent ----------------------------------------------------------------------------------


def take_back(found: Pass) -> None:
    """Stop, with notice, whoever would still be where a service rises."""
    if not found.desk.services:
        return
    soon = found.state.grid.ceil(found.state.now + SOON)
    by_node = {
        node: near
        for node, slots in _rises(found).items()
        if (near := {slot: name for slot, name in slots.items() if slot <= soon})
    }
    if not by_node:
        return
    batch = (o for o in found.running() if isinstance(o.job.need, Work) and o.job.preemptible)
    for one in found.ranked(o for o in batch if not (o.foreign or o.deleted)):
        met = {
            slot: service
            for node in one.nodes
            for slot, service in by_node.get(node, {}).items()
            if _meets(found, one, slot)
        }
        slot = min(met, default=-1)
        if slot < 0 or _ends_by(found, one, slot) or not _is_time(found, one, slot):
            continue
        if one.segments[-1].end == slot and _goes_on(found, one):
            continue
        service = met[slot]
        message = f"{service} takes back for its demand what it had lent"
        why = Why(reason=Cause.RECLAIMED, message=message, binds=(service,))
        found.stop(one, why, by=service)


def _rises(found: Pass) -> dict[str, dict[int, str]]:
    """By node and slot, the service that takes more of it from then on."""
    if found.rises is not None:
        return found.rises
    by_node: dict[str, dict[int, str]] = {}
    for one in found.ranked(_held(found)):
        for node, slots in curve.rises(one).items():
            for slot in slots:
                by_node.setdefault(node, {}).setdefault(slot, one.name)
        first = one.segments[0]
        for place in first.placement if first.start == found.slot else ():
            by_node.setdefault(place.node, {}).setdefault(first.start, one.name)
    found.rises = by_node
    return by_node


def _meets(found: Pass, one: Tracked, slot: int) -> bool:
    """Whether a job has its nodes just up to ``slot``, or beyond it without room for both."""
    if slot < found.slot or one.segments[0].start >= slot:
        return False
    end = one.segments[-1].end
    return slot == end or (slot < end and found.desk.is_overtaken(one, slot))


def _ends_by(found: Pass, one: Tracked, slot: int) -> bool:
    """Whether a job is expected to have done its work by then."""
    when = end_of(one)
    return when is not None and found.state.now < when <= found.state.grid.time(slot)


def _is_time(found: Pass, one: Tracked, slot: int) -> bool:
    seconds = notice_seconds(one, found.state.settings) + AHEAD_SECONDS
    return (found.state.grid.time(slot) - found.state.now).total_seconds() <= seconds


def _goes_on(found: Pass, one: Tracked) -> bool:
    """Whether there is room for a job for a slot more, beside the service; then it has it."""
    last = one.segments[-1]
    longer = replace(last, start=last.end, end=last.end + 1)
    if last.end >= found.state.grid.slots or not found.desk.has_room(
        replace(one, segments=(longer,))
    ):
        return False
    found.put(replace(one, segments=(*one.segments[:-1], replace(last, end=last.end + 1))))
    return True


def until_a_rise(found: Pass, one: Tracked, end: int) -> int:
    """The slot up to which a job may have its nodes longer: ``end``, or when a service rises."""
    last = one.segments[-1].end
    if not found.desk.services or isinstance(one.job.need, Demand):
        return end
    by_node = _rises(found)
    rises = (t for node in one.nodes for t in by_node.get(node, {}))
    return min((t for t in rises if last <= t < end), default=end)


def borrow(found: Pass, one: Tracked, case: Case, before: int) -> Placed | None:
    """How a job that would have to wait may start now on what services do not need yet.

    It is booked until one of them rises, by slot ``before`` at the latest, as long as can be.
    """
    if not found.desk.services or not one.job.may_stop:
        return None
    saving, grid, now = one.job.interruption, found.state.grid, found.state.now
    least = WORTH * (saving.restart_seconds + notice_seconds(one, found.state.settings))
    first = grid.ceil(now + timedelta(seconds=least))
    rises = {t for slots in _rises(found).values() for t in slots}
    for end in sorted((t for t in rises if first <= t <= before), reverse=True):
        shorter = found.desk.until(case, found.slot, end)
        placed = None if shorter is None else found.desk.start_at(shorter, found.slot)
        if placed is not None:
            return placed
    return None
