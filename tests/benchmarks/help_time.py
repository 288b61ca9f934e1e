"""How long ``flopwise --help`` takes. Aim: 0.25 s at the median."""

from __future__ import annotations

import sys
from statistics import median

from tests.benchmarks.measure import FLOPWISE, measured, publish

RUNS = 15
AIM_SECONDS = 0.25


def main() -> None:
    rows = []
    for what, command in (
        ("python, nothing else", (sys.executable, "-c", "")),
        ("flopwise --help", (*FLOPWISE, "--help")),
    ):
        measured(*command)  # fills the caches of files and byte code
        seconds = [measured(*command).seconds for _ in range(RUNS)]
        rows.append(
            {
                "command": what,
                "runs": RUNS,
                "medianSeconds": median(seconds),
                "leastSeconds": min(seconds),
                "mostSeconds": max(seconds),
                "aimSeconds": AIM_SECONDS,
            }
        )
    publish("help_time", rows)


if __name__ == "__main__":
    main()
