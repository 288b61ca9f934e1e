"""One file that picks: `solve(problem) -> Plan`, exact where that is in reach, bounded where not.

1. Small problems go whole to CP-SAT (`exact`), which proves the optimum.
2. Larger ones get a bound and an assignment from `master`, a plan from `build`, and then ruin and
   recreate and CP-SAT on parts of it (`search`) until the gap or the time is reached.
3. Fleets (`fleet`) are priced: a bound by Lagrangian ascent, a plan by annealing from its prices.

Either way the answer is rounded to what it is, its cost computed anew, and re-proved by `check`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from planner import cost, placement
from planner.check import violations
from planner.plan import Bound, Plan, Reason, Status, Unplaced
from planner.problem import Problem
from planner.reasons import why_not
from planner.scenarios import Ray
from planner.solve import build, exact, ranging, search, warm
from planner.solve.clock import Clock, Limits, Step, Stop
from planner.solve.exact import Found
from planner.solve.fleet import engine, spread
from planner.solve.fleet.replan import Memory
from planner.solve.master import Master, Relaxed
from planner.table import Table, refuse
from planner.table import build as tabulate

EXACT_SHARE = 0.3  # of the time, for the proof of a small problem
RANGING_SHARE = 0.05  # of the time, for how wide the shadow prices are


class WrongPlan(AssertionError):
    """The solver's plan broke its own problem: a bug, never a user's fault."""


def solve(
    problem: Problem,
    limits: Limits | None = None,
    listen: Callable[[Step], None] | None = None,
    stop: Stop | None = None,
    ray: Ray | None = None,
    known: Plan | None = None,
) -> Plan:
    """The cheapest plan found within ``limits``, or until ``stop``, with what is proved of it.

    With ``ray`` the jobs of a fleet are priced on its workers: same bound, same plan. ``known`` is
    a plan of a question near this one: what is too large for CP-SAT as a whole and is not a fleet
    is searched from what of it holds here.

    Raises `planner.table.Unsupported` for what cannot be planned yet, and
    `planner.scenarios.ScenarioError` where the workers of ``ray`` do not start.
    """
    clock = Clock(limits or Limits(), listen, stop or Stop())
    if engine.is_fleet(problem):
        refuse(problem)
        with spread.pricers(ray) as make:
            return _checked(problem, engine.solve(problem, clock, make))
    table = tabulate(problem)
    impossible = [j for i, j in enumerate(problem.jobs) if j.required and not table.of_job[i]]
    plan = None if impossible else _attempt(table, clock, known)
    if plan is None or plan.status is Status.INFEASIBLE:
        plan = _without_requirements(problem, clock)
    return _checked(problem, plan)


class Session:
    """Plans one fleet again and again, each time from what the last plan left.

    For fleets: prices and places are kept, and a job moves only where that saves more than
    `planner.solve.fleet.replan` says that moving it costs. Smaller problems are solved anew.
    """

    def __init__(self) -> None:
        self._memory: Memory | None = None

    def solve(
        self,
        problem: Problem,
        limits: Limits | None = None,
        listen: Callable[[Step], None] | None = None,
        stop: Stop | None = None,
    ) -> Plan:
        """As `solve`."""
        if not engine.is_fleet(problem):
            return solve(problem, limits, listen, stop)
        refuse(problem)
        clock = Clock(limits or Limits(), listen, stop or Stop())
        plan, self._memory = engine.plan(problem, clock, self._memory)
        return _checked(problem, plan)


def _checked(problem: Problem, plan: Plan) -> Plan:
    if wrong := violations(problem, plan):
        raise WrongPlan("; ".join(wrong[:5]))
    return plan


def _attempt(table: Table, clock: Clock, known: Plan | None = None) -> Plan:
    master = Master(table, clock.stop)
    relaxed = master.relax(seconds=clock.left)
    relaxed = ranging.ranged(master, relaxed, seconds=RANGING_SHARE * clock.left)
    found = exact.prove(table, clock.part(EXACT_SHARE)) if exact.small(table) else None
    if found is not None and (found.optimal or found.infeasible):
        method, bound = "CP-SAT", Bound(usd=found.bound_usd, method="CP-SAT")
    else:
        if found is None and known is not None:
            found = Found(bookings=warm.bookings(table, known), bound_usd=-math.inf)
        found = search.search(table, clock, relaxed, master, found)
        method = "relaxation, packing, CP-SAT"
        bound = Bound(
            usd=found.bound_usd,
            method="energetic relaxation (LP by GLOP, integer by SCIP) and CP-SAT",
            relaxes=_relaxes(table),
        )
    if found.bookings is None:
        status = Status.INFEASIBLE if found.infeasible else Status.TIMEOUT
        return _nothing(table, clock, status)
    return _plan(table, clock, found, relaxed, bound, method)


def _relaxes(table: Table) -> tuple[str, ...]:
    loose = ["nodes and start times, but for areas over time", "contention for early ends"]
    if search.whole_nodes_billed(table):
        loose.append("idle time of rented nodes")
    return tuple(loose)


def _plan(
    table: Table, clock: Clock, found: Found, relaxed: Relaxed, bound: Bound, method: str
) -> Plan:
    problem = table.problem
    early = build.advance(table, found.bookings or {})
    bookings = build.uphold_tiers(table, early)  # last: what moves may make room for somebody
    if bookings != early:
        found = replace(found, optimal=False)
    segments = placement.segments(table, bookings.values())
    out = [j for i, j in enumerate(problem.jobs) if i not in bookings]
    costs = cost.costs(problem, segments, [j.name for j in out])
    usd = costs.objective if found.optimal else min(bound.usd, costs.objective)
    return Plan(
        status=Status.OPTIMAL if found.optimal else Status.FEASIBLE,
        segments=segments,
        unplaced=tuple(why_not(table, bookings, found.optimal)),
        costs=costs,
        full_cost_usd=costs.money + costs.moving + cost.sunk_usd(problem),
        useful_flops=sum(cost.segment_flops(problem, s) for s in segments),
        bound=replace(bound, usd=usd, relaxes=() if found.optimal else bound.relaxes),
        prices=relaxed.prices,
        queue_prices=relaxed.queue_prices,
        solve_seconds=clock.seconds,
        seed=clock.limits.seed,
        method=method,
        stopped=clock.stop.asked and not found.optimal,
    )


def _nothing(table: Table, clock: Clock, status: Status) -> Plan:
    problem = table.problem
    unplaced = tuple(
        Unplaced(job=j.name, reason=Reason.NOT_FOUND, message="no plan was found in time")
        for j in sorted(problem.jobs, key=lambda j: j.name)
    )
    return Plan(
        status=status,
        unplaced=unplaced,
        costs=cost.costs(problem, (), [j.name for j in problem.jobs]),
        full_cost_usd=cost.sunk_usd(problem),
        solve_seconds=clock.seconds,
        seed=clock.limits.seed,
        stopped=clock.stop.asked,
    )


def _without_requirements(problem: Problem, clock: Clock) -> Plan:
    """The best that can be had when not all that is required can run: it says what is missing."""
    jobs = tuple(replace(j, required=False) for j in problem.jobs)
    seconds = max(clock.left, 0.1 * clock.limits.seconds)
    again = Clock(replace(clock.limits, seconds=seconds), clock.listen, clock.stop)
    plan = _attempt(tabulate(replace(problem, jobs=jobs)), again)
    if plan.status is Status.TIMEOUT:
        return plan
    return replace(plan, status=Status.INFEASIBLE, solve_seconds=clock.seconds)
