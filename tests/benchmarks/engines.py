"""One problem to each method by itself: where an engine of our own beats CP-SAT and the LP, or not.

    python -m tests.benchmarks.engines --jobs 100,300,1000 --loads 0.6,0.8 --seeds 0 --seconds 10,60

The fleet has six GPUs for each job. Methods, all on two cores, each in a process of its own:

    cp-sat       the whole problem (`planner.solve.model`)
    lp           the time-indexed LP (`planner.solve.fleet.linear`): a bound, and no plan
    fleet        prices by the volume algorithm and annealing (`planner.solve.fleet.engine`)
    fleet+prove  half of the time for `fleet`, the rest for `planner.solve.fleet.prove`

Gaps are in percent of a plan's cost, against the method's own bound and against the best of all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from planner import cost, placement
from planner.plan import gap_of
from planner.problem import Problem
from planner.solve import exact
from planner.solve.clock import Clock, Limits
from planner.solve.fleet import linear
from planner.solve.fleet.ascent import ascend
from planner.solve.fleet.columns import Floats
from planner.solve.fleet.improve import Improver
from planner.solve.fleet.pricing import Pricer
from planner.solve.fleet.prove import prove
from planner.solve.fleet.reading import read
from planner.table import build as tabulate
from tests.benchmarks.measure import Row, publish
from tests.benchmarks.planted import generate, write
from tests.benchmarks.scale import problem_of

GPUS_A_JOB = 6
FLEET_SHARE = 0.5  # of the time, where `prove` takes the rest


@dataclass(frozen=True, slots=True)
class Known:
    """What a method ended with; inf and -inf where it has none (USD)."""

    usd: float
    not_running_usd: float
    bound_usd: float
    seconds: float


def cp_sat(problem: Problem, clock: Clock) -> Known:
    table = tabulate(problem)
    found = exact.prove(table, clock)
    if found.bookings is None:
        return Known(np.inf, 0.0, found.bound_usd, clock.seconds)
    out = [job.name for j, job in enumerate(problem.jobs) if j not in found.bookings]
    costs = cost.costs(problem, placement.segments(table, found.bookings.values()), out)
    return Known(costs.objective, costs.not_running, found.bound_usd, clock.seconds)


def lp(problem: Problem, clock: Clock) -> Known:
    c = linear.sharpen(read(problem))
    ascent, _ = ascend(Pricer(c), None, lambda _: clock.left <= 0)
    found = linear.relax(c, ascent.prices, lambda _: clock.left <= 0)
    return Known(np.inf, 0.0, found.bound_usd, clock.seconds)


def fleet(problem: Problem, clock: Clock) -> Known:
    _, improver = _searched(problem, clock)
    assert improver.best is not None
    best = improver.best
    return Known(best.usd, best.not_running_usd, improver.bound_usd, clock.seconds)


def fleet_and_prove(problem: Problem, clock: Clock) -> Known:
    prices, improver = _searched(problem, clock.part(FLEET_SHARE))
    assert improver.best is not None
    proof = prove(improver.columns, prices, improver.best, clock)
    return Known(proof.best.usd, proof.best.not_running_usd, proof.bound_usd, clock.seconds)


def _searched(problem: Problem, clock: Clock) -> tuple[Floats, Improver]:
    c = read(problem)
    pricer = Pricer(c)
    ascent, priced = ascend(pricer, None, lambda _: clock.left <= 0)
    improver = Improver(
        columns=c,
        priced=priced,
        value=pricer.values(priced)[0],
        bound_usd=ascent.bound_usd,
        clock=clock,
    )
    improver.begin(list(ascent.samples), ((),) * c.job_count)
    improver.improve()
    return ascent.prices, improver


METHODS: dict[str, Callable[[Problem, Clock], Known]] = {
    "cp-sat": cp_sat,
    "lp": lp,
    "fleet": fleet,
    "fleet+prove": fleet_and_prove,
}


def measured(path: Path, method: str, seconds: float) -> Known:
    """The method's answer, after a first call that compiles what it needs."""
    problem = problem_of(path)
    if method.startswith("fleet"):
        _searched(problem, Clock(Limits(seconds=300.0, moves=1)))  # one epoch
    return METHODS[method](problem, Clock(Limits(seconds=seconds)))


def rows(path: Path, jobs: int, load: float, seed: int, seconds: float) -> list[Row]:
    """A row for each method on one instance."""
    known: dict[str, Known] = {}
    for method in METHODS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            known[method] = process.submit(measured, path, method, seconds).result()
    least = min(k.usd for k in known.values())
    most = max(k.bound_usd for k in known.values())
    return [
        {
            "jobs": jobs,
            "load": load,
            "seed": seed,
            "limitSeconds": seconds,
            "method": method,
            "seconds": round(k.seconds, 1),
            "objectiveUsd": _money(k.usd),
            "boundUsd": _money(k.bound_usd),
            "gapPercent": _percent(k.usd, k.bound_usd, k.not_running_usd),
            "abovePercent": _percent(k.usd, most, k.not_running_usd),
            "boundBelowBestPercent": _percent(least, k.bound_usd, 0.0),
        }
        for method, k in known.items()
    ]


def _money(usd: float) -> float | None:
    return round(usd, 2) if np.isfinite(usd) else None


def _percent(usd: float, bound: float, not_running: float) -> float | None:
    if not np.isfinite(usd) or not np.isfinite(bound):
        return None
    return round(100 * gap_of(usd, bound, not_running), 4)


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="engines", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=_list(int), default=[100, 300, 1000], metavar="N,N")
    parser.add_argument("--loads", type=_list(float), default=[0.6, 0.8, 0.95], metavar="L,L")
    parser.add_argument("--seeds", type=_list(int), default=[0], metavar="S,S")
    parser.add_argument("--seconds", type=_list(float), default=[10.0, 60.0], metavar="T,T")
    asked = parser.parse_args(words)
    found: list[Row] = []
    with TemporaryDirectory() as folder:
        for jobs, load, seed in product(asked.jobs, asked.loads, asked.seeds):
            path = Path(folder) / f"{jobs}-{load}-{seed}.jsonl"
            write(generate(jobs=jobs, gpus=GPUS_A_JOB * jobs, load=load, seed=seed), path)
            for seconds in asked.seconds:
                found += rows(path, jobs, load, seed, seconds)
    publish("engines", found, seed=asked.seeds[0] if len(asked.seeds) == 1 else None)


def _list(kind: Callable[[str], float]) -> Callable[[str], list[float]]:
    return lambda text: [kind(word) for word in text.split(",")]


if __name__ == "__main__":
    main(sys.argv[1:])
