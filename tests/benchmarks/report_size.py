"""How large the report of the bundled example is, and how long it takes. Aim: 6 MB at most."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from tests.benchmarks.measure import FLOPWISE, ROOT, measured, publish

RUNS = 3
SEED = 0
AIM_MB = 6.0


def main() -> None:
    if not (ROOT / "examples").is_dir():
        raise SystemExit("there is no examples/ in this checkout")
    with tempfile.TemporaryDirectory() as folder:
        plan, report = Path(folder) / "plan.json", Path(folder) / "report.html"
        options = ("--time-limit", "10s", "--seed", SEED, "--out", plan)
        measured(*FLOPWISE, "plan", "-f", "examples", *options)
        runs = [
            measured(*FLOPWISE, "report", "html", "-f", plan, "--out", report) for _ in range(RUNS)
        ]
        row = {
            "reportMb": report.stat().st_size / 1e6,
            "aimMb": AIM_MB,
            "planMb": plan.stat().st_size / 1e6,
            "runs": RUNS,
            "medianSeconds": median(run.seconds for run in runs),
            "peakMib": round(max(run.peak_mib for run in runs)),
        }
    publish("report_size", [row], seed=SEED)


if __name__ == "__main__":
    main()
