"""700 jobs of Gavel's published generator on 32 V100, 32 P100 and 32 K80, beside the LP floors.

Three lower bounds:

published   a job may share its time over the types: what the paper's LP allows, and found here anew
one type    each job stays on one type, so not on one where it takes longer than the horizon
proved      what the planner proves of its own plan

Two variants: each job may change its type once, at a checkpoint and for nothing, which is as near
as whole pieces come to sharing; or each stays on one. Aim: a plan within 0.2 % of the published
floor after 30 s where they may change, and of the floor of one type where not. The jobs are in none
of our files: ``--data`` names the folder with ``jobs_700.csv`` and
``simulation_throughputs.json``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ortools.math_opt.python import mathopt

from planner.manifests.read import Manifests, read
from planner.planfile import read_plan
from tests.benchmarks.measure import FLOPWISE, ROOT, measured, publish

PUBLISHED_USD = {280: 10_481.73, 320: 10_309.98, 400: 10_098.90}  # LP floor by horizon in hours
SWITCHES = (1, 0)  # of a job's type, at most
SEED = 0
START = "2026-12-01T00:00:00Z"  # any: the table has no arrivals


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A job on a type."""

    job: str
    accelerator: str
    hours: float
    gpu_hours: float
    usd: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "gavel")
    parser.add_argument("--time-limit", default="30s")
    asked = parser.parse_args()
    table = asked.data / "jobs_700.csv"
    if not table.is_file():
        raise SystemExit(f"{table}: not there; --data names the folder that holds it")
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for switches in SWITCHES:
            jobs = Path(folder) / f"gavel-{switches}" / "jobs"
            measured(*FLOPWISE, "convert", "gavel", table, "--out", jobs, "--switches", switches)
            rows += [_row(jobs, h, asked.time_limit, switches) for h in PUBLISHED_USD]
        publish("gavel", rows, seed=SEED)


def _row(folder: Path, horizon_hours: int, limit: str, switches: int) -> dict[str, object]:
    manifests = read([folder])
    shared = floor_usd(manifests, horizon_hours, one_type=False)
    alone = floor_usd(manifests, horizon_hours, one_type=True)
    out = folder.with_name("plan.json")
    options = ("--horizon", f"{horizon_hours}h", "--time-limit", limit, "--gap", "0")
    more = ("--seed", SEED, "--start", START, "--out", out)
    run = measured(*FLOPWISE, "plan", "-f", folder, *options, *more)
    plan = read_plan(out).plan
    usd = plan.costs.objective
    parts = Counter(segment.job for segment in plan.segments)
    return {
        "switches": switches,
        "horizonHours": horizon_hours,
        "publishedUsd": PUBLISHED_USD[horizon_hours],
        "floorUsd": shared,
        "oneTypeUsd": alone,
        "provedUsd": plan.bound.usd,
        "planUsd": usd,
        "leftOut": len(plan.unplaced),
        "changed": sum(pieces > 1 for pieces in parts.values()),
        "overFloorPercent": 100 * (usd / shared - 1),
        "overOneTypePercent": 100 * (usd / alone - 1),
        "gapPercent": 100 * plan.gap_fraction,
        "solveSeconds": plan.solve_seconds,
        "commandSeconds": run.seconds,
        "peakMib": round(run.peak_mib),
    }


def floor_usd(manifests: Manifests, horizon_hours: float, *, one_type: bool) -> float:
    """The least cost when jobs may be cut into parts and the GPUs of a type are one number.

    Sets       j jobs, t types
    Data       usd, hours and gpu_hours of j on t; nodes of t; H, the horizon
    Variables  x[j, t] in [0, 1], the part of j that runs on t
    Model      least sum of usd x;  sum over t of x[j, t] = 1;  sum over t of hours x[j, t] <= H;
               sum over j of gpu_hours x[j, t] <= nodes[t] H
               one type: no x[j, t] where hours > H
    """
    model = mathopt.Model()
    choices = [c for c in _choices(manifests) if not one_type or c.hours <= horizon_hours]
    part = [model.add_variable(lb=0.0, ub=1.0) for _ in choices]
    for of in _grouped([c.job for c in choices]):
        model.add_linear_constraint(mathopt.fast_sum([part[i] for i in of]) == 1)
        hours = mathopt.fast_sum([choices[i].hours * part[i] for i in of])
        model.add_linear_constraint(hours <= horizon_hours)
    nodes = {p.spec.accelerator: p.spec.nodes or 0 for p in manifests.pools}
    for of in _grouped([c.accelerator for c in choices]):
        gpu_hours = mathopt.fast_sum([choices[i].gpu_hours * part[i] for i in of])
        there = nodes[choices[of[0]].accelerator] * horizon_hours
        model.add_linear_constraint(gpu_hours <= there)
    model.minimize(mathopt.fast_sum([c.usd * x for c, x in zip(choices, part, strict=True)]))
    result = mathopt.solve(model, mathopt.SolverType.GLOP)
    if result.termination.reason is not mathopt.TerminationReason.OPTIMAL:
        raise RuntimeError(f"GLOP found no floor for {horizon_hours} h")
    return float(result.objective_value())


def _choices(manifests: Manifests) -> list[Choice]:
    prices = {
        p.spec.accelerator: p.spec.price.usd_per_gpu_hour or 0.0
        for p in manifests.pools
        if p.spec.price
    }
    found = []
    for job in manifests.jobs:
        task = job.spec.task
        assert task is not None
        for accelerator, hours in task.hours.items():
            gpu_hours = hours * task.replicas
            usd = gpu_hours * prices[accelerator]
            name = job.metadata.name
            found.append(
                Choice(job=name, accelerator=accelerator, hours=hours, gpu_hours=gpu_hours, usd=usd)
            )
    return found


def _grouped(keys: Sequence[str]) -> list[list[int]]:
    """The places of equal keys."""
    places: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        places.setdefault(key, []).append(i)
    return list(places.values())


if __name__ == "__main__":
    main()
