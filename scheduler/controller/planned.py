"""A plan of the whole queue arrives: what of it still holds is adopted.

The plan was asked for some moments ago. Its shadow prices are used from now on. Each job that waits
is promised what the plan has for it, in order of start, where that is still free beside what has
started meanwhile; the rest is decided on one by one, as new arrivals are. A job that is planned in
several stretches is decided on so too.

What runs is moved only where the plan has it elsewhere, the move pays by `planner.churn`, and there
is room for it where it is to go: it is stopped with notice, and promised that room from then on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from planner import churn
from planner.plan import Plan, Segment, Status, Unplaced
from planner.problem import Demand, Grid, Problem
from scheduler.controller import services
from scheduler.controller.passes import Pass
from scheduler.controller.state import (
    Cause,
    Phase,
    PlanArrived,
    Tracked,
    Why,
    is_idle,
    notice_seconds,
)

Places = dict[str, tuple[Segment, ...]]

LATER = 2  # slots: what began inside a slot ends later than a plan, which begins slots, has it


def adopt(found: Pass, event: PlanArrived) -> None:
    """Promise what ``event`` plans, and stop what it pays to move."""
    plan = event.plan
    found.state = replace(
        found.state, prices=plan.prices, queue_prices=plan.queue_prices, prices_grid=event.grid
    )
    found.desk.reprice(found.state)
    places = _places(plan.segments, event.grid, found.state.grid)
    _promise(found, places)
    _move(found, plan, places)
    found.fresh.update(one.name for one in found.pending() if one.phase is not Phase.RESERVED)


def _places(segments: Iterable[Segment], since: Grid, grid: Grid) -> Places:
    """By job, on ``grid``; none where the slots of the two do not fit together."""
    seconds = (since.start - grid.start).total_seconds()
    if since.slot_seconds != grid.slot_seconds or seconds % grid.slot_seconds:
        return {}
    later = int(seconds // grid.slot_seconds)
    places: Places = {}
    for s in segments:
        shifted = replace(s, start=s.start + later, end=s.end + later)
        places[s.job] = (*places.get(s.job, ()), shifted)
    return places


# -- what waits ------------------------------------------------------------------------------------


def _promise(found: Pass, places: Places) -> None:
    promised = [one for one in found.pending() if one.phase is Phase.RESERVED]
    for one in promised:
        found.desk.drop(one.name)
    planned = [
        (place.start, one.name, place)
        for one in found.pending()
        if (place := _place(found, one, places.get(one.name, ()))) is not None
    ]
    kept = {name for _, name, place in sorted(planned, key=lambda p: p[:2]) if _keeps(found, place)}
    for one in found.ranked(one for one in promised if one.name not in kept):
        if found.desk.has_room(one):
            found.desk.book(one)
        else:
            found.unreserve(one)


def _keeps(found: Pass, place: Segment) -> bool:
    """Promise a place, or the same a little later; whether there is room for that."""
    one = found.jobs[place.job]
    last = min(one.job.deadline if one.has_deadline else found.state.grid.slots, place.end + LATER)
    for later in range(last - place.end + 1):
        held = replace(place, start=place.start + later, end=place.end + later)
        reserved = services.at_its_places(one, (held,))
        reserved = services.from_now_on(found, reserved, held.start)
        if found.desk.has_room(reserved):
            why = Why(reason=Cause.PLACED, message="by the plan of the whole queue")
            since = one.since if one.phase is Phase.RESERVED else found.state.now
            found.put(replace(reserved, phase=Phase.RESERVED, why=why, since=since))
            if held.start <= found.slot:
                found.fresh.add(one.name)  # its start has come
            else:
                found.fresh.discard(one.name)
            return True
    return False


def _place(found: Pass, one: Tracked, segments: tuple[Segment, ...]) -> Segment | None:
    """What the plan has for a job that waits, from now on and as long as it takes from now on."""
    if (
        not segments
        or one.deleted
        or is_idle(one)
        or (one.not_before or found.state.now) > found.state.now
    ):
        return None
    if one.pinned and not {p.node for s in segments for p in s.placement} <= set(one.pinned):
        return None
    after = tuple(n for n in one.job.after if n not in found.jobs or not _done(found, n))
    case = found.desk.case(one, after, found.state.now)
    if isinstance(case, Unplaced):
        return None
    peak = max(segments, key=lambda s: s.replicas)
    if len(segments) > 1 and not isinstance(one.job.need, Demand):
        return None
    length = next((w.length for w in case.ways if w.number == peak.mode), None)
    if length is None:
        return None
    start = max(found.slot, segments[0].start)
    ends = [found.desk.live.end(name) for name in after]
    if any(end is None or end > start for end in ends):
        return None
    return replace(peak, start=start, end=min(start + length, found.state.grid.slots))


def _done(found: Pass, name: str) -> bool:
    return found.jobs[name].phase is Phase.DONE


# -- what runs -------------------------------------------------------------------------------------


def _move(found: Pass, plan: Plan, places: Places) -> None:
    """Stop what the plan has elsewhere, where that pays."""
    running = [
        one for one in found.running() if one.phase is Phase.RUNNING and _elsewhere(one, places)
    ]
    if not running:
        return
    problem = replace(found.state, jobs=found.jobs).problem()
    names = {one.name for one in running if one.name in problem.job_by_name}
    old = Plan(status=Status.FEASIBLE, segments=tuple(_now(found, problem, n) for n in names))
    ahead = tuple(
        replace(s, start=max(0, s.start - found.slot), end=s.end - found.slot)
        for name in sorted(names)
        for s in places[name]
        if s.end > found.slot
    )
    new = replace(plan, segments=ahead)
    for move in churn.moved(old, new, problem):
        one = found.jobs[move.job]
        if move.pays and (to := _where_to_go(found, one)):
            message = f"it costs ${move.saving_usd - move.price_usd:,.2f} less elsewhere"
            found.stop(one, Why(reason=Cause.MOVED, message=message), then=to)


def _elsewhere(one: Tracked, places: Places) -> bool:
    """Whether a job that may be moved is planned on other nodes, or in another mode."""
    planned = places.get(one.name)
    if not planned or one.foreign or one.deleted or not one.job.may_stop:
        return False
    nodes = tuple(sorted({p.node for s in planned for p in s.placement}))
    return (planned[0].mode, nodes) != (one.segments[0].mode, one.nodes)


def _now(found: Pass, problem: Problem, name: str) -> Segment:
    """Where a job runs, with the work that it has left there."""
    held = found.jobs[name].segments[0]
    need = problem.job_by_name[name].need
    done = problem.running_by_job[name].work_done
    assert not isinstance(need, Demand)
    end = min(held.end - found.slot, problem.grid.slots)
    return replace(held, start=0, end=max(1, end), work=need.amount - done)


def _where_to_go(found: Pass, one: Tracked) -> tuple[Segment, ...]:
    """Where the job could go on as soon as it was stopped; nothing: nowhere else."""
    resting = replace(one, segments=(), phase=Phase.SUSPENDED)
    case = found.desk.case(resting, (), found.state.now)
    if isinstance(case, Unplaced):
        return ()
    slot = found.first_slot_after(notice_seconds(one, found.state.settings))
    placed = found.desk.start_at(case, slot)  # beside what it holds itself: not there again
    return () if placed is None else placed.segments
