"""What is left of a state's fleet, slot by slot, and where a job may go: the planner's fast path.

A `Desk` is the one mutable value of the decision: `planner.live` with what every job of the state
holds or is promised, kept in step as these change. A desk made anew from a state answers as one
that was kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from operator import is_

import numpy as np

from planner.fast import Case, Placed, case_of, decide_case, start_at
from planner.inventory import Request
from planner.live import Left, Live
from planner.place import Refused, place, rooms
from planner.plan import Placement, Reason, Segment, Unplaced
from planner.problem import GPU_MILLI, Demand, Job, Mode, Problem, Work, hours_for, hours_of
from planner.ways import Way, columns_of
from scheduler.controller import curve
from scheduler.controller.quotas import Claim, Order, covered
from scheduler.controller.state import (
    ENDED,
    Cause,
    Phase,
    State,
    Tracked,
    asked,
    counted_milli,
    work_left,
)

HOPELESS = (
    *(Reason.NO_OPTION, Reason.WINDOW, Reason.DEPENDENCY, Reason.BUDGET, Reason.NOT_WORTH),
    Cause.IDLE,
)


Size = tuple[int, float, int, float]  # pool, money, slots, GPUs


class Desk:
    """What is left beside the jobs that are booked; nothing is booked at first."""

    def __init__(self, state: State) -> None:
        self.grid = state.grid
        self.now = state.now  # each pass sets it
        pools = tuple(replace(p, startup_seconds=0) for p in state.pools)  # its nodes are up
        queues = tuple(rules.queue for rules in state.queues)
        problem = Problem(grid=state.grid, pools=pools, nodes=state.nodes, jobs=(), queues=queues)
        self.live = Live(problem)
        self.pools = problem.pool_by_name
        self.queues = queues
        self.rules = {rules.queue.name: rules for rules in state.queues}
        self._cases: dict[str, tuple[object, Case]] = {}
        self._shapes: dict[object, int] = {}
        self._sizes: dict[str, tuple[Job, float, int, list[Size]]] = {}
        self.resting: set[str] = set()  # jobs that failed, and are not tried before some time
        self.services: set[str] = set()  # that scale, and hold their nodes
        self.reprice(state)

    # -- what is held ------------------------------------------------------------------------------

    def book(self, one: Tracked) -> None:
        """Take what a job holds, or is promised; the caller has seen that it fits."""
        segments = tuple(s for s in map(self._visible, one.segments) if s.start < s.end)
        if segments and one.mode is not None and one.mode.pool in self.live.left:
            self.live.book(one.job, segments)

    def drop(self, name: str) -> None:
        """Give back what the job called ``name`` has, if anything."""
        for each in (name, _moved_name(name)):
            if each in self.live.booked:
                self.live.release(each)

    def reprice(self, state: State) -> None:
        """Use the prices of a state's last plan from now on."""
        since, tolls = state.prices_grid, state.queue_prices
        if tolls != self.live.queue_prices:
            self._cases.clear()  # they know the prices of queues
        self.live.reprice(state.prices, since=since, queue_prices=tolls)

    def _visible(self, s: Segment) -> Segment:
        """What of a segment is on the grid, and on nodes and GPUs that could take something."""
        known = tuple(found for p in s.placement if (found := self._there(p)) is not None)
        return replace(s, start=max(0, s.start), end=min(s.end, self.grid.slots), placement=known)

    def _there(self, p: Placement) -> Placement | None:
        """A place without the GPUs that its node has no more, which its pool has no column for."""
        where = self._where(p.node)
        if where is None or where[0].nodes[where[1]].cordoned:
            return None
        most = where[0].gpu_milli.shape[2]
        if max(p.devices, default=0) < most:
            return p
        return replace(p, devices=tuple(d for d in p.devices if d < most))

    def _where(self, node: str) -> tuple[Left, int] | None:
        for left in self.live.left.values():
            if (row := left.number.get(node)) is not None:
                return left, row
        return None

    def _caps(self, one: Tracked) -> set[int]:
        """Rows of what queues may hold that count what a job holds."""
        pool = self.pools.get(one.mode.pool) if one.mode is not None else None
        return set() if pool is None else set(self.live.cap_rows(one.job.queue, pool.accelerator))

    def is_over_cap(self, one: Tracked, over: tuple[int, int]) -> bool:
        """Whether queues hold more than they may in some of the slots ``over``, ``one`` counted."""
        return any(int(self.live.rows[row, over[0] : over[1]].min()) < 0 for row in self._caps(one))

    def shares_cap(self, one: Tracked, other: Tracked) -> bool:
        """Whether two jobs count against the same limit of a queue, or what others keep back."""
        return not self._caps(one).isdisjoint(self._caps(other))

    def has_room(self, one: Tracked) -> bool:
        """Whether what a job is promised is free, now that it is not booked."""
        mode = one.mode
        if mode is None or (left := self.live.left.get(mode.pool)) is None:
            return False
        caps = self.live.cap_rows(one.job.queue, left.pool.accelerator)
        for s in one.segments:
            a, b = max(0, s.start), min(s.end, self.grid.slots)
            if a >= b or not all(self._free(left, one.job, s, p, a, b) for p in s.placement):
                return False
            takes = s.replicas * left.pool.counted_milli(mode.amounts)
            if any(int(self.live.rows[row, a:b].min()) < takes for row in caps):
                return False
        return True

    def _free(self, left: Left, job: Job, s: Segment, p: Placement, a: int, b: int) -> bool:
        row = left.number.get(p.node)
        if row is None or not left.there[a:b, row].all():
            return False
        amounts = job.modes[s.mode].amounts
        if int(left.cpu_milli[a:b, row].min()) < p.replicas * amounts.cpu_milli:
            return False
        if int(left.memory_bytes[a:b, row].min()) < p.replicas * amounts.memory_bytes:
            return False
        milli = min(amounts.gpu_milli, GPU_MILLI)
        devices = left.gpu_milli.shape[2]
        return all(
            d < devices
            and int(left.gpu_milli[a:b, row, d].min()) >= count * milli
            and int(left.gpu_memory_bytes[a:b, row, d].min()) >= count * amounts.gpu_memory_bytes
            for d, count in Counter(p.devices).items()
        )

    def is_strained(self, one: Tracked) -> bool:
        """Whether more is booked somewhere on a service's nodes, from now on, than there is."""
        slot = max(0, self.grid.floor(self.now))
        for p in one.spots:
            if (where := self._where(p.node)) is not None:
                left, row = where
                if int(left.gpu_milli[slot:, row].min(initial=0)) < 0:
                    return True
        return False

    def is_overtaken(self, one: Tracked, slot: int) -> bool:
        """Whether more is booked in ``slot`` of what a job holds than there is."""
        for p in one.segments[-1].placement:
            if (where := self._where(p.node)) is None:
                continue
            left, row = where
            has = (left.cpu_milli[slot, row], left.memory_bytes[slot, row])
            most = left.gpu_milli.shape[2]
            if min(has) < 0 or any(left.gpu_milli[slot, row, d] < 0 for d in p.devices if d < most):
                return True
        return False

    def renumbered(self, one: Tracked) -> Tracked:
        """The job with other GPU numbers on its nodes, where others have those that it had.

        Which GPU of a node a pod gets is for the node to say: what counts is how many are left.
        """
        mode = one.mode
        if mode is None or (left := self.live.left.get(mode.pool)) is None or mode.amounts.mig:
            return one
        if one.scales:
            return self._renumbered_places(left, one)
        segments = tuple(
            replace(s, placement=tuple(self._moved(left, one.job, s, p) for p in s.placement))
            for s in one.segments
        )
        return one if segments == one.segments else replace(one, segments=segments)

    def _renumbered_places(self, left: Left, one: Tracked) -> Tracked:
        """The same of a service, for all the time that it has its places."""
        ahead = [self._visible(s) for s in one.segments]
        spans = ((s, max(0, s.start), min(s.end, self.grid.slots)) for s in ahead)
        if all(
            a >= b or self._free(left, one.job, s, p, a, b)
            for s, a, b in spans
            for p in s.placement
        ):
            return one
        whole = replace(one.segments[0], end=one.segments[-1].end)
        spots = tuple(self._moved(left, one.job, whole, p) for p in one.spots)
        return one if spots == one.spots else curve.moved(one, spots)

    def _moved(self, left: Left, job: Job, s: Segment, p: Placement) -> Placement:
        a, b = max(0, s.start), min(s.end, self.grid.slots)
        row = left.number.get(p.node)
        if row is None or a >= b or self._free(left, job, s, p, a, b):
            return p
        milli = min(job.modes[s.mode].amounts.gpu_milli, GPU_MILLI)
        free = left.gpu_milli[a:b, row].min(axis=0).astype(np.int64)
        found: list[int] = []
        for wanted in p.devices:
            order = sorted(range(free.size), key=lambda d: (d != wanted, free[d], d))
            device = next((d for d in order if milli and free[d] >= milli), None)
            if device is None:
                return p  # there are too few: it is on the node all the same
            free[device] -= milli
            found.append(device)
        return replace(p, devices=tuple(sorted(found)))

    # -- where a job may go ------------------------------------------------------------------------

    def case(self, one: Tracked, after: tuple[str, ...], now: datetime) -> Case | Unplaced:
        """The ways to run what a job has left, begun no sooner than ``now``, or why there is none.

        A way takes as long as its work, the restoring of a checkpoint, and what has passed of the
        current slot. ``after``: what has to end first.
        """
        slot = max(0, self.grid.floor(now))
        job = replace(asked(one, self.grid, slot), after=after)
        if isinstance(job.need, Demand) and not one.scales:
            job = _at_its_peak(job)
        found = self._case_of(one, job)
        if isinstance(found, Unplaced):
            return found
        lead_seconds = (now - self.grid.time(slot)).total_seconds()
        lead_seconds += job.interruption.restart_seconds if one.attempt else 0.0
        longer = [self._longer(job, way, lead_seconds) for way in found.ways]
        if all(map(is_, longer, found.ways)):
            return found
        kept = [w for w, way in enumerate(longer) if way.last >= job.release]
        if not kept:
            pools = tuple(dict.fromkeys(way.left.pool.name for way in found.ways))
            message = "too little time is left for it"
            return Unplaced(job=job.name, reason=Reason.WINDOW, message=message, binds=pools)
        ways = [longer[w] for w in kept]
        if len(kept) < len(longer):
            columns = columns_of(self.live, job, ways)
        else:
            columns = found.columns._replace(
                length=np.array([way.length for way in ways]),
                last=np.array([way.last for way in ways]),
            )
        return Case(job, ways, columns, max(way.last for way in ways))

    def _case_of(self, one: Tracked, job: Job) -> Case | Unplaced:
        """The ways of ``job`` from its work alone; the same again for as long as that is the same.

        What is not a way on an empty fleet is not remembered: there, its message tells the time.
        """
        key = (
            *(job.need, job.deadline, job.queue, job.unplaced_usd, job.max_cost_usd),
            *(job.required, job.preemptible, one.pinned, job.modes),
        )
        known = self._cases.get(one.name)
        if known is not None and known[0] == key and known[1].latest >= job.release:
            return known[1]._replace(job=job)
        found = case_of(self.live, job)
        if isinstance(found, Unplaced):
            return found
        if one.pinned:
            ways = [_pinned(way, one.pinned) for way in found.ways]
            found = found._replace(ways=ways)
        self._cases[one.name] = key, found
        return found

    def _longer(self, job: Job, way: Way, seconds: float) -> Way:
        """The way with ``seconds`` more to take; too late a last start is left in it."""
        if not isinstance(job.need, Work):
            return way
        length = self.grid.slots_for(hours_of(job, way.mode) + seconds / 3600)
        if length == way.length and way.last >= job.release:
            return way
        last = min(job.deadline, self.grid.slots) - length
        return way._replace(length=length, last=last)

    def decide(self, case: Case, slot: int) -> Placed | Unplaced:
        """Where the job goes from ``slot`` on."""
        return decide_case(self.live, case, slot)

    def until(self, case: Case, slot: int, end: int) -> Case | None:
        """Those ways of the case that take longer than to ``end``, cut there; None: there is none.

        What they do not get done then is done later.
        """
        ways = [
            way._replace(length=end - slot, last=max(way.last, slot))
            for way in case.ways
            if way.length > end - slot
        ]
        if not ways:
            return None
        return Case(case.job, ways, columns_of(self.live, case.job, ways), case.latest)

    def places(self, one: Tracked, mode: Mode, most: int, left: Left) -> tuple[Placement, ...]:
        """Up to ``most`` places more for a service's replicas, free from now on, as they come.

        None for a service whose replicas have to stand together: they have all been placed at once.
        """
        start, end = max(0, self.grid.floor(self.now)), min(one.job.deadline, self.grid.slots)
        if start >= end or mode.together or mode.amounts.mig:
            return ()
        inventory = self.live.over(left, start, end)
        taken = one.nodes if mode.spread else ()
        allowed = [
            n.name not in taken and (not one.pinned or n.name in one.pinned) for n in left.nodes
        ]
        inventory = replace(inventory, open=inventory.open & np.array(allowed, dtype=bool))
        each = left.pool.counted_milli(mode.amounts)
        for row in self.live.cap_rows(one.job.queue, left.pool.accelerator):
            most = min(most, int(self.live.rows[row, start:end].min()) // max(1, each))
        wanted = Request(amounts=mode.amounts, replicas=max(1, most), spread=mode.spread)
        most = min(most, int(rooms(inventory, wanted).sum()))
        if most < 1:
            return ()
        found = place(inventory, replace(wanted, replicas=most))
        if isinstance(found, Refused):
            return ()
        return tuple(
            Placement(node=left.nodes[s.row].name, replicas=s.replicas, devices=s.devices)
            for s in sorted(found, key=lambda s: s.row)
        )

    def start_at(self, case: Case, slot: int) -> Placed | None:
        """How the job could start in just that slot, if it can and if that is worth it."""
        found = start_at(self.live, case, slot)
        return found if isinstance(found, Placed) else None

    def free(self, pools: Iterable[str], slot: int) -> dict[str, tuple[int, int]]:
        """What pools have free in ``slot``, by sums: whole GPUs, and thousandths of GPUs."""
        found = {}
        for name in pools:
            if (left := self.live.left.get(name)) is not None:
                rows = self.live.rows[left.row : left.row + 2, slot]
                found[name] = int(rows[0]), int(rows[1])
        return found

    def may_gain(self, one: Tracked, free: Mapping[str, tuple[int, int]], slot: int) -> bool:
        """Whether some mode fits in what is ``free`` in ``slot``, by sums, and may be worth it.

        That is, costs no more than what the job is promised; where not all of the cost is looked at
        here, it may.
        """
        promised = math.inf
        sizes = self._sizes_of(one)
        for number, mode in enumerate(one.job.modes):
            has = free.get(mode.pool)
            if has is None or not _fits_in(mode, *has):
                continue
            if promised == math.inf and one.segments:
                promised = self._rough_usd(one.job, sizes, one.segments[0])
            now = Segment(job="", mode=number, replicas=0, start=slot, end=0, work=0.0)
            if self._rough_usd(one.job, sizes, now) <= promised + 1e-6:
                return True
        return False

    def shape(self, one: Tracked) -> int:
        """A number that two jobs share where the one has no room if the other has none."""
        self._sizes_of(one)
        return self._sizes[one.name][2]

    def _sizes_of(self, one: Tracked) -> list[Size]:
        known = self._sizes.get(one.name)
        if known is not None and known[0] is one.job and known[1] == one.work_done:
            return known[3]
        shape = self._shapes.setdefault(_shape(one), len(self._shapes))
        found = [self._size(one, mode) for mode in one.job.modes]
        self._sizes[one.name] = one.job, one.work_done, shape, found
        return found

    def _size(self, one: Tracked, mode: Mode) -> Size:
        """Of a mode: which pool, its money, its length and its GPUs; no length: not looked at."""
        left = self.live.left.get(mode.pool)
        if left is None or isinstance(one.job.need, Demand):
            return 0, 0.0, 0, 0.0
        hours = hours_for(work_left(one), mode)
        if hours > self.grid.slots * self.grid.slot_hours / 2:
            return 0, 0.0, 0, 0.0
        money = hours * mode.replicas * mode.usd_per_replica_hour
        gpus = mode.replicas * mode.amounts.gpu_milli / GPU_MILLI
        return left.index, money, self.grid.slots_for(hours), gpus

    def _rough_usd(self, job: Job, sizes: list[Size], s: Segment) -> float:
        """Money, lateness and what it takes at shadow prices; 0 where these are not all."""
        pool, money, length, gpus = sizes[s.mode]
        if not length or self.live.queue_prices:
            return 0.0
        end = min(self.grid.slots, s.start + length)
        late = 0 if job.due is None else max(0, end - job.due)
        late_usd = late * self.grid.slot_hours * job.lateness_usd_per_hour
        taken = gpus * float(self.live.dear[pool, end] - self.live.dear[pool, s.start])
        return money + late_usd + taken

    # -- who goes first ----------------------------------------------------------------------------

    def covered(self, jobs: Iterable[Tracked]) -> dict[str, frozenset[str]]:
        """The accelerators on which each job is within a guarantee (`quotas.covered`)."""
        if not any(n for q in self.queues for _, n in q.guaranteed):
            return {}
        return covered(self.queues, [c for one in jobs if (c := self._claim(one)) is not None])

    def _claim(self, one: Tracked) -> Claim | None:
        if one.phase in ENDED or one.deleted or not one.job.queue:
            return None
        if not one.holds and one.why.reason in HOPELESS:
            return None
        modes = (one.mode,) if one.holds and one.mode is not None else one.job.modes
        milli: dict[str, int] = {}
        for mode in modes:
            if (pool := self.pools.get(mode.pool)) is not None:
                takes = counted_milli(mode, pool)
                milli[pool.accelerator] = min(takes, milli.get(pool.accelerator, takes))
        return Claim(job=one.name, queue=one.job.queue, order=order_of(one), milli=milli)


def afterwards(one: Tracked) -> Tracked:
    """A job that is moved, as what it is promised once it has stopped: beside what it holds."""
    job = replace(one.job, name=_moved_name(one.name))
    return replace(one, job=job, phase=Phase.RESERVED, segments=one.then, then=())


def _moved_name(name: str) -> str:
    return f"{name} (moved)"


def order_of(one: Tracked) -> Order:
    """Higher priority first, then who came first."""
    return -one.job.tier, one.arrived, one.name


def _shape(one: Tracked) -> object:
    """What two jobs have to share for the one to have no room where the other has none."""
    gangs = tuple(
        (m.pool, m.replicas, m.amounts, m.together, m.together_required, m.spread)
        for m in one.job.modes
    )
    return one.job.queue, one.pinned, one.job.required, gangs


def _fits_in(mode: Mode, whole: int, milli: int) -> bool:
    """Whether a gang fits in so many whole GPUs, or thousandths where it takes shares."""
    each = mode.amounts.gpu_milli
    if each % GPU_MILLI:
        return mode.replicas * each <= milli
    return mode.replicas * each <= GPU_MILLI * whole


def _at_its_peak(job: Job) -> Job:
    """A service that asks for the most of its demand throughout: what it holds does not change."""
    assert isinstance(job.need, Demand)
    peak = max(job.need.per_slot[job.release : job.deadline], default=0.0)
    return replace(job, need=replace(job.need, per_slot=(peak,) * len(job.need.per_slot)))


def _pinned(way: Way, nodes: tuple[str, ...]) -> Way:
    """The way on some of its pool's nodes only."""
    left = way.left
    allowed = np.array([n.name in nodes for n in left.nodes], dtype=bool)
    whole = replace(left.whole, open=left.whole.open & allowed)
    return way._replace(left=replace(left, there=left.there & allowed, whole=whole))


def phase_without(one: Tracked) -> Phase:
    """The phase of a job that has no place: it waits to start, or to go on."""
    return Phase.SUSPENDED if one.attempt else Phase.WAITING
