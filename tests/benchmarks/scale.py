"""Fleet-scale planning: instances of any size, and how near the optimum the planner comes on them.

    python -m tests.benchmarks.scale generate --jobs 1000 --gpus 6000 --load 0.8 --seed 0 \
        --out fleet.jsonl
    flopwise plan -f fleet.jsonl --slot 1h

`planted` says what an instance is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.planted import Instance, generate


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
    asked = parser.parse_args(words)
    asked.do(asked)


def _generate(asked: argparse.Namespace) -> None:
    try:
        made = generate(
            jobs=asked.jobs, gpus=asked.gpus, load=asked.load, seed=asked.seed, real=asked.real
        )
    except ValueError as error:
        raise SystemExit(str(error)) from None
    write(made, asked.out)
    print(f"{asked.out}: {len(made.planted)} jobs, load {made.load:.4f}, seed {asked.seed}")


def write(made: Instance, path: Path) -> None:
    """The manifests, a line each."""
    with path.open("w", encoding="utf-8") as out:
        for document in made.documents:
            out.write(json.dumps(document, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
