"""All benchmarks, one after the other, with the options that the README's tables are made with.

    python -m tests.benchmarks.every              # those whose table is not there yet
    python -m tests.benchmarks.every --again      # all
    python -m tests.benchmarks.every gangs max_min

Stopped and started again, it goes on with the first one whose JSON is not in out/benchmarks. One
that fails is named at the end, and the exit code is 1; the others run all the same. What they print
goes to the terminal and to out/benchmarks/NAME.txt.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

from tests.benchmarks.measure import FOLDER, ROOT

SCALE = "scale run --loads 0.6,0.8,0.95 --name"
BENCHMARKS = {  # name of the JSON: module of this folder and its options; the short ones first
    "help_time": "help_time",
    "report_size": "report_size",
    "gangs": "gangs",
    "place": "place",
    "collector": "collector",
    "max_min": "max_min",
    "decisions": "decisions",
    "defrag": "defrag",
    "example": "example",
    "gavel": "gavel",
    "melange": "melange",
    "history": "history",
    "reading": "reading",
    "fast_path": "fast_path",
    "replan": "replan --seeds 0-2",
    "operator": "operator",
    "scale-real": "scale run --jobs 10000 --loads 0.8 --seeds 0-4 --real",
    "scale-100": f"{SCALE} scale-100 --jobs 100 --seeds 0-4",
    "scale-1000": f"{SCALE} scale-1000 --jobs 1000 --seeds 0-4",
    "scale-10000": f"{SCALE} scale-10000 --jobs 10000 --seeds 0-4",
    "scale-100000": f"{SCALE} scale-100000 --jobs 100000 --seeds 0-4",
    "openb": "openb",
    "exactness": "exactness",
    "engines": "engines",
}


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="every", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--again", action="store_true", help="also those whose JSON is there")
    asked = parser.parse_args(words)
    if unknown := [name for name in asked.names if name not in BENCHMARKS]:
        parser.error(f"{', '.join(unknown)}: no such benchmark; there are {', '.join(BENCHMARKS)}")
    failed = [name for name in asked.names or BENCHMARKS if not _done(name, asked.again)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _done(name: str, again: bool) -> bool:
    """Run a benchmark, unless its JSON is there; whether that is there now."""
    table = FOLDER / f"{name}.json"
    if table.is_file() and not again:
        print(f"{name}: there already", file=sys.stderr)
        return True
    table.unlink(missing_ok=True)
    module, *options = BENCHMARKS[name].split()
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *options]
    print(f"{name}: {' '.join(command[1:])}", file=sys.stderr)
    began = time.perf_counter()
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(run.stdout)
    FOLDER.mkdir(parents=True, exist_ok=True)
    table.with_suffix(".txt").write_text(run.stdout, encoding="utf-8")
    print(f"{name}: {time.perf_counter() - began:.0f} s, exit {run.returncode}", file=sys.stderr)
    return run.returncode == 0 and table.is_file()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
