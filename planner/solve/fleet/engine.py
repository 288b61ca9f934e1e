"""Fleet scale: `Problem -> Plan` by prices.

1. `reading`  the problem in columns.
2. `ascent`   prices of capacity that prove a bound on every plan.
3. `improve`  a plan built from those prices, and annealed.
4. `parting`  jobs that change their mode, where that saves.
5. `answer`   nodes named; whom they have no room for goes back to 3 with less of the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from planner import cost
from planner.collector import paused
from planner.instances import name_instances
from planner.plan import Bound, Plan, Status
from planner.problem import GPU_MILLI, Billing, Job, Problem, Work
from planner.solve.clock import Clock
from planner.solve.fleet import answer
from planner.solve.fleet.answer import Named
from planner.solve.fleet.ascent import Ascent, ascend
from planner.solve.fleet.benders import suits
from planner.solve.fleet.columns import WHOLE, Columns, Floats, Ints, Priced
from planner.solve.fleet.improve import Improver, chosen
from planner.solve.fleet.naming import Known
from planner.solve.fleet.parting import Cut, part
from planner.solve.fleet.pricing import Pricer
from planner.solve.fleet.prove import prove, within_reach
from planner.solve.fleet.reading import read
from planner.solve.fleet.replan import Memory, alike, remembered
from planner.solve.fleet.state import insert, restore

MODES = 6000  # from which a problem is a fleet's
PLAIN_MODES, PLAIN_SLOTS = 600, 1000  # from which it is, and to which, where only GPUs count
MODE_NODES = 2_000_000  # modes times nodes from which it is: only prices count nodes by pool
ANNEAL_SHARE = 0.35  # of the time, where there is a proof to be had in the rest
HANDOVER_SHARE = 0.2  # the same where modes decide what a plan costs: better plans come from there
ASCENT_SHARE = 0.4  # of the time, at most
NAMING_ROUNDS = 4
FINISHING_SHARE = 0.35  # of the time at most is kept for names, costs and the check together:
READING = 1.2  # times what reading took, both being a matter of jobs and of how busy the machine is
MEASURED_SHARE = 0.25  # of the time at most, where one naming is timed, and
FINISHING = 7.0  # times what it took
PARTING_SHARE = 0.02  # of the time, for jobs that change their mode
SQUEEZE = 0.01  # of a pool, each time that its nodes had no room for what it holds by count
METHOD = "prices by the volume algorithm, annealed ejections"


def is_fleet(problem: Problem) -> bool:
    """Whether the problem is better solved by prices: it is large, or GPUs are all that counts.

    Prices know no mixes of a service.
    """
    modes = sum(len(job.modes) for job in problem.jobs)
    mixed = any(job.mixes for job in problem.jobs)
    if mixed:
        return False
    large = modes > MODES or modes * len(problem.nodes) > MODE_NODES
    return large or (modes > PLAIN_MODES and _is_plain(problem))


def _is_plain(problem: Problem) -> bool:
    """Whether the columns say all: whole GPUs of any node, billed by use, and no links."""
    return (
        problem.grid.slots <= PLAIN_SLOTS
        and not problem.running
        and all(pool.billing is not Billing.NODE and pool.one_price for pool in problem.pools)
        and all(queue.budget_usd_per_month is None for queue in problem.queues)
        and all(_is_plain_job(job) for job in problem.jobs)
    )


def _is_plain_job(job: Job) -> bool:
    plain = not job.after and isinstance(job.need, Work)
    return plain and all(
        mode.amounts.gpu_milli == GPU_MILLI and not (mode.spread or mode.together_required)
        for mode in job.modes
    )


def solve(problem: Problem, clock: Clock, make: Callable[[Columns], Pricer] = Pricer) -> Plan:
    """A plan and a bound within the clock's limits; ``make`` says where the jobs are priced."""
    return plan(problem, clock, make=make)[0]


def plan(
    problem: Problem,
    clock: Clock,
    memory: Memory | None = None,
    make: Callable[[Columns], Pricer] = Pricer,
) -> tuple[Plan, Memory]:
    """The same from what the last plan left, and what this one leaves."""
    if memory is not None and not alike(memory, problem):
        memory = None
    c = read(problem) if memory is None else remembered(memory, problem)
    reading = clock.seconds
    pricer = make(c)
    ascent, priced = _ascend(pricer, clock, None if memory is None else memory.prices)
    provable = memory is None and clock.limits.gap is not None and clock.limits.moves is None
    provable = provable and _is_plain(problem) and within_reach(c)
    share = HANDOVER_SHARE if suits(c) else ANNEAL_SHARE
    improver = Improver(
        columns=c,
        priced=priced,
        value=pricer.values(priced)[0],
        bound_usd=ascent.bound_usd,
        clock=_with_time_to_finish(clock, reading, share if provable else 1.0),
    )
    if memory is not None:
        improver.resume()
    else:
        number = {job.name: j for j, job in enumerate(problem.jobs)}
        after = tuple(tuple(number[name] for name in job.after) for job in problem.jobs)
        improver.begin(list(ascent.samples), after)
        if not provable and _tells_little(problem):
            improver.clock = _with_time_measured(problem, c, improver, clock)
        improver.improve()
    if provable and improver.best is not None:
        proof = prove(c, ascent.prices, improver.best, clock)
        improver.best, improver.bound_usd = proof.best, max(proof.bound_usd, improver.bound_usd)
    improver.uphold_tiers()
    known = {} if memory is None else memory.known
    return _Answer(problem, c, ascent, priced, clock, known).plan(improver)


def _with_time_to_finish(clock: Clock, reading: float, share: float) -> Clock:
    """The same clock, for a share of its time, that leaves enough for what follows the search.

    ``reading``: seconds that the columns took.
    """
    seconds = clock.limits.seconds
    spared = min(FINISHING_SHARE * seconds, READING * reading)
    return replace(clock, limits=replace(clock.limits, seconds=share * (seconds - spared)))


def _tells_little(problem: Problem) -> bool:
    """Whether how long naming takes is more than a matter of jobs: services, topology, parts."""
    return not all(_is_plain_job(replace(job, after=())) for job in problem.jobs)


def _with_time_measured(problem: Problem, c: Columns, improver: Improver, clock: Clock) -> Clock:
    """The same by how long the first plan takes to be named."""
    best, seconds = improver.best, clock.limits.seconds
    if best is None or clock.limits.moves is not None:
        return improver.clock
    begun = clock.seconds
    named = answer.named(problem, c, best.mode, best.start, {})
    answer.segments(problem, c, best.mode, best.start, named)
    spared = min(MEASURED_SHARE * seconds, FINISHING * (clock.seconds - begun))
    return replace(clock, limits=replace(clock.limits, seconds=seconds - spared))


def _ascend(pricer: Pricer, clock: Clock, prices: Floats | None) -> tuple[Ascent, Priced]:
    """Prices in a share of the time; where there is a number of moves, in a number of passes."""
    share = ASCENT_SHARE if clock.limits.moves is None else 1.0
    until = clock.seconds + share * clock.left

    def stop(bound: float) -> bool:
        clock.say("bounding", bound=bound, best=np.inf)
        return clock.stop.asked or clock.seconds > until

    return ascend(pricer, prices, stop)


@dataclass(frozen=True, slots=True)
class _Answer:
    problem: Problem
    columns: Columns
    ascent: Ascent
    priced: Priced
    clock: Clock
    known: Known  # where the last plan has whom

    @paused()
    def plan(self, improver: Improver) -> tuple[Plan, Memory]:
        """The best plan found, on nodes, and what it leaves."""
        problem, c = self.problem, self.columns
        best = improver.best or chosen(c, *(np.full(c.job_count, -1, dtype=np.int32),) * 2)
        mode, start, named = self._on_nodes(best.mode, best.start)
        memory = Memory(problem, c, self.ascent.prices, mode, start, named.known)
        out = [job for j, job in enumerate(problem.jobs) if j not in named.placed]
        segments = name_instances(problem, answer.segments(problem, c, mode, start, named))
        costs = cost.costs(problem, segments, [job.name for job in out])
        required = any(job.required for job in out)
        bound = min(improver.bound_usd, costs.objective)
        made = Plan(
            status=Status.TIMEOUT if required else Status.FEASIBLE,
            segments=segments,
            unplaced=answer.unplaced(problem, c, named.placed),
            costs=costs,
            full_cost_usd=costs.money + costs.moving + cost.sunk_usd(problem),
            useful_flops=sum(cost.segment_flops(problem, s) for s in segments),
            bound=Bound(
                usd=bound, method="Lagrangian ascent (volume algorithm)", relaxes=self._relaxes()
            ),
            prices=answer.prices(problem, self.ascent.prices),
            queue_prices=answer.queue_prices(problem, self.ascent.prices),
            solve_seconds=self.clock.seconds,
            seed=self.clock.limits.seed,
            method=METHOD,
            stopped=self.clock.stop.asked,
        )
        return made, memory

    def _on_nodes(self, mode: Ints, start: Ints) -> tuple[Ints, Ints, Named]:
        """Nodes for all; whom they have no room for is put elsewhere, or left out at last."""
        c = self.columns
        if cuts := self._cuts(mode, start):
            named = answer.named(self.problem, c, mode, start, self.known, cuts)
            if not named.failed:
                return mode, start, named
        named = answer.named(self.problem, c, mode, start, self.known)
        whole = c.capacity.copy()
        for _ in range(NAMING_ROUNDS):
            if not named.failed:
                break
            rows = c.rows[c.modes["cls"][mode[list(named.failed)]], 0]
            c.capacity[np.unique(rows)] = c.capacity[np.unique(rows)] * (1 - SQUEEZE)
            mode, start = mode.copy(), start.copy()
            mode[list(named.failed)] = -1
            state = restore(c, mode, start, self.clock.limits.seed)
            insert(c, state, self.priced, np.array(named.failed, dtype=np.int32))
            mode, start = state.mode, state.start
            named = answer.named(self.problem, c, mode, start, named.known)
        c.capacity[:] = whole
        return self._filled_up(mode, start, named)

    def _cuts(self, mode: Ints, start: Ints) -> dict[int, Cut]:
        """Jobs that change their mode, in a share of the time where there is no number of moves."""
        clock, limits = self.clock, self.clock.limits
        until = clock.seconds + PARTING_SHARE * limits.seconds

        def enough() -> bool:
            return clock.stop.asked or (limits.moves is None and clock.seconds > until)

        return part(self.problem, self.columns, mode, start, enough)

    def _filled_up(self, mode: Ints, start: Ints, named: Named) -> tuple[Ints, Ints, Named]:
        """With who is left out and has room all the same: nodes were asked for more than enough."""
        c, out = self.columns, [j for j in range(mode.size) if j not in named.placed]
        mode = mode.copy()
        mode[out] = -1
        free = [j for j in out if not c.jobs["fixed"][j]]  # no other waits for it, nor it for any
        if not free:
            return mode, start, named
        state = restore(c, mode, start, self.clock.limits.seed)
        insert(c, state, self.priced, np.array(free, dtype=np.int32))
        if (state.mode[free] < 0).all():
            return mode, start, named
        again = answer.named(self.problem, c, state.mode, state.start, named.known)
        better = named.placed.keys() < again.placed.keys()
        return (state.mode, state.start, again) if better else (mode, start, named)

    def _relaxes(self) -> tuple[str, ...]:
        problem, c = self.problem, self.columns
        stated = {
            "whole gangs: a job may share itself over its choices": True,
            "nodes: GPUs are counted by pool": True,
            "dependencies, but for the earliest starts they leave": bool(c.jobs["fixed"].any()),
            "budgets": bool(c.budgets.size),
            "stops and changes of mode are free": bool((c.jobs["pieces"] != WHOLE).any()),
            "idle time of rented nodes": any(p.billing is Billing.NODE for p in problem.pools),
        }
        return tuple(text for text, holds in stated.items() if holds)
