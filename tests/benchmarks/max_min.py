"""Max-min fairness with space sharing: 2,048 jobs of Gavel's generator on 512 GPUs of three types.

The least of (throughput / throughput under an equal split of the types) is made the greatest, two
jobs on one GPU where their co-located rates are measured: 6.3 million pairs and types.

merged    jobs of one model in one row: 26 rows
own       every job its own row: 2,048 rows, and as many of time
weighted  the same, with 2,048 unlike weights from 1 to 2, of which no two rows could be merged

Beside them stand the published figures of the same instance (D. Narayanan et al., Solving
Large-Scale Granular Resource Allocation Problems Efficiently with POP, SOSP 2021; 32 vCPUs, a
commercial solver). ``level`` is computed anew from the portions of time that each job is given, and
``bound`` is proved by dual prices for all pairs. Seconds are of the whole call, the median of
``--repeat`` after a first one; the files are read before.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

from planner.convert import gavel
from planner.fairness import Contest, violations
from planner.solve.max_min import max_min
from tests.benchmarks.measure import ROOT, publish

GPUS = {"v100": 512, "p100": 512, "k80": 512}
PUBLISHED_LEVEL = 1.1109128864
POP_EXACT_SECONDS, POP_8_SECONDS, POP_8_QUALITY = 285.6, 12.6, 0.998
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "gavel")
    parser.add_argument("--jobs", default="jobs_2048.csv", help="a table in the folder")
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    table = asked.data / asked.jobs
    if not table.is_file():
        raise SystemExit(f"{table}: not there; --data names the folder that holds it")
    contest = gavel.contest([table], asked.data / gavel.MATRIX, GPUS)
    rng = random.Random(SEED)
    claims = tuple(replace(c, weight=rng.uniform(1, 2)) for c in contest.claims)
    rows = [
        _row("merged", contest, merge=True, repeat=asked.repeat),
        _row("own", contest, merge=False, repeat=asked.repeat),
        _row("weighted", replace(contest, claims=claims), merge=False, repeat=asked.repeat),
    ]
    publish("max_min", rows, seed=SEED)


def _row(name: str, contest: Contest, *, merge: bool, repeat: int) -> dict[str, object]:
    wall, cpu = [], []
    shares = max_min(contest, merge=merge)
    for _ in range(repeat):
        began, used = time.perf_counter(), time.process_time()
        shares = max_min(contest, merge=merge)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    jobs = len(contest.claims)
    return {
        "rows": name,
        "jobs": jobs,
        "pairsAndTypes": jobs * (jobs - 1) // 2 * len(contest.types),
        "level": f"{shares.level:.10f}",
        "bound": f"{shares.bound:.10f}",
        "publishedLevel": f"{PUBLISHED_LEVEL:.10f}" if name != "weighted" else "-",
        "gapFraction": f"{shares.gap_fraction:.1e}",
        "violations": len(violations(contest, shares)),
        "seconds": statistics.median(wall),
        "cpuSeconds": statistics.median(cpu),
        "peakMib": round(_peak_mib()),
        "popExactSeconds": POP_EXACT_SECONDS if name != "weighted" else "-",
        "pop8Seconds": POP_8_SECONDS if name != "weighted" else "-",
        "pop8MeanQuality": POP_8_QUALITY if name != "weighted" else "-",
    }


def _peak_mib() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used * (1 if sys.platform == "darwin" else 1024) / 2**20


if __name__ == "__main__":
    main()
