"""A day of arrivals, each decided when it comes, beside the plan that knows the whole day.

Fleet     The scale generator's (`planted`) of about 10,000 GPUs: 1,250 nodes of eight types.
Day       Its jobs at load 0.8, at seven times their pace: 168 slots of 514 seconds. A job arrives
          when it is released; one that the generator releases at the start, and that has no
          deadline, an exponential wait (mean 12 slots) before its planted start. Thousands of such
          arrivals are near a Poisson stream, on top of the jobs that are there when the day
          begins, and the planted schedule stays feasible: nobody need be left out.
Prices    The shadow prices of the plan of another day (the next seed) on the same fleet, slot by
          slot: the fast path knows of today what it has seen.
Slow path `planner.solve.pick.solve` of the whole day, all arrivals known in advance.

Cost is the objective over all jobs: money, and what leaving jobs out costs. Times are of one core's
processor time, so that they mean something beside other work; a decision is one job looked at, be
it an arrival or one that makes room. Both plans pass the check, to the GPU.

    python -m tests.benchmarks.fast_path [--jobs 4000] [--seeds 0 2] [--time-limit 60]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from planner import cost
from planner.admit import Answer, Desk
from planner.check import violations
from planner.fast import Placed
from planner.live import Live
from planner.manifests.read import read
from planner.plan import Plan, Price, Status, Unplaced
from planner.problem import Grid, Job, Problem
from planner.question import Horizon, build
from planner.solve.clock import Limits
from planner.solve.pick import solve
from tests.benchmarks.measure import publish
from tests.benchmarks.planted import HOURS, START, Planted, generate, write

GPUS, LOAD, FLEET = 10_000, 0.8, 0
SLOT_SECONDS = 514  # the generator's 168 hourly slots in a day
PACE = 3600 / SLOT_SECONDS
WAIT_SLOTS = 12.0
WARM = 200  # jobs decided before the clock runs: compiled code is read from disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What became of a day, and the processor seconds of each arrival."""

    plan: Plan
    seconds: tuple[float, ...]
    decisions: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=4000, help="in a day")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds of each plan")
    asked = parser.parse_args()
    rows = [row for seed in asked.seeds for row in _rows(asked.jobs, seed, asked.time_limit)]
    publish("fast_path", rows)


def _rows(jobs: int, seed: int, seconds: float) -> list[dict[str, object]]:
    today, other = day(jobs=jobs, seed=seed), day(jobs=jobs, seed=seed + 1)
    prices = solve(other, Limits(seconds=seconds, seed=seed)).prices
    slow = solve(today, Limits(seconds=seconds, seed=seed))
    replay(replace(today, jobs=today.jobs[:WARM]), prices)
    runs = {"of another day": replay(today, prices), "none": replay(today, ())}
    return [_row(seed, name, today, run, slow) for name, run in runs.items()]


def _row(seed: int, prices: str, today: Problem, run: Replay, slow: Plan) -> dict[str, object]:
    jobs, microseconds = len(today.jobs), 1e6 * np.array(run.seconds)
    fast_usd, slow_usd = run.plan.costs.objective, slow.costs.objective
    total = sum(run.seconds)
    return {
        "seed": seed,
        "prices": prices,
        "jobs": jobs,
        "gpus": sum(p.gpus_per_node * p.nodes_at(0) for p in today.pools),
        "decisions": run.decisions,
        "decisionsPerSecond": round(run.decisions / total),
        "arrivalsPerSecond": round(jobs / total),
        "p50Microseconds": round(float(np.percentile(microseconds, 50))),
        "p99Microseconds": round(float(np.percentile(microseconds, 99))),
        "fastUsdPerJob": fast_usd / jobs,
        "slowUsdPerJob": slow_usd / jobs,
        "overSlowPercent": 100 * (fast_usd / slow_usd - 1),
        "overBoundPercent": 100 * (fast_usd / slow.bound.usd - 1),
        "slowGapPercent": 100 * slow.gap_fraction,
        "fastLeftOut": len(run.plan.unplaced),
        "slowLeftOut": len(slow.unplaced),
    }


def day(*, jobs: int, seed: int) -> Problem:
    """A day of arrivals, on the same fleet for every ``seed``."""
    made = generate(jobs=jobs, gpus=GPUS, load=LOAD, seed=seed, fleet_seed=FLEET)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "day.jsonl"
        write(made, path)
        horizon = Horizon(start=START, length=timedelta(hours=HOURS), slot=timedelta(hours=1))
        week = build(read([path]), horizon, START).problem
    rng = random.Random(f"{seed}:arrivals")
    planted = {p.job: p for p in made.planted}
    return replace(
        week,
        grid=Grid(start=START, slot_seconds=SLOT_SECONDS, slots=HOURS),
        jobs=tuple(_arriving(job, planted[job.name], rng) for job in week.jobs),
    )


def _arriving(job: Job, planted: Planted, rng: random.Random) -> Job:
    """The job at the day's pace, with the slot in which it arrives."""
    early = int(planted.start - rng.expovariate(1 / WAIT_SLOTS))
    known = job.release > 0 or job.deadline < HOURS
    modes = (
        replace(mode, work_per_replica_hour=PACE * mode.work_per_replica_hour) for mode in job.modes
    )
    return replace(
        job,
        release=job.release if known else max(0, early),
        modes=tuple(modes),
        unplaced_usd=job.unplaced_usd / PACE,
    )


def replay(today: Problem, prices: Sequence[Price]) -> Replay:
    """Each job admitted when it arrives. Raises AssertionError where the plan is not true."""
    live = Live(replace(today, jobs=()))
    live.reprice(prices)
    desk = Desk(live)
    answers: dict[str, Answer] = {}
    seconds = []
    for job in sorted(today.jobs, key=lambda job: (job.release, job.name)):
        began = time.thread_time()
        admitted = desk.admit(job, job.release)
        seconds.append(time.thread_time() - began)
        answers |= {job.name: admitted.answer, **dict(admitted.moved)}
    plan = _assembled(today, answers)
    if wrong := violations(today, plan):
        raise AssertionError("; ".join(wrong[:5]))
    return Replay(plan=plan, seconds=tuple(seconds), decisions=desk.decisions)


def _assembled(today: Problem, answers: dict[str, Answer]) -> Plan:
    segments = [s for a in answers.values() if isinstance(a, Placed) for s in a.segments]
    segments.sort(key=lambda s: (s.start, s.job))
    unplaced = [a for a in answers.values() if isinstance(a, Unplaced)]
    return Plan(
        status=Status.FEASIBLE,
        segments=tuple(segments),
        unplaced=tuple(sorted(unplaced, key=lambda u: u.job)),
        costs=cost.costs(today, segments, [u.job for u in unplaced]),
        useful_flops=sum(cost.segment_flops(today, s) for s in segments),
    )


if __name__ == "__main__":
    main()
