"""Why a job is not in a plan, and what binds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from planner import cost, placement
from planner.booking import Booking
from planner.guarantees import in_words
from planner.occupancy import Occupancy
from planner.plan import Reason, Unplaced
from planner.problem import Job, Problem
from planner.quotas import Cap
from planner.table import Option, Table, spendable_usd

MOST_HOLDERS = 8  # named as what stands in a job's way


def why_not(table: Table, bookings: Mapping[int, Booking], proved: bool) -> Iterator[Unplaced]:
    """A reason for each job without a booking, by name. ``proved``: the plan is optimal."""
    occupancy = Occupancy(table)
    for booking in bookings.values():
        occupancy.take(booking)
    held = _held(table, bookings)
    jobs = table.problem.jobs
    for j in sorted(set(range(len(jobs))) - set(bookings), key=lambda j: jobs[j].name):
        yield _reason(table, occupancy, bookings, held, j, proved)


def _reason(
    table: Table,
    occupancy: Occupancy,
    bookings: Mapping[int, Booking],
    held: _Held,
    j: int,
    proved: bool,
) -> Unplaced:
    job = table.problem.jobs[j]
    if not table.of_job[j]:
        return impossible(table, j)
    missing = [b for b in table.after[j] if b not in bookings]
    if missing:
        names = tuple(table.problem.jobs[b].name for b in missing)
        return Unplaced(
            job=job.name,
            reason=Reason.DEPENDENCY,
            message=f"waits for {', '.join(names)}, which is not in the plan",
            binds=names,
        )
    return _crowded_out(table, occupancy, bookings, held, j, proved)


def impossible(table: Table, j: int) -> Unplaced:
    """Why job ``j``, which has no option, could not run on an empty fleet."""
    return _no_option(table, j) if table.problem.jobs[j].modes else no_mode(table.problem.jobs[j])


def no_mode(job: Job) -> Unplaced:
    """Why no pool can run the job: what excluded most of them."""
    counts = Counter(e.reason for e in job.excluded)
    lead = counts.most_common(1)[0][0] if counts else ""
    first = next((e for e in job.excluded if e.reason == lead), None)
    looked_at = len({e.pool for e in job.excluded})
    more = f" ({looked_at} pools looked at)" if looked_at > 1 else ""
    return Unplaced(
        job=job.name,
        reason=Reason.NO_OPTION,
        message=(f"{first.pool}: {first.message}{more}" if first else "no pool to run on"),
        binds=tuple(sorted({e.pool for e in job.excluded})),
    )


def _no_option(table: Table, j: int) -> Unplaced:
    job, problem = table.problem.jobs[j], table.problem
    reasons = {m: table.dropped[j, m] for m in range(len(job.modes))}
    why = next(
        r
        for r in (
            Reason.NOT_WORTH,
            Reason.BUDGET,
            Reason.QUEUE_LIMIT,
            Reason.WINDOW,
            Reason.NO_OPTION,
        )
        if r in reasons.values()
    )
    modes = [job.modes[m] for m, r in reasons.items() if r is why]
    slots = max(0, min(job.deadline, problem.grid.slots) - job.release)
    hours = slots * problem.grid.slot_hours
    spendable = spendable_usd(problem, job)
    message = {
        Reason.NOT_WORTH: f"it costs more than the ${job.unplaced_usd:,.2f} of not running it",
        Reason.BUDGET: f"every way to run it costs more than ${spendable:,.2f}, all it may spend",
        Reason.QUEUE_LIMIT: f"it needs more GPUs at once than queue {job.queue} may have",
        Reason.WINDOW: f"no way to run it fits the {hours:.4g} h from its start to its deadline",
        Reason.NO_OPTION: "its gang fits none of the pools that it may use",
    }[why]
    return Unplaced(
        job=job.name, reason=why, message=message, binds=tuple(sorted({m.pool for m in modes}))
    )


def _crowded_out(
    table: Table,
    occupancy: Occupancy,
    bookings: Mapping[int, Booking],
    held: _Held,
    j: int,
    proved: bool,
) -> Unplaced:
    job, problem = table.problem.jobs[j], table.problem
    ready = max((bookings[b].end(table) for b in table.after[j]), default=0)
    options = [table.options[i] for i in table.of_job[j]]
    pools = tuple(dict.fromkeys(problem.pools[o.pool].name for o in options))
    room = [b for o in options if (b := placement.earliest(occupancy, o, first=ready)) is not None]
    if room:
        usd = min(_extra_usd(table, bookings, j, booking) for booking in room)
        if usd < job.unplaced_usd:
            message = "the search found no better place for it"
            return _unplaced(job, Reason.NOT_FOUND, message, pools)
        message = f"the room left costs ${usd:,.2f}, not running it ${job.unplaced_usd:,.2f}"
        return _unplaced(job, Reason.NOT_WORTH, message, pools)
    if (queue := queue_in_the_way(occupancy, options, ready)) is not None:
        return _unplaced(job, queue.reason, queue.used_up, queue.names)
    proof = "" if proved else " (as far as the search found)"
    found = full(job, pools, tuple(_holders(held, options)), proof)
    there = [problem.job_by_name[name] for name in found.binds if name in problem.job_by_name]
    more = guarantees_in_the_way(problem, job, there)
    return replace(found, message=found.message + more)


def full(job: Job, pools: tuple[str, ...], holders: tuple[str, ...], proof: str) -> Unplaced:
    """``holders`` fill ``pools`` when the job could run; ``proof`` says how sure that is."""
    if not holders:
        message = f"{' and '.join(pools[:3])}: too few nodes at any time when it could run"
        return _unplaced(job, Reason.WINDOW, message, pools)
    lead = ", ".join(holders[:3]) + (" and others" if len(holders) > 3 else "")
    are = "is full" if len(pools) == 1 else "are full"
    message = f"{' and '.join(pools[:3])} {are} when it could run: {lead}{proof}"
    return _unplaced(job, Reason.CAPACITY, message, (*pools, *holders))


def guarantees_in_the_way(problem: Problem, job: Job, others: Sequence[Job]) -> str:
    """What is said behind a reason: ``job`` is guaranteed room, or another queue's job there is."""
    if job.guarantee:
        return f", though it is {in_words(problem, job)}"
    own = problem.queue_path(job.queue)
    over = (o for o in others if o.guarantee and o.guarantee not in own and o.tier <= job.tier)
    first = next(over, None)
    return f"; {first.name} is {in_words(problem, first)}" if first else ""


def _unplaced(job: Job, reason: Reason, message: str, binds: tuple[str, ...]) -> Unplaced:
    return Unplaced(job=job.name, reason=reason, message=message, binds=binds)


def _extra_usd(table: Table, bookings: Mapping[int, Booking], j: int, booking: Booking) -> float:
    """What the plan would cost more with ``booking`` of job ``j``, not running it apart."""
    without, within = (
        cost.costs(table.problem, placement.unnamed_segments(table, held), ())
        for held in (bookings.values(), {**bookings, j: booking}.values())
    )
    return within.objective - without.objective


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueInTheWay:
    """A limit, a budget, or what other queues keep back, that leaves no room for a job."""

    reason: Reason
    names: tuple[str, ...]  # the queue, or the queues that keep back
    what: str  # in words

    @property
    def used_up(self) -> str:
        """As the reason of a job that is left out."""
        return self.what if self.reason is Reason.KEPT_BACK else f"{self.what} is used up"


def keepers(cap: Cap) -> str:
    """``queue research keeps``, or of several ``queues research and serving keep``."""
    names = " and ".join(cap.keepers)
    return f"queue {names} keeps" if len(cap.keepers) == 1 else f"queues {names} keep"


def of_cap(cap: Cap) -> QueueInTheWay:
    """A cap that leaves no room."""
    if cap.keepers:
        words = f"{keepers(cap)} back {cap.accelerator} that it would need"
        return QueueInTheWay(reason=Reason.KEPT_BACK, names=cap.keepers, what=words)
    words = f"the limit of queue {cap.queue}"
    return QueueInTheWay(reason=Reason.QUEUE_LIMIT, names=(cap.queue,), what=words)


def _of_budget(queue: str) -> QueueInTheWay:
    words = f"the budget of queue {queue}"
    return QueueInTheWay(reason=Reason.BUDGET, names=(queue,), what=words)


def queue_in_the_way(
    occupancy: Occupancy, options: list[Option], ready: int
) -> QueueInTheWay | None:
    """The limit, budget or reserve without which an option would fit; of several, the first."""
    queues = occupancy.table.problem.queues
    of_caps = [of_cap(cap) for cap in occupancy.table.caps]
    of_budget = [_of_budget(q.name) for q in queues if q.budget_usd_per_month is not None]
    for o in options:
        limits, purses = occupancy.limits_of[o.index], occupancy.budgets_of[o.index]
        cases = [(of_caps[i], (_less(limits, i), purses)) for i in limits]
        cases += [(of_budget[i], (limits, _less(purses, i))) for i in purses]
        cases += [(what, ((), ())) for what, _ in cases[:1]]
        for what, kept in cases:
            occupancy.limits_of[o.index], occupancy.budgets_of[o.index] = kept
            fits = placement.earliest(occupancy, o, first=ready) is not None
            occupancy.limits_of[o.index], occupancy.budgets_of[o.index] = limits, purses
            if fits:
                return what
    return None


def _less(numbers: tuple[int, ...], without: int) -> tuple[int, ...]:
    return tuple(i for i in numbers if i != without)


@dataclass(frozen=True, slots=True)
class _Held:
    """Who holds what: columns over the bookings, by name."""

    names: list[str]
    pool: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]  # the leading resource at its peak


def _held(table: Table, bookings: Mapping[int, Booking]) -> _Held:
    rows = []
    for j, booking in bookings.items():
        for b in booking.pieces():
            o = table.options[b.option]
            row = (o.pool, b.start, b.until(table), o.peak * o.takes[0])
            rows.append((table.problem.jobs[j].name, row))
    rows.sort()
    columns = np.array([row for _, row in rows], dtype=np.int64).reshape(-1, 4).T
    return _Held([name for name, _ in rows], *columns)


def _holders(held: _Held, options: list[Option]) -> list[str]:
    """The `MOST_HOLDERS` largest jobs on the pools of ``options`` while these could run."""
    overlap = np.zeros(len(held.names), dtype=np.int64)
    for o in options:
        inside = np.minimum(held.end, o.last + o.length) - np.maximum(held.start, o.first)
        np.maximum(overlap, np.where(held.pool == o.pool, inside, 0), out=overlap)
    there = np.flatnonzero(overlap > 0)
    largest = there[np.argsort(-(overlap * held.size)[there], kind="stable")]
    return list(dict.fromkeys(held.names[i] for i in largest))[:MOST_HOLDERS]
