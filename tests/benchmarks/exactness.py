"""Small worlds planned, and tried through by brute force that shares no code with the solvers.

    python -m tests.benchmarks.exactness [--worlds 10000] [--first 0] [--processes 2]

World n is drawn by seed n (`tests.planner.worlds.timed_problem`): windows, preemption, fractions
and shapes of nodes, services, whole-node bills, queues and priorities. Of each: the optimum is that
of brute force to two hundredths of a cent, the plan passes the check, the bound is not above the
optimum. A world that differs is named by its seed, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pool

from planner.check import violations
from planner.plan import Plan, Status
from planner.solve.clock import Limits
from planner.solve.pick import WrongPlan, solve
from tests.benchmarks.measure import Row, publish
from tests.planner.brute_force import Optimum, optimum
from tests.planner.worlds import timed_problem

LIMIT_SECONDS = 60.0  # of one world: far more than any needs
CHUNK = 20
EQUAL_USD = 2e-4  # as near as the shares of work that CP-SAT counts in whole numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What came of one seed."""

    seed: int
    feasible: bool
    equal: bool
    bound_holds: bool
    violations: int
    seconds: float  # of the planner
    brute_seconds: float


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="exactness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=10_000, metavar="N")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    asked = parser.parse_args(words)
    seeds = range(asked.first, asked.first + asked.worlds)
    with Pool(asked.processes) as pool:
        found = list(pool.imap(world, seeds, chunksize=CHUNK))
    wrong = [w.seed for w in found if not (w.equal and w.bound_holds) or w.violations]
    publish("exactness", [_row(found)], seed=asked.first)
    if wrong:
        print(f"worlds that differ: {', '.join(map(str, wrong[:50]))}", file=sys.stderr)
    return 1 if wrong else 0


def world(seed: int) -> World:
    """Plan the world of a seed, try it through, and compare."""
    problem = timed_problem(seed)
    began = time.perf_counter()
    try:
        plan = solve(problem, Limits(seconds=LIMIT_SECONDS, seed=seed))
        wrong = 0 if plan.status is Status.INFEASIBLE else len(violations(problem, plan))
    except WrongPlan:
        plan, wrong = Plan(status=Status.TIMEOUT), 1
    solved = time.perf_counter()
    best = optimum(problem)
    return World(
        seed=seed,
        feasible=best is not None,
        equal=_equal(plan, best),
        bound_holds=best is None or plan.bound.usd <= best.objective_usd + EQUAL_USD,
        violations=wrong,
        seconds=solved - began,
        brute_seconds=time.perf_counter() - solved,
    )


def _equal(plan: Plan, best: Optimum | None) -> bool:
    if best is None:
        return plan.status is Status.INFEASIBLE
    same = abs(plan.costs.objective - best.objective_usd) <= EQUAL_USD
    return same and plan.status is Status.OPTIMAL


def _row(found: Sequence[World]) -> Row:
    return {
        "worlds": len(found),
        "feasible": sum(w.feasible for w in found),
        "equalToBruteForce": sum(w.equal for w in found),
        "boundAboveOptimum": sum(not w.bound_holds for w in found),
        "violations": sum(w.violations for w in found),
        "plannerSeconds": sum(w.seconds for w in found),
        "slowestSeconds": max(w.seconds for w in found),
        "bruteForceSeconds": sum(w.brute_seconds for w in found),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
