"""Fleet-scale planning: instances of any size, and how near the optimum the planner comes on them.

    python -m tests.benchmarks.scale generate --jobs 1000 --gpus 6000 --load 0.8 --seed 0 \
        --out fleet.jsonl
    flopwise plan -f fleet.jsonl --slot 1h

    python -m tests.benchmarks.scale run --jobs 100,1000 --loads 0.6,0.8,0.95 --seeds 0-4

`planted` says what an instance is. A run is a process of its own that reads an instance, solves it
and checks the plan anew; its memory is that of all this. Seconds count from the call of the solver.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import mean

from planner.check import violations
from planner.collector import kept
from planner.manifests.read import read
from planner.problem import Problem
from planner.question import Horizon, build
from planner.solve.clock import Limits, Step
from planner.solve.pick import solve
from tests.benchmarks.measure import Row, measured, publish
from tests.benchmarks.planted import START, generate, write

EARLY_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """Gaps in percent, after 10 s (None: none) and at the end of 60 s; memory in MiB."""

    early: float | None = None
    end: float
    peak_mib: int | None = None


AIMS = {  # (jobs, real, load)
    (100, False, 0.6): Aim(end=0.01),
    (100, False, 0.8): Aim(end=0.1),
    (100, False, 0.95): Aim(end=1.0),
    (1_000, False, 0.6): Aim(early=0.5, end=0.3),
    (1_000, False, 0.8): Aim(early=1.2, end=0.6),
    (1_000, False, 0.95): Aim(early=3.0, end=1.5),
    (10_000, False, 0.6): Aim(early=0.3, end=0.1, peak_mib=512),
    (10_000, False, 0.8): Aim(early=0.5, end=0.25, peak_mib=512),
    (10_000, False, 0.95): Aim(early=1.2, end=0.8, peak_mib=512),
    (10_000, True, 0.8): Aim(end=1.0),
    (100_000, False, 0.6): Aim(end=0.1, peak_mib=1024),
    (100_000, False, 0.8): Aim(end=0.25, peak_mib=1024),
    (100_000, False, 0.95): Aim(end=0.6, peak_mib=1024),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An instance, by what it is generated from."""

    jobs: int
    gpus: int
    load: float
    seed: int
    real: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to; gaps in percent, None for none found."""

    early_gap: float | None
    end_gap: float | None
    seconds_to_aim: float | None
    left_out: int
    objective_usd: float
    bound_usd: float
    status: str
    method: str
    violations: int
    read_seconds: float
    solve_seconds: float
    check_seconds: float
    peak_mib: float = 0.0


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    writer = commands.add_parser("generate", help="write an instance as manifests, JSON lines")
    writer.add_argument("--jobs", type=int, required=True, metavar="N")
    writer.add_argument("--gpus", type=int, required=True, metavar="M", help="about so many")
    writer.add_argument("--load", type=float, required=True, metavar="L", help="above 0, at most 1")
    writer.add_argument("--seed", type=int, default=0, metavar="S")
    writer.add_argument("--real", action="store_true", help="services, queues, maintenance, …")
    writer.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    writer.set_defaults(do=_generate)
    runner = commands.add_parser("run", help="solve instances, and print how near the optimum")
    runner.add_argument("--jobs", type=integers, default=[100, 1_000], metavar="N,N")
    runner.add_argument("--loads", type=_floats, default=[0.6, 0.8, 0.95], metavar="L,L")
    runner.add_argument("--seeds", type=integers, default=list(range(5)), metavar="0-4")
    runner.add_argument("--time-limit", type=float, default=60.0, metavar="SECONDS")
    runner.add_argument("--real", action="store_true")
    runner.add_argument("--name", help="of the JSON; scale, or scale-real, if not given")
    runner.set_defaults(do=_run)
    solver = commands.add_parser("solve", help="one instance, in this process; prints JSON")
    solver.add_argument("file", type=Path)
    solver.add_argument("--seed", type=int, default=0)
    solver.add_argument("--time-limit", type=float, default=60.0)
    solver.add_argument("--aim", type=float, default=0.0, help="gap in percent")
    solver.set_defaults(do=_solve)
    asked = parser.parse_args(words)
    asked.do(asked)


def integers(text: str) -> list[int]:
    """``0-4`` or ``1,3``."""
    spans = [part.split("-") for part in text.split(",")]
    return [n for span in spans for n in range(int(span[0]), int(span[-1]) + 1)]


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


# -- instances -------------------------------------------------------------------------------------


def _generate(asked: argparse.Namespace) -> None:
    try:
        made = generate(
            jobs=asked.jobs, gpus=asked.gpus, load=asked.load, seed=asked.seed, real=asked.real
        )
    except ValueError as error:
        raise SystemExit(str(error)) from None
    write(made, asked.out)
    print(f"{asked.out}: {len(made.planted)} jobs, load {made.load:.4f}, seed {asked.seed}")


def problem_of(path: Path) -> Problem:
    """What the planner reads of an instance."""
    horizon = Horizon(start=START, slot=timedelta(hours=1))
    return build(read([path]), horizon, datetime.now(UTC)).problem


# -- one run ---------------------------------------------------------------------------------------


def _solve(asked: argparse.Namespace) -> None:
    made = outcome(asked.file, seconds=asked.time_limit, seed=asked.seed, aim=asked.aim)
    print(json.dumps(asdict(made)))


def outcome(path: Path, *, seconds: float, seed: int, aim: float) -> Outcome:
    """Read, solve, check; ``aim`` is the gap in percent whose moment counts."""
    began = time.perf_counter()
    problem = problem_of(path)
    readied = time.perf_counter()
    steps: list[Step] = []
    with kept():
        plan = solve(problem, Limits(seconds=seconds, seed=seed), steps.append)
        solved = time.perf_counter()
        wrong = violations(problem, plan)
    checked = time.perf_counter()
    end = _percent(plan.gap_fraction)
    reached = [s.seconds for s in steps if 100 * s.gap_fraction <= aim]
    if not reached and end is not None and end <= aim:
        reached = [plan.solve_seconds]
    early = [s.gap_fraction for s in steps if s.seconds <= EARLY_SECONDS]
    if plan.solve_seconds <= EARLY_SECONDS:
        early.append(plan.gap_fraction)
    return Outcome(
        early_gap=_percent(min(early, default=math.inf)),
        end_gap=end,
        seconds_to_aim=min(reached, default=None),
        left_out=len(plan.unplaced),
        objective_usd=plan.costs.objective,
        bound_usd=plan.bound.usd,
        status=plan.status.value,
        method=plan.method,
        violations=len(wrong),
        read_seconds=readied - began,
        solve_seconds=solved - readied,
        check_seconds=checked - solved,
    )


def _percent(fraction: float) -> float | None:
    return 100 * fraction if math.isfinite(fraction) else None


# -- the table -------------------------------------------------------------------------------------


def _run(asked: argparse.Namespace) -> None:
    rows: list[Row] = []
    details: list[Row] = []
    for jobs in asked.jobs:
        gpus = jobs * (10 if jobs >= 10_000 else 6)
        for load in asked.loads:
            cases = [
                Case(jobs=jobs, gpus=gpus, load=load, seed=seed, real=asked.real)
                for seed in asked.seeds
            ]
            outcomes = [_measured(case, asked.time_limit) for case in cases]
            details += [asdict(c) | asdict(o) for c, o in zip(cases, outcomes, strict=True)]
            rows.append(_row(cases, outcomes, asked.time_limit))
    name = asked.name or ("scale-real" if asked.real else "scale")
    publish(name, rows, details=details)


def _measured(case: Case, seconds: float) -> Outcome:
    """The outcome in a process of its own."""
    aim = AIMS.get((case.jobs, case.real, case.load))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.jsonl"
        made = generate(**asdict(case))
        write(made, path)
        command = (sys.executable, "-m", "tests.benchmarks.scale", "solve", path)
        options = ("--seed", case.seed, "--time-limit", seconds, "--aim", aim.end if aim else 0.0)
        run = measured(*command, *options)
    found = Outcome(**json.loads(run.out) | {"peak_mib": round(run.peak_mib)})
    gaps = f"{_shown(found.early_gap)} % after 10 s, {_shown(found.end_gap)} % at the end"
    print(f"{case}: {gaps}, {found.left_out} left out, {found.peak_mib} MiB", file=sys.stderr)
    return found


def _row(cases: Sequence[Case], outcomes: Sequence[Outcome], seconds: float) -> Row:
    """Means over the seeds."""
    case = cases[0]
    aim = AIMS.get((case.jobs, case.real, case.load))
    return {
        "jobs": case.jobs,
        "gpus": case.gpus,
        "load": case.load,
        "seeds": len(cases),
        "limitSeconds": seconds,
        "gapAt10Percent": _mean([o.early_gap for o in outcomes]),
        "aimAt10Percent": aim.early if aim else None,
        "gapPercent": _mean([o.end_gap for o in outcomes]),
        "aimPercent": aim.end if aim else None,
        "worstGapPercent": _worst([o.end_gap for o in outcomes]),
        "secondsToAim": _mean([o.seconds_to_aim for o in outcomes]),
        "leftOut": mean(o.left_out for o in outcomes),
        "violations": sum(o.violations for o in outcomes),
        "readSeconds": mean(o.read_seconds for o in outcomes),
        "solveSeconds": mean(o.solve_seconds for o in outcomes),
        "checkSeconds": mean(o.check_seconds for o in outcomes),
        "peakMib": max(o.peak_mib for o in outcomes),
        "aimMib": aim.peak_mib if aim else None,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """None as soon as one of them is."""
    there = [v for v in values if v is not None]
    return mean(there) if len(there) == len(values) else None


def _worst(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return max(there) if len(there) == len(values) else None


def _shown(gap: float | None) -> str:
    return "-" if gap is None else f"{gap:.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
