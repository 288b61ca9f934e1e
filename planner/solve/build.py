"""Plans by insertion: one job after the other, each where it fits at the least cost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from planner import cost, placement
from planner.booking import Booking, chain, done_by, own_usd, usd_of
from planner.occupancy import Occupancy
from planner.plan import Costs
from planner.problem import Billing
from planner.solve import divide
from planner.solve.divide import WORTH
from planner.table import Option, Table, order_by_dependency

Bookings = dict[int, Booking]  # by job

MOST_PIECES = 6  # of a job that is put in where others leave it room


def construct(
    table: Table,
    wanted: Mapping[int, int],
    *,
    opportunity: npt.NDArray[np.float64],
    first: Sequence[int] = (),
    hardest: str = "wide",
    shared: Mapping[int, Mapping[int, float]] | None = None,
) -> Bookings:
    """Insert every job: into its ``wanted`` option where that fits, else where it costs least.

    Jobs that are ``shared`` change from one option to another, with that part of their work in
    each, where that fits.

    ``opportunity[o]`` is what the capacity of option o is worth to others (USD). Jobs in ``first``
    go ahead of others of their tier; ``hardest`` names one of `HARDEST`.
    """
    occupancy = Occupancy(table)
    placed: Bookings = {}
    for j in order(table, wanted, first, hardest):
        made = _as_shared(table, occupancy, placed, j, (shared or {}).get(j))
        if made is None:
            option = wanted.get(j)
            divided = option is None
            made = best_booking(table, occupancy, placed, j, option, opportunity, divided)
        if made is not None:
            occupancy.take(made)
            placed[j] = made
    return placed


def _as_shared(
    table: Table,
    occupancy: Occupancy,
    placed: Bookings,
    j: int,
    parts: Mapping[int, float] | None,
) -> Booking | None:
    if parts is None or any(b not in placed for b in table.after[j]):
        return None
    ready = max((placed[b].end(table) for b in table.after[j]), default=0)
    return divide.as_shared(table, occupancy, j, ready, parts)


def settle(
    table: Table, bookings: Mapping[int, Booking], out_of_time: Callable[[], bool]
) -> Bookings:
    """Move one job at a time to where it costs least in the room that is left, until none gains.

    Jobs that others wait for, and those that wait, stay: a move must not break their order.
    """
    occupancy = Occupancy(table)
    placed = dict(bookings)
    for booking in placed.values():
        occupancy.take(booking)
    fixed = linked(table)
    gained = True
    while gained and not out_of_time():
        gained = False
        for j in sorted(placed.keys() - fixed, key=lambda j: -regret(table, placed, j)):
            if regret(table, placed, j) <= 1e-9 or out_of_time():
                break
            gained |= _move(table, occupancy, placed, j)
        for j in sorted(set(range(len(table.of_job))) - placed.keys()):
            made = best_booking(table, occupancy, placed, j, None, np.zeros(len(table.options)))
            if made is not None:
                occupancy.take(made)
                placed[j] = made
                gained = True
    return placed


def uphold_tiers(table: Table, bookings: Mapping[int, Booking]) -> Bookings:
    """``bookings`` with who fits once lower tiers are dropped put in, and those put in behind.

    A search that ran out of time may have left somebody out for a job of a lower tier; where it has
    not, nothing changes.
    """
    jobs, paying = table.problem.jobs, table.paying()
    placed = dict(bookings)
    for tier in sorted({job.rank for job in jobs}, reverse=True)[:-1]:
        kept = _kept(table, tier)
        lower = [j for j in order(table, {}) if j in placed and j not in kept]
        out = [j for j in order(table, {}) if jobs[j].rank == tier and j not in placed]
        above = {j: b for j, b in placed.items() if j in kept}
        if lower and _insert(table, above, {j: paying[j] for j in out}):
            _insert(table, above, {j: [placed[j].option] for j in lower})
            placed = above
    return placed


def _kept(table: Table, tier: int) -> set[int]:
    """Jobs of ``tier`` and above, those that must run, and all that these wait for."""
    kept = {j for j, job in enumerate(table.problem.jobs) if job.rank >= tier or job.required}
    for j in reversed(order_by_dependency(table.after)):
        if j in kept:
            kept.update(table.after[j])
    return kept


def _insert(table: Table, placed: Bookings, allowed: Mapping[int, Sequence[int]]) -> bool:
    """Put jobs into ``placed`` by their ``allowed`` options where these fit; whether any did."""
    occupancy = Occupancy(table)
    for booking in placed.values():
        occupancy.take(booking)
    before = len(placed)
    for j, options in allowed.items():
        if any(b not in placed for b in table.after[j]):
            continue
        ready = max((placed[b].end(table) for b in table.after[j]), default=0)
        made = (placement.earliest(occupancy, table.options[i], first=ready) for i in options)
        fits = [booking for booking in made if booking is not None]
        if fits:
            placed[j] = min(fits, key=lambda booking: usd_of(table, booking))
            occupancy.take(placed[j])
    return len(placed) > before


def advance(table: Table, bookings: Mapping[int, Booking]) -> Bookings:
    """The same options, each started as early as it can be without costing more."""
    occupancy = Occupancy(table)
    placed = dict(bookings)
    there: dict[tuple[int, int], set[int]] = defaultdict(set)  # jobs by pool and node
    for j, booking in placed.items():
        occupancy.take(booking)
        for node in _nodes(table, booking):
            there[node].add(j)
    for j in sorted(placed, key=lambda j: (placed[j].start, j)):
        old = placed[j]
        o = table.options[old.option]
        ready = max((placed[b].end(table) for b in table.after[j]), default=0)
        occupancy.release(old)
        if old.slots:
            new = _pieces_earlier(table, occupancy, old)
        else:
            new = placement.earliest(occupancy, o, first=ready, last=old.start - 1) or old
        nodes = _nodes(table, old) | _nodes(table, new)
        beside = [placed[k] for k in set().union(*(there[n] for n in nodes)) - {j}]
        was, now = (
            bills_usd(table, [*beside, b], {o.pool}) + own_usd(table, b) for b in (old, new)
        )
        if now <= was + 1e-9:
            placed[j] = new
            for node in nodes:
                there[node].discard(j)
            for node in _nodes(table, new):
                there[node].add(j)
        occupancy.take(placed[j])
    return placed


def _pieces_earlier(table: Table, occupancy: Occupancy, booking: Booking) -> Booking:
    """Each piece but the first as soon behind the one before as it has room."""
    pieces = list(booking.pieces())
    for k, piece in enumerate(pieces[1:], 1):
        option, before = table.options[piece.option], pieces[k - 1]
        ready = max(option.anew, before.until(table))
        for at in map(
            int, placement.openings(occupancy, option, piece.slots, ready, piece.start - 1)
        ):
            made = placement.piece(occupancy, option, at, piece.slots)
            if made is not None and not _goes_on(table, before, made):
                pieces[k] = made
                break
    found = chain(pieces)
    return found if occupancy.affordable(found) else booking


def _nodes(table: Table, booking: Booking) -> set[tuple[int, int]]:
    """(pool, node) of every node that a booking touches."""
    return {
        (table.options[piece.option].pool, n)
        for piece in booking.pieces()
        for counts in piece.counts
        for n, count in enumerate(counts)
        if count
    }


def bills_usd(table: Table, bookings: Iterable[Booking], pools: set[int]) -> float:
    """Whole-node bills of those of ``pools`` that have them."""
    problem = table.problem
    billed = {p for p in pools if problem.pools[p].billing is Billing.NODE}
    if not billed:
        return 0.0
    here = [b for b in bookings if not billed.isdisjoint(b.pools(table))]
    segments = placement.unnamed_segments(table, here)
    names = {problem.pools[p].name for p in billed}
    return math.fsum(r.usd for r in cost.rentals(problem, segments) if r.pool in names)


def linked(table: Table) -> set[int]:
    """Jobs that wait for others, and those that others wait for."""
    return {j for j, befores in enumerate(table.after) if befores} | {
        b for befores in table.after for b in befores
    }


def _move(table: Table, occupancy: Occupancy, placed: Bookings, j: int) -> bool:
    """Try to better one job; whether it did."""
    old = placed[j]
    occupancy.release(old)
    best, least = old, usd_of(table, old)
    for i in table.of_job[j]:
        o = table.options[i]
        if table.floor_usd(o) + table.startup_usd(o) >= least - 1e-9:
            continue
        booking = placement.earliest(occupancy, o)
        if booking is not None and usd_of(table, booking) < least - 1e-9:
            best, least = booking, usd_of(table, booking)
    occupancy.take(best)
    placed[j] = best
    return best is not old


def regret(table: Table, placed: Mapping[int, Booking], j: int) -> float:
    """What job ``j`` costs above the least it could."""
    floor = table.floor_usd(table.options[table.of_job[j][0]])
    if j not in placed:
        return max(0.0, table.problem.jobs[j].unplaced_usd - floor)
    return max(0.0, usd_of(table, placed[j]) - floor)


HARDEST: dict[str, Callable[[Option], tuple[float, ...]]] = {
    "wide": lambda o: (-o.nodes, -o.peak * o.takes[0], o.last - o.first > 2 * o.length, -o.length),
    "tight": lambda o: (
        o.last - o.first >= o.length,
        -o.length if o.last - o.first < o.length else 0,
        -o.nodes,
        -o.peak * o.takes[0],
        -o.length,
    ),
    "large": lambda o: (-o.length * o.peak * o.takes[0],),
    "long": lambda o: (-o.length, -o.nodes),
}
"""What is hard to fit, and so goes first: what is wide, cannot move, is large, is long."""


def order(
    table: Table, wanted: Mapping[int, int], first: Sequence[int] = (), hardest: str = "wide"
) -> list[int]:
    """Jobs by tier, services and fixed starts first, then what is hardest to fit."""
    ahead = set(first)

    def key(j: int) -> tuple[float, ...]:
        job = table.problem.jobs[j]
        o = table.options[wanted.get(j, table.of_job[j][0])]
        return (
            -job.rank,
            not job.required,
            j not in ahead,
            o.last > o.first,
            *HARDEST[hardest](o),
            j,
        )

    ranked = sorted((j for j in range(len(table.of_job)) if table.of_job[j]), key=key)
    if not any(table.after):
        return ranked
    rank = {j: i for i, j in enumerate(ranked)}
    need: dict[int, int] = {}  # a job goes no later than the first of what waits for it
    for j in reversed(order_by_dependency(table.after)):
        need[j] = min(rank.get(j, len(rank)), need.get(j, len(rank)))
        for before in table.after[j]:
            need[before] = min(need[j], need.get(before, len(rank)))
    depth = {j: i for i, j in enumerate(order_by_dependency(table.after))}
    return sorted(ranked, key=lambda j: (need[j], depth[j]))


def best_booking(
    table: Table,
    occupancy: Occupancy,
    placed: Bookings,
    j: int,
    wanted: int | None,
    opportunity: npt.NDArray[np.float64],
    divided: bool = True,
) -> Booking | None:
    """Where job ``j`` goes, or None where it fits nowhere or costs more than leaving it out.

    In one piece; or in two of different modes, where it may be ``divided`` and that costs less.
    """
    befores = table.after[j]
    if any(b not in placed for b in befores):
        return None
    ready = max((placed[b].end(table) for b in befores), default=0)
    if wanted is not None:
        booking = placement.earliest(occupancy, table.options[wanted], first=ready)
        if booking is not None and not table.late_usd(j, booking.end(table)):
            return booking
    best: tuple[float, Booking] | None = None
    for i in table.of_job[j]:
        o = table.options[i]
        least = table.floor_usd(o) + opportunity[i]
        if best is not None and least >= best[0]:
            continue
        booking = placement.earliest(occupancy, o, first=ready)
        if booking is None:
            continue
        usd = usd_of(table, booking) + opportunity[i]
        if best is None or usd < best[0]:
            best = (usd, booking)
    if divided:
        most = best[0] if best is not None else math.inf
        if (cut := divide.best(table, occupancy, j, ready, opportunity, most)) is not None:
            return cut
    return best[1] if best is not None else None


def best_in_pieces(table: Table, occupancy: Occupancy, placed: Bookings, j: int) -> Booking | None:
    """Where job ``j`` runs if it stops while others hold what it needs, or None where it cannot.

    In one mode, from as early as it can; of its modes, the one in which it then costs least.
    """
    if not table.problem.jobs[j].may_stop or any(b not in placed for b in table.after[j]):
        return None
    ready = max((placed[b].end(table) for b in table.after[j]), default=0)
    made = (_in_pieces(table, occupancy, table.options[i], ready) for i in table.of_job[j])
    return min(
        (booking for booking in made if booking is not None),
        key=lambda booking: usd_of(table, booking),
        default=None,
    )


def _in_pieces(table: Table, occupancy: Occupancy, option: Option, ready: int) -> Booking | None:
    """``option`` in the stretches that have room, one after the other until its work is done."""
    if option.pool in occupancy.devices or option.held:
        return None
    stop = table.problem.jobs[option.job].interruption
    seconds = WORTH * (stop.save_seconds + stop.restart_seconds)
    least = 1 + int(seconds / table.problem.grid.slot_seconds)
    pieces: list[Booking] = []
    edges = [int(t) for t in occupancy.edges[option.pool] if t < option.until]
    for at in sorted({max(option.anew, ready), *edges}):
        behind = max(option.anew, ready, pieces[-1].until(table) if pieces else 0)
        if at < behind or len(pieces) == MOST_PIECES:
            continue
        piece = placement.longest(occupancy, option, at)
        if piece is None or piece.slots < least:
            continue
        if pieces and _goes_on(table, pieces[-1], piece):
            continue
        pieces.append(piece)
        if (whole := done_by(table, option.job, pieces)) is not None:
            return whole if occupancy.affordable(whole) else None
    return None


def _goes_on(table: Table, before: Booking, piece: Booking) -> bool:
    """Whether ``piece`` would be no piece of its own: it follows at once where ``before`` is."""
    same_mode = table.options[before.option].mode == table.options[piece.option].mode
    same_place = (before.counts, before.spots) == (piece.counts, piece.spots)
    return same_mode and same_place and before.until(table) == piece.start


def evaluate(table: Table, bookings: Mapping[int, Booking]) -> Costs:
    """The true objective of a set of bookings."""
    segments = placement.unnamed_segments(table, bookings.values())
    out = [j.name for i, j in enumerate(table.problem.jobs) if i not in bookings]
    return cost.costs(table.problem, segments, out)


def replace_counted(
    table: Table, bookings: Iterable[Booking], counted: Iterable[int]
) -> Bookings | None:
    """Name nodes for bookings of pools that were solved by count, in order of start."""
    by_count = set(counted)
    occupancy = Occupancy(table)
    pieces = [piece for b in bookings for piece in b.pieces()]
    found: dict[int, list[Booking]] = defaultdict(list)

    def key(piece: Booking) -> tuple[bool, int, int]:
        option = table.options[piece.option]
        return option.pool in by_count, piece.start, -option.peak

    for piece in sorted(pieces, key=key):
        option = table.options[piece.option]
        named = piece
        if option.pool in by_count:
            counts = placement.nodes(occupancy, option, piece.start, piece.until(table))
            if counts is None:
                return None
            named = replace(piece, counts=(counts,))
        occupancy.hold_piece(named)
        found[option.job].append(named)
    return {
        j: chain(sorted(ours, key=lambda piece: (piece.start, piece.option)))
        for j, ours in found.items()
    }
