"""Where and when a job is held: the solvers' form of a plan.

A booking is an option at a start, with its replicas by run and node. A job that may stop can be
held in pieces: a chain of bookings, each of which says for how many slots. What a piece works is
not chosen but follows (`planner.problem`): all but the last do what their time holds. A mix of a
service is a chain of two options, held at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from planner import cost
from planner.inventory import Spot
from planner.problem import Billing, Job, hours_for, work_left
from planner.table import Option, Run, Table, spent_usd

Counts = tuple[int, ...]  # replicas on each node of the pool
ENOUGH = 1e-6  # of a slot: less is float noise, as in `Grid.slots_for`


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """An option at a start, with its replicas by run and node; or a piece of it, and the rest."""

    option: int
    start: int
    counts: tuple[Counts, ...]  # one a run
    spots: tuple[tuple[Spot, ...], ...] = ()  # one a run, where GPUs are told apart
    slots: int = 0  # of a piece; 0: all of the option
    rest: Booking | None = None  # the pieces behind this one

    def pieces(self) -> Iterator[Booking]:
        """The pieces in their order; an option held in one piece is one."""
        piece: Booking | None = self
        while piece is not None:
            yield piece
            piece = piece.rest

    def runs(self, table: Table) -> tuple[Run, ...]:
        """The runs of this piece."""
        runs = table.options[self.option].runs
        return (replace(runs[0], end=self.slots),) if self.slots else runs

    def until(self, table: Table) -> int:
        """The slot at which this piece ends."""
        return self.start + (self.slots or table.options[self.option].length)

    def end(self, table: Table) -> int:
        """The slot at which the job ends."""
        return max(piece.until(table) for piece in self.pieces())

    def pools(self, table: Table) -> set[int]:
        """The pools that any piece is in."""
        return {table.options[piece.option].pool for piece in self.pieces()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a piece does with its time."""

    piece: Booking
    work: float
    restart_seconds: float
    save_seconds: float
    redone_work: float
    paid_slots: float  # from its start: restoring, work, saving
    egress_usd: float  # where the job was in no such pool before


def chain(pieces: Sequence[Booking]) -> Booking:
    """One booking of ``pieces``."""
    whole: Booking | None = None
    for piece in reversed(pieces):
        whole = replace(piece, rest=whole)
    assert whole is not None
    return whole


def done_by(table: Table, j: int, pieces: Sequence[Booking]) -> Booking | None:
    """The booking that ``pieces`` of job ``j`` make, without what comes behind the end of the work.

    None where they do not do all of it, or one is too short for its save and restart.
    """
    job, seconds = table.problem.jobs[j], table.problem.grid.slot_seconds
    left = _todo(table, job, pieces[0])
    for k, piece in enumerate(pieces):
        mode = job.modes[table.options[piece.option].mode]
        needed = _restart_seconds(table, job, pieces[0], k) + hours_for(left, mode) * 3600
        if needed <= (piece.slots + ENOUGH) * seconds:
            slots = max(1, math.ceil(needed / seconds - ENOUGH))
            whole = not k and slots == table.options[piece.option].length
            return chain([*pieces[:k], replace(piece, slots=0 if whole else slots)])
        can = _work_seconds(table, job, pieces, k)
        if can <= 0:
            return None
        left -= can / hours_for(1.0, mode) / 3600
    return None


def kept_if_same(table: Table, booking: Booking) -> Booking:
    """``booking``, as what goes on where its job runs, if that is what it says."""
    option = table.options[booking.option]
    if booking.start or not table.problem.running:
        return booking
    for i in table.of_job[option.job]:
        o = table.options[i]
        if o.held == booking.counts[0] and o.mode == option.mode:
            kept = replace(booking, option=i)
            whole = done_by(table, option.job, list(kept.pieces())) if kept.slots else kept
            assert whole is not None  # it has less to do than what was moved
            return whole
    return booking


def parts(table: Table, booking: Booking) -> Iterator[Part]:
    """What each piece of a batch job does."""
    job = table.problem.jobs[table.options[booking.option].job]
    seconds = table.problem.grid.slot_seconds
    pieces = list(booking.pieces())
    left = _todo(table, job, booking)
    lost = left - work_left(table.problem, job, kept=True)
    brought: set[int] = set()  # pools that hold its data by now
    for k, piece in enumerate(pieces):
        last = k == len(pieces) - 1
        option = table.options[piece.option]
        mode = job.modes[option.mode]
        work = left if last else _work_seconds(table, job, pieces, k) / hours_for(1.0, mode) / 3600
        restart = _restart_seconds(table, job, booking, k)
        save = 0.0 if last else job.interruption.save_seconds
        yield Part(
            piece=piece,
            work=work,
            restart_seconds=restart,
            save_seconds=save,
            redone_work=min(work, lost),
            paid_slots=(restart + hours_for(work, mode) * 3600 + save) / seconds,
            egress_usd=0.0 if option.pool in brought else option.egress_usd,
        )
        brought.add(option.pool)
        left -= work
        lost -= min(work, lost)


def _todo(table: Table, job: Job, first: Booking) -> float:
    return work_left(table.problem, job, kept=bool(table.options[first.option].held))


def _restart_seconds(table: Table, job: Job, first: Booking, k: int) -> float:
    moved = job.name in table.problem.running_by_job and not table.options[first.option].held
    return job.interruption.restart_seconds if k or moved else 0.0


def _work_seconds(table: Table, job: Job, pieces: Sequence[Booking], k: int) -> float:
    """The time that a piece, which is not the last one, works."""
    stop = _restart_seconds(table, job, pieces[0], k) + job.interruption.save_seconds
    return pieces[k].slots * table.problem.grid.slot_seconds - stop


def spent_by(table: Table, booking: Booking, first: int, last: int) -> float:
    """Money and moving of the job between two slots, by its share."""
    return math.fsum(_spent(table, booking, first, last, lambda _: 1.0))


def own_usd(table: Table, booking: Booking) -> float:
    """Money and moving of the job beside whole-node bills."""
    pools = table.problem.pools

    def billed(option: Option) -> float:
        return float(pools[option.pool].billing is not Billing.NODE)

    return math.fsum(_spent(table, booking, 0, table.problem.grid.slots, billed))


def usd_of(table: Table, booking: Booking) -> float:
    """What a booking costs by itself: its share, its lateness, its start-up."""
    o = table.options[booking.option]
    usd = table.late_usd(o.job, booking.end(table)) + table.startup_usd(o)
    if booking.slots or booking.rest is not None:
        return usd + spent_by(table, booking, 0, table.problem.grid.slots)
    return usd + o.usd_from(booking.start)


def _spent(
    table: Table, booking: Booking, first: int, last: int, share: Callable[[Option], float]
) -> Iterator[float]:
    """``share`` of what each option costs by the hour, and all that bringing data costs."""
    if not booking.slots:
        for piece in booking.pieces():  # of a mix, two at once
            option = table.options[piece.option]
            brought = option.egress_usd if first <= piece.start < last else 0.0
            pool = table.problem.pools[option.pool]
            yield share(option) * (spent_usd(pool, option, piece.start, first, last) - brought)
            yield brought
        return
    for part in parts(table, booking):
        option, begin = table.options[part.piece.option], part.piece.start
        a, b = max(begin, first), min(begin + part.paid_slots, last)
        slots = cost.priced_slots(table.problem.pools[option.pool], a, max(a, b))
        yield share(option) * slots * option.peak * option.usd_per_replica_slot
        yield part.egress_usd if first <= begin < last else 0.0
