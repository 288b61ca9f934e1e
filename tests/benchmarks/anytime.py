"""A solve as it goes: the shadow prices it ends with, and bound and plan by second, as a page.

    python -m tests.benchmarks.scale generate --jobs 10000 --gpus 100000 --load 0.8 --real \\
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

PLAN, BOUND = "#d55e00", "#0072b2"
LEAST_SHOWN_USD = 0.005  # of a shadow price: less is no number beside its bar
WHISKER = {"thickness": 1, "width": 0}
SHOWN_FROM = 0.96  # of the bound at last: the first passes of the ascent lie far below


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
    figure.write_html(asked.out, include_plotlyjs=True, config={"displayModeBar": False})
    print(f"{asked.out}: {plan.gap_fraction:.3%} after {plan.solve_seconds:.0f} s")


def draw(problem: Problem, plan: Plan, steps: Sequence[Step]) -> go.Figure:
    """Prices on the left, the solve on the right; every line bears its name."""
    figure = make_subplots(
        cols=2,
        column_widths=[0.42, 0.58],
        horizontal_spacing=0.11,
        subplot_titles=(
            "A GPU-hour: its rent, and its shadow price",
            "Plan and proved bound, by second of the solve",
        ),
    )
    _prices(figure, problem, plan)
    _solve(figure, steps)
    figure.update_xaxes(ticks="outside", linecolor="#444444", zeroline=False)
    return figure.update_layout(
        template="plotly_white",
        width=1180,
        height=400,
        margin={"l": 130, "r": 20, "t": 50, "b": 50},
        barmode="stack",
        bargap=0.35,
        legend={"x": 0.41, "xanchor": "right", "y": 0.06, "yanchor": "bottom"},
        font={"size": 13},
    )


def _prices(figure: go.Figure, problem: Problem, plan: Plan) -> None:
    """A bar for each pool: the mean over the hours, the whisker from the least to the greatest."""
    names = [pool.name for pool in problem.pools]
    rent = [pool.windows[0].usd_per_node_hour / pool.gpus_per_node for pool in problem.pools]
    hourly = [_by_slot(problem, plan, name) for name in names]
    mean = [sum(prices) / len(prices) for prices in hourly]
    above = [max(prices) - m for prices, m in zip(hourly, mean, strict=True)]
    below = [m - min(prices) for prices, m in zip(hourly, mean, strict=True)]
    panel = {"y": names, "orientation": "h", "row": 1, "col": 1}
    figure.add_bar(x=rent, name="rent", marker_color="#c8ccd2", **panel)
    figure.add_bar(
        x=mean,
        name="shadow price",
        marker_color=BOUND,
        text=[f"+ ${m:.2f}" if m > LEAST_SHOWN_USD else "" for m in mean],
        textposition="outside",
        error_x={"array": above, "arrayminus": below, "symmetric": False, **WHISKER},
        **panel,
    )
    top = 1.2 * max(r + m for r, m in zip(rent, mean, strict=True))
    figure.update_xaxes(title_text="USD per GPU-hour", range=[0, top], row=1, col=1)
    figure.update_yaxes(autorange="reversed", row=1, col=1)


def _by_slot(problem: Problem, plan: Plan, pool: str) -> list[float]:
    found = [0.0] * problem.grid.slots
    for line in (p for p in plan.prices if p.pool == pool and p.resource == "gpu"):
        found[line.start : line.end] = [line.usd_per_gpu_hour] * (line.end - line.start)
    return found


def _solve(figure: go.Figure, steps: Sequence[Step]) -> None:
    """The bound from the first pass of the ascent on, the plan from its first value on."""
    bound = [(s.seconds, s.bound_usd) for s in steps if math.isfinite(s.bound_usd)]
    best = [(s.seconds, s.best_usd) for s in steps if math.isfinite(s.best_usd)]
    panel, label = {"row": 1, "col": 2}, {"showarrow": False, "xanchor": "right"}
    for line, name, colour, up in ((best, "plan", PLAN, 12), (bound, "proved bound", BOUND, -12)):
        seconds, usd = zip(*line, strict=True)
        figure.add_scatter(
            x=seconds,
            y=usd,
            mode="lines",
            line={"color": colour, "width": 2.4, "shape": "hv"},
            showlegend=False,
            **panel,
        )
        font = {"color": colour}
        figure.add_annotation(
            x=seconds[-1], y=usd[-1], text=name, font=font, yshift=up, **label, **panel
        )
    low, high = SHOWN_FROM * bound[-1][1], max(usd for _, usd in best)
    spare = 0.1 * (high - low)
    figure.update_xaxes(
        title_text="seconds", showgrid=False, range=[0, steps[-1].seconds], row=1, col=2
    )
    figure.update_yaxes(tickformat="$.4s", zeroline=False, range=[low, high + spare], row=1, col=2)


if __name__ == "__main__":
    main(sys.argv[1:])
