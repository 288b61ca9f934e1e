"""A fleet is planned once, then again after one event: seconds, gap, and who moved.

    python -m tests.benchmarks.replan [--jobs 10000 --gpus 100000 --load 0.8 --seeds 0-2]

Events, each from the same last plan:

    arrival    a job that the last plan did not know
    departure  a job of the last plan is there no more
    node lost  the node on which the last plan has the most GPU-hours is out of order

Seconds are those of the call as a `planner.solve.pick.Session` makes it, after a last plan and
other re-plans in the same process; the check by plain arithmetic is measured apart. The bound is
proved anew each time.

*Moved* is who has another mode or start than in the last plan: wanted, or *put out*, because a
smaller fleet holds them no longer. What the moves save is the cost of the plan in which everybody
stays who can, and who is put out is put in elsewhere, less the cost of the plan that was made;
their price is what `planner.churn` asks for those that are wanted. *Other nodes* is who keeps mode
and start, elsewhere.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np

from planner import churn
from planner.check import violations
from planner.collector import kept
from planner.plan import Plan
from planner.problem import Job, Problem
from planner.solve.clock import Clock, Limits, Step
from planner.solve.fleet import engine
from planner.solve.fleet.replan import Memory, as_before
from planner.table import refuse
from tests.benchmarks.measure import Row, publish
from tests.benchmarks.planted import generate, write
from tests.benchmarks.scale import integers, problem_of

AIM_SECONDS, AIM_GAP_POINTS, AIM_MOVED_PERCENT, AIM_OTHER_NODES_PERCENT = 1.0, 0.1, 2.0, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """The last plan, what it leaves, and a job that it does not know."""

    problem: Problem
    plan: Plan
    memory: Memory
    arriving: Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Replanned:
    """What came of one event; gaps in percent."""

    event: str
    seed: int
    seconds: float
    check_seconds: float
    old_gap: float
    new_gap: float
    moved: int
    moved_percent: float
    put_out: int  # of the moved
    other_nodes: int
    other_nodes_percent: float
    saved_usd: float  # by the moves
    price_usd: float  # of the moves of who is not put out
    left_out: int
    violations: int


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="replan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=10_000, metavar="N")
    parser.add_argument("--gpus", type=int, default=100_000, metavar="M")
    parser.add_argument("--load", type=float, default=0.8, metavar="L")
    parser.add_argument("--seeds", type=integers, default=[0, 1, 2], metavar="0-2")
    parser.add_argument("--time-limit", type=float, default=60.0, help="of the last plan, seconds")
    asked = parser.parse_args(words)
    found = {event: list[Replanned]() for event in EVENTS}
    with kept():
        _load_compiled()
        for seed in asked.seeds:
            old = planned(_problem(asked, seed), asked.time_limit, seed)
            for event, change in EVENTS.items():
                found[event].append(replanned(event, old, change(old), seed))
                print(found[event][-1], file=sys.stderr)
    rows = [_row(event, results) for event, results in found.items()]
    publish("replan", rows, details=[asdict(r) for results in found.values() for r in results])


def _load_compiled() -> None:
    """A small re-plan: the first one in a process reads in what is compiled."""
    small = argparse.Namespace(jobs=700, gpus=7000, load=0.8)
    old = planned(_problem(small, 0), 5.0, 0)
    for event, change in EVENTS.items():
        replanned(event, old, change(old), 0)


def _problem(asked: argparse.Namespace, seed: int) -> Problem:
    made = generate(jobs=asked.jobs, gpus=asked.gpus, load=asked.load, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.jsonl"
        write(made, path)
        return problem_of(path)


def planned(problem: Problem, seconds: float, seed: int) -> Old:
    """The plan of all jobs but the last."""
    *there, arriving = problem.jobs
    problem = replace(problem, jobs=tuple(there))
    plan, memory = engine.plan(problem, Clock(Limits(seconds=seconds, seed=seed)))
    return Old(problem=problem, plan=plan, memory=memory, arriving=arriving)


# -- events ----------------------------------------------------------------------------------------


def arrival(old: Old) -> Problem:
    return replace(old.problem, jobs=(*old.problem.jobs, old.arriving))


def departure(old: Old) -> Problem:
    """Without the first of the jobs that run: its GPUs are free for others."""
    gone = old.plan.segments[0].job
    return replace(old.problem, jobs=tuple(j for j in old.problem.jobs if j.name != gone))


def node_lost(old: Old) -> Problem:
    used = dict.fromkeys(old.problem.node_by_name, 0)
    for s in old.plan.segments:
        for place in s.placement:
            used[place.node] += len(place.devices) * (s.end - s.start)
    lost = max(used, key=lambda name: used[name])
    nodes = (replace(n, cordoned="lost") if n.name == lost else n for n in old.problem.nodes)
    return replace(old.problem, nodes=tuple(nodes))


EVENTS: dict[str, Callable[[Old], Problem]] = {
    "arrival": arrival,
    "departure": departure,
    "node lost": node_lost,
}


# -- one re-plan -----------------------------------------------------------------------------------


def replanned(event: str, old: Old, problem: Problem, seed: int) -> Replanned:
    """Plan ``problem`` from what ``old`` leaves, and see what changed."""
    steps: list[Step] = []
    began = time.perf_counter()
    refuse(problem)
    plan, memory = engine.plan(problem, Clock(Limits(seed=seed), steps.append), old.memory)
    solved = time.perf_counter()
    wrong = violations(problem, plan)
    checked = time.perf_counter()
    jobs = memory.columns.jobs
    elsewhere = (memory.mode != jobs["kept_mode"]) | (memory.start != jobs["kept_start"])
    moved = np.flatnonzero(elsewhere & (jobs["kept_mode"] >= 0))
    wanted = moved[as_before(memory.columns, seed).mode[moved] >= 0]
    other_nodes = len(churn.moved(old.plan, plan, problem)) - moved.size
    stayed = next(s.best_usd for s in steps if s.doing == "packing")
    return Replanned(
        event=event,
        seed=seed,
        seconds=solved - began,
        check_seconds=checked - solved,
        old_gap=100 * old.plan.gap_fraction,
        new_gap=100 * plan.gap_fraction,
        moved=moved.size,
        moved_percent=100 * moved.size / len(problem.jobs),
        put_out=moved.size - wanted.size,
        other_nodes=other_nodes,
        other_nodes_percent=100 * other_nodes / len(problem.jobs),
        saved_usd=stayed - plan.costs.objective,
        price_usd=float(jobs["move_usd"][wanted].sum()),
        left_out=len(plan.unplaced),
        violations=len(wrong),
    )


# -- the table -------------------------------------------------------------------------------------


def _row(event: str, results: Sequence[Replanned]) -> Row:
    """The slowest and the worst of the seeds, and the mean of the rest."""
    return {
        "event": event,
        "seeds": len(results),
        "secondsMean": mean(r.seconds for r in results),
        "secondsWorst": max(r.seconds for r in results),
        "aimSeconds": AIM_SECONDS,
        "oldGapPercent": mean(r.old_gap for r in results),
        "newGapPercent": mean(r.new_gap for r in results),
        "worstRisePoints": max(r.new_gap - r.old_gap for r in results),
        "aimRisePoints": AIM_GAP_POINTS,
        "movedMean": mean(r.moved for r in results),
        "movedPercentWorst": max(r.moved_percent for r in results),
        "aimMovedPercent": AIM_MOVED_PERCENT,
        "putOutMean": mean(r.put_out for r in results),
        "otherNodesMean": mean(r.other_nodes for r in results),
        "otherNodesPercentWorst": max(r.other_nodes_percent for r in results),
        "aimOtherNodesPercent": AIM_OTHER_NODES_PERCENT,
        "savedUsdMean": mean(r.saved_usd for r in results),
        "priceUsdMean": mean(r.price_usd for r in results),
        "movesPay": all(r.saved_usd > r.price_usd for r in results if r.moved > r.put_out),
        "leftOut": sum(r.left_out for r in results),
        "violations": sum(r.violations for r in results),
        "checkSecondsMean": mean(r.check_seconds for r in results),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
