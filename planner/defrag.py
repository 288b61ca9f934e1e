"""Which running jobs to move so that others fit or nodes empty, where it saves more than it costs.

Sets     r, running jobs with the spots that they hold; w, waiting gangs; n, nodes
Data     move[r], what moving r costs once: work since its checkpoint, save, restart (USD)
         value[w], what it is worth that w runs; empty[n], that node n is given back (USD)
         keeps[a, b], the part of its speed that work of kind a keeps beside kind b on one GPU
Choice   moves, one a job at most and none of a job that forbids it, in an order in which each
         target is free once its own job has stopped; then which waiting gangs to place
Gain     values of the gangs placed + empty[n] of the nodes left empty - the same without any move
         - the moves' prices - what sharing GPUs slows down (more is worse, less is better)

A set of moves is proposed only where its gain is above zero, so that running again on what came of
it never circles; a job that has moved stays until it has saved its work anew (`applied`).

`defragment` tries all sequences where there are few (`MOST_WAYS`, `MOST_STATES`), which is exact;
else it clears, for one waiting gang after the other, the nodes that cost least to clear, and then
the nodes worth most empty, each step taken only where it gains by itself, until none does.
`planner.place` names every target. A gang moves whole: it restarts from its checkpoint anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest

import numpy as np

from planner.inventory import Inventory, Request, Spot
from planner.place import Refused, place, rooms, usable_nodes
from planner.problem import GPU_MILLI

MOST_STATES = 2000  # that are tried one by one
MOST_WAYS = 1000  # to move one job and fill the nodes anew
MOST_TRIED = 8  # nodes, for one replica
CENT = 1e-6

Spots = tuple[Spot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A running job."""

    job: str
    request: Request
    spots: Spots
    move_usd: float
    movable: bool = True
    kind: str = ""  # of work, as `Fleet.keeps` knows it
    usd_per_hour: float = 0.0  # what an hour of it is worth
    hours_left: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A gang that would run if it fitted."""

    job: str
    request: Request
    value_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What runs where and what waits. ``inventory`` is less what the residents take."""

    inventory: Inventory
    residents: tuple[Resident, ...]
    waiting: tuple[Waiting, ...] = ()
    empty_usd: Mapping[str, float] = field(default_factory=dict)  # by node
    keeps: Mapping[tuple[str, str], float] = field(default_factory=dict)  # above 0, at most 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A job stopped on some spots and started again on others."""

    job: str
    was: Spots
    now: Spots
    price_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Moves in their order, and what they are for."""

    moves: tuple[Move, ...] = ()
    placed: tuple[tuple[str, Spots], ...] = ()  # waiting jobs that fit then
    emptied: tuple[str, ...] = ()  # nodes with a price that are empty then and were not
    saving_usd: float = 0.0  # by what is placed and emptied, and by GPUs shared with less loss
    price_usd: float = 0.0  # of the moves
    exact: bool = False  # no set of moves gains more

    @property
    def gain_usd(self) -> float:
        return self.saving_usd - self.price_usd


def defragment(fleet: Fleet) -> Proposal:
    """The moves that gain most, as far as is tried; no moves where none gain."""
    tried = _try_all(fleet)
    without, best = tried or _clear(fleet)
    exact = tried is not None
    return _proposal(without, best, exact) if best.moves else Proposal(exact=exact)


def applied(fleet: Fleet, proposal: Proposal) -> Fleet:
    """The fleet when ``proposal`` is done: what moved, or has just started, stays for now."""
    state = _State.of(fleet)
    for move in proposal.moves:
        state.move(move.job, move.now)
    requests = {w.job: w for w in fleet.waiting}
    started = []
    for job, spots in proposal.placed:
        state.inventory.take(requests[job].request, spots)
        started.append(
            Resident(
                job=job, request=requests[job].request, spots=spots, move_usd=0.0, movable=False
            )
        )
    moved = {move.job for move in proposal.moves}
    there = (
        replace(r, spots=state.spots[r.job], movable=r.movable and r.job not in moved)
        for r in fleet.residents
    )
    gone = {job for job, _ in proposal.placed}
    return replace(
        fleet,
        inventory=state.inventory,
        residents=(*there, *started),
        waiting=tuple(w for w in fleet.waiting if w.job not in gone),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """Jobs none of which can move first: each waits for what another holds."""

    jobs: tuple[str, ...]


def in_order(fleet: Fleet, moves: tuple[Move, ...], spare: str = "") -> tuple[Move, ...] | Stuck:
    """``moves`` so that each target is free when its turn comes, or which are stuck.

    With ``spare``, a node's name, a job of a circle goes there first and on from there: two moves.
    """
    state = _State.of(fleet)
    left = {move.job: move for move in moves}
    done: list[Move] = []
    while left:
        ready = next((m for m in left.values() if state.can_move(m.job, m.now)), None)
        if ready is None:
            ready = next(_parked(state, left, spare), None)
            if ready is None:
                return Stuck(jobs=tuple(sorted(left)))
            left[ready.job] = replace(left[ready.job], was=ready.now)
        else:
            del left[ready.job]
        state.move(ready.job, ready.now)
        done.append(ready)
    return tuple(done)


def _parked(state: _State, left: Mapping[str, Move], spare: str) -> Iterator[Move]:
    """First moves to ``spare`` of jobs that fit there and are not there yet."""
    row = state.inventory.row_of.get(spare)
    for move in left.values() if row is not None else ():
        if any(spot.row == row for spot in move.was):
            continue
        found = state.target(move.job, only=row)
        if found is not None:
            yield replace(move, now=found)


# -- a fleet under change --------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _State:
    """A fleet while moves are tried: who is where, who has moved."""

    fleet: Fleet
    residents: dict[str, Resident]
    inventory: Inventory
    spots: dict[str, Spots]
    on: list[set[str]]  # jobs by node
    placed: dict[str, Spots] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)

    @classmethod
    def of(cls, fleet: Fleet) -> _State:
        on: list[set[str]] = [set() for _ in fleet.inventory.names]
        for r in fleet.residents:
            for spot in r.spots:
                on[spot.row].add(r.job)
        return cls(
            fleet=fleet,
            residents={r.job: r for r in fleet.residents},
            inventory=fleet.inventory.copy(),
            spots={r.job: r.spots for r in fleet.residents},
            on=on,
        )

    def copy(self) -> _State:
        return replace(
            self,
            inventory=self.inventory.copy(),
            spots=dict(self.spots),
            on=[set(jobs) for jobs in self.on],
            placed=dict(self.placed),
            moves=list(self.moves),
        )

    def may_move(self, job: str) -> bool:
        return self.residents[job].movable and all(job != move.job for move in self.moves)

    def can_move(self, job: str, now: Spots) -> bool:
        """Whether ``now`` is free once the job has stopped."""
        request = self.residents[job].request
        self.inventory.release(request, self.spots[job])
        free = _free(self.inventory, request, now)
        self.inventory.take(request, self.spots[job])
        return free

    def move(self, job: str, now: Spots) -> None:
        r = self.residents[job]
        self.inventory.release(r.request, self.spots[job])
        self.inventory.take(r.request, now)
        for spot in self.spots[job]:
            self.on[spot.row].discard(job)
        for spot in now:
            self.on[spot.row].add(job)
        self.moves.append(Move(job=job, was=self.spots[job], now=now, price_usd=r.move_usd))
        self.spots[job] = now

    def target(
        self, job: str, closed: frozenset[int] = frozenset(), only: int | None = None
    ) -> Spots | None:
        """Where the job would go that may not use ``closed`` nodes, with least loss by sharing."""
        r = self.residents[job]
        self.inventory.release(r.request, self.spots[job])
        open_ = self.inventory.open.copy()
        open_[list(closed)] = False
        if only is not None:
            open_ &= np.arange(open_.size) == only
        found = self._least_loss(r, replace(self.inventory, open=open_))
        self.inventory.take(r.request, self.spots[job])
        return found

    def _least_loss(self, r: Resident, free: Inventory) -> Spots | None:
        """By `place`, on GPUs whose tenants it gets on with, as few of the others as it takes."""
        if not self.fleet.keeps or not _shared(r.request):
            found = place(free, r.request)
            return None if isinstance(found, Refused) else found
        loss = self._losses(r)
        for most in sorted({0.0, *loss.values()}):
            devices = free.gpu_milli.copy()
            for (row, device), usd in loss.items():
                if usd > most:
                    devices[row, device] = 0
            found = place(replace(free, gpu_milli=devices), r.request)
            if not isinstance(found, Refused):
                return found
        return None

    def _losses(self, r: Resident) -> dict[tuple[int, int], float]:
        """What sharing each GPU that others hold would cost ``r`` and them (USD)."""
        loss: dict[tuple[int, int], float] = {}
        for job, spots in self.spots.items():
            other = self.residents[job]
            usd = _loss_usd(self.fleet.keeps, r, other)
            if job != r.job and usd:
                for spot in spots:
                    for device in spot.devices:
                        loss[spot.row, device] = loss.get((spot.row, device), 0.0) + usd
        return loss

    def sharing_usd(self) -> float:
        """What all that share a GPU lose by it (USD)."""
        if not self.fleet.keeps:
            return 0.0
        held: dict[tuple[int, int], list[Resident]] = {}
        for job, spots in self.spots.items():
            for spot in spots:
                for device in spot.devices:
                    held.setdefault((spot.row, device), []).append(self.residents[job])
        return math.fsum(
            _loss_usd(self.fleet.keeps, a, b)
            for tenants in held.values()
            for i, a in enumerate(tenants)
            for b in tenants[:i]
            if a.job != b.job
        )

    def is_empty(self, row: int) -> bool:
        held = any(spot.row == row for spots in self.placed.values() for spot in spots)
        return not self.on[row] and not held

    def empty_usd(self) -> float:
        rows = ((self.inventory.row_of[n], usd) for n, usd in self.fleet.empty_usd.items())
        return math.fsum(usd for row, usd in rows if self.is_empty(row))

    def worth_usd(self) -> float:
        """Values of what is placed, and of empty nodes, less what sharing loses."""
        value = {w.job: w.value_usd for w in self.fleet.waiting}
        return math.fsum(value[job] for job in self.placed) + self.empty_usd() - self.sharing_usd()

    @property
    def price_usd(self) -> float:
        return math.fsum(move.price_usd for move in self.moves)

    def add(self, w: Waiting, spots: Spots) -> None:
        self.inventory.take(w.request, spots)
        self.placed[w.job] = spots


def _loss_usd(keeps: Mapping[tuple[str, str], float], a: Resident, b: Resident) -> float:
    """What two jobs on one GPU lose by each other: 1 / (speed kept) - 1 of what is left of each."""
    first, second = keeps.get((a.kind, b.kind), 1.0), keeps.get((b.kind, a.kind), 1.0)
    return (1 / first - 1) * a.usd_per_hour * a.hours_left + (
        1 / second - 1
    ) * b.usd_per_hour * b.hours_left


def _free(inventory: Inventory, request: Request, spots: Spots) -> bool:
    """Whether just these spots are free."""
    trial = inventory.copy()
    trial.take(request, spots)
    rows = [spot.row for spot in spots]
    columns = (trial.gpu_milli, trial.gpu_memory_bytes, trial.instances)
    return (
        bool((trial.cpu_milli[rows] >= 0).all() and (trial.memory_bytes[rows] >= 0).all())
        and all(bool((column[rows] >= 0).all()) for column in columns)
        and bool(inventory.open[rows].all())
    )


def _better(state: _State, than: _State) -> bool:
    gain = (state.worth_usd() - state.price_usd) - (than.worth_usd() - than.price_usd)
    return gain > CENT


def _proposal(before: _State, after: _State, exact: bool) -> Proposal:
    """What ``after`` is worth above ``before``, where nothing has moved."""
    return Proposal(
        moves=tuple(after.moves),
        placed=tuple(sorted(after.placed.items(), key=lambda each: each[0])),
        emptied=tuple(
            name
            for name in sorted(before.fleet.empty_usd)
            if after.is_empty(row := before.inventory.row_of[name]) and before.on[row]
        ),
        saving_usd=after.worth_usd() - before.worth_usd(),
        price_usd=after.price_usd,
        exact=exact,
    )


# -- few: every sequence of moves ------------------------------------------------------------------


def _try_all(fleet: Fleet) -> tuple[_State, _State] | None:
    """The best without moves and with any; None where there is too much to try."""
    start = _State.of(fleet)
    movable = [r.request for r in fleet.residents if r.movable]
    asked = [*movable, *(w.request for w in fleet.waiting)]
    ways = len(fleet.inventory.names) ** (len(fleet.waiting) + 1) * len(movable)
    if ways > MOST_WAYS or any(r.replicas > 1 or r.amounts.mig for r in asked):
        return None
    most = start.sharing_usd() + math.fsum(w.value_usd for w in fleet.waiting)
    most += math.fsum(fleet.empty_usd.values())
    best = without = _best_filled(start, fleet.waiting)
    todo, seen = [start], {_key(start)}
    while todo:
        for state in _one_move_on(todo.pop(), most):
            if (key := _key(state)) in seen:
                continue
            seen.add(key)
            if len(seen) > MOST_STATES:
                return None
            todo.append(state)
            filled = _best_filled(state, fleet.waiting)
            if _better(filled, best):
                best = filled
    return without, best


def _key(state: _State) -> tuple[frozenset[str], tuple[object, ...]]:
    """Who has moved, and where all are; which whole GPUs of a node a job has is all the same."""
    where = tuple(
        tuple((s.row, s.devices if _shared(state.residents[job].request) else ()) for s in spots)
        for job, spots in state.spots.items()
    )
    return frozenset(move.job for move in state.moves), where


def _shared(request: Request) -> bool:
    return request.amounts.gpu_milli % GPU_MILLI != 0


def _one_move_on(state: _State, most_usd: float) -> Iterator[_State]:
    for job, r in state.residents.items():
        if not state.may_move(job) or state.price_usd + r.move_usd >= most_usd:
            continue
        without = state.copy()
        without.inventory.release(r.request, state.spots[job])
        for spots in _alternatives(without.inventory, r.request):
            if spots != state.spots[job]:
                after = state.copy()
                after.move(job, spots)
                yield after


def _alternatives(inventory: Inventory, request: Request) -> Iterator[Spots]:
    """Every node for one replica; of a share, every GPU of it."""
    shared = _shared(request)
    for row in np.flatnonzero(rooms(inventory, request)):
        only = replace(inventory, open=np.arange(inventory.open.size) == row)
        for device in range(inventory.gpu_milli.shape[1]) if shared else (None,):
            if device is not None:
                alone = np.zeros_like(inventory.gpu_milli)
                alone[row, device] = inventory.gpu_milli[row, device]
                only = replace(only, gpu_milli=alone)
            found = place(only, request)
            if not isinstance(found, Refused):
                yield found


def _best_filled(state: _State, waiting: tuple[Waiting, ...]) -> _State:
    """The state with the waiting jobs placed that are worth most, by trying all ways."""
    if not waiting:
        return state
    first, *rest = waiting
    best = _best_filled(state, tuple(rest))
    for spots in _alternatives(state.inventory, first.request):
        after = state.copy()
        after.add(first, spots)
        found = _best_filled(after, tuple(rest))
        if _better(found, best):
            best = found
    return best


# -- many: clear what costs least ------------------------------------------------------------------


def _clear(fleet: Fleet) -> tuple[_State, _State]:
    """What fits without moves, and what fits and empties with steps that each gain."""
    without = _State.of(fleet)
    _fill(without)
    state, known = without, _Known({})
    while (after := _round(state, known)) is not state:
        state = after
    return without, state


def _round(state: _State, known: _Known) -> _State:
    """One step for each waiting gang and each node worth emptying, where it gains."""
    for w in _left(state):
        state = _room_for(state, w, known) or state
    rows = {state.inventory.row_of[name]: usd for name, usd in state.fleet.empty_usd.items()}
    gains = {row: usd - _price_usd(state, state.on[row]) for row, usd in rows.items()}
    for row in sorted(gains, key=lambda row: (-gains[row], row)):
        if gains[row] > CENT and state.on[row]:
            state = _without(state, row) or state
    filled = state.copy()
    return filled if _fill(filled) else state


def _left(state: _State) -> list[Waiting]:
    """Waiting gangs without a place, dearest first."""
    left = (w for w in state.fleet.waiting if w.job not in state.placed)
    return sorted(left, key=lambda w: (-w.value_usd, w.job))


def _fill(state: _State) -> bool:
    """Place what fits and is worth more than the nodes that it keeps from being empty."""
    filled = False
    for w in _left(state):
        found = place(state.inventory, w.request)
        if not isinstance(found, Refused):
            before = state.empty_usd()
            state.add(w, found)
            if state.empty_usd() + w.value_usd > before + CENT:
                filled = True
            else:
                state.inventory.release(w.request, found)
                del state.placed[w.job]
    return filled


def _room_for(state: _State, w: Waiting, known: _Known) -> _State | None:
    """The state with ``w`` placed, nodes being cleared for it; None where that gains nothing."""
    trial = state.copy()
    cleared: set[int] = set()
    for _ in range(w.request.replicas + 1):
        found = place(trial.inventory, w.request)
        if not isinstance(found, Refused):
            trial.add(w, found)
            return trial if _better(trial, state) else None
        budget = w.value_usd - (trial.price_usd - state.price_usd)
        after = _one_cleared(trial, w.request, budget, cleared, known)
        if after is None:
            return None
        trial = after
    return None


def _one_cleared(
    state: _State, request: Request, budget_usd: float, cleared: set[int], known: _Known
) -> _State | None:
    """The state with room for one more replica, where that costs least; adds to ``cleared``."""
    offers = []
    for row in np.flatnonzero(usable_nodes(state.inventory, request)).tolist():
        if row not in cleared and (victims := known.victims(state, row, request)) is not None:
            usd = _price_usd(state, victims)
            if usd < budget_usd - CENT:
                offers.append((usd, row, victims))
    for _, row, victims in nsmallest(MOST_TRIED, offers):
        after = _moved_off(state, row, victims, frozenset(cleared))
        if after is not None:
            cleared.add(row)
            return after
    return None


def _without(state: _State, row: int) -> _State | None:
    """The state with ``row`` empty, or None where its jobs have nowhere to go, or it does not gain.

    Nodes that are worth something empty are no targets.
    """
    if not all(state.may_move(job) for job in state.on[row]):
        return None
    empty = (state.inventory.row_of[name] for name in state.fleet.empty_usd)
    closed = frozenset(other for other in empty if state.is_empty(other))
    after = _moved_off(state, row, tuple(state.on[row]), closed)
    return after if after is not None and _better(after, state) else None


def _moved_off(
    state: _State, row: int, jobs: Sequence[str], closed: frozenset[int]
) -> _State | None:
    """The state with ``jobs`` on other nodes than ``row`` and ``closed``, the largest first."""
    trial = state.copy()
    size = {job: state.residents[job].request.amounts.gpu_milli for job in jobs}
    for job in sorted(jobs, key=lambda job: (-size[job], job)):
        target = trial.target(job, closed | {row})
        if target is None:
            return None
        trial.move(job, target)
    return trial


def _price_usd(state: _State, jobs: Iterable[str]) -> float:
    return math.fsum(state.residents[job].move_usd for job in jobs)


@dataclass(slots=True)
class _Known:
    """Whom to move off a node for one more replica: found once for what the node holds."""

    found: dict[tuple[object, ...], tuple[str, ...] | None]

    def victims(self, state: _State, row: int, request: Request) -> tuple[str, ...] | None:
        free = state.inventory
        jobs = tuple(sorted(job for job in state.on[row] if state.may_move(job)))
        what = (
            free.gpu_milli[row].tobytes(),
            int(free.cpu_milli[row]),
            int(free.memory_bytes[row]),
        )
        key = (request.amounts, row, jobs, what)
        if key not in self.found:
            self.found[key] = _victims(state, row, request, jobs)
        return self.found[key]


def _victims(
    state: _State, row: int, request: Request, jobs: tuple[str, ...]
) -> tuple[str, ...] | None:
    """The cheapest first until one more replica fits; who is not needed after all stays."""
    free, residents = state.inventory, state.residents
    before = int(rooms(free, request)[row])
    chosen: list[str] = []

    def fits() -> bool:
        return int(rooms(free, request)[row]) > before

    for job in sorted(jobs, key=lambda job: (residents[job].move_usd, job)):
        free.release(residents[job].request, state.spots[job])
        chosen.append(job)
        if fits():
            break
    enough = bool(chosen) and fits()
    for job in list(reversed(chosen)):
        free.take(residents[job].request, state.spots[job])
        if enough and fits():
            chosen.remove(job)
        elif enough:
            free.release(residents[job].request, state.spots[job])
    if enough:
        for job in chosen:
            free.take(residents[job].request, state.spots[job])
    return tuple(chosen) if enough else None
