"""Plans for problems too large to hand over whole: bound, assignment, packing, repair.

The relaxation says which option each job should take and how little any plan can cost. Insertion
packs that choice, and ruin and recreate betters it. A job that may change its mode, and that the
relaxation shares out over several, goes in first, in two pieces with those shares. Where the choice
does not fit, CP-SAT is asked whether it can fit at all: if so its packing is used, if not the proof
goes back to the relaxation as a cut. What is left is improved by taking some jobs out and letting
CP-SAT put them back.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from planner.booking import Booking
from planner.occupancy import Occupancy
from planner.plan import Costs, gap_of
from planner.problem import Billing
from planner.solve import build, exact, model, ruin
from planner.solve.build import Bookings
from planner.solve.clock import GAIN, Clock
from planner.solve.exact import Found
from planner.solve.master import Master, Relaxed, opportunity
from planner.table import Table

PACKABLE = 60  # most jobs of a pool for which CP-SAT is asked whether they fit
CHOOSABLE = 6000  # most options for which the choice is made by integers
CHOICE_GAP = 5e-4
FEW = 800  # most options that are handed to CP-SAT whole
ATTEMPTS = 10
SHORT_RUIN = 1.2  # seconds, before each time that CP-SAT packs; and at most this share of all
SHORT_RUIN_SHARE = 0.2
SHARED = 1e-3  # of a job's work: less in an option is none
FREED = (8, 14, 20)  # jobs taken out at once, by neighbourhood in turn


@dataclass(slots=True)
class Search:
    """The best plan so far, and the bound beneath it."""

    table: Table
    clock: Clock
    bound_usd: float = 0.0
    best: Bookings | None = None
    ruins: int = 0  # searches so far: the same steps from the same plan would find the same
    costs: Costs = field(default_factory=Costs)
    tiers: list[frozenset[int]] = field(default_factory=list)
    gained: float = 0.0  # seconds from the start to the last gain worth the name
    mark: float = float("inf")  # the objective then

    def __post_init__(self) -> None:
        self.tiers = exact.upper_tiers(self.table)

    def offer(self, bookings: Mapping[int, Booking], doing: str) -> bool:
        """Keep ``bookings`` if they are better: by the upper tiers left out, then by cost."""
        costs = build.evaluate(self.table, bookings)
        better = self.best is None or (self.key(bookings, costs) < self.key(self.best, self.costs))
        if better and all(
            j in bookings for j, job in enumerate(self.table.problem.jobs) if job.required
        ):
            self.best, self.costs = dict(bookings), costs
            if costs.objective < self.mark * (1 - GAIN):
                self.gained, self.mark = self.clock.seconds, costs.objective
            self.say(doing)
        return better

    def key(self, bookings: Mapping[int, Booking], costs: Costs) -> tuple[float, ...]:
        out = [round(exact.left_out_usd(self.table, bookings, jobs), 6) for jobs in self.tiers]
        return (*out, costs.objective - 1e-9)

    def nobody_above_is_out(self) -> bool:
        """Whether no lower tier can be in the way: that one is, only the exact method disproves."""
        out = (exact.left_out_usd(self.table, self.best or {}, jobs) for jobs in self.tiers)
        return all(usd <= 1e-6 for usd in out)

    def say(self, doing: str) -> None:
        best = self.costs.objective if self.best is not None else float("inf")
        self.clock.say(doing, bound=self.bound_usd, best=best, not_running=self.costs.not_running)

    @property
    def gap(self) -> float:
        if self.best is None:
            return float("inf")
        return gap_of(self.costs.objective, self.bound_usd, self.costs.not_running)

    def finished(self) -> bool:
        """Whether the gap or the time is reached."""
        return self.clock.left <= 0 or self.clock.enough(self.gap, self.gained)


def search(
    table: Table, clock: Clock, relaxed: Relaxed, master: Master, known: Found | None = None
) -> Found:
    """The best plan found within the limits, never worse than what is ``known``; and a bound."""
    state = Search(table, clock, bound_usd=relaxed.usd)
    if known is not None:
        state.bound_usd = max(state.bound_usd, known.bound_usd)
        if known.bookings is not None:
            state.offer(known.bookings, "solving")
    worth = opportunity(table, relaxed)
    state.say("bounding")
    if not relaxed.feasible:
        return Found(bookings=None, bound_usd=relaxed.usd, infeasible=True)
    _assign_and_pack(state, master, relaxed, worth)
    if math.isinf(state.bound_usd):  # no choice of whole options exists
        return Found(bookings=None, bound_usd=relaxed.usd, infeasible=True)
    few = len(table.options) <= FEW
    if not state.finished():
        _ruin(state, 0.5 * clock.left if few else clock.left)
    if not state.finished() and few and _whole(state):
        return Found(bookings=None, bound_usd=relaxed.usd, infeasible=True)
    _improve(state)
    return Found(
        bookings=state.best,
        bound_usd=state.bound_usd,
        optimal=state.best is not None and state.gap == 0.0 and state.nobody_above_is_out(),
    )


def _assign_and_pack(
    state: Search, master: Master, relaxed: Relaxed, worth: npt.NDArray[np.float64]
) -> None:
    """Choose an option for each job, pack it, take what did not fit back to the choice."""
    table, clock = state.table, state.clock
    chosen = relaxed
    if len(table.options) <= CHOOSABLE:
        seconds = min(clock.left, 0.25 * clock.limits.seconds)
        chosen = master.choose(seconds=seconds, gap=CHOICE_GAP)
        state.bound_usd = max(state.bound_usd, chosen.usd)
    failed = [*_shared(table, chosen.share)]  # hardest to fit: two pieces that have to follow
    for attempt in range(ATTEMPTS):
        if not chosen.feasible or (attempt and state.finished()):
            return
        wanted = _wanted(table, chosen.share)
        bookings = _best_order(state, chosen.share, worth, failed)
        missed = [j for j, i in wanted.items() if i not in _options(bookings.get(j))]
        late = [j for j, b in bookings.items() if table.late_usd(j, b.end(table))]
        state.offer(build.settle(table, bookings, lambda: clock.left <= 0), "packing")
        if not state.finished():
            _ruin(state, min(SHORT_RUIN, SHORT_RUIN_SHARE * clock.limits.seconds))
        if state.finished() or not (missed or late):
            return
        failed = [*missed, *failed][:30]
        pools = {table.options[wanted[j]].pool for j in missed}
        pools |= {table.options[bookings[j].option].pool for j in late}
        repacked = dict(bookings)
        for p in sorted(pools) if not state.finished() else ():
            packed = _pack(state, master, p, wanted)
            repacked = _swap(table, repacked, p, packed) if packed else repacked
        if consistent(table, repacked):
            state.offer(build.settle(table, repacked, lambda: clock.left <= 0), "packing")
        if len(table.options) <= CHOOSABLE:
            seconds = min(clock.left, 0.25 * clock.limits.seconds)
            chosen = master.choose(seconds=seconds, gap=CHOICE_GAP, primal=True)
        else:
            chosen = master.assign(seconds=clock.left)


def _best_order(
    state: Search,
    share: npt.NDArray[np.float64],
    worth: npt.NDArray[np.float64],
    first: list[int],
) -> Bookings:
    """The cheapest of the insertions in every order, or in those that there is time for."""
    table = state.table
    wanted, shared = _wanted(table, share), _shared(table, share)
    made: list[Bookings] = []
    for hardest in build.HARDEST:
        if made and state.clock.left <= 0:
            break
        made.append(
            build.construct(
                table, wanted, opportunity=worth, first=first, hardest=hardest, shared=shared
            )
        )
    return min(made, key=lambda b: state.key(b, build.evaluate(table, b)))


def _wanted(table: Table, share: npt.NDArray[np.float64]) -> dict[int, int]:
    """The option that most of a job is in; none for one that is to change its mode."""
    wanted, shared = {}, _shared(table, share)
    for j, ours in enumerate(table.of_job):
        if ours and j not in shared:
            best = max(ours, key=lambda i: share[i])
            if share[best] > 0.5:
                wanted[j] = best
    return wanted


def _shared(table: Table, share: npt.NDArray[np.float64]) -> dict[int, dict[int, float]]:
    """Of jobs that may change their mode, those in several, with the part of the work in each."""
    found = {}
    for j, ours in enumerate(table.of_job):
        if ours and table.options[ours[0]].shares:
            parts = {i: float(share[i]) for i in ours if share[i] > SHARED}
            if len(parts) > 1:
                found[j] = parts
    return found


def _options(booking: Booking | None) -> set[int]:
    """The options that any piece is in."""
    return {piece.option for piece in booking.pieces()} if booking is not None else set()


def _pack(state: Search, master: Master, p: int, wanted: Mapping[int, int]) -> dict[int, Booking]:
    """All jobs that want pool ``p``, packed there by CP-SAT; empty where they were not.

    What is proved not to fit becomes a cut of the relaxation; what is not decided, or too large to
    ask, leaves the next choice less of the pool.
    """
    table, clock = state.table, state.clock
    ours = {j: [i] for j, i in wanted.items() if table.options[i].pool == p}
    mixed = [i for i in wanted.values() if len(table.parts(table.options[i])) > 1]
    linked = any(b not in ours for j in ours for b in table.after[j]) or any(
        part.pool == p for i in mixed for part in table.parts(table.options[i])
    )
    if len(ours) > PACKABLE or linked:
        master.squeeze[p] = master.squeeze.get(p, 1.0) - 0.002
        return {}
    m = model.define(table, allowed=ours, may_leave_out=False)
    seconds = min(clock.left, max(0.3, 0.01 * clock.limits.seconds))
    answer = model.solve(m, seconds=seconds, seed=clock.limits.seed, stop=clock.stop)
    if answer.bookings is not None:
        return {
            table.options[b.option].job: b for b in exact.named(table, answer.bookings).values()
        }
    if answer.infeasible:
        master.packs.append(tuple(i for (i,) in ours.values()))
    else:
        master.squeeze[p] = master.squeeze.get(p, 1.0) - 0.01
    return {}


def _swap(table: Table, bookings: Bookings, p: int, packed: Mapping[int, Booking]) -> Bookings:
    """``bookings`` with pool ``p`` as packed; others that were there only for want of room go."""
    kept = {j: b for j, b in bookings.items() if p not in b.pools(table) and j not in packed}
    return {**kept, **packed}


def consistent(table: Table, bookings: Mapping[int, Booking]) -> bool:
    """Whether bookings that each fit their pool also keep dependencies, limits and budgets."""
    if any(
        b not in bookings or bookings[b].end(table) > booking.start
        for j, booking in bookings.items()
        for b in table.after[j]
    ):
        return False
    occupancy = Occupancy(table)
    for booking in bookings.values():
        parts = [booking] if booking.slots else [replace(b, rest=None) for b in booking.pieces()]
        for part in parts:  # of a mix, one after the other
            if not occupancy.within_limits(table.options[part.option], part.start):
                return False
            occupancy.take(part)
    return True


def _whole(state: Search) -> bool:
    """CP-SAT on everything, from the best plan; whether it proved that there is none."""
    table, clock = state.table, state.clock
    caps = [
        (jobs, exact.left_out_usd(table, state.best, jobs))
        for jobs in state.tiers
        if state.best is not None
    ]
    m = model.define(table, allowed=dict(enumerate(table.of_job)), caps=caps)
    answer = model.solve(
        m,
        seconds=min(clock.left, 0.4 * clock.limits.seconds),
        seed=clock.limits.seed,
        hint=tuple((state.best or {}).values()),
        gap=clock.limits.gap or 0.0,
        stop=clock.stop,
    )
    if answer.bookings is not None:
        state.offer(exact.named(table, answer.bookings), "solving")
    if not caps:
        state.bound_usd = max(state.bound_usd, answer.bound_usd)
        state.say("solving")
    return answer.infeasible and state.best is None


def _ruin(state: Search, seconds: float) -> None:
    """Ruin and recreate for ``seconds``, from the best plan."""
    table, clock = state.table, state.clock
    if state.best is None or seconds <= 0:
        return
    begin = clock.seconds
    state.ruins += 1

    def offer(bookings: Bookings) -> bool:
        state.offer(bookings, "improving")
        return state.finished()

    ruin.improve(
        table,
        state.best,
        share=lambda: 1.0 if state.finished() else (clock.seconds - begin) / seconds,
        seed=1000 * clock.limits.seed + state.ruins,
        offer=offer,
    )


def _improve(state: Search) -> None:
    """Take some jobs out, let CP-SAT put them back, until the gap or the time is reached."""
    table, clock = state.table, state.clock
    rng = random.Random(clock.limits.seed)
    jobs = [j for j, ours in enumerate(table.of_job) if ours]
    if state.best is None or not jobs:
        return
    idle = 0
    while not state.finished() and idle < 60:
        freed = _neighbourhood(state, rng, FREED[idle % len(FREED)])
        if len(freed) == len(jobs) and idle >= 6:
            return
        idle = 0 if _reinsert(state, freed) else idle + 1


def _neighbourhood(state: Search, rng: random.Random, size: int) -> list[int]:
    """Jobs to take out: those left out or dear, with others of the pools and times they want."""
    table, best = state.table, state.best or {}
    jobs = [j for j, ours in enumerate(table.of_job) if ours]
    regret = {j: build.regret(table, best, j) for j in jobs}
    total = sum(regret.values())
    seed = rng.choices(jobs, weights=[regret[j] + 0.05 * total / len(jobs) + 1e-9 for j in jobs])[0]
    pools = {table.options[i].pool for i in table.of_job[seed]}
    near = [
        j
        for j in jobs
        if j != seed and (j not in best or table.options[best[j].option].pool in pools)
    ]
    rng.shuffle(near)
    if seed in best and rng.random() < 0.5:
        near.sort(key=lambda j: abs(best[j].start - best[seed].start) if j in best else 0)
    linked = [*table.after[seed], *(j for j in jobs if seed in table.after[j])]
    return list(dict.fromkeys([seed, *linked, *near]))[:size]


def _reinsert(state: Search, freed: list[int]) -> bool:
    table, clock, best = state.table, state.clock, state.best or {}
    fixed = tuple(b for j, b in best.items() if j not in freed)
    caps = [
        (jobs & frozenset(freed), exact.left_out_usd(table, best, jobs & frozenset(freed)))
        for jobs in state.tiers
    ]
    m = model.define(table, allowed={j: table.of_job[j] for j in freed}, fixed=fixed, caps=caps)
    answer = model.solve(
        m,
        seconds=min(clock.left, 1.0),
        seed=clock.limits.seed,
        hint=tuple(b for j, b in best.items() if j in freed),
        stop=clock.stop,
    )
    if answer.bookings is None:
        return False
    placed = build.replace_counted(
        table,
        (*fixed, *answer.bookings),
        [p for p in range(len(table.problem.pools)) if model.counts_suffice(table, p)],
    )
    return placed is not None and state.offer(placed, "improving")


def whole_nodes_billed(table: Table) -> bool:
    """Whether some pool is billed by node: what the relaxation then lets go of."""
    return any(
        p.billing is Billing.NODE and table.of_pool[i] for i, p in enumerate(table.problem.pools)
    )
