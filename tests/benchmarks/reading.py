"""Manifests to a problem: CPU seconds by stage, jobs a second, and the memory it takes.

Aim: 10,000 jobs of the fleet-scale instances parsed, validated and turned into modes in 3 s.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from planner.manifests.read import read
from planner.manifests.text import documents
from planner.question import Horizon, build
from tests.benchmarks.measure import measured, publish
from tests.benchmarks.planted import START, generate, write

AIM_SECONDS = 3.0  # for 10,000 jobs
LOAD, SEED = 0.8, 0
SIZES = (  # jobs, GPUs, real
    (1_000, 6_000, False),
    (10_000, 100_000, False),
    (10_000, 100_000, True),
    (100_000, 1_000_000, False),
)


def main() -> None:
    publish("reading", [_row(*size) for size in SIZES], seed=SEED)


def _row(jobs: int, gpus: int, real: bool) -> dict[str, object]:
    """One size, read by a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.jsonl"
        write(generate(jobs=jobs, gpus=gpus, load=LOAD, seed=SEED, real=real), path)
        mib = path.stat().st_size / 2**20
        run = measured(sys.executable, "-m", "tests.benchmarks.reading", path)
    stages = json.loads(run.out)
    seconds = stages["readSeconds"] + stages["buildSeconds"]
    return {
        "jobs": jobs,
        "gpus": gpus,
        "real": real,
        "fileMib": mib,
        **stages,
        "seconds": seconds,
        "aimSeconds": AIM_SECONDS * jobs / 10_000,
        "jobsPerSecond": round(jobs / seconds),
        "peakMib": round(run.peak_mib),
    }


def stages(path: Path) -> dict[str, object]:
    """CPU seconds of each stage; parsing is done once more on its own."""
    began = time.process_time()
    for _ in documents(path.read_bytes(), path.suffix):
        pass
    parsed = time.process_time()
    manifests = read([path])
    validated = time.process_time()
    horizon = Horizon(start=START, slot=timedelta(hours=1))
    problem = build(manifests, horizon, datetime.now(UTC)).problem
    built = time.process_time()
    return {
        "modes": sum(len(job.modes) for job in problem.jobs),
        "nodes": len(problem.nodes),
        "parseSeconds": parsed - began,
        "readSeconds": validated - parsed,
        "buildSeconds": built - validated,
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(stages(Path(sys.argv[1]))))
    else:
        main()
