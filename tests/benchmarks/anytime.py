"""A solve as it goes: shadow prices by hour, and bound and plan by second, drawn as a page.

    python -m tests.benchmarks.scale generate --jobs 10000 --gpus 100000 --load 0.8 \\
        --out fleet.jsonl
    python -m tests.benchmarks.anytime fleet.jsonl --out solve.html
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from planner.plan import Plan
from planner.problem import Problem
from planner.solve.clock import Limits, Step
from planner.solve.pick import solve
from tests.benchmarks.scale import problem_of

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#999999", "#000000")


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="anytime", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="an instance that `scale generate` wrote")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit", type=float, default=30.0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(words)
    problem = problem_of(asked.file)
    steps: list[Step] = []
    plan = solve(problem, Limits(seconds=asked.time_limit, seed=asked.seed), steps.append)
    figure = draw(problem, plan, steps)
    figure.write_html(asked.out, include_plotlyjs=True)
    print(f"{asked.out}: {plan.gap_fraction:.3%} after {plan.solve_seconds:.0f} s")


def draw(problem: Problem, plan: Plan, steps: Sequence[Step]) -> go.Figure:
    """Prices on the left, the solve on the right."""
    figure = make_subplots(
        cols=2,
        subplot_titles=(
            "Shadow price of one GPU, by hour of the week",
            "Plan and bound over the seconds of the solve",
        ),
    )
    for pool, colour in zip(problem.pools, COLOURS, strict=False):
        lines = [p for p in plan.prices if p.pool == pool.name and p.resource == "gpu"]
        by_slot = [0.0] * (problem.grid.slots + 1)
        for line in lines:
            by_slot[line.start : line.end] = [line.usd_per_gpu_hour] * (line.end - line.start)
        style = {"color": colour, "width": 1.6, "shape": "hv"}
        figure.add_scatter(y=by_slot, name=pool.accelerator, line=style, row=1, col=1)
    known = [s for s in steps if math.isfinite(s.best_usd)]
    for values, name, colour in (
        ([s.best_usd for s in known], "plan", "#d55e00"),
        ([s.bound_usd for s in known], "proved bound", "#0072b2"),
    ):
        seconds = [s.seconds for s in known]
        style = {"color": colour, "width": 2.4, "shape": "hv"}
        figure.add_scatter(x=seconds, y=values, name=name, line=style, row=1, col=2)
    figure.update_xaxes(title_text="hour", row=1, col=1)
    figure.update_yaxes(title_text="USD per GPU-hour", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title_text="seconds", row=1, col=2)
    figure.update_yaxes(title_text="USD", tickformat="$.4s", row=1, col=2)
    return figure.update_layout(
        template="plotly_white", width=1180, height=430, margin={"l": 60, "r": 20, "t": 50, "b": 50}
    )


if __name__ == "__main__":
    main(sys.argv[1:])
