"""The bundled example: how fast, how good, and what it saves.

Aims: a proved gap of 1 % at most after 2 s of solving, and 5 s for the whole command.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from planner.planfile import PlanFile, read_plan
from tests.benchmarks.measure import FLOPWISE, ROOT, Measured, measured, publish

RUNS = 5
SEED = 0
WAYS = {
    "2 s": ("--time-limit", "2s", "--gap", "0"),
    "as it is called": (),
    "60 s": ("--time-limit", "60s", "--gap", "0"),
}


def main() -> None:
    if not (ROOT / "examples").is_dir():
        raise SystemExit("there is no examples/ in this checkout")
    publish("example", [_row(name, options) for name, options in WAYS.items()], seed=SEED)


def _row(name: str, options: tuple[str, ...]) -> dict[str, object]:
    """The medians of several runs; one run is enough of the long one."""
    runs = [_planned(options) for _ in range(1 if name == "60 s" else RUNS)]
    plans = [made.plan for _, made in runs]
    usd = median(p.costs.objective for p in plans)
    rivals = [made.baseline.costs.objective for _, made in runs if made.baseline]
    return {
        "limit": name,
        "runs": len(runs),
        "usd": usd,
        "boundUsd": median(p.bound.usd for p in plans),
        "gapPercent": 100 * median(p.gap_fraction for p in plans),
        "solveSeconds": median(p.solve_seconds for p in plans),
        "commandSeconds": median(run.seconds for run, _ in runs),
        "peakMib": round(max(run.peak_mib for run, _ in runs)),
        "firstComeUsd": median(rivals),
        "savedPercent": 100 * (1 - usd / median(rivals)),
    }


def _planned(options: tuple[str, ...]) -> tuple[Measured, PlanFile]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        command = (*FLOPWISE, "plan", "-f", "examples", "--seed", SEED, *options, "--out", out)
        return measured(*command), read_plan(out)


if __name__ == "__main__":
    main()
