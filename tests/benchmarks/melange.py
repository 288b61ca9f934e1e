"""The GPU mix for serving: ours beside Mélange's ILP, on its own input format.

Mélange cuts each bucket into ``slice_factor`` equal slices, and each slice goes whole to one GPU
type; ours splits a bucket in any parts (`planner.solve.mix`). Both are solved by SCIP to a gap of 0
on the same numbers, theirs as written in its paper: whole GPUs n[g], a binary for each slice and
type, each slice on one type, the load of a type's slices at most n[g].

example    the file that comes with Mélange
random N   N instances from ``--seed``: 2 to 5 types, 4 to 25 buckets, 1 to 4 slices, in files of
           its format; a faster type costs more, by how much differs by bucket, and small ones
           cannot serve the largest sizes
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from ortools.math_opt.python import mathopt

from planner.convert.melange import Melange, read_melange
from planner.serving import violations
from planner.solve.mix import cheapest
from tests.benchmarks.measure import ROOT, publish

SEED = 0
ILP_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One instance (USD per hour)."""

    ours: float
    ours_bound: float
    theirs: float
    theirs_proved: bool
    violations: int
    our_seconds: float
    their_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "melange")
    parser.add_argument("--instances", type=int, default=300)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    rows = []
    if (example := asked.data / "example.json").is_file():
        rows.append(_row("example", [_compared(read_melange(example))]))
    compared = [
        _compared(drawn(random.Random(f"{asked.seed}/{n}"))) for n in range(asked.instances)
    ]
    rows.append(_row(f"random {asked.instances}", compared))
    publish("melange", rows, seed=asked.seed)


def drawn(rng: random.Random) -> Melange:
    """An instance, by way of a file."""
    rows, columns = rng.randint(2, 5), rng.randint(2, 5)
    sizes = [[2.0 ** -(0.8 * i + 1.2 * j) for j in range(columns)] for i in range(rows)]
    gpus = {}
    for g in range(rng.randint(2, 5)):
        speed = 2.0 ** rng.uniform(0, 4)
        taste = [[rng.uniform(0.6, 1.6) for _ in range(columns)] for _ in range(rows)]
        most = rng.randint(1, rows) if g else rows  # the first serves all sizes
        gpus[f"gpu{g}"] = {
            "cost": round(0.6 * speed ** rng.uniform(0.75, 1.1), 2),
            "tputs": [
                [
                    round(4 * speed * s * f, 3) if i < most else 0
                    for s, f in zip(of, by, strict=True)
                ]
                for i, (of, by) in enumerate(zip(sizes, taste, strict=True))
            ],
        }
    weights = [[rng.expovariate(1) for _ in range(columns)] for _ in range(rows)]
    total = sum(map(sum, weights))
    document = {
        "gpu_info": gpus,
        "workload_distribution": [[w / total for w in row] for row in weights],
        "total_request_rate": round(2.0 ** rng.uniform(0, 6), 2),
        "slice_factor": rng.randint(1, 4),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "melange.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return read_melange(path)


def _compared(melange: Melange) -> Compared:
    began = time.perf_counter()
    mix = cheapest(melange.workload)
    middle = time.perf_counter()
    if mix is None:
        raise RuntimeError("no offer serves a bucket: the generator makes no such instance")
    theirs, proved = sliced_usd(melange)
    return Compared(
        ours=mix.usd_per_hour,
        ours_bound=mix.bound_usd_per_hour,
        theirs=theirs,
        theirs_proved=proved,
        violations=len(violations(melange.workload, mix)),
        our_seconds=middle - began,
        their_seconds=time.perf_counter() - middle,
    )


def sliced_usd(melange: Melange) -> tuple[float, bool]:
    """Mélange's own ILP: its price an hour, and whether it is proved the least of its kind."""
    workload, slices = melange.workload, melange.slices
    model = mathopt.Model()
    gpus = [model.add_integer_variable(lb=0.0) for _ in workload.offers]
    taken: list[list[mathopt.LinearTerm]] = [[] for _ in gpus]
    for b, rate in enumerate(workload.requests_per_second):
        for _ in range(slices):
            chosen = [model.add_binary_variable() for _ in gpus]
            model.add_linear_constraint(mathopt.fast_sum(chosen) == 1)
            for g, (x, offer) in enumerate(zip(chosen, workload.offers, strict=True)):
                if offer.requests_per_second[b]:
                    taken[g].append(rate / slices / offer.requests_per_second[b] * x)
                else:
                    x.upper_bound = 0.0
    for n, terms in zip(gpus, taken, strict=True):
        if terms:
            model.add_linear_constraint(mathopt.fast_sum(terms) <= n)
    prices = [offer.usd_per_hour for offer in workload.offers]
    model.minimize(mathopt.fast_sum([usd * n for usd, n in zip(prices, gpus, strict=True)]))
    params = mathopt.SolveParameters(
        time_limit=timedelta(seconds=ILP_SECONDS),
        relative_gap_tolerance=0.0,
        absolute_gap_tolerance=0.0,
    )
    result = mathopt.solve(model, mathopt.SolverType.GSCIP, params=params)
    proved = result.termination.reason is mathopt.TerminationReason.OPTIMAL
    found = [round(n) for n in result.variable_values(gpus)]
    return math.fsum(n * usd for n, usd in zip(found, prices, strict=True)), proved


def _row(name: str, compared: Sequence[Compared]) -> dict[str, object]:
    saved = [1 - c.ours / c.theirs for c in compared]
    return {
        "instances": name,
        "oursUsdPerHour": math.fsum(c.ours for c in compared),
        "boundUsdPerHour": math.fsum(c.ours_bound for c in compared),
        "theirsUsdPerHour": math.fsum(c.theirs for c in compared),
        "theirsProved": sum(c.theirs_proved for c in compared),
        "violations": sum(c.violations for c in compared),
        "oursCheaper": sum(s > 1e-9 for s in saved),
        "equal": sum(abs(s) <= 1e-9 for s in saved),
        "oursDearer": sum(s < -1e-9 for s in saved),
        "meanSavedPercent": 100 * math.fsum(saved) / len(saved),
        "mostSavedPercent": 100 * max(saved),
        "ourSeconds": math.fsum(c.our_seconds for c in compared),
        "theirSeconds": math.fsum(c.their_seconds for c in compared),
    }


if __name__ == "__main__":
    main()
